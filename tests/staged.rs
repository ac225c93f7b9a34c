//! A restore into an empty directory with the real program: nothing half is ever shown, whatever cuts it off.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;
#[path = "staged/end.rs"]
mod end;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::Noise;
use common::repo::{Picture, differences, picture};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, mkdirat, openat};
use tempfile::TempDir;

/// A repository with one snapshot of `mail`, and what was backed up.
struct Place {
    folder: TempDir,
    mail: PathBuf,
}

impl Place {
    /// Backs up what `fill` makes.
    fn with(fill: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mail = folder.path().join("mail");
        fs::create_dir(&mail).expect("folder is made");
        fill(&mail);
        let place = Self { folder, mail };
        place.succeeds(&["init", "--encryption", "none"]);
        place.succeeds(&["backup", "mail", "--component", "mail"]);
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

    fn succeeds(&self, arguments: &[&str]) -> Output {
        let output = self.snap(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        output
    }

    /// Restores the component into `out`; returns the status, and what was said.
    fn restore(&self, more: &[&str]) -> (Option<i32>, String) {
        let output = self.snap(&[&["restore", "latest:mail", "--target", "out"], more].concat());
        (output.status.code(), text(&output.stderr))
    }

    /// Restores after a command of the shell.
    fn in_shell(&self, first: &str, more: &[&str]) -> Output {
        let program = self.command(&[]);
        let script = format!("{first}; exec \"$0\" restore latest:mail --target out \"$@\"");
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg(program.get_program()).args(more).current_dir(self.folder.path());
        shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.output().expect("shell runs")
    }

    fn refused(&self, more: &[&str]) -> String {
        let before = tree(&self.path("out"));
        let (status, said) = self.restore(more);
        assert_eq!((status, said.lines().count()), (Some(2), 1), "{more:?}: {said}");
        assert_eq!(tree(&self.path("out")), before, "nothing is touched");
        said
    }

    /// Removes what was restored, and that it was noted.
    fn wipe(&self) {
        let _ = fs::remove_dir_all(self.path("out"));
        let _ = fs::remove_dir_all(self.path("state/staging"));
    }

    /// Goes on with a restore, and looks at every entry.
    fn is_continued(&self) {
        if self.staging().is_none() && count(&self.path("out")) > 0 {
            // Killed when all was done but for saying so.
            assert_eq!(differences(&picture(&self.mail), &tree(&self.path("out"))), Vec::<String>::new());
            return;
        }
        let (status, said) = self.restore(&["--continue"]);
        assert_eq!(status, Some(0), "{said}");
        self.is_whole();
    }

    fn is_whole(&self) {
        assert_eq!(differences(&picture(&self.mail), &tree(&self.path("out"))), Vec::<String>::new());
        self.is_noted_nowhere();
    }

    fn is_noted_nowhere(&self) {
        // A note that was being written when the program was killed has no name yet, and notes nothing.
        let noted = names(&self.path("state/staging")).into_iter();
        let noted: Vec<_> = noted.filter(|name| name.as_encoded_bytes()[0] != b'.').collect();
        assert!(noted.is_empty(), "the state directory has forgotten it: {noted:?}");
    }

    /// Starts a restore, and kills it as soon as `is_time`; returns whether it was killed before its end.
    fn kill_when(&self, is_time: impl Fn() -> bool) -> bool {
        let mut command = self.command(&["restore", "latest:mail", "--target", "out"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("program starts");
        while !is_time() && child.try_wait().expect("is asked").is_none() {
            std::thread::yield_now();
        }
        child.kill().expect("kill is sent");
        !child.wait().expect("program ends").success()
    }

    /// Leaves a restore behind that was killed when it had made `files` top entries or more in its tree.
    fn cut(&self, files: usize) {
        for _ in 0..50 {
            self.wipe();
            let is_time = || self.staging().is_some_and(|staging| count(&staging.join("tree")) >= files);
            if self.kill_when(is_time) && names(&self.path("out")).len() == 1 {
                return;
            }
        }
        panic!("no restore was killed in time");
    }

    /// Returns the staging directory in `out`.
    fn staging(&self) -> Option<PathBuf> {
        let inside = fs::read_dir(self.path("out")).ok()?.flatten();
        let mut inside =
            inside.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b".snap-restore-"));
        inside.next().map(|entry| entry.path())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns the picture of a tree, if there is one.
fn tree(root: &Path) -> Picture {
    if root.exists() { picture(root) } else { Picture::new() }
}

fn names(folder: &Path) -> Vec<OsString> {
    fs::read_dir(folder)
        .map_or_else(|_| Vec::new(), |inside| inside.flatten().map(|it| it.file_name()).collect())
}

fn count(folder: &Path) -> usize {
    names(folder).len()
}

/// Many messages right in the root, so that there are many names to put in place; and one of everything else.
fn many_names(mail: &Path) {
    let mut noise = Noise::new(7);
    for number in 0..3000 {
        fs::write(mail.join(format!("m{number}")), noise.bytes(200 + number % 700)).expect("file is written");
    }
    for folder in ["a/deep/er", "b", "c"] {
        fs::create_dir_all(mail.join(folder)).expect("folders are made");
    }
    fs::write(mail.join("a/deep/er/large"), noise.bytes(3 << 20)).expect("file is written");
    fs::write(mail.join("b/one"), noise.bytes(5000)).expect("file is written");
    fs::hard_link(mail.join("b/one"), mail.join("c/two")).expect("link is made");
    fs::hard_link(mail.join("b/one"), mail.join("z-three")).expect("link is made");
    symlink("../b/one", mail.join("c/link")).expect("link is made");
    rustix::fs::mknodat(rustix::fs::CWD, mail.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
        .expect("FIFO is made");
    let sparse = File::create(mail.join("sparse")).expect("file is made");
    sparse.set_len(1 << 20).expect("file grows");
    for (name, mode) in [("m1", 0o400), ("m2", 0o666), ("m3", 0o4755), ("b", 0o555), ("c", 0o2770), ("m4", 0)]
    {
        fs::set_permissions(mail.join(name), fs::Permissions::from_mode(mode)).expect("mode is set");
    }
}

fn few(mail: &Path) {
    for name in ["one", "two", "three"] {
        fs::create_dir(mail.join(name)).expect("folder is made");
        fs::write(mail.join(name).join("file"), name.repeat(900)).expect("file is written");
    }
}

#[test]
fn a_restore_that_is_killed_while_it_fills_shows_nothing_and_is_continued_to_the_same_tree() {
    let place = Place::with(many_names);
    for files in [1, 300, 1500, 2990] {
        place.cut(files);
        let said = place.refused(&[]);
        assert!(said.contains("unfinished restore") && said.contains("nothing of it is in place"), "{said}");
        assert!(said.contains("--continue"), "{said}");
        for overwrite in ["if-changed", "always"] {
            place.refused(&["--overwrite", overwrite, "--delete"]);
        }
        place.is_continued();
    }
}

#[test]
fn a_restore_that_is_killed_before_and_while_it_begins_is_continued() {
    let place = Place::with(few);
    let mut killed = 0;
    for looks in 0..12 {
        place.wipe();
        // Each look at the directory is a little later than the one before.
        let seen = std::cell::Cell::new(0);
        let is_time = || {
            seen.set(seen.get() + i32::from(place.path("out").exists()));
            seen.get() > looks * 4
        };
        if place.kill_when(is_time) {
            killed += 1;
            match place.staging().is_none() && count(&place.path("out")) > 0 {
                true => place.is_whole(), // it was at its very end
                false => place.is_continued(),
            }
        }
    }
    assert!(killed > 0, "no restore was killed in time");
}

#[test]
fn a_restore_that_is_killed_between_two_names_is_called_not_whole_until_it_is_continued() {
    let place = Place::with(many_names);
    let mut between = 0;
    for least in [1, 10, 200, 1000] {
        for _ in 0..10 {
            place.wipe();
            // The staging directory is one of the names.
            let killed = place.kill_when(|| count(&place.path("out")) > least);
            let left = place.staging().map_or(0, |staging| count(&staging.join("tree")));
            if killed && left > 0 && count(&place.path("out")) > 1 {
                between += 1;
                let said = place.refused(&[]);
                assert!(said.contains("names are in place, so it is not whole"), "{said}");
                break;
            }
        }
        if place.staging().is_some() {
            place.is_continued();
        }
    }
    assert!(between > 0, "no restore was killed between two names");
}

#[test]
fn what_was_begun_for_something_else_is_not_continued() {
    let place = Place::with(many_names);
    place.cut(10);
    fs::write(place.mail.join("new"), b"later").expect("file is written");
    place.succeeds(&["backup", "mail", "--component", "mail"]);
    let other = place.refused(&["--continue"]);
    assert!(other.contains("unfinished restore of") && other.contains("ask for the same"), "{other}");
    let continued = |place_named: &str, more: &[&str]| {
        place.snap(&[&["restore", place_named, "--target", "out", "--continue"], more].concat())
    };
    for (named, more) in [
        ("latest~1:mail/b", &[][..]),
        ("latest~1:mail", &["--exclude", "m1"]),
        ("latest~1:mail", &["--include", "m1"]),
        ("latest~1:mail", &["--numeric-ids"]),
    ] {
        let before = tree(&place.path("out"));
        let output = continued(named, more);
        assert_eq!(output.status.code(), Some(2), "{named} {more:?}: {}", text(&output.stderr));
        assert_eq!(tree(&place.path("out")), before, "nothing is touched");
    }
    let output = continued("latest~1:mail", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    fs::remove_file(place.mail.join("new")).expect("file goes");
    place.is_whole();
    let said = place.refused(&["--continue"]);
    assert!(said.contains("no unfinished restore lies in it"), "{said}");
}

#[test]
fn half_files_of_a_restore_that_was_cut_are_made_anew_and_strangers_are_named() {
    let place = Place::with(many_names);
    place.cut(100);
    let tree = place.staging().expect("is there").join("tree");
    let mut made: Vec<_> =
        names(&tree).into_iter().filter(|name| name.as_encoded_bytes()[0] == b'm').collect();
    made.sort();
    assert!(made.len() > 3);
    let wrong = |name: &OsString| {
        let about = fs::metadata(tree.join(name)).expect("is there");
        let file = File::options().write(true).open(tree.join(name)).expect("opens");
        (file, about.len(), about.modified().expect("has a time"))
    };
    // As a power cut leaves them: empty, shorter, of the right length and time and full of zeros.
    wrong(&made[0]).0.set_len(0).expect("is cut");
    let (file, length, _) = wrong(&made[1]);
    file.set_len(length / 2).expect("is cut");
    let (file, length, time) = wrong(&made[2]);
    file.set_len(0)
        .and_then(|()| file.set_len(length))
        .and_then(|()| file.set_modified(time))
        .expect("is zeroed");
    fs::write(tree.join("stranger"), b"?").expect("file is written");
    let (status, said) = place.restore(&["--continue"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("stranger: lay in the staging directory"), "{said}");
    assert_eq!(differences(&picture(&place.mail), &picture(&place.path("out"))), ["stranger: extra"]);
}

#[test]
fn a_name_that_has_appeared_meanwhile_is_kept() {
    let place = Place::with(many_names);
    place.cut(100);
    fs::write(place.path("out/m7"), b"somebody else's").expect("file is written");
    let (status, said) = place.restore(&["--continue"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("m7: something with that name has appeared in the target meanwhile"), "{said}");
    assert_eq!(fs::read(place.path("out/m7")).expect("reads"), b"somebody else's");
    let staging = place.staging().expect("is there");
    assert_eq!(names(&staging.join("tree")), ["m7"], "all others are in place");
    let said = place.refused(&[]);
    assert!(said.contains("not whole"), "{said}");
    fs::rename(place.path("out/m7"), place.path("m7")).expect("moves away");
    place.is_continued();
}

#[test]
fn a_restore_that_another_one_works_at_is_left_alone() {
    let place = Place::with(many_names);
    place.cut(10);
    let marker = File::open(place.staging().expect("is there").join("marker")).expect("opens");
    flock(&marker, FlockOperation::LockExclusive).expect("is locked");
    for more in [&[][..], &["--continue"]] {
        assert!(place.refused(more).contains("is at work there"));
    }
    drop(marker);
    place.is_continued();
}

#[test]
fn a_staging_directory_that_somebody_else_planted_is_neither_followed_nor_trusted() {
    let place = Place::with(few);
    let (out, elsewhere) = (place.path("out"), place.path("elsewhere"));
    let planted = out.join(".snap-restore-0000000000000001");
    fs::create_dir_all(elsewhere.join("tree")).expect("folders are made");
    fs::create_dir(&out).expect("folder is made");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode is set");
    };
    mode(&elsewhere, 0o700);
    // A real one, of this very restore, but elsewhere, behind a link.
    let whole = Place::with(many_names);
    whole.cut(3);
    let marker = fs::read(whole.staging().expect("is there").join("marker")).expect("reads");
    fs::write(elsewhere.join("marker"), &marker).expect("file is written");
    symlink(&elsewhere, &planted).expect("link is made");
    for (more, says) in [(&[][..], "target is not empty"), (&["--continue"], "which is a link")] {
        let said = place.refused(more);
        assert!(said.contains(says), "{said}");
    }
    assert_eq!(count(&elsewhere.join("tree")), 0);
    fs::remove_file(&planted).expect("link goes");

    fs::create_dir_all(planted.join("tree")).expect("folders are made");
    fs::write(planted.join("marker"), &marker).expect("file is written");
    mode(&planted, 0o755);
    assert!(place.refused(&["--continue"]).contains("is open to other users"));
    mode(&planted, 0o700);
    let said = place.refused(&["--continue"]);
    assert!(said.contains("ask for the same"), "of another repository: {said}");
    fs::write(planted.join("marker"), b"{}").expect("file is written");
    assert!(place.refused(&["--continue"]).contains("has a marker that this version cannot read"));
    fs::remove_file(planted.join("marker")).expect("file goes");
    symlink(elsewhere.join("marker"), planted.join("marker")).expect("link is made");
    assert!(place.refused(&["--continue"]).contains("cannot be opened"));
    fs::remove_file(planted.join("marker")).expect("link goes");
    fs::write(planted.join("tree/precious"), b"x").expect("file is written");
    assert!(place.refused(&["--continue"]).contains("has no marker"));
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&planted, Some(4321), Some(4321)).expect("is given away");
        assert!(place.refused(&["--continue"]).contains("belongs to another user"));
    }
}

#[test]
fn a_new_file_system_s_lost_and_found_counts_as_nothing() {
    let place = Place::with(|mail| {
        few(mail);
        fs::create_dir(mail.join("lost+found")).expect("folder is made");
    });
    fs::create_dir_all(place.path("out/lost+found")).expect("folders are made");
    fs::write(place.path("out/lost+found/#12"), b"the file system's").expect("file is written");
    let inode = fs::metadata(place.path("out")).expect("is there").ino();
    let (status, said) = place.restore(&[]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(fs::metadata(place.path("out")).expect("is there").ino(), inode, "the same directory");
    assert_eq!(fs::read(place.path("out/lost+found/#12")).expect("reads"), b"the file system's");
    assert_eq!(fs::read_to_string(place.path("out/two/file")).expect("reads"), "two".repeat(900));
    assert_eq!(place.staging(), None);
}

#[test]
fn modes_are_the_snapshots_whatever_the_umask_and_the_directory_s_group() {
    let place = Place::with(many_names);
    for (umask, mode) in [("0", 0o755), ("077", 0o2755), ("022", 0o1777)] {
        place.wipe();
        fs::create_dir(place.path("out")).expect("folder is made");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(place.path("out"), None, Some(4321)).expect("is given");
        }
        fs::set_permissions(place.path("out"), fs::Permissions::from_mode(mode)).expect("mode is set");
        let output = place.in_shell(&format!("umask {umask}"), &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        place.is_whole();
    }
}

#[test]
fn an_ordinary_user_s_directories_that_cannot_be_written_are_put_in_place() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let place = Place::with(few);
    let closed = place.mail.join("closed");
    fs::create_dir(&closed).expect("folder is made");
    fs::write(closed.join("file"), b"content").expect("file is written");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).expect("mode is set");
    place.succeeds(&["backup", "mail", "--component", "mail"]);
    fs::create_dir(place.path("out")).expect("folder is made");
    for name in ["", "repo", "state", "out"] {
        let given = Command::new("chown").args(["-R", "65534:65534"]).arg(place.path(name)).status();
        assert!(given.expect("chown runs").success());
    }
    let mut command = place.command(&["restore", "latest:mail", "--target", "out"]);
    let output = command.uid(65_534).gid(65_534).output().expect("program runs");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.contains("owner not restored"), "{said}");
    let about = fs::metadata(place.path("out/closed")).expect("is there");
    assert_eq!((about.mode() & 0o7777, about.uid()), (0o555, 65_534));
    assert_eq!(fs::read(place.path("out/closed/file")).expect("reads"), b"content");
    assert_eq!(place.staging(), None);
    // The target itself is one.
    let mut command = place.command(&["restore", "latest:mail/closed", "--target", "new"]);
    let output = command.uid(65_534).gid(65_534).output().expect("program runs");
    let said = text(&output.stderr);
    assert!(said.lines().count() <= 1 && !said.contains("snap-restore"), "{said}");
    let about = fs::metadata(place.path("new")).expect("is there");
    assert_eq!((about.mode() & 0o7777, names(&place.path("new"))), (0o555, vec!["file".into()]));
    place.is_noted_nowhere();
}

/// A file system in memory; unmounted when it is dropped.
struct Memory(PathBuf);

impl Memory {
    fn mounted(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).expect("folder is made");
        match mount(&["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"], at) {
            true => Some(Self(at.to_owned())),
            false => {
                println!("skipped: file systems can't be mounted here");
                None
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    let output = Command::new("mount").args(arguments).arg(at).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn a_full_disk_in_mid_restore_shows_nothing_and_is_continued_when_there_is_room() {
    let place = Place::with(|mail| {
        many_names(mail);
        fs::write(mail.join("b/big"), Noise::new(9).bytes(4 << 20)).expect("file is written");
    });
    let Some(disk) = Memory::mounted(&place.path("out"), "5m") else { return };
    let inode = fs::metadata(&disk.0).expect("is there").ino();
    let (status, said) = place.restore(&[]);
    assert_eq!((status, said.lines().count()), (Some(2), 1), "{said}");
    assert!(
        said.contains("No space left") && said.contains("make room") && said.contains("--continue"),
        "{said}"
    );
    assert_eq!(names(&disk.0).len(), 1, "and nothing has its name");
    assert!(place.staging().is_some());
    let (status, said) = place.restore(&["--continue"]);
    assert_eq!(status, Some(2), "there is no more room than before: {said}");
    assert_eq!(names(&disk.0).len(), 1);
    assert!(mount(&["-o", "remount,size=64m"], &disk.0));
    place.is_continued();
    assert_eq!(fs::metadata(&disk.0).expect("is there").ino(), inode, "a mount point");
}

#[test]
fn directories_nested_deeper_than_a_path_can_be_long_are_restored_with_few_open_ones() {
    const DEPTH: usize = 3000;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = Place::with(|mail| {
        let mut at = openat(rustix::fs::CWD, mail, flags, Mode::empty()).expect("opens");
        for _ in 0..DEPTH {
            mkdirat(&at, "d", Mode::RWXU).expect("folder is made");
            at = openat(&at, "d", flags, Mode::empty()).expect("opens");
        }
        let file = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&at, "bottom", file, Mode::RUSR).expect("file is made");
        rustix::io::write(&file, b"content").expect("file is written");
    });
    let output = place.in_shell("ulimit -n 256", &["--verify"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let mut at = openat(rustix::fs::CWD, place.path("out"), flags, Mode::empty()).expect("opens");
    for _ in 0..DEPTH {
        at = openat(&at, "d", flags, Mode::empty()).expect("opens");
    }
    let bottom = openat(&at, "bottom", OFlags::RDONLY, Mode::empty()).expect("opens");
    let mut content = [0; 20];
    assert_eq!(rustix::io::read(&bottom, &mut content[..]), Ok(7));
    assert_eq!(&content[..7], b"content");
    // Deeper than the library of the language can remove.
    let _ = Command::new("rm").arg("-rf").args([place.path("out"), place.mail.clone()]).status();
}
