//! The configured retention → a policy of prune.

use std::time::Duration;

use jiff::Span;

use crate::job::config::{self, Config, Retention};
use crate::op::prune::{Policy, TagSpan};

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Returns the policy; none if nothing is configured, and everything is kept.
pub fn policy(retention: &Retention) -> Option<Policy> {
    let rules = [("daily", retention.daily), ("weekly", retention.weekly)];
    let rules = rules.into_iter().filter_map(|(tag, span)| Some((tag, calendar(span?)?)));
    let tag_spans: Vec<TagSpan> = rules.map(|(tag, span)| TagSpan { tag: tag.to_owned(), span }).collect();
    (!tag_spans.is_empty()).then(|| Policy { tag_spans, ..Policy::default() })
}

/// How long ago the retention may have been carried out last if the configuration does not say: three nights, or as
/// long as there may be no backup.
const THREE_NIGHTS: config::Span = config::Span(Duration::from_secs(3 * DAY));

/// Returns how long ago the retention may have been carried out last.
pub fn max_age(config: &Config) -> config::Span {
    let no_backup = config.notify.max_age.unwrap_or(THREE_NIGHTS);
    config.retention.max_age.unwrap_or(THREE_NIGHTS.max(no_backup))
}

/// Returns a length of time as one of the calendar: whole days are days, also those of 23 or 25 hours.
fn calendar(span: config::Span) -> Option<Span> {
    let seconds = span.seconds();
    match seconds.is_multiple_of(DAY) {
        true => Span::new().try_days(i64::try_from(seconds / DAY).ok()?).ok(),
        false => Span::new().try_seconds(i64::try_from(seconds).ok()?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn days_are_those_of_the_calendar_and_nothing_configured_keeps_all() {
        let days = |days: u64| Some(config::Span(Duration::from_secs(days * DAY)));
        let both =
            policy(&Retention { daily: days(30), weekly: days(84), max_age: None }).expect("is a policy");
        let rules: Vec<_> =
            both.tag_spans.iter().map(|rule| (rule.tag.as_str(), rule.span.get_days())).collect();
        assert_eq!(rules, [("daily", 30), ("weekly", 84)]);
        assert!(policy(&Retention::default()).is_none());
        let hours =
            Retention { daily: Some(config::Span(Duration::from_secs(3 * 3600))), ..Retention::default() };
        assert_eq!(policy(&hours).expect("is a policy").tag_spans[0].span.get_seconds(), 3 * 3600);
    }
}
