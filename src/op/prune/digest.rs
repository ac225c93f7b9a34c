//! Short names for what was met, to keep many of them.

use crate::base::content::{ChunkRef, Content};
use crate::base::id::ChunkId;

/// Returns the first bytes of a chunk's name.
pub fn first_bytes(id: ChunkId) -> u32 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Returns a digest of a reference to a tree or a list.
pub fn digest(content: Content<'_>, is_tree: bool) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[content.depth, u8::from(is_tree)]).update(content.list);
    cut(&hasher)
}

/// Returns a digest of a chunk, the byte at which it is entered, and the chunk behind it.
pub fn joint(chunk: ChunkRef, entered: usize, next: Option<&ChunkRef>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&chunk.to_bytes()).update(&(entered as u64).to_le_bytes());
    if let Some(next) = next {
        hasher.update(&next.to_bytes());
    }
    cut(&hasher)
}

fn cut(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    digest
}
