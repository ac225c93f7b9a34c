//! Repositories on S3: every verb, two machines at once, locks that dead runs left, connections that break.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::proxy::{Break, Proxy};
use common::repo::{backup, create_plain, deliver, differences, maildir, open, picture, restore};
use common::s3::{ACCESS_KEY, Bucket, Kind, REGION, SECRET_KEY, own_server, server};
use common::{Noise, can_mount, summary};
use snap::base::id::PackId;
use snap::base::progress::Progress;
use snap::op::check::{Request, check};
use snap::repo::config::Choices;
use snap::repo::keys::NoSecrets;
use snap::store::{Lease, LockMode, LockingStore, Name, S3Keys, S3Options, S3Store, Store, StoreError};

fn choices() -> Choices {
    Choices { pack_bytes: 1 << 20, ..Choices::default() }
}

fn is_sound(repository: &snap::repo::Repository) -> bool {
    let progress = Progress::default();
    let request = Request {
        read_packs: true,
        read_data: true,
        subset: None,
        seed: 0,
        repair: false,
        threads: 4,
        progress: &progress,
    };
    check(repository, &NoSecrets, &request).expect("check ends").is_sound()
}

/// Returns the program's command, with credentials where every AWS program looks for them.
fn program(bucket: &Bucket, home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snap"));
    command.env_clear().env("HOME", home).env("SNAP_STATE_DIR", home.join("state"));
    command.env("AWS_ENDPOINT_URL", &bucket.server.endpoint).env("AWS_REGION", REGION);
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    command
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_MAX_ATTEMPTS", "2")
        .env("SNAP_REPOSITORY", bucket.location());
    command.args(arguments);
    command
}

fn snap(bucket: &Bucket, home: &Path, arguments: &[&str]) -> Output {
    program(bucket, home, arguments).output().expect("snap runs")
}

/// Returns what was told to somebody whose run ended with this error.
fn said(error: StoreError) -> String {
    snap::repo::RepoError::Store(error).chain()
}

/// Objects by key.
type Objects = BTreeMap<String, Vec<u8>>;

/// Returns a store on a server of a few objects, for what a real one does too seldom: `rule` sees each request's
/// head and key before it is done, may change the objects, and may refuse with a status.
fn on_fake_server(
    objects: Objects,
    lease: Lease,
    rule: impl Fn(&str, &str, &mut Objects) -> Option<u16> + Send + Sync + 'static,
) -> S3Store {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let endpoint = format!("http://{}", listener.local_addr().expect("it has an address"));
    let objects = Arc::new(Mutex::new(objects));
    let rule = Arc::new(rule);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (objects, rule) = (objects.clone(), rule.clone());
            std::thread::spawn(move || serve(client, &objects, &*rule));
        }
    });
    let options = S3Options {
        endpoint: Some(endpoint),
        region: Some(REGION.to_owned()),
        path_style: true,
        credentials: Some(S3Keys::new(ACCESS_KEY, SECRET_KEY)),
        attempts: 1,
        lease,
        ..S3Options::default()
    };
    S3Store::open("s3://bucket/some/where".parse().expect("a location"), options).expect("the store opens")
}

/// Answers one request; none if the connection breaks.
fn serve(
    mut client: TcpStream,
    objects: &Mutex<Objects>,
    rule: &dyn Fn(&str, &str, &mut Objects) -> Option<u16>,
) -> Option<()> {
    let mut from = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let header = |name: &str| {
        let mut headers = head.lines().filter_map(|line| line.split_once(':'));
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned())
    };
    let mut body = vec![0; header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
    from.read_exact(&mut body).ok()?;
    let mut words = head.split([' ', '?']);
    let (method, key) = (words.next()?, words.next()?.strip_prefix("/bucket")?.trim_start_matches('/'));
    let mut objects = objects.lock().expect("nobody panics");
    let refused = rule(&head, key, &mut objects);
    let tag = |bytes: &Vec<u8>| format!("\"{}\"", blake3::hash(bytes));
    let (mut length, mut etag) = (0, objects.get(key).map(tag).unwrap_or_default());
    let mut text = String::new();
    let status = match method {
        _ if refused.is_some() => refused?,
        "PUT" if header("if-match").is_some_and(|wanted| wanted != etag) => 412,
        "PUT" => {
            etag = tag(&body);
            objects.insert(key.to_owned(), body);
            200
        }
        "DELETE" => {
            objects.remove(key);
            204
        }
        "HEAD" => {
            length = objects.get(key).map_or(0, Vec::len);
            if objects.contains_key(key) { 200 } else { 404 }
        }
        _ => {
            let row = |(key, bytes): (&String, &Vec<u8>)| {
                let (time, size) = ("2026-01-01T00:00:00.000Z", bytes.len());
                format!(
                    "<Contents><Key>{key}</Key><LastModified>{time}</LastModified><Size>{size}</Size></Contents>"
                )
            };
            let rows: String = objects.iter().map(row).collect();
            text = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>");
            length = text.len();
            200
        }
    };
    let lines = format!("Content-Length: {length}\r\nETag: {etag}\r\nConnection: close\r\n");
    client.write_all(format!("HTTP/1.1 {status} so\r\n{lines}\r\n{text}").as_bytes()).ok()
}

