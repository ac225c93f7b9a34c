//! Repositories and source trees for tests.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snap::base::progress::Progress;
use snap::base::time::Time;
use snap::op::backup::{self, Component, Rules};
use snap::op::check;
use snap::op::restore::{self, Overwrite};
use snap::repo::config::{Choices, Encryption};
use snap::repo::index::Index;
use snap::repo::keys::{NoSecrets, Passphrase, Secrets};
use snap::repo::reader::Reader;
use snap::repo::{Opening, RepoError, Repository};
use snap::store::Store;

use crate::common::Noise;

/// Opens the repository in `store`, without a passphrase.
pub fn open(store: Arc<dyn Store>, state: &Path, index: Option<PathBuf>) -> Result<Repository, RepoError> {
    Repository::open(&Opening { store, state, index, secrets: &NoSecrets })
}

/// Makes a repository without encryption in `store`: no passphrase, no key derivation.
pub fn create_plain(store: Arc<dyn Store>, state: &Path, choices: Choices) -> Result<Repository, RepoError> {
    let choices = Choices { encryption: Encryption::None, ..choices };
    let opening = Opening { store, state, index: None, secrets: &NoSecrets };
    Repository::create(&opening, choices, None, &[], Time::new(1_767_000_000, 0))
}

/// Makes an encrypted repository in `store`.
pub fn create_sealed(store: Arc<dyn Store>, state: &Path, passphrase: &str) -> Result<Repository, RepoError> {
    let opening = Opening { store, state, index: None, secrets: &NoSecrets };
    let passphrase = Passphrase::new(passphrase.to_owned());
    Repository::create(&opening, Choices::default(), Some(&passphrase), &[], Time::new(1_767_000_000, 0))
}

/// Backs up one directory as component `mail`, at a time given in seconds.
pub fn backup(repository: &Repository, source: &Path, seconds: i64) -> Result<backup::Report, RepoError> {
    backup_with(repository, source, seconds, Rules::default(), &Progress::default())
}

/// Waits until what has changed so far can be told by its stamps from what changes from now on.
pub fn next_tick() {
    use rustix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::Realtime);
    let is_later = |then: rustix::time::Timespec| (then.tv_sec, then.tv_nsec) > (now.tv_sec, now.tv_nsec);
    while !is_later(clock_gettime(ClockId::RealtimeCoarse)) {
        std::thread::yield_now();
    }
}

/// Backs up one directory as component `mail`; what was written before is not read again by the next backup.
pub fn backup_with(
    repository: &Repository,
    source: &Path,
    seconds: i64,
    rules: Rules,
    progress: &Progress,
) -> Result<backup::Report, RepoError> {
    next_tick();
    let component = Component {
        name: "mail".to_owned(),
        directory: b"mail".to_vec(),
        paths: vec![source.to_owned()],
        streams: Vec::new(),
        excludes: Vec::new(),
        care: backup::Care::default(),
    };
    backup::backup(
        repository,
        backup::Request { rules, ..backup_request(vec![component], seconds, progress) },
    )
}

/// Returns the request for a plain backup of `components`, at a time given in seconds.
pub fn backup_request(components: Vec<Component>, seconds: i64, progress: &Progress) -> backup::Request<'_> {
    backup::Request {
        components,
        rules: Rules::default(),
        tags: Vec::new(),
        time: Time::new(seconds, 0),
        began: Time::new(seconds, 0),
        host: "test".to_owned(),
        user: "test".to_owned(),
        run: None,
        is_night: true,
        threads: 2,
        read_threads: 2,
        dry_run: false,
        progress,
        listener: None,
    }
}

/// Restores a snapshot's component `mail` into `target`, which must not hold anything.
pub fn restore(
    repository: &Repository,
    snapshot: &snap::repo::Snapshot,
    target: &Path,
) -> Result<restore::Report, RepoError> {
    let reader = Reader::new(repository, Index::open(repository)?, 8 << 20);
    let progress = Progress::default();
    let request = restore_request(b"mail", target, &progress);
    restore::restore(&reader, snapshot, &NoSecrets, &request)
}

