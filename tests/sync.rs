//! A bucket with Object Lock holds every snapshot, locked as long as it is needed, whoever interferes.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::Noise;
use common::cutting::CuttingStore;
use common::fault::Work;
use common::repo::{
    Picture, backup, check_all, create_plain, create_sealed, deliver, differences, maildir, open, picture,
    restore,
};
use common::watched::{Moment, WatchedStore};
use jiff::tz::TimeZone;
use snap::base::forgotten::ForgottenRow;
use snap::base::id::SnapshotId;
use snap::base::progress::Progress;
use snap::base::time::Time;
use snap::op::clone;
use snap::op::key;
use snap::op::prune::{self, Policy, prune};
use snap::op::sync::{Budget, Cost, Options, Prices, Report, Request, sync};
use snap::repo::config::Choices;
use snap::repo::keys::{NoSecrets, Passphrase, Secrets};
use snap::repo::{RepoError, Repository};
use snap::store::{
    Folder, Found, GenuineStore, Lock, LockMode, Lockable, LockingMemory, LockingStore, MemoryStore, Name,
    Overlay, Protection, Retention, Store, StoreError, Upload, Usage, Version, VersionId,
};

/// Noon of a day; backups and syncs of a test happen on days that count from it.
const START: i64 = 1_767_100_000;
const DAY: i64 = 86_400;

/// A machine with mail, a local repository, and a bucket.
struct World {
    source: tempfile::TempDir,
    state: tempfile::TempDir,
    files: MemoryStore,
    bucket: LockingMemory,
    repository: Repository,
    pictures: BTreeMap<i64, Picture>,
    noise: Noise,
    mails: usize,
}

impl World {
    fn new() -> Self {
        let source = tempfile::tempdir().expect("temporary folder");
        let state = tempfile::tempdir().expect("temporary folder");
        let files = MemoryStore::default();
        let mut noise = Noise::new(11);
        maildir(source.path(), 20, 60_000, &mut noise);
        let choices = Choices { pack_bytes: 1 << 20, ..Choices::default() };
        let repository = create_plain(Arc::new(files.clone()), state.path(), choices).expect("made");
        let bucket = LockingMemory::new(Time::new(START, 0));
        Self { source, state, files, bucket, repository, pictures: BTreeMap::new(), noise, mails: 20 }
    }

    /// Delivers mail and backs up, so many days after the start.
    fn backup(&mut self, day: i64, mails: usize) {
        for _ in 0..mails {
            deliver(self.source.path(), self.mails, 60_000, &mut self.noise);
            self.mails += 1;
        }
        let seconds = START + day * DAY;
        let report = backup(&self.repository, self.source.path(), seconds).expect("backup");
        assert!(report.lacks.is_empty(), "{:?}", report.lacks); // a source that has lost all its mail is suspect
        self.pictures.insert(seconds, picture(self.source.path()));
    }

    /// Makes all snapshots what a program made of them that did not say which `config` it had.
    fn make_older(&self) {
        for old in self.repository.snapshots().expect("lists").all {
            let mut manifest = old.manifest.clone();
            manifest.extra.retain(|(name, _)| name != "config");
            self.lose(old.id);
            let _ = self.repository.put_manifest(&manifest).expect("puts");
        }
    }

    /// Removes all mail: no later snapshot needs the packs that hold it.
    fn lose_all_mail(&self) {
        for folder in ["cur", "new"] {
            for entry in std::fs::read_dir(self.source.path().join(folder)).expect("lists") {
                std::fs::remove_file(entry.expect("entry").path()).expect("removes");
            }
        }
    }

    fn try_sync(&self, day: i64, options: &Options) -> Result<Report, RepoError> {
        let bucket: Arc<dyn LockingStore> = Arc::new(self.bucket.clone());
        self.sync_to(&bucket, day, options)
    }

    fn sync_to(
        &self,
        bucket: &Arc<dyn LockingStore>,
        day: i64,
        options: &Options,
    ) -> Result<Report, RepoError> {
        let mut report = self.sync_until(bucket, day, options, &Progress::default())?;
        report.stopped.take().map_or(Ok(report), Err)
    }

    /// Syncs, and returns the report also of a run that was stopped.
    fn sync_until(
        &self,
        bucket: &Arc<dyn LockingStore>,
        day: i64,
        options: &Options,
        progress: &Progress,
    ) -> Result<Report, RepoError> {
        let now = Time::new(START + day * DAY, 0);
        self.bucket.set_now(now);
        let expired = |_: &[snap::repo::Snapshot]| BTreeSet::new();
        let request = Request { options, now, seed: day as u64, threads: 3, expired: &expired, progress };
        sync(&self.repository, bucket, &request)
    }

    /// Returns a store over this machine's, in which a backup begins and ends before a folder is listed.
    fn interrupted_by_backup(&mut self, folder: Folder) -> WatchedStore {
        let store = WatchedStore::over(self.files.clone());
        let (files, state) = (self.files.clone(), self.state.path().to_owned());
        let source = self.source.path().to_owned();
        deliver(&source, self.mails, 3_000_000, &mut self.noise);
        self.mails += 1;
        store.before(Moment::List(folder), move || {
            let repository = open(Arc::new(files), &state, None).expect("opens");
            assert!(backup(&repository, &source, START + DAY).expect("backup").is_whole());
        });
        store
    }

    /// Opens the local repository over other files.
    fn reopen(&mut self, store: Arc<dyn Store>) {
        self.repository = open(store, self.state.path(), None).expect("opens");
    }

    /// Removes every other mail, backs up, forgets the first snapshot and repacks what is left of its packs.
    /// Returns the packs that are gone for it, and those that have come.
    fn repack(&mut self, day: i64) -> (BTreeSet<String>, BTreeSet<String>) {
        for folder in ["cur", "new"] {
            let entries = std::fs::read_dir(self.source.path().join(folder)).expect("lists");
            let mut mails: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
            mails.sort();
            mails.iter().step_by(2).for_each(|mail| std::fs::remove_file(mail).expect("removes"));
        }
        self.backup(day, 0);
        let _ = self.sync(day);
        let packs = |files: &MemoryStore| -> BTreeSet<String> {
            files.files().into_keys().filter(|path| path.starts_with("packs/")).collect()
        };
        let before = packs(&self.files);
        let progress = Progress::default();
        let policy = Policy { keep_last: 1, ..Policy::default() };
        let now = Time::new(START + day * DAY + 3600, 0);
        let mut request = prune::Request::new(policy, now, TimeZone::UTC, &progress);
        (request.at_once, request.force, request.unused_percent_max) = (true, true, 0.0);
        let report = prune(&self.repository, &request).expect("prune ends");
        assert!(report.repacked.packs > 0, "{report:?}");
        let after = packs(&self.files);
        (before.difference(&after).cloned().collect(), after.difference(&before).cloned().collect())
    }

    /// Returns what is asked for with a limit of the budget that the bucket has just reached.
    fn at_limit(&self, options: Options) -> Options {
        let bytes: u64 = self.bucket.versions().expect("lists").iter().map(|version| version.bytes).sum();
        let limit = Cost::estimate(&Prices::default(), bytes + 1, &Usage::default()).total();
        Options { budget: Budget { limit: Some(limit), ..Budget::default() }, ..options }
    }

    /// Lets this machine forget what it knows of the bucket.
    fn forget_bucket(&self) {
        for path in self.memory().into_keys() {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bucket-")) {
                std::fs::remove_file(path).expect("removes");
            }
        }
    }

    /// Makes two snapshots that share no mail, and brings them into the bucket.
    fn of_two_days() -> Self {
        let mut world = Self::new();
        world.backup(0, 10);
        world.lose_all_mail();
        world.backup(1, 10);
        let _ = world.sync(1);
        world
    }

    fn sync(&self, day: i64) -> Report {
        self.try_sync(day, &Options::default()).expect("sync ends")
    }

    /// Returns what this machine remembers, of the bucket too: a test that goes back to an older bucket
    /// goes back to this with it.
    fn memory(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let folder = self.repository.secret_file().parent().expect("a folder").to_owned();
        let files = std::fs::read_dir(folder).expect("lists").map(|entry| entry.expect("entry").path());
        files.map(|path| (path.clone(), std::fs::read(path).expect("reads"))).collect()
    }

    /// Forgets the oldest snapshot, and what nothing else needs: what prune does, in the end.
    fn forget_oldest(&mut self) {
        let all = self.repository.snapshots().expect("snapshots list").all;
        let row = ForgottenRow {
            id: all[0].id,
            time: Some(all[0].manifest.time),
            rule: "the oldest".to_owned(),
            is_by_hand: false,
            is_replaced: false,
        };
        let now = Time::new(START, 0);
        self.repository.note_forgotten(now, all.len() as u64, vec![row]).expect("is noted");
        self.lose(all[0].id);
        self.pictures.remove(&all[0].manifest.time.seconds);
    }

    /// Removes a manifest as an accident does.
    fn lose(&self, id: SnapshotId) {
        self.repository.store().delete(&Name::Snapshot(id)).expect("deletes");
    }

    /// Removes all manifests, as an accident does.
    fn lose_all(&self) {
        self.repository.snapshots().expect("lists").all.iter().for_each(|one| self.lose(one.id));
    }

    /// Prunes by a policy, so many days after the start.
    fn prune(&self, day: i64, policy: Policy, forget: Vec<SnapshotId>) {
        let progress = Progress::default();
        let now = Time::new(START + day * DAY, 0);
        let mut request = prune::Request::new(policy, now, TimeZone::UTC, &progress);
        request.forget = forget;
        let _ = prune(&self.repository, &request).expect("prune ends");
    }

    /// Returns the path of a pack.
    fn pack(&self) -> String {
        self.files.files().into_keys().find(|path| path.starts_with("packs/")).expect("a pack")
    }

    /// Returns the version of a path that a read gets.
    fn version(&self, path: &str) -> VersionId {
        let all = self.bucket.versions().expect("versions list");
        all.into_iter().find(|one| one.path == path && one.is_latest).expect("it is there").id
    }

    /// Returns until when each version is locked that a read gets, by path.
    fn locks(&self) -> BTreeMap<String, i64> {
        let versions = self.bucket.versions().expect("versions list");
        let latest = versions.iter().filter(|version| version.is_latest && !version.is_marker);
        let lock = |path: &str, id: &VersionId| {
            let found = self.bucket.retention(path, id).expect("lock reads");
            found.map_or(0, |found| found.until.seconds)
        };
        latest.map(|version| (version.path.clone(), lock(&version.path, &version.id))).collect()
    }
}

