//! What this machine remembers of a bucket: which versions are genuine, and until when they are locked.
//!
//! A lock is never shortened, so what was read once holds. The file is a cache: if it is gone, damaged
//! or of another bucket, everything is looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::limits::RECORD_BYTES_CAP;
use crate::repo::{RepoError, Repository};
use crate::store::{StoreError, VersionId, keep_own_file, read_regular};

/// What is known of the versions in a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketState {
    /// Where the bucket is.
    location: String,
    /// By path and version: until when it is locked, in seconds since 1970.
    versions: BTreeMap<String, BTreeMap<String, i64>>,
    /// By path: the versions that are not ours, and were told.
    #[serde(default)]
    strange: BTreeMap<String, BTreeSet<String>>,
}

impl BucketState {
    /// Reads what this machine remembers of the bucket at `location`.
    pub fn load(repository: &Repository, location: &str) -> Self {
        let empty = Self { location: location.to_owned(), ..Self::default() };
        let Ok(bytes) = read_regular(&path(repository, location), RECORD_BYTES_CAP as u64) else {
            return empty;
        };
        let Ok(text) = String::from_utf8(bytes) else { return empty };
        let Some((body, sum)) = text.trim_end().rsplit_once('\n') else { return empty };
        if sum != blake3::hash(body.as_bytes()).to_string() {
            return empty;
        }
        let read: Option<Self> = serde_json::from_str(body).ok();
        read.filter(|read| read.location == location).unwrap_or(empty)
    }

    /// Keeps it.
    ///
    /// # Errors
    /// [`RepoError::Store`]; what was kept before is as it was.
    pub fn keep(&self, repository: &Repository) -> Result<(), RepoError> {
        let path = path(repository, &self.location);
        let failed = |source: std::io::Error| {
            RepoError::Store(StoreError::Io { path: path.display().to_string(), verb: "write", source })
        };
        let body = serde_json::to_string(self).map_err(|e| failed(e.into()))?;
        let text = format!("{body}\n{}\n", blake3::hash(body.as_bytes()));
        Ok(keep_own_file(&path, text.as_bytes())?)
    }

    /// Returns until when a version is locked, in seconds since 1970, if it is known to be genuine.
    pub fn until(&self, path: &str, id: &VersionId) -> Option<i64> {
        self.versions.get(path)?.get(&id.0).copied()
    }

    /// Remembers that a version is genuine and locked until then.
    pub fn learn(&mut self, path: &str, id: &VersionId, until: i64) {
        self.versions.entry(path.to_owned()).or_default().insert(id.0.clone(), until);
    }

    /// Forgets a version.
    pub fn forget(&mut self, path: &str, id: &VersionId) {
        if let Some(versions) = self.versions.get_mut(path) {
            versions.remove(&id.0);
            if versions.is_empty() {
                self.versions.remove(path);
            }
        }
    }

    /// Remembers that these versions of an object are not ours, and were told.
    pub fn learn_strange<'v>(&mut self, path: &str, ids: impl Iterator<Item = &'v VersionId>) {
        self.strange.entry(path.to_owned()).or_default().extend(ids.map(|id| id.0.clone()));
    }

    /// Returns whether a version is known not to be ours.
    pub fn is_strange(&self, path: &str, id: &VersionId) -> bool {
        self.strange.get(path).is_some_and(|known| known.contains(&id.0))
    }

    /// Forgets what is known of versions that are not ours, but for those that are `there`.
    pub fn keep_strange(&mut self, there: impl Fn(&str) -> bool) {
        self.strange.retain(|path, _| there(path));
    }

    /// Returns the latest end of a lock of an object's versions; none if none is known.
    pub fn latest(&self, path: &str) -> Option<i64> {
        self.versions.get(path)?.values().copied().max()
    }

    /// Returns what is known of one object.
    pub fn only(&self, path: &str) -> Self {
        let versions = self.versions.get(path).map(|known| (path.to_owned(), known.clone()));
        Self { location: self.location.clone(), versions: versions.into_iter().collect(), ..Self::default() }
    }

    /// Returns all versions that are known.
    pub fn all(&self) -> Vec<(String, VersionId, i64)> {
        let each = |(path, versions): (&String, &BTreeMap<String, i64>)| {
            let path = path.clone();
            let rows = versions.iter().map(move |(id, until)| (path.clone(), VersionId(id.clone()), *until));
            rows.collect::<Vec<_>>()
        };
        self.versions.iter().flat_map(each).collect()
    }
}

fn path(repository: &Repository, location: &str) -> PathBuf {
    let digest = blake3::hash(location.as_bytes()).to_hex();
    repository.secret_file().with_file_name(format!("bucket-{}", &digest.as_str()[..16]))
}
