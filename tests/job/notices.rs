//! Who is told what, and how: mail by a program and by SMTP, the watched URL, numbers, the alarm.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::place::{Mail, PATIENCE, Place, text, wait_until};

/// A real SMTP server that files messages into a Maildir; ended when it is dropped.
struct Smtp {
    process: Child,
    port: u16,
    folder: std::path::PathBuf,
}

impl Smtp {
    fn start(place: &Place) -> Self {
        let port = free_port();
        let folder = place.path("smtp");
        let process = Command::new("/usr/bin/python3") // the one that Debian's packages are for
            .args([
                "-m",
                "aiosmtpd",
                "-n",
                "-l",
                &format!("127.0.0.1:{port}"),
                "-c",
                "aiosmtpd.handlers.Mailbox",
            ])
            .arg(&folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 is there");
        let mut server = Self { process, port, folder };
        wait_until("the SMTP server answers (package python3-aiosmtpd: scripts/set-up test)", || {
            assert!(server.process.try_wait().expect("is asked").is_none(), "the SMTP server has ended");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }

    fn mails(&self) -> Vec<Mail> {
        let Ok(entries) = fs::read_dir(self.folder.join("new")) else { return Vec::new() };
        let paths = entries.map(|entry| entry.expect("entry reads").path());
        paths.map(|path| Mail::parse(&fs::read_to_string(path).expect("mail reads"))).collect()
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("has an address").port()
}

/// Answers HTTP requests with 200; sends on the request line and the body of each.
fn web_server() -> (u16, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("has an address").port();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("connection");
            let mut reader = BufReader::new(stream.try_clone().expect("clones"));
            let mut line = String::new();
            reader.read_line(&mut line).expect("reads");
            let mut bytes = 0;
            loop {
                let mut field = String::new();
                reader.read_line(&mut field).expect("reads");
                if let Some(length) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                    bytes = length.trim().parse().expect("a number");
                }
                if field.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; bytes];
            reader.read_exact(&mut body).expect("reads");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .expect("writes");
            let _ = sender.send((line.trim().to_owned(), text(&body)));
        }
    });
    (port, receiver)
}

#[test]
fn a_test_notice_arrives_by_the_program_and_by_smtp() {
    let mut place = Place::with_mail(1);
    place.write_config();
    let sent = place.snap(&["notify", "--test"]);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    let mail = place.only_mail();
    assert!(mail.subject.starts_with("[TEST] Mailserver Backup Notice - 20"), "{}", mail.subject);
    mail.says(&["übliche Umlaute und 日本語 too"]);
    assert!(mail.head.contains("charset=utf-8"), "{}", mail.head);

    let server = Smtp::start(&place);
    place.notify = format!("smtp = \"smtp://127.0.0.1:{}\"\nname = \"WordPress\"", server.port);
    place.write_config();
    let checked = text(&place.snap(&["config", "check"]).stdout);
    assert!(checked.contains("the server answers"), "{checked}");
    let sent = place.snap(&["notify", "--test"]);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    wait_until("the mail is filed", || server.mails().len() == 1);
    assert!(server.mails()[0].subject.starts_with("[TEST] WordPress Backup Notice - 20"));
    server.mails()[0].says(&["übliche Umlaute und 日本語 too"]);
    assert_eq!(place.mails().len(), 1, "the program was not called again");
}

