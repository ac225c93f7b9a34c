//! Owner, mode, extended attributes and times.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::base::access_list::{self, Named};
use crate::base::entry::{Entry, Kind};
use crate::base::time::Time;
use crate::op::restore::Request;
use crate::op::restore::labels::LABEL;
use crate::stage::scan;
use crate::stage::snapshot::facts::ListNames;

/// The set-user-id and the set-group-id bit.
const SET_ID: u32 = 0o6000;

/// An owner, mode or access list that could not be set: somebody may do what he could not, or can't do what he could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unset {
    /// What, and why.
    pub what: String,
    /// How many entries it concerns.
    pub entries: u64,
    /// Path of the first of them, below the target.
    pub first: Vec<u8>,
}

/// Sets attributes; what can't be set is counted, not fatal.
pub struct Attributes {
    numeric_ids: bool,
    /// Whether entries may have access lists that they were not given here.
    pub may_inherit: bool,
    sets_labels: bool,
    names: ListNames,
    is_root: bool,
    users: Mutex<HashMap<(u32, Vec<u8>), u32>>,
    groups: Mutex<HashMap<(u32, Vec<u8>), u32>>,
    warnings: Mutex<BTreeMap<String, u64>>,
    unset: Mutex<BTreeMap<String, (u64, Vec<u8>)>>,
}

