//! Meets the needs of many files, frame by frame in ascending order, each frame read once.

mod back;
mod begun;
mod make;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::content::{ChunkRef, REF_BYTES};
use crate::base::threads::begin;
use crate::op::restore::Request;
use crate::op::restore::attributes::Attributes;
use crate::op::restore::fill::begun::{Begun, parts_bytes};
use crate::op::restore::fill::make::Content;
use crate::op::restore::needs::{Frames, Need, Needs};
use crate::op::restore::placed::{PLACED_BYTES, placed, push_placed};
use crate::op::restore::plan::Directory;
use crate::op::restore::stretch::{fetch, own, stretches};
use crate::op::restore::target::Target;
use crate::repo::RepoError;
use crate::repo::reader::{Reader, verified};
use crate::repo::records::{Records, Window};
use crate::stage::index::{Location, PackRow};
use crate::stage::snapshot::Lack;

/// How many locks share what has begun.
const SHARDS: usize = 64;

/// Records start at multiples of this, in bytes.
const RECORD_ALIGN: u64 = 16;

/// Most bytes of records: what a [`FilePlan`] can point to.
pub const RECORDS_BYTES_MAX: u64 = RECORD_ALIGN << 31;

/// A file, link, FIFO or device to be made. 16 bytes; what else is known of it is a record: the length of its
/// entry as u32 little-endian, its chunks, its entry without content.
pub struct FilePlan {
    /// Where its record starts, in units of [`RECORD_ALIGN`].
    record: u32,
    /// How many chunks it has.
    pub chunks: u32,
    /// Number of its directory.
    pub directory: u32,
    /// Needs that are not met yet.
    pub left: AtomicU32,
}

impl FilePlan {
    /// Notes an entry without content, and its chunks.
    ///
    /// # Errors
    /// [`RepoError::Content`] if there are more records than [`RECORDS_BYTES_MAX`], or chunks than a file can have.
    pub fn note(
        entry: &[u8],
        list: &[u8],
        directory: u32,
        push: impl FnOnce(&[u8]) -> Result<u64, RepoError>,
    ) -> Result<Self, RepoError> {
        let too_much = |_| RepoError::Content { what: "more than a restore can note" };
        let chunks = u32::try_from(list.len() / REF_BYTES).map_err(too_much)?;
        let length = u32::try_from(entry.len()).map_err(too_much)?;
        let mut record = Vec::with_capacity(4 + chunks as usize * PLACED_BYTES + entry.len() + 16);
        record.extend_from_slice(&length.to_le_bytes());
        push_placed(list, &mut record);
        record.extend_from_slice(entry);
        record.resize(record.len().next_multiple_of(RECORD_ALIGN as usize), 0);
        let record = u32::try_from(push(&record)? / RECORD_ALIGN).map_err(too_much)?;
        Ok(Self { record, chunks, directory, left: 0.into() })
    }

    /// Reads its entry's record.
    ///
    /// # Errors
    /// As [`Records::get`].
    fn entry<'w>(&self, records: &'w Records, window: &'w mut Window) -> io::Result<&'w [u8]> {
        let start = u64::from(self.record) * RECORD_ALIGN;
        let length =
            records.get(start, 4, window)?.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        records.get(self.placed(self.chunks), length as usize, window)
    }

    /// Reads some of its chunks, each with where it goes.
    ///
    /// # Errors
    /// As [`Records::get`].
    fn chunks<'w>(
        &self,
        (first, count): (u32, u32),
        records: &'w Records,
        window: &'w mut Window,
    ) -> io::Result<&'w [u8]> {
        records.get(self.placed(first), count as usize * PLACED_BYTES, window)
    }

    /// Returns where one of its chunks is noted.
    fn placed(&self, number: u32) -> u64 {
        u64::from(self.record) * RECORD_ALIGN + 4 + u64::from(number) * PLACED_BYTES as u64
    }
}

/// What filling did.
#[derive(Default)]
pub struct Filled {
    /// Files that are in place.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Links, FIFOs and devices that are in place.
    pub others: u64,
    /// Files read back.
    pub verified: u64,
    /// Bytes read from packs.
    pub bytes_fetched: u64,
    /// Entries that are not in place, and why.
    pub lacks: Vec<Lack>,
    /// Numbers of the files that are in place, in the order in which they were made, if they are to be read back.
    made: Vec<u32>,
}

