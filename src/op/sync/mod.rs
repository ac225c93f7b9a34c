//! A local repository → a bucket with Object Lock that holds all of its snapshots, locked as long as
//! they are needed.
//!
//! Packs, then fragments, then manifests: the bucket is a whole repository at every moment. What kept
//! snapshots reach has its locks renewed, and nothing else has. Renewals come first: nothing that is put, or can't be,
//! keeps a lock from being renewed.

mod absent;
mod audit;
mod bucket;
mod cost;
mod delete;
mod guard;
mod locks;
mod needs;
mod pass;
mod refused;
mod removed;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::base::id::SnapshotId;
use crate::base::progress::Progress;
use crate::base::time::Time;
use crate::op::sync::absent::Absent;
use crate::op::sync::bucket::Bucket;
use crate::op::sync::delete::Delete;
use crate::op::sync::guard::{blind, over_limit, refuse_anothers, refuse_unprotected};
use crate::op::sync::needs::{kept, read_needs, shared, wanted};
use crate::op::sync::pass::{May, Pass, Settled};
use crate::op::sync::removed::tell_removed;
use crate::repo::bucket_state::BucketState;
use crate::repo::{RepoError, Repository, Snapshot};
use crate::store::{LockingStore, Usage};

pub use cost::{Budget, Cost, Prices};

/// Seconds of a day.
const DAY_S: i64 = 24 * 60 * 60;

/// What a sync is asked for: what the configuration's section says, and the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Days for which what is put, or renewed, is locked.
    pub lock_days: u32,
    /// A lock that ends in less than so many days is renewed, if what it keeps is needed.
    pub renew_below_days: u32,
    /// Read every lock back, not only a sample.
    pub audit: bool,
    /// Remove versions that nobody needs and whose lock is over.
    pub delete: bool,
    /// Remove even so much that it looks like a mistake.
    pub force: bool,
    /// Give up the snapshots that are in the bucket and were lost here: they are noted as removed on purpose.
    pub accept_loss: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// Go on although the bucket can't lock.
    pub allow_unlocked: bool,
    /// Go on although a lifecycle rule removes current versions, or what is put goes into an archive.
    pub allow_expiry: bool,
    /// Time for which a bucket that does not answer is waited for.
    pub patience: Duration,
    /// What is charged.
    pub prices: Prices,
    /// What it may cost.
    pub budget: Budget,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lock_days: 30,
            renew_below_days: 23,
            audit: false,
            delete: false,
            force: false,
            accept_loss: false,
            dry_run: false,
            allow_unlocked: false,
            allow_expiry: false,
            patience: Duration::from_secs(180),
            prices: Prices::default(),
            budget: Budget::default(),
        }
    }
}

/// What a run is given besides.
pub struct Request<'a> {
    /// What is asked for.
    pub options: &'a Options,
    /// The time.
    pub now: Time,
    /// Draws the sample of locks that are read back.
    pub seed: u64,
    /// Files that are put at the same time.
    pub threads: usize,
    /// Says which of all these snapshots the configured rules do not keep: asked of those that a program may have removed
    /// which noted nothing.
    pub expired: &'a (dyn Fn(&[Snapshot]) -> BTreeSet<SnapshotId> + Sync),
    /// Shown to whoever waits; and asked whether to stop.
    pub progress: &'a Progress,
}

impl Request<'_> {
    /// # Errors
    /// [`RepoError::Interrupted`] if it is to stop.
    fn heed(&self) -> Result<(), RepoError> {
        if self.progress.is_cancelled() { Err(RepoError::Interrupted) } else { Ok(()) }
    }
}

/// Something that is wrong, and was put right or needs somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A path in the repository, or where the bucket is.
    pub path: String,
    /// What is wrong and what was done, or what to do, in one line.
    pub what: String,
}

/// How a snapshot is kept in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its time.
    pub time: Time,
    /// Whether all that it needs is in the bucket.
    pub is_whole: bool,
    /// When the first lock of what it needs ends; none if something is not locked.
    pub lowest: Option<Time>,
}

/// What a sync did.
#[derive(Debug, Default)]
#[must_use = "a problem that nobody hears of is not mended"]
pub struct Report {
    /// Files put; with a dry run, that would be.
    pub files_put: u64,
    /// Their bytes.
    pub bytes_put: u64,
    /// Locks renewed.
    pub renewed: u64,
    /// Files of which the genuine bytes were put back on top.
    pub put_back: u64,
    /// Locks read back.
    pub audited: u64,
    /// Versions removed.
    pub deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What somebody should hear of although nothing is wrong with the copy: snapshots that were removed by hand, or many
    /// at once.
    pub warnings: Vec<String>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
    /// The snapshots of the local repository, oldest first.
    pub snapshots: Vec<Kept>,
    /// Bytes of all versions in the bucket afterwards.
    pub bytes_stored: u64,
    /// What was asked of the bucket.
    pub usage: Usage,
    /// What it costs a month.
    pub cost: Cost,
    /// The highest level of the budget that this exceeds.
    pub exceeded: Option<f64>,
    /// What ended the run before it was done. What it found until then is in this report, and some of it is told only once.
    pub stopped: Option<RepoError>,
}

