//! The real program, a real server: sync, an attack, the loss of the machine, and all of it back.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;
use std::path::Path;

use common::Noise;
use common::machine::{Machine, ended};
use common::repo::deliver;
use common::s3::{Kind, own_server};
use serde_json::Value;

/// A machine with 30 messages and a configuration; none where there is no server.
fn machine() -> Option<Machine> {
    let machine = Machine::new()?;
    let mut noise = Noise::new(2);
    (10..30).for_each(|number| deliver(&machine.path("source/mail"), number, 60_000, &mut noise));
    fs::create_dir_all(machine.path("source/config")).expect("folder is made");
    fs::write(machine.path("source/config/main.cf"), "mynetworks = 127.0.0.0/8\n").expect("writes");
    Some(machine)
}

#[test]
fn after_the_loss_of_the_machine_bucket_and_passphrase_bring_everything_back() {
    let Some(machine) = machine() else { return };
    let store = machine.bucket.location();
    machine.run(&["init", "--pack-size", "1MiB"]);
    machine.run(&["backup", "source/mail", "--component", "mail"]);
    machine.run(&["backup", "source/config", "--component", "config"]);
    let told = machine.summary(&["sync", &store, "--dry-run"], 0);
    let report = machine.summary(&["sync", &store], 0);
    assert_eq!(told["files_put"], report["files_put"]);
    assert_eq!(report["well"], true, "{report}");
    assert!(report["cost_month"].as_f64().is_some_and(|cost| cost > 0.0), "{report}");
    let again = machine.summary(&["sync", &store, "--audit"], 0);
    assert_eq!(
        (&again["files_put"], &again["renewed"], &again["bytes_sent"]),
        (&0.into(), &0.into(), &0.into())
    );
    assert_eq!(again["audited"], report["files_put"], "{again}");
    let lines = machine.run(&["sync", &store, "--json"]);
    let kept: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|line: &Value| line["type"] == "snapshot")
        .collect();
    assert_eq!(kept.len(), 2);
    assert!(
        kept.iter().all(|one| one["locked_days"].as_f64().is_some_and(|days| (29.9..30.1).contains(&days)))
    );
    assert!(machine.run(&["sync", &store]).contains("locked until"));

    for gone in ["repository", "state"] {
        fs::remove_dir_all(machine.path(gone)).expect("it is lost");
    }
    // One component straight from the bucket, on a machine that knows nothing.
    machine.run(&["restore", "latest:config", "--target", "config", "--repo", &store]);
    machine.is_restored("config", &machine.path("config"));
    let clone = machine.summary(&["clone", &store], 0);
    assert_eq!((&clone["snapshots"], &clone["lost"]), (&2.into(), &Value::Array(Vec::new())), "{clone}");
    machine.run(&["check", "--read-data"]);
    machine.run(&["restore", "latest~1:mail", "--target", "mail"]);
    machine.is_restored("mail", &machine.path("mail"));
    // The new machine goes on where the old one stopped: nothing is stored or sent twice.
    deliver(&machine.path("source/mail"), 30, 60_000, &mut Noise::new(2));
    let backup = machine.summary(&["backup", "source/mail", "--component", "mail"], 0);
    assert!(backup["bytes_added"].as_u64().is_some_and(|bytes| bytes < 120_000), "{backup}");
    let report = machine.summary(&["sync", &store], 0);
    assert_eq!(report["well"], true, "{report}");
    assert!(report["bytes_put"].as_u64().is_some_and(|bytes| bytes < 200_000), "{report}");
    assert_eq!(
        machine.summary(&["clone", &store], 0)["files"],
        0,
        "a clone that is run again has nothing to do"
    );
}

