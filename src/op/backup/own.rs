//! Places of this program: what a walk meets of them inside a source is left out, and said.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::repo::staging::{Staging, is_staging_name};
use crate::stage::scan::{FolderId, MountedAs, Stat, folder_id, mounted_as};
use crate::stage::snapshot::Lack;

/// Why the repository is left out.
pub const REPOSITORY: &str = "the repository itself";
/// Why a mount of snapshots is left out.
pub const MOUNT: &str = "a mount of snapshots (snap mount)";
const STATE: &str = "the state directory of snap";
const STAGING: &str = "files of a restore that are not in their place yet";

/// The places of this program that have a directory.
#[derive(Clone, Debug, Default)]
pub struct OwnPlaces {
    /// The repository, if it lies in a directory of this machine.
    pub repository: Option<FolderId>,
    /// The state directory.
    pub state: Option<FolderId>,
    /// Staging directories. One that the state directory does not know is anybody's, and is backed up.
    pub staging: Option<Staging>,
}

impl OwnPlaces {
    /// Returns which of them a directory is.
    pub fn which(&self, name: &[u8], directory: &Stat) -> Option<&'static str> {
        let id = Some((directory.filesystem, directory.inode));
        let is_staging =
            || is_staging_name(name) && self.staging.as_ref().is_some_and(|own| own.contains(directory));
        match () {
            () if id == self.repository => Some(REPOSITORY),
            () if id == self.state => Some(STATE),
            () if is_staging() => Some(STAGING),
            () => None,
        }
    }

    /// Returns whether a path leads into the repository.
    pub fn is_in_repository(&self, path: &Path) -> bool {
        let Some(own) = self.repository else { return false };
        let Ok(path) = path.canonicalize() else { return false };
        path.ancestors().any(|above| folder_id(above) == Some(own))
    }
}

/// Returns whether an entry was left out because it belongs to this program.
pub fn is_own(skipped: &Lack) -> bool {
    [REPOSITORY, MOUNT, STATE, STAGING].contains(&skipped.reason.as_str())
}

/// File systems, each looked up once: whether it is a mount of snapshots.
#[derive(Default)]
pub struct Mounts(Mutex<HashMap<(u32, u32), bool>>);

impl Mounts {
    /// Returns whether the file system with these device numbers is a mount of snapshots.
    pub fn has(&self, device: (u32, u32)) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(device).or_insert_with(|| {
            // As op/mount calls itself; the system leaves the part after the dot away where root mounts.
            let is_own = |mount: MountedAs| {
                ["fuse", "fuse.snap"].contains(&mount.kind.as_str()) && mount.source == "snap"
            };
            mounted_as(device).is_some_and(is_own)
        })
    }
}
