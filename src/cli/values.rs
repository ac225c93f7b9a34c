//! Values on the command line: spans of time, shares.

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

#[cfg(test)]
mod tests {
    use super::*;

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
