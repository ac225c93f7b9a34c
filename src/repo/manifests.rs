//! Manifests: the files whose presence makes snapshots exist.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::SnapshotId;
use crate::base::limits::RECORD_BYTES_CAP;
use crate::base::wire::{self, RecordKind};
use crate::repo::open::read_named;
use crate::repo::{RepoError, Repository};
use crate::stage::seal::{open_record, seal_record};
use crate::stage::snapshot::Manifest;
use crate::store::{Folder, Name};

/// What a manifest's seal is bound to.
const MANIFEST_PURPOSE: &str = "snap v1 manifest";

/// A manifest and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Name of the manifest.
    pub id: SnapshotId,
    /// The manifest.
    pub manifest: Manifest,
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
        let name = Name::Snapshot(id);
        let bytes = read_named(self.store(), &name, RECORD_BYTES_CAP as u64)?;
        let sealed = wire::unwrap(RecordKind::Snapshot, &bytes).map_err(|e| RepoError::record(&name, e))?;
        let record = open_record(self.writer_keys().metadata(), MANIFEST_PURPOSE, sealed);
        wire::decode(&record.map_err(|e| RepoError::seal(&name, e))?).map_err(|e| RepoError::record(&name, e))
    }

    /// Reads all manifests.
    ///
    /// # Errors
    /// [`RepoError::Store`] if they can't be listed; a manifest that can't be read is in the answer.
    pub fn snapshots(&self) -> Result<Snapshots, RepoError> {
        let mut snapshots = Snapshots::default();
        let mut there = BTreeSet::new();
        for found in self.store().list(Folder::Snapshots)? {
            let Some(Name::Snapshot(id)) = found.name else { continue };
            match self.manifest(id) {
                Ok(manifest) => snapshots.all.push(Snapshot { id, manifest }),
                Err(RepoError::Store(e)) if e.is_missing() => continue, // forgotten meanwhile
                Err(e) => snapshots.unreadable.push((found.path, e)),
            }
            there.insert(id);
        }
        let replaces: BTreeMap<SnapshotId, SnapshotId> =
            snapshots.all.iter().filter_map(|s| Some((s.id, s.manifest.replaces?))).collect();
        let mut replaced: Vec<SnapshotId> =
            replaces.values().copied().filter(|id| there.contains(id)).collect();
        replaced.sort_unstable();
        replaced.dedup();
        replaced.sort_by_key(|id| std::iter::successors(replaces.get(id), |id| replaces.get(id)).count());
        snapshots.all.retain(|snapshot| !replaced.contains(&snapshot.id));
        snapshots.replaced = replaced;
        snapshots.all.sort_by_key(|snapshot| (snapshot.manifest.time, snapshot.id));
        Ok(snapshots)
    }
}
