//! A snapshot → the same snapshot with other tags, or with a component that is accepted as it is.

use std::collections::BTreeSet;

use crate::base::forgotten::ForgottenRow;
use crate::base::id::SnapshotId;
use crate::base::time::Time;
use crate::base::wire;
use crate::repo::{RepoError, Repository, Snapshot};
use crate::stage::snapshot::{Manifest, facts};
use crate::store::{Folder, Name};

/// What changes.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Tags to add. One that is there already stays.
    pub add: Vec<String>,
    /// Tags to take away. One that is not there is no error.
    pub remove: Vec<String>,
    /// Components that are suspect, and right as they are. One that is accepted already is no error.
    pub accept: Vec<String>,
}

/// Gives a snapshot other tags; returns it under its new name, or as it is if nothing changes.
///
/// A manifest is written once, so a new one takes the old one's place: it is durable, and says so, before the old
/// one goes. If another run gives the same snapshot tags meanwhile, what that one makes of it is changed.
///
/// # Errors
/// [`RepoError::Store`]: the snapshot is there, with the old tags or the new. [`RepoError::NoSnapshot`] if it was
/// forgotten meanwhile. [`RepoError::Source`] if other runs are faster again and again, or leave it there twice; and
/// for a component to accept that is not suspect.
pub fn tag(
    repository: &Repository,
    snapshot: &Snapshot,
    change: &Change,
    now: Time,
) -> Result<Snapshot, RepoError> {
    if !repository.is_enrolled() {
        return Err(repository.not_enrolled()); // it may be another one, put in the place of ours
    }
    let other = match try_tag(repository, snapshot, change, now)? {
        Tried::Done(tagged) => return Ok(tagged),
        Tried::Overtaken(other) => other,
    };
    match try_tag(repository, &other, change, now)? {
        Tried::Done(tagged) => Ok(tagged),
        Tried::Overtaken(other) => {
            Err(at_the_same_time(snapshot.id, &format!("it is {} by now: tag that one", other.id)))
        }
    }
}

fn at_the_same_time(id: SnapshotId, what: &str) -> RepoError {
    let reason = format!("another run gives it tags at the same time, and {what}");
    RepoError::Source { path: format!("snapshot {id}"), reason }
}

/// What became of a try.
enum Tried {
    /// The snapshot has its tags.
    Done(Snapshot),
    /// Another run has put this one in its place; nothing of the try is left.
    Overtaken(Snapshot),
}

/// Two runs at once each put a manifest first and look for the other's then, so that one at least sees both. The
/// one with the higher name is taken back, by its own run; the other one stays whatever happens, so that the snapshot
/// never is without a manifest.
fn try_tag(
    repository: &Repository,
    snapshot: &Snapshot,
    change: &Change,
    now: Time,
) -> Result<Tried, RepoError> {
    let mut manifest = snapshot.manifest.clone();
    manifest.tags.extend(change.add.iter().cloned());
    manifest.tags.retain(|tag| !change.remove.contains(tag));
    manifest.tags.sort();
    manifest.tags.dedup();
    accept(&mut manifest, &change.accept, snapshot.id)?;
    if manifest == snapshot.manifest {
        return Ok(Tried::Done(snapshot.clone()));
    }
    let mut successors = Successors::of(repository, snapshot.id);
    let before = successors.look()?;
    if let Some(other) = before.come.into_iter().next() {
        return Ok(Tried::Overtaken(other));
    }
    if !before.is_there {
        let what = "was forgotten meanwhile".to_owned();
        return Err(RepoError::NoSnapshot { spec: snapshot.id.to_string(), what });
    }
    let replaced = replaced(repository, snapshot)?;
    manifest.replaces = Some(snapshot.id);
    let (id, _) = repository.put_manifest(&manifest)?;
    successors.read.insert(id);
    let beside = successors.look()?;
    if let Some(other) = beside.lower_than(id) {
        return give_way(repository, id, other, now);
    }
    // What the old one replaced was hidden by it, and goes before it.
    let old: Vec<SnapshotId> = replaced.into_iter().chain([snapshot.id]).collect();
    note(repository, &old, id, now)?;
    old.into_iter().try_for_each(|old| delete(repository, old))?;
    if let Some(other) = successors.look()?.lower_than(id) {
        return give_way(repository, id, other, now);
    }
    match beside.come.first() {
        // The old one was gone: that run had looked for the last time before this one's manifest was there.
        Some(other) if !beside.is_there && repository.manifest(other.id).is_ok() => {
            let what =
                format!("it is there twice, as {id} and {}: forget one ('snap prune --forget')", other.id);
            Err(at_the_same_time(snapshot.id, &what))
        }
        _ => Ok(Tried::Done(Snapshot { id, manifest })),
    }
}

