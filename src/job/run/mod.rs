//! One configured run, from pre-flight to the last notice.

mod goes_on;
mod stop;
mod tell;

use std::cell::{Cell, OnceCell, RefCell};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;

use crate::base::progress::Progress;
use crate::base::redact::Redactor;
use crate::base::time::Time;
use crate::base::units::{counted, number, show_bytes};
use crate::job::config::{Component, Config, Level};
use crate::job::listener::JobListener;
use crate::job::lock::{self, LockError, RunLock};
use crate::job::log::{self, Log};
use crate::job::mount::Disk;
use crate::job::notice::Failing;
use crate::job::ping::Signal;
use crate::job::preflight::{self, Finding};
use crate::job::run::stop::Stop;
use crate::job::told::Told;
use crate::job::{clock, retention};
use crate::op::backup::{self, Report, Request, Rules, backup};
use crate::op::prune;
use crate::op::verify::verify;
use crate::repo::whose::{Configured, RunKey, Whose};
use crate::repo::{RepoError, Repository, Snapshot};
use crate::store::{Lock, LockMode, StoreError};

pub use goes_on::{RETENTION, rules};
pub use stop::Ending;

/// What a run is asked for.
pub struct Order<'o> {
    /// What is configured.
    pub config: &'o Config,
    /// Knows what must not be shown.
    pub redactor: Redactor,
    /// The repository's directory.
    pub location: PathBuf,
    /// This machine's state directory.
    pub state: PathBuf,
    /// Opens the repository.
    pub open: &'o dyn Fn() -> Result<Repository, RepoError>,
    /// Turned by the run; and asked whether to stop.
    pub progress: &'o Progress,
    /// What was typed, for messages: `snap backup --daily`.
    pub command: String,
    /// Name of this machine.
    pub host: String,
    /// Who runs this.
    pub user: String,
    /// Time of the snapshot.
    pub time: Time,
    /// Tags of the snapshot.
    pub tags: Vec<String>,
    /// Components wanted; all if none are named.
    pub only: Vec<String>,
    /// Components that are right as they are, however little is left of them.
    pub accept: Vec<String>,
    /// What is left out of all components.
    pub excludes: Vec<String>,
    /// How files are compared.
    pub rules: Rules,
    /// Threads that compress, and that walk.
    pub threads: usize,
    /// Threads that read files.
    pub read_threads: usize,
    /// Whether to wait for another run to end.
    pub wait: bool,
    /// How long a repository is waited for that somebody else has alone.
    pub lock_wait: Duration,
    /// Least level that is shown on standard error too.
    pub echo: Level,
    /// Whether that is held back until somebody was told by mail: cron mails what it gets.
    pub is_held: bool,
}

/// What came of a run.
#[must_use = "a run that failed must not go unnoticed"]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// What the backup did, if it came so far.
    pub report: Option<Report>,
}

/// A run under way.
struct Night<'n> {
    order: &'n Order<'n>,
    log: &'n Log,
    listener: JobListener<'n>,
    began: Time,
    started: Instant,
    repository: OnceCell<Repository>,
    report: OnceCell<Report>,
    capacity: OnceCell<Disk>,
    /// Whether the new snapshot was read back and is right.
    is_verified: Cell<bool>,
    /// What goes on from night to night, and who was told of it; none before the repository is open.
    told: RefCell<Option<Told>>,
    /// Whose the new snapshot is to be.
    key: OnceCell<RunKey>,
    /// When old snapshots began to be removed.
    retention_began: Cell<Time>,
    /// Of that, what the mail about this run tells.
    due: RefCell<Vec<String>>,
    /// What a mail is to say of nights that were missed.
    missed: OnceCell<String>,
    /// What a mail is to say of old snapshots that are not removed.
    unretained: OnceCell<String>,
}