/// A bucket that does not do all that it is asked to.
struct OddBucket {
    inner: LockingMemory,
    /// Versions that can't be read, as if they lay in an archive.
    unreadable: BTreeSet<VersionId>,
    /// Versions whose lock can't be renewed.
    unlockable: BTreeSet<VersionId>,
    /// Whether a key service's keys seal: what looks like an MD5 is none.
    is_sealed: bool,
    /// Whether the connection is lost together with the first version that can't be read.
    is_weak: bool,
    is_gone: AtomicBool,
    /// Whether the connection is lost with the first file that is to be put.
    is_cut_by_puts: bool,
    /// Versions whose lock can't be read.
    hidden: BTreeSet<VersionId>,
    /// Versions that can't be removed.
    undeletable: BTreeSet<VersionId>,
    /// Told to stop with the first version that is read.
    stopped_by_read: Option<Arc<Progress>>,
    /// Told to stop with the first file that is put.
    stopped_by_put: Option<Arc<Progress>>,
}

impl OddBucket {
    fn over(inner: &LockingMemory) -> Self {
        Self {
            inner: inner.clone(),
            unreadable: BTreeSet::new(),
            unlockable: BTreeSet::new(),
            is_sealed: false,
            is_weak: false,
            is_gone: AtomicBool::new(false),
            is_cut_by_puts: false,
            hidden: BTreeSet::new(),
            undeletable: BTreeSet::new(),
            stopped_by_read: None,
            stopped_by_put: None,
        }
    }

    fn ask<T>(&self, work: impl FnOnce(&LockingMemory) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.is_gone.load(Ordering::SeqCst) {
            true => Err(failed("bucket", "reach", "the connection is lost")),
            false => work(&self.inner),
        }
    }
}

fn failed(path: &str, verb: &'static str, reason: &str) -> StoreError {
    StoreError::Io { path: path.to_owned(), verb, source: io::Error::other(reason.to_owned()) }
}

impl Store for OddBucket {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        self.ask(Store::begin)
    }
    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.ask(|inner| inner.read(name, bytes_max))
    }
    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.ask(|inner| inner.read_range(name, range))
    }
    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        self.ask(|inner| inner.list(folder))
    }
    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.ask(|inner| inner.delete(name))
    }
    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        self.ask(|inner| inner.lock(mode))
    }
    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        self.ask(Store::sweep_uploads)
    }
}

impl LockingStore for OddBucket {
    fn protection(&self) -> Result<Protection, StoreError> {
        self.ask(LockingStore::protection)
    }
    fn begin_locked(&self, until: Option<Time>, overlay: Overlay) -> Result<Box<dyn Lockable>, StoreError> {
        self.stopped_by_put.iter().for_each(|progress| progress.cancel());
        self.is_gone.fetch_or(self.is_cut_by_puts, Ordering::SeqCst);
        self.ask(|inner| inner.begin_locked(until, overlay))
    }
    fn versions(&self) -> Result<Vec<Version>, StoreError> {
        let mut all = self.ask(LockingStore::versions)?;
        for version in all.iter_mut().filter(|_| self.is_sealed) {
            version.md5 = version.md5.map(|md5| md5.map(|byte| !byte));
        }
        Ok(all)
    }
    fn retention(&self, path: &str, id: &VersionId) -> Result<Option<Retention>, StoreError> {
        match self.hidden.contains(id) {
            true => Err(failed(path, "read the lock of", "not allowed")),
            false => self.ask(|inner| inner.retention(path, id)),
        }
    }
    fn extend(&self, path: &str, id: &VersionId, until: Time) -> Result<(), StoreError> {
        match self.unlockable.contains(id) {
            true => Err(failed(path, "lock", "not allowed")),
            false => self.ask(|inner| inner.extend(path, id, until)),
        }
    }
    fn read_version(&self, path: &str, id: &VersionId, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.stopped_by_read.iter().for_each(|progress| progress.cancel());
        if self.unreadable.contains(id) {
            self.is_gone.store(self.is_weak, Ordering::SeqCst);
            return Err(failed(path, "read", "it lies in an archive"));
        }
        self.ask(|inner| inner.read_version(path, id, range))
    }
    fn delete_version(&self, path: &str, id: &VersionId) -> Result<(), StoreError> {
        match self.undeletable.contains(id) {
            true => Err(failed(path, "remove", "not allowed")),
            false => self.ask(|inner| inner.delete_version(path, id)),
        }
    }
    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}

/// Somebody who knows a passphrase.
struct OnePassphrase(&'static str);

impl Secrets for OnePassphrase {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        Ok(Some(Passphrase::new(self.0.to_owned())))
    }
    fn identities(&self) -> Result<Vec<age::x25519::Identity>, RepoError> {
        Ok(Vec::new())
    }
}

/// Returns whether a report tells something of a path that says so.
fn tells(report: &Report, path: &str, says: &str) -> bool {
    report.problems.iter().any(|one| one.path == path && one.what.contains(says))
}

/// Puts back what [`World::memory`] returned.
fn put_back(memory: &BTreeMap<PathBuf, Vec<u8>>) {
    memory.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("writes"));
}

/// A repository's files lack nothing that any of them names.
#[track_caller]
fn is_sound(files: &MemoryStore, state: &Path) {
    let repository = open(Arc::new(files.clone()), state, None).expect("opens");
    let report = check_all(&repository, &NoSecrets);
    assert!(report.is_sound(), "{:?} {:?}", report.damages, report.hurt);
}

/// Clones a bucket.
#[track_caller]
fn cloned(bucket: &LockingMemory) -> MemoryStore {
    let genuine = GenuineStore::open(Arc::new(bucket.clone())).expect("versions list");
    let copy = MemoryStore::default();
    let _ = clone_to(Arc::new(genuine), &copy).expect("clone ends");
    copy
}

/// Clones a repository on a machine that knows nothing of it.
fn clone_to(source: Arc<dyn Store>, copy: &MemoryStore) -> Result<clone::Report, RepoError> {
    let state = tempfile::tempdir().expect("temporary folder");
    let source = open(source, state.path(), None)?;
    let progress = Progress::default();
    let request = clone::Request {
        threads: 2,
        without_forgotten: false,
        lock_patience: Duration::ZERO,
        progress: &progress,
    };
    clone::clone(&source, &(Arc::new(copy.clone()) as Arc<dyn Store>), &request)
}

/// Clones a bucket and restores every snapshot; returns how many there are.
#[track_caller]
fn clone_restores(bucket: &LockingMemory, state: &Path, pictures: &BTreeMap<i64, Picture>) -> usize {
    let repository = open(Arc::new(cloned(bucket)), state, None).expect("the clone opens");
    let snapshots = repository.snapshots().expect("snapshots list").all;
    for snapshot in &snapshots {
        let Some(expected) = pictures.get(&snapshot.manifest.time.seconds) else { continue }; // forgotten
        let target = tempfile::tempdir().expect("temporary folder");
        let report = restore(&repository, snapshot, target.path()).expect("restore ends");
        assert!(report.lacks.is_empty(), "{:?}", report.lacks);
        assert_eq!(differences(expected, &picture(target.path())), Vec::<String>::new());
    }
    snapshots.len()
}

#[test]
fn what_is_put_is_locked_and_a_second_run_only_lists() {
    let mut world = World::new();
    (0..8).for_each(|day| world.backup(day, 10));
    let report = world.sync(8);
    assert!(report.is_well(), "{:?}", report.problems);
    let ends = START + 38 * DAY;
    assert!(world.locks().values().all(|end| *end == ends), "{:?}", world.locks());
    assert!(report.snapshots.iter().all(|kept| kept.lowest == Some(Time::new(ends, 0))));
    assert_eq!(report.snapshots.len(), 8);
    assert!(report.files_put > 25, "{}", report.files_put);
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 8);
    let again = world.sync(8);
    assert!(again.is_well());
    assert_eq!((again.files_put, again.renewed, again.usage.bytes_received), (0, 0, 0));
    // One listing; how the bucket is protected; the sample of locks.
    assert_eq!((again.usage.writes, again.usage.reads), (1, 3 + again.audited), "{:?}", again.usage);
    assert!((5..=10).contains(&again.audited), "{}", again.audited);
}

#[test]
fn a_machine_that_forgot_what_it_knows_of_the_bucket_puts_nothing_twice() {
    let mut world = World::new();
    world.backup(0, 10);
    let _ = world.sync(0);
    let locks = world.locks();
    world.forget_bucket();
    let report = world.sync(0);
    assert_eq!((report.files_put, report.renewed, report.usage.bytes_received), (0, 0, 0));
    assert!(report.is_well());
    assert_eq!(world.locks(), locks);
}

#[test]
fn what_kept_snapshots_reach_is_renewed_and_nothing_else() {
    let mut world = World::of_two_days();
    let before = world.locks();
    world.forget_oldest();
    let quiet = world.sync(7);
    assert_eq!(quiet.renewed, 0, "24 days are left");
    let report = world.sync(9);
    assert!(report.renewed > 3, "22 days are left: {}", report.renewed);
    let after = world.locks();
    let end = START + (9 + 30) * DAY;
    let after: Vec<_> = after.iter().filter(|(path, _)| !path.starts_with("forgotten/")).collect();
    let (renewed, left): (Vec<_>, Vec<_>) = after.into_iter().partition(|(_, until)| **until == end);
    assert!(left.iter().all(|(path, until)| before.get(*path) == Some(until)), "{left:?}");
    assert!(left.iter().any(|(path, _)| path.starts_with("packs/")), "the old mail's pack is left alone");
    assert_eq!(left.iter().filter(|(path, _)| path.starts_with("snapshots/")).count(), 1);
    assert_eq!(renewed.iter().filter(|(path, _)| path.starts_with("snapshots/")).count(), 1);
    assert_eq!(report.renewed, renewed.len() as u64);
    assert_eq!(report.snapshots.len(), 1);
    assert_eq!(report.snapshots[0].lowest, Some(Time::new(end, 0)));
}

