//! The end of a restore into an empty directory: what the target itself gets, whatever call of it is the last.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::XattrFlags;

use crate::common::killed::killed_at;
use crate::{Place, few, names, text};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Calls of which each changes something durable or makes it durable.
const CALLS: [&str; 12] = [
    "mkdir",
    "mkdirat",
    "fchmod",
    "fremovexattr",
    "fsetxattr",
    "renameat",
    "renameat2",
    "syncfs",
    "fsync",
    "unlinkat",
    "unlink",
    "utimensat",
];

/// Version 2: owner rwx, user 4321 rwx, group r-x, mask rwx, others nothing.
fn list() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 7, 4321), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)];
    let bytes = |(tag, may, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2u32.to_le_bytes().to_vec(), entries.map(bytes).concat()].concat()
}

/// Gives a directory a mode, lists, and a time long ago; without lists where the file system has none.
fn mark(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o2750)).expect("mode is set");
    for name in [ACCESS, DEFAULT] {
        if rustix::fs::setxattr(directory, name, &list(), XattrFlags::empty()).is_err() {
            println!("no access lists on this file system");
        }
    }
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    fs::File::open(directory).and_then(|it| it.set_modified(then)).expect("time is set");
}

fn about(directory: &Path) -> String {
    let about = fs::metadata(directory).expect("is there");
    let lists = [ACCESS, DEFAULT].map(|name| {
        let mut list = [0; 100];
        let length = rustix::fs::getxattr(directory, name, &mut list[..]).unwrap_or(0);
        list[..length].to_vec()
    });
    format!("{:o} {}.{} {lists:?}", about.mode(), about.mtime(), about.mtime_nsec())
}

/// Restores `what` into `out`, killed at each call of its own in turn; whatever the call, another run ends with what
/// `like` is.
fn killed_everywhere(place: &Place, what: &str, like: &Path) {
    let out = place.path("out");
    let mut killed = 0;
    for call in CALLS {
        for nth in 1.. {
            place.wipe();
            let command = place.command(&["restore", what, "--target", "out"]);
            match killed_at(&command, call, nth) {
                None => return,
                Some(false) => break,
                Some(true) => killed += 1,
            }
            // Where all is there, another run says so, or ends it.
            let again = place.snap(&["restore", what, "--target", "out"]);
            let said = text(&again.stderr);
            assert!(matches!(again.status.code(), Some(0 | 2)), "{call} {nth}: {said}");
            let output = place.snap(&["restore", what, "--target", "out", "--continue"]);
            let said = format!("{call} {nth}: {said}{}", text(&output.stderr));
            let is_ended = output.status.code() == Some(2) && said.contains("no unfinished restore");
            assert!(output.status.success() || is_ended, "{said}");
            assert_eq!(about(&out), about(like), "{said}");
            assert_eq!(names(&out).len(), names(like).len(), "{said}: {:?}", names(&out));
            place.is_noted_nowhere();
        }
    }
    println!("killed at {killed} calls");
    assert!(killed > 20);
}

#[test]
fn a_restore_that_is_killed_at_its_end_gives_the_target_its_lists_and_times_when_it_is_continued() {
    let place = Place::with(|mail| {
        few(mail);
        mark(mail);
    });
    killed_everywhere(&place, "latest:mail", &place.mail);
}

#[test]
fn a_target_that_a_restore_made_for_a_directory_that_is_no_source_gets_all_of_it_when_it_is_continued() {
    let place = Place::with(few);
    let above = place.path("above");
    fs::create_dir_all(above.join("one")).expect("folders are made");
    fs::write(above.join("one/file"), b"content").expect("file is written");
    mark(&above);
    let one = above.join("one");
    let one = one.to_str().expect("a path of text");
    place.succeeds(&["backup", one]);
    let what = format!("latest:{}", above.display());
    killed_everywhere(&place, &what, &above);
}