/// What a file has from the moment it was made, so that it need not be set.
#[derive(Clone, Copy, Default)]
pub struct Made {
    /// Owner and group; none if that is not sure.
    pub owner: Option<(u32, u32)>,
    /// Mode.
    pub mode: u32,
}
/// Returns the path of an entry below the target, for messages.
pub type Path<'p> = &'p dyn Fn() -> Vec<u8>;

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
    /// Owners, and whom access lists name, go by name where this machine knows it, else by number; with `numeric_ids`
    /// always by number. `names` are those that access lists had where they were read.
    pub fn new(request: &Request<'_>, names: ListNames) -> Self {
        Self {
            numeric_ids: request.numeric_ids,
            may_inherit: true,
            sets_labels: request.labels,
            names,
            is_root: rustix::process::geteuid().is_root(),
            users: Mutex::default(),
            groups: Mutex::default(),
            warnings: Mutex::default(),
            unset: Mutex::default(),
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

    /// Returns the owners, modes and access lists that could not be set.
    pub fn unset(&self) -> Vec<Unset> {
        let unset = self.unset.lock().unwrap_or_else(PoisonError::into_inner);
        let all = unset.iter();
        all.map(|(what, (entries, first))| Unset {
            what: what.clone(),
            entries: *entries,
            first: first.clone(),
        })
        .collect()
    }

    /// Notes that what says who may do what with an entry could not be set.
    fn fail(&self, what: String, path: Path<'_>) {
        let mut unset = self.unset.lock().unwrap_or_else(PoisonError::into_inner);
        unset.entry(what).or_insert_with(|| (0, path())).0 += 1;
    }

    /// Closes a directory to all but those who may see what will be in it, before anything is: owner, mode and access
    /// list. What can't be set is told by [`Self::set`], which is due when all is in it.
    pub fn close(&self, directory: &OwnedFd, entry: &Entry<'_>) {
        let (uid, gid) = self.owners(entry);
        let _ = rustix::fs::fchown(directory, id(uid).map(Uid::from_raw), id(gid).map(Gid::from_raw));
        let _ = rustix::fs::fremovexattr(directory, access_list::DEFAULT);
        match entry.xattrs.iter().find(|(name, _)| *name == access_list::ACCESS) {
            None => {
                let _ = rustix::fs::fremovexattr(directory, access_list::ACCESS);
            }
            // Whoever is not root could not write into it any more.
            Some(_) if entry.mode & 0o700 != 0o700 => return,
            Some((name, list)) => {
                let list = self.list(list, entry);
                let _ = rustix::fs::fsetxattr(directory, *name, &list, XattrFlags::empty());
            }
        }
        // After the list: without it the group could do what the list lets others do.
        let _ = rustix::fs::fchmod(directory, Mode::from_raw_mode(entry.mode & 0o1777) | Mode::RWXU);
    }

    /// Sets all attributes of an entry. The order matters: a new owner clears set-id bits and
    /// capabilities, a mode changes an ACL's mask, and everything changes times.
    pub fn set(&self, on: &On<'_>, entry: &Entry<'_>, path: Path<'_>) {
        self.set_beyond(&Made::default(), on, entry, path);
    }

    /// As [`Self::set`], but for what the entry has already, as it was made with it.
    pub fn set_beyond(&self, made: &Made, on: &On<'_>, entry: &Entry<'_>, path: Path<'_>) {
        let is_owned = self.owner(made, on, entry, path);
        let (acls, others): (Vec<_>, Vec<_>) =
            entry.xattrs.iter().partition(|(name, _)| access_list::is_list(name));
        let is_due = |name: &[u8]| name != LABEL || self.sets_labels;
        for (name, value) in others.into_iter().filter(|(name, _)| is_due(name)) {
            if let Err(e) = set_xattr(on, name, value) {
                self.warn(not_restored(&attribute(name), e));
            }
        }
        if entry.kind != Kind::Symlink {
            self.disinherit(on, entry, path);
            // A set-id bit stands for the owner that it was given by, and for no other.
            let mode = if is_owned { entry.mode } else { entry.mode & !SET_ID };
            if mode != entry.mode {
                self.fail("set-id bits not restored: the owner is another".to_owned(), path);
            }
            let is_made = made.owner.is_some() && made.mode == mode;
            let mode = Mode::from_raw_mode(mode);
            let result = match on {
                _ if is_made => Ok(()),
                On::File(file) => rustix::fs::fchmod(file.fd(), mode),
                On::Name(parent, name) => change_mode(*parent, name, entry.kind, mode),
            };
            self.note(result, "mode", path);
        }
        for (name, value) in acls {
            self.note(set_xattr(on, name, &self.list(value, entry)), &attribute(name), path);
        }
        self.set_times(on, entry);
    }

    /// Sets the times of an entry, which what is done in a directory changes.
    pub fn set_times(&self, on: &On<'_>, entry: &Entry<'_>) {
        let keep = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let times = Timestamps { last_access: keep, last_modification: timespec(entry.mtime) };
        let result = match on {
            On::File(file) => rustix::fs::futimens(file.fd(), &times),
            On::Name(parent, name) => {
                rustix::fs::utimensat(parent.fd(), *name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        };
        if let Err(e) = result {
            self.warn(not_restored("times", e));
        }
    }

    /// Removes access lists that an entry has from the directory it lies in, or from what was there before.
    fn disinherit(&self, on: &On<'_>, entry: &Entry<'_>, path: Path<'_>) {
        let lists = match entry.kind {
            _ if !self.may_inherit => return,
            Kind::Directory => &[access_list::ACCESS, access_list::DEFAULT][..],
            _ => &[access_list::ACCESS],
        };
        for list in lists.iter().filter(|list| !entry.xattrs.iter().any(|(name, _)| name == *list)) {
            let result = match on {
                On::File(file) => rustix::fs::fremovexattr(file.fd(), *list),
                On::Name(parent, name) => rustix::fs::lremovexattr(path_of(*parent, name), *list),
            };
            if !matches!(result, Err(Errno::NODATA | Errno::NOTSUP)) {
                self.note(result, "absence of an access list", path);
            }
        }
    }

    fn note(&self, result: Result<(), Errno>, what: &str, path: Path<'_>) {
        if let Err(e) = result {
            self.fail(not_restored(what, e), path);
        }
    }

    /// Returns the numbers that an entry's owner and group have here.
    fn owners(&self, entry: &Entry<'_>) -> (u32, u32) {
        (self.uid(entry.uid, entry.user), self.gid(entry.gid, entry.group))
    }

    fn uid(&self, number: u32, name: &[u8]) -> u32 {
        self.id(&self.users, number, name, |name| {
            nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
        })
    }

    fn gid(&self, number: u32, name: &[u8]) -> u32 {
        self.id(&self.groups, number, name, |name| {
            nix::unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
        })
    }

    /// Returns an access list with the numbers that those whom it names have here.
    fn list(&self, list: &[u8], entry: &Entry<'_>) -> Vec<u8> {
        fn name<'n>(known: &'n [(u32, Vec<u8>)], number: u32, own: (u32, &'n [u8])) -> &'n [u8] {
            let known = known.iter().find(|(other, _)| *other == number).map(|(_, name)| name.as_slice());
            known.unwrap_or(if own.0 == number { own.1 } else { b"" })
        }
        access_list::renumbered(list, |named| match named {
            Named::User(uid) => self.uid(uid, name(&self.names.users, uid, (entry.uid, entry.user))),
            Named::Group(gid) => self.gid(gid, name(&self.names.groups, gid, (entry.gid, entry.group))),
        })
    }

    /// Gives the entry its owner and group; returns whether it has them.
    fn owner(&self, made: &Made, on: &On<'_>, entry: &Entry<'_>, path: Path<'_>) -> bool {
        let (uid, gid) = self.owners(entry);
        if made.owner == Some((uid, gid)) {
            return true;
        }
        let set = |uid: Option<u32>, gid: Option<u32>| {
            let (uid, gid) = (uid.and_then(id).map(Uid::from_raw), gid.and_then(id).map(Gid::from_raw));
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
                self.fail("owner not restored: only root can give files away".to_owned(), path);
                false
            }
            other => {
                self.note(other, "owner", path);
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
}

/// Returns a number that the kernel does not take for "leave it".
fn id(number: u32) -> Option<u32> {
    Some(number).filter(|number| *number != u32::MAX)
}

fn attribute(name: &[u8]) -> String {
    format!("attribute {}", String::from_utf8_lossy(name))
}

fn not_restored(what: &str, error: Errno) -> String {
    format!("{what} not restored: {}", std::io::Error::from(error))
}

fn set_xattr(on: &On<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    match on {
        On::File(file) => rustix::fs::fsetxattr(file.fd(), name, value, XattrFlags::empty()),
        On::Name(parent, at) => rustix::fs::lsetxattr(path_of(*parent, at), name, value, XattrFlags::empty()),
    }
}

/// Returns the path of a name in an open directory.
fn path_of(parent: &dyn AsFdDyn, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", parent.fd().as_raw_fd()).as_bytes(), name].concat()
}

/// Changes the mode of what lies under a name, if it is of this kind: whoever owns the directory may have put a link
/// there, and chmod(2) follows links.
pub fn change_mode(parent: &dyn AsFdDyn, name: &[u8], kind: Kind, mode: Mode) -> Result<(), Errno> {
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
