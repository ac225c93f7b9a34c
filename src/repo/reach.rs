//! Snapshots → the packs that each of them needs. Reads trees only, and no tree twice.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use crate::base::content::{ChunkRef, Content, refs};
use crate::base::entry::{Entry, Kind};
use crate::base::id::PackId;
use crate::base::progress::Progress;
use crate::repo::browse::{Step, Visitor, walk};
use crate::repo::lists::refuse_too_deep;
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};
use crate::stage::hash::digest;

type Digest = [u8; 16];

/// Finds the packs that snapshots need.
pub struct Reach<'r> {
    reader: &'r Reader<'r>,
    progress: &'r Progress,
    /// The packs of everything below a directory, or of a long list, by a hash of what refers to it.
    known: HashMap<Digest, Rc<BTreeSet<u32>>>,
    /// The directories that are being walked, from the root.
    open: Vec<(Digest, BTreeSet<u32>)>,
    lacking: Option<String>,
}

/// What a snapshot needs.
pub struct Needs {
    /// Packs.
    pub packs: BTreeSet<PackId>,
    /// Why that is not all, if it is not.
    pub lacking: Option<String>,
}

impl<'r> Reach<'r> {
    /// Begins.
    pub fn new(reader: &'r Reader<'r>, progress: &'r Progress) -> Self {
        Self { reader, progress, known: HashMap::new(), open: Vec::new(), lacking: None }
    }

    /// Returns what a snapshot needs.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`]; a tree that can't be read is in the answer.
    pub fn of(&mut self, snapshot: &Snapshot) -> Result<Needs, RepoError> {
        let root = &snapshot.manifest.root;
        let digest = digest(root.borrowed(), true);
        self.lacking = None;
        let numbers = match self.known.get(&digest) {
            Some(known) => known.clone(),
            None => {
                self.open = vec![(digest, BTreeSet::new())];
                self.content(root.borrowed());
                walk(self.reader, root, self)?;
                self.close();
                let walked = self.open.pop().map(|(_, packs)| packs).unwrap_or_default();
                self.known.remove(&digest).unwrap_or_else(|| Rc::new(walked))
            }
        };
        if self.lacking.is_none() {
            self.known.insert(digest, numbers.clone());
        }
        let index = self.reader.index();
        let packs = numbers.iter().filter_map(|number| index.pack(crate::stage::index::PackNumber(*number)));
        Ok(Needs { packs: packs.map(|pack| pack.id).collect(), lacking: self.lacking.take() })
    }

    /// Leaves the innermost directory: what it needs, the one around it needs too.
    fn close(&mut self) {
        let Some((digest, packs)) = self.open.pop() else { return };
        if let Some((_, around)) = self.open.last_mut() {
            around.extend(&packs);
        }
        // What lies below something that can't be read is not all known.
        if self.lacking.is_none() || self.open.is_empty() {
            self.known.insert(digest, Rc::new(packs));
        }
    }

    fn add(&mut self, chunk: ChunkRef) {
        match self.reader.index().find(&chunk.id) {
            Ok(Some(location)) => {
                if let Some((_, packs)) = self.open.last_mut() {
                    packs.insert(location.pack.0);
                }
            }
            Ok(None) => _ = self.lacking.get_or_insert(format!("chunk {} lies in no pack", chunk.id)),
            Err(e) => _ = self.lacking.get_or_insert(e.chain()),
        }
    }

    /// Adds the chunks of a content, and those of the lists that lead to them.
    fn content(&mut self, content: Content<'_>) {
        if content.depth == 0 {
            return refs(content.list).for_each(|chunk| self.add(chunk));
        }
        let digest = digest(content, false);
        if let Some(known) = self.known.get(&digest).cloned() {
            if let Some((_, packs)) = self.open.last_mut() {
                packs.extend(known.iter());
            }
            return;
        }
        self.open.push((digest, BTreeSet::new()));
        if let Err(e) = self.lists(content) {
            self.lacking.get_or_insert(e.chain());
        }
        self.close();
    }

    fn lists(&mut self, content: Content<'_>) -> Result<(), RepoError> {
        refuse_too_deep(content.depth)?;
        let mut list = content.list.to_vec();
        for _ in 0..content.depth {
            refs(&list).for_each(|chunk| self.add(chunk));
            list = self.reader.list_below(&list)?;
        }
        refs(&list).for_each(|chunk| self.add(chunk));
        Ok(())
    }
}

impl Visitor for Reach<'_> {
    fn entry(&mut self, _path: &[u8], entry: &Entry<'_>) -> Result<Step, RepoError> {
        if self.progress.is_cancelled() {
            return Err(RepoError::Interrupted);
        }
        if entry.kind != Kind::Directory {
            self.content(entry.content);
            return Ok(Step::Over);
        }
        let digest = digest(entry.content, true);
        if let Some(known) = self.known.get(&digest).cloned() {
            if let Some((_, packs)) = self.open.last_mut() {
                packs.extend(known.iter());
            }
            return Ok(Step::Over);
        }
        self.open.push((digest, BTreeSet::new()));
        self.content(entry.content);
        Ok(Step::Into)
    }

    fn leave(&mut self, _path: &[u8]) -> Result<(), RepoError> {
        self.close();
        Ok(())
    }

    fn damaged(&mut self, path: &[u8], error: RepoError) -> Result<(), RepoError> {
        if let RepoError::Interrupted = error {
            return Err(error);
        }
        self.lacking.get_or_insert(error.chain());
        if !path.is_empty() {
            self.close(); // the walk does not enter it, and so does not leave it
        }
        Ok(())
    }
}