#[track_caller]
fn done(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}{errors}", output.status);
    said
}

#[test]
fn every_verb_works_on_a_repository_on_s3() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Locking);
    let home = tempfile::tempdir().expect("temporary folder");
    let source = home.path().join("mail");
    maildir(&source, 40, 40_000, &mut Noise::new(1));
    let run = |arguments: &[&str]| done(snap(&bucket, home.path(), arguments));
    run(&["init", "--encryption", "none", "--pack-size", "1MiB"]);
    let path = source.to_str().expect("a path is text");
    run(&["backup", path, "--component", "mail"]);
    deliver(&source, 40, 40_000, &mut Noise::new(2));
    let summary = summary(&run(&["backup", path, "--component", "mail", "--json"]));
    assert_eq!(summary["files_new"], 1, "{summary}");
    assert!(common::index_cache(home.path()).exists());
    assert_eq!(run(&["snapshots", "--json"]).lines().count(), 2);
    assert!(run(&["ls", "latest", "-R"]).contains("cur"));
    assert!(run(&["find", "*S=40*"]).contains("new"));
    assert!(run(&["diff", "latest~1", "latest"]).contains("cur"));
    assert!(run(&["stats"]).contains(&bucket.location()));
    run(&["check", "--read-data"]);
    run(&["rebuild-index"]);
    let target = home.path().join("back");
    run(&["restore", "latest:mail", "--target", target.to_str().expect("a path is text")]);
    assert_eq!(differences(&picture(&source), &picture(&target)), Vec::<String>::new());
    assert!(run(&["unlock"]).starts_with("0 locks"), "every run has given its lock back");
}

/// Makes a repository in a bucket, and three snapshots with a day between them; returns the mail.
fn three_days(run: &dyn Fn(&[&str]) -> String, home: &Path) -> PathBuf {
    let source = home.join("mail");
    maildir(&source, 40, 40_000, &mut Noise::new(1));
    run(&["init", "--encryption", "none", "--pack-size", "1MiB"]);
    for (number, day) in ["2026-01-01", "2026-01-02", "2026-01-03"].into_iter().enumerate() {
        for entry in fs::read_dir(source.join("cur")).expect("lists").step_by(2) {
            fs::remove_file(entry.expect("entry").path()).expect("removes");
        }
        deliver(&source, 40 + number, 40_000, &mut Noise::new(2 + number as u64));
        let path = source.to_str().expect("a path is text");
        run(&["backup", path, "--component", "mail", "--time", &format!("{day}T03:00:00Z")]);
    }
    source
}

