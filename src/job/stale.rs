//! Backups that have not happened for too long.

use crate::base::time::Time;
use crate::job::config::Span;
use crate::job::notice::Stale;
use crate::repo::Snapshot;
use crate::stage::snapshot::Status;

/// How far a clock may be ahead, in seconds.
const AHEAD_MAX: i64 = 15 * 60;

/// Returns the components whose newest whole backup from `host` is older than `max_age`, or missing. One that is dated in
/// the future, by a clock that was wrong, does not hide that none came after those before it.
pub fn stale<'c>(
    snapshots: &[Snapshot],
    host: &str,
    components: impl IntoIterator<Item = &'c str>,
    max_age: Span,
    now: Time,
) -> Vec<Stale> {
    let limit = i64::try_from(max_age.seconds()).unwrap_or(i64::MAX);
    let is_past = |time: &Time| time.seconds <= now.seconds.saturating_add(AHEAD_MAX);
    let rows = components.into_iter().map(|name| {
        let own = snapshots.iter().filter(|snapshot| snapshot.manifest.host == host);
        let whole = own.filter(|snapshot| {
            let mut parts = snapshot.manifest.components.iter();
            parts.any(|part| part.name == name && part.status == Status::Complete)
        });
        let times: Vec<Time> = whole.map(|snapshot| snapshot.manifest.time).collect();
        let last = times.iter().filter(|time| is_past(time)).max().or(times.iter().max());
        Stale { component: name.to_owned(), last: last.copied() }
    });
    rows.filter(|row| row.last.is_none_or(|last| now.seconds.saturating_sub(last.seconds) > limit)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::id::SnapshotId;
    use crate::stage::snapshot::{Component, Manifest};

    fn snapshot(seconds: i64, host: &str, parts: &[(&str, Status)]) -> Snapshot {
        let component = |(name, status): &(&str, Status)| Component {
            name: (*name).to_owned(),
            directory: name.as_bytes().to_vec(),
            sources: Vec::new(),
            status: *status,
            attempts: 1,
            files: 0,
            bytes: 0,
        };
        let manifest = Manifest {
            time: Time::new(seconds, 0),
            host: host.to_owned(),
            components: parts.iter().map(component).collect(),
            ..Manifest::default()
        };
        Snapshot { id: SnapshotId::from_bytes([0; 32]), manifest }
    }

    #[test]
    fn only_a_whole_backup_of_this_machine_counts() {
        let all = [
            snapshot(1000, "mx1", &[("mail", Status::Complete), ("mysql", Status::Complete)]),
            snapshot(5000, "mx2", &[("mysql", Status::Complete)]),
            snapshot(5000, "mx1", &[("mail", Status::Complete), ("mysql", Status::Failed)]),
        ];
        let age = Span(Duration::from_secs(2000));
        let found = stale(&all, "mx1", ["mail", "mysql", "dkim"], age, Time::new(6000, 0));
        let row = |name: &str, last| Stale { component: name.to_owned(), last };
        assert_eq!(found, [row("mysql", Some(Time::new(1000, 0))), row("dkim", None)]);
        assert_eq!(stale(&all, "mx1", ["mail"], age, Time::new(7000, 0)), []);
        assert_eq!(
            stale(&all, "mx1", ["mail"], age, Time::new(0, 0)),
            [],
            "a clock that was set back is no alarm"
        );
        let wrong = snapshot(900_000, "mx1", &[("mail", Status::Complete)]);
        let all = [&all[..], &[wrong]].concat();
        assert_eq!(
            stale(&all, "mx1", ["mail"], age, Time::new(9000, 0)),
            [row("mail", Some(Time::new(5000, 0)))],
            "one that is dated in the future hides nothing"
        );
    }
}
