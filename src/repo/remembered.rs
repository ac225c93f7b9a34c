//! Manifests of a repository that is far away, remembered beside the index cache: a second look at the list of snapshots
//! asks for what is new.
//!
//! The file holds manifests as they lie in the repository, one after the other, each after its length. Nothing in it is
//! trusted: a manifest is the one of which its bytes have the hash, and only those count that the repository lists.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::base::id::SnapshotId;
use crate::repo::{RepoError, Repository};
use crate::store::{keep_own_file, read_regular};

/// Longest file, in bytes: tens of thousands of nights. What goes beyond it is asked for each time.
const BYTES_MAX: usize = 16 << 20;

/// What is remembered.
pub struct Remembered {
    path: PathBuf,
    manifests: BTreeMap<SnapshotId, Vec<u8>>,
    /// Their bytes.
    bytes: usize,
    /// Whether the file says something else.
    is_stale: bool,
}

impl Remembered {
    /// Reads what is remembered of a repository; none where each manifest is near, or nothing may be kept.
    pub fn of(repository: &Repository) -> Option<Self> {
        let is_far = repository.store().reads_at_once() > 1;
        let path = repository.index_path().filter(|_| is_far)?.with_extension("manifests");
        let file = read_regular(&path, BYTES_MAX as u64).unwrap_or_default();
        let (mut manifests, mut rest) = (BTreeMap::new(), &file[..]);
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
            let Some((manifest, after)) = after.split_at_checked(length) else { break };
            manifests.insert(SnapshotId::from_bytes(*blake3::hash(manifest).as_bytes()), manifest.to_vec());
            rest = after;
        }
        let bytes = manifests.values().map(Vec::len).sum();
        Some(Self { path, manifests, bytes, is_stale: false })
    }

    /// Returns the bytes of a manifest that is remembered.
    pub fn get(&self, id: SnapshotId) -> Option<Vec<u8>> {
        self.manifests.get(&id).cloned()
    }

    /// Remembers a manifest whose bytes were proved, as long as there is room: whoever may put can put many.
    pub fn learn(&mut self, id: SnapshotId, bytes: Vec<u8>) {
        if self.bytes.saturating_add(bytes.len()) > BYTES_MAX {
            return;
        }
        self.is_stale = true;
        self.bytes += bytes.len();
        self.manifests.insert(id, bytes);
    }

    /// Forgets all but these, and keeps the rest if it is not what the file says. Where it can't be kept, the next look
    /// takes longer.
    pub fn keep(mut self, is_there: impl Fn(&SnapshotId) -> bool) {
        let before = self.manifests.len();
        self.manifests.retain(|id, _| is_there(id));
        if !self.is_stale && self.manifests.len() == before {
            return;
        }
        let mut file = Vec::new();
        for manifest in self.manifests.values() {
            let Ok(length) = u32::try_from(manifest.len()) else { continue };
            if file.len() + 4 + manifest.len() <= BYTES_MAX {
                file.extend_from_slice(&length.to_le_bytes());
                file.extend_from_slice(manifest);
            }
        }
        if let Err(e) = keep_own_file(&self.path, &file) {
            tracing::debug!("{}; manifests are not remembered", RepoError::from(e).chain());
        }
    }
}
