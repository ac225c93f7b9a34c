//! What a full disk, a disk in use for something else, and a machine without a thread to spare do to the program.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

#[path = "../common/mod.rs"]
mod common;

mod beside;
mod full;
mod place;
mod threads;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::Noise;

/// A folder with a source, and room for repositories.
struct Scene {
    folder: tempfile::TempDir,
    repo: PathBuf,
    state: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir(folder.path().join("source")).expect("folder is made");
        Self { repo: folder.path().join("repo"), state: folder.path().join("state"), folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = common::program(self.folder.path(), arguments);
        command
            .env("SNAP_REPOSITORY", &self.repo)
            .env("SNAP_STATE_DIR", &self.state)
            .env("SNAP_LOCK_WAIT", "60s");
        command
    }

    /// Runs the program; returns the status, and all that it said.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        said(&self.command(arguments).output().expect("program runs"))
    }

    /// Runs the program, which must succeed.
    fn runs(&self, arguments: &[&str]) -> String {
        let (status, said) = self.run(arguments);
        assert_eq!(status, 0, "{arguments:?}: {said}");
        said
    }

    /// Makes a plain repository, and as many snapshots as `mib` says of one file that is so many MiB, each time another one.
    fn with_snapshots(&self, snapshots: u64, mib: usize) {
        self.runs(&["init", "--encryption", "none", "--pack-size", "1MiB"]);
        for number in 0..snapshots {
            self.change(number, mib);
            self.runs(&["backup", "source", "-q"]);
        }
    }

    fn change(&self, seed: u64, mib: usize) {
        std::fs::write(self.at("source/file"), Noise::new(seed).bytes(mib << 20)).expect("file is written");
    }

    fn snapshots(&self) -> usize {
        self.runs(&["--json", "snapshots"]).lines().count()
    }
}

fn said(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// Returns the paths of all files below a folder, sorted.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    everything_below(folder).into_iter().filter(|path| !path.is_dir()).collect()
}

/// Returns the paths of all files and folders below a folder, sorted.
fn everything_below(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(&folder).expect("folder lists").flatten() {
            if entry.file_type().expect("a kind").is_dir() {
                todo.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}
