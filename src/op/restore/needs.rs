//! What files need, and where it lies.

use crate::base::content::ChunkRef;
use crate::op::restore::fill::FilePlan;
use crate::repo::RepoError;
use crate::repo::index::Index;
use crate::repo::reader::Reader;
use crate::stage::index::{FrameSpan, Location, PackNumber, PackRow};

/// Chunks that are looked up together, in the order of the index, so that each of its pages is read
/// once for all of them: 7 MB.
const LOOKUPS_MAX: usize = 1 << 17;

/// The pack of a chunk that the index does not know. No pack has that number.
const NOWHERE: PackNumber = PackNumber(u32::MAX);

/// Chunks that lie one after the other in a file, and in one frame. 20 bytes: most messages have two,
/// for headers lie in other frames than bodies.
#[derive(Clone, Copy)]
pub struct Need {
    /// The pack; if the index does not know, [`NOWHERE`], and then it is one chunk.
    pack: PackNumber,
    frame: u16,
    /// How many chunks.
    pub count: u16,
    /// Where the first one starts in the frame's raw bytes.
    pub offset: u32,
    /// Number of the file.
    pub file: u32,
    /// Number of the first chunk in the file.
    pub first: u32,
}

impl Need {
    /// Returns the pack and the frame's number; none if the index does not know.
    pub fn place<'r>(&self, reader: &'r Reader<'_>) -> Option<(&'r PackRow, u16)> {
        Some((reader.index().pack(self.pack)?, self.frame))
    }

    /// Returns the pack, and where the frame lies in it.
    pub fn span<'r>(&self, reader: &'r Reader<'_>) -> Option<(&'r PackRow, FrameSpan)> {
        let (pack, frame) = self.place(reader)?;
        pack.frames.get(usize::from(frame)).map(|span| (pack, *span))
    }

    /// Returns where one of its chunks lies, which starts at `offset`.
    pub fn location(&self, offset: u32, chunk: ChunkRef) -> Location {
        Location { pack: self.pack, frame: self.frame, offset, bytes: chunk.bytes }
    }

    /// Returns whether two needs are met by one frame.
    pub fn shares_frame(&self, other: &Self) -> bool {
        (self.pack, self.frame) == (other.pack, other.frame)
    }

    fn order(&self) -> (PackNumber, u16, u32, u32, u32) {
        (self.pack, self.frame, self.offset, self.file, self.first)
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
        index: &Index,
        threads: usize,
    ) -> Result<(), RepoError> {
        self.lookups.push(lookup);
        if self.lookups.len() < LOOKUPS_MAX {
            return Ok(());
        }
        self.locate(files, index, threads)
    }

    /// Looks up what was added, and counts for each file how many needs it has.
    ///
    /// # Errors
    /// [`RepoError::Cache`].
    pub fn locate(&mut self, files: &mut [FilePlan], index: &Index, threads: usize) -> Result<(), RepoError> {
        let lookups = std::mem::take(&mut self.lookups);
        let found = look_up(&lookups, index, threads)?;
        for (lookup, location) in lookups.iter().zip(found) {
            self.push(lookup, location, files);
        }
        self.lookups = lookups;
        self.lookups.clear();
        Ok(())
    }

    fn push(&mut self, lookup: &Lookup, location: Option<Location>, files: &mut [FilePlan]) {
        let location = location.filter(|location| location.bytes == lookup.chunk.bytes);
        if let (Some(last), Some(location)) = (self.all.last_mut(), location)
            && last.file == lookup.file
            && (last.pack, last.frame, self.end) == (location.pack, location.frame, location.offset)
            && last.count < u16::MAX
        {
            last.count += 1;
            self.end = location.offset.saturating_add(location.bytes);
            return;
        }
        self.end = location.map_or(0, |location| location.offset.saturating_add(location.bytes));
        self.all.push(Need {
            pack: location.map_or(NOWHERE, |location| location.pack),
            frame: location.map_or(0, |location| location.frame),
            count: 1,
            offset: location.map_or(0, |location| location.offset),
            file: lookup.file,
            first: lookup.number,
        });
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
        let running: Vec<_> = others.chunks(part).map(|part| scope.spawn(move || find(part))).collect();
        let mut parts = vec![find(first)];
        parts.extend(
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
        );
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
