//! Counters that a running operation turns and a display reads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How far an operation is. Counters only grow; a total of 0 is not known.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
    files_total: AtomicU64,
    bytes_total: AtomicU64,
    cancelled: AtomicBool,
}

/// What [`Progress`] showed at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Entries that are done.
    pub files: u64,
    /// Bytes that are done.
    pub bytes: u64,
    /// Entries expected; 0 if not known.
    pub files_total: u64,
    /// Bytes expected; 0 if not known.
    pub bytes_total: u64,
}

impl Progress {
    /// Adds entries and bytes that are done.
    pub fn add(&self, done: Done) {
        self.files.fetch_add(done.files, Ordering::Relaxed);
        self.bytes.fetch_add(done.bytes, Ordering::Relaxed);
    }

    /// Says how much is expected in all.
    pub fn expect(&self, total: Done) {
        self.files_total.store(total.files, Ordering::Relaxed);
        self.bytes_total.store(total.bytes, Ordering::Relaxed);
    }

    /// Returns all counters.
    pub fn seen(&self) -> Seen {
        Seen {
            files: self.files.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            files_total: self.files_total.load(Ordering::Relaxed),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
        }
    }

    /// Asks the operation to stop at the next safe place.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Returns whether the operation was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// An amount of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Entries.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}
