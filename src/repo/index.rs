//! Finding a chunk: the cache, brought up to date with the fragments, and what no fragment lists.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::base::directory::Directory;
use crate::base::id::{ChunkId, FragmentId, PackId};
use crate::base::layout::PACK_TRAILER_BYTES;
use crate::base::limits::{PACK_BYTES_CAP, RECORD_BYTES_CAP};
use crate::base::wire::{self, RecordKind, WireError};
use crate::repo::open::read_named;
use crate::repo::{RepoError, Repository};
use crate::stage::dedup::IdHash;
use crate::stage::index::{Cache, CacheError, Fragment, Location, PackEntry, PackNumber, PackRow};
use crate::stage::pack::Trailer;
use crate::stage::seal::{open_record, seal_record};
use crate::store::{Folder, Name, Store};

const FRAGMENT_PURPOSE: &str = "snap v1 fragment";
const DIRECTORY_PURPOSE: &str = "snap v1 pack directory";

/// Numbers of packs that are not in the cache start here.
const OVERLAY_START: u32 = 1 << 31;

/// How a pack that is listed lies in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// As long as it should be.
    Whole,
    /// There, with another length: frames of it may be left.
    Cut,
    /// Not there.
    Gone,
}

impl Presence {
    /// Judges a pack of `listed` bytes of which `found` are there.
    pub fn of(listed: u64, found: Option<u64>) -> Self {
        match found {
            None => Self::Gone,
            Some(found) if found == listed => Self::Whole,
            Some(_) => Self::Cut,
        }
    }
}

/// Where every chunk of a repository lies, as it was when the index was opened.
#[derive(Default)]
pub struct Index {
    cache: Option<Cache>,
    overlay: HashMap<ChunkId, Location, IdHash>,
    /// Further copies, and copies in packs that are cut.
    others: HashMap<ChunkId, Vec<Location>, IdHash>,
    packs: HashMap<PackNumber, PackRow>,
    lost: HashSet<PackNumber>,
    orphans: Vec<PackEntry>,
    problems: Vec<(String, RepoError)>,
}

impl Index {
    /// Opens the index. Fragments that the cache lacks are added to it; if it can't be written
    /// (another process has it open), they are kept in memory. Packs that no fragment lists are
    /// read from their own directories. A cache that is damaged is made anew.
    ///
    /// # Errors
    /// [`RepoError::Store`] if the folders can't be listed. A damaged fragment or pack is no error:
    /// see [`Self::problems`].
    pub fn open(repository: &Repository) -> Result<Self, RepoError> {
        match Self::open_with_cache(repository) {
            Err(RepoError::Cache(_)) => Self::open_without_cache(repository), // it opens, and its rows make no sense
            other => other,
        }
    }

    fn open_with_cache(repository: &Repository) -> Result<Self, RepoError> {
        let present = fragments_present(repository.store())?;
        let mut index = Self::default();
        let missing = match repository.index_path() {
            None => present,
            Some(path) => {
                let opened = Cache::open(path, repository.id());
                let is_broken = matches!(opened, Err(CacheError::Failed { .. } | CacheError::Absent));
                let cached = opened.as_ref().map(|cache| cache.fragments().clone()).unwrap_or_default();
                let is_stale = !cached.is_subset(&present);
                let missing: BTreeSet<FragmentId> = match is_stale {
                    true => present.clone(),
                    false => present.difference(&cached).copied().collect(),
                };
                if missing.is_empty() && !is_stale {
                    index.cache = opened.ok();
                    missing
                } else {
                    drop(opened);
                    index.refresh_cache(repository, path, present, missing, is_stale || is_broken)
                }
            }
        };
        let live = index.read_fragments(repository, missing);
        index.finish(repository, live)?;
        Ok(index)
    }

