//! The parallel walk: directories are listed, compared with the parent snapshot, and what is new
//! is handed to the cutters. Never reads a file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::Scope;
use rustix::fs::{Mode, OFlags};

use crate::base::content::ContentBuf;
use crate::base::entry::{Entry, Kind};
use crate::base::limits::TREE_DEPTH_MAX;
use crate::base::progress::Done;
use crate::op::backup::child::{Child, list};
use crate::op::backup::cut::{Batch, Job};
use crate::op::backup::pending::{OldDirectory, Pending, Slot, no_content};
use crate::op::backup::run::{Part, Run, count};
use crate::op::backup::wanted::Wanted;
use crate::repo::RepoError;
use crate::stage::scan::{self, Listing, Maildir, Stat};

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
    /// Names and what they are, if they were listed already.
    pub listed: Option<Vec<(Vec<u8>, Stat)>>,
    /// The Maildir folder that it is a part of.
    pub maildir: Option<Arc<Maildir>>,
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
    /// The Maildir folder that it is a part of.
    pub maildir: Option<Arc<Maildir>>,
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
    /// Sides of a Maildir folder among the entries: slot, name, the old directory.
    pub sides: Vec<(u32, Vec<u8>, Stat)>,
}

/// Bytes and files in one batch: what one cutter reads at a stretch.
pub const BATCH_BYTES: u64 = 4 << 20;
/// See [`BATCH_BYTES`].
pub const BATCH_FILES: usize = 512;

