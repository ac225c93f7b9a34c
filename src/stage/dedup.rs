//! Stage 4: id → whether this run must store the chunk.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, PoisonError};

use crate::base::id::ChunkId;

/// Hashes a chunk id by its first 8 bytes: it is a keyed hash already.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {} // the length of a fixed-size id
}

/// Builds [`IdHasher`]s.
pub type IdHash = BuildHasherDefault<IdHasher>;

/// How many locks share the claims.
const SHARDS: usize = 64;

/// Fewest ids that are put in order together.
const RECENT_MIN: usize = 512;

/// The chunks that this run has taken on. Shared by all threads. 16 to 20 bytes a chunk, in large pieces:
/// a hash table alone would take up to 39.
pub struct Claims {
    shards: Vec<Mutex<Shard>>,
}

/// The claimed ids of which one byte is the same, modulo [`SHARDS`].
#[derive(Default)]
struct Shard {
    sorted: Vec<ChunkId>,
    /// Those that came last: an eighth of all at most, or [`RECENT_MIN`].
    recent: HashSet<ChunkId, IdHash>,
}

impl Shard {
    fn claim(&mut self, id: ChunkId) -> bool {
        let is_first = self.sorted.binary_search(&id).is_err() && self.recent.insert(id);
        if self.recent.len() >= RECENT_MIN.max(self.sorted.len() / 8) {
            self.sorted.reserve_exact(self.recent.len());
            self.sorted.extend(self.recent.drain());
            self.sorted.sort(); // two runs, the first in order: merged
        }
        is_first
    }
}

impl Default for Claims {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Claims {
    /// Claims a chunk. Returns whether the caller is the first, and so must store it. O(log n), and now and
    /// then O(n / 64).
    pub fn claim(&self, id: ChunkId) -> bool {
        let shard = usize::from(id.as_bytes()[15]) % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner).claim(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_claimants_one_is_first() {
        let claims = Claims::default();
        let firsts = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..100_000u32 {
                        let mut id = [0; 16];
                        id[..4].copy_from_slice(&n.to_le_bytes());
                        id[12..].copy_from_slice(&n.to_le_bytes());
                        let first = claims.claim(ChunkId::from_bytes(id));
                        firsts.fetch_add(u32::from(first), std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(firsts.into_inner(), 100_000);
    }
}
