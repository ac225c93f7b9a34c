//! The clock, and how its time is written here.

use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::base::time::Time;
use crate::repo::select::{self, zoned};

/// Returns the time.
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn now() -> Time {
    let now = jiff::Timestamp::now();
    Time::new(now.as_second(), u32::try_from(now.subsec_nanosecond()).unwrap_or(0))
}

/// Returns a moment as this machine's clock on the wall shows it (`TZ`, `/etc/localtime`).
pub fn local(time: Time) -> Zoned {
    zoned(time, &TimeZone::system())
}

/// Returns a moment as people read it: `2026-01-05 03:00:12`.
pub fn shown(time: Time) -> String {
    select::shown(time, &TimeZone::system())
}

/// Says what is wrong with the time zone that `TZ` names; nothing if it is known, or none is named. What is done by days
/// would be done by those of another place.
pub fn zone_problem() -> Option<String> {
    let named = std::env::var_os("TZ").filter(|named| !named.is_empty())?;
    let error = TimeZone::try_system().err()?;
    tracing::debug!("TZ: {error}");
    let named = crate::base::entry::quoted(named.as_encoded_bytes());
    Some(format!(
        "TZ: no time zone {named} is known here; name one such as Europe/Berlin, install tzdata if it lacks, or unset TZ for this machine's own"
    ))
}

/// Returns the day of a moment: `2026-01-05`.
pub fn day(time: Time) -> String {
    local(time).date().to_string()
}

/// Returns a length of time as people read it: `4 min 12 s`.
pub fn length(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_as_people_say_them() {
        assert_eq!([length(59), length(252), length(7265)], ["59 s", "4 min 12 s", "2 h 1 min"]);
    }
}
