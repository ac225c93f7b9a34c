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

/// Frames of one pack whose chunks new snapshots do not refer to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClosedFrames {
    /// The pack.
    pub pack: PackId,
    /// Numbers of the frames, ascending.
    pub frames: Vec<u16>,
}
