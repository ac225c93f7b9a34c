//! A source that is suddenly something else: what is still there of the last whole snapshot, against a slow oracle;
//! and the days on which a mail server must, and must not, be suspected.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::repo::{backup_request, create_plain, deliver, maildir, next_tick, open};
use common::{Noise, seed};
use snap::base::progress::Progress;
use snap::op::backup::{self, Care, Component, Finding, Input, Report, Shrink, Stream, Suspected};
use snap::op::tag::{Change, tag};
use snap::repo::config::Choices;
use snap::repo::{Repository, Snapshot};
use snap::store::MemoryStore;
use tempfile::TempDir;

const START: i64 = 1_767_582_000;
const DAY: i64 = 86_400;

/// A repository, and a source that changes from day to day.
struct Scene {
    folder: TempDir,
    disk: MemoryStore,
    noise: Noise,
    day: i64,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let disk = MemoryStore::default();
        fs::create_dir(folder.path().join("state")).expect("folder is made");
        create_plain(Arc::new(disk.clone()), &folder.path().join("state"), Choices::default())
            .expect("repository");
        fs::create_dir(folder.path().join("source")).expect("folder is made");
        Self { folder, disk, noise: Noise::new(seed), day: 0 }
    }

    fn open(&self) -> Repository {
        open(Arc::new(self.disk.clone()), &self.folder.path().join("state"), None).expect("repository opens")
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.source().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("has a folder")).expect("folder is made");
        fs::write(path, bytes).expect("file is written");
    }

    fn component(&self, care: Care) -> Component {
        Component {
            name: "mail".to_owned(),
            directory: b"mail".to_vec(),
            paths: vec![self.source()],
            streams: Vec::new(),
            excludes: Vec::new(),
            care,
        }
    }

    /// Backs the source up, a day later.
    fn night_of(&mut self, component: Component) -> Report {
        let report = self.try_night_of(component);
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        report
    }

    fn try_night_of(&mut self, component: Component) -> Report {
        self.day += 1;
        let progress = Progress::default();
        let request = backup::Request {
            tags: vec!["daily".to_owned()],
            host: "mx1".to_owned(),
            run: Some("mailserver".to_owned()),
            ..backup_request(vec![component], START + self.day * DAY, &progress)
        };
        next_tick(); // else what was just written is read once more
        backup::backup(&self.open(), request).expect("backup")
    }

    fn night(&mut self) -> Vec<Finding> {
        let component = self.component(Care::default());
        findings(&self.night_of(component))
    }

    /// Backs up a dump of so many bytes beside the source.
    fn dump(&mut self, bytes: usize, may_be_empty: bool) -> Vec<Finding> {
        let dump = self.noise.bytes(bytes);
        let input = Input::Reader(Box::new(std::io::Cursor::new(dump)));
        let stream = Stream { name: b"db.sql".to_vec(), input, may_be_empty, ends_with: None };
        let component = Component { streams: vec![stream], ..self.component(Care::default()) };
        findings(&self.night_of(component))
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut todo = vec![self.source()];
        while let Some(folder) = todo.pop() {
            for entry in fs::read_dir(folder).expect("folder lists").flatten() {
                match entry.file_type().expect("has a type").is_dir() {
                    true => todo.push(entry.path()),
                    false => files.push(entry.path()),
                }
            }
        }
        files.sort();
        files
    }

    fn empty_source(&self) {
        for entry in fs::read_dir(self.source()).expect("folder lists").flatten() {
            match entry.path().is_dir() {
                true => fs::remove_dir_all(entry.path()).expect("folder goes"),
                false => fs::remove_file(entry.path()).expect("file goes"),
            }
        }
    }
}

fn findings(report: &Report) -> Vec<Finding> {
    report.suspects.iter().flat_map(|suspect| suspect.findings.clone()).collect()
}

/// A file as the oracle sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    bytes: Vec<u8>,
    /// The Maildir folder, if it is a message.
    folder: Option<PathBuf>,
    counts: bool,
}

/// What the source holds, by path.
fn look(scene: &Scene) -> BTreeMap<PathBuf, Seen> {
    let is_folder = |path: &Path| path.join("cur").is_dir() && path.join("new").is_dir();
    let rows = scene.files().into_iter().map(|path| {
        let parent = path.parent().expect("has a parent").to_owned();
        let side = parent.file_name().is_some_and(|name| name == "cur" || name == "new");
        let folder = parent.parent().filter(|above| side && is_folder(above)).map(Path::to_owned);
        let above: Vec<&Path> =
            path.ancestors().skip(1).take_while(|it| it.starts_with(scene.source())).collect();
        let counts = folder.is_some() || !above.iter().any(|it| is_folder(it));
        let bytes = fs::read(&path).expect("file reads");
        (path, Seen { bytes, folder, counts })
    });
    rows.collect()
}

