//! What every store that locks promises, held against the one in memory and against a real server.
//!
//! The server does not mind every rule of Object Lock; where it does not, the test says so, and the
//! store in memory, whose clock can be turned, is held to it alone.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::s3::{Bucket, Kind, server};
use snap::base::id::PackId;
use snap::base::time::Time;
use snap::store::{
    GenuineStore, LockingMemory, LockingStore, Mode, Name, Overlay, Protection, S3Store, Store, StoreError,
    VersionId,
};

/// A bucket with locks, and what only its owner or an attacker can do to it.
trait Place {
    fn store(&self) -> &dyn LockingStore;
    fn shared(&self) -> Arc<dyn LockingStore>;
    fn plant(&self, path: &str, bytes: &[u8]);
    fn mark_deleted(&self, path: &str);
    /// Returns the time there.
    fn now(&self) -> i64;
}

struct InMemory(LockingMemory);

impl InMemory {
    fn new() -> Self {
        Self(LockingMemory::new(Time::new(1_767_100_000, 0)))
    }
}

impl Place for InMemory {
    fn store(&self) -> &dyn LockingStore {
        &self.0
    }

    fn shared(&self) -> Arc<dyn LockingStore> {
        Arc::new(self.0.clone())
    }

    fn plant(&self, path: &str, bytes: &[u8]) {
        self.0.plant(path, bytes);
    }

    fn mark_deleted(&self, path: &str) {
        self.0.mark_deleted(path);
    }

    fn now(&self) -> i64 {
        1_767_100_000
    }
}

struct OnS3(S3Store, Bucket);

impl OnS3 {
    fn new() -> Option<Self> {
        let bucket = server()?.bucket(Kind::Locking);
        Some(Self(bucket.store(), bucket))
    }
}

impl Place for OnS3 {
    fn store(&self) -> &dyn LockingStore {
        &self.0
    }

    fn shared(&self) -> Arc<dyn LockingStore> {
        Arc::new(self.0.clone())
    }

    fn plant(&self, path: &str, bytes: &[u8]) {
        self.1.plant(path, bytes);
    }

    fn mark_deleted(&self, path: &str) {
        self.1.delete(path);
    }

    #[allow(clippy::disallowed_methods, reason = "the server has the machine's clock")]
    fn now(&self) -> i64 {
        jiff::Timestamp::now().as_second()
    }
}

