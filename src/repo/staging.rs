//! Which directories are staging directories of this program: noted in the state directory, so that a
//! backup can leave them out. A name or a file inside proves nothing, as anybody can make those.
//!
//! One file for each, named after the file system and the inode; in it when the directory was made, and
//! its path. One more for each target in which all of a restore is in place and the rest is not done. Runs beside each
//! other note and forget without a lock.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::time::Time;
use crate::repo::RepoError;
use crate::stage::scan::Stat;
use crate::store::{StoreError, keep_own_file, read_regular};

/// First bytes of the names that staging directories have.
const NAMES: [&[u8]; 2] = [b".snap-restore-", b".snap-recover-"];

/// Directory of the state directory that holds the notes.
const FOLDER: &str = "staging";

/// Most bytes of a note that are read: a path is at most 4096 long.
const NOTE_BYTES_MAX: u64 = 8 << 10;

/// Most bytes of a note of a restore's end: it holds the patterns of one command line.
const MARKER_BYTES_MAX: u64 = 4 << 20;

/// The staging directories that this machine's state directory knows.
#[derive(Clone, Debug)]
pub struct Staging {
    folder: PathBuf,
}

/// Returns whether a name is one that staging directories have.
pub fn is_staging_name(name: &[u8]) -> bool {
    NAMES.iter().any(|start| name.starts_with(start))
}

impl Staging {
    /// Returns those that the state directory `state` knows.
    pub fn new(state: &Path) -> Self {
        Self { folder: state.join(FOLDER) }
    }

    /// Notes a directory that was just made, durably. `directory` is what it is, `path` where it lies,
    /// for people. A note of the same inode gives way: that directory is gone.
    ///
    /// # Errors
    /// [`RepoError::Store`]; nothing is noted then.
    pub fn note(&self, directory: &Stat, path: &Path) -> Result<(), RepoError> {
        let file = self.file(directory);
        let text = [made(directory).as_bytes(), b"\n", path.as_os_str().as_bytes(), b"\n"].concat();
        Ok(keep_own_file(&file, &text)?)
    }

    /// Forgets a directory that is gone, or is no staging directory any more, durably. One that was never
    /// noted is no error.
    ///
    /// # Errors
    /// [`RepoError::Store`]; it may be noted still.
    pub fn forget(&self, directory: &Stat) -> Result<(), RepoError> {
        self.remove(&self.file(directory))
    }

    /// Returns whether a directory is one that was noted. One that has taken the inode of another that is
    /// gone is not, where the file system says when a directory was made. What can't be read notes nothing.
    pub fn contains(&self, directory: &Stat) -> bool {
        let note = read_regular(&self.file(directory), NOTE_BYTES_MAX).unwrap_or_default();
        note.split(|byte| *byte == b'\n').next() == Some(made(directory).as_bytes())
    }

    /// Notes, durably, that all of a restore is in place in `target`, and nothing is due but the removal of its staging
    /// directory and the target's own times. `marker` says which restore.
    ///
    /// # Errors
    /// [`RepoError::Store`]; nothing is noted then.
    pub fn note_end(&self, target: &Stat, marker: &[u8]) -> Result<(), RepoError> {
        let file = self.end_file(target);
        let text = [made(target).as_bytes(), b"\n", marker].concat();
        Ok(keep_own_file(&file, &text)?)
    }

    /// Returns the marker of the restore of which all is in place in a directory; none if none is noted.
    pub fn end_of(&self, target: &Stat) -> Option<Vec<u8>> {
        let note = read_regular(&self.end_file(target), MARKER_BYTES_MAX).ok()?;
        let line = note.iter().position(|byte| *byte == b'\n')?;
        (note[..line] == *made(target).as_bytes()).then(|| note[line + 1..].to_vec())
    }

    /// Forgets such a note, durably. That there is none is no error.
    ///
    /// # Errors
    /// [`RepoError::Store`]; it may be noted still.
    pub fn forget_end(&self, target: &Stat) -> Result<(), RepoError> {
        self.remove(&self.end_file(target))
    }

