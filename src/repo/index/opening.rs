//! Fragments, the cache of them, packs and marks → an index that is open.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::base::id::{FragmentId, PackId};
use crate::base::wire::WireError;
use crate::repo::condemned::Marks;
use crate::repo::index::refresh::{build, discard, refresh};
use crate::repo::index::{Index, Presence, fragments_present, read_directory, read_fragment, read_fragments};
use crate::repo::{RepoError, Repository};
use crate::stage::index::{CacheError, Fragment, PackEntry};
use crate::store::{Folder, Name, Store};

/// Memory for fragments that are read to be looked at once more, in bytes; what does not fit is read again.
const FRAGMENTS_MEMORY_MAX: usize = 64 << 20;

/// What an index is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// All that an index is for.
    Any,
    /// Snapshots are read, and nothing is written.
    Reading,
}

impl Index {
    /// Opens the index. The cache is brought up to date with the fragments; if it can't be written
    /// (another process has it open), what it lacks is kept in memory. Packs that no fragment lists
    /// are read from their own directories. A cache that is damaged is made anew, and that is said.
    ///
    /// # Errors
    /// [`RepoError::Store`] if the folders can't be listed. A damaged fragment or pack is no error:
    /// see [`Self::problems`].
    pub fn open(repository: &Repository) -> Result<Self, RepoError> {
        Self::open_for(repository, Purpose::Any)
    }

    /// As [`Self::open`], for who only reads snapshots: where the packs, or what is condemned, can't be listed,
    /// that is a problem of [`Self::problems`], and all packs that fragments list are taken for whole. Nothing can
    /// be stored then: [`Self::find_lasting`] fails.
    ///
    /// # Errors
    /// [`RepoError::Store`] if the fragments can't be listed.
    pub fn open_to_read(repository: &Repository) -> Result<Self, RepoError> {
        Self::open_for(repository, Purpose::Reading)
    }

    fn open_for(repository: &Repository, purpose: Purpose) -> Result<Self, RepoError> {
        let Some(path) = repository.index_path() else { return Self::in_memory(repository, purpose) };
        let mut index = Self::with_cache(repository, path, purpose);
        if let Err(RepoError::Cache(CacheError::Failed { what })) = &index
            && discard(path, what)
        {
            index = Self::with_cache(repository, path, purpose);
        }
        match index {
            Err(RepoError::Cache(_)) => Self::in_memory(repository, purpose),
            index => index,
        }
    }

    fn with_cache(repository: &Repository, path: &Path, purpose: Purpose) -> Result<Self, RepoError> {
        let present = fragments_present(repository.store())?;
        let (cache, lacks) = refresh(repository, path, &present)?;
        let mut index = Self { cache, ..Self::default() };
        let live = index.read_fragments(repository, lacks, FRAGMENTS_MEMORY_MAX);
        index.finish(repository, live, purpose)?;
        Ok(index)
    }

    /// Makes a cache at `path`, where nothing lies yet, and opens the index with it.
    ///
    /// # Errors
    /// [`RepoError::Cache`] if it can't be made; else as [`Self::open`].
    pub fn open_anew(repository: &Repository, path: &Path) -> Result<Self, RepoError> {
        let present = fragments_present(repository.store())?;
        let (cache, lacks) = build(repository, path, &present)?;
        let mut index = Self { cache, ..Self::default() };
        let live = index.read_fragments(repository, lacks, FRAGMENTS_MEMORY_MAX);
        index.finish(repository, live, Purpose::Any)?;
        Ok(index)
    }

