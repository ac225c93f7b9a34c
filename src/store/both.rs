//! Two stores that hold files of one repository: what the first lacks is read from the second.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::store::{Folder, Found, Lock, LockMode, Name, NoLock, Store, StoreError, Upload};

/// Shows the files of two stores. Names are hashes, so files of one name are the same. Nothing is
/// written through it.
pub struct BothStores {
    first: Arc<dyn Store>,
    second: Arc<dyn Store>,
}

impl BothStores {
    /// Shows the files of `first`, and those of `second` that `first` lacks.
    pub fn new(first: Arc<dyn Store>, second: Arc<dyn Store>) -> Self {
        Self { first, second }
    }

    fn read_only(&self, verb: &'static str) -> StoreError {
        let source = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "two stores are only read");
        StoreError::Io { path: self.location(), verb, source }
    }
}

impl Store for BothStores {
    fn location(&self) -> String {
        self.first.location()
    }

    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        Err(self.read_only("write"))
    }

    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        match self.first.read(name, bytes_max) {
            Err(StoreError::Missing { .. }) => self.second.read(name, bytes_max),
            other => other,
        }
    }

    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        match self.first.read_range(name, range.clone()) {
            Err(StoreError::Missing { .. } | StoreError::Short { .. }) => self.second.read_range(name, range),
            other => other,
        }
    }

    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        let mut all: BTreeMap<String, Found> = BTreeMap::new();
        for store in [&self.second, &self.first] {
            all.extend(store.list(folder)?.into_iter().map(|found| (found.path.clone(), found)));
        }
        Ok(all.into_values().collect())
    }

    fn delete(&self, _name: &Name) -> Result<(), StoreError> {
        Err(self.read_only("delete"))
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        match mode {
            LockMode::Shared => Ok(Box::new(NoLock)),
            LockMode::Exclusive => Err(self.read_only("lock")),
        }
    }

    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}
