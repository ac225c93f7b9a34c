//! The real program, as a person or cron runs it.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::Noise;
use common::repo::{differences, maildir, picture};
use serde_json::Value;
use tempfile::TempDir;

/// A place with a repository of its own.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("temporary folder") }
    }

    fn made(arguments: &[&str]) -> Self {
        let place = Self::new();
        let made = place.snap(&[&["init"], arguments].concat());
        assert!(made.status.success(), "{}", text(&made.stderr));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        common::program(self.folder.path(), arguments)
    }

    fn snap(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("program runs")
    }

    /// Runs the program, which must succeed, and returns its last line of JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.snap(&[&["--json"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        last_json(&output)
    }

    /// Runs the program, which must end with `status` and one line of error; returns the line.
    fn refused(&self, arguments: &[&str], status: i32) -> String {
        let output = self.snap(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 1, "{arguments:?}: one line says it: {error}");
        error
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn last_json(output: &Output) -> Value {
    let out = text(&output.stdout);
    serde_json::from_str(out.lines().last().expect("there is output")).expect("the last line is JSON")
}

#[test]
fn a_tree_is_backed_up_without_the_passphrase_and_restored_with_it() {
    let place = Place::made(&[]);
    maildir(&place.path("mail"), 40, 2000, &mut Noise::new(1));
    let output =
        place.command(&["--json", "backup", "mail"]).env_remove("SNAP_PASSWORD").output().expect("runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary = last_json(&output);
    assert_eq!(summary["type"], "summary");
    assert_eq!(summary["files_new"], 40);
    assert_eq!(summary["errors"], serde_json::json!([]));
    for key in
        ["bytes_scanned", "bytes_read", "bytes_added", "bytes_stored", "chunks_new", "duration_s", "dirs"]
    {
        assert!(summary[key].as_f64().is_some_and(|number| number > 0.0), "{key}: {summary}");
    }
    assert_eq!(summary["components"][0]["status"], "complete");
    let refused =
        place.command(&["restore", "latest", "--target", "out"]).env_remove("SNAP_PASSWORD").output();
    let refused = refused.expect("runs");
    assert_eq!(refused.status.code(), Some(2));
    let error = text(&refused.stderr);
    for way in ["--password-file", "SNAP_PASSWORD", "SNAP_PASSWORD_COMMAND", "--identity"] {
        assert!(error.contains(way), "the message says how to give it: {error}");
    }
    let restored = place.json(&["restore", "latest", "--target", "out", "--verify"]);
    assert_eq!((restored["files"].clone(), restored["files_verified"].clone()), (40.into(), 40.into()));
    let below = place.path("out").join(place.path("mail").strip_prefix("/").expect("absolute"));
    assert_eq!(differences(&picture(&place.path("mail")), &picture(&below)), Vec::<String>::new());
}

#[test]
fn the_passphrase_comes_from_a_file_or_a_command_too() {
    let place = Place::made(&[]);
    fs::write(place.path("file"), b"content").expect("file is written");
    place.json(&["backup", "file"]);
    fs::write(place.path("passphrase"), b"correct horse\n").expect("file is written");
    let at = format!("latest:{}", place.path("file").display());
    let by_file =
        place.command(&["cat", &at, "--password-file", "passphrase"]).env_remove("SNAP_PASSWORD").output();
    assert_eq!(text(&by_file.expect("runs").stdout), "content");
    let mut by_command = place.command(&["cat", &at]);
    by_command.env_remove("SNAP_PASSWORD").env("SNAP_PASSWORD_COMMAND", "cat passphrase");
    assert_eq!(text(&by_command.output().expect("runs").stdout), "content");
    let mut wrong = place.command(&["cat", &at]);
    let wrong = wrong.env("SNAP_PASSWORD", "incorrect horse").output().expect("runs");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("passphrase is wrong"), "{}", text(&wrong.stderr));
}

#[test]
fn an_ordinary_user_restores_what_he_may_and_is_told_the_rest() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can make files of other owners and become another user");
        return;
    }
    let place = Place::made(&[]);
    fs::create_dir(place.path("mail")).expect("folder is made");
    for (name, owner) in [("of root", 0), ("of nobody", 65_534), ("of another", 4321)] {
        fs::write(place.path("mail").join(name), name).expect("file is written");
        std::os::unix::fs::chown(place.path("mail").join(name), Some(owner), Some(owner)).expect("is given");
        fs::set_permissions(place.path("mail").join(name), fs::Permissions::from_mode(0o6755))
            .expect("is set");
    }
    place.json(&["backup", "--component", "mail", "mail"]);
    // What belongs to the repository's owner is handed to the user, as a copy of it would be.
    let handed = Command::new("chown").args(["-R", "65534:65534"]).arg(place.folder.path()).status();
    assert!(handed.expect("chown runs").success());
    let mut restore = place.command(&["--json", "restore", "latest:mail", "--target", "out"]);
    std::os::unix::process::CommandExt::gid(
        std::os::unix::process::CommandExt::uid(&mut restore, 65_534),
        65_534,
    );
    let output = restore.output().expect("program runs");
    assert_eq!(output.status.code(), Some(1), "others may do what they could not: {}", text(&output.stderr));
    let summary = last_json(&output);
    assert_eq!(summary["files"], 3, "{summary}");
    let unset = summary["unset"].to_string();
    assert!(
        unset.contains("owner") && unset.contains("of another"),
        "it is said which, and of what: {summary}"
    );
    for name in ["of root", "of nobody", "of another"] {
        let restored = place.path("out").join(name);
        assert_eq!(fs::read(&restored).expect("file reads"), name.as_bytes());
        let mode = fs::metadata(&restored).expect("file is there").permissions().mode() & 0o7777;
        let expected = if name == "of nobody" { 0o6755 } else { 0o755 };
        assert_eq!(mode, expected, "{name}: no program of root's becomes one of another user's");
    }
}

#[test]
fn a_variable_that_is_set_and_empty_counts_as_not_set() {
    let place = Place::made(&[]);
    fs::write(place.path("file"), b"content").expect("file is written");
    place.json(&["backup", "file"]);
    let mut listed = place.command(&["--json", "snapshots"]);
    for variable in ["SNAP_INDEX", "SNAP_PASSWORD_FILE", "SNAP_PASSWORD_COMMAND"] {
        listed.env(variable, "");
    }
    let listed = listed.output().expect("program runs");
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    let mut none = place.command(&["snapshots"]);
    let none = none.env("SNAP_REPOSITORY", "").output().expect("program runs");
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("no repository: name it with"), "{}", text(&none.stderr));
}

