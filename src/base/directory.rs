//! The table of a pack: which frames lie where, and which chunks are in them.

use bincode::{Decode, Encode};

use crate::base::content::{ChunkRef, REF_BYTES, is_list, refs};
use crate::base::layout::FRAME_HEADER_BYTES;
use crate::base::limits::{FRAME_BYTES_CAP, FRAME_CHUNKS_MAX, PACK_BYTES_CAP, PACK_FRAMES_MAX};
use crate::base::wire::WireError;

/// Longest frame that is read, header included, in bytes: one whose header says more is refused.
pub const FRAME_STORED_BYTES_CAP: usize = FRAME_HEADER_BYTES + FRAME_BYTES_CAP as usize + 1024;

/// Where a frame lies in its pack, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FrameRow {
    /// Where the frame's header starts, in bytes from the pack's start.
    pub offset: u32,
    /// Length of the frame, header included, in bytes.
    pub bytes: u32,
    /// Length of its chunks, in bytes.
    pub raw_bytes: u32,
    /// Number of its chunks.
    pub chunk_count: u32,
}

/// The table of a pack: its frames in order, and all their chunks in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Directory {
    /// Whether the pack holds trees; else content.
    pub is_tree: bool,
    /// Frames, by ascending offset.
    pub frames: Vec<FrameRow>,
    /// References to the chunks of all frames, [`REF_BYTES`] each.
    pub chunks: Vec<u8>,
}

/// What [`Directory::validate`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    Count,
    Overlap,
    Size,
    Length,
}

impl Directory {
    /// Adds a frame that lies behind all others.
    pub fn push(&mut self, row: FrameRow, chunks: &[ChunkRef]) {
        self.frames.push(row);
        for chunk in chunks {
            self.chunks.extend_from_slice(&chunk.to_bytes());
        }
    }

    /// Returns the number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.chunks.len() / REF_BYTES
    }

    /// Returns each frame with its number and its chunks.
    pub fn frames(&self) -> impl Iterator<Item = (usize, FrameRow, &[u8])> {
        let mut rest = self.chunks.as_slice();
        self.frames.iter().enumerate().map(move |(number, row)| {
            let (mine, others) = rest.split_at((row.chunk_count as usize * REF_BYTES).min(rest.len()));
            rest = others;
            (number, *row, mine)
        })
    }

    /// Checks that frames lie apart inside a pack of `pack_bytes`, and that chunks fill their frames.
    ///
    /// # Errors
    /// [`WireError::Record`].
    pub fn validate(&self, pack_bytes: u64) -> Result<(), WireError> {
        let what = match self.problem(pack_bytes) {
            None => return Ok(()),
            Some(Problem::Count) => "number of frames or chunks is wrong",
            Some(Problem::Overlap) => "frames overlap or lie outside the pack",
            Some(Problem::Size) => "a frame is longer than any may be",
            Some(Problem::Length) => "chunks do not fill their frame",
        };
        Err(WireError::record(format!("pack directory: {what}")))
    }

    fn problem(&self, pack_bytes: u64) -> Option<Problem> {
        let chunks: u64 = self.frames.iter().map(|row| u64::from(row.chunk_count)).sum();
        let is_crowded = self.frames.iter().any(|row| row.chunk_count as usize > FRAME_CHUNKS_MAX);
        if is_crowded
            || self.frames.len() > PACK_FRAMES_MAX
            || !is_list(&self.chunks)
            || chunks != self.chunk_count() as u64
        {
            return Some(Problem::Count);
        }
        let mut at = 0;
        for (_, row, mine) in self.frames() {
            let end = u64::from(row.offset) + u64::from(row.bytes);
            let is_apart = u64::from(row.offset) >= at && end <= pack_bytes && end <= PACK_BYTES_CAP;
            if !is_apart || row.bytes as usize <= FRAME_HEADER_BYTES || row.raw_bytes > FRAME_BYTES_CAP {
                return Some(Problem::Overlap);
            }
            if row.bytes as usize > FRAME_STORED_BYTES_CAP {
                return Some(Problem::Size);
            }
            at = end;
            let raw: u64 = refs(mine).map(|chunk| u64::from(chunk.bytes)).sum();
            if raw != u64::from(row.raw_bytes) || refs(mine).any(|chunk| chunk.bytes == 0) {
                return Some(Problem::Length);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ChunkId;

    fn directory() -> Directory {
        let chunk = |n: u8| ChunkRef { id: ChunkId::from_bytes([n; 16]), bytes: 10 };
        let mut directory = Directory::default();
        directory
            .push(FrameRow { offset: 100, bytes: 60, raw_bytes: 20, chunk_count: 2 }, &[chunk(1), chunk(2)]);
        directory.push(FrameRow { offset: 160, bytes: 50, raw_bytes: 10, chunk_count: 1 }, &[chunk(3)]);
        directory
    }

    #[test]
    fn frames_come_with_their_chunks() {
        let directory = directory();
        directory.validate(300).unwrap();
        let counts: Vec<usize> = directory.frames().map(|(_, _, mine)| refs(mine).count()).collect();
        assert_eq!(counts, [2, 1]);
    }

    #[test]
    fn directories_that_lie_are_refused() {
        let broken: [fn(&mut Directory); 5] = [
            |d| d.frames[1].offset = 159,
            |d| d.frames[1].bytes = 200,
            |d| d.frames[0].raw_bytes = 21,
            |d| d.frames[0].chunk_count = 3,
            |d| d.chunks.truncate(REF_BYTES),
        ];
        for (number, change) in broken.iter().enumerate() {
            let mut directory = directory();
            change(&mut directory);
            assert!(directory.validate(300).is_err(), "change {number}");
        }
    }

    #[test]
    fn a_frame_that_nobody_would_read_is_refused_before_memory_is_taken_for_it() {
        let mut directory = directory();
        directory.frames[1].bytes = u32::try_from(FRAME_STORED_BYTES_CAP).unwrap();
        directory.validate(PACK_BYTES_CAP).unwrap();
        directory.frames[1].bytes += 1;
        assert!(directory.validate(PACK_BYTES_CAP).is_err());
    }
}
