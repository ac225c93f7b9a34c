//! Content references: which chunks, in order, make up a file or a directory.

use bincode::{BorrowDecode, Decode, Encode};

use crate::base::id::ChunkId;

/// Length of one reference in a list, in bytes: id, then the chunk's length as u32 little-endian.
pub const REF_BYTES: usize = ChunkId::BYTES + 4;

/// A chunk's name and its raw length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Name of the chunk.
    pub id: ChunkId,
    /// Raw length of the chunk, in bytes; never 0.
    pub bytes: u32,
}

impl ChunkRef {
    /// Returns the reference as it is stored.
    pub fn to_bytes(self) -> [u8; REF_BYTES] {
        let mut out = [0; REF_BYTES];
        out[..ChunkId::BYTES].copy_from_slice(self.id.as_bytes());
        out[ChunkId::BYTES..].copy_from_slice(&self.bytes.to_le_bytes());
        out
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (id, length) = bytes.split_first_chunk::<{ ChunkId::BYTES }>()?;
        let length = length.first_chunk::<4>()?;
        Some(Self { id: ChunkId::from_bytes(*id), bytes: u32::from_le_bytes(*length) })
    }
}

/// Reads a list of references, in order. A partial reference at the end is ignored here;
/// [`is_list`] refuses it.
pub fn refs(list: &[u8]) -> impl ExactSizeIterator<Item = ChunkRef> + '_ {
    list.chunks_exact(REF_BYTES).map(|bytes| {
        ChunkRef::from_bytes(bytes)
            .unwrap_or(ChunkRef { id: ChunkId::from_bytes([0; ChunkId::BYTES]), bytes: 0 })
    })
}

/// Returns whether `list` is a whole number of references.
pub fn is_list(list: &[u8]) -> bool {
    list.len().is_multiple_of(REF_BYTES)
}

/// A borrowed content reference.
///
/// With `depth` 0, `list` names the content's own chunks. With depth n, it names chunks whose
/// bytes, one after the other, are the list of depth n - 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Content<'a> {
    /// How many lists lie between this one and the content; at most
    /// [`LIST_DEPTH_MAX`](crate::base::limits::LIST_DEPTH_MAX).
    pub depth: u8,
    /// References, [`REF_BYTES`] each; empty for empty content.
    pub list: &'a [u8],
}

impl Content<'_> {
    /// Returns an owned copy.
    pub fn to_owned(self) -> ContentBuf {
        ContentBuf { depth: self.depth, list: self.list.to_vec() }
    }
}

/// An owned content reference; see [`Content`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct ContentBuf {
    /// See [`Content::depth`].
    pub depth: u8,
    /// See [`Content::list`].
    pub list: Vec<u8>,
}

impl ContentBuf {
    /// Returns the borrowed form.
    pub fn borrowed(&self) -> Content<'_> {
        Content { depth: self.depth, list: &self.list }
    }
}