#[test]
fn variables_of_other_programs_and_empty_ones_are_in_nobody_s_way() {
    let place = Place::made(&["--encryption", "none"]);
    for (name, value) in [("AWS_MAX_ATTEMPTS", "25"), ("SNAP_LOCK_WAIT", ""), ("SNAP_LIMIT_UPLOAD", "")] {
        let listed = place.command(&["snapshots"]).env(name, value).output().expect("runs");
        assert!(listed.status.success(), "{name}={value}: {}", text(&listed.stderr));
    }
}

/// A thief of the disk learns no chunk's id and no length: the cache tells both.
#[test]
fn the_index_cache_lies_beside_the_writer_secret_for_its_owner_alone() {
    let place = Place::made(&["--encryption", "none"]);
    fs::write(place.path("a"), Noise::new(1).bytes(100_000)).expect("writes");
    place.json(&["backup", "a"]);
    let index = common::index_cache(place.folder.path());
    assert_eq!(fs::metadata(&index).expect("is there").permissions().mode() & 0o777, 0o600);
    let inside: Vec<_> = fs::read_dir(place.path("repo"))
        .expect("lists")
        .map(|entry| entry.expect("reads").file_name())
        .collect();
    assert!(inside.iter().all(|name| !name.to_string_lossy().ends_with(".redb")), "{inside:?}");
    place.json(&["backup", "a", "--index", "here.redb"]);
    assert!(place.path("here.redb").exists(), "where it is said");
}

/// A clone that is older than what it was made from lacks nothing: it has a cache of its own.
#[test]
fn a_copy_is_not_held_against_the_cache_of_another() {
    let place = Place::made(&["--encryption", "none"]);
    let add = |name: &str, seed: u64| {
        fs::write(place.path(name), Noise::new(seed).bytes(100_000)).expect("writes");
        place.json(&["backup", name]);
    };
    add("a", 1);
    place.json(&["clone", "repo", "--repo", "copy"]);
    add("b", 2);
    let checked = place.json(&["check", "--read-packs", "--repo", "copy"]);
    assert_eq!(
        (checked["sound"].clone(), checked["notes"].to_string().contains("gone")),
        (true.into(), false),
        "{checked}"
    );
    assert_eq!(place.json(&["check"])["sound"], true);
}

#[test]
fn a_clone_over_what_is_cloned_is_refused_and_waits_for_no_lock() {
    let place = Place::made(&["--encryption", "none"]);
    std::os::unix::fs::symlink(place.path("repo"), place.path("link")).expect("link is made");
    for to in ["repo", "./repo/", "link", "repo/packs/copy"] {
        let said = place.refused(&["clone", "repo", "--repo", to], 2);
        assert!(said.contains("would lie in what is to be copied"), "{to}: {said}");
    }
    assert!(!place.path("repo/packs/copy").exists());
}

#[test]
fn a_time_has_the_zone_that_is_said() {
    let place = Place::made(&["--encryption", "none"]);
    fs::write(place.path("a"), "x").expect("writes");
    let source = place.path("a");
    for time in ["2026-01-05T03:00[America/New_York]", "2026-01-05T03:00-05:00", "2026-01-05T08:00Z"] {
        place.json(&["backup", source.to_str().expect("text"), "--time", time]);
        let listed = place.json(&["snapshots"]);
        assert_eq!(
            listed["time"].as_str().and_then(|at| at.parse().ok()),
            Some("2026-01-05T08:00:00Z".parse::<jiff::Timestamp>().expect("is a time")),
            "{time}: {listed}"
        );
    }
}

#[test]
fn whoever_stops_listening_is_told_nothing() {
    let place = Place::made(&["--encryption", "none"]);
    fs::write(place.path("large"), Noise::new(1).bytes(4 << 20)).expect("writes");
    let source = place.path("large");
    place.json(&["backup", source.to_str().expect("text"), "--component", "c"]);
    let mut child = place
        .command(&["cat", "latest:c/large"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(141), String::new()));
}

#[test]
fn a_stream_that_never_comes_does_not_keep_a_signal_waiting() {
    let place = Place::made(&["--encryption", "none"]);
    let mut child = place
        .command(&["backup", "--stdin-name", "dump.sql"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let stdin = child.stdin.take().expect("is piped");
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("fits")).expect("a process");
    // It has its handler once it has taken the repository's lock.
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let handles = || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:").map(str::trim));
        mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & (1 << 14) != 0)
    };
    while !handles() {
        std::thread::yield_now();
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal is sent");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    drop(stdin);
}

#[test]
fn a_component_lies_in_its_own_directory_and_is_restored_alone() {
    let place = Place::made(&["--encryption", "none"]);
    fs::create_dir(place.path("config")).expect("folder is made");
    fs::write(place.path("config/main.cf"), b"x").expect("file is written");
    place.json(&["backup", "config", "--component", "config"]);
    let listed = place.snap(&["ls", "-R"]);
    assert_eq!(text(&listed.stdout), "config\nconfig/main.cf\n");
    place.json(&["restore", "latest:config", "--target", "out"]);
    assert_eq!(fs::read(place.path("out/main.cf")).expect("file reads"), b"x");
    let error = place.refused(&["restore", "latest", "--target", "other", "--component", "mail"], 2);
    assert!(error.contains("it has: config"), "{error}");
    place.json(&["restore", "latest", "--target", "same", "--component", "config"]);
    assert!(place.path("same/main.cf").is_file(), "as latest:config would");
}

