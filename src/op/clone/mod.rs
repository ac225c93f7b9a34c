//! A repository's files in one store → the same in another: after a loss, from the bucket to a new disk.
//!
//! What names something comes after it, and `config` last: before that there is no repository. Every
//! file is hashed before it has its name. What somebody else has put there is left where it is.

mod copy;
mod forgotten;
mod ours;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::base::id::{PackId, SnapshotId};
use crate::base::progress::Progress;
use crate::base::time::Time;
use crate::op::clone::copy::{Did, copy_all, listed};
use crate::op::clone::forgotten::{brought, notes_of, put_notes};
use crate::op::clone::ours::{Listed, Ours};
use crate::repo::claim::refuse_others;
use crate::repo::config::CONFIG_BYTES_MAX;
use crate::repo::index::{Index, read_directory, read_fragment};
use crate::repo::listing::Listing;
use crate::repo::reach::{Needs, Reach};
use crate::repo::reader::{Reader, TREE_CACHE_BYTES};
use crate::repo::{RepoError, Repository, Snapshot};
use crate::stage::index::PackEntry;
use crate::store::{BothStores, Folder, LockMode, Name, Store};

pub use forgotten::Brought;

/// What a clone is asked for.
pub struct Request<'a> {
    /// Files read at the same time.
    pub threads: usize,
    /// Leave out the snapshots that were removed on purpose and are still there.
    pub without_forgotten: bool,
    /// How long it waits for who else uses the source or the target.
    pub lock_patience: Duration,
    /// Shown to whoever waits; and asked whether to stop.
    pub progress: &'a Progress,
}

/// A snapshot of which something is not in the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hurt {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its time.
    pub time: Time,
    /// What it lacks first.
    pub why: String,
}

/// What a clone did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a file that is not there is missed later"]
pub struct Report {
    /// Files that were copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were there already.
    pub files_there: u64,
    /// Files that could not be copied, and why, by path.
    pub lost: Vec<(String, String)>,
    /// Files that somebody else has written under names like ours, which were left where they are.
    pub strange: Vec<String>,
    /// Snapshots that the copy has, those that are hurt among them.
    pub snapshots: u64,
    /// Those of them that lack something, oldest first.
    pub hurt: Vec<Hurt>,
    /// Those of them that were removed on purpose, oldest first.
    pub brought: Vec<Brought>,
}

impl Report {
    /// Returns whether the copy has all that there is.
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.hurt.is_empty()
    }
}

/// Copies all of a repository that `target` lacks: what `source`, whose keys are known, has written. Run again after it
/// was cut, it goes on. Takes the lock of `source` beside others, and that of `target` alone.
///
/// A file whose bytes are not what its name stands for, or can't be read, is in the report, and not copied: one
/// bad sector, or one object that somebody has put into an archive, must not be the end of all others. Packs that no
/// fragment lists are copied if a snapshot needs them. Snapshots that were removed on purpose and are still there are
/// brought back if they are whole: an intruder can remove as well.
///
/// # Errors
/// [`RepoError::Exists`] if another repository is in `target`, [`RepoError::Refused`] if files of another one, or of
/// anybody else, are; [`RepoError::Interrupted`]; [`RepoError::Store`] if somebody else uses `target`, if it can't be
/// written, if `source` can't be listed, or if neither a file of it nor its `config` can be read. What was copied until
/// then stays.
pub fn clone(
    source: &Repository,
    target: &Arc<dyn Store>,
    request: &Request<'_>,
) -> Result<Report, RepoError> {
    let is_begun = is_begun(source, target.as_ref())?;
    drop(target.begin()?); // its place is made
    let copy = source.over(target.clone())?;
    let _source = source.lock_patiently(LockMode::Shared, request.lock_patience, request.progress)?;
    let _target = copy.lock_patiently(LockMode::Exclusive, request.lock_patience, request.progress)?;
    let mut did = Did::default();
    let mut ours = Ours::read(source, &mut did)?;
    let notes = notes_of(source, &mut did)?;
    let mut back = brought(&ours, &notes);
    if request.without_forgotten {
        ours.leave_out(&back.drain(..).map(|one| one.id).collect());
    }
    let store = source.store();
    let all = |packs: &BTreeSet<Name>| -> Vec<(Name, u64)> {
        ours.packs
            .iter()
            .filter(|(name, _)| packs.contains(name))
            .map(|(name, bytes)| (*name, *bytes))
            .collect()
    };
    let listed_there: BTreeSet<Name> =
        ours.fragments.values().flat_map(|one| &one.packs).map(|id| Name::Pack(*id)).collect();
    request.progress.expect(ours.expected(&all(&listed_there)));
    copy_all(store, target.as_ref(), ours.keys.clone(), request, &mut did)?;
    copy_all(store, target.as_ref(), all(&listed_there), request, &mut did)?;
    let (needs, unlisted) = needs(source, target, &ours, &listed_there, request)?;
    copy_all(store, target.as_ref(), all(&unlisted), request, &mut did)?;
    let there: BTreeSet<Name> = listed(target.as_ref(), Folder::Packs)?.into_keys().collect();
    let mut broken = BTreeSet::new();
    for ((snapshot, _), needs) in ours.manifests.iter().zip(&needs) {
        let absent = || needs.packs.iter().map(|id| Name::Pack(*id)).find(|name| !there.contains(name));
        let absent = || absent().map(|name| format!("{name} is not there"));
        let Some(why) = needs.lacking.clone().or_else(absent) else { continue };
        match back.iter().any(|one| one.id == snapshot.id) {
            true => _ = broken.insert(snapshot.id), // what was removed may be gone in part
            false => {
                did.report.hurt.push(Hurt { id: snapshot.id, time: snapshot.manifest.time, why });
            }
        }
    }
    ours.leave_out(&broken);
    back.retain(|one| !broken.contains(&one.id));
    did.report.brought = back;
    put_fragments(source, &copy, &ours, &there, &unlisted, request, &mut did)?;
    let manifests = ours.manifests.iter().map(|(one, bytes)| (Name::Snapshot(one.id), *bytes));
    copy_all(
        store,
        target.as_ref(),
        manifests.chain(ours.newer.iter().copied()).collect(),
        request,
        &mut did,
    )?;
    put_notes(&copy, &notes)?;
    let Did { mut report, unreadable } = did;
    if let Some(error) = unreadable.filter(|_| report.files + report.files_there == 0) {
        return Err(error); // not some files, but all
    }
    if !is_begun {
        target.put_new(&Name::Config, source.config_bytes())?;
        report.files += 1;
        report.bytes += source.config_bytes().len() as u64;
    }
    let lost: BTreeSet<&str> = report.lost.iter().map(|(path, _)| path.as_str()).collect();
    let is_there = |snapshot: &Snapshot| !lost.contains(Name::Snapshot(snapshot.id).to_string().as_str());
    report.snapshots = ours.manifests.iter().filter(|(snapshot, _)| is_there(snapshot)).count() as u64;
    report.lost.sort();
    report.strange.sort();
    Ok(report)
}

