//! Files with several names are read once.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::content::ContentBuf;
use crate::base::entry::Hole;
use crate::base::time::Time;
use crate::op::backup::pending::Pending;
use crate::op::backup::run::{Run, Scanned};
use crate::repo::RepoError;
use crate::stage::scan::{Stat, Xattrs};

/// A name that waits for the content that another thread reads.
pub struct Waiting {
    /// Its directory.
    pub directory: Arc<Pending>,
    /// Its place there.
    pub slot: u32,
    /// The entry.
    pub scanned: Scanned,
}

/// What reading a file gave.
#[derive(Clone)]
pub struct Read {
    /// Its content.
    pub content: ContentBuf,
    /// What statx said of the open file: what it is then counts, not what it was when listed.
    pub stat: Stat,
    /// Its extended attributes, which all its names share.
    pub xattrs: Xattrs,
    /// Its holes.
    pub holes: Vec<Hole>,
    /// Its bytes, as read.
    pub size: u64,
    /// Whether it changed meanwhile.
    pub torn: bool,
}

enum State {
    Reading(Vec<Waiting>),
    Done(Box<Read>),
}

/// What two names of one file share. An inode alone may be another file's by now: it is free again when the last name is
/// gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    filesystem: (u32, u32),
    inode: u64,
    made: Option<Time>,
    changed: Time,
    size: u64,
}

impl From<&Stat> for Identity {
    fn from(stat: &Stat) -> Self {
        let Stat { filesystem, inode, btime, mtime, size, .. } = *stat;
        Self { filesystem, inode, made: btime, changed: mtime, size }
    }
}

/// All files with several names that this run has met.
#[derive(Default)]
pub struct Links {
    known: Mutex<HashMap<Identity, State>>,
}

impl Links {
    /// Returns the waiting name back if the caller must read the file; else the name is or will be
    /// given its content.
    ///
    /// # Errors
    /// What building the name's directory meets.
    pub fn claim(&self, run: &Run<'_>, waiting: Waiting) -> Result<Option<Waiting>, RepoError> {
        let identity = Identity::from(&waiting.scanned.stat);
        let read = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            match known.get_mut(&identity) {
                None => {
                    known.insert(identity, State::Reading(Vec::new()));
                    return Ok(Some(waiting));
                }
                Some(State::Reading(others)) => {
                    others.push(waiting);
                    return Ok(None);
                }
                Some(State::Done(read)) => read.clone(),
            }
        };
        waiting.fill(run, &read)?;
        Ok(None)
    }

    /// Gives the content of a claimed file to all names that wait for it; none if it can't be read.
    ///
    /// # Errors
    /// What building the names' directories meets.
    pub fn done(&self, run: &Run<'_>, identity: Identity, read: Option<&Read>) -> Result<(), RepoError> {
        let state = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            match read {
                Some(read) => known.insert(identity, State::Done(Box::new(read.clone()))),
                None => known.remove(&identity),
            }
        };
        let Some(State::Reading(others)) = state else { return Ok(()) };
        for waiting in others {
            match read {
                Some(read) => waiting.fill(run, read)?,
                None => {
                    let path = [&waiting.directory.path, &b"/"[..], &waiting.scanned.name].concat();
                    run.lack(waiting.directory.part.as_deref(), path, "cannot be read under its other name");
                    waiting.leave_out(run)?;
                }
            }
        }
        Ok(())
    }
}

impl Waiting {
    /// Gives the name its content.
    ///
    /// # Errors
    /// What building its directory meets.
    pub fn fill(mut self, run: &Run<'_>, read: &Read) -> Result<(), RepoError> {
        if let Some(part) = &self.directory.part {
            // The component counts what is stored, not what was listed.
            part.bytes.fetch_add(read.size, Ordering::Relaxed);
            part.bytes.fetch_sub(self.scanned.size, Ordering::Relaxed);
        }
        self.scanned.size = read.size;
        self.scanned.stat = read.stat;
        self.scanned.xattrs.clone_from(&read.xattrs);
        self.scanned.holes.clone_from(&read.holes);
        self.scanned.torn = read.torn;
        let record = self.scanned.encode(read.content.borrowed())?;
        self.directory.put(run, self.slot, Some(record))
    }

    /// Leaves the name out: it can't be read, or is gone.
    ///
    /// # Errors
    /// What building its directory meets.
    pub fn leave_out(self, run: &Run<'_>) -> Result<(), RepoError> {
        if let Some(part) = &self.directory.part {
            part.files.fetch_sub(1, Ordering::Relaxed);
            part.bytes.fetch_sub(self.scanned.size, Ordering::Relaxed);
        }
        self.directory.put(run, self.slot, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::scan::stat_at;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test's own files need not be durable")]
    fn names_of_one_file_share_an_identity_and_another_file_with_its_inode_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a"), "one").unwrap();
        std::fs::hard_link(path("a"), path("b")).unwrap();
        let fd = std::fs::File::open(folder.path()).unwrap();
        let (a, b) = (stat_at(&fd, b"a").unwrap(), stat_at(&fd, b"b").unwrap());
        assert!(Identity::from(&a) == Identity::from(&b));
        let later = |time: Time| Time::new(time.seconds + 1, 0);
        for other in [
            Stat { btime: a.btime.map(later), mtime: later(a.mtime), ..a },
            Stat { mtime: later(a.mtime), ..a },
            Stat { size: a.size + 1, ..a },
        ] {
            assert!(Identity::from(&a) != Identity::from(&other));
        }
    }
}
