//! A directory whose entries are being gathered by several threads; the last one builds it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::base::content::{Content, ContentBuf};
use crate::base::limits::RECORD_BYTES_CAP;
use crate::op::backup::run::{Part, Run, Scanned};
use crate::repo::RepoError;
use crate::stage::tree::{Entries, Stream};

/// A directory as the parent snapshot has it.
#[derive(Clone)]
pub struct OldDirectory {
    /// Its tree stream.
    pub stream: Arc<Vec<u8>>,
    /// What refers to the stream.
    pub content: ContentBuf,
}

impl OldDirectory {
    /// Returns its entries, up to the first that can't be read.
    pub fn entries(&self) -> Entries<'_> {
        Entries::new(&self.stream)
    }
}

/// What the walk decided about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// It is as the parent snapshot has it: these bytes of the old stream.
    Old {
        /// Where the record starts.
        start: u32,
        /// Its length.
        bytes: u32,
    },
    /// Another thread will say.
    Later,
}

/// Where a directory's own entry goes.
pub enum Up {
    /// Into this slot of this directory, described so.
    Into(Arc<Pending>, u32, Box<Scanned>),
    /// Nowhere: it is the snapshot's root.
    Root,
}

/// A directory on its way into the snapshot.
pub struct Pending {
    /// Where its own entry goes.
    pub up: Up,
    /// Its path on the source machine, for messages.
    pub path: Vec<u8>,
    /// The component that it belongs to; none for what holds components.
    pub part: Option<Arc<Part>>,
    /// Nesting, counted from the source's root.
    pub depth: u32,
    /// What the parent snapshot has in its place.
    pub old: Option<OldDirectory>,
    slots: OnceLock<Vec<Slot>>,
    records: Mutex<Vec<(u32, Box<[u8]>)>>,
    left: AtomicUsize,
}

impl Pending {
    /// Makes a directory that waits for [`Self::settle`].
    pub fn new(
        up: Up,
        path: Vec<u8>,
        part: Option<Arc<Part>>,
        depth: u32,
        old: Option<OldDirectory>,
    ) -> Arc<Self> {
        Arc::new(Self {
            up,
            path,
            part,
            depth,
            old,
            slots: OnceLock::new(),
            records: Mutex::default(),
            left: AtomicUsize::new(1), // the walk itself
        })
    }

    /// Announces one more entry that will come by [`Self::put`].
    pub fn expect(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a record without waiting for it to be expected; only before [`Self::settle`].
    pub fn put_now(&self, slot: u32, record: Vec<u8>) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.push((slot, record.into_boxed_slice()));
    }

    /// Gives an expected entry's record; none leaves the entry out.
    ///
    /// # Errors
    /// What building the directory meets, if this was the last.
    pub fn put(self: &Arc<Self>, run: &Run<'_>, slot: u32, record: Option<Vec<u8>>) -> Result<(), RepoError> {
        if let Some(record) = record {
            self.put_now(slot, record);
        }
        self.leave(run)
    }

    /// Says what the walk decided, entry by entry in the order of names.
    ///
    /// # Errors
    /// What building the directory meets, if nothing is expected any more.
    pub fn settle(self: &Arc<Self>, run: &Run<'_>, slots: Vec<Slot>) -> Result<(), RepoError> {
        let _ = self.slots.set(slots);
        self.leave(run)
    }

    fn leave(self: &Arc<Self>, run: &Run<'_>) -> Result<(), RepoError> {
        let mut directory = self.clone();
        while directory.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let content = directory.build(run)?;
            let Up::Into(parent, slot, scanned) = &directory.up else {
                run.set_root(content);
                return Ok(());
            };
            let record = scanned.encode(content.borrowed())?;
            parent.put_now(*slot, record);
            let parent = parent.clone();
            directory = parent;
        }
        Ok(())
    }

    /// Stores the directory's stream, unless it is the old one to the byte.
    fn build(&self, run: &Run<'_>) -> Result<ContentBuf, RepoError> {
        let none = Vec::new();
        let slots = self.slots.get().unwrap_or(&none);
        let old = self.old.as_ref().map_or(&[][..], |old| &old.stream);
        let mut records = std::mem::take(&mut *self.records.lock().unwrap_or_else(PoisonError::into_inner));
        records.sort_unstable_by_key(|(slot, _)| *slot);
        let mut records = records.into_iter().peekable();
        let mut stream = Stream::with_capacity(old.len());
        for (number, slot) in (0u32..).zip(slots) {
            match *slot {
                Slot::Old { start, bytes } => {
                    stream.push_record(&old[start as usize..][..bytes as usize]);
                }
                Slot::Later => {
                    if let Some((_, record)) = records.next_if(|(at, _)| *at == number) {
                        stream.push_record(&record);
                    }
                }
            }
        }
        if stream.bytes().len() > RECORD_BYTES_CAP {
            let reason = "the directory has more entries than can be read back; it is stored empty";
            run.lack(self.part.as_deref(), self.path.clone(), reason);
            return Ok(ContentBuf::default());
        }
        match &self.old {
            Some(old) if *old.stream == stream.bytes() => Ok(old.content.clone()),
            _ => run.writer.store_tree(&stream),
        }
    }
}

/// Returns content that refers to nothing.
pub fn no_content() -> Content<'static> {
    Content::default()
}
