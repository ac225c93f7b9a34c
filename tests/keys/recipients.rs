//! To whom content is sealed is remembered: `keys/` may be rolled back, emptied or added to, and nobody is sealed to
//! who was not before, nobody is dropped, and nothing of it goes unsaid.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use age::x25519::{Identity, Recipient};
use snap::base::time::Time;
use snap::op::key;
use snap::repo::config::Choices;
use snap::repo::keys::{KeyBody, NoSecrets, Sealing, Secrets};
use snap::repo::recipients::SealedTo;
use snap::repo::{Opening, RepoError, Repository};
use snap::store::{Folder, MemoryStore, Name, Store};

use crate::common::fault::{Fault, FaultStore, Work};
use crate::common::repo::{check_all, open};
use crate::{Place, done, text};

fn now() -> Time {
    Time::new(1_767_000_000, 0)
}

impl Place {
    /// Delivers a message and backs up; returns the exit status and what was said on standard error.
    fn try_to_back_up(&self, state: &str, name: &str) -> (Option<i32>, String) {
        fs::write(self.path("mail").join(name), name).expect("message is written");
        let mut command = self.command(&["backup", "mail"]);
        let output = command.env_remove("SNAP_PASSWORD").env("SNAP_STATE_DIR", self.path(state)).output();
        let output = output.expect("program runs");
        (output.status.code(), text(&output.stderr))
    }

    fn check(&self) -> (Option<i32>, String) {
        let output = self.command(&["check"]).env_remove("SNAP_PASSWORD").output().expect("program runs");
        (output.status.code(), text(&output.stderr))
    }

    fn copy(&self, from: &str, to: &str) {
        let copied = Command::new("cp").arg("-a").arg(self.path(from)).arg(self.path(to)).status();
        assert!(copied.expect("cp runs").success());
    }

    /// Puts a folder that was copied earlier in place of another.
    fn put_back(&self, copy: &str, place: &str) {
        fs::remove_dir_all(self.path(place)).expect("folder goes");
        self.copy(copy, place);
    }

    fn remembered(&self) -> std::path::PathBuf {
        let kept = fs::read_dir(self.path("state")).expect("state lists").flatten();
        let kept = kept.map(|entry| entry.path().join("recipients")).find(|path| path.exists());
        kept.expect("recipients are remembered")
    }
}

#[test]
fn who_was_removed_is_not_sealed_to_again_when_old_key_files_are_put_back() {
    let place = Place::made(&[]);
    let left = place.identity("left");
    place.done(&["key", "add", "--recipient", &left]);
    place.copy("repo/keys", "old");
    place.done(&["key", "remove", &place.key_of(&left)]);
    place.put_back("old", "repo/keys");
    let (status, said) = place.try_to_back_up("state", "message");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("ERROR") && said.contains(&left) && said.contains("snap key accept"), "{said}");
    assert!(place.opens("correct horse", "message") && !place.opens_by("left", "message"));
    let (status, said) = place.check();
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains(&left), "{said}");
    // Whoever means the removal does it again.
    place.done(&["key", "remove", &place.key_of(&left)]);
    assert_eq!(place.try_to_back_up("state", "after"), (Some(0), String::new()));
    assert_eq!(place.check(), (Some(0), String::new()));
}

#[test]
fn whose_key_file_is_taken_away_is_sealed_to_all_the_same() {
    let place = Place::made(&[]);
    fs::write(place.path("own"), place.done(&["key", "export"])).expect("identity is written");
    place.copy("repo/keys", "first");
    let first: BTreeSet<_> = place.keys(|_| true).into_iter().collect();
    let mine = place.key("passphrase");
    let other = place.identity("other");
    place.done(&["key", "add", "--recipient", &other]);
    fs::remove_file(place.path("repo/keys").join(place.key("writer"))).expect("the newest sealing goes");
    fs::remove_file(place.path("repo/keys").join(&mine)).expect("the owner's key goes");
    for old in first.iter().filter(|id| **id != mine) {
        fs::copy(place.path("first").join(old), place.path("repo/keys").join(old)).expect("it is back");
    }
    let (status, said) = place.try_to_back_up("state", "message");
    assert_eq!(status, Some(1), "{said}");
    let owner = fs::read_to_string(place.path("own")).expect("identity reads");
    let owner: Identity = owner.trim().parse().expect("an identity");
    assert!(said.contains(&format!("{} is sealed to", owner.to_public())), "{said}");
    assert!(said.contains("older files were put in place of newer ones"), "{said}");
    assert!(place.opens_by("own", "message") && place.opens_by("other", "message"));
    assert_eq!(place.check().0, Some(3));
    // The owner's identity, wrapped again, is a key file of a known recipient: all is well.
    place.wrap("own", "second horse");
    assert_eq!(place.try_to_back_up("state", "after"), (Some(0), String::new()));
    assert_eq!(place.check(), (Some(0), String::new()));
    assert!(place.opens("second horse", "message") && place.opens("second horse", "after"));
}

