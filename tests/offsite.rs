//! The real program, a real server: sync, an attack, the loss of the machine, and all of it back.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::Noise;
use common::repo::{deliver, differences, maildir, picture};
use common::s3::{ACCESS_KEY, Bucket, Kind, REGION, SECRET_KEY, server};
use serde_json::Value;

/// A machine: its home, state, mail and repository.
struct Machine {
    home: tempfile::TempDir,
    bucket: Bucket,
}

impl Machine {
    fn new() -> Option<Self> {
        let bucket = server()?.bucket(Kind::Locking);
        let machine = Self { home: tempfile::tempdir().expect("temporary folder"), bucket };
        maildir(&machine.path("source/mail"), 30, 60_000, &mut Noise::new(1));
        fs::create_dir_all(machine.path("source/config")).expect("folder is made");
        fs::write(machine.path("source/config/main.cf"), "mynetworks = 127.0.0.0/8\n").expect("writes");
        fs::write(machine.path("password"), "a long passphrase\n").expect("writes");
        Some(machine)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    fn snap(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snap"));
        command.env_clear().env("HOME", self.home.path()).current_dir(self.home.path());
        command.env("SNAP_STATE_DIR", "state").env("SNAP_REPOSITORY", "repository");
        command.env("AWS_ENDPOINT_URL", &self.bucket.server.endpoint).env("AWS_REGION", REGION);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("SNAP_PASSWORD_FILE", "password");
        command.args(arguments).output().expect("snap runs")
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        ended(&self.snap(arguments), 0)
    }

    /// Runs a command with `--json` and returns its last line.
    #[track_caller]
    fn summary(&self, arguments: &[&str]) -> Value {
        let said = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(said.lines().last().expect("a summary")).expect("JSON")
    }

    #[track_caller]
    fn is_restored(&self, what: &str, target: &Path) {
        let wrong = differences(&picture(&self.path("source").join(what)), &picture(target));
        assert_eq!(wrong, Vec::<String>::new());
    }
}

#[track_caller]
fn ended(output: &Output, status: i32) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}{errors}");
    format!("{said}{errors}")
}

#[test]
fn after_the_loss_of_the_machine_bucket_and_passphrase_bring_everything_back() {
    let Some(machine) = Machine::new() else { return };
    let store = machine.bucket.location();
    machine.run(&["init", "--pack-size", "1MiB"]);
    machine.run(&["backup", "source/mail", "--component", "mail"]);
    machine.run(&["backup", "source/config", "--component", "config"]);
    let told = machine.summary(&["sync", &store, "--dry-run"]);
    let report = machine.summary(&["sync", &store]);
    assert_eq!(told["files_put"], report["files_put"]);
    assert_eq!(report["well"], true, "{report}");
    assert!(report["cost_month"].as_f64().is_some_and(|cost| cost > 0.0), "{report}");
    let again = machine.summary(&["sync", &store, "--audit"]);
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
    let clone = machine.summary(&["clone", &store]);
    assert_eq!((&clone["snapshots"], &clone["lost"]), (&2.into(), &Value::Array(Vec::new())), "{clone}");
    machine.run(&["check", "--read-data"]);
    machine.run(&["restore", "latest~1:mail", "--target", "mail"]);
    machine.is_restored("mail", &machine.path("mail"));
    // The new machine goes on where the old one stopped: nothing is stored or sent twice.
    deliver(&machine.path("source/mail"), 30, 60_000, &mut Noise::new(2));
    let backup = machine.summary(&["backup", "source/mail", "--component", "mail"]);
    assert!(backup["bytes_added"].as_u64().is_some_and(|bytes| bytes < 120_000), "{backup}");
    let report = machine.summary(&["sync", &store]);
    assert_eq!(report["well"], true, "{report}");
    assert!(report["bytes_put"].as_u64().is_some_and(|bytes| bytes < 200_000), "{report}");
    assert_eq!(
        machine.summary(&["clone", &store])["files"],
        0,
        "a clone that is run again has nothing to do"
    );
}

#[test]
fn an_attack_on_the_bucket_is_told_and_undone() {
    let Some(machine) = Machine::new() else { return };
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
    let Some(mut machine) = Machine::new() else { return };
    machine.bucket = machine.bucket.server.bucket(Kind::Plain);
    let store = machine.bucket.location();
    machine.run(&["init", "--encryption", "none"]);
    machine.run(&["backup", "source/config", "--component", "config"]);
    let said = ended(&machine.snap(&["sync", &store]), 2);
    assert!(said.contains("lacks versioning and Object Lock") && said.contains("--allow-unlocked"), "{said}");
    assert_eq!(machine.bucket.files(), [""; 0]);
    let said = ended(&machine.snap(&["sync", "elsewhere"]), 2);
    assert!(said.contains("snap clone"), "{said}");
    let report = machine.summary(&["sync", &store, "--allow-unlocked"]);
    assert_eq!(report["well"], true, "{report}");
    machine.run(&["clone", &store, "--repo", "copy"]);
}
