//! A file's entry → which chunks any part of it takes, holes included; and that part's bytes.

use std::ops::Range;

use crate::base::content::{REF_BYTES, refs};
use crate::base::entry::Entry;
use crate::base::limits::INLINE_CHUNKS_MAX;
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::stage::index::Location;

/// A run of a file that is all data, or all hole.
struct Run {
    /// Where it lies in the file, in bytes.
    range: Range<u64>,
    /// Where its data starts among the file's data; none for a hole.
    data: Option<u64>,
}

/// How to read a file.
pub struct Plan {
    size: u64,
    runs: Vec<Run>,
    /// References to the chunks, in order.
    list: Vec<u8>,
    /// Where each chunk ends among the file's data, in bytes.
    ends: Vec<u64>,
    /// Where the chunks lay when this was made; empty for a file of many chunks.
    found: Vec<Option<Location>>,
}

/// What [`Plan::seek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is data.
    Data,
    /// The next byte that is in a hole; a file ends with one.
    Hole,
}

impl Plan {
    /// Plans how to read the file that `entry` is. Chunks of a short file are looked up at once.
    ///
    /// # Errors
    /// As [`Reader::flatten`]; [`RepoError::Content`] if the chunks are not as long as the file.
    pub fn new(reader: &Reader<'_>, entry: &Entry<'_>) -> Result<Self, RepoError> {
        let list = reader.flatten(entry.content)?;
        let mut at = 0_u64;
        let ends: Vec<u64> = refs(&list)
            .map(|chunk| {
                at = at.saturating_add(u64::from(chunk.bytes));
                at
            })
            .collect();
        if at != entry.data_bytes() {
            return Err(RepoError::Content { what: "its chunks are not as long as the file" });
        }
        let found = match ends.len() <= INLINE_CHUNKS_MAX {
            true => refs(&list).map(|chunk| reader.index().find(&chunk.id).ok().flatten()).collect(),
            false => Vec::new(),
        };
        Ok(Self { size: entry.size, runs: runs(entry), list, ends, found })
    }

    /// Returns how much memory this takes, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.runs.len() * size_of::<Run>()
            + self.list.len()
            + self.ends.len() * size_of::<u64>()
            + self.found.len() * size_of::<Option<Location>>()
    }

    /// Returns the number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.ends.len()
    }

    /// Returns the number of the chunk that holds the file's byte at `offset`, or comes after it.
    pub fn chunk_at(&self, offset: u64) -> usize {
        let run = self.runs.partition_point(|run| run.range.end <= offset);
        let data = self.runs.get(run..).unwrap_or_default().iter().find_map(|run| {
            let within = offset.saturating_sub(run.range.start);
            run.data.map(|data| data + within)
        });
        data.map_or(self.ends.len(), |data| self.ends.partition_point(|end| *end <= data))
    }

    /// Returns where chunk `number` lies, as far as is known.
    ///
    /// # Errors
    /// [`RepoError::Cache`].
    pub fn location(&self, reader: &Reader<'_>, number: usize) -> Result<Option<Location>, RepoError> {
        if let Some(found) = self.found.get(number) {
            return Ok(*found);
        }
        let list = self.list.get(number * REF_BYTES..).unwrap_or_default();
        refs(list).next().map_or(Ok(None), |chunk| reader.index().find(&chunk.id))
    }

    /// Returns `length` bytes of the file from `offset` on, fewer at its end.
    ///
    /// # Errors
    /// As [`Reader::chunk`]. Every chunk is hashed again.
    pub fn read(&self, reader: &Reader<'_>, offset: u64, length: u32) -> Result<Vec<u8>, RepoError> {
        let end = offset.saturating_add(u64::from(length)).min(self.size);
        let mut out = Vec::with_capacity(usize::try_from(end.saturating_sub(offset)).unwrap_or(0));
        let mut spare = Vec::new();
        let first = self.runs.partition_point(|run| run.range.end <= offset);
        for run in self.runs.get(first..).unwrap_or_default() {
            let (from, to) = (run.range.start.max(offset), run.range.end.min(end));
            if from >= to {
                break;
            }
            match run.data {
                None => {
                    let zeros = usize::try_from(to - from).unwrap_or(0);
                    out.resize(out.len() + zeros, 0);
                }
                Some(data) => {
                    let at = data + (from - run.range.start);
                    self.read_data(reader, at..at + (to - from), &mut spare, &mut out)?;
                }
            }
        }
        Ok(out)
    }

    /// Appends the bytes of a range of the file's data.
    fn read_data(
        &self,
        reader: &Reader<'_>,
        range: Range<u64>,
        spare: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), RepoError> {
        let first = self.ends.partition_point(|end| *end <= range.start);
        let list = self.list.get(first * REF_BYTES..).unwrap_or_default();
        for (number, chunk) in (first..).zip(refs(list)) {
            let end = self.ends.get(number).copied().unwrap_or(u64::MAX);
            let start = end.saturating_sub(u64::from(chunk.bytes));
            if start >= range.end {
                break;
            }
            let found = self.found.get(number).copied().flatten();
            if range.start <= start && end <= range.end {
                reader.append_found(found, chunk, out)?;
                continue;
            }
            spare.clear();
            reader.append_found(found, chunk, spare)?;
            let part = |at: u64| usize::try_from(at.clamp(start, end) - start).unwrap_or(0);
            out.extend_from_slice(spare.get(part(range.start)..part(range.end)).unwrap_or_default());
        }
        Ok(())
    }

    /// Returns where the next data or hole starts at or after `offset`; none if there is none.
    pub fn seek(&self, offset: u64, what: Seek) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let first = self.runs.partition_point(|run| run.range.end <= offset);
        let mut rest = self.runs.get(first..).unwrap_or_default().iter();
        let found = rest.find(|run| run.data.is_some() == (what == Seek::Data));
        match (found, what) {
            (Some(run), _) => Some(run.range.start.max(offset)),
            (None, Seek::Hole) => Some(self.size),
            (None, Seek::Data) => None,
        }
    }
}

