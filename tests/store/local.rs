//! What the local store promises besides: modes, the order of system calls, killed processes, a full disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{FileType, FlockOperation, Mode, flock};
use snap::store::{Folder, LocalStore, LockMode, Name, Store, StoreError};

use crate::{Local, Place, is_locked, names, pack, put, read};

/// Says what the child process is to do, and where.
const CHILD_TASK: &str = "SNAP_TEST_CHILD_TASK";
const CHILD_ROOT: &str = "SNAP_TEST_CHILD_ROOT";

/// What the child says once its task is done.
const READY: &str = "the child is ready";

/// Puts a file there past the store.
pub fn plant(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("the path has a folder")).expect("makes folders");
    File::create_new(path).and_then(|mut file| file.write_all(bytes)).expect("plants a file");
}

/// Returns everything under `root` by path, folders too.
pub fn walk(root: &Path) -> BTreeMap<String, Metadata> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry.expect("entry reads");
            let metadata = entry.metadata().expect("entry is there");
            if metadata.is_dir() {
                todo.push(entry.path());
            }
            let path = entry.path().strip_prefix(root).expect("lies under the root").to_owned();
            found.insert(path.to_str().expect("paths are UTF-8").to_owned(), metadata);
        }
    }
    found
}

/// Not a test: what a child process does that another test starts.
#[test]
#[ignore = "run by other tests, as a child process"]
fn child() {
    let (Ok(task), Ok(root)) = (std::env::var(CHILD_TASK), std::env::var(CHILD_ROOT)) else { return };
    let store = LocalStore::new(root);
    match task.as_str() {
        "put and delete" => {
            put(&store, &pack(0xab), b"bytes");
            store.delete(&pack(0xab)).expect("deletes");
        }
        "put and replace" => {
            put(&store, &pack(0xab), b"damaged");
            let mut upload = store.begin().expect("begins");
            upload.write(b"good").expect("writes");
            upload.replace(&pack(0xab)).expect("replaces");
        }
        "half an upload" => {
            let mut upload = store.begin().expect("begins");
            upload.write(b"half").expect("writes");
            wait_to_be_killed();
        }
        "hold the lock" => {
            let _lock = store.lock(LockMode::Exclusive).expect("locks");
            wait_to_be_killed();
        }
        other => panic!("no such task: {other}"),
    }
}

fn wait_to_be_killed() {
    println!("{READY}");
    let _ = std::io::stdin().read_line(&mut String::new()); // ends with the parent at the latest
}

/// Returns the arguments after which this test binary does `task` on `root`.
fn child_of(mut command: Command, task: &str, root: &Path) -> Command {
    command.args(["local::child", "--exact", "--ignored", "--nocapture"]);
    command.env(CHILD_TASK, task).env(CHILD_ROOT, root);
    command
}

fn this_binary() -> Command {
    Command::new(std::env::current_exe().expect("the test binary has a path"))
}

/// Starts a child and returns it once its task is done.
fn start(task: &str, root: &Path) -> Child {
    let mut command = child_of(this_binary(), task, root);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the child starts");
    let said = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let is_ready = said.lines().map_while(Result::ok).any(|line| line.contains(READY));
    assert!(is_ready, "the child ended before its task was done");
    child
}

fn kill(mut child: Child) {
    child.kill().expect("the child is alive");
    child.wait().expect("the child ends");
}

#[test]
fn what_a_killed_process_left_half_written_is_swept() {
    let place = Local::new();
    let mut live = place.store().begin().expect("begins");
    live.write(b"alive").expect("writes");
    let child = start("half an upload", place.store.root());
    assert_eq!(place.files().len(), 2);
    assert_eq!(place.store().sweep_uploads().expect("sweeps"), 0, "both are alive");
    kill(child);
    assert_eq!(place.files().len(), 2, "a killed process cleans nothing up");
    assert_eq!(place.store().sweep_uploads().expect("sweeps"), 1);
    live.commit(&pack(1)).expect("the live one is untouched");
    assert_eq!(place.files(), [pack(1).to_string()]);
}

