//! The parallel walk: directories are listed, compared with the parent snapshot, and what is new
//! is handed to the cutters. Never reads a file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::Scope;

use crate::base::content::ContentBuf;
use crate::base::entry::{Entry, Kind};
use crate::base::limits::TREE_DEPTH_MAX;
use crate::base::progress::Done;
use crate::op::backup::child::{Child, examine, list};
use crate::op::backup::cut::{Batch, Job};
use crate::op::backup::mailbox::{self, Inside};
use crate::op::backup::pending::{OldDirectory, Pending, Slot, no_content};
use crate::op::backup::run::{Part, Run, count};
use crate::op::backup::wanted::{Wanted, open_named};
use crate::repo::RepoError;
use crate::stage::scan::{self, Mailbox, Stat};

/// A directory to walk.
pub struct Visit {
    /// The directory.
    pub directory: Arc<Pending>,
    /// Its component.
    pub part: Arc<Part>,
    /// The directory, open.
    pub fd: OwnedFd,
    /// Its path below the component's root, for excludes.
    pub inside: Vec<u8>,
    /// Its place in a mailbox.
    pub mailbox: Option<Inside>,
    /// The only names that are wanted, and what is wanted below them.
    pub only: Option<Wanted>,
}

/// Walks a directory and, on other threads, what lies below it.
pub fn visit<'s>(scope: &Scope<'s>, run: &'s Run<'s>, visit: Visit) {
    if !run.is_stopped() {
        let result = Walk::new(run, visit).and_then(|walk| walk.go(scope));
        run.check(result);
    }
}

/// A directory that is being walked.
pub struct Walk<'s> {
    /// The run.
    pub run: &'s Run<'s>,
    /// The directory.
    pub directory: Arc<Pending>,
    /// Its component.
    pub part: Arc<Part>,
    /// The directory, open.
    pub fd: Arc<OwnedFd>,
    /// Its path below the component's root.
    pub inside: Vec<u8>,
    /// Its place in a mailbox.
    pub mailbox: Option<Inside>,
    /// The mailbox, if it holds messages.
    pub messages: Option<Arc<Mailbox>>,
    /// Its entries.
    pub listed: Vec<(Vec<u8>, Stat)>,
    /// The only names wanted.
    pub only: Option<Wanted>,
    /// What was decided so far.
    pub slots: Vec<Slot>,
    /// Files to read, not sent yet.
    pub batch: Vec<Job>,
    /// Their bytes.
    pub batch_bytes: u64,
}

/// Bytes and files in one batch: what one cutter reads at a stretch.
pub const BATCH_BYTES: u64 = 4 << 20;
/// See [`BATCH_BYTES`].
pub const BATCH_FILES: usize = 512;

impl<'s> Walk<'s> {
    fn new(run: &'s Run<'s>, visit: Visit) -> Result<Self, RepoError> {
        let side = visit.mailbox.as_ref().and_then(Inside::take);
        let listed = match &side {
            Some(side) => examine(run, &visit.directory, &visit.fd, side),
            None => match list(run, &visit.directory, &visit.fd, visit.only.as_ref()) {
                Ok(listed) => listed,
                Err(e) => {
                    let reason = format!("directory cannot be listed: {}", std::io::Error::from(e));
                    run.lack(Some(&visit.part), visit.directory.path.clone(), reason);
                    Vec::new()
                }
            },
        };
        Ok(Self {
            run,
            directory: visit.directory,
            part: visit.part,
            fd: Arc::new(visit.fd),
            inside: visit.inside,
            mailbox: visit.mailbox,
            messages: side.map(|side| side.mailbox),
            only: visit.only,
            slots: Vec::with_capacity(listed.len()),
            listed,
            batch: Vec::new(),
            batch_bytes: 0,
        })
    }

    fn go(mut self, scope: &Scope<'s>) -> Result<(), RepoError> {
        count(&self.run.counts.directories, 1);
        self.run.progress.add(Done { files: 1, bytes: 0 });
        let listed = std::mem::take(&mut self.listed);
        let present = &self.run.rules.exclude_if_present;
        let is_excluded = present.iter().any(|tag| listed.iter().any(|(name, _)| name == tag));
        self.look_for_mailbox(&listed);
        let old = self.directory.old.clone();
        let mut old_entries = old.iter().flat_map(OldDirectory::entries).map_while(Result::ok).peekable();
        for (name, stat) in listed.iter().filter(|_| !is_excluded) {
            if self.run.is_stopped() {
                return Err(RepoError::Interrupted);
            }
            while old_entries.next_if(|(_, old)| old.name < name.as_slice()).is_some() {}
            let same_name = old_entries.next_if(|(_, old)| old.name == name.as_slice());
            if self.is_left_out(name, stat) {
                continue;
            }
            match same_name {
                Some((range, old)) => {
                    self.entry(scope, name, *stat, Some((slot_of(&range), &old)))?;
                }
                None => self.entry(scope, name, *stat, None)?,
            }
        }
        self.send_batch()?;
        self.directory.settle(self.run, self.slots)
    }