#[test]
fn tags_pin_and_prune_removes_what_nothing_needs_on_s3() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Locking);
    let home = tempfile::tempdir().expect("temporary folder");
    let run = |arguments: &[&str]| done(snap(&bucket, home.path(), arguments));
    let source = three_days(&run, home.path());
    run(&["tag", "latest~2", "--add", "keep"]);
    let packs =
        || bucket.files().into_iter().filter(|path| path.starts_with("packs/")).collect::<BTreeSet<_>>();
    let before = packs();
    let plan = run(&["prune", "--keep-last", "1", "--max-unused", "0", "--dry-run", "--json"]);
    assert_eq!(summary(&plan)["snapshots_forgotten"], 1, "the pinned one stays: {plan}");
    run(&["prune", "--keep-last", "1", "--max-unused", "0", "--grace", "0s"]);
    assert_eq!(run(&["snapshots", "--json"]).lines().count(), 2);
    run(&["check", "--read-data"]);
    run(&["tag", "latest~1", "--remove", "keep"]);
    run(&["prune", "--keep-last", "1", "--max-unused", "0", "--grace", "0s"]);
    let last = run(&["prune", "--keep-last", "1", "--max-unused", "0", "--now", "--json"]);
    assert_eq!(run(&["snapshots", "--json"]).lines().count(), 1);
    assert!(before.difference(&packs()).count() > 1, "{last}: {before:?}, {:?}", packs());
    run(&["check", "--read-data"]);
    let target = home.path().join("back");
    run(&["restore", "latest:mail", "--target", target.to_str().expect("a path is text")]);
    assert_eq!(differences(&picture(&source), &picture(&target)), Vec::<String>::new());
    assert!(run(&["unlock"]).starts_with("0 locks"), "every run has given its lock back");
}

#[test]
fn a_prune_that_needs_a_bucket_alone_lets_the_living_end_and_the_dead_be_cleared_away() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let home = tempfile::tempdir().expect("temporary folder");
    let run = |arguments: &[&str]| done(snap(&bucket, home.path(), arguments));
    three_days(&run, home.path());
    let backup = bucket.store().lock(LockMode::Shared).expect("free");
    let prune =
        |wait| snap(&bucket, home.path(), &["prune", "--keep-last", "2", "--now", "--lock-wait", wait]);
    let refused = prune("1s");
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{errors}");
    assert!(errors.contains("--lock-wait") && errors.contains("snap unlock"), "{errors}");
    assert_eq!(run(&["snapshots", "--json"]).lines().count(), 3, "nothing was removed");
    drop(backup);
    let killed = bucket.store_with_lease(900, 1000); // never renewed, as if its process were gone
    std::mem::forget(killed.lock(LockMode::Exclusive).expect("free"));
    assert!(!prune("1s").status.success(), "it may be alive");
    let cleared = run(&["unlock"]);
    assert!(cleared.contains("exclusive"), "{cleared}");
    done(prune("1s"));
    assert_eq!(run(&["snapshots", "--json"]).lines().count(), 2);
}

#[test]
fn a_mount_shows_a_repository_on_s3() {
    if !can_mount() {
        return;
    }
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let home = tempfile::tempdir().expect("temporary folder");
    let run = |arguments: &[&str]| done(snap(&bucket, home.path(), arguments));
    let source = three_days(&run, home.path());
    let point = home.path().join("mnt");
    fs::create_dir(&point).expect("folder is made");
    let log = home.path().join("log");
    let to_str = |path: &Path| path.to_str().expect("a path is text").to_owned();
    run(&["mount", &to_str(&point), "--background", "--log", &to_str(&log)]);
    let shown = std::panic::catch_unwind(|| picture(&point.join("latest/mail")));
    let days = fs::read_dir(point.join("snapshots")).map(Iterator::count);
    let unmounted = Command::new("umount").arg(&point).status().expect("umount runs");
    assert!(unmounted.success());
    assert_eq!(differences(&picture(&source), &shown.expect("it reads")), Vec::<String>::new());
    assert_eq!(days.expect("it lists"), 3);
}

#[test]
fn what_is_put_has_the_storage_class_that_was_asked_for() {
    let Some(server) = own_server("storage classes") else { return };
    let bucket = server.bucket(Kind::Locking);
    let home = tempfile::tempdir().expect("temporary folder");
    let class = ["--s3-storage-class", "STANDARD_IA"];
    let run = |arguments: &[&str]| done(snap(&bucket, home.path(), &[arguments, &class].concat()));
    three_days(&run, home.path());
    let classes = |bucket: &Bucket| -> Vec<(String, Option<String>)> {
        let listing = server.client.list_objects_v2().bucket(&bucket.name).send();
        let listing = server.wait(listing).expect("objects list");
        let row = |object: &aws_sdk_s3::types::Object| {
            let class = object.storage_class().map(|class| class.as_str().to_owned());
            (object.key().expect("an object has a key").to_owned(), class)
        };
        listing.contents().iter().map(row).filter(|(key, _)| key.contains("/packs/")).collect()
    };
    let is_class = |rows: &[(String, Option<String>)]| {
        !rows.is_empty() && rows.iter().all(|(_, class)| class.as_deref() == Some("STANDARD_IA"))
    };
    assert!(is_class(&classes(&bucket)), "{:?}", classes(&bucket));
    // The copy of a local repository as well.
    let copy = server.bucket(Kind::Locking);
    let local = home.path().join("local");
    let local = local.to_str().expect("a path is text");
    run(&["clone", &bucket.location(), "--repo", local]);
    run(&["sync", &copy.location(), "--repo", local]);
    assert!(is_class(&classes(&copy)), "{:?}", classes(&copy));
}

