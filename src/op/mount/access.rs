//! The way to the repository for as long as a mount lives: the index is open only while it is used,
//! and a repository that goes away is met again when it is back.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::base::id::FragmentId;
use crate::repo::index::{Index, fragments_present};
use crate::repo::reader::{Kept, Reader};
use crate::repo::{RepoError, Repository};

/// Reads a repository; opens the index when it is needed, and closes it when it is not.
pub struct Access {
    repository: Arc<Repository>,
    kept: Arc<Kept>,
    open: Mutex<Option<Open>>,
    was_used: AtomicBool,
    is_away: AtomicBool,
}

/// A reader, and the fragments that its index knows.
#[derive(Clone)]
struct Open {
    reader: Arc<Reader<'static>>,
    fragments: Arc<BTreeSet<FragmentId>>,
}

impl Access {
    /// Opens nothing yet. Frames of up to `cache_bytes` stay in memory.
    pub fn new(repository: Arc<Repository>, cache_bytes: usize) -> Self {
        Self {
            repository,
            kept: Arc::new(Kept::new(cache_bytes)),
            open: Mutex::new(None),
            was_used: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
        }
    }

    /// Returns the repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    fn slot(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> Result<Open, RepoError> {
        self.was_used.store(true, Ordering::Relaxed);
        let mut slot = self.slot();
        if let Some(open) = &*slot {
            return Ok(open.clone());
        }
        // Where a disk was unplugged there is an empty directory, and an index of it would be empty.
        self.is_there()?;
        let fragments = Arc::new(fragments_present(self.repository.store())?);
        let index = Index::open_to_read(&self.repository)?;
        for (path, problem) in index.problems() {
            tracing::warn!("{path}: {}; 'snap check' says more", problem.chain());
        }
        let reader = Arc::new(Reader::shared(self.repository.clone(), index, self.kept.clone()));
        let open = Open { reader, fragments };
        *slot = Some(open.clone());
        self.was_used.store(true, Ordering::Relaxed); // to open it may take longer than it may rest
        Ok(open)
    }

    /// Returns whether the repository can be reached; says it once when it can not, and once when it
    /// can again.
    ///
    /// # Errors
    /// As [`Repository::is_there`].
    pub fn is_there(&self) -> Result<(), RepoError> {
        let there = self.repository.is_there();
        let was_away = self.is_away.swap(there.is_err(), Ordering::Relaxed);
        let location = self.repository.store().location();
        match &there {
            Err(e) if !was_away => {
                let cause = match e {
                    RepoError::NotThere { .. } => "nothing is there".to_owned(),
                    e => e.chain(),
                };
                tracing::error!(
                    "{location}: the repository is away ({cause}); reading fails until it is back"
                );
            }
            Ok(()) if was_away => tracing::warn!("{location}: the repository is back"),
            _ => {}
        }
        there
    }

    /// Calls `act` with a reader. If it fails because the index is older than the repository, it is
    /// called once more with a new one.
    ///
    /// # Errors
    /// What `act` returns; [`RepoError::NotThere`] and the like if the repository is away.
    pub fn with<R>(&self, act: impl Fn(&Reader<'_>) -> Result<R, RepoError>) -> Result<R, RepoError> {
        let open = self.opened()?;
        let error = match act(&open.reader) {
            Err(e @ (RepoError::Locked | RepoError::NoIdentity { .. })) => return Err(e),
            Err(e) => e,
            done => return done,
        };
        if let Err(away) = self.is_there() {
            self.close();
            return Err(away);
        }
        match fragments_present(self.repository.store()) {
            Ok(present) if present != *open.fragments => {
                drop(open);
                self.close();
                act(&self.opened()?.reader)
            }
            _ => Err(error),
        }
    }

    /// Returns the reader if it is open: for what is not worth opening the index for.
    pub fn reader(&self) -> Option<Arc<Reader<'static>>> {
        self.slot().as_ref().map(|open| open.reader.clone())
    }

    fn close(&self) {
        *self.slot() = None;
    }

    /// Closes the index if nothing was read since the last call: a backup can then bring the cache up
    /// to date, and the disk can be unmounted. Never waits: to open an index may take minutes, and who calls this
    /// has signals to heed.
    pub fn rest(&self) {
        if self.was_used.swap(false, Ordering::Relaxed) {
            return;
        }
        match self.open.try_lock() {
            Ok(mut slot) => *slot = None,
            Err(TryLockError::Poisoned(slot)) => *slot.into_inner() = None,
            Err(TryLockError::WouldBlock) => {} // it is being opened, or asked for
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::time::Time;
    use crate::repo::Opening;
    use crate::repo::config::{Choices, Encryption};
    use crate::repo::keys::NoSecrets;
    use crate::store::MemoryStore;

    #[test]
    fn nobody_who_rests_waits_for_an_index_that_is_being_opened() {
        let state = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::default());
        let opening = Opening { store, state: state.path(), index: None, secrets: &NoSecrets };
        let choices = Choices { encryption: Encryption::None, ..Choices::default() };
        let repository = Repository::create(&opening, choices, None, &[], Time::default()).unwrap();
        let access = Arc::new(Access::new(Arc::new(repository), 0));
        let is_being_opened = access.slot();
        let (done, is_done) = crossbeam_channel::bounded(1);
        let resting = access.clone();
        std::thread::spawn(move || {
            resting.rest();
            let _ = done.send(());
        });
        assert!(is_done.recv_timeout(Duration::from_secs(20)).is_ok(), "it waits");
        drop(is_being_opened);
    }
}
