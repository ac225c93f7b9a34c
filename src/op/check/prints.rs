//! Chunk references → how many packs should hold each, in 9 bytes a chunk.
//!
//! An id is a keyed hash, so 64 bits of it, mixed with the length, tell chunks apart: that a chunk
//! which is gone is taken for one that is there happens once in 2^64 / chunks.

use crate::base::content::ChunkRef;

/// Entries that a bucket aims at.
const BUCKET_ENTRIES: usize = 8;

/// Gathers prints.
#[derive(Default)]
pub struct PrintsBuilder(Vec<u64>);

impl PrintsBuilder {
    /// Makes a builder with room for `chunks`, if there is memory for that many.
    pub fn with_room(chunks: usize) -> Self {
        let mut prints = Vec::new();
        let _ = prints.try_reserve_exact(chunks); // a guess: a hostile one must not end the program
        Self(prints)
    }

    /// Adds one copy of a chunk.
    pub fn push(&mut self, chunk: ChunkRef) {
        self.0.push(print(chunk));
    }

    /// Sorts. O(chunks log chunks).
    pub fn build(self) -> Prints {
        let mut sorted = self.0;
        sorted.sort_unstable();
        let bits = (sorted.len() / BUCKET_ENTRIES).max(1).ilog2();
        let mut starts = vec![0; (1 << bits) + 1];
        for print in &sorted {
            starts[bucket(*print, bits) + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        Prints { sorted, starts, bits }
    }
}

/// All copies of all chunks that packs should hold.
pub struct Prints {
    sorted: Vec<u64>,
    /// Where each bucket starts in `sorted`; one more at the end.
    starts: Vec<usize>,
    bits: u32,
}

impl Prints {
    /// Returns how many packs should hold the chunk, with that length. O(1), about 0.1 µs.
    pub fn copies(&self, chunk: ChunkRef) -> u32 {
        let print = print(chunk);
        let at = bucket(print, self.bits);
        let bucket = &self.sorted[self.starts[at]..self.starts[at + 1]];
        let first = bucket.partition_point(|other| *other < print);
        let count = bucket[first..].partition_point(|other| *other == print);
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

fn print(chunk: ChunkRef) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&chunk.id.as_bytes()[..8]);
    u64::from_be_bytes(first) ^ u64::from(chunk.bytes).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Returns the bucket of a print: its first `bits` bits.
fn bucket(print: u64, bits: u32) -> usize {
    let first = print.checked_shr(64 - bits).unwrap_or(0);
    usize::try_from(first).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ChunkId;

    fn chunk(number: u32) -> ChunkRef {
        let hash = blake3::hash(&number.to_le_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        ChunkRef { id: ChunkId::from_bytes(id), bytes: number + 1 }
    }

    #[test]
    fn copies_are_counted_whatever_the_number_of_chunks() {
        for total in [0, 1, 7, 8, 100, 5000] {
            let mut builder = PrintsBuilder::with_room(0);
            for number in 0..total {
                (0..1 + number % 3).for_each(|_| builder.push(chunk(number)));
            }
            let prints = builder.build();
            for number in 0..total {
                assert_eq!(prints.copies(chunk(number)), 1 + number % 3);
                let longer = ChunkRef { bytes: number + 2, ..chunk(number) };
                assert_eq!(prints.copies(longer), 0, "another length");
            }
            assert_eq!(prints.copies(chunk(total)), 0);
        }
    }

    #[test]
    fn chosen_ids_are_slow_to_no_one() {
        let mut builder = PrintsBuilder::default();
        for number in 0..10_000u32 {
            let mut id = [0; 16];
            id[4..8].copy_from_slice(&number.to_be_bytes());
            builder.push(ChunkRef { id: ChunkId::from_bytes(id), bytes: 1 });
        }
        let prints = builder.build();
        let one = ChunkRef { id: ChunkId::from_bytes([0; 16]), bytes: 1 };
        assert_eq!(prints.copies(one), 1);
    }
}
