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
use crate::store::{Folder, Name};

/// What the seal of a note is bound to.
const FORGOTTEN_PURPOSE: &str = "snap v1 forgotten";

/// Memory that all notes may take together, in bytes: more than a million snapshots.
const NOTES_MEMORY_MAX: usize = 256 << 20;

/// All that is noted.
#[derive(Debug, Default)]
pub struct Notes {
    /// The notes, by name.
    pub all: BTreeMap<ForgottenId, Forgotten>,
    /// Notes that can't be read, and why: what they name counts as lost.
    pub unreadable: Vec<(String, RepoError)>,
}

impl Notes {
    /// Returns who has removed each snapshot, and by which rule; of several notes the oldest.
    pub fn rows(&self) -> BTreeMap<SnapshotId, (&Forgotten, &ForgottenRow)> {
        let mut rows: BTreeMap<SnapshotId, (&Forgotten, &ForgottenRow)> = BTreeMap::new();
        for note in self.all.values() {
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
        self.put_forgotten(&Forgotten { time, host, there, rows, extra: Vec::new() })
    }

    /// Makes a note durable.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn put_forgotten(&self, note: &Forgotten) -> Result<ForgottenId, RepoError> {
        let path = "forgotten/";
        let record = wire::encode(note).map_err(|e| RepoError::record(&path, e))?;
        let sealed = seal_record(self.writer_keys().metadata(), FORGOTTEN_PURPOSE, record);
        let bytes = wire::wrap(RecordKind::Forgotten, &sealed.map_err(|e| RepoError::seal(&path, e))?);
        let id = ForgottenId::from_bytes(*blake3::hash(&bytes).as_bytes());
        self.store().put_new(&Name::Forgotten(id), &bytes)?;
        Ok(id)
    }

    /// Reads one note.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::NameMismatch`], [`RepoError::Record`], [`RepoError::Seal`].
    pub fn read_forgotten(&self, id: ForgottenId) -> Result<Forgotten, RepoError> {
        let name = Name::Forgotten(id);
        let bytes = read_named(self.store(), &name, RECORD_BYTES_CAP as u64)?;
        let sealed = wire::unwrap(RecordKind::Forgotten, &bytes).map_err(|e| RepoError::record(&name, e))?;
        let record = open_record(self.writer_keys().metadata(), FORGOTTEN_PURPOSE, sealed);
        wire::decode(&record.map_err(|e| RepoError::seal(&name, e))?).map_err(|e| RepoError::record(&name, e))
    }

    /// Reads all notes. One that can't be read is in the answer; so is one for which there is no memory beside the
    /// others: 256 MiB.
    ///
    /// # Errors
    /// [`RepoError::Store`] if they can't be listed.
    pub fn forgotten(&self) -> Result<Notes, RepoError> {
        let mut notes = Notes::default();
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
                Ok(note) if memory_bytes + note.memory_bytes() > NOTES_MEMORY_MAX => {
                    let what =
                        "all notes together name more than any repository has had: some of them were forged";
                    let error = RepoError::record(&name, WireError::record(what));
                    notes.unreadable.push((name.to_string(), error));
                }
                Ok(note) => {
                    memory_bytes += note.memory_bytes();
                    notes.all.insert(id, note);
                }
                Err(RepoError::Store(e)) if e.is_missing() => {} // gone meanwhile
                Err(e) => notes.unreadable.push((name.to_string(), e)),
            }
        }
        Ok(notes)
    }
}
