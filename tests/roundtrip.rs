//! Everything a file has comes back.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::Noise;
use common::coarse::{self, CoarseDisk};
use common::repo::{
    backup, backup_with, create_plain, create_sealed, differences, maildir, open, picture, restore,
    restore_request,
};
use common::watched::WatchedStore;
use rustix::fs::{FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use snap::base::progress::Progress;
use snap::op::backup::Rules;
use snap::op::restore::Overwrite;
use snap::repo::Repository;
use snap::repo::config::Choices;
use snap::repo::index::Index;
use snap::repo::keys::{NoSecrets, Passphrase, Secrets};
use snap::repo::reader::Reader;
use snap::stage::index::PackNumber;
use snap::store::{LocalStore, MemoryStore, Name};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("temporary folder")
}

fn memory(state: &TempDir) -> Repository {
    create_plain(Arc::new(MemoryStore::default()), state.path(), Choices::default())
        .expect("repository is made")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .expect("times are set");
}

/// Fills a directory with one of everything. Returns what could not be made here.
fn one_of_everything(root: &Path) -> Vec<&'static str> {
    let mut missing = Vec::new();
    let name = |bytes: &[u8]| root.join(OsStr::from_bytes(bytes));
    for bytes in
        [&b"plain"[..], b"new\nline", b"\xff\xfe invalid", b" space ", b"-dash", b"\\back", &[b'x'; 255]]
    {
        fs::write(name(bytes), bytes).expect("file is written");
    }
    fs::write(name(b"empty"), b"").expect("file is written");
    fs::create_dir(name(b"empty folder")).expect("folder is made");
    let mut deep = root.to_owned();
    (0..60).for_each(|_| deep.push("a fairly long name of a folder that is nested"));
    fs::create_dir_all(&deep).expect("folders are made");
    fs::write(deep.join("at the bottom"), b"deep").expect("file is written");
    for (file, mode) in [("setuid", 0o4755), ("setgid", 0o2750), ("none", 0o000), ("all", 0o777)] {
        fs::write(root.join(file), file).expect("file is written");
        fs::set_permissions(root.join(file), fs::Permissions::from_mode(mode)).expect("mode is set");
    }
    fs::create_dir(root.join("sticky")).expect("folder is made");
    fs::set_permissions(root.join("sticky"), fs::Permissions::from_mode(0o1777)).expect("mode is set");
    fs::write(root.join("linked"), b"one file, three names").expect("file is written");
    fs::hard_link(root.join("linked"), root.join("linked too")).expect("link is made");
    fs::hard_link(root.join("linked"), root.join("empty folder/linked as well")).expect("link is made");
    symlink("plain", root.join("link")).expect("link is made");
    symlink("nowhere/at all", root.join("dangling")).expect("link is made");
    symlink("/etc/passwd", root.join("absolute")).expect("link is made");
    symlink(OsStr::from_bytes(b"\xff\n"), root.join("link to bytes")).expect("link is made");
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, Mode::from_raw_mode(0o640), device)
    };
    node("fifo", FileType::Fifo, 0).expect("fifo is made");
    if node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)).is_err()
        || node("loop", FileType::BlockDevice, rustix::fs::makedev(7, 99)).is_err()
    {
        missing.push("devices");
    }
    let attribute =
        |path: &Path, name: &str, value: &[u8]| rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());
    if attribute(&root.join("plain"), "user.colour", b"\0blue\xff").is_err()
        || attribute(&root.join("sticky"), "user.folder", b"too").is_err()
    {
        missing.push("user attributes");
    }
    // version 2: owner rwx, user 1234 r--, group r-x, mask rwx, other ---
    let acl = [
        &2u32.to_le_bytes()[..],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[2, 0, 4, 0, 0xd2, 4, 0, 0],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[16, 0, 7, 0, 255, 255, 255, 255],
        &[32, 0, 0, 0, 255, 255, 255, 255],
    ]
    .concat();
    if attribute(&root.join("all"), "system.posix_acl_access", &acl).is_err()
        || attribute(&root.join("sticky"), "system.posix_acl_default", &acl).is_err()
    {
        missing.push("ACLs");
    }
    if is_root() {
        let give = |name: &str, uid, gid| {
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(rustix::fs::CWD, root.join(name), uid, gid, flags).expect("owner is set");
        };
        give("plain", 12345, 54321);
        give("link", 1, 2);
        give("empty folder", 8, 8);
    } else {
        missing.push("owners");
    }
    let sparse = fs::File::create(root.join("sparse")).expect("file is made");
    sparse.write_all_at(b"start", 0).expect("file is written");
    sparse.write_all_at(&[7; 70_000], 3 << 20).expect("file is written");
    sparse.set_len(8 << 20).expect("file grows");
    fs::File::create(root.join("one hole")).expect("file is made").set_len(1 << 30).expect("file grows");
    let mut big = Noise::new(5).bytes(3 << 20);
    big.extend(vec![b'z'; 2 << 20]);
    fs::write(root.join("several frames"), big).expect("file is written");
    UnixListener::bind(root.join("socket")).expect("socket is made");
    set_mtime(&root.join("plain"), -5, 1);
    set_mtime(&root.join("empty"), 4_102_444_800, 999_999_999);
    set_mtime(&root.join("link"), 1_000_000_000, 123_456_789);
    set_mtime(&root.join("fifo"), 1_000_000_001, 5);
    set_mtime(&root.join("empty folder"), 1_000_000_002, 7);
    missing
}

