//! Cuts the power at every store call of a backup, in turn, and checks what survived.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::Noise;
use common::fault::{Fault, FaultStore, Work};
use common::repo::{backup, create_plain, deliver, differences, maildir, open, picture, restore};
use snap::base::progress::Progress;
use snap::repo::config::Choices;
use snap::store::MemoryStore;

/// Small packs, so that a backup of a few messages makes several.
fn choices() -> Choices {
    Choices { pack_bytes: 1 << 20, ..Choices::default() }
}

/// Every snapshot that the files hold restores to one of the known pictures.
fn every_snapshot_restores(
    files: BTreeMap<String, Vec<u8>>,
    state: &Path,
    known: &[common::repo::Picture],
) -> usize {
    let repository = open(Arc::new(MemoryStore::of(files)), state, None).expect("repository opens");
    let snapshots = repository.snapshots().expect("snapshots list");
    assert!(snapshots.unreadable.is_empty(), "{:?}", snapshots.unreadable);
    for (number, snapshot) in snapshots.all.iter().enumerate() {
        let target = tempfile::tempdir().expect("temporary folder");
        let report = restore(&repository, snapshot, target.path()).expect("restore ends");
        assert!(report.lacks.is_empty(), "{:?}", report.lacks);
        let wrong = differences(&known[number], &picture(target.path()));
        assert!(wrong.is_empty(), "snapshot {number}: {wrong:#?}");
    }
    snapshots.all.len()
}

/// Cuts a backup at call 0, 1, 2, …
fn cut_everywhere(work: Work) {
    let source = tempfile::tempdir().expect("temporary folder");
    let state = tempfile::tempdir().expect("temporary folder");
    let mut noise = Noise::new(7);
    maildir(source.path(), 30, 60_000, &mut noise);
    let before = MemoryStore::default();
    let repository =
        create_plain(Arc::new(before.clone()), state.path(), choices()).expect("repository is made");
    let first = picture(source.path());
    let _ = backup(&repository, source.path(), 1_767_100_000).expect("first backup");
    for number in 30..60 {
        deliver(source.path(), number, 60_000, &mut noise);
    }
    fs::remove_file(source.path().join("new/1767000001.M1P1.mx1,S=60091")).ok();
    let known = [first, picture(source.path())];
    for calls in 0.. {
        let disk = MemoryStore::of(before.files());
        let cutting = FaultStore::new(Arc::new(disk.clone()), Fault::PowerCut { call: calls, work });
        let repository = open(Arc::new(cutting), state.path(), None);
        let is_done =
            repository.is_ok_and(|repository| backup(&repository, source.path(), 1_767_200_000).is_ok());
        let left = every_snapshot_restores(disk.files(), state.path(), &known);
        assert!(left == 2 || !is_done, "a backup that says it is done has left a snapshot");
        // The next run works, whatever was left, and stores nothing twice that was complete.
        let repository = open(Arc::new(disk.clone()), state.path(), None).expect("repository opens");
        let report = backup(&repository, source.path(), 1_767_300_000).expect("the next backup works");
        assert!(report.is_whole(), "{:?}", report.lacks);
        let snapshots = repository.snapshots().expect("snapshots list").all;
        let target = tempfile::tempdir().expect("temporary folder");
        let last = snapshots.last().expect("there is one");
        assert!(restore(&repository, last, target.path()).expect("restore ends").lacks.is_empty());
        assert_eq!(differences(&known[1], &picture(target.path())), Vec::<String>::new());
        if is_done {
            assert!(calls > 8, "the backup made several calls: {calls}");
            return;
        }
    }
}

#[test]
fn a_power_cut_between_any_two_calls_loses_no_committed_snapshot() {
    cut_everywhere(Work::Undone);
}

#[test]
fn a_power_cut_after_a_call_took_effect_loses_no_committed_snapshot() {
    cut_everywhere(Work::Done);
}

#[test]
fn complete_packs_of_a_cut_run_are_taken_over_and_not_written_again() {
    let source = tempfile::tempdir().expect("temporary folder");
    let state = tempfile::tempdir().expect("temporary folder");
    maildir(source.path(), 60, 60_000, &mut Noise::new(8));
    let disk = MemoryStore::default();
    create_plain(Arc::new(disk.clone()), state.path(), choices()).expect("repository is made");
    let packs = |disk: &MemoryStore| disk.files().keys().filter(|path| path.starts_with("packs/")).count();
    let mut calls = 0;
    while packs(&disk) < 2 {
        calls += 1;
        let cutting =
            FaultStore::new(Arc::new(disk.clone()), Fault::PowerCut { call: calls, work: Work::Undone });
        let repository = open(Arc::new(cutting), state.path(), None).expect("repository opens");
        let cut = backup(&repository, source.path(), 1_767_100_000);
        assert!(cut.is_err() || packs(&disk) >= 2, "the run was cut");
    }
    let left = packs(&disk) as u64;
    let repository = open(Arc::new(disk.clone()), state.path(), None).expect("repository opens");
    let report = backup(&repository, source.path(), 1_767_200_000).expect("backup");
    assert_eq!(report.taken_over, left);
    let scanned = report.manifest.totals.bytes_scanned;
    assert!(
        report.manifest.totals.bytes_added < scanned - (1 << 20),
        "what the packs hold is not stored again"
    );
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let target = tempfile::tempdir().expect("temporary folder");
    let lacks = restore(&repository, &snapshots[0], target.path()).expect("restore ends").lacks;
    assert!(lacks.is_empty(), "{lacks:?}");
    assert_eq!(differences(&picture(source.path()), &picture(target.path())), Vec::<String>::new());
}

#[test]
fn a_pack_of_a_cut_run_is_taken_over_only_if_it_is_what_its_name_stands_for() {
    let source = tempfile::tempdir().expect("temporary folder");
    let state = tempfile::tempdir().expect("temporary folder");
    maildir(source.path(), 60, 20_000, &mut Noise::new(9));
    let whole = MemoryStore::default();
    create_plain(Arc::new(whole.clone()), state.path(), choices()).expect("repository is made");
    let repository = open(Arc::new(whole.clone()), state.path(), None).expect("repository opens");
    let _ = backup(&repository, source.path(), 1_767_100_000).expect("backup");
    // The packs of a run that was cut off before it listed them; of some the disk has kept other bytes than it was given.
    let mut files = whole.files();
    files.retain(|path, _| !path.starts_with("index/") && !path.starts_with("snapshots/"));
    let mut damaged = 0;
    for (_, bytes) in files.iter_mut().filter(|(path, _)| path.starts_with("packs/")) {
        if bytes.len() > 100_000 {
            bytes[50_000] ^= 1;
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    let disk = MemoryStore::of(files);
    let repository = open(Arc::new(disk.clone()), state.path(), None).expect("repository opens");
    let found = snap::op::rebuild_index::rebuild_index(&repository, &Progress::default()).expect("index");
    assert_eq!(found.problems.len(), damaged, "{:?}", found.problems);
    let report = backup(&repository, source.path(), 1_767_200_000).expect("backup");
    assert_eq!(report.problems.len(), damaged, "{:?}", report.problems);
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let target = tempfile::tempdir().expect("temporary folder");
    let lacks = restore(&repository, &snapshots[0], target.path()).expect("restore ends").lacks;
    assert!(lacks.is_empty(), "{lacks:?}");
    assert_eq!(differences(&picture(source.path()), &picture(target.path())), Vec::<String>::new());
}
