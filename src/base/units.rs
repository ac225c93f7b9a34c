//! Sizes and lengths of time as people write them.

use std::time::Duration;

use indicatif::{DecimalBytes, HumanCount};
use jiff::{SignedDuration, Span, SpanRelativeTo};

/// Reads a size such as `16KiB`, in bytes. Units are binary: KiB, MiB, GiB, TiB, or their first letter.
///
/// # Errors
/// What is wrong with it, to follow the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(format!("unit \"{}\" is not one of KiB, MiB, GiB, TiB", unit.trim())),
    };
    let number: u64 = number.parse().map_err(|_| "is not a number and a unit, such as 16KiB".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "is too large".to_owned())
}

/// Reads a length of time such as `10s`, `30m`, `26h` or `30d`; a day has 24 hours.
///
/// # Errors
/// What is wrong with it, to follow the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let span: Result<Span, _> = text.parse();
    let length = span.ok().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    length
        .and_then(|length| Duration::try_from(length).ok())
        .ok_or_else(|| "is not a length of time such as 10s, 30m, 26h or 30d".to_owned())
}

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Returns a length of time as [`parse_duration`] reads it.
pub fn show_duration(length: Duration) -> String {
    let seconds = length.as_secs();
    if length.subsec_nanos() == 0 && seconds > DAY && seconds.is_multiple_of(DAY) {
        return format!("{}d", seconds / DAY); // 960h says little
    }
    SignedDuration::try_from(length).map_or_else(|_| "for ever".to_owned(), |length| format!("{length:#}"))
}

/// Returns a number of bytes with a unit: decimal ones, kB, MB, GB, everywhere.
pub fn show_bytes(count: u64) -> String {
    DecimalBytes(count).to_string()
}

/// Returns a number with its thousands apart.
pub fn number(count: u64) -> String {
    HumanCount(count).to_string()
}

/// Returns `1 file`, `2 files`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("16KiB"), Ok(16384));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert!(parse_size("5 parsecs").is_err());
        assert!(parse_size("99999999999TiB").is_err());
    }

    #[test]
    fn one_is_singular_and_bytes_are_decimal() {
        assert_eq!(counted(1, "file", "files"), "1 file");
        assert_eq!(counted(0, "file", "files"), "0 files");
        assert_eq!(counted(1200, "file", "files"), "1,200 files");
        assert_eq!(
            [show_bytes(456), show_bytes(6210), show_bytes(10_200_000_000)],
            ["456 B", "6.21 kB", "10.20 GB"]
        );
    }

    #[test]
    fn lengths_of_time_are_read_back_as_they_are_shown() {
        assert_eq!(show_duration(Duration::from_secs(40 * DAY)), "40d");
        let lengths = [
            ("2d", 172_800_000),
            ("24h", 86_400_000),
            ("26h", 93_600_000),
            ("1m 30s", 90_000),
            ("0s", 0),
            ("10ms", 10),
        ];
        for (text, millis) in lengths {
            let length = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Ok(length));
            assert_eq!(parse_duration(&show_duration(length)), Ok(length), "{}", show_duration(length));
        }
        assert!(
            parse_duration("-1h").is_err()
                && parse_duration("1mo").is_err()
                && parse_duration("soon").is_err()
        );
    }
}
