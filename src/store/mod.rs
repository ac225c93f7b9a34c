//! The one door to repository files: trait [`Store`], and where they can lie.
//!
//! A store keeps files that are written once. Nothing is ever changed in place: what is damaged is replaced
//! whole.

mod address;
mod both;
mod dry;
mod genuine;
mod local;
mod locking;
mod locking_memory;
mod memory;
mod own;
mod regular;
mod s3;
mod strangers;

use std::fmt;
use std::io;
use std::ops::Range;

use rustix::io::Errno;

use crate::base::id::{CondemnedId, ForgottenId, FragmentId, KeyFileId, PackId, SnapshotId};
use crate::base::time::Time;

pub use address::{dead_link, refuse_other_kinds};
pub use both::BothStores;
pub use dry::DryStore;
pub use genuine::GenuineStore;
pub use local::{LocalStore, is_full};
pub use locking::{Lockable, LockingStore, Mode, Overlay, Protection, Retention, Usage, Version, VersionId};
pub use locking_memory::LockingMemory;
pub use memory::MemoryStore;
pub use own::{
    give_to_owner_of, give_to_owner_of_folder, keep_own_file, make_own_folder, open_own_file, put_own_file,
};
pub use regular::{append_regular, open_regular, read_regular};
pub use s3::{Lease, S3Keys, S3Location, S3Options, S3Store, SCHEME as S3_SCHEME};

/// The folders of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Folder {
    /// `keys/`: wrapped keys.
    Keys,
    /// `packs/`: frames.
    Packs,
    /// `index/`: fragments.
    Index,
    /// `snapshots/`: manifests.
    Snapshots,
    /// `condemned/`: what prune has marked.
    Condemned,
    /// `forgotten/`: what was removed on purpose.
    Forgotten,
}

impl Folder {
    /// All folders, in the order in which they must be durable.
    pub const ALL: [Self; 6] =
        [Self::Keys, Self::Packs, Self::Index, Self::Snapshots, Self::Condemned, Self::Forgotten];

    /// Returns the folder's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Packs => "packs",
            Self::Index => "index",
            Self::Snapshots => "snapshots",
            Self::Condemned => "condemned",
            Self::Forgotten => "forgotten",
        }
    }
}

/// Name of a repository file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// `config`.
    Config,
    /// `keys/<id>`.
    Key(KeyFileId),
    /// `packs/<first two digits>/<id>`.
    Pack(PackId),
    /// `index/<id>`.
    Fragment(FragmentId),
    /// `snapshots/<id>`.
    Snapshot(SnapshotId),
    /// `condemned/<id>`.
    Condemned(CondemnedId),
    /// `forgotten/<id>`.
    Forgotten(ForgottenId),
}

impl Name {
    /// Returns the BLAKE3-256 that the file's bytes must have; none for `config`, which may be edited.
    pub fn hash(&self) -> Option<[u8; 32]> {
        match self {
            Self::Config => None,
            Self::Key(id) => Some(*id.as_bytes()),
            Self::Pack(id) => Some(*id.as_bytes()),
            Self::Fragment(id) => Some(*id.as_bytes()),
            Self::Snapshot(id) => Some(*id.as_bytes()),
            Self::Condemned(id) => Some(*id.as_bytes()),
            Self::Forgotten(id) => Some(*id.as_bytes()),
        }
    }

    /// Returns the folder that holds the file; none for `config`.
    pub fn folder(&self) -> Option<Folder> {
        match self {
            Self::Config => None,
            Self::Key(_) => Some(Folder::Keys),
            Self::Pack(_) => Some(Folder::Packs),
            Self::Fragment(_) => Some(Folder::Index),
            Self::Snapshot(_) => Some(Folder::Snapshots),
            Self::Condemned(_) => Some(Folder::Condemned),
            Self::Forgotten(_) => Some(Folder::Forgotten),
        }
    }

    /// Returns the name of the file with this path in the repository; none if it is not one of ours.
    pub fn parse(path: &str) -> Option<Self> {
        if path == "config" {
            return Some(Self::Config);
        }
        let (folder, rest) = path.split_once('/')?;
        match folder {
            "keys" => rest.parse().ok().map(Self::Key),
            "packs" => {
                let (prefix, id) = rest.split_once('/')?;
                let id: PackId = id.parse().ok()?;
                id.to_string().starts_with(prefix).then_some(Self::Pack(id)).filter(|_| prefix.len() == 2)
            }
            "index" => rest.parse().ok().map(Self::Fragment),
            "snapshots" => rest.parse().ok().map(Self::Snapshot),
            "condemned" => rest.parse().ok().map(Self::Condemned),
            "forgotten" => rest.parse().ok().map(Self::Forgotten),
            _ => None,
        }
    }
}