#[test]
fn an_attack_on_the_bucket_is_told_and_undone() {
    let Some(machine) = machine() else { return };
    let store = machine.bucket.location();
    machine.run(&["init", "--pack-size", "1MiB"]);
    machine.run(&["backup", "source/mail", "--component", "mail"]);
    machine.run(&["sync", &store]);
    let paths = machine.bucket.files();
    for (n, path) in paths.iter().enumerate() {
        match n % 2 {
            0 => machine.bucket.delete(path),
            _ => machine.bucket.plant(path, b"other bytes"),
        }
    }
    machine.bucket.plant("notes.txt", b"pay us");
    // What is left of it without the machine.
    let args = ["clone", &store, "--repo", "copy", "--state-dir", "other"];
    let said = machine.run(&args);
    assert!(said.contains("somebody has put or deleted on top of it"), "{said}");
    machine.run(&["check", "--read-data", "--repo", "copy", "--state-dir", "other"]);
    machine.run(&["restore", "latest:mail", "--target", "mail", "--repo", "copy", "--state-dir", "other"]);
    machine.is_restored("mail", &machine.path("mail"));
    ended(&machine.snap(&["restore", "latest:mail", "--target", "straight", "--repo", &store]), 2);
    machine.run(&["restore", "latest:mail", "--target", "straight", "--repo", &store, "--s3-genuine"]);
    machine.is_restored("mail", &machine.path("straight"));
    let said = ended(&machine.snap(&["sync", &store]), 1);
    assert!(
        said.contains("ERROR: config: somebody has put") && said.contains("notes.txt: not one of ours"),
        "{said}"
    );
    assert_eq!(said.matches("put back on top").count(), paths.len(), "{said}");
    machine.run(&["sync", &store, "--audit"]);
    machine.run(&["check", "--read-data", "--repo", &store]);
    assert_eq!(machine.bucket.files().len(), paths.len() + 1);
}

#[test]
fn a_bucket_without_object_lock_is_refused_with_what_to_do() {
    let Some(mut machine) = machine() else { return };
    machine.bucket = machine.bucket.server.bucket(Kind::Plain);
    let store = machine.bucket.location();
    machine.run(&["init", "--encryption", "none"]);
    machine.run(&["backup", "source/config", "--component", "config"]);
    let said = ended(&machine.snap(&["sync", &store]), 2);
    assert!(said.contains("lacks versioning and Object Lock") && said.contains("--allow-unlocked"), "{said}");
    assert_eq!(machine.bucket.files(), [""; 0]);
    let said = ended(&machine.snap(&["sync", "elsewhere"]), 2);
    assert!(said.contains("snap clone"), "{said}");
    let report = machine.summary(&["sync", &store, "--allow-unlocked"], 0);
    assert_eq!(report["well"], true, "{report}");
    machine.run(&["clone", &store, "--repo", "copy"]);
}

#[test]
fn an_object_in_an_archive_does_not_keep_the_others_from_being_cloned() {
    let Some(server) = own_server("archives") else { return };
    let Some(mut machine) = machine() else { return };
    machine.bucket = server.bucket(Kind::Plain);
    let store = machine.bucket.location();
    machine.run(&["init", "--encryption", "none", "--pack-size", "1MiB"]);
    machine.run(&["backup", "source/mail", "--component", "mail"]);
    machine.run(&["sync", &store, "--allow-unlocked"]);
    let pack = files(&machine, "packs").remove(0);
    let bytes = fs::read(machine.path("repository").join(&pack)).expect("file reads");
    let request = server.client.put_object().bucket(&machine.bucket.name).key(machine.bucket.key(&pack));
    let request = request.storage_class(aws_sdk_s3::types::StorageClass::Glacier).body(bytes.into());
    server.wait(request.send()).expect("object is put");
    let clone = ["clone", &store, "--repo", "copy", "--state-dir", "other"];
    let said = ended(&machine.snap(&clone), 1);
    let told = said.lines().find(|line| line.starts_with(&format!("ERROR: {pack}: "))).expect("it is told");
    assert!(told.contains("InvalidObjectState") && told.contains("restore-object"), "{told}");
    assert_eq!(said.matches("ERROR").count(), 2, "it, and the snapshot that it hurts: {said}");
    assert!(said.contains("ERROR: snapshot "), "{said}");
    machine.run(&["snapshots", "--repo", "copy", "--state-dir", "other"]);
    // Once it can be read again, the clone goes on.
    machine.bucket.plant(&pack, &fs::read(machine.path("repository").join(&pack)).expect("file reads"));
    machine.run(&clone);
    machine.run(&["check", "--read-data", "--repo", "copy", "--state-dir", "other"]);
}

