//! How a run goes: one at a time, with commands around components, verified, in the right order.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use serde_json::json;

use crate::common::Noise;
use crate::common::repo::maildir;
use crate::place::{PATIENCE, Place, ended, is_written, text, wait_until};

#[test]
fn a_second_run_ends_with_four_and_names_the_first_or_waits() {
    let mut place = Place::with_mail(1);
    let (begun, go) = place.add_waiting_dump();
    let first = place.spawn(&["backup", "--daily"]);
    wait_until("the first run is under way", || is_written(&begun));
    let second = place.snap(&["backup", "--weekly", "-q"]);
    assert_eq!(second.status.code(), Some(4));
    let error = text(&second.stderr);
    assert!(error.contains("another run is under way: snap backup --daily, process "), "{error}");
    assert!(error.contains(&first.id().to_string()) && error.contains("--wait"), "{error}");
    let third = place.spawn(&["backup", "--weekly", "--wait"]);
    wait_until("the third run waits", || {
        place.log("snap.log").contains("waiting for another run: snap backup --daily")
    });
    File::create(&go).expect("file is made");
    assert_eq!(ended(first).status.code(), Some(0));
    assert_eq!(ended(third).status.code(), Some(0));
    let tags: Vec<_> = place.snapshots().iter().map(|snapshot| snapshot["tags"].clone()).collect();
    assert_eq!(tags, [json!(["daily"]), json!(["weekly"])]);
}

/// A run that hangs tells nobody anything.
#[test]
fn a_run_that_is_still_under_way_is_mailed_once() {
    let mut place = Place::with_mail(1);
    let hold = |name: &str| {
        let script = format!(
            "echo x >{0}; while ! test -e {0}.go; do sleep 0.01; done; echo rows",
            place.path(name).display()
        );
        format!(
            "[[component]]\nname = \"{name}\"\n[[component.stream]]\nname = \"a.sql\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n"
        )
    };
    let components = [hold("one"), hold("two")].concat();
    place.rest += &components;
    place.write_config();
    for name in ["one", "two"] {
        let first = place.spawn(&["backup", "--daily", "--component", name]);
        wait_until("the first run is under way", || is_written(&place.path(name)));
        for _ in 0..2 {
            assert_eq!(place.snap(&["backup", "--daily", "-q"]).status.code(), Some(4));
        }
        let mail = place.only_mail();
        assert!(mail.subject.starts_with("[ALERT] Mailserver Backup Still Running - 20"), "{}", mail.subject);
        let holder = format!("snap backup --daily --component {name}, process {}, since 20", first.id());
        mail.says(&[&holder, "Status:      not begun", "Run it again: snap backup --daily\n"]);
        place.forget_mails();
        File::create(place.path(&format!("{name}.go"))).expect("file is made");
        assert_eq!(ended(first).status.code(), Some(0));
    }
}

#[test]
fn a_repository_that_is_held_alone_ends_with_four_and_a_mail_or_is_waited_for() {
    let place = Place::with_mail(1);
    place.write_config();
    let lock = File::create(place.repo.join("lock")).expect("lock file opens");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("lock is taken");
    let refused = place.snap(&["backup", "--daily", "--lock-wait", "0s"]);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    place
        .only_mail()
        .says(&["locked by another run that needs the repository alone", "Snapshot:    none was made"]);
    let waiting = place.spawn(&["backup", "--daily", "--wait", "--lock-wait", "0s"]);
    wait_until("it waits", || {
        place.log("snap.log").contains("waiting for a run that needs the repository alone")
    });
    assert!(place.snapshots().is_empty());
    drop(lock);
    assert_eq!(ended(waiting).status.code(), Some(0));
    assert_eq!(place.snapshots().len(), 1);
}

