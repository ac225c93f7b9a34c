//! The folder `forgotten/`: what was removed on purpose. A snapshot that is gone and not noted here was lost.

use std::collections::BTreeMap;

use crate::base::forgotten::{Forgotten, ForgottenRow};
use crate::base::id::{ForgottenId, SnapshotId};
use crate::base::limits::RECORD_BYTES_CAP;
use crate::base::time::Time;
use crate::base::wire::{self, RecordKind, WireError};
use crate::repo::key_ring::read_side_by_side;
use crate::repo::open::read_named;
use crate::repo::{RepoError, Repository};
use crate::stage::seal::{open_record, seal_record};
use crate::store::{Folder, Name, StoreError};

/// What the seal of a note is bound to.
const FORGOTTEN_PURPOSE: &str = "snap v1 forgotten";

/// From so many files on they become one.
const GATHERED_FROM: usize = 32;

/// How often all are read while others gather them.
const TRIES: usize = 3;

/// Memory that all notes may take together, in bytes: more than a million snapshots.
const NOTES_MEMORY_MAX: usize = 256 << 20;

/// All that is noted.
#[derive(Debug, Default)]
pub struct Notes {
    /// The notes, by the file that holds them.
    pub all: BTreeMap<ForgottenId, Vec<Forgotten>>,
    /// Notes that can't be read, and why: what they name counts as lost.
    pub unreadable: Vec<(String, RepoError)>,
}

impl Notes {
    /// Returns all notes.
    pub fn each(&self) -> impl Iterator<Item = &Forgotten> {
        self.all.values().flatten()
    }

    /// Returns who has removed each snapshot, and by which rule; of several notes the oldest.
    pub fn rows(&self) -> BTreeMap<SnapshotId, (&Forgotten, &ForgottenRow)> {
        let mut rows: BTreeMap<SnapshotId, (&Forgotten, &ForgottenRow)> = BTreeMap::new();
        for note in self.each() {
            for row in &note.rows {
                let known = rows.entry(row.id).or_insert((note, row));
                if note.time < known.0.time {
                    *known = (note, row);
                }
            }
        }
        rows
    }
}

