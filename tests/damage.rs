//! Every kind of repository file, damaged in every way: check names the file and exactly the paths
//! that are hurt, everything else restores bit by bit, and nothing ever comes back wrong.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "damage is done behind the store's back")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use age::x25519::Identity;
use jiff::tz::TimeZone;
use snap::base::content::refs;
use snap::base::id::{ChunkId, PackId};
use snap::base::progress::Progress;
use snap::base::time::Time;
use snap::op::check::{self, Report, Subset, check};
use snap::op::rebuild_index::rebuild_index;
use snap::op::stats::stats;
use snap::op::{backup, prune, restore};
use snap::repo::config::{Choices, Encryption};
use snap::repo::index::{Index, read_directory, read_fragment, remove_cache};
use snap::repo::keys::{KeyBody, KeyFile, NoSecrets, Passphrase, Secrets};
use snap::repo::reader::Reader;
use snap::repo::{Opening, RepoError, Repository, Snapshot};
use snap::stage::index::{Cache, CacheError};
use snap::stage::pack::Trailer;
use snap::store::{Folder, Found, LocalStore, Lock, LockMode, Name, Store, StoreError, Upload};

const CACHE: &str = "index.redb";

/// Identities, and no passphrase: Argon2id takes its time.
struct Given(Vec<Identity>);

impl Secrets for Given {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        Ok(None)
    }

    fn identities(&self) -> Result<Vec<Identity>, RepoError> {
        Ok(self.0.clone())
    }
}

/// What files a snapshot should give: path in the snapshot, hash of the bytes.
type Files = BTreeMap<Vec<u8>, blake3::Hash>;

/// A repository of two snapshots in which nothing is damaged.
struct Pristine {
    folder: tempfile::TempDir,
    secrets: Given,
    /// What the snapshots should give, oldest first.
    files: Vec<Files>,
    /// Paths of all repository files.
    paths: BTreeSet<String>,
}

/// Two snapshots of a small Maildir, sealed; `keys/` names two recipients.
fn sealed() -> &'static Pristine {
    static SEALED: OnceLock<Pristine> = OnceLock::new();
    SEALED.get_or_init(|| Pristine::make(Encryption::Age))
}

/// The same without encryption.
fn plain() -> &'static Pristine {
    static PLAIN: OnceLock<Pristine> = OnceLock::new();
    PLAIN.get_or_init(|| Pristine::make(Encryption::None))
}

/// Of three snapshots two were forgotten: what nothing needs is condemned, and frames are closed.
fn pruned() -> &'static Pristine {
    static PRUNED: OnceLock<Pristine> = OnceLock::new();
    PRUNED.get_or_init(|| {
        let mut pristine = Pristine::make(Encryption::Age);
        let state = pristine.state();
        let repo = pristine.repo();
        let opening = Opening {
            store: Arc::new(LocalStore::new(&repo)),
            state: &state,
            index: Some(repo.join(CACHE)),
            secrets: &NoSecrets,
        };
        let source = pristine.folder.path().join("source");
        live_a_day(&source, 2);
        let repository = Repository::open(&opening).unwrap();
        back_up(&repository, &source, 2);
        pristine.files.push(files_below(&source));
        for keep_last in [2, 1] {
            let report = prune_to(&repository, keep_last, 2);
            assert!(report.condemned.packs + report.repacked.packs > 0, "{report:?}");
        }
        let paths = files_below(&repo).into_keys().map(|path| String::from_utf8(path).unwrap());
        pristine.paths = paths.filter(|path| path != "lock").collect();
        pristine
    })
}

fn prune_to(repository: &Repository, keep_last: u32, day: i64) -> prune::Report {
    let progress = Progress::default();
    let policy = prune::Policy { keep_last, ..prune::Policy::default() };
    let now = Time::new(1_700_000_000 + 86_400 * day, 0);
    let mut request = prune::Request::new(policy, now, TimeZone::UTC, &progress);
    (request.force, request.unused_percent_max) = (true, 0.0);
    prune::prune(repository, &request).unwrap()
}

impl Pristine {
    fn make(encryption: Encryption) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::generate();
        let passphrase = Passphrase::new("correct horse".to_owned());
        let (repo, state) = (folder.path().join("repo"), folder.path().join("state"));
        let choices = Choices { encryption, pack_bytes: 1 << 20, ..Choices::default() };
        let opening = Opening {
            store: Arc::new(LocalStore::new(&repo)),
            state: &state,
            index: Some(repo.join(CACHE)),
            secrets: &NoSecrets,
        };
        let (wrapped, recipients) = match encryption {
            Encryption::Age => (Some(&passphrase), vec![identity.to_public()]),
            Encryption::None => (None, Vec::new()),
        };
        let created = Time::new(1_700_000_000, 0);
        let repository = Repository::create(&opening, choices, wrapped, &recipients, created).unwrap();
        let source = folder.path().join("source");
        let mut files = Vec::new();
        for day in 0..2 {
            live_a_day(&source, day);
            back_up(&repository, &source, day);
            files.push(files_below(&source));
        }
        let paths = files_below(&repo).into_keys().map(|path| String::from_utf8(path).unwrap());
        let paths = paths.filter(|path| path != "lock").collect();
        Self { folder, secrets: Given(vec![identity]), files, paths }
    }

    fn repo(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Returns the paths that start with `start`.
    fn under(&self, start: &str) -> Vec<String> {
        self.paths.iter().filter(|path| path.starts_with(start)).cloned().collect()
    }

    /// Returns the paths of packs, longest first: of those that hold trees, or of the others.
    fn packs(&self, is_tree: bool) -> Vec<String> {
        let copy = self.copy();
        let index = Index::open_without_cache(&copy.open(&NoSecrets)).unwrap();
        let packs = index.packs().filter(|(_, pack, _)| pack.is_tree == is_tree);
        let mut packs: Vec<_> =
            packs.map(|(_, pack, _)| (pack.bytes, Name::Pack(pack.id).to_string())).collect();
        packs.sort_unstable();
        packs.into_iter().rev().map(|(_, path)| path).collect()
    }

    /// Returns the path of the key file that `wanted` picks.
    fn key(&self, wanted: impl Fn(&KeyBody) -> bool) -> String {
        let is_wanted = |path: &String| {
            let (_, body) = KeyFile::parse(&fs::read(self.repo().join(path)).unwrap()).unwrap();
            wanted(&body)
        };
        self.under("keys/").into_iter().find(is_wanted).unwrap()
    }

    /// Makes a copy to be damaged. Files are shared until [`Copy::put`] replaces them.
    fn copy(&self) -> Copy<'_> {
        let folder = tempfile::tempdir_in(self.folder.path()).unwrap();
        for path in &self.paths {
            let (from, to) = (self.repo().join(path), folder.path().join(path));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            match path == CACHE {
                true => _ = fs::copy(from, to).unwrap(),
                false => fs::hard_link(from, to).unwrap(),
            }
        }
        Copy { pristine: self, folder }
    }
}