#[test]
fn keys_on_s3_are_added_changed_and_removed() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Locking);
    let home = tempfile::tempdir().expect("temporary folder");
    let run = |arguments: &[&str], passphrase: &str, new: &str| {
        let mut command = program(&bucket, home.path(), arguments);
        command.env("SNAP_PASSWORD", passphrase).env("SNAP_NEW_PASSWORD", new).output().expect("snap runs")
    };
    let file = home.path().join("file");
    fs::write(&file, "a file").expect("writes");
    done(run(&["init"], "first horse", ""));
    done(run(&["backup", file.to_str().expect("a path is text"), "--component", "mail"], "", ""));
    done(run(&["key", "add", "--label", "second"], "first horse", "second horse"));
    done(run(&["key", "rotate-passphrase"], "first horse", "third horse"));
    let listed = done(run(&["--json", "key", "list"], "", ""));
    let second = listed.lines().map(summary).find(|row| row["label"] == "second").expect("it is listed");
    done(run(&["key", "remove", second["id"].as_str().expect("text")], "third horse", ""));
    for passphrase in ["first horse", "second horse"] {
        assert!(!run(&["cat", "latest:mail/file"], passphrase, "").status.success(), "{passphrase}");
    }
    assert!(done(run(&["key", "export"], "third horse", "")).contains("AGE-SECRET-KEY-"));
    fs::remove_dir_all(home.path().join("state")).expect("it is lost");
    done(run(&["key", "enroll"], "third horse", ""));
    assert_eq!(done(run(&["cat", "latest:mail/file"], "third horse", "")), "a file");
}

#[test]
fn a_web_identity_gives_credentials() {
    let Some(server) = own_server("credentials for web identities") else { return };
    let bucket = server.bucket(Kind::Plain);
    let home = tempfile::tempdir().expect("temporary folder");
    let token = home.path().join("token");
    fs::write(&token, "e30.e30.none").expect("writes");
    let mut command = program(&bucket, home.path(), &["init", "--encryption", "none"]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let without = command.output().expect("snap runs");
    let errors = String::from_utf8_lossy(&without.stderr);
    assert!(errors.contains("credential") && errors.lines().count() == 1, "{errors}");
    command
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token)
        .env("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/uploader");
    done(command.output().expect("snap runs"));
    assert!(bucket.files().contains(&"config".to_owned()));
}

#[test]
fn a_mistake_ends_in_one_line_that_says_what_to_do() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let home = tempfile::tempdir().expect("temporary folder");
    let fails = |arguments: &[&str], says: &str| {
        let output = snap(&bucket, home.path(), arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(says) && errors.lines().count() == 1, "{arguments:?}: {errors}");
    };
    fails(&["snapshots"], "no repository here; make one with 'snap init'");
    fails(&["snapshots", "--repo", "s3://no-such-bucket-at-all/x"], "make the bucket first");
    fails(&["snapshots", "--repo", "s3://B/x"], "is not a bucket's name");
    fails(&["snapshots", "--s3-endpoint", "http://127.0.0.1:9"], "check the network and the endpoint");
    fails(&["snapshots", "--s3-profile", "none-such"], "credential");
}

