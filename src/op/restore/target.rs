//! The directory that is restored into. Nothing outside it is ever touched: every path is resolved
//! by the kernel beneath it, and no link is followed (openat2(2)).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::base::entry::Kind;
use crate::op::restore::Overwrite;
use crate::op::restore::attributes::DEFAULT_LIST;
use crate::repo::RepoError;
use crate::stage::scan::{self, Stat};
use crate::stage::seal::random;

/// First bytes of the names that files have until they are whole.
const TEMPORARY: &str = ".snap-restore-";

/// A directory that is restored into.
pub struct Target {
    path: PathBuf,
    root: Option<OwnedFd>,
    overwrite: Overwrite,
    /// Whether entries may have access lists that this run did not give them.
    pub may_inherit: bool,
    /// What temporary names start with.
    prefix: String,
    /// Number of the last temporary name.
    last: AtomicU64,
}

impl Target {
    /// Opens the target, and makes it if it is not there. With `dry_run` it need not be there.
    ///
    /// # Errors
    /// [`RepoError::Source`] if it can't be used, or holds something and nothing may be overwritten.
    pub fn open(path: &Path, overwrite: Overwrite, dry_run: bool) -> Result<Self, RepoError> {
        let fail = |reason: String| RepoError::Source { path: path.display().to_string(), reason };
        if !dry_run {
            std::fs::create_dir_all(path).map_err(|e| fail(format!("target cannot be made: {e}")))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => root,
            Err(Errno::NOENT) if dry_run => return Self::with(path, None, overwrite),
            Err(e) => return Err(fail(format!("target cannot be opened: {}", io::Error::from(e)))),
        };
        let names = scan::list(&root)
            .map_err(|e| fail(format!("target cannot be listed: {}", io::Error::from(e))))?;
        if overwrite == Overwrite::Never && !names.is_empty() {
            let reason = "target is not empty; name an empty directory, or allow it with --overwrite if-changed or always";
            return Err(fail(reason.to_owned()));
        }
        Self::with(path, Some(root), overwrite)
    }

    fn with(path: &Path, root: Option<OwnedFd>, overwrite: Overwrite) -> Result<Self, RepoError> {
        // No process's number: in a container all have the same one, and a killed run may have left files behind.
        let mut own = [0; 8];
        random(&mut own).map_err(|_| RepoError::System { what: "random bytes" })?;
        let prefix = format!("{TEMPORARY}{:016x}-", u64::from_le_bytes(own));
        let hands_on = |root: &OwnedFd| rustix::fs::fgetxattr(root, DEFAULT_LIST, &mut [0; 0][..]).is_ok();
        let may_inherit = overwrite != Overwrite::Never || root.as_ref().is_some_and(hands_on);
        Ok(Self { path: path.to_owned(), root, overwrite, may_inherit, prefix, last: AtomicU64::new(0) })
    }

    /// Returns a name under which nothing lies yet.
    pub fn temporary_name(&self) -> String {
        format!("{}{}", self.prefix, self.last.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Makes a file that has no name and is gone when it is closed.
    ///
    /// # Errors
    /// [`RepoError::Source`] if there is no room for it, or it can't be made.
    pub fn nameless_file(&self) -> Result<File, RepoError> {
        tempfile::tempfile_in(&self.path).map_err(|e| self.unusable(&e))
    }

    /// Returns the error for a target in which what was noted can't be kept.
    pub fn unusable(&self, error: &io::Error) -> RepoError {
        let reason = format!("a temporary file of the restore cannot be used: {error}");
        RepoError::Source { path: self.path.display().to_string(), reason }
    }

    /// Opens a directory below the target.
    ///
    /// # Errors
    /// As openat2(2); `ELOOP` if a link is in the way.
    pub fn directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if path.is_empty() {
            return rustix::fs::openat(root, c".", flags, Mode::empty());
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::NAMETOOLONG) => self.step_by_step(path, flags),
            Err(Errno::NOSYS | Errno::PERM) => self.step_by_step(path, flags), // an old kernel, or a sandbox
            other => other,
        }
    }

    /// Opens one directory after the other, none through a link.
    fn step_by_step(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut at = self.directory(b"")?;
        for name in path.split(|byte| *byte == b'/') {
            at = rustix::fs::openat(&at, name, flags, Mode::empty())?;
        }
        Ok(at)
    }

    /// Makes a directory, or takes the one that is there. What else is there gives way if it may.
    ///
    /// # Errors
    /// As mkdirat(2); `EEXIST` if something else is there that must stay.
    pub fn make_directory(&self, parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
        match scan::stat_at(&parent, name)?.kind {
            Some(Kind::Directory) => Ok(()),
            _ if self.overwrite == Overwrite::Never => Err(Errno::EXIST),
            _ => {
                rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
                rustix::fs::mkdirat(&parent, name, Mode::RWXU)
            }
        }
    }

    /// Returns what lies under a name; none if nothing does.
    pub fn look(parent: impl AsFd, name: &[u8]) -> Option<Stat> {
        scan::stat_at(parent, name).ok()
    }

    /// Puts what was made under a temporary name in its place.
    ///
    /// # Errors
    /// As renameat2(2); `EEXIST` if something is there that must stay.
    pub fn put(&self, parent: impl AsFd, temporary: &str, name: &[u8]) -> Result<(), Errno> {
        let flags = match self.overwrite {
            Overwrite::Never => RenameFlags::NOREPLACE,
            _ => RenameFlags::empty(),
        };
        let renamed = match rustix::fs::renameat_with(&parent, temporary, &parent, name, flags) {
            Err(Errno::INVAL) if flags == RenameFlags::NOREPLACE && Self::look(&parent, name).is_none() => {
                rustix::fs::renameat(&parent, temporary, &parent, name)
            }
            Err(Errno::ISDIR | Errno::NOTEMPTY) if self.overwrite != Overwrite::Never => {
                // An empty directory gives way to a file; a full one holds what nobody told us to remove.
                rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)
                    .and_then(|()| rustix::fs::renameat(&parent, temporary, &parent, name))
            }
            other => other,
        };
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&parent, temporary, AtFlags::empty()); // ours alone
        }
        renamed
    }
}

/// Makes a new file.
///
/// # Errors
/// As openat(2).
pub fn create_file(parent: impl AsFd, name: &str) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

/// Opens a file that this run is writing.
///
/// # Errors
/// As openat(2).
pub fn reopen_file(parent: impl AsFd, name: &str) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map(File::from)
}
