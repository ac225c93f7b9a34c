//! What a backup says of sources that are not what they seem, with the real program.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

fn snap(place: &TempDir, arguments: &[&str]) -> Output {
    common::program(place.path(), arguments).output().expect("program runs")
}

fn made() -> TempDir {
    let place = tempfile::tempdir().expect("temporary folder");
    let made = snap(&place, &["init", "--encryption", "none"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    place
}

/// Backs up; returns the exit status and the summary.
fn backup(place: &TempDir, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = snap(place, &[&["--json", "backup"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = said.lines().last().map(|line| serde_json::from_str(line).expect("JSON"));
    (output.status.code(), last.unwrap_or_default())
}

fn restored(place: &TempDir) -> TempDir {
    let target = tempfile::tempdir().expect("temporary folder");
    let path = target.path().to_str().expect("text");
    let output = snap(place, &["restore", "latest", "--target", path]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn one_file_system_begins_at_each_path_that_was_named() {
    let shared = Path::new("/dev/shm");
    let device = |path: &Path| fs::metadata(path).map(|about| about.dev()).ok();
    if device(shared).is_none() || device(shared) == device(Path::new("/")) {
        eprintln!("skipped: /dev/shm is no file system of its own");
        return;
    }
    let place = made();
    let (one, other) = (
        tempfile::tempdir().expect("temporary folder"),
        tempfile::tempdir_in(shared).expect("temporary folder"),
    );
    fs::write(one.path().join("a"), "here").expect("writes");
    fs::write(other.path().join("b"), "there").expect("writes");
    let (status, summary) = backup(&place, &["-x", text(one.path()), text(other.path())]);
    assert_eq!((status, summary["errors"].as_array().map(Vec::len)), (Some(0), Some(0)), "{summary}");
    let target = restored(&place);
    for (folder, file, content) in [(&one, "a", "here"), (&other, "b", "there")] {
        let path = target.path().join(folder.path().strip_prefix("/").expect("absolute")).join(file);
        assert_eq!(fs::read_to_string(&path).expect("is restored"), content, "{path:?}");
    }
    // What is mounted below a path that was named is not entered.
    let (status, summary) = backup(&place, &["-x", "/dev"]);
    let files = summary["components"][0]["files"].as_u64();
    assert!(status.is_some() && files.is_some(), "{summary}");
    assert!(!restored(&place).path().join("dev/shm").join(other.path().file_name().expect("name")).exists());
    // Side by side too.
    let (status, _) = backup(&place, &["-x", "--component", "both", text(one.path()), text(other.path())]);
    assert_eq!(status, Some(0));
    let name = other.path().file_name().expect("name");
    assert_eq!(
        fs::read_to_string(restored(&place).path().join("both").join(name).join("b")).expect("is restored"),
        "there"
    );
}

#[test]
fn a_path_behind_a_link_that_leads_nowhere_is_an_error() {
    let place = made();
    let source = tempfile::tempdir().expect("temporary folder");
    let (data, config) = (source.path().join("data"), source.path().join("config"));
    symlink("/no/such/disk", &data).expect("link");
    fs::create_dir(&config).expect("directory");
    fs::write(config.join("main.cf"), "x").expect("writes");
    let (status, summary) = backup(&place, &[text(&data.join("mail")), text(&config)]);
    assert_eq!(status, Some(1), "{summary}");
    let errors = summary["errors"].to_string();
    assert!(errors.contains("data") && errors.contains("not a directory"), "{errors}");
    let output = snap(&place, &["backup", text(&data.join("mail"))]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("not a directory"), "{said}");
}

#[test]
fn what_was_named_is_not_left_out() {
    let place = made();
    let source = tempfile::tempdir().expect("temporary folder");
    let mail = source.path().join("mail");
    fs::create_dir_all(mail.join("mail")).expect("directory");
    fs::write(mail.join("message"), "x").expect("writes");
    fs::write(mail.join("mail/inner"), "x").expect("writes");
    let (status, summary) = backup(&place, &[text(&mail), "--exclude", "mail", "--exclude", "tmp"]);
    assert_eq!(status, Some(0), "{summary}");
    let restored = restored(&place);
    let inside = restored.path().join(mail.strip_prefix("/").expect("absolute"));
    assert!(inside.join("message").exists() && !inside.join("mail").exists());
}

/// A mailbox that has been moved to a larger disk, with a link where it was.
#[test]
fn a_named_link_to_a_directory_stands_for_what_it_leads_to() {
    let place = made();
    let source = tempfile::tempdir().expect("temporary folder");
    let (disk, mail, keys) =
        (source.path().join("disk"), source.path().join("mail"), source.path().join("keys"));
    for (folder, file) in [(&disk, "message"), (&keys, "dkim")] {
        fs::create_dir_all(folder.join("deeper")).expect("directory");
        fs::write(folder.join("deeper").join(file), "x").expect("writes");
    }
    symlink(&disk, &mail).expect("link");
    symlink("message", disk.join("deeper/inner")).expect("link");
    let both = ["-x", "--component", "both", text(&mail), text(&keys)];
    for sources in [&both[..], &both, &["--component", "both", text(&mail)]] {
        assert_eq!(backup(&place, sources).0, Some(0), "{sources:?}");
        let target = restored(&place);
        let inside = if sources.len() > 3 { "both/mail/deeper" } else { "both/deeper" };
        let inside = target.path().join(inside);
        assert_eq!(fs::read_to_string(inside.join("message")).expect("is restored"), "x", "{sources:?}");
        assert!(inside.join("inner").is_symlink(), "what lies inside stays what it is");
    }
    fs::rename(&disk, source.path().join("unplugged")).expect("moves");
    let (status, summary) = backup(&place, &both);
    assert_eq!(status, Some(1), "{summary}");
    assert!(summary["errors"].to_string().contains("/mail"), "{summary}");
    assert!(!restored(&place).path().join("both/mail").is_symlink());
}

#[test]
fn the_root_directory_lies_beside_nothing() {
    let place = made();
    let output = snap(&place, &["backup", "--component", "system", "/", text(place.path())]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("by itself"), "{said}");
}