#[test]
fn one_of_everything_comes_back() {
    let (source, state, target) = (folder(), folder(), folder());
    let missing = one_of_everything(source.path());
    if !missing.is_empty() {
        println!("skipped here, for want of privileges or file system support: {missing:?}");
    }
    let repository = memory(&state);
    let report = backup(&repository, source.path(), 1).expect("backup");
    assert!(report.is_whole(), "{:?}", report.lacks);
    assert_eq!(report.skipped.len(), 1, "the socket is left out, and said so: {:?}", report.skipped);
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let restored = restore(&repository, &snapshots[0], target.path()).expect("restore");
    assert!(restored.lacks.is_empty(), "{:?}", restored.lacks);
    assert!(restored.warnings.is_empty(), "{:?}", restored.warnings);
    fs::remove_file(source.path().join("socket")).expect("socket goes");
    set_mtime(source.path(), 0, 0);
    let wrong = differences(&picture(source.path()), &picture(target.path()));
    assert!(wrong.is_empty(), "{wrong:#?}");
    let inode = |name: &str| fs::metadata(target.path().join(name)).expect("file is there").ino();
    assert_eq!(inode("linked"), inode("empty folder/linked as well"), "hard links are one file again");
    let blocks = |name: &str| fs::metadata(target.path().join(name)).expect("file is there").blocks();
    assert!(blocks("sparse") <= 400, "holes come back as holes: {} blocks", blocks("sparse"));
    assert!(blocks("one hole") <= 8);
}

#[test]
fn every_name_of_a_file_has_its_attributes() {
    let (source, state) = (folder(), folder());
    let folders = ["a", "b", "c"];
    folders.iter().for_each(|name| fs::create_dir(source.path().join(name)).expect("folder is made"));
    let first = source.path().join("a/message");
    fs::write(&first, b"one file, three names").expect("file is written");
    for name in &folders[1..] {
        fs::hard_link(&first, source.path().join(name).join("message")).expect("link is made");
    }
    if rustix::fs::lsetxattr(&first, "user.colour", b"blue", XattrFlags::empty()).is_err() {
        println!("skipped: no user attributes on this file system");
        return;
    }
    let repository = memory(&state);
    let _ = backup(&repository, source.path(), 1).expect("backup");
    let snapshots = repository.snapshots().expect("snapshots list").all;
    for name in folders {
        let target = folder();
        let reader = Reader::new(&repository, Index::open(&repository).expect("index opens"), 1 << 20);
        let progress = Progress::default();
        let request = restore_request(format!("mail/{name}").as_bytes(), target.path(), &progress);
        let _ = snap::op::restore::restore(&reader, &snapshots[0], &NoSecrets, &request).expect("restore");
        let mut value = [0; 100];
        let length = rustix::fs::lgetxattr(target.path().join("message"), "user.colour", &mut value[..]);
        assert_eq!(length.map(|length| value[..length].to_vec()), Ok(b"blue".to_vec()), "in {name}");
    }
}

