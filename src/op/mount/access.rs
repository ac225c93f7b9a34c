//! The way to the repository for as long as a mount lives: the index is open only while it is used,
//! and a repository that goes away is met again when it is back.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

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
    /// It relies on the cache: what came since is found by opening it anew.
    reader: Arc<Reader<'static>>,
    fragments: Arc<BTreeSet<FragmentId>>,
    /// One that has all fragments in memory, for where a cache that is up to date leads to bytes that are wrong.
    last_resort: Arc<OnceLock<Option<Reader<'static>>>>,
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
        let reader = Reader::shared(self.repository.clone(), index, self.kept.clone()).without_fallback();
        let open = Open { reader: Arc::new(reader), fragments, last_resort: Arc::default() };
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
    /// called once more with a new one; and if bytes are wrong or gone, with one that has read the fragments.
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
        let (open, error) = match fragments_present(self.repository.store()) {
            Ok(present) if present != *open.fragments => {
                drop(open);
                self.close();
                let open = self.opened()?;
                match act(&open.reader) {
                    Err(e) => (open, e),
                    done => return done,
                }
            }
            _ => (open, error),
        };
        if !error.is_unreadable() {
            return Err(error);
        }
        let last = open.last_resort.get_or_init(|| {
            let index = Index::open_in_memory(&self.repository).ok()?;
            Some(Reader::shared(self.repository.clone(), index, self.kept.clone()).without_fallback())
        });
        last.as_ref().and_then(|reader| act(reader).ok()).ok_or(error)
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
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;
    use crate::base::id::ChunkId;
    use crate::repo::index::put_fragment;
    use crate::repo::sample::plain;
    use crate::stage::index::Fragment;
    use crate::store::MemoryStore;

    fn access() -> Access {
        Access::new(Arc::new(plain(MemoryStore::default())), 0)
    }

    /// A backup that ends while a mount is in use: the cache knows what it stored, and no fragment need
    /// be in memory for that.
    #[test]
    fn what_came_since_is_found_by_opening_the_index_anew() {
        let (access, calls) = (access(), AtomicUsize::new(0));
        let unknown = || RepoError::UnknownChunk { id: ChunkId::from_bytes([7; ChunkId::BYTES]) };
        access.with(|_| Ok(())).unwrap();
        let fragment = Fragment { packs: Vec::new(), replaces: Vec::new() };
        put_fragment(access.repository(), &fragment).unwrap();
        let found = access.with(|_| match calls.fetch_add(1, Ordering::Relaxed) {
            0 => Err(unknown()),
            _ => Ok("there"),
        });
        assert_eq!((found.unwrap(), calls.load(Ordering::Relaxed)), ("there", 2));
        assert!(access.opened().unwrap().last_resort.get().is_none());
        let lost: Result<(), _> = access.with(|_| {
            calls.fetch_add(1, Ordering::Relaxed);
            Err(unknown())
        });
        assert!(matches!(lost, Err(RepoError::UnknownChunk { .. })));
        assert_eq!(calls.load(Ordering::Relaxed), 4, "the fragments were asked as well");
        assert!(access.opened().unwrap().last_resort.get().is_some());
    }

    #[test]
    fn nobody_who_rests_waits_for_an_index_that_is_being_opened() {
        let access = Arc::new(access());
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
