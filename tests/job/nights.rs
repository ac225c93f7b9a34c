//! What a night lacks: taken from an earlier one, and said; or refused, with the night that has it.

use std::fs;

use serde_json::{Value, json};
use snap::base::id::SnapshotId;
use snap::base::wire;
use snap::stage::snapshot::facts::{ACCEPTED, SUSPECTS, Suspect};
use snap::store::Name;

use crate::place::{Place, text};

/// A place with `mail`, and with `mysql` of two dumps, each of which fails if a file of its name is in `down/`.
fn place() -> Place {
    let mut place = Place::with_mail(2);
    fs::create_dir(place.path("down")).expect("folder is made");
    place.run = "retries = 0".to_owned();
    place.rest += "[[component]]\nname = \"mysql\"\n";
    for name in ["a.sql", "b.sql"] {
        let script = format!(
            "test ! -e {}/{name} && cat {}",
            place.path("down").display(),
            place.path("rows").display()
        );
        place.rest +=
            &format!("[[component.stream]]\nname = \"{name}\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n");
    }
    place
}

/// Backs up at a time, with some dumps down; returns the snapshot's id.
fn night(place: &Place, time: &str, rows: &str, down: &[&str], arguments: &[&str]) -> String {
    fs::write(place.path("rows"), rows).expect("rows are written");
    for name in ["a.sql", "b.sql"] {
        match down.contains(&name) {
            true => fs::write(place.path("down").join(name), "").expect("it goes down"),
            false => drop(fs::remove_file(place.path("down").join(name))),
        }
    }
    let (status, summary) = place.backup(&[&["--daily", "--time", time], arguments].concat());
    assert_eq!(status, i32::from(!down.is_empty()));
    summary["snapshot"].as_str().expect("text").to_owned()
}

const BOTH: &[&str] = &["a.sql", "b.sql"];

fn cat(place: &Place, at: &str) -> String {
    text(&place.snap(&["cat", at]).stdout)
}

#[test]
fn a_component_that_failed_is_taken_from_the_night_before_and_that_is_said() {
    let place = place();
    let first = night(&place, "2025-11-05T03:00", "one", &[], &[]);
    let second = night(&place, "2025-11-06T03:00", "two", &[], &[]);
    let failed = night(&place, "2025-11-07T03:00", "three", BOTH, &[]);
    let later = night(&place, "2025-11-08T03:00", "four", &[], &["--component", "mysql"]);
    assert_eq!(cat(&place, "latest:mysql/a.sql"), "two", "of the newest before, not of what came later");
    let looked = place.snap(&["-q", "cat", "daily:mysql/a.sql"]);
    let said = text(&looked.stderr);
    let expected = format!(
        "snap: mysql could not be backed up in {} of 2025-11-07 03:00: taken from {} of 2025-11-06 03:00\n",
        &failed[..8],
        &second[..8]
    );
    assert_eq!((said, looked.status.code()), (expected, Some(0)), "also to who wants to hear nothing else");
    assert_eq!(text(&place.snap(&["cat", "latest:mail/nothing"]).stderr).matches("taken").count(), 0);

    let listed = text(&place.snap(&["--json", "ls", "-R", "latest"]).stdout);
    let rows: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
    let from =
        |path: &str| rows.iter().find(|row| row["path"] == path).expect("is listed")["taken_from"].clone();
    assert_eq!(
        (from("mysql/a.sql"), from("mysql"), from("mail")),
        (json!(second), json!(second), json!(null))
    );
    let names: Vec<&str> = rows.iter().map(|row| row["path"].as_str().expect("text")).collect();
    assert!(names.is_sorted(), "{names:?}");

    let restored = place.json(&["restore", "latest", "--target", "out", "--verify"]);
    assert_eq!(restored["taken_from"][0]["component"], "mysql");
    assert_eq!((&restored["taken_from"][0]["snapshot"], &restored["missing"]), (&json!(second), &json!([])));
    assert_eq!(fs::read_to_string(place.path("out/mysql/b.sql")).expect("is restored"), "two");
    assert_eq!(fs::read_dir(place.path("out/mail/cur")).expect("is restored").count(), 1);
    place.json(&["restore", "latest~0:mysql", "--target", "part"]);
    assert_eq!(fs::read_to_string(place.path("part/a.sql")).expect("is restored"), "two");
    place.json(&["restore", "latest", "--target", "one", "--component", "mysql"]);
    assert!(place.path("one/a.sql").exists() && !place.path("one/mail").exists());

    // As it is, by its id too: what is missing is named, with both nights that have it.
    for spec in [&["latest", "--as-is"][..], &[&failed[..8]][..]] {
        let target = format!("as-is-{}", spec.len());
        let restored = place.snap(&[&["--json", "restore", "--target", &target], spec].concat());
        let said = text(&restored.stderr);
        assert_eq!(restored.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&second[..8]) && said.contains(&later[..8]) && said.contains("have it"),
            "{said}"
        );
        assert!(place.path(&target).join("mail").exists() && !place.path(&target).join("mysql").exists());
        let refused = place.snap(&[&["restore", "--target", "no", "--component", "mysql"], spec].concat());
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    }
    assert_eq!(
        text(&place.snap(&["diff", &first, "latest"]).stdout).matches("- mysql").count(),
        3,
        "never in a diff"
    );
    let deleted = place.snap(&["restore", "latest", "--target", "out", "--overwrite", "always", "--delete"]);
    assert_eq!(deleted.status.code(), Some(2));
    assert!(
        text(&deleted.stderr).contains("--delete: component mysql comes from"),
        "{}",
        text(&deleted.stderr)
    );
    let tagged = place.json(&["tag", "latest", "--add", "seen"]);
    assert_eq!(tagged["replaced"], json!(failed));
    assert_eq!(cat(&place, "seen:mysql/a.sql"), "two");
}

