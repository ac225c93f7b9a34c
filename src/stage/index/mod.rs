//! Stage 8: packs' directories → fragments, and the cache that finds a chunk; and back.

mod cache;
mod error;
mod update;

use bincode::{Decode, Encode};

use crate::base::directory::Directory;
use crate::base::id::{ChunkId, FragmentId, PackId};
use crate::base::kind::FrameKind;

pub use cache::{Cache, is_guarded};
pub use error::CacheError;
pub use update::{EachFragment, Update};

/// A pack and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PackEntry {
    /// Name of the pack.
    pub id: PackId,
    /// Length of the pack's file, in bytes.
    pub bytes: u64,
    /// Its table.
    pub directory: Directory,
}

/// A write-once list of packs. All fragments together are the index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Fragment {
    /// The packs, in the order in which they were written.
    pub packs: Vec<PackEntry>,
    /// Fragments that this one replaces: they count as absent.
    pub replaces: Vec<FragmentId>,
}

impl Fragment {
    /// Returns about how many bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        let pack = |pack: &PackEntry| {
            let Directory { frames, chunks, .. } = &pack.directory;
            size_of::<PackEntry>() + size_of_val(frames.as_slice()) + chunks.len()
        };
        self.packs.iter().map(pack).sum::<usize>() + size_of_val(self.replaces.as_slice())
    }
}

/// A pack's number in the cache; means nothing outside this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackNumber(pub u32);

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The pack.
    pub pack: PackNumber,
    /// The frame's number in the pack.
    pub frame: u16,
    /// Where the chunk starts in the frame's raw bytes.
    pub offset: u32,
    /// Length of the chunk, in bytes.
    pub bytes: u32,
}

/// Where a frame lies in its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FrameSpan {
    /// Where the frame's header starts, in bytes from the pack's start.
    pub offset: u32,
    /// Length of the frame, header included, in bytes.
    pub bytes: u32,
}

/// What is known of a pack without its chunks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PackRow {
    /// Name of the pack.
    pub id: PackId,
    /// Length of the pack's file, in bytes.
    pub bytes: u64,
    /// Whether it holds trees.
    pub is_tree: bool,
    /// Its frames, in order.
    pub frames: Vec<FrameSpan>,
}

impl PackRow {
    /// Returns what the pack's chunks belong to.
    pub fn kind(&self) -> FrameKind {
        if self.is_tree { FrameKind::Tree } else { FrameKind::Content }
    }
}

impl PackEntry {
    /// Returns whether a pack of that length can hold so many chunks: the name of each stands in it, and does not compress.
    pub fn has_room(&self) -> bool {
        (self.directory.chunk_count() as u64).saturating_mul(ChunkId::BYTES as u64) <= self.bytes
    }

    /// Returns what is known of the pack without its chunks.
    pub fn row(&self) -> PackRow {
        let spans = self.directory.frames.iter();
        PackRow {
            id: self.id,
            bytes: self.bytes,
            is_tree: self.directory.is_tree,
            frames: spans.map(|row| FrameSpan { offset: row.offset, bytes: row.bytes }).collect(),
        }
    }

    /// Calls `visit` with each chunk and where it lies, if the pack has number `pack`.
    pub fn locations(&self, pack: PackNumber, mut visit: impl FnMut(crate::base::id::ChunkId, Location)) {
        for (number, _, chunks) in self.directory.frames() {
            let Ok(frame) = u16::try_from(number) else { return };
            let mut offset = 0;
            for chunk in crate::base::content::refs(chunks) {
                visit(chunk.id, Location { pack, frame, offset, bytes: chunk.bytes });
                offset = u32::saturating_add(offset, chunk.bytes); // exact in a directory that was validated
            }
        }
    }
}