#[test]
fn a_stream_and_a_command_s_output_are_files() {
    let place = Place::made(&["--encryption", "none"]);
    let mut child = place
        .command(&["--json", "backup", "--stdin-name", "dump.sql"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("program starts");
    child.stdin.take().expect("piped").write_all(b"insert into t values (1);\n").expect("stream is taken");
    assert!(child.wait_with_output().expect("ends").status.success());
    assert_eq!(text(&place.snap(&["cat", "latest:dump.sql"]).stdout), "insert into t values (1);\n");
    place.json(&[
        "backup",
        "--stdin-name",
        "out.sql",
        "--component",
        "mysql",
        "--",
        "printf",
        "a %s\\n",
        "row",
    ]);
    assert_eq!(text(&place.snap(&["cat", "latest:mysql/out.sql"]).stdout), "a row\n");
}

#[test]
fn a_command_that_fails_is_never_recorded_as_a_good_dump() {
    let place = Place::made(&["--encryption", "none"]);
    let script = "echo 'half a dump'; echo 'access denied' >&2; exit 3";
    let error = place.refused_dump(&["backup", "--stdin-name", "dump.sql", "--", "sh", "-c", script]);
    assert!(error.contains("access denied") && error.contains('3'), "{error}");
    let missing = place.refused_dump(&["backup", "--stdin-name", "dump.sql", "--", "no-such-command-here"]);
    assert!(missing.contains("no-such-command-here"), "{missing}");
    assert_eq!(text(&place.snap(&["--json", "snapshots"]).stdout), "", "no snapshot was made");
}

impl Place {
    fn refused_dump(&self, arguments: &[&str]) -> String {
        let output = self.snap(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        text(&output.stderr)
    }
}

#[test]
fn snapshots_have_the_names_that_people_give() {
    let place = Place::made(&["--encryption", "none"]);
    fs::write(place.path("file"), b"1").expect("file is written");
    let at = |time: &str, tag: &str| place.json(&["backup", "file", "--time", time, tag])["snapshot"].clone();
    let first = at("2026-01-04T03:00", "--daily");
    let second = at("2026-01-05T03:00", "--daily");
    let weekly = at("2025-12-29T04:00", "--weekly");
    let named = |spec: &str| {
        let listed = place.json(&["find", "file", "--snapshot", spec]);
        listed["snapshot"].clone()
    };
    assert_eq!(named("latest"), second);
    assert_eq!(named("latest~1"), first);
    assert_eq!(named("daily/2026-01-04"), first);
    assert_eq!(named("weekly/2026-week-01"), weekly, "ISO week 1 of 2026 begins in December");
    assert_eq!(named(&first.as_str().expect("text")[..8]), first);
    for (spec, says) in
        [("zzzz", "no snapshot has that name"), ("latest~9", "only 2 before"), ("abc", "4 hex digits")]
    {
        let error = place.refused(&["ls", spec], 2);
        assert!(error.contains(says), "{spec}: {error}");
    }
}

#[test]
fn diff_shows_a_rename_as_a_rename() {
    let place = Place::made(&["--encryption", "none"]);
    fs::create_dir(place.path("d")).expect("folder is made");
    for (name, bytes) in [("d/renamed", &b"same"[..]), ("d/gone", b"x"), ("d/changed", b"old")] {
        fs::write(place.path(name), bytes).expect("file is written");
    }
    place.json(&["backup", "d", "--component", "d"]);
    fs::rename(place.path("d/renamed"), place.path("d/to")).expect("file moves");
    fs::remove_file(place.path("d/gone")).expect("file goes");
    fs::write(place.path("d/changed"), b"newer").expect("file is written");
    fs::write(place.path("d/added"), b"x").expect("file is written");
    place.json(&["backup", "d", "--component", "d"]);
    let shown = text(&place.snap(&["diff", "latest~1", "latest", "--quiet"]).stdout);
    assert_eq!(shown, "+ d/added\nM d/changed\n- d/gone\nR d/renamed -> d/to\n");
}

/// A FIFO that nobody writes to, where a file of the repository or of the state directory should be.
#[test]
fn a_fifo_in_the_place_of_a_file_keeps_nobody_waiting() {
    let place = Place::made(&["--encryption", "none"]);
    fs::write(place.path("file"), "x").expect("writes");
    place.json(&["backup", "file"]);
    let id = format!("{:064x}", 5);
    let repository = ["config", "keys/ID", "snapshots/ID", "index/ID", "condemned/ID", "packs/00/ID", "lock"];
    let mut places: Vec<PathBuf> =
        repository.iter().map(|name| place.path("repo").join(name.replace("ID", &id))).collect();
    let secret = fs::read_dir(place.path("state")).expect("state lists").flatten().map(|entry| entry.path());
    places.extend(secret.filter(|path| path.is_dir()).map(|path| path.join("writer")));
    places.push(common::index_cache(place.folder.path()));
    for fifo in places {
        let aside = place.path("aside");
        let is_there = fs::rename(&fifo, &aside).is_ok();
        fs::create_dir_all(fifo.parent().expect("lies in a folder")).expect("folder is made");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).expect("FIFO is made");
        for verb in [
            &["snapshots"][..],
            &["backup", "file"],
            &["check"],
            &["key", "list"],
            &["prune", "--keep-last", "1"],
        ] {
            let program = place.command(verb);
            let ended = Command::new("timeout")
                .args(["-k", "1", "60"])
                .arg(program.get_program())
                .args(program.get_args())
                .envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))))
                .current_dir(place.folder.path())
                .output()
                .expect("program runs");
            assert!(!matches!(ended.status.code(), Some(124 | 137)), "{verb:?} waits for {}", fifo.display());
            assert!(!text(&ended.stderr).contains("panicked"), "{}", text(&ended.stderr));
        }
        let _ = fs::remove_file(&fifo); // an index cache may have been made in its place
        if is_there {
            fs::rename(&aside, &fifo).expect("file is put back");
        }
    }
    assert_eq!(place.json(&["check"])["sound"], true);
}

#[test]
fn no_control_character_of_a_repository_reaches_the_terminal() {
    let place = Place::made(&[]);
    fs::write(place.path("file"), "x").expect("writes");
    let hostile = "vm\n\u{1b}[2Jab12cd34\u{9b}";
    place.json(&["backup", "file", "--host", hostile]);
    let identity = age::x25519::Identity::generate().to_public().to_string();
    let added = place.snap(&["key", "add", "--recipient", &identity, "--label", hostile]);
    assert!(added.status.success(), "{}", text(&added.stderr));
    fs::write(place.path(&format!("repo/snapshots/{hostile}")), "x").expect("writes");
    for (arguments, lines) in [
        (&["snapshots"][..], Some(2)),
        (&["key", "list"], Some(3)),
        (&["snapshots", "--json"], Some(1)),
        (&["key", "list", "--json"], Some(3)),
        (&["check"], None),
        (&["ls", hostile], None),
        (&["--config", hostile, "config", "check"], None),
    ] {
        let said = place.snap(arguments);
        for out in [&said.stdout, &said.stderr] {
            let raw = text(out).chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(raw, None, "{arguments:?}: {}", text(out));
        }
        if let Some(lines) = lines {
            assert_eq!(text(&said.stdout).lines().count(), lines, "{arguments:?}: {}", text(&said.stdout));
        }
    }
    assert_eq!(place.json(&["snapshots"])["host"], hostile, "programs get it as it is");
}