/// Notes in a manifest which of its suspects are right as they are.
fn accept(manifest: &mut Manifest, components: &[String], id: SnapshotId) -> Result<(), RepoError> {
    let suspects = manifest.suspects();
    let mut accepted = manifest.accepted();
    for name in components {
        if !suspects.iter().any(|suspect| suspect.component == *name) {
            let known: Vec<&str> = suspects.iter().map(|suspect| suspect.component.as_str()).collect();
            let known = if known.is_empty() { "no component".to_owned() } else { known.join(", ") };
            let reason = format!("is not suspect in snapshot {id}; {known} is");
            return Err(RepoError::Source { path: format!("component {name}"), reason });
        }
        if !accepted.contains(name) {
            accepted.push(name.clone());
        }
    }
    if accepted != manifest.accepted() {
        let bytes = wire::encode(&accepted).map_err(|e| RepoError::record(&"snapshots/", e))?;
        manifest.set_fact(facts::ACCEPTED, bytes);
    }
    Ok(())
}

/// Takes back what this run has put, for another run's that stays.
fn give_way(
    repository: &Repository,
    own: SnapshotId,
    other: &Snapshot,
    now: Time,
) -> Result<Tried, RepoError> {
    note(repository, &[own], other.id, now)?;
    delete(repository, own)?;
    Ok(Tried::Overtaken(other.clone()))
}

/// Notes that another manifest has taken the place of these, before they go.
fn note(repository: &Repository, old: &[SnapshotId], new: SnapshotId, now: Time) -> Result<(), RepoError> {
    let row = |id: &SnapshotId| ForgottenRow {
        id: *id,
        time: None,
        rule: format!("{new} has taken its place"),
        is_by_hand: false,
        is_replaced: true,
    };
    repository.note_forgotten(now, 0, old.iter().map(row).collect()).map(drop)
}

/// Removes a manifest, unless somebody else has.
fn delete(repository: &Repository, id: SnapshotId) -> Result<(), RepoError> {
    match repository.store().delete(&Name::Snapshot(id)) {
        Err(e) if !e.is_missing() => Err(e.into()),
        _ => Ok(()),
    }
}

/// Returns what a snapshot replaces and is there still, the oldest first: a run was cut off before it removed that.
fn replaced(repository: &Repository, snapshot: &Snapshot) -> Result<Vec<SnapshotId>, RepoError> {
    let mut chain = Vec::new();
    let mut next = snapshot.manifest.replaces;
    while let Some(id) = next.filter(|id| !chain.contains(id)) {
        next = match repository.manifest(id) {
            Ok(manifest) => manifest.replaces,
            Err(RepoError::Store(e)) if e.is_missing() => break,
            Err(e) if e.is_damage() => None, // what it replaced is in sight already
            Err(e) => return Err(e),
        };
        chain.push(id);
    }
    chain.reverse();
    Ok(chain)
}

/// Looks for manifests that replace a snapshot.
struct Successors<'s> {
    repository: &'s Repository,
    of: SnapshotId,
    /// Manifests that need not be read again.
    read: BTreeSet<SnapshotId>,
}

/// What a look has found.
struct Looked {
    /// Manifests that replace the snapshot and that were not there before, by ascending name.
    come: Vec<Snapshot>,
    /// Whether the snapshot is there itself.
    is_there: bool,
}

impl Looked {
    fn lower_than(&self, id: SnapshotId) -> Option<&Snapshot> {
        self.come.first().filter(|first| first.id < id)
    }
}

impl<'s> Successors<'s> {
    fn of(repository: &'s Repository, id: SnapshotId) -> Self {
        Self { repository, of: id, read: BTreeSet::from([id]) }
    }

