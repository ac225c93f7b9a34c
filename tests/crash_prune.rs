//! Cuts the power at every store call of a prune that forgets, repacks and sweeps, and checks what survived.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::Noise;
use common::fault::{Fault, FaultStore, Work};
use common::repo::{
    Picture, backup, check_all, create_plain, deliver, differences, maildir, open, picture, restore,
};
use jiff::tz::TimeZone;
use rustix::io::Errno;
use snap::base::progress::Progress;
use snap::base::time::Time;
use snap::op::prune::{Policy, Report, Request, prune};
use snap::repo::config::Choices;
use snap::repo::keys::NoSecrets;
use snap::repo::{RepoError, Repository};
use snap::store::{MemoryStore, Store};

const START: i64 = 1_767_582_000;
const DAY: i64 = 86_400;

/// What a repository holds before the prune that is cut.
struct Scene {
    state: tempfile::TempDir,
    files: BTreeMap<String, Vec<u8>>,
    /// What the snapshots that are kept should give, by time.
    kept: BTreeMap<i64, Picture>,
}

fn now(day: i64) -> Time {
    Time::new(START + day * DAY, 0)
}

fn run(repository: &Repository, day: i64, at_once: bool) -> Result<Report, RepoError> {
    let progress = Progress::default();
    let policy = Policy { keep_last: 2, ..Policy::default() };
    let mut request = Request::new(policy, now(day), TimeZone::UTC, &progress);
    (request.unused_percent_max, request.force, request.at_once) = (0.0, true, at_once);
    prune(repository, &request)
}

/// Six days of mail; on the fourth a prune condemned what is due by now.
fn scene() -> Scene {
    let folder = tempfile::tempdir().expect("temporary folder");
    let state = tempfile::tempdir().expect("temporary folder");
    let disk = MemoryStore::default();
    let choices = Choices { pack_bytes: 1 << 20, ..Choices::default() };
    create_plain(Arc::new(disk.clone()), state.path(), choices).expect("repository is made");
    let source = folder.path().join("mail");
    let mut noise = Noise::new(41);
    maildir(&source, 0, 0, &mut noise);
    let mut kept = BTreeMap::new();
    let mut delivered = 0;
    for day in 0..6 {
        for _ in 0..12 {
            deliver(&source, delivered, 40_000, &mut noise);
            delivered += 1;
        }
        for _ in 0..6 {
            let all = messages(&source);
            fs::remove_file(&all[noise.below(all.len() as u64) as usize]).expect("message goes");
        }
        let repository = open(Arc::new(disk.clone()), state.path(), None).expect("repository opens");
        let _ = backup(&repository, &source, START + day * DAY).expect("backup");
        if day == 3 {
            let report = run(&repository, day, false).expect("prune");
            assert!(report.condemned.packs + report.repacked.packs > 1, "{report:?}");
        }
        if day > 3 {
            kept.insert(START + day * DAY, picture(&source));
        }
    }
    Scene { state, files: disk.files(), kept }
}

fn messages(source: &Path) -> Vec<PathBuf> {
    let sides =
        ["new", "cur"].into_iter().flat_map(|side| fs::read_dir(source.join(side)).expect("folder lists"));
    let mut all: Vec<PathBuf> = sides.map(|entry| entry.expect("entry reads").path()).collect();
    all.sort();
    all
}

impl Scene {
    fn open(&self, store: impl Store + 'static) -> Repository {
        open(Arc::new(store), self.state.path(), None).expect("repository opens")
    }

    /// Nothing is damaged, and every snapshot that is to stay restores.
    fn is_whole(&self, disk: &MemoryStore, what: &str) {
        let repository = self.open(disk.clone());
        let report = check_all(&repository, &NoSecrets);
        assert!(report.is_sound(), "{what}: {:?} {:?}", report.damages, report.hurt);
        let mut left = self.kept.clone();
        for snapshot in repository.snapshots().expect("snapshots list").all {
            if let Some(expected) = left.remove(&snapshot.manifest.time.seconds) {
                let target = tempfile::tempdir().expect("temporary folder");
                let report = restore(&repository, &snapshot, target.path()).expect("restore ends");
                assert!(report.lacks.is_empty(), "{what}: {:?}", report.lacks);
                assert_eq!(differences(&expected, &picture(target.path())), Vec::<String>::new(), "{what}");
            }
        }
        assert!(left.is_empty(), "{what}: a kept snapshot is gone");
    }

