//! The real program, a real server, and somebody who has the uploader's key: what he puts into the bucket stops no recovery.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;

use age::secrecy::ExposeSecret;
use age::x25519::Identity;

use common::machine::Machine;

/// Returns the recipient that the machine's repository is sealed to: whoever sees the bucket can read it.
fn recipient(machine: &Machine) -> String {
    let listed = machine.run(&["key", "list"]);
    let word = listed.split_whitespace().find(|word| word.starts_with("age1"));
    word.expect("a recipient is listed").to_owned()
}

/// Makes a repository of somebody else, sealed to `recipient`, with a snapshot, in the folder `forged`.
fn forge(machine: &Machine, recipient: &str) {
    let _ = fs::remove_dir_all(machine.path("forged"));
    let elsewhere = ["--repo", "forged", "--state-dir", "attacker"];
    machine.run(&[&["init", "--recipient", recipient], &elsewhere[..]].concat());
    fs::create_dir_all(machine.path("lies")).expect("folder is made");
    fs::write(machine.path("lies/forged"), "forged").expect("writes");
    machine.run(&[&["backup", "lies", "--component", "mail"], &elsewhere[..]].concat());
}

/// Returns the names in a folder, sorted.
fn names(machine: &Machine, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(machine.path(folder)).expect("lists").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn one_forged_key_file_stops_neither_clone_nor_restore() {
    let Some(machine) = Machine::synced() else { return };
    let own = names(&machine, "repository/keys");
    let recipient = recipient(&machine);
    for _ in 0..40 {
        forge(&machine, &recipient);
        if names(&machine, "forged/keys")[0] < own[0] {
            break;
        }
    }
    for folder in ["keys", "packs", "index", "snapshots"] {
        machine.plant_all(&format!("forged/{folder}"));
    }
    let store = machine.store();
    for status in [1, 0] {
        let dry = machine.run(&["sync", &store, "--dry-run"]);
        assert!(dry.contains("would put ") && dry.contains("would be renewed"), "{dry}");
        let said = machine.ends(&["sync", &store], status);
        let forged: usize = ["keys", "index", "snapshots"]
            .iter()
            .map(|folder| names(&machine, &format!("forged/{folder}")).len())
            .sum();
        let told = said.matches("was not written by this repository's owner").count();
        match status {
            1 => assert_eq!(told, forged + 2, "two packs as well: {said}"),
            _ => assert!(told == 0 && said.contains("as was told before"), "once is enough: {said}"),
        }
    }
    machine.run(&["restore", "latest:mail", "--target", "plain", "--repo", &store, "--state-dir", "new"]);
    machine.is_restored("mail", &machine.path("plain"));
    let genuine = ["restore", "latest:mail", "--target", "genuine", "--s3-genuine", "--repo", &store];
    machine.run(&[&genuine[..], &["--state-dir", "new"]].concat());
    machine.is_restored("mail", &machine.path("genuine"));
    let said = machine.run(&["clone", &store, "--repo", "copy", "--state-dir", "other"]);
    assert!(said.contains("was not written by this repository's owner"), "{said}");
    assert!(said.contains("holds 2 snapshots"), "{said}");
    assert_eq!(names(&machine, "copy/keys"), own);
    machine.run(&["check", "--read-data", "--repo", "copy", "--state-dir", "other"]);
    machine.run(&["backup", "source/mail", "--component", "mail", "--repo", "copy", "--state-dir", "other"]);
}

#[test]
fn a_whole_forged_repository_in_the_bucket_is_not_taken_for_ours() {
    let Some(machine) = Machine::new() else { return };
    let identity = Identity::generate();
    fs::write(machine.path("identity"), identity.to_string().expose_secret()).expect("writes");
    let public = identity.to_public().to_string();
    let made = machine.run(&["init", "--recipient", &public]);
    let mark = made.lines().find_map(|line| line.split_once("writer mark")).expect("the mark is printed").1;
    let mark = mark.split_whitespace().next().expect("a mark").to_owned();
    for verb in [&["stats"][..], &["key", "list"]] {
        assert!(machine.run(verb).contains(&mark), "{verb:?}");
    }
    machine.back_up();
    let store = machine.store();
    machine.run(&["sync", &store]);
    let of_snapshots = names(&machine, "repository/snapshots");
    forge(&machine, &public);
    for folder in ["keys", "packs", "index", "snapshots"] {
        machine.plant_all(&format!("forged/{folder}"));
    }
    machine.bucket.plant("config", &fs::read(machine.path("forged/config")).expect("reads"));
    let clone = ["clone", &store, "--repo", "copy", "--state-dir", "other", "--identity", "identity"];
    let said = machine.ends(&clone, 2);
    assert!(said.contains(&format!("{mark} (1 snapshots, 2 packs, first upload 20")), "{said}");
    assert!(said.contains("--writer-mark") && said.matches(" (1 snapshots, 2 packs").count() == 2, "{said}");
    assert!(!machine.path("copy").exists() && !machine.path("other").exists(), "nothing is made of it");
    let said = machine.run(&[&clone[..], &["--writer-mark", &mark]].concat());
    assert!(said.contains("holds 1 snapshot"), "{said}");
    assert_eq!(names(&machine, "copy/snapshots"), of_snapshots);
    let own = fs::read(machine.path("repository/config")).expect("reads");
    assert!(fs::read(machine.path("copy/config")).expect("reads") == own, "its config came first");
    let other = ["--repo", "copy", "--state-dir", "other", "--identity", "identity"];
    machine.run(&[&["check", "--read-data"], &other[..]].concat());
    machine.run(&[&["restore", "latest:mail", "--target", "mail"], &other[..]].concat());
    machine.is_restored("mail", &machine.path("mail"));
}

#[test]
fn a_bucket_that_holds_only_what_somebody_has_forged_is_no_clone_with_status_0() {
    let Some(machine) = Machine::new() else { return };
    let identity = Identity::generate();
    fs::write(machine.path("identity"), identity.to_string().expose_secret()).expect("writes");
    let public = identity.to_public().to_string();
    machine.run(&["init", "--recipient", &public]);
    machine.back_up();
    let store = machine.store();
    machine.run(&["sync", &store]);
    forge(&machine, &public);
    machine.plant_all("forged/keys");
    let elsewhere = ["--state-dir", "other", "--identity", "identity"];
    // Of the repository itself only what a reader needs is hidden: the plain view of the bucket.
    for path in names(&machine, "repository/keys").iter().map(|name| format!("keys/{name}")) {
        machine.bucket.delete(&path);
    }
    let restore = ["restore", "latest:mail", "--target", "mail", "--repo", &store];
    machine.run(&[&restore[..], &elsewhere[..]].concat());
    machine.is_restored("mail", &machine.path("mail"));
    for path in names(&machine, "repository/snapshots").iter().map(|name| format!("snapshots/{name}")) {
        machine.bucket.delete(&path);
    }
    let enroll = ["key", "enroll", "--repo", &store];
    let said = machine.ends(&[&enroll[..], &elsewhere[..]].concat(), 2);
    assert!(said.contains("anybody may have put it there"), "{said}");
    assert!(!machine.path("other").join("writer").exists());
    let clone = ["clone", &store, "--repo", "copy"];
    let said = machine.run(&[&clone[..], &elsewhere[..]].concat());
    assert!(said.contains("holds 1 snapshot"), "a clone reads what lies below: {said}");
}

#[test]
fn what_an_intruder_removed_on_the_server_comes_back_with_a_clone() {
    let Some(machine) = Machine::synced() else { return };
    let store = machine.store();
    let listed = machine.run(&["snapshots", "--json"]);
    let ids: Vec<String> = listed
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["id"]
                .as_str()
                .expect("id")
                .to_owned()
        })
        .collect();
    let forget: Vec<&str> = ids.iter().flat_map(|id| ["--forget", id.as_str()]).collect();
    machine.run(&[&["prune", "--now"], &forget[..]].concat());
    let said = machine.run(&["sync", &store]);
    assert!(said.contains("WARNING: 2 snapshots were removed on") && said.contains("snap clone"), "{said}");
    let report = machine.summary(&["clone", &store, "--repo", "copy", "--state-dir", "other"], 0);
    assert_eq!((&report["snapshots"], report["forgotten"].as_array().map(Vec::len)), (&2.into(), Some(2)));
    let checked = machine.run(&["check", "--read-data", "--repo", "copy", "--state-dir", "other"]);
    assert!(!checked.contains("note:"), "a clone leaves nothing to note: {checked}");
    machine.run(&["restore", "latest:mail", "--target", "mail", "--repo", "copy", "--state-dir", "other"]);
    machine.is_restored("mail", &machine.path("mail"));
    let without = ["clone", &store, "--without-forgotten", "--repo", "bare", "--state-dir", "third"];
    let said = machine.ends(&without, 1);
    assert!(said.contains("there is no snapshot in it"), "never 0 snapshots with status 0: {said}");
}

