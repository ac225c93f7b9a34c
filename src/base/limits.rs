//! Bounds on sizes and counts, each with its unit and its reason.

/// Version that this program writes into every envelope, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

/// Average chunk length, in bytes, unless `init --chunk-avg` says otherwise.
pub const CHUNK_BYTES_AVG: u32 = 8 << 10;

/// Smallest and largest average that `init --chunk-avg` takes, in bytes.
pub const CHUNK_AVG_RANGE: std::ops::RangeInclusive<u32> = (1 << 10)..=(1 << 20);

/// Average chunk length of trees and of lists of chunks, in bytes: what one changed record costs.
pub const TREE_CHUNK_BYTES_AVG: u32 = 2 << 10;

/// Longest chunk any repository may hold, in bytes: 8 × the largest average.
pub const CHUNK_BYTES_CAP: usize = 8 << 20;

/// Raw bytes gathered in one frame, unless the repository's configuration says otherwise.
pub const FRAME_BYTES: u32 = 1 << 20;

/// Longest frame that is read, raw, in bytes. A reader never allocates more for one frame.
pub const FRAME_BYTES_CAP: u32 = 32 << 20;

/// Most chunks in one frame: a frame's table of chunks stays small whatever the chunks' lengths.
pub const FRAME_CHUNKS_MAX: usize = 16_384;

/// Size at which a pack is closed, in bytes, unless the repository's configuration says otherwise.
pub const PACK_BYTES: u32 = 64 << 20;

/// Largest pack that is read, in bytes; frame offsets fit 32 bits.
pub const PACK_BYTES_CAP: u64 = 1 << 30;

/// Most frames in one pack; a frame's number fits 16 bits.
pub const PACK_FRAMES_MAX: usize = 60_000;

/// Largest record (fragment, manifest, pack directory, key file) that is read, in bytes, expanded.
pub const RECORD_BYTES_CAP: usize = 512 << 20;

/// Largest manifest that is read, in bytes, expanded: a thousand rows of what is lacking, each of the longest path, are a
/// tenth of it.
pub const MANIFEST_BYTES_CAP: usize = 64 << 20;

/// Most chunks listed in one fragment: about 2.5 MB, so that a fragment is built in little memory.
pub const FRAGMENT_CHUNKS_MAX: usize = 125_000;

/// Longest name of a directory entry that is stored or restored, in bytes (Linux `NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// Longest symbolic link target, in bytes (Linux `PATH_MAX`).
pub const TARGET_BYTES_MAX: usize = 4096;

/// Longest list of chunks that a tree entry holds itself; longer lists are chunked in turn.
pub const INLINE_CHUNKS_MAX: usize = 64;

/// Deepest nesting of chunk lists. Three levels reach beyond any file Linux can hold.
pub const LIST_DEPTH_MAX: u8 = 6;

/// Deepest directory nesting that is walked. Deeper trees are reported and left out.
pub const TREE_DEPTH_MAX: u32 = 4096;

/// Most rows of errors that a manifest carries; the report has them all.
pub const MANIFEST_ERRORS_MAX: usize = 1000;
