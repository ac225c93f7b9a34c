//! Fragments, packs and marks → every copy of every chunk, and which are needed.
//!
//! Copies are numbered as the fragments list them; a copy's number leads to its frame and pack.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::base::content::{ChunkRef, refs};
use crate::base::id::{ChunkId, FragmentId, PackId};
use crate::op::prune::copies::Copies;
use crate::repo::condemned::Marks;
use crate::repo::index::{Index, Presence, read_directory, read_fragment};
use crate::repo::{RepoError, Repository};
use crate::stage::index::PackEntry;
use crate::store::{Folder, Name};

/// What a chunk takes in a fragment's file at least, in bytes: its id does not compress.
const CHUNK_STORED_BYTES: u64 = 16;

/// Where a pack comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A fragment lists it.
    Listed,
    /// No fragment lists it: a run that is under way or was killed, a lost fragment, or a sweep that
    /// was cut off.
    Orphan,
}

/// A pack, without its chunks.
pub struct Pack {
    /// Its name.
    pub id: PackId,
    /// Length as it is listed, in bytes.
    pub bytes: u64,
    /// Whether it holds trees.
    pub is_tree: bool,
    /// How it lies in the store.
    pub presence: Presence,
    /// Where it comes from.
    pub origin: Origin,
    /// Its frames, among all.
    pub frames: Range<usize>,
}

/// A frame.
pub struct Frame {
    /// Length, header included, in bytes.
    pub bytes: u32,
    /// Length of its chunks, in bytes.
    pub raw_bytes: u32,
    /// Of these, how much is needed. Known after [`Ledger::weigh`].
    pub live_bytes: u32,
    /// Number of its chunks.
    pub chunk_count: u32,
    /// Of these, how many are needed. Known after [`Ledger::weigh`].
    pub live_count: u32,
    /// The first of its copies.
    first: u32,
    /// How good a place for a chunk it is; less is better.
    rank: Rank,
}

impl Frame {
    /// Returns whether new snapshots keep away from it.
    pub fn is_closed(&self) -> bool {
        self.rank == Rank::Closed
    }

    /// Returns about how many stored bytes what is needed of it takes.
    pub fn live_stored(&self) -> u64 {
        u64::from(self.bytes) * u64::from(self.live_bytes) / u64::from(self.raw_bytes.max(1))
    }
}

/// How good a place for a chunk a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Good,
    Closed,
    Condemned,
    Orphan,
    Cut,
    Absent,
}

/// All that a repository holds.
pub struct Ledger {
    /// Packs, in the order of their copies.
    pub packs: Vec<Pack>,
    /// Frames, in the order of their copies.
    pub frames: Vec<Frame>,
    /// Fragments that were read and count.
    pub fragments: BTreeSet<FragmentId>,
    /// What could not be read, and why.
    pub problems: Vec<String>,
    copies: Copies,
    live: Vec<u64>,
}

/// Reads the ledger. Returns an index of the chunks of trees as well.
///
/// # Errors
/// [`RepoError::Store`] if files can't be listed, [`RepoError::Refused`] for more than 2^32 copies. A
/// fragment or a directory that can't be read is among [`Ledger::problems`].
pub fn read_ledger(repository: &Repository, marks: &Marks) -> Result<(Ledger, Index), RepoError> {
    // Fragments first: the packs that a fragment lists are there before it is.
    let mut fragments = BTreeMap::new();
    for found in repository.store().list(Folder::Index)? {
        if let Some(Name::Fragment(id)) = found.name {
            fragments.insert(id, found.bytes);
        }
    }
    let mut there = BTreeMap::new();
    for found in repository.store().list(Folder::Packs)? {
        if let Some(Name::Pack(id)) = found.name {
            there.insert(id, found.bytes);
        }
    }
    let mut replaced = BTreeSet::new();
    let condemned: BTreeSet<PackId> = marks.packs().into_keys().collect();
    let source = Source { repository, there: &there, condemned: &condemned, closed: &marks.closed() };
    loop {
        let mut reading = Reading::new(&source, fragments.values().sum());
        let mut met = reading.fragments(fragments.keys().filter(|id| !replaced.contains(*id)))?;
        met.retain(|id| fragments.contains_key(id)); // the others are gone, as they should be
        if met.is_subset(&replaced) {
            reading.orphans()?;
            return reading.finish();
        }
        replaced.extend(met); // once more, without them: prune was cut off before it removed them
    }
}

