//! `rebuild-index` beside everything that may run beside it: it makes the cache anew, and nobody is in its way.
//!
//! `SNAP_TEST_SECONDS` says for how long.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Scene;
use crate::common::Noise;

/// Runs commands until the time is over; returns how often. All must succeed.
fn again(scene: &Scene, until: Instant, mut command: impl FnMut(u64) -> Vec<String>) -> u64 {
    let mut count = 0;
    while Instant::now() < until || count < 3 {
        let arguments = command(count);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (status, said) = scene.run(&arguments);
        assert_eq!(status, 0, "{arguments:?} (the {count}th): {said}");
        count += 1;
    }
    count
}

#[test]
fn rebuild_index_works_beside_backups_prunes_checks_and_itself() {
    let seconds = std::env::var("SNAP_TEST_SECONDS").map_or(10, |text| text.parse().expect("a number"));
    let scene = Scene::new();
    scene.with_snapshots(1, 1);
    let until = Instant::now() + Duration::from_secs(seconds);
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let rebuilt = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                rebuilt.fetch_add(again(&scene, until, |_| words("rebuild-index")), Ordering::Relaxed);
            });
        }
        for host in ["a", "b"] {
            let (scene, words) = (&scene, &words);
            scope.spawn(move || {
                let source = scene.at(host);
                fs::create_dir(&source).expect("folder is made");
                let mut noise = Noise::new(host.len() as u64);
                again(scene, until, |number| {
                    for file in 0..20 {
                        let name = source.join(format!("{}", (number * 7 + file) % 60));
                        fs::write(name, noise.bytes(5000)).expect("file is written");
                    }
                    words(&format!("backup {host} --host {host} -q"))
                })
            });
        }
        scope.spawn(|| again(&scene, until, |_| words("prune --keep-last 3 --force --grace 0s")));
        scope.spawn(|| again(&scene, until, |_| words("check")));
        scope.spawn(|| again(&scene, until, |_| words("ls latest --host any")));
    });
    println!("{} times", rebuilt.into_inner());
    scene.runs(&["rebuild-index"]);
    let said = scene.runs(&["check", "--read-data", "-v"]);
    assert!(!said.contains("made anew") && !said.contains("removed"), "{said}");
    let cache = crate::common::index_cache(scene.folder.path());
    let beside = fs::read_dir(cache.parent().expect("a folder")).expect("state lists").count();
    assert_eq!(beside, 2, "the writer secret, the cache, and nothing that was left");
}