fn unique(path: &Path) -> String {
    let name = path.file_name().expect("has a name").to_string_lossy().into_owned();
    name.split(":2,").next().unwrap_or_default().to_owned()
}

/// Compares file by file, each with each: what the walk and the two trees must come to as well.
fn oracle(old: &BTreeMap<PathBuf, Seen>, new: &BTreeMap<PathBuf, Seen>) -> Vec<Finding> {
    let is_there = |seen: &Seen| seen.bytes.is_empty() || new.values().any(|other| other.bytes == seen.bytes);
    let count = |is_mail: bool| {
        let rows = old.values().filter(|seen| seen.counts && (!is_mail || seen.folder.is_some()));
        let (kept, lost): (Vec<&Seen>, Vec<&Seen>) = rows.partition(|seen| is_there(seen));
        let sum = |rows: &[&Seen]| rows.iter().map(|seen| seen.bytes.len() as u64).sum::<u64>();
        let (kept_files, lost_files) = (kept.len() as u64, lost.len() as u64);
        let is_less = (lost_files >= 20 && lost_files > kept_files)
            || (sum(&lost) >= 10_000_000 && sum(&lost) > sum(&kept));
        (kept_files, sum(&kept), kept_files + lost_files, sum(&kept) + sum(&lost), is_less)
    };
    let amounts = |(kept_files, kept_bytes, files, bytes, _): (u64, u64, u64, u64, bool)| {
        let amount = |files, bytes| backup::Amount { files, bytes };
        (amount(kept_files, kept_bytes), amount(files, bytes))
    };
    let (mail, all) = (count(true), count(false));
    if !new.values().any(|seen| seen.counts) {
        let had = amounts(if mail.2 > 0 { mail } else { all }).1;
        let finding = Finding::Nothing { is_mail: mail.2 > 0, had };
        return (all.2 > 0).then_some(finding).into_iter().collect();
    }
    let mut findings = Vec::new();
    for (is_mail, count) in [(true, mail), (false, all)] {
        if count.4 && findings.is_empty() {
            let (kept, had) = amounts(count);
            findings.push(Finding::Less { is_mail, kept, had });
        }
    }
    let rewritten = old.iter().filter(|(path, seen)| {
        let namesakes = new.iter().filter(|(other, it)| {
            it.folder.is_some() && it.folder == seen.folder && unique(other) == unique(path)
        });
        seen.folder.is_some() && !is_there(seen) && namesakes.count() > 0
    });
    let rewritten = rewritten.count() as u64;
    findings.extend((rewritten >= 20).then_some(Finding::Rewritten(rewritten)));
    findings
}

/// Returns a place for file `number`: in one of three Maildirs, beside their messages, or elsewhere.
fn place(noise: &mut Noise, number: u64) -> String {
    let user = noise.below(3);
    match noise.below(7) {
        0 => format!("u{user}/new/{number}.host"),
        1 | 2 => format!("u{user}/cur/{number}.host:2,S"),
        3 => format!("u{user}/.Sent/cur/{number}.host:2,"),
        4 => format!("u{user}/index/{number}"),
        5 => format!("etc/{number}"),
        _ => format!("etc/deep/er/{number}"),
    }
}

fn make_folders(scene: &Scene) {
    for user in 0..3 {
        for folder in ["", ".Sent/"] {
            for side in ["cur", "new", "tmp"] {
                fs::create_dir_all(scene.path(&format!("u{user}/{folder}{side}"))).expect("folder is made");
            }
        }
    }
}

