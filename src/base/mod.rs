//! Words that all floors share: no I/O, no clock, no randomness.

pub mod condemned;
pub mod content;
pub mod directory;
pub mod entry;
pub mod id;
pub mod kind;
pub mod layout;
pub mod limits;
pub mod progress;
pub mod redact;
pub mod time;
pub mod units;
pub mod wire;