/// Endless bytes that do not compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn message(number: u64, body_bytes: usize) -> Vec<u8> {
    let header = format!("From: a{number}@example.com\nTo: b@example.com\nSubject: message {number}\n\n");
    [header.into_bytes(), noise(number, body_bytes)].concat()
}

/// Puts mail into Maildirs; the second day adds, removes and flags some.
fn live_a_day(source: &Path, day: u32) {
    let put = |path: String, bytes: &[u8]| {
        let path = source.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for (user, name) in ["alice", "bob", "carol"].into_iter().enumerate() {
        let first = 1000 * user as u64 + 100 * u64::from(day);
        let mails = if day == 0 { 30 } else { 5 };
        for number in first..first + mails {
            let bytes = message(number, 20_000 + 9_000 * (number as usize % 11));
            put(format!("{name}/cur/{number}.host:2,"), &bytes);
        }
        put(format!("{name}/new/{}.host", first + 50), &message(first + 50, 300));
        put(format!("{name}/.Archive/cur/{}.host:2,S", first + 51), &message(first + 51, 50_000));
    }
    // More chunks than a tree entry lists itself: its list lies in tree packs.
    put(format!("carol/attachment {day}"), &noise(99_000 + u64::from(day), 700_000));
    put("carol/empty".to_owned(), b"");
    if day == 1 {
        fs::rename(source.join("alice/cur/3.host:2,"), source.join("alice/cur/3.host:2,S")).unwrap();
        fs::remove_file(source.join("bob/cur/1003.host:2,")).unwrap();
    }
}

fn back_up(repository: &Repository, source: &Path, day: u32) {
    assert!(try_back_up(repository, source, day).unwrap().is_whole());
}

fn try_back_up(repository: &Repository, source: &Path, day: u32) -> Result<backup::Report, RepoError> {
    let component = backup::Component {
        name: "mail".to_owned(),
        directory: b"mail".to_vec(),
        paths: vec![source.to_owned()],
        streams: Vec::new(),
        excludes: Vec::new(),
        care: backup::Care::default(),
    };
    let request = backup::Request {
        components: vec![component],
        rules: backup::Rules::default(),
        tags: Vec::new(),
        time: Time::new(1_700_000_000 + 86_400 * i64::from(day), 0),
        began: Time::new(1_700_000_000 + 86_400 * i64::from(day), 0),
        host: "host".to_owned(),
        user: "root".to_owned(),
        run: None,
        is_night: true,
        threads: 2,
        read_threads: 1,
        dry_run: false,
        progress: &Progress::default(),
        listener: None,
    };
    backup::backup(repository, request)
}

/// Hashes all files below a folder; paths are relative, and for a source as its snapshot has them.
fn files_below(root: &Path) -> Files {
    let is_source = root.ends_with("source");
    let mut files = Files::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let relative = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
            let name = if is_source { [b"mail/", relative].concat() } else { relative.to_vec() };
            files.insert(name, blake3::hash(&fs::read(&path).unwrap()));
        }
    }
    files
}

/// How far a check looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Default,
    Packs,
    Data,
}

const LEVELS: [Level; 3] = [Level::Default, Level::Packs, Level::Data];

fn request(level: Level, progress: &Progress) -> check::Request<'_> {
    check::Request {
        read_packs: level == Level::Packs,
        read_data: level == Level::Data,
        subset: None,
        seed: 0,
        repair: false,
        threads: 2,
        progress,
    }
}

/// A copy of a repository, about to be damaged.
struct Copy<'p> {
    pristine: &'p Pristine,
    folder: tempfile::TempDir,
}

impl Copy<'_> {
    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn get(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap()
    }

    /// Gives a file other bytes. The pristine file stays as it is.
    fn put(&self, path: &str, bytes: &[u8]) {
        let _ = fs::remove_file(self.path(path));
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), bytes).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    fn opening<'a>(&self, state: &'a Path, secrets: &'a dyn Secrets) -> Opening<'a> {
        let store = Arc::new(LocalStore::new(self.folder.path()));
        Opening { store, state, index: Some(self.path(CACHE)), secrets }
    }

    fn open(&self, secrets: &dyn Secrets) -> Repository {
        Repository::open(&self.opening(&self.pristine.state(), secrets)).unwrap()
    }

    fn check(&self, level: Level) -> Report {
        let secrets: &dyn Secrets = if level == Level::Data { &self.pristine.secrets } else { &NoSecrets };
        check(&self.open(secrets), secrets, &request(level, &Progress::default())).unwrap()
    }

    fn repair(&self) -> Report {
        let progress = Progress::default();
        let request = check::Request { repair: true, ..request(Level::Default, &progress) };
        check(&self.open(&NoSecrets), &NoSecrets, &request).unwrap()
    }

    /// Restores every snapshot, and compares: what is hurt is lacking, what is not is there as it was.
    fn restores_all_but_what_hurts(&self, report: &Report) {
        let repository = self.open(&NoSecrets);
        for snapshot in repository.snapshots().unwrap().all {
            let hurt = report.hurt.iter().filter(|hurt| hurt.snapshot == snapshot.id);
            let hurt: BTreeSet<Vec<u8>> = hurt.map(|hurt| hurt.path.clone()).collect();
            let (lacks, restored) = self.restore(&repository, &snapshot);
            assert_eq!(shown(&lacks), shown(&hurt), "what check calls hurt is what restore lacks");
            let day = (snapshot.manifest.time.seconds - 1_700_000_000) / 86_400;
            let expected = &self.pristine.files[usize::try_from(day).unwrap()];
            for (path, hash) in expected {
                match is_below(path, &hurt) {
                    true => assert_eq!(restored.get(path), None, "{}", path.escape_ascii()),
                    false => assert_eq!(restored.get(path), Some(hash), "{}", path.escape_ascii()),
                }
            }
            assert!(restored.keys().all(|path| expected.contains_key(path)));
        }
    }

    /// Returns what could not be restored of a snapshot, and what could.
    fn restore(&self, repository: &Repository, snapshot: &Snapshot) -> (BTreeSet<Vec<u8>>, Files) {
        let target = tempfile::tempdir_in(self.pristine.folder.path()).unwrap();
        let reader = Reader::new(repository, Index::open_to_read(repository).unwrap(), 8 << 20);
        let request = restore::Request {
            path: Vec::new(),
            target: target.path().to_owned(),
            components: Vec::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            overwrite: restore::Overwrite::Never,
            is_continued: false,
            delete: false,
            force: false,
            consent: &restore::Unattended,
            own_places: Vec::new(),
            configured: None,
            labels: false,
            numeric_ids: true,
            dry_run: false,
            verify: false,
            threads: 2,
            progress: &Progress::default(),
        };
        let report = restore::restore(&reader, snapshot, &self.pristine.secrets, &request).unwrap();
        let lacks: BTreeSet<Vec<u8>> = report.lacks.iter().map(|lack| lack.path.clone()).collect();
        assert_eq!(lacks.len(), report.lacks.len(), "no path is lacking twice");
        (lacks, files_below(target.path()))
    }
}

