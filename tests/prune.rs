//! Prune through the library: what stays, what goes, when, and that nothing needed ever does.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use common::Noise;
use common::repo::{
    Picture, backup_request, create_plain, create_sealed, deliver, differences, maildir, open, picture,
    restore,
};
use common::watched::{Moment, WatchedStore};
use jiff::tz::TimeZone;
use snap::base::progress::Progress;
use snap::base::time::Time;
use snap::op::backup;
use snap::op::check::{self, check};
use snap::op::prune::{Policy, Report, Request, prune};
use snap::repo::config::Choices;
use snap::repo::index::Index;
use snap::repo::keys::{NoSecrets, Passphrase, Secrets};
use snap::repo::reader::Reader;
use snap::repo::{RepoError, Repository};
use snap::store::{Folder, LockMode, MemoryStore, Name, Store, StoreError};

const START: i64 = 1_767_582_000;
const DAY: i64 = 86_400;

/// A repository in memory, its source, and what each snapshot should give.
struct Scene {
    disk: MemoryStore,
    folder: tempfile::TempDir,
    noise: Noise,
    pictures: Vec<(i64, Picture)>,
    next: usize,
}

impl Scene {
    /// Packs are small, so that few messages make several.
    fn new(seed: u64) -> Self {
        let scene = Self {
            disk: MemoryStore::default(),
            folder: tempfile::tempdir().expect("temporary folder"),
            noise: Noise::new(seed),
            pictures: Vec::new(),
            next: 0,
        };
        let choices = Choices { pack_bytes: 1 << 20, ..Choices::default() };
        create_plain(Arc::new(scene.disk.clone()), &scene.state(), choices).expect("repository is made");
        scene
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("mail")
    }

    fn open(&self) -> Repository {
        open(Arc::new(self.disk.clone()), &self.state(), Some(self.folder.path().join("index.redb")))
            .expect("repository opens")
    }

    /// Delivers messages, expunges some at random, and backs up at the given day.
    fn live(&mut self, day: i64, delivered: usize, expunged: usize) {
        let source = self.source();
        if self.next == 0 {
            maildir(&source, 0, 0, &mut self.noise);
        }
        for _ in 0..delivered {
            deliver(&source, self.next, 20_000, &mut self.noise);
            self.next += 1;
        }
        let mut all: Vec<PathBuf> = messages(&source);
        for _ in 0..expunged.min(all.len()) {
            let at = self.noise.below(all.len() as u64) as usize;
            fs::remove_file(all.swap_remove(at)).expect("message goes");
        }
        let report = common::repo::backup(&self.open(), &source, START + day * DAY).expect("backup");
        assert!(report.is_whole(), "{:?}", report.lacks);
        self.pictures.push((START + day * DAY, picture(&source)));
    }

    /// Every snapshot restores to what it was, and a check that reads everything finds no fault. Returns
    /// the days of the snapshots.
    fn verify(&self) -> Vec<i64> {
        verify(&self.open(), &self.pictures)
    }

    fn packs(&self) -> BTreeSet<String> {
        self.disk.files().into_keys().filter(|path| path.starts_with("packs/")).collect()
    }

    fn pack_bytes(&self) -> usize {
        self.disk
            .files()
            .iter()
            .filter(|(path, _)| path.starts_with("packs/"))
            .map(|(_, bytes)| bytes.len())
            .sum()
    }
}

fn messages(source: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = ["new", "cur"]
        .iter()
        .flat_map(|side| fs::read_dir(source.join(side)).expect("folder lists"))
        .map(|entry| entry.expect("entry reads").path())
        .collect();
    all.sort();
    all
}

