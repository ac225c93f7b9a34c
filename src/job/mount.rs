//! Whether a directory is where a disk is mounted, and how full the disk is.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, StatxAttributes, StatxFlags, statvfs, statx};

/// Returns whether another file system is mounted at `path` than where it lies. A directory that is mounted onto itself, as
/// systemd does with what a unit may write to, is not: on it lies what lies on the disk of the system.
///
/// # Errors
/// As statx(2).
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let about = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)?;
    let above = statx(CWD, path.join(".."), AtFlags::empty(), StatxFlags::BASIC_STATS)?;
    let device = |about: &rustix::fs::Statx| (about.stx_dev_major, about.stx_dev_minor);
    let is_root = device(&about) == device(&above) && about.stx_ino == above.stx_ino;
    // Linux before 5.8 does not say; a subvolume of btrfs has a device of its own and is no mount point.
    let is_told = about.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    let is_mounted = !is_told || about.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(is_root || is_mounted && device(&about) != device(&above))
}

/// How full a file system is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// All of it, in bytes.
    pub capacity_bytes: u64,
    /// What is used, in bytes.
    pub used_bytes: u64,
    /// What we may still use, in bytes.
    pub available_bytes: u64,
    /// Whether it can be written.
    pub is_read_only: bool,
    /// Whether no more files fit, however small.
    pub has_no_inodes: bool,
}

impl Disk {
    /// Asks the file system that `path` lies on.
    ///
    /// # Errors
    /// As statvfs(3).
    pub fn of(path: &Path) -> io::Result<Self> {
        let about = statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(about.f_frsize);
        Ok(Self {
            capacity_bytes: bytes(about.f_blocks),
            used_bytes: bytes(about.f_blocks.saturating_sub(about.f_bfree)),
            available_bytes: bytes(about.f_bavail),
            is_read_only: about.f_flag.contains(StatVfsMountFlags::RDONLY),
            has_no_inodes: about.f_files > 0 && about.f_favail == 0,
        })
    }

    /// Returns the used part as `df` shows it: of what may be used at all, in percent, rounded up.
    pub fn used_percent(&self) -> u64 {
        let usable = self.used_bytes.saturating_add(self.available_bytes);
        if usable == 0 {
            return 100;
        }
        let percent = (u128::from(self.used_bytes) * 100).div_ceil(u128::from(usable));
        u64::try_from(percent).unwrap_or(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_told_from_a_directory_in_it() {
        assert!(is_mount_point(Path::new("/proc")).expect("is asked"));
        assert!(!is_mount_point(Path::new("/proc/self/net")).expect("is asked"));
        assert!(is_mount_point(Path::new("/no/such/place")).is_err());
    }

    #[test]
    fn the_used_part_is_that_of_df() {
        let disk = |used, available| Disk { used_bytes: used, available_bytes: available, ..Disk::default() };
        assert_eq!(disk(800, 200).used_percent(), 80);
        assert_eq!(disk(801, 199).used_percent(), 81);
        assert_eq!(disk(0, 10).used_percent(), 0);
        assert_eq!(disk(0, 0).used_percent(), 100);
    }
}
