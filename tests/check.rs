//! Check, healing and rebuild-index through the library: beside other runs, on disks that fail, from another copy
//! of which not all is good. `tests/damage.rs` has every kind of damage to every kind of file.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use age::x25519::{Identity, Recipient};
use common::Noise;
use common::fault::{Fault, FaultStore, Work};
use common::repo::{backup, create_plain, deliver, maildir, open};
use common::watched::{Moment, WatchedStore};
use rustix::io::Errno;
use snap::base::progress::Progress;
use snap::base::time::Time;
use snap::op::check::{Report, Request, check};
use snap::op::heal::heal;
use snap::op::rebuild_index::rebuild_index;
use snap::repo::config::Choices;
use snap::repo::index::Index;
use snap::repo::keys::{KeyBody, NoSecrets, seal_to_recipients};
use snap::repo::{Opening, RepoError, Repository};
use snap::store::{Folder, MemoryStore, Name, Store};

const START: i64 = 1_767_582_000;
const DAY: i64 = 86_400;

/// Longest file that tests read whole, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A repository in memory, and what is saved in it.
struct Scene {
    disk: MemoryStore,
    folder: tempfile::TempDir,
}

impl Scene {
    /// Backs up messages that fill several packs.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let scene = Self { disk: MemoryStore::default(), folder };
        let choices = Choices { pack_bytes: 1 << 20, ..Choices::default() };
        create_plain(Arc::new(scene.disk.clone()), &scene.state(), choices).expect("repository is made");
        maildir(&scene.source(), 60, 60_000, &mut Noise::new(61));
        scene.back_up(0);
        assert!(scene.content_packs().len() >= 2);
        scene
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("mail")
    }

    fn index(&self) -> PathBuf {
        self.folder.path().join("index.redb")
    }

    fn open(&self) -> Repository {
        self.open_over(self.disk.clone())
    }

    /// Opens the repository, its files read through another store.
    fn open_over(&self, store: impl Store + 'static) -> Repository {
        open(Arc::new(store), &self.state(), Some(self.index())).expect("repository opens")
    }

    fn back_up(&self, day: i64) {
        let report = backup(&self.open(), &self.source(), START + day * DAY).expect("backup");
        assert!(report.is_whole(), "{:?}", report.lacks);
    }

    /// Returns the names of the packs that hold content, sorted.
    fn content_packs(&self) -> Vec<Name> {
        let index = Index::open_without_cache(&self.open()).expect("index opens");
        let packs = index.packs().filter(|(_, row, _)| !row.is_tree);
        let mut packs: Vec<Name> = packs.map(|(_, row, _)| Name::Pack(row.id)).collect();
        packs.sort();
        packs
    }
}

fn names(store: &dyn Store, folder: Folder) -> Vec<Name> {
    store.list(folder).expect("lists").into_iter().filter_map(|found| found.name).collect()
}

fn request(progress: &Progress) -> Request<'_> {
    Request { read_packs: true, read_data: false, subset: None, seed: 0, repair: false, threads: 2, progress }
}

fn damaged(report: &Report) -> BTreeSet<String> {
    report.damages.iter().map(|damage| damage.path.clone()).collect()
}

/// Flips a bit in the middle of a file; returns what it holds then.
fn flip(disk: &MemoryStore, name: &Name) -> Vec<u8> {
    let mut bytes = disk.read(name, FILE_BYTES_MAX).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    disk.delete(name).expect("deletes");
    disk.put_new(name, &bytes).expect("puts");
    bytes
}

#[test]
fn a_backup_that_ends_while_a_check_reads_is_no_damage_and_no_note() {
    // When all fragments and packs were listed; and between the two, when its packs are there and listed by none.
    for (at, moment) in [Moment::ReadPack, Moment::List(Folder::Packs)].into_iter().enumerate() {
        let scene = Scene::new();
        let store = WatchedStore::over(scene.disk.clone());
        let (disk, state, source, index) = (scene.disk.clone(), scene.state(), scene.source(), scene.index());
        store.before(moment, move || {
            deliver(&source, 1000, 300_000, &mut Noise::new(62));
            let repository = open(Arc::new(disk), &state, Some(index)).expect("repository opens");
            assert!(backup(&repository, &source, START + DAY).expect("backup").is_whole());
        });
        let repository = scene.open_over(store);
        let report = check(&repository, &NoSecrets, &request(&Progress::default())).expect("check ends");
        assert!(report.is_sound() && report.notes.is_empty(), "{at}: {report:#?}");
        assert_eq!(report.snapshots, 1, "{at}");
        assert_eq!(names(&scene.disk, Folder::Snapshots).len(), 2, "{at}: the backup came between");
    }
}

