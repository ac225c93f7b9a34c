//! That a mount is quick and small, and that several can read at once.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snap::base::time::Time;
use snap::stage::snapshot::Manifest;
use snap::store::MemoryStore;

use crate::common::Noise;
use crate::common::can_mount;
use crate::common::repo::{maildir, open};
use crate::place::Place;

#[test]
fn a_single_mail_costs_two_frames_and_its_neighbours_none() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    maildir(&place.path("mail"), 400, 20_000, &mut Noise::new(8));
    place.done(&["backup", "--component", "mail", "mail", "--read-threads", "1"]);
    let mount = place.mount(&[]);
    let root = mount.path("latest/mail/cur");
    let mut names: Vec<PathBuf> =
        fs::read_dir(&root).expect("folder lists").map(|entry| entry.expect("entry reads").path()).collect();
    names.sort();
    let before = mount.frames_read();
    fs::read(&names[100]).expect("mail reads");
    let after_one = mount.frames_read();
    assert!((1..=2).contains(&(after_one - before)), "{} frames for one mail", after_one - before);
    // Read far from one another, so that nothing is read ahead.
    let body = fs::read(place.path("mail/cur").join(names[0].file_name().expect("it has a name")));
    assert!(fs::read(&names[0]).expect("mail reads") == body.expect("source reads"));
    let after_two = mount.frames_read();
    assert!(after_two - after_one <= 2);
    fs::read(&names[1]).expect("mail reads"); // a neighbour
    assert!(mount.frames_read() - after_two <= 6, "what is read ahead is bounded");
}

#[test]
fn what_comes_next_is_read_ahead() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    maildir(&place.path("mail"), 600, 20_000, &mut Noise::new(9));
    place.done(&["backup", "--component", "mail", "mail", "--read-threads", "1"]);
    let mount = place.mount(&[]);
    let mut names: Vec<PathBuf> = fs::read_dir(mount.path("latest/mail/cur"))
        .expect("folder lists")
        .map(|entry| entry.expect("entry reads").path())
        .collect();
    names.sort();
    fs::read(&names[0]).expect("mail reads");
    fs::read(&names[1]).expect("mail reads");
    let read_so_far = mount.frames_read();
    crate::place::wait_until("frames are read that nobody has asked for", || {
        mount.frames_read() > read_so_far.max(3)
    });
    names.iter().for_each(|name| _ = fs::read(name).expect("mail reads"));
    let log = mount.log();
    let frames: Vec<&str> = log.lines().filter(|line| line.contains("reads the frame at")).collect();
    let distinct: std::collections::BTreeSet<&str> = frames.iter().copied().collect();
    assert_eq!(frames.len(), distinct.len(), "no frame is read twice");
}

#[test]
fn several_read_at_once_and_memory_stays_bounded() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    maildir(&place.path("mail"), 3000, 30_000, &mut Noise::new(10));
    place.backup(&[]);
    let mount = place.mount(&["--cache-size", "16MiB"]);
    let mut names: Vec<PathBuf> = Vec::new();
    for side in ["cur", "new"] {
        let entries = fs::read_dir(place.path("mail").join(side)).expect("folder lists");
        names.extend(entries.map(|entry| PathBuf::from(side).join(entry.expect("entry reads").file_name())));
    }
    names.sort();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let (names, mount, place, next) = (&names, &mount, &place, &next);
            scope.spawn(move || {
                for turn in 0..names.len() / 2 {
                    // Two read through everything side by side, two read here and there.
                    let at = match reader < 2 {
                        true => next.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
                        false => turn * 7919 + reader,
                    };
                    let name = &names[at % names.len()];
                    let read = fs::read(mount.path("latest/mail").join(name)).expect("mail reads");
                    assert!(read == fs::read(place.path("mail").join(name)).expect("source reads"));
                }
            });
        }
    });
    let memory = mount.memory();
    assert!(memory < (16 + 64) << 20, "{memory} bytes after reading 90 MB with a cache of 16 MiB");
}