#[test]
fn an_addition_elsewhere_waits_for_accept_and_a_removal_is_taken_over() {
    let place = Place::made(&[]);
    let enroll = ["key", "enroll"];
    let said = place.command(&enroll).env("SNAP_STATE_DIR", place.path("second")).output().expect("runs");
    let owner = place.done(&["key", "list"]);
    let owner = owner.split_whitespace().find(|word| word.starts_with("age1")).expect("a recipient");
    assert!(
        said.status.success() && text(&said.stderr).contains(owner),
        "it says whom it seals to: {said:?}"
    );
    let later = place.identity("later");
    place.done(&["key", "add", "--recipient", &later]);
    place.back_up("on the first");
    assert!(place.opens_by("later", "on the first"));
    let (status, said) = place.try_to_back_up("second", "unasked");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains(&later), "{said}");
    assert!(!place.opens_by("later", "unasked") && place.opens("correct horse", "unasked"));
    let mut accept = place.command(&["key", "accept"]);
    let said = done(accept.env_remove("SNAP_PASSWORD").env("SNAP_STATE_DIR", place.path("second")));
    assert!(said.contains(&format!("content is sealed to {later} (was not before)")), "{said}");
    assert_eq!(place.try_to_back_up("second", "accepted"), (Some(0), String::new()));
    assert!(place.opens_by("later", "accepted"));
    // What the first machine takes away goes on the second without a question, and is said once.
    place.done(&["key", "remove", &place.key_of(&later)]);
    let (status, said) = place.try_to_back_up("second", "removed");
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains(&later) && said.contains("was removed"), "{said}");
    assert!(!place.opens_by("later", "removed") && place.opens("correct horse", "removed"));
    assert_eq!(place.try_to_back_up("second", "again"), (Some(0), String::new()));
}

#[test]
fn the_first_run_after_an_upgrade_remembers_what_is_proven_and_says_it() {
    let place = Place::made(&[]);
    let remembered = place.remembered();
    fs::remove_file(&remembered).expect("as an earlier version left it");
    let (status, said) = (place.check().0, place.check().1);
    assert_eq!((status, said.as_str()), (Some(0), ""), "nothing is remembered, and nothing is wrong");
    place.done(&["backup", "mail", "--dry-run"]);
    assert!(!remembered.exists(), "a dry run remembers nothing");
    let (status, said) = place.try_to_back_up("state", "first");
    assert_eq!(status, Some(0), "{said}");
    let owner = place.done(&["key", "list"]);
    let owner = owner.split_whitespace().find(|word| word.starts_with("age1")).expect("a recipient");
    assert!(said.contains(owner) && said.contains("remembers that from now on"), "{said}");
    assert_eq!(place.try_to_back_up("state", "second"), (Some(0), String::new()), "it is said once");
    // With a stranger's file there nothing is remembered, as nobody knows yet who is missing.
    fs::remove_file(&remembered).expect("it goes");
    let thief = Place::made(&[]);
    let his = thief.key("passphrase");
    fs::copy(thief.path("repo/keys").join(&his), place.path("repo/keys").join(&his)).expect("it is planted");
    let (status, said) = place.try_to_back_up("state", "third");
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains(&his) && !remembered.exists(), "{said}");
}

#[test]
fn what_is_remembered_and_can_not_be_read_is_said_until_it_is_accepted() {
    let place = Place::made(&[]);
    let remembered = place.remembered();
    fs::write(&remembered, "damaged").expect("it is damaged");
    for name in ["one", "two"] {
        let (status, said) = place.try_to_back_up("state", name);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("recipients: damaged") && said.contains("snap key accept"), "{said}");
        assert!(place.opens("correct horse", name));
    }
    assert_eq!(place.check().0, Some(3));
    place.done(&["key", "accept"]);
    assert_eq!(place.try_to_back_up("state", "three"), (Some(0), String::new()));
    assert_eq!(place.check(), (Some(0), String::new()));
}

