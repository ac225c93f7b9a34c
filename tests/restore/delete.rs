//! What `--delete` removes, and what it asks first.

use std::fs;
use std::os::unix::net::UnixListener;
use std::sync::Mutex;

use snap::op::restore::{Answer, Configured, Consent, Overwrite, Report};
use snap::repo::{RepoError, Snapshot};
use snap::stage::snapshot::Lack;
use snap::stage::snapshot::facts::{ComponentRules, RULES};
use tempfile::TempDir;

use crate::{Place, common, lacks, refusal};

/// Deletes with `--force`.
fn forced(place: &Place, snapshot: &Snapshot) -> Report {
    let report = place.restore(snapshot, |request| (request.delete, request.force) = (true, true));
    report.expect("restore")
}

/// Lets the snapshot say that its component left this out.
fn leave_out(snapshot: &mut Snapshot, change: impl FnOnce(&mut ComponentRules)) {
    let mut rules = ComponentRules { component: "mail".to_owned(), ..ComponentRules::default() };
    change(&mut rules);
    snapshot.manifest.set_fact(RULES, snap::base::wire::encode(&vec![rules]).expect("encodes"));
}

/// The program in a folder of its own, with files there.
struct Program(TempDir);

impl Program {
    fn with(files: &[(&str, &str)]) -> Self {
        let program = Self(tempfile::tempdir().expect("temporary folder"));
        files.iter().for_each(|(name, text)| program.write(name, text));
        program.run(&["init", "--encryption", "none"], 0);
        program
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("lies in a folder")).expect("folders are made");
        fs::write(path, text).expect("file is written");
    }

    fn has(&self, name: &str) -> bool {
        self.0.path().join(name).exists()
    }

    /// Runs it; returns what it said.
    fn run(&self, arguments: &[&str], status: i32) -> String {
        let output = common::program(self.0.path(), arguments).output().expect("program runs");
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", said.concat());
        said.concat()
    }
}

const OVER: [&str; 4] = ["--overwrite", "if-changed", "--delete", "--force"];

#[test]
fn delete_removes_nothing_beside_the_paths_of_a_component() {
    let place = Program::with(&[("srv/config/a", "a"), ("srv/.env", "e"), ("srv/data/m", "mail")]);
    place.run(&["backup", "--component", "config", "srv/config", "srv/.env"], 0);
    place.write("srv/.env", "changed");
    place.write("srv/config/new", "goes");
    let whole = [&["restore", "latest:config", "--target", "srv"][..], &OVER].concat();
    let said = place.run(&whole, 0);
    assert!(place.has("srv/data/m") && !place.has("srv/config/new"), "{said}");
    assert!(said.contains("removed 1 entry"), "{said}");
}

#[test]
fn delete_removes_nothing_in_directories_that_only_lead_to_a_source() {
    let place = Program::with(&[("srv/mail/m", "mail"), ("srv/other/o", "of somebody else")]);
    place.run(&["backup", "srv/mail"], 0);
    place.run(&["restore", "latest", "--target", "out"], 0);
    let top = place.0.path().strip_prefix("/").expect("absolute").to_str().expect("text").to_owned();
    let inside = |name: &str| format!("out/{top}/{name}");
    for name in ["srv/beside", "beside", "srv/mail/extra"] {
        place.write(&inside(name), "?");
    }
    place.write("out/beside", "?");
    place.run(&[&["restore", "latest", "--target", "out"][..], &OVER].concat(), 0);
    for stays in ["out/beside", &inside("beside"), &inside("srv/beside"), &inside("srv/mail/m")] {
        assert!(place.has(stays), "{stays}");
    }
    assert!(!place.has(&inside("srv/mail/extra")));
}