/// Makes files.
pub struct Fill<'f> {
    /// Where the chunks come from.
    pub reader: &'f Reader<'f>,
    /// Where their frames lie.
    places: &'f Frames<'f>,
    /// Where the files go.
    pub target: &'f Target,
    /// Their directories.
    pub directories: &'f [Directory],
    /// What they get.
    pub attributes: &'f Attributes,
    /// What was asked for.
    pub request: &'f Request<'f>,
    /// What they are.
    pub files: &'f [FilePlan],
    /// Their entries and references.
    pub records: &'f Records,
    /// What has begun, by number of the file.
    begun: Vec<Mutex<HashMap<u32, Begun>>>,
    /// Numbers of files with parts in memory, in the order in which they began; some have none any more.
    waiting: Mutex<VecDeque<u32>>,
    /// Bytes of their parts that are kept, and how many may be.
    memory: AtomicUsize,
    memory_max: usize,
    done: Mutex<Filled>,
    error: Mutex<Option<RepoError>>,
    is_stopped: AtomicBool,
}

/// What a thread has at hand.
#[derive(Default)]
pub struct Hand {
    /// The directory that it opened last.
    parent: Option<(u32, Arc<OwnedFd>)>,
    /// The temporary file that it opened last.
    spool: Option<(u32, File)>,
    /// Records that it read last, and chunks.
    records: Window,
    chunks: Window,
    /// Raw bytes of a frame.
    raw: Vec<u8>,
    /// A file that is put together.
    whole: Vec<u8>,
    /// Chunks of the frame that were found right, by where they start.
    right: HashSet<(u32, ChunkRef)>,
}

