//! Owner, mode, extended attributes and times.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::base::entry::{Entry, Kind};
use crate::base::time::Time;
use crate::stage::scan;

/// The set-user-id and the set-group-id bit.
const SET_ID: u32 = 0o6000;

/// The access list that says who may do what with an entry.
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

/// The access list that a directory hands on to what is made in it.
pub const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";

/// Sets attributes; what can't be set is counted, not fatal.
pub struct Attributes {
    numeric_ids: bool,
    may_inherit: bool,
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
    /// `may_inherit` says whether entries may have access lists that they were not given here.
    pub fn new(numeric_ids: bool, may_inherit: bool) -> Self {
        Self {
            numeric_ids,
            may_inherit,
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

    /// Counts one more entry of which this is to be said.
    pub fn warn(&self, what: String) {
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
            self.disinherit(on, entry);
            // A set-id bit stands for the owner that it was given by, and for no other.
            let mode = if is_owned { entry.mode } else { entry.mode & !SET_ID };
            if mode != entry.mode {
                self.warn("set-id bits not restored: the owner is another".to_owned());
            }
            let mode = Mode::from_raw_mode(mode);
            let result = match on {
                On::File(file) => rustix::fs::fchmod(file.fd(), mode),
                On::Name(parent, name) => change_mode(*parent, name, entry.kind, mode),
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

    /// Removes access lists that an entry has from the directory it lies in, or from what was there before.
    fn disinherit(&self, on: &On<'_>, entry: &Entry<'_>) {
        let lists = match entry.kind {
            _ if !self.may_inherit => return,
            Kind::Directory => &[ACCESS_LIST, DEFAULT_LIST][..],
            _ => &[ACCESS_LIST],
        };
        for list in lists.iter().filter(|list| !entry.xattrs.iter().any(|(name, _)| name == *list)) {
            let result = match on {
                On::File(file) => rustix::fs::fremovexattr(file.fd(), *list),
                On::Name(parent, name) => rustix::fs::lremovexattr(path_of(*parent, name), *list),
            };
            if !matches!(result, Err(Errno::NODATA | Errno::NOTSUP)) {
                self.note(result, "absence of an access list");
            }
        }
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
                rustix::fs::lsetxattr(path_of(*parent, at), name, value, XattrFlags::empty())
            }
        };
        if let Err(e) = result {
            let name = String::from_utf8_lossy(name);
            self.warn(format!("attribute {name} not restored: {}", std::io::Error::from(e)));
        }
    }
}

/// Returns the path of a name in an open directory.
fn path_of(parent: &dyn AsFdDyn, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", parent.fd().as_raw_fd()).as_bytes(), name].concat()
}

/// Changes the mode of what lies under a name, if it is of this kind: whoever owns the directory may have put a link
/// there, and chmod(2) follows links.
fn change_mode(parent: &dyn AsFdDyn, name: &[u8], kind: Kind, mode: Mode) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(parent.fd(), name, flags, Mode::empty())?;
    match scan::stat_of(&node)?.kind == Some(kind) {
        true => rustix::fs::chmod(format!("/proc/self/fd/{}", node.as_raw_fd()), mode),
        false => Err(Errno::LOOP),
    }
}

fn timespec(time: Time) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_link_put_in_a_fifo_s_place_is_not_followed_when_modes_are_set() {
        let (target, outside) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(outside.path(), target.path().join("fifo")).unwrap();
        let parent = fs::File::open(target.path()).unwrap();
        let mode = Mode::from_raw_mode(0o666);
        assert_eq!(change_mode(&parent, b"fifo", Kind::Fifo, mode), Err(Errno::LOOP));
        assert_eq!(fs::metadata(outside.path()).unwrap().permissions().mode() & 0o7777, 0o600);
        rustix::fs::mknodat(&parent, "pipe", rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(change_mode(&parent, b"pipe", Kind::Fifo, mode), Ok(()));
        let pipe = fs::metadata(target.path().join("pipe")).unwrap();
        assert_eq!(pipe.permissions().mode() & 0o7777, 0o666);
    }
}