    /// Lists the manifests, and reads those that are new.
    fn look(&mut self) -> Result<Looked, RepoError> {
        let mut looked = Looked { come: Vec::new(), is_there: false };
        for found in self.repository.store().list(Folder::Snapshots)? {
            let Some(Name::Snapshot(id)) = found.name else { continue };
            looked.is_there |= id == self.of;
            if self.read.insert(id)
                && let Ok(manifest) = self.repository.manifest(id)
                && manifest.replaces == Some(self.of)
            {
                looked.come.push(Snapshot { id, manifest });
            }
        }
        Ok(looked)
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::repo::sample::plain;
    use crate::stage::snapshot::Manifest;
    use crate::store::MemoryStore;

    const NOW: Time = Time { seconds: 1_767_000_000, nanos: 0 };

    /// Returns a repository of one snapshot, and the snapshot.
    fn scene(disk: &MemoryStore) -> (Repository, Snapshot) {
        let repository = plain(disk.clone());
        let manifest =
            Manifest { time: Time::new(1_767_000_000, 0), host: "a".to_owned(), ..Manifest::default() };
        let (id, _) = repository.put_manifest(&manifest).unwrap();
        (repository, Snapshot { id, manifest })
    }

    fn adding(tag: &str) -> Change {
        Change { add: vec![tag.to_owned()], ..Change::default() }
    }

    fn manifests(disk: &MemoryStore) -> usize {
        disk.files().keys().filter(|path| path.starts_with("snapshots/")).count()
    }

    #[test]
    fn what_an_interrupted_tag_has_left_does_not_come_back() {
        let disk = MemoryStore::default();
        let (repository, mut snapshot) = scene(&disk);
        for tags in 1..=3 {
            let before = disk.files();
            snapshot = tag(&repository, &snapshot, &adding(&format!("tag {tags}")), NOW).unwrap();
            // As if the power had gone before the old ones were removed.
            for (path, bytes) in before.into_iter().filter(|(path, _)| path.starts_with("snapshots/")) {
                repository.store().put_new(&Name::parse(&path).unwrap(), &bytes).unwrap();
            }
            assert_eq!(manifests(&disk), 1 + tags, "all are there");
            let all = repository.snapshots().unwrap().all;
            assert_eq!((all.len(), all[0].id), (1, snapshot.id));
        }
        let tagged = tag(&repository, &snapshot, &adding("last"), NOW).unwrap();
        assert_eq!(repository.snapshots().unwrap().all, [tagged]);
        assert_eq!(manifests(&disk), 1);
    }

    #[test]
    fn a_suspect_is_accepted_once_and_what_is_none_is_refused() {
        let disk = MemoryStore::default();
        let (repository, plain) = scene(&disk);
        let accepting = |name: &str| Change { accept: vec![name.to_owned()], ..Change::default() };
        let refused = tag(&repository, &plain, &accepting("mail"), NOW).unwrap_err().to_string();
        assert!(refused.contains("component mail: is not suspect in snapshot"), "{refused}");
        let mut manifest = plain.manifest;
        let suspect = facts::Suspect { component: "mail".to_owned(), reason: "nothing is there".to_owned() };
        manifest.set_fact(facts::SUSPECTS, wire::encode(&vec![suspect]).unwrap());
        let (id, _) = repository.put_manifest(&manifest).unwrap();
        let suspect = Snapshot { id, manifest };
        assert!(tag(&repository, &suspect, &accepting("mysql"), NOW).is_err());
        let accepted = tag(&repository, &suspect, &accepting("mail"), NOW).unwrap();
        assert_eq!(accepted.manifest.suspicion("mail"), None);
        assert_eq!(accepted.manifest.replaces, Some(id));
        assert_eq!(tag(&repository, &accepted, &accepting("mail"), NOW).unwrap(), accepted, "once is enough");
    }

    #[test]
    fn a_snapshot_that_another_run_has_tagged_meanwhile_gets_both_tags() {
        let disk = MemoryStore::default();
        let (repository, snapshot) = scene(&disk);
        tag(&repository, &snapshot, &adding("a"), NOW).unwrap();
        let tagged = tag(&repository, &snapshot, &adding("b"), NOW).unwrap();
        assert_eq!(tagged.manifest.tags, ["a", "b"]);
        assert_eq!(repository.snapshots().unwrap().all, [tagged]);
        repository.store().delete(&Name::Snapshot(repository.snapshots().unwrap().all[0].id)).unwrap();
        let gone = tag(&repository, &snapshot, &adding("c"), NOW);
        assert!(
            matches!(gone, Err(RepoError::NoSnapshot { .. })),
            "a snapshot that was forgotten stays away"
        );
    }

    #[test]
    fn two_runs_that_tag_a_snapshot_at_once_never_lose_it_and_say_if_it_is_there_twice() {
        for _ in 0..50 {
            let disk = MemoryStore::default();
            let (repository, snapshot) = scene(&disk);
            let (one, other) = std::thread::scope(|scope| {
                let other = scope.spawn(|| tag(&repository, &snapshot, &adding("b"), NOW).is_ok());
                (tag(&repository, &snapshot, &adding("a"), NOW).is_ok(), other.join().unwrap())
            });
            let all = repository.snapshots().unwrap().all;
            assert!(all.len() == 1 || (all.len() == 2 && !(one && other)), "{} are there", all.len());
            if one && other {
                assert_eq!(all[0].manifest.tags, ["a", "b"]);
            }
        }
    }
}
