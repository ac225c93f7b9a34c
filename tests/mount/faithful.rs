//! What `cp -a` and `rsync -a` take out of a mount is what was backed up.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, SeekFrom, Timespec, Timestamps, XattrFlags};

use crate::common::Noise;
use crate::common::can_mount;
use crate::common::repo::{differences, picture};
use crate::place::{Place, text};

/// Makes one of everything that a file system can hold.
fn one_of_everything(root: &Path) {
    let noise = &mut Noise::new(7);
    fs::create_dir_all(root.join("deep/er")).expect("folder is made");
    fs::write(root.join("empty"), b"").expect("file is written");
    fs::write(root.join("deep/small"), b"mail\n").expect("file is written");
    fs::write(root.join("deep/er/large"), noise.bytes(3_300_001)).expect("file is written");
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"caf\xe9 \n\"'")), b"bytes\n").expect("file is written");
    fs::hard_link(root.join("deep/small"), root.join("second name")).expect("link is made");
    fs::hard_link(root.join("deep/small"), root.join("deep/er/third name")).expect("link is made");
    symlink("../no such \u{e9}", root.join("deep/link")).expect("link is made");
    let sparse = fs::File::create(root.join("sparse")).expect("file is made");
    sparse.write_all_at(&noise.bytes(5000), 1 << 20).expect("data is written");
    sparse.write_all_at(b"end", (40 << 20) - 3).expect("data is written");
    sparse.set_len(64 << 20).expect("length is set");
    fs::File::create(root.join("all hole")).and_then(|file| file.set_len(1 << 20)).expect("length is set");
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        ("block", FileType::BlockDevice, rustix::fs::makedev(259, 70_000)),
    ] {
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::RUSR, device).expect("node is made");
    }
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), attribute, value, XattrFlags::empty())
            .expect("attribute is set");
    };
    set("deep/small", "user.colour", b"blue\0green");
    set("deep", "user.folder", b"yes");
    let acl = Command::new("setfacl").args(["-m", "u:1234:rwx,g:4321:r"]).arg(root.join("empty")).status();
    assert!(acl.expect("setfacl runs").success());
    let acl = Command::new("setfacl").args(["-d", "-m", "u:1234:rx"]).arg(root.join("deep/er")).status();
    assert!(acl.expect("setfacl runs").success());
    for (name, mode) in [("deep/small", 0o4751), ("deep/er/large", 0o600), ("deep", 0o1777)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("mode is set");
    }
    std::os::unix::fs::lchown(root.join("deep/er/large"), Some(12), Some(34567)).expect("owner is set");
    std::os::unix::fs::lchown(root.join("deep/link"), Some(12), Some(13)).expect("owner is set");
    let times = |seconds| Timestamps {
        last_access: Timespec { tv_sec: seconds, tv_nsec: 1 },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 123_456_789 },
    };
    // All lie in the past: rsync leaves the time of a node or folder that it made in the same second.
    for (name, seconds) in [
        ("deep/er/large", 1_000_000_000),
        ("deep/small", 1_100_000_000),
        ("deep/link", 5),
        ("empty", -86_401),
        ("sparse", 1_200_000_000),
        ("all hole", 1_200_000_001),
        ("fifo", 1_200_000_002),
        ("null", 1_200_000_003),
        ("block", 1_200_000_004),
        ("deep/er", 9),
        ("deep", 1_300_000_000),
    ] {
        let at = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(CWD, root.join(name), &times(seconds), at).expect("time is set");
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("program runs");
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}

#[test]
fn cp_and_rsync_take_out_what_was_backed_up() {
    if !can_mount() {
        return;
    }
    let place = Place::made(&[]);
    let source = place.path("mail");
    one_of_everything(&source);
    place.backup(&[]);
    let mount = place.mount(&[]);
    let expected = picture(&source);
    assert_eq!(expected.len(), 14);
    let none: Vec<String> = Vec::new();
    assert_eq!(differences(&expected, &picture(&mount.path("latest/mail"))), none, "in the mount");
    run(Command::new("cp").arg("-a").arg(mount.path("latest/mail")).arg(place.path("by-cp")));
    assert_eq!(differences(&expected, &picture(&place.path("by-cp"))), none, "by cp -a");
    let with_slash = format!("{}/", mount.path("latest/mail").display());
    run(Command::new("rsync").args(["-aHAXS", "--numeric-ids", &with_slash]).arg(place.path("by-rsync")));
    assert_eq!(differences(&expected, &picture(&place.path("by-rsync"))), none, "by rsync -aHAXS");
    for way in ["by-cp", "by-rsync"] {
        let root = place.path(way);
        let about = |name: &str| fs::metadata(root.join(name)).expect("file is there");
        assert_eq!(about("deep/small").ino(), about("second name").ino(), "{way}: hard links");
        assert_eq!(about("deep/small").ino(), about("deep/er/third name").ino(), "{way}: hard links");
        assert!(about("sparse").blocks() * 512 < 1 << 20, "{way}: holes take no space");
    }
}