#[test]
fn what_is_no_file_among_the_uploads_is_left_alone_and_stops_no_sweep() {
    let place = Local::new();
    let root = place.store.root();
    put(place.store(), &pack(1), b"bytes");
    fs::create_dir(root.join("tmp/folder")).expect("makes a folder");
    std::os::unix::fs::symlink(root.join(pack(1).to_string()), root.join("tmp/link")).expect("makes a link");
    let pipe = root.join("tmp/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .expect("makes a pipe");
    plant(&root.join("tmp/upload-deadbe"), b"half");
    assert_eq!(place.store().sweep_uploads().expect("sweeps"), 1);
    let left = fs::read_dir(root.join("tmp")).expect("lists").map(|entry| entry.expect("entry").file_name());
    assert_eq!(left.collect::<BTreeSet<_>>(), BTreeSet::from(["folder", "link", "pipe"].map(OsString::from)));
    assert_eq!(read(place.store(), &pack(1)), b"bytes");
}

#[test]
fn an_upload_is_held_by_its_writer_alone() {
    let place = Local::new();
    let upload = place.store().begin().expect("begins");
    let file = File::open(place.store.root().join(&place.files()[0])).expect("opens");
    assert_eq!(flock(&file, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK));
    drop(upload);
    assert_eq!(flock(&file, FlockOperation::NonBlockingLockShared), Ok(()));
}

#[test]
fn the_lock_of_a_killed_process_is_free() {
    let place = Local::new();
    put(place.store(), &Name::Config, b"config");
    let child = start("hold the lock", place.store.root());
    assert!(is_locked(place.store().lock(LockMode::Shared)));
    kill(child);
    drop(place.store().lock(LockMode::Exclusive).expect("free"));
}

#[test]
fn nobody_else_may_read_what_is_stored() {
    let place = Local::new();
    put(place.store(), &Name::Config, b"config");
    names(1).iter().for_each(|name| put(place.store(), name, b"bytes"));
    let upload = place.store().begin().expect("begins");
    drop(place.store().lock(LockMode::Shared).expect("locks"));
    let mut all = walk(place.store.root());
    all.insert(String::new(), fs::metadata(place.store.root()).expect("the root is there"));
    assert!(all.keys().any(|path| path.starts_with("tmp/")) && all.contains_key("lock"));
    for (path, metadata) in all {
        let mode = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(metadata.mode() & 0o7777, mode, "{path:?}");
    }
    drop(upload);
}

#[test]
fn a_listing_shows_the_folders_of_a_foreign_tree_but_follows_no_link() {
    let place = Local::new();
    let outside = tempfile::tempdir().expect("temporary folder");
    plant(&outside.path().join("secret"), b"secret");
    put(place.store(), &pack(1), b"own");
    let link = place.store.root().join("packs/link");
    std::os::unix::fs::symlink(outside.path(), &link).expect("makes a link");
    plant(&place.store.root().join("packs/a/b/c"), b"foreign");
    let found = place.store().list(Folder::Packs).expect("lists");
    let paths: Vec<&str> = found.iter().map(|found| found.path.as_str()).collect();
    assert_eq!(paths, [pack(1).to_string().as_str(), "packs/a/b/c", "packs/link"]);
}

/// A system call that succeeded, and the paths that it names, below the repository's root.
#[derive(Debug)]
struct Call {
    verb: String,
    paths: Vec<String>,
}

/// Returns what `task` on `root` asked the system for, in order; none if strace can't tell.
fn traced(task: &str, root: &Path) -> Option<Vec<Call>> {
    let log = tempfile::NamedTempFile::new().expect("temporary file");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "0", "-o"]).arg(log.path());
    // Machines differ in which of the older calls they have: `?` asks for one if it is there.
    let named = "?link,linkat,?rename,?renameat,renameat2,?mkdir,mkdirat,?unlink,unlinkat";
    strace.args(["-e", &format!("trace=write,fsync,fdatasync,{named}")]);
    strace.arg("--").arg(std::env::current_exe().expect("the test binary has a path"));
    let output = match child_of(strace, task, root).output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: strace is not installed");
            return None;
        }
        other => other.expect("strace runs"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("ptrace") && said.contains("not permitted") {
        println!("skipped: strace may not trace here: {said}");
        return None;
    }
    assert!(output.status.success(), "{said}");
    let trace = fs::read_to_string(log.path()).expect("the trace is text");
    Some(trace.lines().filter_map(|line| call(line, root)).collect())
}

/// Reads a line of strace's; none if the call failed, or touches neither repository nor its parent.
///
/// `812  fsync(3</root/packs>) = 0` or `812  linkat(AT_FDCWD, "/root/tmp/a", AT_FDCWD, "/root/b", 0) = 0`
fn call(line: &str, root: &Path) -> Option<Call> {
    let (_, line) = line.split_once(char::is_whitespace)?; // the process
    let (verb, arguments) = line.trim_start().split_once('(')?;
    let parent = root.parent()?;
    let paths = arguments.split(['"', '<', '>']).map(Path::new).filter(|path| path.starts_with(parent));
    let paths: Vec<String> = paths
        .map(|path| path.strip_prefix(root).map_or("..".to_owned(), |path| path.display().to_string()))
        .collect();
    let is_ours = !line.contains(") = -1 ") && !paths.is_empty();
    is_ours.then(|| Call { verb: verb.trim_end_matches("at").to_owned(), paths })
}

