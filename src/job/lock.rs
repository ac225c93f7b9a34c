//! One configured run at a time: a lock that says who holds it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::base::progress::Progress;
use crate::store::{StoreError, is_full, make_own_folder, open_own_file};

/// Time between two looks at a lock that is waited for.
const TICK: Duration = Duration::from_millis(200);

/// What a holder is called that has not described itself yet.
const JUST_BEGUN: &str = "one that has just begun";

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

/// Returns where the lock of one configuration's runs into the repository at `location` lies. Configurations of
/// other names have locks of their own: a mail server and a blog need not wait for each other.
pub fn path(state: &Path, location: &Path, host: &str, run: &str) -> PathBuf {
    let parts = [location.as_os_str().as_encoded_bytes(), host.as_bytes(), run.as_bytes()];
    let name = blake3::hash(&parts.join(&0)).to_hex();
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
            make_own_folder(folder).map_err(|error| match error {
                StoreError::Io { path, source, .. } => LockError::File { path, source },
                other => failed(io::Error::other(other)),
            })?;
        }
        let mut file = open_own_file(path).map_err(failed)?;
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
        // Who holds it is said as far as there is room: a full disk here need not keep a run from a repository elsewhere.
        let told =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(holder.as_bytes()));
        match told {
            Err(e) if !is_full(&e) => Err(failed(e)),
            _ => Ok(Self { _file: file }),
        }
    }
}

impl LockError {
    /// Returns whether the disk of the state directory is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::File { source, .. } if is_full(source))
    }
}

/// Who was mailed about the run that holds a lock: a file beside the lock says about which run.
pub struct HolderNotice(File);

impl HolderNotice {
    /// Returns what notes that somebody was told of the run `holder`, which holds the lock at `path`. None if
    /// somebody was, or is being told just now, or if it has only begun.
    pub fn claim(path: &Path, holder: &str) -> Option<Self> {
        let mut file = open_own_file(&path.with_extension("told")).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        let told = read_holder(&mut file).ok()?;
        (holder != JUST_BEGUN && told != holder).then_some(Self(file))
    }

    /// Notes it.
    ///
    /// # Errors
    /// As writing the file.
    pub fn note(&mut self, holder: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        self.0.write_all(holder.as_bytes())
    }
}

fn read_holder(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    Read::by_ref(file).take(HOLDER_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(if text.is_empty() { JUST_BEGUN.to_owned() } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_is_told_once_of_each_run_that_holds_the_lock() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = path(folder.path(), Path::new("/mnt/backup-hdd/mailserver"), "mx1", "mailserver");
        let mut told = HolderNotice::claim(&path, "process 7").expect("nobody was told");
        assert!(HolderNotice::claim(&path, "process 7").is_none(), "somebody is being told");
        drop(told);
        told = HolderNotice::claim(&path, "process 7").expect("the mail could not be sent");
        told.note("process 7").expect("is noted");
        drop(told);
        assert!(HolderNotice::claim(&path, "process 7").is_none());
        assert!(HolderNotice::claim(&path, JUST_BEGUN).is_none(), "it hangs not yet");
        assert!(HolderNotice::claim(&path, "process 77").is_some(), "another run");
    }

    #[test]
    fn the_second_run_is_told_who_holds_the_lock() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let at = |run: &str| path(folder.path(), Path::new("/mnt/backup-hdd/mailserver"), "mx1", run);
        let path = at("mailserver");
        let progress = Progress::default();
        let first =
            RunLock::take(&path, "snap backup --daily, process 7", &progress, |_| true).expect("is free");
        let refused = RunLock::take(&path, "second", &progress, |_| false).expect_err("is held");
        assert!(refused.to_string().contains("snap backup --daily, process 7"), "{refused}");
        RunLock::take(&at("blog"), "blog", &progress, |_| false).expect("another configuration is free");
        progress.cancel();
        let cut_off = RunLock::take(&path, "second", &progress, |_| true).expect_err("is held");
        assert!(matches!(cut_off, LockError::Interrupted));
        drop(first);
        RunLock::take(&path, "second", &progress, |_| false).expect("is free again");
    }
}
