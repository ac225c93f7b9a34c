//! One configured run at a time: a lock that says who holds it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::base::progress::Progress;

/// Time between two looks at a lock that is waited for.
const TICK: Duration = Duration::from_millis(200);

/// Most bytes of a holder's description that are read.
const HOLDER_BYTES_MAX: u64 = 4096;

/// Holds the lock until it is dropped or the process ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another run is under way. May be retried later.
    #[error("another run is under way: {holder}; --wait waits for its end")]
    Held {
        /// Who, since when.
        holder: String,
    },
    /// The wait was cut off.
    #[error("interrupted while waiting for another run")]
    Interrupted,
    /// The lock file can't be used.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Returns where the lock of runs into the repository at `location` lies.
pub fn path(state: &Path, location: &Path) -> PathBuf {
    let name = blake3::hash(location.as_os_str().as_encoded_bytes()).to_hex();
    state.join(format!("run-{}.lock", name.get(..16).unwrap_or_default()))
}

impl RunLock {
    /// Takes the lock at `path`, described as `holder`. If it is held, `waiting` is called once with
    /// the other's description, and says whether to wait.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(
        path: &Path,
        holder: &str,
        progress: &Progress,
        waiting: impl FnOnce(&str) -> bool,
    ) -> Result<Self, LockError> {
        let failed = |source: io::Error| LockError::File { path: path.display().to_string(), source };
        if let Some(folder) = path.parent() {
            use std::os::unix::fs::DirBuilderExt;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = options.map_err(failed)?;
        let mut waiting = Some(waiting);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {}
                Err(e) => return Err(failed(e.into())),
            }
            if let Some(waiting) = waiting.take() {
                let holder = read_holder(&mut file).map_err(failed)?;
                if !waiting(&holder) {
                    return Err(LockError::Held { holder });
                }
            }
            if progress.is_cancelled() {
                return Err(LockError::Interrupted);
            }
            std::thread::sleep(TICK);
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        file.write_all(holder.as_bytes()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn read_holder(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    Read::by_ref(file).take(HOLDER_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(if text.is_empty() { "one that has just begun".to_owned() } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_run_is_told_who_holds_the_lock() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = path(folder.path(), Path::new("/mnt/backup-hdd/mailserver"));
        let progress = Progress::default();
        let first =
            RunLock::take(&path, "snap backup --daily, process 7", &progress, |_| true).expect("is free");
        let refused = RunLock::take(&path, "second", &progress, |_| false).expect_err("is held");
        assert!(refused.to_string().contains("snap backup --daily, process 7"), "{refused}");
        progress.cancel();
        let cut_off = RunLock::take(&path, "second", &progress, |_| true).expect_err("is held");
        assert!(matches!(cut_off, LockError::Interrupted));
        drop(first);
        RunLock::take(&path, "second", &progress, |_| false).expect("is free again");
    }
}