fn verify(repository: &Repository, pictures: &[(i64, Picture)]) -> Vec<i64> {
    let snapshots = repository.snapshots().expect("snapshots list");
    assert!(snapshots.unreadable.is_empty(), "{:?}", snapshots.unreadable);
    let mut days = Vec::new();
    for snapshot in &snapshots.all {
        let seconds = snapshot.manifest.time.seconds;
        let target = tempfile::tempdir().expect("temporary folder");
        let report = restore(repository, snapshot, target.path()).expect("restore ends");
        assert!(report.lacks.is_empty(), "{:?}", report.lacks);
        let (_, expected) = pictures.iter().find(|(time, _)| *time == seconds).expect("a known snapshot");
        assert_eq!(differences(expected, &picture(target.path())), Vec::<String>::new(), "at {seconds}");
        days.push((seconds - START) / DAY);
    }
    is_sound(repository);
    days
}

fn is_sound(repository: &Repository) {
    let progress = Progress::default();
    let request = check::Request {
        read_packs: true,
        read_data: repository.writer_keys().metadata().is_none(),
        subset: None,
        seed: 0,
        repair: false,
        threads: 2,
        progress: &progress,
    };
    let report = check(repository, &NoSecrets, &request).expect("check ends");
    assert!(report.is_sound(), "{:?} {:?}", report.damages, report.hurt);
}

fn keep_last(count: u32) -> Policy {
    Policy { keep_last: count, ..Policy::default() }
}

