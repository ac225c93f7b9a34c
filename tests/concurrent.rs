//! Backups, prunes and restores as real processes side by side, at random: whatever meets whatever, every
//! snapshot that is kept gives back what was saved.
//!
//! `SNAP_TEST_SECONDS` says for how long (`scripts/soak` asks for minutes); `SNAP_TEST_SEED` gives an old
//! run's choices back.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::repo::{Picture, deliver, differences, maildir, picture};
use common::{Noise, seed};
use serde_json::Value;

/// What every worker knows.
struct Shared {
    folder: tempfile::TempDir,
    until: Instant,
    /// What each snapshot should give, by id.
    saved: Mutex<BTreeMap<String, Picture>>,
    backups: AtomicU64,
    prunes: AtomicU64,
    swept: AtomicU64,
    restores: AtomicU64,
    locked: AtomicU64,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Shared {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn snap(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snap"));
        command
            .arg("--json")
            .args(arguments)
            .env_clear()
            .env("TZ", "UTC")
            .env("SNAP_LOCK_WAIT", if arguments.first() == Some(&"prune") { "5s" } else { "60s" })
            .env("SNAP_REPOSITORY", self.at("repo"))
            .env("SNAP_STATE_DIR", self.at("state"))
            .env("SNAP_PASSWORD", "correct horse")
            .stdin(Stdio::null());
        command.output().expect("program runs")
    }

    fn summary(&self, arguments: &[&str]) -> Value {
        let output = self.snap(arguments);
        assert!(output.status.success(), "{arguments:?}: {} {}", output.status, text(&output.stderr));
        let last = text(&output.stdout).lines().last().unwrap_or_default().to_owned();
        serde_json::from_str(&last).expect("the last line is JSON")
    }

    fn ids(&self) -> Vec<String> {
        let output = self.snap(&["snapshots"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let lines = text(&output.stdout);
        let ids = lines.lines().map(|line| {
            let snapshot: Value = serde_json::from_str(line).expect("a line is JSON");
            snapshot["id"].as_str().expect("an id is text").to_owned()
        });
        ids.collect()
    }

    /// Leaves the repository alone for a moment, as machines do between two runs.
    fn rest(&self, noise: &mut Noise) {
        std::thread::sleep(Duration::from_millis(noise.below(400)));
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// One machine: mail comes and goes, and it backs up.
    fn back_up(&self, host: &str, mut noise: Noise) {
        let mail = self.at(host);
        maildir(&mail, 0, 0, &mut noise);
        let mut number = 0;
        while !self.is_over() {
            for _ in 0..noise.below(12) + 1 {
                deliver(&mail, number, 30_000, &mut noise);
                number += 1;
            }
            let all = messages(&mail);
            for path in &all {
                if noise.below(6) == 0 {
                    fs::remove_file(path).expect("message goes");
                }
            }
            let mail_text = mail.to_str().expect("a path of text");
            let summary = self.summary(&["backup", mail_text, "--component", "mail", "--host", host]);
            let id = summary["snapshot"].as_str().expect("an id is text").to_owned();
            self.saved.lock().expect("lock").insert(id, picture(&mail));
            self.backups.fetch_add(1, Ordering::Relaxed);
            self.rest(&mut noise);
        }
    }

    fn prune(&self, mut noise: Noise) {
        while !self.is_over() {
            let keep = (noise.below(3) + 1).to_string();
            let unused = (noise.below(3) * 10).to_string();
            let mut arguments =
                vec!["prune", "--keep-last", &keep, "--grace", "0s", "--max-unused", &unused, "--force"];
            match noise.below(4) {
                0 => arguments.push("--now"),
                1 => arguments.push("--unlock"),
                _ => {}
            }
            let output = self.snap(&arguments);
            match output.status.code() {
                Some(0) => {
                    let last = text(&output.stdout).lines().last().unwrap_or_default().to_owned();
                    let summary: Value = serde_json::from_str(&last).expect("the last line is JSON");
                    self.swept
                        .fetch_add(summary["deleted"]["packs"].as_u64().unwrap_or(0), Ordering::Relaxed);
                    self.prunes.fetch_add(1, Ordering::Relaxed);
                }
                Some(4) => _ = self.locked.fetch_add(1, Ordering::Relaxed),
                _ => panic!("{arguments:?}: {} {}", output.status, text(&output.stderr)),
            }
            self.rest(&mut noise);
        }
    }

    fn restore(&self, mut noise: Noise) {
        while !self.is_over() {
            let ids = self.ids();
            if ids.is_empty() {
                continue;
            }
            let id = &ids[noise.below(ids.len() as u64) as usize];
            let expected = self.saved.lock().expect("lock").get(id).cloned();
            let Some(expected) = expected else { continue }; // its backup is about to say so
            self.restores_as(id, &expected, &self.at("out"));
            self.rest(&mut noise);
        }
    }

    /// Restores a snapshot; it may be forgotten before the restore begins.
    fn restores_as(&self, id: &str, expected: &Picture, target: &Path) {
        let target_text = target.to_str().expect("a path of text");
        let place = format!("{id}:mail");
        let output = self.snap(&["restore", &place, "--target", target_text]);
        match output.status.success() {
            true => {
                assert_eq!(differences(expected, &picture(target)), Vec::<String>::new(), "{id}");
                self.restores.fetch_add(1, Ordering::Relaxed);
            }
            false => {
                assert!(!self.ids().contains(&id.to_owned()), "{id}: {}", text(&output.stderr));
            }
        }
        fs::remove_dir_all(target).ok();
    }
}

fn messages(mail: &Path) -> Vec<PathBuf> {
    let sides =
        ["new", "cur"].into_iter().flat_map(|side| fs::read_dir(mail.join(side)).expect("folder lists"));
    let mut all: Vec<PathBuf> = sides.map(|entry| entry.expect("entry reads").path()).collect();
    all.sort();
    all
}

#[test]
fn backups_prunes_and_restores_side_by_side_lose_nothing_that_is_kept() {
    let seed = seed();
    let seconds = std::env::var("SNAP_TEST_SECONDS").map_or(8, |text| text.parse().expect("a number"));
    let shared = Shared {
        folder: tempfile::tempdir().expect("temporary folder"),
        until: Instant::now() + Duration::from_secs(seconds),
        saved: Mutex::default(),
        backups: AtomicU64::new(0),
        prunes: AtomicU64::new(0),
        swept: AtomicU64::new(0),
        restores: AtomicU64::new(0),
        locked: AtomicU64::new(0),
    };
    let made = shared.snap(&["init", "--pack-size", "1MiB"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let noise = |worker: u64| Noise::new(seed.wrapping_add(worker));
    std::thread::scope(|scope| {
        let shared = &shared;
        scope.spawn(move || shared.back_up("mx1", noise(1)));
        scope.spawn(move || shared.back_up("mx2", noise(2)));
        scope.spawn(move || shared.prune(noise(3)));
        scope.spawn(move || shared.prune(noise(4)));
        scope.spawn(move || shared.restore(noise(5)));
    });
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{} backups, {} prunes ({} refused for the lock) that deleted {} packs, {} restores",
        get(&shared.backups),
        get(&shared.prunes),
        get(&shared.locked),
        get(&shared.swept),
        get(&shared.restores)
    );
    assert!(get(&shared.backups) > 2 && get(&shared.prunes) > 0, "something was done");
    let settled = shared.summary(&["prune", "--now", "--keep-last", "2", "--force", "--max-unused", "0"]);
    assert_eq!(settled["waiting"]["packs"], 0);
    let check = shared.snap(&["check", "--read-data"]);
    assert!(check.status.success(), "{}", text(&check.stdout));
    let ids = shared.ids();
    assert!(ids.len() >= 2 && ids.len() <= 4, "two of each machine: {ids:?}");
    let saved = shared.saved.lock().expect("lock").clone();
    for id in &ids {
        shared.restores_as(id, &saved[id], &shared.at("last"));
    }
}
