//! A local repository → a bucket with Object Lock that holds all of its snapshots, locked as long as
//! they are needed.
//!
//! Packs, then fragments, then manifests: the bucket is a whole repository at every moment. What kept
//! snapshots reach has its locks renewed, and nothing else has.

mod audit;
mod bucket;
mod cost;
mod delete;
mod pass;
mod reach;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::id::{FragmentId, PackId, SnapshotId};
use crate::base::progress::Progress;
use crate::base::time::Time;
use crate::op::sync::bucket::Bucket;
use crate::op::sync::delete::Delete;
use crate::op::sync::pass::Pass;
use crate::op::sync::reach::Reach;
use crate::repo::bucket_state::BucketState;
use crate::repo::index::{Index, fragments_present};
use crate::repo::reader::{Reader, TREE_CACHE_BYTES};
use crate::repo::{RepoError, Repository, Snapshot};
use crate::store::{Folder, LockingStore, Name, Usage};

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
    /// Change nothing.
    pub dry_run: bool,
    /// Go on although the bucket can't lock.
    pub allow_unlocked: bool,
    /// Go on although a lifecycle rule removes current versions.
    pub allow_expiry: bool,
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
            dry_run: false,
            allow_unlocked: false,
            allow_expiry: false,
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
    /// Shown to whoever waits; and asked whether to stop.
    pub progress: &'a Progress,
}

/// Something that is wrong, and was put right or needs somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A path in the repository.
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
#[derive(Clone, Debug, Default)]
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
}

impl Report {
    /// Returns whether everything is in the bucket and locked, and nobody has touched it.
    pub fn is_well(&self) -> bool {
        self.problems.is_empty() && self.snapshots.iter().all(|kept| kept.is_whole)
    }
}

/// A snapshot, and what it needs.
pub struct Needing {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The packs.
    pub packs: BTreeSet<PackId>,
    /// Whether those are all.
    pub is_known: bool,
}

/// Brings a bucket up to date.
///
/// # Errors
/// [`RepoError::Refused`] before anything was changed. [`RepoError::Store`], [`RepoError::Interrupted`]:
/// what was put is there, whole and locked; the next run goes on from there.
pub fn sync(
    repository: &Repository,
    remote: &Arc<dyn LockingStore>,
    request: &Request<'_>,
) -> Result<Report, RepoError> {
    let shared = remote;
    let remote = remote.as_ref();
    let before = remote.usage();
    let has_locks = refuse_unprotected(remote, request.options)?;
    let mut report = Report::default();
    let (needing, indexed) = read_needs(repository, request.progress, &mut report)?;
    refuse_blind_deletion(request.options, &needing, &report)?;
    let is_in_doubt = !report.problems.is_empty();
    let wanted = wanted(repository, &needing, &indexed, is_in_doubt)?;
    let bucket = Bucket::read(remote)?;
    hold_to_budget(&bucket, &wanted, request)?;
    let mut known = BucketState::load(repository, &remote.location());
    audit::missing(&bucket, &mut known, request.now, &mut report);
    audit::read_back(remote, &mut known, request, &mut report)?;

    let pass = Pass::new(repository, remote, &bucket, request, has_locks, known);
    let mut settled = pass.run(&wanted, &needing);
    if is_in_doubt {
        settled = settled.and_then(|()| pass.keep_in_doubt(&wanted));
    }
    let mut known = pass.finish(&mut report);
    if !request.options.dry_run {
        known.keep(repository)?; // also what an interrupted run has learned
    }
    settled?;
    report.snapshots = kept(&needing, &wanted, &known);
    let mut removed = 0;
    if request.options.delete {
        let delete = Delete {
            repository,
            local: repository.shared_store(),
            remote: shared.clone(),
            bucket: &bucket,
            needing: &needing,
            wanted: &wanted,
            request,
        };
        removed = delete.run(&mut known, &mut report)?;
        if !request.options.dry_run {
            known.keep(repository)?;
        }
    }
    tell_strangers(&bucket, &mut report);
    report.usage = remote.usage().since(&before);
    report.bytes_stored = (bucket.bytes + report.bytes_put).saturating_sub(removed);
    report.cost = Cost::estimate(&request.options.prices, report.bytes_stored, &report.usage);
    report.exceeded = request.options.budget.exceeded(report.cost.total());
    Ok(report)
}

