//! Durable packs → fragments that list them.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use crate::base::id::{FragmentId, PackId};
use crate::base::limits::FRAGMENT_CHUNKS_MAX;
use crate::base::wire;
use crate::repo::index::put_fragment;
use crate::repo::records::{Records, Window};
use crate::repo::{RepoError, Repository};
use crate::stage::index::{EachFragment, Fragment, PackEntry};

/// Packs that are to be listed. What is in them is noted: in memory up to a limit, beyond it in a file without a name
/// beside the index cache; where there is no room for that, in memory after all.
#[must_use = "packs that are not listed are another run's to find"]
pub struct Listing<'l> {
    repository: &'l Repository,
    packs: Vec<Noted>,
    notes: Records,
    /// Where the file would be.
    folder: Option<PathBuf>,
    bytes: u64,
}

/// A pack, and where it is noted.
struct Noted {
    id: PackId,
    at: u64,
    length: usize,
    chunks: usize,
}

/// Packs that fragments list.
#[derive(Default)]
pub struct Listed {
    packs: Vec<Noted>,
    notes: Records,
    /// The fragments, each with its packs among all.
    fragments: Vec<(FragmentId, Range<usize>)>,
    /// Length of the packs together, in bytes.
    pub pack_bytes: u64,
    /// Length of the fragments together, in bytes.
    pub fragment_bytes: u64,
}

impl<'l> Listing<'l> {
    /// Begins.
    pub fn new(repository: &'l Repository) -> Self {
        let folder = repository.index_path().and_then(|path| path.parent()).map(PathBuf::from);
        Self { repository, packs: Vec::new(), notes: Records::default(), folder, bytes: 0 }
    }

    /// Adds a pack that is durable.
    ///
    /// # Errors
    /// [`RepoError::Record`] for one that can't be listed.
    pub fn add(&mut self, pack: &PackEntry) -> Result<(), RepoError> {
        let note = wire::encode(pack).map_err(|e| RepoError::record(&"index/", e))?;
        if self.notes.is_full(note.len()) {
            self.spill();
        }
        let chunks = pack.directory.chunk_count();
        self.packs.push(Noted { id: pack.id, at: self.notes.push(&note), length: note.len(), chunks });
        self.bytes += pack.bytes;
        Ok(())
    }

    fn spill(&mut self) {
        if self.notes.lacks_file() {
            let file: Option<File> = self.folder.take().and_then(|folder| tempfile::tempfile_in(folder).ok());
            let Some(file) = file else { return };
            self.notes.give_file(file);
        }
        if let Err(e) = self.notes.spill() {
            tracing::debug!("what the new packs hold stays in memory: {e}");
        }
    }

