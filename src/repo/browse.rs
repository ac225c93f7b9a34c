//! Looking inside a snapshot: paths, and walks in the order of names.

use std::borrow::Cow;
use std::ops::Range;

use crate::base::content::{ContentBuf, refs};
use crate::base::entry::{Entry, Kind, quoted};
use crate::base::limits::RECORD_BYTES_CAP;
use crate::repo::reader::{Reader, verified};
use crate::repo::{RepoError, Snapshot};
use crate::stage::index::Location;
use crate::stage::tree::Entries;

/// Fewest bytes that are too many for a directory.
const RECORD_BYTES_OVER: usize = RECORD_BYTES_CAP + 1;

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
    let none = || RepoError::NoPath { path: quoted(path), snapshot: snapshot.id.to_string() };
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

/// Reads directories of one depth together: each frame that holds a part of one is read once, in the order
/// in which frames lie in packs, unless it was read lately. Memory: all of them.
///
/// # Errors
/// For each directory as [`Reader::content`].
pub fn read_together(reader: &Reader<'_>, contents: &[ContentBuf]) -> Vec<Result<Vec<u8>, RepoError>> {
    let mut streams = Vec::with_capacity(contents.len());
    let mut parts = Vec::new();
    for (number, content) in contents.iter().enumerate() {
        let list = reader.flatten(content.borrowed());
        let total = list.as_ref().map_or(0, |list| refs(list).map(|chunk| u64::from(chunk.bytes)).sum());
        streams.push(match (list, usize::try_from(total).unwrap_or(usize::MAX)) {
            (Err(e), _) => Err(e),
            (Ok(_), RECORD_BYTES_OVER..) => {
                Err(RepoError::Content { what: "longer than any directory may be" })
            }
            (Ok(list), total) => {
                let mut at = 0;
                for chunk in refs(&list) {
                    let location = reader.index().find(&chunk.id).ok().flatten();
                    parts.push((location, number, at, chunk));
                    at += chunk.bytes as usize;
                }
                Ok(vec![0; total])
            }
        });
    }
    parts.sort_unstable_by_key(|(location, number, at, _)| (*location, *number, *at));
    let place = |location: Option<Location>| location.map(|location| (location.pack, location.frame));
    for frame in parts.chunk_by(|a, b| place(a.0) == place(b.0)) {
        let pack = frame
            .first()
            .and_then(|(location, ..)| Some((reader.index().pack(location.as_ref()?.pack)?, (*location)?)));
        let opened = pack.map(|(pack, location)| (pack, reader.frame(pack, location.frame)));
        for (location, number, at, chunk) in frame {
            let Ok(stream) = &mut streams[*number] else { continue };
            let found = match (&opened, location) {
                (Some((pack, Ok(raw))), Some(location)) => {
                    verified(reader.repository(), pack, *location, *chunk, raw).ok()
                }
                _ => None,
            };
            match found.map_or_else(|| reader.chunk(*chunk).map(Cow::Owned), |bytes| Ok(Cow::Borrowed(bytes)))
            {
                Ok(bytes) => stream[*at..*at + bytes.len()].copy_from_slice(&bytes),
                Err(e) => streams[*number] = Err(e),
            }
        }
    }
    streams
}