#[test]
fn repositories_that_share_a_state_directory_are_remembered_apart() {
    let place = Place::made(&[]);
    let one = place.identity("one");
    place.done(&["init", "--repo", "other", "--recipient", &one]);
    place.done(&["init", "--repo", "plain", "--encryption", "none"]);
    place.done(&["key", "add", "--recipient", &one]);
    for repo in ["repo", "other", "plain"] {
        let mut backup = place.command(&["backup", "--repo", repo, "mail"]);
        let output = backup.env_remove("SNAP_PASSWORD").output().expect("runs");
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{repo}");
        place.done(&["check", "--repo", repo]);
    }
    let remembered = fs::read_dir(place.path("state")).expect("lists").flatten();
    let remembered = remembered.filter(|entry| entry.path().join("recipients").exists()).count();
    assert_eq!(remembered, 2, "without encryption there is nobody to remember");
}

#[test]
fn a_verb_refuses_to_confirm_unseen_what_it_was_not_asked_for() {
    let place = Place::made(&[]);
    let (left, new) = (place.identity("left"), place.identity("new"));
    place.done(&["key", "add", "--recipient", &left]);
    place.copy("repo/keys", "old");
    place.done(&["key", "remove", &place.key_of(&left)]);
    place.put_back("old", "repo/keys");
    let keys = place.key_files();
    let owner = place.key("passphrase");
    for arguments in
        [&["key", "add", "--recipient", &new][..], &["key", "remove", &owner, "--identity", "left"]]
    {
        let said = place.refused(arguments);
        assert!(said.contains(&left), "{arguments:?}: {said}");
    }
    assert_eq!(place.key_files(), keys);
    // Who takes it over does so knowingly, and older sealings count for nothing from then on.
    let said = place.done(&["key", "accept"]);
    assert!(said.contains(&format!("{left} (was not before)")), "{said}");
    assert_eq!(place.try_to_back_up("state", "message"), (Some(0), String::new()));
    assert!(place.opens_by("left", "message"));
}

#[test]
fn a_sealing_of_repair_never_looks_like_a_removal() {
    let place = Place::made(&[]);
    let other = place.identity("other");
    place.done(&["key", "add", "--recipient", &other]);
    place.copy("state", "second");
    fs::remove_file(place.path("repo/keys").join(place.key("writer"))).expect("the sealing goes");
    let owner = place.key("passphrase");
    fs::copy(place.path("repo/keys").join(&owner), place.path("kept")).expect("it is kept");
    fs::remove_file(place.path("repo/keys").join(&owner)).expect("the owner's key goes");
    let repaired = place.command(&["check", "--repair"]).output().expect("runs");
    assert_eq!(repaired.status.code(), Some(3), "{}", text(&repaired.stderr));
    for state in ["state", "second"] {
        let (status, said) = place.try_to_back_up(state, &format!("by {state}"));
        assert_eq!(status, Some(1), "{said}");
    }
    fs::copy(place.path("kept"), place.path("repo/keys").join(&owner)).expect("it is put back");
    assert!(place.opens("correct horse", "by state") && place.opens("correct horse", "by second"));
    assert_eq!(place.try_to_back_up("state", "after"), (Some(0), String::new()));
    assert_eq!(place.check(), (Some(0), String::new()));
}

/// A repository in memory, its owner, and two machines that know it.
struct World {
    owner: Identity,
    disk: MemoryStore,
    state: tempfile::TempDir,
    second: tempfile::TempDir,
}

/// Gives an identity directly.
struct Given(Identity, String);

impl Secrets for Given {
    fn passphrase(&self) -> Result<Option<snap::repo::keys::Passphrase>, RepoError> {
        Ok(None)
    }

    fn identities(&self) -> Result<Vec<Identity>, RepoError> {
        Ok(vec![self.0.clone()])
    }

    fn writer_mark(&self) -> Option<&str> {
        Some(&self.1)
    }
}

