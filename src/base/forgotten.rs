//! What somebody has removed on purpose: which snapshots, when, where and by which rule.

use bincode::{Decode, Encode};

use crate::base::id::SnapshotId;
use crate::base::time::Time;

/// Snapshots that one run has removed, noted before they went.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Forgotten {
    /// When.
    pub time: Time,
    /// Name of the machine that did it.
    pub host: String,
    /// How many snapshots there were before.
    pub there: u64,
    /// The snapshots.
    pub rows: Vec<ForgottenRow>,
    /// Named facts for later versions; a reader keeps what it does not know.
    pub extra: Vec<(String, Vec<u8>)>,
}

/// A snapshot that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ForgottenRow {
    /// Name of its manifest.
    pub id: SnapshotId,
    /// Its time; none where the manifest could not be read.
    pub time: Option<Time>,
    /// The rule, in words.
    pub rule: String,
    /// Whether somebody has named it, and no rule.
    pub is_by_hand: bool,
    /// Whether another manifest has taken its place, so that nothing is gone with it.
    pub is_replaced: bool,
}

impl Forgotten {
    /// Returns about how many bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        let row = |row: &ForgottenRow| size_of::<ForgottenRow>() + row.rule.len();
        let fact = |(name, bytes): &(String, Vec<u8>)| 64 + name.len() + bytes.len();
        size_of::<Self>()
            + self.host.len()
            + self.rows.iter().map(row).sum::<usize>()
            + self.extra.iter().map(fact).sum::<usize>()
    }
}
