//! What every store promises, held against each of them, and what the local one promises besides.
//!
//! A new kind of store joins with a [`Place`] and a line in [`for_every_store`].
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::Barrier;

use snap::base::id::{CondemnedId, ForgottenId, FragmentId, KeyFileId, PackId, SnapshotId};
use snap::store::{
    DryStore, Folder, Found, LocalStore, LockMode, MemoryStore, Name, S3Store, Store, StoreError,
};

use common::Noise;
use common::s3::{self, Bucket, Kind};

/// A fresh, empty store, and what a test must know of it beyond [`Store`].
trait Place {
    /// Returns the store.
    fn store(&self) -> &dyn Store;

    /// Returns another handle on the same files, as another process would have.
    fn again(&self) -> Box<dyn Store>;

    /// Puts a file there that `snap` did not write; returns whether that can be done.
    fn plant(&self, path: &str, bytes: &[u8]) -> bool;

    /// Returns the paths of all files, those without a name too; not the lock.
    fn files(&self) -> Vec<String>;
}

struct Memory(MemoryStore);

impl Memory {
    fn new() -> Self {
        Self(MemoryStore::default())
    }
}

impl Place for Memory {
    fn store(&self) -> &dyn Store {
        &self.0
    }

    fn again(&self) -> Box<dyn Store> {
        Box::new(self.0.clone())
    }

    fn plant(&self, _: &str, _: &[u8]) -> bool {
        false
    }

    fn files(&self) -> Vec<String> {
        self.0.files().into_keys().collect()
    }
}

struct Local {
    store: LocalStore,
    _folder: tempfile::TempDir,
}

impl Local {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        Self { store: LocalStore::new(folder.path().join("repository")), _folder: folder }
    }
}

impl Place for Local {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn again(&self) -> Box<dyn Store> {
        Box::new(LocalStore::new(self.store.root()))
    }

    fn plant(&self, path: &str, bytes: &[u8]) -> bool {
        local::plant(&self.store.root().join(path), bytes);
        true
    }

    fn files(&self) -> Vec<String> {
        let all = local::walk(self.store.root()).into_iter();
        let files = all.filter(|(path, metadata)| metadata.is_file() && path != "lock");
        files.map(|(path, _)| path).collect()
    }
}

struct OnS3 {
    store: S3Store,
    bucket: Bucket,
}

impl OnS3 {
    /// Returns none, and says why, where there is no server.
    fn new() -> Option<Self> {
        let bucket = s3::server()?.bucket(Kind::Plain);
        Some(Self { store: bucket.store(), bucket })
    }
}

impl Place for OnS3 {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn again(&self) -> Box<dyn Store> {
        Box::new(self.bucket.store())
    }

    fn plant(&self, path: &str, bytes: &[u8]) -> bool {
        self.bucket.plant(path, bytes);
        true
    }

    fn files(&self) -> Vec<String> {
        self.bucket.files().into_iter().filter(|path| !path.starts_with("locks/")).collect()
    }
}

#[path = "store/local.rs"]
mod local;