    /// Opens the index from the fragments and packs alone, in memory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_without_cache(repository: &Repository) -> Result<Self, RepoError> {
        Self::in_memory(repository, Purpose::Any)
    }

    /// As [`Self::open_without_cache`], for who only reads snapshots.
    ///
    /// # Errors
    /// As [`Self::open_to_read`].
    pub fn open_in_memory(repository: &Repository) -> Result<Self, RepoError> {
        Self::in_memory(repository, Purpose::Reading)
    }

    fn in_memory(repository: &Repository, purpose: Purpose) -> Result<Self, RepoError> {
        let mut index = Self::default();
        let present = fragments_present(repository.store())?;
        let live = index.read_fragments(repository, present, FRAGMENTS_MEMORY_MAX);
        index.finish(repository, live, purpose)?;
        Ok(index)
    }

    /// Reads fragments; those that another one replaces are left out. What can't be read is noted. Beyond
    /// `memory_max` bytes they are left to be read again, one by one.
    fn read_fragments(
        &mut self,
        repository: &Repository,
        ids: BTreeSet<FragmentId>,
        memory_max: usize,
    ) -> Vec<(FragmentId, Option<Fragment>)> {
        let mut read = BTreeMap::new();
        let mut replaced = BTreeSet::new();
        let mut memory_bytes = 0;
        let all: Vec<FragmentId> = ids.iter().copied().collect();
        read_fragments(repository, &all, |id, fragment| match fragment {
            Ok(fragment) => {
                replaced.extend(fragment.replaces.iter().copied().filter(|other| ids.contains(other)));
                let bytes = memory_bytes + fragment.memory_bytes();
                let is_kept = bytes <= memory_max;
                memory_bytes = if is_kept { bytes } else { memory_bytes };
                read.insert(id, is_kept.then_some(fragment));
            }
            Err(e) => self.problems.push((Name::Fragment(id).to_string(), e)),
        });
        read.into_iter().filter(|(id, _)| !replaced.contains(id)).collect()
    }

    /// Compares what is indexed with the packs that are there.
    fn finish(
        &mut self,
        repository: &Repository,
        live: Vec<(FragmentId, Option<Fragment>)>,
        purpose: Purpose,
    ) -> Result<(), RepoError> {
        let marks = repository.marks();
        let marks = self.if_listed(Folder::Condemned, marks, purpose)?.unwrap_or_default();
        let condemned = marks.packs();
        let there = packs_present(repository.store());
        let there = self.if_listed(Folder::Packs, there, purpose)?;
        let presence = |id: &PackId, listed: u64| match &there {
            Some(there) => Presence::of(listed, there.get(id).copied()),
            None => Presence::Whole, // who reads it finds out
        };
        let mut listed = BTreeSet::new();
        if let Some(cache) = &self.cache {
            for (number, row) in cache.packs()? {
                if presence(&row.id, row.bytes) != Presence::Whole {
                    self.lost.insert(number);
                }
                listed.insert(row.id);
                self.packs.insert(number, row);
            }
        }
        for (id, fragment) in live {
            let path = Name::Fragment(id).to_string();
            let fragment = match fragment.map_or_else(|| read_fragment(repository, id), Ok) {
                Ok(fragment) => fragment,
                Err(e) => {
                    self.problems.push((path, e));
                    continue;
                }
            };
            for pack in fragment.packs {
                let presence = presence(&pack.id, pack.bytes);
                if presence != Presence::Gone && !pack.has_room() {
                    let what = format!("pack {} cannot hold as many chunks as are listed", pack.id);
                    self.problems.push((path.clone(), RepoError::record(&path, WireError::record(what))));
                } else if listed.insert(pack.id) {
                    self.add(&pack, presence);
                }
            }
        }
        for (id, bytes) in there.into_iter().flatten().filter(|(id, _)| !listed.contains(id)) {
            match read_directory(repository, id, bytes) {
                Ok(directory) => {
                    let pack = PackEntry { id, bytes, directory };
                    let number = self.add(&pack, Presence::Whole);
                    self.unproven.insert(number);
                    if !self.is_blind && !condemned.contains_key(&id) {
                        self.orphans.push(pack);
                    }
                }
                Err(e) => self.problems.push((Name::Pack(id).to_string(), e)),
            }
        }
        self.mark(&marks);
        Ok(())
    }

    /// Returns what a folder holds. If it can't be listed, who only reads goes on without.
    fn if_listed<T>(
        &mut self,
        folder: Folder,
        listed: Result<T, RepoError>,
        purpose: Purpose,
    ) -> Result<Option<T>, RepoError> {
        match listed {
            Err(e @ RepoError::Store(_)) if purpose == Purpose::Reading => {
                self.is_blind = true;
                self.problems.push((format!("{}/", folder.name()), e));
                Ok(None)
            }
            listed => listed.map(Some),
        }
    }

    /// Marks what is condemned.
    fn mark(&mut self, marks: &Marks) {
        let (condemned, closed) = (marks.packs(), marks.closed());
        if condemned.is_empty() && closed.is_empty() {
            return;
        }
        for (number, row) in &self.packs {
            if condemned.contains_key(&row.id) {
                self.condemned.insert(*number);
            }
            let frames = closed.range((row.id, 0)..=(row.id, u16::MAX));
            self.closed.extend(frames.map(|(_, frame)| (*number, *frame)));
        }
    }
}

