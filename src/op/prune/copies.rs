//! Every copy of every chunk, in 12 bytes each: half of its id, and its number.
//!
//! An id is a keyed hash, so its first half tells chunks apart until two are alike; of these the second
//! halves are kept as well.

use std::collections::{BTreeSet, HashMap};

use crate::base::id::ChunkId;
use crate::repo::RepoError;

/// A copy: the first half of the id, and its number. In halves, so that it takes 12 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    high: u32,
    low: u32,
    number: u32,
}

impl Row {
    fn new(id: &ChunkId, number: u32) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *id.as_bytes();
        Self { high: u32::from_be_bytes([a, b, c, d]), low: u32::from_be_bytes([e, f, g, h]), number }
    }

    fn half(self) -> (u32, u32) {
        (self.high, self.low)
    }
}

/// The copies, numbered in the order in which they were added.
#[derive(Default)]
pub struct Copies {
    rows: Vec<Row>,
    /// Where the rows whose ids start with the same bits begin.
    starts: Vec<u32>,
    bits: u32,
    /// Second halves of the ids whose first half occurs more than once.
    twins: HashMap<u32, [u8; 8]>,
}

impl Copies {
    /// Makes room for `count` copies, if there is memory for that many.
    pub fn with_room(count: usize) -> Self {
        let mut rows = Vec::new();
        let _ = rows.try_reserve_exact(count); // a guess: a hostile one must not end the program
        Self { rows, ..Self::default() }
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns the number of the next copy.
    ///
    /// # Errors
    /// [`RepoError::Refused`] after 2^32 copies.
    pub fn next_number(&self) -> Result<u32, RepoError> {
        let refused = |_| RepoError::Refused {
            what: "the repository holds more than 4,294,967,295 chunks; this version cannot prune it"
                .to_owned(),
        };
        u32::try_from(self.rows.len()).map_err(refused)
    }

    /// Adds a copy.
    ///
    /// # Errors
    /// As [`Self::next_number`].
    pub fn push(&mut self, id: &ChunkId) -> Result<(), RepoError> {
        let number = self.next_number()?;
        self.rows.push(Row::new(id, number));
        Ok(())
    }

    /// Sorts, in place; returns the numbers of those whose first half is not theirs alone. What they
    /// are is to be told by [`Self::tell_apart`] before anything is looked up.
    pub fn sort(&mut self) -> BTreeSet<u32> {
        self.rows.sort_unstable();
        self.bits = (self.rows.len() / 8).max(1).ilog2().min(24);
        self.starts = vec![0; (1 << self.bits) + 1];
        for row in &self.rows {
            self.starts[bucket(*row, self.bits) + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut self.starts {
            sum += *start;
            *start = sum;
        }
        let pairs = self.rows.windows(2).filter(|pair| pair[0].half() == pair[1].half());
        pairs.flat_map(|pair| [pair[0].number, pair[1].number]).collect()
    }

    /// Says which ids the copies have whose first half is not theirs alone.
    pub fn tell_apart(&mut self, number: u32, id: &ChunkId) {
        self.twins.insert(number, second_half(id));
    }

    /// Returns the numbers of a chunk's copies. One that is the only one with its first half is taken for
    /// the chunk's: if it is another's, that one is kept in vain. 0.2 µs.
    pub fn numbers(&self, id: &ChunkId) -> impl Iterator<Item = u32> {
        let wanted = Row::new(id, 0);
        let at = bucket(wanted, self.bits);
        let bucket = match (self.starts.get(at), self.starts.get(at + 1)) {
            (Some(start), Some(end)) => &self.rows[*start as usize..*end as usize],
            _ => &[],
        };
        let alike = &bucket[bucket.partition_point(|row| row.half() < wanted.half())..];
        let alike = &alike[..alike.partition_point(|row| row.half() == wanted.half())];
        let (half, is_alone) = (second_half(id), alike.len() == 1);
        let same = alike.iter().filter(move |row| is_alone || self.twins.get(&row.number) == Some(&half));
        same.map(|row| row.number)
    }
}

fn second_half(id: &ChunkId) -> [u8; 8] {
    let mut half = [0; 8];
    half.copy_from_slice(&id.as_bytes()[8..]);
    half
}

/// Returns the bucket of a row: the first `bits` bits of its id.
fn bucket(row: Row, bits: u32) -> usize {
    row.high.checked_shr(32 - bits).unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(first: u64, second: u64) -> ChunkId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&first.to_be_bytes());
        id[8..].copy_from_slice(&second.to_be_bytes());
        ChunkId::from_bytes(id)
    }

    fn copies(ids: &[ChunkId]) -> Copies {
        let mut copies = Copies::default();
        ids.iter().for_each(|id| copies.push(id).unwrap());
        for number in copies.sort() {
            copies.tell_apart(number, &ids[number as usize]);
        }
        copies
    }

    #[test]
    fn chunks_whose_ids_begin_alike_are_not_taken_for_one() {
        let ids = [id(7, 1), id(7, 2), id(7, 1), id(8, 1)];
        let copies = copies(&ids);
        let numbers = |id: ChunkId| copies.numbers(&id).collect::<Vec<_>>();
        assert_eq!(numbers(id(7, 1)), [0, 2]);
        assert_eq!(numbers(id(7, 2)), [1]);
        assert_eq!(numbers(id(8, 1)), [3]);
        assert_eq!(numbers(id(7, 3)), [0; 0]);
        assert_eq!(numbers(id(9, 1)), [0; 0]);
    }

    #[test]
    fn every_copy_among_many_is_found() {
        let hashed = |n: u64| {
            let hash = blake3::hash(&n.to_le_bytes());
            let mut id = [0; 16];
            id.copy_from_slice(&hash.as_bytes()[..16]);
            ChunkId::from_bytes(id)
        };
        let ids: Vec<ChunkId> = (0..5000).map(|n| hashed(n % 3000)).collect();
        let copies = copies(&ids);
        for n in 0..3000u64 {
            let expected: Vec<u32> =
                [n, n + 3000].into_iter().filter(|n| *n < 5000).map(|n| n as u32).collect();
            assert_eq!(copies.numbers(&hashed(n)).collect::<Vec<_>>(), expected);
        }
        assert_eq!(copies.numbers(&hashed(9999)).count(), 0);
        assert_eq!(Copies::default().numbers(&hashed(1)).count(), 0);
    }
}