fn shown(paths: &BTreeSet<Vec<u8>>) -> Vec<String> {
    paths.iter().map(|path| path.escape_ascii().to_string()).collect()
}

/// Returns whether a path or a directory above it is among `hurt`.
fn is_below(path: &[u8], hurt: &BTreeSet<Vec<u8>>) -> bool {
    hurt.iter().any(|above| {
        let rest = path.strip_prefix(above.as_slice());
        above.is_empty() || rest.is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
    })
}

fn damaged(report: &Report) -> BTreeSet<&str> {
    report.damages.iter().map(|damage| damage.path.as_str()).collect()
}

/// Returns the paths of damaged files, and of files that are told and are somebody else's.
fn told(report: &Report) -> BTreeSet<&str> {
    let foreign = report.notes.iter().filter_map(|note| Some(note.split_once(": not a repository file")?.0));
    damaged(report).into_iter().chain(foreign).collect()
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Deleted,
    Halved,
    Emptied,
    FlippedAtStart,
    FlippedInside,
    FlippedAtEnd,
    Swapped,
    DoubledUnderAnId,
    DoubledAsBackup,
}

/// All there are; the first six concern one file alone.
const HARMS: [Harm; 9] = [
    Harm::Deleted,
    Harm::Halved,
    Harm::Emptied,
    Harm::FlippedAtStart,
    Harm::FlippedInside,
    Harm::FlippedAtEnd,
    Harm::Swapped,
    Harm::DoubledUnderAnId,
    Harm::DoubledAsBackup,
];

/// Does harm to a file; returns the paths that a check must name.
fn harm(copy: &Copy<'_>, harm: Harm, path: &str, other: &str) -> Vec<String> {
    let bytes = copy.get(path);
    let flip = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        copy.put(path, &bytes);
    };
    match harm {
        Harm::Deleted => copy.remove(path),
        Harm::Halved => copy.put(path, &bytes[..bytes.len() / 2]),
        Harm::Emptied => copy.put(path, b""),
        Harm::FlippedAtStart => flip(0),
        Harm::FlippedInside => flip(bytes.len() / 2),
        Harm::FlippedAtEnd => flip(bytes.len() - 1),
        Harm::Swapped => {
            copy.put(path, &copy.get(other));
            copy.put(other, &bytes);
            return vec![path.to_owned(), other.to_owned()];
        }
        Harm::DoubledUnderAnId => {
            let digit = if path.ends_with('0') { "1" } else { "0" };
            let double = format!("{}{digit}", &path[..path.len() - 1]);
            copy.put(&double, &bytes);
            return vec![double];
        }
        Harm::DoubledAsBackup => {
            let double = format!("{path}.bak");
            copy.put(&double, &bytes);
            return vec![double];
        }
    }
    vec![path.to_owned()]
}

/// Returns the damaged files that nobody damaged. A damaged key file may leave `keys/` without
/// something that must be there.
fn found_elsewhere(report: &Report, named: &[String]) -> Vec<String> {
    let in_keys = named.iter().any(|path| path.starts_with("keys/"));
    let found = damaged(report).into_iter().filter(|path| !(in_keys && *path == "keys/"));
    found.map(str::to_owned).filter(|path| !named.contains(path)).collect()
}

/// What is expected of a check: how far it must look to find a harm, and what it names instead of
/// a file that is gone, its name with it.
struct Expected {
    least: Option<Level>,
    instead: Option<&'static str>,
}

fn found_at(least: Level) -> Expected {
    Expected { least: Some(least), instead: None }
}

/// Does every harm to a file, and looks at what check and restore make of it.
fn every_harm(pristine: &Pristine, path: &str, other: &str, expect: impl Fn(Harm) -> Expected) {
    for done in HARMS {
        let copy = pristine.copy();
        let mut named = harm(&copy, done, path, other);
        let Expected { least, instead } = expect(done);
        if let Some(instead) = instead {
            named = vec![instead.to_owned()];
        }
        let mut last = Report::default();
        for level in LEVELS {
            let report = copy.check(level);
            let found = told(&report);
            let is_expected = least.is_some_and(|least| least <= level);
            let is_named = named.iter().all(|name| found.contains(name.as_str()));
            assert_eq!(is_named, is_expected, "{done:?} {path} {level:?}: {report:#?}");
            let is_harmless = !is_expected || done == Harm::DoubledAsBackup;
            assert!(!is_harmless || report.is_sound(), "{done:?} {path} {level:?}: {report:#?}");
            assert_eq!(found_elsewhere(&report, &named), [""; 0], "{done:?} {path} {level:?}: {report:#?}");
            last = report;
        }
        copy.restores_all_but_what_hurts(&last);
    }
}

