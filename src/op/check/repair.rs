//! What can be made anew from what is there, without guessing. Removes nothing but the cache.

use std::collections::BTreeSet;

use crate::base::id::PackId;
use crate::base::progress::Progress;
use crate::base::units::counted;
use crate::op::check::cache::{CacheState, shown_path};
use crate::op::check::findings::{Findings, MEND_PACK};
use crate::op::check::keys::KeysFound;
use crate::op::check::ledger::Ledger;
use crate::repo::config::Encryption;
use crate::repo::index::{Index, read_directory, remove_cache};
use crate::repo::listing::Listing;
use crate::repo::{RepoError, Repository};
use crate::stage::index::PackEntry;
use crate::store::Name;

/// A repository, and what a check has found that may be made anew.
pub struct Repair<'r> {
    /// The repository.
    pub repository: &'r Repository,
    /// What it should hold.
    pub ledger: &'r Ledger,
    /// What its key files hold.
    pub keys: &'r KeysFound,
    /// Packs that are to be listed and that no fragment lists.
    pub orphans: &'r [PackId],
    /// Packs whose bytes were hashed already and found right.
    pub whole: &'r BTreeSet<PackId>,
    /// What comparing the cache showed.
    pub cache: CacheState,
    /// Turned; and asked whether to stop.
    pub progress: &'r Progress,
}

impl Repair<'_> {
    /// Repairs what can be; returns what was done. Reads packs that are to be listed, each once.
    ///
    /// # Errors
    /// [`RepoError::Store`] if something can't be written, [`RepoError::Interrupted`]; what was done before
    /// stays.
    pub fn run(&self, findings: &mut Findings) -> Result<Vec<String>, RepoError> {
        let mut done = Vec::new();
        seal_writer(self.repository, self.keys, &mut done)?;
        self.list_anew(findings, &mut done)?;
        let is_listed = !done.is_empty();
        let Some(path) = self.repository.index_path() else { return Ok(done) };
        let is_unfit = self.cache == CacheState::Unfit;
        if is_unfit && path.exists() {
            let failed = |e: std::io::Error| RepoError::Source {
                path: path.display().to_string(),
                reason: format!("cannot be removed: {e}"),
            };
            remove_cache(path).map_err(failed)?;
        }
        if is_unfit || is_listed {
            drop(Index::open(self.repository)?);
            if is_unfit && path.exists() {
                done.push(format!("{}: made anew from the fragments", shown_path(self.repository, path)));
            }
        }
        Ok(done)
    }

    /// Writes fragments for packs that are whole and that no fragment lists.
    fn list_anew(&self, findings: &mut Findings, done: &mut Vec<String>) -> Result<(), RepoError> {
        let mut listing = Listing::new(self.repository);
        for id in self.orphans {
            let Some(bytes) = self.ledger.packs.get(id).and_then(|pack| pack.found) else { continue };
            if !self.whole.contains(id) && !self.is_whole(*id, bytes)? {
                let what = "the bytes are not the ones its name stands for, and it was not listed anew";
                findings.damage(Name::Pack(*id), format!("{what}; {MEND_PACK}"));
                continue;
            }
            let Ok(directory) = read_directory(self.repository, *id, bytes) else { continue };
            listing.add(&PackEntry { id: *id, bytes, directory })?;
        }
        for (id, packs) in listing.finish()?.fragments() {
            done.push(format!(
                "{}: lists {} that no fragment listed",
                Name::Fragment(id),
                counted(packs as u64, "pack", "packs")
            ));
        }
        Ok(())
    }

    /// Returns whether a pack's bytes are what its name stands for.
    fn is_whole(&self, id: PackId, bytes: u64) -> Result<bool, RepoError> {
        match self.repository.prove(&Name::Pack(id), bytes, self.progress) {
            Err(RepoError::Interrupted) => Err(RepoError::Interrupted),
            proven => Ok(proven.is_ok()),
        }
    }
}

/// Seals the writer secret to the recipients that are there, if no file holds it any more.
fn seal_writer(repository: &Repository, keys: &KeysFound, done: &mut Vec<String>) -> Result<(), RepoError> {
    let is_needed = repository.config().encryption == Encryption::Age && keys.sealed.is_empty();
    if !is_needed || keys.recipients.is_empty() {
        return Ok(());
    }
    // To whom content is sealed, which is not always whom the files there name: who can take files away must not
    // make this look like a removal.
    let recipients = match repository.sealed_to() {
        Ok(sealed_to) => sealed_to.recipients,
        Err(_) => keys.recipients.clone(),
    };
    repository.seal_writer_anew(&recipients, |number| match repository.remembers() {
        true => repository.remember_these(&recipients, number),
        false => Ok(()),
    })?;
    let count = recipients.len();
    done.push(format!("keys/: the writer secret of this machine, sealed to {count} recipients"));
    Ok(())
}