/// What is read.
struct Source<'s> {
    repository: &'s Repository,
    there: &'s BTreeMap<PackId, u64>,
    condemned: &'s BTreeSet<PackId>,
    closed: &'s BTreeSet<(PackId, u16)>,
}

struct Reading<'s> {
    source: &'s Source<'s>,
    known: BTreeSet<PackId>,
    ledger: Ledger,
    index: Index,
}

impl<'s> Reading<'s> {
    fn new(source: &'s Source<'s>, fragment_bytes: u64) -> Self {
        let room = usize::try_from(fragment_bytes / CHUNK_STORED_BYTES).unwrap_or(0);
        let ledger = Ledger {
            packs: Vec::new(),
            frames: Vec::new(),
            fragments: BTreeSet::new(),
            problems: Vec::new(),
            copies: Copies::with_room(room),
            live: Vec::new(),
        };
        Self { source, known: BTreeSet::new(), ledger, index: Index::default() }
    }

    /// Reads fragments; returns those that they replace.
    fn fragments<'f>(
        &mut self,
        ids: impl Iterator<Item = &'f FragmentId>,
    ) -> Result<BTreeSet<FragmentId>, RepoError> {
        let mut replaced = BTreeSet::new();
        for id in ids {
            match read_fragment(self.source.repository, *id) {
                Ok(fragment) => {
                    replaced.extend(fragment.replaces);
                    self.ledger.fragments.insert(*id);
                    fragment.packs.into_iter().try_for_each(|pack| self.pack(pack, Origin::Listed))?;
                }
                Err(e) => self.ledger.problems.push(e.chain()),
            }
        }
        Ok(replaced)
    }

    fn orphans(&mut self) -> Result<(), RepoError> {
        for (id, bytes) in self.source.there {
            if !self.known.contains(id) {
                match read_directory(self.source.repository, *id, *bytes) {
                    Ok(directory) => {
                        self.pack(PackEntry { id: *id, bytes: *bytes, directory }, Origin::Orphan)?;
                    }
                    Err(e) => self
                        .ledger
                        .problems
                        .push(format!("{}; no fragment lists it either, and it was left alone", e.chain())),
                }
            }
        }
        Ok(())
    }

    fn pack(&mut self, pack: PackEntry, origin: Origin) -> Result<(), RepoError> {
        if !self.known.insert(pack.id) {
            return Ok(());
        }
        let found = self.source.there.get(&pack.id).copied();
        let presence = Presence::of(pack.bytes, found);
        let is_condemned = self.source.condemned.contains(&pack.id);
        let first_frame = self.ledger.frames.len();
        for (number, row, chunks) in pack.directory.frames() {
            let is_there = found.is_some_and(|found| u64::from(row.offset) + u64::from(row.bytes) <= found);
            let is_closed =
                u16::try_from(number).is_ok_and(|number| self.source.closed.contains(&(pack.id, number)));
            let rank = match (presence, origin) {
                _ if !is_there => Rank::Absent,
                (Presence::Cut | Presence::Gone, _) => Rank::Cut,
                (Presence::Whole, Origin::Orphan) if !is_condemned => Rank::Orphan,
                _ if is_condemned => Rank::Condemned,
                _ if is_closed => Rank::Closed,
                _ => Rank::Good,
            };
            let first = self.ledger.copies.next_number()?;
            refs(chunks).try_for_each(|chunk| self.ledger.copies.push(&chunk.id))?;
            self.ledger.frames.push(Frame {
                bytes: row.bytes,
                raw_bytes: row.raw_bytes,
                live_bytes: 0,
                chunk_count: row.chunk_count,
                live_count: 0,
                first,
                rank,
            });
        }
        self.ledger.packs.push(Pack {
            id: pack.id,
            bytes: pack.bytes,
            is_tree: pack.directory.is_tree,
            presence,
            origin,
            frames: first_frame..self.ledger.frames.len(),
        });
        if pack.directory.is_tree {
            self.index.add(&pack, presence);
        }
        Ok(())
    }

    fn finish(self) -> Result<(Ledger, Index), RepoError> {
        let mut ledger = self.ledger;
        let alike = ledger.copies.sort();
        ledger.live = vec![0; ledger.copies.len().div_ceil(64)];
        if !alike.is_empty() {
            let mut ids = Vec::with_capacity(alike.len());
            ledger.each_copy(self.source.repository, |_, number, chunk| {
                if alike.contains(&number) {
                    ids.push((number, chunk.id));
                }
            })?;
            ids.into_iter().for_each(|(number, id)| ledger.copies.tell_apart(number, &id));
        }
        Ok((ledger, self.index))
    }
}

