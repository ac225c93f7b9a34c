//! A machine that gives no more threads: the work is done with fewer, or the program says so. It never panics, and
//! never hangs. The limit is one of processes, which root does not have: it takes root to become somebody else.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use crate::{Scene, everything_below, said};

/// Threads with which a backup works, however many it would take: the program's first one, one that hears signals, and one
/// for each step of a backup; and three more for progress as JSON, a command, and what that complains of.
const ENOUGH: u64 = 6;
const ENOUGH_FOR_COMMANDS: u64 = 9;

/// Users that nobody has.
const USERS: std::ops::Range<u32> = 54_321..54_400;

/// Runs the program as a user who may have so many threads, the program's first one among them.
fn limited(scene: &Scene, user: u32, threads: u64, arguments: &[&str]) -> (i32, String) {
    let limit = format!("--nproc={threads}");
    let user = user.to_string();
    let mut command = Command::new("timeout");
    command.args(["120", "setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "prlimit", &limit]);
    let own = scene.command(arguments);
    command.arg(own.get_program()).args(own.get_args()).env_clear().current_dir(scene.folder.path());
    command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    said(&command.output().expect("program runs"))
}

#[test]
fn without_threads_to_be_had_nothing_panics_and_nothing_hangs() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let user = USERS.start + std::process::id() % (USERS.end - USERS.start);
    let scene = Scene::new();
    scene.runs(&["init"]);
    for seed in 0..3 {
        scene.change(seed, 2);
        scene.runs(&["backup", "source"]);
    }
    let own = |path: &Path| chown(path, Some(user), Some(user)).expect("owner is set");
    own(scene.folder.path());
    everything_below(scene.folder.path()).iter().for_each(|path| own(path));
    let repo = scene.repo.to_str().expect("text").to_owned();
    let mut works = 0;
    for threads in [1, 2, 3, 4, 6, 9, 24] {
        let copy = format!("copy-{threads}");
        let made = format!("made-{threads}");
        let back = format!("back-{threads}");
        scene.change(threads, 2);
        own(&scene.at("source/file"));
        let commands: [&[&str]; 9] = [
            &["--repo", &made, "init"],
            &["backup", "source", "--threads", "4"],
            &["--json", "backup", "--stdin-name", "dump", "--", "echo", "hello"],
            &["check", "--read-data", "--threads", "4"],
            &["restore", "latest", "--target", &back, "--threads", "4", "--verify"],
            &["find", "file"],
            &["rebuild-index"],
            &["clone", &repo, "--repo", &copy],
            &["prune", "--keep-last", "2", "--now", "--unlock"],
        ];
        for arguments in commands {
            let (status, said) = limited(&scene, user, threads, arguments);
            let what = format!("{threads} threads: {arguments:?}: {status}: {said}");
            assert!(!said.contains("panicked") && [0, 1, 2].contains(&status), "{what}");
            // The directories that lead to the source are root's, and no other user can make such.
            let is_done = status == 0 || (status == 1 && said.contains("owner not restored"));
            assert!(is_done || (threads < 24 && !said.trim().is_empty()), "{what}");
            // What more threads would do those do that there are.
            let enough = if arguments.contains(&"echo") { ENOUGH_FOR_COMMANDS } else { ENOUGH };
            assert!(is_done || threads < enough || !arguments.contains(&"backup"), "{what}");
            works += u32::from(is_done);
        }
    }
    assert!(works >= 30, "with threads, or with few, it works: {works}");
    scene.runs(&["check", "--read-data"]);
}
