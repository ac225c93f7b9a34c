//! Files that the parent snapshot has under another name: recognised by what they are.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::base::content::ContentBuf;
use crate::base::entry::{Hole, Kind, NO_CTIME};
use crate::op::backup::pending::OldDirectory;
use crate::repo::reader::Reader;
use crate::stage::scan::{Stat, unique_name};
use crate::stage::tree::Entries;

/// Old directories kept decoded at a time.
const DIRECTORIES_KEPT: usize = 64;

/// A component's files as the parent snapshot has them. Built when the first new file is met.
pub struct Renames {
    root: ContentBuf,
    files: OnceLock<Files>,
}

struct Files {
    directories: Vec<ContentBuf>,
    /// Inode and number of the directory, sorted.
    inodes: Vec<(u64, u32)>,
    kept: Mutex<HashMap<u32, Arc<Kept>>>,
}

struct Kept {
    stream: Vec<u8>,
    by_inode: HashMap<u64, Vec<Range<usize>>>,
}

/// What is known of a file that was renamed.
pub struct Renamed {
    /// Its content.
    pub content: ContentBuf,
    /// Its holes.
    pub holes: Vec<Hole>,
}

impl Renames {
    /// Looks in the directory that `root` refers to.
    pub fn new(root: ContentBuf) -> Self {
        Self { root, files: OnceLock::new() }
    }

    /// Returns the content that the parent snapshot has of the file `name` described by `stat`:
    /// same inode, size, mtime and birth time. Where birth times are not known, a message is known by its unique
    /// name as well; anything else is read again (`docs/decisions/0005` says why), and so is what may have changed
    /// with the same stamps.
    ///
    /// The first call reads all trees of the component: O(files), 12 bytes each.
    pub fn find(
        &self,
        reader: &Reader<'_>,
        name: &[u8],
        stat: &Stat,
        filesystem: u64,
        in_mailbox: bool,
    ) -> Option<Renamed> {
        let files = self.files.get_or_init(|| Files::read(reader, &self.root));
        let start = files.inodes.partition_point(|(inode, _)| *inode < stat.inode);
        let candidates = files.inodes[start..].iter().take_while(|(inode, _)| *inode == stat.inode);
        for (_, directory) in candidates {
            let kept = files.directory(reader, *directory)?;
            for range in kept.by_inode.get(&stat.inode).into_iter().flatten() {
                let Some(Ok((_, entry))) = Entries::new(&kept.stream[range.clone()]).next() else { continue };
                let is_same_file = match (stat.btime, entry.btime) {
                    (Some(now), Some(then)) => now == then,
                    _ => in_mailbox && unique_name(entry.name) == unique_name(name),
                };
                let is_same = entry.filesystem == filesystem
                    && entry.size == stat.size
                    && entry.mtime == stat.mtime
                    && !entry.torn
                    && entry.ctime != NO_CTIME
                    && is_same_file;
                if is_same {
                    return Some(Renamed { content: entry.content.to_owned(), holes: entry.holes });
                }
            }
        }
        None
    }
}

impl Files {
    fn read(reader: &Reader<'_>, root: &ContentBuf) -> Self {
        let mut directories = vec![root.clone()];
        let mut inodes = Vec::new();
        let mut number = 0;
        while let Some(content) = directories.get(number) {
            // A damaged directory has no renames: its files are read again.
            let stream = reader.content(content.borrowed()).unwrap_or_default();
            let directory = u32::try_from(number).unwrap_or(u32::MAX);
            for (_, entry) in Entries::new(&stream).map_while(Result::ok) {
                match entry.kind {
                    Kind::File => inodes.push((entry.inode, directory)),
                    Kind::Directory => directories.push(entry.content.to_owned()),
                    _ => {}
                }
            }
            number += 1;
        }
        inodes.sort_unstable();
        inodes.dedup();
        Self { directories, inodes, kept: Mutex::default() }
    }

    fn directory(&self, reader: &Reader<'_>, number: u32) -> Option<Arc<Kept>> {
        if let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return Some(kept.clone());
        }
        let stream = reader.content(self.directories.get(number as usize)?.borrowed()).ok()?;
        let mut by_inode: HashMap<u64, Vec<Range<usize>>> = HashMap::new();
        for (range, entry) in Entries::new(&stream).map_while(Result::ok) {
            if entry.kind == Kind::File {
                by_inode.entry(entry.inode).or_default().push(range);
            }
        }
        let read = Arc::new(Kept { stream, by_inode });
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= DIRECTORIES_KEPT {
            kept.clear();
        }
        kept.insert(number, read.clone());
        Some(read)
    }
}

/// Reads an old directory; none if it can't be read, so that all in it is read again.
pub fn old_directory(reader: &Reader<'_>, content: ContentBuf) -> Option<OldDirectory> {
    let stream = reader.content(content.borrowed()).ok()?;
    Some(OldDirectory { stream: Arc::new(stream), content })
}
