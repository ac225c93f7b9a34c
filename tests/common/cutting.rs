//! A bucket to which the connection is lost where a test wants it to be.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snap::base::time::Time;
use snap::store::{
    Folder, Found, Lock, LockMode, Lockable, LockingStore, Name, Overlay, Protection, Retention, Store,
    StoreError, Upload, Usage, Version, VersionId,
};

use crate::common::fault::Work;

/// A bucket over another one. Calls that change it are numbered from 0: commits, locks, removals. From
/// the one that is cut on, every call fails.
pub struct CuttingStore {
    inner: Arc<dyn LockingStore>,
    state: Arc<State>,
}

struct State {
    call: u64,
    work: Work,
    calls: AtomicU64,
}

impl CuttingStore {
    /// Cuts call `call`, which does its work first or does not.
    pub fn new(inner: Arc<dyn LockingStore>, call: u64, work: Work) -> Self {
        Self { inner, state: Arc::new(State { call, work, calls: AtomicU64::new(0) }) }
    }

    /// Returns how many calls there were that change the bucket.
    pub fn calls(&self) -> u64 {
        self.state.calls.load(Ordering::SeqCst)
    }
}

fn cut<T>() -> Result<T, StoreError> {
    Err(StoreError::Io { path: "bucket".to_owned(), verb: "reach", source: io::Error::other("cut") })
}

impl State {
    fn change<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        match number {
            n if n < self.call => work(),
            n if n == self.call && self.work == Work::Done => work().and_then(|_| cut()),
            _ => cut(),
        }
    }

    fn look<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.calls.load(Ordering::SeqCst) > self.call { cut() } else { work() }
    }
}

struct CuttingUpload {
    inner: Box<dyn Lockable>,
    state: Arc<State>,
}

impl Upload for CuttingUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner.write(bytes)
    }

    fn commit(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        self.commit_locked(name).map(drop)
    }

    fn replace(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        let Self { inner, state } = *self;
        state.change(|| inner.replace(name))
    }
}

impl Lockable for CuttingUpload {
    fn commit_locked(self: Box<Self>, name: &Name) -> Result<VersionId, StoreError> {
        let Self { inner, state } = *self;
        state.change(|| inner.commit_locked(name))
    }
}

impl Store for CuttingStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        self.state.look(|| self.inner.begin())
    }

    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.state.look(|| self.inner.read(name, bytes_max))
    }

    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.state.look(|| self.inner.read_range(name, range))
    }

    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        self.state.look(|| self.inner.list(folder))
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.state.change(|| self.inner.delete(name))
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        self.state.look(|| self.inner.lock(mode))
    }

    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        self.state.look(|| self.inner.sweep_uploads())
    }
}

impl LockingStore for CuttingStore {
    fn protection(&self) -> Result<Protection, StoreError> {
        self.state.look(|| self.inner.protection())
    }

    fn begin_locked(&self, until: Option<Time>, overlay: Overlay) -> Result<Box<dyn Lockable>, StoreError> {
        let inner = self.state.look(|| self.inner.begin_locked(until, overlay))?;
        Ok(Box::new(CuttingUpload { inner, state: self.state.clone() }))
    }

    fn versions(&self) -> Result<Vec<Version>, StoreError> {
        self.state.look(|| self.inner.versions())
    }

    fn retention(&self, path: &str, id: &VersionId) -> Result<Option<Retention>, StoreError> {
        self.state.look(|| self.inner.retention(path, id))
    }

    fn extend(&self, path: &str, id: &VersionId, until: Time) -> Result<(), StoreError> {
        self.state.change(|| self.inner.extend(path, id, until))
    }

    fn read_version(&self, path: &str, id: &VersionId, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.state.look(|| self.inner.read_version(path, id, range))
    }

    fn delete_version(&self, path: &str, id: &VersionId) -> Result<(), StoreError> {
        self.state.change(|| self.inner.delete_version(path, id))
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}
