//! All chunks of trees, each frame read once, in the order in which frames lie in their packs → what each
//! chunk leads to.
//!
//! Nobody needs to know where a chunk occurs, for a tree's chunks end with its records (`docs/format.md`,
//! "Chunks"). A chunk that is not made of whole records says nothing by itself: its tree is read again, whole.

use bincode::{Decode, Encode};

use crate::base::content::{ChunkRef, ContentBuf, is_list, refs};
use crate::base::entry::{Entry, Kind};
use crate::base::id::ChunkId;
use crate::base::progress::{Done, Progress};
use crate::base::wire;
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::repo::records::{Records, Window};
use crate::repo::together::scan_chunks;
use crate::stage::tree::Entries;

/// Chunks that are read before it is asked whether to stop.
const CHUNKS_AT_ONCE: usize = 4096;

/// What refers to a tree or to a file's content.
#[derive(Debug, Encode, Decode)]
pub struct Branch {
    /// Whether it is a tree.
    pub is_tree: bool,
    /// The reference.
    pub content: ContentBuf,
}

/// What a chunk leads to.
#[derive(Debug, Default, Encode, Decode)]
pub struct Leads {
    /// Trees, and long lists of files' chunks.
    pub branches: Vec<Branch>,
    /// The best copy of each chunk of content, each as the step from the one before; see [`Self::copies`].
    steps: Vec<i64>,
    /// Names of the first entry and of the last; empty for what is made of references.
    ends: (Vec<u8>, Vec<u8>),
}

/// What a chunk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Whole records of entries.
    Entries,
    /// References to chunks of content.
    Content,
    /// References to chunks of trees or lists.
    Lists,
    /// Nothing that tells by itself what it leads to; or it could not be read.
    Unclear,
}

/// A chunk of a tree or list.
struct Row {
    chunk: ChunkRef,
    made: Made,
    is_reached: bool,
    /// Where its [`Leads`] lie among the records, and their length.
    at: u64,
    bytes: u32,
}

/// All chunks of trees and lists.
pub struct Survey {
    /// By id.
    rows: Vec<Row>,
    records: Records,
    window: Window,
    /// Whether there can be no temporary file: all stays in memory then.
    lacks_disk: bool,
}

fn temporary(error: std::io::Error) -> RepoError {
    let path = format!("temporary file in {}", std::env::temp_dir().display());
    RepoError::Source { path, reason: error.to_string() }
}

impl Leads {
    fn push(&mut self, last: &mut i64, copy: Option<u32>) {
        let this = copy.map_or(0, |copy| i64::from(copy) + 1);
        self.steps.push(this - *last);
        *last = this;
    }

    /// Returns the numbers of the chunks' copies; none for a chunk that has none.
    pub fn copies(&self) -> impl Iterator<Item = Option<u32>> + '_ {
        let numbers = self.steps.iter().scan(0i64, |last, step| {
            *last = last.wrapping_add(*step);
            Some(*last)
        });
        numbers.map(|number| number.checked_sub(1).and_then(|copy| u32::try_from(copy).ok()))
    }

    /// Reads whole records; none if the bytes are anything else.
    fn of_entries(bytes: &[u8], copy: &dyn Fn(&ChunkId) -> Option<u32>) -> Option<Self> {
        let (mut leads, mut last) = (Self::default(), 0);
        let mut names = None;
        for read in Entries::of_chunk(bytes) {
            let (_, entry) = read.ok()?;
            names = Some((names.map_or(entry.name, |(first, _)| first), entry.name));
            match branch(&entry) {
                Some(branch) => leads.branches.push(branch),
                None => {
                    refs(entry.content.list).for_each(|chunk| leads.push(&mut last, copy(&chunk.id)));
                }
            }
        }
        leads.ends = names.map(|(first, last)| (first.to_vec(), last.to_vec())).unwrap_or_default();
        Some(leads)
    }

    /// Returns whether the entries of `next` come after all of these.
    pub fn come_before(&self, next: &Self) -> bool {
        self.ends.1 < next.ends.0
    }
}

/// Returns what an entry leads to, if that is more than chunks of content which it names itself.
pub fn branch(entry: &Entry<'_>) -> Option<Branch> {
    let is_tree = entry.kind == Kind::Directory;
    let is_branch = is_tree || entry.content.depth > 0;
    is_branch.then(|| Branch { is_tree, content: entry.content.to_owned() })
}

