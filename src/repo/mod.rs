//! Joins store and stages: what a repository is, and who may do what with it.
//!
//! [`writer`] alone knows the order of durable writes (`docs/durability.md`).

pub mod browse;
pub mod bucket_state;
pub mod claim;
pub mod condemned;
pub mod config;
pub mod error;
pub mod index;
pub mod keys;
pub mod listing;
pub mod lists;
pub mod reader;
pub mod recent;
pub mod recipients;
pub mod records;
pub mod repack;
pub mod room;
pub mod scope;
pub mod select;
pub mod staging;
pub mod stand_in;
pub mod sweep;
pub mod together;
pub mod whose;
pub mod writer;

mod buffers;
mod key_ring;
mod manifests;
mod open;
mod sealer;
mod state;
mod unlock;

pub use error::RepoError;
pub use manifests::{MANIFESTS_MEMORY_MAX, Snapshot, Snapshots};
pub use open::{Opening, Repository};
