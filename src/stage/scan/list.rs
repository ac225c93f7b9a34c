//! Names in a directory.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::fs::{RawDir, SeekFrom, seek};
use rustix::io::Errno;

use crate::base::time::Time;
use crate::stage::scan::{Stat, stat_of};

/// How often a directory that keeps changing is listed before the last listing is taken.
const LISTINGS_MAX: usize = 3;

/// Names of a directory's entries, by ascending bytes, in one allocation; with the inode that the
/// directory gives for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    inode: u64,
    offset: u32,
    length: u16,
}

impl Names {
    /// Adds a name; [`Self::sort`] puts it in its place.
    pub fn push(&mut self, name: &[u8], inode: u64) {
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX); // NAME_MAX is 255
        let offset = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(name);
        self.spans.push(Span { inode, offset, length });
    }

    /// Orders the names by ascending bytes, each once.
    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        self.spans.sort_unstable_by(|a, b| a.of(bytes).cmp(b.of(bytes)));
        self.spans.dedup_by(|a, b| a.of(bytes) == b.of(bytes));
    }

    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Returns the name at a place in the order.
    pub fn get(&self, place: usize) -> Option<&[u8]> {
        self.spans.get(place).map(|span| span.of(&self.bytes))
    }

    /// Returns whether a name is among them, which are in order. O(log names).
    pub fn contains(&self, name: &[u8]) -> bool {
        self.spans.binary_search_by(|span| span.of(&self.bytes).cmp(name)).is_ok()
    }

    /// Returns the names in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.spans.iter().map(|span| span.of(&self.bytes))
    }

    /// Returns the names in order, each with its inode.
    pub fn iter_with_inodes(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.spans.iter().map(|span| (span.of(&self.bytes), span.inode))
    }
}

impl Span {
    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.offset as usize..][..usize::from(self.length)]
    }
}

/// Lists a directory from its start; `.` and `..` are left out. O(entries), 64 KiB a system call.
///
/// # Errors
/// As getdents64(2).
pub fn list(directory: impl AsFd) -> Result<Names, Errno> {
    seek(&directory, SeekFrom::Start(0))?;
    let mut names = Names::default();
    let mut buffer = Vec::with_capacity(64 << 10);
    let space: &mut [MaybeUninit<u8>] = buffer.spare_capacity_mut();
    let mut reader = RawDir::new(directory, space);
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name, entry.ino());
        }
    }
    names.sort();
    Ok(names)
}

/// Lists a directory; lists it again if it changed meanwhile. Returns what it is as well.
///
/// # Errors
/// As getdents64(2) and statx(2).
pub fn list_stable(directory: impl AsFd) -> Result<(Names, Stat), Errno> {
    let mut before = stat_of(&directory)?;
    for _ in 1..LISTINGS_MAX {
        let names = list(&directory)?;
        let after = stat_of(&directory)?;
        if changed(&before) == changed(&after) {
            return Ok((names, after));
        }
        before = after;
    }
    Ok((list(&directory)?, before))
}

fn changed(stat: &Stat) -> (Time, Time) {
    (stat.mtime, stat.ctime)
}
