//! The steps a byte takes, in order. Backup reads down this list, restore reads up.
//!
//! A stage imports `base` alone, so each can be read, tested, and fuzzed by itself.

/// 1. directory → names and metadata, as they were at one moment.
pub mod scan;

/// 1. command → the bytes that it writes, for sources that are no files.
pub mod command;

/// 1. standard input → its bytes, for one stream that is no file.
pub mod stdin;

/// 2. file bytes → chunks (FastCDC under a keyed gear table, a message cut after its header).
pub mod chunk;

/// 3. chunk → [`ChunkId`](crate::base::id::ChunkId) (keyed BLAKE3).
pub mod hash;

/// 4. id → whether this run must store the chunk.
pub mod dedup;

/// 5. chunks that lie side by side → frame, compressed; and back.
pub mod frame;

/// 6. plain bytes → sealed bytes (AES-256-GCM); and back.
pub mod seal;

/// 7. frames → the bytes of a pack file; and back.
pub mod pack;

/// 8. packs' directories → fragments, and the redb cache that finds a chunk.
pub mod index;

/// 9. entries of a directory → tree stream; and back.
pub mod tree;

/// 10. what a run did → manifest; and back.
pub mod snapshot;

/// Names and headers of messages → what they say, for whoever asks about messages and not files.
pub mod message;
