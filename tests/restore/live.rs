//! Restores into what is live: mailboxes, and the places that components are backed up from.

use std::fs;

use snap::op::restore::{Answer, Consent};

use crate::{Place, common, refusal};

const SIDES: [&str; 6] = ["cur", "new", "tmp", ".Old/cur", ".Old/new", ".Old/tmp"];

/// A mailbox with a message in its inbox and one in a folder, backed up and restored once.
fn mailbox() -> (Place, snap::repo::Snapshot) {
    let place = Place::new();
    for side in SIDES {
        fs::create_dir_all(place.path("source").join(side)).expect("folder is made");
    }
    place.write("source/cur/1.M1P1.mx,S=4:2,", "mail");
    place.write("source/.Old/cur/2.M1P1.mx,S=4:2,", "mail");
    let (snapshot, _) = place.backup(1);
    let _ = place.restore(&snapshot, |_| ()).expect("restore");
    (place, snapshot)
}

#[test]
fn a_message_with_other_flags_or_in_another_folder_is_not_doubled() {
    let moves = [
        ("cur/1.M1P1.mx,S=4:2,", "cur/1.M1P1.mx,S=4:2,S"),
        ("cur/1.M1P1.mx,S=4:2,", "new/1.M1P1.mx,S=4"),
        ("cur/1.M1P1.mx,S=4:2,", ".Old/cur/1.M1P1.mx,S=4:2,S"),
        (".Old/cur/2.M1P1.mx,S=4:2,", "cur/2.M1P1.mx,S=4:2,"),
        ("cur/1.M1P1.mx,S=4:2,", ".New/cur/1.M1P1.mx,S=4:2,"),
    ];
    for (from, to) in moves {
        let (place, snapshot) = mailbox();
        for side in [".New/cur", ".New/new"] {
            fs::create_dir_all(place.path("target").join(side)).expect("folder is made");
        }
        rustix::fs::rename(place.path("target").join(from), place.path("target").join(to)).expect("moved");
        for force in [false, true] {
            let line = refusal(place.restore(&snapshot, |request| request.force = force));
            assert!(line.contains("1 message is in ") && line.contains(to), "{to}: {line}");
            assert!(line.contains("elsewhere"), "{line}");
        }
        assert!(!place.path("target").join(from).exists(), "{from}");
    }
}

#[test]
fn a_mailbox_that_has_only_more_or_fewer_messages_is_restored_into() {
    let (place, snapshot) = mailbox();
    place.write("target/cur/9.M1P1.mx,S=4:2,S", "new");
    fs::remove_dir_all(place.path("target/.Old")).expect("folder goes");
    let report = place.restore(&snapshot, |_| ()).expect("restore");
    assert_eq!((report.files, report.unchanged), (1, 1));
    // With --delete the name with other flags goes, and nothing is doubled.
    let (from, to) = ("target/cur/1.M1P1.mx,S=4:2,", "target/cur/1.M1P1.mx,S=4:2,F");
    rustix::fs::rename(place.path(from), place.path(to)).expect("moved");
    let report = place.restore(&snapshot, |request| (request.delete, request.force) = (true, true));
    assert_eq!(report.expect("restore").deleted, 2);
    assert!(place.path(from).exists() && !place.path(to).exists());
}

#[test]
fn one_message_is_not_doubled_either() {
    let (place, snapshot) = mailbox();
    let (from, to) = ("target/cur/1.M1P1.mx,S=4:2,", "target/cur/1.M1P1.mx,S=4:2,S");
    rustix::fs::rename(place.path(from), place.path(to)).expect("moved");
    let line = refusal(place.restore(&snapshot, |request| {
        request.path = b"mail/cur/1.M1P1.mx,S=4:2,".to_vec();
        request.target = place.path("target/cur");
    }));
    assert!(line.contains("1 message is in "), "{line}");
    assert!(!place.path(from).exists());
}

struct Yes;

impl Consent for Yes {
    fn ask(&self, question: &str) -> Answer {
        assert!(
            question.contains("is what component mail is backed up from, and is not empty"),
            "{question}"
        );
        Answer::Yes
    }
}

#[test]
fn a_component_s_own_place_is_restored_into_only_if_somebody_says_so() {
    let place = Place::new();
    place.write("source/file", "of the night");
    place.write("source/folder/file", "of the night");
    let (snapshot, _) = place.backup(1);
    place.write("source/file", "of today");
    for (path, target) in [("mail", "source"), ("mail/folder", "source/folder"), ("mail/file", "source")] {
        let line = refusal(place.restore(&snapshot, |request| {
            (request.path, request.target) = (path.into(), place.path(target));
        }));
        assert!(line.contains("backed up from, and is not empty") && line.contains("--force"), "{line}");
        assert_eq!(place.read("source/file").as_deref(), Some("of today"));
    }
    // A new directory in it is nobody's; a dry run says what it would ask.
    let report = place.restore(&snapshot, |request| request.target = place.path("source/back"));
    assert_eq!(report.expect("restore").files, 2);
    let dry = place.restore(&snapshot, |request| {
        (request.target, request.dry_run) = (place.path("source"), true);
    });
    let dry = dry.expect("dry run");
    assert!(dry.warnings.iter().any(|(what, _)| what.contains("it would ask")), "{:?}", dry.warnings);
    let target = place.path("source");
    let report = place.restore_asking(&Yes, &snapshot, |request| request.target = target);
    assert_eq!(report.expect("restore").files, 1);
    assert_eq!(place.read("source/file").as_deref(), Some("of the night"));
}