/// Checks a repository of which the middle of a pack can't be read.
fn check_with_bad_sector(scene: &Scene, pack: Name, read_data: bool) -> Report {
    let middle = scene.disk.read(&pack, FILE_BYTES_MAX).expect("reads").len() as u64 / 2;
    let store = WatchedStore::over(scene.disk.clone());
    store.fail_reads(move |name, range| (*name == pack && range.contains(&middle)).then(|| Errno::IO.into()));
    let progress = Progress::default();
    let request = Request { read_data, ..request(&progress) };
    let report = check(&scene.open_over(store), &NoSecrets, &request).expect("check ends");
    assert_eq!(damaged(&report), BTreeSet::from([pack.to_string()]), "{read_data}");
    report
}

#[test]
fn a_chunk_of_a_pack_that_cannot_be_read_is_not_hurt_if_it_lies_intact_elsewhere() {
    let scene = Scene::new();
    // Another backup of the same and more, side by side with the first one: both have stored all of it.
    let is_of_both = |path: &String| path == "config" || path.starts_with("keys/");
    let beside =
        MemoryStore::of(scene.disk.files().into_iter().filter(|(path, _)| is_of_both(path)).collect());
    deliver(&scene.source(), 1000, 300_000, &mut Noise::new(64));
    let repository = open(Arc::new(beside.clone()), &scene.state(), None).expect("repository opens");
    assert!(backup(&repository, &scene.source(), START + DAY).expect("backup").is_whole());
    let beside = beside.files();
    let packs = scene.content_packs();
    let pack = packs.into_iter().find(|pack| !beside.contains_key(&pack.to_string())).expect("packs differ");
    for read_data in [false, true] {
        let report = check_with_bad_sector(&scene, pack, read_data);
        assert!(!report.hurt.is_empty(), "{read_data}: there is no other copy yet");
    }
    for (path, bytes) in beside.iter().filter(|(path, _)| !is_of_both(path)) {
        let put = scene.disk.put_new(&Name::parse(path).expect("a name"), bytes);
        assert!(put.is_ok() || scene.disk.files()[path] == *bytes, "{put:?}");
    }
    for read_data in [false, true] {
        let report = check_with_bad_sector(&scene, pack, read_data);
        assert!(report.hurt.is_empty(), "{read_data}: {:#?}", report.hurt);
    }
}

#[test]
fn packs_that_are_to_be_listed_anew_are_not_read_to_the_end_once_somebody_says_stop() {
    let scene = Scene::new();
    for name in names(&scene.disk, Folder::Index) {
        scene.disk.delete(&name).expect("fragment goes");
    }
    // Whoever reads a pack from its start hashes it: then comes the signal.
    let stopped_at = |progress: &Arc<Progress>| {
        let (store, progress) = (WatchedStore::over(scene.disk.clone()), progress.clone());
        store.fail_reads(move |name, range| {
            if matches!(name, Name::Pack(_)) && range.start == 0 {
                progress.cancel();
            }
            None
        });
        scene.open_over(store)
    };
    let progress = Arc::new(Progress::default());
    let stopped = rebuild_index(&stopped_at(&progress), &progress);
    assert!(matches!(stopped, Err(RepoError::Interrupted)), "{stopped:?}");
    let progress = Arc::new(Progress::default());
    let request = Request { read_packs: false, repair: true, ..request(&progress) };
    let stopped = check(&stopped_at(&progress), &NoSecrets, &request);
    assert!(matches!(stopped, Err(RepoError::Interrupted)), "{stopped:?}");
    assert!(names(&scene.disk, Folder::Index).is_empty(), "nothing is listed");
    let found = rebuild_index(&scene.open(), &Progress::default()).expect("index");
    assert_eq!((found.packs_found, found.problems.len()), (found.packs, 0), "{found:?}");
    assert!(scene.index().exists());
}

