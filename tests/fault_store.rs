//! The store that fails on purpose fails when it should, and only then.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::io::Errno;
use snap::base::id::SnapshotId;
use snap::store::{Folder, LockMode, MemoryStore, Name, Store, StoreError};

use common::fault::{Fault, FaultStore, Work};

fn name(n: u8) -> Name {
    Name::Snapshot(SnapshotId::from_bytes([n; 32]))
}

/// A store with `fault`, and the files beneath it.
fn over(fault: Fault) -> (FaultStore, MemoryStore) {
    let files = MemoryStore::default();
    (FaultStore::new(Arc::new(files.clone()), fault), files)
}

/// Puts two files, deletes the first: calls 0, 1, 2 (begin, write, commit), 3, 4, 5, and 6.
fn put_two_delete_one(store: &dyn Store) -> Result<(), StoreError> {
    store.put_new(&name(1), b"one")?;
    store.put_new(&name(2), b"two")?;
    store.delete(&name(1))
}

fn is_power_cut(result: Result<(), StoreError>) -> bool {
    matches!(result, Err(StoreError::Io { source, .. }) if source.to_string() == "power cut")
}

#[test]
fn every_call_that_changes_files_is_counted() {
    let (store, _) = over(Fault::Never);
    put_two_delete_one(&store).expect("nothing fails");
    store.read(&name(2), 10).expect("reads");
    store.list(Folder::Snapshots).expect("lists");
    assert_eq!((store.calls(), store.struck()), (7, None));
}

#[test]
fn after_a_power_cut_nothing_works_any_more() {
    let survivors = |call, work| -> Vec<String> {
        let (store, files) = over(Fault::PowerCut { call, work });
        assert!(is_power_cut(put_two_delete_one(&store)), "call {call}");
        assert!(is_power_cut(store.read(&name(1), 10).map(drop)));
        assert!(is_power_cut(store.read_range(&name(1), 0..1).map(drop)));
        assert!(is_power_cut(store.list(Folder::Snapshots).map(drop)));
        assert!(is_power_cut(store.lock(LockMode::Shared).map(drop)));
        assert!(is_power_cut(store.sweep_uploads().map(drop)));
        assert!(is_power_cut(store.put_new(&name(3), b"three")));
        assert!(is_power_cut(store.delete(&name(2))));
        files.files().into_keys().collect()
    };
    let (one, two) = (name(1).to_string(), name(2).to_string());
    for call in 0..3 {
        assert_eq!(survivors(call, Work::Undone), [""; 0], "call {call}");
    }
    assert_eq!(survivors(2, Work::Done), std::slice::from_ref(&one));
    assert_eq!(survivors(5, Work::Undone), std::slice::from_ref(&one));
    assert_eq!(survivors(5, Work::Done), [one.clone(), two.clone()]);
    assert_eq!(survivors(6, Work::Undone), [one, two.clone()]);
    assert_eq!(survivors(6, Work::Done), [two]);
    let (store, _) = over(Fault::PowerCut { call: 7, work: Work::Undone });
    put_two_delete_one(&store).expect("the cut lies behind the last call");
}

#[test]
fn a_fault_that_strikes_once_leaves_a_store_that_works() {
    for call in 0..7 {
        for work in [Work::Undone, Work::Done] {
            let (store, files) = over(Fault::Once { call, error: Errno::IO, work });
            let error = put_two_delete_one(&store).expect_err("one call fails");
            let StoreError::Io { source, .. } = &error else { panic!("{error:?}") };
            assert_eq!(source.raw_os_error(), Some(Errno::IO.raw_os_error()));
            assert!(!error.is_full());
            store.put_new(&name(9), b"nine").expect("works again");
            assert_eq!(store.read(&name(9), 10).expect("reads"), b"nine");
            assert!(files.files().contains_key(&name(9).to_string()));
        }
    }
}

#[test]
fn a_call_that_did_its_work_and_failed_has_done_it() {
    let (store, files) = over(Fault::Once { call: 2, error: Errno::IO, work: Work::Done });
    assert!(store.put_new(&name(1), b"one").is_err());
    assert_eq!(files.files(), BTreeMap::from([(name(1).to_string(), b"one".to_vec())]));
    assert!(matches!(store.put_new(&name(1), b"one"), Err(StoreError::Taken { .. })));
    assert_eq!(store.struck(), Some(format!("commit {}", name(1)).as_str()));
}

#[test]
fn a_file_that_is_replaced_is_one_call_and_stays_if_that_fails() {
    for work in [Work::Undone, Work::Done] {
        let (store, files) = over(Fault::Once { call: 5, error: Errno::IO, work });
        store.put_new(&name(1), b"old").expect("the fault lies behind");
        let mut upload = store.begin().expect("begins");
        upload.write(b"new").expect("writes");
        assert!(upload.replace(&name(1)).is_err());
        let expected = if work == Work::Done { b"new" } else { b"old" };
        assert_eq!(files.files(), BTreeMap::from([(name(1).to_string(), expected.to_vec())]));
        assert_eq!(store.struck(), Some(format!("replace {}", name(1)).as_str()));
    }
}

#[test]
fn a_full_disk_takes_nothing_and_gives_everything() {
    let (store, _) = over(Fault::DiskFull { call: 3 });
    store.put_new(&name(1), b"one").expect("there is room yet");
    for _ in 0..3 {
        let error = store.put_new(&name(2), b"two").expect_err("full");
        assert!(error.is_full(), "{error:?}");
    }
    assert_eq!(store.read(&name(1), 10).expect("reads"), b"one");
    assert_eq!(store.list(Folder::Snapshots).expect("lists").len(), 1);
    store.lock(LockMode::Exclusive).expect("locks");
    store.delete(&name(1)).expect("deletes");
}

#[test]
fn a_read_only_store_changes_nothing_and_gives_everything() {
    let (store, files) = over(Fault::ReadOnly { call: 3, error: Errno::ROFS });
    store.put_new(&name(1), b"one").expect("it can be written yet");
    assert!(store.put_new(&name(2), b"two").is_err());
    assert!(store.delete(&name(1)).is_err());
    assert_eq!(store.read(&name(1), 10).expect("reads"), b"one");
    assert_eq!(files.files().len(), 1);
}

#[test]
fn of_many_threads_one_meets_the_fault_that_strikes_once() {
    let (store, files) = over(Fault::Once { call: 100, error: Errno::IO, work: Work::Undone });
    let failed = std::thread::scope(|scope| {
        let put = |n: u8| store.put_new(&name(n), &[n]).is_err();
        let threads: Vec<_> =
            (0..4u8).map(|t| scope.spawn(move || (0..20u8).filter(|n| put(t * 20 + n)).count())).collect();
        threads.into_iter().map(|thread| thread.join().expect("thread ends")).sum::<usize>()
    });
    assert_eq!((failed, files.files().len()), (1, 79));
}