#[test]
fn a_server_that_lost_its_snapshots_says_so_every_night_and_a_clone_brings_them_back() {
    let Some(machine) = Machine::synced() else { return };
    let store = machine.store();
    let manifests = names(&machine, "repository/snapshots");
    for name in &manifests {
        fs::remove_file(machine.path("repository/snapshots").join(name)).expect("is lost");
    }
    for _ in 0..2 {
        let said = machine.ends(&["sync", &store], 1);
        assert_eq!(said.matches("it was lost here; it stays locked").count(), 2, "{said}");
    }
    // What it advises, word for word.
    machine.run(&["clone", "--without-forgotten", &store]);
    assert_eq!(names(&machine, "repository/snapshots"), manifests);
    machine.run(&["sync", &store]);
    machine.run(&["check"]);
    // The keys are gone.
    fs::remove_dir_all(machine.path("repository/keys")).expect("is lost");
    let said = machine.ends(&["sync", &store], 1);
    assert!(said.contains("the writer secret is in the bucket and not here"), "{said}");
    assert!(said.contains("the key of age1"), "{said}");
    machine.run(&["check", "--repair-from", &store]);
    machine.run(&["sync", &store]);
    // Somebody lets one go.
    fs::remove_file(machine.path("repository/snapshots").join(&manifests[0])).expect("is lost");
    machine.ends(&["sync", &store], 1);
    let said = machine.run(&["sync", "--accept-loss", &store]);
    assert!(said.contains("WARNING: a snapshot was removed"), "{said}");
    assert_eq!(machine.summary(&["sync", &store], 0)["problems"], 0);
}