#[test]
fn through_a_hundred_days_nothing_that_is_needed_is_ever_unlocked() {
    let mut world = World::new();
    let (mut renewed, mut requests) = (0, 0);
    for day in 0..100 {
        if day % 5 == 0 {
            world.backup(day, 1);
        }
        if day > 40 && day % 5 == 0 {
            world.forget_oldest();
        }
        let report = world.sync(day);
        assert!(report.is_well(), "day {day}: {:?}", report.problems);
        renewed += report.renewed;
        requests += report.usage.requests();
        let soonest = START + (day + 23) * DAY;
        for kept in &report.snapshots {
            assert!(kept.lowest.is_some_and(|lowest| lowest.seconds >= soonest), "day {day}: {kept:?}");
        }
    }
    // Each of some fifty objects every seventh day or so, not every day.
    assert!((200..1500).contains(&renewed), "{renewed}");
    assert!(requests < 100 * 60, "{requests}");
}

#[test]
fn a_bucket_that_protects_nothing_is_refused_unless_told() {
    let mut world = World::new();
    world.backup(0, 1);
    let refused = |protection: Protection, options: Options, says: &str| {
        world.bucket.set_protection(protection);
        let error = world.try_sync(0, &options).expect_err("refused");
        assert!(matches!(error, RepoError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(world.bucket.versions().expect("lists").is_empty(), "nothing was put");
    };
    let good = Protection { has_versions: true, has_locks: true, ..Protection::default() };
    let none = Protection::default();
    let expiring = Protection { expiring_rules: vec!["old".to_owned()], ..good.clone() };
    let archiving = Protection { archiving: vec!["cold -> GLACIER".to_owned()], ..good.clone() };
    refused(none.clone(), Options::default(), "lacks versioning and Object Lock");
    refused(Protection { has_versions: true, ..none.clone() }, Options::default(), "lacks Object Lock");
    refused(expiring.clone(), Options::default(), "a lifecycle rule (old) removes current versions");
    refused(archiving, Options::default(), "goes into an archive (cold -> GLACIER)");
    refused(good.clone(), Options { renew_below_days: 30, ..Options::default() }, "must last longer");
    let limit = Budget { limit: Some(0.000_1), ..Budget::default() };
    refused(good, Options { budget: limit, ..Options::default() }, "above the limit");
    world.bucket.set_protection(expiring);
    assert!(
        world.try_sync(0, &Options { allow_expiry: true, ..Options::default() }).expect("told to").is_well()
    );
    let world = {
        let mut other = World::new();
        other.backup(0, 1);
        other
    };
    world.bucket.set_protection(none);
    let allowed = Options { allow_unlocked: true, ..Options::default() };
    let report = world.try_sync(0, &allowed).expect("told to");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.snapshots[0].lowest, None);
    assert_eq!(world.try_sync(0, &allowed).expect("again").files_put, 0);
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 1);
}

#[test]
fn what_a_backup_adds_while_a_sync_is_under_way_waits_for_the_next_one() {
    let mut world = World::new();
    world.backup(0, 0);
    let store = world.interrupted_by_backup(Folder::Keys);
    let repository = open(Arc::new(store.clone()), world.state.path(), None).expect("opens");
    let first = std::mem::replace(&mut world.repository, repository);
    let _ = world.sync(2);
    let fragments = |files: &MemoryStore| files.list(Folder::Index).expect("lists").len();
    assert_eq!((fragments(&world.files), fragments(&cloned(&world.bucket))), (2, 1));
    is_sound(&cloned(&world.bucket), world.state.path());
    world.repository = first;
    let _ = world.sync(3);
    world.pictures.insert(START + DAY, picture(world.source.path()));
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 2);
}

#[test]
fn a_clone_names_nothing_that_it_lacks_when_a_backup_comes_meanwhile() {
    for folder in [Folder::Snapshots, Folder::Index, Folder::Packs] {
        let mut world = World::new();
        world.backup(0, 0);
        let source = world.interrupted_by_backup(folder);
        let source: Arc<dyn Store> = Arc::new(source);
        let copy = MemoryStore::default();
        let _ = clone_to(source.clone(), &copy).expect("clone ends");
        is_sound(&copy, world.state.path());
        let _ = clone_to(source, &copy).expect("clone ends");
        assert_eq!(copy.list(Folder::Snapshots).expect("lists").len(), 2, "{folder:?}");
    }
}

#[test]
fn one_file_of_a_source_that_cannot_be_read_does_not_end_a_clone() {
    let mut world = World::new();
    (0..2).for_each(|day| world.backup(day, 10));
    let bad = world.pack();
    let disk = WatchedStore::over(world.files.clone());
    let sector = bad.clone();
    disk.fail_reads(move |name, _| (name.to_string() == sector).then(|| io::Error::from_raw_os_error(5)));
    let copy = MemoryStore::default();
    let report = clone_to(Arc::new(disk), &copy).expect("clone ends");
    assert_eq!(report.lost.iter().map(|(path, _)| path).collect::<Vec<_>>(), [&bad]);
    assert!(report.lost[0].1.contains("os error 5"), "{report:?}");
    let mut expected = world.files.files();
    expected.remove(&bad);
    assert!(copy.files() == expected, "all others, and config");
    let again = clone_to(Arc::new(world.files.clone()), &copy).expect("clone ends");
    assert_eq!((again.files, again.lost.len()), (1, 0));
    assert!(copy.files() == world.files.files());
}

#[test]
fn a_source_of_which_no_file_can_be_read_makes_no_repository() {
    let mut world = World::new();
    world.backup(0, 10);
    let disk = WatchedStore::over(world.files.clone());
    disk.fail_reads(|_, _| Some(io::Error::from_raw_os_error(5)));
    let copy = MemoryStore::default();
    let error = clone_to(Arc::new(disk), &copy).expect_err("nothing can be read");
    assert!(error.is_unreadable(), "{error:?}");
    assert!(copy.files().is_empty());
}

#[test]
fn a_connection_that_is_lost_ends_a_clone_and_no_file_is_called_lost() {
    let mut world = World::new();
    world.backup(0, 10);
    let _ = world.sync(0);
    let mut odd = OddBucket::over(&world.bucket);
    odd.unreadable.insert(world.version(&world.pack()));
    odd.is_weak = true;
    let genuine = GenuineStore::open(Arc::new(odd)).expect("versions list");
    let copy = MemoryStore::default();
    let _ = clone_to(Arc::new(genuine), &copy).expect_err("the connection is lost");
    assert!(copy.read(&Name::Config, 1 << 20).expect_err("it comes last").is_missing());
}

#[test]
fn a_version_that_cannot_be_read_is_not_the_genuine_one() {
    let mut world = World::new();
    world.backup(0, 10);
    let pack = world.pack();
    world.bucket.plant(&pack, b"junk");
    let junk = world.version(&pack);
    let _ = world.sync(0); // lays the genuine bytes on top
    let own = world.version(&pack);
    let open = |unreadable: &[&VersionId], is_weak: bool| {
        let mut odd = OddBucket::over(&world.bucket);
        odd.unreadable.extend(unreadable.iter().map(|id| (*id).clone()));
        odd.is_weak = is_weak;
        GenuineStore::open(Arc::new(odd))
    };
    let genuine = open(&[&junk], false).expect("versions list");
    assert!(genuine.lost().is_empty(), "{:?}", genuine.lost());
    let name = Name::parse(&pack).expect("a name");
    assert!(genuine.read(&name, 64 << 20).expect("reads") == world.files.files()[&pack]);
    assert_eq!(open(&[&junk, &own], false).expect("versions list").lost(), [pack]);
    assert!(open(&[&junk], true).is_err(), "where nothing answers, nothing is known");
}

#[test]
fn a_dry_run_changes_nothing_and_tells_the_same() {
    let mut world = World::new();
    world.backup(0, 5);
    let dry = Options { dry_run: true, ..Options::default() };
    let told = world.try_sync(0, &dry).expect("sync ends");
    assert!(world.bucket.versions().expect("lists").is_empty());
    let report = world.sync(0);
    assert_eq!((told.files_put, told.bytes_put), (report.files_put, report.bytes_put));
    let locks = world.locks();
    assert!(world.try_sync(20, &dry).expect("sync ends").renewed > 3);
    assert_eq!(world.locks(), locks);
}

#[test]
fn a_lock_that_the_storage_shortened_is_found_and_set_anew() {
    let mut world = World::new();
    world.backup(0, 10);
    let _ = world.sync(0);
    let pack = world.locks().into_keys().find(|path| path.starts_with("packs/")).expect("a pack");
    world.bucket.cheat(&pack, Some(Time::new(START + DAY, 0)));
    let audit = Options { audit: true, ..Options::default() };
    let report = world.try_sync(0, &audit).expect("sync ends");
    assert_eq!(report.audited as usize, world.locks().len(), "all of them");
    assert_eq!(report.problems.iter().map(|problem| &problem.path).collect::<Vec<_>>(), [&pack]);
    assert!(report.problems[0].what.contains("ends earlier"), "{:?}", report.problems);
    assert_eq!(world.locks()[&pack], START + 30 * DAY);
    assert!(world.try_sync(0, &audit).expect("sync ends").is_well());
    // A version that went although it was locked.
    world.bucket.cheat(&pack, None);
    let version =
        world.bucket.versions().expect("lists").into_iter().find(|one| one.path == pack).expect("it");
    world.bucket.delete_version(&pack, &version.id).expect("the storage lets it go");
    let report = world.sync(0);
    assert!(report.problems.iter().any(|problem| problem.what.contains("is gone although")), "{report:?}");
    assert_eq!(report.files_put, 1);
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 1);
}