#[test]
fn two_machines_that_back_up_to_one_bucket_at_once_lose_nothing() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let state = tempfile::tempdir().expect("temporary folder");
    create_plain(Arc::new(bucket.store()), state.path(), choices()).expect("repository is made");
    let sources: Vec<tempfile::TempDir> =
        (0..2).map(|_| tempfile::tempdir().expect("temporary folder")).collect();
    for (n, source) in sources.iter().enumerate() {
        maildir(source.path(), 30, 40_000, &mut Noise::new(7)); // the same
        deliver(source.path(), 100 + n, 40_000, &mut Noise::new(n as u64)); // its own
    }
    std::thread::scope(|scope| {
        for (n, source) in sources.iter().enumerate() {
            let (bucket, state) = (&bucket, state.path());
            scope.spawn(move || {
                let repository = open(Arc::new(bucket.store()), state, None).expect("repository opens");
                let _lock = repository.lock(LockMode::Shared).expect("shared beside shared");
                let report = backup(&repository, source.path(), 1_767_100_000 + n as i64).expect("backup");
                assert!(report.is_whole());
            });
        }
    });
    let repository = open(Arc::new(bucket.store()), state.path(), None).expect("repository opens");
    assert!(is_sound(&repository));
    let snapshots = repository.snapshots().expect("snapshots list").all;
    assert_eq!(snapshots.len(), 2);
    for (snapshot, source) in snapshots.iter().zip(&sources) {
        let target = tempfile::tempdir().expect("temporary folder");
        assert!(restore(&repository, snapshot, target.path()).expect("restore ends").lacks.is_empty());
        assert_eq!(differences(&picture(source.path()), &picture(target.path())), Vec::<String>::new());
    }
}

#[test]
fn a_lock_that_a_dead_run_left_does_not_block_for_ever() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let crashed = bucket.store_with_lease(3, 1000); // never renewed, as if its process were gone
    std::mem::forget(crashed.lock(LockMode::Exclusive).expect("free"));
    let store = bucket.store_with_lease(3, 1);
    let refused = store.lock(LockMode::Shared).map(drop).expect_err("it may be alive");
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused:?}");
    let started = Instant::now();
    while store.lock(LockMode::Exclusive).is_err() {
        assert!(started.elapsed() < Duration::from_secs(30), "the dead run blocks for ever");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(started.elapsed() >= Duration::from_secs(1), "its lease is respected as long as it lasts");
}

#[test]
fn a_live_runs_lock_is_renewed_and_holds() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let store = bucket.store_with_lease(3, 1);
    let lock = store.lock(LockMode::Exclusive).expect("free");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(6) {
        let refused = bucket.store_with_lease(3, 1).lock(LockMode::Shared).map(drop);
        assert!(matches!(refused, Err(StoreError::Locked { .. })), "{refused:?}");
        std::thread::sleep(Duration::from_millis(900));
    }
    store.put_new(&Name::Config, b"config").expect("it still may write");
    drop(lock);
    drop(bucket.store().lock(LockMode::Exclusive).expect("given back"));
}

#[test]
fn a_run_whose_lock_was_broken_writes_nothing_more() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let store = bucket.store_with_lease(60, 1);
    let _lock = store.lock(LockMode::Shared).expect("free");
    store.put_new(&Name::Config, b"config").expect("writes");
    assert_eq!(bucket.store().break_locks().expect("breaks").len(), 1);
    let name = |n: u8| Name::Pack(PackId::from_bytes([n; 32]));
    let started = Instant::now();
    let refused = (0..=255).find_map(|n| {
        std::thread::sleep(Duration::from_millis(100));
        store.put_new(&name(n), b"bytes").err()
    });
    let refused = refused.expect("it finds out").to_string();
    assert!(started.elapsed() < Duration::from_secs(20), "{refused}");
    assert!(store.delete(&Name::Config).is_err());
}

#[test]
fn what_is_under_way_when_the_lock_runs_out_does_not_arrive() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let lease = Lease { lasts: Duration::from_secs(4), renewed_every: Duration::from_secs(1000) };
    let store =
        bucket.store_with(S3Options { lease, upload_bytes_per_s: Some(256 << 10), ..bucket.options() });
    let _lock = store.lock(LockMode::Shared).expect("free");
    let started = Instant::now();
    let refused = store.put_new(&Name::Config, &Noise::new(3).bytes(8 << 20)).expect_err("takes too long");
    let refused = said(refused);
    assert!(refused.contains("could not be renewed in time"), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(!bucket.files().contains(&Name::Config.to_string()));
}

