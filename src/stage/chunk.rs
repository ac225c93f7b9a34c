//! Stage 2: file bytes → chunks. Pure: reads nothing but its arguments.

use fastcdc::v2020::{MASKS, Normalization, select_masks};
use memchr::{memchr, memchr_iter};

use crate::base::limits::{CHUNK_AVG_RANGE, CHUNK_BYTES_AVG};

/// Longest message header that is looked for, in bytes. A longer one is cut like any bytes.
pub const HEADER_BYTES_MAX: usize = 64 << 10;

/// How long chunks are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSizes {
    /// Average that the cut aims at; a power of two.
    pub avg: u32,
}

impl ChunkSizes {
    /// Sizes around an average of `avg` bytes: a power of two in [`CHUNK_AVG_RANGE`]; none for others.
    pub fn around(avg: u32) -> Option<Self> {
        (avg.is_power_of_two() && CHUNK_AVG_RANGE.contains(&avg)).then_some(Self { avg })
    }

    /// Shortest chunk, in bytes, except the last of a file or of a message's header: a quarter of the average.
    pub fn min(self) -> usize {
        self.avg as usize / 4
    }

    /// Longest chunk, in bytes: 8 × the average.
    pub fn max(self) -> usize {
        self.avg as usize * 8
    }
}

impl Default for ChunkSizes {
    fn default() -> Self {
        Self { avg: CHUNK_BYTES_AVG }
    }
}

/// Cuts bytes where their content says so.
///
/// Source: FastCDC, Xia et al., USENIX ATC 2016 and IEEE TPDS 2020 (normalised chunking level 1,
/// two bytes a step), as in crate `fastcdc` 5.0.0, module `v2020`. The gear table is drawn from the
/// repository's secret, so that chunk lengths tell nothing of the content (eprint 2025/532).
pub struct Chunker {
    sizes: ChunkSizes,
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
    mask_short: u64,
    mask_long: u64,
}

impl Chunker {
    /// Makes a chunker whose cuts depend on `gear_key`. O(1).
    pub fn new(sizes: ChunkSizes, gear_key: &[u8; 32]) -> Self {
        let mut gear = Box::new([0; 256]);
        let mut stream = blake3::Hasher::new_keyed(gear_key).finalize_xof();
        for value in gear.iter_mut() {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            *value = u64::from_le_bytes(bytes);
        }
        let gear_shifted = Box::new(gear.map(|value| value << 1));
        let (mask_short, mask_long) = select_masks(sizes.avg as usize, Normalization::Level1);
        debug_assert!(MASKS.contains(&mask_short) && MASKS.contains(&mask_long));
        Self { sizes, gear, gear_shifted, mask_short, mask_long }
    }

    /// Returns the sizes this chunker keeps to.
    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }

    /// Returns the length in bytes of the chunk that starts `rest`; 0 only if `rest` is empty.
    ///
    /// `rest` is the unread tail of one file: at least [`ChunkSizes::max`] bytes of it, or all of it.
    /// The cut depends on those bytes and the key alone. Cannot fail. O(length), no allocation.
    pub fn cut(&self, rest: &[u8]) -> usize {
        if rest.len() <= self.sizes.min() {
            return rest.len();
        }
        let (_, length) = fastcdc::v2020::cut_gear(
            rest,
            self.sizes.min(),
            self.sizes.avg as usize,
            self.sizes.max(),
            self.mask_short,
            self.mask_long,
            self.mask_short << 1,
            self.mask_long << 1,
            self.gear.as_slice(),
            self.gear_shifted.as_slice(),
        );
        length
    }

    /// Returns the length of the chunk that starts `rest`, which is made of records: the record in which
    /// [`Self::cut`] would end it is still in it. If the chunk grew longer than [`ChunkSizes::max`], it ends with the
    /// last record that fits; if none does, where [`Self::cut`] says.
    ///
    /// `ends` takes a length, and returns where the last record up to there ends, 0 for none, and where the
    /// first one from there on ends. As [`Self::cut`].
    pub fn cut_records(&self, rest: &[u8], ends: impl Fn(usize) -> (usize, usize)) -> usize {
        let length = self.cut(rest);
        match ends(length) {
            (_, end) if end <= self.sizes.max() => end,
            _ => match ends(self.sizes.max()) {
                (0, _) => length,
                (end, _) => end,
            },
        }
    }
}

