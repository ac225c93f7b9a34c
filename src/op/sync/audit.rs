//! Locks that this machine relies on, read back from the bucket.

use std::collections::BTreeSet;

use crate::base::threads::map_side_by_side;
use crate::base::time::Time;
use crate::op::sync::bucket::Bucket;
use crate::op::sync::locks::end;
use crate::op::sync::refused::attempt;
use crate::op::sync::{Problem, Report, Request};
use crate::repo::RepoError;
use crate::repo::bucket_state::BucketState;
use crate::store::{LockingStore, Retention, StoreError, VersionId};

/// Locks that every run reads back.
const SAMPLE: usize = 10;

/// Tells of versions that are gone although their lock is not over, and forgets those that are gone.
pub fn missing(bucket: &Bucket, known: &mut BucketState, now: Time, report: &mut Report) {
    let there: BTreeSet<(&str, &VersionId)> =
        bucket.names.values().flatten().map(|version| (version.path.as_str(), &version.id)).collect();
    for (path, id, until) in known.all() {
        if !there.contains(&(path.as_str(), &id)) {
            known.forget(&path, &id);
            if until > now.seconds {
                let what = "a version is gone although its lock is not over: the storage breaks its promise"
                    .to_owned();
                report.problems.push(Problem { path, what });
            }
        }
    }
}

/// Reads back a sample of the locks, or all. What ends earlier than is remembered is told; all are remembered
/// as they are.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::Interrupted`].
pub fn read_back(
    remote: &dyn LockingStore,
    known: &mut BucketState,
    request: &Request<'_>,
    report: &mut Report,
) -> Result<(), RepoError> {
    let locked: Vec<_> =
        known.all().into_iter().filter(|(_, _, until)| *until > request.now.seconds).collect();
    let chosen = match request.options.audit {
        true => locked,
        false => sample(locked, request.seed),
    };
    for some in chosen.chunks(2 * request.threads.max(1)) {
        let read = map_side_by_side(request.threads.max(1), some.len(), |number| {
            let (path, id, _) = &some[number];
            match request.progress.is_cancelled() {
                true => Err(RepoError::Interrupted),
                false => read_one(remote, request, path, id),
            }
        });
        for ((path, id, until), found) in some.iter().zip(read) {
            note(known, report, (path, id, *until), found?);
        }
    }
    Ok(())
}

/// Reads a lock, or says why it can't be read.
fn read_one(
    remote: &dyn LockingStore,
    request: &Request<'_>,
    path: &str,
    id: &VersionId,
) -> Result<Result<Option<Retention>, String>, RepoError> {
    attempt(remote, request, || match remote.retention(path, id) {
        Ok(found) => Ok(found),
        Err(StoreError::Missing { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    })
}

/// Remembers what was read of a lock that was thought to end at that time.
fn note(
    known: &mut BucketState,
    report: &mut Report,
    (path, id, until): (&str, &VersionId, i64),
    found: Result<Option<Retention>, String>,
) {
    let mut problem = |what| report.problems.push(Problem { path: path.to_owned(), what });
    let found = match found {
        Ok(found) => found,
        Err(why) => return problem(format!("its lock can't be read: {why}; the next run tries it again")),
    };
    let ends = end(found);
    known.learn(path, id, ends); // also one that somebody has made longer: it can't be renewed with less
    if ends < until {
        let what = "its lock ends earlier than was asked for, or is not COMPLIANCE; it is locked anew";
        problem(what.to_owned());
    }
    report.audited += 1;
}

/// Takes some of all, evenly spread, from a place that `seed` draws.
fn sample<T>(all: Vec<T>, seed: u64) -> Vec<T> {
    let step = all.len().div_ceil(SAMPLE).max(1);
    let start = usize::try_from(seed % step as u64).unwrap_or(0);
    all.into_iter().skip(start).step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_small_and_over_time_meets_all() {
        let mut met = BTreeSet::new();
        for seed in 0..1000 {
            let sample = sample((0..95).collect(), seed);
            assert!((9..=SAMPLE).contains(&sample.len()), "{}", sample.len());
            met.extend(sample);
        }
        assert_eq!(met.len(), 95);
        assert!(sample(Vec::<u8>::new(), 7).is_empty());
    }
}
