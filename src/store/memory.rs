//! Repository files in memory, for tests of everything above.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::{Folder, Found, Lock, LockMode, Name, Store, StoreError, Upload};

/// A repository that is gone with the process. Clones share the same files.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    holders: u32,
    exclusive: bool,
}

impl MemoryStore {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a copy of all files, by path.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.shared().files.clone()
    }

    /// Returns a store of its own that holds `files`.
    pub fn of(files: BTreeMap<String, Vec<u8>>) -> Self {
        let shared = Shared { files, ..Shared::default() };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }
}

struct MemoryUpload {
    store: MemoryStore,
    bytes: Vec<u8>,
}

impl Upload for MemoryUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        let mut shared = self.store.shared();
        let path = name.to_string();
        if shared.files.contains_key(&path) {
            return Err(StoreError::Taken { path });
        }
        shared.files.insert(path, self.bytes);
        Ok(())
    }

    fn replace(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        let mut shared = self.store.shared();
        shared.files.insert(name.to_string(), self.bytes);
        Ok(())
    }
}

struct MemoryLock {
    store: MemoryStore,
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut shared = self.store.shared();
        shared.holders -= 1;
        shared.exclusive = false;
    }
}

impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(MemoryUpload { store: self.clone(), bytes: Vec::new() }))
    }

    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let path = name.to_string();
        match self.shared().files.get(&path) {
            None => Err(StoreError::Missing { path }),
            Some(bytes) if bytes.len() as u64 > bytes_max => Err(StoreError::Io {
                path,
                verb: "read",
                source: io::Error::other(format!("longer than {bytes_max} bytes")),
            }),
            Some(bytes) => Ok(bytes.clone()),
        }
    }

    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let path = name.to_string();
        let shared = self.shared();
        let Some(bytes) = shared.files.get(&path) else {
            return Err(StoreError::Missing { path });
        };
        let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        match part.and_then(|(start, end)| bytes.get(start..end)) {
            Some(part) => Ok(part.to_vec()),
            None => Err(StoreError::Short { path, found: bytes.len() as u64, expected: range.end }),
        }
    }

    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        let prefix = format!("{}/", folder.name());
        let shared = self.shared();
        let inside = shared.files.iter().filter(|(path, _)| path.starts_with(&prefix));
        let found = inside.map(|(path, bytes)| Found {
            path: path.clone(),
            name: Name::parse(path),
            bytes: bytes.len() as u64,
        });
        Ok(found.collect())
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let path = name.to_string();
        match self.shared().files.remove(&path) {
            Some(_) => Ok(()),
            None => Err(StoreError::Missing { path }),
        }
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        let mut shared = self.shared();
        let wants_all = mode == LockMode::Exclusive;
        if shared.exclusive || (wants_all && shared.holders > 0) {
            return Err(StoreError::Locked { path: "lock".to_owned() });
        }
        shared.holders += 1;
        shared.exclusive = wants_all;
        Ok(Box::new(MemoryLock { store: self.clone() }))
    }

    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}