    /// Opens the index from the fragments and packs alone, in memory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_without_cache(repository: &Repository) -> Result<Self, RepoError> {
        let mut index = Self::default();
        let present = fragments_present(repository.store())?;
        let live = index.read_fragments(repository, present);
        index.finish(repository, live)?;
        Ok(index)
    }

    /// Adds `missing` fragments to the cache at `path` and opens it; returns those of `present` that
    /// it lacks still.
    fn refresh_cache(
        &mut self,
        repository: &Repository,
        path: &std::path::Path,
        present: BTreeSet<FragmentId>,
        missing: BTreeSet<FragmentId>,
        from_scratch: bool,
    ) -> BTreeSet<FragmentId> {
        let fragments = self.read_fragments(repository, missing);
        self.problems.clear(); // they are met again among those that are left
        if from_scratch && matches!(Cache::open(path, repository.id()), Err(CacheError::Failed { .. })) {
            let _ = std::fs::remove_file(path); // a cache: its loss costs a rebuild
        }
        let replaces_known = fragments.iter().any(|(_, fragment)| !fragment.replaces.is_empty());
        let is_needed = from_scratch || !(fragments.is_empty() || replaces_known);
        let is_added = is_needed && Cache::add(path, repository.id(), &fragments, from_scratch).is_ok();
        match Cache::open(path, repository.id()) {
            // What could not be added is kept in memory, beside what the cache has had before.
            Ok(cache) if is_added || !from_scratch => {
                let left = present.difference(cache.fragments()).copied().collect();
                self.cache = Some(cache);
                left
            }
            _ => present,
        }
    }

    /// Reads fragments; those that another one replaces are left out. What can't be read is noted.
    fn read_fragments(
        &mut self,
        repository: &Repository,
        ids: BTreeSet<FragmentId>,
    ) -> Vec<(FragmentId, Fragment)> {
        let mut read = BTreeMap::new();
        for id in ids {
            match read_fragment(repository, id) {
                Ok(fragment) => _ = read.insert(id, fragment),
                Err(e) => self.problems.push((Name::Fragment(id).to_string(), e)),
            }
        }
        let replaced: BTreeSet<FragmentId> = read.values().flat_map(|f| f.replaces.iter().copied()).collect();
        read.into_iter().filter(|(id, _)| !replaced.contains(id)).collect()
    }

    /// Compares what is indexed with the packs that are there.
    fn finish(
        &mut self,
        repository: &Repository,
        live: Vec<(FragmentId, Fragment)>,
    ) -> Result<(), RepoError> {
        let mut there: BTreeMap<PackId, u64> = BTreeMap::new();
        for found in repository.store().list(Folder::Packs)? {
            if let Some(Name::Pack(id)) = found.name {
                there.insert(id, found.bytes);
            }
        }
        let mut listed = BTreeSet::new();
        if let Some(cache) = &self.cache {
            for (number, row) in cache.packs()? {
                if there.get(&row.id) != Some(&row.bytes) {
                    self.lost.insert(number);
                }
                listed.insert(row.id);
                self.packs.insert(number, row);
            }
        }
        for pack in live.into_iter().flat_map(|(_, fragment)| fragment.packs) {
            if listed.insert(pack.id) {
                self.add(&pack, Presence::of(pack.bytes, there.get(&pack.id).copied()));
            }
        }
        for (id, bytes) in there.into_iter().filter(|(id, _)| !listed.contains(id)) {
            match read_directory(repository, id, bytes) {
                Ok(directory) => {
                    let pack = PackEntry { id, bytes, directory };
                    self.add(&pack, Presence::Whole);
                    self.orphans.push(pack);
                }
                Err(e) => self.problems.push((Name::Pack(id).to_string(), e)),
            }
        }
        Ok(())
    }

    /// Adds a pack that is not in the cache. Chunks of a pack that is cut are among
    /// [`Self::others`] only; those of one that is gone are nowhere.
    pub fn add(&mut self, pack: &PackEntry, presence: Presence) {
        let number = PackNumber(OVERLAY_START.saturating_add(u32::try_from(self.packs.len()).unwrap_or(0)));
        self.packs.insert(number, pack.row());
        let (overlay, others) = (&mut self.overlay, &mut self.others);
        match presence {
            Presence::Whole => pack.locations(number, |chunk, location| {
                if let Some(other) = overlay.insert(chunk, location) {
                    others.entry(chunk).or_default().push(other);
                }
            }),
            Presence::Cut => {
                pack.locations(number, |chunk, location| others.entry(chunk).or_default().push(location));
            }
            Presence::Gone => {}
        }
        if presence != Presence::Whole {
            self.lost.insert(number);
        }
    }

    /// Returns where a chunk lies; none if no pack that is there holds it.
    ///
    /// # Errors
    /// [`RepoError::Cache`].
    pub fn find(&self, id: &ChunkId) -> Result<Option<Location>, RepoError> {
        if let Some(location) = self.overlay.get(id) {
            return Ok(Some(*location));
        }
        let Some(cache) = &self.cache else { return Ok(None) };
        // What a damaged cache does not tell counts as absent: a backup stores it again, a reader asks
        // the fragments.
        let found = cache.find(id).unwrap_or(None);
        Ok(found.filter(|location| !self.lost.contains(&location.pack)))
    }

    /// Returns where else a chunk may lie: in further packs, and in what is left of packs that are
    /// cut. What the cache alone knows is not among them.
    pub fn others(&self, id: &ChunkId) -> &[Location] {
        self.others.get(id).map_or(&[], Vec::as_slice)
    }

    /// Returns what is known of a pack.
    pub fn pack(&self, number: PackNumber) -> Option<&PackRow> {
        self.packs.get(&number)
    }

    /// Returns all packs that the index lists, in no order; `true` for those that are gone or cut.
    pub fn packs(&self) -> impl Iterator<Item = (PackNumber, &PackRow, bool)> {
        self.packs.iter().map(|(number, row)| (*number, row, self.lost.contains(number)))
    }

    /// Returns whether a pack that the index lists is gone or cut.
    pub fn has_losses(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Returns the packs that no fragment lists: a run was killed, or a fragment is gone.
    pub fn orphans(&self) -> &[PackEntry] {
        &self.orphans
    }

    /// Returns the fragments and packs that could not be read, and why.
    pub fn problems(&self) -> &[(String, RepoError)] {
        &self.problems
    }
}