    /// Notes, durably, that a directory is about to be made at `target`, for a restore and by it alone.
    ///
    /// # Errors
    /// [`RepoError::Store`]; nothing is noted then.
    pub fn note_making(&self, target: &Path) -> Result<(), RepoError> {
        let file = self.making_file(target);
        Ok(keep_own_file(&file, target.as_os_str().as_bytes())?)
    }

    /// Returns whether a restore was about to make a directory there, or has made it and done nothing more.
    pub fn was_making(&self, target: &Path) -> bool {
        let note = read_regular(&self.making_file(target), NOTE_BYTES_MAX);
        note.is_ok_and(|note| note == target.as_os_str().as_bytes())
    }

    /// Forgets that. That nothing was noted is no error.
    ///
    /// # Errors
    /// [`RepoError::Store`]; it may be noted still.
    pub fn forget_making(&self, target: &Path) -> Result<(), RepoError> {
        self.remove(&self.making_file(target))
    }

    fn making_file(&self, target: &Path) -> PathBuf {
        let name = blake3::hash(target.as_os_str().as_bytes()).to_hex();
        self.folder.join(format!("making-{}", &name[..32]))
    }

    fn remove(&self, file: &Path) -> Result<(), RepoError> {
        match fs::remove_file(file) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| sync(&self.folder)).map_err(|e| failed(file, "remove", e)),
        }
    }

    fn end_file(&self, target: &Stat) -> PathBuf {
        self.file(target).with_extension("end")
    }

    fn file(&self, directory: &Stat) -> PathBuf {
        let (major, minor) = directory.filesystem;
        self.folder.join(format!("{major:x}-{minor:x}-{:x}", directory.inode))
    }
}

/// Returns when a directory was made, as a note says it.
fn made(directory: &Stat) -> String {
    let text = |time: Time| format!("{}.{:09}", time.seconds, time.nanos);
    directory.btime.map_or_else(|| "not known".to_owned(), text)
}

fn sync(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn failed(path: &Path, verb: &'static str, source: io::Error) -> RepoError {
    RepoError::Store(StoreError::Io { path: path.display().to_string(), verb, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::scan::stat_at;

    fn stat(path: &Path) -> Stat {
        stat_at(rustix::fs::CWD, path.as_os_str().as_bytes()).expect("is there")
    }

    #[test]
    fn a_directory_that_only_looks_like_a_staging_directory_is_none() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (ours, copy) = (folder.path().join(".snap-restore-1"), folder.path().join(".snap-restore-2"));
        fs::create_dir(&ours).expect("directory");
        fs::create_dir(&copy).expect("directory");
        let staging = Staging::new(&folder.path().join("state"));
        assert!(!staging.contains(&stat(&ours)));
        staging.note(&stat(&ours), &ours).expect("is noted");
        staging.note(&stat(&ours), &ours).expect("is noted once more");
        assert!(staging.contains(&stat(&ours)) && !staging.contains(&stat(&copy)));
        assert!(is_staging_name(b".snap-recover-7") && !is_staging_name(b"snap-restore-7"));
        let moved = folder.path().join("elsewhere");
        #[allow(clippy::disallowed_methods, reason = "a test's own files need not be durable")]
        fs::rename(&ours, &moved).expect("moves");
        assert!(staging.contains(&stat(&moved)), "whatever it is called now");
        staging.forget(&stat(&moved)).expect("is forgotten");
        staging.forget(&stat(&moved)).expect("nothing is left to forget");
        assert!(!staging.contains(&stat(&moved)));
    }

    #[test]
    fn a_directory_with_the_inode_of_one_that_is_gone_is_none() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let first = stat(folder.path());
        let later = |time: Time| Time::new(time.seconds + 1, time.nanos);
        let Some(made) = first.btime else { return eprintln!("skipped: birth times are not known here") };
        let staging = Staging::new(&folder.path().join("state"));
        staging.note(&first, folder.path()).expect("is noted");
        assert!(!staging.contains(&Stat { btime: Some(later(made)), ..first }));
        assert!(!staging.contains(&Stat { btime: None, ..first }));
        assert!(staging.contains(&first));
    }
}
