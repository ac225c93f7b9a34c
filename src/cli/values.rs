//! Values on the command line and in its variables: spans of time, shares, numbers.

use std::time::Duration;

use crate::base::units::{parse_duration, parse_size};
use crate::repo::keys::MARK_DIGITS_MIN;

/// How long to wait for a lock, if nothing is said.
pub const LOCK_WAIT: &str = "60s";

/// How often a request to S3 is tried, if nothing is said, and at most.
pub const ATTEMPTS: &str = "6";
const ATTEMPTS_MAX: u32 = 20;

/// Reads how long to wait for a lock; an empty variable of the environment says nothing.
pub fn lock_wait(text: &str) -> Result<Duration, String> {
    parse_duration(if text.is_empty() { LOCK_WAIT } else { text })
}

/// Reads how often a request is tried. The variable is that of all programs for AWS: what others take is
/// taken, and no more than makes sense here.
pub fn attempts(text: &str) -> Result<u32, String> {
    let text = if text.is_empty() { ATTEMPTS } else { text };
    let attempts: u32 = text.parse().map_err(|_| "is not a number".to_owned())?;
    Ok(attempts.clamp(1, ATTEMPTS_MAX))
}

/// Reads the most bytes sent in a second; none, as 0 and an empty variable say, is no limit.
pub fn rate(text: &str) -> Result<u64, String> {
    if text.is_empty() { Ok(0) } else { parse_size(text) }
}

/// Reads a span of time such as `30d`.
pub fn span(text: &str) -> Result<jiff::Span, String> {
    let span: Result<jiff::Span, _> = text.parse();
    let span = span.ok().filter(|span| span.is_positive());
    span.ok_or_else(|| "is not a span of time such as 30d, 12w or 1y6mo".to_owned())
}

/// Reads a tag and a span of time such as `daily=30d`.
pub fn tag_span(text: &str) -> Result<(String, jiff::Span), String> {
    let parts = text.rsplit_once('=').filter(|(tag, _)| !tag.is_empty());
    let (tag, rest) = parts.ok_or_else(|| "is not a tag and a span, such as daily=30d".to_owned())?;
    Ok((tag.to_owned(), span(rest)?))
}

/// Reads a share from 0 to 100.
pub fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
    let number = number.filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "is not a percentage from 0 to 100".to_owned())
}

/// Reads the mark of a writer secret, or how it begins.
///
/// # Errors
/// Why it is none.
pub fn mark(text: &str) -> Result<String, String> {
    let digits = text.trim().to_ascii_lowercase();
    match digits.len() >= MARK_DIGITS_MIN && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        true => Ok(digits),
        false => Err(format!("is not a mark: {MARK_DIGITS_MIN} hex digits of it at least")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_set_and_empty_says_nothing() {
        assert_eq!((lock_wait(""), lock_wait("5s")), (parse_duration(LOCK_WAIT), parse_duration("5s")));
        assert_eq!((rate(""), rate("1KiB")), (Ok(0), Ok(1024)));
        assert_eq!(
            (attempts(""), attempts("3"), attempts("0"), attempts("25")),
            (Ok(6), Ok(3), Ok(1), Ok(20))
        );
        assert!(attempts("often").is_err());
    }

    #[test]
    fn times_and_shares_are_read_or_refused() {
        assert_eq!(span("30d").map(|span| span.get_days()), Ok(30));
        assert!(span("-30d").is_err());
        assert!(span("soon").is_err());
        assert_eq!(
            tag_span("daily=30d").map(|(tag, span)| (tag, span.get_days())),
            Ok(("daily".to_owned(), 30))
        );
        assert!(tag_span("30d").is_err() && tag_span("=30d").is_err());
        assert_eq!((percent("5"), percent("5%")), (Ok(5.0), Ok(5.0)));
        assert!(percent("101").is_err() && percent("NaN").is_err());
    }
}
