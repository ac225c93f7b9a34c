//! How a mount ends: by signal, by `umount`, while it is in use, after a kill; and in the background.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::common::can_mount;
use crate::place::{Place, text, wait_until};

fn is_mounted(point: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts list");
    let point = point.canonicalize().unwrap_or_else(|_| point.to_owned());
    mounts.lines().any(|line| line.split(' ').nth(4) == point.to_str())
}

#[test]
fn signals_and_umount_end_it_with_status_0() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    for signal in [Some(Signal::INT), Some(Signal::TERM), Some(Signal::HUP), None] {
        let mut mount = place.mount(&[]);
        match signal {
            Some(signal) => mount.signal(signal),
            None => {
                let status = Command::new("umount").arg(mount.path("")).status().expect("umount runs");
                assert!(status.success());
            }
        }
        assert_eq!(mount.ended().code(), Some(0), "{signal:?}: {}", mount.log());
        assert!(!is_mounted(&place.path("mnt")), "{signal:?}");
    }
}

#[test]
fn a_mount_in_use_says_so_and_goes_when_nothing_uses_it() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    let mut mount = place.mount(&[]);
    let held = fs::File::open(mount.path("daily")).expect("folder opens");
    mount.signal(Signal::INT);
    wait_until("it says that it is in use", || mount.log().contains("in use"));
    mount.signal(Signal::INT); // a second one does not tear it down either
    assert!(is_mounted(&place.path("mnt")));
    assert!(mount.log().contains("umount -l"), "{}", mount.log());
    drop(held);
    assert_eq!(mount.ended().code(), Some(0));
    assert!(!is_mounted(&place.path("mnt")));
}

#[test]
fn a_mount_that_was_detached_leaves_the_next_one_at_its_place_alone() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    let mut first = place.mount(&[]);
    let held = fs::File::open(first.path("daily")).expect("folder opens");
    first.signal(Signal::INT);
    wait_until("it says that it is in use", || first.log().contains("in use"));
    let detached = Command::new("umount").arg("-l").arg(place.path("mnt")).status().expect("umount runs");
    assert!(detached.success());
    let mut second = place.mount(&[]);
    std::thread::sleep(Duration::from_secs(3)); // it tries again every second
    first.signal(Signal::INT);
    std::thread::sleep(Duration::from_secs(1));
    assert!(is_mounted(&place.path("mnt")), "the second one is nobody's but its own");
    drop(held);
    assert_eq!(first.ended().code(), Some(0));
    assert!(fs::read_dir(second.path("daily")).is_ok());
    second.signal(Signal::INT);
    assert_eq!(second.ended().code(), Some(0));
}

#[test]
fn what_a_killed_mount_leaves_is_named_with_what_to_type() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    let mut mount = place.mount(&[]);
    mount.signal(Signal::KILL);
    mount.ended();
    let refused = place.snap(&["mount", "mnt"]);
    let said = text(&refused.stderr);
    assert_eq!((refused.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("umount mnt"), "{said}");
    let status = Command::new("umount").arg(place.path("mnt")).status().expect("umount runs");
    assert!(status.success(), "what was said to be typed works");
    drop(place.mount(&[]));
}

#[test]
fn a_place_that_cannot_be_mounted_on_is_refused_in_one_line() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    fs::write(place.path("mail/text"), "mail").expect("file is written");
    for (point, why) in [("mail", "not empty"), ("mail/text", "not a directory"), ("none", "No such file")] {
        let refused = place.snap(&["mount", point]);
        let said = text(&refused.stderr);
        assert_eq!((refused.status.code(), said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn in_the_background_it_is_up_when_the_command_returns() {
    if !can_mount() {
        return;
    }
    let place = Place::made(&[]);
    fs::write(place.path("mail/text"), "mail").expect("file is written");
    place.backup(&[]);
    let said = place.done(&["mount", "mnt", "--background"]); // returns: nothing keeps its output open
    assert!(said.contains("mounted on") && !said.contains("Ctrl-C"), "{said}");
    let point = place.path("mnt");
    assert_eq!(fs::read_to_string(point.join("latest/mail/text")).expect("file reads"), "mail");
    let status = Command::new("umount").arg(&point).status().expect("umount runs");
    assert!(status.success());
    let logs: Vec<_> = fs::read_dir(place.path("state"))
        .expect("state lists")
        .flatten()
        .filter(|entry| entry.path().join("mount.log").exists())
        .collect();
    assert_eq!(logs.len(), 1, "log lines have a place");
}

#[test]
fn in_the_background_failures_are_told_by_the_exit_status() {
    if !can_mount() {
        return;
    }
    let place = Place::made(&[]);
    let refused = place
        .command(&["mount", "mnt", "--background"])
        .env("SNAP_PASSWORD", "wrong")
        .stdout(Stdio::null())
        .output()
        .expect("program runs");
    let said = text(&refused.stderr);
    assert_eq!((refused.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("passphrase is wrong"), "{said}");
    assert!(!is_mounted(&place.path("mnt")));
}
