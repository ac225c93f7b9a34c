//! A path in many snapshots → how many files and bytes lie there in each.
//!
//! Directories that several snapshots share are looked at once, so many nights cost little more than one.

use std::collections::HashMap;

use crate::base::content::ContentBuf;
use crate::base::entry::{Entry, Kind};
use crate::repo::browse::{Place, Step, Visitor, find, walk};
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};

/// What lies at a path of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Files.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
    /// Directories that can't be read; what is below them is not counted.
    pub unreadable: u64,
}

impl Held {
    fn add(&mut self, other: Self) {
        self.files = self.files.saturating_add(other.files);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.unreadable = self.unreadable.saturating_add(other.unreadable);
    }
}

/// Counts what lies at paths of snapshots.
#[derive(Default)]
pub struct Counter {
    /// What lies below directories that were counted, by their content.
    known: HashMap<ContentBuf, Held>,
}

impl Counter {
    /// Returns what lies at `path` of a snapshot; none if nothing does.
    ///
    /// # Errors
    /// What reading the directories meets that lead to the path, or what is no damage.
    pub fn count(
        &mut self,
        reader: &Reader<'_>,
        snapshot: &Snapshot,
        path: &[u8],
    ) -> Result<Option<Held>, RepoError> {
        let root = match find(reader, snapshot, path) {
            Ok(Place::Root(root)) => root,
            Ok(Place::Entry(record)) => {
                let entry = record.entry()?;
                match entry.kind {
                    Kind::Directory => entry.content.to_owned(),
                    _ => return Ok(Some(one(&entry))),
                }
            }
            Err(RepoError::NoPath { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        if let Some(known) = self.known.get(&root) {
            return Ok(Some(*known));
        }
        let mut below = Below { known: &mut self.known, levels: vec![(root.clone(), Held::default())] };
        walk(reader, &root, &mut below)?;
        let (content, held) = below.levels.pop().unwrap_or_default();
        if held.unreadable == 0 {
            self.known.insert(content, held);
        }
        Ok(Some(held))
    }
}

fn one(entry: &Entry<'_>) -> Held {
    match entry.kind {
        Kind::File => Held { files: 1, bytes: entry.size, unreadable: 0 },
        _ => Held::default(),
    }
}

struct Below<'b> {
    known: &'b mut HashMap<ContentBuf, Held>,
    /// The directories that lead to where the walk is, each with what was met in it so far.
    levels: Vec<(ContentBuf, Held)>,
}

impl Below<'_> {
    fn add(&mut self, held: Held) {
        if let Some((_, above)) = self.levels.last_mut() {
            above.add(held);
        }
    }
}

impl Visitor for Below<'_> {
    fn entry(&mut self, _path: &[u8], entry: &Entry<'_>) -> Result<Step, RepoError> {
        if entry.kind != Kind::Directory {
            self.add(one(entry));
            return Ok(Step::Over);
        }
        let content = entry.content.to_owned();
        if let Some(known) = self.known.get(&content).copied() {
            self.add(known);
            return Ok(Step::Over);
        }
        self.levels.push((content, Held::default()));
        Ok(Step::Into)
    }

    fn leave(&mut self, _path: &[u8]) -> Result<(), RepoError> {
        if let Some((content, held)) = self.levels.pop() {
            if held.unreadable == 0 {
                self.known.insert(content, held);
            }
            self.add(held);
        }
        Ok(())
    }

    fn damaged(&mut self, path: &[u8], error: RepoError) -> Result<(), RepoError> {
        if !error.is_unreadable() {
            return Err(error);
        }
        if !path.is_empty() {
            self.levels.pop();
        }
        self.add(Held { unreadable: 1, ..Held::default() });
        Ok(())
    }
}