#[test]
fn an_undamaged_repository_is_sound_at_every_level() {
    for pristine in [sealed(), plain()] {
        let packs = (pristine.packs(false).len(), pristine.packs(true).len());
        assert!(packs.0 >= 4 && packs.1 >= 2, "{packs:?}");
        let copy = pristine.copy();
        let before = files_below(copy.folder.path());
        for level in LEVELS {
            let report = copy.check(level);
            assert!(report.is_sound() && report.notes.is_empty(), "{level:?}: {report:#?}");
            assert_eq!((report.snapshots, report.fragments), (2, 2));
            let packs = (packs.0 + packs.1) as u64;
            assert_eq!(report.packs, packs);
            assert_eq!(report.packs_read, if level == Level::Default { 0 } else { packs });
            assert_eq!(report.chunks_read, if level == Level::Data { report.chunks } else { 0 });
        }
        assert_eq!(files_below(copy.folder.path()), before, "a check changes nothing");
        copy.restores_all_but_what_hurts(&copy.check(Level::Data));
    }
}

/// Only who reads a pack finds a flipped bit. Its length tells at once.
fn of_a_pack(done: Harm) -> Expected {
    match done {
        Harm::Deleted | Harm::Halved | Harm::Emptied | Harm::Swapped | Harm::DoubledAsBackup => {
            found_at(Level::Default)
        }
        _ => found_at(Level::Packs),
    }
}

#[test]
fn a_damaged_content_pack_hurts_the_files_in_it_and_no_others() {
    for pristine in [sealed(), plain()] {
        let packs = pristine.packs(false);
        every_harm(pristine, &packs[0], &packs[packs.len() - 1], of_a_pack);
    }
}

#[test]
fn a_damaged_tree_pack_hurts_what_its_trees_lead_to() {
    for pristine in [sealed(), plain()] {
        let packs = pristine.packs(true);
        every_harm(pristine, &packs[0], &packs[1], |done| match done {
            Harm::FlippedInside => found_at(Level::Default), // trees are always read
            done => of_a_pack(done),
        });
    }
}

#[test]
fn a_damaged_fragment_hurts_nothing() {
    for pristine in [sealed(), plain()] {
        let fragments = pristine.under("index/");
        every_harm(pristine, &fragments[0], &fragments[1], |_| found_at(Level::Default));
    }
}

#[test]
fn a_damaged_fragment_hurts_nothing_without_the_cache_either() {
    let pristine = sealed();
    let fragments = pristine.under("index/");
    for done in HARMS {
        let copy = pristine.copy();
        copy.remove(CACHE);
        let named = harm(&copy, done, &fragments[0], &fragments[1]);
        let report = copy.check(Level::Default);
        let found = told(&report);
        match done {
            // Nothing says that it was there: its packs are taken for those of a killed run.
            Harm::Deleted => assert!(report.notes.iter().any(|note| note.contains("listed by no fragment"))),
            _ => assert_eq!(found, named.iter().map(String::as_str).collect()),
        }
        assert!(report.hurt.is_empty());
        copy.restores_all_but_what_hurts(&report);
    }
}

#[test]
fn a_damaged_manifest_is_a_lost_snapshot_and_the_other_restores() {
    for pristine in [sealed(), plain()] {
        let manifests = pristine.under("snapshots/");
        every_harm(pristine, &manifests[0], &manifests[1], |done| match done {
            // Nothing leads to a manifest: a snapshot that is gone is one that never was.
            Harm::Deleted => Expected { least: None, instead: None },
            _ => found_at(Level::Default),
        });
        let copy = pristine.copy();
        harm(&copy, Harm::Halved, &manifests[0], &manifests[1]);
        let report = copy.check(Level::Default);
        assert!(report.damages[0].what.contains("the snapshot is lost"), "{:?}", report.damages);
        assert_eq!(report.snapshots, 1);
    }
}

#[test]
fn a_damaged_list_of_what_is_condemned_hurts_nothing_and_the_next_prune_makes_up_for_it() {
    let pristine = pruned();
    let lists = pristine.under("condemned/");
    assert!(lists.len() >= 2, "{lists:?}");
    every_harm(pristine, &lists[0], &lists[1], |done| match done {
        // Nothing leads to a list: one that is gone is one that never was.
        Harm::Deleted => Expected { least: None, instead: None },
        _ => found_at(Level::Default),
    });
    for done in HARMS {
        let copy = pristine.copy();
        let named = harm(&copy, done, &lists[0], &lists[1]);
        for day in [3, 5, 7, 9] {
            let _ = prune_to(&copy.open(&NoSecrets), 1, day);
        }
        let report = copy.check(Level::Data);
        for path in named.iter().filter(|path| path.ends_with(".bak")) {
            assert!(report.notes.iter().any(|note| note.starts_with(path)), "{done:?}: {report:#?}");
        }
        assert_eq!(damaged(&report), BTreeSet::new(), "{done:?}: {report:#?}");
        assert!(report.hurt.is_empty(), "{done:?}: {report:#?}");
        assert!(
            copy.open(&NoSecrets).marks().unwrap().packs().is_empty(),
            "{done:?}: all that was condemned is gone"
        );
        copy.restores_all_but_what_hurts(&report);
    }
}

#[test]
fn damaged_key_files_hurt_nothing_where_the_writer_secret_is_kept() {
    let pristine = sealed();
    let identity = pristine.key(|body| matches!(body, KeyBody::Identity { .. }));
    let recipient = pristine.key(|body| matches!(body, KeyBody::Recipient { .. }));
    let writer = pristine.key(|body| matches!(body, KeyBody::SealedWriter { .. }));
    for (path, other) in [(&identity, &recipient), (&recipient, &writer), (&writer, &identity)] {
        every_harm(pristine, path, other, |done| Expected {
            least: Some(Level::Default),
            instead: (done == Harm::Deleted).then_some("keys/"),
        });
    }
}

#[test]
fn a_damaged_writer_secret_hurts_nothing_without_encryption_either() {
    let writer = &plain().under("keys/")[0];
    for done in HARMS.into_iter().filter(|done| *done != Harm::Swapped) {
        let copy = plain().copy();
        let named = harm(&copy, done, writer, writer);
        let report = copy.check(Level::Default);
        let found = told(&report);
        match done {
            Harm::Deleted => assert_eq!(found, BTreeSet::from(["keys/"])),
            Harm::DoubledUnderAnId | Harm::DoubledAsBackup => assert_eq!(found, BTreeSet::from([&*named[0]])),
            _ => assert_eq!(found, BTreeSet::from(["keys/", &*named[0]])),
        }
        copy.restores_all_but_what_hurts(&report);
    }
}

