//! A bad line to S3: peers that fall silent, and slow ones.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::front::{Act, Asked, Front};
use common::s3::{ACCESS_KEY, Bucket, Kind, REGION, SECRET_KEY, server};
use common::tls::Tls;
use common::{Noise, can_mount};
use snap::base::id::PackId;
use snap::store::{Name, S3Options, Store, StoreError};

const NAME: Name = Name::Pack(PackId::from_bytes([7; 32]));

/// Returns whether a request puts an object.
fn puts(asked: &Asked) -> bool {
    asked.method == "PUT" && !asked.target.contains("retention")
}

/// Returns options for a server that may be silent for so long.
fn silent_for(bucket: &Bucket, front: &Front, silence: Duration) -> S3Options {
    S3Options {
        endpoint: Some(front.endpoint.clone()),
        read_timeout: silence,
        backoff: Duration::from_millis(100),
        ..bucket.options()
    }
}

#[test]
fn an_upload_that_is_swallowed_fails_after_a_silence_however_long_it_is() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    for (bytes, act) in
        [(1_400_000, Act::Swallow), (1_400_000, Act::TakeNothing), (64 << 20, Act::TakeNothing)]
    {
        let how = act.clone();
        let front =
            Front::start(&server.endpoint, move |asked| if puts(asked) { how.clone() } else { Act::Pass });
        let store = bucket.store_with(silent_for(&bucket, &front, Duration::from_secs(1)));
        let content = vec![5; bytes];
        let started = Instant::now();
        let error = store.put_new(&NAME, &content).expect_err("nobody answers");
        let StoreError::Io { source, .. } = error else { panic!("{error:?}") };
        assert!(source.to_string().contains("no answer in time"), "{source}");
        assert!(started.elapsed() < Duration::from_secs(15), "{bytes} {act:?}: {:?}", started.elapsed());
        let tries = front.heard().iter().filter(|asked| puts(asked)).count();
        assert_eq!(tries, 2, "{bytes} {act:?}: one silence is not the end, two are");
    }
}

#[test]
fn a_slow_line_that_lives_takes_as_long_as_it_needs() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let slow = |asked: &Asked| if puts(asked) { Act::Slow(256 << 10) } else { Act::Pass };
    let front = Front::start(&server.endpoint, slow);
    let silence = Duration::from_secs(3);
    let store = bucket.store_with(silent_for(&bucket, &front, silence));
    let content = Noise::new(8).bytes(2 << 20);
    let started = Instant::now();
    store.put_new(&NAME, &content).expect("puts");
    assert!(started.elapsed() > 2 * silence, "it was not slow: {:?}", started.elapsed());
    assert!(store.read(&NAME, 4 << 20).expect("reads") == content);
    let tries = front.heard().iter().filter(|asked| puts(asked)).count();
    assert_eq!(tries, 1);
}

fn snap(bucket: &Bucket, endpoint: &str, home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snap"));
    command.env_clear().env("HOME", home).env("SNAP_STATE_DIR", home.join("state"));
    command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_REGION", REGION);
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("SNAP_REPOSITORY", bucket.location());
    command.args(arguments).output().expect("snap runs")
}

