//! What the local snapshots need, which local files belong into the bucket, and how it keeps them.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{ForgottenId, FragmentId, PackId, SnapshotId};
use crate::base::progress::Progress;
use crate::base::time::Time;
use crate::op::sync::{Kept, Problem, Report};
use crate::repo::bucket_state::BucketState;
use crate::repo::index::{Index, fragments_present};
use crate::repo::reach::Reach;
use crate::repo::reader::{Reader, TREE_CACHE_BYTES};
use crate::repo::{RepoError, Repository, Snapshot};
use crate::store::{Folder, Name};

/// A snapshot, and what it needs.
pub struct Needing {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The packs.
    pub packs: BTreeSet<PackId>,
    /// Whether those are all.
    pub is_known: bool,
}

/// What is listed: the fragments, and the packs that they list and that are there.
pub struct Indexed {
    fragments: BTreeSet<FragmentId>,
    packs: BTreeSet<PackId>,
}

/// Returns what each snapshot needs, and what is listed.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::Interrupted`]; what can't be read of a snapshot is told in the report.
pub fn read_needs(
    repository: &Repository,
    progress: &Progress,
    report: &mut Report,
) -> Result<(Vec<Needing>, Indexed), RepoError> {
    let snapshots = repository.snapshots()?; // before packs: what a backup adds meanwhile waits for the next run
    let fragments = fragments_present(repository.store())?; // before packs, too
    for (path, error) in snapshots.unreadable {
        let what = format!("{}; heal it with 'snap check --repair-from'", error.chain());
        report.problems.push(Problem { path, what });
    }
    let reader = Reader::new(repository, Index::open(repository)?, TREE_CACHE_BYTES);
    let orphans: BTreeSet<PackId> = reader.index().orphans().iter().map(|pack| pack.id).collect();
    let there = reader.index().packs().filter(|(_, pack, is_lost)| !is_lost && !orphans.contains(&pack.id));
    let indexed = Indexed { fragments, packs: there.map(|(_, pack, _)| pack.id).collect() };
    let mut reach = Reach::new(&reader, progress);
    let mut all = Vec::new();
    for snapshot in snapshots.all {
        let needs = reach.of(&snapshot)?;
        if let Some(lacking) = &needs.lacking {
            let what =
                format!("what it needs is not all there: {lacking}; heal it with 'snap check --repair-from'");
            report.problems.push(Problem { path: Name::Snapshot(snapshot.id).to_string(), what });
        }
        all.push(Needing { snapshot, packs: needs.packs, is_known: needs.lacking.is_none() });
    }
    Ok((all, indexed))
}

/// A local file that belongs into the bucket.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Length, in bytes.
    pub bytes: u64,
    /// Whether a kept snapshot needs it, so that its lock is renewed.
    pub is_needed: bool,
}

/// Returns the local files that belong into the bucket: all but packs that nothing lists or needs, what a backup
/// has added meanwhile, and all of what was removed but `notes`, which name something that is still there.
///
/// # Errors
/// [`RepoError::Store`].
pub fn wanted(
    repository: &Repository,
    needing: &[Needing],
    indexed: &Indexed,
    is_in_doubt: bool,
    notes: &BTreeSet<ForgottenId>,
) -> Result<BTreeMap<Name, Wanted>, RepoError> {
    let store = repository.store();
    let needed: BTreeSet<PackId> = needing.iter().flat_map(|one| one.packs.iter().copied()).collect();
    let kept: BTreeSet<SnapshotId> = needing.iter().map(|one| one.snapshot.id).collect();
    let mut wanted = BTreeMap::new();
    let config = store.read(&Name::Config, crate::repo::config::CONFIG_BYTES_MAX)?;
    wanted.insert(Name::Config, Wanted { bytes: config.len() as u64, is_needed: true });
    for folder in [Folder::Keys, Folder::Forgotten, Folder::Packs, Folder::Index, Folder::Snapshots] {
        for found in store.list(folder)? {
            let Some(name) = found.name else { continue };
            let is_needed = match name {
                // Where it is not known what a snapshot needs, everything may be.
                Name::Pack(id) => needed.contains(&id) || (is_in_doubt && indexed.packs.contains(&id)),
                Name::Fragment(id) => indexed.fragments.contains(&id),
                Name::Snapshot(id) => kept.contains(&id),
                Name::Forgotten(id) => notes.contains(&id),
                _ => true,
            };
            let is_listed = matches!(name, Name::Pack(id) if indexed.packs.contains(&id));
            if is_needed || is_listed {
                wanted.insert(name, Wanted { bytes: found.bytes, is_needed });
            }
        }
    }
    Ok(wanted)
}

/// Returns the files that every snapshot needs besides its own; fragments too, if they are asked for: they
/// tell nothing that the packs do not tell.
pub fn shared(wanted: &BTreeMap<Name, Wanted>, with_fragments: bool) -> Vec<Name> {
    let is_shared = |name: &&Name| match name {
        Name::Pack(_) | Name::Snapshot(_) | Name::Forgotten(_) => false,
        Name::Fragment(_) => with_fragments,
        _ => true,
    };
    wanted.keys().filter(is_shared).copied().collect()
}

/// Returns how the bucket keeps each snapshot: its own files, and those that all `shared`.
pub fn kept(needing: &[Needing], shared: &[Name], known: &BucketState) -> Vec<Kept> {
    let shared: Vec<Option<i64>> = shared.iter().map(|name| known.latest(&name.to_string())).collect();
    let each = needing.iter().map(|one| {
        let own = one.packs.iter().map(|id| Name::Pack(*id)).chain([Name::Snapshot(one.snapshot.id)]);
        let own = own.map(|name| known.latest(&name.to_string()));
        let ends: Option<Vec<i64>> = own.chain(shared.iter().copied()).collect();
        let lowest = ends.as_ref().and_then(|ends| ends.iter().min()).filter(|end| **end > 0);
        Kept {
            id: one.snapshot.id,
            time: one.snapshot.manifest.time,
            is_whole: one.is_known && ends.is_some(),
            lowest: lowest.map(|end| Time::new(*end, 0)),
        }
    });
    each.collect()
}
