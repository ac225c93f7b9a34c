//! A version's lock: when it ends, and what becomes of it when it is to last longer.

use crate::base::time::Time;
use crate::op::sync::bucket::answers;
use crate::repo::RepoError;
use crate::store::{LockingStore, Mode, Retention, VersionId};

/// What became of a lock that was to last longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extended {
    /// It ends then, in seconds since 1970.
    Renewed(i64),
    /// Somebody has made it longer than was asked for; it ends then, in seconds since 1970.
    Longer(i64),
    /// The bucket refuses, and it ends too soon.
    Refused {
        /// When it ends, in seconds since 1970, if that can be read; 0 without a lock.
        ends: Option<i64>,
        /// What the bucket says.
        why: String,
    },
}

/// Returns when a lock ends that nobody can lift, in seconds since 1970; 0 without one.
pub fn end(found: Option<Retention>) -> i64 {
    found.filter(|found| found.mode == Mode::Compliance).map_or(0, |found| found.until.seconds)
}

/// Locks a version until then. Where the bucket refuses, its lock is read back: who may lock can have made
/// it longer, and no lock is ever shortened. Costs one request, or up to five.
///
/// # Errors
/// [`RepoError::Store`] if the bucket does not answer.
pub fn extend(
    remote: &dyn LockingStore,
    path: &str,
    id: &VersionId,
    until: Time,
) -> Result<Extended, RepoError> {
    let Err(refused) = remote.extend(path, id, until) else {
        return Ok(Extended::Renewed(until.seconds));
    };
    let ends = match remote.retention(path, id) {
        Ok(found) => Some(end(found)),
        Err(_) if answers(remote) => None,
        Err(_) => return Err(refused.into()),
    };
    match ends {
        Some(ends) if ends >= until.seconds => Ok(Extended::Longer(ends)),
        ends => Ok(Extended::Refused { ends, why: RepoError::Store(refused).chain() }),
    }
}
