//! What cannot be read is an error, and said; everything else goes on.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::common::Noise;
use crate::common::can_mount;
use crate::common::repo::maildir;
use crate::place::{Mount, Place, wait_until};

/// Returns all packs, largest first.
fn packs(place: &Place) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in fs::read_dir(place.path("repo/packs")).expect("packs list").flatten() {
        found.extend(fs::read_dir(folder.path()).expect("packs list").flatten().map(|entry| entry.path()));
    }
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).expect("pack is there").len()));
    found
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for side in ["cur", "new"] {
        let entries = fs::read_dir(folder.join(side)).expect("folder lists");
        all.extend(entries.map(|entry| Path::new(side).join(entry.expect("entry reads").file_name())));
    }
    all
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

#[test]
fn a_bad_frame_is_an_error_for_what_lies_in_it_and_for_nothing_else() {
    if !can_mount() {
        return;
    }
    let place = Place::made(&[]);
    maildir(&place.path("mail"), 200, 20_000, &mut Noise::new(3));
    place.backup(&[]);
    let pack = &packs(&place)[0];
    let mut file = fs::OpenOptions::new().read(true).write(true).open(pack).expect("pack opens");
    let mut byte = [0];
    file.seek(SeekFrom::Start(1_500_000)).expect("seeks");
    file.read_exact(&mut byte).expect("reads");
    file.seek(SeekFrom::Start(1_500_000)).expect("seeks");
    file.write_all(&[byte[0] ^ 1]).expect("writes");
    let mount = place.mount(&[]);
    let root = mount.path("latest/mail");
    let mut hurt = BTreeSet::new();
    for path in files(&place.path("mail")) {
        match fs::read(root.join(&path)) {
            Ok(bytes) => assert!(bytes == fs::read(place.path("mail").join(&path)).expect("source reads")),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(Errno::IO.raw_os_error()));
                hurt.insert(path);
            }
        }
    }
    assert!((1..150).contains(&hurt.len()), "{} files lie in the frame", hurt.len());
    let log = mount.log();
    let name = pack.file_name().expect("pack has a name").to_string_lossy().into_owned();
    for path in &hurt {
        let path = path.to_string_lossy().into_owned();
        let about = log.lines().filter(|line| line.contains("cannot be read") && line.contains(&path));
        let about: Vec<&str> = about.collect();
        assert_eq!(about.len(), 1, "one line names {path}: {about:?}");
        assert!(about[0].contains(&name), "it names the pack: {}", about[0]);
    }
}

#[test]
fn a_repository_that_goes_away_gives_errors_and_works_again_when_it_is_back() {
    if !can_mount() {
        return;
    }
    let place = Place::made(&[]);
    maildir(&place.path("mail"), 20, 20_000, &mut Noise::new(4));
    place.backup(&["--daily", "--time", "2025-11-07T03:00"]);
    let mount = place.mount(&[]);
    let root = mount.path("latest/mail");
    let all: Vec<PathBuf> = files(&place.path("mail")).into_iter().collect();
    let read = |path: &PathBuf| fs::read(root.join(path));
    read(&all[0]).expect("file reads");
    assert_eq!(files(&root).len(), 20);
    // As when a disk is unplugged: an empty directory is where the repository was.
    fs::rename(place.path("repo"), place.path("unplugged")).expect("repository goes");
    fs::create_dir(place.path("repo")).expect("empty folder is made");
    // Frames that were read are in memory; a snapshot nobody has looked at is not.
    assert_eq!(
        errno(fs::read_dir(mount.path("daily/2025-11-07/mail/cur/none"))),
        Some(Errno::NOENT.raw_os_error())
    );
    wait_until("the mount rests", || !has_index_open(&mount));
    assert_eq!(errno(read(&all[19])), Some(Errno::IO.raw_os_error()), "{}", mount.log());
    assert_eq!(errno(read(&all[18])), Some(Errno::IO.raw_os_error()));
    assert_eq!(mount.log().matches("the repository is away").count(), 1, "{}", mount.log());
    fs::remove_dir(place.path("repo")).expect("empty folder goes");
    fs::rename(place.path("unplugged"), place.path("repo")).expect("repository is back");
    for path in &all {
        let expected = fs::read(place.path("mail").join(path)).expect("source reads");
        assert!(read(path).expect("file reads again") == expected);
    }
    assert!(!mount.log().contains("cannot be read"), "nothing is called damaged: {}", mount.log());
}

/// Returns whether the mount has the index open.
fn has_index_open(mount: &Mount) -> bool {
    let open = fs::read_dir(format!("/proc/{}/fd", mount.id())).expect("descriptors list");
    open.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().ends_with(".redb")))
}

