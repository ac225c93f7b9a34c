//! Dumps of a real MariaDB: from day to day, through a wrapper, and cut off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::mariadb::MariaDb;
use crate::place::{Place, ended, is_written, text, wait_until};

/// Unpacks a published dump from the data beside the project; none, and says so, where it is missing.
fn published(folder: &Path, name: &str) -> Option<PathBuf> {
    let archive = Path::new("../shared/data/sql-dev.tar.zst");
    if !archive.exists() {
        eprintln!("skipped: {} is not here", archive.display());
        return None;
    }
    let unpacked = Command::new("tar")
        .args(["-I", "zstd -d --long=27", "-xf"])
        .arg(archive)
        .arg("-C")
        .arg(folder)
        .arg(format!("sql/{name}.sql"))
        .output()
        .expect("tar runs");
    assert!(unpacked.status.success(), "{}", text(&unpacked.stderr));
    Some(folder.join("sql").join(format!("{name}.sql")))
}

#[test]
fn each_day_s_dump_comes_back_in_a_fresh_server_row_by_row() {
    let mut place = Place::new();
    let (Some(people), Some(films)) =
        (published(place.folder.path(), "employee"), published(place.folder.path(), "sakila"))
    else {
        return;
    };
    let server = MariaDb::start(&place.path("live"));
    server.import("employee", &people);
    server.import("sakila", &films);
    place.rest = "[[component]]\nname = \"mysql\"\n".to_owned();
    for database in ["employee", "sakila"] {
        place.rest += &format!(
            "[[component.stream]]\nname = \"{database}.sql\"\ncommand = [{}]\nends_with = \"-- Dump completed\"\n",
            server.dump(database)
        );
    }
    place.init();
    let first = (server.tables("employee"), server.tables("sakila"));
    assert!(first.0.iter().map(|row| row.1).sum::<u64>() > 10_000, "{:?}", first.0);
    assert_eq!(place.backup(&["--daily", "--time", "2025-11-07T03:00"]).0, 0);

    let table = &first.0.iter().max_by_key(|row| row.1).expect("there are tables").0;
    server.sql("employee", &format!("delete from `{table}` limit 1000"));
    server.sql("sakila", "insert into language (name, last_update) values ('日本語', now())");
    let second = (server.tables("employee"), server.tables("sakila"));
    assert!(first.0 != second.0 && first.1 != second.1);
    let (status, summary) = place.backup(&["--daily", "--time", "2025-11-08T03:00"]);
    assert_eq!(status, 0);
    let (read, added) = (
        summary["bytes_read"].as_u64().expect("a number"),
        summary["bytes_added"].as_u64().expect("a number"),
    );
    assert!(added * 4 < read, "a day of few changes adds little: {added} of {read}");

    let fresh = MariaDb::start(&place.path("fresh"));
    for (day, expected) in [("daily/2025-11-07", &first), ("daily/2025-11-08", &second)] {
        let target = place.path(&day.replace('/', "-"));
        place.json(&["restore", &format!("{day}:mysql"), "--target", target.to_str().expect("text")]);
        for database in ["employee", "sakila"] {
            fresh.import(database, &target.join(format!("{database}.sql")));
        }
        assert_eq!((fresh.tables("employee"), fresh.tables("sakila")), *expected, "{day}");
        assert_eq!(fresh.routines("sakila"), server.routines("sakila"));
        assert!(!fresh.routines("sakila").trim().is_empty(), "there are routines and triggers to compare");
    }
}

#[test]
fn a_dump_through_docker_exec_is_only_an_argument_list() {
    let mut place = Place::with_mail(1);
    let server = MariaDb::start(&place.path("mariadb"));
    server.sql("", "create database usermgmt");
    server.sql("usermgmt", "create table t (id int); insert into t values (1), (2)");
    // docker exec -e VARIABLE CONTAINER COMMAND…: the container is this machine.
    let script = "#!/bin/sh\n[ \"$1 $2 $3 $4\" = 'exec -e MYSQL_PWD mailserver-mariadb' ] || { echo \"docker: $*\" >&2; exit 125; }\n[ \"$MYSQL_PWD\" = 'pass word' ] || exit 1\nshift 4\nexec \"$@\"\n";
    place.program("docker", script);
    let dump = server.dump("usermgmt");
    let stream = |container: &str| {
        format!(
            "[[component]]\nname = \"mysql\"\n[[component.stream]]\nname = \"usermgmt.sql\"\ncommand = [\"docker\", \"exec\", \"-e\", \"MYSQL_PWD\", \"{container}\", {dump}]\nenvironment = {{ MYSQL_PWD = \"pass word\" }}\n"
        )
    };
    place.rest = place.mail_component() + &stream("mailserver-mariadb");
    server.sql("", "set password for root@localhost = password('pass word')");
    assert_eq!(place.backup(&["--daily"]).0, 0);
    assert!(
        text(&place.snap(&["cat", "latest:mysql/usermgmt.sql"]).stdout).contains("INSERT INTO `t` VALUES")
    );
    place.rest = place.mail_component() + &stream("another");
    let (status, summary) = place.backup(&["--daily"]);
    assert_eq!((status, summary["components"][1]["status"].clone()), (1, json!("failed")));
    place.only_mail().says(&["command docker failed (exit status: 125): docker: exec -e MYSQL_PWD another"]);
}

