//! A restore into an empty directory: all of it lies in a closed directory in there until it is whole and
//! durable; then its top entries are renamed out. `docs/durability.md` has the order, and what each cut leaves.

mod look;
mod marker;

pub use look::{Found, Unfinished, What, look};
pub use marker::{Marker, TopEntries};

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::base::access_list;
use crate::base::entry::Kind;
use crate::op::restore::labels;
use crate::op::restore::lack;
use crate::op::restore::plan::Plan;
use crate::repo::RepoError;
use crate::repo::staging::Staging;
use crate::stage::scan;
use crate::stage::seal::random;
use crate::stage::snapshot::Lack;

/// First bytes of the names that staging directories have, and files until they are whole.
pub const PREFIX: &str = ".snap-restore-";

/// What lies in a staging directory.
const MARKER: &CStr = c"marker";
const MARKER_NEW: &CStr = c"marker.new";
const NAMES: &CStr = c"names";
const NAMES_NEW: &CStr = c"names.new";
const PROBE: &CStr = c"probe";
const TREE: &CStr = c"tree";

/// What a file system that was just made has, and what counts as nothing.
pub const LOST_AND_FOUND: &[u8] = b"lost+found";

/// A staging directory that this run works in.
pub struct Staged {
    /// The target's path.
    shown: String,
    target: Arc<OwnedFd>,
    /// Its name in the target.
    pub name: String,
    directory: OwnedFd,
    /// What is made, all of it below this directory.
    pub tree: Arc<OwnedFd>,
    /// Names of an earlier run that have gone out, or were to.
    listed: TopEntries,
    /// Whether an earlier run began it.
    pub is_resumed: bool,
    /// What the state directory knows.
    known: Staging,
    /// What is to be said of it.
    warnings: Vec<String>,
    /// What it is for.
    marker: Marker,
    /// The marker's file, locked.
    lock: File,
}

impl Staged {
    /// Begins in a target that holds nothing.
    ///
    /// # Errors
    /// [`RepoError::Source`]; nothing was made then, or what was made is gone again.
    pub fn begin(
        target: &Arc<OwnedFd>,
        path: &Path,
        marker: &Marker,
        known: &Staging,
    ) -> Result<Self, RepoError> {
        let shown = path.display().to_string();
        let mut own = [0; 8];
        random(&mut own).map_err(|_| RepoError::System { what: "random bytes" })?;
        let name = format!("{PREFIX}{:016x}", u64::from_le_bytes(own));
        let failed = |e: Errno| {
            let reason = format!("a staging directory cannot be made in it: {}", io::Error::from(e));
            RepoError::Source { path: shown.clone(), reason }
        };
        rustix::fs::mkdirat(target, name.as_str(), Mode::RWXU).map_err(failed)?;
        let made = furnish(target, &name, path, marker, known).map_err(failed);
        let (directory, tree, lock, warnings) =
            made.inspect_err(|_| remove_bare(target, name.as_bytes(), known))?;
        Ok(Self {
            shown,
            target: target.clone(),
            name,
            directory,
            tree: Arc::new(tree),
            listed: TopEntries::default(),
            is_resumed: false,
            known: known.clone(),
            warnings,
            marker: marker.clone(),
            lock,
        })
    }

    /// Goes on where an earlier run stopped.
    ///
    /// # Errors
    /// [`RepoError::Source`] if its tree can't be opened.
    pub fn resume(
        target: &Arc<OwnedFd>,
        path: &Path,
        (name, found): (&[u8], Unfinished),
        known: &Staging,
    ) -> Result<Self, RepoError> {
        let Unfinished { directory, lock, marker, names } = found;
        let shown = path.display().to_string();
        let tree = match rustix::fs::mkdirat(&directory, TREE, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => scan::open_directory(&directory, TREE.to_bytes()),
            Err(e) => Err(e),
        };
        let tree = tree.map_err(|e| {
            let reason = format!("what was begun there cannot be opened: {}", io::Error::from(e));
            RepoError::Source { path: shown.clone(), reason }
        })?;
        let name = String::from_utf8_lossy(name).into_owned(); // one that this program gave
        let warnings = note(known, &directory, &path.join(&name)).into_iter().collect();
        Ok(Self {
            shown,
            target: target.clone(),
            name,
            directory,
            tree: Arc::new(tree),
            listed: names,
            is_resumed: true,
            known: known.clone(),
            warnings,
            marker,
            lock,
        })
    }

