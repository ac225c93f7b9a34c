//! What a mount, which may live for weeks, keeps in memory.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use crate::common::can_mount;
use crate::place::Place;

/// Returns how often `wanted` lies in the memory of a process that it may write to.
fn count_in_memory(process: u32, wanted: &[u8]) -> usize {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("maps read");
    let mut memory = fs::File::open(format!("/proc/{process}/mem")).expect("memory opens");
    let mut count = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let range = words.next().expect("a range");
        if !words.next().is_some_and(|rights| rights.starts_with("rw")) {
            continue;
        }
        let (from, to) = range.split_once('-').expect("two ends");
        let number = |text: &str| u64::from_str_radix(text, 16).expect("a number");
        let (from, to) = (number(from), number(to));
        let mut bytes = Vec::new();
        memory.seek(SeekFrom::Start(from)).expect("seeks");
        if (&mut memory).take(to - from).read_to_end(&mut bytes).is_ok() {
            count += bytes.windows(wanted.len()).filter(|window| *window == wanted).count();
        }
    }
    count
}

#[test]
fn the_passphrase_is_gone_from_memory_once_a_mount_is_up() {
    if !can_mount() {
        return;
    }
    let place = Place::made(&[]);
    fs::write(place.path("mail/message"), "message").expect("message is written");
    place.backup(&[]);
    fs::write(place.path("passphrase"), "correct horse\n").expect("is written");
    let by_file = || {
        let mut command = place.command(&["--password-file", "passphrase", "mount", "mnt"]);
        command.env_remove("SNAP_PASSWORD");
        command
    };
    let mount = place.mount_by(by_file());
    assert_eq!(fs::read(mount.path("latest/mail/message")).expect("it opens"), b"message");
    assert_eq!(count_in_memory(mount.id(), b"correct horse"), 0);
    // The same look finds what is there: the name of the file that was given.
    assert!(count_in_memory(mount.id(), b"--password-file") > 0);
    drop(mount);
    // A machine that does not keep the writer secret needs the passphrase for more.
    let mut command = by_file();
    command.env("SNAP_STATE_DIR", place.path("elsewhere"));
    let mount = place.mount_by(command);
    assert_eq!(fs::read(mount.path("latest/mail/message")).expect("it opens"), b"message");
    assert_eq!(count_in_memory(mount.id(), b"correct horse"), 0);
}
