//! Removes what is in the target and not in the snapshot. Never through a link, never the repository or what
//! leads to it, nothing that is excluded, and nothing on another file system.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;

use crate::base::entry::Kind;
use crate::op::restore::{Filter, Request, lack};
use crate::stage::scan::{self, FolderId, Stat};
use crate::stage::snapshot::Lack;

/// Why a directory stays, with all that is in it.
const REPOSITORY: &str = "the repository lies there";
const MOUNTED: &str = "another file system is mounted there";

/// What is removed below one directory of the target.
pub struct Removal<'r> {
    filter: &'r Filter,
    own_directory: Option<FolderId>,
    is_dry: bool,
    /// Entries that went; a directory that went counts once, whatever was in it.
    pub deleted: u64,
    /// Entries that stay and should not, and why.
    pub lacks: Vec<Lack>,
}

impl<'r> Removal<'r> {
    /// Begins. In a dry run what would go is counted, and stays.
    pub(crate) fn new(filter: &'r Filter, request: &Request<'_>) -> Self {
        let (own_directory, is_dry) = (request.own_directory, request.dry_run);
        Self { filter, own_directory, is_dry, deleted: 0, lacks: Vec::new() }
    }

    /// Removes `name` in the directory `parent`, and all below it that may go. `path` is its path below the target.
    /// What can't be removed is a lack.
    pub fn remove(&mut self, (parent, about): (&OwnedFd, &Stat), name: &[u8], path: &[u8]) {
        let is_gone = self.take((parent, about), name, path);
        self.deleted += u64::from(is_gone);
    }

    /// Removes an entry; returns whether it is gone.
    fn take(&mut self, parent: (&OwnedFd, &Stat), name: &[u8], path: &[u8]) -> bool {
        let result = self.entry(parent, name, path);
        result.unwrap_or_else(|reason| {
            self.lacks.push(lack(path, format!("not removed: {reason}")));
            false
        })
    }

    fn entry(
        &mut self,
        (parent, about): (&OwnedFd, &Stat),
        name: &[u8],
        path: &[u8],
    ) -> Result<bool, String> {
        let stat = scan::stat_at(parent, name).map_err(text)?;
        let is_directory = stat.kind == Some(Kind::Directory);
        if !self.filter.wants(path, is_directory).0 {
            return Ok(false);
        }
        if !is_directory {
            return self.unlink(parent, name, AtFlags::empty());
        }
        if self.own_directory == Some((stat.filesystem, stat.inode)) {
            return Err(REPOSITORY.to_owned());
        }
        if stat.filesystem != about.filesystem {
            return Err(MOUNTED.to_owned());
        }
        let directory = open(parent, name).map_err(|e| match e {
            Errno::XDEV => MOUNTED.to_owned(),
            e => text(e),
        })?;
        let mut gone = 0;
        let mut is_empty = true;
        for inner in scan::list(&directory).map_err(text)?.iter() {
            let is_gone = self.take((&directory, &stat), inner, &[path, b"/", inner].concat());
            gone += u64::from(is_gone);
            is_empty &= is_gone;
        }
        if !is_empty {
            self.deleted += gone;
            return Ok(false);
        }
        self.unlink(parent, name, AtFlags::REMOVEDIR)
    }

    fn unlink(&self, parent: &OwnedFd, name: &[u8], flags: AtFlags) -> Result<bool, String> {
        match self.is_dry {
            true => Ok(true),
            false => unlinkat(parent, name, flags).map(|()| true).map_err(text),
        }
    }
}

/// Opens a directory, unless something is mounted on it: even what lies on the same device.
fn open(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match openat2(&parent, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => scan::open_directory(&parent, name), // an old kernel, or a sandbox
        other => other,
    }
}

fn text(error: Errno) -> String {
    io::Error::from(error).to_string()
}
