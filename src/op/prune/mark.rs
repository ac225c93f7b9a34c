//! Snapshots → every chunk that they need. Reads nothing but what the survey could not make out.

use std::collections::HashSet;

use crate::base::content::{ChunkRef, ContentBuf, refs};
use crate::base::id::SnapshotId;
use crate::base::limits::RECORD_BYTES_CAP;
use crate::base::progress::{Done, Progress};
use crate::op::prune::survey::{Branch, Made, Survey, branch};
use crate::repo::lists::refuse_too_deep;
use crate::repo::reader::Reader;
use crate::repo::together::read_directories;
use crate::repo::{RepoError, Snapshot};
use crate::stage::hash::digest;
use crate::stage::tree::Entries;

/// Something that is needed.
#[derive(Clone, Copy, Debug)]
pub enum Needed {
    /// A chunk.
    Chunk(ChunkRef),
    /// A copy of a chunk of content, the best that there is.
    Copy(u32),
}

/// Takes what is needed; returns whether a pack holds it.
pub type Need<'n> = dyn FnMut(Needed) -> bool + 'n;

/// What was reached so far. What was reached already is not reached again.
pub struct Reached {
    survey: Survey,
    /// Nested lists, and trees that were read whole.
    contents: HashSet<[u8; 16]>,
    /// Rows of chunks of entries of which the second has been found to come after the first.
    neighbours: HashSet<(usize, usize)>,
}

impl Reached {
    /// Begins with nothing reached.
    pub fn new(survey: Survey) -> Self {
        Self { survey, contents: HashSet::new(), neighbours: HashSet::new() }
    }
}

/// A walk over all that some snapshots need.
pub struct Marker<'m> {
    reached: &'m mut Reached,
    reader: &'m Reader<'m>,
    need: &'m mut Need<'m>,
    /// What is to be followed.
    open: Vec<Branch>,
    /// References to chunks of content that no pack holds.
    missing: u64,
    progress: &'m Progress,
}

impl<'m> Marker<'m> {
    /// Begins.
    pub fn new(
        reached: &'m mut Reached,
        reader: &'m Reader<'m>,
        need: &'m mut Need<'m>,
        progress: &'m Progress,
    ) -> Self {
        Self { reached, reader, need, open: Vec::new(), missing: 0, progress }
    }

