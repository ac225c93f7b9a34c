//! A moment, as file systems and manifests store it.

use bincode::{Decode, Encode};

/// Seconds since 1970-01-01 00:00 UTC (negative before) and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Time {
    /// Whole seconds since the epoch, rounded down.
    pub seconds: i64,
    /// 0..1,000,000,000.
    pub nanos: u32,
}

impl Time {
    /// Returns the moment `nanos` nanoseconds after `seconds`; more than a second is cut to 999,999,999 ns.
    pub fn new(seconds: i64, nanos: u32) -> Self {
        Self { seconds, nanos: nanos.min(999_999_999) }
    }
}