/// Prunes at a day; `change` adjusts what is asked for.
fn run(
    repository: &Repository,
    policy: Policy,
    day: i64,
    change: impl FnOnce(&mut Request<'_>),
) -> Result<Report, RepoError> {
    let progress = Progress::default();
    let now = Time::new(START + day * DAY, 0);
    let mut request = Request::new(policy, now, TimeZone::UTC, &progress);
    request.unused_percent_max = 0.0;
    request.force = true;
    request.lock_patience = Duration::ZERO;
    change(&mut request);
    prune(repository, &request)
}

#[test]
fn what_no_kept_snapshot_needs_is_condemned_and_goes_after_the_grace() {
    let mut scene = Scene::new(1);
    for day in 0..6 {
        scene.live(day, 60, 20);
    }
    let before = scene.packs();
    let report = run(&scene.open(), keep_last(2), 6, |_| {}).expect("prune");
    assert_eq!((report.kept(), report.forgotten()), (2, 4));
    assert!(report.condemned.packs + report.repacked.packs > 0, "{report:?}");
    assert_eq!(report.deleted.packs, 0, "nothing goes before its time");
    assert!(before.is_subset(&scene.packs()));
    assert_eq!(scene.verify(), [4, 5]);
    // An hour later it is too early, a day later it is time.
    let report = run(&scene.open(), keep_last(2), 6, |request| request.now.seconds += 3600).expect("prune");
    assert_eq!(report.deleted.packs, 0);
    assert!(report.waiting.packs > 0);
    let report = run(&scene.open(), keep_last(2), 7, |_| {}).expect("prune");
    assert!(report.deleted.packs > 0, "{report:?}");
    assert_eq!(report.bytes_after as usize, scene.pack_bytes());
    assert!(report.bytes_after < report.bytes_before);
    assert!(!before.is_subset(&scene.packs()));
    assert_eq!(scene.verify(), [4, 5]);
    let report = run(&scene.open(), keep_last(2), 9, |_| {}).expect("prune");
    assert_eq!((report.waiting.packs, report.deleted.packs, report.condemned.packs), (0, 0, 0));
    assert!(scene.disk.list(Folder::Condemned).expect("folder lists").is_empty());
}

#[test]
fn at_once_leaves_little_more_than_what_is_kept_would_take_afresh() {
    let mut scene = Scene::new(2);
    let mut fresh = Scene::new(2);
    for day in 0..8 {
        scene.live(day, 60, 30);
    }
    let report = run(&scene.open(), keep_last(1), 8, |request| request.at_once = true).expect("prune");
    assert_eq!(report.bytes_after as usize, scene.pack_bytes());
    assert_eq!(scene.verify(), [7]);
    fs::rename(scene.source(), fresh.source()).expect("folder moves");
    fresh.next = 1;
    fresh.live(7, 0, 0);
    let (left, ideal) = (scene.pack_bytes() as f64, fresh.pack_bytes() as f64);
    assert!(left < ideal * 1.05, "{left} bytes are left, {ideal} would do");
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_the_run_then_does() {
    let mut scene = Scene::new(3);
    for day in 0..6 {
        scene.live(day, 40, 15);
    }
    for at_once in [false, true] {
        let before = scene.disk.files();
        let ask = |dry_run| {
            run(&scene.open(), keep_last(3), 6, |request| {
                (request.dry_run, request.at_once) = (dry_run, at_once);
            })
            .expect("prune")
        };
        let planned = ask(true);
        assert_eq!(scene.disk.files(), before, "a dry run changes nothing");
        let done = ask(false);
        assert_eq!(planned.forgotten(), done.forgotten());
        let same = |report: &Report| {
            (
                report.condemned,
                report.repacked,
                report.rescued,
                report.deleted,
                report.waiting,
                report.frames_closed,
            )
        };
        assert_eq!(same(&planned), same(&done));
        let (plan, fact) = (planned.written.bytes as f64, done.written.bytes as f64);
        assert!((plan - fact).abs() <= 0.1 * fact + 20_000.0, "{plan} bytes planned, {fact} written");
    }
}

/// Bytes that come once somebody says so.
struct Gate {
    started: Option<Sender<()>>,
    go: Receiver<()>,
    bytes: std::io::Cursor<Vec<u8>>,
}

impl Read for Gate {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if let Some(started) = self.started.take() {
            started.send(()).expect("somebody waits");
            self.go.recv().expect("somebody says so");
        }
        self.bytes.read(out)
    }
}

/// Backs up a stream as component `dump`.
fn backup_stream(repository: &Repository, stream: impl Read + Send + 'static, day: i64) {
    let progress = Progress::default();
    let stream = backup::Stream {
        name: b"all.sql".to_vec(),
        input: backup::Input::Reader(Box::new(stream)),
        may_be_empty: false,
        ends_with: None,
    };
    let component = backup::Component {
        name: "dump".to_owned(),
        directory: b"dump".to_vec(),
        paths: Vec::new(),
        streams: vec![stream],
        excludes: Vec::new(),
        care: backup::Care { shrink: backup::Shrink::Any, ..backup::Care::default() },
    };
    let request = backup_request(vec![component], START + day * DAY, &progress);
    let request = backup::Request { read_threads: 1, ..request };
    assert!(backup::backup(repository, request).expect("backup").is_whole());
}

/// Day 0 has a dump that day 1 has not; a third backup of it is under way since before day 0 is forgotten.
struct Race {
    disk: MemoryStore,
    folder: tempfile::TempDir,
    dump: Vec<u8>,
    end: Option<Box<dyn FnOnce() + Send>>,
}

impl Race {
    fn begin(seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let disk = MemoryStore::default();
        let state = folder.path().join("state");
        let choices = Choices { pack_bytes: 1 << 20, ..Choices::default() };
        create_plain(Arc::new(disk.clone()), &state, choices).expect("repository is made");
        let dump = Noise::new(seed).bytes(3 << 20);
        let reopen = || open(Arc::new(disk.clone()), &state, None).expect("repository opens");
        backup_stream(&reopen(), std::io::Cursor::new(dump.clone()), 0);
        backup_stream(&reopen(), std::io::Cursor::new(b"small".to_vec()), 1);
        let (started, is_started) = channel();
        let (go, may_go) = channel();
        let gate = Gate { started: Some(started), go: may_go, bytes: std::io::Cursor::new(dump.clone()) };
        let repository = reopen();
        let running = std::thread::spawn(move || backup_stream(&repository, gate, 2));
        is_started.recv().expect("the backup reads");
        let end = move || {
            go.send(()).expect("the backup waits");
            running.join().expect("the backup ends");
        };
        Self { disk, folder, dump, end: Some(Box::new(end)) }
    }

    fn open(&self) -> Repository {
        open(Arc::new(self.disk.clone()), &self.folder.path().join("state"), None).expect("repository opens")
    }

    fn dump_is_whole(&self) {
        let repository = self.open();
        is_sound(&repository);
        let snapshots = repository.snapshots().expect("snapshots list").all;
        let reader = Reader::new(&repository, Index::open(&repository).expect("index opens"), 8 << 20);
        let mut out = Vec::new();
        let last = snapshots.last().expect("there is one");
        snap::op::cat::cat(&reader, last, b"dump/all.sql", &NoSecrets, &mut out).expect("cat");
        assert!(out == self.dump, "the dump is what it was");
    }
}

#[test]
fn a_backup_under_way_while_its_packs_are_condemned_keeps_them() {
    let mut race = Race::begin(20);
    let report = run(&race.open(), keep_last(1), 1, |_| {}).expect("prune");
    assert!(report.condemned.packs >= 3, "{report:?}");
    race.end.take().expect("it runs")();
    let last = race.open().snapshots().expect("snapshots list").all.pop().expect("there is one");
    assert!(last.manifest.totals.bytes_stored < 1 << 20, "it refers to what is condemned");
    race.dump_is_whole();
    let report = run(&race.open(), keep_last(1), 3, |_| {}).expect("prune");
    assert!(report.rescued.packs >= 3, "{report:?}");
    race.dump_is_whole();
    let _ = run(&race.open(), keep_last(1), 6, |request| request.at_once = true).expect("prune");
    race.dump_is_whole();
}

#[test]
fn a_backup_that_ends_between_plan_and_sweep_keeps_its_packs() {
    let mut race = Race::begin(21);
    let report = run(&race.open(), keep_last(1), 1, |_| {}).expect("prune");
    assert!(report.condemned.packs >= 3, "{report:?}");
    let end = race.end.take().expect("a backup is under way");
    let hooked = WatchedStore::over(race.disk.clone());
    hooked.before(Moment::LockAlone, end);
    let state = race.folder.path().join("state");
    let repository = open(Arc::new(hooked), &state, None).expect("repository opens");
    let report = run(&repository, keep_last(1), 3, |_| {}).expect("prune");
    assert!(report.waiting.packs >= 3, "{report:?}");
    race.dump_is_whole();
    let report = run(&race.open(), keep_last(1), 4, |_| {}).expect("prune");
    assert!(report.rescued.packs >= 3, "{report:?}");
    race.dump_is_whole();
}

#[test]
fn a_manifest_that_cannot_be_read_stops_everything_until_it_is_given_up_by_name() {
    let mut scene = Scene::new(5);
    for day in 0..4 {
        scene.live(day, 20, 5);
    }
    let repository = scene.open();
    let victim = repository.snapshots().expect("snapshots list").all[1].id;
    let mut files = scene.disk.files();
    files.get_mut(&Name::Snapshot(victim).to_string()).expect("there")[60] ^= 1;
    scene.disk = MemoryStore::of(files.clone());
    let refused = run(&scene.open(), keep_last(2), 4, |_| {}).expect_err("refused");
    assert!(matches!(refused, RepoError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains(&victim.to_string()), "{refused}");
    assert_eq!(scene.disk.files(), files, "nothing was changed");
    let report = run(&scene.open(), keep_last(2), 4, |request| request.forget = vec![victim]).expect("prune");
    assert_eq!(report.kept(), 2);
    assert_eq!(scene.verify(), [2, 3]);
}

#[test]
fn a_tree_that_cannot_be_read_stops_everything() {
    let mut scene = Scene::new(6);
    for day in 0..3 {
        scene.live(day, 20, 5);
    }
    let index = Index::open_without_cache(&scene.open()).expect("index opens");
    let trees: Vec<String> = index
        .packs()
        .filter(|(_, pack, _)| pack.is_tree)
        .map(|(_, pack, _)| Name::Pack(pack.id).to_string())
        .collect();
    let mut files = scene.disk.files();
    for path in &trees {
        let bytes = files.get_mut(path).expect("there");
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
    }
    scene.disk = MemoryStore::of(files.clone());
    let refused = run(&scene.open(), keep_last(2), 4, |_| {}).expect_err("refused");
    assert!(matches!(refused, RepoError::Refused { .. }), "{refused}");
    assert_eq!(scene.disk.files(), files, "nothing was changed");
}

#[test]
fn a_damaged_pack_is_not_repacked_and_its_damage_gets_no_new_name() {
    let mut scene = Scene::new(7);
    for day in 0..4 {
        scene.live(day, 40, 20);
    }
    let planned = run(&scene.open(), keep_last(1), 4, |request| request.dry_run = true).expect("prune");
    assert!(planned.repacked.packs > 1, "{planned:?}");
    let index = Index::open_without_cache(&scene.open()).expect("index opens");
    let packs: Vec<_> =
        index.packs().filter(|(_, pack, _)| !pack.is_tree).map(|(_, pack, _)| pack.id).collect();
    let mut files = scene.disk.files();
    for id in &packs {
        let bytes = files.get_mut(&Name::Pack(*id).to_string()).expect("there");
        bytes[500] ^= 1;
    }
    scene.disk = MemoryStore::of(files);
    let report = run(&scene.open(), keep_last(1), 4, |_| {}).expect("prune");
    assert!(report.notes.iter().any(|note| note.contains("not repacked")), "{report:?}");
    assert!(report.repacked.packs < planned.repacked.packs);
    let condemned = scene.open().marks().expect("marks read").packs();
    let dead = report.condemned.packs + report.repacked.packs;
    assert_eq!(condemned.len() as u64, dead);
}

#[test]
fn packs_that_no_fragment_lists_are_left_alone_unless_nobody_else_is_there() {
    let mut scene = Scene::new(8);
    for day in 0..3 {
        scene.live(day, 40, 20);
    }
    // As a run that is under way: packs, and no fragment yet.
    let before = scene.disk.files();
    let listed: BTreeSet<String> = scene.packs();
    scene.live(3, 60, 0);
    let orphans: Vec<String> = scene.packs().difference(&listed).cloned().collect();
    let mut files = before;
    for path in &orphans {
        files.insert(path.clone(), scene.disk.files()[path].clone());
    }
    scene.disk = MemoryStore::of(files);
    scene.pictures.pop();
    for day in 3..6 {
        let _ = run(&scene.open(), keep_last(1), day, |_| {}).expect("prune");
    }
    assert!(orphans.iter().all(|path| scene.packs().contains(path)));
    let _ = run(&scene.open(), keep_last(1), 6, |request| request.at_once = true).expect("prune");
    assert!(!orphans.iter().any(|path| scene.packs().contains(path)));
    assert_eq!(scene.verify(), [2]);
}

#[test]
fn foreign_files_are_left_alone() {
    let mut scene = Scene::new(9);
    for day in 0..3 {
        scene.live(day, 30, 10);
    }
    let mut files = scene.disk.files();
    let foreign = ["packs/ab/README", "index/notes.txt", "snapshots/old", "condemned/x"];
    for path in foreign {
        files.insert(path.to_owned(), b"somebody's".to_vec());
    }
    scene.disk = MemoryStore::of(files);
    let _ = run(&scene.open(), keep_last(1), 4, |request| request.at_once = true).expect("prune");
    assert!(foreign.iter().all(|path| scene.disk.files().contains_key(*path)));
}

#[test]
fn a_mass_deletion_and_a_clock_before_all_snapshots_are_refused_unless_forced() {
    let mut scene = Scene::new(10);
    for day in 0..5 {
        scene.live(day, 5, 0);
    }
    let timid = |policy, day| run(&scene.open(), policy, day, |request| request.force = false);
    let refused = timid(Policy { keep_daily: 2, ..Policy::default() }, 5).expect_err("refused").to_string();
    assert!(refused.contains("3 of 5 snapshots"), "{refused}");
    let weekly = || Policy { keep_weekly: 1, ..Policy::default() };
    let refused = timid(weekly(), -2).expect_err("refused").to_string();
    assert!(refused.contains("the clock is wrong"), "{refused}");
    assert_eq!(timid(keep_last(3), -2).expect("prune").forgotten(), 2);
    let report = run(&scene.open(), weekly(), 5, |request| (request.force, request.dry_run) = (false, true));
    assert_eq!(report.expect("a dry run only says so").refusals.len(), 1);
    assert_eq!(timid(keep_last(1), 5).expect("who says how many means it").forgotten(), 2);
}

#[test]
fn nothing_is_deleted_while_anybody_else_uses_the_repository() {
    let mut scene = Scene::new(11);
    for day in 0..4 {
        scene.live(day, 40, 20);
    }
    let _ = run(&scene.open(), keep_last(1), 4, |_| {}).expect("prune");
    let reading = scene.open();
    let lock = reading.lock(LockMode::Shared).expect("lock");
    let before = scene.packs();
    let report = run(&scene.open(), keep_last(1), 9, |_| {}).expect("prune");
    assert!(report.notes.iter().any(|note| note.contains("in use")), "{report:?}");
    assert_eq!((report.deleted.packs, scene.packs()), (0, before));
    let refused = run(&scene.open(), keep_last(1), 9, |request| request.at_once = true);
    assert!(matches!(refused, Err(RepoError::Store(StoreError::Locked { .. }))));
    drop(lock);
    assert!(run(&scene.open(), keep_last(1), 9, |_| {}).expect("prune").deleted.packs > 0);
    assert_eq!(scene.verify(), [3]);
}

#[test]
fn without_the_key_partly_dead_frames_are_closed_and_die_once_backups_have_stored_the_rest_afresh() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (source, state) = (folder.path().join("mail"), folder.path().join("state"));
    let disk = MemoryStore::default();
    let store = || Arc::new(disk.clone());
    create_sealed(store(), &state, "correct horse").expect("repository is made");
    let index = || Some(folder.path().join("index.redb"));
    let repository = || open(store(), &state, index()).expect("repository opens");
    let mut noise = Noise::new(12);
    maildir(&source, 300, 20_000, &mut noise);
    let _ = common::repo::backup(&repository(), &source, START).expect("backup");
    // Half of every frame goes.
    for (at, path) in messages(&source).into_iter().enumerate() {
        if at % 2 == 0 {
            fs::remove_file(path).expect("message goes");
        }
    }
    let unlocked = repository();
    assert!(unlocked.identities().is_none(), "no key is at hand");
    let _ = common::repo::backup(&unlocked, &source, START + DAY).expect("backup");
    let before = content_bytes(&disk);
    let report = run(&repository(), keep_last(1), 1, |request| {
        (request.at_once, request.unused_percent_max) = (true, 5.0);
    })
    .expect("prune");
    assert!(report.frames_closed > 0, "{report:?}");
    is_sound(&repository());
    // The next backup reads what is closed again, and stores it in frames of its own.
    let next = common::repo::backup(&repository(), &source, START + 2 * DAY).expect("backup");
    let raw = next.manifest.totals.bytes_scanned;
    assert!(next.manifest.totals.bytes_added > raw / 2, "{:?}", next.manifest.totals);
    let third = common::repo::backup(&repository(), &source, START + 3 * DAY).expect("backup");
    assert_eq!(third.manifest.totals.bytes_read, 0, "what was stored afresh is not read again");
    let _ = run(&repository(), keep_last(1), 3, |request| {
        (request.at_once, request.unused_percent_max) = (true, 5.0);
    })
    .expect("prune");
    let after = content_bytes(&disk);
    assert!((after as f64) < before as f64 * 0.56, "{before} bytes before, {after} after");
    is_sound(&repository());
    let unlocked = open_with_passphrase(store(), &state);
    let snapshots = unlocked.snapshots().expect("snapshots list").all;
    let target = tempfile::tempdir().expect("temporary folder");
    let lacks = restore(&unlocked, &snapshots[0], target.path()).expect("restore ends").lacks;
    assert!(lacks.is_empty(), "{lacks:?}");
    assert_eq!(differences(&picture(&source), &picture(target.path())), Vec::<String>::new());
}

/// Makes four packs of four runs, each sealed with a key of its own and half dead, and a snapshot that needs the rest.
fn four_runs(folder: &Path, disk: &MemoryStore) -> PathBuf {
    let (source, state) = (folder.join("mail"), folder.join("state"));
    let store = || Arc::new(disk.clone());
    create_sealed(store(), &state, "correct horse").expect("repository is made");
    let mut noise = Noise::new(15);
    maildir(&source, 0, 0, &mut noise);
    for day in 0..4 {
        for number in 0..80 {
            deliver(&source, day * 80 + number, 40_000, &mut noise);
        }
        let repository = open(store(), &state, None).expect("repository opens");
        let _ = common::repo::backup(&repository, &source, START + day as i64 * DAY).expect("backup");
    }
    for path in
        messages(&source).into_iter().filter(|path| path.parent().is_some_and(|side| side.ends_with("cur")))
    {
        fs::remove_file(path).expect("message goes");
    }
    let locked = open(store(), &state, None).expect("repository opens");
    let _ = common::repo::backup(&locked, &source, START + 4 * DAY).expect("backup");
    source
}

/// Restores the newest snapshot with the passphrase; returns what differs from the source.
fn lost(disk: &MemoryStore, folder: &Path) -> Vec<String> {
    let unlocked = open_with_passphrase(Arc::new(disk.clone()), &folder.join("state"));
    let last = unlocked.snapshots().expect("snapshots list").all.pop().expect("there is one");
    let target = tempfile::tempdir().expect("temporary folder");
    let lacks = restore(&unlocked, &last, target.path()).expect("restore ends").lacks;
    let lacks = lacks.into_iter().map(|lack| lack.reason);
    lacks.chain(differences(&picture(&folder.join("mail")), &picture(target.path()))).collect()
}

#[test]
fn frames_of_several_runs_move_into_one_pack_sealed_as_they_are() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let disk = MemoryStore::default();
    _ = four_runs(folder.path(), &disk);
    let locked = open(Arc::new(disk.clone()), &folder.path().join("state"), None).expect("repository opens");
    let report = run(&locked, keep_last(1), 5, |request| request.at_once = true).expect("prune");
    assert!(locked.identities().is_none() && report.repacked.packs >= 4, "{report:?}");
    let index = Index::open_without_cache(&locked).expect("index opens");
    let keys = index.packs().filter(|(_, pack, _)| !pack.is_tree).map(|(_, pack, _)| {
        snap::repo::reader::read_pack_header(&locked, pack.id).expect("header reads").keys.len()
    });
    let keys: Vec<usize> = keys.collect();
    assert_eq!(keys, [4], "one pack, with the keys of four runs");
    is_sound(&locked);
    assert_eq!(lost(&disk, folder.path()), Vec::<String>::new());
}