/// The file's path in the repository, with `/` between folders.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("config"),
            Self::Key(id) => write!(f, "keys/{id}"),
            Self::Pack(id) => write!(f, "packs/{:02x}/{id}", id.as_bytes()[0]),
            Self::Fragment(id) => write!(f, "index/{id}"),
            Self::Snapshot(id) => write!(f, "snapshots/{id}"),
            Self::Condemned(id) => write!(f, "condemned/{id}"),
            Self::Forgotten(id) => write!(f, "forgotten/{id}"),
        }
    }
}

/// One file that a listing found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Path in the repository.
    pub path: String,
    /// The name, if the path is one of ours.
    pub name: Option<Name>,
    /// Length of the file, in bytes.
    pub bytes: u64,
}

/// Why a store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No such file. Nothing was changed.
    #[error("{path}: not there")]
    Missing {
        /// What was asked for.
        path: String,
    },
    /// `put` found the name taken; the old bytes are untouched. For files that are named by their
    /// hash this means that the work is done already.
    #[error("{path}: is there already")]
    Taken {
        /// The name that was asked for.
        path: String,
    },
    /// The file is shorter than the range asked for. Never retry; the file was cut.
    #[error("{path}: found {found} bytes, expected {expected}")]
    Short {
        /// The file.
        path: String,
        /// Its length, in bytes.
        found: u64,
        /// The end of the range asked for, in bytes.
        expected: u64,
    },
    /// Another process holds the lock. May be retried later.
    #[error("{path}: locked by another run")]
    Locked {
        /// The lock file.
        path: String,
    },
    /// The storage failed. May be retried; a file that was being put is there, whole, or not.
    #[error("{path}: cannot {verb}")]
    Io {
        /// The file or folder.
        path: String,
        /// What was tried.
        verb: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    /// Returns whether the file was not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// Returns whether the file was not there, or what leads to it is no directory.
    pub fn is_nowhere(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::NotADirectory,
            other => other.is_missing(),
        }
    }

    /// Returns whether the storage could not be reached, or said that it can't do anything just now: it may
    /// later, without anybody's help.
    pub fn is_passing(&self) -> bool {
        use io::ErrorKind::{ConnectionAborted, HostUnreachable, NotConnected, TimedOut};
        let passing = [ConnectionAborted, HostUnreachable, NotConnected, TimedOut];
        matches!(self, Self::Io { source, .. } if passing.contains(&source.kind()))
    }

    /// Returns whether the storage answered that it will not do this: then it does answer.
    pub fn is_refusal(&self) -> bool {
        let refusals = [io::ErrorKind::PermissionDenied, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Io { source, .. } if refusals.contains(&source.kind()))
    }

    /// Returns whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if local::is_full(source))
    }

    /// Returns whether the disk can't read what it holds: a bad sector, a broken file system, or what is no file.
    pub fn is_unreadable(&self) -> bool {
        let bad = [Errno::IO, Errno::BADMSG, Errno::UCLEAN].map(Errno::raw_os_error);
        let is_bad = |source: &io::Error| match source.raw_os_error() {
            Some(error) => bad.contains(&error),
            None => source.get_ref().is_some_and(|error| error.is::<regular::NoRegularFile>()),
        };
        matches!(self, Self::Io { source, .. } if is_bad(source))
    }
}

/// How a run locks a repository; `docs/durability.md` says which verbs take which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Beside other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

/// Holds a lock until it is dropped.
pub trait Lock: Send {}

/// Stands for a lock where nothing can be written: who only reads is in nobody's way.
struct NoLock;

impl Lock for NoLock {}

/// A file on its way into the store. Dropped without [`Upload::commit`] or [`Upload::replace`], it leaves
/// nothing behind.
pub trait Upload: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the upload can then only be dropped.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Makes the bytes durable, then gives them `name`, durably.
    ///
    /// On return the bytes, the name, and the folder that holds it are on stable storage.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if the name is there already, its bytes untouched. On
    /// [`StoreError::Io`] the name may be there, whole, or not: never with other bytes than these.
    fn commit(self: Box<Self>, name: &Name) -> Result<(), StoreError>;

    /// Makes the bytes durable, then gives them `name`, durably, in place of the file that has it: for bytes
    /// that were found damaged. At every moment the name leads to the old bytes, whole, or to these.
    ///
    /// A name that is free is given as well.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if somebody else has put other bytes there at the same moment, where a store
    /// can tell. On [`StoreError::Io`] the name has the old bytes, or these.
    fn replace(self: Box<Self>, name: &Name) -> Result<(), StoreError>;
}