    /// Marks all that the snapshots need. Returns how many references lead to chunks of content that no
    /// pack holds.
    ///
    /// # Errors
    /// [`RepoError::Refused`] if a tree can't be read: what it needs is not known then.
    pub fn mark<'s>(mut self, snapshots: impl Iterator<Item = &'s Snapshot>) -> Result<u64, RepoError> {
        for snapshot in snapshots {
            self.open.push(Branch { is_tree: true, content: snapshot.manifest.root.clone() });
            while let Some(branch) = self.open.pop() {
                if self.progress.is_cancelled() {
                    return Err(RepoError::Interrupted);
                }
                self.follow(branch).map_err(|e| unknown(snapshot.id, e))?;
                self.progress.add(Done { files: 1, bytes: 0 });
            }
        }
        Ok(self.missing)
    }

    fn follow(&mut self, Branch { is_tree, content }: Branch) -> Result<(), RepoError> {
        refuse_too_deep(content.depth)?;
        let expected = match (is_tree, content.depth) {
            (true, 0) => Made::Entries,
            (false, 0) => {
                refs(&content.list).for_each(|chunk| self.content(Needed::Chunk(chunk)));
                return Ok(());
            }
            (false, 1) => Made::Content,
            _ => Made::Lists,
        };
        let survey = &self.reached.survey;
        let rows =
            refs(&content.list).map(|chunk| survey.find(chunk).filter(|row| survey.made(*row) == expected));
        match rows.collect::<Option<Vec<usize>>>() {
            Some(rows) if expected == Made::Lists => self.lists(is_tree, &content, &rows),
            Some(rows) if !self.are_in_order(expected, &content, &rows)? => self.whole(is_tree, &content),
            Some(rows) => refs(&content.list).zip(rows).try_for_each(|(chunk, row)| self.row(chunk, row)),
            None => self.whole(is_tree, &content),
        }
    }

    /// Returns whether chunks of entries are a tree, one after the other, as whoever reads it whole finds. Each two
    /// neighbours are compared once.
    fn are_in_order(&mut self, made: Made, content: &ContentBuf, rows: &[usize]) -> Result<bool, RepoError> {
        let bytes: u64 = refs(&content.list).map(|chunk| u64::from(chunk.bytes)).sum();
        if made != Made::Entries {
            return Ok(true);
        }
        for pair in rows.windows(2).map(|pair| (pair[0], pair[1])) {
            if self.reached.neighbours.contains(&pair) {
                continue;
            }
            let survey = &mut self.reached.survey;
            if !survey.leads(pair.0)?.come_before(&survey.leads(pair.1)?) {
                return Ok(false);
            }
            self.reached.neighbours.insert(pair);
        }
        Ok(bytes <= RECORD_BYTES_CAP as u64)
    }

    /// Marks a chunk, and what it leads to by itself.
    fn row(&mut self, chunk: ChunkRef, row: usize) -> Result<(), RepoError> {
        if self.reached.survey.reach(row) {
            return Ok(());
        }
        (self.need)(Needed::Chunk(chunk));
        let leads = self.reached.survey.leads(row)?;
        for copy in leads.copies() {
            match copy {
                Some(copy) => self.content(Needed::Copy(copy)),
                None => self.missing += 1,
            }
        }
        self.open.extend(leads.branches.into_iter().rev());
        Ok(())
    }

    /// Marks chunks that hold lists of chunks of trees or lists.
    fn lists(&mut self, is_tree: bool, content: &ContentBuf, rows: &[usize]) -> Result<(), RepoError> {
        if !self.reached.contents.insert(digest(content.borrowed(), is_tree)) {
            return Ok(());
        }
        let mut list = Vec::new();
        for (chunk, row) in refs(&content.list).zip(rows) {
            (self.need)(Needed::Chunk(chunk));
            let leads = self.reached.survey.leads(*row)?;
            leads.branches.iter().for_each(|below| list.extend_from_slice(&below.content.list));
            if list.len() > RECORD_BYTES_CAP {
                return Err(RepoError::Content { what: "longer than any list may be" });
            }
        }
        self.below(is_tree, content.depth, list)
    }

    /// Reads a tree or list and marks what it leads to: some chunk of it says nothing by itself, or was not
    /// there when the survey was taken.
    fn whole(&mut self, is_tree: bool, content: &ContentBuf) -> Result<(), RepoError> {
        if !self.reached.contents.insert(digest(content.borrowed(), is_tree)) {
            return Ok(());
        }
        refs(&content.list).for_each(|chunk| _ = (self.need)(Needed::Chunk(chunk)));
        if content.depth > 0 {
            let list = self.reader.list_below(&content.list)?;
            return self.below(is_tree, content.depth, list);
        }
        for bytes in read_directories(self.reader, std::slice::from_ref(content)) {
            self.entries(&bytes?)?;
        }
        Ok(())
    }

    fn below(&mut self, is_tree: bool, depth: u8, list: Vec<u8>) -> Result<(), RepoError> {
        self.open.push(Branch { is_tree, content: ContentBuf { depth: depth - 1, list } });
        Ok(())
    }

    fn entries(&mut self, stream: &[u8]) -> Result<(), RepoError> {
        for read in Entries::new(stream) {
            let (_, entry) = read?;
            match branch(&entry) {
                Some(branch) => self.open.push(branch),
                None => refs(entry.content.list).for_each(|chunk| self.content(Needed::Chunk(chunk))),
            }
        }
        Ok(())
    }

    fn content(&mut self, needed: Needed) {
        if !(self.need)(needed) {
            self.missing += 1;
        }
    }
}

/// Says what damage means. Anything else may be better next time.
fn unknown(snapshot: SnapshotId, error: RepoError) -> RepoError {
    match error.is_damage() {
        true => RepoError::Refused {
            what: format!(
                "what snapshot {snapshot} needs is not known, so nothing is removed: {}; mend it, or give it up with --forget {snapshot}",
                error.chain()
            ),
        },
        false => error,
    }
}
