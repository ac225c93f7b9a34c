//! A store in memory that keeps versions and locks them, by a clock that tests turn.
//!
//! It enforces what Object Lock promises: a version that is locked stays, its lock is never shortened,
//! and no date lies in the past.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use md5::{Digest, Md5};

use crate::base::time::Time;
use crate::store::{
    Folder, Found, Lock, LockMode, Lockable, LockingStore, MemoryStore, Mode, Name, Overlay, Protection,
    Retention, Store, StoreError, Upload, Usage, Version, VersionId,
};

/// Objects that one request lists, as S3 does.
const PAGE: usize = 1000;

/// A bucket that is gone with the process. Clones share the same objects.
#[derive(Clone, Debug)]
pub struct LockingMemory {
    shared: Arc<Mutex<Shared>>,
    /// Its locks serve as the repository's.
    holders: MemoryStore,
}

#[derive(Debug)]
struct Shared {
    objects: BTreeMap<String, Vec<Stored>>,
    protection: Protection,
    /// Seconds for which an object is locked that says nothing itself.
    default_s: i64,
    now: Time,
    next: u64,
    usage: Usage,
}

#[derive(Clone, Debug)]
struct Stored {
    id: u64,
    /// None for a marker.
    bytes: Option<Vec<u8>>,
    modified: Time,
    until: Option<Time>,
}

impl LockingMemory {
    /// Makes an empty bucket with versions and locks, where it is `now`.
    pub fn new(now: Time) -> Self {
        let protection = Protection { has_versions: true, has_locks: true, ..Protection::default() };
        let shared = Shared {
            objects: BTreeMap::new(),
            protection,
            default_s: 0,
            now,
            next: 0,
            usage: Usage::default(),
        };
        Self { shared: Arc::new(Mutex::new(shared)), holders: MemoryStore::default() }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns the clock.
    pub fn set_now(&self, now: Time) {
        self.shared().now = now;
    }

    /// Changes how the bucket says that it is protected.
    pub fn set_protection(&self, protection: Protection) {
        self.shared().protection = protection;
    }

    /// Locks objects that say nothing themselves for so many seconds.
    pub fn set_default(&self, seconds: i64) {
        self.shared().default_s = seconds;
    }

    /// Puts an object, as anybody may who can put at all: on top of what is there, unlocked unless the
    /// bucket locks it.
    pub fn plant(&self, path: &str, bytes: &[u8]) {
        self.shared().put(path.to_owned(), Some(bytes.to_vec()), None);
    }

    /// Deletes an object, as anybody may who can delete without naming a version: a marker lies on top.
    pub fn mark_deleted(&self, path: &str) {
        self.shared().put(path.to_owned(), None, None);
    }

    /// Lets the locks of an object's versions end at another time: what a store does that breaks its promise.
    pub fn cheat(&self, path: &str, until: Option<Time>) {
        for stored in self.shared().objects.get_mut(path).into_iter().flatten() {
            stored.until = until;
        }
    }

    /// Returns a bucket of its own with the same objects.
    pub fn copy(&self) -> Self {
        let shared = self.shared();
        let copy = Shared {
            objects: shared.objects.clone(),
            protection: shared.protection.clone(),
            default_s: shared.default_s,
            now: shared.now,
            next: shared.next,
            usage: Usage::default(),
        };
        Self { shared: Arc::new(Mutex::new(copy)), holders: MemoryStore::default() }
    }
}

impl Shared {
    fn put(&mut self, path: String, bytes: Option<Vec<u8>>, until: Option<Time>) -> VersionId {
        self.next += 1;
        let default =
            (self.default_s > 0 && bytes.is_some()).then(|| Time::new(self.now.seconds + self.default_s, 0));
        let stored = Stored { id: self.next, bytes, modified: self.now, until: until.or(default) };
        self.objects.entry(path).or_default().push(stored);
        VersionId(format!("v{}", self.next))
    }

    fn latest(&self, path: &str) -> Option<&Vec<u8>> {
        self.objects.get(path)?.last()?.bytes.as_ref()
    }

    fn version(&mut self, path: &str, id: &VersionId) -> Result<&mut Stored, StoreError> {
        let versions = self.objects.get_mut(path);
        let found = versions.and_then(|all| all.iter_mut().find(|one| format!("v{}", one.id) == id.0));
        found.ok_or_else(|| StoreError::Missing { path: path.to_owned() })
    }
}

fn refused(path: &str, verb: &'static str, reason: &str) -> StoreError {
    let source = io::Error::new(io::ErrorKind::PermissionDenied, reason.to_owned());
    StoreError::Io { path: path.to_owned(), verb, source }
}

fn part(path: &str, bytes: &[u8], range: Range<u64>) -> Result<Vec<u8>, StoreError> {
    let wanted = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    let part = wanted.and_then(|(start, end)| bytes.get(start..end)).map(<[u8]>::to_vec);
    let (path, found) = (path.to_owned(), bytes.len() as u64);
    part.ok_or(StoreError::Short { path, found, expected: range.end })
}

struct MemoryUpload {
    store: LockingMemory,
    bytes: Vec<u8>,
    until: Option<Time>,
    overlay: Overlay,
}

impl MemoryUpload {
    fn put(self, name: &Name) -> Result<VersionId, StoreError> {
        let mut shared = self.store.shared();
        let path = name.to_string();
        shared.usage.writes += 1;
        if self.overlay == Overlay::Refused && shared.latest(&path).is_some() {
            return Err(StoreError::Taken { path });
        }
        if self.until.is_some_and(|until| until <= shared.now) {
            return Err(refused(&path, "put", "the lock would end in the past"));
        }
        if self.until.is_some() && !shared.protection.has_locks {
            return Err(refused(&path, "put", "the bucket has no Object Lock"));
        }
        shared.usage.bytes_sent += self.bytes.len() as u64;
        Ok(shared.put(path, Some(self.bytes), self.until))
    }
}

impl Upload for MemoryUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        self.put(name).map(drop)
    }

    fn replace(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        let upload = *self;
        Self { overlay: Overlay::Allowed, ..upload }.put(name).map(drop)
    }
}

