//! A restore into what is there already: what stays, what goes, and what is said of what cannot be had.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

#[path = "restore/attributes.rs"]
mod attributes;
mod common;
#[path = "restore/delete.rs"]
mod delete;
#[path = "restore/live.rs"]
mod live;
#[path = "restore/random.rs"]
mod random;

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use common::repo::{backup, create_plain, restore_request};
use common::watched::WatchedStore;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use snap::base::progress::Progress;
use snap::op::restore::{Consent, Overwrite, Report, Request, Unattended, restore};
use snap::repo::config::Choices;
use snap::repo::index::Index;
use snap::repo::keys::NoSecrets;
use snap::repo::reader::Reader;
use snap::repo::{RepoError, Repository, Snapshot};
use snap::stage::scan::folder_id;
use snap::stage::snapshot::Status;
use snap::store::Name;
use tempfile::TempDir;

/// A source, a repository and a target.
struct Place {
    folder: TempDir,
    disk: WatchedStore,
    repository: Repository,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        for name in ["source", "target", "state"] {
            fs::create_dir(folder.path().join(name)).expect("folder is made");
        }
        let disk = WatchedStore::default();
        let repository =
            create_plain(Arc::new(disk.clone()), &folder.path().join("state"), Choices::default())
                .expect("repository is made");
        Self { folder, disk, repository }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file below the folder, and the directories that lead to it.
    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("lies in a folder")).expect("folders are made");
        fs::write(path, text).expect("file is written");
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// Backs the source up; returns the snapshot, and its packs: those of trees, those of content.
    fn backup(&self, seconds: i64) -> (Snapshot, [Vec<Name>; 2]) {
        let before = self.packs();
        assert!(backup(&self.repository, &self.path("source"), seconds).expect("backup").is_whole());
        let snapshot = self.repository.snapshots().expect("snapshots list").all.pop().expect("a snapshot");
        let new = |(name, _): &(Name, bool)| !before.iter().any(|(other, _)| other == name);
        let (trees, content): (Vec<_>, Vec<_>) =
            self.packs().into_iter().filter(new).partition(|(_, is_tree)| *is_tree);
        let names = |packs: Vec<(Name, bool)>| packs.into_iter().map(|(name, _)| name).collect();
        (snapshot, [names(trees), names(content)])
    }

    /// Lets no pack of these be read any more: bad sectors.
    fn spoil(&self, packs: Vec<Name>) {
        self.disk.fail_reads(move |name, _| packs.contains(name).then(|| Errno::IO.into()));
    }

    fn packs(&self) -> Vec<(Name, bool)> {
        let index = Index::open(&self.repository).expect("index opens");
        index.packs().map(|(_, pack, _)| (Name::Pack(pack.id), pack.is_tree)).collect()
    }

    /// Restores the component over what is in the target.
    fn restore(
        &self,
        snapshot: &Snapshot,
        change: impl FnOnce(&mut Request<'_>),
    ) -> Result<Report, RepoError> {
        self.restore_asking(&Unattended, snapshot, change)
    }

    /// As [`Self::restore`], with somebody to ask.
    fn restore_asking(
        &self,
        consent: &dyn Consent,
        snapshot: &Snapshot,
        change: impl FnOnce(&mut Request<'_>),
    ) -> Result<Report, RepoError> {
        let reader =
            Reader::new(&self.repository, Index::open(&self.repository).expect("index opens"), 1 << 20);
        let progress = Progress::default();
        let plain = restore_request(b"mail", &self.path("target"), &progress);
        let mut request = Request { consent, ..plain };
        request.overwrite = Overwrite::IfChanged;
        change(&mut request);
        restore(&reader, snapshot, &NoSecrets, &request)
    }
}

/// Returns what a report lacks, each as path and reason.
fn lacks(report: &Report) -> Vec<String> {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    report.lacks.iter().map(|lack| format!("{}: {}", text(&lack.path), lack.reason)).collect()
}

fn refusal(result: Result<Report, RepoError>) -> String {
    match result {
        Err(error @ (RepoError::Source { .. } | RepoError::Refused { .. })) => error.chain(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn delete_never_removes_the_repository_nor_what_leads_to_it() {
    let place = Place::new();
    place.write("source/file", "kept");
    fs::create_dir(place.path("source/empty")).expect("folder is made");
    let (snapshot, _) = place.backup(1);
    let repo = "target/old/deep/repo";
    place.write(&format!("{repo}/packs/ab/pack"), "precious");
    place.write("target/old/deep/junk", "goes");
    place.write("target/old/junk", "goes");
    let own = |path: &str| vec![(folder_id(&place.path(path)).expect("is there"), "the repository")];
    let reports = [true, false].map(|dry_run| {
        let report = place.restore(&snapshot, |request| {
            (request.delete, request.force, request.dry_run) = (true, true, dry_run);
            request.own_places = own(repo);
        });
        report.expect("restore")
    });
    let expected = ["old/deep/repo: not removed: the repository lies there".to_owned()];
    assert_eq!(reports.each_ref().map(lacks), [expected.to_vec(), expected.to_vec()]);
    assert_eq!(reports[0].deleted, reports[1].deleted, "a dry run counts what would go");
    assert_eq!(place.read(&format!("{repo}/packs/ab/pack")).as_deref(), Some("precious"));
    assert_eq!(place.read("target/old/deep/junk"), None);
    assert_eq!(place.read("target/old/junk"), None);
    // Nor is anything restored into it.
    let refused = place.restore(&snapshot, |request| request.own_places = own("target/empty"));
    assert!(refusal(refused).contains("the repository lies there, and nothing is restored into it"));
    fs::remove_dir_all(place.path("target")).expect("target goes");
    place.write("target/packs/file", "precious");
    for below in ["target", "target/packs", "target/not/there/yet"] {
        let target = place.path(below);
        let refused = place.restore(&snapshot, |request| {
            (request.own_places, request.target) = (own("target"), target);
        });
        assert!(refusal(refused).contains("the target lies in the repository"), "{below}");
        assert!(!place.path("target/not").exists());
    }
    assert_eq!(place.read("target/packs/file").as_deref(), Some("precious"));
}

#[test]
fn the_program_knows_the_repository_that_lies_in_the_target() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name);
    let snap = |arguments: &[&str]| {
        common::program(folder.path(), arguments).output().expect("program runs").status.code()
    };
    fs::create_dir(path("mail")).expect("folder is made");
    fs::write(path("mail/file"), b"kept").expect("file is written");
    assert_eq!(snap(&["init", "--encryption", "none"]), Some(0));
    assert_eq!(snap(&["backup", "mail", "--component", "mail"]), Some(0));
    fs::write(path("junk"), b"goes").expect("file is written");
    let over = ["--overwrite", "if-changed", "--delete", "--force"];
    let status = snap(&[&["restore", "latest:mail", "--target", "."][..], &over].concat());
    assert_eq!(status, Some(1), "the repository stays, and that is said");
    assert!(!path("junk").exists());
    assert!(path("mail/file").exists(), "what the component is backed up from stays too");
    assert_eq!(snap(&["check", "--read-data"]), Some(0));
}

#[test]
fn delete_leaves_what_is_excluded_wherever_it_lies() {
    let place = Place::new();
    place.write("source/file", "kept");
    let (snapshot, _) = place.backup(1);
    place.write("target/old/deep/secret.key", "the only copy");
    place.write("target/old/deep/junk", "goes");
    place.write("target/old/more/junk", "goes");
    let report = place.restore(&snapshot, |request| {
        (request.delete, request.force) = (true, true);
        request.exclude = vec!["*.key".to_owned()];
    });
    let report = report.expect("restore");
    assert_eq!((report.deleted, lacks(&report)), (3, Vec::new()), "a file, and a folder with a file");
    assert_eq!(place.read("target/old/deep/secret.key").as_deref(), Some("the only copy"));
    assert_eq!(place.read("target/old/deep/junk"), None);
    assert!(!place.path("target/old/more").exists());
}

/// A file system in memory, mounted until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf) -> Option<Self> {
        fs::create_dir_all(&path).expect("folder is made");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&path).output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        if !is_mounted {
            println!("skipped: nothing can be mounted here");
        }
        is_mounted.then(|| Self(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn delete_never_crosses_into_another_file_system() {
    let place = Place::new();
    place.write("source/file", "kept");
    fs::create_dir(place.path("source/data")).expect("folder is made");
    let (snapshot, _) = place.backup(1);
    let Some(_old) = Mounted::at(place.path("target/old/disk")) else { return };
    let Some(_data) = Mounted::at(place.path("target/data")) else { return };
    place.write("target/old/disk/file", "another disk's");
    place.write("target/data/file", "another disk's");
    place.write("target/old/junk", "goes");
    let report = place.restore(&snapshot, |request| (request.delete, request.force) = (true, true));
    let report = report.expect("restore");
    assert_eq!(lacks(&report), ["old/disk: not removed: another file system is mounted there"]);
    let said = ("not emptied: another file system is mounted there".to_owned(), 1);
    assert_eq!((report.deleted, report.warnings), (1, vec![said]));
    assert_eq!(place.read("target/old/disk/file").as_deref(), Some("another disk's"));
    assert_eq!(place.read("target/data/file").as_deref(), Some("another disk's"));
}

#[test]
fn delete_is_refused_where_the_snapshot_is_not_whole() {
    let place = Place::new();
    place.write("source/file", "kept");
    let (whole, _) = place.backup(1);
    place.write("target/unreadable", "the only copy");
    let mut lacking = whole.clone();
    lacking.manifest.lacks_total = 3;
    let mut failed = whole.clone();
    failed.manifest.components[0].status = Status::Failed;
    for (snapshot, says) in
        [(&lacking, "entries that could not be backed up (3)"), (&failed, "component mail")]
    {
        let line = refusal(place.restore(snapshot, |request| request.delete = true));
        assert!(line.contains("--delete: ") && line.contains(says), "{line}");
    }
    assert_eq!(place.read("target/unreadable").as_deref(), Some("the only copy"));
    let report = place.restore(&lacking, |_| ()).expect("restore");
    assert_eq!(lacks(&report), Vec::<String>::new(), "all that was asked for is there");
    assert!(
        report.lacking.iter().any(|(what, count)| what.contains("snapshot itself lacks") && *count == 3),
        "{:?}",
        report.lacking
    );
}

#[test]
fn a_component_that_failed_is_an_error_if_it_is_asked_for_and_else_a_warning() {
    let place = Place::new();
    place.write("source/file", "kept");
    let (mut snapshot, _) = place.backup(1);
    let mut failed = snapshot.manifest.components[0].clone();
    (failed.name, failed.directory, failed.status) = ("mysql".to_owned(), b"mysql".to_vec(), Status::Failed);
    snapshot.manifest.components.push(failed);
    let line = refusal(place.restore(&snapshot, |request| {
        (request.path, request.components) = (Vec::new(), vec!["mysql".to_owned()]);
    }));
    assert!(line.starts_with("--component mysql: could not be backed up"), "{line}");
    let line = refusal(place.restore(&snapshot, |request| request.components = vec!["mail".to_owned()]));
    assert!(line.starts_with("--component: ") && line.contains("path"), "{line}");
    let report = place.restore(&snapshot, |request| request.path = Vec::new()).expect("restore");
    assert_eq!(lacks(&report), Vec::<String>::new());
    assert!(report.lacking.iter().any(|(what, _)| what.contains("component mysql")), "{:?}", report.lacking);
    assert_eq!(place.read("target/mail/file").as_deref(), Some("kept"));
}

#[test]
fn a_component_without_a_directory_is_all_that_lies_in_the_root() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let snap = |arguments: &[&str]| {
        let output = common::program(folder.path(), arguments).output().expect("program runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    fs::write(folder.path().join("note"), b"kept").expect("file is written");
    snap(&["init", "--encryption", "none"]);
    snap(&["backup", "note"]);
    let target = folder.path().join("out");
    let said = snap(&["--json", "restore", "latest", "--target", "out", "--component", "files"]);
    assert_eq!(common::summary(&said)["files"], 1, "{said}");
    let found = snap(&["ls", "-R"]);
    let path = found.lines().last().expect("a file");
    assert_eq!(fs::read(target.join(path.trim_start_matches('/'))).expect("file reads"), b"kept");
}

#[test]
fn a_file_that_is_not_restored_gets_no_second_name() {
    let place = Place::new();
    place.write("source/a", "new");
    fs::hard_link(place.path("source/a"), place.path("source/b")).expect("link is made");
    let (snapshot, [_, content]) = place.backup(1);
    place.spoil(content);
    place.write("target/a", "of last year");
    let report = place.restore(&snapshot, |request| request.overwrite = Overwrite::Always).expect("restore");
    let lacks = lacks(&report);
    assert_eq!((report.files, lacks.len()), (0, 2), "{lacks:?}");
    assert_eq!(lacks[1], "b: its other name a was not restored");
    assert_eq!((place.read("target/a").as_deref(), place.read("target/b")), (Some("of last year"), None));
}

#[test]
fn a_missing_name_of_a_file_that_is_there_is_linked_to_it() {
    let place = Place::new();
    place.write("source/a", "one file");
    fs::hard_link(place.path("source/a"), place.path("source/b")).expect("link is made");
    let (snapshot, _) = place.backup(1);
    let _ = place.restore(&snapshot, |_| ()).expect("restore");
    fs::remove_file(place.path("target/b")).expect("name goes");
    let report = place.restore(&snapshot, |_| ()).expect("restore");
    assert_eq!((report.unchanged, report.files, lacks(&report)), (1, 1, Vec::new()));
    let inode = |name: &str| fs::metadata(place.path(name)).expect("file is there").st_ino();
    assert_eq!(inode("target/a"), inode("target/b"));
}

#[test]
fn a_bad_sector_in_a_tree_pack_costs_a_directory_and_not_the_restore() {
    let place = Place::new();
    place.write("source/a/file", "lost");
    let (_, [trees, _]) = place.backup(1);
    place.write("source/b/file", "kept");
    let (snapshot, _) = place.backup(2);
    place.spoil(trees);
    place.write("target/a/file", "of last year");
    place.write("target/a/other", "of last year");
    let report = place.restore(&snapshot, |request| request.delete = true).expect("restore");
    let lacks = lacks(&report);
    assert!(lacks.len() == 1 && lacks[0].starts_with("a: "), "{lacks:?}");
    assert_eq!(place.read("target/b/file").as_deref(), Some("kept"));
    assert_eq!(place.read("target/a/other").as_deref(), Some("of last year"), "nothing is known of it");
}

#[test]
fn entries_have_no_access_list_from_the_directory_they_are_restored_into() {
    // version 2: owner rwx, user 1234 rwx, group r-x, mask rwx, other r-x
    let list = [
        &2u32.to_le_bytes()[..],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[2, 0, 7, 0, 0xd2, 4, 0, 0],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[16, 0, 7, 0, 255, 255, 255, 255],
        &[32, 0, 5, 0, 255, 255, 255, 255],
    ]
    .concat();
    let place = Place::new();
    place.write("source/sub/file", "private");
    let mode = |name: &str, mode| fs::set_permissions(place.path(name), fs::Permissions::from_mode(mode));
    mode("source/sub/file", 0o640).expect("mode is set");
    mode("source/sub", 0o750).expect("mode is set");
    let (snapshot, _) = place.backup(1);
    let (access, default) = ("system.posix_acl_access", "system.posix_acl_default");
    let set = |name| rustix::fs::setxattr(place.path("target"), name, &list, XattrFlags::empty());
    if set(default).is_err() {
        println!("skipped: no access lists on this file system");
        return;
    }
    for overwrite in [Overwrite::Never, Overwrite::Always] {
        let report = place.restore(&snapshot, |request| request.overwrite = overwrite).expect("restore");
        assert_eq!(report.warnings, Vec::new());
        for (name, mode) in [("target/sub", 0o750), ("target/sub/file", 0o640)] {
            let path = place.path(name);
            for list in [access, default] {
                let found = rustix::fs::getxattr(&path, list, &mut [0; 100][..]);
                assert!(matches!(found, Err(Errno::NODATA | Errno::NOTSUP)), "{name}: {list}: {found:?}");
            }
            let found = fs::metadata(&path).expect("entry is there").permissions().mode() & 0o7777;
            assert_eq!(found, mode, "{name}");
        }
        // What was there before does not hand its lists on either.
        let sub = place.path("target/sub");
        rustix::fs::setxattr(sub, default, &list, XattrFlags::empty()).expect("access list is set");
    }
}

#[test]
fn a_file_whose_name_is_taken_leaves_no_temporary_file() {
    let place = Place::new();
    place.write("source/name", "a file");
    let (snapshot, _) = place.backup(1);
    place.write("target/name/inside", "a full folder");
    let report = place.restore(&snapshot, |request| request.overwrite = Overwrite::Always).expect("restore");
    assert_eq!((report.files, report.lacks.len()), (0, 1), "{:?}", report.lacks);
    let names: Vec<_> = fs::read_dir(place.path("target"))
        .expect("folder lists")
        .map(|entry| entry.expect("entry reads").file_name())
        .collect();
    assert_eq!(names, ["name"], "and nothing beside it");
    assert_eq!(place.read("target/name/inside").as_deref(), Some("a full folder"));
}

#[test]
fn verify_finds_a_kept_file_that_has_the_size_and_time_and_other_content() {
    let place = Place::new();
    let sparse = |path: PathBuf, hole: &[u8]| {
        let file = fs::File::create(path).expect("file is made");
        file.set_len(1 << 20).expect("file grows");
        std::os::unix::fs::FileExt::write_all_at(&file, b"end", (1 << 20) - 3).expect("file is written");
        std::os::unix::fs::FileExt::write_all_at(&file, hole, 70_000).expect("file is written");
    };
    for name in ["same", "other", "empty"] {
        place.write(&format!("source/{name}"), if name == "empty" { "" } else { "content" });
    }
    sparse(place.path("source/sparse"), b"");
    sparse(place.path("source/filled"), b"");
    let (snapshot, _) = place.backup(1);
    let report = place.restore(&snapshot, |request| request.verify = true).expect("restore");
    assert_eq!((report.files, report.verified, lacks(&report)), (5, 5, Vec::new()));
    place.write("target/other", "CONTENT");
    sparse(place.path("target/filled"), b"not a hole");
    for name in ["other", "filled"] {
        let time = fs::metadata(place.path("source").join(name)).and_then(|about| about.modified());
        let file = fs::File::options().write(true).open(place.path("target").join(name)).expect("opens");
        file.set_modified(time.expect("has a time")).expect("time is set");
    }
    let report = place.restore(&snapshot, |_| ()).expect("restore");
    assert_eq!((report.unchanged, report.verified, lacks(&report)), (5, 0, Vec::new()), "not asked for");
    let report = place.restore(&snapshot, |request| request.verify = true).expect("restore");
    let said = lacks(&report);
    assert_eq!((report.files, report.unchanged, report.verified, said.len()), (0, 5, 3, 2), "{said:?}");
    assert!(
        said[0].starts_with("filled: kept") && said[0].contains("bytes where a hole should be"),
        "{said:?}"
    );
    assert!(said[1].starts_with("other: kept") && said[1].contains("--overwrite always"), "{said:?}");
    assert_eq!(
        place.read("target/other").as_deref(),
        Some("CONTENT"),
        "nothing is replaced that was not asked for"
    );
    let always = place.restore(&snapshot, |request| {
        (request.verify, request.overwrite) = (true, Overwrite::Always);
    });
    let always = always.expect("restore");
    assert_eq!((always.files, always.verified, lacks(&always)), (5, 5, Vec::new()));
}

#[test]
fn parts_of_files_that_lie_far_apart_come_together() {
    // 30 MiB of bodies come first; the copies' own headers come last, more than is kept in memory meanwhile.
    const COPIES: u64 = 300;
    let place = Place::new();
    let mut noise = common::Noise::new(common::seed());
    let write = |folder: &str, number: u64, body: &[u8]| {
        let path = place.path(&format!("source/{folder}/cur/{number}.M1P1.mx:2,"));
        fs::create_dir_all(path.parent().expect("lies in a folder")).expect("folders are made");
        let header = format!("Received: by mx id {number}\r\nSubject: {folder} {number}\r\n\r\n");
        fs::write(&path, [header.as_bytes(), body].concat()).expect("message is written");
        let mode = [0o600, 0o400, 0o640, 0o4711][number as usize % 4];
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode is set");
    };
    let bodies: Vec<Vec<u8>> = (0..COPIES).map(|_| noise.bytes(100_000)).collect();
    for (number, body) in (0..).zip(&bodies) {
        write("first", number, body);
    }
    for (number, body) in (0..).zip(&bodies) {
        write("second", COPIES - number, body);
    }
    let (snapshot, _) = place.backup(1);
    let report = place.restore(&snapshot, |_| ()).expect("restore");
    assert_eq!((report.files, lacks(&report)), (2 * COPIES, Vec::new()));
    let (source, target) =
        (common::repo::picture(&place.path("source")), common::repo::picture(&place.path("target")));
    assert_eq!(common::repo::differences(&source, &target), Vec::<String>::new());
}