impl Repository {
    /// Notes durably that snapshots are about to be removed, before they are; `there` are those that there were before.
    ///
    /// # Errors
    /// [`RepoError::Store`]: nothing may be removed then.
    pub fn note_forgotten(
        &self,
        time: Time,
        there: u64,
        rows: Vec<ForgottenRow>,
    ) -> Result<ForgottenId, RepoError> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.put_forgotten(&[Forgotten { time, host, there, rows, extra: Vec::new() }])
    }

    /// Makes notes durable, in one file.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn put_forgotten(&self, notes: &[Forgotten]) -> Result<ForgottenId, RepoError> {
        let path = "forgotten/";
        let record = wire::encode(&notes.to_vec()).map_err(|e| RepoError::record(&path, e))?;
        let sealed = seal_record(self.writer_keys().metadata(), FORGOTTEN_PURPOSE, record);
        let bytes = wire::wrap(RecordKind::Forgotten, &sealed.map_err(|e| RepoError::seal(&path, e))?);
        let id = ForgottenId::from_bytes(*blake3::hash(&bytes).as_bytes());
        self.store().put_new(&Name::Forgotten(id), &bytes)?;
        Ok(id)
    }

    /// Reads the notes of one file.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::NameMismatch`], [`RepoError::Record`], [`RepoError::Seal`].
    pub fn read_forgotten(&self, id: ForgottenId) -> Result<Vec<Forgotten>, RepoError> {
        let name = Name::Forgotten(id);
        let bytes = read_named(self.store(), &name, RECORD_BYTES_CAP as u64)?;
        let sealed = wire::unwrap(RecordKind::Forgotten, &bytes).map_err(|e| RepoError::record(&name, e))?;
        let record = open_record(self.writer_keys().metadata(), FORGOTTEN_PURPOSE, sealed);
        wire::decode(&record.map_err(|e| RepoError::seal(&name, e))?).map_err(|e| RepoError::record(&name, e))
    }

    /// Reads all notes. A file that can't be read is in the answer; so is one for which there is no memory beside the
    /// others: 256 MiB. While another run gathers them, they are read again.
    ///
    /// # Errors
    /// [`RepoError::Store`] if they can't be listed.
    pub fn forgotten(&self) -> Result<Notes, RepoError> {
        for _ in 1..TRIES {
            let (notes, is_all) = self.read_notes()?;
            if is_all {
                return Ok(notes);
            }
        }
        Ok(self.read_notes()?.0)
    }

    /// Reads all notes, and returns whether no file went meanwhile: what it held may be in one that was not listed.
    fn read_notes(&self) -> Result<(Notes, bool), RepoError> {
        let (mut notes, mut is_all) = (Notes::default(), true);
        let mut memory_bytes = 0;
        let names: Vec<Name> =
            self.store().list(Folder::Forgotten)?.into_iter().filter_map(|found| found.name).collect();
        let read = |name: &Name| match name {
            Name::Forgotten(id) => Some((*id, self.read_forgotten(*id))),
            _ => None,
        };
        for (name, read) in read_side_by_side(&names, read) {
            let Some((id, read)) = read else { continue };
            match read {
                Ok(some) => {
                    let bytes: usize = some.iter().map(Forgotten::memory_bytes).sum();
                    if memory_bytes + bytes > NOTES_MEMORY_MAX {
                        let what = "all notes together name more than any repository has had: some of them were forged";
                        let error = RepoError::record(&name, WireError::record(what));
                        notes.unreadable.push((name.to_string(), error));
                        continue;
                    }
                    memory_bytes += bytes;
                    notes.all.insert(id, some);
                }
                Err(RepoError::Store(e)) if e.is_missing() => is_all = false,
                Err(e) => notes.unreadable.push((name.to_string(), e)),
            }
        }
        Ok((notes, is_all))
    }

    /// Puts all notes into one file once there are many files: whoever reads them reads few. The old files go when the new
    /// one is durable.
    ///
    /// # Errors
    /// [`RepoError::Store`]; every note is there, perhaps twice.
    pub fn gather_forgotten(&self) -> Result<(), RepoError> {
        let notes = self.forgotten()?;
        if notes.all.len() < GATHERED_FROM {
            return Ok(());
        }
        let mut each: Vec<Forgotten> = notes.each().cloned().collect();
        each.sort_by(|a, b| (a.time, &a.host).cmp(&(b.time, &b.host)));
        each.dedup();
        let gathered = self.put_forgotten(&each)?;
        for id in notes.all.keys().filter(|id| **id != gathered) {
            match self.store().delete(&Name::Forgotten(*id)) {
                Ok(()) | Err(StoreError::Missing { .. }) => {} // another run gathers them as well
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::sample::plain;
    use crate::store::MemoryStore;

    #[test]
    fn many_notes_are_gathered_in_one_file_and_none_is_lost() {
        let disk = MemoryStore::default();
        let repository = plain(disk.clone());
        let files = || disk.files().keys().filter(|path| path.starts_with("forgotten/")).count();
        for night in 0..100u8 {
            let row = ForgottenRow {
                id: SnapshotId::from_bytes([night; 32]),
                time: None,
                rule: "the oldest".to_owned(),
                is_by_hand: false,
                is_replaced: false,
            };
            repository.note_forgotten(Time::new(i64::from(night), 0), 30, vec![row]).unwrap();
            repository.gather_forgotten().unwrap();
            assert!(files() < GATHERED_FROM);
            let notes = repository.forgotten().unwrap();
            assert_eq!(
                (notes.each().count(), notes.rows().len()),
                (1 + usize::from(night), 1 + usize::from(night))
            );
        }
    }
}