#[test]
fn commands_around_a_component_run_in_order_whatever_happens() {
    let mut place = Place::with_mail(2);
    let said = place.path("said");
    let say = |word: &str, status: u8| {
        format!("{{ command = [\"sh\", \"-c\", \"echo {word} >>{}; exit {status}\"] }}", said.display())
    };
    let stream = |status: u8| {
        format!(
            "[[component.stream]]\nname = \"a\"\ncommand = [\"sh\", \"-c\", \"echo dump >>{}; echo rows; exit {status}\"]\n",
            said.display()
        )
    };
    let with = |before: u8, after: u8, status: u8| {
        format!(
            "[[component]]\nname = \"db\"\nbefore = {}\nafter = {}\n{}",
            say("before", before),
            say("after", after),
            stream(status)
        )
    };
    place.run = "retries = 1\nretry_delay = \"1ms\"".to_owned();
    let mail = place.mail_component();
    for (component, status, expected, says) in [
        (with(0, 0, 0), 0, "before dump after", ""),
        (with(0, 0, 1), 1, "before dump after before dump after", "db: failed after 2 tries"),
        (with(1, 0, 0), 1, "before before", "db: before: command sh failed"),
        (with(0, 1, 0), 1, "before dump after", "db: after: command sh failed"),
    ] {
        let _ = fs::remove_file(&said);
        place.forget_mails();
        place.rest = mail.clone() + &component;
        assert_eq!(place.backup(&["--daily"]).0, status, "{component}");
        let words = fs::read_to_string(&said).expect("reads");
        assert_eq!(words.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{component}");
        if !says.is_empty() {
            place.only_mail().says(&[says]);
        }
    }
}

#[test]
fn a_path_that_comes_back_between_two_tries_is_backed_up() {
    let mut place = Place::with_mail(2);
    place.run = "retries = 2\nretry_delay = \"1ms\"".to_owned();
    // The command before each try makes the directory appear at the second.
    let base = place.folder.path().display().to_string();
    let script = format!("test -e {base}/seen && mkdir -p {base}/ssl/live; touch {base}/seen; true");
    place.rest += &format!(
        "[[component]]\nname = \"ssl\"\npaths = [\"{base}/ssl\"]\nbefore = {{ command = [\"sh\", \"-c\", \"{script}\"] }}\n"
    );
    let (status, summary) = place.backup(&["--daily"]);
    assert_eq!((status, summary["components"][1]["status"].clone()), (0, json!("complete")));
    assert_eq!(summary["components"][1]["attempts"], 2);
    let log = place.log("snap.log");
    assert!(
        log.contains("[WARNING] [SSL] try 1: ") && log.contains("ssl: No such file or directory"),
        "{log}"
    );
    assert!(place.mails().is_empty(), "what succeeded in the end is no failure");
}

#[test]
fn if_nothing_can_be_read_there_is_no_snapshot() {
    let mut place = Place::with_mail(1);
    place.run = "retries = 0".to_owned();
    place.rest = "[[component]]\nname = \"mail\"\npaths = [\"/no/such/place\"]\n".to_owned();
    assert_eq!(place.backup(&["--daily"]).0, 2);
    assert!(place.snapshots().is_empty());
    place.only_mail().says(&["no component could be read", "mail: try 1: /no/such/place: No such file"]);
}

#[test]
fn a_part_that_cannot_be_read_is_named_and_the_rest_is_kept() {
    let mut place = Place::with_mail(3);
    place.run = "retries = 1\nretry_delay = \"1ms\"".to_owned();
    let base = place.folder.path().display().to_string();
    fs::create_dir(place.path("config")).expect("folder is made");
    fs::write(place.path("config/main.cf"), b"x").expect("file is written");
    place.rest +=
        &format!("[[component]]\nname = \"config\"\npaths = [\"{base}/config\", \"{base}/gone.yml\"]\n");
    let (status, summary) = place.backup(&["--daily"]);
    assert_eq!((status, summary["components"][1]["status"].clone()), (1, json!("partial")));
    assert_eq!(
        text(&place.snap(&["ls", "-R", "latest:config"]).stdout),
        "config/config\nconfig/config/main.cf\n"
    );
    place.only_mail().says(&["config: partial after 2 tries", "gone.yml: No such file or directory"]);
}

#[test]
fn what_does_not_verify_is_an_error_and_retention_does_not_follow() {
    let mut place = Place::new();
    maildir(&place.path("mail"), 30, 100_000, &mut Noise::new(9));
    // Waits until packs of the run are written, and spoils one before the run reads it back.
    let packs = place.repo.join("packs").display().to_string();
    let wait = format!("while ! ls {packs}/*/* >/dev/null 2>&1; do sleep 0.01; done; echo rows");
    let spoil =
        format!("set -- {packs}/*/*; chmod u+w $1; printf spoilt | dd of=$1 bs=1 seek=5000 conv=notrunc");
    place.rest = place.mail_component()
        + &format!(
            "[[component]]\nname = \"db\"\nafter = {{ command = [\"sh\", \"-c\", \"{spoil}\"] }}\n[[component.stream]]\nname = \"a\"\ncommand = [\"sh\", \"-c\", \"{wait}\"]\n"
        );
    place.write_config();
    assert!(place.snap(&["init", "--encryption", "none", "--pack-size", "1MiB"]).status.success());
    let (status, _) = place.backup(&["--daily"]);
    assert_eq!(status, 1);
    let errors = place.log("snap-error.log");
    assert!(
        errors.contains("[ERROR] [VERIFY] packs/") && errors.contains("are not the ones written"),
        "{errors}"
    );
    place.only_mail().says(&[
        "verification failed",
        "snap check --read-packs",
        "smartctl",
        "old snapshots were not removed",
    ]);
    assert_eq!(place.snap(&["check", "--read-packs"]).status.code(), Some(3));
}

#[test]
fn logs_that_cannot_be_written_end_the_run_and_are_told_by_mail_and_syslog() {
    let place = Place::with_mail(1);
    fs::write(place.path("log"), b"a file, no directory").expect("file is written");
    let syslog = UnixDatagram::bind(place.path("syslog")).expect("socket is made");
    syslog.set_read_timeout(Some(PATIENCE)).expect("is set");
    let (status, _) = place.backup(&["--daily"]);
    assert_eq!(status, 2);
    place.only_mail().says(&["logs cannot be written", "log: "]);
    let mut record = [0; 2048];
    let length = syslog.recv(&mut record).expect("a record comes");
    let record = text(&record[..length]);
    assert!(record.starts_with("<10>"), "user.crit is 1 * 8 + 2: {record}");
    assert!(record.contains("snap[") && record.contains("[INIT] logs cannot be written"), "{record}");
    assert!(place.snapshots().is_empty());
}

#[test]
fn logs_are_for_their_owner_alone_and_have_the_line_that_was_asked_for() {
    let mut place = Place::with_mail(1);
    place.rest = "level = \"debug\"\n".to_owned() + &place.rest;
    assert_eq!(place.backup(&["--daily"]).0, 0);
    for entry in fs::read_dir(place.path("log")).expect("lists") {
        let entry = entry.expect("reads");
        assert_eq!(
            entry.metadata().expect("is there").permissions().mode() & 0o777,
            0o600,
            "{:?}",
            entry.file_name()
        );
    }
    for line in place.log("snap.log").lines() {
        let shape: String = line.chars().take(21).map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        assert_eq!(shape, "[9999-99-99 99:99:99]", "{line}");
        let rest = &line[22..];
        assert!(["[DEBUG] [", "[INFO] ["].iter().any(|level| rest.starts_with(level)), "{line}");
    }
    assert!(place.log("snap.log").contains("[DEBUG] [MAIL] begins"));
    assert_eq!(place.log("snap-error.log"), "");
}

#[test]
fn a_file_name_with_a_newline_makes_no_second_line_in_the_log() {
    let mut place = Place::with_mail(1);
    place.run = "retries = 0".to_owned();
    let forged = "x\n[2025-11-07 03:00:00] [INFO] [MAIN] all is well";
    place.rest += &format!("[[component]]\nname = \"odd\"\npaths = ['''/no/{forged}''']\n");
    assert_eq!(place.backup(&["--daily"]).0, 1);
    assert!(
        place.day_log().lines().all(|line| !line.starts_with("[2025-11-07 03:00:00]")),
        "{}",
        place.day_log()
    );
    assert!(!place.only_mail().body.lines().any(|line| line.starts_with("[2025-11-07 03:00:00]")));
}

#[test]
fn json_output_is_as_without_a_configuration_and_a_good_run_is_silent() {
    let place = Place::with_mail(2);
    let (status, summary) = place.backup(&["--daily", "--tag", "keep"]);
    assert_eq!(status, 0);
    for key in [
        "snapshot",
        "files_new",
        "bytes_read",
        "bytes_added",
        "bytes_stored",
        "duration_s",
        "errors",
        "components",
    ] {
        assert!(!summary[key].is_null(), "{key}: {summary}");
    }
    let quiet = place.snap(&["backup", "--daily", "-q"]);
    assert_eq!(
        (text(&quiet.stdout), text(&quiet.stderr)),
        (String::new(), String::new()),
        "cron has nothing to mail"
    );
    assert_eq!(place.snapshots()[0]["tags"], json!(["daily", "keep"]));
}

#[test]
fn a_dry_run_of_the_components_writes_nothing_anywhere() {
    let place = Place::with_mail(2);
    let (status, summary) = place.backup(&["--daily", "--dry-run"]);
    assert_eq!(
        (status, summary["files_new"].clone(), summary["dry_run"].clone()),
        (0, json!(2), json!(true))
    );
    assert!(place.snapshots().is_empty() && !place.path("log").exists());
}

#[test]
fn an_unknown_component_is_refused_before_anything_is_done() {
    let place = Place::with_mail(1);
    place.write_config();
    let refused = place.snap(&["backup", "--component", "mial"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("it has: mail"), "{}", text(&refused.stderr));
    assert!(!place.path("log").exists());
}

#[test]
fn another_user_than_root_and_the_configured_one_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can run a program as somebody else");
        return;
    }
    let place = Place::with_mail(1);
    place.write_config();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.folder.path(), open).expect("mode is set");
    fs::set_permissions(place.path("config.toml"), fs::Permissions::from_mode(0o644)).expect("mode is set");
    fs::create_dir(place.path("log")).expect("folder is made");
    fs::set_permissions(place.path("log"), fs::Permissions::from_mode(0o777)).expect("mode is set");
    let program = place.path("snap");
    fs::copy(env!("CARGO_BIN_EXE_snap"), &program).expect("program is copied");
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["backup", "--daily", "--config"])
        .arg(place.path("config.toml"))
        .env("SNAP_STATE_DIR", place.path("state"))
        .output()
        .expect("setpriv runs");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let error = text(&output.stderr);
    assert!(error.contains("[CRITICAL] [INIT] user nobody may not run this"), "{error}");
    assert!(place.snapshots().is_empty());
}

