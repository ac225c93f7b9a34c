//! Stage 7: frames → the bytes of a pack file; and back.
//!
//! header · frame · frame · … · directory · trailer (`docs/format.md`, section "Pack").

use bincode::{Decode, Encode};

use crate::base::content::{ChunkRef, REF_BYTES, is_list, refs};
use crate::base::id::{KeyId, RepositoryId};
use crate::base::layout::{FRAME_HEADER_BYTES, PACK_MAGIC, PACK_TRAILER_BYTES};
use crate::base::limits::{FORMAT_VERSION, FRAME_BYTES_CAP, PACK_BYTES_CAP, PACK_FRAMES_MAX};
use crate::base::wire::WireError;

/// A run's data key, sealed to the age recipients.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SealedKey {
    /// The key's name, as frames give it.
    pub key_id: KeyId,
    /// An age file (age-encryption.org/v1): 32 bytes of data key, then 32 bytes of writer secret.
    pub age: Vec<u8>,
}

/// The record at a pack's start, in an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PackHeader {
    /// The repository that the pack belongs to.
    pub repository: RepositoryId,
    /// The keys that its frames are sealed with, each named once; empty for trees and without encryption.
    pub keys: Vec<SealedKey>,
}

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
            Some(Problem::Length) => "chunks do not fill their frame",
        };
        Err(WireError::record(format!("pack directory: {what}")))
    }

    fn problem(&self, pack_bytes: u64) -> Option<Problem> {
        let chunks: u64 = self.frames.iter().map(|row| u64::from(row.chunk_count)).sum();
        if self.frames.len() > PACK_FRAMES_MAX
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
            at = end;
            let raw: u64 = refs(mine).map(|chunk| u64::from(chunk.bytes)).sum();
            if raw != u64::from(row.raw_bytes) || refs(mine).any(|chunk| chunk.bytes == 0) {
                return Some(Problem::Length);
            }
        }
        None
    }
}

/// The last bytes of a pack ([`PACK_TRAILER`](crate::base::layout::PACK_TRAILER)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the directory's envelope starts, in bytes from the pack's start.
    pub directory_offset: u64,
    /// Length of the directory's envelope, in bytes.
    pub directory_bytes: u64,
    /// Number of frames.
    pub frame_count: u32,
}

impl Trailer {
    /// Returns the trailer as it is stored.
    pub fn to_bytes(self) -> [u8; PACK_TRAILER_BYTES] {
        let mut out = [0; PACK_TRAILER_BYTES];
        out[0..8].copy_from_slice(&self.directory_offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.directory_bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.frame_count.to_le_bytes());
        out[20..22].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[28..32].copy_from_slice(&PACK_MAGIC);
        out
    }

    /// Reads the trailer of a pack of `pack_bytes`.
    ///
    /// # Errors
    /// [`WireError::Magic`], [`WireError::Newer`], or [`WireError::Record`] if the directory can't lie there.
    pub fn from_bytes(bytes: &[u8; PACK_TRAILER_BYTES], pack_bytes: u64) -> Result<Self, WireError> {
        if bytes[28..32] != PACK_MAGIC {
            return Err(WireError::Magic { found: bytes[28..32].to_vec(), expected: PACK_MAGIC });
        }
        let version = u16::from_le_bytes([bytes[20], bytes[21]]);
        if version > FORMAT_VERSION {
            return Err(WireError::Newer { found: version, supported: FORMAT_VERSION });
        }
        let u64_at = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(field)
        };
        let trailer = Self {
            directory_offset: u64_at(0),
            directory_bytes: u64_at(8),
            frame_count: u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]),
        };
        let end = trailer.directory_offset.checked_add(trailer.directory_bytes);
        match end.and_then(|end| end.checked_add(PACK_TRAILER_BYTES as u64)) {
            Some(end) if end == pack_bytes && bytes[22..28] == [0; 6] => Ok(trailer),
            _ => Err(WireError::record("pack trailer: the directory cannot lie there")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn hostile_trailers_never_panic(bytes in any::<[u8; 32]>(), pack_bytes in any::<u64>()) {
            let mut bytes = bytes;
            let _ = Trailer::from_bytes(&bytes, pack_bytes);
            bytes[28..].copy_from_slice(&PACK_MAGIC);
            let _ = Trailer::from_bytes(&bytes, pack_bytes);
        }
    }
}
