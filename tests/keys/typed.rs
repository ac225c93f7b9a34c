//! What a person types, stores in a file or has printed opens what the same words made, and a terminal, a state
//! directory and a message are left as a tired hand needs them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use age::x25519::Identity;
use snap::repo::keys::{NoSecrets, Passphrase, Secrets};
use snap::repo::{Opening, RepoError, Repository};
use snap::store::MemoryStore;

use crate::common::repo::create_sealed;
use crate::{Place, done, refused, text};

#[test]
fn a_passphrase_opens_however_its_end_and_beginning_came() {
    let place = Place::new();
    fs::write(place.path("made"), "\u{feff}caf\u{e9} horse\r\n").expect("is written");
    done(place.command(&["init", "--password-file", "made"]).env_remove("SNAP_PASSWORD"));
    place.back_up("message");
    // One e-acute is one character, the other an e and an accent.
    for typed in
        ["caf\u{e9} horse", "cafe\u{301} horse", "caf\u{e9} horse\n", "\u{feff}cafe\u{301} horse\r\n"]
    {
        assert!(place.opens(typed, "message"), "variable: {typed:?}");
        let at = format!("latest:{}", place.path("mail/message").display());
        fs::write(place.path("file"), typed).expect("is written");
        let by_file =
            done(place.command(&["cat", &at, "--password-file", "file"]).env_remove("SNAP_PASSWORD"));
        assert_eq!(by_file, "message", "file: {typed:?}");
        let mut by_command = place.command(&["cat", &at]);
        by_command.env_remove("SNAP_PASSWORD").env("SNAP_PASSWORD_COMMAND", "cat file");
        assert_eq!(done(&mut by_command), "message", "command: {typed:?}");
    }
    assert!(!place.opens("cafe horse", "message"));
    // The same for a second passphrase, and for the change of one.
    done(
        place
            .command(&["key", "rotate-passphrase"])
            .env("SNAP_PASSWORD", "cafe\u{301} horse\n")
            .env("SNAP_NEW_PASSWORD", "nai\u{308}ve horse\n"),
    );
    assert!(place.opens("na\u{ef}ve horse", "message") && !place.opens("caf\u{e9} horse", "message"));
}

/// Gives a passphrase as it is.
struct AsItIs(&'static str);

impl Secrets for AsItIs {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        Ok(Some(Passphrase::new(self.0.to_owned())))
    }

    fn identities(&self) -> Result<Vec<Identity>, RepoError> {
        Ok(Vec::new())
    }
}

#[test]
fn a_key_that_an_earlier_version_made_of_what_it_was_given_opens_with_just_that() {
    for given in ["cafe\u{301} horse", "correct horse\n", " correct horse ", "correct\thorse"] {
        let disk = Arc::new(MemoryStore::default());
        let (state, elsewhere) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        create_sealed(disk.clone(), state.path(), given).expect("is made of it as it is");
        let secrets = AsItIs(given);
        let opening =
            Opening { store: disk.clone(), state: elsewhere.path(), index: None, secrets: &secrets };
        Repository::open(&opening).expect("a new machine opens it");
        let opening = Opening { store: disk, state: state.path(), index: None, secrets: &NoSecrets };
        let known = Repository::open(&opening).expect("opens");
        assert_eq!(known.unlock(&secrets).expect("unlocks").len(), 1, "{given:?}");
        known.opened_by(&Passphrase::new(given.to_owned())).expect("can be changed");
    }
}

#[test]
fn a_new_passphrase_that_can_hardly_be_typed_again_is_refused() {
    let place = Place::new();
    for (bad, why) in [
        ("correct\thorse", "control character"),
        ("correct horse\nof two lines", "control character"),
        (" correct horse", "blank"),
        ("correct horse ", "blank"),
        ("correct\u{1b}[31m horse", "control character"),
        ("short", "too short"),
    ] {
        let said = refused(place.command(&["init"]).env("SNAP_PASSWORD", bad));
        assert!(said.contains(why), "{bad:?}: {said}");
        assert!(!place.path("repo").exists() && !place.path("state").exists(), "{bad:?}: nothing was made");
    }
    let place = Place::made(&[]);
    let keys = place.key_files();
    for arguments in [["key", "add"], ["key", "rotate-passphrase"]] {
        for bad in ["correct\thorse", "correct horse ", "correct\u{7f}horse"] {
            refused(place.command(&arguments).env("SNAP_NEW_PASSWORD", bad));
            fs::write(place.path("new"), bad).expect("is written");
            let by_file = [&arguments[..], &["--new-password-file", "new"]].concat();
            refused(&mut place.command(&by_file));
        }
    }
    assert_eq!(place.key_files(), keys);
}

#[test]
fn a_right_passphrase_on_a_machine_that_is_not_enrolled_is_not_called_missing() {
    let place = Place::made(&[]);
    let mut backup = place.command(&["backup", "mail"]);
    let said = refused(backup.env("SNAP_STATE_DIR", place.path("elsewhere")));
    assert!(said.contains("not enrolled") && said.contains("snap key enroll"), "{said}");
    assert!(!said.contains("no passphrase"), "{said}");
    // Without one it is.
    let mut backup = place.command(&["backup", "mail"]);
    let said = refused(backup.env("SNAP_STATE_DIR", place.path("elsewhere")).env_remove("SNAP_PASSWORD"));
    assert!(said.contains("no passphrase or identity was given"), "{said}");
}