/// Changes the source at random; how much of it changes in which way is drawn first.
fn change(scene: &mut Scene, next: &mut u64) {
    let odds: Vec<u64> = (0..5).map(|_| scene.noise.below(4) * scene.noise.below(30)).collect();
    for path in scene.files() {
        let draw = |noise: &mut Noise, odds: u64| noise.below(100) < odds;
        let noise = &mut scene.noise;
        if draw(noise, odds[0]) {
            fs::remove_file(&path).expect("file goes");
        } else if draw(noise, odds[1]) {
            *next += 1;
            let to = place(noise, *next);
            fs::create_dir_all(scene.path(&to).parent().expect("has a folder")).expect("folder is made");
            fs::rename(&path, scene.path(&to)).expect("file moves");
        } else if draw(noise, odds[2]) {
            let bytes = noise.bytes(300);
            fs::write(&path, bytes).expect("file is written");
        } else if draw(noise, odds[3]) {
            *next += 1;
            let to = place(noise, *next);
            fs::create_dir_all(scene.path(&to).parent().expect("has a folder")).expect("folder is made");
            fs::copy(&path, scene.path(&to)).expect("file is copied");
        } else if draw(noise, odds[4]) {
            let mut to = path.clone().into_os_string();
            to.push(".locked");
            let bytes = noise.bytes(301);
            fs::write(&path, bytes).expect("file is written");
            fs::rename(&path, to).expect("file moves");
        }
    }
}

#[test]
fn what_is_still_there_is_counted_as_the_slow_oracle_counts_it() {
    let mut scene = Scene::new(seed());
    let (mut guilty, mut next) = (0, 0);
    for round in 0..24 {
        scene.empty_source();
        make_folders(&scene);
        for _ in 0..40 + scene.noise.below(60) {
            next += 1;
            let name = place(&mut scene.noise, next);
            let length = 1 + scene.noise.below(900) as usize;
            let bytes = scene.noise.bytes(length);
            scene.write(&name, &bytes);
        }
        let accepted = Care { is_accepted: true, ..Care::default() };
        let component = scene.component(accepted);
        let _ = scene.night_of(component);
        let before = look(&scene);
        if scene.noise.below(4) == 0 {
            // A night without the disk lies between: what was read last is not what counts.
            fs::rename(scene.source(), scene.folder.path().join("away")).expect("the disk goes");
            fs::create_dir(scene.source()).expect("an empty place is left");
            assert!(matches!(scene.night()[..], [Finding::Nothing { .. }]), "round {round}");
            fs::remove_dir(scene.source()).expect("the place goes");
            fs::rename(scene.folder.path().join("away"), scene.source()).expect("the disk is back");
        }
        change(&mut scene, &mut next);
        let after = look(&scene);
        let found = scene.night();
        assert_eq!(found, oracle(&before, &after), "round {round}");
        guilty += usize::from(!found.is_empty());
    }
    assert!((2..23).contains(&guilty), "{guilty} of 24 rounds were suspect: both sides are to be tried");
}

#[test]
fn a_mail_disk_that_is_not_mounted_is_suspect_every_night_until_it_is_back() {
    let mut scene = Scene::new(1);
    maildir(&scene.path("anna"), 30, 500, &mut Noise::new(2));
    assert_eq!(scene.night(), []);
    fs::rename(scene.source(), scene.folder.path().join("away")).expect("the disk goes");
    maildir(&scene.path("anna"), 0, 0, &mut Noise::new(2)); // Dovecot makes empty folders, and writes to them
    scene.write("anna/dovecot.index.log", b"new");
    for _ in 0..3 {
        assert!(matches!(scene.night()[..], [Finding::Nothing { is_mail: true, had }] if had.files == 30));
    }
    let snapshots = scene.open().snapshots().expect("snapshots").all;
    let whole: Vec<bool> = snapshots
        .iter()
        .map(|snapshot| snapshot.manifest.is_whole(&snapshot.manifest.components[0]))
        .collect();
    assert_eq!(whole, [true, false, false, false]);
    fs::remove_dir_all(scene.source()).expect("the place goes");
    fs::rename(scene.folder.path().join("away"), scene.source()).expect("the disk is back");
    let component = scene.component(Care::default());
    let back = scene.night_of(component);
    assert!(back.is_whole());
    assert_eq!(back.manifest.totals.bytes_read, 0, "what was there before is known");
}

#[test]
fn nothing_is_suspect_also_where_what_there_was_cannot_be_read_any_more() {
    let mut scene = Scene::new(1);
    maildir(&scene.path("anna"), 30, 500, &mut Noise::new(2));
    assert_eq!(scene.night(), []);
    let mut files = scene.disk.files();
    files.retain(|path, _| !path.starts_with("packs/"));
    scene.disk = MemoryStore::of(files);
    scene.empty_source();
    let component = scene.component(Care::default());
    let report = scene.try_night_of(component);
    assert!(matches!(findings(&report)[..], [Finding::Nothing { had, .. }] if had.files == 30));
    let told = report.problems.join("\n");
    assert!(told.contains("mail cannot be compared with its last whole snapshot"), "{told}");
}