#[test]
fn a_day_is_completed_from_that_day_alone_and_else_says_which_night_has_it() {
    let place = place();
    let before = night(&place, "2025-11-06T03:00", "one", &[], &[]);
    let early = night(&place, "2025-11-07T03:00", "two", &[], &[]);
    night(&place, "2025-11-07T04:00", "three", BOTH, &[]);
    night(&place, "2025-11-08T03:00", "four", BOTH, &[]);
    assert_eq!(cat(&place, "daily/2025-11-07:mysql/a.sql"), "two");
    assert_eq!(cat(&place, "daily:mysql/a.sql"), "two", "a night is completed from any before");
    for arguments in [
        &["cat", "daily/2025-11-08:mysql/a.sql"][..],
        &["ls", "daily/2025-11-08:mysql"],
        &["ls", "-R", "--sha256", "daily/2025-11-08:mysql"],
        &["restore", "daily/2025-11-08:mysql", "--target", "no"],
        &["restore", "daily/2025-11-08", "--target", "no", "--component", "mysql"],
    ] {
        let refused = place.snap(arguments);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {said}");
        let expected = format!("{} of 2025-11-07 03:00 has it", &early[..8]);
        assert!(
            said.contains("component mysql: could not be backed up") && said.contains(&expected),
            "{said}"
        );
    }
    let looked = place.snap(&["ls", "daily/2025-11-08"]);
    assert_eq!((text(&looked.stdout).as_str(), looked.status.code()), ("mail\n", Some(1)));
    let sums = place.snap(&["ls", "-R", "--sha256", "daily/2025-11-08"]);
    assert_eq!(sums.status.code(), Some(1), "sums of what is there are not those of the night");
    let whole = place.snap(&["restore", "daily/2025-11-08", "--target", "rest"]);
    assert_eq!(whole.status.code(), Some(1), "what there is comes back");
    assert!(place.path("rest/mail").exists() && text(&whole.stderr).contains(&early[..8]));
    assert!(!place.path("no").exists());
    assert_eq!(cat(&place, &format!("{}:mysql/a.sql", &before[..8])), "one");
}

