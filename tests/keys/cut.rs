//! An `init` that was cut: run again it goes on, or says in one line why it can't be known.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use age::x25519::Identity;
use snap::base::time::Time;
use snap::repo::config::Choices;
use snap::repo::keys::{NoSecrets, Passphrase};
use snap::repo::{Opening, RepoError, Repository};
use snap::store::{Folder, MemoryStore, Store};

use crate::common::fault::{Fault, FaultStore, Work};
use crate::common::killed::killed_at;
use crate::common::repo::open;
use crate::common::watched::{Moment, WatchedStore};
use crate::{Place, text};

/// Makes a repository with a passphrase and recipients.
fn init(
    store: Arc<dyn Store>,
    state: &Path,
    passphrase: Option<&str>,
    recipients: &[&Identity],
) -> Result<Repository, RepoError> {
    let opening = Opening { store, state, index: None, secrets: &NoSecrets };
    let passphrase = passphrase.map(|passphrase| Passphrase::new(passphrase.to_owned()));
    let recipients: Vec<_> = recipients.iter().map(|identity| identity.to_public()).collect();
    let time = Time::new(1_767_000_000, 0);
    Repository::create(&opening, Choices::default(), passphrase.as_ref(), &recipients, time)
}

#[test]
fn an_init_that_was_cut_goes_on_where_it_is_given_the_same_and_overwrites_nothing() {
    let (own, other) = (Identity::generate(), Identity::generate());
    let mut went_on = 0;
    for work in [Work::Undone, Work::Done] {
        for call in 0.. {
            let (state, elsewhere) =
                (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
            let disk = MemoryStore::default();
            let cut = FaultStore::new(Arc::new(disk.clone()), Fault::PowerCut { call, work });
            if init(Arc::new(cut), state.path(), None, &[&own, &other]).is_ok() {
                break;
            }
            let left = disk.files();
            if left.keys().any(|path| path.starts_with("keys/")) && !left.contains_key("config") {
                let refuses = |state: &Path, recipients: &[&Identity]| {
                    let made = init(Arc::new(disk.clone()), state, None, recipients);
                    let said = made.map(|repository| repository.id()).expect_err("it is refused").to_string();
                    assert_eq!(disk.files(), left, "nothing was changed");
                    assert!(left.keys().all(|path| said.contains(path)), "{call}: {said}");
                    said
                };
                assert!(refuses(state.path(), &[&own]).contains("give the same to go on with it"));
                assert!(refuses(elsewhere.path(), &[&own, &other]).contains("if they are left from"));
                went_on += 1;
            }
            match init(Arc::new(disk.clone()), state.path(), None, &[&other, &own]) {
                Ok(repository) => assert_eq!(repository.recipients().expect("keys read").len(), 2),
                Err(RepoError::Exists { .. }) => assert!(left.contains_key("config"), "{call}"),
                Err(e) => panic!("{work:?} {call}: {e}"),
            }
            let now = disk.files();
            assert!(left.iter().all(|(path, bytes)| now.get(path) == Some(bytes)), "nothing was changed");
            assert_eq!(now.len(), 4, "two recipients, the sealed secret, and the config: {:?}", now.keys());
            let repository = open(Arc::new(disk), state.path(), None).expect("repository opens");
            repository.proven_keys().expect("all are proven");
            assert!(!state.path().join(repository.id().to_string()).join("init").exists());
        }
    }
    assert!(went_on >= 4, "{went_on}");
}

#[test]
fn two_inits_that_go_on_at_the_same_time_leave_the_key_files_of_the_one_that_was_first() {
    let (state, own) = (tempfile::tempdir().expect("temporary folder"), Identity::generate());
    let disk = MemoryStore::default();
    let cut = FaultStore::new(Arc::new(disk.clone()), Fault::PowerCut { call: 4, work: Work::Undone });
    assert!(init(Arc::new(cut), state.path(), None, &[&own]).is_err());
    assert!(!disk.files().is_empty() && !disk.files().contains_key("config"), "{:?}", disk.files().keys());
    let second = WatchedStore::over(disk.clone());
    let (store, path, first) = (disk.clone(), state.path().to_owned(), own.clone());
    second.before(Moment::Put, move || {
        let opening = Opening { store: Arc::new(store), state: &path, index: None, secrets: &NoSecrets };
        let time = Time::new(1_767_000_009, 0); // its config has another time
        Repository::create(&opening, Choices::default(), None, &[first.to_public()], time)
            .expect("it is first");
    });
    assert!(init(Arc::new(second), state.path(), None, &[&own]).is_err(), "there is one already");
    assert_eq!(
        disk.files().keys().filter(|path| path.starts_with("keys/")).count(),
        2,
        "{:?}",
        disk.files().keys()
    );
    let repository = open(Arc::new(disk), state.path(), None).expect("repository opens");
    repository.proven_keys().expect("all are proven");
}

#[test]
fn an_init_that_was_cut_goes_on_with_its_passphrase_alone() {
    let state = tempfile::tempdir().expect("temporary folder");
    let disk = MemoryStore::default();
    let calls = FaultStore::new(Arc::new(disk.clone()), Fault::PowerCut { call: 5, work: Work::Done });
    assert!(init(Arc::new(calls), state.path(), Some("correct horse"), &[]).is_err());
    let left = disk.files();
    assert!(!left.is_empty() && !left.contains_key("config"), "{:?}", left.keys());
    let again = |passphrase: Option<&str>| init(Arc::new(disk.clone()), state.path(), passphrase, &[]);
    let said = again(Some("another horse")).map(|it| it.id()).expect_err("it is refused").to_string();
    assert!(said.contains("another passphrase"), "{said}");
    assert_eq!(disk.files(), left);
    again(Some("correct horse")).expect("it goes on");
    assert!(left.iter().all(|(path, bytes)| disk.files().get(path) == Some(bytes)));
}

#[test]
fn key_files_of_another_repository_are_never_taken_by_an_init() {
    let (state, own) = (tempfile::tempdir().expect("temporary folder"), Identity::generate());
    let disk = MemoryStore::default();
    let repository = init(Arc::new(disk.clone()), state.path(), None, &[&own]).expect("repository is made");
    drop(repository);
    disk.delete(&snap::store::Name::Config).expect("the config is lost");
    let left = disk.files();
    let said = init(Arc::new(disk.clone()), state.path(), None, &[&own]).map(|it| it.id());
    let said = said.expect_err("this machine's own, and made long ago").to_string();
    assert!(said.contains("restore the config from a copy"), "{said}");
    assert_eq!(disk.files(), left);
    // One file more than this machine's own, of somebody else.
    let (state, disk) = (tempfile::tempdir().expect("temporary folder"), MemoryStore::default());
    let cut = FaultStore::new(Arc::new(disk.clone()), Fault::PowerCut { call: 3, work: Work::Undone });
    assert!(init(Arc::new(cut), state.path(), None, &[&own]).is_err());
    assert_eq!(disk.list(Folder::Keys).expect("lists").len(), 1);
    let foreign = left.iter().find(|(path, _)| path.starts_with("keys/")).expect("a key file");
    let name = snap::store::Name::parse(foreign.0).expect("a name");
    disk.put_new(&name, foreign.1).expect("is put there");
    assert!(init(Arc::new(disk.clone()), state.path(), None, &[&own]).is_err());
    assert_eq!(disk.files().len(), 2);
}

/// Calls of which each changes something durable or makes it durable.
const CALLS: [&str; 5] = ["mkdir", "linkat", "renameat", "fsync", "unlink"];

#[test]
fn an_init_that_is_killed_at_any_call_is_run_again_and_makes_a_good_repository() {
    for how in [&[][..], &["--recipient"], &["--encryption", "none"]] {
        let mut killed = 0;
        // Whoever gives a passphrase waits for it to be stretched, each time.
        let calls = if how.is_empty() { &["linkat", "renameat"][..] } else { &CALLS };
        for call in calls {
            for nth in 1.. {
                let place = Place::new();
                let recipient = place.identity("own");
                let mut arguments = [&["init"], how].concat();
                if how == ["--recipient"] {
                    arguments.push(&recipient);
                }
                match killed_at(&place.command(&arguments), call, nth) {
                    None => return,
                    Some(false) => break,
                    Some(true) => killed += 1,
                }
                let output = place.command(&arguments).output().expect("program runs");
                let said = text(&output.stderr);
                let is_there = output.status.code() == Some(2) && said.contains("a repository here already");
                assert!(output.status.success() || is_there, "{call} {nth}: {said}");
                place.back_up("message");
                match how {
                    ["--recipient"] => assert!(place.opens_by("own", "message"), "{call} {nth}"),
                    [] => assert!(place.opens("correct horse", "message"), "{call} {nth}"),
                    _ => _ = place.done(&["check"]),
                }
                let left = fs::read_dir(place.path("repo/tmp")).expect("lists").count();
                assert_eq!(left, 0, "{call} {nth}: half-written files are swept up");
            }
        }
        println!("{how:?}: killed at {killed} calls");
        assert!(killed > 5, "{how:?}: {killed}");
    }
}
