//! Components → walks and streams, one component after the other.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::base::entry::Kind;
use crate::base::time::Time;
use crate::op::backup::Component;
use crate::op::backup::care::{Event, Listener, PartReport};
use crate::op::backup::cut::Cutter;
use crate::op::backup::excludes::{Excludes, Place};
use crate::op::backup::parents::Parents;
use crate::op::backup::pending::{Pending, Slot, Up};
use crate::op::backup::rename::{Renames, old_directory};
use crate::op::backup::run::{Part, Run};
use crate::op::backup::tries::{Tried, tried};
use crate::op::backup::walk::{Visit, visit, visit_sources};
use crate::op::backup::wanted::{Wanted, open_named};
use crate::repo::RepoError;
use crate::stage::scan::{self, Stat};
use crate::stage::snapshot::{Lack, Status};

/// Does what a run has to do.
pub struct Tasks<'t> {
    /// The run.
    pub run: &'t Run<'t>,
    /// Threads that walk.
    pub pool: &'t rayon::ThreadPool,
    /// What earlier snapshots have.
    pub parents: &'t Parents,
    /// Time of the snapshot.
    pub time: Time,
    /// Is told what happens.
    pub listener: Option<&'t dyn Listener>,
    /// How components fared, in order.
    pub outcome: &'t Mutex<Vec<PartReport>>,
}

/// Numbers of the run before a component's turn.
struct Before {
    started: Instant,
    bytes_read: u64,
    bytes_added: u64,
    lacks: usize,
}