#[test]
fn no_frame_moves_to_where_its_key_is_not() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let disk = MemoryStore::default();
    _ = four_runs(folder.path(), &disk);
    let files = disk.files();
    let state = folder.path().join("state");
    let names = disk.list(Folder::Packs).expect("lists").into_iter().filter_map(|found| found.name);
    let mut struck = 0;
    // Each read at the start of a pack fails once, and only once: its keys are there.
    for (name, which) in names.flat_map(|name| (0..3).map(move |which| (name, which))) {
        let disk = MemoryStore::of(files.clone());
        let watched = WatchedStore::over(disk.clone());
        let mut count = 0;
        let (tell, told) = std::sync::mpsc::channel();
        watched.fail_reads(move |read, range| {
            count += usize::from(*read == name && range.start == 0);
            let fails = *read == name && range.start == 0 && count == which + 1;
            if fails {
                let _ = tell.send(());
            }
            fails.then(|| rustix::io::Errno::IO.into())
        });
        let locked = open(Arc::new(watched), &state, None).expect("repository opens");
        let _ = run(&locked, keep_last(1), 5, |request| request.at_once = true);
        struck += usize::from(told.try_recv().is_ok());
        assert_eq!(lost(&disk, folder.path()), Vec::<String>::new(), "{name} {which}");
    }
    assert!(struck >= 4, "reads failed: {struck}");
}

