//! The configuration: what is wrong is named by file, line and key; `config check` tries everything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use snap::job::config::{Bytes, Config, Level, On, Span, Syslog};
use snap::op::backup::Shrink;

use crate::place::{Place, text};

const SMALLEST: &str =
    "[repository]\npath = \"/srv/repo\"\n[[component]]\nname = \"mail\"\npaths = [\"/srv/mail\"]\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("/etc/snap/config.toml"), text).map_err(|e| e.to_string())
}

fn example(name: &str) -> Config {
    let text = fs::read_to_string(format!("scripts/{name}")).expect("example reads");
    Config::parse(Path::new(name), &text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn all_but_the_repository_and_one_component_may_be_left_out() {
    let config = parse(SMALLEST).expect("is good");
    assert_eq!((config.run.retries, config.run.retry_delay), (2, Span(Duration::from_secs(10))));
    assert_eq!((config.repository.warn_used_percent, config.repository.min_free), (80, Bytes(1 << 30)));
    assert_eq!((config.notify.on, config.log.level), (On::Failure, Level::Info));
    assert_eq!(config.log.syslog.socket(), Some(Path::new("/dev/log")));
    assert!(config.sync.is_none() && config.scan.is_none() && !config.has_secrets());
}

#[test]
fn the_example_for_the_mail_server_is_what_the_operator_asked_for() {
    let config = example("config.example.toml");
    let names: Vec<&str> = config.components.iter().map(|c| c.name.get_ref().as_str()).collect();
    assert_eq!(names, ["mail", "mysql", "config", "ssl", "dkim", "rspamd", "logs"]);
    let streams: Vec<&str> = config.components[1].streams.iter().map(|s| s.name.get_ref().as_str()).collect();
    assert_eq!(streams, ["usermgmt.sql", "roundcubemail.sql"]);
    assert_eq!(config.components[0].exclude[0].get_ref(), "*.tmp");
    let days = |days: u64| Some(Span(Duration::from_secs(days * 86_400)));
    assert_eq!((config.retention.daily, config.retention.weekly), (days(30), days(84)));
    assert_eq!(config.repository.require_mount.expect("is set").into_inner(), Path::new("/mnt/backup-hdd"));
    assert_eq!(config.log.syslog, Syslog::Switch(true));
    assert_eq!(config.sync.expect("is set").lock_days, 30);
}

#[test]
fn the_page_on_operations_shows_the_example_as_it_is() {
    let page = fs::read_to_string("docs/operations.md").expect("page reads");
    let example = fs::read_to_string("scripts/config.example.toml").expect("example reads");
    assert!(page.contains(&format!("```toml\n{}\n```\n", example.trim_end())), "the two differ");
}

#[test]
fn the_example_for_wordpress_has_files_and_database_side_by_side() {
    let config = example("config.wordpress.example.toml");
    let site = &config.components[0];
    assert_eq!((site.paths.len(), site.streams.len()), (1, 1));
    assert!(config.has_secrets(), "its password is in the environment, not among the arguments");
    let shrink = |config: &Config| config.components[0].to_backup(&config.run).care.shrink;
    assert_eq!(shrink(&config), Shrink::Percent(80), "an update of WordPress is no reason for an alarm");
    assert_eq!(shrink(&parse(SMALLEST).expect("is good")), Shrink::Percent(50));
    let logs = parse(&format!("{SMALLEST}suspect = false\n")).expect("is good");
    assert_eq!(shrink(&logs), Shrink::Any);
}

#[test]
fn every_key_of_the_contract_is_known() {
    let text = r#"
        [repository]
        path = "s3://bucket/prefix"
        index = "/var/lib/snap/index.redb"
        [run]
        user = "system-admin"
        retries = 5
        retry_delay = "1m"
        read_threads = 2
        [[component]]
        name = "site"
        paths = ["/srv/www", "/srv/more"]
        before = { command = ["true"] }
        after = { command = ["true"], timeout = "5s" }
        [[component.stream]]
        name = "db.sql"
        command = ["mysqldump", "db"]
        environment = { MYSQL_PWD = "x" }
        timeout = "30m"
        ends_with = "-- Dump completed"
        [notify]
        on = "always"
        name = "WordPress"
        from = "Backup <backup@example.com>"
        to = ["a@example.com", "b@example.com"]
        smtp = "smtp://127.0.0.1:25"
        ping_url = "https://hc.example.com/uuid"
        metrics_file = "/var/lib/node_exporter/snap.prom"
        max_age = "26h"
        [log]
        directory = "/var/log/snap"
        level = "debug"
        syslog = false
        keep = "30d"
        [sync]
        store = "s3://mailserver-backup-123456789012/snap"
        region = "ap-northeast-1"
        profile = "uploader"
        lock_days = 30
        renew_below_days = 23
        [scan]
        clamd = "/run/clamd.scan/clamd.sock"
    "#;
    let config = parse(text).expect("is good");
    assert!(config.repository.is_remote() && config.has_secrets());
    let component = config.components[0].to_backup(&config.run);
    assert_eq!((component.care.retries, component.care.delay), (5, Duration::from_secs(60)));
}

/// Checks that `text` is refused, at `place` and for a reason that holds `says`.
fn refused(text: &str, place: &str, says: &str) {
    let error = parse(text).expect_err("is refused");
    assert!(error.starts_with(&format!("/etc/snap/config.toml{place}")), "{error}");
    assert!(error.contains(says), "{error}");
    assert_eq!(error.lines().count(), 1, "one line says it: {error}");
}

#[test]
fn an_unknown_key_names_file_line_and_the_key_that_was_meant() {
    refused(
        &format!("{SMALLEST}[retention]\ndayly = \"30d\"\n"),
        ":7: retention.dayly: ",
        "did you mean \"daily\"?",
    );
    refused(&SMALLEST.replace("paths", "path"), ":5: component[0].path: ", "did you mean \"paths\"?");
    refused(&format!("{SMALLEST}[repositry]\n"), ":6: repositry: ", "did you mean \"repository\"?");
    refused(&format!("{SMALLEST}zzz = 1\n"), ":6: component[0].zzz: ", "known here: name, paths, exclude");
    let stream = "[[component.stream]]\nname = \"a\"\ncomand = [\"x\"]\n";
    refused(
        &format!("{SMALLEST}{stream}"),
        ":8: component[0].stream[0].comand: ",
        "did you mean \"command\"?",
    );
}

#[test]
fn a_value_that_makes_no_sense_is_named_with_its_line() {
    refused("[repository\n", ":1", "is not TOML");
    refused("[run]\nretries = 1\n", "", "missing field `repository`");
    refused("[repository]\npath = \"/r\"\n", ": component: ", "one [[component]] at least");
    refused(
        &SMALLEST.replace("[[c", "min_free = \"5 parsecs\"\n[[c"),
        ":3: repository.min_free: ",
        "unit \"parsecs\"",
    );
    refused(
        &format!("{SMALLEST}[run]\nretry_delay = \"soon\"\n"),
        ":7: run.retry_delay: ",
        "is not a length of time such as 10s",
    );
    refused(&format!("{SMALLEST}[run]\nretries = -1\n"), ":7: run.retries: ", "-1");
    for share in ["150%", "50", "half"] {
        refused(
            &format!("{SMALLEST}max_shrink = \"{share}\"\n"),
            ":6: component[0].max_shrink: ",
            "is not a share from 0% to 100%",
        );
    }
    refused(&format!("{SMALLEST}[log]\nlevel = \"loud\"\n"), ":7: log.level: ", "loud");
    refused(
        &format!("{SMALLEST}{SMALLEST}")
            .replacen("[repository]\npath = \"/srv/repo\"\n", "", 1)
            .replace("[repository]\npath = \"/srv/repo\"\n", "")
            .replacen("[[", "[repository]\npath = \"/srv/repo\"\n[[", 1),
        ":7: component[1].name: ",
        "there is a component \"mail\" already",
    );
    refused(&SMALLEST.replace("/srv/mail", "mail"), ":5: component[0].paths[0]: ", "absolute");
    refused(
        &SMALLEST.replace("\"mail\"", "\"../mail\""),
        ":4: component[0].name: ",
        "can't be a component's name",
    );
    refused(
        &SMALLEST.replace("\"mail\"", "\"main\""),
        ":4: component[0].name: ",
        "can't be a component's name",
    );
    refused(
        &SMALLEST.replace("paths = [\"/srv/mail\"]\n", ""),
        ":4: component[0].name: ",
        "neither paths nor a stream",
    );
    refused(
        &SMALLEST.replace("\"/srv/mail\"", "\"/a/x\", \"/b/x\""),
        ":5: component[0].paths[1]: ",
        "same base name",
    );
    refused(
        &SMALLEST.replace("[[c", "require_mount = \"/mnt\"\n[[c"),
        ":3: repository.require_mount: ",
        "does not lie below it",
    );
    refused(
        &format!("{SMALLEST}exclude = [\"*.tmp\", \"[z-a]\"]\n"),
        ":6: component[0].exclude[1]: ",
        "[z-a]",
    );
    refused(&format!("{SMALLEST}[notify]\nto = [\"a@example.org\"]\n"), ":7: notify.from: ", "is needed");
    let from = "[notify]\nfrom = \"b@example.org\"\nto = [\"a@example.org\"]\n";
    refused(&format!("{SMALLEST}{from}"), ":8: notify.sendmail: ", "is needed");
    refused(
        &format!("{SMALLEST}{from}sendmail = [\"s\"]\nsmtp = \"smtp://h\"\n"),
        ":10: notify.smtp: ",
        "choose one",
    );
    refused(&format!("{SMALLEST}{from}smtp = \"http://h\"\n"), ":9: notify.smtp: ", "is no smtp://");
    refused(&format!("{SMALLEST}[notify]\nfrom = \"nobody\"\n"), ":7: notify.from: ", "no mail address");
    refused(&format!("{SMALLEST}[notify]\nping_url = \"hc\"\n"), ":7: notify.ping_url: ", "http://");
}

#[test]
fn no_value_of_a_secret_is_shown() {
    for secret in ["{ MYSQL_PWD = 20241107 }", "\"MYSQL_PWD=20241107\"", "[20241107]", "20241107"] {
        let stream =
            format!("[[component.stream]]\nname = \"a\"\ncommand = [\"x\"]\nenvironment = {secret}\n");
        let error = parse(&format!("{SMALLEST}{stream}")).expect_err("is refused");
        assert!(error.contains("environment") && !error.contains("20241107"), "{error}");
    }
    refused(
        &format!("{SMALLEST}[notify]\nping_url = 20241107\n"),
        ":7: notify.ping_url: ",
        "texts in quotes",
    );
}

#[test]
fn what_cannot_be_meant_is_refused() {
    refused(&SMALLEST.replace("/srv/repo", "srv/repo"), ": repository.path: ", "must begin with /");
    refused(&format!("{SMALLEST}[log]\ndirectory = \"log\"\n"), ": log.directory: ", "must begin with /");
    refused(
        &format!("{SMALLEST}[retention]\ndaily = \"0d\"\n"),
        ": retention.daily: ",
        "longer than nothing",
    );
    let days = "[sync]\nstore = \"s3://b/p\"\nlock_days = 10\n";
    assert!(
        parse(&format!("{SMALLEST}{days}")).is_ok(),
        "a copy that can't be made is no reason for no backup"
    );
    assert!(parse(&SMALLEST.replace("/srv/repo", "s3://b/p")).is_ok(), "a bucket is no path");
}

#[test]
fn a_bad_configuration_ends_the_program_with_one_line_and_status_two() {
    let place = Place::with_mail(1);
    fs::write(place.path("config.toml"), place.config().replace("[run]", "[runs]")).expect("is written");
    for arguments in [&["backup", "--daily"][..], &["snapshots"], &["config", "check"], &["notify", "--test"]]
    {
        let output = place.snap(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains("config.toml:5: runs: unknown key; did you mean \"run\"?"), "{error}");
    }
    let named = place.snap(&["snapshots", "--repo", place.repo.to_str().expect("text")]);
    assert!(named.status.success(), "who names a repository needs no configuration: {}", text(&named.stderr));
    fs::remove_file(place.path("config.toml")).expect("file goes");
    let gone = place.snap(&["backup"]);
    assert_eq!(gone.status.code(), Some(2));
    assert!(text(&gone.stderr).contains("config.toml"), "{}", text(&gone.stderr));
}

#[test]
fn what_is_configured_gives_way_to_what_is_said() {
    let mut place = Place::with_mail(3);
    place.repository += &format!("\nindex = \"{}\"", place.path("cache/index.redb").display());
    fs::create_dir(place.path("cache")).expect("folder is made");
    assert_eq!(place.backup(&[]).0, 0);
    // Of which repositories the state directory has a cache.
    let cached = || {
        let kept = fs::read_dir(place.path("state")).expect("lists").flatten().map(|entry| entry.path());
        let inside = kept.filter_map(|folder| fs::read_dir(folder).ok()).flat_map(Iterator::flatten);
        inside.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "redb")).count()
    };
    assert!(place.path("cache/index.redb").exists() && cached() == 0);
    let other = place.path("other");
    let made = place.snap(&["init", "--encryption", "none", "--repo", other.to_str().expect("text")]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let before = fs::read(place.path("cache/index.redb")).expect("cache reads");
    assert_eq!(place.backup(&["--repo", other.to_str().expect("text")]).0, 0);
    assert_eq!(cached(), 1, "the configured cache belongs to the configured repository");
    assert_eq!(fs::read(place.path("cache/index.redb")).expect("cache reads"), before);
    assert_eq!(place.snapshots().len(), 1);
}

#[test]
fn config_check_tries_everything_and_changes_nothing() {
    let mut place = Place::with_mail(1);
    place.rest += "[[component]]\nname = \"db\"\n[[component.stream]]\nname = \"a.sql\"\ncommand = [\"printf\", \"x\"]\n";
    place.notify = format!("metrics_file = \"{}\"", place.path("snap.prom").display());
    place.write_config();
    let output = place.snap(&["config", "check"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}{}", text(&output.stderr));
    for what in ["user", "repository", "mail", "db: a.sql", "sendmail", "metrics", "logs", "space"] {
        let row = shown.lines().find(|line| line.get(9..).is_some_and(|rest| rest.starts_with(what)));
        assert!(row.is_some_and(|row| row.starts_with("ok ")), "{what}: {shown}");
    }
    assert!(!place.path("log").exists() && place.mails().is_empty() && !place.path("snap.prom").exists());

    place.rest = place.rest.replace("\"printf\", \"x\"", "\"no-such-program\", \"--password=hunter2\"");
    place.rest += "environment = { MYSQL_PWD = \"x\" }\n";
    place.rest = place.rest.replace("/mail\"]", "/nothing\"]");
    place.repository = format!("require_mount = \"{}\"", place.folder.path().display());
    place.write_config();
    fs::set_permissions(place.path("config.toml"), fs::Permissions::from_mode(0o644)).expect("mode is set");
    let output = place.snap(&["config", "check"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    for says in [
        "is not mounted",
        "no-such-program: not found on PATH",
        "nothing: No such file",
        "chmod 600",
        "--password seems to hold a password",
    ] {
        assert!(shown.contains(says), "{says}: {shown}");
    }
    assert!(!shown.contains("hunter2"), "{shown}");
}