/// Returns whether the target holds a copy already; refuses one that holds anything else.
fn is_begun(source: &Repository, target: &dyn Store) -> Result<bool, RepoError> {
    match target.read(&Name::Config, CONFIG_BYTES_MAX) {
        Err(e) if e.is_nowhere() => {}
        Ok(there) if there == source.config_bytes() => return Ok(true),
        Ok(_) => return Err(RepoError::Exists { location: target.location() }),
        Err(e) => return Err(e.into()),
    }
    refuse_others(source.store(), target, source.id()).map(|()| false)
}

/// Returns what each snapshot needs, and the packs among that which no fragment that counts lists. Trees are read from the
/// copy, where they are there already.
fn needs(
    source: &Repository,
    target: &Arc<dyn Store>,
    ours: &Ours,
    listed: &BTreeSet<Name>,
    request: &Request<'_>,
) -> Result<(Vec<Needs>, BTreeSet<Name>), RepoError> {
    let both: Arc<dyn Store> = Arc::new(BothStores::new(target.clone(), source.shared_store()));
    let both = source.over(both)?;
    let reader = Reader::new(&both, Index::open_in_memory(&both)?, TREE_CACHE_BYTES);
    let mut reach = Reach::new(&reader, request.progress);
    let (mut all, mut unlisted) = (Vec::new(), BTreeSet::new());
    for (snapshot, _) in &ours.manifests {
        let needs = reach.of(snapshot)?;
        unlisted.extend(needs.packs.iter().map(|id| Name::Pack(*id)).filter(|name| !listed.contains(name)));
        all.push(needs);
    }
    Ok((all, unlisted))
}

/// Puts fragments that list the packs of the copy. One of which packs are gone that no snapshot needs is made anew
/// without them, so that nothing in the copy tells of what is not there; where a snapshot is hurt it says what is missing.
fn put_fragments(
    source: &Repository,
    copy: &Repository,
    ours: &Ours,
    there: &BTreeSet<Name>,
    unlisted: &BTreeSet<Name>,
    request: &Request<'_>,
    did: &mut Did,
) -> Result<(), RepoError> {
    let has = |id: &PackId| there.contains(&Name::Pack(*id));
    let is_kept = |listed: &Listed| !did.report.hurt.is_empty() || listed.packs.iter().all(has);
    let (kept, cut): (Vec<_>, Vec<_>) = ours.fragments.iter().partition(|(_, listed)| is_kept(listed));
    let mut listing = Listing::new(copy);
    let listed_here = listed_packs(copy)?;
    for (name, _) in cut {
        let Name::Fragment(id) = name else { continue };
        let fragment = read_fragment(source, *id)?;
        fragment
            .packs
            .iter()
            .filter(|pack| has(&pack.id) && !listed_here.contains(&pack.id))
            .try_for_each(|pack| listing.add(pack))?;
    }
    for (name, bytes) in &ours.packs {
        let Name::Pack(id) = name else { continue };
        if !unlisted.contains(name) || !has(id) || listed_here.contains(id) {
            continue;
        }
        match read_directory(copy, *id, *bytes) {
            Ok(directory) => listing.add(&PackEntry { id: *id, bytes: *bytes, directory })?,
            Err(e) => did.report.lost.push((name.to_string(), e.chain())),
        }
    }
    let kept = kept.into_iter().map(|(name, listed)| (*name, listed.bytes)).collect();
    copy_all(source.store(), copy.store(), kept, request, did)?;
    if listing.pack_bytes() > 0 {
        let made = listing.finish()?;
        did.report.files += made.fragments().count() as u64;
        did.report.bytes += made.fragment_bytes;
    }
    Ok(())
}

/// Returns the packs that fragments list which the copy has already.
fn listed_packs(copy: &Repository) -> Result<BTreeSet<PackId>, RepoError> {
    let mut all = BTreeSet::new();
    for name in listed(copy.store(), Folder::Index)?.into_keys() {
        if let Name::Fragment(id) = name
            && let Ok(fragment) = read_fragment(copy, id)
        {
            all.extend(fragment.packs.iter().map(|pack| pack.id));
        }
    }
    Ok(all)
}