#[track_caller]
fn done(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_read_of_a_mount_ends_with_an_error_within_a_minute_where_the_server_hangs() {
    if !can_mount() {
        return;
    }
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let home = tempfile::tempdir().expect("temporary folder");
    let source = home.path().join("mail");
    fs::create_dir(&source).expect("folder is made");
    for number in 0..6 {
        fs::write(source.join(number.to_string()), Noise::new(number).bytes(300_000)).expect("writes");
    }
    let hangs = Arc::new(AtomicBool::new(false));
    let asked = hangs.clone();
    let rule = move |_: &Asked| if asked.load(Ordering::SeqCst) { Act::Swallow } else { Act::Pass };
    let front = Front::start(&server.endpoint, rule);
    let run = |arguments: &[&str]| snap(&bucket, &front.endpoint, home.path(), arguments);
    done(&run(&["init", "--encryption", "none"]));
    done(&run(&["backup", source.to_str().expect("text"), "--component", "mail"]));
    let point = home.path().join("mnt");
    fs::create_dir(&point).expect("folder is made");
    let log = home.path().join("log");
    let paths = [point.to_str().expect("text"), log.to_str().expect("text")];
    done(&run(&["mount", paths[0], "--background", "--log", paths[1]]));
    let inside = point.join("latest/mail");
    let listed = fs::read_dir(&inside).map(Iterator::count);
    hangs.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let read = |number: u64| {
        let mut content = Vec::new();
        File::open(inside.join(number.to_string()))
            .and_then(|mut file| file.read_to_end(&mut content))
            .map(drop)
    };
    let read: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|number| scope.spawn(move || read(number))).collect();
        all.into_iter().map(|one| one.join().expect("ends")).collect()
    });
    let took = started.elapsed();
    let unmounted = Command::new("umount").args(["-l", paths[0]]).status().expect("umount runs");
    assert!(unmounted.success());
    assert_eq!(listed.expect("it lists"), 6);
    assert!(took < Duration::from_secs(60), "{took:?}: {read:?}");
    let failed: Vec<_> = read.iter().filter_map(|one| one.as_ref().err()).collect();
    assert!(!failed.is_empty(), "nothing was asked of the server");
    assert!(
        failed.iter().all(|e| e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())),
        "{failed:?}"
    );
}

/// A machine with a repository of its own, and a bucket that can lock.
struct Machine {
    home: tempfile::TempDir,
    bucket: Bucket,
    nights: std::cell::Cell<u64>,
}

impl Machine {
    fn new() -> Option<Self> {
        let bucket = server()?.bucket(Kind::Locking);
        let machine =
            Self { home: tempfile::tempdir().expect("temporary folder"), bucket, nights: Default::default() };
        fs::create_dir(machine.home.path().join("mail")).expect("folder is made");
        done(&machine.local(&["init", "--encryption", "none"]));
        Some(machine)
    }

    fn command(&self, endpoint: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snap"));
        let home = self.home.path();
        command.env_clear().env("HOME", home).env("SNAP_STATE_DIR", home.join("state"));
        command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_REGION", REGION).env("AWS_MAX_ATTEMPTS", "2");
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("SNAP_REPOSITORY", home.join("repo"));
        command.args(arguments);
        command
    }

    fn local(&self, arguments: &[&str]) -> Output {
        self.command("http://127.0.0.1:9", arguments).output().expect("snap runs")
    }

    /// Backs up one message more than the last time.
    fn night(&self) {
        let night = self.nights.replace(self.nights.get() + 1);
        let source = self.home.path().join("mail");
        fs::write(source.join(night.to_string()), Noise::new(night).bytes(50_000)).expect("writes");
        done(&self.local(&["backup", source.to_str().expect("text"), "--component", "mail"]));
    }

    fn sync(&self, endpoint: &str, arguments: &[&str]) -> Output {
        let bucket = self.bucket.location();
        let arguments = [&["sync", bucket.as_str()], arguments].concat();
        self.command(endpoint, &arguments).output().expect("snap runs")
    }

    /// Returns the paths of what is in the repository and not in the bucket.
    fn lacking(&self) -> Vec<String> {
        let there = self.bucket.files();
        let mut all = vec!["config".to_owned()];
        for folder in ["packs", "index", "snapshots"] {
            let mut folders = vec![self.home.path().join("repo").join(folder)];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).expect("lists").flatten() {
                    match entry.path().is_dir() {
                        true => folders.push(entry.path()),
                        false => {
                            let path = entry.path();
                            let path = path.strip_prefix(self.home.path().join("repo")).expect("inside");
                            all.push(path.to_str().expect("text").to_owned());
                        }
                    }
                }
            }
        }
        all.retain(|path| !there.contains(path));
        all
    }
}

#[track_caller]
fn ended(output: &Output, status: i32) -> String {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(output.status.code(), Some(status), "{said}");
    said
}