#[test]
fn a_damaged_config_is_refused_with_words_that_say_so() {
    for pristine in [sealed(), plain()] {
        for done in HARMS.into_iter().take(6) {
            let copy = pristine.copy();
            let before = copy.open(&NoSecrets);
            harm(&copy, done, "config", "config");
            let refused = Repository::open(&copy.opening(&pristine.state(), &NoSecrets)).err().unwrap();
            let said = refused.to_string();
            match done {
                Harm::Deleted => assert!(matches!(refused, RepoError::NotThere { .. }), "{said}"),
                _ => {
                    assert!(matches!(refused, RepoError::Config { .. }) && said.contains("config"), "{said}")
                }
            }
            // A check that had it open already tells.
            let progress = Progress::default();
            let report = check(&before, &NoSecrets, &request(Level::Default, &progress)).unwrap();
            assert_eq!(damaged(&report), BTreeSet::from(["config"]), "{done:?}");
            assert!(report.hurt.is_empty());
        }
    }
    let copy = sealed().copy();
    copy.put("config", &fs::read(plain().repo().join("config")).unwrap());
    let refused = Repository::open(&copy.opening(&sealed().state(), &NoSecrets)).err().unwrap();
    assert!(matches!(refused, RepoError::NoWriterSecret { .. }), "another repository's config: {refused}");
}

/// Returns whether a check removed the cache, which harms nobody, and said so.
fn is_removed(copy: &Copy<'_>, report: &Report) -> bool {
    let is_told = report.notes.iter().any(|note| note.starts_with(CACHE) && note.contains("was removed"));
    is_told && !copy.path(CACHE).exists() && report.damages.is_empty()
}

#[test]
fn a_damaged_cache_hurts_nothing() {
    for (pristine, other) in [(sealed(), plain()), (plain(), sealed())] {
        for done in HARMS.into_iter().take(6) {
            let copy = pristine.copy();
            harm(&copy, done, CACHE, CACHE);
            let report = copy.check(Level::Packs);
            match done {
                Harm::Deleted | Harm::Emptied => {
                    assert!(report.notes.iter().any(|note| note.starts_with(CACHE)))
                }
                // Most of the file is unused: what is not read can't be wrong.
                Harm::FlippedInside | Harm::FlippedAtEnd => {}
                _ => assert!(is_removed(&copy, &report), "{done:?}: {report:#?}"),
            }
            assert!(report.damages.is_empty(), "a cache is no part of the repository: {report:#?}");
            assert!(report.hurt.is_empty() && found_elsewhere(&report, &[CACHE.to_owned()]).is_empty());
            copy.restores_all_but_what_hurts(&report);
        }
        let copy = pristine.copy();
        copy.put(CACHE, &fs::read(other.repo().join(CACHE)).unwrap());
        let report = copy.check(Level::Default);
        assert!(report.is_sound() && report.notes.iter().any(|note| note.starts_with(CACHE)), "{report:#?}");
        copy.restores_all_but_what_hurts(&report);
    }
}

#[test]
fn flipped_bits_all_over_the_cache_never_panic_and_never_hurt() {
    let good = fs::read(plain().repo().join(CACHE)).unwrap();
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let copy = plain().copy();
    for round in 0..200 {
        let mut bytes = good.clone();
        bytes[used[round * used.len() / 200]] ^= 1 << (round % 8);
        copy.put(CACHE, &bytes);
        let report = copy.check(Level::Packs);
        assert_eq!(found_elsewhere(&report, &[CACHE.to_owned()]), [""; 0]);
        assert!(report.hurt.is_empty());
        let index = Index::open(&copy.open(&NoSecrets)).unwrap();
        // A pack whose length the cache has wrong is taken for one that is cut; no more than that one.
        assert!(index.packs().filter(|(_, _, is_lost)| !is_lost).count() as u64 + 1 >= report.packs);
    }
}

#[test]
fn a_wrong_row_of_the_cache_is_found_by_who_reads_packs() {
    let copy = plain().copy();
    let Some(Name::Fragment(id)) = Name::parse(&plain().under("index/")[0]) else { panic!("a fragment") };
    let fragment = read_fragment(&copy.open(&NoSecrets), id).unwrap();
    let good = copy.get(CACHE);
    for chunk in refs(&fragment.packs[0].directory.chunks).step_by(20) {
        // Wherever its row lies: pages that are no longer used hold copies of it.
        let mut bytes = good.clone();
        for at in 0..bytes.len() - 16 {
            if bytes[at..].starts_with(chunk.id.as_bytes()) {
                bytes[at] ^= 1;
            }
        }
        assert_ne!(bytes, good);
        copy.put(CACHE, &bytes);
        let report = copy.check(Level::Packs);
        assert!(is_removed(&copy, &report), "{report:#?}");
    }
}

#[test]
fn a_cache_that_gives_two_chunks_one_place_never_yields_wrong_bytes() {
    use redb::{ReadableDatabase, ReadableTable};
    const CHUNKS: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("chunks");
    type Row = [u8; 30]; // 16 of the id, 14 of the place, the chunk's length last
    let copy = plain().copy();
    let database = redb::Database::open(copy.path(CACHE)).unwrap();
    let read = database.begin_read().unwrap().open_table(CHUNKS).unwrap();
    let blocks: Vec<(u64, Vec<Row>)> = read
        .iter()
        .unwrap()
        .map(|block| block.unwrap())
        .map(|(key, rows)| (key.value(), rows.value().as_chunks().0.to_vec()))
        .collect();
    drop(read);
    let write = database.begin_write().unwrap();
    let mut firsts: BTreeMap<[u8; 4], [u8; 14]> = BTreeMap::new();
    let mut moved = 0;
    for (key, mut rows) in blocks {
        // Chunks of one length: each gets the place of the first.
        for row in &mut rows {
            let place = *row.last_chunk().unwrap();
            let first = firsts.entry(*row.last_chunk().unwrap()).or_insert(place);
            moved += usize::from(*first != place);
            row[16..].copy_from_slice(first);
        }
        write.open_table(CHUNKS).unwrap().insert(key, rows.as_flattened()).unwrap();
    }
    write.commit().unwrap();
    drop(database);
    assert!(moved > 10, "{moved} chunks have the length of another");
    let report = copy.check(Level::Default);
    assert!(report.is_sound(), "where chunks lie is compared when packs are read");
    copy.restores_all_but_what_hurts(&report);
    let report = copy.check(Level::Packs);
    assert!(is_removed(&copy, &report), "{report:#?}");
}