#[test]
fn locks_that_somebody_made_longer_hold_up_nothing() {
    let mut world = World::new();
    (0..8).for_each(|day| world.backup(day, 10));
    let _ = world.sync(8);
    let lengthen = |world: &World, until: Time| {
        for version in world.bucket.versions().expect("versions list") {
            world.bucket.extend(&version.path, &version.id, until).expect("who may lock may lock for longer");
        }
    };
    let longer = Time::new(START + 100 * DAY, 0);
    lengthen(&world, longer);
    let report = world.sync(20);
    assert!(report.is_well(), "{:?}", report.problems);
    assert!(report.audited < world.locks().len() as u64, "most were found out when they were refused");
    assert_eq!(report.renewed, 0);
    assert!(report.snapshots.iter().all(|kept| kept.lowest == Some(longer)), "{:?}", report.snapshots);
    // An audit learns of it long before they are to be renewed.
    let longest = Time::new(START + 200 * DAY, 0);
    lengthen(&world, longest);
    let audit = Options { audit: true, ..Options::default() };
    let report = world.try_sync(21, &audit).expect("sync ends");
    assert!(report.is_well(), "{:?}", report.problems);
    assert!(report.snapshots.iter().all(|kept| kept.lowest == Some(longest)), "{:?}", report.snapshots);
}

#[test]
fn a_lock_that_cannot_be_renewed_is_told_and_all_others_are_renewed() {
    let mut world = World::new();
    world.backup(0, 10);
    let _ = world.sync(0);
    let pack = world.pack();
    let mut odd = OddBucket::over(&world.bucket);
    odd.unlockable.insert(world.version(&pack));
    let odd: Arc<dyn LockingStore> = Arc::new(odd);
    let report = world.sync_to(&odd, 12, &Options::default()).expect("sync ends");
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(tells(&report, &pack, "can't be renewed"), "{:?}", report.problems);
    for (path, until) in world.locks() {
        let day = if path == pack { 30 } else { 42 };
        assert_eq!(until, START + day * DAY, "{path}");
    }
}

#[test]
fn where_a_key_service_seals_the_bytes_tell_and_not_what_looks_like_an_md5() {
    let mut world = World::new();
    world.backup(0, 10);
    let pack = world.pack();
    let sealed = |world: &World, unreadable: Vec<VersionId>| -> Arc<dyn LockingStore> {
        let mut odd = OddBucket::over(&world.bucket);
        odd.is_sealed = true;
        odd.unreadable.extend(unreadable);
        Arc::new(odd)
    };
    let _ = world.sync_to(&sealed(&world, Vec::new()), 0, &Options::default()).expect("sync ends");
    world.forget_bucket();
    let report = world.sync_to(&sealed(&world, Vec::new()), 0, &Options::default()).expect("sync ends");
    assert!(report.is_well(), "{:?}", report.problems);
    assert_eq!((report.files_put, report.put_back), (0, 0));
    // As many bytes, and others: such as can be read, and such as can't.
    let other = vec![0; world.files.files()[&pack].len()];
    for is_readable in [true, false] {
        world.bucket.plant(&pack, &other);
        let unreadable = if is_readable { Vec::new() } else { vec![world.version(&pack)] };
        let bucket = sealed(&world, unreadable);
        let report = world.sync_to(&bucket, 1, &Options::default()).expect("sync ends");
        assert_eq!(report.put_back, 1, "{:?}", report.problems);
        assert!(tells(&report, &pack, "somebody has put other bytes"), "{:?}", report.problems);
    }
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 1);
}

#[test]
fn an_attacker_with_the_uploaders_credentials_loses_us_nothing() {
    let mut world = World::new();
    (0..3).for_each(|day| world.backup(day, 10));
    world.bucket.set_default(30 * DAY);
    let _ = world.sync(3);
    let paths: Vec<String> = world.locks().into_keys().collect();
    world.bucket.set_now(Time::new(START + 4 * DAY, 0));
    for (n, path) in paths.iter().enumerate() {
        match n % 3 {
            0 => world.bucket.plant(path, b"other bytes"),
            1 => world.bucket.mark_deleted(path),
            _ => {
                world.bucket.plant(path, b"other bytes");
                world.bucket.mark_deleted(path);
            }
        }
    }
    world.bucket.plant(&format!("snapshots/{}", "ab".repeat(32)), b"not a manifest");
    world.bucket.plant(&format!("packs/cd/{}", "cd".repeat(32)), b"not a pack");
    world.bucket.plant("readme.txt", b"hello");
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 3);

    let report = world.sync(12);
    assert!(!report.is_well());
    assert_eq!(report.put_back as usize, paths.len());
    for path in &paths {
        let told = report.problems.iter().find(|problem| problem.path == *path);
        let told = told.unwrap_or_else(|| panic!("{path}: not told"));
        assert!(told.what.contains("somebody has put"), "{told:?}");
    }
    assert!(report.notes.iter().any(|note| note.starts_with("readme.txt: not one of ours")));
    for junk in [format!("snapshots/{}", "ab".repeat(32)), format!("packs/cd/{}", "cd".repeat(32))] {
        assert!(tells(&report, &junk, "was not written by this repository's owner"), "{report:?}");
    }
    let locks = world.locks();
    let ends = START + 42 * DAY;
    assert!(paths.iter().all(|path| locks.get(path) == Some(&ends)), "genuine, on top, and locked");
    for version in world.bucket.versions().expect("lists").iter().filter(|one| paths.contains(&one.path)) {
        let genuine = !version.is_marker && version.bytes != b"other bytes".len() as u64;
        let until = world.bucket.retention(&version.path, &version.id).expect("reads");
        assert!(!genuine || until.is_some_and(|until| until.until.seconds == ends), "{version:?} {until:?}");
    }
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 3);
    let quiet = world.sync(12);
    assert!(quiet.is_well(), "{:?}", quiet.problems);
    assert!(quiet.notes.iter().any(|note| note.contains("as was told before")), "{:?}", quiet.notes);
    assert_eq!(quiet.files_put, 0);
}

/// Cuts a sync at call 0, 1, 2, … that changes the bucket.
fn cut_everywhere(work: Work) {
    let mut world = World::new();
    (0..2).for_each(|day| world.backup(day, 6));
    let _ = world.sync(1);
    (2..4).for_each(|day| world.backup(day, 6));
    let before = world.bucket.copy();
    let memory = world.memory();
    for call in 0.. {
        put_back(&memory);
        world.bucket = before.copy();
        let cutting = Arc::new(CuttingStore::new(Arc::new(world.bucket.clone()), call, work));
        let bucket: Arc<dyn LockingStore> = cutting.clone();
        let is_done = world.sync_to(&bucket, 10, &Options::default()).is_ok();
        assert!(!is_done || cutting.calls() <= call, "what was cut is not called done");
        let left = clone_restores(&world.bucket, world.state.path(), &world.pictures);
        assert!((2..=4).contains(&left) && (left == 4 || !is_done), "call {call}: {left}");
        let report = world.sync(10);
        assert!(report.is_well(), "call {call}: {:?}", report.problems);
        assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 4);
        let ends: Vec<i64> = world.locks().into_values().collect();
        assert!(ends.iter().all(|end| *end == START + 40 * DAY), "call {call}: {ends:?}");
        let versions = world.bucket.versions().expect("lists").len();
        assert_eq!(versions, ends.len(), "nothing was put twice");
        if is_done {
            assert!(call > 15, "there were several calls: {call}");
            return;
        }
    }
}

#[test]
fn a_sync_that_is_cut_anywhere_leaves_a_whole_bucket_and_goes_on() {
    cut_everywhere(Work::Undone);
}

#[test]
fn a_sync_that_is_cut_after_a_call_took_effect_goes_on() {
    cut_everywhere(Work::Done);
}

#[test]
fn a_damaged_local_pack_is_not_put_and_no_manifest_names_it() {
    let mut world = World::new();
    world.backup(0, 10);
    let mut files = world.files.files();
    let path = files.keys().find(|path| path.starts_with("packs/")).expect("a pack").clone();
    files.get_mut(&path).expect("it")[500] ^= 1;
    world.repository = open(Arc::new(MemoryStore::of(files)), world.state.path(), None).expect("opens");
    let report = world.sync(0);
    assert!(!report.is_well());
    assert!(
        report.problems.iter().any(|one| one.path == path && one.what.contains("--repair-from")),
        "{report:?}"
    );
    let there = world.locks();
    assert!(!there.contains_key(&path));
    assert!(!there.keys().any(|path| path.starts_with("snapshots/")), "{there:?}");
}

#[test]
fn what_the_disk_has_lost_stays_locked_in_the_bucket() {
    let mut world = World::new();
    (0..2).for_each(|day| world.backup(day, 10));
    let _ = world.sync(1);
    let bucket = world.bucket.copy();
    let memory = world.memory();
    let paths: Vec<String> =
        world.files.files().into_keys().filter(|path| !path.starts_with("keys/")).collect();
    // Each file that can be lost, in turn; and all of a snapshot's.
    for path in paths.iter().filter(|path| *path != "config") {
        world.bucket = bucket.copy();
        put_back(&memory);
        let mut files = world.files.files();
        files.remove(path);
        let damaged = open(Arc::new(MemoryStore::of(files)), world.state.path(), None).expect("opens");
        let whole = std::mem::replace(&mut world.repository, damaged);
        let report = world.sync(12);
        let lost_snapshot = path.starts_with("snapshots/");
        assert!(lost_snapshot || path.starts_with("index/") || !report.is_well(), "{path}");
        let soonest = START + 35 * DAY;
        for (there, until) in world.locks() {
            // A manifest that is gone has been forgotten, for all that is known; the packs tell what a
            // fragment told.
            let is_fragment = there == *path && path.starts_with("index/");
            assert!(
                until >= soonest || lost_snapshot || is_fragment,
                "without {path}: {there} is locked until {until}"
            );
        }
        assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 2);
        world.repository = whole;
    }
}

#[test]
fn a_damaged_local_pack_does_not_let_the_locks_of_its_snapshot_run_out() {
    let mut world = World::new();
    world.backup(0, 10);
    let _ = world.sync(0);
    let mut files = world.files.files();
    let path = files.keys().find(|path| path.starts_with("packs/")).expect("a pack").clone();
    files.get_mut(&path).expect("it")[500] ^= 1;
    world.repository = open(Arc::new(MemoryStore::of(files)), world.state.path(), None).expect("opens");
    world.bucket.plant(&path, b"other bytes");
    let report = world.sync(12);
    assert!(report.problems.iter().any(|one| one.path == path && one.what.contains("not put")), "{report:?}");
    let ends = START + 42 * DAY;
    assert!(world.locks().iter().all(|(at, until)| *until == ends || *at == path), "{:?}", world.locks());
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 1);
}