impl Ledger {
    /// Notes that a chunk is needed. Of its copies the best one stays; of equals, the first. Returns
    /// whether a pack that is there holds it. 0.3 µs.
    pub fn need(&mut self, chunk: ChunkRef) -> bool {
        self.best_copy(&chunk.id).is_some_and(|number| self.need_copy(number))
    }

    /// Returns the number of a chunk's best copy; of equals, the first. 0.3 µs.
    pub fn best_copy(&self, id: &ChunkId) -> Option<u32> {
        let mut numbers = self.copies.numbers(id);
        let first = numbers.next()?;
        let Some(second) = numbers.next() else { return Some(first) };
        let all = [first, second].into_iter().chain(numbers);
        all.min_by_key(|number| (self.frame_of(*number).rank, *number))
    }

    /// As [`Self::need`], for a chunk whose best copy has this number.
    pub fn need_copy(&mut self, number: u32) -> bool {
        match self.live.get_mut(number as usize / 64) {
            Some(word) => *word |= 1 << (number % 64),
            None => return false,
        }
        self.frame_of(number).rank != Rank::Absent
    }

    /// Returns whether a copy is the one that a needed chunk is to be had from.
    pub fn is_live(&self, number: u32) -> bool {
        self.live.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    fn frame_of(&self, number: u32) -> &Frame {
        &self.frames[self.frame_number(number)]
    }

    /// Returns the frame that holds a copy.
    pub fn frame_number(&self, number: u32) -> usize {
        self.frames.partition_point(|frame| frame.first <= number) - 1
    }

    /// Returns which chunks of a frame are needed, in order.
    pub fn live_chunks(&self, frame: usize) -> Vec<bool> {
        let frame = &self.frames[frame];
        (frame.first..frame.first + frame.chunk_count).map(|number| self.is_live(number)).collect()
    }

    /// Sums up what is needed of each frame.
    ///
    /// # Errors
    /// [`RepoError::Refused`] if a fragment is no longer what it was: another prune was at work.
    pub fn weigh(&mut self, repository: &Repository) -> Result<(), RepoError> {
        let mut sums: Vec<(u32, u32)> = vec![(0, 0); self.frames.len()];
        self.each_copy(repository, |frame, number, chunk| {
            if self.is_live(number) {
                sums[frame].0 += chunk.bytes;
                sums[frame].1 += 1;
            }
        })?;
        for (frame, (bytes, count)) in self.frames.iter_mut().zip(sums) {
            (frame.live_bytes, frame.live_count) = (bytes, count);
        }
        Ok(())
    }

    /// Reads the fragments again, and calls `visit` with each copy's frame, number and chunk. The
    /// frames of a pack come together.
    ///
    /// # Errors
    /// As [`Self::weigh`].
    pub fn each_copy(
        &self,
        repository: &Repository,
        mut visit: impl FnMut(usize, u32, ChunkRef),
    ) -> Result<(), RepoError> {
        let mut packs = self.packs.iter();
        let mut known = BTreeSet::new();
        let mut pack = |pack: &PackEntry| {
            if !known.insert(pack.id) {
                return true;
            }
            let Some(own) = packs.next().filter(|own| own.id == pack.id) else { return false };
            for ((_, _, chunks), frame) in pack.directory.frames().zip(own.frames.clone()) {
                let first = self.frames[frame].first;
                refs(chunks).zip(first..).for_each(|(chunk, number)| visit(frame, number, chunk));
            }
            own.frames.len() == pack.directory.frames.len()
        };
        let mut is_same = true;
        for id in &self.fragments {
            is_same &=
                read_fragment(repository, *id).is_ok_and(|fragment| fragment.packs.iter().all(&mut pack));
        }
        for own in self.packs.iter().filter(|own| own.origin == Origin::Orphan) {
            let directory = read_directory(repository, own.id, own.bytes);
            is_same &=
                directory.is_ok_and(|directory| pack(&PackEntry { id: own.id, bytes: own.bytes, directory }));
        }
        match is_same {
            true => Ok(()),
            false => Err(RepoError::Refused {
                what: "the index changed while it was read: another prune is at work; run it again"
                    .to_owned(),
            }),
        }
    }

    /// Lets go of what marking needs.
    pub fn forget_ids(&mut self) {
        self.copies = Copies::default();
    }
}
