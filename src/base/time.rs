//! A moment, as file systems and manifests store it.

use std::time::Duration;

use bincode::{Decode, Encode};

/// Seconds since 1970-01-01 00:00 UTC (negative before) and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Time {
    /// Whole seconds since the epoch, rounded down.
    pub seconds: i64,
    /// 0..1,000,000,000.
    pub nanos: u32,
}

impl Time {
    /// Returns the moment `nanos` nanoseconds after `seconds`; more than a second is cut to 999,999,999 ns.
    pub fn new(seconds: i64, nanos: u32) -> Self {
        Self { seconds, nanos: nanos.min(999_999_999) }
    }

    /// Returns the moment `length` after this one; the last one there is if that lies beyond it.
    pub fn later_by(self, length: Duration) -> Self {
        let nanos = self.nanos.saturating_add(length.subsec_nanos());
        let seconds = i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
        let seconds = self.seconds.saturating_add(seconds).saturating_add(i64::from(nanos / 1_000_000_000));
        Self { seconds, nanos: nanos % 1_000_000_000 }
    }

    /// Returns day and time of day in UTC as ISO 8601 writes them, `date-time`, for any moment. Years beyond four digits,
    /// and those before the year 0, have a sign and six digits at least: `+012345-06-07`.
    pub fn utc(self) -> (String, String) {
        // Days of a calendar whose years begin in March, so that a leap day is a year's last; in eras of 400 years.
        let days = self.seconds.div_euclid(86_400) + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let year = match year {
            0..=9999 => format!("{year:04}"),
            _ => format!("{year:+07}"),
        };
        let second = self.seconds.rem_euclid(86_400);
        let time = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
        (format!("{year}-{month:02}-{day:02}"), time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_moment_has_a_day_and_a_time() {
        let utc = |seconds| {
            let (day, time) = Time::new(seconds, 0).utc();
            format!("{day} {time}")
        };
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(-1), "1969-12-31 23:59:59");
        assert_eq!(utc(1_709_164_800), "2024-02-29 00:00:00");
        assert_eq!(utc(-62_135_596_800), "0001-01-01 00:00:00");
        assert_eq!(utc(-62_135_596_801), "0000-12-31 23:59:59");
        assert_eq!(utc(-62_167_219_201), "-000001-12-31 23:59:59");
        assert_eq!(utc(253_402_300_799), "9999-12-31 23:59:59");
        assert_eq!(utc(253_402_300_800), "+010000-01-01 00:00:00");
        assert_eq!(utc(i64::MAX), "+292277026596-12-04 15:30:07");
        assert_eq!(utc(i64::MIN), "-292277022657-01-27 08:29:52");
    }

    #[test]
    fn later_is_later_and_never_beyond_the_last_moment() {
        let later = Time::new(5, 999_999_999).later_by(Duration::new(1, 2));
        assert_eq!(later, Time::new(7, 1));
        assert_eq!(Time::new(i64::MAX, 0).later_by(Duration::MAX).seconds, i64::MAX);
    }
}