/// Adds files to 40 folders; a third of them hold what an earlier one holds.
fn fill_folders(root: &Path, from: usize, to: usize, noise: &mut Noise) {
    for number in from..to {
        let folder = root.join(format!("{}/{}", number % 8, number % 40));
        fs::create_dir_all(&folder).expect("folders are made");
        let bytes = match number % 3 {
            0 if number > 40 => {
                let other = number - 39;
                fs::read(root.join(format!("{}/{}/{other}", other % 8, other % 40))).expect("file reads")
            }
            _ => noise.bytes(1 + number * 37 % 20_000),
        };
        fs::write(folder.join(number.to_string()), bytes).expect("file is written");
    }
}

#[test]
fn a_restore_reads_packs_in_ascending_order_and_no_byte_twice() {
    let (source, state, target) = (folder(), folder(), folder());
    let noise = &mut Noise::new(common::seed());
    let disk = WatchedStore::default();
    let choices = Choices { pack_bytes: 1 << 20, ..Choices::default() };
    let repository = create_plain(Arc::new(disk.clone()), state.path(), choices).expect("repository is made");
    fs::write(source.path().join("large"), noise.bytes(5 << 20)).expect("file is written");
    for day in 0..4 {
        fill_folders(source.path(), day * 500, (day + 1) * 500, noise);
        let _ = backup(&repository, source.path(), 1 + day as i64).expect("backup");
    }
    let snapshot = repository.snapshots().expect("snapshots list").all.pop().expect("there are snapshots");
    let reader = Reader::new(&repository, Index::open(&repository).expect("index opens"), 8 << 20);
    let is_tree: HashMap<Name, bool> =
        reader.index().packs().map(|(_, pack, _)| (Name::Pack(pack.id), pack.is_tree)).collect();
    let number: HashMap<Name, PackNumber> =
        reader.index().packs().map(|(number, pack, _)| (Name::Pack(pack.id), number)).collect();
    _ = disk.take_reads();
    let progress = Progress::default();
    let mut request = restore_request(b"mail", target.path(), &progress);
    request.threads = 1;
    let report = snap::op::restore::restore(&reader, &snapshot, &NoSecrets, &request).expect("restore");
    assert!(report.lacks.is_empty(), "{:?}", report.lacks);
    set_mtime(source.path(), 0, 0);
    set_mtime(target.path(), 0, 0);
    assert_eq!(differences(&picture(source.path()), &picture(target.path())), Vec::<String>::new());

    let reads: Vec<_> = disk.take_reads().into_iter().filter(|(name, _)| number.contains_key(name)).collect();
    let mut by_place: Vec<_> =
        reads.iter().map(|(name, range)| (number[name], range.start, range.end)).collect();
    let of_content: Vec<_> = reads
        .iter()
        .filter(|(name, _)| !is_tree[name])
        .map(|(name, range)| (number[name], range.start))
        .collect();
    assert!(of_content.len() > 8 && reads.len() > of_content.len(), "{reads:?}");
    assert!(of_content.is_sorted(), "{of_content:?}");
    by_place.sort_unstable();
    for pair in by_place.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1, "read twice: {pair:?}");
    }
}

#[test]
fn an_unchanged_tree_is_read_no_second_time() {
    let (source, state) = (folder(), folder());
    one_of_everything(source.path());
    let repository = memory(&state);
    let first = backup(&repository, source.path(), 1).expect("backup");
    let second = backup(&repository, source.path(), 2).expect("backup");
    let totals = second.manifest.totals;
    assert_eq!((totals.bytes_read, totals.chunks_new, totals.bytes_stored), (0, 0, 0), "{totals:?}");
    assert_eq!(totals.files_unmodified, first.manifest.totals.files_new);
    assert_eq!(second.manifest.root, first.manifest.root, "the same root to the byte");
}