/// Returns the packs that are there now, with the length of each.
fn packs_present(store: &dyn Store) -> Result<BTreeMap<PackId, u64>, RepoError> {
    let found = store.list(Folder::Packs)?.into_iter();
    Ok(found
        .filter_map(|found| match found.name {
            Some(Name::Pack(id)) => Some((id, found.bytes)),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::base::content::ChunkRef;
    use crate::base::directory::{Directory, FrameRow};
    use crate::base::id::ChunkId;
    use crate::repo::index::put_fragment;
    use crate::repo::sample::plain;
    use crate::store::MemoryStore;

    const PACK_BYTES: u64 = 2000;

    /// Puts a pack, and a fragment that says it has so many chunks.
    fn listed(repository: &Repository, seed: u8, chunk_count: u32) {
        let chunk = |n: u32| {
            let mut id = [seed; ChunkId::BYTES];
            id[..4].copy_from_slice(&n.to_le_bytes());
            ChunkRef { id: ChunkId::from_bytes(id), bytes: 1 }
        };
        let mut directory = Directory::default();
        let row = FrameRow { offset: 100, bytes: 200, raw_bytes: chunk_count, chunk_count };
        directory.push(row, &(0..chunk_count).map(chunk).collect::<Vec<_>>());
        let id = PackId::from_bytes([seed; 32]);
        repository.store().put_new(&Name::Pack(id), &vec![0; PACK_BYTES as usize]).unwrap();
        let pack = PackEntry { id, bytes: PACK_BYTES, directory };
        put_fragment(repository, &Fragment { packs: vec![pack], replaces: Vec::new() }).unwrap();
    }

    #[test]
    fn fragments_that_do_not_fit_into_memory_together_are_read_again() {
        let repository = plain(MemoryStore::default());
        (1..=5).for_each(|seed| listed(&repository, seed, 100));
        let present = fragments_present(repository.store()).unwrap();
        let mut index = Index::default();
        let live = index.read_fragments(&repository, present, 5000);
        assert_eq!(live.iter().filter(|(_, fragment)| fragment.is_some()).count(), 2);
        index.finish(&repository, live, Purpose::Any).unwrap();
        assert_eq!(index.chunks_in_memory().len(), 500);
        assert_eq!(index.chunks_in_memory(), Index::open(&repository).unwrap().chunks_in_memory());
    }

    #[test]
    fn a_fragment_that_lists_more_chunks_than_a_pack_can_hold_takes_no_memory() {
        let repository = plain(MemoryStore::default());
        listed(&repository, 1, 100);
        listed(&repository, 2, 16_000);
        let index = Index::open(&repository).unwrap();
        assert_eq!(index.chunks_in_memory().len(), 100);
        assert!(
            index.problems().iter().any(|(_, e)| e.chain().contains("cannot hold")),
            "{:?}",
            index.problems()
        );
    }
}
