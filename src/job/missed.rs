//! Nights in which no backup was made, whatever the reason: the next run says so.

use crate::base::time::Time;
use crate::job::config::Span;
use crate::repo::Snapshot;
use crate::repo::whose::{RunKey, Whose, is_ahead};

/// Age, in seconds, of the newest night above which the next run says that nights were missed: three, and some hours, for
/// a run does not begin at the same moment every night.
const MISSED_SECONDS: u64 = 3 * 86_400 + 12 * 3600;

/// When there was a night last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The newest night.
    pub last: Time,
    /// The newest night with all of its components whole; never if none.
    pub last_whole: Option<Time>,
}

/// Returns when there was a night of `key` last, if three were missed since; none if not, or if there never was
/// one. A configuration whose `max_age` is longer is meant to run less often.
pub fn missed(
    snapshots: &[Snapshot],
    whose: &Whose,
    key: &RunKey,
    max_age: Option<Span>,
    now: Time,
) -> Option<Missed> {
    let limit = max_age.map_or(0, Span::seconds).max(MISSED_SECONDS);
    let nights = || {
        let all = snapshots.iter().enumerate().map(|(at, snapshot)| (at, &snapshot.manifest));
        let own = all.filter(|(at, _)| whose.key(*at) == Some(key) && whose.is_night(*at));
        own.map(|(_, night)| night).filter(|night| !is_ahead(night.time, now))
    };
    let last = nights().map(|night| night.time).max()?;
    let is_whole = |night: &&crate::stage::snapshot::Manifest| {
        night.components.iter().all(|component| night.is_whole(component))
    };
    let last_whole = nights().filter(is_whole).map(|night| night.time).max();
    let age = u64::try_from(now.seconds.saturating_sub(last.seconds)).unwrap_or(0);
    (age > limit).then_some(Missed { last, last_whole })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::tz::TimeZone;

    use super::*;
    use crate::base::id::SnapshotId;
    use crate::stage::snapshot::{Component, Manifest, Status, facts};

    const NIGHT: i64 = 1_767_582_000;
    const DAY: i64 = 86_400;

    fn snapshot(day: i64, is_night: bool, status: Status) -> Snapshot {
        let component = Component {
            name: "mail".to_owned(),
            directory: b"mail".to_vec(),
            sources: Vec::new(),
            status,
            attempts: 1,
            files: 0,
            bytes: 0,
        };
        let mut manifest = Manifest {
            time: Time::new(NIGHT + day * DAY, 0),
            host: "mx1".to_owned(),
            components: vec![component],
            ..Manifest::default()
        };
        manifest.set_fact(facts::NIGHT, vec![u8::from(is_night)]);
        manifest.set_fact(facts::RUN, b"mailserver".to_vec());
        Snapshot { id: SnapshotId::from_bytes([0; 32]), manifest }
    }

    fn look(all: &[Snapshot], max_age: Option<u64>, day: i64) -> Option<Missed> {
        let whose = Whose::of(all.iter().map(|snapshot| &snapshot.manifest), None, &TimeZone::UTC);
        let key = RunKey { host: "mx1".to_owned(), run: Some("mailserver".to_owned()) };
        let span = |days: u64| Span(Duration::from_secs(days * 86_400));
        missed(all, &whose, &key, max_age.map(span), Time::new(NIGHT + day * DAY, 0))
    }

    #[test]
    fn three_missed_nights_are_told_whatever_else_was_backed_up_meanwhile() {
        let all = [
            snapshot(0, true, Status::Complete),
            snapshot(1, true, Status::Partial),
            snapshot(4, false, Status::Complete),
            snapshot(4000, true, Status::Complete),
        ];
        let at = |day: i64| Time::new(NIGHT + day * DAY, 0);
        assert_eq!(look(&all, None, 4), None, "the third is under way");
        assert_eq!(look(&all, None, 5), Some(Missed { last: at(1), last_whole: Some(at(0)) }));
        assert_eq!(look(&all, Some(8), 5), None, "a run a week is what is meant");
        assert_eq!(look(&all, None, -1), None, "a clock that was set back");
        assert_eq!(look(&[], None, 5), None);
    }
}