impl Report {
    /// Returns whether everything is in the bucket and locked, and nobody has touched it.
    pub fn is_well(&self) -> bool {
        self.stopped.is_none() && self.problems.is_empty() && self.snapshots.iter().all(|kept| kept.is_whole)
    }
}

/// Brings a bucket up to date.
///
/// What ends it later is [`Report::stopped`]: what was put is there, whole and locked; the next run goes on from there.
///
/// # Errors
/// [`RepoError::Refused`], [`RepoError::Store`], [`RepoError::Interrupted`] before anything was changed in the bucket or
/// found there that is told once.
pub fn sync(
    repository: &Repository,
    remote: &Arc<dyn LockingStore>,
    request: &Request<'_>,
) -> Result<Report, RepoError> {
    let common = remote;
    let remote = remote.as_ref();
    let before = remote.usage();
    let has_locks = refuse_unprotected(remote, request.options)?;
    let mut report = Report::default();
    let (needing, indexed) = read_needs(repository, request.progress, &mut report)?;
    let bucket = Bucket::read(remote)?;
    let mut known = BucketState::load(repository, &remote.identity());
    refuse_anothers(repository, remote, &bucket, &known)?;
    let (mut absent, mut notes) = Absent::read(repository, common, &bucket, &needing, &known, request)?;
    if request.options.accept_loss {
        absent.accept(repository, needing.len(), request, &mut report)?;
        notes = repository.forgotten()?;
    }
    let is_in_doubt = !report.problems.is_empty() || absent.is_in_doubt();
    absent.tell(remote, &bucket, &mut known, &mut report);
    let blind = blind(&needing, is_in_doubt, &report);
    let wanted = wanted(repository, &needing, &indexed, is_in_doubt, &absent.notes)?;
    let dear = over_limit(&bucket, &wanted, request)?;
    let may_put = dear.is_none();
    report.problems.extend(dear.map(|what| Problem { path: remote.location(), what }));
    audit::missing(&bucket, &mut known, request.now, &mut report);
    let audited = audit::read_back(remote, &mut known, request, &mut report);

    let pass = Pass::new(repository, remote, &bucket, request, May { lock: has_locks, put: may_put }, known);
    let in_doubt = || pass.keep_in_doubt(&wanted, &absent.needless());
    // Before anything is put: what is in the bucket alone must not wait for gigabytes, on a line that may be cut.
    let renewed = audited.and_then(|()| pass.renew(&wanted));
    let renewed = renewed.and_then(|()| if is_in_doubt { in_doubt() } else { Ok(()) });
    let mut settled = renewed.and_then(|()| pass.settle_all(&wanted, &needing));
    if !is_in_doubt && pass.leaves_a_snapshot_broken() {
        settled = settled.and(in_doubt());
    }
    let Settled { mut known, would_put } = pass.finish(&mut report);
    if matches!(settled, Err(RepoError::Interrupted)) {
        known.keep_strange(|_| false); // nobody is mailed of a run that was interrupted: the next one tells it again
    }
    if !request.options.dry_run {
        settled = settled.and(known.keep(repository)); // also what an interrupted run has learned
    }
    report.stopped = settled.err();
    if report.stopped.is_none() {
        report.snapshots = kept(&needing, &shared(&wanted, may_put), &known);
    }
    tell_removed((&notes, &absent), (remote, &bucket), &known, request, &mut report);
    if request.options.delete && report.stopped.is_none() {
        let delete = Delete {
            repository,
            local: repository.shared_store(),
            remote: common.clone(),
            bucket: &bucket,
            needing: &needing,
            absent: &absent,
            blind,
            wanted: &wanted,
            would_put: &would_put,
            may_put,
            request,
        };
        let mut deleted = delete.run(&mut known, &mut report);
        if !request.options.dry_run {
            deleted = deleted.and(known.keep(repository));
        }
        report.stopped = deleted.err();
    }
    tell_strangers(&bucket, &mut report);
    report.usage = remote.usage().since(&before);
    report.bytes_stored = (bucket.bytes + report.bytes_put).saturating_sub(report.bytes_deleted);
    report.cost = Cost::estimate(&request.options.prices, report.bytes_stored, &usual(&report));
    report.exceeded = request.options.budget.exceeded(report.cost.total());
    Ok(report)
}

/// Returns what a night like this one costs without news: each file is put once, which takes four requests, and a lock is
/// renewed each eighth night.
fn usual(report: &Report) -> Usage {
    let Usage { writes, reads, .. } = report.usage;
    let quiet = writes.saturating_sub(report.files_put + report.renewed);
    Usage {
        writes: quiet + report.renewed.div_ceil(8),
        reads: reads.saturating_sub(3 * report.files_put),
        ..report.usage
    }
}

fn tell_strangers(bucket: &Bucket, report: &mut Report) {
    const SHOWN: usize = 20;
    for version in bucket.foreign.iter().take(SHOWN) {
        report.notes.push(format!("{}: not one of ours; left alone", version.path));
    }
    if bucket.foreign.len() > SHOWN {
        report.notes.push(format!("and {} more that are not ours", bucket.foreign.len() - SHOWN));
    }
}
