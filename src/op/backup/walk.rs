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
use rustix::io::Errno;

use crate::base::content::ContentBuf;
use crate::base::entry::{Entry, Kind};
use crate::base::limits::TREE_DEPTH_MAX;
use crate::base::progress::Done;
use crate::op::backup::cut::{Batch, Job};
use crate::op::backup::pending::{OldDirectory, Pending, Slot, Up, no_content};
use crate::op::backup::rename::old_directory;
use crate::op::backup::run::{Part, Run, Scanned, count};
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

/// Names that are wanted of a directory; an empty one wants all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted(pub BTreeMap<Vec<u8>, Wanted>);

impl Wanted {
    /// Adds the path made of `names`. What lies above a path that is wanted whole is wanted too.
    pub fn add(&mut self, names: &[&[u8]], is_first: bool) {
        let Some((name, rest)) = names.split_first() else {
            self.0.clear();
            return;
        };
        if self.0.is_empty() && !is_first {
            return; // wanted whole already
        }
        let is_new = !self.0.contains_key(*name);
        self.0.entry(name.to_vec()).or_default().add(rest, is_new);
    }

    fn below(only: &Option<Self>, name: &[u8]) -> Option<Self> {
        only.as_ref().and_then(|only| only.0.get(name)).filter(|below| !below.0.is_empty()).cloned()
    }
}

/// Walks a directory and, on other threads, what lies below it.
pub fn visit<'s>(scope: &Scope<'s>, run: &'s Run<'s>, visit: Visit) {
    if !run.is_stopped() {
        let result = Walk::new(run, visit).and_then(|walk| walk.go(scope));
        run.check(result);
    }
}

struct Walk<'s> {
    run: &'s Run<'s>,
    directory: Arc<Pending>,
    part: Arc<Part>,
    fd: Arc<OwnedFd>,
    inside: Vec<u8>,
    maildir: Option<Arc<Maildir>>,
    listed: Vec<(Vec<u8>, Stat)>,
    only: Option<Wanted>,
    slots: Vec<Slot>,
    batch: Vec<Job>,
    batch_bytes: u64,
    /// Sides of a Maildir folder among the entries: slot, name, the old directory.
    sides: Vec<(u32, Vec<u8>, Stat)>,
}