/// Durable named files. Every implementation passes `tests/store.rs`.
pub trait Store: Send + Sync {
    /// Says where this store is, for messages.
    fn location(&self) -> String;

    /// Begins a new file whose name is not known yet.
    ///
    /// # Errors
    /// [`StoreError::Io`]; nothing was changed.
    fn begin(&self) -> Result<Box<dyn Upload>, StoreError>;

    /// Makes `bytes` durable under a `name` that is free; see [`Upload::commit`].
    ///
    /// # Errors
    /// As [`Upload::commit`].
    fn put_new(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        let mut upload = self.begin()?;
        upload.write(bytes)?;
        upload.commit(name)
    }

    /// Returns the whole file, if it is at most `bytes_max` long.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Io`] (also for a longer file).
    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError>;

    /// Returns the bytes of `range`, counted from the file's start.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Short`], [`StoreError::Io`].
    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError>;

    /// Returns every file in `folder`, sorted by path, foreign files included. An absent folder is empty.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError>;

    /// As [`Self::list`], the oldest first where the store's own clock tells when each came; else by path. On a
    /// disk whoever may write files says of each when it came.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn list_oldest_first(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        self.list(folder)
    }

    /// Returns all that `config`, which no hash names, may be, the oldest first, each once: where versions are kept,
    /// whoever may put can have put one of his own on top, or before. One that is longer than `bytes_max` is none.
    ///
    /// # Errors
    /// As [`Self::read`] of `config`.
    fn configs(&self, bytes_max: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(vec![self.read(&Name::Config, bytes_max)?])
    }

    /// Takes the one at this place in [`Self::configs`] for `config` from now on. Nothing is written.
    fn take_config(&self, _at: usize) {}

    /// Returns the names in a folder, or `config` without one, that somebody has deleted while their bytes still lie below,
    /// where versions are kept.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn covered(&self, _folder: Option<Folder>) -> Result<Vec<Name>, StoreError> {
        Ok(Vec::new())
    }

    /// Returns when a file came, where the store's own clock tells and it is known already.
    fn came(&self, _name: &Name) -> Option<Time> {
        None
    }

    /// Returns how many small files are best asked for at the same time: more than one where each takes a request to
    /// a server and back.
    fn reads_at_once(&self) -> usize {
        1
    }

    /// Removes a file durably.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Io`].
    fn delete(&self, name: &Name) -> Result<(), StoreError>;

    /// Takes the repository's lock, without waiting.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if a holder is in the way, [`StoreError::Io`].
    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError>;

    /// Removes the locks of all runs where a dead run's may be left; a live run whose lock this takes
    /// writes nothing more. Returns what went: nothing where locks go with their process.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn break_locks(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// Returns what lies at the store's place, or among its uploads, and was not put there by it: paths, sorted. Of
    /// what lies in its [`Folder`]s, [`Self::list`] tells. Nothing where a place has no names but those of objects.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn strangers(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// Removes what killed runs left half-written. Never touches what a live run is writing, nor what is not its own.
    /// Returns how many files went.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn sweep_uploads(&self) -> Result<u64, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_from_its_path() {
        let id = [0x5a; 32];
        let names = [
            Name::Config,
            Name::Key(KeyFileId::from_bytes(id)),
            Name::Pack(PackId::from_bytes(id)),
            Name::Fragment(FragmentId::from_bytes(id)),
            Name::Snapshot(SnapshotId::from_bytes(id)),
            Name::Condemned(CondemnedId::from_bytes(id)),
            Name::Forgotten(ForgottenId::from_bytes(id)),
        ];
        for name in names {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn foreign_paths_have_no_name() {
        let id = PackId::from_bytes([0x5a; 32]).to_string();
        for path in [
            "confi",
            "packs/5b/",
            "index/5a",
            "",
            "/",
            &format!("packs/5b/{id}"),
            &format!("packs//{id}"),
            &format!("packs/5a/{id}.old"),
        ] {
            assert_eq!(Name::parse(path), None, "{path}");
        }
    }
}
