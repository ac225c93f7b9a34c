//! A store that remembers what was read of it, can do something before a call of a certain kind, and fails to read what
//! a test wants.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use snap::store::{Folder, Found, Lock, LockMode, MemoryStore, Name, Store, StoreError, Upload};

type Reads = Vec<(Name, Range<u64>)>;

type Hook = Box<dyn FnOnce() + Send>;

type Fails = Box<dyn FnMut(&Name, &Range<u64>) -> Option<io::Error> + Send>;

/// A kind of call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The lock is to be given to one alone.
    LockAlone,
    /// A folder is to be listed.
    List(Folder),
    /// A range of a pack is to be read.
    ReadPack,
    /// A file is to be put.
    Put,
}

/// A store in memory, and the ranges read of it, in order. Clones share all.
#[derive(Clone, Default)]
pub struct WatchedStore {
    inner: MemoryStore,
    reads: Arc<Mutex<Reads>>,
    hook: Arc<Mutex<Option<(Moment, Hook)>>>,
    fails: Arc<Mutex<Option<Fails>>>,
}

impl WatchedStore {
    /// Watches a store.
    pub fn over(inner: MemoryStore) -> Self {
        Self { inner, ..Self::default() }
    }

    /// Does something before the next call of a kind.
    pub fn before(&self, moment: Moment, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some((moment, Box::new(hook)));
    }

    /// Fails those reads of a range for which `fails` returns an error, as of a disk with a bad sector.
    #[allow(dead_code, reason = "not every test has bad sectors")]
    pub fn fail_reads(&self, fails: impl FnMut(&Name, &Range<u64>) -> Option<io::Error> + Send + 'static) {
        *self.fails.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(fails));
    }

    fn comes(&self, moment: Moment) {
        let mut hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner);
        let due = hook.take_if(|(when, _)| *when == moment);
        drop(hook);
        if let Some((_, hook)) = due {
            hook();
        }
    }

    /// Returns what was read since the last call.
    pub fn take_reads(&self) -> Reads {
        std::mem::take(&mut *self.reads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for WatchedStore {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        self.comes(Moment::Put);
        self.inner.begin()
    }
    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.read(name, bytes_max)
    }
    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        if matches!(name, Name::Pack(_)) {
            self.comes(Moment::ReadPack);
        }
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).push((*name, range.clone()));
        let mut fails = self.fails.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = fails.as_mut().and_then(|fails| fails(name, &range)) {
            return Err(StoreError::Io { path: name.to_string(), verb: "read", source });
        }
        self.inner.read_range(name, range)
    }
    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        self.comes(Moment::List(folder));
        self.inner.list(folder)
    }
    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.inner.delete(name)
    }
    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        if mode == LockMode::Exclusive {
            self.comes(Moment::LockAlone);
        }
        self.inner.lock(mode)
    }
    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        self.inner.sweep_uploads()
    }
}