#[test]
fn an_open_file_of_a_removed_snapshot_reads_on_while_its_packs_are_there() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    fs::write(place.path("mail/large"), Noise::new(5).bytes(12 << 20)).expect("file is written");
    let gone = place.backup(&[]);
    fs::write(place.path("mail/large"), Noise::new(6).bytes(12 << 20)).expect("file is written");
    place.backup(&["--accept", "mail"]); // all of it is another file
    let mount = place.mount(&["--cache-size", "4MiB"]);
    let file = fs::File::open(mount.path(&format!("snapshots/{gone}/mail/large"))).expect("file opens");
    let expected = Noise::new(5).bytes(12 << 20);
    let mut part = vec![0; 100_000];
    let mut reads = |at: usize| {
        file.read_exact_at(&mut part, at as u64).map(|()| assert!(part[..] == expected[at..at + 100_000]))
    };
    reads(0).expect("file reads");
    place.done(&["prune", "--keep-last", "1"]); // a mount does not keep it from running
    wait_until("the snapshot is gone", || !mount.path(&format!("snapshots/{gone}")).exists());
    reads(3 << 20).expect("an open file reads on");
    place.done(&["prune", "--keep-last", "1", "--now"]); // the grace is over
    assert_eq!(errno(reads(9 << 20)), Some(Errno::STALE.raw_os_error()), "{}", mount.log());
    let rest = fs::read(mount.path("latest/mail/large")).expect("the other snapshot reads");
    assert!(rest == Noise::new(6).bytes(12 << 20));
    assert!(mount.log().contains("its snapshot was removed"), "{}", mount.log());
}

#[test]
fn a_removed_snapshot_is_not_called_damaged_where_nobody_looks_at_the_top() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    fs::write(place.path("mail/large"), Noise::new(12).bytes(12 << 20)).expect("file is written");
    let gone = place.backup(&[]);
    fs::write(place.path("mail/large"), "short").expect("file is written");
    place.backup(&["--accept", "mail"]);
    let mount = place.mount(&["--cache-size", "4MiB"]);
    let file = fs::File::open(mount.path(&format!("snapshots/{gone}/mail/large"))).expect("file opens");
    let read = |at: u64| file.read_exact_at(&mut [0; 50_000], at);
    read(0).expect("file reads");
    place.done(&["prune", "--keep-last", "1", "--now"]);
    assert_eq!(errno(read(9 << 20)), Some(Errno::STALE.raw_os_error()), "{}", mount.log());
    assert!(mount.log().contains("its snapshot was removed"), "{}", mount.log());
}

#[test]
fn a_manifest_that_cannot_be_read_hides_no_other_snapshot() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    let back_up = |day: &str| {
        fs::write(place.path("mail/text"), day).expect("file is written");
        place.backup(&["--daily", "--time", &format!("{day}T03:00")]);
    };
    back_up("2025-11-07");
    back_up("2025-11-08");
    let id = "5a".repeat(32);
    std::os::unix::fs::symlink("/", place.path("repo/snapshots").join(&id)).expect("link is made");
    let mount = place.mount(&[]);
    let days = || -> BTreeSet<String> {
        let days = fs::read_dir(mount.path("daily")).expect("days list");
        days.map(|day| day.expect("entry reads").file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(days(), BTreeSet::from(["2025-11-07", "2025-11-08"].map(str::to_owned)), "{}", mount.log());
    back_up("2025-11-09");
    wait_until("the new snapshot appears", || days().len() == 3);
    let log = mount.log();
    let named: Vec<&str> = log.lines().filter(|line| line.contains(&id)).collect();
    assert_eq!(named.len(), 1, "one line names it: {named:?}");
}

#[test]
fn what_moved_to_other_packs_is_found_while_the_index_is_open() {
    if !can_mount() {
        return;
    }
    let place = Place::made(&[]); // packs of two runs differ, for each has keys of its own
    let expected = Noise::new(11).bytes(12 << 20);
    fs::write(place.path("mail/large"), &expected).expect("file is written");
    place.backup(&[]);
    let old_packs = packs(&place);
    let mount = place.mount(&["--cache-size", "4MiB"]);
    let file = fs::File::open(mount.path("latest/mail/large")).expect("file opens");
    let read = |at: usize| {
        let mut part = vec![0; 50_000];
        file.read_exact_at(&mut part, at as u64).map(|()| assert!(part[..] == expected[at..at + 50_000]))
    };
    read(0).expect("file reads");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Reads one place again and again, so that the mount does not rest.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
                let _ = read(0); // may fail as well while the packs are gone
            }
        });
        let _over = Over(&is_over);
        // As a prune that repacks, and is done: the old packs are gone, new ones hold the same chunks.
        old_packs.iter().for_each(|pack| fs::remove_file(pack).expect("pack goes"));
        place.backup(&[]);
        assert!(has_index_open(&mount), "the index is the old one");
        read(9 << 20).expect("the chunks are found where they are now");
    });
}

/// Ends a thread that waits for it, also when a test fails.
struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
