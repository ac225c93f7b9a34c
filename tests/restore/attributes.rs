//! What restored entries have besides content: owners, lists, labels, second names.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::{Arc, Mutex};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use snap::op::restore::Overwrite;
use snap::stage::snapshot::facts::{LIST_NAMES, ListNames};

use crate::{Place, lacks};

const ACCESS: &str = "system.posix_acl_access";

/// Version 2: owner rwx, this user rwx, group r-x, mask rwx, others nothing.
fn list(user: u32) -> Vec<u8> {
    let none = u32::MAX.to_le_bytes();
    let entry = |tag: u16, may: u16, id: [u8; 4]| [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id].concat();
    let user = entry(2, 7, user.to_le_bytes());
    [
        2u32.to_le_bytes().to_vec(),
        entry(1, 7, none),
        user,
        entry(4, 5, none),
        entry(16, 7, none),
        entry(32, 0, none),
    ]
    .concat()
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: only root can give files away");
    }
    is_root
}

fn about(place: &Place, name: &str) -> (u32, u32) {
    let about = fs::metadata(place.path(name)).expect("is there");
    (about.permissions().mode() & 0o7777, about.st_uid())
}

#[test]
fn a_target_is_what_the_directory_was_before_anything_is_in_it() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.write("source/private/key", "secret");
    fs::set_permissions(place.path("source/private"), fs::Permissions::from_mode(0o2700)).expect("is set");
    chown(place.path("source/private"), Some(1234), Some(1234)).expect("is given");
    fs::set_permissions(place.path("source/private"), fs::Permissions::from_mode(0o2700)).expect("is set");
    let (snapshot, [_, content]) = place.backup(1);
    fs::set_permissions(place.path("target"), fs::Permissions::from_mode(0o755)).expect("is set");
    for target in ["new/and/deep", "target"] {
        // Whoever reads the first byte of content looks at the target.
        let seen: Arc<Mutex<Option<(u32, u32)>>> = Arc::default();
        let (noted, path, content) = (seen.clone(), place.path(target), content.clone());
        place.disk.fail_reads(move |name, _| {
            if content.contains(name) {
                let about = fs::metadata(&path).expect("is there");
                noted
                    .lock()
                    .expect("no panic")
                    .get_or_insert((about.permissions().mode() & 0o777, about.st_uid()));
            }
            None
        });
        let report = place.restore(&snapshot, |request| {
            (request.path, request.target) = (b"mail/private".to_vec(), place.path(target));
            request.overwrite = Overwrite::Never;
        });
        assert!(report.expect("restore").is_whole());
        assert_eq!(*seen.lock().expect("no panic"), Some((0o700, 1234)), "{target}");
        assert_eq!(about(&place, target), (0o2700, 1234), "{target}");
        let mtime = |name: &str| fs::metadata(place.path(name)).expect("is there").st_mtime_nsec();
        assert_eq!(mtime(target), mtime("source/private"), "{target}");
    }
}

#[test]
fn a_directory_that_is_no_source_leaves_what_is_there_as_it_is() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.write("source/file", "kept");
    let (mut snapshot, _) = place.backup(1);
    // As of two paths, which lie side by side in a directory that is nobody's.
    let source = snapshot.manifest.components[0].sources[0].clone();
    snapshot.manifest.components[0].sources = vec![[&source[..], b"/file"].concat(), b"/elsewhere".to_vec()];
    chown(place.path("target"), Some(4321), Some(4321)).expect("is given");
    fs::set_permissions(place.path("target"), fs::Permissions::from_mode(0o751)).expect("is set");
    let _ = place.restore(&snapshot, |_| ()).expect("restore");
    assert_eq!(about(&place, "target"), (0o751, 4321));
    assert_eq!(place.read("target/file").as_deref(), Some("kept"));
    // Nor does what lies in a whole snapshot's target under a component's name.
    fs::create_dir(place.path("target/mail")).expect("folder is made");
    chown(place.path("target/mail"), Some(4321), Some(4321)).expect("is given");
    fs::set_permissions(place.path("target/mail"), fs::Permissions::from_mode(0o750)).expect("is set");
    let _ = place.restore(&snapshot, |request| request.path = Vec::new()).expect("restore");
    assert_eq!(about(&place, "target/mail"), (0o750, 4321));
    assert_eq!(place.read("target/mail/file").as_deref(), Some("kept"));
}