impl World {
    fn new(others: &[Recipient]) -> Self {
        let world = Self {
            owner: Identity::generate(),
            disk: MemoryStore::default(),
            state: tempfile::tempdir().expect("temporary folder"),
            second: tempfile::tempdir().expect("temporary folder"),
        };
        let store = Arc::new(world.disk.clone());
        let opening = Opening { store, state: world.state.path(), index: None, secrets: &NoSecrets };
        let all = [&[world.owner.to_public()], others].concat();
        let made = Repository::create(&opening, Choices::default(), None, &all, now());
        let mark = made.expect("repository is made").writer_keys().shown_mark();
        let store = Arc::new(world.disk.clone());
        let given = Given(world.owner.clone(), mark);
        let opening = Opening { store, state: world.second.path(), index: None, secrets: &given };
        let elsewhere = Repository::open(&opening).expect("opens");
        elsewhere.enroll().expect("is enrolled");
        key::settle(&elsewhere).expect("is remembered");
        world
    }

    /// Returns the same world as it is now, to be changed apart.
    fn fork(&self) -> Self {
        let copy = |from: &Path| {
            let to = tempfile::tempdir().expect("temporary folder");
            let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status();
            assert!(copied.expect("cp runs").success());
            to
        };
        Self {
            owner: self.owner.clone(),
            disk: MemoryStore::of(self.disk.files()),
            state: copy(self.state.path()),
            second: copy(self.second.path()),
        }
    }

    fn open(&self) -> Repository {
        open(Arc::new(self.disk.clone()), self.state.path(), None).expect("opens")
    }

    fn open_elsewhere(&self) -> Repository {
        open(Arc::new(self.disk.clone()), self.second.path(), None).expect("opens")
    }

    fn owner(&self) -> String {
        self.owner.to_public().to_string()
    }
}

/// Cuts `verb` at each call that changes the store, in turn. What is left must pass `judge`, which is given what each
/// machine seals to then; done again, the verb must leave nothing to be said.
fn cut_everywhere(
    world: &World,
    verb: impl Fn(&Repository) -> Result<(), RepoError>,
    judge: impl Fn(&World, &SealedTo, &SealedTo),
) {
    for work in [Work::Undone, Work::Done] {
        for call in 0.. {
            let world = world.fork();
            let cutting = FaultStore::new(Arc::new(world.disk.clone()), Fault::PowerCut { call, work });
            let repository = open(Arc::new(cutting), world.state.path(), None).expect("opens");
            let is_done = verb(&repository).is_ok();
            let here = world.open().sealed_to().expect("it can be told to whom");
            let there = world.open_elsewhere().sealed_to().expect("it can be told to whom");
            assert!(here.recipients.contains(&world.owner()), "{work:?} {call}: {here:?}");
            assert!(there.recipients.contains(&world.owner()), "{work:?} {call}: {there:?}");
            judge(&world, &here, &there);
            let has_sealing = world.disk.list(Folder::Keys).expect("lists").iter().any(|found| {
                let Some(Name::Key(id)) = found.name else { return false };
                matches!(world.open().key_file(id).expect("reads").body, KeyBody::SealedWriter { .. })
            });
            assert!(has_sealing, "{work:?} {call}: the writer secret is there at each moment");
            // What this machine would seal to now can be remembered, as a backup does, and the verb done again.
            world.open().remember(&here).expect("is remembered");
            let again = verb(&world.open());
            assert!(is_done || !here.differences().is_empty() || again.is_ok(), "{work:?} {call}: {again:?}");
            let after = world.open().sealed_to().expect("it can be told to whom");
            assert_eq!(after.differences(), [""; 0], "{work:?} {call}");
            let report = check_all(
                &world.open(),
                &Given(world.owner.clone(), world.open().writer_keys().shown_mark()),
            );
            assert!(report.is_sound() && report.notes.is_empty(), "{work:?} {call}: {report:?}");
            if is_done {
                assert!(call >= 3, "{work:?}: {call}");
                break;
            }
        }
    }
}

#[test]
fn a_cut_addition_seals_to_nobody_whose_key_file_is_not_there_and_is_said() {
    let world = World::new(&[]);
    let new = Identity::generate().to_public();
    let text = new.to_string();
    let is_named = |world: &World| {
        let keys = world.open().key_files().expect("lists");
        keys.iter().flatten().any(|info| info.recipient() == Some(&text))
    };
    cut_everywhere(
        &world,
        |repository| match key::add_recipient(repository, &new, "", now()) {
            Err(RepoError::Source { reason, .. }) if reason.contains("already") => Ok(()), // it was finished
            added => added.map(drop),
        },
        |world, here, there| {
            assert!(is_named(world) || !here.recipients.contains(&text), "{here:?}");
            assert!(!is_named(world) || here.recipients.contains(&text) || here.extra.contains(&text));
            assert!(!there.recipients.contains(&text), "an addition is never taken unasked");
            assert_eq!(there.extra.contains(&text), is_named(world));
        },
    );
}

