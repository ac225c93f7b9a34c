//! Manifests → those that stay and those that go; and the deletion of the latter.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::forgotten::ForgottenRow;
use crate::base::id::SnapshotId;
use crate::base::units::counted;
use crate::op::prune::gradual::would_have_gone;
use crate::op::prune::policy::{PIN, Policy};
use crate::op::prune::{Fate, Judged, Request};
use crate::repo::whose::is_ahead;
use crate::repo::{RepoError, Repository, Snapshot};
use crate::store::{Folder, Name};

/// What becomes of all manifests.
pub struct Judgement {
    /// All snapshots, oldest first.
    pub rows: Vec<Judged>,
    /// Those that stay.
    pub kept: Vec<Snapshot>,
    /// Manifests to delete, in this order.
    pub gone: Vec<SnapshotId>,
    /// Why the run is to be refused unless it is forced.
    pub refusals: Vec<String>,
}

/// Judges all manifests.
///
/// # Errors
/// [`RepoError::Refused`] if one can't be read and was not named, if a pinned one was named, or,
/// unless it is a dry run or forced, if so many would go that it looks like a mistake.
pub fn judge(repository: &Repository, request: &Request<'_>) -> Result<Judgement, RepoError> {
    let named: BTreeSet<SnapshotId> = request.forget.iter().copied().collect();
    let (snapshots, superseded, lost) = read_all(repository, &named)?;
    let is_pinned = |snapshot: &&Snapshot| snapshot.manifest.tags.iter().any(|tag| tag == PIN);
    if let Some(pinned) = snapshots.iter().filter(|s| named.contains(&s.id)).find(is_pinned) {
        let id = pinned.id;
        return Err(refused(format!(
            "snapshot {id} is pinned; 'snap tag {id} --remove {PIN}' takes the pin away"
        )));
    }
    let fates = request.policy.judge(&snapshots, &named, request.now, &request.zone);
    let refusals = doubts(&snapshots, &fates, &named, request);
    if let Some(first) = refusals.first()
        && !request.force
        && !request.dry_run
    {
        return Err(refused(format!("{first}; look at it with --dry-run, and use --force if it is meant")));
    }
    let rows = snapshots.iter().zip(&fates).map(|(snapshot, fate)| row(snapshot, fate.clone())).collect();
    let (kept, gone): (Vec<_>, Vec<_>) =
        snapshots.into_iter().zip(fates).partition(|(_, fate)| fate.is_kept());
    // One that was replaced goes before what replaced it: else it would come back.
    let gone = superseded.into_iter().chain(lost).chain(gone.into_iter().map(|(snapshot, _)| snapshot.id));
    Ok(Judgement {
        rows,
        kept: kept.into_iter().map(|(snapshot, _)| snapshot).collect(),
        gone: gone.collect(),
        refusals,
    })
}

fn refused(what: String) -> RepoError {
    RepoError::Refused { what }
}

/// Snapshots that count; manifests that another one replaced; manifests that can't be read and were named.
type Read = (Vec<Snapshot>, Vec<SnapshotId>, Vec<SnapshotId>);

fn read_all(repository: &Repository, named: &BTreeSet<SnapshotId>) -> Result<Read, RepoError> {
    let snapshots = repository.snapshots()?;
    let mut lost = Vec::new();
    let mut unknown = Vec::new();
    for (path, error) in &snapshots.unreadable {
        match Name::parse(path) {
            Some(Name::Snapshot(id)) if snapshots.replaced.contains(&id) => {}
            Some(Name::Snapshot(id)) if named.contains(&id) && error.is_damage() && !error.is_newer() => {
                lost.push(id)
            }
            _ => unknown.push(error.chain()),
        }
    }
    if let Some(first) = unknown.first() {
        return Err(refused(format!(
            "what {} of the manifests need is not known, so nothing is removed: {first}; put back a good copy, or give it up with --forget and its id",
            unknown.len()
        )));
    }
    Ok((snapshots.all, snapshots.replaced, lost))
}

fn row(snapshot: &Snapshot, fate: Fate) -> Judged {
    let manifest = &snapshot.manifest;
    Judged {
        id: snapshot.id,
        time: manifest.time,
        host: manifest.host.clone(),
        tags: manifest.tags.clone(),
        components: manifest.components.iter().map(|component| component.name.clone()).collect(),
        fate,
    }
}