#[test]
fn a_damaged_manifest_leaves_nothing_unlocked_that_its_snapshot_may_need() {
    let mut world = World::of_two_days();
    let first = world.repository.snapshots().expect("lists").all.remove(0).id;
    let mut files = world.files.files();
    files.get_mut(&Name::Snapshot(first).to_string()).expect("it")[100] ^= 1;
    world.repository = open(Arc::new(MemoryStore::of(files)), world.state.path(), None).expect("opens");
    let report = world.sync(12);
    assert!(!report.is_well());
    let ends = START + 42 * DAY;
    assert!(world.locks().values().all(|until| *until == ends), "{:?}", world.locks());
}

#[test]
fn a_manifest_that_another_one_replaces_is_no_loss() {
    let mut world = World::new();
    world.backup(0, 5);
    let _ = world.sync(0);
    for _ in 0..2 {
        let old = world.repository.snapshots().expect("lists").all.remove(0);
        let mut manifest = old.manifest.clone();
        manifest.tags.push(format!("tag {}", manifest.tags.len()));
        manifest.replaces = Some(old.id);
        let _ = world.repository.put_manifest(&manifest).expect("puts");
        let _ = world.sync(0);
        world.repository.store().delete(&Name::Snapshot(old.id)).expect("deletes");
    }
    let delete = Options { delete: true, ..Options::default() };
    let early = world.try_sync(1, &delete).expect("sync ends");
    assert_eq!((early.deleted, early.is_well()), (0, true), "{:?}", early.problems);
    let _ = world.sync(12);
    let late = world.try_sync(31, &delete).expect("sync ends");
    assert_eq!((late.deleted, late.is_well()), (2, true), "{:?}", late.problems);
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 1);
}

#[test]
fn what_no_manifest_needs_is_removed_when_its_lock_is_over_and_nothing_else() {
    let mut world = World::of_two_days();
    world.bucket.plant("readme.txt", b"hello");
    // The first snapshot is forgotten and its own packs are gone, as prune leaves it.
    let all: Vec<String> = world.locks().into_keys().collect();
    world.forget_oldest();
    let needed: Vec<String> = {
        let report = world.sync(12);
        assert!(report.is_well());
        let end = START + 42 * DAY;
        world.locks().into_iter().filter(|(_, until)| *until == end).map(|(path, _)| path).collect()
    };
    let unneeded: Vec<&String> =
        all.iter().filter(|path| !needed.contains(path) && path.starts_with("packs/")).collect();
    assert!(!unneeded.is_empty());
    for path in &unneeded {
        world.repository.store().delete(&Name::parse(path).expect("a name")).expect("deletes");
    }
    let delete = Options { delete: true, ..Options::default() };
    let early = world.try_sync(20, &delete).expect("sync ends");
    assert_eq!((early.deleted, early.is_well()), (0, true), "its lock is not over: {early:?}");
    let dry = Options { dry_run: true, ..delete.clone() };
    let told = world.try_sync(34, &dry).expect("sync ends");
    assert_eq!(told.deleted as usize, unneeded.len() + 1, "{told:?}");
    let report = world.try_sync(34, &delete).expect("sync ends");
    assert_eq!((report.deleted, report.bytes_deleted), (told.deleted, told.bytes_deleted));
    let left: Vec<String> = world.locks().into_keys().collect();
    let mut expected = needed.clone();
    expected.push("readme.txt".to_owned());
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 1);
    assert_eq!(world.try_sync(34, &delete).expect("again").deleted, 0);
}

#[test]
fn a_manifest_that_cannot_be_read_keeps_every_pack_and_lost_keys_are_not_removed() {
    let mut world = World::of_two_days();
    world.forget_oldest();
    let _ = world.sync(12);
    let renewed = START + 42 * DAY;
    let unneeded = world.locks().into_iter().filter(|(_, until)| *until != renewed);
    let packs: Vec<String> =
        unneeded.map(|(path, _)| path).filter(|path| path.starts_with("packs/")).collect();
    let keys: Vec<String> = world.locks().into_keys().filter(|path| path.starts_with("keys/")).collect();
    assert!(!packs.is_empty() && !keys.is_empty());
    let bytes = world.files.files();
    for path in keys.iter().chain(&packs) {
        world.repository.store().delete(&Name::parse(path).expect("a name")).expect("deletes");
    }
    let junk = format!("snapshots/{}", "ab".repeat(32));
    world.bucket.plant(&junk, b"not a manifest");
    let delete = Options { delete: true, ..Options::default() };
    let report = world.try_sync(90, &delete).expect("sync ends");
    assert!(tells(&report, &junk, "was not written by this repository's owner"), "{report:?}");
    assert!(tells(&report, &keys[0], "was lost here; it stays locked"), "{report:?}");
    assert_eq!(report.deleted, 0, "nothing goes while keys are lost: {report:?}");
    assert!(keys.iter().all(|path| world.locks()[path] == START + 120 * DAY));
    for path in &keys {
        let name = Name::parse(path).expect("a name");
        world.repository.store().put_new(&name, &bytes[path]).expect("is put back");
    }
    let report = world.try_sync(130, &delete).expect("sync ends");
    assert!(report.deleted > 0, "the manifest that was forgotten goes: {report:?}");
    let left = world.locks();
    assert!(packs.iter().chain(&keys).all(|path| left.contains_key(path)), "{report:?}");
}

#[test]
fn a_snapshot_that_was_lost_here_is_told_and_stays_locked_until_somebody_accepts_it() {
    let mut world = World::new();
    (0..3).for_each(|day| world.backup(day, 10));
    let _ = world.sync(3);
    let all = world.repository.snapshots().expect("lists").all;
    let packs = |world: &World| -> BTreeSet<String> {
        world.files.files().into_keys().filter(|path| path.starts_with("packs/")).collect()
    };
    let (lost, of_all) = (all[1].id, packs(&world));
    world.lose(lost);
    let path = Name::Snapshot(lost).to_string();
    let delete = Options { delete: true, ..Options::default() };
    for day in [10, 34, 60, 90] {
        let report = world.try_sync(day, &delete).expect("sync ends");
        assert!(tells(&report, &path, "it was lost here; it stays locked"), "day {day}: {report:?}");
        assert_eq!(report.deleted, 0);
        let locks = world.locks();
        let ends = |path: &String| locks[path] > START + day * DAY;
        assert!(ends(&path) && of_all.iter().all(ends), "day {day}: {locks:?}");
    }
    // All of them are gone, and the packs as well.
    world.lose_all();
    for path in &of_all {
        world.repository.store().delete(&Name::parse(path).expect("a name")).expect("deletes");
    }
    let report = world.try_sync(110, &delete).expect("sync ends");
    assert!(all.iter().all(|one| tells(&report, &Name::Snapshot(one.id).to_string(), "was lost here")));
    assert!(tells(&report, &world.bucket.location(), "holds no snapshot"), "{report:?}");
    assert!(
        world
            .locks()
            .iter()
            .filter(|(path, _)| !path.starts_with("index/"))
            .all(|(_, end)| *end > START + 110 * DAY)
    );
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 3);
    // A clone over what is there brings them back, and nothing is told any more.
    let copy = world.files.clone();
    let genuine = GenuineStore::open(Arc::new(world.bucket.clone())).expect("versions list");
    let brought = clone_to(Arc::new(genuine), &copy).expect("clone ends");
    assert_eq!((brought.snapshots, brought.brought.len()), (3, 0), "{brought:?}");
    let report = world.try_sync(111, &Options::default()).expect("sync ends");
    assert!(report.is_well(), "{:?}", report.problems);
    // One is given up: it is told until its lock is over, as an intruder can give up as well.
    world.lose(lost);
    let accept = Options { accept_loss: true, ..Options::default() };
    let dry = world.try_sync(112, &Options { dry_run: true, ..accept.clone() }).expect("sync ends");
    assert!(dry.notes.iter().any(|note| note.contains("would be given up")), "{dry:?}");
    assert!(tells(&world.try_sync(112, &Options::default()).expect("ends"), &path, "was lost here"));
    for (options, day) in [(&accept, 112), (&Options::default(), 113), (&Options::default(), 139)] {
        let report = world.try_sync(day, options).expect("sync ends");
        assert!(report.is_well(), "{:?}", report.problems);
        assert!(report.warnings.iter().any(|line| line.contains("--accept-loss")), "{day}: {report:?}");
    }
    let late = world.try_sync(170, &delete).expect("sync ends");
    assert!(late.warnings.is_empty() && late.deleted > 0, "{late:?}");
    assert!(!world.locks().contains_key(&path));
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 2);
}

#[test]
fn what_retention_removes_is_noted_and_runs_out_without_a_word() {
    let mut world = World::new();
    for day in 0..12 {
        world.backup(day, 2);
        world.prune(day, Policy { keep_last: 10, ..Policy::default() }, Vec::new());
        let report = world.sync(day);
        assert!(report.is_well() && report.warnings.is_empty(), "day {day}: {report:?}");
    }
    assert_eq!(world.repository.snapshots().expect("lists").all.len(), 10);
    let rows: usize = world.repository.forgotten().expect("reads").each().map(|note| note.rows.len()).sum();
    assert_eq!(rows, 2);
    let notes = |world: &World| world.locks().keys().filter(|path| path.starts_with("forgotten/")).count();
    assert_eq!(notes(&world), 2, "they are in the bucket, locked");
    let delete = Options { delete: true, ..Options::default() };
    let report = world.try_sync(60, &delete).expect("sync ends");
    assert!(report.is_well() && report.deleted >= 2, "{report:?}");
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 10);
}

#[test]
fn what_was_removed_by_hand_or_in_great_number_is_told_until_its_locks_end() {
    let mut world = World::new();
    (0..12).for_each(|day| world.backup(day, 2));
    let _ = world.sync(12);
    let ends = Time::new(START + 42 * DAY, 0).utc().0;
    let ids: Vec<SnapshotId> =
        world.repository.snapshots().expect("lists").all.iter().map(|one| one.id).collect();
    world.prune(13, Policy::default(), vec![ids[3]]);
    let report = world.sync(13);
    assert!(report.is_well(), "{:?}", report.problems);
    assert_eq!(report.warnings.len(), 1, "{report:?}");
    assert!(report.warnings[0].starts_with("a snapshot was removed") && report.warnings[0].contains(&ends));
    world.prune(14, Policy { keep_last: 2, ..Policy::default() }, Vec::new());
    let report = world.sync(14);
    assert!(report.warnings.iter().any(|line| line.starts_with("9 snapshots") && line.contains("last 2")));
    assert_eq!(world.sync(41).warnings.len(), 2);
    assert!(world.sync(43).warnings.is_empty());
}

