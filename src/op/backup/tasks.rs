//! Components → walks and streams.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rayon::Scope;
use rustix::fs::{Mode, OFlags};

use crate::base::entry::Kind;
use crate::base::time::Time;
use crate::op::backup::Component;
use crate::op::backup::cut::Cutter;
use crate::op::backup::parents::Parents;
use crate::op::backup::pending::{Pending, Slot, Up};
use crate::op::backup::rename::{Renames, old_directory};
use crate::op::backup::run::{Part, Run, count};
use crate::op::backup::stream::{Stream, source_error};
use crate::op::backup::walk::{Visit, visit, visit_sources};
use crate::op::backup::wanted::Wanted;
use crate::repo::RepoError;
use crate::stage::scan::{self, Stat};
use crate::stage::snapshot::Status;

/// How a component fared.
pub struct Outcome {
    /// The component.
    pub part: Arc<Part>,
    has_root: bool,
}

impl Outcome {
    /// Returns whether nothing of it is in the snapshot.
    pub fn is_failed(&self) -> bool {
        !self.has_root
    }

    /// Returns how it fared.
    pub fn status(&self) -> Status {
        match (self.has_root, self.part.lacks.load(Ordering::Relaxed)) {
            (false, _) => Status::Failed,
            (true, 0) => Status::Complete,
            (true, _) => Status::Partial,
        }
    }
}
/// A stream that waits for the walk to end.
pub struct WaitingStream {
    directory: Arc<Pending>,
    part: Arc<Part>,
    slot: u32,
    stream: Stream,
}

/// Starts what a run has to do.
pub struct Tasks<'t> {
    /// The run.
    pub run: &'t Run<'t>,
    /// What earlier snapshots have.
    pub parents: &'t Parents,
    /// Time of the snapshot.
    pub time: Time,
    /// How components fare, in order.
    pub outcome: &'t Mutex<Vec<Outcome>>,
}

impl<'t> Tasks<'t> {
    /// Starts to walk all components. Returns the streams, which are read one after the other.
    pub fn start(
        &self,
        scope: &Scope<'t>,
        components: Vec<Component>,
    ) -> Result<Vec<WaitingStream>, RepoError> {
        let mut waiting = Vec::new();
        let root = Pending::new(Up::Root, Vec::new(), None, 0, None);
        let in_root = components.len() == 1 && components[0].directory.is_empty();
        if in_root {
            let old = self.parents.roots[0].clone();
            let root = Pending::new(
                Up::Root,
                Vec::new(),
                None,
                0,
                old.and_then(|old| old_directory(self.run.reader, old)),
            );
            for component in components {
                let part = self.part(&component, 0)?;
                let has_root = component.paths.is_empty()
                    || component.paths.iter().any(|p| p.symlink_metadata().is_ok());
                self.note(&part, has_root);
                waiting.extend(self.fill_root(scope, &root, &part, component)?);
            }
            return Ok(waiting);
        }
        let mut order: Vec<usize> = (0..components.len()).collect();
        order.sort_by(|a, b| components[*a].directory.cmp(&components[*b].directory));
        let mut slots = Vec::new();
        let mut by_number: BTreeMap<usize, Component> = components.into_iter().enumerate().collect();
        let mut parts = BTreeMap::new();
        for number in order {
            let Some(component) = by_number.remove(&number) else { continue };
            let part = self.part(&component, number)?;
            let slot = u32::try_from(slots.len()).unwrap_or(u32::MAX);
            slots.push(Slot::Later);
            root.expect();
            let streams = self.component(scope, &root, slot, &part, component, number)?;
            parts.insert(number, (part, streams.is_some()));
            waiting.extend(streams.into_iter().flatten());
        }
        parts.into_values().for_each(|(part, has_root)| self.note(&part, has_root));
        root.settle(self.run, slots)?;
        Ok(waiting)
    }

    fn note(&self, part: &Arc<Part>, has_root: bool) {
        let outcome = Outcome { part: part.clone(), has_root };
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    }

    fn part(&self, component: &Component, number: usize) -> Result<Arc<Part>, RepoError> {
        let first =
            component.paths.first().map(|path| scan::stat_at(rustix::fs::CWD, path.as_os_str().as_bytes()));
        let renames = self.parents.roots.get(number).cloned().flatten().map(Renames::new);
        Ok(Arc::new(Part {
            excludes: excludes(component)?,
            device: first.and_then(Result::ok).map_or((0, 0), |stat| stat.filesystem),
            renames,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lacks: AtomicU64::new(0),
        }))
    }

    /// Fills the snapshot's root with paths by their absolute names, or with streams.
    fn fill_root(
        &self,
        scope: &Scope<'t>,
        root: &Arc<Pending>,
        part: &Arc<Part>,
        component: Component,
    ) -> Result<Vec<WaitingStream>, RepoError> {
        if component.paths.is_empty() {
            return self.side_by_side(scope, root, part, component);
        }
        let mut wanted = Wanted::default();
        let mut is_first = true;
        for path in &component.paths {
            let names: Vec<&[u8]> =
                path.as_os_str().as_bytes().split(|b| *b == b'/').filter(|n| !n.is_empty()).collect();
            wanted.add(&names, is_first);
            is_first = false;
        }
        let fd = open_directory(Path::new("/")).map_err(|e| source_failed(Path::new("/"), &e))?;
        let only = Some(wanted).filter(|wanted| !wanted.0.is_empty());
        let visited = Visit {
            directory: root.clone(),
            part: part.clone(),
            fd,
            inside: Vec::new(),
            mailbox: None,
            only,
        };
        visit(scope, self.run, visited);
        Ok(Vec::new())
    }

