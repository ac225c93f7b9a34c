//! Manifests: the files whose presence makes snapshots exist.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::SnapshotId;
use crate::base::limits::MANIFEST_BYTES_CAP;
use crate::base::wire::{self, RecordKind, WireError};
use crate::repo::keys::WriterKeys;
use crate::repo::open::read_named;
use crate::repo::remembered::Remembered;
use crate::repo::small::read_small;
use crate::repo::{RepoError, Repository};
use crate::stage::seal::{open_record_within, seal_record};
use crate::stage::snapshot::Manifest;
use crate::stage::snapshot::facts::Order;
use crate::store::{Folder, Name, Store};

/// What a manifest's seal is bound to.
const MANIFEST_PURPOSE: &str = "snap v1 manifest";

/// Longest file of a manifest that is read, in bytes: the largest record, not compressible (zstd adds 1/256 at most), and
/// its headers.
pub const MANIFEST_FILE_BYTES_MAX: u64 = (MANIFEST_BYTES_CAP + MANIFEST_BYTES_CAP / 256 + 4096) as u64;

/// Memory that all manifests of a repository may take together, in bytes: more than a hundred thousand nights.
pub const MANIFESTS_MEMORY_MAX: usize = 512 << 20;

/// A manifest and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Name of the manifest.
    pub id: SnapshotId,
    /// The manifest.
    pub manifest: Manifest,
}

impl Snapshot {
    /// Returns its place among others: see [`Manifest::order`].
    pub fn order(&self) -> Order {
        self.manifest.order(self.id)
    }
}

/// All snapshots by time, and what could not be read of them.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Snapshots, oldest first; those that another one replaces are left out.
    pub all: Vec<Snapshot>,
    /// Manifests that are there and that another one replaces: they count as absent. One that was
    /// itself to replace another comes after that one.
    pub replaced: Vec<SnapshotId>,
    /// Manifests that could not be read, and why.
    pub unreadable: Vec<(String, RepoError)>,
}

fn read_manifest(store: &dyn Store, writer: &WriterKeys, id: SnapshotId) -> Result<Manifest, RepoError> {
    let name = Name::Snapshot(id);
    open_manifest(writer, &name, &read_named(store, &name, MANIFEST_FILE_BYTES_MAX)?)
}

/// Opens the bytes of a manifest.
///
/// # Errors
/// [`RepoError::Record`], [`RepoError::Seal`].
pub fn open_manifest(writer: &WriterKeys, name: &Name, bytes: &[u8]) -> Result<Manifest, RepoError> {
    let sealed = wire::unwrap(RecordKind::Snapshot, bytes).map_err(|e| RepoError::record(name, e))?;
    let record = open_record_within(writer.metadata(), MANIFEST_PURPOSE, sealed, MANIFEST_BYTES_CAP);
    let record = record.map_err(|e| RepoError::seal(name, e))?;
    wire::decode_within::<_, MANIFEST_BYTES_CAP>(&record).map_err(|e| RepoError::record(name, e))
}

/// Returns whether a manifest is there that opens with this writer secret. Reads one after the other until one does.
pub fn has_manifest_of(store: &dyn Store, writer: &WriterKeys) -> bool {
    let mut names =
        store.list(Folder::Snapshots).unwrap_or_default().into_iter().filter_map(|found| found.name);
    names.any(|name| matches!(name, Name::Snapshot(id) if read_manifest(store, writer, id).is_ok()))
}

