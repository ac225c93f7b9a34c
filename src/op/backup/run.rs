//! What all threads of one backup share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crossbeam_channel::Sender;
use rustix::io::Errno;

use crate::base::content::{Content, ContentBuf};
use crate::base::entry::{Entry, Hole, Kind};
use crate::base::progress::Progress;
use crate::op::backup::cut::Batch;
use crate::op::backup::excludes::Excludes;
use crate::op::backup::links::Links;
use crate::op::backup::listed::Listed;
use crate::op::backup::own::{Mounts, OwnPlaces};
use crate::op::backup::rename::Renames;
use crate::op::backup::suspect::Seen;
use crate::op::backup::warnings::Warnings;
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::repo::writer::Writer;
use crate::stage::scan::{Stat, Xattrs};
use crate::stage::snapshot::{Lack, Totals};
use crate::stage::tree;

/// How files are compared with the parent snapshot, and what is left out.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Directories that hold a file of one of these names are stored empty.
    pub exclude_if_present: Vec<Vec<u8>>,
    /// Other file systems are not entered.
    pub one_file_system: bool,
    /// A changed ctime alone does not make a file changed.
    pub ignore_ctime: bool,
    /// A changed inode number alone does not make a file changed.
    pub ignore_inode: bool,
    /// Places of this program, which are left out.
    pub own: OwnPlaces,
}

/// A component while it is read.
pub struct Part {
    /// Its name.
    pub name: String,
    /// What is left out of it.
    pub excludes: Excludes,
    /// File system of its first source.
    pub device: (u32, u32),
    /// Its files as the parent snapshot has them, by inode.
    pub renames: Option<Renames>,
    /// Files seen.
    pub files: AtomicU64,
    /// Their bytes, holes included.
    pub bytes: AtomicU64,
    /// Entries lacking.
    pub lacks: AtomicU64,
    /// What of it the parent snapshot has as well.
    pub seen: Mutex<Seen>,
}

impl Part {
    /// Adds what a walk, or a stream, has met.
    pub fn see(&self, seen: Seen) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).add(seen);
    }
}

/// Counters of [`Totals`] that threads turn.
#[derive(Default)]
pub struct Counts {
    /// See [`Totals::files_new`].
    pub files_new: AtomicU64,
    /// See [`Totals::files_changed`].
    pub files_changed: AtomicU64,
    /// See [`Totals::files_unmodified`].
    pub files_unmodified: AtomicU64,
    /// See [`Totals::files_renamed`].
    pub files_renamed: AtomicU64,
    /// See [`Totals::directories`].
    pub directories: AtomicU64,
    /// See [`Totals::bytes_scanned`].
    pub bytes_scanned: AtomicU64,
    /// See [`Totals::bytes_read`].
    pub bytes_read: AtomicU64,
    /// Files that changed while they were read.
    pub torn: AtomicU64,
}

/// Adds to a counter.
pub fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Counts {
    /// Returns the totals so far; what the writer knows is not in them.
    pub fn totals(&self) -> Totals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            files_new: get(&self.files_new),
            files_changed: get(&self.files_changed),
            files_unmodified: get(&self.files_unmodified),
            files_renamed: get(&self.files_renamed),
            directories: get(&self.directories),
            bytes_scanned: get(&self.bytes_scanned),
            bytes_read: get(&self.bytes_read),
            ..Totals::default()
        }
    }
}

/// One backup under way.
pub struct Run<'r> {
    /// Takes new chunks.
    pub writer: &'r Writer<'r>,
    /// Reads the parent snapshot's trees.
    pub reader: &'r Reader<'r>,
    /// What to compare and leave out.
    pub rules: &'r Rules,
    /// Shown to whoever waits; and asked whether to stop.
    pub progress: &'r Progress,
    /// Numbers.
    pub counts: Counts,
    /// Hard links read in this run.
    pub links: Links,
    batches: Mutex<Option<Sender<Batch>>>,
    /// Batches that were sent and are not done.
    batches_open: (Mutex<u64>, Condvar),
    lacks: Mutex<Vec<Lack>>,
    skipped: Mutex<Vec<Lack>>,
    /// What should be looked at.
    pub warnings: Warnings,
    /// Which file systems are mounts of snapshots.
    pub mounts: Mounts,
    owners: Owners,
    /// Whom access lists name.
    pub listed: Listed,
    filesystems: Mutex<HashMap<(u32, u32), u64>>,
    root: Mutex<Option<ContentBuf>>,
    error: Mutex<Option<RepoError>>,
    is_stopped: AtomicBool,
}