#[test]
fn those_whom_access_lists_name_go_by_name_as_owners_do() {
    let Some(nobody) = nix::unistd::User::from_name("nobody").ok().flatten() else {
        println!("skipped: there is no user nobody");
        return;
    };
    let place = Place::new();
    place.write("source/file", "x");
    place.write("source/known", "x");
    for (file, uid) in [("source/file", 6001), ("source/known", nobody.uid.as_raw())] {
        if rustix::fs::setxattr(place.path(file), ACCESS, &list(uid), XattrFlags::empty()).is_err() {
            println!("skipped: no access lists on this file system");
            return;
        }
    }
    // The second backup reads nothing anew, and says the same.
    place.backup(1);
    let (mut snapshot, _) = place.backup(2);
    let names = snapshot.manifest.list_names();
    assert!(names.users.contains(&(nobody.uid.as_raw(), b"nobody".to_vec())), "{names:?}");
    // On the machine that was backed up 6001 was called as nobody is here.
    let names = ListNames { users: vec![(6001, b"nobody".to_vec())], groups: Vec::new() };
    snapshot.manifest.set_fact(LIST_NAMES, snap::base::wire::encode(&names).expect("encodes"));
    for (numeric_ids, uid) in [(false, nobody.uid.as_raw()), (true, 6001)] {
        let report = place.restore(&snapshot, |request| {
            (request.numeric_ids, request.overwrite) = (numeric_ids, Overwrite::Always);
        });
        assert!(report.expect("restore").is_whole());
        let mut found = [0; 100];
        let length =
            rustix::fs::getxattr(place.path("target/file"), ACCESS, &mut found[..]).expect("has one");
        assert_eq!(found[..length], list(uid), "{numeric_ids}");
    }
}

#[test]
fn second_names_of_links_fifos_and_devices_are_one_inode() {
    let place = Place::new();
    std::os::unix::fs::symlink("nowhere", place.path("source/link")).expect("link is made");
    rustix::fs::mknodat(CWD, place.path("source/pipe"), FileType::Fifo, Mode::RUSR, 0).expect("is made");
    for name in ["link", "pipe"] {
        let second = place.path("source").join(format!("{name}2"));
        fs::hard_link(place.path("source").join(name), second).expect("link is made");
    }
    let (snapshot, _) = place.backup(1);
    for overwrite in [Overwrite::Never, Overwrite::Always] {
        let report = place.restore(&snapshot, |request| request.overwrite = overwrite).expect("restore");
        assert_eq!((report.others, report.files, lacks(&report)), (4, 0, Vec::new()));
        for name in ["link", "pipe"] {
            let inode = |name: String| {
                fs::symlink_metadata(place.path("target").join(name)).expect("is there").st_ino()
            };
            assert_eq!(inode(name.to_owned()), inode(format!("{name}2")), "{name}");
        }
    }
}

/// Of three names of one file one is missing, one differs and one is there, in every order.
#[test]
fn a_file_of_several_names_is_one_file_again_whichever_of_them_is_there() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let place = Place::new();
        place.write("source/n0", "one file");
        for name in ["n1", "n2"] {
            fs::hard_link(place.path("source/n0"), place.path("source").join(name)).expect("link is made");
        }
        let (snapshot, _) = place.backup(1);
        let _ = place.restore(&snapshot, |_| ()).expect("restore");
        let [missing, differs, there] = order.map(|number| place.path(&format!("target/n{number}")));
        fs::remove_file(missing).expect("name goes");
        fs::remove_file(&differs).expect("name goes");
        fs::write(differs, "another").expect("file is written");
        // And what is there is a file of its own, of the same size and time.
        let mtime = fs::metadata(&there).expect("is there").modified().expect("has a time");
        fs::remove_file(&there).expect("name goes");
        fs::write(&there, "one file").expect("file is written");
        fs::File::open(&there).and_then(|file| file.set_modified(mtime)).expect("time is set");
        let report = place.restore(&snapshot, |_| ()).expect("restore");
        assert_eq!(lacks(&report), Vec::<String>::new(), "{order:?}");
        let about = |name: &str| fs::metadata(place.path("target").join(name)).expect("is there");
        assert_eq!(about("n0").st_nlink(), 3, "{order:?}");
        assert_eq!(
            (about("n1").st_ino(), about("n2").st_ino()),
            (about("n0").st_ino(), about("n0").st_ino())
        );
        assert_eq!(place.read("target/n2").as_deref(), Some("one file"), "{order:?}");
    }
}

#[test]
fn a_stored_label_is_set_only_where_it_is_asked_for() {
    let place = Place::new();
    place.write("source/old", "x");
    place.write("source/new", "x");
    let set = |name: &str, label: &str| {
        let label = format!("{label}\0");
        rustix::fs::setxattr(place.path(name), "security.selinux", label.as_bytes(), XattrFlags::empty())
    };
    if ["source/old", "source/new"].iter().any(|name| set(name, "u:r:stored_t:s0").is_err()) {
        println!("skipped: labels cannot be set here");
        return;
    }
    let label = |name: &str| {
        let mut found = [0; 100];
        let length = rustix::fs::getxattr(place.path(name), "security.selinux", &mut found[..]).unwrap_or(0);
        String::from_utf8_lossy(&found[..length]).trim_end_matches('\0').to_owned()
    };
    let (snapshot, _) = place.backup(1);
    set("target", "u:r:parent_t:s0").expect("is set");
    place.write("target/old", "another text");
    set("target/old", "u:r:own_t:s0").expect("is set");
    let restore = |labels| {
        let report = place.restore(&snapshot, |request| {
            (request.labels, request.overwrite) = (labels, Overwrite::Always);
        });
        assert!(report.expect("restore").is_whole());
        (label("target/old"), label("target/new"))
    };
    assert_eq!(restore(false), ("u:r:own_t:s0".to_owned(), "u:r:parent_t:s0".to_owned()));
    assert_eq!(restore(true), ("u:r:stored_t:s0".to_owned(), "u:r:stored_t:s0".to_owned()));
}