#[test]
fn sigint_during_a_pause_between_two_tries_ends_the_run_at_once() {
    let mut place = Place::with_mail(1);
    place.run = "retry_delay = \"1h\"".to_owned();
    place.rest += "[[component]]\nname = \"dkim\"\npaths = [\"/no/such/place\"]\n";
    place.write_config();
    let child = place.spawn(&["backup", "--daily"]);
    wait_until("it pauses", || place.log("snap.log").contains("tried again in 1h"));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("fits")).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signal is sent");
    assert_eq!(ended(child).status.code(), Some(130));
    assert!(place.snapshots().is_empty());
}

/// A shell that is closed, or an ssh that breaks off.
#[test]
fn sighup_during_a_dump_ends_the_dump_and_runs_what_follows_it() {
    let mut place = Place::with_mail(1);
    let (begun, after) = (place.path("begun"), place.path("after"));
    place.rest += &format!(
        "[[component]]\nname = \"db\"\nafter = {{ command = [\"touch\", \"{}\"] }}\n[[component.stream]]\nname = \"a\"\ncommand = [\"sh\", \"-c\", \"echo $$ >{}; exec sleep 1000\"]\n",
        after.display(),
        begun.display()
    );
    place.write_config();
    let child = place.spawn(&["backup", "--daily"]);
    wait_until("the dump is under way", || is_written(&begun));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("fits")).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("signal is sent");
    assert_eq!(ended(child).status.code(), Some(130));
    assert!(after.exists() && place.snapshots().is_empty());
    let dump = fs::read_to_string(&begun).expect("reads");
    assert!(!std::path::Path::new("/proc").join(dump.trim()).exists(), "the dump has ended");
}

