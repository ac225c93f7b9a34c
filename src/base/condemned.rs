//! What prune has marked: packs that are to go, and frames that new snapshots keep away from.

use bincode::{Decode, Encode};

use crate::base::id::PackId;
use crate::base::time::Time;

/// What one prune has marked.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Condemned {
    /// When it was marked.
    pub time: Time,
    /// From when the packs may go, if no snapshot needs them then.
    pub due: Time,
    /// Packs that no snapshot needed.
    pub packs: Vec<PackId>,
    /// Frames that hold little of what is needed.
    pub closed: Vec<ClosedFrames>,
}

impl Condemned {
    /// Returns about how many bytes of memory it takes, and what is looked up in it.
    pub fn memory_bytes(&self) -> usize {
        const LOOKED_UP: usize = 64;
        let frames: usize = self.closed.iter().map(|row| row.frames.len()).sum();
        (self.packs.len() + self.closed.len() + frames).saturating_mul(LOOKED_UP)
    }
}

/// Frames of one pack whose chunks new snapshots do not refer to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClosedFrames {
    /// The pack.
    pub pack: PackId,
    /// Numbers of the frames, ascending.
    pub frames: Vec<u16>,
}
