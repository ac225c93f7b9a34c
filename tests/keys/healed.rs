//! Key files that come back from another copy: those of recipients that this machine remembers, and no others.

use std::fs;
use std::process::Command;

use crate::{Place, text};

/// Copies the repository as it is now, over an earlier copy.
fn copy(place: &Place) {
    let mut copy = Command::new("cp");
    let status = copy.args(["-a", "-T", "repo", "copy"]).current_dir(place.folder.path()).status();
    assert!(status.expect("cp runs").success());
}

/// A repository with two recipients beside the passphrase, and a copy of it.
fn copied() -> (Place, [String; 2]) {
    let place = Place::made(&[]);
    let recipients = ["own", "other"].map(|name| place.identity(name));
    for recipient in &recipients {
        place.done(&["key", "add", "--recipient", recipient]);
    }
    place.back_up("message");
    copy(&place);
    (place, recipients)
}

#[test]
fn key_files_of_remembered_recipients_come_back_from_another_copy() {
    let (place, [own, other]) = copied();
    let lost = [&own, &other].map(|recipient| place.key_of(recipient));
    for id in &lost {
        fs::remove_file(place.path("repo/keys").join(id)).expect("is lost");
    }
    let output = place.command(&["check"]).output().expect("program runs");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let said = place.done(&["check", "--repair-from", "copy"]);
    assert!(lost.iter().all(|id| said.contains(&format!("keys/{id}: brought from"))), "{said}");
    assert!(!said.contains("in the other copy only"), "{said}");
    place.done(&["check"]);
    place.back_up("later");
    assert!(place.opens_by("other", "later") && place.opens("correct horse", "later"));
}

#[test]
fn a_key_file_of_who_was_removed_does_not_come_back_from_another_copy() {
    let (place, [own, other]) = copied();
    let removed = place.key_of(&own);
    place.done(&["key", "remove", &removed]);
    let lost = place.key_of(&other);
    fs::remove_file(place.path("repo/keys").join(&lost)).expect("is lost");
    let said = place.done(&["check", "--repair-from", "copy"]);
    assert!(said.contains(&format!("keys/{lost}: brought from")), "{said}");
    assert!(said.contains("in the other copy only") && said.contains(&removed), "{said}");
    assert!(!place.path("repo/keys").join(&removed).exists());
    place.done(&["check"]);
}

#[test]
fn of_several_key_files_of_one_recipient_the_newest_comes_back() {
    let place = Place::made(&[]);
    place.back_up("message");
    copy(&place);
    let old = place.key("passphrase");
    let mut rotate = place.command(&["key", "rotate-passphrase"]);
    crate::done(rotate.env("SNAP_NEW_PASSWORD", "another horse"));
    let new = place.key("passphrase");
    assert_ne!(old, new);
    copy(&place); // which has both now, as a bucket whose files are locked
    fs::remove_file(place.path("repo/keys").join(&new)).expect("is lost");
    let said = place.done(&["check", "--repair-from", "copy"]);
    assert!(said.contains(&format!("keys/{new}: brought from")), "{said}");
    assert!(!place.path("repo/keys").join(&old).exists(), "{said}");
    assert!(place.opens("another horse", "message") && !place.opens("correct horse", "message"));
}
