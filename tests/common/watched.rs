//! A store that remembers what was read of it, and can do something before it gives a lock.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use snap::store::{Folder, Found, Lock, LockMode, MemoryStore, Name, Store, StoreError, Upload};

type Reads = Vec<(Name, Range<u64>)>;

type Hook = Box<dyn FnOnce() + Send>;

/// A store in memory, and the ranges read of it, in order. Clones share all.
#[derive(Clone, Default)]
pub struct WatchedStore {
    inner: MemoryStore,
    reads: Arc<Mutex<Reads>>,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl WatchedStore {
    /// Does something before `inner` gives the lock to one alone, the first time.
    pub fn with_hook(inner: MemoryStore, hook: Hook) -> Self {
        Self { inner, reads: Arc::default(), hook: Arc::new(Mutex::new(Some(hook))) }
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
        self.inner.begin()
    }
    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.read(name, bytes_max)
    }
    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).push((*name, range.clone()));
        self.inner.read_range(name, range)
    }
    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        self.inner.list(folder)
    }
    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.inner.delete(name)
    }
    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        let is_exclusive = mode == LockMode::Exclusive;
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).take_if(|_| is_exclusive);
        if let Some(hook) = hook {
            hook();
        }
        self.inner.lock(mode)
    }
    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        self.inner.sweep_uploads()
    }
}