#[test]
fn what_a_partial_component_lacks_is_named_with_the_night_that_has_it() {
    let place = place();
    let first = night(&place, "2025-11-06T03:00", "one", &[], &[]);
    night(&place, "2025-11-07T03:00", "two", &["b.sql"], &[]);
    assert_eq!(cat(&place, "latest:mysql/a.sql"), "two", "what there is of it is the night's own");
    let refused = place.snap(&["cat", "latest:mysql/b.sql"]);
    let said = text(&refused.stderr);
    let holder = format!("{} of 2025-11-06 03:00 has it", &first[..8]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.contains("mysql/b.sql: could not be backed up in ") && said.contains(&holder), "{said}");
    let restored = place.snap(&["restore", "latest", "--target", "out"]);
    let said = text(&restored.stderr);
    assert_eq!(restored.status.code(), Some(1), "{said}");
    assert!(said.contains("mysql/b.sql could not be backed up") && said.contains(&holder), "{said}");
    place.json(&["restore", "latest:mail", "--target", "mail-alone"]);
    let looked = place.snap(&["ls", "latest:mail"]);
    assert_eq!(
        (looked.status.code(), text(&looked.stderr)),
        (Some(0), String::new()),
        "nothing of mail is lacking"
    );
}

#[test]
fn a_component_that_is_not_in_a_night_is_refused_with_the_night_that_has_it() {
    let mut place = place();
    let first = night(&place, "2025-11-06T03:00", "one", &[], &[]);
    place.rest = place.mail_component();
    assert_eq!(place.backup(&["--daily", "--time", "2025-11-07T03:00"]).0, 0);
    let refused = place.snap(&["restore", "latest", "--target", "no", "--component", "mysql"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        said.contains("it has: mail") && said.contains(&format!("{} of 2025-11-06", &first[..8])),
        "{said}"
    );
}

/// Gives a snapshot's manifest a fact; returns the snapshot's new id.
fn with_fact(place: &Place, id: &str, name: &str, bytes: Vec<u8>) -> String {
    let repository = place.open();
    let id: SnapshotId = id.parse().expect("is an id");
    let mut manifest = repository.manifest(id).expect("manifest reads");
    manifest.set_fact(name, bytes);
    repository.store().delete(&Name::Snapshot(id)).expect("the old one goes");
    repository.put_manifest(&manifest).expect("manifest is put").0.to_string()
}

#[test]
fn a_component_that_is_suspect_is_not_usable_until_it_is_accepted() {
    let place = place();
    let good = night(&place, "2025-11-06T03:00", "many rows", &[], &[]);
    let small = night(&place, "2025-11-07T03:00", "few", &[], &[]);
    let suspect = Suspect { component: "mysql".to_owned(), reason: "was larger".to_owned() };
    let small = with_fact(&place, &small, SUSPECTS, wire::encode(&vec![suspect]).expect("encodes"));
    let looked = place.snap(&["cat", "latest:mysql/a.sql"]);
    let said = text(&looked.stderr);
    assert_eq!(text(&looked.stdout), "many rows");
    assert!(said.contains("mysql is suspect (was larger) in ") && said.contains(&good[..8]), "{said}");
    for spec in [&["latest", "--as-is"][..], &[&small[..8]][..]] {
        let target = format!("as-is-{}", spec.len());
        let restored =
            place.snap(&[&["restore", "--target", &target, "--component", "mysql"], spec].concat());
        let said = text(&restored.stderr);
        assert!(restored.status.code() == Some(1) && said.contains("is suspect"), "{said}");
        assert_eq!(fs::read_to_string(place.path(&target).join("a.sql")).expect("is restored"), "few");
    }
    let deleted =
        place.snap(&["restore", &small, "--target", "as-is-1", "--overwrite", "always", "--delete"]);
    assert_eq!(deleted.status.code(), Some(2), "{}", text(&deleted.stderr));
    assert_eq!(place.snapshots()[1]["components"][1]["suspect"], "was larger");
    assert!(text(&place.snap(&["snapshots"]).stdout).contains("mysql (suspect)"));
    assert!(text(&place.snap(&["diff", &good, "latest"]).stderr).contains("mysql is suspect"));
    with_fact(&place, &small, ACCEPTED, wire::encode(&vec!["mysql".to_owned()]).expect("encodes"));
    let looked = place.snap(&["cat", "latest:mysql/a.sql"]);
    assert_eq!((text(&looked.stdout).as_str(), text(&looked.stderr).as_str()), ("few", ""));
}
