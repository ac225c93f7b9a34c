//! The operator's own list of tests, one by one, under its names.

use std::fs;

use serde_json::json;

use crate::common::repo::{differences, picture};
use crate::disk::Disk;
use crate::mariadb::MariaDb;
use crate::place::{Place, text};

/// A mail server in miniature: all five components, the database a real one.
fn mail_server(place: &mut Place, server: &MariaDb) {
    let base = place.folder.path().display().to_string();
    for (folder, file) in [("config/opendkim/keys", "mail.private"), ("certbot/live", "cert.pem")] {
        fs::create_dir_all(place.path(folder)).expect("folder is made");
        fs::write(place.path(folder).join(file), file).expect("file is written");
    }
    fs::write(place.path("docker-compose.yml"), "services: {}\n").expect("file is written");
    fs::write(place.path(".env"), "MYSQL_ROOT_PASSWORD=secret\n").expect("file is written");
    let stream = |database: &str| {
        format!(
            "[[component.stream]]\nname = \"{database}.sql\"\ncommand = [{}]\ntimeout = \"1m\"\nends_with = \"-- Dump completed\"\n",
            server.dump(database)
        )
    };
    place.rest = place.mail_component();
    place.rest +=
        &format!("[[component]]\nname = \"mysql\"\n{}{}", stream("usermgmt"), stream("roundcubemail"));
    place.rest += &format!(
        "[[component]]\nname = \"config\"\npaths = [\"{base}/config\", \"{base}/docker-compose.yml\", \"{base}/.env\"]\n"
    );
    place.rest += &format!("[[component]]\nname = \"ssl\"\npaths = [\"{base}/certbot\"]\n");
    place.rest += &format!("[[component]]\nname = \"dkim\"\npaths = [\"{base}/config/opendkim/keys\"]\n");
    for database in ["usermgmt", "roundcubemail"] {
        let rows: Vec<String> = (0..50).map(|n| format!("({n},'user{n}@example.org')")).collect();
        server.sql("", &format!("create database {database}"));
        server.sql(
            database,
            &format!(
                "create table users (id int primary key, name text); insert into users values {}",
                rows.join(",")
            ),
        );
    }
    place.write_config();
}

fn place_with_server(messages: usize) -> (Place, MariaDb) {
    let mut place = Place::with_mail(messages);
    let server = MariaDb::start(&place.path("mariadb"));
    mail_server(&mut place, &server);
    (place, server)
}

#[test]
fn pre_flight_passes() {
    let place = Place::with_mail(3);
    let (status, _) = place.backup(&["--daily"]);
    assert_eq!(status, 0);
    assert!(place.log("snap.log").contains("[INFO] [INIT] pre-flight passed"), "{}", place.log("snap.log"));
}

#[test]
fn pre_flight_catches_an_unmounted_hdd() {
    let mut place = Place::new();
    let Some(disk) = Disk::mounted(place.folder.path(), 24) else { return };
    place.repo = disk.path().join("repo");
    place.repository += &format!("\nrequire_mount = \"{}\"", disk.path().display());
    crate::common::repo::maildir(&place.path("mail"), 3, 2000, &mut crate::common::Noise::new(7));
    place.rest = place.mail_component();
    place.init();
    assert_eq!(place.backup(&["--daily"]).0, 0);
    disk.unmount();
    let (status, _) = place.backup(&["--daily"]);
    assert_eq!(status, 2);
    assert_eq!(
        fs::read_dir(disk.path()).expect("lists").count(),
        0,
        "nothing is written under the mount point"
    );
    let source = place.path("mail");
    for arguments in
        [&["init", "--encryption", "none"][..], &["backup", source.to_str().expect("text")], &["snapshots"]]
    {
        let output = place.snap(arguments);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("is not mounted"), "{arguments:?}: {said}");
    }
    assert_eq!(fs::read_dir(disk.path()).expect("lists").count(), 0, "nor by any other verb");
    let mail = place.only_mail();
    assert!(mail.subject.starts_with("[ALERT] Mailserver Backup Failed - 20"), "{}", mail.subject);
    mail.says(&[
        "is not mounted",
        "Status:      failed",
        "lsblk",
        &format!("mount {}", disk.path().display()),
    ]);
    assert!(place.log("snap-error.log").contains("[CRITICAL] [INIT]"), "{}", place.log("snap-error.log"));
    disk.mount().expect("is mounted again");
    assert_eq!(place.backup(&["--daily"]).0, 0);
    assert_eq!(place.snapshots().len(), 2);
}

#[test]
fn mail_backup_file_counts_equal() {
    let place = Place::with_mail(40);
    fs::write(place.path("mail/cur/half.tmp"), b"x").expect("file is written");
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let snapshots = place.snapshots();
    assert_eq!(
        snapshots[0]["components"][0],
        json!({"name": "mail", "status": "complete", "attempts": 1, "files": 40, "bytes": snapshots[0]["bytes"]})
    );
    let listed = text(&place.snap(&["ls", "-R", "latest:mail"]).stdout);
    let files = listed.lines().filter(|line| line.contains("17670")).count();
    assert_eq!((files, listed.contains("half.tmp")), (40, false), "{listed}");
}