/// Every byte is on stable storage before it has a name, and the name before `put_new` returns: a
/// power cut at any moment leaves the whole file under its name, or nothing.
#[test]
fn bytes_are_synced_before_their_name_and_the_name_before_its_return() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path().canonicalize().expect("the folder has a path").join("repository");
    let Some(calls) = traced("put and delete", &root) else { return };
    // The place of the next such call from `start` on; `path` is where it begins, or all of it.
    let next = |start: usize, verb: &str, path: &str| {
        let is_it = |p: &String| p == path || (path.ends_with('-') && p.starts_with(path));
        let found = calls[start..].iter().position(|call| call.verb == verb && call.paths.iter().any(is_it));
        start + found.unwrap_or_else(|| panic!("no {verb} of {path:?} from call {start} on: {calls:#?}"))
    };
    let name = pack(0xab).to_string();
    let written = next(0, "write", "tmp/upload-");
    let bytes_synced = next(written, "fsync", "tmp/upload-");
    let named = next(bytes_synced, "link", "tmp/upload-");
    assert_eq!(calls[named].paths[1], name);
    let name_synced = next(named, "fsync", "packs/ab");
    assert_eq!(next(0, "link", "tmp/upload-"), named, "named once, not earlier: {calls:#?}");
    let late = calls[bytes_synced..].iter().find(|call| call.verb == "write");
    assert!(late.is_none(), "written after its sync: {calls:#?}");
    let renamed = calls.iter().find(|call| call.verb.starts_with("rename"));
    assert!(renamed.is_none(), "a rename may replace another file: {calls:#?}");
    for (made, parent) in [("", ".."), ("tmp", ""), ("packs", ""), ("packs/ab", "packs")] {
        let synced = next(next(0, "mkdir", made), "fsync", parent);
        assert!(synced < named, "folder {made:?} is durable before a name in it: {calls:#?}");
    }
    let deleted = next(name_synced, "unlink", &name);
    next(deleted, "fsync", "packs/ab");
}

/// What is damaged may be all that is left: a power cut, or a disk that fails, at any moment leaves the file
/// as it was or the good bytes under its name.
#[test]
fn a_file_is_replaced_by_bytes_that_are_durable_and_never_without_a_name() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path().canonicalize().expect("the folder has a path").join("repository");
    let Some(calls) = traced("put and replace", &root) else { return };
    let next = |start: usize, verb: &str, path: &str| {
        let is_it =
            |call: &Call| call.verb.starts_with(verb) && call.paths.iter().any(|it| it.starts_with(path));
        let found = calls[start..].iter().position(is_it);
        start + found.unwrap_or_else(|| panic!("no {verb} of {path:?} from call {start} on: {calls:#?}"))
    };
    let name = pack(0xab).to_string();
    let put = next(0, "link", "tmp/upload-");
    let written = next(put, "write", "tmp/upload-");
    let bytes_synced = next(written, "fsync", "tmp/upload-");
    let replaced = next(put, "rename", "tmp/upload-");
    assert!(bytes_synced < replaced, "{calls:#?}");
    assert_eq!(calls[replaced].paths[1], name);
    next(replaced, "fsync", "packs/ab");
    let gone = calls.iter().find(|call| call.verb == "unlink" && call.paths.contains(&name));
    assert!(gone.is_none(), "its name goes: {calls:#?}");
}

/// A file system of a few pages or files, so that it fills up. Gone when dropped, even by a panic.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Returns none, and says why, where file systems can't be mounted.
    fn mount(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("temporary folder");
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root may mount a small disk");
            return None;
        }
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                println!(
                    "skipped: no small disk can be mounted: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
                None
            }
            Err(e) => {
                println!("skipped: mount: {e}");
                None
            }
        }
    }

    fn store(&self) -> LocalStore {
        LocalStore::new(self.0.path().join("repository"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("still mounted: {}", self.0.path().display());
        }
    }
}

fn uploads(store: &LocalStore) -> usize {
    walk(store.root()).keys().filter(|path| path.starts_with("tmp/")).count()
}

#[test]
fn a_full_disk_is_reported_and_leaves_nothing_under_the_name() {
    let Some(disk) = SmallDisk::mount("size=1m") else { return };
    let store = disk.store();
    put(&store, &pack(1), b"before");
    let refused = store.put_new(&pack(2), &vec![1; 4 << 20]).expect_err("it does not fit");
    assert!(refused.is_full(), "{refused:?}");
    assert!(matches!(refused, StoreError::Io { .. }));
    assert!(store.read(&pack(2), 8 << 20).expect_err("no such file").is_missing());
    assert_eq!(uploads(&store), 0, "what was written is given back");
    assert_eq!(read(&store, &pack(1)), b"before");
    put(&store, &pack(3), &[3; 100_000]);
}

/// A file costs a folder or two, its upload, and a link: each of them may be the one too many.
#[test]
fn a_disk_without_room_for_another_name_refuses_at_any_step() {
    let mut last = None;
    for inodes in 2..=16 {
        let Some(disk) = SmallDisk::mount(&format!("size=1m,nr_inodes={inodes}")) else { return };
        let store = disk.store();
        match store.put_new(&pack(1), b"bytes") {
            Ok(()) => assert_eq!(read(&store, &pack(1)), b"bytes"),
            Err(e) => {
                assert!(e.is_full(), "{inodes} inodes: {e:?}");
                assert!(store.read(&pack(1), 10).expect_err("no such file").is_missing(), "{inodes} inodes");
            }
        }
        assert_eq!(uploads(&store), 0, "{inodes} inodes");
        last = Some(store.read(&pack(1), 10).is_ok());
    }
    assert_eq!(last, Some(true), "with room for sixteen the file is there");
}