#[test]
fn losing_all_fragments_and_the_cache_loses_nothing() {
    for pristine in [sealed(), plain()] {
        let copy = pristine.copy();
        pristine.under("index").iter().for_each(|path| copy.remove(path));
        let report = copy.check(Level::Default);
        assert!(report.is_sound(), "{report:#?}");
        assert!(report.notes.iter().any(|note| note.contains("listed by no fragment")), "{:?}", report.notes);
        copy.restores_all_but_what_hurts(&report);
        let _ = fs::remove_file(copy.path(CACHE)); // the restore may have made it
        let repaired = copy.repair().repaired;
        assert_eq!(repaired.len(), 2, "{repaired:?}");
        let report = copy.check(Level::Data);
        assert!(report.is_sound() && report.notes.is_empty(), "{report:#?}");
        copy.restores_all_but_what_hurts(&report);
    }
}

#[test]
fn a_damaged_pack_is_not_listed_anew() {
    let copy = sealed().copy();
    sealed().under("index/").iter().for_each(|path| copy.remove(path));
    let packs = sealed().packs(false);
    harm(&copy, Harm::FlippedInside, &packs[0], &packs[1]);
    let report = copy.repair();
    assert!(damaged(&report).contains(&*packs[0]), "{report:#?}");
    let repository = copy.open(&NoSecrets);
    let fragments = repository.store().list(snap::store::Folder::Index).unwrap();
    let Some(Name::Fragment(id)) = fragments[0].name else { panic!("a fragment") };
    let listed = read_fragment(&repository, id).unwrap().packs;
    assert_eq!(listed.len() + 1, packs.len() + sealed().packs(true).len());
    assert!(listed.iter().all(|pack| Name::Pack(pack.id).to_string() != packs[0]));
}

#[test]
fn a_condemned_pack_is_not_listed_anew() {
    let copy = pruned().copy();
    pruned().under("index/").iter().for_each(|path| copy.remove(path));
    let condemned = copy.open(&NoSecrets).marks().unwrap().packs();
    assert!(condemned.keys().any(|id| copy.path(&Name::Pack(*id).to_string()).exists()));
    let report = copy.repair();
    let repository = copy.open(&NoSecrets);
    let mut listed = BTreeSet::new();
    for found in repository.store().list(snap::store::Folder::Index).unwrap() {
        let Some(Name::Fragment(id)) = found.name else { panic!("{}", found.path) };
        listed.extend(read_fragment(&repository, id).unwrap().packs.into_iter().map(|pack| pack.id));
    }
    assert!(!listed.is_empty(), "{report:#?}");
    assert!(condemned.keys().all(|id| !listed.contains(id)), "{report:#?}");
    copy.restores_all_but_what_hurts(&copy.check(Level::Data));
}

#[test]
fn a_damaged_fragment_and_a_damaged_cache_are_repaired() {
    let copy = sealed().copy();
    let fragments = sealed().under("index/");
    harm(&copy, Harm::FlippedInside, &fragments[0], &fragments[1]);
    copy.put(CACHE, b"no database");
    let report = copy.repair();
    assert_eq!(damaged(&report), BTreeSet::from([&*fragments[0]]));
    assert_eq!(report.repaired.len(), 2, "{:?}", report.repaired);
    let report = copy.check(Level::Data);
    assert_eq!(damaged(&report), BTreeSet::from([&*fragments[0]]), "what to remove is the user's to say");
    copy.remove(&fragments[0]);
    let report = copy.check(Level::Data);
    assert!(report.is_sound() && report.notes.is_empty(), "{report:#?}");
    copy.restores_all_but_what_hurts(&report);
}

#[test]
fn a_lost_writer_secret_is_sealed_anew_on_a_machine_that_keeps_it() {
    let copy = sealed().copy();
    copy.remove(&sealed().key(|body| matches!(body, KeyBody::SealedWriter { .. })));
    let report = copy.check(Level::Data);
    assert_eq!(damaged(&report), BTreeSet::from(["keys/"]));
    copy.restores_all_but_what_hurts(&report);
    let elsewhere = tempfile::tempdir().unwrap();
    let open_elsewhere = || Repository::open(&copy.opening(elsewhere.path(), &sealed().secrets));
    open_elsewhere().unwrap(); // each content pack carries it too
    assert_eq!(copy.repair().repaired.len(), 1);
    assert!(copy.check(Level::Data).is_sound());
    open_elsewhere().unwrap();
}

#[test]
fn frames_before_the_cut_of_a_pack_restore() {
    for pristine in [sealed(), plain()] {
        let index = Index::open_without_cache(&pristine.copy().open(&NoSecrets)).unwrap();
        let packs =
            index.packs().map(|(_, pack, _)| pack).filter(|pack| !pack.is_tree && pack.frames.len() > 1);
        let mut is_shown = false;
        for pack in packs {
            let path = Name::Pack(pack.id).to_string();
            let hurt_if_cut_to = |bytes: u32| {
                let copy = pristine.copy();
                copy.put(&path, &copy.get(&path)[..bytes as usize]);
                let report = copy.check(Level::Data);
                let key = |hurt: &check::Hurt| (hurt.snapshot, hurt.path.clone());
                let cheap: Vec<_> = copy.check(Level::Default).hurt.iter().map(key).collect();
                assert_eq!(report.hurt.iter().map(key).collect::<Vec<_>>(), cheap, "the length alone tells");
                copy.restores_all_but_what_hurts(&report);
                report.hurt.len()
            };
            let (all, some) = (hurt_if_cut_to(pack.frames[0].offset), hurt_if_cut_to(pack.frames[1].offset));
            assert!(0 < some && some <= all, "{some} of {all}");
            assert_eq!(hurt_if_cut_to(pack.frames[1].offset - 1), all, "the first frame is cut as well");
            // Where the second frame holds the headers of all that is in the first, all is hurt anyway.
            is_shown |= some < all;
        }
        assert!(is_shown, "in some pack the first frame alone is of use");
    }
}

