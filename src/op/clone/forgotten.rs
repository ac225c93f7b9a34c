//! What was removed on purpose and is still in the source: brought back, and no longer noted as removed.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::forgotten::Forgotten;
use crate::base::id::SnapshotId;
use crate::base::time::Time;
use crate::op::clone::copy::{Did, listed};
use crate::op::clone::ours::Ours;
use crate::repo::forgotten::Notes;
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, Name, StoreError};

/// A snapshot that was removed on purpose and is back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brought {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its time.
    pub time: Time,
    /// When it was removed.
    pub removed: Time,
    /// On which machine.
    pub host: String,
    /// By which rule.
    pub rule: String,
}

/// Reads the notes of a source. Those that can't be read are told: what they name counts as never removed.
///
/// # Errors
/// [`RepoError::Store`] if they can't be listed.
pub fn notes_of(source: &Repository, did: &mut Did) -> Result<Notes, RepoError> {
    let mut notes = source.forgotten()?;
    for (path, error) in std::mem::take(&mut notes.unreadable) {
        match Name::parse(&path) {
            Some(name) => did.tell(&name, error),
            None => did.report.lost.push((path, error.chain())),
        }
    }
    Ok(notes)
}

/// Returns those of the manifests that were removed on purpose and are to be in the copy, with who did it.
pub fn brought(ours: &Ours, notes: &Notes) -> Vec<Brought> {
    let rows = notes.rows();
    let brought = ours.manifests.iter().filter_map(|(snapshot, _)| {
        let (note, row) = rows.get(&snapshot.id)?;
        Some(Brought {
            id: snapshot.id,
            time: snapshot.manifest.time,
            removed: note.time,
            host: note.host.clone(),
            rule: row.rule.clone(),
        })
    });
    brought.collect()
}

/// Notes in the copy what was removed on purpose, but for what is there: a snapshot that is there and noted as removed
/// could be lost unseen.
///
/// # Errors
/// [`RepoError::Store`].
pub fn put_notes(copy: &Repository, notes: &Notes) -> Result<(), RepoError> {
    let there: BTreeSet<Name> = listed(copy.store(), Folder::Snapshots)?.into_keys().collect();
    let is_there = |id: &SnapshotId| there.contains(&Name::Snapshot(*id));
    let own = copy.forgotten()?;
    let known: BTreeMap<SnapshotId, _> = own.rows();
    let rest = |note: &Forgotten, is_left: &dyn Fn(&SnapshotId) -> bool| {
        let rows = note.rows.iter().filter(|row| is_left(&row.id)).cloned().collect();
        Forgotten { rows, ..note.clone() }
    };
    let has_rows = |note: &Forgotten| !note.rows.is_empty();
    let new = notes.each().map(|note| rest(note, &|id| !is_there(id) && !known.contains_key(id)));
    let new: Vec<Forgotten> = new.filter(has_rows).collect();
    if !new.is_empty() {
        copy.put_forgotten(&new)?;
    }
    for (id, some) in &own.all {
        let left: Vec<Forgotten> = some.iter().map(|note| rest(note, &|id| !is_there(id))).collect();
        if left == *some {
            continue;
        }
        let left: Vec<Forgotten> = left.into_iter().filter(has_rows).collect();
        if !left.is_empty() {
            copy.put_forgotten(&left)?;
        }
        match copy.store().delete(&Name::Forgotten(*id)) {
            Ok(()) | Err(StoreError::Missing { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