#[test]
fn nothing_is_restored_into_the_repository_or_the_state_directory() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let snap = |arguments: &[&str]| common::program(folder.path(), arguments).output().expect("program runs");
    fs::create_dir(folder.path().join("mail")).expect("folder is made");
    fs::write(folder.path().join("mail/file"), b"kept").expect("file is written");
    assert!(snap(&["init", "--encryption", "none"]).status.success());
    assert!(snap(&["backup", "mail", "--component", "mail"]).status.success());
    for target in ["repo/x", "repo", "state/x/y", "repo/packs/../x"] {
        let output = snap(&["restore", "latest", "--target", target, "--overwrite", "always"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{target}: {said}");
        assert!(said.contains("the target lies in"), "{target}: {said}");
    }
    assert!(!folder.path().join("repo/x").exists() && !folder.path().join("state/x").exists());
    assert!(snap(&["check", "--read-data"]).status.success());
}

#[test]
fn restore_and_cat_are_in_the_configuration_s_log() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    fs::create_dir(folder.path().join("mail")).expect("folder is made");
    fs::write(folder.path().join("mail/file"), b"kept").expect("file is written");
    let config = format!(
        "[repository]\npath = \"{}\"\n[log]\ndirectory = \"{}\"\nsyslog = false\n[[component]]\nname = \"mail\"\npaths = [\"{}\"]\n",
        path("repo"),
        path("log"),
        path("mail")
    );
    fs::write(folder.path().join("snap.toml"), config).expect("file is written");
    let snap = |arguments: &[&str]| {
        let mut program = common::program(folder.path(), arguments);
        let output = program.env("SNAP_CONFIG", path("snap.toml")).output().expect("program runs");
        output.status.code()
    };
    assert_eq!(snap(&["init", "--encryption", "none"]), Some(0));
    assert_eq!(snap(&["backup"]), Some(0));
    assert_eq!(snap(&["restore", "latest:mail", "--target", "back"]), Some(0));
    assert_eq!(snap(&["cat", "latest:mail/file"]), Some(0));
    assert_eq!(snap(&["cat", "latest:mail/none"]), Some(2));
    let log = fs::read_to_string(folder.path().join("log/snap.log")).expect("log reads");
    let has = |parts: &[&str]| log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["[MAIN] snap restore latest:mail --target back as ", " on ", ": begins"]), "{log}");
    assert!(has(&["[INFO]", "snap restore latest:mail --target back as ", ": succeeded in "]), "{log}");
    assert!(has(&["[INFO]", "snap cat latest:mail/file as ", ": succeeded"]), "{log}");
    assert!(has(&["[WARNING]", "snap cat latest:mail/none as ", ": failed: mail/none: not in"]), "{log}");
}

#[test]
fn a_path_that_a_snapshot_lacks_is_named_with_the_newest_that_has_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let snap = |arguments: &[&str]| common::program(folder.path(), arguments).output().expect("program runs");
    let file = |name: &str| folder.path().join("mail").join(name);
    fs::create_dir(folder.path().join("mail")).expect("folder is made");
    assert!(snap(&["init", "--encryption", "none"]).status.success());
    for (day, there) in [(1, true), (2, true), (3, false), (4, false)] {
        fs::write(file(&day.to_string()), b"x").expect("file is written");
        match there {
            true => fs::write(file("wanted"), b"x").expect("file is written"),
            false => fs::remove_file(file("wanted")).unwrap_or_default(),
        }
        let time = format!("2026-01-0{day}T03:00");
        assert!(snap(&["backup", "mail", "--component", "mail", "--time", &time]).status.success());
    }
    for verb in [&["cat", "latest:mail/wanted"][..], &["restore", "latest:mail/wanted", "--target", "out"]] {
        let said = String::from_utf8_lossy(&snap(verb).stderr).into_owned();
        assert!(
            said.contains("the newest that has it is ") && said.contains(" of 2026-01-02 03:00"),
            "{said}"
        );
    }
    let said = String::from_utf8_lossy(&snap(&["ls", "latest:mail/never"]).stderr).into_owned();
    assert!(said.contains("none of the newest ones has it"), "{said}");
}
