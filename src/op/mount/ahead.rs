//! Reading ahead: while one part of a file or of a folder is read, the frames of the next are
//! opened and expanded by another thread, and short files are given to the kernel before it asks.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use lru::LruCache;

use crate::op::mount::folder::Folder;
use crate::op::mount::plan::Plan;
use crate::repo::reader::Reader;

/// Hints that wait. More are dropped: what they hint at is read when it is wanted.
const HINTS_MAX: usize = 16;

/// Folders whose readers are followed at the same time.
const FOLLOWED_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);

/// How far apart two files of a folder may lie that are read one after the other, in entries.
const STEP_MAX: u32 = 64;

/// How many entries of a folder are read ahead by one thread, while others take the next ones.
const ENTRIES_AT_ONCE: u32 = 32;

/// How many chunks of a file are looked at ahead of its reader: 4 MiB of 8 KiB each.
const CHUNKS_AHEAD: usize = 512;

/// One file in so many is left for the kernel to ask for, so that its reader can be followed.
const LEFT_OUT: u32 = 32;

/// Longest file that is read ahead as a whole, in bytes.
pub const WHOLE_BYTES_MAX: u64 = 256 << 10;

/// What may be wanted next.
pub enum Hint {
    /// The chunks of a file from this one on.
    File(Arc<Plan>, usize),
    /// The files of a folder.
    Folder(Run),
}

/// A reader of a folder that takes one file after the other.
#[derive(Default)]
struct Reading {
    /// The entry that was read last.
    last: AtomicU32,
    /// Entries before this one were read ahead already.
    until: AtomicU32,
}

/// Entries of a folder that may be wanted soon.
pub struct Run {
    /// The folder.
    pub folder: Arc<Folder>,
    /// Numbers of the entries.
    pub entries: Range<u32>,
    reading: Arc<Reading>,
}

impl Run {
    /// Returns whether the reader has come past an entry meanwhile.
    pub fn is_past(&self, index: u32) -> bool {
        index <= self.reading.last.load(Ordering::Relaxed)
    }

    /// Returns whether an entry is left for the kernel to ask for.
    pub fn is_left_out(&self, index: u32) -> bool {
        index.is_multiple_of(LEFT_OUT)
    }

    /// Says that reading ahead ended before this entry.
    pub fn ended_before(&self, index: u32) {
        self.reading.until.store(index, Ordering::Relaxed);
    }
}

/// Guesses from what is read what will be.
pub struct Ahead {
    followed: Mutex<LruCache<u64, Arc<Reading>>>,
    hints: Sender<Hint>,
    /// How many entries of a folder are looked at ahead of its reader.
    entries_ahead: u32,
}

impl Ahead {
    /// Returns what takes note, and where hints come out. Memory has room for about `frames_ahead` frames
    /// that nobody has asked for yet.
    pub fn new(frames_ahead: usize) -> (Self, Receiver<Hint>) {
        let (hints, come) = bounded(HINTS_MAX);
        let entries_ahead = ENTRIES_AT_ONCE.saturating_mul(u32::try_from(frames_ahead).unwrap_or(1));
        (Self { followed: Mutex::new(LruCache::new(FOLLOWED_MAX)), hints, entries_ahead }, come)
    }

    /// Notes that a file is read and goes on from chunk `next`.
    pub fn file_goes_on(&self, plan: &Arc<Plan>, next: usize) {
        if next < plan.chunk_count() {
            self.send(Hint::File(plan.clone(), next));
        }
    }

    /// Notes that entry `index` of a folder was read. Only one that comes soon after the last one, or
    /// after those that were read ahead, says that the next will be: who opens a single mail reads
    /// that mail.
    pub fn entry_was_read(&self, folder: &Arc<Folder>, index: u32) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = followed.contains(&folder.number);
        let reading = followed.get_or_insert(folder.number, Arc::default).clone();
        let last = reading.last.swap(index, Ordering::Relaxed);
        let until = reading.until.load(Ordering::Relaxed);
        let is_onward = is_known && last < index && index <= last.max(until).saturating_add(STEP_MAX);
        if !is_onward {
            reading.until.store(index, Ordering::Relaxed);
            return;
        }
        let next = index.saturating_add(1);
        let end = next.saturating_add(self.entries_ahead);
        let mut start = until.max(next);
        while end.saturating_sub(start) >= ENTRIES_AT_ONCE {
            let entries = start..start + ENTRIES_AT_ONCE;
            start = entries.end;
            self.send(Hint::Folder(Run { folder: folder.clone(), entries, reading: reading.clone() }));
        }
        reading.until.store(start, Ordering::Relaxed);
    }

    fn send(&self, hint: Hint) {
        match self.hints.try_send(hint) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

/// Brings the frames of a file's next chunks into memory, `frames_max` at most; returns how many
/// were not there.
pub fn bring(reader: &Reader<'_>, plan: &Plan, from: usize, frames_max: usize) -> usize {
    let mut brought = 0;
    let mut last = None;
    for number in from..plan.chunk_count().min(from.saturating_add(CHUNKS_AHEAD)) {
        let Ok(Some(location)) = plan.location(reader, number) else { continue };
        if last.replace((location.pack, location.frame)) == Some((location.pack, location.frame)) {
            continue;
        }
        let Some(pack) = reader.index().pack(location.pack) else { continue };
        if reader.has_frame(pack, location.frame) {
            continue;
        }
        if brought == frames_max || reader.frame(pack, location.frame).is_err() {
            return brought; // what is wrong is told to who reads it
        }
        brought += 1;
    }
    brought
}