#[test]
fn database_dump_is_valid() {
    let (place, server) = place_with_server(1);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let dump = place.snap(&["cat", "latest:mysql/usermgmt.sql"]).stdout;
    assert!(text(&dump).trim_end().ends_with("-- Dump completed"));
    fs::write(place.path("dump.sql"), &dump).expect("dump is written");
    let before = server.tables("usermgmt");
    server.import("usermgmt", &place.path("dump.sql"));
    assert_eq!(server.tables("usermgmt"), before);
    assert_eq!(before, [("users".to_owned(), 50, before[0].2.clone())]);
}

#[test]
fn verification_passes() {
    let place = Place::with_mail(20);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let log = place.log("snap.log");
    assert!(log.contains("[INFO] [VERIFY] passed: 20 files"), "{log}");
    assert!(place.snap(&["check", "--read-data"]).status.success());
}

#[test]
fn old_snapshots_are_removed_after_30_days() {
    let mut place = Place::with_mail(3);
    place.rest += "[retention]\ndaily = \"30d\"\nweekly = \"84d\"\n";
    let dates = || {
        let dates = place.snapshots();
        dates
            .iter()
            .map(|snapshot| snapshot["time"].as_str().expect("text")[..10].to_owned())
            .collect::<Vec<_>>()
    };
    for (time, kind) in [
        ("2025-09-28T04:00", "--weekly"),
        ("2025-10-01T03:00", "--daily"),
        ("2025-10-07T03:01", "--daily"),
        ("2025-10-08T03:01", "--daily"),
        ("2025-11-05T03:00", "--daily"),
        ("2025-11-06T03:00", "--daily"),
    ] {
        assert_eq!(place.backup(&[kind, "--time", time]).0, 0);
    }
    assert_eq!(
        dates(),
        ["2025-09-28", "2025-10-07", "2025-10-08", "2025-11-05", "2025-11-06"],
        "the first of October is 36 days old"
    );
    assert!(
        place.log("snap.log").contains("[INFO] [PRUNE] 1 snapshot removed, 5 kept"),
        "{}",
        place.log("snap.log")
    );
    assert_eq!(place.backup(&["--daily", "--time", "2025-11-07T03:00"]).0, 0);
    assert_eq!(
        dates()[1..],
        ["2025-10-08", "2025-11-05", "2025-11-06", "2025-11-07"],
        "a day later the next one goes"
    );
    assert!(place.snap(&["check", "--read-data"]).status.success());
    assert!(place.mails().is_empty());
}

#[test]
fn old_snapshots_that_cannot_be_removed_are_a_warning_and_no_more() {
    let mut place = Place::with_mail(3);
    place.rest += "[retention]\ndaily = \"30d\"\n";
    assert_eq!(place.backup(&["--daily"]).0, 0);
    // A manifest that can't be read: prune can't account for what it needs, and removes nothing.
    fs::write(place.repo.join("snapshots").join("a".repeat(64)), b"spoilt").expect("file is written");
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let log = place.log("snap.log");
    assert!(log.contains("[WARNING] [PRUNE] old snapshots are not removed"), "{log}");
    assert!(place.mails().is_empty(), "log only");
}

#[test]
fn a_notice_is_sent() {
    let mut place = Place::with_mail(1);
    place.rest += "[[component]]\nname = \"dkim\"\npaths = [\"/no/such/place\"]\n";
    assert_eq!(place.backup(&["--daily"]).0, 1);
    let mail = place.only_mail();
    assert!(mail.subject.starts_with("[ALERT] Mailserver Backup Failed - 20"), "{}", mail.subject);
    let arguments = fs::read_to_string(place.path("arguments")).expect("arguments were kept");
    assert_eq!(arguments, "-t\n", "the configured arguments, and no others");
    assert!(
        mail.head.contains("To: admin@example.org") && mail.head.contains("From: backup@example.org"),
        "{}",
        mail.head
    );
    for field in ["Auto-Submitted: auto-generated", "X-Priority: 1", "Importance: high"] {
        assert!(mail.head.contains(field), "{field}: {}", mail.head);
    }
}

