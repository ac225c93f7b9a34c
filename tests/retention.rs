//! A mail server's days, one after the other: backed up, pruned to the operator's policy, and compared
//! with a repository that only ever saw the snapshots which are kept. Two percent may stay unused, in the
//! short run nothing: by default five may, and the repository is then that much larger.
//!
//! Days and messages come from `SNAP_TEST_DAYS` (default 15) and `SNAP_TEST_MESSAGES` (default 300);
//! `scripts/soak` asks for 91 days: thirty daily and twelve weekly snapshots are there at the end.
//! Without the shared data it does nothing.
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

use common::repo::{Picture, differences, picture};
use jiff::civil::Date;
use serde_json::Value;

const SIMULATOR: &str = "../shared/bench/mailsim.py";
const MAIL: &str = "../shared/data/mail-dev.tar.zst";

fn number(name: &str, default: i64) -> i64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("program runs");
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    output
}

/// A repository and how `snap` is run on it.
struct Repo {
    path: PathBuf,
    state: PathBuf,
}

impl Repo {
    fn make(folder: &Path, name: &str) -> Self {
        let repo = Self { path: folder.join(name), state: folder.join("state") };
        repo.snap(&["init", "--encryption", "none"]);
        repo
    }

    fn snap(&self, arguments: &[&str]) -> Vec<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snap"));
        command
            .arg("--json")
            .args(arguments)
            .env_clear()
            .env("TZ", "UTC")
            .env("SNAP_REPOSITORY", &self.path)
            .env("SNAP_STATE_DIR", &self.state)
            .stdin(Stdio::null());
        let output = succeeds(&mut command);
        let lines = text(&output.stdout);
        lines.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    fn back_up(&self, mail: &Path, kind: &str, time: &str) -> String {
        let mail = mail.to_str().expect("a path of text");
        let told = self.snap(&["backup", mail, "--component", "mail", kind, "--time", time]);
        told.last().expect("a summary")["snapshot"].as_str().expect("an id is text").to_owned()
    }

    /// Bytes of all files but the cache.
    fn bytes(&self) -> u64 {
        self.snap(&["stats"]).last().expect("a summary")["bytes_stored"].as_u64().expect("a number")
    }
}

/// The operator's policy: how many days a daily and a weekly snapshot stay.
struct Policy {
    daily: i64,
    weekly: i64,
}

impl Policy {
    /// Returns whether a snapshot of `day` is to be there on `today`.
    fn keeps(&self, is_weekly: bool, day: i64, today: i64) -> bool {
        today - day < if is_weekly { self.weekly } else { self.daily }
    }
}

fn is_sunday(day: i64) -> bool {
    day % 7 == 6
}

#[test]
fn days_and_weeks_of_mail_are_pruned_to_what_the_policy_keeps_and_little_more() {
    if !Path::new(SIMULATOR).exists() || !Path::new(MAIL).exists() {
        eprintln!("nothing is tested: {SIMULATOR} or {MAIL} is not there");
        return;
    }
    let (days, messages) = (number("SNAP_TEST_DAYS", 15), number("SNAP_TEST_MESSAGES", 300));
    let (policy, unused) = match days < 40 {
        true => (Policy { daily: 5, weekly: 7 }, &["--max-unused", "0"][..]),
        false => (Policy { daily: 30, weekly: 84 }, &[][..]), // the operator's, and what the program does by itself
    };
    let folder = tempfile::tempdir().expect("temporary folder");
    let corpus = folder.path().join("corpus");
    fs::create_dir(&corpus).expect("folder is made");
    succeeds(Command::new("tar").args(["-I", "zstd -d --long=27", "-xf", MAIL, "-C"]).arg(&corpus));
    let world = folder.path().join("world");
    let simulate = |arguments: &[String]| {
        let mut command = Command::new("python3");
        succeeds(
            command.arg(SIMULATOR).arg("--corpus").arg(&corpus).arg("--out").arg(&world).args(arguments),
        );
    };
    let told = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    simulate(&told(&["--users", "5", "--messages", &messages.to_string(), "--seed", "1"]));
    let mail = world.join("mail");
    let (pruned, ideal) = (Repo::make(folder.path(), "pruned"), Repo::make(folder.path(), "ideal"));
    let spans = (format!("daily={}d", policy.daily), format!("weekly={}d", policy.weekly));
    let mut saved: BTreeMap<String, (bool, i64, Picture)> = BTreeMap::new();
    let start: Date = "2026-01-05".parse().expect("a date");
    let mut first_seconds = 0.0;
    let mut prune_seconds: f64 = 0.0;
    for day in 0..days {
        if day > 0 {
            simulate(&told(&["--advance-day", &day.to_string()]));
        }
        let date = start.checked_add(jiff::Span::new().days(day)).expect("a date");
        for is_weekly in [false, true].into_iter().filter(|is_weekly| !is_weekly || is_sunday(day)) {
            let (kind, time) = match is_weekly {
                false => ("--daily", format!("{date}T03:00:00Z")),
                true => ("--weekly", format!("{date}T04:00:00Z")),
            };
            let id = pruned.back_up(&mail, kind, &time);
            saved.insert(id, (is_weekly, day, picture(&mail)));
            if policy.keeps(is_weekly, day, days - 1) {
                ideal.back_up(&mail, kind, &time);
            }
        }
        if day == 0 {
            let first = &pruned.snap(&["snapshots"])[0];
            first_seconds = first["duration_s"].as_f64().expect("a number");
        }
        let rules = ["--keep-tagged", &spans.0, "--keep-tagged", &spans.1];
        let report = pruned.snap(&[&["prune", "--now"], unused, &rules[..]].concat());
        let seconds = report.last().expect("a summary")["duration_s"].as_f64().expect("a number");
        prune_seconds = prune_seconds.max(seconds);
        saved.retain(|_, (is_weekly, saved_on, _)| policy.keeps(*is_weekly, *saved_on, day));
        let there = pruned.snap(&["snapshots"]);
        let there: Vec<&str> = there.iter().map(|row| row["id"].as_str().expect("an id is text")).collect();
        assert_eq!(there.len(), saved.len(), "day {day}: as many as the policy keeps");
        assert!(there.iter().all(|id| saved.contains_key(*id)), "day {day}: exactly those");
        restores(&pruned, there[0], &saved[there[0]].2, folder.path());
    }
    for (id, (_, day, expected)) in &saved {
        println!("restoring {id} of day {day}");
        restores(&pruned, id, expected, folder.path());
    }
    pruned.snap(&["check", "--read-data"]);
    let (is, might_be) = (pruned.bytes(), ideal.bytes());
    let ratio = is as f64 / might_be as f64;
    println!(
        "{days} days, {} snapshots: {is} bytes, {might_be} made afresh ({ratio:.3}); longest prune / first backup: {:.2}",
        saved.len(),
        prune_seconds / first_seconds
    );
    assert!(ratio < 1.05, "{is} bytes are left, {might_be} would do");
}

fn restores(repo: &Repo, id: &str, expected: &Picture, folder: &Path) {
    let target = folder.join("out");
    let place = format!("{id}:mail");
    repo.snap(&["restore", &place, "--target", target.to_str().expect("a path of text")]);
    assert_eq!(differences(expected, &picture(&target)), Vec::<String>::new(), "{id}");
    fs::remove_dir_all(&target).expect("folder goes");
}