    /// Takes the inventory of a mailbox, if this directory is the outermost Maildir folder of one.
    fn look_for_mailbox(&mut self, listed: &[(Vec<u8>, Stat)]) {
        let directories = || {
            let all = listed.iter().filter(|(_, stat)| stat.kind == Some(Kind::Directory));
            all.map(|(name, _)| name.as_slice())
        };
        let is_known = self.mailbox.as_ref().is_some_and(Inside::is_known_folder);
        let is_folder = || mailbox::is_folder(|wanted| directories().any(|name| name == wanted));
        if !is_known && self.only.is_none() && is_folder() {
            let wanted = directories().filter(|name| !self.is_excluded(name, true));
            self.mailbox = Inside::new(&self.fd, wanted);
        }
    }

    fn is_excluded(&self, name: &[u8], is_directory: bool) -> bool {
        // What was named, and what leads there, is not left out.
        if self.only.is_some() || self.part.excludes.is_empty() {
            return false;
        }
        let path = [&self.inside, name].concat();
        self.part.excludes.matched(Path::new(OsStr::from_bytes(&path)), is_directory).is_ignore()
    }

    /// Returns whether an entry is not wanted; notes those that could not be stored.
    fn is_left_out(&self, name: &[u8], stat: &Stat) -> bool {
        let is_directory = stat.kind == Some(Kind::Directory);
        if self.is_excluded(name, is_directory) {
            return true;
        }
        if stat.kind.is_none() {
            self.run.skip(self.path_of(name), "socket or unknown kind of file");
            return true;
        }
        if is_directory && self.run.rules.own_directory == Some((stat.filesystem, stat.inode)) {
            self.run.skip(self.path_of(name), "the repository itself");
            return true;
        }
        false
    }

    /// Returns the path of an entry, for messages.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        [&self.directory.path, &b"/"[..], name].concat()
    }

    /// Notes what was decided about the next entry; returns its place.
    pub fn next_slot(&mut self, slot: Slot) -> u32 {
        self.slots.push(slot);
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    fn entry(
        &mut self,
        scope: &Scope<'s>,
        name: &[u8],
        stat: Stat,
        old: Option<(Slot, &Entry<'_>)>,
    ) -> Result<(), RepoError> {
        let Some(kind) = stat.kind else { return Ok(()) };
        if kind != Kind::Directory && Wanted::below(&self.only, name).is_some() {
            let reason =
                "not a directory: what was asked for below it is not there; name the path that it leads to";
            self.run.lack(Some(&self.part), self.path_of(name), reason);
            return Ok(());
        }
        match kind {
            Kind::Directory => self.subdirectory(scope, name, stat, old.map(|(_, old)| old)),
            Kind::File => self.file(name, stat, old),
            _ => self.special(name, stat, kind, old),
        }
    }

    fn subdirectory(
        &mut self,
        scope: &Scope<'s>,
        name: &[u8],
        stat: Stat,
        old: Option<&Entry<'_>>,
    ) -> Result<(), RepoError> {
        let old = old.filter(|old| old.kind == Kind::Directory).map(|old| old.content.to_owned());
        let slot = self.next_slot(Slot::Later);
        let filesystem = self.run.filesystem(&self.part, stat.filesystem, &self.fd);
        // What was named, and what leads there, is entered wherever it lies.
        if self.run.rules.one_file_system && self.only.is_none() && self.is_mounted_here(&stat) {
            let scanned = self.run.scanned(name, stat, filesystem, Kind::Directory);
            self.directory.put_now(slot, scanned.encode(no_content())?);
            return Ok(());
        }
        if self.directory.depth >= TREE_DEPTH_MAX {
            self.run.lack(Some(&self.part), self.path_of(name), "directories are nested too deeply");
            return Ok(());
        }
        let (parent, child) = (self.fd.clone(), self.child(name, slot, stat.inode, old));
        scope.spawn(move |scope| {
            let run = child.run;
            run.check(child.open(scope, &parent));
        });
        Ok(())
    }

    /// Takes the directory that a link leads to for what the link's name stands for: a directory that
    /// was named and has been moved to another disk since is still what is meant.
    fn linked(
        &mut self,
        scope: &Scope<'s>,
        name: &[u8],
        fd: OwnedFd,
        old: Option<&Entry<'_>>,
    ) -> Result<(), RepoError> {
        let old = old.filter(|old| old.kind == Kind::Directory).map(|old| old.content.to_owned());
        let slot = self.next_slot(Slot::Later);
        let stat = match scan::stat_of(&fd) {
            Ok(stat) => stat,
            Err(e) => {
                let reason = format!("directory cannot be read: {}", std::io::Error::from(e));
                self.run.lack(Some(&self.part), self.path_of(name), reason);
                return Ok(());
            }
        };
        self.child(name, slot, stat.inode, old).enter(scope, fd, stat)
    }

    /// Returns what is about to be walked as `name`, and is waited for.
    fn child(&self, name: &[u8], slot: u32, inode: u64, old: Option<ContentBuf>) -> Child<'s> {
        self.directory.expect();
        Child {
            run: self.run,
            directory: self.directory.clone(),
            part: self.part.clone(),
            slot,
            name: name.to_vec(),
            inode,
            inside: self.inside_of(name),
            old,
            only: Wanted::below(&self.only, name),
            mailbox: self.mailbox.as_ref().map(|mailbox| mailbox.below(name)),
        }
    }

    /// Returns whether a directory lies on another file system than the one that it is in.
    fn is_mounted_here(&self, stat: &Stat) -> bool {
        scan::stat_of(&*self.fd).is_ok_and(|here| here.filesystem != stat.filesystem)
    }

    fn inside_of(&self, name: &[u8]) -> Vec<u8> {
        match self.part.excludes.is_empty() {
            true => Vec::new(), // nobody asks
            false => [&self.inside, name, b"/"].concat(),
        }
    }

    /// Hands the files gathered so far to the cutters.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`] once the run is over.
    pub fn send_batch(&mut self) -> Result<(), RepoError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        let batch = Batch {
            directory: self.directory.clone(),
            part: self.part.clone(),
            fd: self.fd.clone(),
            mailbox: self.messages.clone(),
            jobs: std::mem::take(&mut self.batch),
        };
        self.run.send(batch)
    }
}

