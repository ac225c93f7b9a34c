//! Snapshots → every chunk that they need. Reads trees only, and no tree twice.
//!
//! One snapshot after the other, since what a run wrote lies together; of each first the small trees, which
//! lead to others, then all the large ones together, in the order in which they lie in their packs. Snapshots share most of their chunks: where a
//! chunk was met before, entered at the same byte and followed by the same chunk, its records are known,
//! and it is not read again. What was not met is read ahead, in ascending order, each frame once.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::base::content::{ChunkRef, ContentBuf, REF_BYTES, is_list, refs};
use crate::base::entry::{Entry, Kind};
use crate::base::id::{ChunkId, SnapshotId};
use crate::base::limits::{LIST_DEPTH_MAX, RECORD_BYTES_CAP};
use crate::base::progress::{Done, Progress};
use crate::base::wire;
use crate::repo::reader::Reader;
use crate::repo::together::read_chunks;
use crate::repo::{RepoError, Snapshot};
use crate::stage::hash::{digest, first_bytes};
use crate::stage::tree::TreeError;

/// Longest part of a record that is kept, in bytes: entries are shorter but for those with many attributes.
const KEPT_BYTES_MAX: usize = 512;

/// Most bytes of such parts that are kept.
const KEPT_TOTAL_MAX: usize = 16 << 20;

/// Most bytes of chunks that are read ahead.
const AHEAD_BYTES: usize = 8 << 20;

/// Trees up to this many bytes are read before larger ones: folders that hold folders are small.
const SMALL_TREE_BYTES: u64 = 16 << 10;

/// What was met already.
#[derive(Clone, Default)]
pub struct Met {
    /// First bytes of the names of chunks of trees. Of two that are alike one is not read ahead.
    chunks: HashSet<u32>,
    /// Trees and long lists, by a hash of what refers to them.
    contents: HashSet<[u8; 16]>,
    /// For a chunk that is entered at a byte and followed by another: the byte at which that one is entered.
    joints: HashMap<[u8; 16], u32>,
    /// For a chunk that is entered at a byte: its last bytes, which begin a record that it does not end.
    tails: HashMap<[u8; 16], Part>,
    /// First bytes of chunks, which end a record that an earlier one begins.
    heads: HashMap<ChunkId, Part>,
    /// The bytes of tails and heads. In one piece: small ones among large ones would leave holes.
    parts: Vec<u8>,
}

/// Where a part of a record lies in [`Met::parts`].
#[derive(Clone, Copy)]
struct Part {
    start: u32,
    bytes: u32,
}

impl Met {
    fn keep(&mut self, part: &[u8]) -> Option<Part> {
        if self.parts.capacity() == 0 {
            self.parts.reserve_exact(KEPT_TOTAL_MAX);
        }
        let is_kept = part.len() <= KEPT_BYTES_MAX && self.parts.len() + part.len() <= KEPT_TOTAL_MAX;
        let start = u32::try_from(self.parts.len()).ok().filter(|_| is_kept)?;
        self.parts.extend_from_slice(part);
        Some(Part { start, bytes: u32::try_from(part.len()).ok()? })
    }

    fn part(&self, part: Part) -> &[u8] {
        let start = part.start as usize;
        self.parts.get(start..start + part.bytes as usize).unwrap_or_default()
    }
}

/// Takes a chunk that is needed; returns whether a pack holds it.
pub type Need<'n> = dyn FnMut(ChunkRef) -> bool + 'n;

/// Takes the record at the start of the bytes and returns its length; fails on one that is cut short.
type Take<'t, 'm> = dyn FnMut(&mut Found<'m>, &[u8]) -> Result<usize, RepoError> + 't;

/// A walk over all that some snapshots need.
pub struct Marker<'m> {
    reader: &'m Reader<'m>,
    met: &'m mut Met,
    found: Found<'m>,
    /// Large trees, to be read when all small ones were.
    large: Vec<ContentBuf>,
    /// Chunks that were read ahead, in one piece: small ones among what is kept would leave holes.
    ahead: Vec<u8>,
    /// Where they lie there.
    places: HashMap<ChunkId, Range<usize>>,
    progress: &'m Progress,
}

