//! Sources → one snapshot.

mod cut;
mod links;
mod pending;
mod rename;
mod run;
mod stream;
mod walk;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rayon::Scope;
use rustix::fs::{Mode, OFlags};

use crate::base::content::ContentBuf;
use crate::base::entry::Kind;
use crate::base::id::SnapshotId;
use crate::base::limits::MANIFEST_ERRORS_MAX;
use crate::base::progress::{Done, Progress};
use crate::base::time::Time;
use crate::op::backup::cut::{Cutter, cut_batches};
use crate::op::backup::pending::{Pending, Up};
use crate::op::backup::rename::{Renames, old_directory};
use crate::op::backup::run::{Part, Run, count};
use crate::op::backup::walk::{Visit, Wanted, visit, visit_sources};
use crate::repo::index::Index;
use crate::repo::reader::Reader;
use crate::repo::writer::{Writer, commit};
use crate::repo::{RepoError, Repository, Snapshot};
use crate::stage::scan::{self, Stat};
use crate::stage::snapshot::{self, Lack, Manifest, Status, Totals};
use crate::stage::tree::Entries;

pub use run::Rules;
pub use stream::{Input, Stream};

/// Memory for frames of the parent snapshot's trees, in bytes.
const TREE_CACHE_BYTES: usize = 16 << 20;

/// A named part of the snapshot, and where it comes from.
pub struct Component {
    /// Its name.
    pub name: String,
    /// Directory of the snapshot that will hold it; empty for the root, where paths lie by their
    /// absolute names.
    pub directory: Vec<u8>,
    /// Absolute paths. A single directory's content lies right in the component's directory;
    /// others lie there by their base names.
    pub paths: Vec<PathBuf>,
    /// Streams; each becomes a file.
    pub streams: Vec<Stream>,
    /// What is left out: patterns as in `.gitignore`, relative to the component's root.
    pub excludes: Vec<String>,
}

/// What a backup is asked for.
pub struct Request<'a> {
    /// What to read.
    pub components: Vec<Component>,
    /// How to compare, and what to leave out of all components.
    pub rules: Rules,
    /// Tags of the snapshot.
    pub tags: Vec<String>,
    /// Time of the snapshot.
    pub time: Time,
    /// Name of this machine.
    pub host: String,
    /// Who runs this.
    pub user: String,
    /// Threads that compress, and that walk.
    pub threads: usize,
    /// Threads that read files at the same time.
    pub read_threads: usize,
    /// Do all but write.
    pub dry_run: bool,
    /// Shown to whoever waits; and asked whether to stop.
    pub progress: &'a Progress,
}

/// What a backup did.
#[derive(Debug)]
#[must_use = "a backup that lacks entries is not whole"]
pub struct Report {
    /// The snapshot; none after a dry run.
    pub snapshot: Option<SnapshotId>,
    /// The manifest.
    pub manifest: Manifest,
    /// Every entry that is lacking, and why.
    pub lacks: Vec<Lack>,
    /// Entries left out on purpose, and why.
    pub skipped: Vec<Lack>,
    /// Files that changed while they were read; each is stored as read.
    pub torn: u64,
    /// Complete packs of an earlier, killed run that this one took over.
    pub taken_over: u64,
    /// Fragments and packs that could not be read.
    pub problems: Vec<String>,
}

impl Report {
    /// Returns whether everything asked for is in the snapshot.
    pub fn is_whole(&self) -> bool {
        self.lacks.is_empty()
    }
}

