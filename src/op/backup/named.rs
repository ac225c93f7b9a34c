//! What becomes of an entry of a directory that is walked: left out, taken, or, if it was named, followed.

use std::os::fd::OwnedFd;

use rayon::Scope;
use rustix::fs::{Mode, OFlags};

use crate::base::entry::{Entry, Kind, quoted};
use crate::op::backup::own::{MOUNT, REPOSITORY};
use crate::op::backup::pending::Slot;
use crate::op::backup::walk::Walk;
use crate::op::backup::wanted::{Wanted, link_failure};
use crate::repo::RepoError;
use crate::stage::scan::{self, Stat};

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It is stored.
    Taken,
    /// It is a directory of which only what was named below it is stored.
    OnTheWay,
    /// It is not stored.
    Out,
}

impl<'s> Walk<'s> {
    /// Says what becomes of an entry; notes what is not as somebody might expect. `was_there` is whether
    /// the parent snapshot has one of its name.
    pub fn judge(&self, name: &[u8], stat: &Stat, was_there: bool) -> Judged {
        let is_directory = stat.kind == Some(Kind::Directory);
        let leads = Wanted::leads(self.only.as_ref(), name);
        let left_out = if leads { Judged::OnTheWay } else { Judged::Out };
        let own = is_directory.then(|| self.own_place(name, stat)).flatten();
        if leads && own == Some(REPOSITORY) {
            let reason = format!("{REPOSITORY}, which is not backed up into itself");
            self.run.lack(Some(&self.part), self.path_of(name), reason);
            return Judged::Out;
        }
        if self.is_excluded(name, is_directory) {
            if was_there
                && !leads
                && let Some(pattern) = self.part.excludes.newly(&self.inside, name, is_directory)
            {
                self.run.warnings.newly_left_out(&self.part.name, pattern, self.path_of(name));
            }
            return left_out;
        }
        if stat.kind.is_none() && !leads {
            self.run.skip(self.path_of(name), "socket or unknown kind of file");
            return Judged::Out;
        }
        let Some(own) = own else { return Judged::Taken };
        if !leads {
            self.run.skip(self.path_of(name), own);
        }
        left_out
    }

    fn own_place(&self, name: &[u8], stat: &Stat) -> Option<&'static str> {
        let is_other = stat.filesystem != self.part.device;
        let is_mount = || is_other && self.run.mounts.has(stat.filesystem) && self.is_mounted_here(stat);
        self.run.rules.own.which(name, stat).or_else(|| is_mount().then_some(MOUNT))
    }

    /// Stores an entry that was named itself. A link to a directory stands for what it leads to:
    /// one that has been moved to another disk since is still what is meant.
    ///
    /// # Errors
    /// What building its directory meets.
    pub fn named_entry(
        &mut self,
        scope: &Scope<'s>,
        name: &[u8],
        stat: Stat,
        old: Option<(Slot, &Entry<'_>)>,
    ) -> Result<(), RepoError> {
        let path = self.path_of(name);
        let warn = |what: &str| self.run.warnings.line(format!("{}: {what}", quoted(&path)));
        match stat.kind {
            Some(Kind::Symlink) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                match rustix::fs::openat(&*self.fd, name, flags, Mode::empty()) {
                    Ok(target) => return self.linked(scope, name, target, old.map(|(_, old)| old)),
                    Err(rustix::io::Errno::NOTDIR) => {
                        warn("the link is stored, not the file that it leads to: name that instead");
                    }
                    Err(e) => {
                        self.run.lack(Some(&self.part), path, link_failure(e));
                        return Ok(());
                    }
                }
            }
            Some(Kind::Fifo | Kind::CharDevice | Kind::BlockDevice) => {
                warn(
                    "it is stored as what it is, nothing of what can be read from it: --stdin-name takes that",
                );
            }
            Some(Kind::File | Kind::Directory) => {}
            None => {
                let reason = "a socket or unknown kind of file, of which nothing can be stored";
                self.run.lack(Some(&self.part), path, reason);
                return Ok(());
            }
        }
        self.entry(scope, name, stat, old, Judged::Taken)
    }

    /// Stores the directory that a named link leads to as what the link's name stands for.
    fn linked(
        &mut self,
        scope: &Scope<'s>,
        name: &[u8],
        fd: OwnedFd,
        old: Option<&Entry<'_>>,
    ) -> Result<(), RepoError> {
        let old = old.filter(|old| old.kind == Kind::Directory).map(|old| old.content.to_owned());
        let stat = match scan::stat_of(&fd) {
            Ok(stat) => stat,
            Err(e) => {
                let reason = format!("directory cannot be read: {}", std::io::Error::from(e));
                self.run.lack(Some(&self.part), self.path_of(name), reason);
                return Ok(());
            }
        };
        if self.judge(name, &stat, false) == Judged::Out {
            return Ok(());
        }
        let slot = self.next_slot(Slot::Later);
        self.child(name, slot, stat.inode, old, Judged::Taken).enter(scope, fd, stat)
    }
}