#[test]
fn a_lock_that_ran_out_while_the_network_was_gone_is_not_revived() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let proxy = Proxy::start(&server.endpoint, 0, 0, Break::Cut);
    let store = bucket.store_with(S3Options {
        endpoint: Some(proxy.endpoint.clone()),
        lease: Lease { lasts: Duration::from_secs(3), renewed_every: Duration::from_secs(1) },
        attempts: 1,
        connect_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_secs(5),
        ..bucket.options()
    });
    let _lock = store.lock(LockMode::Shared).expect("free");
    let renewed = || {
        let listing = server.client.list_objects_v2().bucket(&bucket.name).prefix(bucket.key("locks/"));
        let listing = server.wait(listing.send()).expect("objects list");
        let lock = listing.contents().first().expect("the lock's object is there");
        lock.last_modified().expect("it has a time").secs()
    };
    proxy.break_next(i64::MAX);
    std::thread::sleep(Duration::from_secs(5)); // nothing tells that time has passed but that it has
    let before = renewed();
    proxy.break_next(0);
    let mended = Instant::now();
    while renewed() == before && mended.elapsed() < Duration::from_secs(4) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let refused = store.put_new(&Name::Config, b"config").expect_err("another run may have begun");
    let refused = said(refused);
    assert!(refused.contains("could not be renewed in time"), "{refused}");
    assert_eq!(renewed(), before);
}

#[test]
fn who_removes_a_lock_while_it_is_being_renewed_has_removed_it() {
    let is_due = Arc::new(AtomicBool::new(false));
    let due = is_due.clone();
    let lease = Lease { lasts: Duration::from_secs(60), renewed_every: Duration::from_secs(1) };
    let store = on_fake_server(Objects::new(), lease, move |head, key, objects| {
        // Between the look that a renewal begins with, and its put.
        if head.starts_with("PUT") && key.contains("/locks/") && due.swap(false, Ordering::SeqCst) {
            objects.remove(key);
        }
        None
    });
    let _lock = store.lock(LockMode::Shared).expect("free");
    is_due.store(true, Ordering::SeqCst);
    let started = Instant::now();
    loop {
        let refused = store.delete(&Name::Config).expect_err("there is none");
        if said(refused).contains("could not be renewed in time") {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "the lock was put there again");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_server_that_knows_no_condition_has_its_locks_renewed_all_the_same() {
    let is_asked = Arc::new(AtomicBool::new(false));
    let asked = is_asked.clone();
    let lease = Lease { lasts: Duration::from_secs(3), renewed_every: Duration::from_secs(1) };
    let store = on_fake_server(Objects::new(), lease, move |head, _, _| {
        let is_conditional = head.to_ascii_lowercase().contains("\r\nif-match:");
        asked.fetch_or(is_conditional, Ordering::SeqCst);
        is_conditional.then_some(501)
    });
    let _lock = store.lock(LockMode::Shared).expect("free");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        let refused = store.delete(&Name::Config).expect_err("there is none");
        assert!(refused.is_missing(), "{refused:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(is_asked.load(Ordering::SeqCst), "it was asked with the condition first");
}

#[test]
fn a_lock_that_cannot_be_removed_is_not_called_removed() {
    let lock = ("some/where/locks/shared-host-1-ab".to_owned(), b"held".to_vec());
    let store = on_fake_server(Objects::from([lock]), Lease::default(), |head, _, _| {
        (!head.starts_with("GET")).then_some(403)
    });
    let refused = said(store.break_locks().expect_err("nobody may"));
    assert!(refused.contains("locks/shared-host-1-ab: cannot remove: AccessDenied"), "{refused}");
}

#[test]
fn uploads_that_share_a_slow_line_all_arrive() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let store = bucket.store_with(S3Options {
        upload_bytes_per_s: Some(64 << 10),
        read_timeout: Duration::from_secs(5),
        attempts: 1,
        ..bucket.options()
    });
    let bytes = Noise::new(4).bytes(256 << 10);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (store, bytes) = (&store, &bytes);
            let name = Name::Pack(PackId::from_bytes([n; 32]));
            scope.spawn(move || store.put_new(&name, bytes).map_err(said).expect("it arrives"));
        }
    });
    assert_eq!(bucket.files().len(), 8);
}

