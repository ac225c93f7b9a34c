//! Data of a sparse file → where it lies in the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::base::entry::Entry;

/// Writes `bytes`, which are the file's data from `at` on with holes left out, to where they belong.
///
/// # Errors
/// As pwrite(2).
pub fn write_around_holes(out: &File, entry: &Entry<'_>, at: u64, bytes: &[u8]) -> io::Result<()> {
    around_holes(entry, at, bytes.len(), |to, range| out.write_all_at(&bytes[range], to))
}

/// Calls `each` with every run of a file that `length` bytes of data at `at` cover: where it lies
/// in the file, and which of the bytes it is.
///
/// # Errors
/// What `each` returns.
pub fn around_holes(
    entry: &Entry<'_>,
    at: u64,
    length: usize,
    mut each: impl FnMut(u64, std::ops::Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let end = at + length as u64;
    let mut data = 0; // data before the hole
    let mut file = 0; // where that data ends in the file
    let holes = entry.holes.iter().map(|hole| (hole.offset, hole.bytes)).chain([(u64::MAX, 0)]);
    for (offset, hole_bytes) in holes {
        let run = offset - file;
        let (from, to) = (at.max(data), end.min(data.saturating_add(run)));
        if from < to {
            let range =
                usize::try_from(from - at).unwrap_or(length)..usize::try_from(to - at).unwrap_or(length);
            each(file + (from - data), range)?;
        }
        data = data.saturating_add(run);
        file = offset.saturating_add(hole_bytes);
    }
    Ok(())
}
