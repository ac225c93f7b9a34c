//! A file's chunks as they are noted: each with where it goes, so that one can be read without those before it.

use crate::base::content::{ChunkRef, REF_BYTES, refs};

/// Length of a chunk as it is noted, in bytes: its reference, then where it goes as u64 little-endian.
pub const PLACED_BYTES: usize = REF_BYTES + 8;

/// Appends the chunks of a list.
pub fn push_placed(list: &[u8], out: &mut Vec<u8>) {
    for (chunk, at) in in_order(list) {
        out.extend_from_slice(&chunk.to_bytes());
        out.extend_from_slice(&at.to_le_bytes());
    }
}

/// Returns the chunks of a list, each with where it goes.
pub fn in_order(list: &[u8]) -> impl Iterator<Item = (ChunkRef, u64)> + '_ {
    let mut next = 0u64;
    refs(list).map(move |chunk| {
        let at = next;
        next += u64::from(chunk.bytes);
        (chunk, at)
    })
}

/// Reads chunks that were appended: each with where it goes, in bytes from the start of the file's data,
/// holes left out.
pub fn placed(bytes: &[u8]) -> impl Iterator<Item = (ChunkRef, u64)> + '_ {
    bytes.chunks_exact(PLACED_BYTES).filter_map(|bytes| {
        let (chunk, at) = bytes.split_at_checked(REF_BYTES)?;
        Some((refs(chunk).next()?, u64::from_le_bytes(*at.first_chunk::<8>()?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ChunkId;

    #[test]
    fn each_chunk_goes_behind_those_before_it() {
        let chunks = [3, 1_000_000, 1].map(|bytes| ChunkRef { id: ChunkId::from_bytes([7; 16]), bytes });
        let list: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.to_bytes()).collect();
        let mut out = Vec::new();
        push_placed(&list, &mut out);
        let found: Vec<_> = placed(&out).collect();
        assert_eq!(found, [(chunks[0], 0), (chunks[1], 3), (chunks[2], 1_000_003)]);
    }
}
