//! Notes of what was removed on purpose: readable.

use crate::op::check::findings::{Findings, told};
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, Name};

/// Reads the files under `forgotten/`.
///
/// # Errors
/// [`RepoError::Store`] if they can't be listed.
pub fn check_forgotten(repository: &Repository, findings: &mut Findings) -> Result<(), RepoError> {
    for file in repository.store().list(Folder::Forgotten)? {
        if !matches!(file.name, Some(Name::Forgotten(_))) {
            findings.foreign(file.path);
        }
    }
    for (path, error) in &repository.forgotten()?.unreadable {
        let what = told(error, path);
        findings.damage(
            path,
            format!("{what}; it notes which snapshots were removed on purpose: put back a good copy of it, or remove it: what it named counts as lost then, and 'snap sync' keeps it in the bucket"),
        );
    }
    Ok(())
}
