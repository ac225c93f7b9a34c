//! Sources → one snapshot.

mod care;
mod child;
mod cut;
mod entries;
mod links;
mod mailbox;
mod parents;
mod pending;
mod rename;
mod run;
mod stream;
mod tasks;
mod tries;
mod walk;
mod wanted;

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::base::id::{PackId, SnapshotId};
use crate::base::limits::MANIFEST_ERRORS_MAX;
use crate::base::progress::Progress;
use crate::base::time::Time;
use crate::base::wire;
use crate::op::backup::cut::cut_batches;
use crate::op::backup::parents::Parents;
use crate::op::backup::run::Run;
use crate::op::backup::tasks::Tasks;
use crate::repo::index::Index;
use crate::repo::reader::{Reader, TREE_CACHE_BYTES};
use crate::repo::writer::{Writer, commit};
use crate::repo::{RepoError, Repository};
use crate::stage::snapshot::facts::{self, ComponentRules};
use crate::stage::snapshot::{self, Lack, Manifest, Status, Totals};

pub use care::{Care, Event, Listener, PartReport};
pub use run::Rules;
pub use stream::{Input, Stream};

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
    /// Commands around it, and how often it is tried.
    pub care: Care,
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
    /// Name of the configuration that runs; none for paths and streams by hand.
    pub run: Option<String>,
    /// Whether this is all that is configured, or all paths that were named.
    pub is_night: bool,
    /// Threads that compress, and that walk.
    pub threads: usize,
    /// Threads that read files at the same time.
    pub read_threads: usize,
    /// Do all but write.
    pub dry_run: bool,
    /// Shown to whoever waits; and asked whether to stop.
    pub progress: &'a Progress,
    /// Is told what happens.
    pub listener: Option<&'a dyn Listener>,
}

/// What a backup did.
#[derive(Debug)]
#[must_use = "a backup that lacks entries is not whole"]
pub struct Report {
    /// The snapshot; none after a dry run.
    pub snapshot: Option<SnapshotId>,
    /// The manifest.
    pub manifest: Manifest,
    /// Bytes by which the repository's files grew, the manifest too.
    pub bytes_stored: u64,
    /// What became of each component, in the order they were read.
    pub parts: Vec<PartReport>,
    /// Packs that this run wrote or took over.
    pub packs: Vec<PackId>,
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

/// Says that a pack which a run left that was cut off is not what its name stands for.
fn left_out((path, error): (String, RepoError)) -> String {
    format!("{path}: no fragment lists it, and nothing is taken from it: {}", error.chain())
}

/// Returns what each component leaves out, as its manifest says it.
fn said_rules(request: &Request<'_>) -> Vec<ComponentRules> {
    let rules = request.components.iter().map(|component| ComponentRules {
        component: component.name.clone(),
        excludes: component.excludes.clone(),
        exclude_if_present: request.rules.exclude_if_present.clone(),
        one_file_system: request.rules.one_file_system,
    });
    rules.collect()
}

/// Backs up the components into one snapshot.
///
/// # Errors
/// [`RepoError`]; no snapshot exists then, and nothing that did is harmed. An entry that can't be
/// read is no error: see [`Report::lacks`]. [`RepoError::Source`] if nothing at all can be read.
pub fn backup(repository: &Repository, request: Request<'_>) -> Result<Report, RepoError> {
    let started = Instant::now();
    if !repository.is_enrolled() {
        return Err(repository.not_enrolled()); // it may be another one, put in the place of ours
    }
    repository.store().sweep_uploads()?;
    let snapshots = repository.snapshots()?;
    let mut index = Index::open(repository)?;
    let mut problems: Vec<String> = index.prove_orphans(repository).into_iter().map(left_out).collect();
    let reader = Reader::new(repository, index, TREE_CACHE_BYTES);
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
    let said = wire::encode(&said_rules(&request)).map_err(|e| RepoError::record(&"snapshots/", e))?;
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
            let tasks = Tasks {
                run: &run,
                pool: &pool,
                parents: &parents,
                time: request.time,
                listener: request.listener,
                outcome: &outcome,
            };
            std::thread::scope(|scope| {
                for _ in 0..read_threads {
                    let (run, receiver) = (&run, receiver.clone());
                    scope.spawn(move || cut_batches(run, &receiver));
                }
                drop(receiver);
                run.check(tasks.all(components));
                run.close();
            });
            let root = run.root()?;
            let (lacks, skipped) = run.notes();
            let torn = run.counts.torn.load(Ordering::Relaxed);
            Ok((root, run.counts.totals(), lacks, skipped, torn))
        })?;
    let parts = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    let all_failed = !parts.is_empty() && parts.iter().all(|part| part.status == Status::Failed);
    if all_failed {
        let first = lacks.first().map(|lack| (crate::base::entry::quoted(&lack.path), lack.reason.clone()));
        let (path, reason) = first.unwrap_or_else(|| {
            let source = sources.first().and_then(|paths| paths.first());
            let path = source.map_or_else(String::new, |path| crate::base::entry::quoted(path));
            (path, "nothing of it can be read".to_owned())
        });
        return Err(RepoError::Source { path, reason });
    }
    let component = |(number, part): (usize, &PartReport)| snapshot::Component {
        name: names[number].clone(),
        directory: directories[number].clone(),
        sources: [sources[number].clone(), stream_names[number].clone()].concat(),
        status: part.status,
        attempts: part.attempts,
        files: part.files,
        bytes: part.bytes,
    };
    let mut extra = request.listener.map(Listener::facts).unwrap_or_default();
    extra.push((facts::NIGHT.to_owned(), vec![u8::from(request.is_night)]));
    extra.extend(request.run.map(|name| (facts::RUN.to_owned(), name.into_bytes())));
    extra.push((facts::RULES.to_owned(), said));
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
        extra,
    };
    let mut bytes_stored = written.bytes_stored;
    let packs = written.packs();
    let snapshot = match request.dry_run {
        true => None,
        false => {
            let (id, bytes) = commit(repository, reader.into_index(), written, &manifest)?;
            bytes_stored += bytes;
            Some(id)
        }
    };
    Ok(Report { snapshot, manifest, bytes_stored, parts, packs, lacks, skipped, torn, taken_over, problems })
}