#[test]
fn delete_works_with_components_and_is_refused_with_include() {
    let place = Program::with(&[("a/kept", "a"), ("b/kept", "b")]);
    place.run(&["backup", "--component", "a", "a"], 0);
    place.run(&["restore", "latest", "--component", "a", "--target", "out"], 0);
    place.write("out/extra", "goes");
    let include = ["restore", "latest:a", "--target", "out", "--include", "*"];
    let said = place.run(&[&include[..], &OVER].concat(), 2);
    assert!(said.contains("--delete") && said.contains("leave out --include"), "{said}");
    assert!(place.has("out/extra"));
    place.run(&[&["restore", "latest", "--component", "a", "--target", "out"][..], &OVER].concat(), 0);
    assert!(place.has("out/kept") && !place.has("out/extra"));
}

#[test]
fn each_path_that_would_go_is_named_and_counted_with_all_that_is_below() {
    let place = Program::with(&[("mail/kept", "k")]);
    place.run(&["backup", "--component", "mail", "mail"], 0);
    place.run(&["restore", "latest:mail", "--target", "out"], 0);
    for (name, text) in [("out/old/deep/one", "1"), ("out/old/two", "22"), ("out/new\nline", "333")] {
        place.write(name, text);
    }
    let dry = ["restore", "latest:mail", "--target", "out", "--overwrite", "if-changed", "--delete", "-n"];
    let said = place.run(&dry, 0);
    for path in ["old", "old/deep", "old/deep/one", "old/two", "new\\nline"] {
        assert!(said.lines().any(|line| line == format!("to be removed: {path}")), "{path}: {said}");
    }
    assert!(said.contains("would remove 5 entries (6 B)") && said.contains("would want --force"), "{said}");
    let said = place.run(&[&["--json"][..], &dry].concat(), 0);
    assert_eq!(said.lines().filter(|line| line.contains("\"removal\"")).count(), 5, "{said}");
    let summary = common::summary(&said);
    assert_eq!((&summary["deleted"], &summary["deleted_bytes"]), (&5.into(), &6.into()), "{summary}");
    assert!(place.has("out/old/two"), "a dry run removes nothing");
    let refused = place.run(&dry[..dry.len() - 1], 2);
    assert!(refused.contains("5 entries") && refused.contains("--force"), "{refused}");
    assert!(place.has("out/old/two"));
    let said = place.run(&[&["restore", "latest:mail", "--target", "out", "-v"][..], &OVER].concat(), 0);
    assert!(said.contains("to be removed: old/two") && said.contains("removed 5 entries"), "{said}");
    assert!(!place.has("out/old") && place.has("out/kept"));
}

#[test]
fn more_than_a_tenth_wants_force_and_less_does_not() {
    let place = Place::new();
    (0..40).for_each(|number| place.write(&format!("source/{number}"), "kept"));
    let (snapshot, _) = place.backup(1);
    let _ = place.restore(&snapshot, |_| ()).expect("restore");
    (0..4).for_each(|number| place.write(&format!("target/extra{number}"), "kept"));
    let report = place.restore(&snapshot, |request| request.delete = true).expect("restore");
    assert_eq!((report.deleted, report.deleted_bytes), (4, 16));
    (0..5).for_each(|number| place.write(&format!("target/extra{number}"), "kept"));
    let line = refusal(place.restore(&snapshot, |request| request.delete = true));
    assert!(line.contains("5 entries (20 B) of the 45 (180 B)") && line.contains("--force"), "{line}");
    assert_eq!(place.read("target/extra0").as_deref(), Some("kept"));
    assert_eq!(forced(&place, &snapshot).deleted, 5);
}

#[test]
fn more_than_a_thousand_want_force() {
    let place = Place::new();
    (0..30).for_each(|number| place.write(&format!("source/{number}"), &"x".repeat(100)));
    let (mut snapshot, _) = place.backup(1);
    leave_out(&mut snapshot, |rules| rules.excludes = vec!["kept*".to_owned()]);
    let _ = place.restore(&snapshot, |_| ()).expect("restore");
    (0..11_000).for_each(|number| place.write(&format!("target/kept{number}"), ""));
    (0..1_001).for_each(|number| place.write(&format!("target/goes{number}"), ""));
    let line = refusal(place.restore(&snapshot, |request| request.delete = true));
    assert!(line.contains("1,001 entries"), "{line}");
    fs::remove_file(place.path("target/goes1000")).expect("file goes");
    assert_eq!(place.restore(&snapshot, |request| request.delete = true).expect("restore").deleted, 1_000);
}