#[test]
fn a_secret_that_others_may_read_is_refused_with_what_closes_it() {
    let place = Place::made(&[]);
    let mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode is set");
    };
    let folder = fs::read_dir(place.path("state")).expect("lists").flatten().map(|entry| entry.path());
    let folder = folder.into_iter().find(|path| path.is_dir()).expect("is there");
    let writer = folder.join("writer");
    let about = fs::metadata(&writer).expect("is there").permissions().mode();
    assert_eq!(about & 0o777, 0o600);
    for (path, open, closed) in [(&writer, 0o640, 600), (&writer, 0o604, 600), (&folder, 0o755, 700)] {
        mode(path, open);
        let said = place.refused(&["backup", "mail"]);
        let mend = format!("chmod {closed} {}", path.display());
        assert!(said.contains(&mend), "{said}");
        let mended = Command::new("sh").arg("-c").arg(&mend).status().expect("sh runs");
        assert!(mended.success());
        place.done(&["backup", "mail"]);
    }
}

#[test]
fn ctrl_c_at_a_prompt_gives_the_echo_back() {
    let place = Place::made(&[]);
    place.back_up("message");
    let at = format!("latest:{}", place.path("mail/message").display());
    let snap = env!("CARGO_BIN_EXE_snap");
    let script = format!("trap : INT; {snap} cat '{at}'; echo status $?; stty -a | grep -o -E -- '-?echo '");
    let mut terminal = Command::new("script");
    terminal.args(["-q", "-e", "-c", &script, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let like = place.command(&[]);
    terminal.env_clear().current_dir(place.folder.path());
    for (name, value) in like.get_envs() {
        if let Some(value) = value.filter(|_| name != "SNAP_PASSWORD") {
            terminal.env(name, value);
        }
    }
    let mut child = match terminal.spawn() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: script(1) is not installed");
            return;
        }
        spawned => spawned.expect("script runs"),
    };
    let (mut keys, mut shown) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.ends_with(b"Passphrase: ") {
        assert_eq!(shown.read(&mut byte).expect("terminal reads"), 1, "{}", text(&said));
        said.push(byte[0]);
    }
    keys.write_all(b"\x03").expect("key is pressed");
    shown.read_to_end(&mut said).expect("terminal reads");
    drop(keys);
    child.wait().expect("script ends");
    let said = text(&said);
    assert!(said.contains("status 130"), "{said}");
    assert!(said.contains("echo ") && !said.contains("-echo "), "{said}");
}

#[test]
fn init_makes_its_state_directories_durable() {
    let place = Place::new();
    let log = place.path("trace");
    let mut traced = Command::new("strace");
    traced.args([
        "-f",
        "-y",
        "-s",
        "0",
        "-e",
        "trace=fsync,fdatasync,mkdir,mkdirat,rename,renameat,renameat2",
        "-o",
    ]);
    traced.arg(&log).arg("--").arg(env!("CARGO_BIN_EXE_snap")).args(["init", "--encryption", "none"]);
    let like = place.command(&[]);
    traced.env_clear().current_dir(place.folder.path());
    for (name, value) in like.get_envs() {
        if let Some(value) = value {
            traced.env(name, value);
        }
    }
    traced.env("SNAP_STATE_DIR", place.path("var/lib/snap"));
    let output = match traced.output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: strace is not installed");
            return;
        }
        ran => ran.expect("strace runs"),
    };
    let said = text(&output.stderr);
    if !output.status.success() && said.contains("ptrace") {
        println!("skipped: strace may not trace here: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let trace = fs::read_to_string(&log).expect("trace reads");
    let lines: Vec<&str> = trace.lines().collect();
    let last_sync = |folder: &std::path::Path| {
        let synced = format!("<{}>)", folder.display());
        lines.iter().rposition(|line| line.contains("fsync(") && line.contains(&synced))
    };
    let made = |folder: &std::path::Path| {
        let named = format!("\"{}\"", folder.display());
        lines
            .iter()
            .rposition(|line| line.contains("mkdir") && line.contains(&named) && line.ends_with("= 0"))
    };
    let state = fs::read_dir(place.path("var/lib/snap")).expect("lists").flatten().map(|entry| entry.path());
    let state = state.into_iter().find(|path| path.is_dir()).expect("is there");
    for folder in [place.path("var"), place.path("var/lib"), place.path("var/lib/snap"), state.clone()] {
        let parent = folder.parent().expect("has one");
        let (made, synced) = (made(&folder), last_sync(parent));
        assert!(made.is_some() && synced > made, "{} in {}:\n{trace}", folder.display(), parent.display());
    }
    assert!(last_sync(&state).is_some(), "the name of the secret:\n{trace}");
}
