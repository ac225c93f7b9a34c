//! Snapshots → those that would be gone by now, had they been pruned after each backup.

use std::collections::BTreeSet;

use crate::base::id::SnapshotId;
use crate::op::prune::Request;
use crate::op::prune::policy::{Row, rows};
use crate::repo::Snapshot;
use crate::repo::whose::{Whose, is_ahead};

/// Returns the places of the snapshots that the policy would have removed by now, step by step: one prune at the
/// time of each snapshot, and none of them more than half. So what a few nights left undone is told from what a
/// clock that was wrong for more than a night would remove.
///
/// O(snapshots × snapshots that stay).
pub fn would_have_gone(
    snapshots: &[Snapshot],
    named: &BTreeSet<SnapshotId>,
    request: &Request<'_>,
) -> BTreeSet<usize> {
    let whose = Whose::of(snapshots.iter().map(|snapshot| &snapshot.manifest), None, &request.zone);
    let mut present: Vec<Row<'_>> = Vec::new();
    let mut gone = BTreeSet::new();
    for row in rows(snapshots, &whose, named, |manifest| !is_ahead(manifest.time, request.now)) {
        present.push(row);
        let kept = request.policy.reasons(&present, row.manifest.time, &request.zone);
        let expired = present.len() - kept.len();
        if expired <= present.len() / 2 {
            gone.extend(present.iter().map(|row| row.at).filter(|at| !kept.contains_key(at)));
            present.retain(|row| kept.contains_key(&row.at));
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::base::progress::Progress;
    use crate::base::time::Time;
    use crate::op::prune::{Policy, TagSpan};
    use crate::stage::snapshot::{Component, Manifest, Status};

    const START: i64 = 1_767_582_000;
    const DAY: i64 = 86_400;

    fn night(day: i64) -> Snapshot {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&day.to_be_bytes());
        let component = Component {
            name: "mail".to_owned(),
            directory: b"mail".to_vec(),
            sources: Vec::new(),
            status: Status::Complete,
            attempts: 1,
            files: 1,
            bytes: 1,
        };
        let manifest = Manifest {
            time: Time::new(START + day * DAY, 0),
            host: "mx1".to_owned(),
            tags: vec!["daily".to_owned()],
            components: vec![component],
            ..Manifest::default()
        };
        Snapshot { id: SnapshotId::from_bytes(id), manifest }
    }

    fn gone(span: &str, days: impl Iterator<Item = i64>, now: i64) -> Vec<usize> {
        let snapshots: Vec<Snapshot> = days.map(night).collect();
        let span = TagSpan { tag: "daily".to_owned(), span: span.parse().unwrap() };
        let policy = Policy { tag_spans: vec![span], ..Policy::default() };
        let progress = Progress::default();
        let request = Request::new(policy, Time::new(START + now * DAY, 0), TimeZone::UTC, &progress);
        would_have_gone(&snapshots, &BTreeSet::new(), &request).into_iter().collect()
    }

    #[test]
    fn a_backlog_of_nights_would_have_gone_one_by_one() {
        let eleven: Vec<usize> = (0..11).collect();
        assert_eq!(gone("3d", 0..14, 13), eleven);
        assert_eq!(gone("3d", (0..14).chain([3650]), 13), eleven, "with one of the future");
    }

    #[test]
    fn nights_of_a_clock_that_is_ten_years_ahead_take_no_more_than_two_days() {
        let twelve: Vec<usize> = (0..12).collect(); // the first ten are older than 30 days
        for wrong in [1, 2, 5] {
            let ahead = (0..wrong).map(|night| 3650 + night);
            assert_eq!(gone("30d", (0..40).chain(ahead), 3650 + wrong), twelve, "{wrong}");
        }
    }
}