impl<'s> Walk<'s> {
    fn new(run: &'s Run<'s>, visit: Visit) -> Result<Self, RepoError> {
        let listed = match visit.listed {
            Some(listed) => listed,
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
            maildir: visit.maildir,
            only: visit.only,
            slots: Vec::with_capacity(listed.len()),
            listed,
            batch: Vec::new(),
            batch_bytes: 0,
            sides: Vec::new(),
        })
    }

    fn go(mut self, scope: &Scope<'s>) -> Result<(), RepoError> {
        count(&self.run.counts.directories, 1);
        self.run.progress.add(Done { files: 1, bytes: 0 });
        let listed = std::mem::take(&mut self.listed);
        let present = &self.run.rules.exclude_if_present;
        let is_excluded = present.iter().any(|tag| listed.iter().any(|(name, _)| name == tag));
        let has = |wanted: &[u8]| {
            listed.iter().any(|(name, stat)| name == wanted && stat.kind == Some(Kind::Directory))
        };
        let is_maildir = self.only.is_none() && has(b"cur") && has(b"new") && has(b"tmp");
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
                    self.entry(scope, name, *stat, Some((slot_of(&range), &old)), is_maildir)?;
                }
                None => self.entry(scope, name, *stat, None, is_maildir)?,
            }
        }
        self.send_batch()?;
        self.visit_sides(scope)?;
        self.directory.settle(self.run, self.slots)
    }

    /// Returns whether an entry is not wanted; notes those that could not be stored.
    fn is_left_out(&self, name: &[u8], stat: &Stat) -> bool {
        let is_directory = stat.kind == Some(Kind::Directory);
        if !self.part.excludes.is_empty() {
            let path = [&self.inside, name].concat();
            let path = Path::new(OsStr::from_bytes(&path));
            if self.part.excludes.matched(path, is_directory).is_ignore() {
                return true;
            }
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
        is_maildir: bool,
    ) -> Result<(), RepoError> {
        let Some(kind) = stat.kind else { return Ok(()) };
        match kind {
            Kind::Directory => self.subdirectory(scope, name, stat, old.map(|(_, old)| old), is_maildir),
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
        is_maildir: bool,
    ) -> Result<(), RepoError> {
        let old = old.filter(|old| old.kind == Kind::Directory).map(|old| old.content.to_owned());
        let slot = self.next_slot(Slot::Later);
        let filesystem = self.run.filesystem(&self.part, stat.filesystem, &self.fd);
        if self.run.rules.one_file_system && filesystem != 0 {
            let scanned = self.run.scanned(name, stat, filesystem, Kind::Directory);
            self.directory.put_now(slot, scanned.encode(no_content())?);
            return Ok(());
        }
        if self.directory.depth >= TREE_DEPTH_MAX {
            self.run.lack(Some(&self.part), self.path_of(name), "directories are nested too deeply");
            return Ok(());
        }
        self.directory.expect();
        if is_maildir && matches!(name, b"new" | b"cur") {
            self.sides.push((slot, name.to_vec(), stat));
            return Ok(());
        }
        let (run, directory, part, parent) =
            (self.run, self.directory.clone(), self.part.clone(), self.fd.clone());
        let name = name.to_vec();
        let inside = self.inside_of(&name);
        let only = Wanted::below(&self.only, &name);
        scope.spawn(move |scope| {
            let child = Child { run, directory, part, slot, name, inside, old, only };
            run.check(child.open(scope, &parent, None));
        });
        Ok(())
    }

    fn inside_of(&self, name: &[u8]) -> Vec<u8> {
        match self.part.excludes.is_empty() {
            true => Vec::new(), // nobody asks
            false => [&self.inside, name, b"/"].concat(),
        }
    }

    /// Lists `new` and `cur` of a Maildir folder together, so that no message is lost between them.
    fn visit_sides(&mut self, scope: &Scope<'s>) -> Result<(), RepoError> {
        if self.sides.is_empty() {
            return Ok(());
        }
        let open = |name: &[u8]| scan::open_directory(&self.fd, name);
        let listing = open(b"new").and_then(|new| Ok(Maildir { new, cur: open(b"cur")? }));
        let listing = listing.and_then(|maildir| Ok((maildir.scan()?, Arc::new(maildir))));
        let mut listing = listing.ok(); // what can't be listed here says so when it is visited
        for (slot, name, _) in std::mem::take(&mut self.sides) {
            let listed = listing.as_mut().map(|(listing, maildir)| {
                self.note_failures(listing);
                let side = if name == b"cur" { &mut listing.cur } else { &mut listing.new };
                (std::mem::take(side), maildir.clone())
            });
            let old = self.directory.old.iter().flat_map(OldDirectory::entries).map_while(Result::ok);
            let mut old = old.filter(|(_, old)| old.name == name && old.kind == Kind::Directory);
            let old: Option<ContentBuf> = old.next().map(|(_, old)| old.content.to_owned());
            let (run, directory, part, parent) =
                (self.run, self.directory.clone(), self.part.clone(), self.fd.clone());
            let inside = self.inside_of(&name);
            scope.spawn(move |scope| {
                let child = Child { run, directory, part, slot, name, inside, old, only: None };
                run.check(child.open(scope, &parent, listed));
            });
        }
        Ok(())
    }

    fn note_failures(&self, listing: &mut Listing) {
        for (in_cur, name, error) in listing.failed.drain(..) {
            let side: &[u8] = if in_cur { b"cur/" } else { b"new/" };
            let path = self.path_of(&[side, &name].concat());
            self.run.lack(Some(&self.part), path, format!("{}", std::io::Error::from(error)));
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
            maildir: self.maildir.clone(),
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
        let opened =
            rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let opened = opened.and_then(|fd| Ok((scan::stat_at(&fd, name)?, fd)));
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
            maildir: None,
            listed: Vec::new(),
            only: None,
            slots,
            batch: Vec::new(),
            batch_bytes: 0,
            sides: Vec::new(),
        };
        let old = old.iter().flat_map(OldDirectory::entries).map_while(Result::ok);
        let same = old.into_iter().find(|(_, old)| old.name == name.as_slice());
        let same = same.as_ref().map(|(range, old)| (slot_of(range), old));
        next.entry(scope, name, stat, same, false)?;
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
