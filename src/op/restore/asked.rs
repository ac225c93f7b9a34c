//! Refuses what a restore can't do or should not, and says what the snapshot itself lacks.

use std::path::Path;

use crate::op::restore::Request;
use crate::repo::RepoError;
use crate::stage::scan::{FolderId, folder_id};
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
    if !request.delete {
        return Ok(());
    }
    let failed = manifest.components.iter().find(|component| is_failed(component));
    if manifest.lacks_total > 0 || failed.is_some() {
        let what = match failed {
            Some(component) => format!("component {}, which could not be backed up", component.name),
            None => format!("entries that could not be backed up ({})", manifest.lacks_total),
        };
        let reason = format!(
            "this snapshot lacks {what}, and the target may hold the only copy; leave out --delete, or name a snapshot that is complete"
        );
        return Err(refused("--delete", reason));
    }
    if request.own_directory.is_some_and(|own| lies_in(&request.target, own)) {
        return Err(refused("--delete", "the target lies in the repository; name another target"));
    }
    Ok(())
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

/// Returns whether a directory, or one above it, is the folder `own`.
fn lies_in(path: &Path, own: FolderId) -> bool {
    let Ok(path) = path.canonicalize() else { return false }; // not made yet
    path.ancestors().any(|above| folder_id(above) == Some(own))
}

fn refused(what: &str, reason: impl ToString) -> RepoError {
    RepoError::Source { path: what.to_owned(), reason: reason.to_string() }
}
