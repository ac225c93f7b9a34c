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
    restored_with(place, 0)
}

fn restored_with(place: &TempDir, status: i32) -> TempDir {
    let target = tempfile::tempdir().expect("temporary folder");
    let path = target.path().to_str().expect("text");
    let output = snap(place, &["restore", "latest", "--target", path]);
    assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(&output.stderr));
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
    let target = restored_with(&place, 1); // it lacks what could not be backed up
    assert!(!target.path().join("both/mail").is_symlink());
}

#[test]
fn the_root_directory_lies_beside_nothing() {
    let place = made();
    let output = snap(&place, &["backup", "--component", "system", "/", text(place.path())]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("by itself"), "{said}");
}

/// Returns the names of all files in the latest snapshot that `pattern` matches, by their last two parts.
fn found(place: &TempDir, pattern: &str) -> Vec<String> {
    let output = snap(place, &["find", pattern, "-s", "latest"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = said.lines().map(|line| line.rsplit(' ').next().unwrap_or_default());
    let tail = |line: &str| {
        let mut parts: Vec<&str> = line.rsplit('/').take(2).collect();
        parts.reverse();
        parts.join("/")
    };
    lines.map(tail).collect()
}

/// Makes the directories and files of `paths` below the place.
fn fill(place: &TempDir, paths: &[&str]) {
    for path in paths {
        let path = place.path().join(path);
        fs::create_dir_all(path.parent().expect("lies in a directory")).expect("directories");
        fs::write(path, "x").expect("writes");
    }
}

#[test]
fn a_path_that_lies_below_another_named_path_is_still_named() {
    let place = made();
    fill(&place, &["srv/other/f", "real/letter"]);
    for paths in [["srv", "srv/mail"], ["srv/mail", "srv"]] {
        let (status, summary) = backup(&place, &paths);
        assert_eq!(status, Some(1), "it is not there: {summary}");
        assert!(summary["errors"].to_string().contains("srv/mail"), "{summary}");
        assert_eq!(found(&place, "f"), ["other/f"], "the rest is stored");
    }
    symlink(place.path().join("real"), place.path().join("srv/mail")).expect("link");
    for link in ["srv/mail", "srv/mail/"] {
        assert_eq!(backup(&place, &["srv", link]).0, Some(0));
        assert_eq!(found(&place, "letter"), ["mail/letter"], "what {link} leads to is stored");
    }
    assert_eq!(backup(&place, &["srv"]).0, Some(0));
    assert!(found(&place, "letter").is_empty(), "a link that was not named stays one");
    assert_eq!(backup(&place, &["srv", "srv/other/f", "srv/other/f/deeper"]).0, Some(1));
    assert_eq!(found(&place, "f"), ["other/f"], "a file that was named is stored, whatever else was");
}

#[test]
fn a_link_means_the_same_however_it_is_typed() {
    let place = made();
    fill(&place, &["real/f", "beside/x"]);
    symlink("real", place.path().join("link")).expect("link");
    for typed in ["link", "./link", "link/", "./link/.", "beside/../link", "link//"] {
        let (status, summary) = backup(&place, &[typed]);
        assert_eq!((status, &summary["warnings"]), (Some(0), &serde_json::json!([])), "{typed}: {summary}");
        assert_eq!(found(&place, "f"), ["link/f"], "{typed}");
    }
    assert_eq!(backup(&place, &["real", "link"]).0, Some(0));
    assert_eq!(found(&place, "f"), ["link/f", "real/f"], "each under its name");
    fs::remove_dir_all(place.path().join("real")).expect("goes");
    for sources in [&["beside", "link"][..], &["--component", "m", "beside", "link"]] {
        let (status, summary) = backup(&place, sources);
        assert_eq!(status, Some(1), "{summary}");
        assert!(summary["errors"].to_string().contains("a link that leads nowhere"), "{summary}");
        assert_eq!((found(&place, "x").len(), found(&place, "link").len()), (1, 0));
    }
    for sources in [&["link"][..], &["--component", "m", "link"]] {
        let output = snap(&place, &[&["backup"], sources].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains("a link that leads nowhere"), "{said}");
    }
}

#[test]
fn a_pattern_never_removes_what_leads_to_a_named_path() {
    let place = made();
    fill(&place, &["cache/mail/f", "cache/mail/cache/inner", "cache/junk", "other"]);
    let named = "cache/mail";
    assert_eq!(backup(&place, &[named, "-e", "**/cache/**"]).0, Some(0));
    assert_eq!(found(&place, "f"), ["mail/f"]);
    assert!(found(&place, "inner").is_empty(), "what is called so inside is left out");
    // What lies beside it stays out, whichever way it was left out.
    for exclude in [
        &["-e", "cache"][..],
        &["-e", &format!("{}/cache", text(place.path()))],
        &["--exclude-if-present", "junk"],
    ] {
        assert_eq!(backup(&place, &[&[text(place.path()), named][..], exclude].concat()).0, Some(0));
        assert_eq!(
            (found(&place, "f"), found(&place, "junk").len()),
            (vec!["mail/f".to_owned()], 0),
            "{exclude:?}"
        );
        assert_eq!(found(&place, "other").len(), 1, "{exclude:?}");
    }
}

#[test]
fn what_is_mounted_below_a_named_path_is_stored_where_it_was_named_too() {
    let shared = Path::new("/dev/shm");
    let device = |path: &Path| fs::metadata(path).map(|about| about.dev()).ok();
    if device(shared).is_none() || device(shared) == device(Path::new("/dev")) {
        return eprintln!("skipped: /dev/shm is no file system of its own");
    }
    let place = made();
    let there = tempfile::tempdir_in(shared).expect("temporary folder");
    let (named, beside) = (there.path().join("named"), there.path().join("beside"));
    for folder in [&named, &beside] {
        fs::create_dir(folder).expect("directory");
        fs::write(folder.join(folder.file_name().expect("name")), "x").expect("writes");
    }
    let (_, summary) = backup(&place, &["-x", "/dev", text(&named), "-e", "/dev/[!s]*"]);
    assert!(summary["snapshot"].is_string(), "{summary}");
    assert_eq!((found(&place, "named").len(), found(&place, "beside").len()), (2, 0));
}

#[test]
fn what_was_named_and_holds_nothing_to_read_is_said() {
    let place = made();
    fill(&place, &["file", "folder/f"]);
    let path = |name: &str| place.path().join(name);
    let socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("socket");
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .expect("FIFO");
    symlink("file", path("link")).expect("link");
    for sources in
        [&["folder", "socket", "fifo", "link"][..], &["--component", "m", "folder", "socket", "fifo", "link"]]
    {
        let (status, summary) = backup(&place, sources);
        assert_eq!(status, Some(1), "{summary}");
        let (errors, warnings) = (summary["errors"].to_string(), summary["warnings"].to_string());
        assert!(errors.contains("/socket") && errors.contains("nothing can be stored"), "{errors}");
        assert!(warnings.contains("/fifo: it is stored as what it is"), "{warnings}");
        assert!(warnings.contains("/link: the link is stored, not the file"), "{warnings}");
        assert!(!errors.contains("fifo") && !errors.contains("link"), "{errors}");
    }
    let said = snap(&place, &["backup", "folder", "link"]);
    assert!(said.status.success() && String::from_utf8_lossy(&said.stderr).contains("the link is stored"));
    let slash = snap(&place, &["backup", "file/"]);
    assert!(
        String::from_utf8_lossy(&slash.stderr).contains("is not a directory")
            && slash.status.code() == Some(2)
    );
    // What was only met is no concern.
    let (status, summary) = backup(&place, &[text(place.path())]);
    assert_eq!((status, &summary["warnings"]), (Some(0), &serde_json::json!([])), "{summary}");
    drop(socket);
}

#[test]
fn places_of_the_program_inside_a_source_are_left_out_and_said() {
    let place = made();
    fill(&place, &["mail/f", "mail/.snap-restore-7/staged", "mail/.snap-recover-8/malware"]);
    let staged = place.path().join("mail/.snap-restore-7");
    let staging = snap::repo::staging::Staging::new(&place.path().join("state"));
    let about = snap::stage::scan::stat_at(rustix::fs::CWD, staged.to_str().expect("text").as_bytes());
    staging.note(&about.expect("is there"), &staged).expect("is noted");
    let (status, summary) = backup(&place, &[text(place.path())]);
    assert_eq!(status, Some(0), "{summary}");
    let skipped = summary["skipped"].to_string();
    for (name, reason) in [
        ("repo", "the repository itself"),
        ("state", "the state directory"),
        (".snap-restore-7", "files of a restore"),
    ] {
        assert!(skipped.contains(&format!("/{name}\",\"reason\":\"{reason}")), "{name}: {skipped}");
    }
    assert_eq!((found(&place, "writer").len(), found(&place, "staged").len()), (0, 0));
    assert_eq!(found(&place, "malware").len(), 1, "a name proves nothing");
    // Named itself, each is what was asked for; but the repository does not go into itself.
    assert_eq!(backup(&place, &["state", "mail/.snap-restore-7"]).0, Some(0));
    assert_eq!((found(&place, "writer").len(), found(&place, "staged").len()), (1, 1));
    for sources in [&["mail", "repo"][..], &["mail", "repo/snapshots"], &["--component", "m", "mail", "repo"]]
    {
        let (status, summary) = backup(&place, sources);
        assert_eq!(status, Some(1), "{sources:?}: {summary}");
        assert!(summary["errors"].to_string().contains("not backed up into itself"), "{summary}");
    }
    assert_eq!(backup(&place, &["--component", "m", "repo"]).0, Some(2));
}

#[test]
fn a_pattern_that_cannot_be_read_is_an_error_everywhere() {
    let place = made();
    fill(&place, &["src/f"]);
    assert_eq!(backup(&place, &["--component", "m", "src"]).0, Some(0));
    fs::write(place.path().join("list"), "ok\n[\n").expect("writes");
    let lines: [&[&str]; 6] = [
        &["backup", "src", "-e", "["],
        &["backup", "src", "-e", "#recycle"],
        &["backup", "src", "--exclude-from", "list"],
        &["restore", "latest", "--target", "t", "-i", "["],
        &["restore", "latest", "--target", "t", "-e", "{a"],
        &["find", "["],
    ];
    for line in lines {
        let output = snap(&place, line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{line:?}: {said}");
    }
    assert!(!place.path().join("t").exists());
}

#[test]
fn a_file_of_patterns_from_another_editor_means_the_same() {
    let place = made();
    fill(&place, &["src/first", "src/second", "src/#third", "src/kept"]);
    fs::write(place.path().join("list"), "\u{feff}first\r\n# a comment\r\nsecond\r\n\\#third")
        .expect("writes");
    assert_eq!(backup(&place, &["src", "--exclude-from", "list"]).0, Some(0));
    let counts = ["first", "second", "#third", "kept"].map(|name| found(&place, name).len());
    assert_eq!(counts, [0, 0, 0, 1]);
}

#[test]
fn an_include_that_matches_nothing_is_said_and_status_is_one() {
    let place = made();
    fill(&place, &["src/anna/f", "src/bob/g"]);
    assert_eq!(backup(&place, &["--component", "m", "src"]).0, Some(0));
    let restore = |includes: &[&str]| {
        let target = tempfile::tempdir().expect("temporary folder");
        let line = [&["--json", "restore", "latest", "--target", text(target.path())], includes].concat();
        let output = snap(&place, &line);
        (output.status.code(), common::summary(&String::from_utf8_lossy(&output.stdout)))
    };
    let (status, summary) = restore(&["-i", "anna/**"]);
    assert_eq!((status, &summary["unmatched"]), (Some(1), &serde_json::json!(["anna/**"])), "{summary}");
    let (status, summary) = restore(&["-i", "m/anna", "-i", "**/bob/**", "-i", "g", "-i", "nobody"]);
    assert_eq!((status, &summary["unmatched"]), (Some(1), &serde_json::json!(["nobody"])), "{summary}");
    assert_eq!(summary["files"], 2, "the others are restored");
    let (status, summary) = restore(&["-i", "m/anna", "-i", "g", "--dry-run"]);
    assert_eq!((status, &summary["unmatched"]), (Some(0), &serde_json::json!([])), "{summary}");
    let (status, _) = restore(&["-i", "anna", "--component", "m"]);
    assert_eq!(status, Some(0));
    let target = tempfile::tempdir().expect("temporary folder");
    let one = ["restore", "latest:m/anna/f", "--target", text(target.path()), "-i", "other"];
    let output = snap(&place, &one);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("\"other\" matches nothing"), "{said}");
    assert!(!target.path().join("f").exists());
}

#[test]
fn an_empty_stream_is_a_failure_unless_it_may_be_empty() {
    let place = made();
    for line in [&["backup", "--stdin-name", "x.sql"][..], &["backup", "--stdin-name", "x.sql", "--", "true"]]
    {
        let output = snap(&place, line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains("--may-be-empty"), "{said}");
    }
    assert!(snap(&place, &["--json", "snapshots"]).stdout.is_empty(), "nothing was stored");
    assert_eq!(backup(&place, &["--stdin-name", "x.sql", "--may-be-empty"]).0, Some(0));
    let slow = ["backup", "--stdin-name", "x", "--timeout", "200ms", "--", "sh", "-c", "echo x; sleep 600"];
    let output = snap(&place, &slow);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("took longer than 200ms"), "{said}");
}