/// Runs each test for each store.
macro_rules! for_every_store {
    ($($test:ident),+ $(,)?) => {
        mod on_local_files {
            $(#[test] fn $test() { super::$test(&super::Local::new()); })+
        }
        mod in_memory {
            $(#[test] fn $test() { super::$test(&super::Memory::new()); })+
        }
        mod on_s3 {
            $(#[test] fn $test() {
                if let Some(place) = super::OnS3::new() {
                    super::$test(&place);
                }
            })+
        }
    };
}

for_every_store! {
    names_of_every_kind_read_back,
    bytes_written_in_pieces_read_back_in_any_range,
    an_empty_file_reads_back,
    a_taken_name_is_refused_and_keeps_its_bytes,
    an_upload_dropped_without_commit_leaves_nothing,
    an_upload_has_no_name_before_its_commit,
    of_many_commits_of_one_name_exactly_one_wins,
    many_threads_put_and_read_side_by_side,
    a_file_that_is_not_there_is_missing,
    a_file_longer_than_asked_for_is_an_error,
    a_range_beyond_the_end_is_short,
    an_empty_range_is_empty,
    an_absent_folder_lists_as_empty,
    a_listing_is_sorted_and_whole,
    foreign_files_are_listed_without_a_name,
    a_deleted_file_is_missing_and_its_name_free,
    a_file_that_is_replaced_has_its_old_bytes_until_then,
    shared_locks_stand_beside_each_other_and_an_exclusive_one_alone,
    a_lock_that_was_refused_is_not_held,
    sweeping_touches_no_named_file_and_no_live_upload,
}

/// A name of every kind, made of `byte`.
fn names(byte: u8) -> [Name; 6] {
    let id = [byte; 32];
    [
        Name::Key(KeyFileId::from_bytes(id)),
        Name::Pack(PackId::from_bytes(id)),
        Name::Fragment(FragmentId::from_bytes(id)),
        Name::Snapshot(SnapshotId::from_bytes(id)),
        Name::Condemned(CondemnedId::from_bytes(id)),
        Name::Forgotten(ForgottenId::from_bytes(id)),
    ]
}

fn pack(byte: u8) -> Name {
    Name::Pack(PackId::from_bytes([byte; 32]))
}

fn put(store: &dyn Store, name: &Name, bytes: &[u8]) {
    store.put_new(name, bytes).unwrap_or_else(|e| panic!("put {name}: {e:?}"));
}

/// Returns all of a file that is at most 64 MiB long.
fn read(store: &dyn Store, name: &Name) -> Vec<u8> {
    store.read(name, 64 << 20).unwrap_or_else(|e| panic!("read {name}: {e:?}"))
}

fn list(store: &dyn Store, folder: Folder) -> Vec<Found> {
    store.list(folder).unwrap_or_else(|e| panic!("list {folder:?}: {e:?}"))
}

fn names_of_every_kind_read_back(place: &dyn Place) {
    let mut all = vec![Name::Config];
    for byte in [0, 1, 0x0f, 0xa5, 0xff] {
        all.extend(names(byte));
    }
    for name in &all {
        put(place.store(), name, name.to_string().as_bytes());
    }
    let again = place.again();
    for name in &all {
        assert_eq!(read(again.as_ref(), name), name.to_string().as_bytes());
    }
    let mut listed: Vec<Name> = Folder::ALL
        .iter()
        .flat_map(|folder| list(again.as_ref(), *folder))
        .filter_map(|found| found.name)
        .collect();
    listed.sort();
    let mut expected: Vec<Name> = all.into_iter().filter(|name| name.folder().is_some()).collect();
    expected.sort();
    assert_eq!(listed, expected);
}

fn bytes_written_in_pieces_read_back_in_any_range(place: &dyn Place) {
    let mut noise = Noise::new(common::seed());
    let length = 3_000_000 + noise.below(1000) as usize;
    let bytes = noise.bytes(length);
    let mut upload = place.store().begin().expect("begins");
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(noise.below(300_000) as usize)); // 0 at times
        upload.write(piece).expect("writes");
        rest = after;
    }
    upload.commit(&pack(1)).expect("commits");
    assert!(read(place.store(), &pack(1)) == bytes);
    for _ in 0..50 {
        let start = noise.below(length as u64);
        let end = start + noise.below(length as u64 - start + 1);
        let part = place.store().read_range(&pack(1), start..end).expect("reads");
        assert!(part == bytes[start as usize..end as usize], "{start}..{end}");
    }
}

fn an_empty_file_reads_back(place: &dyn Place) {
    put(place.store(), &pack(1), b"");
    assert_eq!(read(place.store(), &pack(1)), b"");
    assert_eq!(place.store().read(&pack(1), 0).expect("reads"), b"");
    assert_eq!(list(place.store(), Folder::Packs)[0].bytes, 0);
}

