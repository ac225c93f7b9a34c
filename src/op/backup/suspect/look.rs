//! The closer look: what of an old tree is still there in a new one, by content and under any name.
//!
//! Directories that both trees share are not read unless the answer depends on them.

use std::hash::{BuildHasher, RandomState};

use crate::base::content::ContentBuf;
use crate::base::entry::{Entry, Kind};
use crate::base::progress::Progress;
use crate::op::backup::suspect::present::Present;
use crate::op::backup::suspect::seen::{Amount, Sort};
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::stage::tree::Entries;

/// What there was: how much is still there, and how much is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Still there, under any name.
    pub kept: Amount,
    /// Gone.
    pub lost: Amount,
}

impl Count {
    /// Returns how much there was.
    pub fn had(&self) -> Amount {
        let mut had = self.kept;
        had += self.lost;
        had
    }
}

/// What became of the old tree's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages, and all files that lie in no Maildir.
    pub all: Count,
    /// Messages alone.
    pub messages: Count,
    /// Messages that are gone while there is another one of their unique name in the same folder.
    pub rewritten: u64,
}

impl Counts {
    /// Adds a file of which `kept` bytes are still there; it counts as kept if that is at least half.
    fn add(&mut self, sort: Sort, bytes: u64, kept: u64) {
        let is_kept = kept.saturating_mul(2) >= bytes;
        let count = Count {
            kept: Amount { files: u64::from(is_kept), bytes: kept },
            lost: Amount { files: u64::from(!is_kept), bytes: bytes.saturating_sub(kept) },
        };
        for total in [Some(&mut self.all), (sort == Sort::Message).then_some(&mut self.messages)] {
            let Some(total) = total else { continue };
            total.kept += count.kept;
            total.lost += count.lost;
        }
    }
}

/// Two trees of one component.
pub struct Look<'l> {
    /// Reads both.
    pub reader: &'l Reader<'l>,
    /// Asked whether to stop.
    pub progress: &'l Progress,
    /// What there was.
    pub old: ContentBuf,
    /// What there is; none if that counts for nothing.
    pub new: Option<ContentBuf>,
    /// Bytes of the files in it.
    pub new_bytes: u64,
    /// Names right in the trees that are left out: streams.
    pub streams: Vec<Vec<u8>>,
}

/// A directory of one of the trees.
#[derive(Clone, PartialEq, Eq)]
struct Directory {
    content: ContentBuf,
    in_mailbox: bool,
    is_side: bool,
}

impl Directory {
    fn root(content: &ContentBuf) -> Self {
        Self { content: content.clone(), in_mailbox: false, is_side: false }
    }

    /// Returns what the file `name` of it is.
    fn sort(&self, name: &[u8]) -> Sort {
        Sort::of(name, self.is_side, self.in_mailbox)
    }

    /// Reads it; takes note if it is a Maildir folder, and returns whether it is.
    fn read(&mut self, reader: &Reader<'_>) -> Result<(Vec<u8>, bool), RepoError> {
        let stream = reader.content(self.content.borrowed())?;
        let is_folder = !self.is_side && is_folder(&stream);
        self.in_mailbox |= is_folder;
        Ok((stream, is_folder))
    }

    /// Returns the directory that `entry` of it is; none if it is none.
    fn below(&self, entry: &Entry<'_>, is_folder: bool) -> Option<Self> {
        (entry.kind == Kind::Directory).then(|| Self {
            content: entry.content.to_owned(),
            in_mailbox: self.in_mailbox,
            is_side: is_folder && matches!(entry.name, b"cur" | b"new"),
        })
    }
}

/// A place in either tree, or in both.
struct Pair {
    old: Option<Directory>,
    new: Option<Directory>,
    /// Stands for the path.
    path: u64,
    /// Stands for the path of the Maildir folder, if it is one's `cur` or `new`.
    folder: u64,
}