/// A frame's raw bytes, the pack it is from, and its place there.
type Opened<'f> = (&'f PackRow, Location, &'f [u8]);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'f> Fill<'f> {
    /// Takes what is to be made.
    pub fn new(
        (reader, places): (&'f Reader<'f>, &'f Frames<'f>),
        target: &'f Target,
        directories: &'f [Directory],
        attributes: &'f Attributes,
        request: &'f Request<'f>,
        (files, records): (&'f [FilePlan], &'f Records),
    ) -> Self {
        Self {
            reader,
            places,
            target,
            directories,
            attributes,
            request,
            files,
            records,
            begun: (0..SHARDS).map(|_| Mutex::default()).collect(),
            waiting: Mutex::default(),
            memory: AtomicUsize::new(0),
            memory_max: 0,
            done: Mutex::default(),
            error: Mutex::default(),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Makes all files; reads them back, and those that were `kept`, if that is asked for.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`]; [`RepoError::Source`] if the records can't be read again, or the target takes no more. A
    /// file that can't be made is a lack.
    pub fn run(mut self, needs: &mut Needs, kept: &[FilePlan]) -> Result<Filled, RepoError> {
        self.memory_max = parts_bytes(size_of_val(self.files) + needs.len() * size_of::<Need>());
        needs.retain(|file| self.is_wanted(file));
        let frames: Vec<&[Need]> = needs.sorted().chunk_by(Need::shares_frame).collect();
        let groups: Vec<&[&[Need]]> = stretches(self.places, &frames).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut hand = Hand::default();
            while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.is_stopped() {
                    return;
                }
                self.stretch(group, &mut hand);
            }
        };
        std::thread::scope(|scope| {
            let begun = (0..self.request.threads.max(1)).map(|_| begin(scope, work));
            if begun.take_while(Result::is_ok).count() == 0 {
                work(); // the system gives no thread
            }
            let mut hand = Hand::default();
            for (number, file) in (0..).zip(self.files).filter(|(_, file)| file.chunks == 0) {
                if self.is_stopped() {
                    return;
                }
                if self.is_wanted(number) {
                    self.make((number, file), Ok(Content::Bytes(&[])), &mut hand);
                }
            }
        });
        if self.request.verify && !self.is_stopped() {
            self.read_back(kept);
        }
        match locked(&self.error).take() {
            Some(error) => {
                let mut hand = Hand::default();
                for (number, begun) in self.begun.iter().flat_map(|shard| std::mem::take(&mut *locked(shard)))
                {
                    if let Some(file) = self.files.get(number as usize) {
                        self.discard(begun, file, &mut hand);
                    }
                }
                Err(error)
            }
            None => Ok(self.done.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Returns whether a file's directory is there; if not, that was said already.
    fn is_wanted(&self, file: u32) -> bool {
        let directory = self.files.get(file as usize).map(|file| file.directory as usize);
        directory.and_then(|number| self.directories.get(number)).is_some_and(|directory| directory.is_made)
    }

    fn is_stopped(&self) -> bool {
        if self.request.progress.is_cancelled() {
            self.stop(RepoError::Interrupted);
        }
        self.is_stopped.load(Ordering::Relaxed)
    }

    fn stop(&self, error: RepoError) {
        self.is_stopped.store(true, Ordering::Relaxed);
        locked(&self.error).get_or_insert(error);
    }

    /// Returns the text of an error of the target; if it takes no more at all, stops.
    fn refused(&self, error: &io::Error) -> String {
        if let Some(errno) = rustix::io::Errno::from_io_error(error)
            && let Err(e) = self.target.stops(errno)
        {
            self.stop(e);
        }
        error.to_string()
    }

    fn done(&self, change: impl FnOnce(&mut Filled)) {
        change(&mut locked(&self.done));
    }

    /// Meets all needs that frames of one pack meet which lie side by side: one read of the store.
    fn stretch(&self, frames: &[&[Need]], hand: &mut Hand) {
        let Some((range, mut bytes)) = fetch(self.reader.repository().store(), self.places, frames) else {
            frames.iter().for_each(|needs| self.frame(needs, None, hand));
            return;
        };
        self.done(|done| done.bytes_fetched += range.end - range.start);
        for needs in frames {
            let own = bytes.as_mut().and_then(|bytes| own(self.places, needs, &range, bytes));
            self.frame(needs, own, hand);
        }
    }

    /// Meets all needs that one frame meets; `stored` are its bytes, if they were read already.
    fn frame(&self, needs: &[Need], stored: Option<&mut [u8]>, hand: &mut Hand) {
        let Some(first) = needs.first() else { return };
        let mut raw = std::mem::take(&mut hand.raw);
        hand.right.clear();
        let frame = self.places.place(first).map(|(pack, place)| {
            let opened = match (stored, self.places.span(first)) {
                (Some(bytes), Some((_, span))) => {
                    self.reader.open_frame(pack, span, bytes, &mut raw).map(drop)
                }
                _ => self.reader.read_frame(pack, place.frame).map(|(_, bytes)| raw = bytes),
            };
            (pack, place, opened)
        });
        for need in needs {
            let frame = match &frame {
                Some((pack, place, Ok(()))) => Ok(Some((*pack, *place, raw.as_slice()))),
                Some((_, _, Err(e))) if !e.is_unreadable() => Err(e.chain()),
                _ => Ok(None), // another copy may be had
            };
            if let Err(e) = self.meet(need, frame, hand) {
                self.stop(self.target.unusable(&e));
                break;
            }
        }
        hand.raw = raw;
    }

    /// Meets a need with what its frame holds.
    fn meet(
        &self,
        need: &Need,
        frame: Result<Option<Opened<'_>>, String>,
        hand: &mut Hand,
    ) -> io::Result<()> {
        let Some(file) = self.files.get(need.file as usize) else { return Ok(()) };
        let mut window = std::mem::take(&mut hand.chunks);
        let chunks = file.chunks((need.first, need.count()), self.records, &mut window)?;
        let at = placed(chunks).next().map_or(0, |(_, at)| at);
        let mut own = Vec::new();
        let bytes = frame.and_then(|frame| self.gather(need, chunks, frame, &mut hand.right, &mut own));
        hand.chunks = window;
        match need.count() == file.chunks {
            true => self.make((need.file, file), bytes.map(Content::Bytes), hand),
            false => self.deliver((need.file, file), at, bytes, hand),
        }
        Ok(())
    }

    /// Returns a need's bytes: those in the frame, or copies of them put into `own`.
    fn gather<'b>(
        &self,
        need: &Need,
        chunks: &[u8],
        frame: Option<Opened<'b>>,
        right: &mut HashSet<(u32, ChunkRef)>,
        own: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], String> {
        let mut end = need.offset();
        let mut are_right = true;
        for (chunk, _) in placed(chunks) {
            are_right &= frame.is_some_and(|(pack, place, raw)| {
                let location = Location { offset: end, bytes: chunk.bytes, ..place };
                right.contains(&(end, chunk))
                    || verified(self.reader.repository(), pack, location, chunk, raw).is_ok()
                        && right.insert((end, chunk))
            });
            end = end.saturating_add(chunk.bytes);
        }
        if let Some((_, _, raw)) = frame
            && are_right
            && let Some(bytes) = raw.get(need.offset() as usize..end as usize)
        {
            return Ok(bytes);
        }
        for (chunk, _) in placed(chunks) {
            own.extend(self.reader.chunk(chunk).map_err(|e| e.chain())?);
        }
        Ok(own)
    }
}
