//! Going down: opening a subdirectory and listing it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rayon::Scope;
use rustix::io::Errno;

use crate::base::content::ContentBuf;
use crate::base::entry::{Kind, quoted};
use crate::op::backup::excludes::Place;
use crate::op::backup::mailbox::{Inside, Side};
use crate::op::backup::own::MOUNT;
use crate::op::backup::pending::{Pending, Up};
use crate::op::backup::rename::old_directory;
use crate::op::backup::run::{Part, Run};
use crate::op::backup::walk::{Visit, visit};
use crate::op::backup::wanted::Wanted;
use crate::repo::RepoError;
use crate::stage::scan::{self, Mailbox, Stat};

/// A subdirectory that is about to be walked.
pub struct Child<'s> {
    /// The run.
    pub run: &'s Run<'s>,
    /// The directory above.
    pub directory: Arc<Pending>,
    /// Its component.
    pub part: Arc<Part>,
    /// Its place in the directory above.
    pub slot: u32,
    /// Its name.
    pub name: Vec<u8>,
    /// Its path on the source machine, for messages.
    pub path: Vec<u8>,
    /// Its inode, when it was listed.
    pub inode: u64,
    /// Its place, for excludes.
    pub inside: Place,
    /// What the parent snapshot has in its place.
    pub old: Option<ContentBuf>,
    /// What is wanted of it; none if all of it is.
    pub only: Option<Wanted>,
    /// Its place in a mailbox.
    pub mailbox: Option<Inside>,
}

impl<'s> Child<'s> {
    /// Opens it and walks it; one that can't be opened is a lack.
    ///
    /// # Errors
    /// What building its parent meets.
    pub fn open(self, scope: &Scope<'s>, parent: &OwnedFd) -> Result<(), RepoError> {
        let path = self.path.clone();
        let opened = scan::open_directory(parent, &self.name).and_then(|fd| Ok((scan::stat_of(&fd)?, fd)));
        let (stat, fd) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                let reason = match e {
                    Errno::NOENT => self.new_name(parent).map(|new| {
                        format!("renamed to {} during the backup; the next one has it", quoted(&new))
                    }),
                    e => Some(format!("directory cannot be opened: {}", std::io::Error::from(e))),
                };
                match reason {
                    Some(reason) => self.run.lack(Some(&self.part), path, reason),
                    None => self.run.skip(path, "removed during the backup"),
                }
                return self.directory.put(self.run, self.slot, None);
            }
        };
        self.enter(scope, fd, stat)
    }

    /// Walks it, which is open.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn enter(self, scope: &Scope<'s>, fd: OwnedFd, stat: Stat) -> Result<(), RepoError> {
        let path = self.path;
        let filesystem = self.run.filesystem(&self.part, stat.filesystem, &fd);
        let mut scanned = self.run.scanned(&self.name, stat, filesystem, Kind::Directory);
        scanned.xattrs = self.run.xattrs(scan::xattrs_of(&fd), &self.part, || path.clone());
        let depth = self.directory.depth + 1;
        let old = self.old.and_then(|content| old_directory(self.run.reader, content));
        let up = Up::Into(self.directory, self.slot, Box::new(scanned));
        let directory = Pending::new(up, path, Some(self.part.clone()), depth, old);
        let Self { run, part, inside, only, mailbox, .. } = self;
        visit(scope, run, Visit { directory, part, fd, inside, mailbox, only });
        Ok(())
    }

    /// Returns the name that the directory has now, if it is still beside where it was.
    fn new_name(&self, parent: &OwnedFd) -> Option<Vec<u8>> {
        let names = scan::list(parent).ok()?;
        let mut same = names.iter_with_inodes().filter(|(_, inode)| *inode == self.inode);
        same.find_map(|(name, _)| {
            let stat = scan::stat_at(parent, name).ok()?;
            (stat.kind == Some(Kind::Directory) && stat.inode == self.inode).then(|| name.to_vec())
        })
    }
}

/// Lists a directory and examines its entries; what vanishes meanwhile is left out, and what was named is
/// left to [`add_named`] if it can't be examined.
///
/// # Errors
/// As getdents64(2).
pub fn list(
    run: &Run<'_>,
    directory: &Pending,
    fd: &OwnedFd,
    only: Option<&Wanted>,
) -> Result<Vec<(Vec<u8>, Stat)>, Errno> {
    let names = scan::list_stable(fd)?.0;
    let mut listed = Vec::with_capacity(names.len());
    for name in names.iter() {
        match scan::stat_at(fd, name) {
            Ok(stat) => listed.push((name.to_vec(), stat)),
            Err(Errno::NOENT) => {} // gone meanwhile
            Err(_) if Wanted::leads(only, name) => {}
            // A mount of another user can't be examined, one whose program was killed neither.
            Err(_) if scan::device_at(fd, name).is_ok_and(|device| run.mounts.has(device)) => {
                run.skip([&directory.path, &b"/"[..], name].concat(), MOUNT);
            }
            Err(e) => not_examined(run, directory, name, e),
        }
    }
    Ok(listed)
}

/// Adds what was named in a directory, or leads to what was, to what was listed of it. What is not there is a lack.
pub fn add_named(
    run: &Run<'_>,
    directory: &Pending,
    fd: &OwnedFd,
    only: Option<&Wanted>,
    listed: &mut Vec<(Vec<u8>, Stat)>,
) {
    for name in Wanted::names(only) {
        let Err(at) = listed.binary_search_by(|(other, _)| other.as_slice().cmp(name)) else { continue };
        match scan::stat_at(fd, name) {
            Ok(stat) => listed.insert(at, (name.to_vec(), stat)),
            Err(e) => not_examined(run, directory, name, e),
        }
    }
}

fn not_examined(run: &Run<'_>, directory: &Pending, name: &[u8], error: Errno) {
    let path = [&directory.path, &b"/"[..], name].concat();
    run.lack(directory.part.as_deref(), path, std::io::Error::from(error).to_string());
}

/// Examines what a mailbox listed of a directory. A message that has moved since is examined where
/// it is now, and counts as here; one that was expunged is left out.
pub fn examine(run: &Run<'_>, directory: &Pending, fd: &OwnedFd, side: &Side) -> Vec<(Vec<u8>, Stat)> {
    let mut listed = Vec::with_capacity(side.names.len());
    for (name, inode) in side.names.iter_with_inodes() {
        let stat = |fd: &OwnedFd, name: &[u8]| scan::stat_at(fd, name);
        match Mailbox::follow(Some(&side.mailbox), fd, name, inode, stat) {
            Ok(stat) => listed.push((name.to_vec(), stat)),
            Err(Errno::NOENT) => {}
            Err(e) => not_examined(run, directory, name, e),
        }
    }
    listed
}
