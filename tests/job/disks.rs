//! Disks that are full, nearly full, gone, or can't be written.

use std::fs;
use std::io::Write;
use std::process::Command;

use crate::common::repo::{deliver, differences, maildir, picture};
use crate::common::{self, Noise};
use crate::disk::Disk;
use crate::place::{Place, ended, is_written, text, wait_until};

/// A place whose repository lies on a small disk of its own, with one snapshot.
fn on_disk(mib: u64, more: &str) -> Option<(Place, Disk)> {
    let mut place = Place::new();
    let disk = Disk::mounted(place.folder.path(), mib)?;
    place.repo = disk.path().join("repo");
    place.repository = format!("require_mount = \"{}\"\n{more}", disk.path().display());
    maildir(&place.path("mail"), 10, 2000, &mut Noise::new(7));
    place.rest = place.mail_component();
    place.init();
    assert_eq!(place.backup(&["--daily"]).0, 0);
    place.forget_mails();
    Some((place, disk))
}

#[test]
fn a_disk_that_fills_up_during_the_run_harms_no_earlier_snapshot() {
    let Some((place, disk)) = on_disk(48, "min_free = \"1MiB\"\nwarn_used_percent = 100") else { return };
    let before = picture(&place.path("mail"));
    disk.fill(4 << 20);
    let mut noise = Noise::new(8);
    for number in 100..120 {
        deliver(&place.path("mail"), number, 1 << 20, &mut noise);
    }
    let (status, _) = place.backup(&["--daily"]);
    assert_eq!(status, 2);
    let mail = place.only_mail();
    assert!(mail.subject.starts_with("[ALERT] Mailserver Backup Failed"), "{}", mail.subject);
    mail.says(&[
        "the disk is full",
        "the earlier snapshots are unharmed",
        "Snapshot:    none was made",
        "snap prune --now",
        "df -h",
    ]);
    assert!(place.log("snap-error.log").contains("[CRITICAL] [MAIN] the disk is full"));
    assert_eq!(place.snapshots().len(), 1);
    place.json(&["check", "--read-data"]);
    place.json(&["restore", "latest:mail", "--target", "back"]);
    assert_eq!(differences(&before, &picture(&place.path("back"))), Vec::<String>::new());
    fs::remove_file(disk.path().join("filler")).expect("room is made");
    assert_eq!(place.backup(&["--daily"]).0, 0);
}

#[test]
fn a_disk_that_is_eighty_percent_full_is_mailed_once_at_each_further_step_and_the_runs_go_on() {
    let Some((place, disk)) = on_disk(48, "min_free = \"1MiB\"") else { return };
    let about = rustix::fs::statvfs(disk.path()).expect("is asked");
    let usable = (about.f_blocks - about.f_bfree + about.f_bavail) * about.f_frsize;
    disk.fill(usable / 6); // 83.3 % is used then
    let (status, _) = place.backup(&["--daily"]);
    assert_eq!(status, 0);
    let mail = place.only_mail();
    assert!(mail.subject == "[WARNING] Backup Disk Capacity at 84%", "{}", mail.subject);
    mail.says(&[
        &format!("Mount point:  {}", disk.path().display()),
        "Capacity:",
        "Used:",
        "Available:",
        "Snapshots:    2",
        "Recommendations",
        "snap prune",
    ]);
    assert!(place.log("snap.log").contains("[WARNING] [INIT] the disk under"), "{}", place.log("snap.log"));
    place.forget_mails();
    assert_eq!(place.backup(&["--daily"]).0, 0);
    assert!(place.mails().is_empty(), "it was told");
    fs::remove_file(disk.path().join("filler")).expect("room is made");
    disk.fill(usable / 12); // 91.7 %
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let mail = place.only_mail();
    assert!(mail.subject == "[WARNING] Backup Disk Capacity at 92%", "{}", mail.subject);
    place.forget_mails();
    fs::remove_file(disk.path().join("filler")).expect("room is made");
    assert_eq!(place.backup(&["--daily"]).0, 0);
    disk.fill(usable / 6);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    assert_eq!(place.mails().len(), 1, "it had room meanwhile");
}

