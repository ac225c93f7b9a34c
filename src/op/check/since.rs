//! What runs beside a check have added since it read the ledger: none of it is damage.

use std::collections::BTreeSet;

use crate::base::id::{FragmentId, PackId};
use crate::op::check::findings::Findings;
use crate::op::check::ledger::Ledger;
use crate::repo::index::{fragments_present, read_fragment};
use crate::repo::{RepoError, Repository};
use crate::store::Name;

/// Fragments that are there and were not when the ledger was read.
pub struct Since {
    /// Their names.
    pub fragments: BTreeSet<FragmentId>,
    /// The packs that they list, those that read.
    pub packs: BTreeSet<PackId>,
}

impl Since {
    /// Lists the fragments once more, and reads those that are new. One listing, one read for each.
    ///
    /// # Errors
    /// [`RepoError::Store`] if they can't be listed.
    pub fn read(repository: &Repository, ledger: &Ledger) -> Result<Self, RepoError> {
        let now = fragments_present(repository.store())?;
        let fragments: BTreeSet<FragmentId> = now.difference(&ledger.present).copied().collect();
        let read = fragments.iter().filter_map(|id| read_fragment(repository, *id).ok());
        let packs = read.flat_map(|fragment| fragment.packs).map(|pack| pack.id).collect();
        Ok(Self { fragments, packs })
    }
}

/// Returns the packs that are to be listed and that no fragment lists, now that a run beside this one may
/// have added its own; says so.
///
/// # Errors
/// As [`Since::read`].
pub fn tell_orphans(
    repository: &Repository,
    ledger: &Ledger,
    findings: &mut Findings,
) -> Result<Vec<PackId>, RepoError> {
    if ledger.orphans.is_empty() {
        return Ok(Vec::new());
    }
    let since = Since::read(repository, ledger)?;
    let orphans: Vec<PackId> = ledger.orphans.difference(&since.packs).copied().collect();
    if let Some(first) = orphans.first() {
        findings.notes.push(format!(
            "{}: listed by no fragment, like {} more: of a run that is under way or was killed, or their fragment is lost; the next backup takes them over",
            Name::Pack(*first),
            orphans.len() - 1
        ));
    }
    Ok(orphans)
}