#[test]
fn snapshots_of_one_time_are_in_the_order_in_which_they_were_made() {
    let place = Place::made(&["--encryption", "none"]);
    // Ids are random: one of eight orders by chance is that in which they were made.
    for round in 0..4 {
        fs::write(place.path("file"), format!("{round}")).expect("file is written");
        place.json(&["backup", "file", "--time", "2026-01-04T03:00"]);
        let newest = place.snap(&["cat", &format!("latest:{}", place.path("file").display())]);
        assert_eq!(text(&newest.stdout), format!("{round}"));
    }
    let made: Vec<String> = text(&place.snap(&["--json", "snapshots"]).stdout)
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["made"].as_str().expect("text").to_owned()
        })
        .collect();
    assert!(made.len() == 4 && made.is_sorted(), "{made:?}");
}

#[test]
fn a_time_zone_that_is_not_known_is_not_taken_for_another() {
    let place = Place::made(&["--encryption", "none"]);
    let listed = |zone: &str| place.command(&["snapshots"]).env("TZ", zone).output().expect("program runs");
    let refused = listed("Europe/Nowhere");
    assert_eq!(refused.status.code(), Some(2));
    let error = text(&refused.stderr);
    assert!(error.contains("Europe/Nowhere") && error.lines().count() == 1, "{error}");
    for known in ["", "UTC", "CET-1CEST,M3.5.0,M10.5.0/3"] {
        assert!(listed(known).status.success(), "{known:?}: {}", text(&listed(known).stderr));
    }
}

#[test]
fn diff_compares_a_file_by_itself() {
    let place = Place::made(&["--encryption", "none"]);
    fs::create_dir(place.path("d")).expect("folder is made");
    for name in ["d/same", "d/file", "d/kind"] {
        fs::write(place.path(name), b"old").expect("file is written");
    }
    place.json(&["backup", "d", "--component", "d"]);
    fs::write(place.path("d/file"), b"newer").expect("file is written");
    fs::remove_file(place.path("d/kind")).expect("file goes");
    fs::create_dir(place.path("d/kind")).expect("folder is made");
    fs::write(place.path("d/kind/below"), b"x").expect("file is written");
    fs::write(place.path("d/come"), b"x").expect("file is written");
    place.json(&["backup", "d", "--component", "d"]);
    for (path, shown) in [
        ("d/same", ""),
        ("d//file/", "M d/file\n"),
        ("d/come", "+ d/come\n"),
        ("d/kind", "T d/kind\n+ d/kind/below\n"),
    ] {
        let said = place.snap(&["diff", "latest~1", "latest", path, "--quiet"]);
        assert_eq!((text(&said.stdout).as_str(), said.status.code()), (shown, Some(0)), "{path}");
    }
    let gone = place.snap(&["diff", "latest", "latest~1", "d/come", "--quiet"]);
    assert_eq!(text(&gone.stdout), "- d/come\n");
    let summary = place.json(&["diff", "latest~1", "latest", "d/file"]);
    assert_eq!(
        (&summary["modified"], &summary["bytes_added"], &summary["bytes_removed"]),
        (&1.into(), &5.into(), &3.into())
    );
    assert!(place.refused(&["diff", "latest~1", "latest", "d/none"], 2).contains("d/none"));
}

#[test]
fn a_listing_shows_far_times_as_they_are() {
    let place = Place::made(&["--encryption", "none"]);
    fs::create_dir(place.path("d")).expect("folder is made");
    // In memory: a disk's file system may know no such times.
    let far = [("now", 0, "1970-01-01 00:00:00"), ("before", -86_401, "1969-12-30 23:59:59")];
    let further = [
        ("first", -62_135_596_800, "0001-01-01 00:00:00"),
        ("beyond", 253_402_300_800, "+010000-01-01 00:00:00Z"),
    ];
    let memory = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().expect("folder"));
    let mut known = Vec::new();
    for (name, seconds, shown) in far.into_iter().chain(further) {
        let path = memory.path().join(name);
        let file = fs::File::create(&path).expect("file is made");
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&file, &times).expect("times are set");
        let kept = std::os::unix::fs::MetadataExt::mtime(&file.metadata().expect("file is there"));
        known.extend((kept == seconds).then_some((name, shown)));
    }
    assert!(known.len() >= 2, "{known:?}");
    place.json(&["backup", memory.path().to_str().expect("text"), "--component", "d"]);
    let listed = text(&place.snap(&["ls", "-l", "latest:d"]).stdout);
    for (name, shown) in known {
        assert!(listed.lines().any(|line| line.contains(shown) && line.ends_with(name)), "{name}: {listed}");
    }
}

#[test]
fn diff_shows_what_lay_below_what_is_no_directory_any_more() {
    let place = Place::made(&["--encryption", "none"]);
    for folder in ["d/was", "d/same"] {
        fs::create_dir_all(place.path(folder)).expect("folder is made");
    }
    for name in ["d/was/gone", "d/was/moved", "d/is", "d/same/file"] {
        fs::write(place.path(name), name).expect("file is written");
    }
    place.json(&["backup", "d", "--component", "d"]);
    fs::rename(place.path("d/was/moved"), place.path("d/moved")).expect("file moves");
    fs::remove_dir_all(place.path("d/was")).expect("folder goes");
    fs::write(place.path("d/was"), b"by now a file").expect("file is written");
    fs::remove_file(place.path("d/is")).expect("file goes");
    fs::create_dir(place.path("d/is")).expect("folder is made");
    fs::write(place.path("d/is/come"), b"x").expect("file is written");
    place.json(&["backup", "d", "--component", "d"]);
    let shown = text(&place.snap(&["diff", "latest~1", "latest", "--quiet"]).stdout);
    assert_eq!(shown, "T d/is\n+ d/is/come\nR d/was/moved -> d/moved\nT d/was\n- d/was/gone\n");
    let summary = place.json(&["diff", "latest~1", "latest"]);
    assert_eq!((&summary["bytes_added"], &summary["bytes_removed"]), (&(13 + 1).into(), &(10 + 4).into()));
}