fn a_taken_name_is_refused_and_keeps_its_bytes(place: &dyn Place) {
    for name in [Name::Config].into_iter().chain(names(7)) {
        put(place.store(), &name, b"one");
        for bytes in [&b"two"[..], b"one", b""] {
            let refused = place.again().put_new(&name, bytes).expect_err("the name is taken");
            assert!(matches!(refused, StoreError::Taken { .. }), "{refused:?}");
        }
        assert_eq!(read(place.store(), &name), b"one");
    }
    assert_eq!(place.files().len(), 7, "no temporary file is left");
}

fn an_upload_dropped_without_commit_leaves_nothing(place: &dyn Place) {
    drop(place.store().begin().expect("begins"));
    let mut upload = place.store().begin().expect("begins");
    upload.write(&[1; 100_000]).expect("writes");
    drop(upload);
    assert_eq!(place.files(), [""; 0]);
}

fn an_upload_has_no_name_before_its_commit(place: &dyn Place) {
    let mut upload = place.store().begin().expect("begins");
    upload.write(b"half").expect("writes");
    for folder in Folder::ALL {
        assert_eq!(list(place.again().as_ref(), folder), []);
    }
    assert!(place.again().read(&pack(1), 10).expect_err("no name yet").is_missing());
    upload.commit(&pack(1)).expect("commits");
    assert_eq!(read(place.again().as_ref(), &pack(1)), b"half");
}

fn of_many_commits_of_one_name_exactly_one_wins(place: &dyn Place) {
    if s3::is_other() && place.store().location().starts_with("s3://") {
        // Without the condition two can win; as names are hashes, both have put the same bytes.
        println!("skipped: not every server minds If-None-Match");
        return;
    }
    const THREADS: u8 = 4;
    for round in 0..20 {
        let name = pack(round);
        let store = place.store();
        let start = Barrier::new(usize::from(THREADS));
        let winners: Vec<u8> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let start = &start;
                    scope.spawn(move || {
                        let mut upload = store.begin().expect("begins");
                        upload.write(&[thread; 1000]).expect("writes");
                        start.wait();
                        match upload.commit(&name) {
                            Ok(()) => Some(thread),
                            Err(StoreError::Taken { .. }) => None,
                            Err(e) => panic!("{e:?}"),
                        }
                    })
                })
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().expect("thread ends")).collect()
        });
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(read(store, &name), [winners[0]; 1000]);
    }
    assert_eq!(place.files().len(), 20, "the losers leave nothing");
}

fn many_threads_put_and_read_side_by_side(place: &dyn Place) {
    let store = place.store();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            scope.spawn(move || {
                for n in 0..20u8 {
                    for name in names(thread << 6 | n) {
                        put(store, &name, &[thread, n]);
                        assert_eq!(read(store, &name), [thread, n]);
                    }
                }
            });
        }
    });
    assert_eq!(list(store, Folder::Packs).len(), 80);
}

fn a_file_that_is_not_there_is_missing(place: &dyn Place) {
    let all_missing = |store: &dyn Store| {
        for name in [Name::Config].into_iter().chain(names(1)) {
            assert!(store.read(&name, 10).expect_err("missing").is_missing(), "{name}");
            assert!(store.read_range(&name, 0..1).expect_err("missing").is_missing(), "{name}");
            assert!(store.read_range(&name, 0..0).expect_err("missing").is_missing(), "{name}");
            assert!(store.delete(&name).expect_err("missing").is_missing(), "{name}");
        }
    };
    all_missing(place.store());
    names(2).iter().for_each(|name| put(place.store(), name, b"a neighbour"));
    all_missing(place.store());
}

fn a_file_longer_than_asked_for_is_an_error(place: &dyn Place) {
    put(place.store(), &pack(1), b"12345");
    for bytes_max in [5, 6, u64::MAX] {
        assert_eq!(place.store().read(&pack(1), bytes_max).expect("reads"), b"12345");
    }
    for bytes_max in [0, 4] {
        let refused = place.store().read(&pack(1), bytes_max).expect_err("longer");
        assert!(matches!(refused, StoreError::Io { .. }), "{refused:?}");
    }
}

