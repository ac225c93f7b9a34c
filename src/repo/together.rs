//! Many chunks at one stroke: each frame that holds some of them is read once, in the order in which frames
//! lie in packs; and many strokes at a time.

use std::convert::Infallible;

use crate::base::content::{ChunkRef, ContentBuf, refs};
use crate::base::limits::RECORD_BYTES_CAP;
use crate::base::threads::begin;
use crate::repo::RepoError;
use crate::repo::reader::{Reader, verified};
use crate::stage::index::Location;

/// Fewest bytes that are too many for a directory.
const RECORD_BYTES_OVER: usize = RECORD_BYTES_CAP + 1;

/// Reads chunks; calls `take` with the number of each and its bytes, in the order in which they lie in packs.
/// A frame that was read lately is not read again. Memory: a frame, and 24 bytes a chunk; of a repository that is far away, where
/// several frames are read at the same time, two for each.
///
/// # Errors
/// `take` gets them, for each chunk as [`Reader::chunk`].
pub fn read_chunks(
    reader: &Reader<'_>,
    chunks: &[ChunkRef],
    mut take: impl FnMut(usize, Result<&[u8], RepoError>),
) {
    let order = in_order(reader, chunks);
    let groups: Vec<&[Placed]> = order.chunk_by(is_one_frame).collect();
    let open = |group: &&[Placed]| {
        let (location, _) = group.first()?;
        let pack = reader.index().pack((*location)?.pack)?;
        Some((pack, reader.frame(pack, (*location)?.frame).ok()?))
    };
    let done: Result<(), Infallible> = ordered(&groups, at_once(reader), open, |group, opened| {
        for (location, number) in *group {
            let Some(chunk) = chunks.get(*number) else { continue };
            let found = opened.as_ref().zip(*location).and_then(|((pack, raw), location)| {
                verified(reader.repository(), pack, location, *chunk, raw).ok()
            });
            match found {
                Some(bytes) => take(*number, Ok(bytes)),
                None => match reader.chunk(*chunk) {
                    Ok(bytes) => take(*number, Ok(&bytes)), // another copy
                    Err(e) => take(*number, Err(e)),
                },
            }
        }
        Ok(())
    });
    match done {
        Ok(()) => {}
    }
}

/// Returns how many frames are best read at the same time for one who waits for all of them.
fn at_once(reader: &Reader<'_>) -> usize {
    reader.repository().store().reads_at_once()
}

/// Reads chunks, each frame once and no other copy; calls `take` with each chunk and its bytes, none if they can't be
/// had where they should lie. Order and memory are those of [`read_chunks`].
///
/// # Errors
/// What `take` returns, or what keeps a frame from being read and is no damage: it ends there.
pub fn scan_chunks(
    reader: &Reader<'_>,
    chunks: &[ChunkRef],
    mut take: impl FnMut(ChunkRef, Option<&[u8]>) -> Result<(), RepoError>,
) -> Result<(), RepoError> {
    let order = in_order(reader, chunks);
    let groups: Vec<&[Placed]> = order.chunk_by(is_one_frame).collect();
    let open = |group: &&[Placed]| {
        let (location, _) = group.first()?;
        let pack = reader.index().pack((*location)?.pack)?;
        Some((pack, reader.frame(pack, (*location)?.frame)))
    };
    ordered(&groups, at_once(reader), open, |group, opened| {
        let opened = match opened {
            Some((_, Err(e))) if !e.is_damage() => return Err(e),
            Some((pack, Ok(raw))) => Some((pack, raw)),
            _ => None,
        };
        for (location, number) in *group {
            let found = opened.as_ref().zip(*location).and_then(|((pack, raw), location)| {
                verified(reader.repository(), pack, location, chunks[*number], raw).ok()
            });
            take(chunks[*number], found)?;
        }
        Ok(())
    })
}