#[test]
fn what_a_program_that_noted_nothing_has_removed_is_judged_by_the_rules() {
    let mut world = World::new();
    (0..4).for_each(|day| world.backup(day, 2));
    world.make_older();
    let _ = world.sync(4);
    let all = world.repository.snapshots().expect("lists").all;
    world.lose(all[0].id);
    world.lose(all[2].id);
    let bucket: Arc<dyn LockingStore> = Arc::new(world.bucket.clone());
    let now = Time::new(START + 5 * DAY, 0);
    let progress = Progress::default();
    let expired = |there: &[snap::repo::Snapshot]| -> BTreeSet<SnapshotId> {
        assert_eq!(there.len(), 4, "what is here, and what is not");
        there.iter().take(1).map(|one| one.id).collect()
    };
    let options = Options::default();
    let request =
        Request { options: &options, now, seed: 1, threads: 2, expired: &expired, progress: &progress };
    let report = sync(&world.repository, &bucket, &request).expect("sync ends");
    assert!(tells(&report, &Name::Snapshot(all[2].id).to_string(), "was lost here"), "{report:?}");
    assert!(!report.problems.iter().any(|one| one.path == Name::Snapshot(all[0].id).to_string()));
}

#[test]
fn a_clone_brings_back_what_was_removed_and_no_longer_notes_it() {
    let mut world = World::new();
    (0..4).for_each(|day| world.backup(day, 10));
    let _ = world.sync(4);
    let pictures = world.pictures.clone();
    world.lose_all_mail();
    world.backup(5, 0);
    let forgotten: Vec<SnapshotId> =
        world.repository.snapshots().expect("lists").all.iter().take(4).map(|one| one.id).collect();
    let progress = Progress::default();
    let now = Time::new(START + 6 * DAY, 0);
    let mut request = prune::Request::new(Policy::default(), now, TimeZone::UTC, &progress);
    (request.forget, request.at_once) = (forgotten.clone(), true);
    let _ = prune(&world.repository, &request).expect("prune ends");
    let _ = world.sync(6);
    let genuine = || -> Arc<dyn Store> {
        Arc::new(GenuineStore::open(Arc::new(world.bucket.clone())).expect("versions list"))
    };
    let copy = MemoryStore::default();
    let report = clone_to(genuine(), &copy).expect("clone ends");
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.snapshots, report.brought.len()), (5, 4));
    assert!(report.brought.iter().all(|one| one.rule.contains("named to be forgotten")), "{report:?}");
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &pictures), 5);
    let back = open(Arc::new(copy.clone()), world.state.path(), None).expect("opens");
    assert!(back.forgotten().expect("reads").all.is_empty(), "what is back can be lost again");
    let checked = check_all(&back, &NoSecrets);
    assert!(checked.is_sound() && checked.notes.is_empty(), "{:?}", checked.notes);
    // Without them.
    let copy = MemoryStore::default();
    let source = open(genuine(), world.state.path(), None).expect("opens");
    let request = clone::Request {
        threads: 2,
        without_forgotten: true,
        lock_patience: Duration::ZERO,
        progress: &progress,
    };
    let target: Arc<dyn Store> = Arc::new(copy.clone());
    for _ in 0..2 {
        let report = clone::clone(&source, &target, &request).expect("clone ends");
        assert_eq!((report.snapshots, report.brought.len()), (1, 0));
        let back = open(target.clone(), world.state.path(), None).expect("opens");
        let notes = back.forgotten().expect("reads");
        assert_eq!(notes.rows().into_keys().collect::<BTreeSet<_>>(), forgotten.iter().copied().collect());
        assert_eq!(notes.all.len(), 1, "once is enough");
    }
}

#[test]
fn a_pack_stays_in_the_bucket_until_the_one_that_replaces_it_is_there() {
    let mut world = World::new();
    world.backup(0, 10);
    let (gone, come) = world.repack(1);
    assert!(!gone.is_empty() && !come.is_empty());
    let mut files = world.files.files();
    come.iter().for_each(|path| files.get_mut(path).expect("it")[500] ^= 1);
    world.reopen(Arc::new(MemoryStore::of(files)));
    // Its lock is over; but nobody can tell that it is not needed.
    let delete = Options { delete: true, ..Options::default() };
    let first = world.repository.snapshots().expect("lists").all[0].id;
    for day in [40, 80] {
        let report = world.try_sync(day, &delete).expect("sync ends");
        assert_eq!(report.deleted, 0, "{report:?}");
        let path = Name::Snapshot(first).to_string();
        assert!(tells(&report, &path, "nothing is removed from the bucket"), "{report:?}");
        let locks = world.locks();
        assert!(gone.iter().all(|path| locks[path] == START + (day + 30) * DAY), "locked as long as that");
    }
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 2);
    // The replacement is healed: a dry run tells what will be.
    world.reopen(Arc::new(world.files.clone()));
    let told = world.try_sync(120, &Options { dry_run: true, ..delete.clone() }).expect("sync ends");
    let report = world.try_sync(120, &delete).expect("sync ends");
    assert!(report.is_well(), "{:?}", report.problems);
    assert_eq!(told.deleted, report.deleted, "{told:?}");
    assert!(gone.iter().all(|path| !world.locks().contains_key(path)));
    world.pictures.remove(&START);
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 1);
}

#[test]
fn above_the_limit_nothing_is_put_and_what_is_there_stays_locked() {
    let mut world = World::new();
    world.backup(0, 10);
    let _ = world.sync(0);
    world.backup(1, 10);
    let there = world.locks();
    let report = world.try_sync(12, &world.at_limit(Options::default())).expect("sync ends");
    assert_eq!(report.files_put, 0);
    assert!(tells(&report, &world.bucket.location(), "above the limit"), "{report:?}");
    assert_eq!(report.problems.len(), 1, "told once: {report:?}");
    let after = world.locks();
    assert!(after.keys().eq(there.keys()));
    assert!(after.values().all(|until| *until == START + 42 * DAY), "{after:?}");
    assert_eq!(report.snapshots.iter().map(|kept| kept.is_whole).collect::<Vec<_>>(), [true, false]);
    assert!(world.sync(12).is_well());
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 2);
}

#[test]
fn above_the_limit_what_nothing_needs_can_be_removed() {
    let mut world = World::of_two_days();
    world.forget_oldest();
    let _ = world.sync(12);
    let renewed = START + 42 * DAY;
    let unneeded: Vec<String> = {
        let left = world.locks().into_iter().filter(|(_, until)| *until != renewed);
        left.map(|(path, _)| path).filter(|path| path.starts_with("packs/")).collect()
    };
    assert!(!unneeded.is_empty());
    for path in &unneeded {
        world.repository.store().delete(&Name::parse(path).expect("a name")).expect("deletes");
    }
    world.backup(20, 10);
    let delete = world.at_limit(Options { delete: true, ..Options::default() });
    let report = world.try_sync(34, &delete).expect("sync ends");
    assert_eq!((report.files_put, report.deleted), (0, unneeded.len() as u64 + 1), "{report:?}");
    let there = world.locks();
    assert!(unneeded.iter().all(|path| !there.contains_key(path)));
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 1);
    assert!(world.try_sync(34, &delete).expect("there is room now").files_put > 0);
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 2);
}

#[test]
fn above_the_limit_nothing_is_removed_whose_replacement_was_not_put() {
    let mut world = World::new();
    world.backup(0, 10);
    let (gone, _) = world.repack(1);
    let delete = Options { delete: true, ..Options::default() };
    let limited = world.at_limit(delete.clone());
    let report = world.try_sync(40, &limited).expect("sync ends");
    assert_eq!((report.files_put, report.deleted), (0, 0), "{report:?}");
    assert!(report.problems.iter().any(|one| one.what.contains("raise the limit, so that")), "{report:?}");
    assert!(gone.iter().all(|path| world.locks()[path] == START + 70 * DAY));
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 2);
    let report = world.try_sync(71, &delete).expect("sync ends");
    assert!(report.is_well() && report.deleted > gone.len() as u64, "{report:?}");
}

#[test]
fn one_local_file_that_cannot_be_read_holds_up_no_other() {
    let mut world = World::new();
    (0..2).for_each(|day| world.backup(day, 10));
    let _ = world.sync(1);
    world.backup(2, 30);
    let old = world.locks();
    let memory = world.memory();
    let bucket = world.bucket.copy();
    let paths: Vec<String> = world.files.files().into_keys().collect();
    for path in paths.into_iter().filter(|path| path.starts_with("packs/")) {
        world.bucket = bucket.copy();
        put_back(&memory);
        world.forget_bucket();
        let disk = WatchedStore::over(world.files.clone());
        let bad = path.clone();
        disk.fail_reads(move |name, _| {
            (name.to_string() == bad).then(|| std::io::Error::other("bad sector"))
        });
        world.reopen(Arc::new(disk));
        let report = world.sync(12);
        assert!(tells(&report, &path, "bad sector"), "{path}: {report:?}");
        let locks = world.locks();
        assert!(old.keys().all(|old| locks[old] == START + 42 * DAY), "without {path}: {locks:?}");
        let packs = world.files.files().into_keys().filter(|path| path.starts_with("packs/"));
        assert!(packs.filter(|pack| *pack != path).all(|pack| locks.contains_key(&pack)), "without {path}");
        let left = clone_restores(&world.bucket, world.state.path(), &world.pictures);
        assert!(left == 2 || (left == 3 && old.contains_key(&path)), "without {path}: {left}");
    }
}