/// Says what makes a removal by policy look like a mistake.
fn doubts(
    snapshots: &[Snapshot],
    fates: &[Fate],
    named: &BTreeSet<SnapshotId>,
    request: &Request<'_>,
) -> Vec<String> {
    let (policy, now) = (&request.policy, request.now);
    if policy.is_empty() || policy.is_a_number() {
        return Vec::new(); // nothing goes, or whoever says how many means it
    }
    let dated: Vec<usize> =
        (0..snapshots.len()).filter(|at| !is_ahead(snapshots[*at].manifest.time, now)).collect();
    if dated.is_empty() && !snapshots.is_empty() {
        return vec![format!(
            "the clock is wrong: {} here, each dated after the time that it shows",
            counted(snapshots.len() as u64, "snapshot is", "snapshots are")
        )];
    }
    let expired: BTreeSet<usize> =
        dated.iter().copied().filter(|at| matches!(fates[*at], Fate::Expired)).collect();
    let is_much = expired.len() > dated.len() / 2;
    // What several nights left undone is no mistake, if each night would have removed little by the same rules.
    let is_backlog = || request.is_usual && would_have_gone(snapshots, named, request).is_superset(&expired);
    if is_much && !is_backlog() {
        let (gone, all) = (expired.len(), counted(dated.len() as u64, "snapshot", "snapshots"));
        return vec![format!("the policy would remove {gone} of {all}, more than half")];
    }
    Vec::new()
}

/// Notes the manifests that are to go, then deletes them. One that is gone already is no error. On a full disk with
/// `at_once` manifests go until there is room for the note: as long as it is not there, they count as lost, and a bucket
/// keeps them. Returns whether it could be written.
///
/// # Errors
/// [`RepoError::Store`]; those before it are gone.
pub fn forget(repository: &Repository, judged: &Judgement, request: &Request<'_>) -> Result<bool, RepoError> {
    let mut gone = judged.gone.iter();
    let mut is_noted = judged.gone.is_empty();
    while !is_noted {
        let noted = repository.note_forgotten(request.now, judged.rows.len() as u64, rows(judged, request));
        match (noted, request.at_once) {
            (Ok(_), _) => is_noted = true,
            (Err(e), true) if e.is_full() => match gone.next() {
                Some(id) => delete(repository, *id)?,
                None => break,
            },
            (Err(e), _) => return Err(e),
        }
    }
    gone.try_for_each(|id| delete(repository, *id))?;
    Ok(is_noted)
}

fn delete(repository: &Repository, id: SnapshotId) -> Result<(), RepoError> {
    match repository.store().delete(&Name::Snapshot(id)) {
        Err(e) if !e.is_missing() => Err(e.into()),
        _ => Ok(()),
    }
}

/// Returns what is noted of each manifest that is to go.
fn rows(judged: &Judgement, request: &Request<'_>) -> Vec<ForgottenRow> {
    let known: BTreeMap<SnapshotId, &Judged> = judged.rows.iter().map(|row| (row.id, row)).collect();
    let rule = in_words(&request.policy);
    let row = |id: &SnapshotId| {
        let known = known.get(id);
        let is_by_hand = request.forget.contains(id);
        ForgottenRow {
            id: *id,
            time: known.map(|row| row.time),
            rule: match (known, is_by_hand) {
                (_, true) => "named to be forgotten".to_owned(),
                (Some(_), false) => rule.clone(),
                (None, false) => "another manifest has taken its place".to_owned(),
            },
            is_by_hand,
            is_replaced: known.is_none() && !is_by_hand,
        }
    };
    judged.gone.iter().map(row).collect()
}

/// Says what a policy keeps.
fn in_words(policy: &Policy) -> String {
    let counts = [
        ("last", policy.keep_last),
        ("daily", policy.keep_daily),
        ("weekly", policy.keep_weekly),
        ("monthly", policy.keep_monthly),
        ("yearly", policy.keep_yearly),
    ];
    let counts = counts.iter().filter(|(_, count)| *count > 0);
    let mut rules: Vec<String> = counts.map(|(name, count)| format!("{name} {count}")).collect();
    rules.extend(policy.keep_within.map(|span| format!("within {span:#}")));
    rules.extend(policy.keep_tags.iter().map(|tag| format!("tag {tag}")));
    rules.extend(policy.tag_spans.iter().map(|rule| format!("tag {} for {:#}", rule.tag, rule.span)));
    format!("not kept by: {}", rules.join(", "))
}

/// Returns the names of all manifests that are there.
///
/// # Errors
/// [`RepoError::Store`].
pub fn manifests_present(repository: &Repository) -> Result<BTreeSet<SnapshotId>, RepoError> {
    let found = repository.store().list(Folder::Snapshots)?;
    let ids = found.into_iter().filter_map(|found| match found.name {
        Some(Name::Snapshot(id)) => Some(id),
        _ => None,
    });
    Ok(ids.collect())
}