#[test]
fn an_index_that_stays_in_memory_is_not_called_made_anew() {
    let scene = Scene::new();
    for index in [scene.folder.path().join("nowhere/index.redb"), PathBuf::from("/dev/null/index.redb")] {
        let repository = open(Arc::new(scene.disk.clone()), &scene.state(), Some(index.clone()));
        let refused = rebuild_index(&repository.expect("repository opens"), &Progress::default());
        let refused = refused.expect_err("it can't be kept there").to_string();
        let is_said = refused.contains(&*index.to_string_lossy()) && refused.contains("cannot be kept here");
        assert!(is_said && !refused.contains('\n'), "{refused}");
    }
    // Of an empty repository there is no cache, which is no error.
    let (disk, state) = (MemoryStore::default(), scene.folder.path().join("other"));
    create_plain(Arc::new(disk.clone()), &state, Choices::default()).expect("repository is made");
    let index = scene.folder.path().join("other.redb");
    let repository = open(Arc::new(disk), &state, Some(index)).expect("repository opens");
    assert_eq!(rebuild_index(&repository, &Progress::default()).expect("index").packs, 0);
}

#[test]
fn a_fault_at_any_call_while_a_file_is_healed_leaves_what_was_there_or_the_good_bytes() {
    let scene = Scene::new();
    let pack = scene.content_packs()[0];
    let (path, good) = (pack.to_string(), MemoryStore::of(scene.disk.files()));
    let whole = good.read(&pack, FILE_BYTES_MAX).expect("reads");
    let bad = flip(&scene.disk, &pack);
    let faults: [fn(u64) -> Fault; 4] = [
        |call| Fault::PowerCut { call, work: Work::Undone },
        |call| Fault::PowerCut { call, work: Work::Done },
        |call| Fault::Once { call, error: Errno::IO, work: Work::Undone },
        |call| Fault::DiskFull { call },
    ];
    for fault in faults {
        for call in 0.. {
            let disk = MemoryStore::of(scene.disk.files());
            let store = FaultStore::new(Arc::new(disk.clone()), fault(call));
            let repository = open(Arc::new(store), &scene.state(), None).expect("repository opens");
            let report = heal(&repository, &good, [path.as_str()], &Progress::default());
            let files = disk.files();
            let now = files.get(&path).unwrap_or_else(|| panic!("{:?}: the file is gone", fault(call)));
            assert!(*now == bad || *now == whole, "{:?}", fault(call));
            if report.stopped.is_none() {
                assert!(call > 2 && *now == whole, "{:?}", fault(call));
                assert_eq!(report.healed, std::slice::from_ref(&path));
                break;
            }
            assert_eq!(report.healed, [""; 0], "{:?}", fault(call));
        }
    }
}

#[test]
fn one_file_that_the_other_copy_cannot_give_keeps_no_other_from_being_healed() {
    let scene = Scene::new();
    let packs = scene.content_packs();
    let paths: Vec<String> = packs[..2].iter().map(Name::to_string).collect();
    let whole = scene.disk.files();
    let other = WatchedStore::over(MemoryStore::of(whole.clone()));
    for pack in &packs[..2] {
        flip(&scene.disk, pack);
    }
    let unreadable = packs[0];
    other.fail_reads(move |name, _| (*name == unreadable).then(|| Errno::IO.into()));
    let asked = paths.iter().map(String::as_str);
    let report = heal(&scene.open(), &other, asked, &Progress::default());
    assert!(report.stopped.is_none(), "{report:?}");
    assert_eq!(report.healed, paths[1..]);
    assert_eq!(report.lost.len(), 1, "{report:?}");
    assert!(report.lost[0].0 == paths[0] && report.lost[0].1.contains("does not give it"), "{report:?}");
    assert_eq!(scene.disk.files()[&paths[1]], whole[&paths[1]]);
}