fn a_range_beyond_the_end_is_short(place: &dyn Place) {
    put(place.store(), &pack(1), b"12345");
    for range in [4..6, 0..6, 5..6, 6..7, 9..9, 0..u64::MAX, u64::MAX..u64::MAX] {
        let refused = place.store().read_range(&pack(1), range.clone()).expect_err("beyond the end");
        let StoreError::Short { found, expected, .. } = refused else { panic!("{range:?}: {refused:?}") };
        assert_eq!((found, expected), (5, range.end));
    }
    assert_eq!(place.store().read_range(&pack(1), 0..5).expect("reads"), b"12345");
    assert_eq!(place.store().read_range(&pack(1), 4..5).expect("reads"), b"5");
}

fn an_empty_range_is_empty(place: &dyn Place) {
    put(place.store(), &pack(1), b"12345");
    for at in [0, 3, 5] {
        assert_eq!(place.store().read_range(&pack(1), at..at).expect("reads"), b"", "at {at}");
    }
}

fn an_absent_folder_lists_as_empty(place: &dyn Place) {
    for folder in Folder::ALL {
        assert_eq!(list(place.store(), folder), []);
    }
    put(place.store(), &Name::Config, b"config");
    for folder in Folder::ALL {
        assert_eq!(list(place.store(), folder), [], "config lies in no folder");
    }
}

fn a_listing_is_sorted_and_whole(place: &dyn Place) {
    let mut noise = Noise::new(common::seed());
    let mut expected = Vec::new();
    for n in 0..60 {
        let mut id = [0; 32];
        id.copy_from_slice(&noise.bytes(32));
        id[0] %= 4; // several in one sub-folder
        let name = Name::Pack(PackId::from_bytes(id));
        put(place.store(), &name, &vec![0; n]);
        expected.push(Found { path: name.to_string(), name: Some(name), bytes: n as u64 });
    }
    put(place.store(), &names(1)[3], b"in another folder");
    expected.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(list(place.store(), Folder::Packs), expected);
    assert_eq!(list(place.store(), Folder::Snapshots).len(), 1);
}

fn foreign_files_are_listed_without_a_name(place: &dyn Place) {
    let own = pack(0x5a);
    put(place.store(), &own, b"own");
    let foreign = [
        "packs/5a/notes.txt".to_owned(),
        "packs/stray".to_owned(),
        format!("packs/00/{}", PackId::from_bytes([0x5a; 32])), // the wrong sub-folder
        format!("{own}.old"),
    ];
    for path in &foreign {
        if !place.plant(path, b"foreign") {
            println!("skipped: {} takes no foreign files", place.store().location());
            return;
        }
    }
    let found = list(place.store(), Folder::Packs);
    assert!(found.is_sorted_by(|a, b| a.path < b.path));
    let mut nameless: Vec<_> =
        found.iter().filter(|found| found.name.is_none()).map(|found| &found.path).collect();
    let mut planted: Vec<_> = foreign.iter().collect();
    nameless.sort();
    planted.sort();
    assert_eq!(nameless, planted);
    assert_eq!(found.iter().filter_map(|found| found.name).collect::<Vec<_>>(), [own]);
}

fn a_deleted_file_is_missing_and_its_name_free(place: &dyn Place) {
    for name in names(3) {
        put(place.store(), &name, b"one");
        place.store().delete(&name).expect("deletes");
        assert!(place.again().read(&name, 10).expect_err("gone").is_missing());
        assert!(place.again().delete(&name).expect_err("gone").is_missing());
        put(place.store(), &name, b"two");
        assert_eq!(read(place.store(), &name), b"two");
    }
    assert_eq!(place.files().len(), 6);
}

fn a_file_that_is_replaced_has_its_old_bytes_until_then(place: &dyn Place) {
    for name in names(4) {
        put(place.store(), &name, b"damaged");
        let mut upload = place.store().begin().expect("begins");
        upload.write(b"good").expect("writes");
        assert_eq!(read(place.again().as_ref(), &name), b"damaged");
        upload.replace(&name).expect("replaces");
        assert_eq!(read(place.again().as_ref(), &name), b"good");
        assert_eq!(place.again().read_range(&name, 0..4).expect("reads"), b"good");
    }
    place.store().begin().expect("begins").replace(&pack(5)).expect("a free name is given as well");
    assert_eq!(read(place.store(), &pack(5)), b"");
    assert_eq!(place.files().len(), 7, "no temporary file is left");
}

