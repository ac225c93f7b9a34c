//! A bucket as its owner left it: of each name the version whose bytes the name stands for, whatever
//! somebody has put or deleted on top.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::time::Time;
use crate::store::{
    Folder, Found, Lock, LockMode, LockingStore, Name, NoLock, Store, StoreError, Upload, Version, VersionId,
};

/// Bytes read at one stroke when a version is hashed.
const PIECE_BYTES: u64 = 8 << 20;

/// Versions of `config` that are looked at, of the oldest and of the newest: whoever may put can have put more of his
/// own than anybody reads, but hardly all of the oldest and all of the newest.
const CONFIGS_MAX: usize = 500;

/// Shows the genuine version of every file. Nothing is written through it.
pub struct GenuineStore {
    inner: Arc<dyn LockingStore>,
    files: BTreeMap<Name, (VersionId, u64)>,
    /// All versions of `config`, the oldest first.
    configs: Vec<Version>,
    /// Which of them [`Store::configs`] has returned.
    contenders: Mutex<Vec<(VersionId, u64)>>,
    /// The one that was taken; else it is the oldest.
    config: Mutex<Option<(VersionId, u64)>>,
    came: BTreeMap<Name, Time>,
    lost: Vec<String>,
    contested: Vec<String>,
}

impl GenuineStore {
    /// Lists all versions. Where a name has several, they are read and hashed, the oldest first: who
    /// came later can only have lain on top. `config`, which no hash names, is the oldest version until another one is
    /// taken ([`Store::take_config`]). One that
    /// can't be read while `config` can is not genuine: who may put can put what nobody can read.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(inner: Arc<dyn LockingStore>) -> Result<Self, StoreError> {
        let mut by_name: BTreeMap<Name, Vec<Version>> = BTreeMap::new();
        for version in inner.versions()? {
            if let Some(name) = version.name {
                by_name.entry(name).or_default().push(version);
            }
        }
        let mut store = Self {
            inner,
            files: BTreeMap::new(),
            configs: Vec::new(),
            contenders: Mutex::default(),
            config: Mutex::default(),
            came: BTreeMap::new(),
            lost: Vec::new(),
            contested: Vec::new(),
        };
        for (name, versions) in by_name {
            let touched = versions.len() > 1;
            let contents: Vec<Version> = versions.into_iter().filter(|one| !one.is_marker).collect();
            if touched {
                store.contested.push(name.to_string());
            }
            if name == Name::Config {
                store.configs.clone_from(&contents);
            }
            let genuine = match (&contents[..], name.hash()) {
                ([only], _) if !touched => Some(only),
                (all, None) => all.first(),
                (all, Some(hash)) => {
                    let mut found = None;
                    for one in all {
                        match hash_of(store.inner.as_ref(), one) {
                            Ok(other) if other != hash => {}
                            Ok(_) => {
                                found = Some(one);
                                break;
                            }
                            Err(_) if store.answers() => {}
                            Err(e) => return Err(e),
                        }
                    }
                    found
                }
            };
            match genuine {
                Some(one) => {
                    store.files.insert(name, (one.id.clone(), one.bytes));
                    store.came.insert(name, one.modified);
                }
                None if contents.is_empty() => {} // only a deletion is left of it
                None => store.lost.push(name.to_string()),
            }
        }
        Ok(store)
    }

    /// Returns whether `config`, which is the first of all names, can be read: then an error is of one object
    /// alone. Without one nothing tells, and there is no repository.
    fn answers(&self) -> bool {
        let config = self.files.get(&Name::Config);
        config.is_none_or(|(id, bytes)| {
            let first = self.inner.read_version(&Name::Config.to_string(), id, 0..(*bytes).min(1));
            first.is_ok()
        })
    }

    /// Returns the names of which versions are there and none is genuine.
    pub fn lost(&self) -> &[String] {
        &self.lost
    }

    /// Returns the names that somebody has put or deleted on top of.
    pub fn contested(&self) -> &[String] {
        &self.contested
    }

    /// Returns all files by name, with their lengths in bytes.
    pub fn files(&self) -> impl Iterator<Item = (Name, u64)> {
        self.files.iter().map(|(name, (_, bytes))| (*name, *bytes))
    }

    fn version(&self, name: &Name) -> Result<(VersionId, u64), StoreError> {
        let taken = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let found = taken.filter(|_| *name == Name::Config).or_else(|| self.files.get(name).cloned());
        found.ok_or_else(|| StoreError::Missing { path: format!("{}/{name}", self.inner.location()) })
    }

    fn read_only(&self, verb: &'static str) -> StoreError {
        let source = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "old versions are only read");
        StoreError::Io { path: self.inner.location(), verb, source }
    }
}

