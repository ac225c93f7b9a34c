//! What was removed on purpose, and somebody should hear of while the bucket still keeps it: an intruder can remove too.

use std::collections::BTreeMap;

use crate::base::entry::quoted;
use crate::base::forgotten::ForgottenRow;
use crate::base::id::SnapshotId;
use crate::base::time::Time;
use crate::op::sync::Report;
use crate::op::sync::absent::Absent;
use crate::op::sync::bucket::Bucket;
use crate::op::sync::locks::end;
use crate::repo::RepoError;
use crate::repo::bucket_state::BucketState;
use crate::repo::forgotten::Notes;
use crate::store::{LockingStore, Name, Version};

/// So many snapshots that go at once are no mistake, whatever share of all they are.
const FEW: usize = 3;

/// Says which snapshots somebody has named to go, or has removed many of at once, while the bucket still keeps them.
///
/// # Errors
/// [`RepoError::Store`] if a lock that is not remembered can't be read.
pub fn tell_removed(
    (notes, absent): (&Notes, &Absent),
    (remote, bucket): (&dyn LockingStore, &Bucket),
    known: &BucketState,
    now: Time,
    report: &mut Report,
) -> Result<(), RepoError> {
    let mut ends: BTreeMap<SnapshotId, i64> = BTreeMap::new();
    for note in notes.each() {
        let gone: Vec<&ForgottenRow> = note.rows.iter().filter(|row| !row.is_replaced).collect();
        let is_much = gone.len() > FEW && gone.len() as u64 * 10 > note.there;
        let mut told = Vec::new();
        for row in gone.iter().filter(|row| (is_much || row.is_by_hand) && absent.forgotten.contains(&row.id))
        {
            let name = Name::Snapshot(row.id);
            let until = match known.latest(&name.to_string()) {
                Some(until) => until,
                None => locked_until(remote, bucket.of(&name))?,
            };
            if until > now.seconds {
                ends.insert(row.id, until);
                told.push(row);
            }
        }
        let Some(first) = told.first() else { continue };
        let until = told.iter().filter_map(|row| ends.get(&row.id)).min().copied().unwrap_or(now.seconds);
        let until = Time::new(until, 0).utc().0;
        let newest = told.iter().filter_map(|row| row.time).max();
        let newest = newest.map_or(String::new(), |time| format!(", the newest of {}", time.utc().0));
        let (date, time) = note.time.utc();
        let count = match told.len() {
            1 => "a snapshot was".to_owned(),
            count => format!("{count} snapshots were"),
        };
        report.warnings.push(format!(
            "{count} removed on {} on {date} at {time} UTC ({}){newest}; the bucket keeps them until {until}: if nobody of you meant it, 'snap clone {}' brings back what is wanted until then",
            quoted(note.host.as_bytes()),
            quoted(first.rule.as_bytes()),
            remote.location(),
        ));
    }
    Ok(())
}

/// Returns when the last lock of the versions ends, in seconds since 1970; 0 without one.
fn locked_until(remote: &dyn LockingStore, versions: &[Version]) -> Result<i64, RepoError> {
    let mut until = 0;
    for version in versions.iter().filter(|version| !version.is_marker) {
        until = until.max(end(remote.retention(&version.path, &version.id)?));
    }
    Ok(until)
}