#[test]
fn flag_changes_and_moves_cost_no_read() {
    let (source, state, target) = (folder(), folder(), folder());
    let inbox = source.path().join("anna");
    let trash = inbox.join(".Trash");
    maildir(&inbox, 100, 5000, &mut Noise::new(1));
    maildir(&trash, 0, 0, &mut Noise::new(1));
    let repository = memory(&state);
    let _ = backup(&repository, source.path(), 1).expect("backup");
    let mut moved = 0;
    let listed = ["new", "cur"].map(|side| fs::read_dir(inbox.join(side)).expect("folder lists"));
    let paths: Vec<_> =
        listed.into_iter().flatten().map(|entry| entry.expect("entry reads").path()).collect();
    {
        for (number, path) in paths.into_iter().enumerate() {
            let name = path.file_name().expect("has a name").to_string_lossy().into_owned();
            let unique = name.split(":2,").next().expect("has a first part");
            let to = match number % 3 {
                0 => inbox.join("cur").join(format!("{unique}:2,RS")),
                1 => trash.join("cur").join(format!("{unique}:2,ST")),
                _ => continue,
            };
            fs::rename(&path, to).expect("message moves");
            moved += 1;
        }
    }
    let report = backup(&repository, source.path(), 2).expect("backup");
    let totals = report.manifest.totals;
    assert_eq!((totals.bytes_read, totals.files_renamed, totals.files_new), (0, moved, 0), "{totals:?}");
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let _ = restore(&repository, &snapshots[1], target.path()).expect("restore");
    assert_eq!(differences(&picture(source.path()), &picture(target.path())), Vec::<String>::new());
}

/// Dovecot links the message into the other folder under a new unique name, then removes the old one.
#[test]
fn a_message_moved_as_dovecot_moves_it_costs_no_read() {
    let (source, state) = (folder(), folder());
    let inbox = source.path().join("anna");
    maildir(&inbox, 2, 5000, &mut Noise::new(1));
    maildir(&inbox.join(".Trash"), 0, 0, &mut Noise::new(1));
    let repository = memory(&state);
    let _ = backup(&repository, source.path(), 1).expect("backup");
    let listed = fs::read_dir(inbox.join("cur")).expect("folder lists").next();
    let old = listed.expect("a message").expect("entry reads").path();
    fs::hard_link(&old, inbox.join(".Trash/cur/1800000000.M5P6.mx1,S=5099:2,ST")).expect("link is made");
    fs::remove_file(old).expect("old name goes");
    let totals = backup(&repository, source.path(), 2).expect("backup").manifest.totals;
    if fs::metadata(&inbox).expect("folder is there").created().is_err() {
        println!("skipped: this file system knows no birth times");
        return;
    }
    assert_eq!((totals.bytes_read, totals.files_renamed, totals.files_new), (0, 1, 0), "{totals:?}");
}

/// The stamps have whole seconds: a file that is overwritten in the second in which it was read has the same size and
/// stamps as before.
#[test]
fn a_file_overwritten_in_the_second_in_which_it_was_read_is_read_again() {
    let Some(disk) = CoarseDisk::mounted() else { return };
    let (state, target) = (folder(), folder());
    let source = disk.path().join("source");
    fs::create_dir(&source).expect("folder is made");
    let file = source.join("file");
    let overwrite = |bytes: &[u8]| {
        let file = fs::File::options().write(true).create(true).truncate(false).open(&file).expect("opens");
        file.write_all_at(bytes, 0).expect("file is written");
    };
    let repository = memory(&state);
    let mut round = 0;
    loop {
        overwrite(b"old");
        let before = coarse::stamps(&file);
        let _ = backup(&repository, &source, round).expect("backup");
        overwrite(b"new");
        if coarse::stamps(&file) == before {
            break; // else the second was over meanwhile
        }
        round += 1;
        assert!(round < 100, "a backup takes a second");
    }
    let _ = backup(&repository, &source, 1000).expect("backup");
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let _ = restore(&repository, &snapshots[snapshots.len() - 1], target.path()).expect("restore");
    assert_eq!(fs::read(target.path().join("file")).expect("file reads"), b"new");
}

