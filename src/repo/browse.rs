//! Looking inside a snapshot: paths, and walks in the order of names.

use std::collections::HashSet;
use std::ops::Range;

use crate::base::content::ContentBuf;
use crate::base::entry::{Entry, Kind, quoted};
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};
use crate::stage::tree::Entries;

/// Snapshots that are searched for a path that another does not have, at most.
const LOOKS_MAX: usize = 200;

/// An entry with the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record(Vec<u8>);

impl Record {
    /// Takes the bytes of one entry.
    ///
    /// # Errors
    /// [`RepoError::Tree`] if they are none.
    pub fn new(bytes: &[u8]) -> Result<Self, RepoError> {
        match Entries::new(bytes).next() {
            Some(Ok((range, _))) => Ok(Self(bytes[range].to_vec())),
            Some(Err(e)) => Err(e.into()),
            None => Err(RepoError::Content { what: "an entry is empty" }),
        }
    }

    /// Returns the entry. O(entry).
    ///
    /// # Errors
    /// [`RepoError::Tree`], which [`Self::new`] has ruled out.
    pub fn entry(&self) -> Result<Entry<'_>, RepoError> {
        match Entries::new(&self.0).next() {
            Some(Ok((_, entry))) => Ok(entry),
            Some(Err(e)) => Err(e.into()),
            None => Err(RepoError::Content { what: "an entry is empty" }),
        }
    }
}

/// What a path in a snapshot leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The snapshot's root.
    Root(ContentBuf),
    /// An entry.
    Entry(Record),
}

/// Returns what `path` leads to; leading, trailing and doubled slashes mean nothing. Never follows
/// a link.
///
/// # Errors
/// [`RepoError::NoPath`], or what reading a directory meets.
pub fn find(reader: &Reader<'_>, snapshot: &Snapshot, path: &[u8]) -> Result<Place, RepoError> {
    let none = || RepoError::NoPath {
        path: quoted(path),
        snapshot: snapshot.id.to_string(),
        elsewhere: String::new(),
    };
    let mut content = snapshot.manifest.root.clone();
    let mut place = Place::Root(content.clone());
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        if let Place::Entry(record) = &place {
            let entry = record.entry()?;
            if entry.kind != Kind::Directory {
                return Err(none());
            }
            content = entry.content.to_owned();
        }
        let stream = reader.content(content.borrowed())?;
        let mut found = None;
        for entry in Entries::new(&stream) {
            let (range, entry) = entry?;
            if entry.name == name {
                found = Some(Record::new(&stream[range])?);
                break;
            }
        }
        place = Place::Entry(found.ok_or_else(none)?);
    }
    Ok(place)
}

/// Returns the newest other snapshot of the same machine that has a path, among the newest 200 of `all`, which
/// are sorted by time. What can't be read does not have it.
pub fn newest_with<'s>(
    reader: &Reader<'_>,
    all: &'s [Snapshot],
    snapshot: &Snapshot,
    path: &[u8],
) -> Option<&'s Snapshot> {
    let same = |other: &&Snapshot| other.manifest.host == snapshot.manifest.host && other.id != snapshot.id;
    let mut seen = HashSet::new(); // what is the same is looked at once
    all.iter().rev().filter(same).take(LOOKS_MAX).find(|other| {
        let root = &other.manifest.root;
        seen.insert(&root.list) && find(reader, other, path).is_ok()
    })
}

/// Takes entries one by one, each with its path in the snapshot; an error ends the walk.
pub type EachEntry<'e> = dyn FnMut(&[u8], &Entry<'_>) -> Result<(), RepoError> + 'e;

/// Whether to walk into a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Visit what is in it.
    Into,
    /// Go on after it.
    Over,
}

/// Meets entries one by one.
pub trait Visitor {
    /// Meets an entry; `path` is relative to where the walk began, and ends with the entry's name.
    ///
    /// # Errors
    /// Ends the walk.
    fn entry(&mut self, path: &[u8], entry: &Entry<'_>) -> Result<Step, RepoError>;

    /// Leaves a directory, everything below it met.
    ///
    /// # Errors
    /// Ends the walk.
    fn leave(&mut self, _path: &[u8]) -> Result<(), RepoError> {
        Ok(())
    }

    /// Meets a directory that can't be read. What is below it is left out.
    ///
    /// # Errors
    /// Ends the walk.
    fn damaged(&mut self, path: &[u8], error: RepoError) -> Result<(), RepoError>;
}

struct Level {
    stream: Vec<u8>,
    ranges: std::vec::IntoIter<Range<usize>>,
    path_bytes: usize,
}

/// Walks all entries below the directory that `root` refers to, each directory before what is in
/// it, by ascending name bytes. Memory: one directory a level.
///
/// # Errors
/// What the visitor returns. A directory that can't be read is the visitor's to judge.
pub fn walk(reader: &Reader<'_>, root: &ContentBuf, visitor: &mut dyn Visitor) -> Result<(), RepoError> {
    let mut path = Vec::new();
    let mut levels = Vec::new();
    match open(reader, root, 0) {
        Ok(level) => levels.push(level),
        Err(e) => visitor.damaged(&path, e)?,
    }
    while let Some(level) = levels.last_mut() {
        path.truncate(level.path_bytes);
        let Some(range) = level.ranges.next() else {
            levels.pop();
            if !levels.is_empty() {
                visitor.leave(&path)?;
            }
            continue;
        };
        let Some(Ok((_, entry))) = Entries::new(&level.stream[range]).next() else { continue };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(entry.name);
        let step = visitor.entry(&path, &entry)?;
        if step == Step::Into && entry.kind == Kind::Directory {
            match open(reader, &entry.content.to_owned(), path.len()) {
                Ok(level) => levels.push(level),
                Err(e) => visitor.damaged(&path, e)?,
            }
        }
    }
    Ok(())
}

fn open(reader: &Reader<'_>, content: &ContentBuf, path_bytes: usize) -> Result<Level, RepoError> {
    let stream = reader.content(content.borrowed())?;
    let ranges =
        Entries::new(&stream).map(|entry| entry.map(|(range, _)| range)).collect::<Result<Vec<_>, _>>()?;
    Ok(Level { stream, ranges: ranges.into_iter(), path_bytes })
}