/// Runs what is configured, and tells everybody who is to be told. Never fails: what goes wrong is
/// logged, told, and shows in the outcome.
pub fn run(order: &Order<'_>) -> Outcome {
    let began = clock::now();
    let (log, failure) = Log::open(&order.config.log, order.redactor.clone(), Some(order.echo), began);
    if order.is_held {
        log.hold();
    }
    let night = Night {
        order,
        log: &log,
        listener: JobListener::new(&log),
        began,
        started: Instant::now(),
        repository: OnceCell::new(),
        report: OnceCell::new(),
        capacity: OnceCell::new(),
        is_verified: Cell::new(false),
        told: RefCell::default(),
        key: OnceCell::new(),
        retention_began: Cell::new(began),
        due: RefCell::default(),
        missed: OnceCell::new(),
        unretained: OnceCell::new(),
    };
    let result = match failure {
        Some(what) => Err(Stop::critical(Failing::Other, "INIT", format!("logs cannot be written: {what}"))),
        None => night.go(),
    };
    let ending = night.end(result);
    Outcome { ending, report: night.report.into_inner() }
}

impl Night<'_> {
    /// Does the work. `Ok(true)` if everything is backed up and verified.
    fn go(&self) -> Result<bool, Stop> {
        let order = self.order;
        let version = env!("CARGO_PKG_VERSION");
        self.log
            .info("INIT", format!("{} (snap {version}) as {} on {}", order.command, order.user, order.host));
        let is_root = rustix::process::geteuid().is_root();
        self.gate(preflight::user(&order.config.run, is_root, &order.user))?;
        let configured = self.configured();
        let _run = self.take_run_lock(&configured.name)?;
        self.gate(preflight::mount(&order.config.repository, &order.location))?;
        self.look_at_disk(true)?;
        self.ping(Signal::Start, "");
        let repository = (order.open)().map_err(|error| Stop::of(&error))?;
        let lock = self.take_repository_lock(&repository)?;
        // The lock file is open: the disk can't be unmounted from here on. Was it, just before?
        self.gate(preflight::mount(&order.config.repository, &order.location))?;
        let snapshots = repository.snapshots().map_err(|error| Stop::of(&error))?;
        let forecast = self.disk().and_then(|disk| preflight::forecast(&snapshots.all, &disk));
        self.gate(forecast)?;
        let run = self.name(&repository, &snapshots.all, &configured);
        let _renamed = (run != configured.name).then(|| self.take_run_lock(&run)).transpose()?;
        self.log.info("INIT", "pre-flight passed");
        let repository = self.repository.get_or_init(|| repository);
        let is_whole = self.back_up(repository, run)?;
        let is_verified = self.verify(repository)?;
        self.is_verified.set(is_verified);
        drop(lock); // prune takes it for itself
        self.retain(repository)?;
        if let Err(e) = log::remove_old(&order.config.log, self.began) {
            self.log.warning("MAIN", format!("old logs cannot be removed: {e}"));
        }
        Ok(is_whole && is_verified)
    }

    /// Logs a finding; ends the run if it is critical.
    fn gate(&self, finding: Option<Finding>) -> Result<(), Stop> {
        match finding {
            Some(Finding { level: Level::Critical, failing, what }) => {
                Err(Stop::critical(failing, "INIT", what))
            }
            Some(finding) => {
                self.log.line(finding.level, "INIT", finding.what);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn configured(&self) -> Configured {
        let order = self.order;
        Configured { host: order.host.clone(), ..order.config.configured(&order.host) }
    }

    fn whose(&self, snapshots: &[Snapshot], configured: &Configured) -> Whose {
        let manifests = snapshots.iter().map(|snapshot| &snapshot.manifest);
        Whose::of(manifests, Some(configured), &TimeZone::system())
    }

    /// Returns the name to which the new snapshot is to belong.
    fn name(&self, repository: &Repository, snapshots: &[Snapshot], configured: &Configured) -> String {
        let whose = self.whose(snapshots, configured);
        let Some(own) = whose.own() else { return configured.name.clone() };
        if let Some(what) = own.remark() {
            self.log.warning("INIT", what);
        }
        self.recall(repository, snapshots, &whose, &own.key);
        own.key.run.clone().unwrap_or_else(|| configured.name.clone())
    }

    fn take_run_lock(&self, run: &str) -> Result<RunLock, Stop> {
        let order = self.order;
        let path = lock::path(&order.state, &order.location, &order.host, run);
        let holder =
            format!("{}, process {}, since {}", order.command, std::process::id(), clock::shown(self.began));
        let taken = RunLock::take(&path, &holder, order.progress, |other| {
            if order.wait {
                self.log.info("INIT", format!("waiting for another run: {other}"));
            }
            order.wait
        });
        taken.map_err(|error| match &error {
            LockError::Held { holder } => {
                self.tell_of_holder(&path, holder);
                Stop::quiet(Ending::Locked, error.to_string())
            }
            LockError::Interrupted => Stop::quiet(Ending::Interrupted, error.to_string()),
            LockError::File { .. } => {
                let failing = if error.is_full() { Failing::Space } else { Failing::Other };
                Stop::critical(failing, "INIT", error.to_string())
            }
        })
    }

    fn take_repository_lock(&self, repository: &Repository) -> Result<Box<dyn Lock>, Stop> {
        let patience = if self.order.wait { Duration::MAX } else { self.order.lock_wait };
        let taken = match repository.lock(LockMode::Shared) {
            Err(RepoError::Store(StoreError::Locked { .. })) => {
                self.log.info("INIT", "waiting for a run that needs the repository alone");
                repository.lock_patiently(LockMode::Shared, patience, self.order.progress)
            }
            taken => taken,
        };
        taken.map_err(|error| Stop::of(&error))
    }

    /// Returns how full the repository's disk is; none if it is not there, or nobody can say.
    fn disk(&self) -> Option<Disk> {
        let (repository, location) = (&self.order.config.repository, &self.order.location);
        let is_there = !repository.is_remote() && preflight::mount(repository, location).is_none();
        is_there.then(|| Disk::of(location).ok()).flatten()
    }

    /// Looks how full the disk is. What is too full for a warning is kept for the mail about it.
    fn look_at_disk(&self, is_gate: bool) -> Result<(), Stop> {
        let Some(disk) = self.disk() else { return Ok(()) };
        let repository = &self.order.config.repository;
        if disk.used_percent() > u64::from(repository.warn_used_percent) {
            let _ = self.capacity.set(disk);
        }
        if is_gate {
            for finding in preflight::space(repository, &self.order.location, &disk) {
                self.gate(Some(finding))?;
            }
        }
        Ok(())
    }

    fn back_up(&self, repository: &Repository, run: String) -> Result<bool, Stop> {
        let order = self.order;
        let is_wanted = |c: &&Component| order.only.is_empty() || order.only.contains(c.name.get_ref());
        let is_night = order.config.components.iter().all(|component| is_wanted(&component));
        let wanted = order.config.components.iter().filter(is_wanted);
        let components = wanted.map(|component| {
            let mut component = component.to_backup(&order.config.run);
            component.excludes.extend(order.excludes.iter().cloned());
            component.care.is_accepted = order.accept.contains(&component.name);
            component
        });
        let request = Request {
            components: components.collect::<Vec<backup::Component>>(),
            rules: order.rules.clone(),
            tags: order.tags.clone(),
            time: order.time,
            began: self.began,
            host: order.host.clone(),
            user: order.user.clone(),
            run: Some(run),
            is_night,
            threads: order.threads,
            read_threads: order.read_threads,
            dry_run: false,
            progress: order.progress,
            listener: Some(&self.listener),
        };
        let report = backup(repository, request).map_err(|error| match &error {
            RepoError::Source { .. } => Stop::critical(
                Failing::Component,
                "MAIN",
                format!("no component could be read: {}", error.chain()),
            ),
            _ => Stop::of(&error),
        })?;
        for warning in &report.warnings {
            self.log.warning("MAIN", warning);
        }
        for problem in &report.problems {
            self.log.warning("MAIN", format!("{problem}; 'snap check' says more"));
        }
        report.sealed_to.news().iter().for_each(|line| self.log.warning("KEYS", line));
        let key_errors = report.key_errors();
        key_errors.iter().for_each(|line| self.log.error("KEYS", line));
        for skipped in &report.skipped {
            let level = if backup::is_own(skipped) { Level::Info } else { Level::Debug };
            let path = crate::base::entry::quoted(&skipped.path);
            self.log.line(level, "MAIN", format!("left out: {path}: {}", skipped.reason));
        }
        if let Some(id) = report.snapshot {
            let stored = show_bytes(report.bytes_stored);
            self.log.info("MAIN", format!("snapshot {id}: the repository grew by {stored}"));
        }
        self.tell_suspects(&report);
        let is_whole = report.is_whole() && key_errors.is_empty();
        let _ = self.report.set(report);
        Ok(is_whole)
    }

    fn verify(&self, repository: &Repository) -> Result<bool, Stop> {
        let Some((report, id)) = self.report.get().and_then(|report| Some((report, report.snapshot?))) else {
            return Ok(true);
        };
        let verified = match verify(repository, id, &report.packs, self.order.progress) {
            Ok(verified) => verified,
            Err(RepoError::Interrupted) => {
                let what = format!("interrupted while snapshot {id} was verified; it was made");
                return Err(Stop::quiet(Ending::Interrupted, what));
            }
            Err(error) => return Err(self.not_verified(error.chain())),
        };
        for problem in &verified.problems {
            self.log.error("VERIFY", problem);
        }
        if let Some(first) = verified.problems.first() {
            return Err(self.not_verified(format!(
                "{}, the first: {first}",
                counted(verified.problems.len() as u64, "problem", "problems")
            )));
        }
        self.log.info(
            "VERIFY",
            format!(
                "passed: {}, {}; {} of this run read back, {}",
                counted(verified.files, "file", "files"),
                show_bytes(verified.bytes),
                counted(verified.packs, "pack", "packs"),
                show_bytes(verified.bytes_read)
            ),
        );
        Ok(true)
    }

    /// Lets old snapshots go. A failure is logged, and harms nothing: the next run tries again.
    fn retain(&self, repository: &Repository) -> Result<(), Stop> {
        let Some(policy) = retention::policy(&self.order.config.retention) else { return Ok(()) };
        let mut request = prune::Request::new(policy, clock::now(), TimeZone::system(), self.order.progress);
        request.is_usual = self.is_usual();
        self.retention_began.set(request.now);
        match prune::prune(repository, &request) {
            Ok(report) => {
                self.retained();
                for snapshot in report.snapshots.iter().filter(|snapshot| !snapshot.fate.is_kept()) {
                    let at = clock::shown(snapshot.time);
                    self.log.debug(
                        "PRUNE",
                        format!("removed: {} of {at} [{}]", snapshot.id, snapshot.tags.join(",")),
                    );
                }
                report.notes.iter().for_each(|note| self.log.debug("PRUNE", note));
                self.log.info(
                    "PRUNE",
                    format!(
                        "{} removed, {} kept; packs deleted: {}, waiting to be deleted: {}",
                        counted(report.forgotten(), "snapshot", "snapshots"),
                        number(report.kept()),
                        show_bytes(report.deleted.bytes),
                        show_bytes(report.waiting.bytes)
                    ),
                );
                Ok(())
            }
            Err(RepoError::Interrupted) => {
                let what = "interrupted while old snapshots were removed; the new one was made".to_owned();
                Err(Stop::quiet(Ending::Interrupted, what))
            }
            Err(error) => {
                self.not_retained(&error.chain());
                Ok(())
            }
        }
    }

    fn not_verified(&self, what: String) -> Stop {
        let what = format!("verification failed: {what}; old snapshots were not removed");
        Stop {
            ending: Ending::Partial,
            level: Level::Error,
            failing: Failing::Verify,
            component: "VERIFY",
            what,
        }
    }
}