/// A stamp that the clock is yet to reach is no evidence that nothing changed since.
#[test]
fn a_file_that_may_change_with_the_same_stamps_is_read_again_under_whatever_name_and_rules() {
    let (source, state) = (folder(), folder());
    let path = |name: &str| source.path().join(name);
    fs::write(path("file"), b"text").expect("file is written");
    fs::hard_link(path("file"), path("link")).expect("link is made");
    let soon = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec + 3_600;
    set_mtime(&path("file"), soon, 0);
    let repository = memory(&state);
    let _ = backup(&repository, source.path(), 1).expect("backup");
    let read = |totals: snap::stage::snapshot::Totals| (totals.bytes_read, totals.files_renamed);
    let again = backup(&repository, source.path(), 2).expect("backup").manifest.totals;
    assert_eq!(read(again), (4, 0), "read once for both names");
    let rules = Rules { ignore_ctime: true, ignore_inode: true, ..Rules::default() };
    let loose = backup_with(&repository, source.path(), 3, rules, &Progress::default()).expect("backup");
    assert_eq!(read(loose.manifest.totals), (4, 0));
    fs::rename(path("file"), path("renamed")).expect("file is renamed");
    fs::remove_file(path("link")).expect("link goes");
    let renamed = backup(&repository, source.path(), 4).expect("backup").manifest.totals;
    assert_eq!(read(renamed), (4, 0));
    set_mtime(&path("renamed"), 1_000, 0);
    let _ = backup(&repository, source.path(), 5).expect("backup");
    let quiet = backup(&repository, source.path(), 6).expect("backup").manifest.totals;
    assert_eq!(read(quiet), (0, 0), "nothing is read twice that can be told");
    fs::rename(path("renamed"), path("again")).expect("file is renamed");
    let told = backup(&repository, source.path(), 7).expect("backup").manifest.totals;
    assert_eq!(read(told), (0, 1));
}

#[test]
fn a_file_changed_in_place_with_its_mtime_set_back_is_read_again() {
    let (source, state, target) = (folder(), folder(), folder());
    let file = source.path().join("file");
    fs::write(&file, b"one").expect("file is written");
    set_mtime(&file, 1_000, 0);
    let repository = memory(&state);
    let _ = backup(&repository, source.path(), 1).expect("backup");
    fs::write(&file, b"two").expect("file is written");
    set_mtime(&file, 1_000, 0);
    let _ = backup(&repository, source.path(), 2).expect("backup");
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let _ = restore(&repository, &snapshots[1], target.path()).expect("restore");
    assert_eq!(fs::read(target.path().join("file")).expect("file reads"), b"two");
}

/// Stops the other thread even if the test fails, so that it fails and does not hang.
struct StopAtEnd<'s>(&'s AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Messages change flags and folders as fast as the machine can while ten backups are taken, or as many as
/// `SNAP_TEST_ROUNDS` says.
#[test]
fn messages_moved_during_a_backup_are_each_in_it_exactly_once() {
    moved_during_backups(folder().path());
}

#[test]
fn messages_moved_on_a_file_system_of_whole_seconds_are_each_there_exactly_once() {
    let Some(disk) = CoarseDisk::mounted() else { return };
    moved_during_backups(&disk.path());
}

