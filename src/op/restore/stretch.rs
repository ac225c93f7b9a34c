//! Which frames are read at one stroke: neighbours in a pack, so that a store far away is asked seldom
//! and a disk seeks little.

use std::ops::Range;

use crate::op::restore::needs::{Frames, Need};
use crate::stage::index::PackRow;
use crate::store::{Name, Store};

/// Bytes between two frames that are read and not needed, rather than ask the store twice.
const GAP_BYTES_MAX: u64 = 256 << 10;

/// Bytes read at one stroke, at most: enough that a request's delay hardly counts, and that threads share the work.
const READ_BYTES_MAX: u64 = 2 << 20;

/// Joins needs of neighbouring frames of a pack, in order, so that they are read at one stroke.
pub fn stretches<'n>(
    places: &Frames<'_>,
    frames: &'n [&'n [Need]],
) -> impl Iterator<Item = &'n [&'n [Need]]> {
    let mut read_bytes = 0;
    frames.chunk_by(move |a, b| {
        let spans = a.first().zip(b.first()).map(|(a, b)| (places.span(a), places.span(b)));
        let Some((Some((one, before)), Some((other, after)))) = spans else { return false };
        let end = u64::from(before.offset) + u64::from(before.bytes);
        let gap = u64::from(after.offset).checked_sub(end).filter(|gap| *gap <= GAP_BYTES_MAX);
        let more = gap.map(|gap| gap + u64::from(after.bytes)).filter(|_| one.id == other.id);
        read_bytes = read_bytes.max(u64::from(before.bytes)); // the first of a stretch
        let joined = more.map(|more| read_bytes + more).filter(|joined| *joined <= READ_BYTES_MAX);
        read_bytes = joined.unwrap_or(0);
        joined.is_some()
    })
}

/// Reads a stretch, from its first frame to its last. None if the index does not know it; no bytes if they
/// can't be had in one read: some of its frames may be there.
pub fn fetch(
    store: &dyn Store,
    places: &Frames<'_>,
    frames: &[&[Need]],
) -> Option<(Range<u64>, Option<Vec<u8>>)> {
    let (pack, range) = range(places, frames)?;
    let bytes = store.read_range(&Name::Pack(pack.id), range.clone());
    Some((range, bytes.ok()))
}

fn range<'r>(places: &Frames<'r>, frames: &[&[Need]]) -> Option<(&'r PackRow, Range<u64>)> {
    let (pack, first) = places.span(frames.first()?.first()?)?;
    let (_, last) = places.span(frames.last()?.first()?)?;
    Some((pack, u64::from(first.offset)..u64::from(last.offset) + u64::from(last.bytes)))
}

/// Returns the stored bytes of the frame that meets these needs, out of those of a stretch.
pub fn own<'b>(
    places: &Frames<'_>,
    needs: &[Need],
    range: &Range<u64>,
    bytes: &'b mut [u8],
) -> Option<&'b mut [u8]> {
    let (_, span) = places.span(needs.first()?)?;
    let start = usize::try_from(u64::from(span.offset).checked_sub(range.start)?).ok()?;
    bytes.get_mut(start..start.checked_add(span.bytes as usize)?)
}