/// What records have led to.
struct Found<'m> {
    need: &'m mut Need<'m>,
    trees: Vec<ContentBuf>,
    lists: Vec<ContentBuf>,
    /// Chunks of content that no pack holds.
    missing: u64,
}

impl<'m> Marker<'m> {
    /// Begins. What was met already is not met again.
    pub fn new(
        reader: &'m Reader<'m>,
        met: &'m mut Met,
        need: &'m mut Need<'m>,
        progress: &'m Progress,
    ) -> Self {
        let found = Found { need, trees: Vec::new(), lists: Vec::new(), missing: 0 };
        Self {
            reader,
            met,
            found,
            large: Vec::new(),
            ahead: Vec::with_capacity(AHEAD_BYTES + (1 << 20)),
            places: HashMap::new(),
            progress,
        }
    }

    /// Marks all that the snapshots need. Returns how many references lead to chunks of content that no
    /// pack holds.
    ///
    /// # Errors
    /// [`RepoError::Refused`] if a tree can't be read: what it needs is not known then.
    pub fn mark<'s>(mut self, snapshots: impl Iterator<Item = &'s Snapshot>) -> Result<u64, RepoError> {
        for snapshot in snapshots {
            self.found.trees.push(snapshot.manifest.root.clone());
            while !(self.found.trees.is_empty() && self.large.is_empty()) {
                self.round().map_err(|e| unknown(snapshot.id, &e))?;
            }
        }
        Ok(self.found.missing)
    }

    /// Marks all that the trees need which are next.
    fn round(&mut self) -> Result<(), RepoError> {
        let lists = self.next_lists()?;
        let mut left = lists.as_slice();
        while !left.is_empty() {
            let (batch, others) = left.split_at(self.read_ahead(left.iter().map(Vec::as_slice)));
            left = others;
            for list in batch {
                if self.progress.is_cancelled() {
                    return Err(RepoError::Interrupted);
                }
                self.tree(list)?;
                self.progress.add(Done { files: 1, bytes: 0 });
            }
            self.long_lists()?;
        }
        Ok(())
    }

    /// Returns the lists of chunks of the trees to be read next that were not met before, in the order in
    /// which they lie in packs.
    fn next_lists(&mut self) -> Result<Vec<Vec<u8>>, RepoError> {
        let mut trees = std::mem::take(&mut self.found.trees);
        trees.retain(|tree| self.met.contents.insert(digest(tree.borrowed(), true)));
        let is_small = |tree: &ContentBuf| {
            tree.depth == 0
                && refs(&tree.list).map(|chunk| u64::from(chunk.bytes)).sum::<u64>() <= SMALL_TREE_BYTES
        };
        let (mut trees, large): (Vec<_>, Vec<_>) = trees.into_iter().partition(is_small);
        self.large.extend(large);
        if trees.is_empty() {
            trees = std::mem::take(&mut self.large);
        }
        let nested = trees.iter().filter(|tree| tree.depth > 0).flat_map(|tree| refs(&tree.list));
        self.fetch(&nested.collect::<Vec<_>>());
        let lists = trees.iter().map(|tree| self.gather_times(&tree.list, tree.depth, tree.depth));
        let mut lists = lists.collect::<Result<Vec<_>, _>>()?;
        lists.sort_by_cached_key(|list| {
            let first = refs(list).next();
            first.and_then(|first| self.reader.index().find(&first.id).ok().flatten())
        });
        Ok(lists)
    }

    /// Reads ahead what was not met of the first lists; returns of how many.
    fn read_ahead<'l>(&mut self, lists: impl Iterator<Item = &'l [u8]>) -> usize {
        let (mut chunks, mut bytes, mut count) = (Vec::new(), 0, 0);
        for list in lists {
            for chunk in refs(list) {
                if bytes < AHEAD_BYTES && self.met.chunks.insert(start_of(chunk.id)) {
                    bytes += chunk.bytes as usize;
                    chunks.push(chunk);
                }
            }
            count += 1;
            if bytes >= AHEAD_BYTES {
                break;
            }
        }
        self.fetch(&chunks);
        count
    }

    /// Reads chunks ahead. One that can't be read is asked for again when it is needed, and is an error then.
    fn fetch(&mut self, chunks: &[ChunkRef]) {
        let (ahead, places) = (&mut self.ahead, &mut self.places);
        ahead.clear();
        places.clear();
        read_chunks(self.reader, chunks, |number, found| {
            if let (Some(chunk), Ok(bytes)) = (chunks.get(number), found) {
                places.insert(chunk.id, ahead.len()..ahead.len() + bytes.len());
                ahead.extend_from_slice(bytes);
            }
        });
    }

    fn tree(&mut self, list: &[u8]) -> Result<(), RepoError> {
        self.stream(list, &mut |found, bytes| {
            let (entry, used) = wire::decode_prefix::<Entry<'_>>(bytes)
                .map_err(|source| TreeError::Record { offset: 0, source })?;
            found.entry(&entry);
            Ok(used)
        })
    }

    /// Marks what the long lists of files lead to that were found.
    fn long_lists(&mut self) -> Result<(), RepoError> {
        let mut lists = std::mem::take(&mut self.found.lists);
        lists.retain(|list| self.met.contents.insert(digest(list.borrowed(), false)));
        let mut left = lists.as_slice();
        while !left.is_empty() {
            let batch = self.read_ahead(left.iter().map(|list| list.list.as_slice()));
            let (lists, others) = left.split_at(batch);
            left = others;
            lists.iter().try_for_each(|list| self.list(list))?;
        }
        Ok(())
    }

    fn list(&mut self, content: &ContentBuf) -> Result<(), RepoError> {
        let list = self.gather_times(&content.list, content.depth, content.depth.saturating_sub(1))?;
        self.stream(&list, &mut |found, bytes| {
            let record =
                bytes.get(..REF_BYTES).ok_or(RepoError::Content { what: "a reference is cut short" })?;
            refs(record).for_each(|chunk| found.content(chunk));
            Ok(REF_BYTES)
        })
    }

    /// Replaces a list by what its chunks hold, so many times.
    fn gather_times(&mut self, list: &[u8], depth: u8, times: u8) -> Result<Vec<u8>, RepoError> {
        if depth > LIST_DEPTH_MAX {
            return Err(RepoError::Content { what: "nested too deeply" });
        }
        let mut list = list.to_vec();
        for _ in 0..times {
            let mut below = Vec::new();
            for chunk in refs(&list) {
                below.extend_from_slice(&self.read(chunk)?);
                if below.len() > RECORD_BYTES_CAP {
                    return Err(RepoError::Content { what: "longer than any list may be" });
                }
            }
            if !is_list(&below) {
                return Err(RepoError::Content { what: "a list is not a whole number of references" });
            }
            list = below;
        }
        Ok(list)
    }

    fn read(&mut self, chunk: ChunkRef) -> Result<Vec<u8>, RepoError> {
        (self.found.need)(chunk);
        let found = self.places.get(&chunk.id).and_then(|place| self.ahead.get(place.clone()));
        found.map_or_else(|| self.reader.chunk(chunk), |bytes| Ok(bytes.to_vec()))
    }

    /// Reads the records that the chunks of `list` hold.
    fn stream(&mut self, list: &[u8], take: &mut Take<'_, 'm>) -> Result<(), RepoError> {
        let chunks: Vec<ChunkRef> = refs(list).collect();
        let (mut at, mut entered) = (0, 0);
        while let Some(chunk) = chunks.get(at) {
            let joint = joint(*chunk, entered, chunks.get(at + 1));
            if let Some(next) = self.met.joints.get(&joint) {
                (at, entered) = (at + 1, *next as usize);
                continue;
            }
            let tail = self.tail(*chunk, entered, take)?;
            let (reached, entered_next) = match tail.is_empty() {
                true => (at + 1, 0),
                false => self.complete(&tail, &chunks, at + 1, take)?,
            };
            if reached == at + 1 {
                self.met.joints.insert(joint, u32::try_from(entered_next).unwrap_or(u32::MAX));
            }
            (at, entered) = (reached, entered_next);
        }
        Ok(())
    }

    /// Takes the records that a chunk holds whole, if they were not met; returns the bytes after them.
    fn tail(
        &mut self,
        chunk: ChunkRef,
        mut entered: usize,
        take: &mut Take<'_, 'm>,
    ) -> Result<Vec<u8>, RepoError> {
        let key = joint(chunk, entered, None);
        if let Some(tail) = self.met.tails.get(&key) {
            return Ok(self.met.part(*tail).to_vec());
        }
        let bytes = self.read(chunk)?;
        let rest = |entered: usize| bytes.get(entered..).unwrap_or_default();
        while !rest(entered).is_empty() {
            let Ok(used) = take(&mut self.found, rest(entered)) else { break };
            entered += used;
        }
        if let Some(part) = self.met.keep(rest(entered)) {
            self.met.tails.insert(key, part);
        }
        Ok(rest(entered).to_vec())
    }

    /// Takes the record that begins with `tail` and ends in one of the chunks from `ahead` on; returns
    /// which, and at which byte of it.
    fn complete(
        &mut self,
        tail: &[u8],
        chunks: &[ChunkRef],
        ahead: usize,
        take: &mut Take<'_, 'm>,
    ) -> Result<(usize, usize), RepoError> {
        let head = chunks.get(ahead).and_then(|next| self.met.heads.get(&next.id));
        if let Some(head) = head
            && let Ok(used) = take(&mut self.found, &[tail, self.met.part(*head)].concat())
        {
            return Ok((ahead, used - tail.len()));
        }
        let mut bytes = tail.to_vec();
        for (at, next) in chunks.iter().enumerate().skip(ahead) {
            let before = bytes.len();
            bytes.extend_from_slice(&self.read(*next)?);
            if let Ok(used) = take(&mut self.found, &bytes) {
                let head = &bytes[before..used];
                if let Some(part) = self.met.keep(head) {
                    self.met.heads.insert(next.id, part);
                }
                return Ok((at, used - before));
            }
        }
        take(&mut self.found, &bytes).map(|_| (chunks.len(), 0)) // says what is wrong with it
    }
}

impl Found<'_> {
    fn entry(&mut self, entry: &Entry<'_>) {
        match entry.kind {
            Kind::Directory => self.trees.push(entry.content.to_owned()),
            _ if entry.content.depth > 0 => self.lists.push(entry.content.to_owned()),
            _ => refs(entry.content.list).for_each(|chunk| self.content(chunk)),
        }
    }

    fn content(&mut self, chunk: ChunkRef) {
        if !(self.need)(chunk) {
            self.missing += 1;
        }
    }
}

fn unknown(snapshot: SnapshotId, error: &RepoError) -> RepoError {
    match error {
        RepoError::Interrupted => RepoError::Interrupted,
        error => RepoError::Refused {
            what: format!(
                "what snapshot {snapshot} needs is not known, so nothing is removed: {}; mend it, or give it up with --forget {snapshot}",
                error.chain()
            ),
        },
    }
}

fn start_of(id: ChunkId) -> u32 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn joint(chunk: ChunkRef, entered: usize, next: Option<&ChunkRef>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&chunk.to_bytes()).update(&(entered as u64).to_le_bytes());
    if let Some(next) = next {
        hasher.update(&next.to_bytes());
    }
    first_bytes(&hasher)
}