#[test]
fn a_directory_that_cannot_be_read_does_not_end_a_listing() {
    let place = Place::made(&["--encryption", "none"]);
    for folder in ["d/a", "d/b"] {
        fs::create_dir_all(place.path(folder)).expect("folder is made");
        fs::write(place.path(folder).join("old"), folder).expect("file is written");
    }
    place.json(&["backup", "d", "--component", "d"]);
    let packs = below(&place.path("repo/packs"));
    fs::write(place.path("d/b/new"), b"x").expect("file is written");
    place.json(&["backup", "d", "--component", "d"]);
    packs.iter().for_each(|pack| fs::remove_file(pack).expect("pack goes"));
    let listed = place.snap(&["ls", "-R"]);
    assert_eq!(text(&listed.stdout), "d\nd/a\nd/b\nd/b/new\nd/b/old\n");
    assert_eq!(listed.status.code(), Some(1));
    let error = text(&listed.stderr);
    assert!(error.lines().count() == 1 && error.contains(":d/a: directory cannot be read"), "{error}");
    let found = place.snap(&["find", "new"]);
    assert_eq!((text(&found.stdout).lines().count(), found.status.code()), (1, Some(1)));
    let error = text(&found.stderr);
    assert!(error.contains(":/: directory cannot be read"), "nothing of the first is left: {error}");
    assert!(error.lines().count() == 2 && error.contains(":d/a: directory cannot be read"), "{error}");
    assert!(
        place.refused(&["ls", "latest:d/a"], 2).contains("in no pack"),
        "what was asked for is not there"
    );
}

/// Returns all files below a folder.
#[test]
fn sums_of_a_night_are_taken_by_sha256sum_over_what_was_restored() {
    let place = Place::made(&[]);
    maildir(&place.path("mail"), 20, 2000, &mut Noise::new(1));
    for name in ["two\nlines", "back\\slash", "empty"] {
        fs::write(place.path("mail").join(name), name.trim_matches('y')).expect("is written");
    }
    place.json(&["backup", "--component", "mail", "mail"]);
    let sums = place.snap(&["ls", "-R", "--sha256", "latest"]);
    assert!(sums.status.success(), "{}", text(&sums.stderr));
    assert_eq!(text(&sums.stdout).lines().count(), 23, "{}", text(&sums.stdout));
    fs::write(place.path("sums"), &sums.stdout).expect("is written");
    place.json(&["restore", "latest", "--target", "back"]);
    let compare = || {
        let mut command = Command::new("sha256sum");
        command.args(["--strict", "--check", "--quiet"]).arg(place.path("sums"));
        command.current_dir(place.path("back")).output().expect("sha256sum runs")
    };
    let compared = compare();
    assert!(compared.status.success() && compared.stdout.is_empty(), "{}", text(&compared.stderr));
    fs::write(place.path("back/mail/empty"), "no more").expect("is written");
    assert!(!compare().status.success(), "a changed file is found");
    let closed = place.command(&["ls", "-R", "--sha256", "latest"]).env_remove("SNAP_PASSWORD").output();
    assert_eq!(closed.expect("runs").status.code(), Some(2), "sums tell contents: they take the passphrase");
}

#[test]
fn the_history_of_a_path_marks_the_last_whole_night() {
    let place = Place::made(&["--encryption", "none"]);
    maildir(&place.path("mail"), 10, 2000, &mut Noise::new(1));
    let backup = |day: u32, status: i32| {
        let time = format!("2026-01-0{day}T03:00");
        let output = place.snap(&["backup", "--daily", "--component", "mail", "mail", "--time", &time]);
        assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
    };
    backup(1, 0);
    fs::write(place.path("mail/cur/new one"), "Subject: a\n\nb\n").expect("is written");
    let old = fs::read_dir(place.path("mail/cur")).expect("lists").flatten().map(|entry| entry.path());
    let old: Vec<_> = old.filter(|path| !path.ends_with("new one")).collect();
    fs::remove_file(&old[0]).expect("file goes");
    fs::rename(&old[1], format!("{}R", old[1].display())).expect("flag is set");
    backup(2, 0);
    fs::rename(place.path("mail/cur"), place.path("elsewhere")).expect("is moved away");
    fs::create_dir(place.path("mail/cur")).expect("folder is made");
    let output =
        place.snap(&["backup", "--daily", "--component", "mail", "mail", "--time", "2026-01-03T03:00"]);
    println!("{}", text(&output.stderr));
    let shown = place.snap(&["--json", "history", "mail/cur"]);
    let rows: Vec<Value> =
        text(&shown.stdout).lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
    let row =
        |at: usize| (rows[at]["files"].as_u64(), rows[at]["added"].as_u64(), rows[at]["removed"].as_u64());
    assert_eq!((rows.len(), row(0), row(1)), (3, (Some(5), None, None), (Some(5), Some(1), Some(1))));
    assert_eq!(rows.iter().filter(|row| row["last_whole"] == true).count(), 1);
    let people = text(&place.snap(&["history", "mail"]).stdout);
    assert!(people.lines().count() == 3 && people.contains("<- the last whole one"), "{people}");
    let nothing = place.snap(&["history", "no/such/place"]);
    assert_eq!(nothing.status.code(), Some(2), "{}", text(&nothing.stderr));
}

fn below(root: &Path) -> Vec<PathBuf> {
    let (mut files, mut todo) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).expect("folder lists") {
            let path = entry.expect("entry reads").path();
            if path.is_dir() { todo.push(path) } else { files.push(path) }
        }
    }
    files
}

#[test]
fn a_snapshot_whose_tagging_was_cut_off_and_that_is_tagged_again_is_there_once() {
    let place = Place::made(&["--encryption", "none"]);
    fs::write(place.path("file"), b"x").expect("file is written");
    place.json(&["backup", "file"]);
    let old = below(&place.path("repo/snapshots"));
    let bytes = fs::read(&old[0]).expect("manifest reads");
    place.json(&["tag", "latest", "--add", "old"]);
    fs::write(&old[0], bytes).expect("manifest is written"); // as if the power had gone before it was removed
    let tagged = place.json(&["tag", "latest", "--add", "b/c"]);
    assert_eq!(tagged["tags"], serde_json::json!(["b/c", "old"]));
    let listed = text(&place.snap(&["--json", "snapshots"]).stdout);
    assert_eq!((listed.lines().count(), below(&place.path("repo/snapshots")).len()), (1, 1), "{listed}");
}

