//! Stage 1: directory → names and metadata. Reads the source; never writes, never follows a
//! symbolic link, never opens what it was not asked to.

mod attributes;
mod list;
mod mailbox;
mod mounts;
mod stamps;

pub use attributes::{Xattrs, holes, xattrs_at, xattrs_of};
pub use list::{Names, list, list_stable};
pub use mailbox::{Mailbox, unique_name};
pub use mounts::{MountedAs, mounted_as};

use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;

use crate::base::entry::Kind;
use crate::base::time::Time;

/// A folder: its file system's device numbers, and its inode.
pub type FolderId = ((u32, u32), u64);

/// Returns which folder a path leads to, through links; none if there is none.
pub fn folder_id(path: &Path) -> Option<FolderId> {
    let about = std::fs::metadata(path).ok()?;
    let device = about.st_dev();
    Some(((rustix::fs::major(device), rustix::fs::minor(device)), about.st_ino()))
}

/// What `statx` says of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is; none for sockets and whatever else is never stored.
    pub kind: Option<Kind>,
    /// Permission bits, set-id bits, sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Content changed.
    pub mtime: Time,
    /// Inode changed.
    pub ctime: Time,
    /// Inode made, where the file system tells.
    pub btime: Option<Time>,
    /// Device number of the file system it lies on.
    pub filesystem: (u32, u32),
    /// Inode number.
    pub inode: u64,
    /// Hard links.
    pub links: u32,
    /// Length in bytes.
    pub size: u64,
    /// Bytes of disk that it takes.
    pub allocated: u64,
    /// Device numbers of a device node.
    pub device: (u32, u32),
    /// When this was asked, at the latest, by the clock that stamps files here.
    pub seen: Time,
}

impl Stat {
    fn of(stat: &Statx, seen: Time) -> Self {
        let time = |t: rustix::fs::StatxTimestamp| Time::new(t.tv_sec, t.tv_nsec);
        let mask = StatxFlags::from_bits_retain(stat.stx_mask);
        let kind = match u32::from(stat.stx_mode) & 0o170_000 {
            0o100_000 => Some(Kind::File),
            0o040_000 => Some(Kind::Directory),
            0o120_000 => Some(Kind::Symlink),
            0o010_000 => Some(Kind::Fifo),
            0o020_000 => Some(Kind::CharDevice),
            0o060_000 => Some(Kind::BlockDevice),
            _ => None,
        };
        let is_device = matches!(kind, Some(Kind::CharDevice | Kind::BlockDevice));
        Self {
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
            btime: mask.contains(StatxFlags::BTIME).then(|| time(stat.stx_btime)),
            filesystem: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            links: stat.stx_nlink,
            size: if kind == Some(Kind::File) { stat.stx_size } else { 0 },
            allocated: stat.stx_blocks.saturating_mul(512),
            device: if is_device { (stat.stx_rdev_major, stat.stx_rdev_minor) } else { (0, 0) },
            seen,
        }
    }
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Returns what there is under `name` in `directory`, without following a link. One system call.
///
/// # Errors
/// As statx(2).
pub fn stat_at(directory: impl AsFd, name: &[u8]) -> Result<Stat, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let seen = stamps::clock(); // before the look: what changes after it is stamped later
    statx(directory, name, flags, WANTED).map(|stat| Stat::of(&stat, seen))
}

/// Returns the device numbers of the file system that `name` lies on, or that is mounted there. The kernel
/// alone is asked: whoever answers for that file system may refuse, or be gone.
///
/// # Errors
/// As statx(2).
pub fn device_at(directory: impl AsFd, name: &[u8]) -> Result<(u32, u32), Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    statx(directory, name, flags, StatxFlags::empty()).map(|stat| (stat.stx_dev_major, stat.stx_dev_minor))
}

/// Returns what an open file is. One system call.
///
/// # Errors
/// As statx(2).
pub fn stat_of(file: impl AsFd) -> Result<Stat, Errno> {
    let seen = stamps::clock();
    statx(file, c"", AtFlags::EMPTY_PATH, WANTED).map(|stat| Stat::of(&stat, seen))
}

/// Opens a directory inside `parent`; never through a link.
///
/// # Errors
/// As openat(2).
pub fn open_directory(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Opens a file inside `parent` to read; never through a link, and never waiting for a FIFO's
/// other end. The access time stays as it is where the system lets us.
///
/// # Errors
/// As openat(2).
pub fn open_file(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(&parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(parent, name, flags, Mode::empty()), // not the owner
        other => other,
    }
}

/// Returns the number that names the file system of `directory` across reboots; never 0.
///
/// # Errors
/// As fstatfs(2).
pub fn filesystem_id(directory: impl AsFd, fallback: (u32, u32)) -> u64 {
    let fallback = u64::from(fallback.0) << 32 | u64::from(fallback.1);
    let id = rustix::fs::fstatvfs(directory).map_or(0, |stat| stat.f_fsid);
    match id {
        0 => fallback.max(1),
        id => id,
    }
}

/// Returns where a symbolic link points.
///
/// # Errors
/// As readlinkat(2).
pub fn read_link(parent: impl AsFd, name: &[u8]) -> Result<Vec<u8>, Errno> {
    rustix::fs::readlinkat(parent, name, Vec::new()).map(|target| target.into_bytes())
}
