//! A snapshot → the same snapshot with other tags.

use crate::base::id::SnapshotId;
use crate::repo::{RepoError, Repository, Snapshot};
use crate::store::Name;

/// Which tags change.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Tags to add. One that is there already stays.
    pub add: Vec<String>,
    /// Tags to take away. One that is not there is no error.
    pub remove: Vec<String>,
}

/// Gives a snapshot other tags; returns its new name, or the old one if nothing changes.
///
/// A manifest is written once, so a new one takes the old one's place: it is durable, and says so,
/// before the old one goes.
///
/// # Errors
/// [`RepoError::Store`]: the snapshot is there, with the old tags or the new.
pub fn tag(repository: &Repository, snapshot: &Snapshot, change: &Change) -> Result<SnapshotId, RepoError> {
    if !repository.is_enrolled() {
        return Err(repository.not_enrolled()); // it may be another one, put in the place of ours
    }
    let mut manifest = snapshot.manifest.clone();
    manifest.tags.extend(change.add.iter().cloned());
    manifest.tags.retain(|tag| !change.remove.contains(tag));
    manifest.tags.sort();
    manifest.tags.dedup();
    if manifest.tags == snapshot.manifest.tags {
        return Ok(snapshot.id);
    }
    manifest.replaces = Some(snapshot.id);
    let (id, _) = repository.put_manifest(&manifest)?;
    match repository.store().delete(&Name::Snapshot(snapshot.id)) {
        Err(e) if !e.is_missing() => Err(e.into()),
        _ => Ok(id),
    }
}
