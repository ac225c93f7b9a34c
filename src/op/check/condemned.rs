//! What prune has marked: readable, and what of it is still there.

use std::collections::BTreeSet;

use crate::base::units::{counted, show_bytes};
use crate::op::check::findings::{Findings, told};
use crate::op::check::ledger::Ledger;
use crate::repo::condemned::Marks;
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, Name};

/// Reads the files under `condemned/`.
///
/// # Errors
/// [`RepoError::Store`] if they can't be listed.
pub fn check_condemned(repository: &Repository, findings: &mut Findings) -> Result<Marks, RepoError> {
    for file in repository.store().list(Folder::Condemned)? {
        if !matches!(file.name, Some(Name::Condemned(_))) {
            findings.foreign(file.path);
        }
    }
    let marks = repository.marks()?;
    for (id, error) in &marks.unreadable {
        let path = Name::Condemned(*id).to_string();
        let what = told(error, &path);
        findings.damage(
            path,
            format!("{what}; it only marks what is to go: the next prune removes it and marks anew"),
        );
    }
    Ok(marks)
}

/// Says how much of what is marked waits to be removed.
pub fn tell_condemned(marks: &Marks, ledger: &Ledger, findings: &mut Findings) {
    let (condemned, closed) = (marks.packs(), marks.closed());
    let there = |id| ledger.packs.get(id).and_then(|pack| pack.found);
    let waiting: Vec<u64> = condemned.keys().filter_map(there).collect();
    if !waiting.is_empty() {
        findings.notes.push(format!(
            "condemned/: {} for 'snap prune' to remove, for nothing needs them: {}",
            counted(waiting.len() as u64, "pack waits", "packs wait"),
            show_bytes(waiting.iter().sum())
        ));
    }
    let closed: BTreeSet<_> = closed.iter().filter(|(id, _)| there(id).is_some()).collect();
    if !closed.is_empty() {
        findings.notes.push(format!(
            "condemned/: {} closed: new snapshots do not refer to what is in them",
            counted(closed.len() as u64, "frame is", "frames are")
        ));
    }
}