#[test]
fn a_chunk_that_lies_intact_in_another_pack_is_not_hurt() {
    let copy = sealed().copy();
    let packs = sealed().packs(false);
    let mut bytes = copy.get(&packs[0]);
    copy.remove(&packs[0]);
    let lost = copy.check(Level::Default);
    // What the source still has is stored anew; then the old pack comes back, damaged.
    back_up(&copy.open(&NoSecrets), &sealed().folder.path().join("source"), 1);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    copy.put(&packs[0], &bytes);
    let report = copy.check(Level::Data);
    assert_eq!(damaged(&report), BTreeSet::from([&*packs[0]]));
    assert!(report.hurt.len() < lost.hurt.len(), "{:#?}", report.hurt);
    copy.restores_all_but_what_hurts(&report);
}

#[test]
fn without_a_key_every_file_of_a_damaged_pack_may_be_hurt() {
    let paths = |report: &Report| -> BTreeSet<_> {
        report.hurt.iter().map(|hurt| (hurt.snapshot, hurt.path.clone())).collect()
    };
    let is_guess = |hurt: &check::Hurt| hurt.reason.contains("may be hurt");
    let copy = sealed().copy();
    let packs = sealed().packs(false);
    harm(&copy, Harm::FlippedInside, &packs[0], &packs[1]);
    let (guessed, sure) = (copy.check(Level::Packs), copy.check(Level::Data));
    assert_eq!(damaged(&guessed), damaged(&sure));
    assert!(guessed.hurt.iter().all(is_guess) && !sure.hurt.iter().any(is_guess));
    assert!(!sure.hurt.is_empty() && paths(&sure).is_subset(&paths(&guessed)));
    // Without encryption there is no need to guess.
    let copy = plain().copy();
    let packs = plain().packs(false);
    harm(&copy, Harm::FlippedInside, &packs[0], &packs[1]);
    assert_eq!(copy.check(Level::Packs).hurt, copy.check(Level::Data).hurt);
}

#[test]
fn every_file_of_a_damaged_pack_may_be_hurt_if_the_key_at_hand_does_not_open_it() {
    let paths = |report: &Report| -> BTreeSet<_> {
        report.hurt.iter().map(|hurt| (hurt.snapshot, hurt.path.clone())).collect()
    };
    let copy = sealed().copy();
    let packs = sealed().packs(false);
    harm(&copy, Harm::FlippedInside, &packs[0], &packs[1]);
    let (repository, progress) = (copy.open(&NoSecrets), Progress::default());
    repository.unlock(&Given(vec![Identity::generate()])).unwrap();
    let report = check(&repository, &NoSecrets, &request(Level::Packs, &progress)).unwrap();
    let without_key = copy.check(Level::Packs);
    assert_eq!(damaged(&report), damaged(&without_key));
    assert!(!paths(&report).is_empty());
    assert_eq!(paths(&report), paths(&without_key));
}

#[test]
fn parts_of_the_packs_can_be_read_and_together_they_find_all() {
    let copy = sealed().copy();
    let packs = sealed().packs(false);
    harm(&copy, Harm::FlippedInside, &packs[0], &packs[1]);
    let (repository, progress) = (copy.open(&NoSecrets), Progress::default());
    let part = |subset: Subset| {
        let request = check::Request { subset: Some(subset), ..request(Level::Data, &progress) };
        check(&repository, &sealed().secrets, &request).unwrap()
    };
    let parts: Vec<Report> = (1..=3).map(|number| part(Subset::Part { number, of: 3 })).collect();
    assert_eq!(parts.iter().map(|report| report.packs_read).sum::<u64>(), parts[0].packs);
    assert_eq!(parts.iter().filter(|report| !report.is_sound()).count(), 1);
    assert_eq!(part(Subset::Percent(1.0)).packs_read, 1);
}

#[test]
fn data_is_not_read_without_a_key_and_a_stopped_check_ends() {
    let copy = sealed().copy();
    let (repository, progress) = (copy.open(&NoSecrets), Progress::default());
    let locked = check(&repository, &NoSecrets, &request(Level::Data, &progress));
    assert!(matches!(locked, Err(RepoError::Locked)));
    progress.cancel();
    let stopped = check(&repository, &NoSecrets, &request(Level::Packs, &progress));
    assert!(matches!(stopped, Err(RepoError::Interrupted)));
}

#[test]
fn content_sealed_to_somebody_else_is_counted_and_not_called_damaged() {
    let copy = sealed().copy();
    let stranger = Given(vec![Identity::generate()]);
    let (repository, progress) = (copy.open(&NoSecrets), Progress::default());
    let report = check(&repository, &stranger, &request(Level::Data, &progress)).unwrap();
    assert!(report.is_sound(), "{report:#?}");
    assert!(report.frames_closed > 0 && report.chunks_read > 0, "trees are read all the same");
}

#[test]
fn a_cache_whose_rows_make_no_sense_is_made_anew() {
    let copy = plain().copy();
    let repository = copy.open(&NoSecrets);
    let rows = || -> Result<BTreeMap<_, _>, CacheError> {
        let rows = Cache::open(&copy.path(CACHE), repository.id())?.packs()?;
        Ok(rows.into_iter().map(|(_, row)| (row.id, row.bytes)).collect())
    };
    let good = rows().unwrap();
    let (id, _) = good.first_key_value().unwrap();
    let mut bytes = copy.get(CACHE);
    for at in 0..bytes.len() - 33 {
        if bytes[at..].starts_with(id.as_bytes()) {
            bytes[at + 32] = 0xff; // begins no number
        }
    }
    copy.put(CACHE, &bytes);
    assert!(rows().is_err());
    let index = Index::open(&repository).unwrap();
    assert_eq!(index.packs().count(), good.len());
    drop(index);
    assert_eq!(rows().unwrap(), good);
}

#[test]
fn a_cache_that_cannot_be_brought_up_to_date_is_made_anew() {
    const META: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
    const FRAGMENTS: redb::TableDefinition<'_, [u8; 32], &[u8]> = redb::TableDefinition::new("fragments");
    let copy = plain().copy();
    let database = redb::Database::open(copy.path(CACHE)).unwrap();
    let write = database.begin_write().unwrap();
    let mut fragments = write.open_table(FRAGMENTS).unwrap();
    fragments.pop_first().unwrap();
    drop(fragments);
    let mut meta = write.open_table(META).unwrap();
    meta.insert("next", [0xff_u8].as_slice()).unwrap(); // no number
    drop(meta);
    write.commit().unwrap();
    drop(database);
    let repository = copy.open(&NoSecrets);
    let listed = || Cache::open(&copy.path(CACHE), repository.id()).unwrap().fragments().len();
    assert_eq!(listed(), 1);
    drop(Index::open(&repository).unwrap());
    assert_eq!(listed(), 2);
}