/// Returns the path of the pack that a request is about.
fn pack_of(asked: &Asked) -> Option<String> {
    let (_, rest) = asked.target.split_once("/packs/")?;
    Some(format!("packs/{}", rest.split('?').next()?))
}

/// Each row of the table in docs/offsite.md: what a server answers about one pack, and whether it is asked again.
const ANSWERS: [(u16, &str, bool); 10] = [
    (400, "BadDigest", false),
    (403, "AccessDenied", false),
    (403, "QuotaExceeded", false),
    (409, "OperationAborted", false),
    (507, "InsufficientStorage", false),
    (429, "TooManyRequests", true),
    (500, "InternalError", true),
    (502, "BadGateway", true),
    (503, "SlowDown", true),
    (504, "GatewayTimeout", true),
];

#[test]
fn one_refused_object_stops_nothing_else_whatever_the_answer_is() {
    let Some(machine) = Machine::new() else { return };
    for (status, code, is_tried_again) in ANSWERS {
        machine.night();
        let refuses = move |asked: &Asked| puts(asked) && pack_of(asked).is_some();
        let act = move |asked: &Asked| if refuses(asked) { Act::Refuse(status, code) } else { Act::Pass };
        let front = Front::start(&machine.bucket.server.endpoint, act);
        let said = ended(&machine.sync(&front.endpoint, &[]), 1);
        let lacking = machine.lacking();
        let heard = front.heard();
        let mut refused: Vec<String> =
            heard.iter().filter(|asked| refuses(asked)).filter_map(pack_of).collect();
        let tries = refused.len();
        refused.sort();
        refused.dedup();
        assert!(!refused.is_empty(), "{code}: {said}");
        assert_eq!(tries, refused.len() * if is_tried_again { 2 } else { 1 }, "{code}: {said}");
        for pack in &refused {
            assert!(said.contains(&format!("ERROR: {pack}: not put into the bucket")), "{code}: {said}");
            assert!(said.contains("tries it again"), "{code}: {said}");
        }
        // All others are there; but the manifest, which needs the pack.
        let others: Vec<&String> = lacking.iter().filter(|path| !refused.contains(path)).collect();
        assert!(others.len() == 1 && others[0].starts_with("snapshots/"), "{code}: {lacking:?}");
        ended(&machine.sync(&machine.bucket.server.endpoint, &[]), 0);
        assert_eq!(machine.lacking(), Vec::<String>::new(), "{code}");
    }
}

#[test]
fn a_pack_that_is_not_there_after_it_was_put_is_told_and_holds_up_nothing() {
    let Some(machine) = Machine::new() else { return };
    machine.night();
    let looks = |asked: &Asked| asked.method == "HEAD" && asked.target.contains("versionId");
    let act = move |asked: &Asked| match looks(asked) && pack_of(asked).is_some() {
        true => Act::Refuse(404, "NotFound"),
        false => Act::Pass,
    };
    let front = Front::start(&machine.bucket.server.endpoint, act);
    let said = ended(&machine.sync(&front.endpoint, &[]), 1);
    assert!(said.contains("it is not there although it was put"), "{said}");
    assert!(machine.lacking().iter().all(|path| path.starts_with("snapshots/")), "{:?}", machine.lacking());
    ended(&machine.sync(&machine.bucket.server.endpoint, &[]), 0);
    assert_eq!(machine.lacking(), Vec::<String>::new());
}

#[test]
fn locks_are_renewed_before_anything_is_put_and_one_that_is_refused_holds_up_no_other() {
    let Some(machine) = Machine::new() else { return };
    machine.night();
    ended(&machine.sync(&machine.bucket.server.endpoint, &[]), 0);
    machine.night();
    let renews = |asked: &Asked| asked.method == "PUT" && asked.target.contains("retention");
    let refuses = move |asked: &Asked| puts(asked) || (renews(asked) && asked.target.contains("/config?"));
    let act = move |asked: &Asked| if refuses(asked) { Act::Refuse(403, "AccessDenied") } else { Act::Pass };
    let front = Front::start(&machine.bucket.server.endpoint, act);
    let longer = ["--lock-days", "40", "--renew-below-days", "35"];
    let said = ended(&machine.sync(&front.endpoint, &longer), 1);
    assert!(said.contains("ERROR: config: its lock ends too soon"), "{said}");
    let heard = front.heard();
    let renewed = heard.iter().filter(|asked| renews(asked)).count();
    let first_put = heard.iter().position(puts).expect("something was to be put");
    let last_renewal = heard.iter().rposition(renews).expect("locks were renewed");
    assert!(last_renewal < first_put, "{heard:?}");
    assert!(renewed >= 4, "{renewed}: config, keys, a pack, a fragment, a manifest");
    ended(&machine.sync(&machine.bucket.server.endpoint, &longer), 0);
}