    /// Returns the length of all packs together, in bytes.
    pub fn pack_bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes fragments durable that list all packs. Memory: one fragment.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::System`] if what was noted can't be read again; fragments that were made
    /// before stay.
    pub fn finish(self) -> Result<Listed, RepoError> {
        let Self { repository, packs, notes, bytes, .. } = self;
        let mut listed = Listed { packs, notes, pack_bytes: bytes, ..Listed::default() };
        let (mut start, mut chunks) = (0, 0);
        for end in 1..=listed.packs.len() {
            chunks += listed.packs[end - 1].chunks;
            if chunks < FRAGMENT_CHUNKS_MAX && end < listed.packs.len() {
                continue;
            }
            let (id, bytes) = put_fragment(repository, &listed.fragment(start..end)?)?;
            listed.fragments.push((id, start..end));
            listed.fragment_bytes += bytes;
            (start, chunks) = (end, 0);
        }
        Ok(listed)
    }
}

impl Listed {
    /// Returns the packs, in the order in which they were added.
    pub fn packs(&self) -> impl ExactSizeIterator<Item = PackId> {
        self.packs.iter().map(|pack| pack.id)
    }

    /// Returns the fragments, each with the number of its packs.
    pub fn fragments(&self) -> impl Iterator<Item = (FragmentId, usize)> {
        self.fragments.iter().map(|(id, packs)| (*id, packs.len()))
    }

    /// Calls `each` with every fragment. Reads nothing of the store.
    ///
    /// # Errors
    /// [`RepoError::System`] if what was noted can't be read again.
    pub fn each(&self, each: &mut EachFragment<'_>) -> Result<(), RepoError> {
        for (id, packs) in &self.fragments {
            each(*id, &self.fragment(packs.clone())?);
        }
        Ok(())
    }

    fn fragment(&self, packs: Range<usize>) -> Result<Fragment, RepoError> {
        let lost = || RepoError::System { what: "a temporary file beside the index cache" };
        let window = &mut Window::default();
        let packs = self.packs[packs].iter().map(|pack| {
            let note = self.notes.get(pack.at, pack.length, window).map_err(|_| lost())?;
            wire::decode(note).map_err(|_| lost())
        });
        Ok(Fragment { packs: packs.collect::<Result<_, _>>()?, replaces: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::base::content::ChunkRef;
    use crate::base::directory::{Directory, FrameRow};
    use crate::base::id::ChunkId;
    use crate::base::time::Time;
    use crate::repo::Opening;
    use crate::repo::config::{Choices, Encryption};
    use crate::repo::index::{fragments_present, read_fragment};
    use crate::repo::keys::NoSecrets;
    use crate::store::MemoryStore;

    const CHUNK_BYTES: u32 = 9;
    const FRAMES: u32 = 7;
    const FRAME_CHUNKS: u32 = 10_000;

    /// Returns a pack of 70,000 chunks, more than half of a full fragment.
    fn pack(seed: u8) -> PackEntry {
        let mut directory = Directory::default();
        for frame in 0..FRAMES {
            let chunks: Vec<ChunkRef> = (0..FRAME_CHUNKS)
                .map(|n| {
                    let mut id = [seed; ChunkId::BYTES];
                    id[..4].copy_from_slice(&(frame * FRAME_CHUNKS + n).to_le_bytes());
                    ChunkRef { id: ChunkId::from_bytes(id), bytes: CHUNK_BYTES }
                })
                .collect();
            let raw_bytes = FRAME_CHUNKS * CHUNK_BYTES;
            let row =
                FrameRow { offset: 100 + frame * 200, bytes: 200, raw_bytes, chunk_count: FRAME_CHUNKS };
            directory.push(row, &chunks);
        }
        PackEntry { id: PackId::from_bytes([seed; 32]), bytes: 2000, directory }
    }

    /// Lists five packs in three fragments.
    fn list_five(index: Option<PathBuf>) -> bool {
        let state = tempfile::tempdir().unwrap();
        let disk = MemoryStore::default();
        let choices = Choices { encryption: Encryption::None, ..Choices::default() };
        let opening =
            Opening { store: Arc::new(disk.clone()), state: state.path(), index, secrets: &NoSecrets };
        let repository = Repository::create(&opening, choices, None, &[], Time::new(0, 0)).unwrap();
        let mut listing = Listing::new(&repository);
        (1..=5).for_each(|seed| listing.add(&pack(seed)).unwrap());
        assert_eq!((listing.pack_bytes(), fragments_present(&disk).unwrap().len()), (10_000, 0));
        let is_spilled = !listing.notes.lacks_file();
        let listed = listing.finish().unwrap();
        assert_eq!(listed.fragments().map(|(_, packs)| packs).collect::<Vec<_>>(), [2, 2, 1]);
        let ids: BTreeSet<FragmentId> = listed.fragments().map(|(id, _)| id).collect();
        assert_eq!(ids, fragments_present(&disk).unwrap());
        let mut given = Vec::new();
        listed.each(&mut |id, fragment| given.push((id, fragment.clone()))).unwrap();
        for (id, fragment) in &given {
            assert_eq!(read_fragment(&repository, *id).unwrap(), *fragment, "as the file says");
        }
        let packs: Vec<PackEntry> = given.into_iter().flat_map(|(_, fragment)| fragment.packs).collect();
        assert_eq!(packs, (1..=5).map(pack).collect::<Vec<_>>(), "none is left out");
        is_spilled
    }

    #[test]
    fn packs_are_listed_from_notes_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(list_five(Some(folder.path().join("index.redb"))), "7 MB do not stay in memory");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
    }

    #[test]
    fn packs_are_listed_from_memory_where_there_can_be_no_file() {
        assert!(!list_five(None));
        assert!(!list_five(Some(PathBuf::from("/dev/null/index.redb"))));
    }
}
