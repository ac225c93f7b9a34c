//! Words that all floors share: no I/O, no clock, no randomness.

pub mod access_list;
pub mod condemned;
pub mod content;
pub mod directory;
pub mod entry;
pub mod forgotten;
pub mod id;
pub mod kind;
pub mod layout;
pub mod limits;
pub mod patterns;
pub mod progress;
pub mod redact;
pub mod scrub;
pub mod text;
pub mod threads;
pub mod time;
pub mod units;
pub mod wire;