#[test]
fn a_tag_that_no_directory_can_be_called_or_that_means_something_else_is_refused() {
    let place = Place::made(&["--encryption", "none"]);
    let reserved = ["latest", "daily/2026-01-05", "weekly/2026-week-01", "before:2026-01-05", "2026", "beef"];
    for tag in ["daily/", "/daily", "a//b", "..", "a/../b", "."].into_iter().chain(reserved) {
        assert!(place.refused(&["tag", "latest", "--add", tag], 2).contains("a tag is text"), "{tag}");
    }
}

#[test]
fn bad_input_gets_one_line_and_status_two() {
    let place = Place::made(&["--encryption", "none"]);
    fs::write(place.path("file"), b"x").expect("file is written");
    place.json(&["backup", "file"]);
    let nowhere = place.command(&["snapshots", "--repo", "nowhere"]).output().expect("runs");
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(text(&nowhere.stderr).contains("no repository here"), "{}", text(&nowhere.stderr));
    assert!(place.refused(&["init"], 2).contains("there is a repository here already"));
    assert!(place.refused(&["backup"], 2).contains("nothing to back up"));
    assert!(place.refused(&["backup", "absent"], 2).contains("absent"));
    assert!(place.refused(&["cat", "latest:nothing"], 2).contains("not in snapshot"));
    assert!(place.refused(&["backup", "file", "--time", "yesterday"], 2).contains("is not a time"));
    assert!(place.refused(&["restore", "latest", "--target", "repo"], 2).contains("lies in the repository"));
    assert!(place.refused(&["restore", "latest", "--target", "."], 2).contains("target is not empty"));
    let config = fs::read_to_string(place.path("repo/config")).expect("config reads");
    for (bytes, says) in [
        (config.replace("format = 1", "format = 2"), "use a newer snap"),
        (config[..config.len() / 2].to_owned(), "cut short"),
        ("MZ\u{0}not ours".to_owned(), "not TOML"),
        (String::new(), "cut short"),
    ] {
        fs::write(place.path("repo/config"), bytes).expect("config is written");
        assert!(place.refused(&["snapshots"], 2).contains(says));
    }
}

