//! Joins store and stages: what a repository is, and who may do what with it.
//!
//! [`writer`] alone knows the order of durable writes (`docs/durability.md`).

pub mod browse;
pub mod config;
pub mod error;
pub mod index;
pub mod keys;
pub mod reader;
pub mod select;
pub mod writer;

mod open;
mod sealer;

pub use error::RepoError;
pub use open::{Opening, Repository, Snapshot, Snapshots};
