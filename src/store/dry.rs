//! A store that reads and never writes: for dry runs.

use std::ops::Range;
use std::sync::Arc;

use crate::base::time::Time;
use crate::store::{Folder, Found, Lock, LockMode, Name, Store, StoreError, Upload};

/// Shows the files of another store, and forgets what is put.
pub struct DryStore {
    inner: Arc<dyn Store>,
}

impl DryStore {
    /// Shows the files of `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }
}

struct DryUpload;

impl Upload for DryUpload {
    fn write(&mut self, _bytes: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn commit(self: Box<Self>, _name: &Name) -> Result<(), StoreError> {
        Ok(())
    }

    fn replace(self: Box<Self>, _name: &Name) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Store for DryStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(DryUpload))
    }

    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.read(name, bytes_max)
    }

    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.inner.read_range(name, range)
    }

    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        self.inner.list(folder)
    }

    fn list_oldest_first(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        self.inner.list_oldest_first(folder)
    }

    fn configs(&self, bytes_max: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        self.inner.configs(bytes_max)
    }

    fn take_config(&self, at: usize) {
        self.inner.take_config(at);
    }

    fn covered(&self, folder: Option<Folder>) -> Result<Vec<Name>, StoreError> {
        self.inner.covered(folder)
    }

    fn came(&self, name: &Name) -> Option<Time> {
        self.inner.came(name)
    }

    fn reads_at_once(&self) -> usize {
        self.inner.reads_at_once()
    }

    fn delete(&self, _name: &Name) -> Result<(), StoreError> {
        Ok(())
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        self.inner.lock(mode)
    }

    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}