#[test]
fn an_unreadable_source_is_reported_and_the_rest_goes_on() {
    let place = Place::made(&["--encryption", "none"]);
    fs::write(place.path("there"), b"x").expect("file is written");
    let output = place.snap(&["--json", "backup", "there", "not-there"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let summary = last_json(&output);
    assert_eq!(summary["errors"].as_array().expect("a list").len(), 1);
    assert!(summary["errors"][0]["path"].as_str().expect("text").ends_with("not-there"));
    assert!(summary["snapshot"].is_string());
    assert_eq!(summary["components"][0]["status"], "partial");
}

#[test]
fn a_dry_run_writes_nothing() {
    let place = Place::made(&["--encryption", "none"]);
    maildir(&place.path("mail"), 20, 2000, &mut Noise::new(1));
    let before = picture(&place.path("repo"));
    let summary = place.json(&["backup", "mail", "--dry-run"]);
    assert_eq!((summary["files_new"].clone(), summary["snapshot"].clone()), (20.into(), Value::Null));
    assert_eq!(differences(&before, &picture(&place.path("repo"))), Vec::<String>::new());
    place.json(&["backup", "mail"]);
    let planned = place.json(&["restore", "latest", "--target", "out", "--dry-run"]);
    assert_eq!(planned["files"], 20);
    assert!(!place.path("out").exists());
}

#[test]
fn losing_the_state_directory_costs_one_passphrase() {
    let place = Place::made(&[]);
    fs::write(place.path("file"), b"x").expect("file is written");
    place.json(&["backup", "file"]);
    fs::remove_dir_all(place.path("state")).expect("state goes");
    let refused = place.command(&["backup", "file"]).env_remove("SNAP_PASSWORD").output().expect("runs");
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("snap key enroll"), "{}", text(&refused.stderr));
    assert!(place.snap(&["key", "enroll"]).status.success());
    let again = place.command(&["backup", "file"]).env_remove("SNAP_PASSWORD").output().expect("runs");
    assert!(again.status.success(), "{}", text(&again.stderr));
}

#[test]
fn keys_are_added_rotated_removed_and_exported() {
    let place = Place::made(&[]);
    fs::write(place.path("file"), b"content").expect("file is written");
    place.json(&["backup", "file"]);
    let at = format!("latest:{}", place.path("file").display());
    let with = |passphrase: &str| {
        let output = place.command(&["cat", &at]).env("SNAP_PASSWORD", passphrase).output().expect("runs");
        output.status.success() && output.stdout == b"content"
    };
    let run = |arguments: &[&str], new: &str| {
        let output = place.command(arguments).env("SNAP_NEW_PASSWORD", new).output().expect("runs");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    run(&["key", "add", "--label", "second"], "second horse");
    assert!(with("second horse") && with("correct horse"));
    run(&["key", "rotate-passphrase"], "third horse");
    assert!(with("third horse") && with("second horse") && !with("correct horse"));
    let exported =
        place.command(&["key", "export"]).env("SNAP_PASSWORD", "third horse").output().expect("runs");
    fs::write(place.path("identity"), &exported.stdout).expect("identity is written");
    let by_identity =
        place.command(&["cat", &at, "--identity", "identity"]).env_remove("SNAP_PASSWORD").output();
    assert_eq!(by_identity.expect("runs").stdout, b"content");
    let listed = text(&place.snap(&["--json", "key", "list"]).stdout);
    let second = listed.lines().find(|line| line.contains("second")).expect("the key is listed");
    let second: Value = serde_json::from_str(second).expect("JSON");
    run(&["key", "remove", second["id"].as_str().expect("text")], "unused horse");
    assert!(with("third horse") && !with("second horse"));
    let last = text(&place.snap(&["--json", "key", "list"]).stdout);
    let last: Value = last
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .find(|key: &Value| key["kind"] == "passphrase")
        .expect("one is left");
    let error = place.refused(&["key", "remove", last["id"].as_str().expect("text")], 2);
    assert!(error.contains("no other opens content"), "{error}");
}

#[test]
fn content_for_an_offline_recipient_is_opened_by_its_identity_alone() {
    let identity = age::x25519::Identity::generate();
    let place = Place::made(&["--recipient", &identity.to_public().to_string()]);
    fs::write(place.path("file"), b"content").expect("file is written");
    place.json(&["backup", "file"]);
    let at = format!("latest:{}", place.path("file").display());
    assert_eq!(place.snap(&["cat", &at]).status.code(), Some(2), "no passphrase opens it");
    let secret = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
    fs::write(place.path("identity"), secret).expect("identity is written");
    fs::remove_dir_all(place.path("state")).expect("state goes");
    assert_eq!(text(&place.snap(&["cat", &at, "--identity", "identity"]).stdout), "content");
}

#[test]
fn a_thief_of_the_disk_cannot_add_a_recipient_or_turn_encryption_off() {
    let place = Place::made(&[]);
    let thief = Place::made(&[]);
    fs::write(place.path("file"), b"content").expect("file is written");
    for entry in fs::read_dir(thief.path("repo/keys")).expect("folder lists") {
        let path = entry.expect("entry reads").path();
        fs::copy(&path, place.path("repo/keys").join(path.file_name().expect("has a name")))
            .expect("file is copied");
    }
    // Content is sealed to whom this machine remembers, and somebody is told.
    let said = place.snap(&["backup", "file"]);
    assert_eq!(said.status.code(), Some(1), "{}", text(&said.stderr));
    assert!(
        text(&said.stderr).contains("was not written by this repository's owner"),
        "{}",
        text(&said.stderr)
    );
    let at = format!("latest:{}", place.path("file").display());
    assert_eq!(text(&place.snap(&["cat", &at]).stdout), "content");
    let of_thief = thief.command(&["key", "export"]).output().expect("runs");
    fs::write(place.path("thief"), of_thief.stdout).expect("identity is written");
    let mut cat = place.command(&["cat", &at, "--identity", "thief"]);
    assert_eq!(cat.env_remove("SNAP_PASSWORD").output().expect("runs").status.code(), Some(2));
    let place = Place::made(&[]);
    fs::write(place.path("file"), b"content").expect("file is written");
    let config = fs::read_to_string(place.path("repo/config")).expect("config reads");
    let body = config.split("checksum").next().expect("has a body").replace("\"age\"", "\"none\"");
    let sum = blake3::hash(body.as_bytes());
    fs::write(place.path("repo/config"), format!("{body}checksum = \"{sum}\"\n")).expect("config is written");
    let error = place.refused(&["backup", "file"], 2);
    assert!(error.contains("its encryption is not the one"), "{error}");
}

#[test]
fn a_lost_index_is_made_anew_and_losing_every_fragment_too() {
    let place = Place::made(&["--encryption", "none"]);
    maildir(&place.path("mail"), 20, 2000, &mut Noise::new(1));
    place.json(&["backup", "mail", "--component", "mail"]);
    let index = common::index_cache(place.folder.path());
    fs::remove_file(&index).expect("index goes");
    fs::remove_dir_all(place.path("repo/index")).expect("fragments go");
    let again = place.json(&["backup", "mail", "--component", "mail"]);
    assert_eq!((again["bytes_added"].clone(), again["packs_taken_over"].clone()), (0.into(), 2.into()));
    fs::write(&index, b"not a database").expect("index is spoilt");
    let rebuilt = place.json(&["rebuild-index"]);
    assert_eq!((rebuilt["packs"].clone(), rebuilt["packs_found"].clone()), (2.into(), 0.into()));
    place.json(&["restore", "latest:mail", "--target", "out"]);
    assert_eq!(
        differences(&picture(&place.path("mail")), &picture(&place.path("out"))),
        Vec::<String>::new()
    );
}

#[test]
fn content_that_no_key_at_hand_opens_is_told_and_the_check_is_done_in_part() {
    let (own, stranger) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    let place = Place::made(&["--recipient", &own.to_public().to_string()]);
    for (name, identity) in [("own", own), ("stranger", stranger)] {
        let secret = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
        fs::write(place.path(name), secret).expect("identity is written");
    }
    maildir(&place.path("mail"), 20, 2000, &mut Noise::new(71));
    place.json(&["backup", "mail", "--component", "mail"]);
    let whole = place.snap(&["check", "--read-data", "--identity", "own"]);
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole.stderr));
    assert!(text(&whole.stdout).contains("everything is there and reads as it was written"));
    let part = place.snap(&["check", "--read-data", "--identity", "stranger"]);
    let said = text(&part.stdout);
    assert_eq!(part.status.code(), Some(1), "{said}{}", text(&part.stderr));
    assert!(said.contains("could not be opened with the keys at hand") && said.contains("checked as bytes"));
    assert!(!said.contains("reads as it was written"), "{said}");
    let output = place.snap(&["--json", "check", "--read-data", "--identity", "stranger"]);
    assert_eq!(output.status.code(), Some(1));
    let summary = last_json(&output);
    assert_eq!(summary["sound"], true, "nothing is known to be damaged");
    assert!(summary["frames_closed"].as_u64().is_some_and(|frames| frames > 0), "{summary}");
    // Whoever does not ask to open them misses nothing.
    assert_eq!(place.snap(&["check", "--read-packs"]).status.code(), Some(0));
}

#[test]
fn a_check_of_a_part_says_of_which() {
    let place = Place::made(&["--encryption", "none", "--pack-size", "1MiB"]);
    maildir(&place.path("mail"), 60, 60_000, &mut Noise::new(72));
    place.json(&["backup", "mail", "--component", "mail"]);
    for arguments in [&["check", "--subset", "5%"][..], &["check", "--read-data", "--subset", "5%"]] {
        let output = place.snap(arguments);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(
            said.contains("in the part that was read: 1 of ") && said.contains("(--subset 5%)"),
            "{said}"
        );
        assert!(!said.contains("every pack") && !said.contains("everything"), "{said}");
    }
    assert_eq!(place.json(&["check", "--subset", "1/3"])["subset"], "1/3");
}