    /// Returns the owner and group that a new file in the tree has, with the mode that it is made with but for
    /// `umask`; none if that is not sure, as on file systems that have no owners or modes.
    pub fn owner_of_new(&self, umask: u32) -> Option<(u32, u32)> {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = 0o617; // none that anybody would give all files
        let probe = rustix::fs::openat(&self.directory, PROBE, flags, Mode::from_raw_mode(mode));
        let about = probe.and_then(scan::stat_of).ok();
        let _ = rustix::fs::unlinkat(&self.directory, PROBE, AtFlags::empty()); // ours alone
        let tree = scan::stat_of(&self.tree).ok().filter(|_| !self.is_resumed)?;
        let is_as_made = |stat: scan::Stat, mode: u32| (stat.uid, stat.gid) == own && stat.mode == mode;
        (is_as_made(about?, mode & !umask) && is_as_made(tree, 0o700)).then_some(own)
    }

    /// Returns the names that an earlier run has put in place.
    pub fn gone_out(&self) -> TopEntries {
        let is_out = |(name, inode): &(&Vec<u8>, &u64)| {
            scan::stat_at(&self.tree, name).is_err()
                && scan::stat_at(&self.target, name).is_ok_and(|stat| stat.inode == **inode)
        };
        self.listed.iter().filter(is_out).map(|(name, inode)| (name.clone(), *inode)).collect()
    }

    /// Puts all that was made in place. What can't be is a lack, and stays where it is. Gives the target its attributes,
    /// and removes the staging directory when all is in place: from then on nothing but the target's times is due, and
    /// the state directory has a note of that.
    ///
    /// # Errors
    /// [`RepoError::Source`] if it can't be made durable first: nothing more is in place than was before.
    pub fn put_in_place(self, plan: &mut Plan<'_>) -> Result<(), RepoError> {
        let report = &mut plan.report;
        report.warnings.extend(self.warnings.iter().map(|what| (what.clone(), 1)));
        let failed = |what: &str, e: Errno| failed(&self.shown, &self.name, what, e);
        let names = scan::list(&self.tree).map_err(|e| failed("what was restored cannot be listed", e))?;
        if !names.is_empty() {
            let mut listed = self.listed.clone();
            for name in names.iter() {
                let stat = scan::stat_at(&self.tree, name).map_err(|e| failed("a name cannot be read", e))?;
                listed.insert(name.to_vec(), stat.inode);
            }
            let bytes = marker::build_names(&listed);
            write(&self.directory, (NAMES_NEW, NAMES), &bytes, false)
                .map_err(|e| failed("the list of names cannot be written", e))?;
            rustix::fs::syncfs(&self.directory)
                .map_err(|e| failed("what was restored cannot be made durable", e))?;
            for name in names.iter() {
                if let Err(e) = self.put_out(name) {
                    report.lacks.push(self.stays(name, e));
                }
            }
            rustix::fs::fsync(&self.tree).map_err(|e| failed("the target cannot be synced", e))?;
        }
        // An ordinary user may not be let remove anything in it then; a cut in between is told by the note of the end.
        let is_settled = plan.is_writable_settled();
        if is_settled {
            plan.settle();
        }
        rustix::fs::fsync(&self.target).map_err(|e| failed("the target cannot be synced", e))?;
        if !scan::list(&self.tree).is_ok_and(|left| left.is_empty()) {
            if !is_settled {
                plan.settle();
            }
            return Ok(()); // said already
        }
        let target = scan::stat_of(&self.target).ok();
        if let Some(target) = &target {
            let _ = self.known.note_end(target, &self.marker.build()); // without it a cut now may cost the target's times
        }
        let (place, known, name) = (self.target.clone(), self.known.clone(), self.name.clone());
        if let Err(e) = self.remove() {
            let what = format!("{name} cannot be removed, and is not needed any more: {e}");
            plan.report.warnings.push((what, 1));
        }
        if is_settled {
            plan.settle_times()
        } else {
            plan.settle()
        }
        let is_durable = rustix::fs::fsync(&place).is_ok();
        if let Some(target) = target.filter(|_| is_durable) {
            let _ = known.forget_end(&target); // the next restore into it forgets it too
        }
        Ok(())
    }

