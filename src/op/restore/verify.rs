//! Reading back what was written.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::base::entry::Entry;
use crate::base::kind::FrameKind;
use crate::op::restore::holes::around_holes;
use crate::op::restore::placed::placed;
use crate::repo::reader::Reader;

/// Reads a file back from the disk and hashes its chunks, as they are noted in `list`.
///
/// # Errors
/// One line: it can't be read, or is not what was written.
pub fn read_back(
    reader: &Reader<'_>,
    parent: &OwnedFd,
    entry: &Entry<'_>,
    list: &[u8],
) -> Result<(), String> {
    let written = crate::stage::scan::open_file(parent, entry.name).map_err(text)?;
    rustix::fs::fdatasync(&written).map_err(text)?;
    // From the disk, not from memory. What the kernel keeps all the same is right as well.
    let _ = rustix::fs::fadvise(&written, 0, None, rustix::fs::Advice::DontNeed);
    let written = std::fs::File::from(written);
    for (chunk, at) in placed(list) {
        let mut bytes = vec![0; chunk.bytes as usize];
        around_holes(entry, at, bytes.len(), |from, range| written.read_exact_at(&mut bytes[range], from))
            .map_err(|e| format!("cannot be read back: {e}"))?;
        if reader.repository().writer_keys().namer(FrameKind::Content).name(&bytes) != chunk.id {
            return Err("read back, and it is not what was written: the target disk fails".to_owned());
        }
    }
    Ok(())
}

fn text(error: Errno) -> String {
    io::Error::from(error).to_string()
}