#[test]
fn what_is_damaged_is_shown_though_the_other_copy_cannot_give_it() {
    let place = Place::made(&["--encryption", "none", "--pack-size", "1MiB"]);
    maildir(&place.path("mail"), 60, 60_000, &mut Noise::new(73));
    place.json(&["backup", "mail", "--component", "mail"]);
    let copied = Command::new("cp").args(["-a", "repo", "copy"]).current_dir(place.folder.path()).status();
    assert!(copied.expect("cp runs").success());
    let mut packs = Vec::new();
    for folder in fs::read_dir(place.path("repo/packs")).expect("folder lists") {
        let folder = folder.expect("entry reads").path();
        packs.extend(fs::read_dir(folder).expect("folder lists").map(|entry| entry.expect("entry").path()));
    }
    packs.sort();
    for pack in &packs[..2] {
        let mut bytes = fs::read(pack).expect("pack reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(pack, bytes).expect("pack is written");
    }
    // The copy lists it and does not give it.
    let names =
        packs.iter().map(|pack| pack.strip_prefix(place.path("repo")).expect("lies below").to_owned());
    let names: Vec<PathBuf> = names.collect();
    let lost = place.path("copy").join(&names[0]);
    fs::remove_file(&lost).expect("file goes");
    std::os::unix::fs::symlink("nowhere", &lost).expect("link is made");
    let output = place.snap(&["check", "--read-packs", "--repair-from", "copy"]);
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "{said}{errors}");
    assert!(errors.contains(&format!("damaged: {}", names[0].display())), "{errors}");
    assert!(said.contains(&format!("repaired: {}: brought from copy", names[1].display())), "{said}");
    assert!(said.contains(&format!("{}: not healed: the other copy does not give it", names[0].display())));
    assert!(!errors.contains(&names[1].display().to_string()), "what was healed is whole: {errors}");
}

#[test]
fn an_index_that_cannot_be_kept_is_an_error_and_not_made_anew() {
    let place = Place::made(&["--encryption", "none"]);
    maildir(&place.path("mail"), 20, 2000, &mut Noise::new(74));
    place.json(&["backup", "mail", "--component", "mail"]);
    let error = place.refused(&["rebuild-index", "--index", "nowhere/index.redb"], 2);
    assert!(error.contains("nowhere/index.redb: the index cannot be kept here"), "{error}");
    assert!(text(&place.snap(&["rebuild-index"]).stdout).contains("index made anew: 2 packs"));
}

#[test]
fn a_locked_repository_is_refused_with_status_four() {
    let place = Place::made(&["--encryption", "none"]);
    fs::write(place.path("file"), b"x").expect("file is written");
    let lock = fs::File::create(place.path("repo/lock")).expect("lock file opens");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("lock is taken");
    for wait in ["0s", "100ms"] {
        assert!(
            place
                .refused(&["--lock-wait", wait, "backup", "file"], 4)
                .contains("locked by another run; wait for its end")
        );
    }
    // A sweep is short: who waits goes on after it.
    let waiting = place.command(&["backup", "file"]).stdout(Stdio::piped()).spawn().expect("program runs");
    drop(lock);
    assert!(waiting.wait_with_output().expect("program ends").status.success());
}

#[test]
fn help_completions_and_the_manual_page_come_from_one_definition() {
    let place = Place::new();
    for arguments in [&["--help"][..], &["backup", "--help"], &["man"], &["completions", "bash"]] {
        let output = place.snap(arguments);
        assert!(output.status.success() && output.stdout.len() > 500, "{arguments:?}");
    }
    assert_eq!(place.snap(&["no-such-verb"]).status.code(), Some(2));
}

#[test]
fn no_path_of_the_repository_leaves_the_target() {
    // Names are checked when a tree is read: tests in src/stage/tree.rs and src/base/entry.rs. Here:
    // whatever a restore is asked for, what lies beside the target is untouched.
    let place = Place::made(&["--encryption", "none"]);
    fs::create_dir(place.path("d")).expect("folder is made");
    std::os::unix::fs::symlink("../../beside", place.path("d/link")).expect("link is made");
    fs::write(place.path("beside"), b"precious").expect("file is written");
    place.json(&["backup", "d", "--component", "d"]);
    place.json(&["restore", "latest", "--target", "out"]);
    place.json(&["restore", "latest", "--target", "out", "--overwrite", "always", "--delete"]);
    assert_eq!(fs::read(place.path("beside")).expect("file reads"), b"precious");
    assert!(Path::new(&place.path("out/d/link")).is_symlink());
}

#[test]
fn prune_prints_each_snapshot_with_the_rule_that_keeps_it() {
    let place = Place::made(&["--encryption", "none"]);
    maildir(&place.path("mail"), 5, 2_000, &mut Noise::new(51));
    for day in 1..=6 {
        let time = format!("2026-01-0{day}T03:00:00Z");
        place.json(&["backup", "mail", "--component", "mail", "--daily", "--time", &time]);
    }
    let shown = text(&place.snap(&["prune", "--keep-tagged", "daily=4d", "--dry-run"]).stdout);
    assert_eq!(shown.lines().filter(|line| line.ends_with("keep    tag daily for 4d")).count(), 4, "{shown}");
    assert_eq!(shown.lines().filter(|line| line.ends_with("forget")).count(), 2, "{shown}");
    assert!(shown.contains("dry run: nothing was changed"), "{shown}");
    let pinned = place.json(&["tag", "daily/2026-01-01", "--add", "keep"]);
    let (id, old) =
        (pinned["snapshot"].as_str().expect("an id"), pinned["replaced"].as_str().expect("an id"));
    assert_ne!(id, old);
    assert!(place.refused(&["prune", "--forget", id], 2).contains("is pinned"));
    let summary = place.json(&["prune", "--keep-tagged", "daily=4d", "--now"]);
    assert_eq!((&summary["snapshots_kept"], &summary["snapshots_forgotten"]), (&5.into(), &1.into()));
    let left = text(&place.snap(&["snapshots"]).stdout);
    assert!(left.contains("keep") && !left.contains("2026-01-02"), "{left}");
    let line = place.refused(&["prune", "--keep-weekly", "1"], 2);
    assert!(line.contains("3 of 5 snapshots, more than half") && line.contains("--force"), "{line}");
    let summary = place.json(&["prune"]);
    assert_eq!(summary["snapshots_forgotten"], 0, "without a rule nothing is forgotten");
    place.json(&["tag", id, "--remove", "keep"]);
    place.json(&["prune", "--forget", "daily/2026-01-01", "--now"]);
    assert!(place.snap(&["check", "--read-data"]).status.success());
    assert!(place.refused(&["tag", "latest", "--add", "a:b"], 2).contains("a tag is text"));
    assert!(place.refused(&["prune", "--forget", "nothing"], 2).contains("snapshot nothing"));
}