#[test]
fn with_the_key_partly_dead_frames_are_rebuilt() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (source, state) = (folder.path().join("mail"), folder.path().join("state"));
    let disk = MemoryStore::default();
    let store = || Arc::new(disk.clone());
    create_sealed(store(), &state, "correct horse").expect("repository is made");
    maildir(&source, 300, 20_000, &mut Noise::new(13));
    let repository = open_with_passphrase(store(), &state);
    let _ = common::repo::backup(&repository, &source, START).expect("backup");
    for (at, path) in messages(&source).into_iter().enumerate() {
        if at % 2 == 0 {
            fs::remove_file(path).expect("message goes");
        }
    }
    let _ = common::repo::backup(&repository, &source, START + DAY).expect("backup");
    let before = content_bytes(&disk);
    let report = run(&repository, keep_last(1), 1, |request| request.at_once = true).expect("prune");
    assert_eq!(report.frames_closed, 0);
    assert!((content_bytes(&disk) as f64) < before as f64 * 0.56, "{report:?}");
    is_sound(&repository);
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let target = tempfile::tempdir().expect("temporary folder");
    let lacks = restore(&repository, &snapshots[0], target.path()).expect("restore ends").lacks;
    assert!(lacks.is_empty(), "{lacks:?}");
    assert_eq!(differences(&picture(&source), &picture(target.path())), Vec::<String>::new());
}

