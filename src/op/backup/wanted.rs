//! Which paths of a file system are wanted, as a tree of names.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Names that are wanted of a directory; an empty one wants all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted(pub BTreeMap<Vec<u8>, Wanted>);

impl Wanted {
    /// Adds the path made of `names`. What lies above a path that is wanted whole is wanted too.
    pub fn add(&mut self, names: &[&[u8]], is_first: bool) {
        let Some((name, rest)) = names.split_first() else {
            self.0.clear();
            return;
        };
        if self.0.is_empty() && !is_first {
            return; // wanted whole already
        }
        let is_new = !self.0.contains_key(*name);
        self.0.entry(name.to_vec()).or_default().add(rest, is_new);
    }

    /// Returns what is wanted below `name`; none if all of it is.
    pub fn below(only: &Option<Self>, name: &[u8]) -> Option<Self> {
        only.as_ref().and_then(|only| only.0.get(name)).filter(|below| !below.0.is_empty()).cloned()
    }
}

/// Opens a directory that was named, links in its path followed.
///
/// # Errors
/// As open(2).
pub fn open_named(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
