//! What the bucket did not do: of one object alone, or of all, for a while or for good.

use std::time::Duration;

use crate::op::sync::Request;
use crate::op::sync::bucket::answers;
use crate::repo::RepoError;
use crate::store::{LockingStore, StoreError};

/// Time between two looks whether the bucket answers again.
const LOOKED_EVERY: Duration = Duration::from_secs(2);

/// Time after which whoever waits looks whether it is to stop.
const HEEDED_EVERY: Duration = Duration::from_millis(100);

/// What to do about something that was not done.
pub enum Fate {
    /// Once more: the bucket was away, and answers again.
    Again,
    /// Go on with all others: it is of this object alone.
    OneObject(StoreError),
}

/// Judges why something was not done. Where the bucket does not answer at all, and may do so again, it is waited for.
///
/// # Errors
/// [`RepoError::Store`] if the bucket does not answer: then nothing else can be done either;
/// [`RepoError::Interrupted`].
pub fn fate(remote: &dyn LockingStore, request: &Request<'_>, error: StoreError) -> Result<Fate, RepoError> {
    if error.is_refusal() || answers(remote) {
        return Ok(Fate::OneObject(error));
    }
    if !error.is_passing() {
        return Err(error.into());
    }
    let mut waited = Duration::ZERO;
    while waited < request.options.patience {
        if request.progress.is_cancelled() {
            return Err(RepoError::Interrupted);
        }
        std::thread::sleep(HEEDED_EVERY);
        waited += HEEDED_EVERY;
        if waited.as_millis().is_multiple_of(LOOKED_EVERY.as_millis()) && answers(remote) {
            return Ok(Fate::Again);
        }
    }
    Err(error.into())
}

/// Does `work`; once more where the bucket was away meanwhile. Returns what it returns, or why it could not be done, if
/// that is of one object alone.
///
/// # Errors
/// As [`fate`].
pub fn attempt<T>(
    remote: &dyn LockingStore,
    request: &Request<'_>,
    work: impl Fn() -> Result<T, RepoError>,
) -> Result<Result<T, String>, RepoError> {
    let mut is_second = false;
    loop {
        let error = match work() {
            Err(RepoError::Store(error)) => error,
            done => return done.map(Ok),
        };
        match fate(remote, request, error)? {
            Fate::Again if !is_second => is_second = true,
            Fate::Again => return Ok(Err("the connection is lost again and again".to_owned())),
            Fate::OneObject(error) => return Ok(Err(RepoError::Store(error).chain())),
        }
    }
}
