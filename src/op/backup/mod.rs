//! Sources → one snapshot.

mod care;
mod child;
mod cut;
mod entries;
mod excludes;
mod links;
mod listed;
mod mailbox;
mod named;
mod own;
mod parents;
mod pending;
mod rename;
mod run;
mod stream;
mod suspect;
mod tasks;
mod tries;
mod walk;
mod wanted;
mod warnings;

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::base::id::{PackId, SnapshotId};
use crate::base::limits::MANIFEST_ERRORS_MAX;
use crate::base::progress::Progress;
use crate::base::threads::{NO_THREAD, begin, pool, sparing};
use crate::base::time::Time;
use crate::base::wire;
use crate::op::backup::cut::cut_batches;
use crate::op::backup::parents::Parents;
use crate::op::backup::run::Run;
use crate::op::backup::suspect::Watch;
use crate::op::backup::tasks::Tasks;
use crate::repo::config::Encryption;
use crate::repo::index::Index;
use crate::repo::reader::{Reader, TREE_CACHE_BYTES};
use crate::repo::recipients::{Fault, SealedTo};
use crate::repo::writer::{Writer, commit};
use crate::repo::{RepoError, Repository};
use crate::stage::snapshot::facts::{self, ComponentRules, Suspect};
use crate::stage::snapshot::{self, Lack, Manifest, Status, Totals};

pub use care::{Care, Event, Listener, PartReport, Shrink};
pub use excludes::{Excludes, Place};
pub use own::{OwnPlaces, is_own};
pub use run::Rules;
pub use stream::{Input, Stream};
pub use suspect::{Amount, Finding, Suspected};

/// Threads that are left for a pack that is made durable, for a command, and for what that complains of, when those begin
/// that walk and cut.
const SPARE_THREADS: usize = 3;

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
    /// The time by the clock, when the run began.
    pub began: Time,
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
    /// What somebody should look at, though nothing is lacking: a line each.
    pub warnings: Vec<String>,
    /// Files that changed while they were read; each is stored as read.
    pub torn: u64,
    /// Complete packs of an earlier, killed run that this one took over.
    pub taken_over: u64,
    /// Fragments and packs that could not be read, and components that could not be compared.
    pub problems: Vec<String>,
    /// Components that are suddenly something else, accepted or not.
    pub suspects: Vec<Suspected>,
    /// To whom content was sealed, and how `keys/` differs from that.
    pub sealed_to: SealedTo,
}

impl Report {
    /// Returns whether everything asked for is in the snapshot, and nothing of it is suspect.
    pub fn is_whole(&self) -> bool {
        self.lacks.is_empty() && self.open_suspects().next().is_none()
    }

    /// Returns the components that are suspect, and that nobody has accepted.
    pub fn open_suspects(&self) -> impl Iterator<Item = &Suspected> {
        self.suspects.iter().filter(|suspect| !suspect.is_accepted)
    }

    /// Returns how `keys/` differs from what this machine remembers, a line each. The snapshot is good, and
    /// somebody is to look at it.
    pub fn key_errors(&self) -> Vec<String> {
        self.sealed_to.differences()
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

/// Returns to whom content is sealed, and remembers it unless nothing is to be written. That it can't be remembered
/// is told, and keeps nothing from being backed up.
fn sealed_to(repository: &Repository, dry_run: bool) -> Result<SealedTo, RepoError> {
    let mut sealed_to = repository.sealed_to()?;
    let is_to_be_kept = repository.config().encryption == Encryption::Age && !dry_run;
    if is_to_be_kept && let Err(e) = repository.remember(&sealed_to) {
        let what = format!("to whom content is sealed can't be remembered: {}", e.chain());
        sealed_to.faults.push(Fault::of_memory(what));
    }
    Ok(sealed_to)
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
    let sealed_to = sealed_to(repository, request.dry_run)?;
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
    let said = said_rules(&request);
    let watch = Watch::new(&request, said.clone());
    let components = request.components;
    let directories: Vec<Vec<u8>> = components.iter().map(|c| c.directory.clone()).collect();
    let stream_names: Vec<Vec<Vec<u8>>> =
        components.iter().map(|c| c.streams.iter().map(|s| s.name.clone()).collect()).collect();
    let known = parents.newest.and_then(|id| snapshots.all.iter().find(|snapshot| snapshot.id == id));
    let known = known.map(|parent| parent.manifest.list_names()).unwrap_or_default();
    let ((root, totals, lacks, (skipped, warnings), torn, listed), written) =
        Writer::run(repository, reader.index(), threads, |writer| {
            let (sender, receiver) = crossbeam_channel::bounded(2 * read_threads);
            let run = Run::new(writer, &reader, &rules, progress, sender);
            let none = || RepoError::System { what: NO_THREAD };
            let pool = pool(threads.min(read_threads), 1 + SPARE_THREADS).map_err(|_| none())?;
            let tasks = Tasks {
                run: &run,
                pool: &pool,
                parents: &parents,
                time: request.time,
                listener: request.listener,
                outcome: &outcome,
            };
            std::thread::scope(|scope| {
                let cutter = |_| {
                    let (run, receiver) = (&run, receiver.clone());
                    begin(scope, move || cut_batches(run, &receiver))
                };
                let first = cutter(0);
                if first.is_ok() {
                    sparing(SPARE_THREADS, (1..read_threads).map(cutter));
                }
                drop(receiver);
                run.check(first.map_err(|_| none()).and_then(|_| tasks.all(components)));
                run.close();
            });
            let root = run.root()?;
            let (lacks, skipped) = run.notes();
            let torn = run.counts.torn.load(Ordering::Relaxed);
            let notes = (skipped, run.warnings.take());
            Ok((root, run.counts.totals(), lacks, notes, torn, run.listed.names(&known)))
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
    let outcome = suspect::Outcome {
        all: &snapshots.all,
        parents: &parents.roots,
        parts: &parts,
        written: &written,
        root: &root,
        progress,
    };
    let (reader, suspects) = watch.judge(repository, reader, &outcome, &mut problems)?;
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
    extra.push((facts::RULES.to_owned(), fact(&said)?));
    let accepted = suspects.iter().filter(|suspect| suspect.is_accepted).map(|it| it.component.clone());
    let accepted: Vec<String> = accepted.collect();
    let found: Vec<Suspect> = suspects.iter().map(Suspected::fact).collect();
    if !found.is_empty() {
        extra.push((facts::SUSPECTS.to_owned(), fact(&found)?));
    }
    if !accepted.is_empty() {
        extra.push((facts::ACCEPTED.to_owned(), fact(&accepted)?));
    }
    extra.push((facts::CONFIG.to_owned(), repository.config_proof().to_vec()));
    let made = request.began.later_by(started.elapsed());
    extra.push((facts::MADE.to_owned(), fact(&made)?));
    if listed != facts::ListNames::default() {
        extra.push((facts::LIST_NAMES.to_owned(), fact(&listed)?));
    }
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
    Ok(Report {
        snapshot,
        manifest,
        bytes_stored,
        parts,
        packs,
        lacks,
        skipped,
        warnings,
        torn,
        taken_over,
        problems,
        suspects,
        sealed_to,
    })
}

/// Returns a named fact as the manifest has it.
fn fact<T: bincode::Encode>(what: &T) -> Result<Vec<u8>, RepoError> {
    wire::encode(what).map_err(|e| RepoError::record(&"snapshots/", e))
}
