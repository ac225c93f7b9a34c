//! Stage 3: chunk → its name. Pure.

use crate::base::content::Content;
use crate::base::id::ChunkId;

/// Names chunks under the repository's key, so that a name tells nothing of the content to whom
/// has no key.
pub struct ChunkNamer {
    key: [u8; 32],
}

impl ChunkNamer {
    /// Makes a namer under `key`.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// Returns the name of `chunk`, its plain bytes. Cannot fail. O(length).
    ///
    /// Source: BLAKE3, keyed mode, first 16 bytes of the output.
    pub fn name(&self, chunk: &[u8]) -> ChunkId {
        let hash = blake3::keyed_hash(&self.key, chunk);
        let mut id = [0; ChunkId::BYTES];
        id.copy_from_slice(&hash.as_bytes()[..ChunkId::BYTES]);
        ChunkId::from_bytes(id)
    }
}

/// Returns a short name for what a reference to a tree or to a list leads to, to remember that it was met.
///
/// Source: BLAKE3, first 16 bytes of the output.
pub fn digest(content: Content<'_>, is_tree: bool) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[content.depth, u8::from(is_tree)]).update(content.list);
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_depends_on_the_key_and_the_bytes() {
        let namer = ChunkNamer::new([1; 32]);
        assert_eq!(namer.name(b"a"), namer.name(b"a"));
        assert_ne!(namer.name(b"a"), namer.name(b"b"));
        assert_ne!(namer.name(b"a"), ChunkNamer::new([2; 32]).name(b"a"));
    }

    #[test]
    fn a_name_is_the_start_of_keyed_blake3() {
        let whole = blake3::keyed_hash(&[1; 32], b"a");
        assert_eq!(ChunkNamer::new([1; 32]).name(b"a").as_bytes(), &whole.as_bytes()[..16]);
    }
}