#[test]
fn whole_daily_run() {
    let (place, _server) = place_with_server(10);
    let (status, summary) = place.backup(&["--daily"]);
    assert_eq!(status, 0);
    let components = summary["components"].as_array().expect("a list");
    let names: Vec<&str> = components.iter().map(|c| c["name"].as_str().expect("text")).collect();
    assert_eq!(names, ["mail", "mysql", "config", "ssl", "dkim"]);
    assert!(components.iter().all(|c| c["status"] == "complete" && c["attempts"] == 1), "{summary}");
    let top = text(&place.snap(&["ls", "latest"]).stdout);
    assert_eq!(top, "config\ndkim\nmail\nmysql\nssl\n");
    let mysql = text(&place.snap(&["ls", "latest:mysql"]).stdout);
    assert_eq!(mysql, "mysql/roundcubemail.sql\nmysql/usermgmt.sql\n");
    assert!(place.mails().is_empty(), "success is only logged");
    let day = place.snapshots()[0]["time"].as_str().expect("text")[..10].to_owned();
    assert!(place.snap(&["ls", &format!("daily/{day}")]).status.success());
    let log = place.log("snap.log");
    for part in ["[MAIL]", "[MYSQL]", "[CONFIG]", "[SSL]", "[DKIM]", "[VERIFY]", "[MAIN]"] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

#[test]
fn whole_weekly_run() {
    let (place, _server) = place_with_server(10);
    let (status, _) = place.backup(&["--weekly", "--time", "2025-11-09T04:00"]);
    assert_eq!(status, 0);
    assert_eq!(place.snapshots()[0]["tags"], json!(["weekly"]));
    assert_eq!(text(&place.snap(&["ls", "weekly/2025-week-45"]).stdout), "config\ndkim\nmail\nmysql\nssl\n");
}

#[test]
fn restore_from_a_backup() {
    let (place, server) = place_with_server(10);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    place.json(&["restore", "latest", "--target", "back", "--verify"]);
    for (from, to) in
        [("mail", "mail"), ("certbot", "ssl"), ("config/opendkim/keys", "dkim"), ("config", "config/config")]
    {
        let found = picture(&place.path("back").join(to));
        assert_eq!(differences(&picture(&place.path(from)), &found), Vec::<String>::new(), "{from}");
    }
    assert_eq!(
        fs::read_to_string(place.path("back/config/.env")).expect("reads"),
        "MYSQL_ROOT_PASSWORD=secret\n"
    );
    let before = server.tables("roundcubemail");
    server.import("roundcubemail", &place.path("back/mysql/roundcubemail.sql"));
    assert_eq!(server.tables("roundcubemail"), before);
}

#[test]
fn disk_full_is_detected_and_notified() {
    let mut place = Place::new();
    let Some(disk) = Disk::mounted(place.folder.path(), 32) else { return };
    place.repo = disk.path().join("repo");
    place.repository = format!(
        "require_mount = \"{}\"\nmin_free = \"8MiB\"\nwarn_used_percent = 100",
        disk.path().display()
    );
    crate::common::repo::maildir(&place.path("mail"), 3, 2000, &mut crate::common::Noise::new(7));
    place.rest = place.mail_component();
    place.init();
    assert_eq!(place.backup(&["--daily"]).0, 0);
    disk.fill(2 << 20);
    let (status, _) = place.backup(&["--daily"]);
    assert_eq!(status, 2);
    let mail = place.only_mail();
    mail.says(&["not enough space", "min_free", "snap prune", "available"]);
    assert_eq!(place.snapshots().len(), 1);
    assert!(place.log("snap-error.log").contains("[CRITICAL] [INIT] not enough space"));
}

#[test]
fn database_down_is_retried_and_notified() {
    let (place, mut server) = place_with_server(5);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    server.stop();
    let (status, summary) = place.backup(&["--daily"]);
    assert_eq!(status, 1);
    let components = summary["components"].as_array().expect("a list");
    let by_name = |name: &str| components.iter().find(|c| c["name"] == name).expect("is there").clone();
    assert_eq!(
        (by_name("mysql")["status"].clone(), by_name("mysql")["attempts"].clone()),
        (json!("failed"), json!(3))
    );
    assert_eq!(by_name("mail")["status"], "complete");
    let id = summary["snapshot"].as_str().expect("text");
    assert_eq!(text(&place.snap(&["ls", id]).stdout), "config\ndkim\nmail\nssl\n", "as it is");
    let looked = place.snap(&["ls", "latest"]);
    assert_eq!(text(&looked.stdout), "config\ndkim\nmail\nmysql\nssl\n");
    let said = text(&looked.stderr);
    assert!(said.contains("mysql could not be backed up in ") && said.contains(": taken from "), "{said}");
    let log = place.log("snap.log");
    assert_eq!(
        log.matches("[WARNING] [MYSQL] try").count(),
        4,
        "two tries of each dump are tried again: {log}"
    );
    assert!(log.contains("tried again in 10ms") && !log.contains("tried again in 40ms"), "{log}");
    assert!(log.contains("[ERROR] [MYSQL] failed: nothing of it is in the snapshot after 3 tries"), "{log}");
    let mail = place.only_mail();
    mail.says(&[
        "Status:      failed in part",
        "mysql: failed after 3 tries",
        "mysql/usermgmt.sql: command mariadb-dump failed",
        "Can't connect to local server",
        "Succeeded",
        "mail",
        "5 files",
        "Run it again: snap backup --daily",
    ]);
    server.run();
    place.forget_mails();
    let (status, part) = place.backup(&["--daily", "--component", "mysql"]);
    assert_eq!((status, place.mails().len()), (0, 0));
    assert_eq!(text(&place.snap(&["ls", part["snapshot"].as_str().expect("text")]).stdout), "mysql\n");
    assert!(text(&place.snap(&["ls", "latest"]).stdout).starts_with("config\n"), "a part is no night");
}