/// What a walk meets.
enum Met<'m> {
    /// A file that the old tree alone has in this place with this content.
    Old(Sort, u64, &'m Entry<'m>),
    /// The same of the new tree.
    New(Sort, u64, &'m Entry<'m>),
    /// A file that both have in this place.
    Both(Sort, &'m Entry<'m>),
    /// A directory that both have, with all that lies below it.
    Shared(Directory),
}

impl Look<'_> {
    /// Counts what became of the old tree's files. If `is_enough` says so of a count that does not know of all that
    /// is still there, it is not counted any further.
    ///
    /// # Errors
    /// What reading a directory meets, [`RepoError::Interrupted`].
    pub fn counts(&self, is_enough: impl Fn(&Counts) -> bool) -> Result<Counts, RepoError> {
        let chunk_bytes = self.reader.repository().config().chunk_bytes_avg.max(1);
        let mut present = Present::new(self.new_bytes / u64::from(chunk_bytes));
        self.walk(&present.hasher.clone(), &mut |met| match met {
            Met::New(sort, folder, entry) => present.add(self.reader, sort, Some(folder), entry),
            _ => Ok(()),
        })?;
        let counts = self.count(&present)?;
        if is_enough(&counts) {
            return Ok(counts);
        }
        let mut shared = Counts::default();
        self.walk(&present.hasher.clone(), &mut |met| match met {
            Met::Both(sort, entry) => present.add(self.reader, sort, None, entry),
            Met::Shared(directory) => self.each_below(directory, &mut |sort, entry| {
                if sort != Sort::Beside {
                    shared.add(sort, entry.size, entry.size);
                }
                present.add(self.reader, sort, None, entry)
            }),
            _ => Ok(()),
        })?;
        let mut counts = self.count(&present)?;
        counts.all.kept += shared.all.kept;
        counts.messages.kept += shared.messages.kept;
        Ok(counts)
    }

    /// Counts the files that do not lie in shared directories.
    fn count(&self, present: &Present) -> Result<Counts, RepoError> {
        let mut counts = Counts::default();
        self.walk(&present.hasher, &mut |met| {
            match met {
                Met::Old(sort, folder, entry) if sort != Sort::Beside => {
                    let kept = present.kept_bytes(self.reader, sort, entry)?;
                    counts.add(sort, entry.size, kept);
                    let is_gone = kept.saturating_mul(2) < entry.size;
                    let has_other = sort == Sort::Message && is_gone && present.has_name(folder, entry.name);
                    counts.rewritten += u64::from(has_other);
                }
                Met::Both(sort, entry) if sort != Sort::Beside => {
                    counts.add(sort, entry.size, entry.size);
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(counts)
    }

    /// Walks both trees side by side.
    fn walk(
        &self,
        hasher: &RandomState,
        meet: &mut dyn FnMut(Met<'_>) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let (old, new) = (Some(Directory::root(&self.old)), self.new.as_ref().map(Directory::root));
        let mut todo = vec![Pair { old, new, path: 0, folder: 0 }];
        let mut is_root = true;
        while let Some(pair) = todo.pop() {
            if self.progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            match (&pair.old, &pair.new) {
                (Some(old), Some(new)) if old == new && !is_root => meet(Met::Shared(old.clone()))?,
                _ => self.pair(pair, is_root, hasher, &mut todo, meet)?,
            }
            is_root = false;
        }
        Ok(())
    }

    fn pair(
        &self,
        mut pair: Pair,
        is_root: bool,
        hasher: &RandomState,
        todo: &mut Vec<Pair>,
        meet: &mut dyn FnMut(Met<'_>) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let read = |directory: &mut Option<Directory>| match directory {
            Some(directory) => directory.read(self.reader),
            None => Ok((Vec::new(), false)),
        };
        let (old_stream, old_is_folder) = read(&mut pair.old)?;
        let (new_stream, new_is_folder) = read(&mut pair.new)?;
        let (mut olds, mut news) = (Entries::new(&old_stream), Entries::new(&new_stream));
        let (mut old, mut new) = (next(&mut olds)?, next(&mut news)?);
        loop {
            let is_old = old.as_ref().is_some_and(|old| new.as_ref().is_none_or(|new| old.name <= new.name));
            let is_new = new.as_ref().is_some_and(|new| old.as_ref().is_none_or(|old| new.name <= old.name));
            let left = if is_old { std::mem::replace(&mut old, next(&mut olds)?) } else { None };
            let right = if is_new { std::mem::replace(&mut new, next(&mut news)?) } else { None };
            let Some(name) = left.as_ref().or(right.as_ref()).map(|entry| entry.name) else { return Ok(()) };
            if is_root && self.streams.iter().any(|stream| stream == name) {
                continue;
            }
            let below = |directory: &Option<Directory>, entry: &Option<Entry<'_>>, is_folder: bool| {
                directory.as_ref()?.below(entry.as_ref()?, is_folder)
            };
            let old_below = below(&pair.old, &left, old_is_folder);
            let new_below = below(&pair.new, &right, new_is_folder);
            if old_below.is_some() || new_below.is_some() {
                let path = hasher.hash_one((pair.path, name));
                todo.push(Pair { old: old_below, new: new_below, path, folder: pair.path });
            }
            meet_files(&pair, left.as_ref(), right.as_ref(), meet)?;
        }
    }

    /// Calls `each` with every file below a directory.
    fn each_below(
        &self,
        directory: Directory,
        each: &mut dyn FnMut(Sort, &Entry<'_>) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let mut todo = vec![directory];
        while let Some(mut directory) = todo.pop() {
            if self.progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            let (stream, is_folder) = directory.read(self.reader)?;
            for entry in Entries::new(&stream) {
                let (_, entry) = entry?;
                match entry.kind {
                    Kind::File => each(directory.sort(entry.name), &entry)?,
                    _ => todo.extend(directory.below(&entry, is_folder)),
                }
            }
        }
        Ok(())
    }
}

/// Returns the next entry.
fn next<'a>(entries: &mut Entries<'a>) -> Result<Option<Entry<'a>>, RepoError> {
    Ok(entries.next().transpose()?.map(|(_, entry)| entry))
}

/// Returns whether a directory is a Maildir folder; its `tmp` may have been left out.
fn is_folder(stream: &[u8]) -> bool {
    let entries = Entries::new(stream).map_while(Result::ok).map(|(_, entry)| entry);
    let mut sides = entries.take_while(|entry| entry.name <= &b"new"[..]);
    sides.by_ref().any(|entry| is_side(&entry, b"cur")) && sides.any(|entry| is_side(&entry, b"new"))
}

fn is_side(entry: &Entry<'_>, name: &[u8]) -> bool {
    entry.name == name && entry.kind == Kind::Directory
}

fn meet_files(
    pair: &Pair,
    left: Option<&Entry<'_>>,
    right: Option<&Entry<'_>>,
    meet: &mut dyn FnMut(Met<'_>) -> Result<(), RepoError>,
) -> Result<(), RepoError> {
    let sort = |directory: &Option<Directory>, entry: &Entry<'_>| {
        directory.as_ref().map_or(Sort::Other, |directory| directory.sort(entry.name))
    };
    let left = left.filter(|entry| entry.kind == Kind::File);
    let right = right.filter(|entry| entry.kind == Kind::File);
    if let (Some(left), Some(right)) = (left, right)
        && (left.content, left.size) == (right.content, right.size)
    {
        return meet(Met::Both(sort(&pair.old, left), left));
    }
    if let Some(left) = left {
        meet(Met::Old(sort(&pair.old, left), pair.folder, left))?;
    }
    match right {
        Some(right) => meet(Met::New(sort(&pair.new, right), pair.folder, right)),
        None => Ok(()),
    }
}