    /// Leaves everything for a later run to go on with; if there is nothing yet, nothing is left.
    pub fn leave(self) {
        if self.listed.is_empty() && scan::list(&self.tree).is_ok_and(|made| made.is_empty()) {
            let _ = self.remove(); // it holds nothing: a later run takes it for what it is
        }
    }

    /// Renames an entry out of the tree, over nothing.
    fn put_out(&self, name: &[u8]) -> Result<(), Errno> {
        match rename_new((&self.tree, name), (&self.target, name)) {
            // Its `..` is to be written, which an ordinary user may do only where it may write.
            Err(Errno::ACCESS) => {
                let about = scan::stat_at(&self.tree, name)?;
                let directory = scan::open_directory(&self.tree, name).map_err(|_| Errno::ACCESS)?;
                rustix::fs::fchmod(&directory, Mode::RWXU)?;
                let renamed = rename_new((&self.tree, name), (&self.target, name));
                rustix::fs::fchmod(&directory, Mode::from_raw_mode(about.mode))?;
                renamed
            }
            // A file system has its own, for its own use.
            Err(Errno::EXIST) if name == LOST_AND_FOUND => {
                rustix::fs::unlinkat(&self.tree, name, AtFlags::REMOVEDIR).map_err(|_| Errno::EXIST)
            }
            other => other,
        }
    }

    fn stays(&self, name: &[u8], error: Errno) -> Lack {
        let why = match error {
            Errno::EXIST => "something with that name has appeared in the target meanwhile".to_owned(),
            e => format!("cannot be put in place: {}", io::Error::from(e)),
        };
        let reason = format!(
            "{why}; what was restored of it lies in {}/tree: move one of them away and run it again with --continue",
            self.name
        );
        lack(name, reason)
    }

    /// Removes the directory, whose tree must be empty.
    fn remove(self) -> Result<(), io::Error> {
        let about = scan::stat_of(&self.directory)?;
        rustix::fs::unlinkat(&self.directory, TREE, AtFlags::REMOVEDIR)?;
        // The marker first: without it nothing is taken for a restore to go on with, whatever the list says.
        for name in [MARKER, PROBE, NAMES_NEW, NAMES] {
            match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
                Err(e) if e != Errno::NOENT => return Err(e.into()),
                _ => {}
            }
        }
        drop(self.lock); // on NFS an open file keeps its directory from being removed
        let _ = self.known.forget(&about); // before it goes: then no note of it is left, and it holds nothing
        if scan::stat_at(&self.target, self.name.as_bytes())?.inode == about.inode {
            rustix::fs::unlinkat(&self.target, self.name.as_str(), AtFlags::REMOVEDIR)?;
        }
        rustix::fs::fsync(&self.target)?;
        Ok(())
    }
}

/// Returns the error for a target that can't take what is restored, with what to do.
pub fn failed(target: &str, staging: &str, what: &str, error: Errno) -> RepoError {
    let cure = if matches!(error, Errno::NOSPC | Errno::DQUOT) { "make room" } else { "mend that" };
    let reason = format!(
        "{what}: {}; nothing more was put in place. What was restored so far lies in {staging}: {cure} and run the same again with --continue, or remove it",
        io::Error::from(error)
    );
    RepoError::Source { path: target.to_owned(), reason }
}