impl Lockable for MemoryUpload {
    fn commit_locked(self: Box<Self>, name: &Name) -> Result<VersionId, StoreError> {
        self.put(name)
    }
}

impl Store for LockingMemory {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        let (store, overlay) = (self.clone(), Overlay::Refused);
        Ok(Box::new(MemoryUpload { store, bytes: Vec::new(), until: None, overlay }))
    }

    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let path = name.to_string();
        let mut shared = self.shared();
        shared.usage.reads += 1;
        let bytes = shared.latest(&path).cloned().ok_or(StoreError::Missing { path: path.clone() })?;
        shared.usage.bytes_received += bytes.len() as u64;
        match bytes.len() as u64 <= bytes_max {
            true => Ok(bytes),
            false => Err(refused(&path, "read", &format!("longer than {bytes_max} bytes"))),
        }
    }

    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let path = name.to_string();
        let mut shared = self.shared();
        shared.usage.reads += 1;
        let bytes = shared.latest(&path).ok_or(StoreError::Missing { path: path.clone() })?;
        let part = part(&path, bytes, range)?;
        shared.usage.bytes_received += part.len() as u64;
        Ok(part)
    }

    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        let prefix = format!("{}/", folder.name());
        let mut shared = self.shared();
        let inside = shared.objects.keys().filter(|path| path.starts_with(&prefix));
        let found: Vec<Found> = inside
            .filter_map(|path| {
                let bytes = shared.latest(path)?.len() as u64;
                Some(Found { path: path.clone(), name: Name::parse(path), bytes })
            })
            .collect();
        shared.usage.writes += 1 + (found.len() / PAGE) as u64;
        Ok(found)
    }

    fn list_oldest_first(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        let mut found = self.list(folder)?;
        let shared = self.shared();
        found.sort_by_key(|found| Some(shared.objects.get(&found.path)?.last()?.modified));
        Ok(found)
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let path = name.to_string();
        let mut shared = self.shared();
        shared.usage.deletes += 1;
        match shared.latest(&path).is_some() {
            true => _ = shared.put(path, None, None),
            false => return Err(StoreError::Missing { path }),
        }
        Ok(())
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        self.holders.lock(mode)
    }

    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}

impl LockingStore for LockingMemory {
    fn protection(&self) -> Result<Protection, StoreError> {
        let mut shared = self.shared();
        shared.usage.reads += 3;
        Ok(shared.protection.clone())
    }

    fn begin_locked(&self, until: Option<Time>, overlay: Overlay) -> Result<Box<dyn Lockable>, StoreError> {
        Ok(Box::new(MemoryUpload { store: self.clone(), bytes: Vec::new(), until, overlay }))
    }

    fn versions(&self) -> Result<Vec<Version>, StoreError> {
        let mut shared = self.shared();
        let mut all = Vec::new();
        for (path, versions) in &shared.objects {
            for (at, stored) in versions.iter().enumerate() {
                all.push(Version {
                    path: path.clone(),
                    name: Name::parse(path),
                    id: VersionId(format!("v{}", stored.id)),
                    bytes: stored.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
                    is_latest: at + 1 == versions.len(),
                    is_marker: stored.bytes.is_none(),
                    md5: stored.bytes.as_ref().map(|bytes| Md5::digest(bytes).into()),
                    modified: stored.modified,
                });
            }
        }
        shared.usage.writes += 1 + (all.len() / PAGE) as u64;
        Ok(all)
    }

    fn retention(&self, path: &str, id: &VersionId) -> Result<Option<Retention>, StoreError> {
        let mut shared = self.shared();
        shared.usage.reads += 1;
        let until = shared.version(path, id)?.until;
        Ok(until.map(|until| Retention { mode: Mode::Compliance, until }))
    }

    fn extend(&self, path: &str, id: &VersionId, until: Time) -> Result<(), StoreError> {
        let mut shared = self.shared();
        shared.usage.writes += 1;
        let now = shared.now;
        let stored = shared.version(path, id)?;
        if until <= now || stored.until.is_some_and(|before| before > until) {
            return Err(refused(path, "lock", "a lock is never shortened, and ends in the future"));
        }
        stored.until = Some(until);
        Ok(())
    }

    fn read_version(&self, path: &str, id: &VersionId, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut shared = self.shared();
        shared.usage.reads += 1;
        let bytes = shared.version(path, id)?.bytes.clone();
        let bytes = bytes.ok_or_else(|| StoreError::Missing { path: path.to_owned() })?;
        let part = part(path, &bytes, range)?;
        shared.usage.bytes_received += part.len() as u64;
        Ok(part)
    }

    fn delete_version(&self, path: &str, id: &VersionId) -> Result<(), StoreError> {
        let mut shared = self.shared();
        shared.usage.deletes += 1;
        let now = shared.now;
        if shared.version(path, id)?.until.is_some_and(|until| until > now) {
            return Err(refused(path, "delete a version of", "it is locked"));
        }
        if let Some(versions) = shared.objects.get_mut(path) {
            versions.retain(|stored| format!("v{}", stored.id) != id.0);
            if versions.is_empty() {
                shared.objects.remove(path);
            }
        }
        Ok(())
    }

    fn usage(&self) -> Usage {
        self.shared().usage
    }
}