impl Tasks<'_> {
    /// Reads all components, each in its turn.
    ///
    /// # Errors
    /// What writing meets. A source that fails is a lack.
    pub fn all(&self, components: Vec<Component>) -> Result<(), RepoError> {
        let mut cutter = Cutter::new(self.run);
        let in_root = components.len() == 1 && components.iter().all(|c| c.directory.is_empty());
        let old = self.parents.roots.first().cloned().flatten().filter(|_| in_root);
        let old = old.and_then(|old| old_directory(self.run.reader, old));
        let root = Pending::new(Up::Root, Vec::new(), None, 0, old);
        if in_root {
            for (number, component) in components.into_iter().enumerate() {
                self.in_turn(component, number, &mut cutter, |tried, part, component| {
                    self.fill_root(&root, tried, part, component)
                })?;
            }
            return cutter.flush();
        }
        let mut names: Vec<Vec<u8>> = components.iter().map(|c| c.directory.clone()).collect();
        names.sort();
        for _ in &components {
            root.expect();
        }
        for (number, component) in components.into_iter().enumerate() {
            let slot = names.binary_search(&component.directory).unwrap_or_default();
            let slot = u32::try_from(slot).unwrap_or(u32::MAX);
            self.in_turn(component, number, &mut cutter, |tried, part, component| {
                self.fill(&root, slot, tried, part, component, number)
            })?;
        }
        root.settle(self.run, vec![Slot::Later; names.len()])?;
        cutter.flush()
    }

    /// Gives a component its turn: tries it, lets `fill` store what could be read, and tells of it.
    fn in_turn(
        &self,
        mut component: Component,
        number: usize,
        cutter: &mut Cutter<'_>,
        fill: impl FnOnce(Tried, &Arc<Part>, Component) -> Result<bool, RepoError>,
    ) -> Result<(), RepoError> {
        let before = self.before();
        self.tell(Event::Started { component: &component.name });
        let part = self.part(&component, number)?;
        let (name, care) = (component.name.clone(), component.care.clone());
        let tried = tried(self, &part, &mut component, cutter)?;
        let (attempts, is_begun) = (tried.attempts, tried.is_begun);
        let filled = fill(tried, &part, component);
        self.run.wait_for_cutters();
        if is_begun && let Some(after) = &care.after {
            self.after(after, &name, attempts, &part);
        }
        let has_root = filled?;
        let report = self.report(name, &part, &before, attempts, has_root);
        self.tell(Event::Ended(&report));
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).push(report);
        Ok(())
    }

    /// Tells whoever listens.
    pub fn tell(&self, event: Event<'_>) {
        if let Some(listener) = self.listener {
            listener.hear(event);
        }
    }

    /// Runs the command that follows a try; a failure is a lack, as what it should undo may not be undone.
    pub fn after(
        &self,
        after: &crate::stage::command::Command,
        component: &str,
        attempt: u32,
        part: &Arc<Part>,
    ) {
        let Err(error) = after.run(b"", None) else { return };
        let reason = error.to_string();
        let complaint = error.complaint();
        self.tell(Event::Failed { component, attempt, reason: &reason, complaint, again_in: None });
        self.run.lack(Some(part), format!("{component}: after").into_bytes(), reason);
    }

    /// Waits, unless the run is stopped.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`].
    pub fn pause(&self, time: Duration) -> Result<(), RepoError> {
        const TICK: Duration = Duration::from_millis(50);
        let until = Instant::now().checked_add(time);
        loop {
            if self.run.is_stopped() {
                return Err(RepoError::Interrupted);
            }
            let left = until.map_or(TICK, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(TICK));
        }
    }

    fn before(&self) -> Before {
        Before {
            started: Instant::now(),
            bytes_read: self.run.counts.totals().bytes_read,
            bytes_added: self.run.writer.bytes_added(),
            lacks: self.run.lack_count(),
        }
    }

    fn report(
        &self,
        name: String,
        part: &Part,
        before: &Before,
        attempts: u32,
        has_root: bool,
    ) -> PartReport {
        let lacks: Vec<Lack> = self.run.lacks_from(before.lacks);
        PartReport {
            name,
            status: match (has_root, lacks.is_empty()) {
                (false, _) => Status::Failed,
                (true, true) => Status::Complete,
                (true, false) => Status::Partial,
            },
            attempts,
            files: part.files.load(Ordering::Relaxed),
            bytes: part.bytes.load(Ordering::Relaxed),
            bytes_read: self.run.counts.totals().bytes_read.saturating_sub(before.bytes_read),
            bytes_added: self.run.writer.bytes_added().saturating_sub(before.bytes_added),
            duration_ms: u64::try_from(before.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            lacks,
            seen: part.seen.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn part(&self, component: &Component, number: usize) -> Result<Arc<Part>, RepoError> {
        let first =
            component.paths.first().map(|path| scan::stat_at(rustix::fs::CWD, path.as_os_str().as_bytes()));
        let renames = self.parents.roots.get(number).cloned().flatten().map(Renames::new);
        // Who named paths on the command line has just typed the patterns.
        let known =
            self.parents.excludes.get(number).cloned().flatten().filter(|_| !component.directory.is_empty());
        let excludes = Excludes::new(&component.excludes, known.as_deref());
        let excludes = excludes.map_err(|e| RepoError::Source {
            path: format!("exclude pattern {:?}", e.pattern),
            reason: e.reason,
        })?;
        Ok(Arc::new(Part {
            name: component.name.clone(),
            excludes,
            device: first.and_then(Result::ok).map_or((0, 0), |stat| stat.filesystem),
            renames,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lacks: AtomicU64::new(0),
            seen: Mutex::default(),
        }))
    }

    /// Fills the snapshot's root with paths by their absolute names, or with streams. Returns whether
    /// there is anything to be in it.
    fn fill_root(
        &self,
        root: &Arc<Pending>,
        tried: Tried,
        part: &Arc<Part>,
        component: Component,
    ) -> Result<bool, RepoError> {
        if component.paths.is_empty() {
            let has_streams = !tried.streams.is_empty();
            self.side_by_side(root, tried, part, &component)?;
            return Ok(has_streams);
        }
        let has_root = component.paths.iter().any(|path| can_be_stored(path));
        let mut wanted = Wanted::default();
        for path in &component.paths {
            let names: Vec<&[u8]> =
                path.as_os_str().as_bytes().split(|b| *b == b'/').filter(|n| !n.is_empty()).collect();
            wanted.add(&names);
        }
        let fd = open_named(Path::new("/")).map_err(|e| source_failed(Path::new("/"), &e))?;
        let is_all = wanted.is_all();
        let inside =
            if is_all { part.excludes.named(Place::default(), Path::new("/")) } else { Place::default() };
        self.walk(root.clone(), part, fd, inside, wanted.of());
        Ok(has_root)
    }

    /// Fills a component's own directory. Returns whether there is one: not if no source could be read.
    fn fill(
        &self,
        root: &Arc<Pending>,
        slot: u32,
        tried: Tried,
        part: &Arc<Part>,
        component: Component,
        number: usize,
    ) -> Result<bool, RepoError> {
        let run = self.run;
        if !tried.has_any() {
            root.put(run, slot, None)?;
            return Ok(false);
        }
        let stat = match (&tried.single, tried.paths.first()) {
            (Some((_, stat)), _) => *stat,
            (None, Some(first)) => {
                let parent = first.parent().unwrap_or(Path::new("/"));
                let opened = open_named(parent).and_then(|fd| scan::stat_of(&fd));
                opened.unwrap_or_else(|_| self.made_up(Kind::Directory, 0o700))
            }
            (None, None) => self.made_up(Kind::Directory, 0o700),
        };
        let old = self.parents.roots.get(number).cloned().flatten();
        let old = old.and_then(|old| old_directory(run.reader, old));
        let mut scanned = run.scanned(&component.directory, stat, 0, Kind::Directory);
        let mut path = Vec::new();
        if let (Some((fd, _)), Some(first)) = (&tried.single, component.paths.first()) {
            path = first.as_os_str().as_bytes().to_vec();
            scanned.xattrs = run.xattrs(scan::xattrs_of(fd), part, || path.clone());
        }
        let up = Up::Into(root.clone(), slot, Box::new(scanned));
        let directory = Pending::new(up, path, Some(part.clone()), 1, old);
        match tried.single {
            Some((fd, _)) => {
                let path = component.paths.first().map(PathBuf::as_path).unwrap_or(Path::new("/"));
                let inside = part.excludes.named(Place::default(), path);
                self.walk(directory, part, fd, inside, None);
            }
            None => self.side_by_side(&directory, tried, part, &component)?,
        }
        Ok(true)
    }

    fn walk(
        &self,
        directory: Arc<Pending>,
        part: &Arc<Part>,
        fd: OwnedFd,
        inside: Place,
        only: Option<Wanted>,
    ) {
        let visited = Visit { directory, part: part.clone(), fd, inside, mailbox: None, only };
        self.pool.scope(|scope| visit(scope, self.run, visited));
    }

    /// Puts paths by their base names, and streams, side by side into a directory.
    fn side_by_side(
        &self,
        directory: &Arc<Pending>,
        tried: Tried,
        part: &Arc<Part>,
        component: &Component,
    ) -> Result<(), RepoError> {
        let mut sources: BTreeMap<Vec<u8>, Option<PathBuf>> = BTreeMap::new();
        for path in tried.paths {
            let Some(name) = path.file_name() else { continue }; // only one that is alone has none
            sources.insert(name.as_bytes().to_vec(), Some(path.clone()));
        }
        sources.extend(component.streams.iter().map(|stream| (stream.name.clone(), None)));
        let mut announced = Vec::new();
        self.pool.scope(|scope| {
            visit_sources(scope, self.run, directory, part, &sources, |name, slot| {
                announced.push((name.to_vec(), slot));
            })
        })?;
        let mut streams = tried.streams;
        for (name, slot) in announced {
            directory.put(self.run, slot, streams.remove(&name))?;
        }
        Ok(())
    }

    /// Describes an entry that no file system has.
    pub fn made_up(&self, kind: Kind, mode: u32) -> Stat {
        Stat {
            kind: Some(kind),
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime: self.time,
            ctime: self.time,
            btime: None,
            filesystem: (0, 0),
            inode: 0,
            links: 1,
            size: 0,
            allocated: 0,
            device: (0, 0),
            seen: self.time,
        }
    }
}

/// Returns whether there is anything of a named path that can be stored.
fn can_be_stored(path: &Path) -> bool {
    let Ok(about) = path.symlink_metadata() else { return false };
    match about.is_symlink() {
        true => path.metadata().is_ok(),
        false => !about.file_type().is_socket(),
    }
}

fn source_failed(path: &Path, error: &Errno) -> RepoError {
    RepoError::Source { path: path.display().to_string(), reason: error.to_string() }
}