#[test]
fn an_ordinary_day_of_a_young_server_is_not_suspect() {
    let mut scene = Scene::new(1);
    let users = 25;
    let index = |scene: &mut Scene, user: usize| {
        for name in
            ["dovecot.index", "dovecot.index.log", "dovecot.index.cache", "dovecot-uidlist", "subscriptions"]
        {
            let bytes = scene.noise.bytes(4000);
            scene.write(&format!("u{user}/{name}"), &bytes);
        }
    };
    for user in 0..users {
        maildir(&scene.path(&format!("u{user}")), 2, 300, &mut Noise::new(user as u64));
        index(&mut scene, user);
    }
    assert_eq!(scene.night(), []);
    for user in 0..users {
        deliver(&scene.path(&format!("u{user}")), 100 + user, 300, &mut Noise::new(100 + user as u64));
        index(&mut scene, user);
    }
    assert_eq!(scene.night(), []);
}

#[test]
fn mailboxes_that_move_to_another_layout_are_not_suspect() {
    let mut scene = Scene::new(1);
    for user in ["anna", "bert"] {
        maildir(
            &scene.path(user),
            40,
            500,
            &mut Noise::new(user.len() as u64 + u64::from(user.as_bytes()[0])),
        );
    }
    assert_eq!(scene.night(), []);
    fs::create_dir(scene.path("example.org")).expect("folder is made");
    for user in ["anna", "bert"] {
        fs::rename(scene.path(user), scene.path(&format!("example.org/{user}"))).expect("mailbox moves");
    }
    assert_eq!(scene.night(), []);
    // To another disk: nothing is the same but the content.
    let all = scene.files();
    fs::create_dir(scene.path("vmail")).expect("folder is made");
    for path in all {
        let below = path.strip_prefix(scene.path("example.org")).expect("lies there").to_owned();
        let to = scene.path("vmail").join(below);
        fs::create_dir_all(to.parent().expect("has a folder")).expect("folder is made");
        fs::write(&to, fs::read(&path).expect("reads")).expect("is written");
    }
    fs::remove_dir_all(scene.path("example.org")).expect("folder goes");
    assert_eq!(scene.night(), []);
}

#[test]
fn mail_that_is_enciphered_is_suspect_in_place_and_under_other_names() {
    for suffix in ["", ".locked"] {
        for part in [100, 35] {
            let mut scene = Scene::new(3);
            maildir(&scene.path("anna"), 100, 500, &mut Noise::new(2));
            assert_eq!(scene.night(), []);
            let flagged = scene.files().into_iter().filter(|path| path.to_string_lossy().contains(":2,"));
            for path in flagged.take(part) {
                let bytes = scene.noise.bytes(700);
                fs::write(&path, bytes).expect("is written");
                let mut to = path.clone().into_os_string();
                to.push(suffix);
                fs::rename(&path, to).expect("file moves");
            }
            let found = scene.night();
            let told = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            assert!(told.contains("is something enciphering the mail?"), "{suffix:?} {part}: {told}");
        }
    }
}

#[test]
fn a_change_of_owner_rereads_all_mail_and_is_not_suspect() {
    let mut scene = Scene::new(1);
    maildir(&scene.path("anna"), 60, 500, &mut Noise::new(2));
    assert_eq!(scene.night(), []);
    for path in scene.files() {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("mode is set");
    }
    assert_eq!(scene.night(), []);
}

#[test]
fn a_dump_that_shrinks_to_a_tenth_is_suspect_and_a_small_one_may() {
    let mut scene = Scene::new(1);
    scene.write("file", b"beside");
    assert_eq!(scene.dump(1_000_000, false), []);
    assert_eq!(scene.dump(600_000, false), [], "to more than half");
    let tenth = scene.dump(60_000, false);
    assert!(matches!(&tenth[..], [Finding::Stream { now: Some(60_000), was: 600_000, .. }]), "{tenth:?}");
    assert_eq!(scene.dump(500_000, false), [], "what counts is the last whole one");
    let mut scene = Scene::new(2);
    assert_eq!(scene.dump(60_000, false), []);
    assert_eq!(scene.dump(10, false), [], "less than 64 KiB are missing");
    assert_eq!(scene.dump(60_000, false), []);
    assert!(matches!(&scene.dump(0, true)[..], [Finding::Stream { now: Some(0), .. }]), "nothing at all");
}

