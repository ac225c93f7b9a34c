//! Stores that keep versions and lock them until a date: what S3 calls versioning and Object Lock.

use std::ops::Range;

use crate::base::time::Time;
use crate::store::{Name, Store, StoreError, Upload};

/// Which version of an object, as the store names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId(pub String);

/// One version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Path in the repository.
    pub path: String,
    /// The name, if the path is one of ours.
    pub name: Option<Name>,
    /// Which version.
    pub id: VersionId,
    /// Length, in bytes.
    pub bytes: u64,
    /// Whether a read that names no version gets this one.
    pub is_latest: bool,
    /// Whether it only says that the object was deleted.
    pub is_marker: bool,
    /// MD5 of its bytes, where the store tells: it looked at them itself when they came.
    pub md5: Option<[u8; 16]>,
    /// When it came there, by the store's clock.
    pub modified: Time,
}

/// Who may lift a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Who has a special permission.
    Governance,
    /// Nobody.
    Compliance,
}

/// What keeps a version from being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Who may lift it.
    pub mode: Mode,
    /// When it ends.
    pub until: Time,
}

/// How a bucket is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// Whether versions are kept.
    pub has_versions: bool,
    /// Whether versions can be locked.
    pub has_locks: bool,
    /// Lifecycle rules by which objects go although nobody deletes them.
    pub expiring_rules: Vec<String>,
    /// What moves objects into an archive, of which nothing is read before hours have passed: `rule -> GLACIER`.
    pub archiving: Vec<String>,
}

/// Whether a new version may lie on top of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// The name must be free.
    Refused,
    /// The name is taken by bytes that are not what it stands for, or by a deletion.
    Allowed,
}

/// What was asked of a store so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests that put, copy or list.
    pub writes: u64,
    /// Requests that get, or look at one object.
    pub reads: u64,
    /// Requests that delete.
    pub deletes: u64,
    /// Bytes of files sent.
    pub bytes_sent: u64,
    /// Bytes of files received.
    pub bytes_received: u64,
}

impl Usage {
    /// Returns all requests together.
    pub fn requests(&self) -> u64 {
        self.writes + self.reads + self.deletes
    }

    /// Returns what came after `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            writes: self.writes.saturating_sub(before.writes),
            reads: self.reads.saturating_sub(before.reads),
            deletes: self.deletes.saturating_sub(before.deletes),
            bytes_sent: self.bytes_sent.saturating_sub(before.bytes_sent),
            bytes_received: self.bytes_received.saturating_sub(before.bytes_received),
        }
    }
}

/// A file on its way to a place where it will be locked.
pub trait Lockable: Upload {
    /// Makes the bytes durable under `name`, locked; returns the version that they are.
    ///
    /// # Errors
    /// As [`Upload::commit`], and [`StoreError::Io`] if the lock does not hold.
    fn commit_locked(self: Box<Self>, name: &Name) -> Result<VersionId, StoreError>;
}

/// A store that keeps versions and locks them. Every implementation passes `tests/locking.rs`.
pub trait LockingStore: Store {
    /// Returns how the bucket is protected.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn protection(&self) -> Result<Protection, StoreError>;

    /// Begins a new file that will be locked until a moment in the future, so that nobody can delete it;
    /// none where nothing can be locked.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn begin_locked(&self, until: Option<Time>, overlay: Overlay) -> Result<Box<dyn Lockable>, StoreError>;

    /// Returns every version of every object, foreign ones and markers included, by path and by age.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn versions(&self) -> Result<Vec<Version>, StoreError>;

    /// Returns what locks a version; none if nothing does.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Io`].
    fn retention(&self, path: &str, id: &VersionId) -> Result<Option<Retention>, StoreError>;

    /// Locks a version until a moment that is not before the end of the lock that it has.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Io`]; its lock is then as it was.
    fn extend(&self, path: &str, id: &VersionId, until: Time) -> Result<(), StoreError>;

    /// Returns bytes of a version.
    ///
    /// # Errors
    /// As [`Store::read_range`].
    fn read_version(&self, path: &str, id: &VersionId, range: Range<u64>) -> Result<Vec<u8>, StoreError>;

    /// Removes a version, or a marker, for good.
    ///
    /// # Errors
    /// [`StoreError::Io`] if it is locked, or the credentials may not.
    fn delete_version(&self, path: &str, id: &VersionId) -> Result<(), StoreError>;

    /// Tells this place from all others: where it is, and on which server.
    fn identity(&self) -> String {
        self.location()
    }

    /// Returns what was asked of this store so far.
    fn usage(&self) -> Usage;
}
