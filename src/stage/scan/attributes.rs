//! Extended attributes and holes.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{SeekFrom, fgetxattr, flistxattr, lgetxattr, llistxattr, seek};
use rustix::io::Errno;

use crate::base::entry::Hole;

/// Most holes kept of one file. A file in more pieces is stored with the rest as zeros.
const HOLES_MAX: usize = 100_000;

/// Names and values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Returns the extended attributes of an open file, POSIX ACLs among them.
///
/// # Errors
/// As flistxattr(2) and fgetxattr(2); a file system without attributes has none.
pub fn xattrs_of(file: impl AsFd) -> Result<Xattrs, Errno> {
    let mut small = [0; 1024];
    match flistxattr(&file, &mut small) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(_) | Err(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    gather(|buffer| flistxattr(&file, buffer), |name, buffer| fgetxattr(&file, name, buffer))
}

/// Returns the extended attributes of what lies under `name` in `directory`: for what can't be
/// opened without effect (links, FIFOs, devices). Never follows a link.
///
/// # Errors
/// As llistxattr(2) and lgetxattr(2).
pub fn xattrs_at(directory: impl AsFd, name: &[u8]) -> Result<Xattrs, Errno> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let path = path.as_slice();
    gather(|buffer| llistxattr(path, buffer), |name, buffer| lgetxattr(path, name, buffer))
}

fn gather(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs, Errno> {
    let names = match grown(&list) {
        Err(Errno::NOTSUP | Errno::NOENT) => return Ok(Vec::new()), // no attributes here, or no /proc
        other => other?,
    };
    let mut found = Xattrs::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        match grown(|buffer| get(name, buffer)) {
            Ok(value) => found.push((name.to_vec(), value)),
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {} // removed meanwhile, or not ours to read
            Err(e) => return Err(e),
        }
    }
    found.sort();
    Ok(found)
}

/// Calls `read` with ever larger buffers until the answer fits; the kernel's limit is 64 KiB.
fn grown(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    for size in [1 << 10, 8 << 10, 64 << 10] {
        let mut buffer = vec![0; size];
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::RANGE)
}

/// Returns the holes of a file of `size` bytes, ascending. Leaves the file's position anywhere.
/// One system call a border.
///
/// # Errors
/// As lseek(2); a file system that knows no holes has none.
pub fn holes(file: impl AsFd, size: u64) -> Result<Vec<Hole>, Errno> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < size && found.len() < HOLES_MAX {
        let hole = match seek(&file, SeekFrom::Hole(at)) {
            Ok(hole) => hole.min(size),
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        if hole == size {
            break;
        }
        at = match seek(&file, SeekFrom::Data(hole)) {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => size, // no data after the hole
            Err(e) => return Err(e),
        };
        if at > hole {
            found.push(Hole { offset: hole, bytes: at - hole });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    #[test]
    fn holes_lie_between_the_data() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.seek(std::io::SeekFrom::Start(1 << 20)).unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.set_len(2 << 20).unwrap();
        let found = holes(&file, 2 << 20).unwrap();
        if found.is_empty() {
            return; // a file system without holes
        }
        let data: u64 = (2 << 20) - found.iter().map(|hole| hole.bytes).sum::<u64>();
        assert_eq!((found.len(), data), (2, 8192));
        assert_eq!(found[0].offset, 4096);
    }
}
