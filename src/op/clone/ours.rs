//! What lies in a source → what of it is this repository's, by what it proves: whoever may put can put files of his own.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{FragmentId, PackId, SnapshotId};
use crate::base::limits::RECORD_BYTES_CAP;
use crate::base::progress::Done;
use crate::op::clone::copy::{Did, Sized, listed};
use crate::repo::index::parse_fragment;
use crate::repo::{
    MANIFEST_FILE_BYTES_MAX, RepoError, Repository, Snapshot, open_manifest, read_named, read_side_by_side,
};
use crate::stage::index::PackEntry;
use crate::store::{Folder, Name};

/// What of a source is this repository's.
#[derive(Default)]
pub struct Ours {
    /// Key files.
    pub keys: Vec<Sized>,
    /// Fragments that count, with the packs that each lists.
    pub fragments: BTreeMap<Name, Listed>,
    /// Packs that are there, with their lengths.
    pub packs: BTreeMap<Name, u64>,
    /// Manifests, with their lengths.
    pub manifests: Vec<(Snapshot, u64)>,
    /// Manifests that are there and can't be judged: a newer program wrote them.
    pub newer: Vec<Sized>,
}

/// A fragment that counts.
pub struct Listed {
    /// Its length, in bytes.
    pub bytes: u64,
    /// The packs that it lists.
    pub packs: Vec<PackId>,
}

impl Ours {
    /// Reads key files, fragments and manifests. What can't be read is told as lost; what somebody else has written,
    /// as a stranger's.
    ///
    /// # Errors
    /// [`RepoError::Store`] if the source can't be listed.
    pub fn read(source: &Repository, did: &mut Did) -> Result<Self, RepoError> {
        let mut ours = Self::default();
        // What names something is listed before it: a backup may be under way.
        let manifests = listed(source.store(), Folder::Snapshots)?;
        let fragments = listed(source.store(), Folder::Index)?;
        ours.packs = listed(source.store(), Folder::Packs)?;
        let keys = listed(source.store(), Folder::Keys)?;
        ours.take_manifests(source, &manifests, did);
        ours.take_fragments(source, &fragments, did);
        ours.take_keys(source, keys, did);
        Ok(ours)
    }

    /// Leaves manifests where they are.
    pub fn leave_out(&mut self, these: &BTreeSet<SnapshotId>) {
        self.manifests.retain(|(snapshot, _)| !these.contains(&snapshot.id));
    }

    /// Returns how much is to be copied, with these packs.
    pub fn expected(&self, packs: &[Sized]) -> Done {
        let fragments = self.fragments.values().map(|listed| listed.bytes);
        let manifests = self.manifests.iter().map(|(_, bytes)| *bytes);
        let others = [&self.keys[..], &self.newer, packs].into_iter().flatten().map(|(_, bytes)| *bytes);
        let count = |sum: Done, bytes| Done { files: sum.files + 1, bytes: sum.bytes + bytes };
        fragments.chain(manifests).chain(others).fold(Done::default(), count)
    }

    fn take_manifests(&mut self, source: &Repository, there: &BTreeMap<Name, u64>, did: &mut Did) {
        let names: Vec<Name> = there.keys().copied().collect();
        let read = |name: &Name| {
            let bytes = read_named(source.store(), name, MANIFEST_FILE_BYTES_MAX)?;
            open_manifest(source.writer_keys(), name, &bytes)
        };
        for (name, manifest) in read_side_by_side(&names, read) {
            let (Name::Snapshot(id), Some(bytes)) = (name, there.get(&name)) else { continue };
            match manifest {
                Ok(manifest) => self.manifests.push((Snapshot { id, manifest }, *bytes)),
                Err(e) if e.is_newer() => self.newer.push((name, *bytes)),
                Err(e) => did.tell(&name, e),
            }
        }
        let replaced: BTreeSet<SnapshotId> =
            self.manifests.iter().filter_map(|(snapshot, _)| snapshot.manifest.replaces).collect();
        self.manifests.retain(|(snapshot, _)| !replaced.contains(&snapshot.id));
        self.manifests.sort_by_key(|(snapshot, _)| snapshot.order());
    }

    fn take_fragments(&mut self, source: &Repository, there: &BTreeMap<Name, u64>, did: &mut Did) {
        let names: Vec<Name> = there.keys().copied().collect();
        let read = |name: &Name| {
            let bytes = read_named(source.store(), name, RECORD_BYTES_CAP as u64)?;
            let fragment = parse_fragment(source.writer_keys(), name, &bytes)?;
            let packs: Vec<PackId> = fragment.packs.iter().map(|pack: &PackEntry| pack.id).collect();
            Ok::<_, RepoError>((packs, fragment.replaces))
        };
        let mut replaced: BTreeSet<FragmentId> = BTreeSet::new();
        for (name, fragment) in read_side_by_side(&names, read) {
            let Some(bytes) = there.get(&name).copied() else { continue };
            match fragment {
                Ok((packs, replaces)) => {
                    replaced.extend(replaces);
                    self.fragments.insert(name, Listed { bytes, packs });
                }
                Err(e) if e.is_newer() => self.newer.push((name, bytes)),
                Err(e) => did.tell(&name, e),
            }
        }
        self.fragments.retain(|name, _| !matches!(name, Name::Fragment(id) if replaced.contains(id)));
    }

    fn take_keys(&mut self, source: &Repository, there: BTreeMap<Name, u64>, did: &mut Did) {
        let names: Vec<Name> = there.keys().copied().collect();
        for (name, read) in read_side_by_side(&names, |name| is_proven(source, name)) {
            let Some(bytes) = there.get(&name).copied() else { continue };
            match read {
                Ok(true) => self.keys.push((name, bytes)),
                Ok(false) => did.report.strange.push(name.to_string()),
                Err(e) if e.is_newer() => self.newer.push((name, bytes)),
                Err(e) => did.tell(&name, e),
            }
        }
    }
}

/// Returns whether a key file was written by who has the writer secret.
fn is_proven(source: &Repository, name: &Name) -> Result<bool, RepoError> {
    match name {
        Name::Key(id) => source.key_file(*id).map(|info| info.is_proven),
        _ => Ok(false),
    }
}

impl Did {
    /// Tells of a file that is not to be copied: its bytes are not what its name stands for, or they are and somebody else
    /// has written them.
    pub fn tell(&mut self, name: &Name, error: RepoError) {
        match error {
            RepoError::Seal { .. } | RepoError::Record { .. } => self.report.strange.push(name.to_string()),
            RepoError::Store(e) if e.is_missing() => {} // gone since it was listed
            RepoError::NameMismatch { .. } => {
                let why = "the bytes are not the ones its name stands for".to_owned();
                self.report.lost.push((name.to_string(), why));
            }
            error => {
                self.report.lost.push((name.to_string(), error.chain()));
                self.unreadable.get_or_insert(error);
            }
        }
    }
}
