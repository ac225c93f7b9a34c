//! One file, directory, link or special file of a source, as a tree stores it.

use bincode::{BorrowDecode, Decode, Encode};

use crate::base::content::Content;
use crate::base::limits::{LIST_DEPTH_MAX, NAME_BYTES_MAX, TARGET_BYTES_MAX};
use crate::base::time::Time;

/// The ctime of an entry that is to be read again, whatever it looks like then: no known one is the same.
pub const NO_CTIME: Time = Time { seconds: 0, nanos: 0 };

/// What an entry is. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl Kind {
    /// Returns the letter `ls -l` shows.
    pub fn letter(self) -> char {
        match self {
            Self::File => '-',
            Self::Directory => 'd',
            Self::Symlink => 'l',
            Self::Fifo => 'p',
            Self::CharDevice => 'c',
            Self::BlockDevice => 'b',
        }
    }
}

/// A run of a file that takes no space and reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Hole {
    /// Where the hole starts, in bytes from the file's start.
    pub offset: u64,
    /// How long it is, in bytes; never 0.
    pub bytes: u64,
}

/// One entry of a directory, borrowed from the bytes it was read from or will be written to.
///
/// Field order is the stored order (`docs/format.md`, section "Entry").
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Entry<'a> {
    /// Name in its directory: 1..=255 bytes, no `/`, no NUL, not `.` or `..`. Not always UTF-8.
    pub name: &'a [u8],
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id bits and sticky bit: `0o7777` at most.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Owner's name on the source machine; empty if it had none.
    pub user: &'a [u8],
    /// Group's name on the source machine; empty if it had none.
    pub group: &'a [u8],
    /// When the content changed last.
    pub mtime: Time,
    /// When the inode changed last; [`NO_CTIME`] if a later change could have the same stamps. Not restored; used to
    /// find changes.
    pub ctime: Time,
    /// When the inode was made, where the file system tells.
    pub btime: Option<Time>,
    /// 0 on the file system of the component's root; else that file system's id.
    pub filesystem: u64,
    /// Inode number.
    pub inode: u64,
    /// Number of hard links.
    pub links: u32,
    /// Length of a file in bytes, holes included; 0 for other kinds.
    pub size: u64,
    /// Whether the file changed while it was read.
    pub torn: bool,
    /// Device numbers, major then minor; 0 for other kinds.
    pub device: (u32, u32),
    /// Where a symbolic link points; empty for other kinds.
    pub target: &'a [u8],
    /// Extended attributes, sorted by name, POSIX ACLs among them.
    pub xattrs: Vec<(&'a [u8], &'a [u8])>,
    /// Holes of a sparse file, ascending, none over another. The content is the file without them.
    pub holes: Vec<Hole>,
    /// Content of a file, entries of a directory; empty for other kinds.
    pub content: Content<'a>,
}

/// Why a stored entry is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {name}: {what}")]
pub struct EntryError {
    /// The name, quoted.
    pub name: String,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Entry<'_> {
    /// Checks what decoding alone does not: that the name can lie in a directory, and that holes
    /// lie inside the file, in order.
    ///
    /// # Errors
    /// The first rule that is broken. O(holes).
    pub fn validate(&self) -> Result<(), EntryError> {
        let fail = |what| Err(EntryError { name: quoted(self.name), what });
        if !is_plain_name(self.name) {
            return fail("name cannot lie in a directory");
        }
        if self.mode > 0o7777 {
            return fail("mode has bits beyond 07777");
        }
        if self.target.len() > TARGET_BYTES_MAX || self.target.contains(&0) {
            return fail("link target is too long or holds NUL");
        }
        let mut at = 0;
        for hole in &self.holes {
            let end = hole.offset.checked_add(hole.bytes);
            match end {
                Some(end) if hole.bytes > 0 && hole.offset >= at && end <= self.size => at = end,
                _ => return fail("holes overlap or lie outside the file"),
            }
        }
        let times = [Some(self.mtime), Some(self.ctime), self.btime];
        if times.iter().flatten().any(|time| time.nanos >= 1_000_000_000) {
            return fail("a time has more nanoseconds than a second");
        }
        if self.content.depth > LIST_DEPTH_MAX {
            return fail("content is nested too deeply");
        }
        if !crate::base::content::is_list(self.content.list) {
            return fail("content is not a whole number of references");
        }
        Ok(())
    }

    /// Returns the bytes of the file that are not holes.
    pub fn data_bytes(&self) -> u64 {
        let holes: u64 = self.holes.iter().map(|hole| hole.bytes).sum();
        self.size.saturating_sub(holes)
    }
}

/// Returns whether `name` names an entry inside its directory and nothing else.
pub fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// Returns a name or path as one line of text: bytes that are not printable UTF-8 come as `\xNN`,
/// a backslash as `\\`.
pub fn quoted(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for piece in bytes.utf8_chunks() {
        for c in piece.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                c if c.is_control() => {
                    let mut utf8 = [0; 4];
                    for byte in c.encode_utf8(&mut utf8).bytes() {
                        out.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                c => out.push(c),
            }
        }
        for byte in piece.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_directory_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'x'; 256]] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
        for good in [&b"..."[..], b"a b", b"\n", b"\xff", &[b'x'; 255]] {
            assert!(is_plain_name(good), "{good:?}");
        }
    }

    #[test]
    fn quoted_text_is_one_printable_line() {
        assert_eq!(quoted(b"a\n\xff\\\x1b"), "a\\n\\xff\\\\\\x1b");
        assert_eq!(quoted("käse".as_bytes()), "käse");
    }
}