/// Entries of the large folder; `SNAP_TEST_ENTRIES=200000` takes its time to make them.
fn entries() -> usize {
    let given = std::env::var("SNAP_TEST_ENTRIES").ok();
    given.map_or(30_000, |text| text.parse().expect("SNAP_TEST_ENTRIES is a number"))
}

#[test]
fn a_large_folder_lists_with_attributes_in_a_moment() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    fs::create_dir(place.path("mail/cur")).expect("folder is made");
    let expected = entries();
    for number in 0..expected {
        let name = format!("mail/cur/1767{number:06}.M{number}P1.mx1,S=0:2,S");
        fs::File::create(place.path(&name)).expect("file is made");
    }
    place.backup(&[]);
    let mount = place.mount(&[]);
    let begun = Instant::now();
    let mut count = 0;
    let mut bytes = 0;
    for entry in fs::read_dir(mount.path("latest/mail/cur")).expect("folder lists") {
        let entry = entry.expect("entry reads");
        assert!(entry.metadata().expect("attributes read").is_file());
        bytes += entry.file_name().as_bytes().len();
        count += 1;
    }
    assert_eq!(count, expected);
    assert!(bytes > 0);
    let time = begun.elapsed();
    println!("{time:?} for {expected} entries");
    assert!(time < Duration::from_secs(20), "{time:?} for {expected} entries");
}

#[test]
fn the_top_appears_at_once_with_two_thousand_snapshots() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    fs::write(place.path("mail/text"), "mail").expect("file is written");
    place.backup(&[]);
    // Manifests alone, all of the same tree: through a store in memory, so that none is synced.
    let repository = place.path("repo");
    let files = MemoryStore::of(Place::files(&repository));
    let opened = open(Arc::new(files.clone()), &place.path("state"), None).expect("repository opens");
    let first = opened.snapshots().expect("snapshots list").all.remove(0).manifest;
    for day in 0..2000 {
        let tags = vec!["daily".to_owned()];
        let time = Time::new(1_600_000_000 + day * 86_400, 0);
        opened.put_manifest(&Manifest { time, tags, ..first.clone() }).expect("manifest is put");
    }
    for (path, bytes) in files.files().iter().filter(|(path, _)| path.starts_with("snapshots/")) {
        fs::write(repository.join(path), bytes).expect("manifest is written");
    }
    let mount = place.mount(&[]);
    let begun = Instant::now();
    assert_eq!(fs::read_dir(mount.path("")).expect("top lists").count(), 4);
    let top = begun.elapsed();
    assert_eq!(fs::read_dir(mount.path("daily")).expect("days list").count(), 2000);
    assert_eq!(fs::read_dir(mount.path("snapshots")).expect("snapshots list").count(), 2001);
    assert_eq!(fs::read_to_string(mount.path("daily/2020-09-13/mail/text")).expect("file reads"), "mail");
    println!("{top:?} for the top");
    assert!(top < Duration::from_secs(2), "{top:?}");
}

/// A mount inside a source would double all that there ever was, night after night.
#[test]
fn a_mount_of_snapshots_inside_a_source_is_left_out_and_said() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    maildir(&place.path("mail"), 2, 500, &mut Noise::new(3));
    place.backup(&[]);
    let mut mount = place.mount(&[]);
    let everything = ["--json", "backup", "--component", "all", "."];
    let is_left_out = |said: String| {
        let skipped = crate::common::summary(&said)["skipped"].to_string();
        assert!(skipped.contains("/mnt\",\"reason\":\"a mount of snapshots"), "{skipped}");
    };
    is_left_out(place.done(&everything));
    let named = crate::common::summary(&place.done(&["--json", "backup", "mnt"]));
    assert!(named["components"][0]["files"].as_u64() >= Some(2), "who names it wants it: {named}");
    // One whose program was killed answers nothing.
    mount.signal(rustix::process::Signal::KILL);
    mount.ended();
    is_left_out(place.done(&everything));
}