/// Backs up the components into one snapshot.
///
/// # Errors
/// [`RepoError`]; no snapshot exists then, and nothing that did is harmed. An entry that can't be
/// read is no error: see [`Report::lacks`]. [`RepoError::Source`] if nothing at all can be read.
pub fn backup(repository: &Repository, request: Request<'_>) -> Result<Report, RepoError> {
    let started = Instant::now();
    repository.store().sweep_uploads()?;
    let snapshots = repository.snapshots()?;
    let reader = Reader::new(repository, Index::open(repository)?, TREE_CACHE_BYTES);
    let mut problems: Vec<String> = Vec::new();
    problems.extend(snapshots.unreadable.iter().map(|(_, error)| error.to_string()));
    problems.extend(reader.index().problems().iter().map(|(path, error)| format!("{path}: {error}")));
    let parents = Parents::find(&reader, &snapshots.all, &request);
    let taken_over = reader.index().orphans().len() as u64;
    request.progress.expect(parents.expected());
    let Request { components, rules, progress, .. } = &request;
    let (names, sources): (Vec<_>, Vec<_>) = components
        .iter()
        .map(|c| (c.name.clone(), c.paths.iter().map(|p| p.as_os_str().as_bytes().to_vec())))
        .map(|(name, paths)| (name, paths.collect::<Vec<_>>()))
        .unzip();
    let (rules, progress) = (rules.clone(), *progress);
    let threads = request.threads.max(1);
    let read_threads = request.read_threads.max(1);
    let outcome = Mutex::new(Vec::new());
    let components = request.components;
    let directories: Vec<Vec<u8>> = components.iter().map(|c| c.directory.clone()).collect();
    let stream_names: Vec<Vec<Vec<u8>>> =
        components.iter().map(|c| c.streams.iter().map(|s| s.name.clone()).collect()).collect();
    let ((root, totals, lacks, skipped, torn), written) =
        Writer::run(repository, reader.index(), threads, |writer| {
            let (sender, receiver) = crossbeam_channel::bounded(2 * read_threads);
            let run = Run::new(writer, &reader, &rules, progress, sender);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.min(read_threads)).build();
            let pool = pool.map_err(|_| RepoError::System { what: "threads" })?;
            let tasks = Tasks { run: &run, parents: &parents, time: request.time, outcome: &outcome };
            std::thread::scope(|scope| {
                for _ in 0..read_threads {
                    let (run, receiver) = (&run, receiver.clone());
                    scope.spawn(move || cut_batches(run, &receiver));
                }
                drop(receiver);
                let streams = pool.scope(|scope| tasks.start(scope, components));
                let result = streams.and_then(|streams| tasks.cut_streams(streams));
                run.check(result);
                run.close();
            });
            let root = run.root()?;
            let (lacks, skipped) = run.notes();
            let torn = run.counts.torn.load(Ordering::Relaxed);
            Ok((root, run.counts.totals(), lacks, skipped, torn))
        })?;
    let parts = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    let all_failed = !parts.is_empty() && parts.iter().all(|part| part.is_failed());
    if all_failed {
        let first = lacks.first().map(|lack| (crate::base::entry::quoted(&lack.path), lack.reason.clone()));
        let (path, reason) = first.unwrap_or_default();
        return Err(RepoError::Source { path, reason });
    }
    let component = |(number, part): (usize, &Outcome)| snapshot::Component {
        name: names[number].clone(),
        directory: directories[number].clone(),
        sources: [sources[number].clone(), stream_names[number].clone()].concat(),
        status: part.status(),
        attempts: 1,
        files: part.part.files.load(Ordering::Relaxed),
        bytes: part.part.bytes.load(Ordering::Relaxed),
    };
    let mut tags = request.tags;
    tags.sort();
    tags.dedup();
    let manifest = Manifest {
        time: request.time,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        host: request.host,
        user: request.user,
        program: concat!("snap ", env!("CARGO_PKG_VERSION")).to_owned(),
        tags,
        parent: parents.newest,
        replaces: None,
        components: parts.iter().enumerate().map(component).collect(),
        totals: Totals {
            bytes_added: written.bytes_added,
            bytes_stored: written.bytes_stored,
            chunks_new: written.chunks_new,
            ..totals
        },
        lacks: lacks.iter().take(MANIFEST_ERRORS_MAX).cloned().collect(),
        lacks_total: lacks.len() as u64,
        root,
        extra: Vec::new(),
    };
    let snapshot = match request.dry_run {
        true => None,
        false => Some(commit(repository, reader.into_index(), written, &manifest)?),
    };
    Ok(Report { snapshot, manifest, lacks, skipped, torn, taken_over, problems })
}

/// How a component fared.
struct Outcome {
    part: Arc<Part>,
    has_root: bool,
}

impl Outcome {
    fn is_failed(&self) -> bool {
        !self.has_root
    }

    fn status(&self) -> Status {
        match (self.has_root, self.part.lacks.load(Ordering::Relaxed)) {
            (false, _) => Status::Failed,
            (true, 0) => Status::Complete,
            (true, _) => Status::Partial,
        }
    }
}

/// For each component, the newest snapshot that has it from this machine.
struct Parents {
    newest: Option<SnapshotId>,
    roots: Vec<Option<ContentBuf>>,
    files: u64,
    bytes: u64,
}

impl Parents {
    fn find(reader: &Reader<'_>, all: &[Snapshot], request: &Request<'_>) -> Self {
        let mut parents = Self { newest: None, roots: Vec::new(), files: 0, bytes: 0 };
        let mut newest = None;
        for component in &request.components {
            let sources: Vec<&[u8]> =
                component.paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
            let candidates = || {
                all.iter().rev().filter(|snapshot| snapshot.manifest.host == request.host).filter_map(
                    |snapshot| {
                        let same = snapshot.manifest.components.iter().find(|old| {
                            old.name == component.name
                                && old.directory == component.directory
                                && old.status != Status::Failed
                        });
                        same.map(|old| (snapshot, old))
                    },
                )
            };
            let same_sources = candidates().find(|(_, old)| old.sources == sources);
            let Some((snapshot, old)) = same_sources.or_else(|| candidates().next()) else {
                parents.roots.push(None);
                continue;
            };
            parents.files += old.files;
            parents.bytes += old.bytes;
            newest = newest.max(Some((snapshot.manifest.time, snapshot.id)));
            parents.roots.push(below(reader, &snapshot.manifest.root, &component.directory));
        }
        parents.newest = newest.map(|(_, id)| id);
        parents
    }

    fn expected(&self) -> Done {
        Done { files: self.files, bytes: self.bytes }
    }
}

/// Returns the content of a component's directory in an old snapshot.
fn below(reader: &Reader<'_>, root: &ContentBuf, directory: &[u8]) -> Option<ContentBuf> {
    if directory.is_empty() {
        return Some(root.clone());
    }
    let stream = reader.content(root.borrowed()).ok()?;
    let mut entries = Entries::new(&stream).map_while(Result::ok);
    let found = entries.find(|(_, entry)| entry.name == directory && entry.kind == Kind::Directory);
    found.map(|(_, entry)| entry.content.to_owned())
}

/// A stream that waits for the walk to end.
struct WaitingStream {
    directory: Arc<Pending>,
    part: Arc<Part>,
    slot: u32,
    stream: Stream,
}

struct Tasks<'t> {
    run: &'t Run<'t>,
    parents: &'t Parents,
    time: Time,
    outcome: &'t Mutex<Vec<Outcome>>,
}

impl<'t> Tasks<'t> {
    /// Starts to walk all components. Returns the streams, which are read one after the other.
    fn start(&self, scope: &Scope<'t>, components: Vec<Component>) -> Result<Vec<WaitingStream>, RepoError> {
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
            slots.push(pending::Slot::Later);
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
            listed: None,
            maildir: None,
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
                    listed: None,
                    maildir: None,
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

    fn cut_streams(&self, streams: Vec<WaitingStream>) -> Result<(), RepoError> {
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
                    let reason = stream::source_error(error)?.to_string();
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