#[test]
fn a_file_that_is_no_cache_is_neither_removed_nor_written() {
    let (copy, state) = (plain().copy(), plain().state());
    let path = copy.path("config.toml");
    let no_cache = b"[repository]\npath = \"/srv/backup\"\n";
    for (bytes, is_cache) in [(&no_cache[..], false), (b"", true), (b"redb\x1a\x0a\xa9\x0d\x0a, cut", true)] {
        fs::write(&path, bytes).unwrap();
        let opening = Opening { index: Some(path.clone()), ..copy.opening(&state, &NoSecrets) };
        let repository = Repository::open(&opening).unwrap();
        assert!(Index::open(&repository).unwrap().packs().count() > 0, "it works without");
        back_up(&repository, &plain().folder.path().join("source"), 1);
        assert_eq!(fs::read(&path).unwrap() == bytes, !is_cache);
        assert_eq!(remove_cache(&path).is_ok(), is_cache);
        assert_eq!(path.exists(), !is_cache);
    }
    remove_cache(&copy.path("none")).unwrap();
    fs::create_dir(copy.path("folder.redb")).unwrap();
    assert!(remove_cache(&copy.path("folder.redb")).is_err());
}

/// A store that can't list one folder: a bad sector in a directory, say.
struct Blind {
    inner: LocalStore,
    folder: Folder,
}

impl Store for Blind {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        self.inner.begin()
    }

    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.read(name, bytes_max)
    }

    fn read_range(&self, name: &Name, range: std::ops::Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.inner.read_range(name, range)
    }

    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        match folder == self.folder {
            true => Err(StoreError::Io {
                path: folder.name().to_owned(),
                verb: "list",
                source: rustix::io::Errno::IO.into(),
            }),
            false => self.inner.list(folder),
        }
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.inner.delete(name)
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        self.inner.lock(mode)
    }

    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        self.inner.sweep_uploads()
    }
}

#[test]
fn who_cannot_list_packs_or_marks_reads_on_and_stores_nothing() {
    for folder in [Folder::Packs, Folder::Condemned] {
        for index in [Some(CACHE), None] {
            let (copy, state) = (plain().copy(), plain().state());
            let opening = Opening {
                store: Arc::new(Blind { inner: LocalStore::new(copy.folder.path()), folder }),
                index: index.map(|name| copy.path(name)),
                ..copy.opening(&state, &NoSecrets)
            };
            let repository = Repository::open(&opening).unwrap();
            let index = Index::open_to_read(&repository).unwrap();
            let problems: Vec<&str> = index.problems().iter().map(|(path, _)| path.as_str()).collect();
            assert_eq!(problems, [format!("{}/", folder.name())]);
            assert!(index.has_losses(), "nothing of an earlier snapshot is taken over unread");
            let refused = index.find_lasting(&ChunkId::from_bytes([0; 16]));
            assert!(matches!(refused, Err(RepoError::Refused { .. })), "{refused:?}");
            assert_eq!(index.proven_orphans().count(), 0);
            drop(index);
            let all = repository.snapshots().unwrap().all;
            for (snapshot, expected) in all.iter().zip(&plain().files) {
                let (lacks, restored) = copy.restore(&repository, snapshot);
                assert_eq!((shown(&lacks), &restored), (Vec::new(), expected));
            }
            let before = files_below(copy.folder.path());
            assert!(matches!(Index::open(&repository), Err(RepoError::Store(_))));
            assert!(try_back_up(&repository, &plain().folder.path().join("source"), 1).is_err());
            assert_eq!(files_below(copy.folder.path()), before);
        }
    }
}

#[test]
fn a_directory_at_a_pack_s_end_that_is_too_long_is_refused_before_it_is_read() {
    let copy = plain().copy();
    let id = PackId::from_bytes([0x5a; 32]);
    let bytes: u64 = 700 << 20;
    let trailer = Trailer { directory_offset: 100, directory_bytes: bytes - 100 - 32, frame_count: 1 };
    copy.put(&Name::Pack(id).to_string(), b"");
    let file = fs::OpenOptions::new().write(true).open(copy.path(&Name::Pack(id).to_string())).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &trailer.to_bytes(), bytes - 32).unwrap();
    let refused = read_directory(&copy.open(&NoSecrets), id, bytes).unwrap_err().chain();
    assert!(refused.contains("longer than any may be"), "{refused}");
}

#[test]
fn stats_count_a_chunk_once_in_however_many_packs_it_lies() {
    let copy = plain().copy();
    let repository = copy.open(&NoSecrets);
    let before = stats(&repository).unwrap();
    let report = prune_to(&repository, 1, 2);
    assert!(report.repacked.packs > 0, "{report:?}");
    let after = stats(&repository).unwrap();
    assert!(after.bytes_content > before.bytes_content, "what was repacked is there still: {after:?}");
    assert_eq!((after.chunks, after.bytes_raw), (before.chunks, before.bytes_raw));
    let state = plain().state();
    let opening = Opening { index: None, ..copy.opening(&state, &NoSecrets) };
    assert_eq!(stats(&Repository::open(&opening).unwrap()).unwrap(), after, "without a cache as well");
}

#[test]
fn another_programs_database_is_no_cache_and_stays() {
    const USERS: redb::TableDefinition<u64, u64> = redb::TableDefinition::new("users");
    let (copy, folder) = (plain().copy(), tempfile::tempdir().unwrap());
    let path = folder.path().join("app.redb");
    let database = redb::Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(USERS).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    drop(database);
    let state = plain().state();
    let opening = Opening { index: Some(path.clone()), ..copy.opening(&state, &NoSecrets) };
    let repository = Repository::open(&opening).unwrap();
    assert!(Index::open(&repository).unwrap().packs().count() > 0, "works without");
    assert!(rebuild_index(&repository, &Progress::default()).is_err());
    drop(repository);
    use redb::ReadableDatabase;
    let database = redb::Database::create(&path).unwrap();
    let read = database.begin_read().unwrap();
    assert_eq!(read.open_table(USERS).unwrap().get(1).unwrap().map(|row| row.value()), Some(2));
}
