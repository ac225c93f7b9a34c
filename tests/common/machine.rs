//! A machine with mail, a repository, and a bucket on a real server; the real program works on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::repo::{differences, maildir, picture};
use crate::common::s3::{ACCESS_KEY, Bucket, Kind, REGION, SECRET_KEY, server};
use crate::common::{Noise, summary};

/// A machine: its home, state, mail and repository.
pub struct Machine {
    /// Its home.
    pub home: tempfile::TempDir,
    /// Its bucket.
    pub bucket: Bucket,
}

impl Machine {
    /// Makes one whose mail was delivered; none where there is no server.
    pub fn new() -> Option<Self> {
        let bucket = server()?.bucket(Kind::Locking);
        let machine = Self { home: tempfile::tempdir().expect("temporary folder"), bucket };
        maildir(&machine.path("source/mail"), 10, 60_000, &mut Noise::new(1));
        fs::write(machine.path("password"), "a long passphrase\n").expect("writes");
        Some(machine)
    }

    /// Makes one, with a repository of two snapshots that is in the bucket. The passphrase opens it.
    pub fn synced() -> Option<Self> {
        let machine = Self::new()?;
        machine.run(&["init", "--pack-size", "1MiB"]);
        machine.back_up();
        machine.run(&["backup", "source/mail", "--component", "mail", "--time", "2026-01-01T03:00"]);
        machine.run(&["sync", &machine.store()]);
        Some(machine)
    }

    /// Backs up.
    pub fn back_up(&self) {
        self.run(&["backup", "source/mail", "--component", "mail"]);
    }

    /// Returns a path below its home.
    pub fn path(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    /// Returns where its copy in the bucket is.
    pub fn store(&self) -> String {
        self.bucket.location()
    }

    /// Returns the program with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snap"));
        command.env_clear().env("HOME", self.home.path()).current_dir(self.home.path());
        command.env("SNAP_STATE_DIR", "state").env("SNAP_REPOSITORY", "repository");
        command.env("AWS_ENDPOINT_URL", &self.bucket.server.endpoint).env("AWS_REGION", REGION);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("SNAP_PASSWORD_FILE", "password");
        command.args(arguments);
        command
    }

    /// Runs the program.
    pub fn snap(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("snap runs")
    }

    /// Runs the program, which must end with a status; returns what it says.
    #[track_caller]
    pub fn ends(&self, arguments: &[&str], status: i32) -> String {
        ended(&self.snap(arguments), status)
    }

    /// Runs the program, which must end well; returns what it says.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        self.ends(arguments, 0)
    }

    /// Runs a command with `--json`, which must end with a status; returns its last line.
    #[track_caller]
    pub fn summary(&self, arguments: &[&str], status: i32) -> Value {
        let output = self.snap(&[arguments, &["--json"]].concat());
        ended(&output, status);
        summary(&String::from_utf8_lossy(&output.stdout))
    }

    /// Checks that a directory holds what lies in the source as it is.
    #[track_caller]
    pub fn is_restored(&self, what: &str, target: &Path) {
        let wrong = differences(&picture(&self.path("source").join(what)), &picture(target));
        assert_eq!(wrong, Vec::<String>::new());
    }

    /// Puts all files of a repository folder on this machine into the bucket, as who has the uploader's key can.
    pub fn plant_all(&self, folder: &str) {
        let mut todo = vec![self.path(folder)];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(&directory).expect("folder lists") {
                let path = entry.expect("entry").path();
                let name = path.strip_prefix(self.path(folder).parent().expect("has a parent"));
                match path.is_dir() {
                    true => todo.push(path),
                    false => self.bucket.plant(
                        name.expect("lies below").to_str().expect("text"),
                        &fs::read(&path).expect("file reads"),
                    ),
                }
            }
        }
    }
}

/// Checks how a program ended; returns what it has said.
#[track_caller]
pub fn ended(output: &Output, status: i32) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}{errors}");
    format!("{said}{errors}")
}
