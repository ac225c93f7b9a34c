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
use crate::op::backup::child::{Child, add_named, examine, list};
use crate::op::backup::cut::{Batch, Job};
use crate::op::backup::excludes::Place;
use crate::op::backup::mailbox::{self, Inside};
use crate::op::backup::named::Judged;
use crate::op::backup::pending::{OldDirectory, Pending, Slot, no_content};
use crate::op::backup::run::{Part, Run, count};
use crate::op::backup::suspect::Seen;
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
    /// Its place, for excludes.
    pub inside: Place,
    /// Its place in a mailbox.
    pub mailbox: Option<Inside>,
    /// What is wanted of it; none if all of it is.
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
    /// Its place, for excludes.
    pub inside: Place,
    /// Its place in a mailbox.
    pub mailbox: Option<Inside>,
    /// The mailbox, if it holds messages.
    pub messages: Option<Arc<Mailbox>>,
    /// Its entries.
    pub listed: Vec<(Vec<u8>, Stat)>,
    /// What is wanted of it; none if all of it is.
    pub only: Option<Wanted>,
    /// Path of what is named in it, if that lies elsewhere.
    pub source: Option<PathBuf>,
    /// What was decided so far.
    pub slots: Vec<Slot>,
    /// Files to read, not sent yet.
    pub batch: Vec<Job>,
    /// Their bytes.
    pub batch_bytes: u64,
    /// What the parent snapshot has as well.
    pub seen: Seen,
}

/// Bytes and files in one batch: what one cutter reads at a stretch.
pub const BATCH_BYTES: u64 = 4 << 20;
/// See [`BATCH_BYTES`].
pub const BATCH_FILES: usize = 512;

impl<'s> Walk<'s> {
    fn new(run: &'s Run<'s>, visit: Visit) -> Result<Self, RepoError> {
        let is_whole = Wanted::is_whole(visit.only.as_ref());
        let side = visit.mailbox.as_ref().filter(|_| is_whole).and_then(Inside::take);
        let mut listed = match &side {
            Some(side) => examine(run, &visit.directory, &visit.fd, side),
            None if !is_whole => Vec::new(),
            None => match list(run, &visit.directory, &visit.fd, visit.only.as_ref()) {
                Ok(listed) => listed,
                Err(e) => {
                    let reason = format!("directory cannot be listed: {}", std::io::Error::from(e));
                    run.lack(Some(&visit.part), visit.directory.path.clone(), reason);
                    Vec::new()
                }
            },
        };
        add_named(run, &visit.directory, &visit.fd, visit.only.as_ref(), &mut listed);
        Ok(Self {
            run,
            directory: visit.directory,
            part: visit.part,
            fd: Arc::new(visit.fd),
            inside: visit.inside,
            mailbox: visit.mailbox,
            messages: side.map(|side| side.mailbox),
            only: visit.only,
            source: None,
            slots: Vec::with_capacity(listed.len()),
            listed,
            batch: Vec::new(),
            batch_bytes: 0,
            seen: Seen::default(),
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
        for (name, stat) in &listed {
            if self.run.is_stopped() {
                return Err(RepoError::Interrupted);
            }
            let mut before = &b""[..];
            while let Some((_, old)) = old_entries.next_if(|(_, old)| old.name < name.as_slice()) {
                before = old.name;
            }
            self.seen.come_to(before, name);
            let same_name = old_entries.next_if(|(_, old)| old.name == name.as_slice());
            let leads = Wanted::leads(self.only.as_ref(), name);
            let judged = match is_excluded {
                true if leads => Judged::OnTheWay,
                true => Judged::Out,
                false => self.judge(name, stat, same_name.is_some()),
            };
            let old = same_name.as_ref().map(|(range, old)| (slot_of(range), old));
            match judged {
                Judged::Out => {}
                _ if Wanted::is_named(self.only.as_ref(), name) => {
                    self.named_entry(scope, name, *stat, old)?;
                }
                judged => self.entry(scope, name, *stat, old, judged)?,
            }
        }
        self.send_batch()?;
        self.part.see(std::mem::take(&mut self.seen));
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
        if !is_known && Wanted::is_whole(self.only.as_ref()) && is_folder() {
            let wanted = directories().filter(|name| !self.is_excluded(name, true));
            self.mailbox = Inside::new(&self.fd, wanted);
        }
    }

    /// Returns whether a pattern leaves an entry out.
    pub fn is_excluded(&self, name: &[u8], is_directory: bool) -> bool {
        !self.part.excludes.is_empty() && self.part.excludes.leaves_out(&self.inside, name, is_directory)
    }

    /// Returns the path of an entry, for messages.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        match &self.source {
            Some(path) => path.as_os_str().as_bytes().to_vec(),
            None => [&self.directory.path, &b"/"[..], name].concat(),
        }
    }