/// Returns the request for a plain restore of `path`.
pub fn restore_request<'a>(path: &[u8], target: &Path, progress: &'a Progress) -> restore::Request<'a> {
    restore::Request {
        path: path.to_vec(),
        target: target.to_owned(),
        components: Vec::new(),
        include: Vec::new(),
        exclude: Vec::new(),
        overwrite: Overwrite::Never,
        is_continued: false,
        delete: false,
        force: false,
        consent: &restore::Unattended,
        own_places: Vec::new(),
        configured: None,
        labels: false,
        numeric_ids: true,
        dry_run: false,
        verify: false,
        threads: 2,
        progress,
    }
}

/// Checks all that a repository holds, every chunk of it.
pub fn check_all(repository: &Repository, secrets: &dyn Secrets) -> check::Report {
    let request = check::Request {
        read_packs: true,
        read_data: true,
        subset: None,
        seed: 0,
        repair: false,
        threads: 2,
        progress: &Progress::default(),
    };
    check::check(repository, secrets, &request).expect("check ends")
}

/// What a tree looks like: for each path its kind, mode, owner, mtime, content or target, xattrs.
pub type Picture = BTreeMap<Vec<u8>, String>;

/// Takes the picture of all entries below `root`.
pub fn picture(root: &Path) -> Picture {
    let mut all = Picture::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).expect("folder lists") {
            let path = entry.expect("entry reads").path();
            let about = fs::symlink_metadata(&path).expect("entry is there");
            let kind = about.file_type();
            let content = if kind.is_file() {
                blake3::hash(&fs::read(&path).expect("file reads")).to_string()
            } else if kind.is_symlink() {
                format!("{:?}", fs::read_link(&path).expect("link reads"))
            } else {
                String::new()
            };
            let looks = format!(
                "{:o} {}:{} {}.{:09} {:x} {} {:?} {content}",
                about.mode(),
                about.uid(),
                about.gid(),
                about.mtime(),
                about.mtime_nsec(),
                about.rdev(),
                if kind.is_dir() { 0 } else { about.nlink() },
                xattrs(&path),
            );
            let below = path.strip_prefix(root).expect("lies below").as_os_str().as_bytes().to_vec();
            all.insert(below, looks);
            if kind.is_dir() {
                todo.push(path);
            }
        }
    }
    all
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut all = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("attribute reads");
        value.truncate(length);
        all.push((name.to_vec(), value));
    }
    all.sort();
    all
}

/// Says where two pictures differ, line by line; empty if they are the same.
pub fn differences(expected: &Picture, found: &Picture) -> Vec<String> {
    let name = |path: &[u8]| OsStr::from_bytes(path).to_string_lossy().into_owned();
    let mut lines = Vec::new();
    for (path, looks) in expected {
        match found.get(path) {
            None => lines.push(format!("{}: missing", name(path))),
            Some(other) if other != looks => lines.push(format!("{}:\n  {looks}\n  {other}", name(path))),
            Some(_) => {}
        }
    }
    lines.extend(
        found
            .keys()
            .filter(|path| !expected.contains_key(*path))
            .map(|path| format!("{}: extra", name(path))),
    );
    lines
}

/// Makes a Maildir with `messages` messages of `bytes` incompressible bytes each.
pub fn maildir(root: &Path, messages: usize, bytes: usize, noise: &mut Noise) {
    for side in ["new", "cur", "tmp"] {
        fs::create_dir_all(root.join(side)).expect("folder is made");
    }
    for number in 0..messages {
        deliver(root, number, bytes, noise);
    }
}

/// Delivers message `number` into `new`, or `cur` for even numbers.
pub fn deliver(root: &Path, number: usize, bytes: usize, noise: &mut Noise) {
    let mut text =
        format!("From: anna@example.org\nSubject: message {number}\nMessage-ID: <{number}@example.org>\n\n");
    text.extend(noise.bytes(bytes).iter().map(|byte| char::from(b'!' + byte % 90)));
    let name = match number % 2 {
        0 => format!("cur/17670{number:05}.M1P1.mx1,S={}:2,S", text.len()),
        _ => format!("new/17670{number:05}.M1P1.mx1,S={}", text.len()),
    };
    fs::write(root.join(&name), text).expect("message is written");
    fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o600)).expect("mode is set");
}