fn moved_during_backups(source: &Path) {
    let state = folder();
    let rounds = std::env::var("SNAP_TEST_ROUNDS").map_or(10, |rounds| rounds.parse().expect("a number"));
    let root = source.join("anna");
    let folders = ["new", "cur", ".Trash/cur", ".Archive/cur", ".Archive.2026/cur"];
    for folder in folders {
        maildir(root.join(folder).parent().expect("lies in a folder"), 0, 0, &mut Noise::new(1));
    }
    let count = 400usize;
    for n in 0..count {
        fs::write(root.join(format!("new/{n}.host")), format!("From: a\n\nmessage {n}"))
            .expect("message is written");
    }
    let repository = memory(&state);
    let stop = AtomicBool::new(false);
    let moves = std::thread::scope(|scope| {
        let moving = scope.spawn(|| {
            let mut names: Vec<String> = (0..count).map(|n| format!("new/{n}.host")).collect();
            let mut turn = 0usize;
            while !stop.load(Ordering::Relaxed) {
                let n = (turn * 7919) % count;
                let flags = ["", "S", "RS", "FS"][turn % 4];
                let folder = folders[1 + turn / 3 % 4];
                let (from, unique) = (root.join(&names[n]), turn / count);
                if turn.is_multiple_of(5) {
                    names[n] = format!("{folder}/{n}-{unique}.host:2,{flags}"); // as Dovecot moves mail
                    fs::hard_link(&from, root.join(&names[n])).expect("link is made");
                    fs::remove_file(&from).expect("old name goes");
                } else {
                    let base = names[n].rsplit('/').next().and_then(|name| name.split(":2,").next());
                    let to = format!("{folder}/{}:2,{flags}", base.expect("has a name"));
                    fs::rename(&from, root.join(&to)).expect("message moves");
                    names[n] = to;
                }
                turn += 1;
            }
            turn
        });
        let stopping = StopAtEnd(&stop);
        for round in 0..rounds {
            let report = backup(&repository, source, round).expect("backup");
            assert!(report.is_whole(), "{:?}", report.lacks);
            let snapshots = repository.snapshots().expect("snapshots list").all;
            let target = folder();
            let lacks =
                restore(&repository, &snapshots[snapshots.len() - 1], target.path()).expect("restore").lacks;
            assert!(lacks.is_empty(), "{lacks:?}");
            let mut texts: Vec<String> = folders
                .iter()
                .flat_map(|side| fs::read_dir(target.path().join("anna").join(side)).expect("folder lists"))
                .map(|entry| fs::read_to_string(entry.expect("entry reads").path()).expect("message reads"))
                .collect();
            texts.sort();
            let total = texts.len();
            texts.dedup();
            assert_eq!(texts.len(), count, "round {round}: none is lost");
            assert_eq!(total, count, "round {round}: none is there twice");
        }
        drop(stopping);
        moving.join().expect("moving ends")
    });
    assert!(moves > 2000, "moved {moves} times");
}

#[test]
fn a_folder_of_many_entries_comes_back() {
    // In memory where that is possible: a disk takes minutes for so many files.
    let in_memory = || tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| folder());
    let (source, state, target) = (in_memory(), folder(), in_memory());
    for n in 0..200_000 {
        fs::File::create(source.path().join(format!("{n:06}"))).expect("file is made");
    }
    let repository = memory(&state);
    let _ = backup(&repository, source.path(), 1).expect("backup");
    fs::write(source.path().join("010000 and a half"), b"new").expect("file is written");
    let report = backup(&repository, source.path(), 2).expect("backup");
    assert!(
        report.manifest.totals.bytes_added < 200_000,
        "one new name rewrites little: {:?}",
        report.manifest.totals
    );
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let _ = restore(&repository, &snapshots[1], target.path()).expect("restore");
    assert_eq!(fs::read_dir(target.path()).expect("folder lists").count(), 200_001);
}

/// Offsets and lengths beyond 32 bits, in a hole and in data. `scripts/soak` does the same without holes.
#[test]
fn a_file_beyond_4_gib_comes_back() {
    let (source, state, target) = (folder(), folder(), folder());
    let edge = 4 << 30;
    let file = fs::File::create(source.path().join("large")).expect("file is made");
    file.write_all_at(b"start", 0).expect("file is written");
    file.write_all_at(&Noise::new(3).bytes(3 << 20), edge - (1 << 20)).expect("file is written");
    file.write_all_at(b"end", edge + (600 << 20)).expect("file is written");
    file.set_len(edge + (700 << 20)).expect("file grows");
    let repository = memory(&state);
    let report = backup(&repository, source.path(), 1).expect("backup");
    assert!(report.is_whole(), "{:?}", report.lacks);
    assert!(report.manifest.totals.bytes_read < 8 << 20, "holes are not read: {:?}", report.manifest.totals);
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let restored = restore(&repository, &snapshots[0], target.path()).expect("restore");
    assert!(restored.lacks.is_empty(), "{:?}", restored.lacks);
    let back = fs::File::open(target.path().join("large")).expect("file is there");
    let about = back.metadata().expect("file is there");
    assert_eq!(about.len(), edge + (700 << 20));
    assert!(about.blocks() * 512 < 8 << 20, "holes come back as holes: {} blocks", about.blocks());
    let read = |at: u64, length: usize| {
        let mut bytes = vec![1; length];
        back.read_exact_at(&mut bytes, at).expect("file reads");
        bytes
    };
    assert_eq!(read(0, 6), b"start\0");
    assert_eq!(read(edge - (1 << 20), 3 << 20), Noise::new(3).bytes(3 << 20));
    assert_eq!(read(edge + (600 << 20) - 1, 5), b"\0end\0");
}

