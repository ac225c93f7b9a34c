//! A disk with no room left → room for what is to be written: packs go that nothing needs, as many as it takes.

use std::collections::{BTreeSet, VecDeque};

use crate::base::id::PackId;
use crate::repo::index::read_fragment;
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, Name};

/// Packs that nothing needs, and that may go before anything else is written. Only under the exclusive lock
/// (`docs/durability.md`, "On a full disk").
pub struct Room<'r> {
    repository: &'r Repository,
    packs: VecDeque<PackId>,
}

impl<'r> Room<'r> {
    /// Takes the packs that may go, those first that go first; none where nothing may.
    pub fn of(repository: &'r Repository, packs: impl IntoIterator<Item = PackId>) -> Self {
        Self { repository, packs: packs.into_iter().collect() }
    }

    /// Calls `write`; while the disk is full, a pack goes, and it is called again.
    ///
    /// # Errors
    /// What `write` returns; a full disk only once all packs are gone.
    pub fn write<T>(&mut self, mut write: impl FnMut() -> Result<T, RepoError>) -> Result<T, RepoError> {
        loop {
            match write() {
                Err(e) if e.is_full() => match self.packs.pop_front() {
                    Some(pack) => delete(self.repository, &Name::Pack(pack))?,
                    None => return Err(e),
                },
                written => return written,
            }
        }
    }

    /// As [`Self::write`], for what may stay unwritten: none if there is no room for it even with all packs gone.
    ///
    /// # Errors
    /// As [`Self::write`], but for a full disk.
    pub fn write_if_it_fits<T>(
        &mut self,
        write: impl FnMut() -> Result<T, RepoError>,
    ) -> Result<Option<T>, RepoError> {
        match self.write(write) {
            Err(e) if e.is_full() => Ok(None),
            written => written.map(Some),
        }
    }
}

/// Removes a file. One that is gone already is no error.
///
/// # Errors
/// [`RepoError::Store`].
pub fn delete(repository: &Repository, name: &Name) -> Result<(), RepoError> {
    match repository.store().delete(name) {
        Err(e) if !e.is_missing() => Err(e.into()),
        _ => Ok(()),
    }
}

/// The packs and fragments that were there at some moment.
pub struct Before {
    names: BTreeSet<Name>,
}

impl Before {
    /// Lists them.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn now(repository: &Repository) -> Result<Self, RepoError> {
        let mut names = BTreeSet::new();
        for folder in [Folder::Packs, Folder::Index] {
            names.extend(repository.store().list(folder)?.into_iter().filter_map(|found| found.name));
        }
        Ok(Self { names })
    }

    /// Removes the packs that came since and that no fragment lists: what could not be finished is to take no room. The
    /// caller holds the lock alone since before [`Self::now`], so nobody else has put them there, or rests on them.
    ///
    /// # Errors
    /// [`RepoError::Store`], or as [`read_fragment`].
    pub fn restore(&self, repository: &Repository) -> Result<(), RepoError> {
        let (mut new, mut listed) = (Vec::new(), BTreeSet::new());
        for name in Self::now(repository)?.names.difference(&self.names) {
            match name {
                Name::Pack(id) => new.push(*id),
                Name::Fragment(id) => {
                    listed.extend(read_fragment(repository, *id)?.packs.into_iter().map(|pack| pack.id));
                }
                _ => {}
            }
        }
        new.retain(|id| !listed.contains(id));
        new.into_iter().try_for_each(|id| delete(repository, &Name::Pack(id)))
    }
}
