//! A pack's table → the pieces in which it is read.

use std::ops::Range;

use crate::base::content::REF_BYTES;
use crate::base::directory::FrameRow;
use crate::base::layout::FRAME_HEADER_BYTES;
use crate::base::limits::FRAME_BYTES_CAP;
use crate::stage::index::FrameSpan;

/// Bytes read at a time, at least; a longer frame is read whole.
pub const PIECE_BYTES: u64 = 4 << 20;

/// Longest frame that is read, in bytes: what [`FrameHeader`](crate::stage::frame::FrameHeader) allows.
const FRAME_STORED_MAX: u64 = FRAME_BYTES_CAP as u64 + 1024 + FRAME_HEADER_BYTES as u64;

/// Which references belong to each frame, frame by frame.
pub struct ChunkRanges {
    counts: std::vec::IntoIter<u32>,
    at: usize,
}

impl ChunkRanges {
    /// Begins at the first of `rows`.
    pub fn new(rows: &[FrameRow]) -> Self {
        let counts: Vec<u32> = rows.iter().map(|row| row.chunk_count).collect();
        Self { counts: counts.into_iter(), at: 0 }
    }

    /// Returns which bytes of the pack's references are the next frame's.
    pub fn next_frame(&mut self) -> Range<usize> {
        let start = self.at;
        let count = self.counts.next().unwrap_or(0) as usize;
        self.at = start.saturating_add(count.saturating_mul(REF_BYTES));
        start..self.at
    }
}

/// Bytes of a pack that are read together: a frame, or what lies between frames.
pub struct Unit {
    /// Where they lie.
    pub range: Range<u64>,
    /// The frame that they are.
    pub frame: Option<FrameSpan>,
}

/// Cuts a pack into units that follow one another from its first byte to its last.
pub struct Units<'f> {
    frames: std::slice::Iter<'f, FrameSpan>,
    next: Option<FrameSpan>,
    at: u64,
    end: u64,
}

impl<'f> Units<'f> {
    /// Cuts a pack of `end` bytes. `frames` ascend and lie apart; those beyond the end are left out.
    pub fn new(frames: &'f [FrameSpan], end: u64) -> Self {
        let mut frames = frames.iter();
        Self { next: frames.next().copied(), frames, at: 0, end }
    }
}

impl Iterator for Units<'_> {
    type Item = Unit;

    fn next(&mut self) -> Option<Unit> {
        let start = self.at;
        if start >= self.end {
            return None;
        }
        let (mut end, mut frame) = (self.end, None);
        if let Some(span) = self.next {
            let (offset, frame_end) =
                (u64::from(span.offset), u64::from(span.offset) + u64::from(span.bytes));
            if frame_end <= self.end && offset > start {
                end = offset;
            } else if frame_end <= self.end {
                end = frame_end;
                frame = Some(span);
                self.next = self.frames.next().copied();
            }
        }
        if frame.is_none() || end - start > FRAME_STORED_MAX {
            end = end.min(start + PIECE_BYTES);
        }
        self.at = end;
        Some(Unit { range: start..end, frame })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_too_long_to_be_one_is_not_read_whole() {
        let frames =
            [FrameSpan { offset: 10, bytes: 900 << 20 }, FrameSpan { offset: 1000 << 20, bytes: 50 }];
        let units: Vec<Unit> = Units::new(&frames, 1001 << 20).collect();
        assert!(units.iter().all(|unit| unit.range.end - unit.range.start <= PIECE_BYTES));
        assert_eq!(units.iter().filter(|unit| unit.frame.is_some()).count(), 2);
    }

    proptest! {
        #[test]
        fn units_cover_a_pack_once(
            lengths in prop::collection::vec((0u32..100, 1u32..6 << 20), 0..20),
            end in 0u64..80 << 20,
        ) {
            let mut frames = Vec::new();
            let mut at = 0;
            for (gap, bytes) in lengths {
                frames.push(FrameSpan { offset: at + gap, bytes });
                at += gap + bytes;
            }
            let mut next = 0;
            let mut met = Vec::new();
            for unit in Units::new(&frames, end) {
                prop_assert_eq!(unit.range.start, next);
                prop_assert!(unit.range.end > unit.range.start);
                next = unit.range.end;
                met.extend(unit.frame);
            }
            prop_assert_eq!(next, end);
            let inside = |span: &&FrameSpan| u64::from(span.offset) + u64::from(span.bytes) <= end;
            let expected: Vec<FrameSpan> = frames.iter().take_while(inside).copied().collect();
            prop_assert_eq!(met, expected);
        }
    }
}