#[test]
fn a_snapshot_keeps_the_log_of_its_run() {
    let mut place = Place::with_mail(1);
    place.run = "retries = 0".to_owned();
    place.rest += "[[component]]\nname = \"dkim\"\npaths = [\"/no/such/place\"]\n";
    assert_eq!(place.backup(&["--daily"]).0, 1);
    let shown = text(&place.snap(&["snapshots", "--log"]).stdout);
    assert!(shown.contains("[ERROR] [DKIM] failed") && shown.contains("[INFO] [MAIL]"), "{shown}");
    let listed = &place.json(&["snapshots", "--log"])["log"];
    assert!(listed.as_str().expect("text").contains("[INIT] pre-flight passed"), "{listed}");
    assert!(place.json(&["snapshots"])["log"].is_null());
}

#[test]
fn prune_without_rules_follows_the_configuration() {
    let mut place = Place::with_mail(1);
    for time in ["2025-10-01T03:00", "2025-11-01T03:00", "2025-11-07T03:00"] {
        assert_eq!(place.backup(&["--daily", "--time", time]).0, 0);
    }
    place.write_config();
    assert_eq!(
        place.json(&["prune", "--dry-run"])["snapshots_forgotten"],
        0,
        "nothing configured, everything kept"
    );
    place.rest += "[retention]\ndaily = \"30d\"\n";
    place.write_config();
    assert_eq!(place.json(&["prune", "--dry-run"])["snapshots_forgotten"], 1);
    assert_eq!(
        place.json(&["prune", "--dry-run", "--keep-last", "3"])["snapshots_forgotten"],
        0,
        "what is said goes first"
    );
    assert_eq!(place.json(&["prune"])["snapshots_kept"], 2);
    assert_eq!(place.snapshots().len(), 2);
}