/// Removes a staging directory whose tree holds nothing.
pub fn remove_bare(target: &OwnedFd, name: &[u8], known: &Staging) {
    if let Ok(directory) = scan::open_directory(target, name)
        && !matches!(rustix::fs::unlinkat(&directory, TREE, AtFlags::REMOVEDIR), Err(Errno::NOTEMPTY))
    {
        for inside in [MARKER, MARKER_NEW, PROBE, NAMES_NEW, NAMES] {
            let _ = rustix::fs::unlinkat(&directory, inside, AtFlags::empty()); // ours alone
        }
        if let Ok(about) = scan::stat_of(&directory) {
            let _ = known.forget(&about); // as in Staged::remove
        }
        let _ = rustix::fs::unlinkat(target, name, AtFlags::REMOVEDIR); // what stays is in nobody's way
    }
}

/// Makes what a staging directory that was just made holds.
fn furnish(
    target: &OwnedFd,
    name: &str,
    path: &Path,
    marker: &Marker,
    known: &Staging,
) -> Result<(OwnedFd, OwnedFd, File, Vec<String>), Errno> {
    let directory = scan::open_directory(target, name.as_bytes())?;
    close_to_others(&directory)?;
    labels::keep(target, name.as_bytes(), name.as_bytes());
    let warnings = note(known, &directory, &path.join(name)).into_iter().collect();
    let lock = write(&directory, (MARKER_NEW, MARKER), &marker.build(), true)?;
    // What is made in it is ours on this file system: then it is the one that was made, whoever owns the target.
    if scan::stat_of(&lock)?.uid != scan::stat_of(&directory)?.uid {
        return Err(Errno::PERM);
    }
    rustix::fs::mkdirat(&directory, TREE, Mode::RWXU)?;
    let tree = scan::open_directory(&directory, TREE.to_bytes())?;
    close_to_others(&tree)?;
    labels::keep(&directory, TREE.to_bytes(), TREE.to_bytes());
    Ok((directory, tree, lock, warnings))
}

/// Takes back what a directory that was just made got from the one it lies in.
fn close_to_others(directory: &OwnedFd) -> Result<(), Errno> {
    for list in [access_list::ACCESS, access_list::DEFAULT] {
        match rustix::fs::fremovexattr(directory, list) {
            Err(e) if !matches!(e, Errno::NODATA | Errno::NOTSUP) => return Err(e),
            _ => {}
        }
    }
    let group = rustix::process::getegid();
    if scan::stat_of(directory)?.gid != group.as_raw() {
        let _ = rustix::fs::fchown(directory, None, Some(group)); // where it can't be, files get theirs one by one
    }
    match rustix::fs::fchmod(directory, Mode::RWXU) {
        Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS) => Ok(()), // a file system without modes
        other => other,
    }
}

/// Notes a staging directory in the state directory; returns what is to be said if that can't be.
fn note(known: &Staging, directory: &OwnedFd, path: &Path) -> Option<String> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let about = scan::stat_of(directory).ok()?;
    let noted = known.note(&about, &path);
    noted.err().map(|e| {
        format!(
            "a backup of the target in the meantime would not leave the staging directory out: {}",
            e.chain()
        )
    })
}

/// Writes a file that has its name only when all of it is there; and locks it.
fn write(
    directory: &OwnedFd,
    (new, name): (&CStr, &CStr),
    bytes: &[u8],
    is_synced: bool,
) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, new, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(file);
    // Nobody else has it; where there are no locks, two runs are only kept apart by names that are taken.
    let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    file.write_all(bytes).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    if is_synced {
        rustix::fs::fsync(&file)?;
    }
    rustix::fs::renameat(directory, new, directory, name)?;
    Ok(file)
}

/// Renames, over nothing.
fn rename_new((from, old): (&OwnedFd, &[u8]), (to, new): (&OwnedFd, &[u8])) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) if scan::stat_at(to, new).is_err_and(|e| e == Errno::NOENT) => {
            rustix::fs::renameat(from, old, to, new) // a file system without the flag
        }
        Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST),
        other => other,
    }
}

/// Returns whether a name of a target counts as nothing.
pub fn is_nothing(target: &OwnedFd, name: &[u8]) -> bool {
    name == LOST_AND_FOUND && scan::stat_at(target, name).is_ok_and(|stat| stat.kind == Some(Kind::Directory))
}
