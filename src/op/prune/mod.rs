//! Snapshots that a policy does not keep, and packs that nothing needs → gone.
//!
//! First what is to stay is judged, then what the rest leaves unneeded is condemned, and what was
//! condemned long enough ago is swept. Never removes what it can't account for. On a full disk, with `at_once`, what
//! nothing needs goes before anything is written.

mod copies;
mod forget;
mod gradual;
mod ledger;
mod mark;
mod plan;
mod policy;
mod reclaim;
mod survey;

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::base::id::SnapshotId;
use crate::base::progress::Progress;
use crate::base::time::Time;
use crate::op::prune::forget::{forget, judge};
use crate::op::prune::reclaim::Reclaim;
use crate::repo::index::Index;
use crate::repo::{RepoError, Repository};
use crate::store::LockMode;

pub use policy::{Fate, PIN, Policy, Reason, TagSpan};

/// How long packs stay after they were condemned, unless it is said otherwise.
pub const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Share of the repository that may stay unused, in percent, unless it is said otherwise.
pub const UNUSED_PERCENT_MAX: f64 = 3.0;

/// How long a prune waits for others to let go of the repository, unless it is said otherwise.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// What a prune is asked for.
pub struct Request<'a> {
    /// Which snapshots stay. An empty policy removes none, and space is reclaimed all the same.
    pub policy: Policy,
    /// Snapshots that go whatever the policy says. Manifests that can't be read are named here too.
    pub forget: Vec<SnapshotId>,
    /// The time.
    pub now: Time,
    /// Whose days and weeks the policy means.
    pub zone: TimeZone,
    /// How long packs stay after they were condemned.
    pub grace: Duration,
    /// Reclaim at once, without grace; nobody else may use the repository meanwhile.
    pub at_once: bool,
    /// How long it waits where it needs the repository alone and others use it.
    pub lock_patience: Duration,
    /// Whether the same policy was carried out before: what it left undone for some nights is no mistake then,
    /// however much that is.
    pub is_usual: bool,
    /// Remove even where the clock or the number of snapshots makes it look like a mistake.
    pub force: bool,
    /// Share of the repository's packs that may stay unused, in percent.
    pub unused_percent_max: f64,
    /// Most bytes of packs that are repacked in one run; none for no bound.
    pub repack_bytes_max: Option<u64>,
    /// Do all but change the repository.
    pub dry_run: bool,
    /// Shown to whoever waits; and asked whether to stop.
    pub progress: &'a Progress,
}

impl<'a> Request<'a> {
    /// Returns the request for `policy` with everything else as it is by default.
    pub fn new(policy: Policy, now: Time, zone: TimeZone, progress: &'a Progress) -> Self {
        Self {
            policy,
            forget: Vec::new(),
            now,
            zone,
            grace: GRACE,
            at_once: false,
            lock_patience: LOCK_PATIENCE,
            is_usual: false,
            force: false,
            unused_percent_max: UNUSED_PERCENT_MAX,
            repack_bytes_max: None,
            dry_run: false,
            progress,
        }
    }
}

/// A snapshot and what becomes of it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Name of its manifest.
    pub id: SnapshotId,
    /// Its time.
    pub time: Time,
    /// The machine that it is of.
    pub host: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Names of its components.
    pub components: Vec<String>,
    /// What becomes of it.
    pub fate: Fate,
}

/// Some packs and their length together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a prune did; after a dry run, what it would have done.
#[derive(Debug, Default)]
#[must_use = "a prune says what it removed"]
pub struct Report {
    /// All snapshots, oldest first. What can't be read is not among them.
    pub snapshots: Vec<Judged>,
    /// Packs that nothing needs and that go once their time has come.
    pub condemned: Amount,
    /// Packs whose live frames were copied into new ones; they are condemned as well.
    pub repacked: Amount,
    /// New packs.
    pub written: Amount,
    /// Frames that hold little that is needed, and can't be opened here: backups refer to them no more.
    pub frames_closed: u64,
    /// Packs that were condemned and are needed again.
    pub rescued: Amount,
    /// Packs that were deleted.
    pub deleted: Amount,
    /// Packs that are condemned and still there.
    pub waiting: Amount,
    /// Bytes of all packs before.
    pub bytes_before: u64,
    /// Bytes of all packs after.
    pub bytes_after: u64,
    /// Why the run would be refused without `force`; only after a dry run.
    pub refusals: Vec<String>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

impl Report {
    /// Returns how many snapshots stay.
    pub fn kept(&self) -> u64 {
        self.snapshots.iter().filter(|snapshot| snapshot.fate.is_kept()).count() as u64
    }

    /// Returns how many snapshots go.
    pub fn forgotten(&self) -> u64 {
        self.snapshots.len() as u64 - self.kept()
    }
}

/// Prunes a repository. Takes its lock itself: the caller must not hold it.
///
/// # Errors
/// [`RepoError::Refused`] if what would be removed looks like a mistake, or if a manifest or a tree
/// can't be read; nothing was changed then. [`RepoError::Store`] otherwise: what was done so far
/// stays, no kept snapshot is harmed, and the next prune finishes the work.
pub fn prune(repository: &Repository, request: &Request<'_>) -> Result<Report, RepoError> {
    if !repository.is_enrolled() {
        return Err(repository.not_enrolled()); // it may be another one, put in the place of ours
    }
    let mode = if request.at_once && !request.dry_run { LockMode::Exclusive } else { LockMode::Shared };
    let lock = repository.lock_patiently(mode, request.lock_patience, request.progress)?;
    let judgement = judge(repository, request)?;
    let (mut reclaim, mut report) = Reclaim::plan(repository, request, &judgement)?;
    if request.dry_run {
        return Ok(report);
    }
    if let Err(e) = repository.store().sweep_uploads() {
        report.notes.push(RepoError::from(e).chain());
    }
    reclaim.try_to_write()?;
    if !forget(repository, &judgement, request)? {
        report.notes.push(
            "forgotten/: the disk is full, and nothing notes that these snapshots were removed on purpose: 'snap sync' takes them for lost until 'snap sync --accept-loss'".to_owned(),
        );
    }
    reclaim.condemn(&mut report)?;
    if let Err(e) = repository.gather_forgotten() {
        tracing::debug!("forgotten/: the notes stay in several files: {}", e.chain());
    }
    drop(lock);
    if !request.at_once {
        reclaim.sweep(&judgement, &mut report)?;
    }
    reclaim.measure(&mut report)?;
    if repository.index_path().is_some() {
        drop(Index::open(repository)?); // the cache of this machine catches up
    }
    Ok(report)
}
