//! Messages → their headers.
//!
//! A backup cuts a message at the end of its header, and keeps headers in frames of their own: the first chunk is enough nearly
//! always, and each frame is read once, in the order in which they lie.

use std::collections::HashMap;

use crate::base::content::{ChunkRef, ContentBuf, refs};
use crate::op::mail::head::head;
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::repo::together::{ordered, read_chunks};
use crate::stage::message::header::{HEADER_BYTES_MAX, end};
use crate::stage::message::wrapping;

/// Headers that a thread reads at a time.
const BATCH: usize = 2000;

/// A first chunk, and the numbers of the contents that begin with it.
type First = (ChunkRef, Vec<usize>);

/// Calls `make`, on several threads, with the number of each content and the bytes that it begins with: all of the header, if it
/// is not longer than any that is looked at, or what it is wrapped in. Calls `take` on this thread with what that returned.
/// What several have in common is read once. Memory: a frame a thread, and what is made of a few thousand headers.
///
/// # Errors
/// `make` gets those that are damage; others end this, such as [`RepoError::Locked`] if content is sealed and nobody gave the
/// passphrase; as does what `take` returns.
pub fn headers<R: Send>(
    reader: &Reader<'_>,
    contents: &[&ContentBuf],
    threads: usize,
    make: impl Fn(usize, Result<&[u8], RepoError>) -> R + Sync,
    mut take: impl FnMut(usize, R) -> Result<(), RepoError>,
) -> Result<(), RepoError> {
    let mut slots: HashMap<ChunkRef, usize> = HashMap::new();
    let mut firsts: Vec<First> = Vec::new();
    for (number, content) in contents.iter().enumerate() {
        match reader.flatten(content.borrowed()).map(|list| refs(&list).next()) {
            Ok(None) => take(number, make(number, Ok(b"")))?,
            Ok(Some(first)) => {
                let slot = *slots.entry(first).or_insert(firsts.len());
                if slot == firsts.len() {
                    firsts.push((first, Vec::new()));
                }
                firsts[slot].1.push(number);
            }
            Err(e) if e.is_unreadable() => take(number, make(number, Err(e)))?,
            Err(e) => return Err(e),
        }
    }
    drop(slots);
    // Neighbours in packs go to one thread, so that no frame is read by two.
    firsts.sort_by_cached_key(|(chunk, _)| reader.index().find(&chunk.id).ok().flatten());
    let batches: Vec<&[First]> = firsts.chunks(BATCH).collect();
    ordered(
        &batches,
        threads,
        |batch| some(reader, contents, batch, &make),
        |_, made| made?.into_iter().try_for_each(|(number, made)| take(number, made)),
    )
}

/// Reads the headers of some contents.
fn some<R>(
    reader: &Reader<'_>,
    contents: &[&ContentBuf],
    batch: &[First],
    make: &impl Fn(usize, Result<&[u8], RepoError>) -> R,
) -> Result<Vec<(usize, R)>, RepoError> {
    let chunks: Vec<ChunkRef> = batch.iter().map(|(chunk, _)| *chunk).collect();
    let (mut made, mut longer, mut failed) = (Vec::new(), Vec::new(), None);
    let is_enough = |bytes: &[u8]| {
        bytes.len() >= HEADER_BYTES_MAX || end(bytes).is_some() || wrapping::of(bytes).is_some()
    };
    read_chunks(reader, &chunks, |slot, bytes| match bytes {
        _ if failed.is_some() => {}
        Ok(bytes) if is_enough(bytes) => {
            made.extend(batch[slot].1.iter().map(|number| (*number, make(*number, Ok(bytes)))));
        }
        Err(e) if !e.is_unreadable() => failed = Some(e),
        _ => longer.extend(&batch[slot].1), // if it is damaged, this says why for each
    });
    if let Some(error) = failed {
        return Err(error);
    }
    for number in longer {
        let read = head(reader, contents[number], HEADER_BYTES_MAX as u64);
        match read {
            Err(e) if !e.is_unreadable() => return Err(e),
            Err(e) => made.push((number, make(number, Err(e)))),
            Ok(bytes) => made.push((number, make(number, Ok(&bytes)))),
        }
    }
    Ok(made)
}
