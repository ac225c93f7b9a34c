//! Questions about messages, asked of the real program.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

const ANNA: &str = "mail/vmail/example.org/anna";
const BOB: &str = "mail/vmail/example.org/bob";
const FIRST: &str = "1735700001.M1P1.mx,S=1000,W=1050";

struct Place {
    folder: TempDir,
}

impl Place {
    /// Makes a repository, and the mailboxes of anna (Maildir++) and bob (`LAYOUT=fs`).
    fn new(init: &[&str]) -> Self {
        let place = Self { folder: tempfile::tempdir().expect("temporary folder") };
        assert!(place.snap(&[&["init"], init].concat()).status.success());
        for folder in ["", "/.Trash", "/.Entw&APw-rfe"] {
            place.folder_at(&format!("{ANNA}{folder}"));
        }
        for folder in ["", "/Sent/2024"] {
            place.folder_at(&format!("{BOB}{folder}"));
        }
        place.message(
            &format!("{ANNA}/cur/{FIRST}:2,S"),
            "=?utf-8?q?J=C3=BCrgen?= <j@example.net>",
            "=?iso-8859-1?q?M=E4rz?=",
            1,
        );
        place.message(&format!("{ANNA}/cur/1735700002.M1P1.mx:2,"), "x@example.net", "two", 2);
        place.message(&format!("{ANNA}/new/1735700003.M1P1.mx"), "x@example.net", "three", 3);
        place.message(&format!("{BOB}/Sent/2024/cur/1735700004.M1P1.mx:2,S"), "bob@example.org", "four", 4);
        place.write(&format!("{ANNA}/dovecot-keywords"), b"0 $Work\n1 La\x1bter\n");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn folder_at(&self, path: &str) {
        for side in ["cur", "new", "tmp"] {
            fs::create_dir_all(self.path(path).join(side)).expect("folder is made");
        }
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        fs::write(self.path(path), bytes).expect("file is written");
    }

    fn message(&self, path: &str, from: &str, subject: &str, number: u64) {
        let text = format!(
            "From: {from}\r\nTo: anna@example.org\r\nSubject: {subject}\r\nMessage-ID: <{number}@example.net>\r\n\r\nbody {number}\r\n"
        );
        self.write(path, text.as_bytes());
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_735_700_000 + number);
        fs::File::open(self.path(path)).expect("opens").set_modified(time).expect("time is set");
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).expect("is renamed");
    }

    fn snap(&self, arguments: &[&str]) -> Output {
        common::program(self.folder.path(), arguments).output().expect("program runs")
    }

    /// Runs the program without a passphrase; it must end with `status`. Returns what it said.
    fn asked(&self, arguments: &[&str], status: i32) -> (String, String) {
        let mut command = common::program(self.folder.path(), arguments);
        let output = command.env_remove("SNAP_PASSWORD").output().expect("program runs");
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {out}{error}");
        let raw = |c: char| c.is_control() && c != '\n';
        assert!(!out.contains(raw) && !error.contains(raw), "no control character: {out}{error}");
        (out, error)
    }

    fn rows(&self, arguments: &[&str], status: i32) -> Vec<Value> {
        let (out, _) = self.asked(&[&["--json"], arguments].concat(), status);
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn night(&self, day: u32) {
        let time = format!("2026-01-{day:02}T03:00");
        let output = self.snap(&["backup", "mail", "--time", &time]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// Two nights; between them a message is moved and flagged, one is read and gets keywords, one is deleted, one arrives.
    fn two_nights(&self) {
        self.night(1);
        self.rename(&format!("{ANNA}/cur/{FIRST}:2,S"), &format!("{ANNA}/.Trash/cur/{FIRST}:2,ST"));
        self.rename(
            &format!("{ANNA}/new/1735700003.M1P1.mx"),
            &format!("{ANNA}/cur/1735700003.M1P1.mx:2,Sabc"),
        );
        fs::remove_file(self.path(&format!("{ANNA}/cur/1735700002.M1P1.mx:2,"))).expect("goes");
        self.message(&format!("{ANNA}/.Entw&APw-rfe/new/1735700009.M1P1.mx"), "y@example.net", "nine", 9);
        self.night(2);
    }

    /// A configuration with the component `mail`, and what else is given.
    fn config(&self, more: &str) -> String {
        let (root, path) = (self.folder.path().display(), self.path("config.toml"));
        let text = format!(
            "[repository]\npath = \"{root}/repo\"\nmin_free = \"1MiB\"\n[run]\nretries = 0\n[log]\ndirectory = \"{root}/log\"\nsyslog = false\n\
             [[component]]\nname = \"mail\"\npaths = [\"{root}/mail\"]\n{more}"
        );
        fs::write(&path, text).expect("configuration is written");
        path.display().to_string()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn mailboxes_of_both_layouts_are_counted_without_the_passphrase() {
    let place = Place::new(&[]);
    place.night(1);
    let rows = place.rows(&["mail", "users"], 0);
    let row = |user: &str| rows.iter().find(|row| row["user"] == user).expect("is there").clone();
    let (anna, bob) = (row("anna@example.org"), row("bob@example.org"));
    assert_eq!((&anna["folders"], &anna["messages"]), (&3.into(), &3.into()));
    assert_eq!((&bob["folders"], &bob["messages"]), (&2.into(), &1.into()));
    assert_eq!(anna["newest"], "2025-01-01T02:53:23Z");
    let size: u64 = ["cur", "new"]
        .iter()
        .flat_map(|side| fs::read_dir(place.path(ANNA).join(side)).expect("lists"))
        .map(|entry| entry.expect("entry").metadata().expect("about").len())
        .sum();
    assert_eq!(anna["bytes"], size, "what files take, whatever names say");
    assert_eq!(rows.last().expect("summary")["mailboxes"], 2);
    let (out, _) = place.asked(&["mail", "users", "latest"], 0);
    assert!(out.contains("anna@example.org") && out.contains("2 mailboxes, 4 messages"), "{out}");
}

#[test]
fn a_log_says_what_became_of_each_message_without_the_passphrase() {
    let place = Place::new(&[]);
    place.two_nights();
    let rows = place.rows(&["mail", "log", "anna@example.org", "-v"], 0);
    let nights: Vec<&Value> = rows.iter().filter(|row| row["type"] == "night").collect();
    assert_eq!((&nights[0]["messages"], &nights[0]["arrived"]), (&3.into(), &Value::Null));
    let counts =
        ["messages", "arrived", "deleted", "moved", "flags", "altered"].map(|key| nights[1][key].as_u64());
    assert_eq!(counts, [3, 1, 1, 1, 2, 0].map(Some));
    let event = |word: &str, folder: &str| {
        let mut found = rows.iter().filter(|row| row["event"] == word && row["folder"] == folder);
        found.next().unwrap_or_else(|| panic!("{word} in {folder}: {rows:#?}")).clone()
    };
    assert_eq!(event("moved", "Trash")["from_folder"], "INBOX");
    assert_eq!(event("moved", "Trash")["bytes"], 1000, "as the name says");
    assert_eq!(event("arrived", "Entwürfe")["received"], "2025-01-01T02:53:29Z");
    assert_eq!(
        event("flags", "INBOX")["added"],
        serde_json::json!(["\\Seen", "keyword a", "keyword b", "keyword c"])
    );
    assert_eq!(event("deleted", "INBOX")["flags"], serde_json::json!([]));
    let (out, error) = place
        .asked(&["mail", "log", "ANNA@example.org", "--folder", "Trash", "-v", "--since", "2026-01-02"], 0);
    assert!(
        out.contains("INBOX -> Trash") && !out.contains("arrived ") && !out.contains("2026-01-01"),
        "{out}"
    );
    assert_eq!(error, "", "no keyword was shown");
    let (_, error) = place.asked(&["mail", "log", "anna@example.org", "-v"], 0);
    assert!(error.contains("--keywords"), "{error}");
    let (_, error) = place.asked(&["mail", "log", "ana@example.org"], 2);
    assert!(error.contains("did you mean anna@example.org?"), "{error}");
}

#[test]
fn keywords_have_names_with_the_passphrase_and_where_nothing_is_sealed() {
    for init in [&[][..], &["--encryption", "none"]] {
        let place = Place::new(init);
        place.two_nights();
        let mut arguments = vec!["mail", "diff", "anna@example.org", "latest~1", "latest"];
        arguments.extend(init.is_empty().then_some("--keywords"));
        let output = place.snap(&arguments);
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{error}");
        assert!(out.contains("INBOX  +\\Seen +$Work +La ter +keyword c"), "{out}");
        assert!(out.contains("1 arrived, 1 deleted, 1 moved, 2 with other flags"), "{out}");
    }
}

#[test]
fn a_night_that_could_not_read_the_mail_deleted_nothing() {
    let place = Place::new(&[]);
    fs::create_dir(place.path("etc")).expect("folder");
    place.write("etc/file", b"x");
    let config = place
        .config(&format!("[[component]]\nname = \"etc\"\npaths = [\"{}\"]\n", place.path("etc").display()));
    let night = |day: u32, status: i32| {
        let time = format!("2026-01-{day:02}T03:00");
        let output = place.snap(&["backup", "--config", &config, "--time", &time]);
        assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
    };
    night(1, 0);
    place.rename("mail", "away");
    night(2, 1);
    place.rename("away", "mail");
    place.message(&format!("{ANNA}/new/1735700010.M1P1.mx"), "z@example.net", "ten", 10);
    night(3, 0);
    let rows = place.rows(&["mail", "log", "anna@example.org", "--config", &config], 1);
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(
        rows[1]["state"].as_str().is_some_and(|state| state.contains("mail could not be backed up")),
        "{rows:?}"
    );
    assert_eq!(
        (&rows[2]["arrived"], &rows[2]["deleted"], &rows[2]["messages"]),
        (&1.into(), &0.into(), &4.into())
    );
    let (_, error) =
        place.asked(&["mail", "diff", "anna@example.org", "latest~2", "latest~1", "--config", &config], 2);
    assert!(error.contains("could not be backed up"), "{error}");
    let rows = place.rows(&["mail", "users", "latest~1", "--config", &config], 0);
    assert!(
        rows[0]["taken_from"].is_string(),
        "a night that lacks the mail is completed, and it is said: {rows:?}"
    );
}

#[test]
fn a_layout_says_where_mailboxes_lie_and_config_check_what_it_takes() {
    let place = Place::new(&[]);
    place.folder_at("mail/other/Maildir");
    let config = place.config("[mail]\ncomponent = \"mail\"\nlayout = \"vmail/{domain}/{user}\"\n");
    assert!(place.snap(&["backup", "--config", &config]).status.success());
    let rows = place.rows(&["mail", "users", "--config", &config], 0);
    assert_eq!(rows.last().expect("summary")["mailboxes"], 2, "{rows:?}");
    let check = |config: &str| text(&place.snap(&["config", "check", "--config", config]).stdout);
    let said = check(&config);
    assert!(
        said.contains(
            "layout vmail/{domain}/{user} in component mail: 2 mailboxes, such as anna@example.org"
        ),
        "{said}"
    );
    let said = check(&place.config(""));
    assert!(said.contains("guessed from where cur/ lies: 3 mailboxes"), "{said}");
    let said = check(&place.config("[mail]\nlayout = \"{user}/nowhere\"\n"));
    assert!(said.contains("no mailbox lies there"), "{said}");
    for (mail, what) in [
        ("layout = \"vmail/{name}\"", "only {user} and {domain}"),
        ("layout = \"/vmail/{user}\"", "must not begin with /"),
        ("component = \"post\"", "there is no component \"post\""),
        ("layuot = \"{user}\"", "unknown key"),
    ] {
        let config = place.config(&format!("[mail]\n{mail}\n"));
        let (_, error) = place.asked(&["config", "check", "--config", &config], 2);
        assert!(error.contains(what) && error.contains("mail."), "{mail}: {error}");
    }
}

#[test]
fn a_renamed_message_is_moved_and_one_with_other_bytes_is_said() {
    let place = Place::new(&[]);
    place.night(1);
    place.rename(&format!("{ANNA}/cur/{FIRST}:2,S"), &format!("{ANNA}/.Trash/cur/1800000000.M1P1.mx:2,S"));
    place.message(&format!("{ANNA}/cur/1735700002.M1P1.mx:2,"), "x@example.net", "other bytes", 7);
    fs::remove_dir_all(place.path(BOB)).expect("mailbox goes");
    place.night(2);
    let rows = place.rows(&["mail", "diff", "anna@example.org", "latest~1", "latest"], 0);
    let words: Vec<&str> = rows.iter().filter_map(|row| row["event"].as_str()).collect();
    assert_eq!(words, ["altered", "moved"]);
    let rows = place.rows(&["mail", "log", "bob@example.org"], 0);
    assert_eq!((&rows[1]["deleted"], &rows[1]["state"]), (&1.into(), &"the mailbox is gone".into()));
}