/// Returns the fragments that are there now.
///
/// # Errors
/// [`RepoError::Store`].
pub fn fragments_present(store: &dyn Store) -> Result<BTreeSet<FragmentId>, RepoError> {
    let names = store.list(Folder::Index)?.into_iter().filter_map(|found| found.name);
    Ok(names
        .filter_map(|name| match name {
            Name::Fragment(id) => Some(id),
            _ => None,
        })
        .collect())
}

/// Reads one fragment.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::NameMismatch`], [`RepoError::Record`], [`RepoError::Seal`].
pub fn read_fragment(repository: &Repository, id: FragmentId) -> Result<Fragment, RepoError> {
    let name = Name::Fragment(id);
    let bytes = read_named(repository.store(), &name, RECORD_BYTES_CAP as u64)?;
    let bad = |e: WireError| RepoError::record(&name, e);
    let sealed = wire::unwrap(RecordKind::Fragment, &bytes).map_err(bad)?;
    let record = open_record(repository.writer_keys().metadata(), FRAGMENT_PURPOSE, sealed);
    let fragment: Fragment = wire::decode(&record.map_err(|e| RepoError::seal(&name, e))?).map_err(bad)?;
    for pack in &fragment.packs {
        pack.directory.validate(pack.bytes).map_err(bad)?;
    }
    Ok(fragment)
}

/// Makes a fragment durable.
///
/// # Errors
/// [`RepoError::Store`].
pub fn put_fragment(repository: &Repository, fragment: &Fragment) -> Result<(FragmentId, u64), RepoError> {
    let bad = |e: WireError| RepoError::record(&"index/", e);
    let record = wire::encode(fragment).map_err(bad)?;
    let sealed = seal_record(repository.writer_keys().metadata(), FRAGMENT_PURPOSE, &record);
    let bytes = wire::wrap(RecordKind::Fragment, &sealed.map_err(|e| RepoError::seal(&"index/", e))?);
    let id = FragmentId::from_bytes(*blake3::hash(&bytes).as_bytes());
    repository.store().put_new(&Name::Fragment(id), &bytes)?;
    Ok((id, bytes.len() as u64))
}

/// Returns a pack's directory as it is stored: an envelope.
///
/// # Errors
/// [`RepoError::Seal`] without random bytes.
pub fn build_directory(repository: &Repository, directory: &Directory) -> Result<Vec<u8>, RepoError> {
    let record = wire::encode(directory).map_err(|e| RepoError::record(&"packs/", e))?;
    let sealed = seal_record(repository.writer_keys().metadata(), DIRECTORY_PURPOSE, &record);
    Ok(wire::wrap(RecordKind::PackDirectory, &sealed.map_err(|e| RepoError::seal(&"packs/", e))?))
}

/// Reads the directory at the end of a pack of `bytes` bytes. Two reads.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::Record`], [`RepoError::Seal`].
pub fn read_directory(repository: &Repository, id: PackId, bytes: u64) -> Result<Directory, RepoError> {
    let name = Name::Pack(id);
    let bad = |e: WireError| RepoError::record(&name, e);
    let trailer_at = bytes
        .checked_sub(PACK_TRAILER_BYTES as u64)
        .filter(|_| bytes <= PACK_BYTES_CAP)
        .ok_or_else(|| bad(WireError::record("pack: its length is out of bounds")))?;
    let tail = repository.store().read_range(&name, trailer_at..bytes)?;
    let tail =
        tail.first_chunk::<PACK_TRAILER_BYTES>().ok_or_else(|| bad(WireError::record("pack: no trailer")))?;
    let trailer = Trailer::from_bytes(tail, bytes).map_err(bad)?;
    let range = trailer.directory_offset..trailer.directory_offset + trailer.directory_bytes;
    let envelope = repository.store().read_range(&name, range)?;
    let sealed = wire::unwrap(RecordKind::PackDirectory, &envelope).map_err(bad)?;
    let record = open_record(repository.writer_keys().metadata(), DIRECTORY_PURPOSE, sealed);
    let directory: Directory = wire::decode(&record.map_err(|e| RepoError::seal(&name, e))?).map_err(bad)?;
    directory.validate(trailer.directory_offset).map_err(bad)?;
    match directory.frames.len() == trailer.frame_count as usize {
        true => Ok(directory),
        false => Err(bad(WireError::record("pack trailer: number of frames is wrong"))),
    }
}