/// All of its 4.5 GiB are data. Takes about a minute and 5 GiB of disk.
#[test]
#[ignore = "soak: scripts/soak runs it"]
fn a_file_of_4_gib_of_data_comes_back() {
    let (source, place, state, target) = (folder(), folder(), folder(), folder());
    let mut file = fs::File::create(source.path().join("large")).expect("file is made");
    let mut noise = Noise::new(4);
    let filler = vec![b'x'; 8 << 20];
    for _ in 0..576 {
        // A little noise, so that no piece repeats, and much that compresses.
        file.write_all(&noise.bytes(4096)).expect("file is written");
        file.write_all(&filler[4096..]).expect("file is written");
    }
    file.write_all(b"the end").expect("file is written");
    let store = Arc::new(LocalStore::new(place.path().join("repo")));
    let repository = create_plain(store, state.path(), Choices::default()).expect("repository is made");
    let report = backup(&repository, source.path(), 1).expect("backup");
    assert!(report.is_whole(), "{:?}", report.lacks);
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let restored = restore(&repository, &snapshots[0], target.path()).expect("restore");
    assert!(restored.lacks.is_empty(), "{:?}", restored.lacks);
    let compared = std::process::Command::new("cmp")
        .args([source.path().join("large"), target.path().join("large")])
        .status()
        .expect("cmp runs");
    assert!(compared.success(), "the file differs");
}