/// Deleting rests on knowing what is needed.
fn refuse_blind_deletion(options: &Options, needing: &[Needing], report: &Report) -> Result<(), RepoError> {
    let why = match report.problems.first() {
        _ if !options.delete => return Ok(()),
        None if !needing.is_empty() => return Ok(()),
        None => "the local repository holds no snapshot".to_owned(),
        Some(problem) => format!("{}: {}", problem.path, problem.what),
    };
    let what = format!("nothing is removed from the bucket while it is not known what is needed: {why}");
    Err(RepoError::Refused { what })
}

/// Returns whether the bucket can lock.
fn refuse_unprotected(remote: &dyn LockingStore, options: &Options) -> Result<bool, RepoError> {
    let location = remote.location();
    let refuse = |what: String| Err(RepoError::Refused { what });
    if options.lock_days == 0 || options.renew_below_days >= options.lock_days {
        return refuse(format!(
            "locks of {} days that are renewed below {} days: a lock must last longer than the floor below which it is renewed",
            options.lock_days, options.renew_below_days
        ));
    }
    let protection = remote.protection()?;
    let is_locking = protection.has_versions && protection.has_locks;
    if !is_locking && !options.allow_unlocked {
        let lacks = if protection.has_versions { "Object Lock" } else { "versioning and Object Lock" };
        return refuse(format!(
            "{location}: the bucket lacks {lacks}, so whoever has these credentials can destroy the copy; make one with Object Lock (scripts/terraform), or allow it with --allow-unlocked"
        ));
    }
    if !protection.expiring_rules.is_empty() && !options.allow_expiry {
        return refuse(format!(
            "{location}: a lifecycle rule ({}) removes current versions by age: old packs hold live mail; remove the rule, or allow it with --allow-expiry",
            protection.expiring_rules.join(", ")
        ));
    }
    Ok(is_locking)
}

/// What is listed: the fragments, and the packs that they list and that are there.
struct Indexed {
    fragments: BTreeSet<FragmentId>,
    packs: BTreeSet<PackId>,
}

/// Returns what each snapshot needs, and what is listed.
fn read_needs(
    repository: &Repository,
    progress: &Progress,
    report: &mut Report,
) -> Result<(Vec<Needing>, Indexed), RepoError> {
    let snapshots = repository.snapshots()?; // before packs: what a backup adds meanwhile waits for the next run
    let fragments = fragments_present(repository.store())?; // before packs, too
    for (path, error) in snapshots.unreadable {
        let what = format!("{}; heal it with 'snap check --repair-from'", error.chain());
        report.problems.push(Problem { path, what });
    }
    let reader = Reader::new(repository, Index::open(repository)?, TREE_CACHE_BYTES);
    let orphans: BTreeSet<PackId> = reader.index().orphans().iter().map(|pack| pack.id).collect();
    let there = reader.index().packs().filter(|(_, pack, is_lost)| !is_lost && !orphans.contains(&pack.id));
    let indexed = Indexed { fragments, packs: there.map(|(_, pack, _)| pack.id).collect() };
    let mut reach = Reach::new(&reader, progress);
    let mut all = Vec::new();
    for snapshot in snapshots.all {
        let needs = reach.of(&snapshot)?;
        if let Some(lacking) = &needs.lacking {
            let what =
                format!("what it needs is not all there: {lacking}; heal it with 'snap check --repair-from'");
            report.problems.push(Problem { path: Name::Snapshot(snapshot.id).to_string(), what });
        }
        all.push(Needing { snapshot, packs: needs.packs, is_known: needs.lacking.is_none() });
    }
    Ok((all, indexed))
}

