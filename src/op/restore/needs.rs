//! What files need, and where it lies.

use crate::base::content::ChunkRef;
use crate::base::limits::FRAME_BYTES_CAP;
use crate::base::threads::begin;
use crate::op::restore::fill::FilePlan;
use crate::repo::RepoError;
use crate::repo::index::Index;
use crate::stage::index::{FrameSpan, Location, PackNumber, PackRow};

/// Chunks that are looked up together, in the order of the index, so that each of its pages is read
/// once for all of them: 7 MB.
const LOOKUPS_MAX: usize = 1 << 17;

/// A frame, counted through all packs, in the order of their numbers.
type FrameNumber = u32;

/// The frame of a chunk that the index does not know. No frame has that number.
const NOWHERE: FrameNumber = FrameNumber::MAX;

/// Bits of [`Need`]'s place in a frame: any frame is shorter.
const OFFSET_BITS: u32 = FRAME_BYTES_CAP.ilog2();
const _: () = assert!(FRAME_BYTES_CAP.is_power_of_two());

/// Most chunks of a need.
const COUNT_MAX: u32 = (1 << (u32::BITS - OFFSET_BITS)) - 1;

/// Chunks that lie one after the other in a file, and in one frame. 16 bytes: most messages have two,
/// for headers lie in other frames than bodies.
#[derive(Clone, Copy)]
pub struct Need {
    /// The frame; if the index does not know, [`NOWHERE`], and then it is one chunk.
    frame: FrameNumber,
    /// Where the first one starts in the frame's raw bytes; above that, how many chunks.
    place: u32,
    /// Number of the file.
    pub file: u32,
    /// Number of the first chunk in the file.
    pub first: u32,
}

impl Need {
    /// Returns how many chunks it is.
    pub fn count(&self) -> u32 {
        self.place >> OFFSET_BITS
    }

    /// Returns where the first one starts in the frame's raw bytes.
    pub fn offset(&self) -> u32 {
        self.place & ((1 << OFFSET_BITS) - 1)
    }

    /// Returns whether two needs are met by one frame.
    pub fn shares_frame(&self, other: &Self) -> bool {
        self.frame == other.frame
    }

    fn order(&self) -> (FrameNumber, u32, u32, u32) {
        (self.frame, self.offset(), self.file, self.first)
    }
}

/// The frames of all packs.
pub struct Frames<'r> {
    index: &'r Index,
    /// The number of each pack's first frame, ascending.
    starts: Vec<(FrameNumber, PackNumber)>,
}

impl<'r> Frames<'r> {
    /// Counts the frames. O(packs).
    pub fn new(index: &'r Index) -> Self {
        let mut packs: Vec<_> = index.packs().map(|(number, row, _)| (number, row.frames.len())).collect();
        packs.sort_unstable();
        let mut next: FrameNumber = 0;
        let starts = packs.into_iter().map(|(number, frames)| {
            let start = next;
            next = next.saturating_add(u32::try_from(frames).unwrap_or(u32::MAX));
            (start, number)
        });
        Self { index, starts: starts.collect() }
    }

    fn number(&self, location: &Location) -> Option<FrameNumber> {
        let at = self.starts.binary_search_by_key(&location.pack, |(_, pack)| *pack).ok()?;
        let number = self.starts[at].0.checked_add(u32::from(location.frame))?;
        let end = self.starts.get(at + 1).map_or(NOWHERE, |(next, _)| *next);
        (number < end).then_some(number)
    }

    /// Returns the pack, and where the frame's raw bytes start; none if the index does not know.
    pub fn place(&self, need: &Need) -> Option<(&'r PackRow, Location)> {
        let at = self.starts.partition_point(|(start, _)| *start <= need.frame).checked_sub(1)?;
        let (start, pack) = *self.starts.get(at).filter(|_| need.frame != NOWHERE)?;
        let frame = u16::try_from(need.frame - start).ok()?;
        Some((self.index.pack(pack)?, Location { pack, frame, offset: 0, bytes: 0 }))
    }

    /// Returns the pack, and where the frame lies in it.
    pub fn span(&self, need: &Need) -> Option<(&'r PackRow, FrameSpan)> {
        let (pack, place) = self.place(need)?;
        pack.frames.get(usize::from(place.frame)).map(|span| (pack, *span))
    }
}

/// A chunk of a file that is to be looked up.
pub struct Lookup {
    /// The chunk.
    pub chunk: ChunkRef,
    /// Number of the file.
    pub file: u32,
    /// Number of the chunk in the file.
    pub number: u32,
}

