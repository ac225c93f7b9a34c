//! Finding a chunk: the cache, brought up to date with the fragments, and what no fragment lists.

mod files;
mod orphans;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use crate::base::content::ChunkRef;
use crate::base::id::{ChunkId, FragmentId, PackId};
use crate::repo::condemned::Marks;
use crate::repo::{RepoError, Repository};
use crate::stage::dedup::IdHash;
use crate::stage::index::{
    Cache, CacheError, EachFragment, Fragment, Location, PackEntry, PackNumber, PackRow, Update,
};
use crate::store::{Folder, Name, Store};

pub use files::{build_directory, put_fragment, read_directory, read_fragment};

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
    /// Packs that are to go.
    condemned: HashSet<PackNumber>,
    /// Frames that new snapshots keep away from.
    closed: HashSet<(PackNumber, u16)>,
    orphans: Vec<PackEntry>,
    /// Packs that no fragment lists and that nobody has hashed yet.
    unproven: HashSet<PackNumber>,
    problems: Vec<(String, RepoError)>,
}

impl Index {
    /// Opens the index. The cache is brought up to date with the fragments; if it can't be written
    /// (another process has it open), what it lacks is kept in memory. Packs that no fragment lists
    /// are read from their own directories. A cache that is damaged is made anew.
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
        let Some(path) = repository.index_path() else { return Self::open_without_cache(repository) };
        let present = fragments_present(repository.store())?;
        let mut index = Self::default();
        let opened = Cache::open(path, repository.id());
        let is_broken = matches!(opened, Err(CacheError::Failed { .. } | CacheError::Absent));
        let missing = match opened {
            Ok(cache) if is_fresh(&cache, &present) && !cache.is_worn()? => {
                index.cache = Some(cache);
                BTreeSet::new()
            }
            opened => index.refresh_cache(repository, path, &present, opened.ok(), is_broken),
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

    /// Brings the cache at `path` up to date with the fragments that are present, and opens it; returns
    /// those that it lacks still.
    fn refresh_cache(
        &mut self,
        repository: &Repository,
        path: &Path,
        present: &BTreeSet<FragmentId>,
        cache: Option<Cache>,
        is_broken: bool,
    ) -> BTreeSet<FragmentId> {
        let (mut cached, mut replaced, mut is_worn) = (BTreeSet::new(), BTreeSet::new(), false);
        if let Some(cache) = cache {
            is_worn = cache.is_worn().unwrap_or(true);
            (cached, replaced) = (cache.fragments().clone(), cache.replaced().clone());
        }
        let unknown = present.iter().filter(|id| !cached.contains(id) && !replaced.contains(id)).copied();
        let mut news = News::read(repository, unknown);
        // A fragment that went without another in its place: its packs are nobody's now, and the cache
        // does not know which they are.
        let is_lost = |id: &FragmentId| !present.contains(id) && !news.replaced.contains(id);
        let from_scratch = is_broken || is_worn || cached.iter().any(is_lost);
        if from_scratch {
            news = News::read(repository, present.iter().copied());
            replaced.clone_from(&news.replaced);
        } else {
            replaced.extend(&news.replaced);
        }
        news.readable.retain(|id| !replaced.contains(id));
        if from_scratch && matches!(Cache::open(path, repository.id()), Err(CacheError::Failed { .. })) {
            let _ = std::fs::remove_file(path); // a cache: its loss costs a rebuild
        }
        let added = |each: &mut EachFragment<'_>| {
            news.readable.iter().try_for_each(|id| {
                let fragment = read_fragment(repository, *id);
                each(*id, &fragment.map_err(|e| CacheError::Failed { what: e.chain() })?);
                Ok(())
            })
        };
        let gone: BTreeSet<_> = cached.union(&replaced).filter(|id| !present.contains(id)).copied().collect();
        let is_needed = !news.readable.is_empty() || !gone.is_empty() || (from_scratch && path.exists());
        let update = Update { added: &added, gone: &gone, from_scratch };
        let is_updated = is_needed && Cache::update(path, repository.id(), &update).is_ok();
        match Cache::open(path, repository.id()) {
            // What could not be added is kept in memory, beside what the cache has had before.
            Ok(cache) if is_updated || !from_scratch => {
                let left = present.difference(cache.fragments()).filter(|id| !replaced.contains(id));
                let left = left.copied().collect();
                self.cache = Some(cache);
                left
            }
            _ => present.clone(),
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
        let marks = repository.marks()?;
        let condemned = marks.packs();
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
                    let number = self.add(&pack, Presence::Whole);
                    self.unproven.insert(number);
                    if !condemned.contains_key(&id) {
                        self.orphans.push(pack);
                    }
                }
                Err(e) => self.problems.push((Name::Pack(id).to_string(), e)),
            }
        }
        self.mark(&marks);
        Ok(())
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

    /// Adds a pack that is not in the cache. Chunks of a pack that is cut are among
    /// [`Self::others`] only; those of one that is gone are nowhere. Returns its number.
    pub fn add(&mut self, pack: &PackEntry, presence: Presence) -> PackNumber {
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
        number
    }

    /// Returns the chunks that are not in the cache and that a pack holds, in the order in which they lie in
    /// packs. O(n log n).
    pub fn chunks_in_memory(&self) -> Vec<ChunkRef> {
        let cut_only = self.others.iter().filter(|(id, _)| !self.overlay.contains_key(*id));
        let cut_only = cut_only.filter_map(|(id, locations)| Some((*locations.first()?, *id)));
        let whole = self.overlay.iter().map(|(id, location)| (*location, *id));
        let mut rows: Vec<(Location, ChunkId)> = whole.chain(cut_only).collect();
        rows.sort_unstable();
        rows.into_iter().map(|(location, id)| ChunkRef { id, bytes: location.bytes }).collect()
    }

    /// Returns where a chunk lies; none if no pack that is there holds it. A pack that is to stay is
    /// preferred to one that is condemned.
    ///
    /// # Errors
    /// [`RepoError::Cache`].
    pub fn find(&self, id: &ChunkId) -> Result<Option<Location>, RepoError> {
        let stays = |location: &Location| !self.condemned.contains(&location.pack);
        match self.pick(id, stays) {
            None if !self.condemned.is_empty() => Ok(self.pick(id, |_| true)),
            found => Ok(found),
        }
    }

    /// Returns where a chunk lies that a new snapshot may refer to: not in a pack that is condemned, nor in a frame that
    /// is closed, nor in a pack that no fragment lists and that was not hashed.
    ///
    /// # Errors
    /// [`RepoError::Cache`].
    pub fn find_lasting(&self, id: &ChunkId) -> Result<Option<Location>, RepoError> {
        Ok(self.pick(id, |location| {
            !self.condemned.contains(&location.pack)
                && !self.closed.contains(&(location.pack, location.frame))
                && !self.unproven.contains(&location.pack)
        }))
    }

    fn pick(&self, id: &ChunkId, is_good: impl Fn(&Location) -> bool) -> Option<Location> {
        let is_there = |location: &Location| {
            self.packs.contains_key(&location.pack) && !self.lost.contains(&location.pack)
        };
        let is_good = |location: &Location| is_there(location) && is_good(location);
        let in_memory = self.overlay.get(id).copied().filter(|location| is_good(location));
        let in_memory =
            in_memory.or_else(|| self.others(id).iter().copied().find(|location| is_good(location)));
        if in_memory.is_some() {
            return in_memory;
        }
        // What a damaged cache does not tell counts as absent: a backup stores it again, a reader asks
        // the fragments.
        let cache = self.cache.as_ref()?;
        let found = cache.find(id).ok().flatten()?;
        if is_good(&found) {
            return Some(found);
        }
        cache.copies(id).ok()?.into_iter().find(|location| is_good(location))
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

    /// Returns whether a chunk of an earlier snapshot may be one that a new snapshot can't refer to: a
    /// pack that the index lists is gone or cut, or a frame is closed. What a condemned pack holds is
    /// no such chunk: if an earlier snapshot needs it after all, prune lets it be.
    pub fn has_losses(&self) -> bool {
        !self.lost.is_empty() || !self.closed.is_empty()
    }

    /// Returns the fragments and packs that could not be read, and why.
    pub fn problems(&self) -> &[(String, RepoError)] {
        &self.problems
    }
}

/// What fragments say that the cache does not know.
struct News {
    /// Those that read.
    readable: BTreeSet<FragmentId>,
    /// Those that they replace.
    replaced: BTreeSet<FragmentId>,
}

impl News {
    fn read(repository: &Repository, ids: impl Iterator<Item = FragmentId>) -> Self {
        let mut news = Self { readable: BTreeSet::new(), replaced: BTreeSet::new() };
        for id in ids {
            if let Ok(fragment) = read_fragment(repository, id) {
                news.readable.insert(id);
                news.replaced.extend(fragment.replaces);
            }
        }
        news
    }
}

/// Returns whether a cache lists just what the fragments that are there say.
fn is_fresh(cache: &Cache, present: &BTreeSet<FragmentId>) -> bool {
    let is_known = |id: &FragmentId| cache.fragments().contains(id) || cache.replaced().contains(id);
    cache.fragments().is_subset(present) && present.iter().all(is_known)
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