macro_rules! for_every_locking_store {
    ($($test:ident),+ $(,)?) => {
        mod in_memory {
            $(#[test] fn $test() { super::$test(&super::InMemory::new()); })+
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

for_every_locking_store! {
    a_bucket_says_how_it_is_protected,
    what_is_put_locked_is_locked_until_then,
    a_locked_version_cannot_be_deleted_and_an_unlocked_one_can,
    a_lock_is_extended_and_never_shortened,
    a_taken_name_is_refused_unless_it_may_be_covered,
    what_is_replaced_lies_below_and_is_not_deleted,
    versions_are_listed_oldest_first_with_markers_and_md5,
    of_versions_that_lie_on_each_other_the_genuine_one_is_shown,
    what_is_not_there_is_missing,
}

const DAY: i64 = 86_400;

fn name_of(bytes: &[u8]) -> Name {
    Name::Pack(PackId::from_bytes(*blake3::hash(bytes).as_bytes()))
}

fn put(
    place: &dyn Place,
    name: &Name,
    bytes: &[u8],
    days: i64,
    overlay: Overlay,
) -> Result<VersionId, StoreError> {
    let until = Time::new(place.now() + days * DAY, 0);
    let mut upload = place.store().begin_locked(Some(until), overlay)?;
    upload.write(bytes)?;
    upload.commit_locked(name)
}

fn a_bucket_says_how_it_is_protected(place: &dyn Place) {
    let expected = Protection { has_versions: true, has_locks: true, ..Protection::default() };
    assert_eq!(place.store().protection().expect("reads"), expected);
}

fn what_is_put_locked_is_locked_until_then(place: &dyn Place) {
    let name = name_of(b"bytes");
    let id = put(place, &name, b"bytes", 30, Overlay::Refused).expect("puts");
    let lock = place.store().retention(&name.to_string(), &id).expect("reads").expect("is locked");
    assert_eq!(lock.mode, Mode::Compliance);
    assert!((place.now() + 30 * DAY - lock.until.seconds).abs() < 60, "{lock:?}");
    assert_eq!(place.store().read(&name, 10).expect("reads"), b"bytes");
    assert_eq!(place.store().read_version(&name.to_string(), &id, 1..3).expect("reads"), b"yt");
    place.plant("packs/x", b"not locked");
    let other =
        place.store().versions().expect("lists").into_iter().find(|one| one.path == "packs/x").expect("it");
    assert_eq!(place.store().retention("packs/x", &other.id).expect("reads"), None);
}

fn a_locked_version_cannot_be_deleted_and_an_unlocked_one_can(place: &dyn Place) {
    let name = name_of(b"bytes");
    let path = name.to_string();
    let id = put(place, &name, b"bytes", 30, Overlay::Refused).expect("puts");
    place.store().delete_version(&path, &id).expect_err("locked");
    place.store().delete(&name).expect("lays a marker on it");
    assert!(place.store().read(&name, 10).expect_err("deleted").is_missing());
    assert_eq!(place.store().read_version(&path, &id, 0..5).expect("reads"), b"bytes");
    place.plant("packs/x", b"not locked");
    let versions = place.store().versions().expect("lists");
    for version in versions.iter().filter(|one| one.is_marker || one.path == "packs/x") {
        place.store().delete_version(&version.path, &version.id).expect("deletes");
    }
    assert_eq!(place.store().read(&name, 10).expect("its marker is gone"), b"bytes");
    assert_eq!(place.store().versions().expect("lists").len(), 1);
}

fn a_lock_is_extended_and_never_shortened(place: &dyn Place) {
    let name = name_of(b"bytes");
    let path = name.to_string();
    let id = put(place, &name, b"bytes", 30, Overlay::Refused).expect("puts");
    let until = |days: i64| Time::new(place.now() + days * DAY, 0);
    let ends = || place.store().retention(&path, &id).expect("reads").expect("is locked").until.seconds;
    place.store().extend(&path, &id, until(40)).expect("extends");
    assert!((ends() - until(40).seconds).abs() < 60);
    place.store().extend(&path, &id, until(10)).expect_err("shorter");
    assert!((ends() - until(40).seconds).abs() < 60);
}

fn a_taken_name_is_refused_unless_it_may_be_covered(place: &dyn Place) {
    let name = name_of(b"bytes");
    place.plant(&name.to_string(), b"other");
    let refused = put(place, &name, b"bytes", 30, Overlay::Refused).expect_err("taken");
    assert!(matches!(refused, StoreError::Taken { .. }), "{refused:?}");
    put(place, &name, b"bytes", 30, Overlay::Allowed).expect("puts on top");
    assert_eq!(place.store().read(&name, 10).expect("reads"), b"bytes");
}

fn what_is_replaced_lies_below_and_is_not_deleted(place: &dyn Place) {
    let name = name_of(b"bytes");
    place.plant(&name.to_string(), b"damaged");
    let mut upload = place.store().begin().expect("begins");
    upload.write(b"bytes").expect("writes");
    upload.replace(&name).expect("replaces");
    assert_eq!(place.store().read(&name, 10).expect("reads"), b"bytes");
    let all = place.store().versions().expect("lists");
    let seen: Vec<_> = all.iter().map(|one| (one.is_marker, one.is_latest, one.bytes)).collect();
    assert_eq!(seen, [(false, false, 7), (false, true, 5)]);
}

fn versions_are_listed_oldest_first_with_markers_and_md5(place: &dyn Place) {
    let name = name_of(b"bytes");
    let path = name.to_string();
    let id = put(place, &name, b"bytes", 30, Overlay::Refused).expect("puts");
    place.plant(&path, b"other");
    place.plant("readme.txt", b"hello");
    let all = place.store().versions().expect("lists");
    let own: Vec<_> = all.iter().filter(|one| one.path == path).collect();
    assert_eq!(own.iter().map(|one| (one.is_latest, one.bytes)).collect::<Vec<_>>(), [(false, 5), (true, 5)]);
    assert_eq!(own[0].id, id);
    let md5: String =
        own[0].md5.expect("the server tells").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(md5, "4b3a6218bb3e3a7303e8a171a60fcf92");
    assert_eq!(own[0].name, Some(name));
    assert!(all.iter().any(|one| one.path == "readme.txt" && one.name.is_none()));
    place.mark_deleted(&path);
    let all = place.store().versions().expect("lists");
    assert!(all.iter().any(|one| one.path == path && one.is_marker && one.is_latest), "{all:?}");
    assert_eq!(all.len(), 4);
}

fn of_versions_that_lie_on_each_other_the_genuine_one_is_shown(place: &dyn Place) {
    let (covered, deleted, whole) = (name_of(b"covered"), name_of(b"deleted"), name_of(b"whole"));
    for (name, bytes) in [(covered, &b"covered"[..]), (deleted, b"deleted"), (whole, b"whole")] {
        put(place, &name, bytes, 30, Overlay::Refused).expect("puts");
    }
    put(place, &Name::Config, b"config", 30, Overlay::Refused).expect("puts");
    place.plant(&covered.to_string(), b"COVERED");
    place.mark_deleted(&deleted.to_string());
    place.plant("config", b"forged");
    let forged = name_of(b"never there");
    place.plant(&forged.to_string(), b"one");
    place.plant(&forged.to_string(), b"two");
    let genuine = GenuineStore::open(place.shared()).expect("opens");
    assert_eq!(genuine.read(&covered, 10).expect("reads"), b"covered");
    assert_eq!(genuine.read_range(&deleted, 1..3).expect("reads"), b"el");
    assert_eq!(genuine.read(&whole, 10).expect("reads"), b"whole");
    assert_eq!(genuine.read(&Name::Config, 10).expect("reads"), b"config");
    assert!(genuine.read(&forged, 10).expect_err("no version is genuine").is_missing());
    assert_eq!(genuine.lost(), [forged.to_string()]);
    assert_eq!(genuine.list(snap::store::Folder::Packs).expect("lists").len(), 3);
    assert_eq!(genuine.contested().len(), 4);
    assert!(genuine.put_new(&whole, b"x").is_err() && genuine.delete(&whole).is_err());
}

fn what_is_not_there_is_missing(place: &dyn Place) {
    let path = name_of(b"bytes").to_string();
    let id = put(place, &name_of(b"other"), b"other", 30, Overlay::Refused).expect("puts");
    assert!(place.store().retention(&path, &id).expect_err("missing").is_missing());
    assert!(place.store().read_version(&path, &id, 0..1).expect_err("missing").is_missing());
}

#[test]
fn a_locked_version_goes_when_its_lock_is_over() {
    let place = InMemory::new();
    let name = name_of(b"bytes");
    let id = put(&place, &name, b"bytes", 30, Overlay::Refused).expect("puts");
    place.0.set_now(Time::new(place.now() + 31 * DAY, 0));
    place.0.extend(&name.to_string(), &id, Time::new(place.now() + 31 * DAY, 0)).expect_err("in the past");
    place.0.delete_version(&name.to_string(), &id).expect("its lock is over");
    assert!(place.0.versions().expect("lists").is_empty());
    // No server's clock is turned here; that it keeps what is locked is tested above.
}