#[test]
fn a_limit_on_uploads_is_kept() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let options = S3Options { upload_bytes_per_s: Some(1 << 20), ..bucket.options() };
    let store = bucket.store_with(options);
    let bytes = Noise::new(3).bytes(2 << 20);
    let started = Instant::now();
    store.put_new(&Name::Config, &bytes).expect("puts");
    assert!(started.elapsed() >= Duration::from_millis(1800), "{:?}", started.elapsed());
    assert!(store.read(&Name::Config, 4 << 20).expect("reads") == bytes);
}

#[test]
fn one_files_restore_fetches_its_frames_and_not_the_packs() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let state = tempfile::tempdir().expect("temporary folder");
    let source = tempfile::tempdir().expect("temporary folder");
    let mut noise = Noise::new(5);
    maildir(source.path(), 150, 200_000, &mut noise);
    let store = bucket.store();
    let repository = create_plain(Arc::new(store.clone()), state.path(), Choices::default()).expect("made");
    let _ = backup(&repository, source.path(), 1_767_100_000).expect("backup");
    let stored: u64 = store.usage().bytes_sent;
    assert!(stored > 20_000_000);
    let snapshot = repository.snapshots().expect("snapshots list").all.remove(0);
    let one = fs::read_dir(source.path().join("cur")).expect("lists").next().expect("one").expect("entry");
    let target = tempfile::tempdir().expect("temporary folder");
    let index = snap::repo::index::Index::open(&repository).expect("index opens");
    let reader = snap::repo::reader::Reader::new(&repository, index, 8 << 20);
    let progress = Progress::default();
    let path = [b"mail/cur/", one.file_name().as_encoded_bytes()].concat();
    let request = common::repo::restore_request(&path, target.path(), &progress);
    let before = store.usage();
    let report = snap::op::restore::restore(&reader, &snapshot, &NoSecrets, &request).expect("restore ends");
    assert!(report.lacks.is_empty(), "{:?}", report.lacks);
    let used = store.usage().since(&before);
    assert!(used.bytes_received < 4 << 20, "{used:?} of {stored}");
    assert!(used.reads <= 8, "{used:?}");
    let restored = fs::read(target.path().join(one.file_name())).expect("is there");
    assert!(restored == fs::read(one.path()).expect("reads"));
    // All of it: neighbours come in one read.
    let all = tempfile::tempdir().expect("temporary folder");
    let request = common::repo::restore_request(b"mail", all.path(), &progress);
    let before = store.usage();
    let report = snap::op::restore::restore(&reader, &snapshot, &NoSecrets, &request).expect("restore ends");
    let used = store.usage().since(&before);
    assert!(used.reads < 30 && used.bytes_received < stored + (1 << 20), "{used:?} of {stored}");
    assert_eq!(report.files, 150);
    assert_eq!(differences(&picture(source.path()), &picture(all.path())), Vec::<String>::new());
}

#[test]
fn connections_that_break_are_made_again_and_nothing_is_wrong_afterwards() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    for (bytes, how) in [(0, Break::Cut), (100_000, Break::Cut), (200_000, Break::Stall)] {
        let proxy = Proxy::start(&server.endpoint, 3, bytes, how);
        let options = S3Options {
            endpoint: Some(proxy.endpoint.clone()),
            read_timeout: Duration::from_millis(700),
            backoff: Duration::from_millis(100),
            ..bucket.options()
        };
        let store = bucket.store_with(options);
        let content = Noise::new(bytes).bytes(700_000);
        let name = Name::Pack(PackId::from_bytes([how as u8 + u8::from(bytes > 0) * 2; 32]));
        store.put_new(&name, &content).expect("puts");
        proxy.break_next(3);
        assert!(store.read(&name, 1 << 20).expect("reads") == content, "{bytes} {how:?}");
        assert!(store.read_range(&name, 5..600_000).expect("reads") == content[5..600_000]);
        assert!(proxy.broken() >= 3, "{bytes} {how:?}: {} broke", proxy.broken());
    }
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let proxy = Proxy::start(&server.endpoint, i64::MAX, 0, Break::Stall);
    let options = S3Options {
        endpoint: Some(proxy.endpoint.clone()),
        read_timeout: Duration::from_millis(300),
        attempts: 2,
        ..bucket.options()
    };
    let started = Instant::now();
    let error = bucket.store_with(options).read(&Name::Config, 10).expect_err("there is no answer");
    let StoreError::Io { source, .. } = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("check the network"), "{source}");
    assert!(started.elapsed() < Duration::from_secs(20));
}