/// Bytes and files in one batch: what one cutter reads at a stretch.
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_FILES: usize = 512;

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

    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        [&self.directory.path, &b"/"[..], name].concat()
    }

    fn next_slot(&mut self, slot: Slot) -> u32 {
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

    fn file(&mut self, name: &[u8], stat: Stat, old: Option<(Slot, &Entry<'_>)>) -> Result<(), RepoError> {
        let run = self.run;
        count(&self.part.files, 1);
        count(&self.part.bytes, stat.size);
        count(&run.counts.bytes_scanned, stat.size);
        let filesystem = run.filesystem(&self.part, stat.filesystem, &self.fd);
        let old = old.filter(|(_, old)| old.kind == Kind::File);
        if let Some((slot, old)) = old
            && is_unchanged(run, old, &stat, filesystem)
            && self.is_stored(old.content)?
        {
            count(&run.counts.files_unmodified, 1);
            run.progress.add(Done { files: 1, bytes: stat.size });
            let is_whole = old.ctime == stat.ctime && old.inode == stat.inode && old.mode == stat.mode;
            if is_whole {
                self.next_slot(slot);
                return Ok(());
            }
            let scanned = self.scanned_without_reading(name, stat, filesystem, old.holes.clone());
            let at = self.next_slot(Slot::Later);
            self.directory.put_now(at, scanned.encode(old.content)?);
            return Ok(());
        }
        if old.is_none()
            && let Some(renames) = &self.part.renames
            && let Some(known) = renames.find(run.reader, name, &stat, filesystem, self.maildir.is_some())
            && self.is_stored(known.content.borrowed())?
        {
            count(&run.counts.files_renamed, 1);
            run.progress.add(Done { files: 1, bytes: stat.size });
            let scanned = self.scanned_without_reading(name, stat, filesystem, known.holes);
            let at = self.next_slot(Slot::Later);
            self.directory.put_now(at, scanned.encode(known.content.borrowed())?);
            return Ok(());
        }
        count(if old.is_some() { &run.counts.files_changed } else { &run.counts.files_new }, 1);
        let slot = self.next_slot(Slot::Later);
        self.directory.expect();
        let scanned = run.scanned(name, stat, filesystem, Kind::File);
        self.batch.push(Job { slot, scanned });
        self.batch_bytes += stat.size;
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_FILES {
            self.send_batch()?;
        }
        Ok(())
    }

    /// Returns whether content of the parent snapshot is still there. Asked only if a pack is gone.
    fn is_stored(&self, content: crate::base::content::Content<'_>) -> Result<bool, RepoError> {
        if !self.run.reader.index().has_losses() {
            return Ok(true);
        }
        match self.run.reader.flatten(content) {
            Ok(list) => self.run.writer.holds_all(&list),
            Err(e) if e.is_damage() => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn scanned_without_reading(
        &self,
        name: &[u8],
        stat: Stat,
        filesystem: u64,
        holes: Vec<crate::base::entry::Hole>,
    ) -> Scanned {
        let mut scanned = self.run.scanned(name, stat, filesystem, Kind::File);
        scanned.holes = holes;
        scanned.xattrs = self.xattrs(name);
        scanned
    }

    fn xattrs(&self, name: &[u8]) -> scan::Xattrs {
        scan::xattrs_at(&self.fd, name).unwrap_or_else(|e| {
            let reason = format!("extended attributes cannot be read: {}", std::io::Error::from(e));
            self.run.lack(Some(&self.part), self.path_of(name), reason);
            scan::Xattrs::new()
        })
    }

    fn special(
        &mut self,
        name: &[u8],
        stat: Stat,
        kind: Kind,
        old: Option<(Slot, &Entry<'_>)>,
    ) -> Result<(), RepoError> {
        let filesystem = self.run.filesystem(&self.part, stat.filesystem, &self.fd);
        self.run.progress.add(Done { files: 1, bytes: 0 });
        if let Some((slot, old)) = old
            && old.kind == kind
            && old.ctime == stat.ctime
            && is_unchanged(self.run, old, &stat, filesystem)
        {
            self.next_slot(slot);
            return Ok(());
        }
        let mut scanned = self.run.scanned(name, stat, filesystem, kind);
        if kind == Kind::Symlink {
            match scan::read_link(&self.fd, name) {
                Ok(target) => scanned.target = target,
                Err(Errno::NOENT) => return Ok(()), // gone meanwhile
                Err(e) => {
                    let reason = format!("link cannot be read: {}", std::io::Error::from(e));
                    self.run.lack(Some(&self.part), self.path_of(name), reason);
                    return Ok(());
                }
            }
        }
        scanned.xattrs = self.xattrs(name);
        let slot = self.next_slot(Slot::Later);
        self.directory.put_now(slot, scanned.encode(no_content())?);
        Ok(())
    }

    fn send_batch(&mut self) -> Result<(), RepoError> {
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

/// A subdirectory that is about to be walked.
struct Child<'s> {
    run: &'s Run<'s>,
    directory: Arc<Pending>,
    part: Arc<Part>,
    slot: u32,
    name: Vec<u8>,
    inside: Vec<u8>,
    old: Option<ContentBuf>,
    only: Option<Wanted>,
}

/// What a Maildir folder listed of one of its sides.
type Side = (Vec<(Vec<u8>, Stat)>, Arc<Maildir>);

impl<'s> Child<'s> {
    fn open(self, scope: &Scope<'s>, parent: &OwnedFd, side: Option<Side>) -> Result<(), RepoError> {
        let path = [&self.directory.path, &b"/"[..], &self.name].concat();
        let opened = scan::open_directory(parent, &self.name).and_then(|fd| Ok((scan::stat_of(&fd)?, fd)));
        let (stat, fd) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                if e != Errno::NOENT {
                    let reason = format!("directory cannot be opened: {}", std::io::Error::from(e));
                    self.run.lack(Some(&self.part), path, reason);
                }
                return self.directory.put(self.run, self.slot, None);
            }
        };
        let filesystem = self.run.filesystem(&self.part, stat.filesystem, &fd);
        let mut scanned = self.run.scanned(&self.name, stat, filesystem, Kind::Directory);
        match scan::xattrs_of(&fd) {
            Ok(xattrs) => scanned.xattrs = xattrs,
            Err(e) => {
                let reason = format!("extended attributes cannot be read: {}", std::io::Error::from(e));
                self.run.lack(Some(&self.part), path.clone(), reason);
            }
        }
        let depth = self.directory.depth + 1;
        let old = self.old.and_then(|content| old_directory(self.run.reader, content));
        let up = Up::Into(self.directory, self.slot, Box::new(scanned));
        let directory = Pending::new(up, path, Some(self.part.clone()), depth, old);
        let (listed, maildir) = side.unzip();
        visit(
            scope,
            self.run,
            Visit { directory, part: self.part, fd, inside: self.inside, listed, maildir, only: self.only },
        );
        Ok(())
    }
}

/// Lists a directory and examines its entries; what vanishes meanwhile is left out.
fn list(
    run: &Run<'_>,
    directory: &Pending,
    fd: &OwnedFd,
    only: Option<&Wanted>,
) -> Result<Vec<(Vec<u8>, Stat)>, Errno> {
    let names = match only {
        None => scan::list_stable(fd)?.0,
        Some(only) => {
            let mut names = scan::Names::default();
            only.0.keys().for_each(|name| names.push(name));
            names
        }
    };
    let mut listed = Vec::with_capacity(names.len());
    for name in names.iter() {
        match scan::stat_at(fd, name) {
            Ok(stat) => listed.push((name.to_vec(), stat)),
            Err(Errno::NOENT) if only.is_none() => {} // gone meanwhile
            Err(e) => {
                let path = [&directory.path, &b"/"[..], name].concat();
                run.lack(directory.part.as_deref(), path, format!("{}", std::io::Error::from(e)));
            }
        }
    }
    Ok(listed)
}

/// Returns whether a file is as the parent snapshot has it (DESIGN §6).
fn is_unchanged(run: &Run<'_>, old: &Entry<'_>, stat: &Stat, filesystem: u64) -> bool {
    old.size == stat.size
        && old.mtime == stat.mtime
        && !old.torn
        && (old.ctime == stat.ctime || run.rules.ignore_ctime)
        && ((old.inode == stat.inode && old.filesystem == filesystem) || run.rules.ignore_inode)
}
