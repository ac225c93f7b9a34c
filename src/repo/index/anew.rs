//! An index cache made anew: beside the old one, and put in its place when it is whole. Whoever has the old one open
//! reads on.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::{TempDir, TempPath};

use crate::store::give_to_owner_of;

/// A cache that is being made, in a directory of its own beside its place. The directory is locked, for redb locks the
/// file only while it has it open.
pub struct NewCache {
    /// Removed with all that is in it when this is dropped.
    folder: TempDir,
    file: PathBuf,
    place: PathBuf,
    _lock: File,
}

impl NewCache {
    /// Begins a cache that is to lie at `place`. Removes what killed runs have left there.
    ///
    /// # Errors
    /// As mkdir(2), and flock(2).
    pub fn begin(place: &Path) -> io::Result<Self> {
        let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!("{name}.new-");
        sweep(parent, &prefix);
        loop {
            let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)?;
            // Somebody who sweeps may take it for a dead run's before the lock is on it.
            let lock = match File::open(folder.path()) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                lock => lock?,
            };
            let is_locked = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if is_locked && folder.path().exists() {
                let file = folder.path().join("index.redb");
                return Ok(Self { folder, file, place: place.to_owned(), _lock: lock });
            }
        }
    }

    /// Returns where it is made.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Puts it in its place. Nobody may have it open here.
    ///
    /// # Errors
    /// As rename(2); none is no error, and what lies in its place stays then.
    pub fn keep(self) -> io::Result<()> {
        if !self.file.exists() {
            return Ok(()); // of nothing no cache is made
        }
        if let Some(folder) = self.place.parent() {
            give_to_owner_of(folder, &self.file);
        }
        TempPath::try_from_path(&self.file)?.persist(&self.place).map_err(|e| e.error)?;
        self.folder.close()
    }
}

/// Removes directories that nobody has locked.
fn sweep(parent: &Path, prefix: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(prefix);
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Ok(folder) = File::open(entry.path()) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path()); // it is tried again the next time
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_goes_and_what_a_live_one_makes_stays() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("index.redb");
        let left = NewCache::begin(&place).unwrap();
        let (name, lock) = (left.folder.keep(), left._lock);
        let live = NewCache::begin(&place).unwrap();
        assert!(name.exists(), "it is locked yet");
        drop(lock);
        std::fs::File::create(live.file()).unwrap();
        let other = NewCache::begin(&place).unwrap();
        assert!(!name.exists() && live.file().exists());
        live.keep().unwrap();
        other.keep().unwrap();
        assert!(place.exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