/// Calls `make` with each item, on `threads` threads, and on this one `take` with what it returned, in the order of the
/// items. One result a thread waits at most. With one thread, or where the system gives none, everything happens on this one.
///
/// # Errors
/// What `take` returns: it ends there.
pub fn ordered<T: Sync, R: Send, E>(
    items: &[T],
    threads: usize,
    make: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(&T, R) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.min(items.len());
    if threads < 2 {
        return items.iter().try_for_each(|item| take(item, make(item)));
    }
    std::thread::scope(|scope| {
        let make = &make;
        let begin = |first| {
            let (sender, receiver) = crossbeam_channel::bounded(0);
            let begun = begin(scope, move || {
                let mut own = items.iter().skip(first).step_by(threads);
                own.all(|item| sender.send(make(item)).is_ok())
            });
            begun.is_ok().then_some(receiver)
        };
        let receivers: Vec<_> = (0..threads).map(begin).collect();
        for (item, receiver) in items.iter().zip(receivers.iter().cycle()) {
            let Some(receiver) = receiver else {
                take(item, make(item))?; // the system gives no more threads
                continue;
            };
            match receiver.recv() {
                Ok(made) => take(item, made)?,
                Err(_) => break, // the thread has panicked, and so will the scope
            }
        }
        Ok(())
    })
}

type Placed = (Option<Location>, usize);

/// Returns where chunks lie, each with its number, in the order in which they lie in packs.
fn in_order(reader: &Reader<'_>, chunks: &[ChunkRef]) -> Vec<Placed> {
    let find = |chunk: &ChunkRef| reader.index().find(&chunk.id).ok().flatten();
    let mut order: Vec<Placed> =
        chunks.iter().enumerate().map(|(number, chunk)| (find(chunk), number)).collect();
    order.sort_unstable();
    order
}

fn is_one_frame(a: &Placed, b: &Placed) -> bool {
    let frame = |placed: &Placed| placed.0.map(|location| (location.pack, location.frame));
    frame(a) == frame(b)
}

/// Reads whole directories. Memory: all of them, and as [`read_chunks`].
///
/// # Errors
/// For each directory as [`Reader::content`].
pub fn read_directories(reader: &Reader<'_>, contents: &[ContentBuf]) -> Vec<Result<Vec<u8>, RepoError>> {
    let mut streams = Vec::with_capacity(contents.len());
    let (mut chunks, mut places) = (Vec::new(), Vec::new());
    for (number, content) in contents.iter().enumerate() {
        let list = reader.flatten(content.borrowed());
        let total = list.as_ref().map_or(0, |list| refs(list).map(|chunk| u64::from(chunk.bytes)).sum());
        streams.push(match (list, usize::try_from(total).unwrap_or(usize::MAX)) {
            (Err(e), _) => Err(e),
            (Ok(_), RECORD_BYTES_OVER..) => {
                Err(RepoError::Content { what: "longer than any directory may be" })
            }
            (Ok(list), total) => {
                let mut at = 0;
                for chunk in refs(&list) {
                    chunks.push(chunk);
                    places.push((number, at));
                    at += chunk.bytes as usize;
                }
                Ok(vec![0; total])
            }
        });
    }
    read_chunks(reader, &chunks, |which, found| {
        let (number, at) = places[which];
        match (&mut streams[number], found) {
            (Ok(stream), Ok(bytes)) => stream[at..at + bytes.len()].copy_from_slice(bytes),
            (Err(_), _) => {}
            (stream, Err(e)) => *stream = Err(e),
        }
    });
    streams
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items_whoever_made_them() {
        let items: Vec<u32> = (0..1000).collect();
        for threads in [0, 1, 2, 3, 16, 2000] {
            let mut taken = Vec::new();
            let made = |item: &u32| {
                if item.is_multiple_of(7) {
                    std::thread::yield_now();
                }
                item * 2
            };
            let result: Result<(), ()> = ordered(&items, threads, made, |item, made| {
                assert_eq!(made, item * 2);
                taken.push(*item);
                Ok(())
            });
            assert_eq!((result, &taken), (Ok(()), &items), "{threads} threads");
        }
        assert_eq!(ordered(&[], 4, |(): &()| (), |(), ()| Err("never")), Ok(()));
    }

    #[test]
    fn an_error_ends_it_and_hardly_more_is_made() {
        let items: Vec<u32> = (0..1000).collect();
        for threads in [1, 4] {
            let made = AtomicU32::new(0);
            let make = |item: &u32| {
                _ = made.fetch_add(1, Ordering::Relaxed);
                *item
            };
            let result = ordered(&items, threads, make, |_, item| if item < 5 { Ok(()) } else { Err(item) });
            assert_eq!(result, Err(5));
            assert!(made.load(Ordering::Relaxed) <= 6 + threads as u32);
        }
    }
}