    /// No manifest is gone that no note tells of: a bucket would take it for lost.
    fn is_noted(&self, disk: &MemoryStore, what: &str) {
        let notes = self.open(disk.clone()).forgotten().expect("notes read");
        let (rows, left) = (notes.rows(), disk.files());
        for path in
            self.files.keys().filter(|path| path.starts_with("snapshots/") && !left.contains_key(*path))
        {
            let id = path.strip_prefix("snapshots/").expect("a manifest").parse().expect("an id");
            assert!(rows.contains_key(&id), "{what}: {path} is gone without a note");
        }
    }

    /// Runs a prune over a store with a fault; returns whether it ended well, and what was struck.
    fn faulty(&self, disk: &MemoryStore, fault: Fault, at_once: bool) -> (bool, String) {
        let faulty = Arc::new(FaultStore::new(Arc::new(disk.clone()), fault));
        let repository = open(faulty.clone(), self.state.path(), None);
        let is_done = repository.is_ok_and(|repository| run(&repository, 6, at_once).is_ok());
        (is_done, faulty.struck().unwrap_or("nothing").to_owned())
    }

    /// What a prune leaves that nothing interrupts, and one more that sweeps: bytes of packs.
    fn finished(&self, disk: &MemoryStore) -> usize {
        for day in [6, 8] {
            let _ = run(&self.open(disk.clone()), day, false).expect("prune");
        }
        let report = run(&self.open(disk.clone()), 10, true).expect("prune");
        assert_eq!((report.kept(), report.waiting.packs), (2, 0), "{report:?}");
        assert!(!disk.files().keys().any(|path| path.starts_with("condemned/")));
        disk.files().iter().filter(|(path, _)| path.starts_with("packs/")).map(|(_, bytes)| bytes.len()).sum()
    }
}

fn cut_everywhere(work: Work, at_once: bool) {
    let scene = scene();
    let uncut = MemoryStore::of(scene.files.clone());
    let report = run(&scene.open(uncut.clone()), 6, at_once).expect("prune");
    assert!(report.forgotten() > 0 && report.repacked.packs > 0 && report.deleted.packs > 0, "{report:?}");
    let ideal = scene.finished(&uncut);
    for call in 0.. {
        let disk = MemoryStore::of(scene.files.clone());
        let (is_done, struck) = scene.faulty(&disk, Fault::PowerCut { call, work }, at_once);
        let what = format!("cut at call {call}, {struck}");
        scene.is_whole(&disk, &what);
        scene.is_noted(&disk, &what);
        // The next prune finishes the work, and leaves no more than one that was not cut.
        let left = scene.finished(&disk);
        assert!(left <= ideal + ideal / 50, "{what}: {left} bytes are left, {ideal} would do");
        scene.is_whole(&disk, &format!("{what}, and pruned again"));
        if is_done {
            assert!(call > 20, "the prune made several calls: {call}");
            return;
        }
    }
}

#[test]
fn a_power_cut_between_any_two_calls_of_a_prune_loses_nothing_that_is_kept() {
    cut_everywhere(Work::Undone, false);
}

#[test]
fn a_power_cut_after_a_call_of_a_prune_took_effect_loses_nothing_that_is_kept() {
    cut_everywhere(Work::Done, false);
}

#[test]
fn a_power_cut_in_a_prune_at_once_loses_nothing_that_is_kept() {
    cut_everywhere(Work::Done, true);
}

#[test]
fn an_error_at_any_call_of_a_prune_and_a_full_disk_lose_nothing_that_is_kept() {
    let scene = scene();
    for call in 0.. {
        let mut is_through = true;
        let faults = [Fault::Once { call, error: Errno::IO, work: Work::Undone }, Fault::DiskFull { call }];
        for fault in faults {
            let disk = MemoryStore::of(scene.files.clone());
            let (is_done, struck) = scene.faulty(&disk, fault, false);
            scene.is_whole(&disk, &format!("{fault:?}, {struck}"));
            is_through &= is_done;
        }
        if is_through {
            return;
        }
    }
}