impl Repository {
    /// Seals a manifest and makes it durable: the moment from which the snapshot exists. Returns its
    /// name and the file's length in bytes.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<(SnapshotId, u64), RepoError> {
        let path = "snapshots/";
        let record = wire::encode(manifest).map_err(|e| RepoError::record(&path, e))?;
        let sealed = seal_record(self.writer_keys().metadata(), MANIFEST_PURPOSE, record);
        let bytes = wire::wrap(RecordKind::Snapshot, &sealed.map_err(|e| RepoError::seal(&path, e))?);
        let id = SnapshotId::from_bytes(*blake3::hash(&bytes).as_bytes());
        self.store().put_new(&Name::Snapshot(id), &bytes)?;
        Ok((id, bytes.len() as u64))
    }

    /// Reads one manifest.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::NameMismatch`], [`RepoError::Record`], [`RepoError::Seal`].
    pub fn manifest(&self, id: SnapshotId) -> Result<Manifest, RepoError> {
        read_manifest(self.store(), self.writer_keys(), id)
    }

    /// Reads all manifests. Memory: 512 MiB; those beyond it count as such that can't be read.
    ///
    /// # Errors
    /// [`RepoError::Store`] if they can't be listed; a manifest that can't be read is in the answer.
    pub fn snapshots(&self) -> Result<Snapshots, RepoError> {
        self.snapshots_within(MANIFESTS_MEMORY_MAX, None)
    }

    /// As [`Self::snapshots`], for who only looks: of a repository that is far away a manifest is not asked for again that
    /// this machine remembers and the repository lists. Its bytes are proved; that the repository still has them is not.
    ///
    /// # Errors
    /// As [`Self::snapshots`].
    pub fn snapshots_to_read(&self) -> Result<Snapshots, RepoError> {
        let mut remembered = Remembered::of(self);
        let snapshots = self.snapshots_within(MANIFESTS_MEMORY_MAX, remembered.as_mut())?;
        if let Some(remembered) = remembered {
            let mut there: BTreeSet<SnapshotId> = snapshots.all.iter().map(|snapshot| snapshot.id).collect();
            there.extend(&snapshots.replaced);
            remembered.keep(|id| there.contains(id));
        }
        Ok(snapshots)
    }

    fn snapshots_within(
        &self,
        memory_max: usize,
        mut remembered: Option<&mut Remembered>,
    ) -> Result<Snapshots, RepoError> {
        let mut snapshots = Snapshots::default();
        let mut there = BTreeSet::new();
        let mut memory_bytes = 0;
        let names = self.store().list(Folder::Snapshots)?.into_iter().filter_map(|found| found.name);
        let ids = names.filter_map(|name| if let Name::Snapshot(id) = name { Some(id) } else { None });
        let ids: Vec<SnapshotId> = ids.collect();
        let mut take = |id: SnapshotId, read: Option<Result<Vec<u8>, RepoError>>| {
            let name = &Name::Snapshot(id);
            let path = name.to_string();
            let manifest = match read {
                Some(read) => read.and_then(|bytes| open_manifest(self.writer_keys(), name, &bytes)),
                None => self.manifest(id),
            };
            match manifest {
                Ok(manifest) if memory_bytes + manifest.memory_bytes() > memory_max => {
                    let what =
                        "all manifests together are larger than any repository's: some of them were forged";
                    let error = RepoError::record(&path, WireError::record(what));
                    snapshots.unreadable.push((path, error));
                }
                Ok(manifest) => {
                    memory_bytes += manifest.memory_bytes();
                    snapshots.all.push(Snapshot { id, manifest });
                }
                Err(RepoError::Store(e)) if e.is_missing() => return false, // forgotten meanwhile
                Err(e) => {
                    snapshots.unreadable.push((path, e));
                    there.insert(id);
                    return false;
                }
            }
            there.insert(id);
            true
        };
        let mut asked = Vec::new();
        for id in ids {
            match remembered.as_ref().and_then(|remembered| remembered.get(id)) {
                Some(bytes) => _ = take(id, Some(Ok(bytes))),
                None => asked.push(Name::Snapshot(id)),
            }
        }
        read_small(self.store(), &asked, |name, read| {
            let Name::Snapshot(id) = *name else { return };
            let bytes = match (&remembered, &read) {
                (Some(_), Some(Ok(bytes))) => Some(bytes.clone()),
                _ => None,
            };
            let is_ours = take(id, read);
            if let (true, Some(remembered), Some(bytes)) = (is_ours, &mut remembered, bytes) {
                remembered.learn(id, bytes);
            }
        });
        let replaces: BTreeMap<SnapshotId, SnapshotId> =
            snapshots.all.iter().filter_map(|s| Some((s.id, s.manifest.replaces?))).collect();
        let mut replaced: Vec<SnapshotId> =
            replaces.values().copied().filter(|id| there.contains(id)).collect();
        replaced.sort_unstable();
        replaced.dedup();
        replaced.sort_by_key(|id| std::iter::successors(replaces.get(id), |id| replaces.get(id)).count());
        snapshots.all.retain(|snapshot| !replaced.contains(&snapshot.id));
        snapshots.replaced = replaced;
        snapshots.all.sort_by_key(Snapshot::order);
        Ok(snapshots)
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::base::time::Time;
    use crate::repo::sample::plain;
    use crate::store::MemoryStore;

    #[test]
    fn a_small_file_that_expands_to_a_huge_manifest_is_refused() {
        let repository = plain(MemoryStore::default());
        let forged = Manifest { tags: vec![String::new(); 3_000_000], ..Manifest::default() };
        let (id, bytes) = repository.put_manifest(&forged).unwrap();
        assert!(bytes < 10_000, "{bytes} bytes are stored");
        assert!(forged.memory_bytes() > MANIFEST_BYTES_CAP);
        assert!(matches!(repository.manifest(id), Err(RepoError::Record { .. })));
        let snapshots = repository.snapshots().unwrap();
        assert_eq!(
            (snapshots.all.len(), snapshots.unreadable.len()),
            (0, 1),
            "it is named, and not forgotten"
        );
    }

    #[test]
    fn many_manifests_take_no_more_memory_together_than_is_allowed() {
        let repository = plain(MemoryStore::default());
        for night in 0..20 {
            let tags = vec![String::new(); 1000];
            let manifest = Manifest { time: Time::new(night, 0), tags, ..Manifest::default() };
            repository.put_manifest(&manifest).unwrap();
        }
        assert_eq!(repository.snapshots().unwrap().all.len(), 20);
        let bounded = repository.snapshots_within(200_000, None).unwrap();
        let memory_bytes: usize = bounded.all.iter().map(|snapshot| snapshot.manifest.memory_bytes()).sum();
        assert!(memory_bytes <= 200_000 && bounded.all.len() > 5, "{memory_bytes}");
        assert_eq!(bounded.all.len() + bounded.unreadable.len(), 20);
    }
}
