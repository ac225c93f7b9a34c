//! Kills the real program with SIGKILL at random moments; nothing that was committed is lost.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::repo::{deliver, differences, maildir, picture};
use common::{Noise, seed};

#[test]
fn a_killed_backup_loses_nothing_and_the_next_one_takes_over_its_packs() {
    let seed = seed();
    let mut noise = Noise::new(seed);
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = |name: &str| folder.path().join(name);
    let snap = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snap"));
        command
            .args(arguments)
            .env("SNAP_REPOSITORY", at("repo"))
            .env("SNAP_STATE_DIR", at("state"))
            .env("SNAP_PASSWORD", "correct horse")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    };
    let succeeds = |arguments: &[&str]| {
        let status = snap(arguments).status().expect("program runs");
        assert!(status.success(), "{arguments:?}: {status}");
    };
    succeeds(&["init", "--pack-size", "1MiB"]);
    let mail = at("mail");
    maildir(&mail, 20, 50_000, &mut noise);
    let mail_text = mail.to_str().expect("a path of text").to_owned();
    let started = Instant::now();
    succeeds(&["backup", &mail_text, "--component", "mail"]);
    let mut whole = started.elapsed().max(Duration::from_millis(20));
    let mut committed = vec![picture(&mail)];
    let (mut killed, mut took_over) = (0, 0);
    for round in 0..12 {
        for number in 0..60 {
            deliver(&mail, 100 + round * 60 + number, 50_000, &mut noise);
        }
        let mut child = snap(&["backup", &mail_text, "--component", "mail"]).spawn().expect("program starts");
        // The moment of the kill is the test's subject, not a wait for something.
        std::thread::sleep(whole.mul_f64(noise.below(1000) as f64 / 900.0));
        child.kill().expect("kill is sent");
        let ended = child.wait().expect("program ends");
        killed += usize::from(!ended.success());
        // Killed after its manifest was durable and before it could say so: that snapshot counts.
        let snapshots = snap(&["--json", "snapshots"]).stdout(Stdio::piped()).output().expect("program runs");
        if snapshots.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count()
            > committed.len()
        {
            committed.push(picture(&mail));
        }
        succeeds(&["check", "--read-data"]);
        let started = Instant::now();
        let output =
            snap(&["--json", "backup", &mail_text, "--component", "mail"]).stdout(Stdio::piped()).output();
        let output = output.expect("program runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        whole = started.elapsed().max(Duration::from_millis(20));
        let summary = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
        let summary: serde_json::Value = serde_json::from_str(&summary).expect("the last line is JSON");
        took_over += usize::from(summary["packs_taken_over"].as_u64() > Some(0));
        committed.push(picture(&mail));
    }
    succeeds(&["check", "--read-data"]);
    println!("killed {killed} of 12 runs; {took_over} runs took over packs");
    assert!(killed > 0, "no run was killed in time");
    for (back, expected) in committed.iter().rev().enumerate() {
        let target = at(&format!("out{back}"));
        succeeds(&["restore", &format!("latest~{back}:mail"), "--target", target.to_str().expect("text")]);
        assert_eq!(
            differences(expected, &picture(&target)),
            Vec::<String>::new(),
            "{back} before the latest"
        );
        fs::remove_dir_all(&target).expect("folder goes");
    }
    succeeds(&["backup", &mail_text, "--component", "mail"]);
    let left: Vec<_> = fs::read_dir(at("repo/tmp")).expect("folder lists").collect();
    assert!(left.is_empty(), "half-written files are swept up: {left:?}");
}