#[test]
fn delete_leaves_what_the_night_s_or_today_s_patterns_leave_out() {
    let place = Place::new();
    for name in ["source/conf/a", "source/opendkim/keys/old", "source/kept"] {
        place.write(name, "kept");
    }
    let (mut snapshot, _) = place.backup(1);
    leave_out(&mut snapshot, |rules| {
        rules.excludes = vec!["*.tmp".to_owned(), "/conf/local/".to_owned()];
        rules.exclude_if_present = vec![b"CACHEDIR.TAG".to_vec()];
    });
    let stay =
        ["a.tmp", "conf/deep/b.tmp", "conf/local/c", "opendkim/keys/live", "cache/CACHEDIR.TAG", "cache/d"];
    stay.iter().for_each(|name| place.write(&format!("target/{name}"), "the only copy"));
    place.write("target/conf/deep/goes", "goes");
    place.write("target/goes", "goes");
    let report = place.restore(&snapshot, |request| {
        (request.delete, request.force) = (true, true);
        let excludes = vec!["opendkim/keys/".to_owned()];
        request.configured = Some(vec![Configured { name: "mail".to_owned(), paths: Vec::new(), excludes }]);
    });
    let report = report.expect("restore");
    for name in stay {
        assert_eq!(place.read(&format!("target/{name}")).as_deref(), Some("the only copy"), "{name}");
    }
    assert_eq!((report.deleted, lacks(&report)), (2, Vec::new()), "{:?}", report.kept);
    assert_eq!(report.kept.iter().map(|(_, count)| count).sum::<u64>(), 5, "{:?}", report.kept);
}

#[test]
fn delete_leaves_the_paths_of_other_components_wherever_they_lie() {
    let place = Place::new();
    place.write("source/kept", "kept");
    let (snapshot, _) = place.backup(1);
    for target in ["source", "target"] {
        place.write(&format!("{target}/dkim/keys/live"), "the only copy");
        place.write(&format!("{target}/dkim/goes"), "goes");
        let path = place.path("source/dkim/keys");
        let report = place.restore(&snapshot, |request| {
            (request.delete, request.force, request.target) = (true, true, place.path(target));
            let dkim = Configured { name: "dkim".to_owned(), paths: vec![path], excludes: Vec::new() };
            request.configured = Some(vec![dkim]);
        });
        assert_eq!(report.expect("restore").deleted, 1);
        let live = place.read(&format!("{target}/dkim/keys/live"));
        assert_eq!(live.as_deref(), Some("the only copy"), "{target}");
    }
    // A directory that another component is backed up from is not the snapshot's to tidy.
    place.write("other/of another", "the only copy");
    let report = place.restore(&snapshot, |request| {
        (request.delete, request.force, request.target) = (true, true, place.path("other"));
        let other =
            Configured { name: "o".to_owned(), paths: vec![place.path("other")], excludes: Vec::new() };
        request.configured = Some(vec![other]);
    });
    assert_eq!(report.expect("restore").deleted, 0);
    assert_eq!(place.read("other/of another").as_deref(), Some("the only copy"));
}

#[test]
fn delete_leaves_sockets_and_what_could_not_be_backed_up() {
    let place = Place::new();
    place.write("source/kept", "kept");
    let (mut snapshot, _) = place.backup(1);
    let lacking = place.path("source/unreadable").to_str().expect("text").as_bytes().to_vec();
    snapshot.manifest.lacks = vec![Lack { path: lacking, reason: "permission denied".to_owned() }];
    snapshot.manifest.lacks_total = 1;
    place.write("target/unreadable/below", "the only copy");
    place.write("target/run/goes", "goes");
    let _socket = UnixListener::bind(place.path("target/run/socket")).expect("socket is made");
    let report = forced(&place, &snapshot);
    assert_eq!((report.deleted, lacks(&report)), (1, Vec::new()));
    assert!(place.path("target/run/socket").exists());
    assert_eq!(place.read("target/unreadable/below").as_deref(), Some("the only copy"));
}