#[test]
fn a_cut_removal_seals_to_who_stays_and_is_said_until_it_is_done() {
    let going = Identity::generate().to_public();
    let world = World::new(std::slice::from_ref(&going));
    let text = going.to_string();
    let id = |repository: &Repository| {
        let keys = repository.key_files().expect("lists");
        let found = keys.into_iter().flatten().find(|info| info.recipient() == Some(&text));
        found.map(|info| info.id.to_string())
    };
    cut_everywhere(
        &world,
        |repository| {
            let Some(id) = id(repository) else { return Ok(()) }; // it was finished
            key::remove(repository, &NoSecrets, &id).map(drop)
        },
        |world, here, there| {
            for sealed_to in [here, there] {
                let is_named = id(&world.open()).is_some();
                let is_sealed_to = sealed_to.recipients.contains(&text);
                assert!(is_named || !is_sealed_to, "never after its file went: {sealed_to:?}");
                assert!(!is_named || is_sealed_to || sealed_to.extra.contains(&text), "{sealed_to:?}");
                assert!(sealed_to.missing.is_empty(), "{sealed_to:?}");
            }
        },
    );
    // The other machine takes the removal over.
    let here = world.open();
    key::remove(&here, &NoSecrets, &id(&here).expect("is there")).expect("goes");
    let there = key::settle(&world.open_elsewhere()).expect("is told");
    assert_eq!((there.removed.contains(&text), there.differences().len()), (true, 0));
    assert!(key::settle(&world.open_elsewhere()).expect("is told").removed.is_empty(), "once");
}

#[test]
fn a_cut_accept_leaves_what_was_remembered_or_what_was_accepted() {
    let left = Identity::generate().to_public();
    let world = World::new(std::slice::from_ref(&left));
    let old = world.disk.files();
    let here = world.open();
    let keys = here.key_files().expect("lists");
    let id = keys.into_iter().flatten().find(|info| info.recipient() == Some(&left.to_string()));
    key::remove(&here, &NoSecrets, &id.expect("is there").id.to_string()).expect("goes");
    key::settle(&world.open_elsewhere()).expect("is remembered");
    // Old files are put back, and somebody means to keep them.
    let world = World { disk: MemoryStore::of(old), ..world };
    cut_everywhere(
        &world,
        |repository| key::accept(repository).map(drop),
        |world, here, there| {
            assert!(here.recipients.contains(&left.to_string()) || here.extra.contains(&left.to_string()));
            assert!(!there.recipients.contains(&left.to_string()), "an addition is never taken unasked");
            assert!(there.recipients.contains(&world.owner()));
        },
    );
}

#[test]
fn each_sealing_has_a_higher_number_and_an_older_one_proves_nothing() {
    let (one, other) = (Identity::generate().to_public(), Identity::generate().to_public());
    let world = World::new(&[one.clone(), other.clone()]);
    let here = world.open();
    let sealing = |disk: &MemoryStore| {
        let repository = open(Arc::new(disk.clone()), world.state.path(), None).expect("opens");
        repository.newest_sealing().expect("reads")
    };
    let all: BTreeSet<String> = [world.owner(), one.to_string(), other.to_string()].into();
    assert_eq!(sealing(&world.disk), Sealing { number: 1, recipients: all.clone() });
    let id_of = |recipient: &Recipient| {
        let keys = here.key_files().expect("lists");
        let found = keys.into_iter().flatten().find(|info| info.recipient() == Some(&recipient.to_string()));
        found.expect("is there").id.to_string()
    };
    key::remove(&here, &NoSecrets, &id_of(&one)).expect("goes");
    let without = world.disk.files();
    assert_eq!(sealing(&world.disk).number, 2);
    key::add_recipient(&here, &one, "", now()).expect("is back");
    assert_eq!(sealing(&world.disk), Sealing { number: 3, recipients: all.clone() });
    // A machine that has seen the third takes nothing from the second.
    let rolled_back = World { disk: MemoryStore::of(without), ..world };
    let sealed_to = rolled_back.open().sealed_to().expect("it can be told to whom");
    assert_eq!((&sealed_to.recipients, sealed_to.removed.len()), (&all, 0));
    assert_eq!(sealed_to.missing, BTreeSet::from([one.to_string()]));
}
