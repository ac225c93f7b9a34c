//! Reading back what was written, or what was there.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::base::content::ChunkRef;
use crate::base::entry::{Entry, Kind};
use crate::base::kind::FrameKind;
use crate::op::restore::holes::around_holes;
use crate::repo::reader::Reader;
use crate::stage::scan;

/// Bytes of a hole that are looked at together.
const HOLE_BYTES: usize = 64 << 10;

/// Holds a file against the chunks that it should have, each with where it goes.
///
/// # Errors
/// One line: it can't be read, or is not what it should be.
pub fn hold_against(
    reader: &Reader<'_>,
    file: &File,
    entry: &Entry<'_>,
    chunks: impl Iterator<Item = (ChunkRef, u64)>,
) -> Result<(), String> {
    let unreadable = |e: io::Error| format!("cannot be read back: {e}");
    let stat = scan::stat_of(file).map_err(|e| unreadable(e.into()))?;
    if (stat.kind, stat.size) != (Some(Kind::File), entry.size) {
        return Err(format!("it has {} bytes instead of {}", stat.size, entry.size));
    }
    let mut bytes = Vec::new();
    for (chunk, at) in chunks {
        bytes.resize(chunk.bytes as usize, 0);
        around_holes(entry, at, bytes.len(), |from, range| file.read_exact_at(&mut bytes[range], from))
            .map_err(unreadable)?;
        if reader.repository().writer_keys().namer(FrameKind::Content).name(&bytes) != chunk.id {
            return Err("its content is another".to_owned());
        }
    }
    for hole in &entry.holes {
        if !is_zero(file, hole.offset..hole.offset + hole.bytes).map_err(unreadable)? {
            return Err("it has bytes where a hole should be".to_owned());
        }
    }
    Ok(())
}

/// Returns whether a file has nothing but zeros there; what it has no blocks for is not read.
fn is_zero(file: &File, range: Range<u64>) -> io::Result<bool> {
    let mut at = range.start;
    let mut bytes = vec![0; HOLE_BYTES];
    while at < range.end {
        at = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.max(at),
            Err(Errno::NXIO) => return Ok(true),
            Err(Errno::INVAL) => at, // a file system that knows no holes
            Err(e) => return Err(e.into()),
        };
        if at >= range.end {
            return Ok(true);
        }
        let length = usize::try_from(range.end - at).unwrap_or(HOLE_BYTES).min(HOLE_BYTES);
        file.read_exact_at(&mut bytes[..length], at)?;
        if bytes[..length].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}
