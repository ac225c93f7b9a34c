//! A nightly run whose key files are not those that the machine remembers.

use std::fs;

use age::x25519::Identity;

use crate::common::Noise;
use crate::common::repo::maildir;
use crate::place::{Place, text};

#[test]
fn a_key_file_that_is_gone_is_mailed_and_the_night_is_sealed_to_its_owner_all_the_same() {
    let mut place = Place::new();
    maildir(&place.path("mail"), 3, 2000, &mut Noise::new(7));
    place.rest = place.mail_component();
    place.write_config();
    let (owner, other) =
        (Identity::generate().to_public().to_string(), Identity::generate().to_public().to_string());
    let made = place.snap(&["init", "--recipient", &owner, "--recipient", &other]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let listed = text(&place.snap(&["key", "list"]).stdout);
    let line = listed.lines().find(|line| line.contains(&owner)).expect("is listed");
    let id = line.split_whitespace().next().expect("has an id");
    let files = fs::read_dir(place.repo.join("keys")).expect("lists").flatten().map(|entry| entry.path());
    let is_owners = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(id))
    };
    fs::remove_file(files.into_iter().find(is_owners).expect("is there")).expect("it is taken away");

    let run = place.snap(&["backup", "--daily"]);
    assert_eq!(run.status.code(), Some(1), "{}", text(&run.stderr));
    let mail = place.only_mail();
    assert!(mail.subject.starts_with("[ALERT]"), "{}", mail.subject);
    mail.says(&[
        &format!("{owner} is sealed to, as this machine remembers, and no file there names it"),
        "The snapshot is good",
        "snap key accept",
        "Succeeded",
    ]);
    assert!(place.log("snap.log").contains("ERROR"), "{}", place.log("snap.log"));
    assert_eq!(place.snapshots().len(), 1);

    place.forget_mails();
    let check = place.snap(&["check"]);
    assert_eq!(check.status.code(), Some(3), "{}", text(&check.stderr));
    place.only_mail().says(&[&owner]);
}