#[test]
fn a_failure_is_told_by_smtp_and_a_server_that_is_down_changes_nothing() {
    let mut place = Place::with_mail(4);
    let server = Smtp::start(&place);
    place.notify = format!("smtp = \"smtp://127.0.0.1:{}\"", server.port);
    place.run = "retries = 0".to_owned();
    place.rest += "[[component]]\nname = \"dkim\"\npaths = [\"/no/such/place\"]\n";
    assert_eq!(place.backup(&["--daily"]).0, 1);
    wait_until("the mail is filed", || server.mails().len() == 1);
    let mail = &server.mails()[0];
    assert!(mail.subject.starts_with("[ALERT] Mailserver Backup Failed - 20"), "{}", mail.subject);
    mail.says(&[
        "dkim: failed after 1 try",
        "/no/such/place: No such file or directory",
        "Succeeded\n  mail",
        "4 files",
    ]);
    mail.says(&["What to do", "Log\n", "[ERROR] [DKIM]", "All of it: "]);
    drop(server);
    assert_eq!(place.backup(&["--daily"]).0, 1, "the exit status is that of the backup");
    let log = place.log("snap.log");
    assert!(log.contains("[WARNING] [NOTIFY] mail \"[ALERT] Mailserver Backup Failed"), "{log}");
    assert_eq!(place.snapshots().len(), 2);
}

#[test]
fn a_program_that_fails_or_is_missing_is_a_warning() {
    for script in [Some("#!/bin/sh\ncat >/dev/null\necho 'queue is full' >&2\nexit 75\n"), None] {
        let mut place = Place::with_mail(1);
        place.run = "retries = 0".to_owned();
        place.rest += "[[component]]\nname = \"dkim\"\npaths = [\"/no/such/place\"]\n";
        match script {
            Some(script) => _ = place.program("sendmail", script),
            None => fs::remove_file(place.path("bin/sendmail")).expect("program goes"),
        }
        assert_eq!(place.backup(&["--daily"]).0, 1);
        let log = place.log("snap.log");
        let says = if script.is_some() { "queue is full" } else { "cannot be started" };
        let line = log.lines().find(|line| line.contains("[WARNING] [NOTIFY]")).unwrap_or_default();
        assert!(line.contains("cannot be sent") && line.contains(says), "{log}");
        let test = place.snap(&["notify", "--test"]);
        assert_eq!(test.status.code(), Some(2));
        assert!(text(&test.stderr).contains(says), "{}", text(&test.stderr));
    }
}

#[test]
fn success_is_told_only_where_that_is_wanted() {
    let mut place = Place::with_mail(2);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    assert!(place.mails().is_empty());
    place.notify = "on = \"always\"".to_owned();
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let mail = place.only_mail();
    assert!(mail.subject.starts_with("[OK] Mailserver Backup Succeeded - 20"), "{}", mail.subject);
    mail.says(&["Succeeded\n  mail", "2 files", "Status:      succeeded"]);
}

#[test]
fn the_watched_url_hears_of_start_success_and_failure() {
    let mut place = Place::with_mail(1);
    let (port, calls) = web_server();
    place.notify = format!("ping_url = \"http://127.0.0.1:{port}/secret-uuid\"");
    place.run = "retries = 0".to_owned();
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let heard = |line: &str, says: &str| {
        let (request, body) = calls.recv_timeout(PATIENCE).expect("a call comes");
        assert_eq!(request, format!("POST /secret-uuid{line} HTTP/1.1"));
        assert!(body.contains(says), "{body}");
    };
    heard("/start", "");
    heard("", "snap backup --daily: succeeded");
    place.rest = place.rest.replace("/mail\"]", "/nothing\"]");
    assert_eq!(place.backup(&["--daily"]).0, 2);
    heard("/start", "");
    heard("/fail", "failed");
    place.notify = format!("ping_url = \"http://127.0.0.1:{}/secret-uuid\"", free_port());
    place.rest = place.mail_component();
    assert_eq!(place.backup(&["--daily"]).0, 0, "that nobody answers changes nothing");
    let log = place.log("snap.log");
    assert!(log.contains("[WARNING] [NOTIFY] the ping URL cannot be called"), "{log}");
    assert!(!place.day_log().contains("secret-uuid"), "whoever knows the URL can report success");
}

