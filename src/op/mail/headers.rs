//! Messages → their headers.
//!
//! A backup cuts a message at the end of its header, and keeps headers in frames of their own: the first chunk is enough nearly
//! always, and each frame is read once, in the order in which they lie.

use std::collections::HashMap;

use crate::base::content::{ChunkRef, ContentBuf, refs};
use crate::op::mail::head::head;
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::repo::together::read_chunks;
use crate::stage::message::header::{HEADER_BYTES_MAX, end};
use crate::stage::message::wrapping;

/// Takes headers one by one, each with the number of its content; an error ends the reading.
pub type EachHeader<'e> = dyn FnMut(usize, Result<&[u8], RepoError>) -> Result<(), RepoError> + 'e;

/// Calls `each` with the number of each content and the bytes that it begins with: all of the header, if it is not longer than
/// any that is looked at, or what it is wrapped in. What several have in common is read once. Memory: a frame.
///
/// # Errors
/// `each` gets them, [`RepoError::Locked`] if content is sealed and nobody gave the passphrase; what it returns ends this.
pub fn headers(
    reader: &Reader<'_>,
    contents: &[&ContentBuf],
    each: &mut EachHeader<'_>,
) -> Result<(), RepoError> {
    let mut chunks: Vec<ChunkRef> = Vec::new();
    let mut whose: HashMap<ChunkRef, usize> = HashMap::new();
    let mut numbers: Vec<Vec<usize>> = Vec::new();
    for (number, content) in contents.iter().enumerate() {
        let first = match reader.flatten(content.borrowed()) {
            Ok(list) => refs(&list).next(),
            Err(e) => {
                each(number, Err(e))?;
                continue;
            }
        };
        let Some(first) = first else {
            each(number, Ok(b""))?;
            continue;
        };
        let slot = *whose.entry(first).or_insert_with(|| {
            chunks.push(first);
            numbers.push(Vec::new());
            chunks.len() - 1
        });
        numbers[slot].push(number);
    }
    let (mut longer, mut ended) = (Vec::new(), Ok(()));
    read_chunks(reader, &chunks, |slot, bytes| {
        if ended.is_err() {
            return;
        }
        let is_enough = |bytes: &[u8]| {
            bytes.len() >= HEADER_BYTES_MAX || end(bytes).is_some() || wrapping::of(bytes).is_some()
        };
        match bytes {
            Ok(bytes) if is_enough(bytes) => {
                ended = numbers[slot].iter().try_for_each(|number| each(*number, Ok(bytes)));
            }
            Ok(_) => longer.extend(&numbers[slot]),
            Err(e) if !e.is_unreadable() => ended = Err(e),
            Err(_) => longer.extend(&numbers[slot]), // says why for each
        }
    });
    ended?;
    for number in longer {
        let read = head(reader, contents[number], HEADER_BYTES_MAX as u64);
        match read {
            Ok(bytes) => each(number, Ok(&bytes))?,
            Err(e) if !e.is_unreadable() => return Err(e),
            Err(e) => each(number, Err(e))?,
        }
    }
    Ok(())
}