fn content_bytes(disk: &MemoryStore) -> usize {
    disk.files().iter().filter(|(path, _)| path.starts_with("packs/")).map(|(_, bytes)| bytes.len()).sum()
}

struct Known;

impl Secrets for Known {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        Ok(Some(Passphrase::new("correct horse".to_owned())))
    }

    fn identities(&self) -> Result<Vec<age::x25519::Identity>, RepoError> {
        Ok(Vec::new())
    }
}

fn open_with_passphrase(store: Arc<dyn Store>, state: &Path) -> Repository {
    let repository = open(store, state, None).expect("repository opens");
    repository.unlock(&Known).expect("the passphrase opens it");
    repository
}

#[test]
fn what_a_cut_run_wrote_is_not_taken_for_the_source_of_the_same_bytes() {
    // Without encryption the same frames make the same pack. Which copy of a chunk stays depends on names,
    // which are random: so several times.
    for seed in 30..38 {
        let mut scene = Scene::new(seed);
        for day in 0..5 {
            scene.live(day, 25, 12);
        }
        let mut cut = scene.disk.files();
        let _ = run(&scene.open(), keep_last(2), 5, |_| {}).expect("prune");
        // Cut off after the new packs and their fragment, before the old packs were marked.
        let is_new = |path: &String| path.starts_with("packs/") || path.starts_with("index/");
        cut.extend(scene.disk.files().into_iter().filter(|(path, _)| is_new(path)));
        scene.disk = MemoryStore::of(cut);
        for (day, at_once) in [(5, seed % 2 == 0), (7, false), (9, true)] {
            let _ =
                run(&scene.open(), keep_last(2), day, |request| request.at_once = at_once).expect("prune");
            assert_eq!(scene.verify(), [3, 4], "seed {seed}");
        }
    }
}

#[test]
fn the_grace_can_be_chosen() {
    let mut scene = Scene::new(14);
    for day in 0..3 {
        scene.live(day, 40, 20);
    }
    let hour = Duration::from_secs(3600);
    let _ = run(&scene.open(), keep_last(1), 3, |request| request.grace = hour).expect("prune");
    let report = run(&scene.open(), keep_last(1), 3, |request| request.now.seconds += 3600).expect("prune");
    assert!(report.deleted.packs > 0);
    assert_eq!(scene.verify(), [2]);
}
