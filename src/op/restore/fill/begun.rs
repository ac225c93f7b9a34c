//! Files of which a part has come, while there is more to come from other frames.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::base::entry::Entry;
use crate::op::restore::fill::make::Content;
use crate::op::restore::fill::{FilePlan, Fill, Hand, SHARDS, locked};
use crate::op::restore::holes::write_around_holes;

/// Files of which the parts come from several frames are put together in memory up to this many
/// bytes, and written at one stroke.
const MEMORY_FILE_BYTES: u64 = 256 << 10;

/// Bytes of such parts, at most and at least; more go to their files' temporary files.
const PARTS_BYTES: std::ops::RangeInclusive<usize> = 8 << 20..=20 << 20;

/// Bytes of such parts and of what is noted of files together, within [`PARTS_BYTES`].
const MEMORY_BYTES: usize = 56 << 20;

/// Files with parts in memory that are remembered in their order.
const WAITING_MAX: usize = 1 << 16;

/// What keeping a part takes beside its bytes.
const PART_BYTES: usize = 96;

/// Returns how many bytes of parts are kept beside notes of `noted` bytes.
pub fn parts_bytes(noted: usize) -> usize {
    MEMORY_BYTES.saturating_sub(noted).clamp(*PARTS_BYTES.start(), *PARTS_BYTES.end())
}

/// Under which name a file lies until it is whole.
#[derive(Clone)]
pub enum Under {
    /// Its own: nobody sees it.
    Own,
    /// A temporary one.
    Temporary(Arc<str>),
}

impl Under {
    /// Returns the name.
    pub fn name<'n>(&'n self, entry: &'n Entry<'_>) -> &'n [u8] {
        match self {
            Self::Own => entry.name,
            Self::Temporary(name) => name.as_bytes(),
        }
    }
}

/// What has come of a file, while there is more to come from other frames.
pub enum Begun {
    /// Parts of it, each with where it goes.
    Parts(Vec<(u64, Box<[u8]>)>),
    /// They are in the file, under this name.
    Spool(Under),
    /// The file can't be restored.
    Failed(String),
}

