//! A directory with a source, a repository and a mount point of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest wait for something that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `holds`; fails with `what` if it never does.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A place with a repository of its own.
pub struct Place {
    folder: TempDir,
}

impl Place {
    /// Makes a repository; `arguments` are those of `init`.
    pub fn made(arguments: &[&str]) -> Self {
        let place = Self { folder: tempfile::tempdir().expect("temporary folder") };
        for name in ["mail", "mnt"] {
            fs::create_dir(place.path(name)).expect("folder is made");
        }
        place.done(&[&["init"], arguments].concat());
        place
    }

    /// Makes a repository without encryption.
    pub fn plain() -> Self {
        Self::made(&["--encryption", "none"])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        crate::common::program(self.folder.path(), arguments)
    }

    pub fn snap(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("program runs")
    }

    /// Runs the program, which must succeed; returns what it prints.
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.snap(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Backs up `mail`; returns the snapshot's id.
    pub fn backup(&self, arguments: &[&str]) -> String {
        let all = [&["--json", "backup", "--component", "mail", "mail"], arguments].concat();
        let said = self.done(&all);
        let summary: serde_json::Value =
            serde_json::from_str(said.lines().last().expect("there is a summary")).expect("it is JSON");
        summary["snapshot"].as_str().expect("it names the snapshot").to_owned()
    }

    /// Returns all files below `root`, by path.
    pub fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut todo = vec![root.to_owned()];
        while let Some(folder) = todo.pop() {
            for entry in fs::read_dir(&folder).expect("folder lists").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    todo.push(path);
                    continue;
                }
                let below = path.strip_prefix(root).expect("lies below").to_string_lossy().into_owned();
                files.insert(below, fs::read(&path).expect("file reads"));
            }
        }
        files
    }

    /// Mounts on `mnt`, and waits until it is up.
    pub fn mount(&self, arguments: &[&str]) -> Mount {
        self.mount_by(self.command(&[&["-vv", "mount", "mnt"], arguments].concat()))
    }

    /// Mounts with a command that ends in `mount mnt`.
    pub fn mount_by(&self, mut command: Command) -> Mount {
        let log = self.path("mount.log");
        let before = fs::metadata(self.path("mnt")).expect("mount point is there").dev();
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).expect("log is made"));
        let child = command.spawn().expect("program runs");
        let mut mount = Mount { child, point: self.path("mnt"), log };
        wait_until("the mount is up", || {
            if let Ok(Some(status)) = mount.child.try_wait() {
                panic!("the mount ended: {status}: {}", mount.log());
            }
            fs::metadata(&mount.point).is_ok_and(|about| about.dev() != before)
        });
        mount
    }
}

/// A mount that is up; unmounted when dropped.
pub struct Mount {
    child: Child,
    point: PathBuf,
    log: PathBuf,
}

impl Mount {
    pub fn path(&self, below: &str) -> PathBuf {
        self.point.join(below)
    }

    /// Returns all log lines so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("log reads")
    }

    /// Returns how many frames were read from packs so far.
    pub fn frames_read(&self) -> usize {
        self.log().matches("reads the frame at").count()
    }

    /// Returns the number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("it has a number");
        kill_process(pid, signal).expect("signal goes out");
    }

    /// Waits until the program ends.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the mount ends", || {
            status = self.child.try_wait().expect("child can be waited for");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Returns how much memory the program has now, in bytes.
    pub fn memory(&self) -> u64 {
        let mut status = String::new();
        fs::File::open(format!("/proc/{}/status", self.child.id()))
            .and_then(|mut file| file.read_to_string(&mut status))
            .expect("status reads");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("memory is said");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
        kib << 10
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::DETACH);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