impl Survey {
    /// Reads all chunks of trees and lists that the reader's index knows. `copy` returns the number of a
    /// chunk of content's best copy. Memory: 60 bytes a chunk of a tree, and 4 MiB of what they lead to;
    /// beyond that one to five bytes for a chunk of content, and two names for a chunk of a tree, in a temporary file, or in
    /// memory where there can be none.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`]; [`RepoError::Store`] for a store that fails; [`RepoError::Source`] for the
    /// temporary file. A chunk that is damaged is [`Made::Unclear`].
    pub fn take(
        reader: &Reader<'_>,
        copy: &dyn Fn(&ChunkId) -> Option<u32>,
        progress: &Progress,
    ) -> Result<Self, RepoError> {
        let chunks = reader.index().chunks_in_memory();
        let mut survey = Self {
            rows: Vec::with_capacity(chunks.len()),
            records: Records::default(),
            window: Window::default(),
            lacks_disk: false,
        };
        let mut record = Vec::new();
        for some in chunks.chunks(CHUNKS_AT_ONCE) {
            if progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            scan_chunks(reader, some, |chunk, found| {
                progress.add(Done { files: 0, bytes: u64::from(chunk.bytes) });
                survey.add(reader, chunk, found.unwrap_or_default(), copy, &mut record)
            })?;
        }
        survey.rows.sort_unstable_by_key(|row| row.chunk.id);
        Ok(survey)
    }

    fn add(
        &mut self,
        reader: &Reader<'_>,
        chunk: ChunkRef,
        bytes: &[u8],
        copy: &dyn Fn(&ChunkId) -> Option<u32>,
        record: &mut Vec<u8>,
    ) -> Result<(), RepoError> {
        let is_of_tree = |chunk: ChunkRef| matches!(reader.index().find(&chunk.id), Ok(Some(_)));
        let (made, leads) = match Leads::of_entries(bytes, copy) {
            _ if bytes.is_empty() => (Made::Unclear, Leads::default()),
            Some(leads) => (Made::Entries, leads),
            None if !is_list(bytes) => (Made::Unclear, Leads::default()),
            None if refs(bytes).next().is_some_and(is_of_tree) => {
                let content = ContentBuf { depth: 0, list: bytes.to_vec() };
                (
                    Made::Lists,
                    Leads { branches: vec![Branch { is_tree: false, content }], ..Leads::default() },
                )
            }
            None => {
                let (mut leads, mut last) = (Leads::default(), 0);
                refs(bytes).for_each(|chunk| leads.push(&mut last, copy(&chunk.id)));
                (Made::Content, leads)
            }
        };
        record.clear();
        wire::encode_into(&leads, record).map_err(|e| RepoError::record(&"what a tree leads to", e))?;
        if self.records.is_full(record.len())
            && !self.lacks_disk
            && let Err(e) = self.make_room()
        {
            tracing::debug!("what trees lead to stays in memory: {e}"); // a full disk, which this is to help
            self.lacks_disk = true;
        }
        let at = self.records.push(record);
        let bytes = u32::try_from(record.len()).unwrap_or(u32::MAX);
        self.rows.push(Row { chunk, made, is_reached: false, at, bytes });
        Ok(())
    }

    fn make_room(&mut self) -> std::io::Result<()> {
        if self.records.lacks_file() {
            self.records.give_file(tempfile::tempfile()?);
        }
        self.records.spill()
    }

    /// Returns the number of a chunk's row; none for a chunk that was not there.
    pub fn find(&self, chunk: ChunkRef) -> Option<usize> {
        let found = self.rows.binary_search_by_key(&chunk.id, |row| row.chunk.id).ok();
        found.filter(|row| self.rows[*row].chunk == chunk)
    }

    /// Returns what the chunk of a row is made of.
    pub fn made(&self, row: usize) -> Made {
        self.rows[row].made
    }

    /// Notes that the chunk of a row is needed; returns whether that was known.
    pub fn reach(&mut self, row: usize) -> bool {
        std::mem::replace(&mut self.rows[row].is_reached, true)
    }

    /// Returns what the chunk of a row leads to.
    ///
    /// # Errors
    /// [`RepoError::Source`] if the temporary file can't be read.
    pub fn leads(&mut self, row: usize) -> Result<Leads, RepoError> {
        let row = &self.rows[row];
        let record = self.records.get(row.at, row.bytes as usize, &mut self.window);
        let record = record.map_err(temporary)?;
        wire::decode(record).map_err(|e| RepoError::record(&"what a tree leads to", e))
    }
}