impl Fill<'_> {
    /// Takes a part of a file, which goes to `at`, to the others; the last one makes the file.
    pub fn deliver(
        &self,
        (number, file): (u32, &FilePlan),
        at: u64,
        bytes: Result<&[u8], String>,
        hand: &mut Hand,
    ) {
        // The others have all come: then so have their effects.
        let is_last = file.left.load(Ordering::Acquire) == 1;
        let taken = bytes.and_then(|bytes| self.take((number, file), at, bytes, is_last, hand));
        if let Err(reason) = taken {
            let old = locked(self.shard(number)).insert(number, Begun::Failed(reason));
            old.into_iter().for_each(|old| self.discard(old, file, hand));
        }
        if file.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let begun = locked(self.shard(number)).remove(&number);
        match begun {
            Some(Begun::Parts(parts)) => {
                let mut whole = std::mem::take(&mut hand.whole);
                let content = self.put_together(file, parts, &mut whole, hand);
                self.make((number, file), content.map(|()| Content::Bytes(&whole)), hand);
                hand.whole = whole;
            }
            Some(Begun::Spool(under)) => self.make((number, file), Ok(Content::Spool(under)), hand),
            Some(Begun::Failed(reason)) => self.make((number, file), Err(reason), hand),
            None => {}
        }
    }

    fn shard(&self, file: u32) -> &Mutex<HashMap<u32, Begun>> {
        &self.begun[file as usize % SHARDS]
    }

    /// Keeps a part of a file, or writes it.
    fn take(
        &self,
        (number, file): (u32, &FilePlan),
        at: u64,
        bytes: &[u8],
        is_last: bool,
        hand: &mut Hand,
    ) -> Result<(), String> {
        if !is_last {
            self.make_room(bytes, hand);
        }
        let under = {
            let mut shard = locked(self.shard(number));
            match shard.get_mut(&number) {
                Some(Begun::Failed(_)) => return Ok(()),
                Some(Begun::Spool(under)) => under.clone(),
                Some(Begun::Parts(parts)) if is_last || self.has_room(bytes) => {
                    self.keep(parts, at, bytes);
                    return Ok(());
                }
                begun => {
                    let old = match begun {
                        Some(Begun::Parts(parts)) => std::mem::take(parts),
                        _ => Vec::new(),
                    };
                    let is_small = self.with_entry(file, hand, |entry, _| {
                        Ok(entry.data_bytes() <= MEMORY_FILE_BYTES && entry.holes.is_empty())
                    })?;
                    if old.is_empty() && is_small && self.has_room(bytes) {
                        let mut parts = Vec::with_capacity(2);
                        self.keep(&mut parts, at, bytes);
                        shard.insert(number, Begun::Parts(parts));
                        locked(&self.waiting).push_back(number);
                        return Ok(());
                    }
                    let under = self.spool_out(number, file, old, hand)?;
                    shard.insert(number, Begun::Spool(under.clone()));
                    under
                }
            }
        };
        self.write((number, file), &under, at, bytes, hand)
    }

    /// Writes out the parts of those files that wait longest, until there is room for more: what is missing of them
    /// lies far away, as with a body that an older message has too, while most wait for a frame that is near.
    fn make_room(&self, bytes: &[u8], hand: &mut Hand) {
        loop {
            let oldest = {
                let mut waiting = locked(&self.waiting);
                match self.has_room(bytes) && waiting.len() < WAITING_MAX {
                    true => None,
                    false => waiting.pop_front(),
                }
            };
            let Some(number) = oldest else { return };
            let mut shard = locked(self.shard(number));
            let (Some(Begun::Parts(parts)), Some(file)) =
                (shard.get_mut(&number), self.files.get(number as usize))
            else {
                continue; // it is whole, or was written out
            };
            let parts = std::mem::take(parts);
            let begun = self.spool_out(number, file, parts, hand).map_or_else(Begun::Failed, Begun::Spool);
            shard.insert(number, begun);
        }
    }

    fn has_room(&self, bytes: &[u8]) -> bool {
        self.memory.load(Ordering::Relaxed) + bytes.len() + PART_BYTES <= self.memory_max
    }

    fn keep(&self, parts: &mut Vec<(u64, Box<[u8]>)>, at: u64, bytes: &[u8]) {
        self.memory.fetch_add(bytes.len() + PART_BYTES, Ordering::Relaxed);
        parts.push((at, bytes.into()));
    }

    /// Counts parts as gone.
    pub fn release(&self, parts: &[(u64, Box<[u8]>)]) {
        let bytes = parts.iter().map(|(_, bytes)| bytes.len() + PART_BYTES).sum();
        self.memory.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Makes a file, not under a name that promises that it is whole, and writes the parts there that were kept.
    fn spool_out(
        &self,
        number: u32,
        file: &FilePlan,
        parts: Vec<(u64, Box<[u8]>)>,
        hand: &mut Hand,
    ) -> Result<Under, String> {
        self.release(&parts);
        let (under, out) = self.with_entry(file, hand, |entry, hand| {
            self.create(file, entry, self.first_mode(entry, true), hand)
        })?;
        hand.spool = Some((number, out));
        for (at, bytes) in parts {
            if let Err(reason) = self.write((number, file), &under, at, &bytes, hand) {
                self.discard(Begun::Spool(under), file, hand);
                return Err(reason);
            }
        }
        Ok(under)
    }

    /// Writes a part of a file to where it lies.
    fn write(
        &self,
        (number, file): (u32, &FilePlan),
        under: &Under,
        at: u64,
        bytes: &[u8],
        hand: &mut Hand,
    ) -> Result<(), String> {
        self.with_entry(file, hand, |entry, hand| {
            let out = self.spool(number, file, under.name(entry), hand)?;
            write_around_holes(out, entry, at, bytes).map_err(|e| self.refused(&e))
        })
    }

    /// Puts the parts of a file together.
    fn put_together(
        &self,
        file: &FilePlan,
        parts: Vec<(u64, Box<[u8]>)>,
        whole: &mut Vec<u8>,
        hand: &mut Hand,
    ) -> Result<(), String> {
        self.release(&parts);
        let total = self.with_entry(file, hand, |entry, _| Ok(entry.data_bytes()))?;
        whole.clear();
        whole.resize(usize::try_from(total).map_err(|e| e.to_string())?, 0);
        for (at, bytes) in parts {
            let start = usize::try_from(at).map_err(|e| e.to_string())?;
            let place = whole.get_mut(start..start.saturating_add(bytes.len()));
            place.ok_or("chunk lies outside its file")?.copy_from_slice(&bytes);
        }
        Ok(())
    }
}