    /// Notes what was decided about the next entry; returns its place.
    pub fn next_slot(&mut self, slot: Slot) -> u32 {
        self.slots.push(slot);
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    /// Stores an entry that is not left out as a whole.
    ///
    /// # Errors
    /// What building its directory meets.
    pub fn entry(
        &mut self,
        scope: &Scope<'s>,
        name: &[u8],
        stat: Stat,
        old: Option<(Slot, &Entry<'_>)>,
        judged: Judged,
    ) -> Result<(), RepoError> {
        let only = self.only.as_ref();
        if stat.kind != Some(Kind::Directory) && Wanted::is_above(only, name) {
            let reason =
                "not a directory: what was asked for below it is not there; name the path that it leads to";
            self.run.lack(Some(&self.part), self.path_of(name), reason);
            if !Wanted::is_named(only, name) {
                return Ok(());
            }
        }
        let Some(kind) = stat.kind else { return Ok(()) };
        match kind {
            Kind::Directory => self.subdirectory(scope, name, stat, old.map(|(_, old)| old), judged),
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
        mut judged: Judged,
    ) -> Result<(), RepoError> {
        let old = old.filter(|old| old.kind == Kind::Directory).map(|old| old.content.to_owned());
        let slot = self.next_slot(Slot::Later);
        let filesystem = self.run.filesystem(&self.part, stat.filesystem, &self.fd);
        // What was named, and what leads there, is entered wherever it lies.
        if self.run.rules.one_file_system && self.is_mounted_here(&stat) {
            if !Wanted::leads(self.only.as_ref(), name) {
                let scanned = self.run.scanned(name, stat, filesystem, Kind::Directory);
                self.directory.put_now(slot, scanned.encode(no_content())?);
                return Ok(());
            }
            judged = Judged::OnTheWay;
        }
        if self.directory.depth >= TREE_DEPTH_MAX {
            self.run.lack(Some(&self.part), self.path_of(name), "directories are nested too deeply");
            return Ok(());
        }
        let (parent, child) = (self.fd.clone(), self.child(name, slot, stat.inode, old, judged));
        scope.spawn(move |scope| {
            let run = child.run;
            run.check(child.open(scope, &parent));
        });
        Ok(())
    }

    /// Returns what is about to be walked as `name`, and is waited for.
    pub fn child(
        &self,
        name: &[u8],
        slot: u32,
        inode: u64,
        old: Option<ContentBuf>,
        judged: Judged,
    ) -> Child<'s> {
        self.directory.expect();
        Child {
            run: self.run,
            directory: self.directory.clone(),
            part: self.part.clone(),
            slot,
            name: name.to_vec(),
            path: self.path_of(name),
            inode,
            inside: self.inside_of(name),
            old,
            only: Wanted::below(self.only.as_ref(), name, judged == Judged::OnTheWay),
            mailbox: self.mailbox.as_ref().map(|mailbox| mailbox.below(name)),
        }
    }

    /// Returns whether a directory lies on another file system than the one that it is in.
    pub fn is_mounted_here(&self, stat: &Stat) -> bool {
        scan::stat_of(&*self.fd).is_ok_and(|here| here.filesystem != stat.filesystem)
    }

    fn inside_of(&self, name: &[u8]) -> Place {
        if self.part.excludes.is_empty() {
            return Place::default(); // nobody asks
        }
        let below = self.inside.below(name);
        match Wanted::is_named(self.only.as_ref(), name) {
            true => self.part.excludes.named(below, Path::new(OsStr::from_bytes(&self.path_of(name)))),
            false => below,
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
            inside: Place::default(),
            mailbox: None,
            messages: None,
            listed: Vec::new(),
            only: Some(Wanted::one(name)),
            source: Some(path.clone()),
            slots,
            batch: Vec::new(),
            batch_bytes: 0,
            seen: Seen::default(),
        };
        let old = old.iter().flat_map(OldDirectory::entries).map_while(Result::ok);
        let same = old.into_iter().find(|(_, old)| old.name == name.as_slice());
        let same = same.as_ref().map(|(range, old)| (slot_of(range), old));
        match next.judge(name, &stat, same.is_some()) {
            Judged::Out => {}
            _ => next.named_entry(scope, name, stat, same)?,
        }
        next.send_batch()?;
        part.see(std::mem::take(&mut next.seen));
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