/// Answers as it was told, and keeps what it was asked.
struct Somebody {
    says: Answer,
    asked: Mutex<Vec<String>>,
}

impl Somebody {
    fn who_says(says: Answer) -> Self {
        Self { says, asked: Mutex::default() }
    }
}

impl Consent for Somebody {
    fn ask(&self, question: &str) -> Answer {
        self.asked.lock().expect("no panic").push(question.to_owned());
        self.says
    }
}

#[test]
fn whoever_sits_at_the_terminal_is_asked_before_anything_goes() {
    let place = Place::new();
    (0..40).for_each(|number| place.write(&format!("source/{number}"), "kept"));
    let (snapshot, _) = place.backup(1);
    let _ = place.restore(&snapshot, |_| ()).expect("restore");
    place.write("target/extra", "goes");
    fs::remove_file(place.path("target/7")).expect("file goes");
    for (says, left) in [(Answer::No, Some("goes")), (Answer::Yes, None)] {
        let somebody = Somebody::who_says(says);
        let restored = place.restore_asking(&somebody, &snapshot, |request| request.delete = true);
        assert_eq!(restored.is_ok(), says == Answer::Yes);
        let asked = somebody.asked.lock().expect("no panic").join("\n");
        assert!(asked.contains("1 entry (4 B) will be removed, such as extra"), "{asked}");
        assert_eq!(place.read("target/extra").as_deref(), left);
        assert_eq!(place.path("target/7").exists(), says == Answer::Yes, "no means that nothing changes");
    }
}

#[test]
fn delete_asks_where_nobody_knows_what_was_left_out() {
    let place = Place::new();
    (0..40).for_each(|number| place.write(&format!("source/{number}"), "kept"));
    let (mut snapshot, _) = place.backup(1);
    snapshot.manifest.extra.clear(); // as an older program wrote it
    let _ = place.restore(&snapshot, |_| ()).expect("restore");
    place.write("target/extra", "goes");
    let line = refusal(place.restore(&snapshot, |request| request.delete = true));
    assert!(line.contains("nobody knows what was left out of component mail"), "{line}");
    let somebody = Somebody::who_says(Answer::No);
    let refused = place.restore_asking(&somebody, &snapshot, |request| request.delete = true);
    assert!(refusal(refused).contains("the answer was no"));
    assert_eq!(place.read("target/extra").as_deref(), Some("goes"));
    // Nor does a pattern tell that an older program took and that is none.
    let mut odd = snapshot.clone();
    leave_out(&mut odd, |rules| rules.excludes = vec!["{a".to_owned()]);
    let refused = refusal(place.restore(&odd, |request| request.delete = true));
    assert!(refused.contains("nobody knows what was left out"), "{refused}");
    // Today's configuration tells.
    let report = place.restore(&snapshot, |request| {
        request.delete = true;
        request.configured = Some(vec![Configured { name: "mail".to_owned(), ..Configured::default() }]);
    });
    assert_eq!(report.expect("restore").deleted, 1);
}

#[test]
fn a_suspect_component_wants_force() {
    let place = Place::new();
    (0..40).for_each(|number| place.write(&format!("source/{number}"), "kept"));
    let (mut snapshot, _) = place.backup(1);
    let reason = "it has suddenly lost most of its files".to_owned();
    let suspect = snap::stage::snapshot::facts::Suspect { component: "mail".to_owned(), reason };
    let suspects = snap::base::wire::encode(&vec![suspect]).expect("encodes");
    snapshot.manifest.set_fact(snap::stage::snapshot::facts::SUSPECTS, suspects);
    place.write("target/0", "kept");
    let line = refusal(place.restore(&snapshot, |request| request.delete = true));
    assert!(line.contains("component mail is suspect: it has suddenly lost"), "{line}");
}

