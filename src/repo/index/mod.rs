//! Finding a chunk: the cache, brought up to date with the fragments, and what no fragment lists.

mod anew;
mod files;
mod opening;
mod orphans;
mod refresh;

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::base::content::ChunkRef;
use crate::base::id::{ChunkId, FragmentId};
use crate::repo::RepoError;
use crate::stage::dedup::IdHash;
use crate::stage::index::{Cache, Location, PackEntry, PackNumber, PackRow};
use crate::store::{Folder, Name, Store};

pub use anew::NewCache;
pub use files::{
    build_directory, parse_fragment, put_fragment, read_directory, read_fragment, read_fragments,
};
pub use refresh::remove_cache;

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
    /// Whether it is not known which packs are there, or which are condemned: no new snapshot may rest on this.
    is_blind: bool,
    problems: Vec<(String, RepoError)>,
}

impl Index {
    /// Adds a pack that is not in the cache. Chunks of a pack that is cut are among
    /// [`Self::others`] only; those of one that is gone are nowhere. Returns its number.
    pub fn add(&mut self, pack: &PackEntry, presence: Presence) -> PackNumber {
        let number = PackNumber(OVERLAY_START.saturating_add(u32::try_from(self.packs.len()).unwrap_or(0)));
        let mut row = pack.row();
        if presence == Presence::Gone {
            row.frames = Vec::new(); // there is nothing to read
        }
        self.packs.insert(number, row);
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
    /// [`RepoError::Cache`]; [`RepoError::Refused`] if that is not known, as [`Self::open_to_read`] says.
    pub fn find_lasting(&self, id: &ChunkId) -> Result<Option<Location>, RepoError> {
        if self.is_blind {
            let what =
                "packs/ or condemned/ could not be listed, and nothing can be stored without".to_owned();
            return Err(RepoError::Refused { what });
        }
        Ok(self.pick(id, |location| {
            !self.condemned.contains(&location.pack)
                && !self.closed.contains(&(location.pack, location.frame))
                && !self.unproven.contains(&location.pack)
        }))
    }

    /// Calls `visit` once with every chunk that a pack holds which is there, in no order, and with where it lies.
    /// O(chunks).
    ///
    /// # Errors
    /// [`RepoError::Cache`]; not all were visited then.
    pub fn each_chunk(&self, mut visit: impl FnMut(ChunkId, Location)) -> Result<(), RepoError> {
        let cut_only = self.others.keys().filter(|id| !self.overlay.contains_key(*id));
        for id in self.overlay.keys().chain(cut_only) {
            if let Some(location) = self.pick(id, |_| true) {
                visit(*id, location);
            }
        }
        let Some(cache) = &self.cache else { return Ok(()) };
        cache.visit_once(|id, location| {
            if self.overlay.contains_key(&id) || self.others.contains_key(&id) {
                return;
            }
            let location = Some(location).filter(|location| self.is_there(location));
            if let Some(location) = location.or_else(|| self.pick(&id, |_| true)) {
                visit(id, location);
            }
        })?;
        Ok(())
    }

    fn is_there(&self, location: &Location) -> bool {
        self.packs.contains_key(&location.pack) && !self.lost.contains(&location.pack)
    }

    fn pick(&self, id: &ChunkId, is_good: impl Fn(&Location) -> bool) -> Option<Location> {
        let is_good = |location: &Location| self.is_there(location) && is_good(location);
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
        self.is_blind || !self.lost.is_empty() || !self.closed.is_empty()
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