/// Puts sources that lie in different places side by side into one directory. `streams` are names
/// that others will put there: each gets its slot by `announce`.
pub fn visit_sources<'s>(
    scope: &Scope<'s>,
    run: &'s Run<'s>,
    directory: &Arc<Pending>,
    part: &Arc<Part>,
    sources: &BTreeMap<Vec<u8>, Option<PathBuf>>,
    mut announce: impl FnMut(&[u8], u32),
) -> Result<(), RepoError> {
    let mut slots = Vec::new();
    let old = directory.old.clone();
    for (name, path) in sources {
        let Some(path) = path else {
            directory.expect();
            slots.push(Slot::Later);
            announce(name, u32::try_from(slots.len() - 1).unwrap_or(u32::MAX));
            continue;
        };
        let parent = path.parent().unwrap_or(Path::new("/"));
        let opened = open_named(parent).and_then(|fd| Ok((scan::stat_at(&fd, name)?, fd)));
        let (stat, fd) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                let reason = std::io::Error::from(e).to_string();
                run.lack(Some(part), path.as_os_str().as_bytes().to_vec(), reason);
                continue;
            }
        };
        let mut next = Walk {
            run,
            directory: directory.clone(),
            part: part.clone(),
            fd: Arc::new(fd),
            inside: Vec::new(),
            mailbox: None,
            messages: None,
            listed: Vec::new(),
            only: Some(Wanted(BTreeMap::from([(name.clone(), Wanted::default())]))),
            slots,
            batch: Vec::new(),
            batch_bytes: 0,
        };
        let old = old.iter().flat_map(OldDirectory::entries).map_while(Result::ok);
        let same = old.into_iter().find(|(_, old)| old.name == name.as_slice());
        let same = same.as_ref().map(|(range, old)| (slot_of(range), old));
        let is_link = stat.kind == Some(Kind::Symlink);
        match is_link.then(|| open_named(path)) {
            Some(Ok(target)) => next.linked(scope, name, target, same.map(|(_, old)| old))?,
            _ => next.entry(scope, name, stat, same)?,
        }
        next.send_batch()?;
        slots = std::mem::take(&mut next.slots);
    }
    directory.settle(run, slots)
}

fn slot_of(range: &std::ops::Range<usize>) -> Slot {
    Slot::Old {
        start: u32::try_from(range.start).unwrap_or(u32::MAX),
        bytes: u32::try_from(range.len()).unwrap_or(u32::MAX),
    }
}