#[test]
fn a_disk_that_can_only_be_read_is_said_to_be_so() {
    let Some((place, disk)) = on_disk(24, "min_free = \"1MiB\"") else { return };
    let path = disk.path().to_str().expect("text").to_owned();
    let remount = |how: &str| {
        let status =
            std::process::Command::new("mount").args(["-o", &format!("remount,{how}"), &path]).status();
        assert!(status.expect("mount runs").success());
    };
    remount("ro");
    let (status, _) = place.backup(&["--daily"]);
    assert_eq!(status, 2);
    place.only_mail().says(&["can only be read"]);
    remount("rw");
    assert_eq!(place.backup(&["--daily"]).0, 0);
}

#[test]
fn a_night_on_a_disk_with_no_byte_left_says_what_helps_and_that_helps() {
    let Some((place, disk)) = on_disk(24, "min_free = \"1MiB\"\nwarn_used_percent = 100") else { return };
    let mut noise = Noise::new(9);
    for day in 0..3 {
        fs::write(place.path("mail/cur/1767.M1P1.mx1:2,S"), noise.bytes(2 << 20))
            .expect("message is written");
        assert_eq!(place.backup(&["--weekly"]).0, 0, "day {day}");
    }
    place.forget_mails();
    common::disk::fill_up(disk.path());
    let (status, _) = place.backup(&["--daily"]);
    assert_eq!(status, 2);
    place.only_mail().says(&[
        "not enough space",
        "min_free",
        "1. Give back what no snapshot needs",
        "snap prune --now",
    ]);
    assert_eq!(place.snapshots().len(), 4);
    let pruned = place.json(&["prune", "--now", "--keep-last", "1"]);
    assert!(pruned["deleted"]["bytes"].as_u64().expect("a number") > 4 << 20, "{pruned}");
    assert_eq!(place.backup(&["--daily"]).0, 0);
    place.json(&["check", "--read-data"]);
}

/// A log disk that is full says nothing to whoever reads logs.
#[test]
fn a_log_disk_that_fills_up_in_mid_run_is_an_error_that_is_mailed_and_the_backup_is_made() {
    let mut place = Place::with_mail(3);
    let log = place.path("log");
    fs::create_dir(&log).expect("folder is made");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&log).status();
    if !mounted.expect("mount runs").success() {
        eprintln!("skipped: file systems can't be mounted here (root is needed)");
        return;
    }
    let (begun, go) = place.add_waiting_dump();
    let run = place.spawn(&["backup", "--daily", "-q"]);
    wait_until("the run is under way", || is_written(&begun));
    common::disk::fill_up(&log);
    for entry in fs::read_dir(&log).expect("lists") {
        // What is left of a log's last page would take a line or two.
        let mut file = fs::OpenOptions::new().append(true).open(entry.expect("reads").path()).expect("opens");
        while file.write_all(b"x").is_ok() {}
    }
    fs::write(&go, b"").expect("file is made");
    let output = ended(run);
    let error = text(&output.stderr);
    let mail = place.only_mail();
    let snapshots = place.snapshots();
    let next = place.snap(&["backup", "--daily", "-q"]);
    assert!(Command::new("umount").arg("-l").arg(&log).status().expect("umount runs").success());
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("the logs cannot be written any more: No space left on device"), "{error}");
    assert!(mail.subject.starts_with("[ALERT] Mailserver Backup Has No Log - 20"), "{}", mail.subject);
    mail.says(&["its log could not be written", "Status:      failed in part", "df -h", "Succeeded\n  mail"]);
    assert_eq!(snapshots[0]["components"].as_array().map(Vec::len), Some(2), "{snapshots:?}");
    assert_eq!(next.status.code(), Some(1), "and so does the next one: {}", text(&next.stderr));
    assert_eq!(place.snapshots().len(), 2);
    assert_eq!(place.backup(&["--daily"]).0, 0);
}