/// Returns the runs of a file, in order.
fn runs(entry: &Entry<'_>) -> Vec<Run> {
    let mut runs = Vec::with_capacity(2 * entry.holes.len() + 1);
    let (mut at, mut data) = (0, 0);
    let holes = entry.holes.iter().map(|hole| (hole.offset, hole.bytes)).chain([(entry.size, 0)]);
    for (offset, bytes) in holes {
        if offset > at {
            runs.push(Run { range: at..offset, data: Some(data) });
            data += offset - at;
        }
        if bytes > 0 {
            runs.push(Run { range: offset..offset + bytes, data: None });
        }
        at = offset + bytes;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::content::Content;
    use crate::base::entry::{Hole, Kind};
    use crate::base::time::Time;

    /// Returns the plan of a file of 100 bytes with these holes, in chunks of 10 bytes.
    fn plan(holes: &[(u64, u64)]) -> Plan {
        let holes: Vec<Hole> =
            holes.iter().map(|(offset, bytes)| Hole { offset: *offset, bytes: *bytes }).collect();
        let entry = Entry {
            name: b"a",
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            user: b"",
            group: b"",
            mtime: Time::default(),
            ctime: Time::default(),
            btime: None,
            filesystem: 0,
            inode: 0,
            links: 1,
            size: 100,
            torn: false,
            device: (0, 0),
            target: b"",
            xattrs: Vec::new(),
            holes,
            content: Content::default(),
        };
        let ends = (1..=entry.data_bytes() / 10).map(|number| number * 10).collect();
        Plan { size: 100, runs: runs(&entry), list: Vec::new(), ends, found: Vec::new() }
    }

    #[test]
    fn data_and_holes_are_found_from_anywhere() {
        let plan = plan(&[(10, 20), (90, 10)]);
        let seek = |offset, what| plan.seek(offset, what);
        assert_eq!((seek(0, Seek::Data), seek(0, Seek::Hole)), (Some(0), Some(10)));
        assert_eq!((seek(15, Seek::Data), seek(15, Seek::Hole)), (Some(30), Some(15)));
        assert_eq!((seek(30, Seek::Data), seek(30, Seek::Hole)), (Some(30), Some(90)));
        assert_eq!((seek(95, Seek::Data), seek(95, Seek::Hole)), (None, Some(95)));
        assert_eq!((seek(100, Seek::Data), seek(100, Seek::Hole)), (None, None));
    }

    #[test]
    fn a_file_without_holes_ends_with_one() {
        assert_eq!(plan(&[]).seek(40, Seek::Hole), Some(100));
        assert_eq!(plan(&[(0, 100)]).seek(40, Seek::Data), None);
    }

    #[test]
    fn the_chunk_that_comes_next_is_found_across_holes() {
        let plan = plan(&[(10, 20)]);
        let found: Vec<usize> =
            [0, 9, 10, 29, 30, 39, 40, 99, 100].iter().map(|at| plan.chunk_at(*at)).collect();
        assert_eq!(found, [0, 0, 1, 1, 1, 1, 2, 7, 8]);
    }
}
