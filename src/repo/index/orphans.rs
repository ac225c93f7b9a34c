//! Packs that no fragment lists.

use std::collections::HashSet;

use crate::base::id::PackId;
use crate::base::progress::Progress;
use crate::repo::index::Index;
use crate::repo::{RepoError, Repository};
use crate::stage::index::PackEntry;
use crate::store::Name;

impl Index {
    /// Returns the packs that no fragment lists: a run was killed, or a fragment is gone. Those that are
    /// condemned are not among them. Whether they are whole, [`Self::prove_orphans`] finds out.
    pub fn orphans(&self) -> &[PackEntry] {
        &self.orphans
    }

    /// Returns those of them that were hashed and are what their names stand for.
    pub fn proven_orphans(&self) -> impl Iterator<Item = &PackEntry> {
        let unproven: HashSet<PackId> =
            self.unproven.iter().filter_map(|number| Some(self.packs.get(number)?.id)).collect();
        self.orphans.iter().filter(move |pack| !unproven.contains(&pack.id))
    }

    /// Hashes the packs that no fragment lists: those that are what their names stand for are
    /// [`Self::orphans`] from now on, to which a new snapshot may refer; the others count as lost. Returns why. Reads
    /// each pack once.
    pub fn prove_orphans(&mut self, repository: &Repository) -> Vec<(String, RepoError)> {
        let mut problems = Vec::new();
        for pack in std::mem::take(&mut self.orphans) {
            let number = self.packs.iter().find(|(_, row)| row.id == pack.id).map(|(number, _)| *number);
            let name = Name::Pack(pack.id);
            match (repository.prove(&name, pack.bytes, &Progress::default()), number) {
                (Ok(()), Some(number)) => {
                    self.unproven.remove(&number);
                    self.orphans.push(pack);
                }
                (Err(e), Some(number)) => {
                    self.lost.insert(number);
                    problems.push((name.to_string(), e));
                }
                (_, None) => {}
            }
        }
        problems
    }
}
