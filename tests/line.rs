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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::front::{Act, Asked, Front};
use common::s3::{ACCESS_KEY, Bucket, Kind, REGION, SECRET_KEY, server};
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
    for (bytes, act) in [(1_400_000, Act::Swallow), (1_400_000, Act::TakeNothing), (64 << 20, Act::TakeNothing)] {
        let how = act.clone();
        let front = Front::start(&server.endpoint, move |asked| if puts(asked) { how.clone() } else { Act::Pass });
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
        File::open(inside.join(number.to_string())).and_then(|mut file| file.read_to_end(&mut content)).map(drop)
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
    assert!(failed.iter().all(|e| e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())), "{failed:?}");
}