fn is_locked<T>(result: Result<T, StoreError>) -> bool {
    match result {
        Ok(_) => false,
        Err(StoreError::Locked { .. }) => true,
        Err(e) => panic!("{e:?}"),
    }
}

fn shared_locks_stand_beside_each_other_and_an_exclusive_one_alone(place: &dyn Place) {
    put(place.store(), &Name::Config, b"config"); // a repository is there
    let (one, other) = (place.store(), place.again());
    let first = one.lock(LockMode::Shared).expect("free");
    let second = other.lock(LockMode::Shared).expect("shared beside shared");
    assert!(is_locked(other.lock(LockMode::Exclusive)), "two others hold it");
    drop(first);
    assert!(is_locked(one.lock(LockMode::Exclusive)), "one other holds it");
    drop(second);
    let alone = other.lock(LockMode::Exclusive).expect("released on drop");
    assert!(is_locked(one.lock(LockMode::Shared)));
    assert!(is_locked(one.lock(LockMode::Exclusive)));
    assert!(is_locked(other.lock(LockMode::Exclusive)), "a handle is not its own guest");
    drop(alone);
    drop(one.lock(LockMode::Exclusive).expect("released on drop"));
    drop(one.lock(LockMode::Shared).expect("released on drop"));
}

fn a_lock_that_was_refused_is_not_held(place: &dyn Place) {
    put(place.store(), &Name::Config, b"config");
    let shared = place.store().lock(LockMode::Shared).expect("free");
    assert!(is_locked(place.again().lock(LockMode::Exclusive)));
    let guest = place.again().lock(LockMode::Shared).expect("the refused one does not stand in the way");
    drop((shared, guest));
    let alone = place.store().lock(LockMode::Exclusive).expect("free");
    assert!(is_locked(place.again().lock(LockMode::Shared)));
    drop(alone);
    drop(place.again().lock(LockMode::Exclusive).expect("the refused one does not stand in the way"));
}

fn sweeping_touches_no_named_file_and_no_live_upload(place: &dyn Place) {
    assert_eq!(place.store().sweep_uploads().expect("sweeps"), 0, "nothing was ever written");
    names(1).iter().for_each(|name| put(place.store(), name, b"named"));
    let mut upload = place.store().begin().expect("begins");
    upload.write(b"first half, ").expect("writes");
    let young = place.store().begin().expect("begins");
    assert_eq!(place.again().sweep_uploads().expect("sweeps"), 0);
    upload.write(b"second half").expect("writes");
    upload.commit(&pack(2)).expect("commits");
    young.commit(&pack(3)).expect("commits");
    assert_eq!(read(place.store(), &pack(2)), b"first half, second half");
    assert_eq!(read(place.store(), &pack(3)), b"");
    assert_eq!(place.files().len(), 8);
}

#[test]
fn a_dry_store_shows_every_file_and_changes_none() {
    let files = MemoryStore::default();
    put(&files, &pack(1), b"there");
    let before = files.files();
    let dry = DryStore::new(std::sync::Arc::new(files.clone()));
    put(&dry, &pack(2), b"forgotten");
    dry.delete(&pack(1)).expect("says that it did");
    dry.begin().expect("begins").replace(&pack(1)).expect("says that it did");
    dry.sweep_uploads().expect("sweeps");
    assert_eq!(files.files(), before);
    assert_eq!(read(&dry, &pack(1)), b"there");
    assert_eq!(dry.read_range(&pack(1), 1..3).expect("reads"), b"he");
    assert_eq!(list(&dry, Folder::Packs), list(&files, Folder::Packs));
    assert!(dry.read(&pack(2), 10).expect_err("it was not kept").is_missing());
}
