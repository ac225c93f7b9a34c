//! One snapshot → its entries, one by one.

use crate::base::entry::{Entry, Kind};
use crate::repo::browse::{EachEntry, Place, Step, Visitor, find, walk};
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};

/// Calls `each` with every entry at `path` of a snapshot and its path in the snapshot: what is in a
/// directory, or the entry itself if it is none. With `recursive`, everything below as well, and `damaged` is called
/// with the path of every directory below that can't be read, and why: what is in it is left out.
///
/// # Errors
/// [`RepoError::NoPath`], what reading a directory meets that `path` names or leads through, what is no damage, or what
/// `each` returns.
pub fn list(
    reader: &Reader<'_>,
    snapshot: &Snapshot,
    path: &[u8],
    recursive: bool,
    each: &mut EachEntry<'_>,
    damaged: &mut dyn FnMut(&[u8], &RepoError),
) -> Result<(), RepoError> {
    let trimmed = path.iter().rposition(|byte| *byte != b'/').map_or(&path[..0], |last| &path[..=last]);
    let start = trimmed.iter().position(|byte| *byte != b'/').unwrap_or(trimmed.len());
    let path = &trimmed[start..];
    let root = match find(reader, snapshot, path)? {
        Place::Root(root) => root,
        Place::Entry(record) => {
            let entry = record.entry()?;
            if entry.kind != Kind::Directory {
                return each(path, &entry);
            }
            entry.content.to_owned()
        }
    };
    walk(reader, &root, &mut Lister { prefix: path, recursive, each, damaged })
}

struct Lister<'l> {
    prefix: &'l [u8],
    recursive: bool,
    each: &'l mut EachEntry<'l>,
    damaged: &'l mut dyn FnMut(&[u8], &RepoError),
}

impl Lister<'_> {
    /// Returns a path in the snapshot.
    fn whole(&self, path: &[u8]) -> Vec<u8> {
        if self.prefix.is_empty() { path.to_vec() } else { [self.prefix, b"/", path].concat() }
    }
}

impl Visitor for Lister<'_> {
    fn entry(&mut self, path: &[u8], entry: &Entry<'_>) -> Result<Step, RepoError> {
        let whole = self.whole(path);
        (self.each)(&whole, entry)?;
        Ok(if self.recursive { Step::Into } else { Step::Over })
    }

    fn damaged(&mut self, path: &[u8], error: RepoError) -> Result<(), RepoError> {
        if path.is_empty() || !error.is_unreadable() {
            return Err(error); // nothing of what was asked for can be shown
        }
        let whole = self.whole(path);
        (self.damaged)(&whole, &error);
        Ok(())
    }
}
