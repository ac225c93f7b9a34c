//! The directory that is mounted on: whether it can be, and ending the mount.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::repo::RepoError;

/// What is called where only root may mount.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

fn bad(path: &Path, reason: impl Into<String>) -> RepoError {
    RepoError::Source { path: path.display().to_string(), reason: reason.into() }
}

/// Returns the absolute path of a directory that can be mounted on.
///
/// # Errors
/// [`RepoError::Source`] if it is not there, is no directory, is not empty, or holds what is left of
/// a mount whose program was killed: then the text says what to type.
pub fn usable(path: &Path) -> Result<PathBuf, RepoError> {
    let fail = |e: io::Error| unusable(path, &e);
    let about = std::fs::metadata(path).map_err(fail)?;
    if !about.is_dir() {
        return Err(bad(path, "cannot be mounted on: is not a directory"));
    }
    let whole = path.canonicalize().map_err(fail)?;
    let mut entries = std::fs::read_dir(&whole).map_err(fail)?;
    match entries.next().transpose().map_err(fail)? {
        None => Ok(whole),
        Some(_) => {
            Err(bad(path, "is not empty, and a mount would hide what is in it; name an empty directory"))
        }
    }
}

fn unusable(path: &Path, error: &io::Error) -> RepoError {
    let shown = path.display();
    match error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) {
        false => bad(path, format!("cannot be mounted on: {error}")),
        true => bad(
            path,
            format!(
                "a mount whose program is gone is still there; remove it first: umount {shown} (not as root: fusermount3 -u {shown})"
            ),
        ),
    }
}

/// Tells a mount from whatever else lies at its place: the device number of its file system. Nothing else has that for
/// as long as the mount lives, detached or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    major: u32,
    minor: u32,
}

/// Returns what lies at a path. Asks the kernel alone: whose file system it is may be dead.
///
/// # Errors
/// As statx(2).
pub fn identity(point: &Path) -> Result<Identity, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let about = statx(CWD, point, flags, StatxFlags::TYPE)?;
    Ok(Identity { major: about.stx_dev_major, minor: about.stx_dev_minor })
}

/// Why a mount was not ended.
#[derive(Debug)]
pub enum NotEnded {
    /// Somebody has a file open in it, or works in it.
    Busy,
    /// It is at its place no more: it was detached (`umount -l`), and ends when nothing in it is open. What is there
    /// now is somebody else's. Never retry.
    Detached,
    /// Something else.
    Failed(String),
}

/// Unmounts what is mounted on a directory, if that is `own`; where that is not known, whatever it is.
///
/// # Errors
/// [`NotEnded`]; then nothing was unmounted.
pub fn unmount(point: &Path, own: Option<Identity>) -> Result<(), NotEnded> {
    if own.is_some_and(|own| identity(point) != Ok(own)) {
        return Err(NotEnded::Detached);
    }
    match rustix::mount::unmount(point, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(NotEnded::Busy),
        Err(Errno::PERM) => unmount_with_helper(point),
        Err(e) => Err(NotEnded::Failed(io::Error::from(e).to_string())),
    }
}

fn unmount_with_helper(point: &Path) -> Result<(), NotEnded> {
    for helper in HELPERS {
        let output = Command::new(helper).arg("-u").arg("--").arg(point).stdin(Stdio::null()).output();
        let said = match output {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(NotEnded::Failed(format!("{helper}: {e}"))),
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        };
        return match said.contains("busy") {
            true => Err(NotEnded::Busy),
            false => Err(NotEnded::Failed(said)),
        };
    }
    Err(NotEnded::Failed("no fusermount3 here (package fuse3)".to_owned()))
}