    /// Fills a component's own directory; none if its source can't be read at all.
    fn component(
        &self,
        scope: &Scope<'t>,
        root: &Arc<Pending>,
        slot: u32,
        part: &Arc<Part>,
        component: Component,
        number: usize,
    ) -> Result<Option<Vec<WaitingStream>>, RepoError> {
        let run = self.run;
        let single = match (&component.paths[..], component.streams.is_empty()) {
            ([path], true) => Some(path.clone()).filter(|path| !path.is_file()),
            _ => None,
        };
        let described = match (&single, component.paths.first()) {
            (Some(path), _) => open_directory(path).and_then(|fd| Ok((scan::stat_of(&fd)?, Some(fd)))),
            (None, Some(first)) => {
                let parent = first.parent().unwrap_or(Path::new("/"));
                open_directory(parent).and_then(|fd| Ok((scan::stat_of(&fd)?, None)))
            }
            (None, None) => Ok((self.made_up(Kind::Directory, 0o700), None)),
        };
        let (stat, fd) = match described {
            Ok(described) => described,
            Err(e) => {
                let path = component.paths.first().map_or(&b""[..], |path| path.as_os_str().as_bytes());
                run.lack(Some(part), path.to_vec(), std::io::Error::from(e).to_string());
                root.put(run, slot, None)?;
                return Ok(None);
            }
        };
        let old = self.parents.roots.get(number).cloned().flatten();
        let old = old.and_then(|old| old_directory(run.reader, old));
        let mut scanned = run.scanned(&component.directory, stat, 0, Kind::Directory);
        if let Some(fd) = &fd {
            scanned.xattrs = scan::xattrs_of(fd).unwrap_or_default();
        }
        let path = single.as_ref().map_or_else(Vec::new, |path| path.as_os_str().as_bytes().to_vec());
        let up = Up::Into(root.clone(), slot, Box::new(scanned));
        let directory = Pending::new(up, path, Some(part.clone()), 1, old);
        match fd {
            Some(fd) => {
                let visited = Visit {
                    directory,
                    part: part.clone(),
                    fd,
                    inside: Vec::new(),
                    mailbox: None,
                    only: None,
                };
                visit(scope, run, visited);
                Ok(Some(Vec::new()))
            }
            None => self.side_by_side(scope, &directory, part, component).map(Some),
        }
    }

    fn side_by_side(
        &self,
        scope: &Scope<'t>,
        directory: &Arc<Pending>,
        part: &Arc<Part>,
        component: Component,
    ) -> Result<Vec<WaitingStream>, RepoError> {
        let mut sources: BTreeMap<Vec<u8>, Option<PathBuf>> = BTreeMap::new();
        for path in &component.paths {
            let name = path.file_name().map_or(&b"root"[..], |name| name.as_bytes());
            sources.insert(name.to_vec(), Some(path.clone()));
        }
        let mut streams: BTreeMap<Vec<u8>, Stream> = BTreeMap::new();
        for stream in component.streams {
            sources.insert(stream.name.clone(), None);
            streams.insert(stream.name.clone(), stream);
        }
        let mut waiting = Vec::new();
        visit_sources(scope, self.run, directory, part, &sources, |name, slot| {
            if let Some(stream) = streams.remove(name) {
                waiting.push(WaitingStream {
                    directory: directory.clone(),
                    part: part.clone(),
                    slot,
                    stream,
                });
            }
        })?;
        Ok(waiting)
    }

    /// Reads the streams.
    ///
    /// # Errors
    /// What writing meets. A stream that fails is a lack.
    pub fn cut_streams(&self, streams: Vec<WaitingStream>) -> Result<(), RepoError> {
        let run = self.run;
        let mut cutter = Cutter::new(run);
        for waiting in streams {
            let mut scanned =
                run.scanned(&waiting.stream.name, self.made_up(Kind::File, 0o600), 0, Kind::File);
            let name = waiting.stream.name;
            count(&waiting.part.files, 1);
            let record = match waiting.stream.input.cut(&mut cutter) {
                Ok(cut) => {
                    count(&run.counts.files_new, 1);
                    count(&run.counts.bytes_scanned, cut.bytes);
                    count(&waiting.part.bytes, cut.bytes);
                    scanned.size = cut.bytes;
                    let content = run.writer.store_list(cut.list)?;
                    Some(scanned.encode(content.borrowed())?)
                }
                Err(error) => {
                    let reason = source_error(error)?.to_string();
                    run.lack(Some(&waiting.part), name, reason);
                    self.fail(&waiting.part);
                    None
                }
            };
            waiting.directory.put(run, waiting.slot, record)?;
        }
        cutter.flush()
    }

    /// Marks a component as failed.
    fn fail(&self, part: &Arc<Part>) {
        let mut outcomes = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes
            .iter_mut()
            .filter(|outcome| Arc::ptr_eq(&outcome.part, part))
            .for_each(|o| o.has_root = false);
    }

    /// Describes an entry that no file system has.
    fn made_up(&self, kind: Kind, mode: u32) -> Stat {
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
        }
    }
}

fn open_directory(path: &Path) -> Result<std::os::fd::OwnedFd, rustix::io::Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn source_failed(path: &Path, error: &rustix::io::Errno) -> RepoError {
    RepoError::Source { path: path.display().to_string(), reason: error.to_string() }
}

fn excludes(component: &Component) -> Result<Gitignore, RepoError> {
    let bad = |pattern: &str, e: ignore::Error| RepoError::Source {
        path: format!("exclude pattern {pattern:?}"),
        reason: e.to_string(),
    };
    let mut builder = GitignoreBuilder::new("");
    for pattern in &component.excludes {
        builder.add_line(None, pattern).map_err(|e| bad(pattern, e))?;
    }
    builder.build().map_err(|e| bad("", e))
}