#[test]
fn more_than_half_of_the_snapshots_are_removed_from_the_bucket_only_by_force() {
    let mut world = World::new();
    (0..6).for_each(|day| world.backup(day, 2));
    let _ = world.sync(6);
    let lost = world.repository.snapshots().expect("lists").all;
    world.lose_all();
    world.backup(7, 2);
    let _ = world.sync(7);
    let all = world.locks();
    let forced = Options { delete: true, force: true, ..Options::default() };
    let report = world.try_sync(40, &forced).expect("sync ends");
    assert_eq!(report.deleted, 0, "what was lost is not removed by force either: {report:?}");
    assert!(lost.iter().all(|one| tells(&report, &Name::Snapshot(one.id).to_string(), "was lost here")));
    let _ = world.try_sync(41, &Options { accept_loss: true, ..Options::default() }).expect("sync ends");
    let delete = Options { delete: true, ..Options::default() };
    let report = world.try_sync(90, &delete).expect("sync ends");
    assert_eq!(report.deleted, 0);
    let bucket = world.bucket.location();
    assert!(tells(&report, &bucket, "6 of its 7 snapshots"), "{report:?}");
    assert!(tells(&report, &bucket, "use --force if it is meant"), "{report:?}");
    assert!(all.keys().all(|path| world.locks().contains_key(path)));
    let told = world.try_sync(90, &Options { dry_run: true, ..delete }).expect("sync ends");
    assert!(told.deleted >= 6 && !told.is_well(), "{told:?}");
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 7);
    let report = world.try_sync(90, &forced).expect("sync ends");
    assert!(report.is_well() && report.deleted == told.deleted, "{report:?}");
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 1);
}

#[test]
fn so_many_that_go_in_some_days_are_told_when_the_first_lock_is_over() {
    let mut world = World::new();
    for day in 0..6 {
        world.backup(day, 2);
        let _ = world.sync(day);
    }
    world.backup(7, 2);
    (0..6).for_each(|_| world.forget_oldest());
    let delete = Options { delete: true, ..Options::default() };
    let report = world.try_sync(30, &delete).expect("sync ends");
    assert_eq!(report.deleted, 0, "one lock is over, and five more in some days");
    assert!(tells(&report, &world.bucket.location(), "6 of its "), "{report:?}");
}

#[test]
fn a_key_file_goes_only_if_one_for_the_same_recipient_is_here() {
    let mut world = World::new();
    let files = MemoryStore::default();
    let state = tempfile::tempdir().expect("temporary folder");
    world.repository = create_sealed(Arc::new(files.clone()), state.path(), "one").expect("made");
    (world.files, world.state) = (files, state);
    let other = age::x25519::Identity::generate().to_public();
    let now = Time::new(START, 0);
    let lost = key::add_recipient(&world.repository, &other, "safe", now).expect("added");
    world.backup(0, 1);
    let _ = world.sync(0);
    // Its file is lost here. The passphrase is changed: what the old one wrapped is to go.
    let keys = world.repository.key_files().expect("lists");
    let keys: Vec<_> = keys.into_iter().map(|info| info.expect("it reads")).collect();
    let old = keys.iter().find(|info| info.id != lost && info.recipient().is_some()).expect("one").id;
    world.repository.store().delete(&Name::Key(lost)).expect("deletes");
    let secrets = OnePassphrase("one");
    let new = Passphrase::new("two".to_owned());
    let _ = key::rotate_passphrase(&world.repository, &secrets, &new, now).expect("changed");
    let delete = Options { delete: true, ..Options::default() };
    let report = world.try_sync(90, &delete).expect("sync ends");
    assert!(tells(&report, &Name::Key(lost).to_string(), "was lost here; it stays locked"), "{report:?}");
    assert_eq!((report.deleted, world.locks()[&Name::Key(lost).to_string()]), (0, START + 120 * DAY));
    // Somebody says that it is right so.
    let _ = key::accept(&world.repository).expect("accepted");
    let report = world.try_sync(130, &delete).expect("sync ends");
    assert!(report.is_well(), "{:?}", report.problems);
    let there = world.locks();
    assert!(there.contains_key(&Name::Key(lost).to_string()), "{report:?}");
    assert!(!there.contains_key(&Name::Key(old).to_string()), "{report:?}");
}

#[test]
fn the_prefix_of_another_repository_is_refused_before_anything_is_put() {
    let mut world = World::new();
    world.backup(0, 5);
    let _ = world.sync(0);
    let before = world.locks();
    let mut other = World::new();
    other.backup(0, 5);
    other.bucket = world.bucket.clone();
    for options in [Options::default(), Options { dry_run: true, ..Options::default() }] {
        let refused = other.try_sync(1, &options).expect_err("it is another's").to_string();
        assert!(refused.contains("another repository's") && refused.contains("snap clone"), "{refused}");
    }
    assert_eq!(world.locks(), before);
    assert_eq!(clone_restores(&world.bucket, world.state.path(), &world.pictures), 1);
    // Whatever lies on top of ours, and in ours, the prefix stays ours.
    let (config, key) = (other.files.files()["config"].clone(), other.files.files());
    let key = key.into_iter().find(|(path, _)| path.starts_with("keys/")).expect("a key");
    world.bucket.plant("config", &config);
    world.bucket.plant(&key.0, &key.1);
    for path in before.keys().filter(|path| path.starts_with("keys/")) {
        world.bucket.plant(path, &key.1);
    }
    for forgets in [false, true] {
        if forgets {
            world.forget_bucket();
        }
        let report = world.sync(9);
        assert!(forgets || tells(&report, "config", "somebody has put other bytes"), "{report:?}");
        let packs = world.locks().into_iter().filter(|(path, _)| path.starts_with("packs/"));
        assert!(packs.map(|(_, until)| until).all(|until| until == START + 39 * DAY), "renewed");
    }
    // The first to come in an empty prefix is in nobody's way, nor is junk.
    let mut third = World::new();
    third.backup(0, 1);
    third.bucket.plant("readme.txt", b"hello");
    assert!(third.sync(0).is_well());
}

#[test]
fn a_remembered_genuine_version_is_not_read_again_whatever_lies_on_top() {
    let mut world = World::new();
    world.backup(0, 10);
    let _ = world.sync(0);
    let pack = world.pack();
    let bytes = world.files.files()[&pack].len();
    for n in 0..200u8 {
        world.bucket.plant(&pack, &vec![n; bytes]);
    }
    let report = world.sync(1);
    assert!(tells(&report, &pack, "somebody has put other bytes"), "{report:?}");
    assert_eq!((report.put_back, report.usage.bytes_received), (1, 0), "{report:?}");
    let own = Name::parse(&pack).expect("a name");
    assert!(world.bucket.read(&own, 64 << 20).expect("reads") == world.files.files()[&pack]);
    // Another machine has put it back: that is seen without a byte.
    let state = world.memory();
    world.bucket.plant(&pack, b"other bytes");
    let _ = world.sync(2);
    put_back(&state);
    let report = world.sync(3);
    assert_eq!((report.is_well(), report.put_back, report.usage.bytes_received), (true, 0, 0), "{report:?}");
}

#[test]
fn a_first_sync_is_not_taken_for_a_usual_night_of_the_budget() {
    let mut world = World::new();
    (0..8).for_each(|day| world.backup(day, 3));
    let prices = Prices { gib_month: 0.0, thousand_writes: 10.0, thousand_reads: 0.1, ..Prices::default() };
    let options = Options { prices, budget: Budget { levels: vec![3.0], limit: None }, ..Options::default() };
    let first = world.try_sync(8, &options).expect("sync ends");
    assert!(first.files_put > 20 && first.exceeded.is_none(), "{:?} {:?}", first.cost, first.usage);
    let second = world.try_sync(9, &options).expect("sync ends");
    assert!((first.cost.total() - second.cost.total()).abs() < 1.0, "{:?} {:?}", first.cost, second.cost);
}

#[test]
fn a_clone_of_which_a_pack_or_half_the_files_are_gone_names_the_snapshots_that_are_hurt() {
    let mut world = World::new();
    (0..3).for_each(|day| world.backup(day, 10));
    let all = world.files.files();
    let snapshots = world.repository.snapshots().expect("lists").all;
    let without = |is_gone: &dyn Fn(usize, &str) -> bool| {
        let left = all.iter().enumerate().filter(|(at, (path, _))| !is_gone(*at, path));
        MemoryStore::of(left.map(|(_, (path, bytes))| (path.clone(), bytes.clone())).collect())
    };
    let pack = world.pack();
    for fragments_too in [false, true] {
        let source = without(&|_, path| path == pack || (fragments_too && path.starts_with("index/")));
        let copy = MemoryStore::default();
        let report = clone_to(Arc::new(source), &copy).expect("clone ends");
        assert!(!report.is_whole() && report.snapshots == 3, "{report:?}");
        assert_eq!(report.hurt.last().map(|hurt| hurt.id), snapshots.last().map(|one| one.id), "{report:?}");
        let repository = open(Arc::new(copy), world.state.path(), None).expect("opens");
        let checked = check_all(&repository, &NoSecrets);
        let hurt: BTreeSet<SnapshotId> = checked.hurt.iter().map(|hurt| hurt.snapshot).collect();
        assert_eq!(hurt, report.hurt.iter().map(|hurt| hurt.id).collect(), "check says the same");
    }
    let copy = MemoryStore::default();
    let source = without(&|at, path| path.starts_with("packs/") && at % 2 == 0);
    let report = clone_to(Arc::new(source), &copy).expect("clone ends");
    assert!(!report.hurt.is_empty(), "{report:?}");
    // Packs that no fragment lists any more are copied and listed: nothing of it is noted.
    let copy = MemoryStore::default();
    let source = without(&|_, path| path.starts_with("index/"));
    let report = clone_to(Arc::new(source), &copy).expect("clone ends");
    assert!(report.is_whole(), "{report:?}");
    let repository = open(Arc::new(copy), world.state.path(), None).expect("opens");
    let checked = check_all(&repository, &NoSecrets);
    assert!(checked.is_sound() && checked.notes.is_empty(), "{:?}", checked.notes);
}

