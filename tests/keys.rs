//! Keys: who is let in and who may go, and that content stays open to those who stay.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;
#[path = "keys/cut.rs"]
mod cut;
#[path = "keys/forged.rs"]
mod forged;
#[path = "keys/healed.rs"]
mod healed;
#[path = "keys/prompt.rs"]
mod prompt;
#[path = "keys/recipients.rs"]
mod recipients;
#[path = "keys/typed.rs"]
mod typed;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use common::fault::{Fault, FaultStore, Work};
use common::repo::{Picture, open, picture};
use rustix::io::Errno;
use serde_json::Value;
use snap::base::time::Time;
use snap::repo::config::Choices;
use snap::repo::keys::NoSecrets;
use snap::repo::{Opening, RepoError, Repository};
use snap::store::{MemoryStore, Store};
use tempfile::TempDir;

/// A place for a repository of its own. The passphrase is `correct horse` unless a test says otherwise.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("temporary folder") };
        fs::create_dir(place.path("mail")).expect("folder is made");
        place
    }

    fn made(arguments: &[&str]) -> Self {
        let place = Self::new();
        place.done(&[&["init"], arguments].concat());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        common::program(self.folder.path(), arguments)
    }

    fn done(&self, arguments: &[&str]) -> String {
        done(&mut self.command(arguments))
    }

    fn refused(&self, arguments: &[&str]) -> String {
        refused(&mut self.command(arguments))
    }

    /// Draws an identity into a file of that name; returns its recipient.
    fn identity(&self, name: &str) -> String {
        let identity = Identity::generate();
        fs::write(self.path(name), identity.to_string().expose_secret()).expect("identity is written");
        identity.to_public().to_string()
    }

    /// Delivers a message that holds its own name, and backs up all, without a passphrase.
    fn back_up(&self, name: &str) {
        fs::write(self.path("mail").join(name), name).expect("message is written");
        done(self.command(&["backup", "mail"]).env_remove("SNAP_PASSWORD"));
    }

    /// Returns whether `passphrase` opens a message of the latest snapshot.
    fn opens(&self, passphrase: &str, name: &str) -> bool {
        let at = format!("latest:{}", self.path("mail").join(name).display());
        is_printed(self.command(&["cat", &at]).env("SNAP_PASSWORD", passphrase), name)
    }

    /// Returns whether the identity in a file opens a message of the latest snapshot.
    fn opens_by(&self, identity: &str, name: &str) -> bool {
        let at = format!("latest:{}", self.path("mail").join(name).display());
        is_printed(self.command(&["cat", &at, "--identity", identity]).env_remove("SNAP_PASSWORD"), name)
    }

    /// Wraps the identity in a file under a passphrase.
    fn wrap(&self, identity: &str, passphrase: &str) {
        let mut command = self.command(&["key", "add", "--identity", identity]);
        done(command.env("SNAP_NEW_PASSWORD", passphrase));
    }

    /// Returns the ids of the key files that `is_wanted` picks.
    fn keys(&self, is_wanted: impl Fn(&Value) -> bool) -> Vec<String> {
        let listed = self.done(&["--json", "key", "list"]);
        let rows = listed.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let wanted = rows.filter(|row: &Value| is_wanted(row));
        wanted.map(|row| row["id"].as_str().expect("text").to_owned()).collect()
    }

    /// Returns the id of the only key file of a kind.
    fn key(&self, kind: &str) -> String {
        let mut keys = self.keys(|row| row["kind"] == kind);
        assert_eq!(keys.len(), 1, "{kind}: {keys:?}");
        keys.remove(0)
    }

    /// Returns the id of the only file that names this recipient.
    fn key_of(&self, recipient: &str) -> String {
        let mut keys = self.keys(|row| row["recipient"] == recipient);
        assert_eq!(keys.len(), 1, "{recipient}: {keys:?}");
        keys.remove(0)
    }

    /// Returns what lies under `keys/`.
    fn key_files(&self) -> Picture {
        picture(&self.path("repo/keys"))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed; returns what it printed.
fn done(command: &mut Command) -> String {
    let output = command.output().expect("program runs");
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that must be refused with one line; returns the line.
fn refused(command: &mut Command) -> String {
    let output = command.output().expect("program runs");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{command:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{command:?}: {error}");
    error
}

fn is_printed(command: &mut Command, expected: &str) -> bool {
    let output = command.output().expect("program runs");
    output.status.success() && output.stdout == expected.as_bytes()
}

/// Makes a repository that is sealed to one recipient, which takes no key derivation.
fn create(store: Arc<dyn Store>, state: &Path) -> Result<Repository, RepoError> {
    let opening = Opening { store, state, index: None, secrets: &NoSecrets };
    let recipients = [Identity::generate().to_public()];
    Repository::create(&opening, Choices::default(), None, &recipients, Time::new(1_767_000_000, 0))
}

#[test]
fn the_last_key_to_earlier_content_is_not_removed() {
    let place = Place::made(&[]);
    place.back_up("before");
    let later = place.identity("later");
    let said = place.done(&["key", "add", "--recipient", &later]);
    assert!(said.contains("what was stored before stays closed to it"), "{said}");
    place.back_up("after");
    assert!(place.opens_by("later", "after") && !place.opens_by("later", "before"), "as was said");
    let (first, second) = (place.key("passphrase"), place.key("recipient"));
    let keys = place.key_files();
    // With the passphrase that would go, with the identity that came later, and with nothing.
    let remove = ["key", "remove", &first];
    let said = [
        place.refused(&remove),
        place.refused(&["key", "remove", &first, "--identity", "later"]),
        refused(place.command(&remove).env_remove("SNAP_PASSWORD")),
    ];
    for said in said {
        assert!(said.contains(&format!("keys/{first} stays")), "{said}");
    }
    assert_eq!(place.key_files(), keys);
    assert!(place.opens("correct horse", "before") && place.opens("correct horse", "after"));
    assert!(place.opens_by("later", "after"));
    // Who came later may go: the passphrase opens everything.
    refused(place.command(&["key", "remove", &second]).env_remove("SNAP_PASSWORD"));
    assert_eq!(place.key_files(), keys);
    place.done(&["key", "remove", &second]);
    assert!(place.opens("correct horse", "before") && place.opens("correct horse", "after"));
    place.done(&["check"]);
}

#[test]
fn a_key_goes_if_an_identity_that_stays_opens_everything() {
    let place = Place::new();
    let (one, other) = (place.identity("one"), place.identity("other"));
    place.done(&["init", "--recipient", &one, "--recipient", &other]);
    place.back_up("first");
    place.back_up("second");
    let (first, keys) = (place.key_of(&one), place.key_files());
    let said = place.refused(&["key", "remove", &first, "--identity", "one"]);
    assert!(said.contains("stays"), "its own identity shows nothing: {said}");
    assert_eq!(place.key_files(), keys);
    place.done(&["key", "remove", &first, "--identity", "other"]);
    place.back_up("third");
    for name in ["first", "second", "third"] {
        assert!(place.opens_by("other", name), "{name}");
    }
    place.done(&["check"]);
}

#[test]
fn a_key_that_nothing_was_sealed_to_needs_no_proof() {
    let place = Place::new();
    let (one, other) = (place.identity("one"), place.identity("other"));
    place.done(&["init", "--recipient", &one]);
    place.done(&["key", "add", "--recipient", &other]);
    place.done(&["key", "remove", &place.key_of(&one)]);
    place.back_up("message");
    assert!(place.opens_by("other", "message") && !place.opens_by("one", "message"));
}

#[test]
fn a_wrapped_identity_whose_owner_keeps_it_elsewhere_goes_when_he_shows_it() {
    let place = Place::new();
    let own = place.identity("own");
    place.done(&["init", "--recipient", &own]);
    place.back_up("message");
    place.wrap("own", "correct horse");
    assert!(place.opens("correct horse", "message"));
    let (wrapped, keys) = (place.key("passphrase"), place.key_files());
    let said = place.refused(&["key", "remove", &wrapped]);
    assert!(said.contains("stays"), "it may be lost elsewhere: {said}");
    assert_eq!(place.key_files(), keys);
    assert!(place.opens("correct horse", "message"));
    place.done(&["key", "remove", &wrapped, "--identity", "own"]);
    assert!(place.opens_by("own", "message") && !place.opens("correct horse", "message"));
}

#[test]
fn no_key_goes_while_a_run_is_under_way_that_seals_to_those_of_its_beginning() {
    let place = Place::made(&[]);
    place.back_up("message");
    done(place.command(&["key", "add"]).env("SNAP_NEW_PASSWORD", "second horse"));
    let (key, keys) = (place.keys(|row| row["kind"] == "passphrase").remove(0), place.key_files());
    let lock = fs::File::create(place.path("repo/lock")).expect("lock file opens");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared).expect("lock is taken");
    for arguments in [&["key", "remove", &key][..], &["key", "rotate-passphrase"]] {
        let mut command = place.command(arguments);
        command.env("SNAP_LOCK_WAIT", "0s").env("SNAP_NEW_PASSWORD", "third horse");
        let output = command.output().expect("program runs");
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {}", text(&output.stderr));
    }
    assert_eq!(place.key_files(), keys);
    drop(lock);
    place.done(&["key", "remove", &key]);
}

#[test]
fn a_strangers_key_file_is_never_sealed_to_and_can_be_removed() {
    let place = Place::new();
    let (one, other) = (place.identity("one"), place.identity("other"));
    place.done(&["init", "--recipient", &one, "--recipient", &other]);
    place.back_up("message");
    let first = place.key_of(&one);
    let keys = place.key_files();
    let thief = Place::new();
    let stranger = thief.identity("stranger");
    thief.done(&["init", "--recipient", &stranger]);
    for entry in fs::read_dir(thief.path("repo/keys")).expect("folder lists") {
        let path = entry.expect("entry reads").path();
        fs::copy(&path, place.path("repo/keys").join(path.file_name().expect("has a name")))
            .expect("file is copied");
    }
    let planted = place.key_files();
    for arguments in
        [&["key", "remove", &first, "--identity", "other"][..], &["key", "add", "--recipient", &stranger]]
    {
        let said = place.refused(arguments);
        assert!(said.contains("was not written by this repository's owner"), "{said}");
    }
    assert_eq!(place.key_files(), planted);
    // His files go, one after the other, and nothing else changes.
    let his = place.keys(|row| row["proven"] == false);
    assert_eq!(his.len(), 2);
    for key in his {
        place.done(&["key", "remove", &key]);
    }
    assert_eq!(place.key_files(), keys);
    place.done(&["key", "remove", &first, "--identity", "other"]);
    place.back_up("another");
    assert!(place.opens_by("other", "message") && place.opens_by("other", "another"));
    place.done(&["check"]);
}

#[test]
fn an_unreadable_key_file_is_neither_passed_over_nor_removed() {
    let place = Place::made(&[]);
    place.back_up("message");
    done(place.command(&["key", "add"]).env("SNAP_NEW_PASSWORD", "second horse"));
    let key = place.keys(|row| row["kind"] == "passphrase").remove(0);
    let damaged = "0".repeat(64);
    fs::write(place.path("repo/keys").join(&damaged), "no key file").expect("file is written");
    let keys = place.key_files();
    for arguments in
        [&["key", "remove", &key][..], &["key", "remove", &damaged], &["key", "rotate-passphrase"]]
    {
        let said = refused(place.command(arguments).env("SNAP_NEW_PASSWORD", "third horse"));
        assert!(said.contains(&damaged), "{arguments:?}: {said}");
    }
    assert_eq!(place.key_files(), keys);
    assert!(place.opens("correct horse", "message") && place.opens("second horse", "message"));
}

#[test]
fn a_recipient_of_several_files_is_sealed_to_once() {
    let place = Place::new();
    let (one, other) = (place.identity("one"), place.identity("other"));
    place.done(&["init", "--recipient", &one, "--recipient", &other]);
    place.back_up("message");
    place.wrap("other", "correct horse");
    place.wrap("other", "second horse");
    place.done(&["key", "remove", &place.key_of(&one)]);
    // `check` compares how many the writer secret is sealed to with how many recipients there are.
    place.done(&["check"]);
    assert!(place.opens("correct horse", "message") && place.opens("second horse", "message"));
}

#[test]
fn rotating_wraps_every_identity_that_the_old_passphrase_opened() {
    let place = Place::made(&[]);
    place.back_up("before");
    let later = place.identity("later");
    place.done(&["key", "add", "--recipient", &later]);
    place.wrap("later", "correct horse");
    place.back_up("after");
    let mut rotate = place.command(&["key", "rotate-passphrase"]);
    let said = done(rotate.env("SNAP_NEW_PASSWORD", "third horse"));
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(place.opens("third horse", "before") && place.opens("third horse", "after"));
    let exported = done(place.command(&["key", "export"]).env("SNAP_PASSWORD", "third horse"));
    assert_eq!(exported.lines().count(), 2, "both identities are there");
    assert_eq!(place.keys(|row| row["kind"] == "passphrase").len(), 2);
    assert!(!place.opens("correct horse", "before"));
}

#[test]
fn rotating_needs_the_present_passphrase_whatever_identity_is_given() {
    let place = Place::made(&[]);
    place.back_up("message");
    fs::write(place.path("own"), place.done(&["key", "export"])).expect("identity is written");
    let keys = place.key_files();
    let mut rotate = place.command(&["key", "rotate-passphrase", "--identity", "own"]);
    rotate.env("SNAP_PASSWORD", "wrong horse").env("SNAP_NEW_PASSWORD", "third horse");
    let said = refused(&mut rotate);
    assert!(said.contains("the passphrase is wrong"), "{said}");
    assert_eq!(place.key_files(), keys);
    assert!(place.opens("correct horse", "message") && !place.opens("third horse", "message"));
}

#[test]
fn a_strangers_identity_is_not_wrapped() {
    let place = Place::made(&[]);
    place.back_up("message");
    let stranger = place.identity("stranger");
    let keys = place.key_files();
    let mut add = place.command(&["key", "add", "--identity", "stranger"]);
    let said = refused(add.env("SNAP_NEW_PASSWORD", "second horse"));
    assert!(said.contains("none of the identities that were given"), "{said}");
    assert_eq!(place.key_files(), keys);
    assert!(place.opens("correct horse", "message"));
    // Of several, that one is wrapped which opens something here.
    let both = fs::read_to_string(place.path("stranger")).expect("file reads") + "\n";
    fs::write(place.path("both"), both + &place.done(&["key", "export"])).expect("file is written");
    place.wrap("both", "second horse");
    assert!(place.opens("second horse", "message"));
    assert_eq!(place.keys(|row| row["recipient"] == stranger.as_str()), Vec::<String>::new());
}

#[test]
fn a_recipient_that_is_named_twice_is_one() {
    let place = Place::new();
    let own = place.identity("own");
    place.done(&["init", "--recipient", &own, "--recipient", &own]);
    place.key_of(&own);
    place.back_up("message");
    assert!(place.opens_by("own", "message"));
    place.done(&["check"]);
}

#[test]
fn a_first_passphrase_is_long_enough_wherever_it_comes_from() {
    let place = Place::new();
    for (command, why) in [("printf short", "too short"), ("true", "SNAP_PASSWORD_COMMAND")] {
        let mut init = place.command(&["init"]);
        let said = refused(init.env("SNAP_PASSWORD", "").env("SNAP_PASSWORD_COMMAND", command));
        assert!(said.contains(why), "{command}: {said}");
        assert!(!place.path("repo").exists(), "{command}");
    }
    // A variable that is set and empty counts as not set.
    let by_command = |arguments: &[&str], command: &str| {
        let mut by_command = place.command(arguments);
        by_command.env("SNAP_PASSWORD", "").env("SNAP_NEW_PASSWORD", "");
        by_command.env("SNAP_PASSWORD_COMMAND", command);
        by_command
    };
    done(&mut by_command(&["init"], "echo correct horse"));
    place.back_up("message");
    let at = format!("latest:{}", place.path("mail/message").display());
    assert!(is_printed(&mut by_command(&["cat", &at], "echo correct horse"), "message"));
    let said = refused(&mut by_command(&["cat", &at], "true"));
    assert!(said.contains("SNAP_PASSWORD_COMMAND"), "{said}");
    let said = refused(&mut by_command(&["key", "add"], "echo correct horse"));
    assert!(said.contains("none was given"), "{said}");
}

#[test]
fn packs_and_an_identity_are_enough() {
    let place = Place::new();
    let own = place.identity("own");
    let _ = place.identity("stranger");
    place.done(&["init", "--recipient", &own]);
    place.back_up("message");
    fs::remove_dir_all(place.path("repo/keys")).expect("keys go");
    fs::remove_dir_all(place.path("state")).expect("state goes");
    let at = format!("latest:{}", place.path("mail/message").display());
    let said = place.refused(&["cat", &at, "--identity", "stranger"]);
    assert!(said.contains("this machine does not know this repository"), "{said}");
    assert!(place.opens_by("own", "message"));
}

#[test]
fn an_init_that_fails_takes_its_keys_back_unless_there_is_a_repository() {
    let state = tempfile::tempdir().expect("temporary folder");
    for fault in [
        |call| Fault::DiskFull { call },
        |call| Fault::Once { call, error: Errno::IO, work: Work::Undone },
        |call| Fault::Once { call, error: Errno::IO, work: Work::Done },
    ] {
        for call in 0.. {
            let disk = MemoryStore::default();
            let failing = FaultStore::new(Arc::new(disk.clone()), fault(call));
            if create(Arc::new(failing), state.path()).is_ok() {
                assert!(call > 6, "two key files and the config: {call}");
                break;
            }
            match disk.files().contains_key("config") {
                // The acknowledgement was lost: what it says it has, it has.
                true => {
                    let repository = open(Arc::new(disk), state.path(), None).expect("repository opens");
                    assert_eq!(repository.recipients().expect("keys read").len(), 1, "{:?}", fault(call));
                }
                false => {
                    assert!(disk.files().is_empty(), "{:?}: {:?}", fault(call), disk.files().keys());
                    create(Arc::new(disk), state.path()).expect("the next one works");
                }
            }
        }
    }
}