#[test]
fn a_forged_exclusive_lock_stops_no_restore() {
    let Some(machine) = Machine::synced() else { return };
    machine.bucket.plant("locks/exclusive-somebody-1-0123456789abcdef", b"held\n");
    let store = machine.store();
    let restore = ["restore", "latest:mail", "--target", "mail", "--repo", &store, "--state-dir", "new"];
    let said = machine.run(&[&restore[..], &["--lock-wait", "1s"]].concat());
    assert!(said.contains("it is read all the same"), "{said}");
    machine.is_restored("mail", &machine.path("mail"));
}

#[test]
fn snapshots_that_somebody_deleted_in_the_bucket_are_said_by_the_plain_view_too() {
    let Some(machine) = Machine::synced() else { return };
    let store = machine.store();
    let listed = machine.run(&["snapshots", "--repo", &store]);
    assert!(!listed.contains("--s3-genuine"), "{listed}");
    machine.bucket.delete(&format!("snapshots/{}", names(&machine, "repository/snapshots")[0]));
    let listed = machine.run(&["snapshots", "--repo", &store]);
    assert!(
        listed.contains("1 files were deleted in the bucket") && listed.contains("--s3-genuine"),
        "{listed}"
    );
    let restored = machine.run(&["restore", "latest:mail", "--target", "mail", "--repo", &store]);
    assert!(restored.contains("1 files were deleted in the bucket"), "{restored}");
    // Its config is deleted, or another one lies on top.
    let config = fs::read(machine.path("repository/config")).expect("reads");
    machine.bucket.delete("config");
    let said = machine.ends(&["snapshots", "--repo", &store], 2);
    assert!(said.contains("--s3-genuine reads what lies below"), "{said}");
    machine.bucket.plant(
        "config", b"pay us
",
    );
    let said = machine.ends(&["snapshots", "--repo", &store], 2);
    assert!(said.contains("--s3-genuine reads what lies below"), "{said}");
    assert!(!machine.run(&["snapshots", "--repo", &store, "--s3-genuine"]).contains("were deleted"));
    machine.bucket.plant("config", &config);
    // What was removed with our own program is no attack.
    let id = machine.summary(&["snapshots", "--repo", &store], 0)["id"].as_str().expect("an id").to_owned();
    machine.run(&["prune", "--repo", &store, "--forget", &id]);
    let listed = machine.run(&["snapshots", "--repo", &store]);
    assert!(listed.contains("1 files were deleted in the bucket"), "still one alone: {listed}");
}

#[test]
fn what_is_remembered_of_a_bucket_is_remembered_by_server() {
    let Some(machine) = Machine::synced() else { return };
    let store = machine.store();
    let memories = || {
        let found = fs::read_dir(machine.path("state")).expect("lists").flatten();
        let of = found
            .filter(|entry| entry.path().is_dir())
            .flat_map(|entry| names(&machine, &format!("state/{}", entry.file_name().display())));
        of.filter(|name| name.starts_with("bucket-")).collect::<Vec<_>>()
    };
    let before = memories();
    assert_eq!(before.len(), 1);
    // The same server under another name stands for another one, of which nothing is known yet.
    let other = machine.bucket.server.endpoint.replace("127.0.0.1", "localhost");
    if other != machine.bucket.server.endpoint {
        machine.run(&["sync", &store, "--s3-endpoint", &other]);
        assert_eq!(memories().len(), 2);
    }
}
