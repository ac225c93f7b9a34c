//! The folder `condemned/`: what prune has marked. Its loss only un-marks.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::condemned::Condemned;
use crate::base::id::{CondemnedId, PackId};
use crate::base::limits::RECORD_BYTES_CAP;
use crate::base::time::Time;
use crate::base::wire::{self, RecordKind, WireError};
use crate::repo::open::read_named;
use crate::repo::{RepoError, Repository};
use crate::stage::seal::{open_record, seal_record};
use crate::store::{Folder, Name, StoreError};

/// What the seal of a condemned list is bound to.
const CONDEMNED_PURPOSE: &str = "snap v1 condemned";

/// Memory that all lists may take together, in bytes.
const MARKS_MEMORY_MAX: usize = 512 << 20;

/// All that is marked.
#[derive(Debug, Default)]
pub struct Marks {
    /// The lists, by name.
    pub lists: BTreeMap<CondemnedId, Condemned>,
    /// Lists that can't be read, and why.
    pub unreadable: Vec<(CondemnedId, RepoError)>,
}

impl Marks {
    /// Returns the packs that are to go, each with the earliest time; of several, the latest counts.
    pub fn packs(&self) -> BTreeMap<PackId, Time> {
        let mut packs: BTreeMap<PackId, Time> = BTreeMap::new();
        for list in self.lists.values() {
            for id in &list.packs {
                let due = packs.entry(*id).or_insert(list.due);
                *due = list.due.max(*due);
            }
        }
        packs
    }

    /// Returns the frames that new snapshots keep away from.
    pub fn closed(&self) -> BTreeSet<(PackId, u16)> {
        let rows = self.lists.values().flat_map(|list| &list.closed);
        rows.flat_map(|row| row.frames.iter().map(|frame| (row.pack, *frame))).collect()
    }
}

impl Repository {
    /// Reads all lists of what is condemned. One that can't be read is in the answer; so is one for which there is no
    /// memory beside the others: 512 MiB.
    ///
    /// # Errors
    /// [`RepoError::Store`] if they can't be listed.
    pub fn marks(&self) -> Result<Marks, RepoError> {
        let mut marks = Marks::default();
        let mut memory_bytes = 0;
        for found in self.store().list(Folder::Condemned)? {
            let Some(Name::Condemned(id)) = found.name else { continue };
            match self.condemned(id) {
                Ok(list) if memory_bytes + list.memory_bytes() > MARKS_MEMORY_MAX => {
                    let what =
                        "all lists together name more than any repository has: some of them were forged";
                    marks.unreadable.push((id, RepoError::record(&found.path, WireError::record(what))));
                }
                Ok(list) => {
                    memory_bytes += list.memory_bytes();
                    marks.lists.insert(id, list);
                }
                Err(RepoError::Store(e)) if e.is_missing() => {} // swept meanwhile
                Err(e) => marks.unreadable.push((id, e)),
            }
        }
        Ok(marks)
    }

    /// Reads one list.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::NameMismatch`], [`RepoError::Record`], [`RepoError::Seal`].
    pub fn condemned(&self, id: CondemnedId) -> Result<Condemned, RepoError> {
        let name = Name::Condemned(id);
        let bytes = read_named(self.store(), &name, RECORD_BYTES_CAP as u64)?;
        let sealed = wire::unwrap(RecordKind::Condemned, &bytes).map_err(|e| RepoError::record(&name, e))?;
        let record = open_record(self.writer_keys().metadata(), CONDEMNED_PURPOSE, sealed);
        wire::decode(&record.map_err(|e| RepoError::seal(&name, e))?).map_err(|e| RepoError::record(&name, e))
    }

    /// Makes a list durable: from then on who opens the index stays away from what it names.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn put_condemned(&self, list: &Condemned) -> Result<CondemnedId, RepoError> {
        let bytes = self.build_condemned(list)?;
        let id = CondemnedId::from_bytes(*blake3::hash(&bytes).as_bytes());
        match self.store().put_new(&Name::Condemned(id), &bytes) {
            Ok(()) | Err(StoreError::Taken { .. }) => Ok(id), // the same bytes
            Err(e) => Err(e.into()),
        }
    }

    /// Finds out whether a list could be made durable now. Nothing is left of it.
    ///
    /// # Errors
    /// [`RepoError::Store`]: it could not.
    pub fn try_condemned(&self, list: &Condemned) -> Result<(), RepoError> {
        let bytes = self.build_condemned(list)?;
        Ok(self.store().begin()?.write(&bytes)?)
    }

    fn build_condemned(&self, list: &Condemned) -> Result<Vec<u8>, RepoError> {
        let path = "condemned/";
        let record = wire::encode(list).map_err(|e| RepoError::record(&path, e))?;
        let sealed = seal_record(self.writer_keys().metadata(), CONDEMNED_PURPOSE, record);
        Ok(wire::wrap(RecordKind::Condemned, &sealed.map_err(|e| RepoError::seal(&path, e))?))
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::base::condemned::ClosedFrames;
    use crate::repo::sample::plain;
    use crate::store::MemoryStore;

    #[test]
    fn a_small_list_that_expands_to_a_huge_one_takes_no_memory() {
        let repository = plain(MemoryStore::default());
        let list = |frames: usize| Condemned {
            time: Time::new(0, 0),
            due: Time::new(1, 0),
            packs: Vec::new(),
            closed: vec![ClosedFrames { pack: PackId::from_bytes([1; 32]), frames: vec![7; frames] }],
        };
        let good = repository.put_condemned(&list(10)).unwrap();
        repository.put_condemned(&list(9_000_000)).unwrap();
        let marks = repository.marks().unwrap();
        assert_eq!((marks.lists.keys().collect::<Vec<_>>(), marks.unreadable.len()), (vec![&good], 1));
    }
}
