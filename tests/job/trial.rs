//! `config check --run` really tries, as the user who will run it; and the shipped example works as written.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::mariadb::MariaDb;
use crate::place::{Place, text};

/// Returns the rows of `config check --run`, and its exit status.
fn tried(place: &Place) -> (Option<i32>, String) {
    place.write_config();
    let output = place.snap(&["config", "check", "--run"]);
    println!("{}{}", text(&output.stdout), text(&output.stderr));
    (output.status.code(), text(&output.stdout))
}

fn row<'r>(rows: &'r str, what: &str) -> &'r str {
    let row = rows.lines().find(|line| line.get(9..).is_some_and(|rest| rest.starts_with(what)));
    row.unwrap_or_else(|| panic!("no row of \"{what}\" in:\n{rows}"))
}

fn stream(name: &str, command: &str, more: &str) -> String {
    format!(
        "[[component]]\nname = \"{name}\"\n[[component.stream]]\nname = \"{name}.sql\"\ncommand = {command}\n{more}\n"
    )
}

#[test]
fn a_trial_runs_each_dump_to_its_end_and_keeps_nothing() {
    let mut place = Place::with_mail(3);
    let mail = place.rest.clone();
    place.rest += &stream(
        "good",
        r#"["sh", "-c", "echo row; echo '-- Dump completed'"]"#,
        "ends_with = \"-- Dump completed\"",
    );
    place.rest += &format!("before = {{ command = [\"touch\", \"{}\"] }}\n", place.path("hook").display())
        .replace("before", "\n[[component]]\nname = \"hooked\"\npaths = [\"/etc/hostname\"]\nbefore");
    let (status, rows) = tried(&place);
    assert_eq!(status, Some(0), "{rows}");
    assert!(row(&rows, "mail: all files").contains("3 files can be read"), "{rows}");
    assert!(row(&rows, "good: good.sql tried").starts_with("ok "), "{rows}");
    assert!(!place.path("hook").exists(), "hooks change things: they are not run");
    assert!(place.snapshots().is_empty() && place.mails().is_empty());

    place.rest = mail + &stream("cut", r#"["echo", "row"]"#, "ends_with = \"-- Dump completed\"");
    place.rest += &stream("empty", r#"["true"]"#, "");
    place.rest += &stream("denied", r#"["sh", "-c", "echo 'Access denied for user' >&2; exit 2"]"#, "");
    place.rest += &stream("slow", r#"["sleep", "600"]"#, "timeout = \"200ms\"");
    place.rest +=
        &stream("password", r#"["echo", "x"]"#, "environment = { MYSQL_PWD = \"put the password here\" }");
    let (status, rows) = tried(&place);
    assert_eq!(status, Some(1));
    for (what, says) in [
        ("cut: cut.sql tried", "cut short"),
        ("empty: empty.sql tried", "wrote nothing"),
        ("denied: denied.sql tried", "Access denied"),
        ("slow: slow.sql tried", "took longer than 200ms"),
        ("password", "put the password there"),
    ] {
        let row = rows.lines().filter(|line| line.get(9..).is_some_and(|rest| rest.starts_with(what)));
        let mut bad = row.filter(|line| line.starts_with("ERROR"));
        assert!(bad.any(|line| line.contains(says)), "{what}: {says}: {rows}");
    }
}

#[test]
fn a_trial_looks_at_the_files_that_a_backup_reads_and_at_no_others() {
    let mut place = Place::with_mail(6);
    let left_out = format!("exclude = [\"{}\"]", place.path("mail/cur").display());
    place.rest = place.rest.replace("exclude = [\"*.tmp\"]", &left_out);
    let (status, rows) = tried(&place);
    assert_eq!(status, Some(0), "{rows}");
    let files = place.backup(&["--daily"]).1["components"][0]["files"].as_u64().expect("a number");
    assert!(
        files < 6 && row(&rows, "mail: all files").contains(&format!(" {files} files can be read")),
        "{rows}"
    );
}

#[test]
fn a_container_that_does_not_run_is_named() {
    let mut place = Place::with_mail(1);
    place.program(
        "docker",
        "#!/bin/sh\n[ \"$1\" = inspect ] || exit 9\ncase $4 in stopped) echo false;; *) echo \"no such object: $4\" >&2; exit 1;; esac\n",
    );
    place.rest +=
        &stream("one", r#"["docker", "exec", "-e", "MYSQL_PWD", "stopped", "mariadb-dump", "a"]"#, "");
    place.rest += &stream("two", r#"["docker", "exec", "gone", "mariadb-dump", "a"]"#, "");
    let (status, rows) = tried(&place);
    assert_eq!(status, Some(1));
    assert!(row(&rows, "one: one.sql tried").contains("does not run: docker start stopped"), "{rows}");
    assert!(row(&rows, "two: two.sql tried").contains("container gone: "), "{rows}");
}

#[test]
fn a_source_on_the_repositorys_own_disk_is_a_warning() {
    let place = Place::with_mail(1);
    let (status, rows) = tried(&place);
    assert_eq!(status, Some(0), "a warning is no error");
    let warned =
        rows.lines().any(|line| line.starts_with("WARNING") && line.contains("one broken disk takes both"));
    assert!(warned, "{rows}");
}

/// A place in which everything belongs to the user `daemon`, with a copy of the program that it may run.
fn place_of_daemon() -> (Place, PathBuf) {
    let place = Place::with_mail(5);
    fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o755)).expect("mode is set");
    let program = place.path("snap");
    fs::copy(env!("CARGO_BIN_EXE_snap"), &program).expect("program is copied");
    fs::create_dir_all(place.path("home")).expect("folder is made");
    (place, program)
}

fn give_to_daemon(path: &Path) {
    let given = Command::new("chown").args(["-R", "daemon:daemon"]).arg(path).status().expect("chown runs");
    assert!(given.success());
}

fn as_daemon(place: &Place, program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=daemon", "--regid=daemon", "--init-groups"]).arg(program).args(arguments);
    let own = place.command(&[]);
    command.env_clear().envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("HOME", place.path("home")).current_dir(place.folder.path()).output().expect("setpriv runs")
}

#[test]
fn a_whole_night_runs_as_the_configured_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: takes root, to become another user");
        return;
    }
    let (mut place, program) = place_of_daemon();
    let server = MariaDb::start(&place.path("mariadb"));
    server.sql("", "create database usermgmt");
    server.sql("usermgmt", "create table users (id int primary key); insert into users values (1),(2)");
    server.sql("", "create user snap_backup identified by 'only in a file'; grant all on *.* to snap_backup");
    let options = format!(
        "[client]\nuser=snap_backup\npassword=\"only in a file\"\nsocket={}\n",
        server.socket().display()
    );
    fs::write(place.path("home/.my.cnf"), options).expect("is written");
    fs::set_permissions(place.path("home/.my.cnf"), fs::Permissions::from_mode(0o600)).expect("mode is set");
    place.run += "\nuser = \"daemon\"";
    place.rest += &stream(
        "mysql",
        r#"["mariadb-dump", "--single-transaction", "--databases", "usermgmt"]"#,
        "ends_with = \"-- Dump completed\"",
    );
    place.write_config();
    fs::create_dir_all(place.path("log")).expect("folder is made");
    for own in ["repo", "state", "log", "mails", "mail", "home", "config.toml", "bin"] {
        give_to_daemon(&place.path(own));
    }
    chown(place.folder.path(), Some(1), Some(1)).expect("owner is set"); // where the stand-in for sendmail notes its arguments

    let night = as_daemon(&place, &program, &["--json", "backup", "--daily"]);
    let said = format!("{}{}", text(&night.stdout), text(&night.stderr));
    assert_eq!(night.status.code(), Some(0), "{said}");
    let dump = as_daemon(&place, &program, &["cat", "latest:mysql/mysql.sql"]);
    assert!(text(&dump.stdout).contains("INSERT INTO `users`"), "{}", text(&dump.stderr));
    for log in ["snap.log", "snap-error.log"] {
        let about = fs::metadata(place.path("log").join(log)).expect("is there");
        assert_eq!(about.permissions().mode() & 0o777, 0o600, "{log}");
    }

    // What root tries with --run is tried as that user.
    fs::write(place.path("mail/cur/1767000000.M9.mx:2,S"), "Subject: of root\n\nx\n").expect("is written");
    fs::set_permissions(place.path("mail/cur/1767000000.M9.mx:2,S"), fs::Permissions::from_mode(0o600))
        .expect("mode is set");
    let mut command = Command::new(&program);
    let own = place.command(&[]);
    command.env_clear().envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.args(["config", "check", "--run"]).output().expect("runs");
    let rows = text(&output.stdout);
    println!("{rows}{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(row(&rows, "as daemon: user").starts_with("ok "), "{rows}");
    assert!(
        row(&rows, "as daemon: mail: all files").contains("1767000000.M9.mx:2,S: Permission denied"),
        "{rows}"
    );
    let refused = row(&rows, "as daemon: mysql: mysql.sql tried");
    assert!(refused.starts_with("ERROR"), "that user's own home directory has no .my.cnf: {refused}");
}

/// Root tries things out before the first night of the user who is configured, and between two nights.
#[test]
fn what_root_does_by_hand_is_in_no_way_of_the_configured_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: takes root, to become another user");
        return;
    }
    let (mut place, program) = place_of_daemon();
    place.run += "\nuser = \"daemon\"";
    place.rest += "[check]\nmax_age = \"10d\"\n[retention]\ndaily = \"30d\"\n";
    place.notify = format!("metrics_file = \"{}\"", place.path("snap.prom").display());
    place.write_config();
    fs::create_dir_all(place.path("log")).expect("folder is made");
    for own in ["repo", "state", "log", "mails", "mail", "home", "config.toml", "bin"] {
        give_to_daemon(&place.path(own));
    }
    chown(place.folder.path(), Some(1), Some(1)).expect("owner is set");
    assert!(place.snap(&["check", "-q", "--read-packs"]).status.success());
    assert!(place.snap(&["notify", "-q", "--stale"]).status.code() == Some(1), "there is no backup yet");
    place.forget_mails();
    assert!(place.snap(&["backup", "-q"]).status.success(), "root's run is the first");
    for _ in 0..2 {
        let night = as_daemon(&place, &program, &["backup", "-q", "--daily"]);
        assert_eq!((night.status.code(), text(&night.stderr)), (Some(0), String::new()));
        assert!(place.snap(&["check", "-q", "--read-packs"]).status.success());
        // A run of root's makes folders and files in the repository, which that user goes on with.
        fs::write(place.path("mail/cur/1767000001.M9.mx:2,S"), vec![7; 3000]).expect("is written");
        chown(place.path("mail/cur/1767000001.M9.mx:2,S"), Some(1), Some(1)).expect("owner is set");
        assert!(place.snap(&["backup", "-q", "--weekly"]).status.success());
    }
    let mut owners = Command::new("find");
    owners.args([place.path("repo"), place.path("state"), place.path("log")]);
    let of_root = text(&owners.args(["-user", "root"]).output().expect("find runs").stdout);
    assert_eq!(of_root, "", "what that user could not read");
    let dump = as_daemon(&place, &program, &["check", "--read-data"]);
    assert!(dump.status.success(), "{}", text(&dump.stderr));
    let numbers = fs::read_to_string(place.path("snap.prom")).expect("numbers read");
    assert!(numbers.contains("snap_check_last_success_timestamp_seconds "), "the night knows it: {numbers}");
    assert!(place.mails().is_empty());
    let record = fs::read_dir(place.path("state")).expect("lists").map(|it| it.expect("reads").path());
    let record: Vec<PathBuf> =
        record.filter(|path| path.display().to_string().contains("last-check")).collect();
    let record = fs::read_to_string(&record[0]).expect("reads");
    assert!(record.contains("\"successes\":["), "{record}");
    assert!(!record.contains("\"successes\":[]"), "a night has not forgotten it: {record}");
}

#[test]
fn the_operators_example_works_as_written() {
    let place = Place::new();
    let base = "/opt/onprem-infra-system/project-root-infra/services/mailserver";
    let server = MariaDb::start(&place.path("mariadb"));
    for database in ["usermgmt", "roundcubemail"] {
        server.sql("", &format!("create database {database}"));
        server.sql(database, "create table users (id int primary key); insert into users values (1),(2)");
        server.sql(database, "create event tidy on schedule every 1 day do delete from users where id = 0");
    }
    for (file, content) in [
        ("data/mail/vmail/example.org/anna/cur/1767000000.M1P1.mx,S=20:2,S", "Subject: hello\n\nx\n"),
        ("data/mail/sieve/anna.sieve", "keep;\n"),
        ("data/certbot/live/example.org/cert.pem", "certificate"),
        ("data/rspamd/bayes.db", "learned"),
        ("config/postfix/main.cf", "mail_owner = postfix\n"),
        ("config/opendkim/keys/example.org/mail.private", "key"),
        ("logs/dovecot.log", "line\n"),
        ("docker-compose.yml", "services: {}\n"),
        (".env", "MYSQL_ROOT_PASSWORD=right\n"),
    ] {
        let path = place.path("server").join(file);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("folder is made");
        fs::write(path, content).expect("is written");
    }
    // Takes what the example says and runs the real program on this machine.
    let socket = server.socket().display().to_string();
    place.program(
        "docker",
        &format!(
            "#!/bin/sh\ncase $1 in\ninspect) [ \"$4\" = mailserver-mariadb ] && echo true; exit;;\nexec) [ \"$2 $3 $4\" = '-e MYSQL_PWD mailserver-mariadb' ] && [ \"$MYSQL_PWD\" = right ] || exit 125;;\n*) exit 125;;\nesac\nprogram=$5; shift 5; unset MYSQL_PWD\nexec \"$program\" --no-defaults -uroot --socket={socket} \"$@\"\n"
        ),
    );
    let shipped = fs::read_to_string("scripts/config.example.toml").expect("reads");
    let here = |text: &str| {
        let text = text.replace(base, &place.path("server").display().to_string());
        let text = text.replace("/mnt/backup-hdd/mailserver", &place.repo.display().to_string());
        let text = text.replace("require_mount = \"/mnt/backup-hdd\"", "");
        let text = text.replace("/var/log/snap", &place.path("log").display().to_string());
        text.replace("/usr/sbin/sendmail", &place.path("bin/sendmail").display().to_string())
    };
    let write = |text: &str| {
        fs::write(place.path("config.toml"), here(text)).expect("is written");
        fs::set_permissions(place.path("config.toml"), fs::Permissions::from_mode(0o600))
            .expect("mode is set");
    };
    write(&shipped);
    let made = place.snap(&["init", "--encryption", "none"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let rows = text(&place.snap(&["config", "check"]).stdout);
    for what in ["put the password there", "is the example's bucket", "is the example's address"] {
        assert!(rows.contains(what), "{what}: {rows}");
    }
    write(&shipped.replace("put the password here", "right"));
    let night = place.snap(&["--json", "backup", "--daily"]);
    assert_eq!(night.status.code(), Some(0), "{}{}", text(&night.stdout), text(&night.stderr));
    let listed = text(&place.snap(&["ls", "-R", "daily"]).stdout);
    for path in [
        "mail/vmail/example.org/anna/cur/1767000000.M1P1.mx,S=20:2,S",
        "mail/sieve/anna.sieve",
        "mysql/usermgmt.sql",
        "mysql/roundcubemail.sql",
        "config/config/postfix/main.cf",
        "config/docker-compose.yml",
        "config/.env",
        "ssl/live/example.org/cert.pem",
        "dkim/example.org/mail.private",
        "rspamd/bayes.db",
        "logs/dovecot.log",
    ] {
        assert!(listed.lines().any(|line| line == path), "{path}: {listed}");
    }
    assert!(!listed.contains("config/config/opendkim/keys/"), "keys are stored once: {listed}");
    let dump = text(&place.snap(&["cat", "daily:mysql/usermgmt.sql"]).stdout);
    for part in ["CREATE DATABASE", "EVENT `tidy`", "-- Dump completed"] {
        assert!(dump.contains(part), "{part}: {dump}");
    }
}

/// A run leaves the repository out; who sets it up is told before.
#[test]
fn a_source_in_the_repository_or_around_it_is_told_by_config_check() {
    let mut place = Place::with_mail(1);
    let base = place.folder.path().display().to_string();
    std::os::unix::fs::symlink(place.path("repo"), place.path("link")).expect("link is made");
    for (name, path) in [("inside", "repo/packs"), ("all", ""), ("behind", "link"), ("beside", "mail")] {
        place.rest += &format!("[[component]]\nname = \"{name}\"\npaths = [\"{base}/{path}\"]\n");
    }
    place.write_config();
    let rows = text(&place.snap(&["config", "check"]).stdout);
    let told = |level: &str, name: &str, what: &str| {
        let own = |line: &&str| line.starts_with(level) && line.contains(&format!("  {name} "));
        rows.lines().filter(own).any(|line| line.contains(what))
    };
    assert!(told("ERROR", "inside", "lies in the repository"), "{rows}");
    assert!(told("ERROR", "behind", "lies in the repository"), "{rows}");
    assert!(told("WARNING", "all", "contains the repository"), "{rows}");
    assert!(!told("", "beside", "the repository, which"), "{rows}");
}