#[test]
fn a_server_that_is_away_for_a_while_is_waited_for() {
    let Some(machine) = Machine::new() else { return };
    machine.night();
    let away: std::sync::Mutex<Option<Instant>> = std::sync::Mutex::default();
    let act = move |asked: &Asked| {
        let mut since = away.lock().expect("nobody panics");
        if since.is_none() && puts(asked) && pack_of(asked).is_some() {
            *since = Some(Instant::now());
        }
        match since.is_some_and(|since| since.elapsed() < Duration::from_secs(9)) {
            true => Act::Cut,
            false => Act::Pass,
        }
    };
    let front = Front::start(&machine.bucket.server.endpoint, act);
    let started = Instant::now();
    ended(&machine.sync(&front.endpoint, &[]), 0);
    assert!(started.elapsed() > Duration::from_secs(9));
    assert_eq!(machine.lacking(), Vec::<String>::new());
}

#[test]
fn a_server_with_an_authority_of_its_own_is_trusted_where_that_is_said_and_nowhere_else() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let home = tempfile::tempdir().expect("temporary folder");
    let tls = Tls::start(&server.endpoint, home.path());
    let run = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snap"));
        command.env_clear().env("HOME", home.path()).env("SNAP_STATE_DIR", home.path().join("state"));
        command.env("AWS_REGION", REGION).env("AWS_EC2_METADATA_DISABLED", "true");
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("SNAP_REPOSITORY", bucket.location()).envs(variables.iter().copied());
        command.args(arguments).output().expect("snap runs")
    };
    let endpoint = ("AWS_ENDPOINT_URL", tls.endpoint.as_str());
    let authority = tls.authority.to_str().expect("text");
    let init = ["init", "--encryption", "none"];
    let started = Instant::now();
    let said = ended(&run(&[endpoint], &init), 2);
    assert!(said.contains("certificate") && said.contains("AWS_CA_BUNDLE"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(10), "a bad certificate is no matter of patience");
    let said = ended(&run(&[endpoint, ("AWS_CA_BUNDLE", "/nowhere.pem")], &init), 2);
    assert!(said.contains("/nowhere.pem") && said.contains("AWS_CA_BUNDLE"), "{said}");
    let key = home.path().join("key.pem");
    let said = ended(&run(&[endpoint, ("AWS_CA_BUNDLE", key.to_str().expect("text"))], &init), 2);
    assert!(said.contains("none is in it"), "{said}");
    ended(&run(&[endpoint, ("AWS_CA_BUNDLE", authority)], &init), 0);
    ended(&run(&[endpoint, ("SSL_CERT_FILE", authority)], &["snapshots"]), 0);
    let other = tempfile::tempdir().expect("temporary folder");
    let other = Tls::start(&server.endpoint, other.path());
    let both =
        [endpoint, ("AWS_CA_BUNDLE", other.authority.to_str().expect("text")), ("SSL_CERT_FILE", authority)];
    ended(&run(&both, &["snapshots"]), 2);
    // All of it from ~/.aws/config.
    fs::create_dir(home.path().join(".aws")).expect("folder is made");
    let config = format!("[profile own]\nendpoint_url = {}\nca_bundle = {authority}\n", tls.endpoint);
    fs::write(home.path().join(".aws/config"), config).expect("writes");
    ended(&run(&[("AWS_PROFILE", "own")], &["snapshots"]), 0);
    let keys = format!("[own]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    fs::write(home.path().join(".aws/credentials"), keys).expect("writes");
    ended(&run(&[], &["snapshots", "--s3-profile", "own"]), 0);
}

#[test]
fn the_buckets_name_goes_where_the_profile_says() {
    let Some(server) = server() else { return };
    let bucket = server.bucket(Kind::Plain);
    let home = tempfile::tempdir().expect("temporary folder");
    fs::create_dir(home.path().join(".aws")).expect("folder is made");
    let front = Front::start(&server.endpoint, |_| Act::Refuse(403, "AccessDenied"));
    let endpoint = front.endpoint.replace("127.0.0.1", "localhost"); // a name can have the bucket's before it
    for (style, flag, in_path) in
        [("path", false, true), ("auto", false, true), ("virtual", false, false), ("virtual", true, true)]
    {
        let config = format!("[default]\nendpoint_url = {endpoint}\ns3 =\n  addressing_style = {style}\n");
        fs::write(home.path().join(".aws/config"), config).expect("writes");
        let mut command = Command::new(env!("CARGO_BIN_EXE_snap"));
        command.env_clear().env("HOME", home.path()).env("AWS_REGION", REGION).env("AWS_MAX_ATTEMPTS", "1");
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("SNAP_STATE_DIR", home.path().join("state")).env("SNAP_REPOSITORY", bucket.location());
        command.args(["snapshots"]).args(flag.then_some("--s3-path-style"));
        let said = ended(&command.output().expect("snap runs"), 2);
        let heard = front.heard();
        let named = format!("/{}", bucket.name);
        let is_in_path = heard.first().map(|asked| asked.target.starts_with(&named));
        // A name of a bucket before this host's may not be known here: then nothing is heard.
        match in_path {
            true => assert_eq!(is_in_path, Some(true), "{style}: {said}"),
            false => assert_ne!(is_in_path, Some(true), "{style}: {said}"),
        }
    }
}

/// Counts requests that are under way at the same time.
#[derive(Default)]
struct AtOnce {
    /// How many are held now, and how many were at most.
    held: Mutex<(usize, usize)>,
    came: Condvar,
}

impl AtOnce {
    /// Holds a request until so many are there, or for so long that they surely do not come: one after the other would
    /// show.
    fn hold(&self, all: usize) {
        let mut held = self.held.lock().expect("lock");
        held.0 += 1;
        held.1 = held.1.max(held.0);
        self.came.notify_all();
        let waited = self.came.wait_timeout_while(held, Duration::from_secs(4), |(_, most)| *most < all);
        waited.expect("lock").0.0 -= 1;
    }

    /// Returns how many were held at the same time, at most.
    fn most(&self) -> usize {
        self.held.lock().expect("lock").1
    }
}

#[test]
fn the_frames_of_a_folder_that_changed_on_many_nights_are_fetched_side_by_side() {
    let Some(machine) = Machine::new() else { return };
    let source = machine.home.path().join("mail");
    let write = |name: String| fs::write(source.join(name), "").expect("writes");
    (0..2000).for_each(|number| write(format!("{number:06}-a-message-with-a-rather-long-name,S=1234:2,S")));
    for night in 0..8 {
        write(format!("{:06}-new", 200 + night * 200));
        machine.night();
    }
    let server = &machine.bucket.server.endpoint;
    ended(&machine.sync(server, &[]), 0);
    let at_once = Arc::new(AtOnce::default());
    let counts = at_once.clone();
    let front = Front::start(server, move |asked: &Asked| {
        if asked.method == "GET" && asked.target.contains("/packs/") {
            counts.hold(3);
        }
        Act::Pass
    });
    let mut command = machine.command(&front.endpoint, &["ls", "latest:mail"]);
    command.env("SNAP_REPOSITORY", machine.bucket.location());
    command.env("SNAP_STATE_DIR", machine.home.path().join("other"));
    let said = ended(&command.output().expect("snap runs"), 0);
    assert_eq!(said.lines().filter(|line| line.contains("-new") || line.contains("message")).count(), 2008);
    let gets = front.heard();
    let gets = gets.iter().filter(|asked| asked.method == "GET" && asked.target.contains("/packs/")).count();
    assert!(gets >= 4, "{gets}: the folder lies in few frames");
    assert!(at_once.most() >= 3, "{gets} one after the other");
}

#[test]
fn manifests_and_fragments_are_fetched_side_by_side_and_each_once() {
    let Some(machine) = Machine::new() else { return };
    let nights = 24;
    (0..nights).for_each(|_| machine.night());
    let server = &machine.bucket.server.endpoint;
    ended(&machine.sync(server, &[]), 0);
    let at_once = Arc::new(AtOnce::default());
    let counts = at_once.clone();
    let front = Front::start(server, move |asked: &Asked| {
        let is_small = asked.method == "GET"
            && ["/snapshots/", "/index/"].iter().any(|part| asked.target.contains(part));
        if is_small {
            counts.hold(4);
        }
        Act::Pass
    });
    let location = machine.bucket.location();
    let run = |arguments: &[&str]| {
        let mut command = machine.command(&front.endpoint, arguments);
        command.env("SNAP_REPOSITORY", &location).env("SNAP_STATE_DIR", machine.home.path().join("other"));
        command.output().expect("snap runs")
    };
    let said = ended(&run(&["snapshots", "--json", "-v"]), 0);
    let heard = front.heard();
    let counted = format!("{}: {} requests over ", machine.bucket.location(), heard.len());
    assert!(said.contains(&counted), "{counted}: {said}");
    assert_eq!(said.lines().filter(|line| line.contains("\"id\"")).count(), nights, "{said}");
    let most = at_once.most();
    assert!(most >= 4, "{most} at once");
    let gets = |heard: &[Asked], part: &str| {
        let mut targets: Vec<String> = heard
            .iter()
            .filter(|asked| asked.method == "GET" && asked.target.contains(part))
            .map(|asked| asked.target.clone())
            .collect();
        let all = targets.len();
        targets.sort();
        targets.dedup();
        (all, targets.len())
    };
    assert_eq!(gets(&heard, "/snapshots/"), (nights, nights));
    // What was fetched is not fetched again; and what is remembered is proved before it counts.
    ended(&run(&["snapshots"]), 0);
    assert_eq!(gets(&front.heard(), "/snapshots/"), (0, 0));
    machine.night();
    ended(&machine.sync(server, &[]), 0);
    ended(&run(&["snapshots"]), 0);
    assert_eq!(gets(&front.heard(), "/snapshots/"), (1, 1));
    let remembered = fs::read_dir(machine.home.path().join("other")).expect("lists").flatten();
    let inside = remembered.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    let mut files = inside.map(|entry| entry.path());
    let file = files.find(|path| path.extension().is_some_and(|end| end == "manifests")).expect("it is kept");
    let mut bytes = fs::read(&file).expect("reads");
    bytes[40] ^= 1;
    fs::write(&file, &bytes).expect("writes");
    let said = ended(&run(&["snapshots", "--json"]), 0);
    assert_eq!(said.lines().filter(|line| line.contains("\"id\"")).count(), nights + 1, "{said}");
    assert_eq!(gets(&front.heard(), "/snapshots/"), (1, 1), "the damaged one is asked for");
    fs::write(&file, [0xff; 100]).expect("writes");
    let said = ended(&run(&["snapshots", "--json"]), 0);
    assert_eq!(said.lines().filter(|line| line.contains("\"id\"")).count(), nights + 1, "{said}");
    assert_eq!(gets(&front.heard(), "/snapshots/"), (nights + 1, nights + 1), "the file is made anew");
    let target = machine.home.path().join("restored");
    let restore = ["restore", "latest:mail/0", "--target", target.to_str().expect("text")];
    ended(&run(&restore), 0);
    let heard = front.heard();
    let (all, different) = gets(&heard, "/index/");
    assert_eq!(all, different, "no fragment is read twice");
    assert!(different >= nights / 2, "{different}");
}