/// A local file that belongs into the bucket.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Length, in bytes.
    pub bytes: u64,
    /// Whether a kept snapshot needs it, so that its lock is renewed.
    pub is_needed: bool,
}

/// Returns the local files that belong into the bucket: all but packs that nothing lists or needs, and what a backup
/// has added meanwhile.
fn wanted(
    repository: &Repository,
    needing: &[Needing],
    indexed: &Indexed,
    is_in_doubt: bool,
) -> Result<BTreeMap<Name, Wanted>, RepoError> {
    let store = repository.store();
    let needed: BTreeSet<PackId> = needing.iter().flat_map(|one| one.packs.iter().copied()).collect();
    let kept: BTreeSet<SnapshotId> = needing.iter().map(|one| one.snapshot.id).collect();
    let mut wanted = BTreeMap::new();
    let config = store.read(&Name::Config, crate::repo::config::CONFIG_BYTES_MAX)?;
    wanted.insert(Name::Config, Wanted { bytes: config.len() as u64, is_needed: true });
    for folder in [Folder::Keys, Folder::Packs, Folder::Index, Folder::Snapshots] {
        for found in store.list(folder)? {
            let Some(name) = found.name else { continue };
            let is_needed = match name {
                // Where it is not known what a snapshot needs, everything may be.
                Name::Pack(id) => needed.contains(&id) || (is_in_doubt && indexed.packs.contains(&id)),
                Name::Fragment(id) => indexed.fragments.contains(&id),
                Name::Snapshot(id) => kept.contains(&id),
                _ => true,
            };
            let is_listed = matches!(name, Name::Pack(id) if indexed.packs.contains(&id));
            if is_needed || is_listed {
                wanted.insert(name, Wanted { bytes: found.bytes, is_needed });
            }
        }
    }
    Ok(wanted)
}

fn hold_to_budget(
    bucket: &Bucket,
    wanted: &BTreeMap<Name, Wanted>,
    request: &Request<'_>,
) -> Result<(), RepoError> {
    let absent = wanted.iter().filter(|(name, _)| bucket.of(name).is_empty());
    let more: u64 = absent.map(|(_, wanted)| wanted.bytes).sum();
    let (prices, budget) = (&request.options.prices, &request.options.budget);
    let cost = Cost::estimate(prices, bucket.bytes + more, &Usage::default()).total();
    match budget.limit.filter(|limit| cost > *limit && more > 0) {
        None => Ok(()),
        Some(limit) => Err(RepoError::Refused {
            what: format!(
                "the bucket would cost about {cost:.0} {currency} a month, above the limit of {limit:.0}; raise the limit, or prune and 'snap sync --delete'",
                currency = prices.currency
            ),
        }),
    }
}

fn kept(needing: &[Needing], wanted: &BTreeMap<Name, Wanted>, known: &BucketState) -> Vec<Kept> {
    let shared = wanted.keys().filter(|name| !matches!(name, Name::Pack(_) | Name::Snapshot(_)));
    let shared: Vec<Option<i64>> = shared.map(|name| known.latest(&name.to_string())).collect();
    let each = needing.iter().map(|one| {
        let own = one.packs.iter().map(|id| Name::Pack(*id)).chain([Name::Snapshot(one.snapshot.id)]);
        let own = own.map(|name| known.latest(&name.to_string()));
        let ends: Option<Vec<i64>> = own.chain(shared.iter().copied()).collect();
        let lowest = ends.as_ref().and_then(|ends| ends.iter().min()).filter(|end| **end > 0);
        Kept {
            id: one.snapshot.id,
            time: one.snapshot.manifest.time,
            is_whole: one.is_known && ends.is_some(),
            lowest: lowest.map(|end| Time::new(*end, 0)),
        }
    });
    each.collect()
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