/// On a disk where nothing can be written until `deletes` files are gone.
fn cut_everywhere_on_a_full_disk(deletes: u64, error: Errno) {
    let scene = scene();
    let uncut = MemoryStore::of(scene.files.clone());
    let _ = run(&scene.open(uncut.clone()), 6, true).expect("prune");
    let ideal = scene.finished(&uncut);
    let packs = |disk: &MemoryStore| disk.files().keys().filter(|path| path.starts_with("packs/")).count();
    let before = packs(&MemoryStore::of(scene.files.clone()));
    for cut in 0.. {
        let disk = MemoryStore::of(scene.files.clone());
        let (is_done, struck) = scene.faulty(&disk, Fault::FullUntil { deletes, error, cut }, true);
        let what = format!("full until {deletes} files went, cut at call {cut}, {struck}");
        scene.is_whole(&disk, &what);
        let left = packs(&disk);
        let finished = scene.finished(&disk);
        assert!(finished <= ideal + ideal / 50, "{what}: {finished} bytes are left, {ideal} would do");
        scene.is_whole(&disk, &format!("{what}, and pruned again"));
        if is_done {
            assert!(left < before, "{what}: packs went");
            assert!(cut > 10, "the prune made several calls: {cut}");
            return;
        }
    }
}

#[test]
fn a_power_cut_in_a_prune_at_once_on_a_full_disk_loses_nothing_that_is_kept() {
    for deletes in [1, 5, 6] {
        cut_everywhere_on_a_full_disk(deletes, Errno::NOSPC);
    }
}

#[test]
fn a_power_cut_in_a_prune_at_once_beyond_every_quota_loses_nothing_that_is_kept() {
    cut_everywhere_on_a_full_disk(u64::MAX, Errno::DQUOT);
}

#[test]
fn an_error_at_any_call_of_a_prune_at_once_and_a_disk_that_fills_up_lose_nothing_that_is_kept() {
    let scene = scene();
    for call in 0.. {
        let disk = MemoryStore::of(scene.files.clone());
        let fault = Fault::Once { call, error: Errno::IO, work: Work::Undone };
        let (is_done, struck) = scene.faulty(&disk, fault, true);
        scene.is_whole(&disk, &format!("{fault:?}, {struck}"));
        let disk = MemoryStore::of(scene.files.clone());
        let fault = Fault::DiskFull { call };
        let (is_pruned, struck) = scene.faulty(&disk, fault, true);
        assert!(is_pruned, "{fault:?}, {struck}: a full disk does not keep it from giving space back");
        scene.is_whole(&disk, &format!("{fault:?}, {struck}"));
        if is_done {
            return;
        }
    }
}

#[test]
fn nothing_is_forgotten_where_nothing_can_be_written() {
    let scene = scene();
    let full = Fault::DiskFull { call: 0 };
    let refused = Fault::ReadOnly { call: 0, error: Errno::ACCESS };
    for (fault, at_once) in [(full, false), (refused, false), (refused, true)] {
        let disk = MemoryStore::of(scene.files.clone());
        let (is_done, struck) = scene.faulty(&disk, fault, at_once);
        assert!(!is_done, "{fault:?}, {struck}");
        assert_eq!(disk.files(), scene.files, "{fault:?}, {struck}");
    }
}

#[test]
fn a_cut_while_a_snapshot_is_tagged_leaves_it_with_the_old_tags_or_the_new() {
    let scene = scene();
    for call in 0.. {
        let disk = MemoryStore::of(scene.files.clone());
        let fault = Fault::PowerCut { call, work: Work::Done };
        let cutting = FaultStore::new(Arc::new(disk.clone()), fault);
        let repository = scene.open(cutting);
        let all = repository.snapshots().expect("snapshots list").all;
        let last = all.last().expect("there is one");
        let change = snap::op::tag::Change { add: vec!["keep".to_owned()], ..Default::default() };
        let is_done = snap::op::tag::tag(&repository, last, &change, last.manifest.time).is_ok();
        scene.is_noted(&disk, &format!("tag, cut at call {call}"));
        let after = scene.open(disk.clone()).snapshots().expect("snapshots list");
        assert_eq!(after.all.len(), all.len(), "cut at call {call}");
        let tags = &after.all.last().expect("there is one").manifest.tags;
        assert!(tags.is_empty() && !is_done || tags == &["keep"], "cut at call {call}: {tags:?}");
        let report = run(&scene.open(disk.clone()), 6, false).expect("prune");
        assert_eq!(report.kept(), 2);
        scene.is_whole(&disk, &format!("cut at call {call}"));
        scene.is_noted(&disk, &format!("cut at call {call}"));
        let left = disk.files().keys().filter(|path| path.starts_with("snapshots/")).count();
        assert_eq!(left, 2, "what was replaced is removed");
        if is_done {
            return;
        }
    }
}
