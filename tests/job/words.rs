//! What is printed: a report that nobody takes, one of something, one unit for bytes.

use std::fs::{self, File};
use std::process::{Output, Stdio};

use crate::place::{Place, text};

/// Ways in which nobody takes what is printed: a full disk, and a reader that has gone.
fn nobody(closed: bool) -> Stdio {
    match closed {
        true => Stdio::from(std::io::pipe().expect("a pipe").1),
        false => Stdio::from(File::options().write(true).open("/dev/full").expect("opens")),
    }
}

fn unread(place: &Place, arguments: &[&str], closed: bool) -> Output {
    let mut command = place.command(arguments);
    command.stdout(nobody(closed)).stderr(Stdio::piped()).output().expect("program runs")
}

const ONLY_THE_REPORT: &str =
    "snap: the work is done; only its report could not be written: standard output: ";

#[test]
fn a_report_that_cannot_be_written_does_not_make_nothing_of_what_was_done() {
    for closed in [false, true] {
        let mut place = Place::with_mail(3);
        place.rest += "[retention]\ndaily = \"30d\"\n";
        place.write_config();
        let done = |arguments: &[&str]| {
            for json in [false, true] {
                let arguments = if json { [&["--json"], arguments].concat() } else { arguments.to_vec() };
                let output = unread(&place, &arguments, closed);
                let error = text(&output.stderr);
                assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
                assert!(error.contains(ONLY_THE_REPORT), "{arguments:?}: {error}");
                assert!(!error.contains("panicked") && place.mails().is_empty(), "{arguments:?}: {error}");
            }
        };
        let path = place.path("mail").display().to_string();
        done(&["backup", "--daily"]);
        done(&["backup", &path]);
        assert_eq!(place.snapshots().len(), 4);
        assert!(
            place.log("snap.log").contains("succeeded in 0 s, exit status 0"),
            "{}",
            place.log("snap.log")
        );
        done(&["tag", "latest", "--add", "seen"]);
        assert!(place.snapshots().iter().any(|snapshot| snapshot["tags"][1] == "seen"));
        done(&["restore", "latest", "--target", "back", "--overwrite", "always"]);
        assert!(place.path("back/mail").is_dir());
        for arguments in [
            &["prune"][..],
            &["check"],
            &["rebuild-index"],
            &["key", "enroll"],
            &["unlock"],
            &["clone", "other", "--repo", "repo"],
        ] {
            if arguments[0] == "clone" {
                fs::rename(place.path("repo"), place.path("other")).expect("is moved");
            }
            done(arguments);
        }
        let made = unread(&place, &["--repo", "new", "init", "--encryption", "none"], closed);
        assert!(made.status.code() == Some(1) && text(&made.stderr).contains(ONLY_THE_REPORT));
        assert!(place.path("new/config").exists());
        assert!(
            place.log("snap.log").contains("[VERIFY] snap check: succeeded"),
            "{}",
            place.log("snap.log")
        );
    }
}

#[test]
fn where_the_output_is_all_that_was_asked_for_nobody_is_told_that_something_was_done() {
    let place = Place::with_mail(3);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    for arguments in [
        &["snapshots"][..],
        &["ls", "latest"],
        &["stats"],
        &["history", "mail"],
        &["config", "check"],
        &["backup", "--dry-run"],
        &["prune", "--dry-run", "--keep-last", "1"],
        &["restore", "latest", "--target", "no", "--dry-run"],
    ] {
        let full = unread(&place, arguments, false);
        let error = text(&full.stderr);
        assert_eq!(full.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains("standard output: No space left") && !error.contains("is done"), "{error}");
        let closed = unread(&place, arguments, true);
        let error = text(&closed.stderr);
        assert_eq!((closed.status.code(), error.as_str()), (Some(141), ""), "{arguments:?}");
    }
}

#[test]
fn damage_is_damage_also_where_its_report_cannot_be_written() {
    let place = Place::with_mail(3);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let packs = fs::read_dir(place.repo.join("packs")).expect("lists").map(|it| it.expect("reads").path());
    let pack = packs.flat_map(|folder| fs::read_dir(folder).expect("lists")).next().expect("a pack");
    fs::write(pack.expect("reads").path(), b"no pack").expect("is written");
    let output = unread(&place, &["check"], false);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("its report could not be written") && !error.contains("work is done"), "{error}");
    place.only_mail().says(&["Status:      found damage"]);
}

/// Of each noun that is counted somewhere.
const MANY: &[&str] = &[
    "files",
    "packs",
    "snapshots",
    "chunks",
    "nights",
    "entries",
    "directories",
    "locks",
    "links",
    "tries",
    "frames",
    "problems",
    "lines",
    "versions",
    "components",
    "messages",
    "days",
    "recipients",
    "fragments",
    "keys",
];

#[test]
fn one_is_one_and_bytes_have_one_unit_and_no_path_of_the_source_is_shown() {
    let place = Place::with_mail(1);
    let mut said = String::new();
    for arguments in [
        &["backup", "--daily", "-v"][..],
        &["backup", "--daily", "--dry-run", "-v"],
        &["snapshots", "-v"],
        &["ls", "-l", "latest"],
        &["stats"],
        &["history", "mail"],
        &["find", "*"],
        &["check", "--read-data"],
        &["prune", "--keep-last", "1", "-v"],
        &["tag", "latest", "--add", "seen"],
        &["restore", "latest", "--target", "back"],
        &["config", "check", "--run"],
        &["rebuild-index"],
        &["unlock"],
        &["key", "list"],
        &["notify", "--test"],
        &["notify", "--stale", "-v"],
        &["support", "--yes"],
        &["sync", "s3://copies/mail", "--s3-endpoint", "http://127.0.0.1:9", "--s3-region", "eu-central-1"],
    ] {
        let keys = [
            ("AWS_ACCESS_KEY_ID", "AKIATEST"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_MAX_ATTEMPTS", "1"),
        ];
        let output = place.command(arguments).envs(keys).output().expect("program runs");
        let both = format!("{}{}", text(&output.stdout), text(&output.stderr));
        said += &format!("$ snap {}\n{both}\n", arguments.join(" "));
    }
    println!("{said}");
    for noun in MANY {
        let wrong = format!(" 1 {noun}");
        let found: Vec<&str> = said.lines().filter(|line| format!(" {line} ").contains(&wrong)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
    let binary: Vec<&str> = said.lines().filter(|line| line.contains("iB")).collect();
    assert!(binary.is_empty(), "{binary:?}");
    assert!(!said.contains("::"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}
