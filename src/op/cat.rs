//! One file of a snapshot → its bytes.

use std::io::{self, Write};

use crate::base::content::refs;
use crate::base::entry::{Entry, Kind, quoted};
use crate::repo::browse::{Place, find};
use crate::repo::keys::Secrets;
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};

/// Writes a file's bytes, holes as zeros, to `out`; every chunk is verified before it is written.
///
/// # Errors
/// [`RepoError::NoPath`], [`RepoError::Source`] if it is no file or `out` fails, or what reading
/// meets: then `out` has the bytes before it.
pub fn cat(
    reader: &Reader<'_>,
    snapshot: &Snapshot,
    path: &[u8],
    secrets: &dyn Secrets,
    out: &mut dyn Write,
) -> Result<(), RepoError> {
    let shown = if path.is_empty() { "the snapshot itself".to_owned() } else { quoted(path) };
    let fail = |reason: String| RepoError::Source { path: shown.clone(), reason };
    let Place::Entry(record) = find(reader, snapshot, path)? else {
        return Err(fail("is a directory; 'snap ls' shows what is in it".to_owned()));
    };
    let entry = record.entry()?;
    match entry.kind {
        Kind::File => {}
        Kind::Directory => return Err(fail("is a directory; 'snap ls' shows what is in it".to_owned())),
        _ => return Err(fail("is not a regular file".to_owned())),
    }
    reader.repository().unlock(secrets)?;
    content(reader, &entry, out, &shown)
}

/// Writes the bytes of a file's entry, as [`cat`] does; the repository is open to readers. `shown` is
/// what errors call `out`'s file.
///
/// # Errors
/// [`RepoError::Source`] if `out` fails, or what reading meets: then `out` has the bytes before it.
pub fn content(
    reader: &Reader<'_>,
    entry: &Entry<'_>,
    out: &mut dyn Write,
    shown: &str,
) -> Result<(), RepoError> {
    let list = reader.flatten(entry.content)?;
    let written = |e: io::Error| RepoError::Source { path: shown.to_owned(), reason: format!("output: {e}") };
    let mut holes = entry.holes.iter().copied().peekable();
    let mut at = 0;
    for chunk in refs(&list) {
        let bytes = reader.chunk(chunk)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            if let Some(hole) = holes.next_if(|hole| hole.offset == at) {
                io::copy(&mut io::Read::take(io::repeat(0), hole.bytes), out).map_err(written)?;
                at += hole.bytes;
                continue;
            }
            let run = holes.peek().map_or(u64::MAX, |hole| hole.offset - at);
            let (now, later) = rest.split_at(usize::try_from(run).unwrap_or(usize::MAX).min(rest.len()));
            out.write_all(now).map_err(written)?;
            at += now.len() as u64;
            rest = later;
        }
    }
    for hole in holes {
        io::copy(&mut io::Read::take(io::repeat(0), hole.bytes), out).map_err(written)?;
    }
    out.flush().map_err(written)
}
