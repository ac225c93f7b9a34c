//! What lies in the bucket: which versions of which names, and which of them are genuine.

use std::collections::BTreeMap;

use md5::{Digest, Md5};

use crate::repo::RepoError;
use crate::repo::bucket_state::BucketState;
use crate::store::{LockingStore, Name, Store, StoreError, Version};

/// Bytes read at one stroke.
const PIECE_BYTES: u64 = 8 << 20;

/// All versions in a bucket.
#[derive(Default)]
pub struct Bucket {
    /// By name, oldest first.
    pub names: BTreeMap<Name, Vec<Version>>,
    /// Those whose path is not one of ours, nor a lock.
    pub foreign: Vec<Version>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How many versions.
    pub versions: u64,
}

/// How a file of ours lies in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No version is there.
    Absent,
    /// The version that a read gets is genuine.
    Good(Version),
    /// A genuine version is there, and something lies on top of it.
    Covered {
        /// The newest genuine version.
        genuine: Version,
        /// Whether what lies on top is a deletion; else it is other bytes.
        is_deleted: bool,
    },
    /// There are versions, and none of them is genuine.
    Spoilt,
}

/// A local file's hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its length, in bytes.
    pub bytes: u64,
    md5: [u8; 16],
    is_named_right: bool,
}

impl Bucket {
    /// Lists all versions.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn read(remote: &dyn LockingStore) -> Result<Self, RepoError> {
        let mut bucket = Self::default();
        for version in remote.versions()? {
            bucket.bytes += version.bytes;
            bucket.versions += 1;
            match version.name {
                Some(name) => bucket.names.entry(name).or_default().push(version),
                None if version.path.starts_with("locks/") => {}
                None => bucket.foreign.push(version),
            }
        }
        Ok(bucket)
    }

    /// Returns the versions of a name, oldest first.
    pub fn of(&self, name: &Name) -> &[Version] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Reads a local file and hashes it.
///
/// # Errors
/// [`StoreError`].
pub fn hash(store: &dyn Store, name: &Name, bytes: u64) -> Result<Local, StoreError> {
    let (mut blake3, mut md5) = (blake3::Hasher::new(), Md5::new());
    let mut at = 0;
    while at < bytes {
        let end = bytes.min(at + PIECE_BYTES);
        let piece = store.read_range(name, at..end)?;
        blake3.update(&piece);
        md5.update(&piece);
        at = end;
    }
    let is_named_right = name.hash().is_none_or(|hash| hash == *blake3.finalize().as_bytes());
    Ok(Local { bytes, md5: md5.finalize().into(), is_named_right })
}

impl Local {
    /// Returns whether the bytes are what the name stands for.
    pub fn is_sound(&self) -> bool {
        self.is_named_right
    }
}

/// Returns whether the bucket answers at all: then an error that it gave is of one object alone. Costs three
/// requests, of which no object is asked.
pub fn answers(remote: &dyn LockingStore) -> bool {
    remote.protection().is_ok()
}

/// Judges how a name lies in the bucket. What is remembered needs no look, however many others lie on top; else a version
/// is compared with the local file, whose hashes `local` gives. Where it gives none, or the store has another MD5 for as
/// many bytes, the version is read and hashed. One that can't be read counts as not genuine: who may put
/// can have put it into an archive, or sealed it with a key of his own.
///
/// # Errors
/// [`RepoError::Store`] if the bucket does not answer.
pub fn judge(
    remote: &dyn LockingStore,
    name: &Name,
    versions: &[Version],
    known: &BucketState,
    local: &mut dyn FnMut() -> Option<Local>,
) -> Result<Standing, RepoError> {
    let Some(top) = versions.last() else { return Ok(Standing::Absent) };
    let is_deleted = top.is_marker;
    let is_known = |version: &&Version| known.until(&version.path, &version.id).is_some();
    if let Some(genuine) = versions.iter().rev().find(is_known).cloned() {
        // Another machine may have put the genuine bytes back on top: that is seen without reading them.
        let is_back = |local: Local| !is_deleted && top.bytes == local.bytes && top.md5 == Some(local.md5);
        return Ok(match genuine.id == top.id {
            true => Standing::Good(genuine),
            false if local().filter(Local::is_sound).is_some_and(is_back) => Standing::Good(top.clone()),
            false => Standing::Covered { genuine, is_deleted },
        });
    }
    let mut genuine = None;
    for version in versions.iter().rev().filter(|version| !version.is_marker) {
        if is_genuine(remote, name, version, local())? {
            genuine = Some(version.clone());
            break;
        }
    }
    Ok(match genuine {
        Some(genuine) if genuine.id == top.id => Standing::Good(genuine),
        Some(genuine) => Standing::Covered { genuine, is_deleted },
        None if versions.iter().all(|version| version.is_marker) => Standing::Absent,
        None => Standing::Spoilt,
    })
}

fn is_genuine(
    remote: &dyn LockingStore,
    name: &Name,
    version: &Version,
    local: Option<Local>,
) -> Result<bool, RepoError> {
    let local = local.filter(Local::is_sound);
    match local {
        Some(local) if local.bytes != version.bytes => return Ok(false),
        Some(local) if version.md5 == Some(local.md5) => return Ok(true),
        None if name.hash().is_none() => return Ok(false),
        // Another MD5 proves nothing: where a key service's keys seal, the store shows something else that
        // looks the same. The bytes tell.
        _ => {}
    }
    let (mut blake3, mut md5) = (blake3::Hasher::new(), Md5::new());
    let mut at = 0;
    while at < version.bytes {
        let end = version.bytes.min(at + PIECE_BYTES);
        let piece = match remote.read_version(&version.path, &version.id, at..end) {
            Ok(piece) => piece,
            Err(_) if answers(remote) => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        blake3.update(&piece);
        md5.update(&piece);
        at = end;
    }
    let md5: [u8; 16] = md5.finalize().into();
    Ok(match name.hash() {
        Some(expected) => expected == *blake3.finalize().as_bytes(),
        None => local.is_some_and(|local| local.md5 == md5),
    })
}