#[test]
fn holes_are_found_where_they_are() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    one_of_everything(&place.path("mail"));
    place.backup(&[]);
    let mount = place.mount(&[]);
    for name in ["sparse", "all hole", "deep/er/large", "empty"] {
        let both = [place.path("mail").join(name), mount.path("latest/mail").join(name)].map(|path| {
            let file = fs::File::open(path).expect("file opens");
            let mut borders = Vec::new();
            for at in [0, 1 << 20, (1 << 20) + 100, 2 << 20, (40 << 20) - 1, 64 << 20, 65 << 20] {
                borders.push(rustix::fs::seek(&file, SeekFrom::Data(at)).ok());
                borders.push(rustix::fs::seek(&file, SeekFrom::Hole(at)).ok());
            }
            borders
        });
        assert_eq!(both[0], both[1], "{name}");
    }
}

#[test]
fn parts_of_a_file_are_those_of_the_source() {
    if !can_mount() {
        return;
    }
    let place = Place::made(&[]);
    one_of_everything(&place.path("mail"));
    place.backup(&[]);
    let mount = place.mount(&["--cache-size", "4MiB"]);
    let noise = &mut Noise::new(crate::common::seed());
    for name in ["deep/er/large", "sparse"] {
        let expected = fs::read(place.path("mail").join(name)).expect("source reads");
        let file = fs::File::open(mount.path("latest/mail").join(name)).expect("file opens");
        for _ in 0..200 {
            let at = noise.below(expected.len() as u64 + 10);
            let mut part = vec![0; usize::try_from(noise.below(200_000)).expect("fits")];
            let length = file.read_at(&mut part, at).expect("part reads");
            let at = usize::try_from(at).expect("fits").min(expected.len());
            assert_eq!(length, part.len().min(expected.len() - at), "{name} at {at}");
            assert!(part[..length] == expected[at..at + length], "{name} at {at}");
        }
    }
}

/// Returns the inode number of every path below `root`, as stat(2) and as readdir(3) say it.
fn numbers(root: &Path) -> HashMap<Vec<u8>, u64> {
    let mut all = HashMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).expect("folder lists") {
            let entry = entry.expect("entry reads");
            use std::os::unix::fs::DirEntryExt;
            let about = fs::symlink_metadata(entry.path()).expect("entry is there");
            assert_eq!(entry.ino(), about.ino(), "{:?}", entry.path());
            all.insert(entry.path().as_os_str().as_bytes().to_vec(), about.ino());
            if about.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    all
}

#[test]
fn inode_numbers_are_one_file_s_own_and_stay() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    one_of_everything(&place.path("mail"));
    place.backup(&["--daily"]);
    let mount = place.mount(&[]);
    let before = numbers(&mount.path("snapshots"));
    assert_eq!(before.len(), 16, "what is in the source, mail, and the snapshot");
    let mut distinct: Vec<u64> = before.values().copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), before.len() - 2, "three names share one number, no others do");
    assert_eq!(numbers(&mount.path("snapshots")), before);
}

#[test]
fn space_and_files_are_counted() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    fs::write(place.path("mail/one"), Noise::new(1).bytes(100_000)).expect("file is written");
    fs::write(place.path("mail/two"), b"2").expect("file is written");
    place.backup(&[]);
    let mount = place.mount(&[]);
    let about = rustix::fs::statvfs(mount.path("")).expect("statfs answers");
    assert_eq!((about.f_files, about.f_bavail, about.f_namemax), (2, 0, 255));
    assert_eq!(about.f_blocks * about.f_frsize, 100_001_u64.next_multiple_of(about.f_frsize));
    let written = fs::write(mount.path("latest/mail/one"), b"x").expect_err("nothing can be written");
    assert_eq!(written.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
}
