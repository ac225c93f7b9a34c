//! Refuses what a restore can't do or should not, and says what the snapshot itself lacks.

use crate::base::entry::{Kind, quoted};
use crate::op::restore::Request;
use crate::repo::RepoError;
use crate::repo::browse::Place;
use crate::stage::snapshot::{Component, Manifest, Status};

/// Checks what is asked for against what the snapshot has.
///
/// # Errors
/// [`RepoError::Source`]; nothing was changed.
pub fn check(manifest: &Manifest, request: &Request<'_>) -> Result<(), RepoError> {
    if !request.components.is_empty() && !is_whole(request) {
        let reason = "picks from a whole snapshot: leave it out, or leave out the path after the snapshot";
        return Err(refused("--component", reason));
    }
    for name in &request.components {
        component(&manifest.components, name)?;
    }
    if request.delete && !request.include.is_empty() {
        let reason =
            "goes with whole directories: leave out --include, or name a directory after the snapshot";
        return Err(refused("--delete", reason));
    }
    if request.delete && manifest.lacks_total > manifest.lacks.len() as u64 {
        let reason = format!(
            "this snapshot lacks entries that could not be backed up ({}), more than it names, and the target may hold the only copy; leave out --delete, or name a snapshot that is complete",
            manifest.lacks_total
        );
        return Err(refused("--delete", reason));
    }
    Ok(())
}

/// Checks what is asked for against what lies at its path.
///
/// # Errors
/// As [`check`].
pub fn check_place(place: &Place, request: &Request<'_>) -> Result<(), RepoError> {
    let Place::Entry(record) = place else { return Ok(()) };
    if request.delete && record.entry()?.kind != Kind::Directory {
        let reason = format!(
            "goes with whole directories, and {} is none: leave out --delete, or name the directory that holds it",
            quoted(&request.path)
        );
        return Err(refused("--delete", reason));
    }
    Ok(())
}

/// Returns what is asked for as a path, if it is a single component: both spellings mean the same.
pub fn resolved<'a>(manifest: &Manifest, request: &Request<'a>) -> Request<'a> {
    let mut request = request.clone();
    if let [name] = request.components.as_slice()
        && let Some(component) = manifest.components.iter().find(|component| component.name == *name)
    {
        request.path = component.directory.clone();
        request.components.clear();
    }
    request
}

/// Returns the directories of the root that are asked for; none if all are.
pub fn directories(manifest: &Manifest, request: &Request<'_>) -> Vec<Vec<u8>> {
    let wanted = manifest.components.iter().filter(|component| request.components.contains(&component.name));
    wanted.map(|component| component.directory.clone()).collect()
}

/// Returns what the snapshot lacks, with how many entries each concerns. What components lack that were not
/// asked for is no matter.
pub fn warnings(manifest: &Manifest, request: &Request<'_>) -> Vec<(String, u64)> {
    let mut asked =
        manifest.components.iter().filter(|component| request.components.contains(&component.name));
    let is_concerned =
        request.components.is_empty() || asked.any(|component| component.status != Status::Complete);
    let lacking = (is_concerned && manifest.lacks_total > 0).then(|| {
        ("the snapshot itself lacks entries that could not be backed up".to_owned(), manifest.lacks_total)
    });
    let is_all = request.components.is_empty() && is_whole(request);
    let failed = manifest.components.iter().filter(|component| is_all && is_failed(component));
    let failed = failed.map(|component| {
        (format!("component {} could not be backed up: the snapshot has nothing of it", component.name), 1)
    });
    failed.chain(lacking).collect()
}

fn component(there: &[Component], name: &str) -> Result<(), RepoError> {
    let what = format!("--component {name}");
    match there.iter().find(|component| component.name == name) {
        None => {
            let there: Vec<&str> = there.iter().map(|component| component.name.as_str()).collect();
            let reason = format!("no such component in this snapshot; it has: {}", there.join(", "));
            Err(refused(&what, reason))
        }
        Some(component) if is_failed(component) => {
            let reason = "could not be backed up: this snapshot has nothing of it; name an older snapshot";
            Err(refused(&what, reason))
        }
        Some(_) => Ok(()),
    }
}

fn is_failed(component: &Component) -> bool {
    component.status == Status::Failed
}

/// Returns whether the whole snapshot is asked for, not a path in it.
pub fn is_whole(request: &Request<'_>) -> bool {
    request.path.iter().all(|byte| *byte == b'/')
}

fn refused(what: &str, reason: impl ToString) -> RepoError {
    RepoError::Source { path: what.to_owned(), reason: reason.to_string() }
}