#[test]
fn numbers_are_there_for_prometheus() {
    let mut place = Place::with_mail(3);
    place.notify = format!("metrics_file = \"{}\"", place.path("snap.prom").display());
    place.run = "retries = 0".to_owned();
    let value = |name: &str| {
        let text = fs::read_to_string(place.path("snap.prom")).expect("numbers read");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned));
        line.unwrap_or_else(|| panic!("{name}: {text}")).parse::<f64>().expect("a number")
    };
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let first = value("snap_last_success_timestamp_seconds");
    assert_eq!(
        (value("snap_last_run_exit_status"), value("snap_component_files{component=\"mail\"}")),
        (0.0, 3.0)
    );
    for name in [
        "snap_last_run_duration_seconds",
        "snap_last_run_bytes_read",
        "snap_last_run_bytes_stored",
        "snap_repository_bytes",
        "snap_disk_used_bytes",
    ] {
        assert!(value(name) > 0.0, "{name}");
    }
    let broken = place.config().replace("/mail\"]", "/nothing\"]");
    fs::write(place.path("config.toml"), broken).expect("is written");
    assert_eq!(place.snap(&["backup", "--daily"]).status.code(), Some(2));
    assert_eq!(
        (value("snap_last_run_exit_status"), value("snap_last_success_timestamp_seconds")),
        (2.0, first)
    );
}

#[test]
fn backups_that_have_not_happened_raise_an_alarm() {
    let mut place = Place::with_mail(1);
    place.notify = "max_age = \"26h\"".to_owned();
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let stale = |place: &Place| place.snap(&["notify", "--stale"]).status.code();
    assert_eq!((stale(&place), place.mails().len()), (Some(0), 0));
    place.rest +=
        "[[component]]\nname = \"mysql\"\n[[component.stream]]\nname = \"a.sql\"\ncommand = [\"false\"]\n";
    place.write_config();
    assert_eq!(stale(&place), Some(1));
    let mail = place.only_mail();
    assert!(mail.subject.starts_with("[ALERT] Mailserver Backup Is Stale - 20"), "{}", mail.subject);
    mail.says(&["older than 26h", "mysql: last backed up whole never", "Does the schedule run? "]);
    assert!(!mail.body.contains("mail: last"), "{}", mail.body);
    place.forget_mails();
    fs::remove_dir_all(&place.repo).expect("repository goes");
    assert_eq!(stale(&place), Some(1));
    place.only_mail().says(&["The repository could not be read", "no repository here"]);
    place.forget_mails();
    place.notify = String::new();
    place.write_config();
    assert_eq!(stale(&place), Some(1));
    place.only_mail().says(&["older than 3d"]);
}

/// Under a timer nobody reads standard error: what can be read of the file says whom to tell.
#[test]
fn a_configuration_that_cannot_be_used_is_told_by_mail_syslog_and_log() {
    let mut place = Place::with_mail(1);
    place.notify = "max_age = \"26h\"".to_owned();
    place.rest +=
        "[[component.stream]]\nname = \"a.sql\"\ncommand = [\"true\"]\nenvironment = \"PW=hunter2\"\n";
    place.write_config();
    let syslog = UnixDatagram::bind(place.path("syslog")).expect("socket is made");
    syslog.set_read_timeout(Some(PATIENCE)).expect("is set");
    for arguments in [&["backup", "-q", "--daily"][..], &["notify", "-q", "--stale"]] {
        let output = place.snap(arguments);
        let error = text(&output.stderr);
        assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{arguments:?}: {error}");
        let mail = place.only_mail();
        assert!(mail.subject.starts_with("[ALERT] Mailserver Backup Failed - 20"), "{}", mail.subject);
        let command = format!("Run it again: snap {}", arguments.join(" ").replace(" -q", ""));
        mail.says(&["the configuration cannot be used: ", "environment", "snap config check", &command]);
        let mut record = [0; 2048];
        let length = syslog.recv(&mut record).expect("a record comes");
        let record = text(&record[..length]);
        assert!(
            record.starts_with("<10>") && record.contains("the configuration cannot be used"),
            "{record}"
        );
        assert!(place.log("snap-error.log").contains("the configuration cannot be used"));
        assert!(![&mail.body, &record, &place.day_log()].iter().any(|told| told.contains("hunter2")));
        place.forget_mails();
    }
    for arguments in [&["backup", "--dry-run"][..], &["config", "check"], &["notify", "--test"]] {
        assert_eq!(place.snap(arguments).status.code(), Some(2), "{arguments:?}");
        assert!(place.mails().is_empty(), "who tries something out is at hand: {arguments:?}");
    }
}

