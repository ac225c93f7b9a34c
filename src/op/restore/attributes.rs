//! Owner, mode, extended attributes and times.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::base::entry::{Entry, Kind};
use crate::base::time::Time;

/// The set-user-id and the set-group-id bit.
const SET_ID: u32 = 0o6000;

/// Sets attributes; what can't be set is counted, not fatal.
pub struct Attributes {
    numeric_ids: bool,
    is_root: bool,
    users: Mutex<HashMap<(u32, Vec<u8>), u32>>,
    groups: Mutex<HashMap<(u32, Vec<u8>), u32>>,
    warnings: Mutex<BTreeMap<String, u64>>,
}

/// What attributes are set on.
pub enum On<'a> {
    /// An open file or directory.
    File(&'a dyn AsFdDyn),
    /// A name in an open directory: what can't be opened without effect.
    Name(&'a dyn AsFdDyn, &'a [u8]),
}

/// Anything with a file descriptor.
pub trait AsFdDyn {
    /// Returns the descriptor.
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

impl Attributes {
    /// Owners go by name where this machine knows it, else by number; with `numeric_ids` always by number.
    pub fn new(numeric_ids: bool) -> Self {
        Self {
            numeric_ids,
            is_root: rustix::process::geteuid().is_root(),
            users: Mutex::default(),
            groups: Mutex::default(),
            warnings: Mutex::default(),
        }
    }

    /// Returns what could not be set, and on how many entries.
    pub fn warnings(&self) -> Vec<(String, u64)> {
        let warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.iter().map(|(what, count)| (what.clone(), *count)).collect()
    }

    fn warn(&self, what: String) {
        *self.warnings.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    /// Sets all attributes of an entry. The order matters: a new owner clears set-id bits and
    /// capabilities, a mode changes an ACL's mask, and everything changes times.
    pub fn set(&self, on: &On<'_>, entry: &Entry<'_>) {
        let is_owned = self.owner(on, entry);
        let (acls, others): (Vec<_>, Vec<_>) =
            entry.xattrs.iter().partition(|(name, _)| name.starts_with(b"system.posix_acl_"));
        others.iter().for_each(|(name, value)| self.xattr(on, name, value));
        if entry.kind != Kind::Symlink {
            // A set-id bit stands for the owner that it was given by, and for no other.
            let mode = if is_owned { entry.mode } else { entry.mode & !SET_ID };
            if mode != entry.mode {
                self.warn("set-id bits not restored: the owner is another".to_owned());
            }
            let mode = Mode::from_raw_mode(mode);
            let result = match on {
                On::File(file) => rustix::fs::fchmod(file.fd(), mode),
                On::Name(parent, name) => rustix::fs::chmodat(parent.fd(), *name, mode, AtFlags::empty()),
            };
            self.note(result, "mode");
        }
        acls.iter().for_each(|(name, value)| self.xattr(on, name, value));
        let keep = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let times = Timestamps { last_access: keep, last_modification: timespec(entry.mtime) };
        let result = match on {
            On::File(file) => rustix::fs::futimens(file.fd(), &times),
            On::Name(parent, name) => {
                rustix::fs::utimensat(parent.fd(), *name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        };
        self.note(result, "times");
    }

    fn note(&self, result: Result<(), Errno>, what: &str) {
        if let Err(e) = result {
            self.warn(format!("{what} not restored: {}", std::io::Error::from(e)));
        }
    }

    /// Gives the entry its owner and group; returns whether it has them.
    fn owner(&self, on: &On<'_>, entry: &Entry<'_>) -> bool {
        let uid = self.id(&self.users, entry.uid, entry.user, |name| {
            nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
        });
        let gid = self.id(&self.groups, entry.gid, entry.group, |name| {
            nix::unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
        });
        let set = |uid: Option<u32>, gid: Option<u32>| {
            let (uid, gid) = (uid.filter(|id| *id != u32::MAX), gid.filter(|id| *id != u32::MAX));
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            match on {
                On::File(file) => rustix::fs::fchown(file.fd(), uid, gid),
                On::Name(parent, name) => {
                    rustix::fs::chownat(parent.fd(), *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                }
            }
        };
        match set(Some(uid), Some(gid)) {
            Err(Errno::PERM) if !self.is_root => {
                let _ = set(None, Some(gid)); // a group that this user is in can be given
                self.warn("owner not restored: only root can give files away".to_owned());
                false
            }
            other => {
                self.note(other, "owner");
                other.is_ok()
            }
        }
    }

    fn id(
        &self,
        known: &Mutex<HashMap<(u32, Vec<u8>), u32>>,
        number: u32,
        name: &[u8],
        look: impl Fn(&str) -> Option<u32>,
    ) -> u32 {
        if self.numeric_ids || name.is_empty() {
            return number;
        }
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        *known
            .entry((number, name.to_vec()))
            .or_insert_with(|| std::str::from_utf8(name).ok().and_then(look).unwrap_or(number))
    }

    fn xattr(&self, on: &On<'_>, name: &[u8], value: &[u8]) {
        let result = match on {
            On::File(file) => rustix::fs::fsetxattr(file.fd(), name, value, XattrFlags::empty()),
            On::Name(parent, at) => {
                let path = [format!("/proc/self/fd/{}/", parent.fd().as_raw_fd()).as_bytes(), at].concat();
                rustix::fs::lsetxattr(path.as_slice(), name, value, XattrFlags::empty())
            }
        };
        if let Err(e) = result {
            let name = String::from_utf8_lossy(name);
            self.warn(format!("attribute {name} not restored: {}", std::io::Error::from(e)));
        }
    }
}

fn timespec(time: Time) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) }
}