#[test]
fn a_fragment_that_is_bad_in_both_copies_keeps_no_other_from_being_brought() {
    let scene = Scene::new();
    deliver(&scene.source(), 1000, 300_000, &mut Noise::new(63));
    scene.back_up(1);
    let other = MemoryStore::of(scene.disk.files());
    let fragments = names(&scene.disk, Folder::Index);
    assert_eq!(fragments.len(), 2);
    flip(&other, &fragments[0]);
    fragments.iter().for_each(|name| scene.disk.delete(name).expect("fragment goes"));
    // A snapshot that is good itself, of which something lies in no pack: what the fragments list is asked for.
    let snapshot = names(&scene.disk, Folder::Snapshots)[0].to_string();
    let report = heal(&scene.open(), &other, [snapshot.as_str()], &Progress::default());
    assert!(report.stopped.is_none(), "{report:?}");
    assert_eq!(report.healed, [fragments[1].to_string()]);
    assert_eq!(report.lost.len(), 1, "{report:?}");
    assert_eq!(report.lost[0].0, fragments[0].to_string());
}

#[test]
fn a_key_file_that_was_removed_here_is_not_brought_back() {
    let state = tempfile::tempdir().expect("temporary folder");
    let disk = MemoryStore::default();
    let opening =
        Opening { store: Arc::new(disk.clone()), state: state.path(), index: None, secrets: &NoSecrets };
    let (kept, removed) = (Identity::generate().to_public(), Identity::generate().to_public());
    let both: [Recipient; 2] = [kept.clone(), removed.clone()];
    let made = Repository::create(&opening, Choices::default(), None, &both, Time::new(START, 0));
    let repository = made.expect("repository is made");
    let before = disk.files();
    // As 'snap key remove' does it: the writer secret, sealed to who is left, is there before anything goes.
    let (mut gone, mut old) = (None, None);
    for info in repository.key_files().expect("lists") {
        let info = info.expect("reads");
        match &info.body {
            KeyBody::SealedWriter { .. } => old = Some(Name::Key(info.id)),
            _ if info.recipient() == Some(removed.to_string().as_str()) => gone = Some(Name::Key(info.id)),
            _ => {}
        }
    }
    let (gone, old) = (gone.expect("it was added"), old.expect("it is there"));
    let left = BTreeSet::from([kept.to_string()]);
    let age = seal_to_recipients(&[kept], repository.writer_keys().secret().expose()).expect("seals");
    let writer = Name::Key(repository.put_key(&KeyBody::SealedWriter { age }).expect("puts"));
    [gone, old].iter().for_each(|name| disk.delete(name).expect("goes"));
    repository.remember_these(&left, 2).expect("the machine knows who is left");
    let mut after = disk.files();
    after.insert(gone.to_string(), before[&gone.to_string()].clone()); // as a bucket keeps it

    let healed = |files| heal(&repository, &MemoryStore::of(files), ["keys/"], &Progress::default());
    disk.delete(&writer).expect("it is lost");
    let report = healed(after);
    assert_eq!(report.healed, [writer.to_string()], "{report:?}");
    assert!(
        report.notes.len() == 1 && report.notes[0].contains(&format!("{gone} ({removed})")),
        "{report:?}"
    );

    // A copy of before has the writer secret sealed to who was removed as well.
    disk.delete(&writer).expect("it is lost");
    let report = healed(before.clone());
    assert_eq!(report.healed, [""; 0], "{report:?}");
    assert!(report.lost.len() == 1 && report.lost[0].1.contains("snap check --repair"), "{report:?}");
    assert!(!disk.files().contains_key(&gone.to_string()));

    // Where nobody is left who opens anything, and the machine remembers nobody, all come back.
    std::fs::remove_file(repository.recipients_file()).expect("it was remembered");
    names(&disk, Folder::Keys).iter().for_each(|name| disk.delete(name).expect("goes"));
    let report = healed(before.clone());
    assert_eq!((report.healed.len(), report.notes.len(), report.lost.len()), (3, 0, 0), "{report:?}");
    assert_eq!(disk.files(), before);
}