/// Returns the length in bytes of the header of the message that starts with `start`, blank line
/// included; 0 if it is no message.
///
/// `start` is the first [`HEADER_BYTES_MAX`] bytes of a file, or all of it. A message begins with
/// header fields (RFC 5322, section 2.2), maybe after one mbox "From " line. O(header), no allocation.
pub fn header_bytes(start: &[u8]) -> usize {
    let start = &start[..start.len().min(HEADER_BYTES_MAX)];
    let mut at = 0;
    for end in memchr_iter(b'\n', start) {
        let line = &start[at..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let next = end + 1;
        if line.is_empty() {
            return if at == 0 { 0 } else { next };
        }
        let is_folded = at > 0 && matches!(line[0], b' ' | b'\t');
        let is_mbox = at == 0 && line.starts_with(b"From ");
        if !(is_folded || is_mbox || is_field(line)) {
            return 0;
        }
        at = next;
    }
    0
}

/// Returns whether a line is `name:` and anything.
fn is_field(line: &[u8]) -> bool {
    let name = memchr(b':', line).map(|colon| &line[..colon]);
    name.is_some_and(|name| !name.is_empty() && name.iter().all(|byte| matches!(byte, 33..=126)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cuts(chunker: &Chunker, bytes: &[u8]) -> Vec<usize> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let length = chunker.cut(&bytes[at..]);
            out.push(length);
            at += length;
        }
        out
    }

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        stream.fill(&mut bytes);
        bytes
    }

    /// The cuts are part of the format: a dependency that changes them breaks deduplication.
    #[test]
    fn cut_points_are_the_golden_ones() {
        let chunker = Chunker::new(ChunkSizes::default(), &[7; 32]);
        let lengths = cuts(&chunker, &noise(1, 200_000));
        assert_eq!(lengths, GOLDEN_CUTS);
    }

    const GOLDEN_CUTS: &[usize] = &[
        9922, 14081, 11130, 10434, 8226, 4404, 6057, 8803, 8742, 8451, 13426, 6442, 12716, 7375, 10502, 5309,
        8229, 14571, 6154, 15974, 8472, 580,
    ];

    #[test]
    fn another_key_cuts_elsewhere() {
        let bytes = noise(1, 200_000);
        let one = cuts(&Chunker::new(ChunkSizes::default(), &[7; 32]), &bytes);
        let other = cuts(&Chunker::new(ChunkSizes::default(), &[8; 32]), &bytes);
        assert_ne!(one, other);
    }

    #[test]
    fn an_insertion_moves_few_cuts() {
        let chunker = Chunker::new(ChunkSizes::default(), &[7; 32]);
        let bytes = noise(2, 1 << 20);
        let mut changed = bytes.clone();
        changed.splice(500_000..500_000, *b"inserted");
        let ends = |lengths: Vec<usize>, total: usize| -> std::collections::HashSet<usize> {
            let mut at = 0;
            lengths
                .iter()
                .map(|length| {
                    at += length;
                    total - at
                })
                .collect()
        };
        let (old, new) =
            (ends(cuts(&chunker, &bytes), bytes.len()), ends(cuts(&chunker, &changed), changed.len()));
        assert!(old.intersection(&new).count() + 70 > old.len(), "cuts after the change stay");
        assert!(old.len() > 100);
    }

    #[test]
    fn a_header_ends_after_its_blank_line() {
        assert_eq!(header_bytes(b"From: a\nTo: b\n\nbody"), 15);
        assert_eq!(header_bytes(b"From: a\r\nSubject: x\r\n y\r\n\r\nbody"), 27);
        assert_eq!(header_bytes(b"From me Mon Jan  1\nTo: b\n\n"), 26);
        assert_eq!(header_bytes(b"\nbody"), 0);
        assert_eq!(header_bytes(b"plain text\n\nmore"), 0);
        assert_eq!(header_bytes(b"-- SQL dump: x\n\n"), 0);
        assert_eq!(header_bytes(b"From: a\nno end"), 0);
        assert_eq!(header_bytes(b""), 0);
    }

    proptest! {
        #[test]
        fn chunks_cover_all_bytes_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..300_000), avg in 10u32..16) {
            let sizes = ChunkSizes::around(1 << avg).unwrap();
            let lengths = cuts(&Chunker::new(sizes, &[1; 32]), &bytes);
            prop_assert_eq!(lengths.iter().sum::<usize>(), bytes.len());
            let all_but_last = &lengths[..lengths.len().saturating_sub(1)];
            prop_assert!(all_but_last.iter().all(|&length| length >= sizes.min()));
            prop_assert!(lengths.iter().all(|&length| length > 0 && length <= sizes.max()));
        }

        #[test]
        fn records_stay_whole(
            lengths in prop::collection::vec(prop_oneof![20 => 1usize..300, 1 => 1usize..20_000], 1..400),
            is_even in any::<bool>(),
        ) {
            let sizes = ChunkSizes::around(1 << 10).unwrap();
            let chunker = Chunker::new(sizes, &[1; 32]);
            let ends: Vec<usize> = lengths.iter().scan(0, |end, length| { *end += length; Some(*end) }).collect();
            let total = ends[ends.len() - 1];
            let bytes = if is_even { vec![7; total] } else { noise(3, total) };
            let mut at = 0;
            while at < bytes.len() {
                let around = |length| {
                    let before = ends[..ends.partition_point(|end| *end <= at + length)].last();
                    let after = ends.get(ends.partition_point(|end| *end < at + length));
                    (before.map_or(0, |end| end.saturating_sub(at)), after.map_or(total, |end| *end) - at)
                };
                let length = chunker.cut_records(&bytes[at..], around);
                prop_assert!(length > 0 && length <= sizes.max());
                let is_end = ends.contains(&(at + length));
                let next = ends[ends.partition_point(|end| *end <= at)];
                prop_assert!(is_end || next - at > sizes.max(), "cut inside a record that would fit");
                at += length;
            }
        }

        #[test]
        fn a_header_lies_inside_its_file(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            prop_assert!(header_bytes(&bytes) <= bytes.len());
        }
    }
}
