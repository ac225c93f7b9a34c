//! One verb each. Ops never call one another; each answers with a report.

pub mod backup;
pub mod cat;
pub mod check;
pub mod clone;
pub mod diff;
pub mod find;
pub mod heal;
pub mod history;
pub mod key;
pub mod list;
pub mod mail;
pub mod mount;
pub mod prune;
pub mod rebuild_index;
pub mod restore;
pub mod stats;
pub mod sync;
pub mod tag;
pub mod verify;