#[test]
fn one_failed_dump_of_two_leaves_the_other_in_the_snapshot_and_says_so() {
    let mut place = Place::with_mail(1);
    let failing = format!(
        "echo try >>{}; echo half a dump; echo access denied >&2; exit 2",
        place.path("tries").display()
    );
    let counted = format!("echo run >>{}; echo rows", place.path("runs").display());
    place.rest += "[[component]]\nname = \"mysql\"\n";
    for (name, script) in [("a.sql", &counted), ("b.sql", &failing)] {
        place.rest +=
            &format!("[[component.stream]]\nname = \"{name}\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n");
    }
    let (status, summary) = place.backup(&["--daily"]);
    assert_eq!((status, summary["components"][1]["status"].clone()), (1, json!("partial")));
    assert_eq!(text(&place.snap(&["ls", "latest:mysql"]).stdout), "mysql/a.sql\n", "half a dump is none");
    let tries = |name: &str| fs::read_to_string(place.path(name)).expect("reads").lines().count();
    assert_eq!((tries("tries"), tries("runs")), (3, 1), "what has succeeded is not run again");
    let mail = place.only_mail();
    mail.says(&[
        "mysql: partial after 3 tries; the rest of it is in the snapshot",
        "mysql/b.sql: command sh failed (exit status: 2): access denied",
        "| access denied",
    ]);
    assert!(place.log("snap-error.log").contains("[ERROR] [MYSQL] not backed up: mysql/b.sql"));
}

#[test]
fn an_empty_a_late_and_a_cut_dump_are_errors() {
    for (script, more, says) in [
        ("true", "", "wrote nothing"),
        ("echo some rows", "ends_with = \"-- Dump completed\"", "its output is cut short"),
        ("echo rows; sleep 600", "timeout = \"300ms\"", "took longer than 300ms"),
    ] {
        let mut place = Place::with_mail(1);
        place.run = "retries = 0".to_owned();
        place.rest += &format!(
            "[[component]]\nname = \"mysql\"\n[[component.stream]]\nname = \"a.sql\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n{more}\n"
        );
        let (status, summary) = place.backup(&["--daily"]);
        assert_eq!((status, summary["components"][1]["status"].clone()), (1, json!("failed")), "{script}");
        place.only_mail().says(&["mysql: failed after 1 try", says]);
        assert_eq!(text(&place.snap(&["ls", "latest"]).stdout), "mail\n");
    }
}

#[test]
fn sigterm_during_a_dump_ends_the_dump_too_and_leaves_the_repository_whole() {
    let mut place = Place::with_mail(5);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let at = |name: &str| place.path(name).display().to_string();
    // The dump, and a process it started, both write who they are; both must be gone afterwards.
    let script =
        format!("echo $$ >{0}.1; sleep 600 & echo $! >{0}.2; while :; do echo a row; done", at("pid"));
    place.rest += &format!(
        "[[component]]\nname = \"mysql\"\nbefore = {{ command = [\"touch\", \"{0}\"] }}\nafter = {{ command = [\"rm\", \"{0}\"] }}\n[[component.stream]]\nname = \"a.sql\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n",
        at("frozen")
    );
    place.write_config();
    let child = place.spawn(&["backup", "--daily"]);
    wait_until("the dump runs", || is_written(&place.path("pid.2")));
    assert!(place.path("frozen").exists());
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("fits")).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal is sent");
    let output = ended(child);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("interrupted"), "{}", text(&output.stderr));
    for file in ["pid.1", "pid.2"] {
        let pid = fs::read_to_string(place.path(file)).expect("reads");
        let status = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        wait_until("the dump has ended", || {
            fs::read_to_string(&status).map_or(true, |stat| stat.contains(") Z "))
        });
    }
    assert!(!place.path("frozen").exists(), "the command that follows was run");
    assert!(place.log("snap.log").contains("[WARNING] [MAIN] interrupted"), "{}", place.log("snap.log"));
    assert!(place.mails().is_empty(), "whoever interrupts it knows");
    assert_eq!(place.snapshots().len(), 1);
    assert!(place.snap(&["check", "--read-data"]).status.success());
    place.rest = place.mail_component();
    assert_eq!(place.backup(&["--daily"]).0, 0);
}
