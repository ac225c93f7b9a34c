//! Why something can't be read → what the kernel is told, and one line in the log.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use fuser::Errno;

use crate::base::entry::quoted;
use crate::repo::RepoError;

/// Paths that are remembered as complained about. After that many, the first may be named again.
const PATHS_MAX: usize = 10_000;

/// What was complained about.
#[derive(Default)]
pub struct Complaints {
    paths: Mutex<HashSet<Vec<u8>>>,
    was_locked: AtomicBool,
}

impl Complaints {
    /// Says, the first time, that content needs a key.
    pub fn locked(&self) {
        if !self.was_locked.swap(true, Ordering::Relaxed) {
            tracing::warn!("a file was opened and refused: {}", RepoError::Locked);
        }
    }

    /// Says, once a path, why it can't be read; returns what the kernel is told.
    pub fn about(&self, path: &[u8], error: &RepoError, has_snapshot: bool) -> Errno {
        match error {
            RepoError::Locked => {
                self.locked();
                return Errno::EACCES;
            }
            RepoError::NotThere { .. } | RepoError::Distrusted { .. } => return Errno::EIO, // said already
            _ => {}
        }
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() >= PATHS_MAX {
            paths.clear();
        }
        let is_new = paths.insert(path.to_vec());
        drop(paths);
        let (errno, cause) = match error {
            RepoError::NoIdentity { .. } => (Errno::EACCES, error.chain()),
            e if e.is_damage() && !has_snapshot => {
                (Errno::ESTALE, format!("its snapshot was removed meanwhile ({})", e.chain()))
            }
            e => (Errno::EIO, e.chain()),
        };
        if is_new {
            tracing::error!("{}: cannot be read: {cause}", quoted(path));
        }
        errno
    }
}