/// Puts something into the target when all is settled.
struct Meanwhile<'p>(&'p Place);

impl Consent for Meanwhile<'_> {
    fn begin(&self) {
        self.0.write("target/old/new", "came meanwhile");
        self.0.write("target/note", "another text");
    }
}

#[test]
fn what_has_changed_since_it_was_looked_at_stays() {
    let place = Place::new();
    place.write("source/kept", "kept");
    let (snapshot, _) = place.backup(1);
    place.write("target/old/one", "seen");
    place.write("target/note", "seen");
    place.write("target/goes", "seen");
    let meanwhile = Meanwhile(&place);
    let report = place.restore_asking(&meanwhile, &snapshot, |request| {
        (request.delete, request.force) = (true, true);
    });
    let report = report.expect("restore");
    let reason = "not removed: it has changed since it was looked at; run the restore again";
    assert_eq!(lacks(&report), [format!("note: {reason}"), format!("old: {reason}")]);
    assert_eq!((report.deleted, place.read("target/goes")), (1, None));
    assert_eq!(place.read("target/old/one").as_deref(), Some("seen"));
}

#[test]
fn nothing_is_removed_where_not_everything_could_be_restored() {
    let place = Place::new();
    place.write("source/file", "lost");
    let (snapshot, [_, content]) = place.backup(1);
    place.spoil(content);
    place.write("target/file renamed", "perhaps the same");
    let report = forced(&place, &snapshot);
    assert_eq!((report.deleted, report.lacks.len()), (0, 1), "{:?}", report.lacks);
    assert_eq!(place.read("target/file renamed").as_deref(), Some("perhaps the same"));
    assert!(report.warnings.iter().any(|(what, _)| what.contains("nothing was removed")));
}

#[test]
fn a_full_directory_gives_way_to_a_file_if_all_of_it_may_go() {
    let place = Place::new();
    place.write("source/name", "a file");
    place.write("source/other", "a file");
    let (mut snapshot, _) = place.backup(1);
    leave_out(&mut snapshot, |rules| rules.excludes = vec!["*.key".to_owned()]);
    place.write("target/name/inside/deep", "goes");
    place.write("target/other/a.key", "the only copy");
    place.write("target/other/b", "stays with it");
    let restore = |force| -> Result<Report, RepoError> {
        place.restore(&snapshot, |request| {
            (request.delete, request.force, request.overwrite) = (true, force, Overwrite::Always);
        })
    };
    assert!(refusal(restore(false)).contains("3 entries"), "it counts as what is removed");
    let report = restore(true).expect("restore");
    assert_eq!(place.read("target/name").as_deref(), Some("a file"));
    assert_eq!(place.read("target/other/a.key").as_deref(), Some("the only copy"));
    assert_eq!(place.read("target/other/b").as_deref(), Some("stays with it"));
    assert!(report.lacks.len() == 1 && report.lacks[0].path == b"other", "{:?}", report.lacks);
}

#[test]
fn delete_with_a_single_file_is_refused_and_says_what_to_name() {
    let place = Place::new();
    place.write("source/box/one", "a");
    place.write("source/box/two", "b");
    let (snapshot, _) = place.backup(1);
    place.write("target/other", "stays");
    for dry_run in [false, true] {
        let said = refusal(place.restore(&snapshot, |request| {
            request.path = b"mail/box/one".to_vec();
            (request.delete, request.force, request.dry_run) = (true, true, dry_run);
        }));
        assert!(said.contains("--delete") && said.contains("name the directory that holds it"), "{said}");
    }
    assert_eq!((place.read("target/one"), place.read("target/other").as_deref()), (None, Some("stays")));
    let report = place.restore(&snapshot, |request| {
        request.path = b"mail/box".to_vec();
        (request.delete, request.force) = (true, true);
    });
    assert_eq!(report.expect("restore").deleted, 1);
}
