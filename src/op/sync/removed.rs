//! What was removed on purpose, and somebody should hear of while the bucket still keeps it: an intruder can remove too.

use std::collections::BTreeMap;

use crate::base::entry::quoted;
use crate::base::forgotten::ForgottenRow;
use crate::base::id::SnapshotId;
use crate::base::time::Time;
use crate::op::sync::absent::Absent;
use crate::op::sync::bucket::Bucket;
use crate::op::sync::locks::end;
use crate::op::sync::refused::attempt;
use crate::op::sync::{Problem, Report, Request};
use crate::repo::bucket_state::BucketState;
use crate::repo::forgotten::Notes;
use crate::store::{LockingStore, Name, Version};

/// So many snapshots that go at once are no mistake, whatever share of all they are.
const FEW: usize = 3;

/// The end of a lock that can't be read: it counts as locked.
const UNKNOWN: i64 = i64::MAX;

/// Says which snapshots somebody has named to go, or has removed many of at once, while the bucket still keeps them. Of
/// which it can't be read how long they are locked, these count as locked. Where the bucket does not answer, the
/// report says what stopped the run, and the bucket is asked nothing more.
pub fn tell_removed(
    (notes, absent): (&Notes, &Absent),
    (remote, bucket): (&dyn LockingStore, &Bucket),
    known: &BucketState,
    request: &Request<'_>,
    report: &mut Report,
) {
    let mut until = |id: SnapshotId, report: &mut Report| {
        let name = Name::Snapshot(id);
        known
            .latest(&name.to_string())
            .unwrap_or_else(|| locked_until(remote, bucket.of(&name), request, report))
    };
    let now = request.now;
    tell_expired(absent, now, (remote, &mut until), report);
    let mut ends: BTreeMap<SnapshotId, i64> = BTreeMap::new();
    for note in notes.each() {
        let gone: Vec<&ForgottenRow> = note.rows.iter().filter(|row| !row.is_replaced).collect();
        let is_much = gone.len() > FEW && gone.len() as u64 * 10 > note.there;
        let mut told = Vec::new();
        for row in gone.iter().filter(|row| (is_much || row.is_by_hand) && absent.forgotten.contains(&row.id))
        {
            // What was removed on several days is asked for once.
            let until = match ends.get(&row.id) {
                Some(until) => *until,
                None => until(row.id, report),
            };
            ends.insert(row.id, until);
            if until > now.seconds {
                told.push(row);
            }
        }
        let Some(first) = told.first() else { continue };
        let until =
            day(told.iter().filter_map(|row| ends.get(&row.id)).min().copied().unwrap_or(now.seconds));
        let newest = told.iter().filter_map(|row| row.time).max();
        let newest = newest.map_or(String::new(), |time| format!(", the newest of {}", time.utc().0));
        let (date, time) = note.time.utc();
        let count = match told.len() {
            1 => "a snapshot was".to_owned(),
            count => format!("{count} snapshots were"),
        };
        report.warnings.push(format!(
            "{count} removed on {} on {date} at {time} UTC ({}){newest}; the bucket keeps them {until}: if nobody of you meant it, 'snap clone {}' brings back what is wanted until then",
            quoted(note.host.as_bytes()),
            quoted(first.rule.as_bytes()),
            remote.location(),
        ));
    }
}

/// Says how many snapshots of a program that notes nothing the rules do not keep, if so many are gone here that it looks as
/// if they were lost.
fn tell_expired(
    absent: &Absent,
    now: Time,
    (remote, until): (&dyn LockingStore, &mut impl FnMut(SnapshotId, &mut Report) -> i64),
    report: &mut Report,
) {
    let (gone, there) = (&absent.expired, absent.there);
    if gone.len() <= FEW || gone.len() * 10 <= there {
        return;
    }
    let ends = gone.iter().map(|one| (until(one.id, report), one.manifest.time));
    let locked: Vec<(i64, Time)> = ends.filter(|(until, _)| *until > now.seconds).collect();
    let Some(first) = locked.iter().map(|(until, _)| *until).min().filter(|_| locked.len() > FEW) else {
        return;
    };
    let newest = locked.iter().map(|(_, time)| *time).max().unwrap_or(now);
    report.warnings.push(format!(
        "{} snapshots of an older program are in the bucket and not here, the newest of {}; nothing notes that they were removed, and the rules do not keep them, so they count as removed; the bucket keeps them {}: if they were lost here, 'snap clone --without-forgotten {}' brings them back until then",
        locked.len(),
        newest.utc().0,
        day(first),
        remote.location(),
    ));
}

/// Says until when the bucket keeps something.
fn day(until: i64) -> String {
    match until {
        UNKNOWN => "for a time that could not be read".to_owned(),
        until => format!("until {}", Time::new(until, 0).utc().0),
    }
}

/// Returns when the last lock of the versions ends, in seconds since 1970; 0 without one, and [`UNKNOWN`] if that can't be
/// read.
fn locked_until(
    remote: &dyn LockingStore,
    versions: &[Version],
    request: &Request<'_>,
    report: &mut Report,
) -> i64 {
    let mut until = 0;
    for version in versions.iter().filter(|version| !version.is_marker) {
        if report.stopped.is_some() {
            return UNKNOWN;
        }
        match attempt(remote, request, || Ok(remote.retention(&version.path, &version.id).map(end)?)) {
            Ok(Ok(ends)) => until = until.max(ends),
            Ok(Err(why)) => {
                let what = format!(
                    "its lock can't be read, so it counts as locked: {why}; the next run tries it again"
                );
                report.problems.push(Problem { path: version.path.clone(), what });
                return UNKNOWN;
            }
            Err(e) => report.stopped = Some(e),
        }
    }
    if report.stopped.is_some() { UNKNOWN } else { until }
}