#[test]
fn a_clone_of_a_bucket_of_many_nights_leaves_nothing_for_check_to_note() {
    let mut world = World::new();
    for day in 0..6 {
        world.lose_all_mail();
        world.backup(day, 8);
        let progress = Progress::default();
        let now = Time::new(START + day * DAY, 0);
        let keep = Policy { keep_last: 2, ..Policy::default() };
        let mut request = prune::Request::new(keep, now, TimeZone::UTC, &progress);
        request.at_once = true;
        let _ = prune(&world.repository, &request).expect("prune ends");
        let _ = world.sync(day);
    }
    for without_forgotten in [false, true] {
        let genuine = GenuineStore::open(Arc::new(world.bucket.clone())).expect("versions list");
        let source = open(Arc::new(genuine), world.state.path(), None).expect("opens");
        let progress = Progress::default();
        let request = clone::Request {
            threads: 2,
            without_forgotten,
            lock_patience: Duration::ZERO,
            progress: &progress,
        };
        let copy: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let report = clone::clone(&source, &copy, &request).expect("clone ends");
        assert!(report.is_whole() && report.strange.is_empty(), "{report:?}");
        let repository = open(copy, world.state.path(), None).expect("opens");
        let checked = check_all(&repository, &NoSecrets);
        assert!(checked.is_sound() && checked.notes.is_empty(), "{:?}", checked.notes);
    }
}

#[test]
fn a_clone_holds_the_lock_of_the_copy_alone() {
    let mut world = World::new();
    world.backup(0, 2);
    let copy = MemoryStore::default();
    let held = copy.lock(LockMode::Shared).expect("locks");
    let refused = clone_to(Arc::new(world.files.clone()), &copy).expect_err("somebody is there");
    assert!(matches!(refused, RepoError::Store(StoreError::Locked { .. })), "{refused:?}");
    assert!(copy.files().is_empty());
    drop(held);
    assert_eq!(clone_to(Arc::new(world.files.clone()), &copy).expect("clone ends").snapshots, 1);
}

#[test]
fn what_was_lost_here_stays_locked_although_each_upload_is_cut() {
    let mut world = World::of_two_days();
    let first = world.repository.snapshots().expect("lists").all.remove(0);
    let before = world.locks();
    world.lose(first.id);
    for path in before.keys().filter(|path| path.starts_with("packs/")).take(1) {
        world.repository.store().delete(&Name::parse(path).expect("a name")).expect("deletes");
    }
    world.backup(11, 10);
    let mut odd = OddBucket::over(&world.bucket);
    odd.is_cut_by_puts = true;
    let odd: Arc<dyn LockingStore> = Arc::new(odd);
    let ended = world.sync_to(&odd, 12, &Options::default());
    assert!(matches!(ended, Err(RepoError::Store(_))), "{ended:?}");
    let after = world.locks();
    assert_eq!(before.len(), after.len(), "nothing was put");
    assert!(after.values().all(|until| *until == START + 42 * DAY), "{after:?}");
}

#[test]
fn what_is_told_once_is_told_also_by_a_run_that_loses_the_connection() {
    let mut world = World::of_two_days();
    let strange = format!("keys/{}", "7".repeat(64));
    world.bucket.plant(&strange, b"not a key");
    world.backup(2, 10);
    let mut odd = OddBucket::over(&world.bucket);
    odd.is_cut_by_puts = true;
    let odd: Arc<dyn LockingStore> = Arc::new(odd);
    let report =
        world.sync_until(&odd, 3, &Options::default(), &Progress::default()).expect("the report comes");
    assert!(matches!(report.stopped, Some(RepoError::Store(_))), "{report:?}");
    assert!(tells(&report, &strange, "has a name like ours"), "{report:?}");
    assert!(!report.is_well());
    assert!(world.sync(3).is_well(), "it was told before, and all else is done");
}

#[test]
fn a_lock_that_cannot_be_read_of_what_was_removed_counts_as_locked_and_ends_no_sync() {
    let world = World::of_two_days();
    let first = world.repository.snapshots().expect("lists").all.remove(0).id;
    world.prune(2, Policy::default(), vec![first]);
    world.forget_bucket();
    let path = Name::Snapshot(first).to_string();
    let mut odd = OddBucket::over(&world.bucket);
    odd.hidden.insert(world.version(&path));
    let odd: Arc<dyn LockingStore> = Arc::new(odd);
    let options = Options { delete: true, ..Options::default() };
    let report = world.sync_to(&odd, 60, &options).expect("sync ends");
    assert!(tells(&report, &path, "counts as locked"), "{report:?}");
    assert!(report.warnings.iter().any(|line| line.contains("could not be read")), "{report:?}");
    assert!(world.locks().contains_key(&path));
}

#[test]
fn a_manifest_that_the_bucket_does_not_remove_is_told_and_keeps_its_packs() {
    let mut world = World::of_two_days();
    let first = world.repository.snapshots().expect("lists").all.remove(0).id;
    world.forget_oldest();
    let path = Name::Snapshot(first).to_string();
    // Its own packs are gone here, as prune leaves it.
    let _ = world.sync(12);
    let is_unneeded = |(path, until): &(String, i64)| path.starts_with("packs/") && *until < START + 42 * DAY;
    let unneeded: Vec<String> = world.locks().into_iter().filter(is_unneeded).map(|(path, _)| path).collect();
    for path in &unneeded {
        world.repository.store().delete(&Name::parse(path).expect("a name")).expect("deletes");
    }
    let mut odd = OddBucket::over(&world.bucket);
    odd.undeletable.insert(world.version(&path));
    let odd: Arc<dyn LockingStore> = Arc::new(odd);
    let options = Options { delete: true, ..Options::default() };
    let report = world.sync_to(&odd, 60, &options).expect("sync ends");
    assert!(tells(&report, &path, "not removed from the bucket"), "{report:?}");
    assert_eq!(report.deleted, 0, "{report:?}");
    let there = world.locks();
    assert!(!unneeded.is_empty() && unneeded.iter().all(|pack| there.contains_key(pack)), "{there:?}");
    let report = world.try_sync(60, &options).expect("sync ends");
    let there = world.locks();
    assert!(!there.contains_key(&path), "{report:?}");
    assert!(!unneeded.iter().any(|pack| there.contains_key(pack)), "{report:?}");
}

#[test]
fn whoever_puts_many_key_files_keeps_no_sync_from_stopping() {
    let world = World::of_two_days();
    for number in 0..600_u32 {
        let bytes = number.to_le_bytes();
        world.bucket.plant(&format!("keys/{}", blake3::hash(&bytes)), &bytes);
    }
    let progress = Arc::new(Progress::default());
    let mut odd = OddBucket::over(&world.bucket);
    odd.stopped_by_read = Some(progress.clone());
    let odd: Arc<dyn LockingStore> = Arc::new(odd);
    let before = world.bucket.usage().reads;
    let ended = world.sync_until(&odd, 3, &Options::default(), &progress);
    assert!(matches!(ended, Err(RepoError::Interrupted)), "{ended:?}");
    let read = world.bucket.usage().reads - before;
    assert!(read < 400, "{read} of 600");
    let report = world.sync(3);
    assert!(report.problems.iter().any(|one| one.what.starts_with("590 more")), "{report:?}");
}

#[test]
fn many_snapshots_of_an_older_program_do_not_vanish_without_a_word() {
    let mut world = World::new();
    (0..8).for_each(|day| world.backup(day, 1));
    world.make_older();
    let _ = world.sync(8);
    let all = world.repository.snapshots().expect("lists").all;
    let bucket: Arc<dyn LockingStore> = Arc::new(world.bucket.clone());
    let progress = Progress::default();
    let options = Options::default();
    let lost: BTreeSet<SnapshotId> = all.iter().take(5).map(|one| one.id).collect();
    let expired = |_: &[snap::repo::Snapshot]| lost.clone();
    let sync = |day: i64| {
        let now = Time::new(START + day * DAY, 0);
        world.bucket.set_now(now);
        let request =
            Request { options: &options, now, seed: 1, threads: 2, expired: &expired, progress: &progress };
        sync(&world.repository, &bucket, &request).expect("sync ends")
    };
    // Three may go by the rules without a word.
    all.iter().take(3).for_each(|one| world.lose(one.id));
    assert!(sync(9).warnings.is_empty());
    all.iter().skip(3).take(2).for_each(|one| world.lose(one.id));
    let report = sync(10);
    let ends = Time::new(START + 38 * DAY, 0).utc().0;
    assert_eq!(report.warnings.len(), 1, "{report:?}");
    assert!(report.warnings[0].starts_with("5 snapshots of an older program"), "{report:?}");
    assert!(report.warnings[0].contains(&ends), "{report:?}");
    assert!(sync(39).warnings.is_empty(), "their locks are over");
}

#[test]
fn the_key_of_who_was_removed_on_another_machine_was_not_lost_here() {
    let mut world = World::new();
    let files = MemoryStore::default();
    let state = tempfile::tempdir().expect("temporary folder");
    world.repository = create_sealed(Arc::new(files.clone()), state.path(), "one").expect("made");
    (world.files, world.state) = (files, state);
    let other = age::x25519::Identity::generate().to_public();
    let now = Time::new(START, 0);
    let key = key::add_recipient(&world.repository, &other, "left", now).expect("added");
    world.backup(0, 1);
    assert!(world.sync(0).is_well());
    let state = tempfile::tempdir().expect("temporary folder");
    let secrets = OnePassphrase("one");
    let opening = snap::repo::Opening {
        store: Arc::new(world.files.clone()),
        state: state.path(),
        index: None,
        secrets: &secrets,
    };
    let elsewhere = Repository::open(&opening).expect("opens");
    let _ = key::remove(&elsewhere, &secrets, &key.to_string()).expect("is removed");
    let report = world.sync(1);
    assert!(report.is_well(), "{:?}", report.problems);
}

#[test]
fn what_an_interrupted_sync_found_is_told_by_it_and_by_the_next_one() {
    let mut world = World::of_two_days();
    let strange = format!("keys/{}", "7".repeat(64));
    world.bucket.plant(&strange, b"not a key");
    world.backup(2, 40);
    let progress = Arc::new(Progress::default());
    let mut odd = OddBucket::over(&world.bucket);
    odd.stopped_by_put = Some(progress.clone());
    let odd: Arc<dyn LockingStore> = Arc::new(odd);
    let report = world.sync_until(&odd, 3, &Options::default(), &progress).expect("the report comes");
    assert!(matches!(report.stopped, Some(RepoError::Interrupted)), "{report:?}");
    assert!(tells(&report, &strange, "has a name like ours"), "{report:?}");
    assert!(tells(&world.sync(3), &strange, "has a name like ours"), "nobody was mailed of the first");
    assert!(world.sync(3).is_well(), "it was told");
}