/// Returns the BLAKE3 hash of a version's bytes.
///
/// # Errors
/// [`StoreError::Io`].
fn hash_of(store: &dyn LockingStore, version: &Version) -> Result<[u8; 32], StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < version.bytes {
        let end = version.bytes.min(at + PIECE_BYTES);
        hasher.update(&store.read_version(&version.path, &version.id, at..end)?);
        at = end;
    }
    Ok(*hasher.finalize().as_bytes())
}

impl Store for GenuineStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        Err(self.read_only("write"))
    }

    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let (id, bytes) = self.version(name)?;
        match bytes <= bytes_max {
            true => self.inner.read_version(&name.to_string(), &id, 0..bytes),
            false => {
                let source = io::Error::other(format!("longer than {bytes_max} bytes"));
                let path = format!("{}/{name}", self.inner.location());
                Err(StoreError::Io { path, verb: "read", source })
            }
        }
    }

    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let (id, _) = self.version(name)?;
        self.inner.read_version(&name.to_string(), &id, range)
    }

    fn configs(&self, bytes_max: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        if self.configs.is_empty() {
            self.version(&Name::Config)?;
        }
        let newest_from = self.configs.len().saturating_sub(CONFIGS_MAX).max(CONFIGS_MAX);
        let looked_at = self.configs.iter().take(CONFIGS_MAX).chain(self.configs.iter().skip(newest_from));
        let (mut texts, mut versions): (Vec<Vec<u8>>, Vec<(VersionId, u64)>) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        let mut failed = None;
        for one in looked_at.filter(|one| one.bytes <= bytes_max) {
            if one.md5.is_some_and(|md5| !seen.insert((md5, one.bytes))) {
                continue; // read already
            }
            match self.inner.read_version(&one.path, &one.id, 0..one.bytes) {
                Ok(text) if texts.contains(&text) => {}
                Ok(text) => {
                    texts.push(text);
                    versions.push((one.id.clone(), one.bytes));
                }
                Err(e) => _ = failed.get_or_insert(e), // somebody may have put it into an archive
            }
        }
        if let Some(e) = failed.filter(|_| texts.is_empty()) {
            return Err(e);
        }
        *self.contenders.lock().unwrap_or_else(PoisonError::into_inner) = versions;
        Ok(texts)
    }

    fn take_config(&self, at: usize) {
        let taken = self.contenders.lock().unwrap_or_else(PoisonError::into_inner).get(at).cloned();
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = taken;
    }

    fn came(&self, name: &Name) -> Option<Time> {
        self.came.get(name).copied()
    }

    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        let inside = self.files.iter().filter(|(name, _)| name.folder() == Some(folder));
        let found = inside.map(|(name, (_, bytes))| Found {
            path: name.to_string(),
            name: Some(*name),
            bytes: *bytes,
        });
        let mut found: Vec<Found> = found.collect();
        found.sort();
        Ok(found)
    }

    fn list_oldest_first(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        let mut found = self.list(folder)?;
        found.sort_by_key(|found| found.name.and_then(|name| self.came.get(&name)));
        Ok(found)
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