/// Nobody reads what a timer's sync says, and locks run out meanwhile.
#[test]
fn a_sync_that_fails_is_logged_and_mailed() {
    let mut place = Place::with_mail(1);
    place.rest += &format!(
        "[sync]\nstore = \"s3://copies/mail\"\nregion = \"eu-central-1\"\nendpoint = \"http://127.0.0.1:{}\"\n",
        free_port()
    );
    place.write_config();
    let synced = |arguments: &[&str]| {
        let keys = [
            ("AWS_ACCESS_KEY_ID", "AKIATEST"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_MAX_ATTEMPTS", "1"),
        ];
        place.command(arguments).envs(keys).output().expect("program runs")
    };
    let sync = |arguments: &[&str]| synced(arguments).status.code();
    assert_eq!(sync(&["sync", "-q"]), Some(2));
    let mail = place.only_mail();
    assert!(mail.subject.starts_with("[ALERT] Mailserver Sync Failed - 20"), "{}", mail.subject);
    mail.says(&[
        "Status:      failed",
        "s3://copies/mail",
        "locks that are not renewed run out",
        "Run it again: snap sync",
    ]);
    assert!(place.log("snap-error.log").contains("[ERROR] [SYNC]"), "{}", place.log("snap-error.log"));
    place.forget_mails();
    assert_eq!(sync(&["sync", "-q", "--dry-run"]), Some(2));
    assert!(place.mails().is_empty(), "who tries it is at hand");
    let quiet = synced(&["sync", "-q"]);
    assert_eq!(
        (quiet.status.code(), text(&quiet.stderr)),
        (Some(2), String::new()),
        "cron has nothing to mail"
    );
    fs::remove_file(place.path("bin/sendmail")).expect("program goes");
    let said = text(&synced(&["sync", "-q"]).stderr);
    assert!(said.contains("snap: s3://copies/mail: cannot"), "nobody took the mail: {said}");
}

#[test]
fn a_check_is_logged_and_damage_is_mailed() {
    let place = Place::with_mail(20);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    assert_eq!(place.snap(&["check", "-q", "--read-packs"]).status.code(), Some(0));
    assert!(place.log("snap.log").contains("[INFO] [VERIFY] snap check --read-packs: succeeded"));
    assert!(place.mails().is_empty());
    let packs =
        fs::read_dir(place.repo.join("packs")).expect("lists").map(|entry| entry.expect("reads").path());
    let pack = packs.flat_map(|folder| fs::read_dir(folder).expect("lists")).next().expect("a pack");
    let path = pack.expect("reads").path();
    let mut bytes = fs::read(&path).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("is written");
    let quiet = place.snap(&["check", "-q", "--read-packs"]);
    assert_eq!(
        (quiet.status.code(), text(&quiet.stderr)),
        (Some(3), String::new()),
        "cron has nothing to mail"
    );
    let mail = place.only_mail();
    assert!(mail.subject.starts_with("[ALERT] Mailserver Check Found Damage - 20"), "{}", mail.subject);
    mail.says(&[
        "Status:      found damage",
        "packs/",
        "--repair-from",
        "Run it again: snap check --read-packs",
    ]);
    assert!(place.log("snap-error.log").contains("[ERROR] [VERIFY]"), "{}", place.log("snap-error.log"));
    fs::remove_file(place.path("bin/sendmail")).expect("program goes");
    let said = text(&place.snap(&["check", "-q", "--read-packs"]).stderr);
    assert!(said.contains("damaged: packs/"), "nobody took the mail: {said}");
}

#[test]
fn the_environment_says_how_much_the_main_log_has() {
    let place = Place::with_mail(2);
    let run = |level: &str| {
        let output = place.command(&["backup", "--daily"]).env("SNAP_LOG_LEVEL", level).output();
        output.expect("runs")
    };
    assert!(run("warning").status.success());
    assert_eq!(place.log("snap.log"), "", "nothing went wrong");
    assert!(run("DEBUG").status.success());
    assert!(place.log("snap.log").contains("[INFO] [INIT]"), "{}", place.log("snap.log"));
    let wrong = run("loud");
    let said = text(&wrong.stderr);
    assert!(
        wrong.status.code() == Some(2) && said.contains("SNAP_LOG_LEVEL") && said.contains("critical"),
        "{said}"
    );
}

#[test]
fn a_repository_that_is_gone_is_told_with_the_clone_that_brings_it_back() {
    let mut place = Place::with_mail(1);
    place.rest +=
        "[sync]\nstore = \"s3://mailserver-backup/snap\"\nprofile = \"mailserver-backup-uploader\"\n";
    place.write_config();
    fs::remove_dir_all(&place.repo).expect("repository goes");
    assert_eq!(place.backup(&["--daily"]).0, 2);
    let mail = place.only_mail();
    mail.says(&[
        "no repository here",
        "'snap clone s3://mailserver-backup/snap'",
        "--s3-profile mailserver-backup-admin",
        "if there never was one, 'snap init'",
    ]);
}

/// An intruder can forget too: while the bucket still has what somebody has removed, there is time to bring it back.
#[test]
fn what_was_removed_by_hand_is_mailed_by_the_sync_with_the_day_until_which_the_bucket_keeps_it() {
    use crate::common::s3::{ACCESS_KEY, Kind, REGION, SECRET_KEY, server};
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Locking);
    let mut place = Place::with_mail(1);
    place.rest += &format!(
        "[sync]\nstore = \"{}\"\nregion = \"{REGION}\"\nendpoint = \"{}\"\n",
        bucket.location(),
        server.endpoint
    );
    for day in ["2026-01-05T03:00", "2026-01-06T03:00"] {
        assert_eq!(place.backup(&["--daily", "--time", day]).0, 0);
    }
    let snap = |arguments: &[&str]| {
        let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
        place.command(arguments).envs(keys).output().expect("program runs").status.code()
    };
    assert_eq!(snap(&["sync", "-q"]), Some(0));
    place.forget_mails();
    let id = place.snapshots()[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(snap(&["prune", "-q", "--forget", &id]), Some(0));
    for _ in 0..2 {
        assert_eq!(snap(&["sync", "-q"]), Some(0), "nothing is wrong with the copy");
        let mail = place.only_mail();
        assert!(mail.subject.contains("Snapshots Were Removed"), "{}", mail.subject);
        mail.says(&[
            "a snapshot was removed on",
            "named to be forgotten",
            "the bucket keeps them until 20",
            "snap clone",
        ]);
        place.forget_mails();
    }
    // What was lost is mailed as well, night by night.
    let manifests = fs::read_dir(place.repo.join("snapshots")).expect("lists").flatten();
    manifests.for_each(|entry| fs::remove_file(entry.path()).expect("is lost"));
    for _ in 0..2 {
        assert_eq!(snap(&["sync", "-q"]), Some(1));
        let mail = place.only_mail();
        assert!(mail.subject.contains("Sync Failed"), "{}", mail.subject);
        mail.says(&["it was lost here; it stays locked", "snap clone --without-forgotten"]);
        place.forget_mails();
    }
}