#[test]
fn many_small_removals_are_not_suspect() {
    let mut scene = Scene::new(1);
    maildir(&scene.path("anna"), 400, 300, &mut Noise::new(2));
    assert_eq!(scene.night(), []);
    let mut left = scene.files();
    while left.len() > 20 {
        for path in left.split_off(left.len() - left.len() / 3) {
            fs::remove_file(path).expect("message goes");
        }
        assert_eq!(scene.night(), [], "{} are left", left.len());
    }
}

#[test]
fn a_large_file_that_grows_every_night_is_still_there() {
    let mut scene = Scene::new(1);
    let mut mailbox = scene.noise.bytes(12_000_000);
    scene.write("mbox", &mailbox);
    assert_eq!(scene.night(), []);
    mailbox.extend(scene.noise.bytes(2_000_000));
    scene.write("mbox", &mailbox);
    assert_eq!(scene.night(), []);
    let other = scene.noise.bytes(14_000_000);
    scene.write("mbox", &other);
    assert!(
        matches!(scene.night()[..], [Finding::Less { is_mail: false, .. }]),
        "other bytes of that length"
    );
}

#[test]
fn how_much_may_go_is_set_for_each_component() {
    for (shrink, is_suspect) in [
        (Shrink::Percent(50), true),
        (Shrink::Percent(80), false),
        (Shrink::Percent(10), true),
        (Shrink::Any, false),
    ] {
        let mut scene = Scene::new(1);
        for number in 0..100 {
            scene.write(&format!("f{number}"), format!("file {number}").as_bytes());
        }
        let component = |scene: &Scene| scene.component(Care { shrink, ..Care::default() });
        let first = component(&scene);
        assert!(scene.night_of(first).is_whole());
        (0..70).for_each(|number| fs::remove_file(scene.path(&format!("f{number}"))).expect("file goes"));
        let second = component(&scene);
        assert_eq!(!scene.night_of(second).is_whole(), is_suspect, "{shrink:?}");
        scene.empty_source();
        let third = component(&scene);
        assert_eq!(scene.night_of(third).is_whole(), shrink == Shrink::Any, "{shrink:?}: nothing is left");
    }
}

#[test]
fn what_is_accepted_is_what_the_next_nights_are_compared_with() {
    let mut scene = Scene::new(1);
    for number in 0..50 {
        scene.write(&format!("f{number}"), format!("file {number}").as_bytes());
    }
    assert_eq!(scene.night(), []);
    scene.empty_source();
    let suspect = scene.component(Care::default());
    let suspect = scene.night_of(suspect);
    assert!(!suspect.is_whole());
    let id = suspect.snapshot.expect("is made");
    let snapshot = Snapshot { id, manifest: suspect.manifest };
    let change = Change { accept: vec!["mail".to_owned()], ..Change::default() };
    let accepted = tag(&scene.open(), &snapshot, &change, snapshot.manifest.time).expect("is accepted");
    assert!(accepted.manifest.is_whole(&accepted.manifest.components[0]));
    assert_eq!(scene.night(), [], "nothing is what there was");
    scene.write("one", b"one");
    assert_eq!(scene.night(), []);
    scene.empty_source();
    let component = scene.component(Care { is_accepted: true, ..Care::default() });
    let report = scene.night_of(component);
    let Suspected { is_accepted, .. } = &report.suspects[0];
    assert!(*is_accepted && report.is_whole());
    assert_eq!(report.manifest.accepted(), ["mail"]);
    assert_eq!(report.manifest.suspects().len(), 1, "why it would have been suspect is kept");
}

#[test]
fn a_change_of_patterns_is_the_first_thing_that_is_said() {
    let mut scene = Scene::new(1);
    for number in 0..50 {
        scene.write(&format!("{number}.eml"), format!("file {number}").as_bytes());
    }
    scene.write("other", b"other");
    assert_eq!(scene.night(), []);
    let component = Component { excludes: vec!["*.eml".to_owned()], ..scene.component(Care::default()) };
    let report = scene.night_of(component);
    let lines = report.suspects[0].lines();
    assert_eq!(
        lines[0],
        "the configuration has changed since then: its patterns have changed: now also *.eml"
    );
    assert!(lines[1].starts_with("of 51 files"), "{lines:?}");
    assert_eq!(report.manifest.suspects()[0].reason, lines.join("; "));
    let names: BTreeSet<String> = report.suspects.iter().map(|suspect| suspect.component.clone()).collect();
    assert_eq!(names, BTreeSet::from(["mail".to_owned()]));
}