impl<'r> Run<'r> {
    /// Begins a run.
    pub fn new(
        writer: &'r Writer<'r>,
        reader: &'r Reader<'r>,
        rules: &'r Rules,
        progress: &'r Progress,
        batches: Sender<Batch>,
    ) -> Self {
        Self {
            writer,
            reader,
            rules,
            progress,
            counts: Counts::default(),
            links: Links::default(),
            batches: Mutex::new(Some(batches)),
            batches_open: Default::default(),
            lacks: Mutex::default(),
            skipped: Mutex::default(),
            warnings: Warnings::default(),
            mounts: Mounts::default(),
            owners: Owners::default(),
            listed: Listed::default(),
            filesystems: Mutex::default(),
            root: Mutex::default(),
            error: Mutex::default(),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Notes an entry that is not in the snapshot, or not as it should be.
    pub fn lack(&self, part: Option<&Part>, path: Vec<u8>, reason: impl Into<String>) {
        if let Some(part) = part {
            count(&part.lacks, 1);
        }
        let lack = Lack { path, reason: reason.into() };
        self.lacks.lock().unwrap_or_else(PoisonError::into_inner).push(lack);
    }

    /// Returns extended attributes; none where they can't be read, which is noted.
    pub fn xattrs(
        &self,
        found: Result<Xattrs, Errno>,
        part: &Part,
        path: impl FnOnce() -> Vec<u8>,
    ) -> Xattrs {
        let found = found.inspect(|xattrs| {
            self.listed.note(xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
        });
        found.unwrap_or_else(|e| {
            let reason = format!("extended attributes cannot be read: {}", std::io::Error::from(e));
            self.lack(Some(part), path(), reason);
            Xattrs::new()
        })
    }

    /// Notes an entry that is left out on purpose.
    pub fn skip(&self, path: Vec<u8>, reason: &str) {
        let skip = Lack { path, reason: reason.to_owned() };
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).push(skip);
    }

    /// Returns how many lacks were noted so far.
    pub fn lack_count(&self) -> usize {
        self.lacks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Returns the lacks noted after the first `count`, sorted by path.
    pub fn lacks_from(&self, count: usize) -> Vec<Lack> {
        let lacks = self.lacks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lacks = lacks.get(count..).unwrap_or_default().to_vec();
        lacks.sort_by(|a, b| a.path.cmp(&b.path));
        lacks
    }

    /// Returns what was noted, sorted by path.
    pub fn notes(&self) -> (Vec<Lack>, Vec<Lack>) {
        let take = |list: &Mutex<Vec<Lack>>| {
            let mut list = std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner));
            list.sort_by(|a, b| a.path.cmp(&b.path));
            list
        };
        (take(&self.lacks), take(&self.skipped))
    }

    /// Ends the run for all threads if `result` is an error; the first one is kept.
    pub fn check(&self, result: Result<(), RepoError>) {
        if let Err(error) = result {
            self.is_stopped.store(true, Ordering::Relaxed);
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// Returns whether the run is to end early.
    pub fn is_stopped(&self) -> bool {
        if self.progress.is_cancelled() {
            self.check(Err(RepoError::Interrupted));
        }
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Hands files to the cutters; waits while all are busy.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`] once the run is closed.
    pub fn send(&self, batch: Batch) -> Result<(), RepoError> {
        let sender = self.batches.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *self.batches_open.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let sent = sender.map(|sender| sender.send(batch).is_ok());
        if sent != Some(true) {
            self.batch_done();
            return Err(RepoError::Interrupted);
        }
        Ok(())
    }

    /// Says that a batch is done with, read or not.
    pub fn batch_done(&self) {
        let (open, none) = &self.batches_open;
        *open.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        none.notify_all();
    }

    /// Waits until the cutters have read all that was handed to them.
    pub fn wait_for_cutters(&self) {
        let (open, none) = &self.batches_open;
        let open = open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(none.wait_while(open, |open| *open > 0));
    }

    /// Says that there will be no more files to read: the cutters end when they are done.
    pub fn close(&self) {
        *self.batches.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Takes the root directory's content.
    pub fn set_root(&self, content: ContentBuf) {
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = Some(content);
    }

    /// Returns the root directory's content, once every thread is done.
    ///
    /// # Errors
    /// The first error of any thread.
    pub fn root(&self) -> Result<ContentBuf, RepoError> {
        if let Some(error) = self.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        let root = self.root.lock().unwrap_or_else(PoisonError::into_inner).take();
        root.ok_or(RepoError::Interrupted)
    }

    /// Returns what a component's trees call a file system: 0 for that of the component's root.
    pub fn filesystem(&self, part: &Part, device: (u32, u32), inside: impl std::os::fd::AsFd) -> u64 {
        if part.device == device {
            return 0;
        }
        let mut known = self.filesystems.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(device).or_insert_with(|| crate::stage::scan::filesystem_id(inside, device))
    }

    /// Describes an entry, to be encoded when its content is known.
    pub fn scanned(&self, name: &[u8], stat: Stat, filesystem: u64, kind: Kind) -> Scanned {
        Scanned {
            name: name.into(),
            kind,
            stat,
            filesystem,
            user: self.owners.user(stat.uid),
            group: self.owners.group(stat.gid),
            size: stat.size,
            torn: false,
            target: Vec::new(),
            xattrs: Xattrs::new(),
            holes: Vec::new(),
        }
    }
}

/// An entry and all that is known of it but its content.
pub struct Scanned {
    /// Its name.
    pub name: Box<[u8]>,
    /// What it is.
    pub kind: Kind,
    /// What statx said.
    pub stat: Stat,
    /// 0, or the file system's id.
    pub filesystem: u64,
    /// Owner's name.
    pub user: Arc<[u8]>,
    /// Group's name.
    pub group: Arc<[u8]>,
    /// Bytes, as read.
    pub size: u64,
    /// Whether it changed while it was read.
    pub torn: bool,
    /// A link's target.
    pub target: Vec<u8>,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Holes.
    pub holes: Vec<Hole>,
}

impl Scanned {
    /// Returns the entry's record.
    ///
    /// # Errors
    /// [`RepoError::Record`] for an entry too large to be one.
    pub fn encode(&self, content: Content<'_>) -> Result<Vec<u8>, RepoError> {
        let stat = &self.stat;
        let entry = Entry {
            name: &self.name,
            kind: self.kind,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            user: &self.user,
            group: &self.group,
            mtime: stat.mtime,
            ctime: stat.ctime,
            btime: stat.btime,
            filesystem: self.filesystem,
            inode: stat.inode,
            links: stat.links,
            size: self.size,
            torn: self.torn,
            device: stat.device,
            target: &self.target,
            xattrs: self.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect(),
            holes: self.holes.clone(),
            content,
        };
        let mut record = Vec::with_capacity(self.name.len() + content.list.len() + 64);
        tree::push(&entry, &mut record).map_err(|e| RepoError::record(&"tree", e))?;
        Ok(record)
    }
}

/// Names of users and groups, each looked up once.
#[derive(Default)]
struct Owners {
    users: Mutex<HashMap<u32, Arc<[u8]>>>,
    groups: Mutex<HashMap<u32, Arc<[u8]>>>,
}

impl Owners {
    fn user(&self, uid: u32) -> Arc<[u8]> {
        let look = || nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
        name_of(&self.users, uid, look)
    }

    fn group(&self, gid: u32) -> Arc<[u8]> {
        let look = || nix::unistd::Group::from_gid(gid.into()).ok().flatten().map(|group| group.name);
        name_of(&self.groups, gid, look)
    }
}

fn name_of(
    known: &Mutex<HashMap<u32, Arc<[u8]>>>,
    number: u32,
    look: impl FnOnce() -> Option<String>,
) -> Arc<[u8]> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(number).or_insert_with(|| look().unwrap_or_default().into_bytes().into()).clone()
}
