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
    assert!(error.contains("--headers"), "{error}");
    let (_, error) = place.asked(&["mail", "log", "ana@example.org"], 2);
    assert!(error.contains("did you mean anna@example.org?"), "{error}");
}

#[test]
fn keywords_have_names_with_the_passphrase_and_where_nothing_is_sealed() {
    for init in [&[][..], &["--encryption", "none"]] {
        let place = Place::new(init);
        place.two_nights();
        let mut arguments = vec!["mail", "diff", "anna@example.org", "latest~1", "latest"];
        arguments.extend(init.is_empty().then_some("--headers"));
        let output = place.snap(&arguments);
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{error}");
        assert!(out.contains("INBOX  +\\Seen +$Work +La ter +keyword c"), "{out}");
        assert_eq!(out.contains("INBOX -> Trash  Jürgen <j@example.net>  März"), init.is_empty(), "{out}");
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

#[test]
fn names_dates_sizes_flags_and_folders_are_searched_without_the_passphrase() {
    let place = Place::new(&[]);
    place.two_nights();
    let found = |query: &[&str]| -> Vec<String> {
        let rows = place.rows(&[&["mail", "find", "anna@example.org"], query].concat(), 0);
        assert_eq!(rows.last().expect("summary")["headers"], false);
        let names = rows.iter().filter_map(|row| row["name"].as_str());
        names.map(|name| name.split(['.', ':']).next().unwrap_or_default()[7..].to_owned()).collect()
    };
    assert_eq!(found(&[]), ["001", "002", "003", "009"], "each once, by time");
    assert_eq!(found(&["--name", "0003.M1"]), ["003"]);
    assert_eq!(found(&["--since", "2025-01-01T02:53:23", "--before", "2025-01-01T02:53:29"]), ["003"]);
    assert_eq!(found(&["--larger", "999"]), ["001"]);
    assert_eq!(found(&["--smaller", "999", "--flag", "seen"]), ["003"]);
    assert_eq!(found(&["--flag", "\\Deleted", "--folder", "Trash"]), ["001"]);
    assert_eq!(found(&["--no-flag", "Seen"]), ["002", "003", "009"], "as they were in some night");
    assert_eq!(found(&["--folder", "Entwürfe"]), ["009"]);
    assert_eq!(found(&["--deleted"]), ["002"]);
    assert_eq!(found(&["--deleted-since", "2026-01-02", "--deleted-before", "2026-01-03"]), ["002"]);
    assert!(found(&["--deleted-since", "2026-01-02T04:00"]).is_empty());
    assert!(found(&["--deleted-before", "2026-01-02"]).is_empty());
    let rows = place.rows(&["mail", "find", "anna@example.org"], 0);
    let days =
        |row: &Value| ["first", "last"].map(|end| row[end]["time"].as_str().expect("time")[8..10].to_owned());
    assert_eq!(days(&rows[0]), ["01", "02"], "wherever it was moved");
    assert_eq!((&rows[0]["folder"], &rows[0]["is_there"]), (&"Trash".into(), &true.into()));
    assert_eq!(
        (days(&rows[1]), days(&rows[3])),
        (["01", "01"].map(str::to_owned), ["02", "02"].map(str::to_owned))
    );
    let (out, error) = place.asked(&["mail", "find", "anna@example.org", "--deleted"], 0);
    assert!(out.contains("2026-01-01..2026-01-01  gone") && error.contains("--headers"), "{out}{error}");
    let at = rows[1]["place"].as_str().expect("place");
    assert!(text(&place.snap(&["cat", at]).stdout).ends_with("body 2\r\n"), "it says where it is");
}

#[test]
fn headers_are_searched_with_the_passphrase_and_never_without_it() {
    let place = Place::new(&[]);
    place.two_nights();
    for query in
        [&["anna@example.org", "--subject", "x"][..], &["--name", "1"], &["anna@example.org", "--headers"]]
    {
        let (_, error) = place.asked(&[&["mail", "find"], query].concat(), 2);
        assert!(error.contains("--password-file"), "{error}");
    }
    let found = |query: &[&str]| {
        let output = place.snap(&[&["--json", "mail", "find"], query].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let out = text(&output.stdout);
        let rows = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        rows.filter(|row| row["type"] == "message").collect::<Vec<_>>()
    };
    let one = found(&["anna@example.org", "--from", "jürgen", "--subject", "MÄRZ"]);
    assert_eq!(one.len(), 1);
    assert_eq!((&one[0]["from"], &one[0]["subject"]), (&"Jürgen <j@example.net>".into(), &"März".into()));
    assert_eq!(found(&["--message-id", "4@EXAMPLE.net"])[0]["user"], "bob@example.org");
    assert_eq!(found(&["--to", "anna@example.org", "--header", "Subject=two"]).len(), 1);
    assert_eq!(found(&["--subject", "body 2"]).len(), 0, "no body is searched");
    assert_eq!(found(&["--snapshot", "latest", "--subject", "two"]).len(), 0, "it is gone there");
    assert_eq!(found(&["--cc", "x"]).len(), 0);
    let refused = place.snap(&["mail", "find", "--header", "nothing"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("NAME=TEXT"));
}

#[test]
fn a_message_is_shown_by_its_number_and_its_bytes_are_what_they_were() {
    let place = Place::new(&[]);
    let mixed = "From: a@example.net\nSubject: a\x1b[2Jb\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\nhello\x1b[2J\n--x\n\
        Content-Type: application/pdf; name=\"bill.pdf\"\nContent-Transfer-Encoding: base64\n\nAAAA\n--x--\n";
    place.write(&format!("{BOB}/cur/1735700020.M1P1.mx:2,"), mixed.as_bytes());
    place.night(1);
    fs::remove_file(place.path(&format!("{BOB}/cur/1735700020.M1P1.mx:2,"))).expect("goes");
    place.night(2);
    let rows = place.rows(&["mail", "find", "bob@example.org", "--deleted"], 0);
    let number = rows[0]["message"].as_str().expect("number");
    let output = place.snap(&["mail", "show", number]);
    let out = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        !out.contains('\x1b') && out.contains("hello") && out.contains("bill.pdf  application/pdf"),
        "{out}"
    );
    assert!(out.contains("bob@example.org") && out.contains("INBOX"), "{out}");
    let eml = place.snap(&["mail", "show", &number[..6], "--eml", "--user", "bob@example.org"]);
    assert_eq!(eml.stdout, mixed.as_bytes());
    let (_, error) = place.asked(&["mail", "show", number], 2);
    assert!(error.contains("--password-file"), "{error}");
    for (number, what) in [("000000000000", "no message"), ("xyz", "is no number"), ("1", "is no number")] {
        let refused = place.snap(&["mail", "show", number]);
        let error = text(&refused.stderr);
        assert!(refused.status.code() == Some(2) && error.contains(what), "{number}: {error}");
    }
}

#[test]
fn what_is_compressed_or_enciphered_is_said_and_the_rest_is_found() {
    let place = Place::new(&[]);
    place.write(&format!("{ANNA}/cur/1735700030.M1P1.mx,S=5000:2,"), b"\x1f\x8b\x08\0compressed");
    place.write(&format!("{ANNA}/cur/1735700031.M1P1.mx,S=6000:2,"), b"CRYPTED\x03\x07\x02enciphered");
    place.write(&format!("{ANNA}/cur/1735700032.M1P1.mx:2,"), b"");
    place.night(1);
    let output = place.snap(&["mail", "find", "anna@example.org", "--subject", "t"]);
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{error}");
    assert!(out.contains("three") && error.contains("1 message: compressed (gzip)"), "{out}{error}");
    assert!(error.contains("1 message: enciphered"), "{error}");
    let rows = place.rows(&["mail", "find", "anna@example.org", "--larger", "5500"], 0);
    let number = rows[0]["message"].as_str().expect("number");
    let refused = text(&place.snap(&["mail", "show", number]).stderr);
    assert!(refused.contains("enciphered") && refused.contains("--eml"), "{refused}");
    assert_eq!(place.snap(&["mail", "show", number, "--eml"]).stdout, b"CRYPTED\x03\x07\x02enciphered");
}

#[test]
fn a_header_that_is_longer_than_a_chunk_is_read_to_its_end() {
    let place = Place::new(&["--chunk-avg", "1KiB"]);
    let noise: String = (0..400).map(|n| format!("X-Trace-{n}: {}\n", n * 7919)).collect();
    let long = format!("From: a@example.net\n{noise}Subject: at the end\n\nbody\n");
    place.write(&format!("{ANNA}/cur/1735700040.M1P1.mx:2,"), long.as_bytes());
    place.night(1);
    let output = place.snap(&["mail", "find", "anna@example.org", "--subject", "at the end"]);
    assert!(text(&output.stdout).contains("1 message in 1 night"), "{}", text(&output.stdout));
}

#[test]
fn who_looks_into_mail_is_logged() {
    let place = Place::new(&[]);
    let config = place.config("");
    assert!(place.snap(&["backup", "--config", &config]).status.success());
    assert!(place.snap(&["mail", "find", "--subject", "two", "--config", &config]).status.success());
    let rows = place.rows(&["mail", "find", "anna@example.org", "--config", &config], 0);
    let number = rows[0]["message"].as_str().expect("number");
    assert!(place.snap(&["mail", "show", number, "--config", &config]).status.success());
    let logs = fs::read_dir(place.path("log")).expect("lists").flatten();
    let logs: String = logs.filter_map(|log| fs::read_to_string(log.path()).ok()).collect();
    assert!(
        logs.contains("mail find --subject two") && logs.contains(&format!("mail show {number}")),
        "{logs}"
    );
}

/// A folder of many messages is stored in many pieces: what is found, and when it was there, does not depend on how it is cut.
#[test]
fn a_large_folder_gives_the_same_answers_as_a_small_one() {
    let place = Place::new(&["--encryption", "none"]);
    for n in 0..1500 {
        place.write(
            &format!("{ANNA}/cur/17358{n:05}.M{n}P1.mx:2,S"),
            format!("Subject: number {n}\n\nx\n").as_bytes(),
        );
    }
    place.night(1);
    for n in [3, 700, 1499] {
        fs::remove_file(place.path(&format!("{ANNA}/cur/17358{n:05}.M{n}P1.mx:2,S"))).expect("goes");
    }
    place.rename(
        &format!("{ANNA}/cur/1735800800.M800P1.mx:2,S"),
        &format!("{ANNA}/.Trash/cur/1735800800.M800P1.mx:2,S"),
    );
    place.night(2);
    let rows = place.rows(&["mail", "log", "anna@example.org", "-v"], 0);
    let words: Vec<&str> = rows.iter().filter_map(|row| row["event"].as_str()).collect();
    assert_eq!(words, ["deleted", "deleted", "deleted", "moved"]);
    assert_eq!(rows[1]["messages"], 1500);
    let rows = place.rows(&["mail", "find", "anna@example.org", "--subject", "number "], 0);
    assert_eq!(rows.len(), 1501, "and the summary");
    let gone = rows.iter().filter(|row| row["is_there"] == false).count();
    assert_eq!(gone, 3);
    let rows = place.rows(&["mail", "find", "anna@example.org", "--subject", "number 800", "--deleted"], 0);
    assert_eq!(rows.len(), 1, "what was moved is not deleted: {rows:?}");
}

#[test]
fn a_night_whose_directories_are_lost_deleted_nothing() {
    let place = Place::new(&["--encryption", "none"]);
    let packs = || -> Vec<PathBuf> {
        let folders = fs::read_dir(place.path("repo/packs")).expect("lists").flatten();
        let files = folders.flat_map(|folder| fs::read_dir(folder.path()).expect("lists").flatten());
        files.map(|file| file.path()).collect()
    };
    place.night(1);
    let before = packs();
    place.message(&format!("{ANNA}/new/1735700010.M1P1.mx"), "z@example.net", "ten", 10);
    place.night(2);
    for pack in packs().iter().filter(|pack| !before.contains(pack)) {
        fs::remove_file(pack).expect("pack goes");
    }
    let rows = place.rows(&["mail", "log", "anna@example.org"], 1);
    assert_eq!(rows.len(), 2);
    assert!(
        rows[1]["deleted"].is_null()
            && rows[1]["state"].as_str().is_some_and(|it| it.contains("cannot be read")),
        "{rows:?}"
    );
    let (_, error) = place.asked(&["mail", "diff", "anna@example.org", "latest~1", "latest"], 2);
    assert!(error.contains("cannot be read"), "{error}");
    let rows = place.rows(&["mail", "find", "anna@example.org"], 1);
    assert_eq!(rows.len(), 4, "those of the other night are found: {rows:?}");
    assert!(
        rows[3]["unseen"][0]["reason"].as_str().is_some_and(|it| it.contains("cannot be read")),
        "{rows:?}"
    );
    place.asked(&["mail", "users"], 1);
}

#[test]
fn hostile_names_reach_nobody_as_they_are() {
    let place = Place::new(&[]);
    let evil = "mail/vmail/example.org/ev\x1b[2Jil\u{202e}";
    for folder in ["", "/.\x1b]0;x\x07", "/.&AAo-", "/.&not-utf7", "/.&,,,,-"] {
        place.folder_at(&format!("{evil}{folder}"));
    }
    let long = format!("1735700001.{}\x1b[31m", "n".repeat(239));
    place.message(&format!("{evil}/cur/{long}"), "a\x1b[2J@b", "=?utf-8?q?=1B[2J=0D=0A?=", 1);
    place.message(
        &format!("{evil}/.&AAo-/cur/99999999999999999999.x,S=99999999999999999999:2,\x07SS"),
        "x",
        "y",
        2,
    );
    place.write(&format!("{evil}/dovecot-keywords"), b"0 \x1b[2J\n0 again\n99 x\n\xff\xff");
    place.night(1);
    fs::remove_file(place.path(&format!("{evil}/cur/{long}"))).expect("goes");
    place.night(2);
    let rows = place.rows(&["mail", "users"], 0);
    let user = rows
        .iter()
        .filter_map(|row| row["user"].as_str())
        .find(|user| user.starts_with("ev"))
        .expect("is there");
    assert!(!user.contains(|c: char| c.is_control() || c == '\u{202e}'), "{user}");
    let users = place.asked(&["mail", "users"], 0).0;
    assert!(users.contains("5 folders"), "{users}");
    place.asked(&["mail", "log", user, "-v"], 0);
    place.asked(&["mail", "find", user], 0);
    let found = place.snap(&["mail", "find", user, "--headers"]);
    let (out, error) = (text(&found.stdout), text(&found.stderr));
    assert!(found.status.success(), "{error}");
    assert!(!out.contains(|c: char| c.is_control() && c != '\n'), "{out}");
    assert!(out.contains("2 messages in 2 nights"), "{out}");
}

#[test]
fn a_copy_in_another_folder_is_the_same_message() {
    let place = Place::new(&[]);
    fs::copy(
        place.path(&format!("{ANNA}/cur/{FIRST}:2,S")),
        place.path(&format!("{ANNA}/.Trash/cur/{FIRST}:2,S")),
    )
    .expect("is copied");
    place.night(1);
    let rows = place.rows(&["mail", "find", "anna@example.org", "--larger", "999"], 0);
    assert_eq!(rows.len(), 2, "one message and the summary: {rows:?}");
    fs::remove_file(place.path(&format!("{ANNA}/cur/{FIRST}:2,S"))).expect("goes");
    place.night(2);
    let rows = place.rows(&["mail", "find", "anna@example.org", "--larger", "999"], 0);
    assert_eq!((&rows[0]["folder"], &rows[0]["is_there"]), (&"Trash".into(), &true.into()));
}