/// The needs of many files.
#[derive(Default)]
pub struct Needs {
    all: Vec<Need>,
    /// Where the last one ends in its frame.
    end: u32,
    lookups: Vec<Lookup>,
}

impl Needs {
    /// Adds a chunk. A file's chunks come one after the other, in order.
    ///
    /// # Errors
    /// As [`Self::locate`].
    pub fn add(
        &mut self,
        lookup: Lookup,
        files: &mut [FilePlan],
        frames: &Frames<'_>,
        threads: usize,
    ) -> Result<(), RepoError> {
        self.lookups.push(lookup);
        if self.lookups.len() < LOOKUPS_MAX {
            return Ok(());
        }
        self.locate(files, frames, threads)
    }

    /// Looks up what was added, and counts for each file how many needs it has.
    ///
    /// # Errors
    /// [`RepoError::Cache`].
    pub fn locate(
        &mut self,
        files: &mut [FilePlan],
        frames: &Frames<'_>,
        threads: usize,
    ) -> Result<(), RepoError> {
        let lookups = std::mem::take(&mut self.lookups);
        let found = look_up(&lookups, frames.index, threads)?;
        for (lookup, location) in lookups.iter().zip(found) {
            self.push(lookup, location, files, frames);
        }
        self.lookups = lookups;
        self.lookups.clear();
        Ok(())
    }

    fn push(
        &mut self,
        lookup: &Lookup,
        location: Option<Location>,
        files: &mut [FilePlan],
        frames: &Frames<'_>,
    ) {
        let location = location.filter(|it| it.bytes == lookup.chunk.bytes && it.offset < FRAME_BYTES_CAP);
        let found = location.and_then(|location| Some((frames.number(&location)?, location.offset)));
        let (frame, offset) = found.unwrap_or((NOWHERE, 0));
        if let Some(last) = self.all.last_mut()
            && last.file == lookup.file
            && frame != NOWHERE
            && (last.frame, self.end) == (frame, offset)
            && last.count() < COUNT_MAX
        {
            last.place += 1 << OFFSET_BITS;
            self.end = offset.saturating_add(lookup.chunk.bytes);
            return;
        }
        self.end = offset.saturating_add(lookup.chunk.bytes);
        let place = offset | 1 << OFFSET_BITS;
        self.all.push(Need { frame, place, file: lookup.file, first: lookup.number });
        if let Some(file) = files.get_mut(lookup.file as usize) {
            *file.left.get_mut() += 1;
        }
    }

    /// Returns how many needs there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns all needs, in the order in which packs are read.
    pub fn sorted(&mut self) -> &[Need] {
        self.lookups = Vec::new(); // a few MB, and no more are to come for a while
        self.all.sort_unstable_by_key(Need::order);
        &self.all
    }

    /// Leaves out the needs of files that are not to be made.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(u32) -> bool) {
        self.all.retain(|need| is_wanted(need.file));
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.all.clear();
        self.end = 0;
    }
}

/// Finds chunks, by ascending id: neighbours in the index lie in one page.
fn look_up(lookups: &[Lookup], index: &Index, threads: usize) -> Result<Vec<Option<Location>>, RepoError> {
    let mut order: Vec<u32> = (0..u32::try_from(lookups.len()).unwrap_or(u32::MAX)).collect();
    order.sort_unstable_by_key(|number| lookups[*number as usize].chunk.id);
    let part = order.len().div_ceil(threads.max(1)).max(1);
    let find = |part: &[u32]| -> Result<Vec<Option<Location>>, RepoError> {
        part.iter().map(|number| index.find(&lookups[*number as usize].chunk.id)).collect()
    };
    let parts: Vec<_> = std::thread::scope(|scope| {
        let (first, others) = order.split_at(part.min(order.len()));
        let running: Vec<_> =
            others.chunks(part).map(|part| begin(scope, move || find(part)).map_err(|_| part)).collect();
        let mut parts = vec![find(first)];
        parts.extend(running.into_iter().map(|thread| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(part) => find(part), // the system gives no more threads
        }));
        parts
    });
    let mut found = vec![None; lookups.len()];
    let mut numbers = order.iter();
    for part in parts {
        for (location, number) in part?.into_iter().zip(&mut numbers) {
            found[*number as usize] = location;
        }
    }
    Ok(found)
}
