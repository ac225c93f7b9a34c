//! Joins store and stages: what a repository is, and who may do what with it.
//!
//! [`writer`] alone knows the order of durable writes (`docs/durability.md`).

pub mod browse;
pub mod bucket_state;
pub mod claim;
pub mod condemned;
pub mod config;
pub mod error;
pub mod forgotten;
pub mod index;
pub mod keys;
pub mod listing;
pub mod lists;
pub mod reach;
pub mod reader;
pub mod recent;
pub mod recipients;
pub mod records;
mod remembered;
pub mod repack;
pub mod room;
pub mod scope;
pub mod select;
mod small;
pub mod staging;
pub mod stand_in;
pub mod sweep;
pub mod together;
pub mod whose;
pub mod writer;

mod buffers;
mod contest;
mod create;
mod identify;
mod key_ring;
mod manifests;
mod open;
mod sealer;
mod state;
mod unlock;

pub use error::RepoError;
pub use key_ring::{KEY_FILE_BYTES_MAX, read_side_by_side};
pub use manifests::{MANIFEST_FILE_BYTES_MAX, MANIFESTS_MEMORY_MAX, Snapshot, Snapshots, open_manifest};
pub use open::{Opening, Repository, read_named};

#[cfg(test)]
pub mod sample {
    //! Repositories for the tests of modules.

    use std::sync::Arc;

    use crate::base::time::Time;
    use crate::repo::config::{Choices, Encryption};
    use crate::repo::keys::NoSecrets;
    use crate::repo::{Opening, Repository};
    use crate::store::Store;

    /// Makes a repository without encryption in `store`.
    pub fn plain(store: impl Store + 'static) -> Repository {
        let state = tempfile::tempdir().unwrap();
        let choices = Choices { encryption: Encryption::None, ..Choices::default() };
        let opening =
            Opening { store: Arc::new(store), state: state.path(), index: None, secrets: &NoSecrets };
        Repository::create(&opening, choices, None, &[], Time::new(0, 0)).unwrap()
    }
}