struct Known(&'static str);

impl Secrets for Known {
    fn passphrase(&self) -> Result<Option<Passphrase>, snap::repo::RepoError> {
        Ok(Some(Passphrase::new(self.0.to_owned())))
    }

    fn identities(&self) -> Result<Vec<age::x25519::Identity>, snap::repo::RepoError> {
        Ok(Vec::new())
    }
}

#[test]
fn an_encrypted_repository_is_written_without_the_passphrase_and_read_only_with_it() {
    let (source, state, place, target) = (folder(), folder(), folder(), folder());
    fs::write(source.path().join("mail"), b"From: a\n\nsecret words in the mail").expect("file is written");
    let store = Arc::new(LocalStore::new(place.path().join("repo")));
    create_sealed(store.clone(), state.path(), "correct horse").expect("repository is made");
    let repository = open(store, state.path(), Some(place.path().join("repo/index.redb"))).expect("opens");
    let _ = backup(&repository, source.path(), 1).expect("backup needs no passphrase");
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let refused = restore(&repository, &snapshots[0], target.path());
    assert!(matches!(refused, Err(snap::repo::RepoError::Locked)), "{refused:?}");
    let progress = Progress::default();
    let request = restore_request(b"mail", target.path(), &progress);
    let reader = Reader::new(&repository, Index::open(&repository).expect("index opens"), 1 << 20);
    let wrong = snap::op::restore::restore(&reader, &snapshots[0], &Known("wrong horse"), &request);
    assert!(matches!(wrong, Err(snap::repo::RepoError::WrongPassphrase { .. })), "{wrong:?}");
    let report = snap::op::restore::restore(&reader, &snapshots[0], &Known("correct horse"), &request)
        .expect("restore");
    assert_eq!((report.files, report.lacks.len()), (1, 0));
    for (path, bytes) in picture_bytes(place.path()) {
        for words in [&b"secret words"[..], b"correct horse", b"AGE-SECRET-KEY"] {
            assert!(!bytes.windows(words.len()).any(|part| part == words), "{path} holds {words:?}");
        }
    }
}

fn picture_bytes(root: &Path) -> Vec<(String, Vec<u8>)> {
    let below = picture(root);
    let files = below.keys().map(|path| root.join(OsStr::from_bytes(path))).filter(|path| path.is_file());
    files.map(|path| (path.display().to_string(), fs::read(&path).expect("file reads"))).collect()
}

#[test]
fn a_link_planted_in_the_target_is_not_followed() {
    let (source, state, target, outside) = (folder(), folder(), folder(), folder());
    fs::create_dir(source.path().join("sub")).expect("folder is made");
    fs::write(source.path().join("sub/file"), b"from the backup").expect("file is written");
    fs::write(outside.path().join("file"), b"precious").expect("file is written");
    symlink(outside.path(), target.path().join("sub")).expect("link is made");
    let repository = memory(&state);
    let _ = backup(&repository, source.path(), 1).expect("backup");
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let reader = Reader::new(&repository, Index::open(&repository).expect("index opens"), 1 << 20);
    let progress = Progress::default();
    let mut request = restore_request(b"mail", target.path(), &progress);
    request.overwrite = Overwrite::Always;
    let report = snap::op::restore::restore(&reader, &snapshots[0], &NoSecrets, &request).expect("restore");
    assert_eq!(fs::read(outside.path().join("file")).expect("file reads"), b"precious");
    assert_eq!(fs::read_dir(outside.path()).expect("folder lists").count(), 1);
    let is_replaced = fs::read(target.path().join("sub/file")).is_ok_and(|bytes| bytes == b"from the backup");
    assert!(is_replaced && report.lacks.is_empty(), "the link gave way to the folder: {:?}", report.lacks);
}

#[test]
fn delete_removes_what_the_snapshot_does_not_have_and_nothing_else() {
    let (source, state, target) = (folder(), folder(), folder());
    fs::create_dir_all(source.path().join("a/b")).expect("folders are made");
    fs::write(source.path().join("a/b/file"), b"kept").expect("file is written");
    let repository = memory(&state);
    let _ = backup(&repository, source.path(), 1).expect("backup");
    fs::create_dir_all(target.path().join("a/b/old")).expect("folders are made");
    fs::write(target.path().join("a/b/old/file"), b"goes").expect("file is written");
    fs::write(target.path().join("a/b/file"), b"older").expect("file is written");
    fs::write(target.path().join("other"), b"goes").expect("file is written");
    let snapshots = repository.snapshots().expect("snapshots list").all;
    let reader = Reader::new(&repository, Index::open(&repository).expect("index opens"), 1 << 20);
    let progress = Progress::default();
    let mut request = restore_request(b"mail", target.path(), &progress);
    request.overwrite = Overwrite::IfChanged;
    (request.delete, request.force) = (true, true);
    let report = snap::op::restore::restore(&reader, &snapshots[0], &NoSecrets, &request).expect("restore");
    assert_eq!((report.deleted, report.files, report.lacks.len()), (3, 1, 0));
    set_mtime(target.path(), 0, 0);
    assert_eq!(differences(&picture(source.path()), &picture(target.path())), Vec::<String>::new());
    let again = snap::op::restore::restore(&reader, &snapshots[0], &NoSecrets, &request).expect("restore");
    assert_eq!((again.deleted, again.files, again.unchanged), (0, 0, 1));
}

#[test]
fn an_excluded_name_is_left_out_and_an_unreadable_file_is_reported() {
    let (source, state) = (folder(), folder());
    fs::write(source.path().join("mail.tmp"), b"x").expect("file is written");
    fs::create_dir(source.path().join("cache")).expect("folder is made");
    fs::write(source.path().join("cache/CACHEDIR.TAG"), b"x").expect("file is written");
    fs::write(source.path().join("mail"), b"x").expect("file is written");
    let repository = memory(&state);
    let rules = Rules { exclude_if_present: vec![b"CACHEDIR.TAG".to_vec()], ..Rules::default() };
    let report = backup_with(&repository, source.path(), 1, rules, &Progress::default()).expect("backup");
    assert_eq!(report.manifest.totals.files_new, 2, "mail and mail.tmp");
    let cancelled = Progress::default();
    cancelled.cancel();
    fs::write(source.path().join("another"), b"x").expect("file is written");
    let stopped = backup_with(&repository, source.path(), 2, Rules::default(), &cancelled);
    assert!(matches!(stopped, Err(snap::repo::RepoError::Interrupted)));
    assert_eq!(repository.snapshots().expect("snapshots list").all.len(), 1);
}
