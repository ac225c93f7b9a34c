//! Durable packs → fragments that list them.

use crate::base::id::{FragmentId, PackId};
use crate::base::limits::FRAGMENT_CHUNKS_MAX;
use crate::repo::config::Encryption;
use crate::repo::index::{put_fragment, read_fragment};
use crate::repo::{RepoError, Repository};
use crate::stage::index::{EachFragment, Fragment, PackEntry};
use crate::stage::seal::random;

/// Lists packs. A fragment is made durable as soon as it is full, so that no more than one is in memory: a run
/// that ends before its manifest leaves packs which are listed and which nothing needs, as it leaves packs
/// that are not listed.
pub struct Listing<'l> {
    repository: &'l Repository,
    open: Fragment,
    chunks: usize,
    done: Listed,
}

/// Packs that fragments list, all durable.
#[derive(Debug, Default)]
pub struct Listed {
    /// The packs, in the order in which they were added.
    pub packs: Vec<PackId>,
    /// Their length together, in bytes.
    pub pack_bytes: u64,
    /// The fragments' length together, in bytes.
    pub fragment_bytes: u64,
    /// The fragments but the last.
    earlier: Vec<FragmentId>,
    last: Option<(FragmentId, Fragment)>,
}

impl<'l> Listing<'l> {
    /// Begins.
    pub fn new(repository: &'l Repository) -> Self {
        Self { repository, open: Fragment::default(), chunks: 0, done: Listed::default() }
    }

    /// Adds a pack that is durable; makes a fragment durable if it is full.
    ///
    /// # Errors
    /// [`RepoError::Store`]; fragments that were made before stay.
    pub fn add(&mut self, pack: PackEntry) -> Result<(), RepoError> {
        self.done.packs.push(pack.id);
        self.done.pack_bytes += pack.bytes;
        self.chunks += pack.directory.chunk_count();
        self.open.packs.push(pack);
        match self.chunks >= FRAGMENT_CHUNKS_MAX {
            true => self.put(),
            false => Ok(()),
        }
    }

    /// Returns the length of all packs together, in bytes.
    pub fn pack_bytes(&self) -> u64 {
        self.done.pack_bytes
    }

    /// Makes the last fragment durable.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn finish(mut self) -> Result<Listed, RepoError> {
        if !self.open.packs.is_empty() {
            self.put()?;
        }
        Ok(self.done)
    }

    fn put(&mut self) -> Result<(), RepoError> {
        self.done.earlier.extend(self.done.last.take().map(|(id, _)| id));
        let mut fragment = std::mem::take(&mut self.open);
        self.chunks = 0;
        if self.repository.config().encryption == Encryption::None {
            fragment.replaces.push(nobody()?);
        }
        let (id, bytes) = put_fragment(self.repository, &fragment)?;
        self.done.fragment_bytes += bytes;
        self.done.last = Some((id, fragment));
        Ok(())
    }
}

impl Listed {
    /// Calls `each` with every fragment. All but the last are read.
    ///
    /// # Errors
    /// As [`read_fragment`]; it ends there.
    pub fn each(&self, repository: &Repository, each: &mut EachFragment<'_>) -> Result<(), RepoError> {
        for id in &self.earlier {
            each(*id, &read_fragment(repository, *id)?);
        }
        self.last.iter().for_each(|(id, fragment)| each(*id, fragment));
        Ok(())
    }
}

/// Returns a name that no fragment has. Without encryption it sees to it that a fragment has no earlier
/// one's name: that one may be replaced, and the new one would count as replaced with it.
fn nobody() -> Result<FragmentId, RepoError> {
    let mut bytes = [0; FragmentId::BYTES];
    random(&mut bytes).map_err(|_| RepoError::System { what: "random bytes" })?;
    Ok(FragmentId::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::content::ChunkRef;
    use crate::base::directory::{Directory, FrameRow};
    use crate::base::id::ChunkId;
    use crate::base::time::Time;
    use crate::repo::Opening;
    use crate::repo::config::Choices;
    use crate::repo::index::{Index, fragments_present};
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

    #[test]
    fn a_fragment_is_durable_once_it_is_full_and_no_pack_is_left_out() {
        let state = tempfile::tempdir().unwrap();
        let disk = MemoryStore::default();
        let choices = Choices { encryption: Encryption::None, ..Choices::default() };
        let opening =
            Opening { store: Arc::new(disk.clone()), state: state.path(), index: None, secrets: &NoSecrets };
        let repository = Repository::create(&opening, choices, None, &[], Time::new(0, 0)).unwrap();
        let fragments = || fragments_present(&disk).unwrap().len();
        let mut listing = Listing::new(&repository);
        let durable = (1..=5).map(|seed| {
            listing.add(pack(seed)).unwrap();
            fragments()
        });
        assert_eq!(durable.collect::<Vec<_>>(), [0, 1, 1, 2, 2]);
        let listed = listing.finish().unwrap();
        assert_eq!(fragments(), 3);
        assert_eq!((listed.packs.len(), listed.pack_bytes), (5, 10_000));
        let mut given = Vec::new();
        listed.each(&repository, &mut |id, fragment| given.push((id, fragment.packs.clone()))).unwrap();
        let packs: Vec<PackEntry> = given.iter().flat_map(|(_, packs)| packs.clone()).collect();
        assert_eq!(packs, (1..=5).map(pack).collect::<Vec<_>>());
        let index = Index::open_without_cache(&repository).unwrap();
        assert_eq!(index.packs().count(), 5, "each is listed");
        crate::store::Store::delete(&disk, &crate::store::Name::Fragment(given[0].0)).unwrap();
        assert!(listed.each(&repository, &mut |_, _| {}).is_err(), "a fragment that is gone is no silence");
    }
}