#[test]
fn a_storage_class_that_is_an_archive_is_refused_with_what_to_do() {
    let Some(machine) = machine() else { return };
    let store = machine.bucket.location();
    machine.run(&["init", "--encryption", "none"]);
    machine.run(&["backup", "source/config", "--component", "config"]);
    let said = ended(&machine.snap(&["sync", &store, "--s3-storage-class", "DEEP_ARCHIVE"]), 2);
    assert!(said.contains("storage class -> DEEP_ARCHIVE") && said.contains("--allow-expiry"), "{said}");
    assert_eq!(machine.bucket.files(), [""; 0]);
}

/// Returns the files of the local repository in a folder, sorted.
fn files(machine: &Machine, folder: &str) -> Vec<String> {
    let (root, mut found, mut todo) = (machine.path("repository"), Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(root.join(&folder)).expect("folder lists") {
            let entry = entry.expect("entry");
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() { todo.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Flips a byte in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("file reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("file is written");
}

#[test]
fn what_is_damaged_or_gone_on_one_side_is_healed_from_the_other() {
    let Some(machine) = machine() else { return };
    let store = machine.bucket.location();
    machine.run(&["init", "--pack-size", "1MiB"]);
    machine.run(&["backup", "source/mail", "--component", "mail"]);
    machine.run(&["backup", "source/config", "--component", "config"]);
    machine.run(&["sync", &store]);
    let local = |path: &str| machine.path("repository").join(path);
    let whole: Vec<Vec<u8>> = ["packs", "index", "snapshots", "keys"]
        .iter()
        .flat_map(|folder| files(&machine, folder))
        .map(|path| fs::read(local(&path)).expect("file reads"))
        .collect();
    let is_as_before = || {
        let now = ["packs", "index", "snapshots", "keys"].iter().flat_map(|folder| files(&machine, folder));
        now.map(|path| fs::read(local(&path)).expect("file reads")).collect::<Vec<_>>() == whole
    };
    let (packs, fragments) = (files(&machine, "packs"), files(&machine, "index"));
    fs::remove_file(local(&packs[0])).expect("it is gone");
    flip(&local(&packs[1]));
    flip(&local(&fragments[0]));
    flip(&local(&files(&machine, "snapshots")[0]));
    ended(&machine.snap(&["check", "--read-packs"]), 3);
    let said = machine.run(&["check", "--read-packs", "--repair-from", &store]);
    assert_eq!(said.matches("brought from s3://").count(), 4, "{said}");
    assert!(is_as_before());

    // A pack, and the fragment that tells of it; and the file that holds the writer secret.
    let key = files(&machine, "keys").remove(0);
    [&packs[0], &packs[1], &packs[2], &fragments[0], &fragments[1], &key]
        .iter()
        .for_each(|path| fs::remove_file(local(path)).expect("it is gone"));
    machine.run(&["check", "--read-packs", "--repair-from", &store]);
    machine.run(&["check", "--read-data"]);
    assert!(is_as_before());

    // The bucket, from the disk.
    machine.bucket.plant(&packs[0], b"other bytes");
    machine.bucket.delete(&packs[1]);
    let heal = ["check", "--read-packs", "--repo", &store, "--repair-from", "repository"];
    let said = machine.run(&heal);
    assert_eq!(said.matches("brought from").count(), 2, "{said}");
    machine.run(&["check", "--read-data", "--repo", &store]);
    assert_eq!(machine.summary(&["sync", &store], 0)["problems"], 0);

    // What both have lost is told, and heals nothing.
    flip(&local(&packs[0]));
    ended(&machine.snap(&["clone", "repository", "--repo", "copy", "--state-dir", "other"]), 1);
    let said = ended(&machine.snap(&["check", "--read-packs", "--repair-from", "copy"]), 3);
    assert!(said.contains("the other copy lacks it too"), "{said}");
}

#[test]
fn a_copy_of_another_repository_heals_nothing() {
    let Some(machine) = machine() else { return };
    machine.run(&["init", "--encryption", "none"]);
    machine.run(&["init", "--encryption", "none", "--repo", "other"]);
    let said = ended(&machine.snap(&["check", "--repair-from", "other"]), 2);
    assert!(said.contains("name a copy of this one"), "{said}");
}

/// Writes a configuration with a stand-in for sendmail, and these amounts a month.
fn configure(machine: &Machine, budget: &str) {
    use std::os::unix::fs::PermissionsExt;
    let home = machine.home.path().display().to_string();
    let script = format!("#!/bin/sh\ncat >{home}/mails/$$\n");
    fs::create_dir_all(machine.path("mails")).expect("folder is made");
    fs::write(machine.path("sendmail"), script).expect("writes");
    fs::set_permissions(machine.path("sendmail"), fs::Permissions::from_mode(0o755)).expect("mode is set");
    let text = format!(
        "[repository]\npath = \"{home}/repository\"\n[[component]]\nname = \"mail\"\npaths = [\"{home}/source/mail\"]\n[notify]\nfrom = \"backup@example.org\"\nto = [\"admin@example.org\"]\nsendmail = [\"{home}/sendmail\"]\nmetrics_file = \"{home}/snap.prom\"\n[log]\ndirectory = \"{home}/log\"\nsyslog = false\n[sync]\nstore = \"{}\"\nbudget = {budget}\n",
        machine.bucket.location()
    );
    fs::write(machine.path("config.toml"), text).expect("writes");
}

/// Returns the mails so far, and forgets them.
fn mails(machine: &Machine) -> Vec<String> {
    let entries =
        fs::read_dir(machine.path("mails")).expect("lists").map(|entry| entry.expect("reads").path());
    let taken = entries.map(|path| {
        let text = fs::read_to_string(&path).expect("mail reads");
        fs::remove_file(path).expect("mail goes");
        text
    });
    taken.collect()
}

#[test]
fn a_bucket_that_costs_more_than_a_level_is_mailed_once_a_month_and_a_sync_shows_in_the_numbers() {
    let Some(machine) = machine() else { return };
    let repository = machine.path("repository").display().to_string();
    machine.run(&["--repo", &repository, "init", "--encryption", "none"]);
    machine.run(&["--repo", &repository, "backup", "source/mail"]);
    let sync = |budget: &str| {
        configure(&machine, budget);
        let output = machine.snap(&["--repo", &repository, "--config", "config.toml", "sync", "-q"]);
        assert_eq!(ended(&output, 0), "", "cron has nothing to mail");
        mails(&machine)
    };
    let told = sync("[0.001, 1000000]");
    assert_eq!(told.len(), 1, "{told:?}");
    let mail = told.concat();
    for part in [
        "Subject: [WARNING] Mailserver Bucket Costs ",
        "yen a month",
        &machine.bucket.location(),
        "Before:      nothing is known of an earlier month",
        "X-Priority: 3",
    ] {
        assert!(mail.contains(part), "no {part:?} in {mail}");
    }
    assert_eq!(sync("[0.001, 1000000]"), Vec::<String>::new(), "it was told this month");
    let told = sync("[0.001, 0.002]");
    assert!(told.len() == 1 && told[0].contains("Subject: [CRITICAL] Mailserver Bucket Costs "), "{told:?}");
    assert!(told[0].contains("X-Priority: 1"), "{told:?}");
    assert_eq!(sync("[0.001, 0.002]"), Vec::<String>::new());
    let numbers = fs::read_to_string(machine.path("snap.prom")).expect("numbers read");
    for name in ["snap_sync_last_success_timestamp_seconds 1", "snap_sync_last_run_exit_status 0"] {
        assert!(numbers.contains(name), "{numbers}");
    }
    let log = fs::read_to_string(machine.path("log/snap.log")).expect("log reads");
    assert_eq!(log.matches("[CRITICAL] [SYNC]").count(), 1, "{log}");
}
