//! What lies where, and that new snapshots appear.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use snap::base::id::{FragmentId, RepositoryId};
use snap::stage::index::Cache;

use crate::common::can_mount;
use crate::place::{Place, wait_until};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("folder lists");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("entry reads").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn snapshots_lie_by_day_week_tag_host_and_id() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    let write = |text: &str| fs::write(place.path("mail/text"), text).expect("file is written");
    write("first");
    let first = place.backup(&["--daily", "--time", "2025-11-07T03:00"]);
    write("second, of the same day");
    let second = place.backup(&["--daily", "--weekly", "--time", "2025-11-07T22:00"]);
    write("third");
    let third = place.backup(&["--tag", "before upgrade", "--host", "mx2", "--time", "2025-11-09T01:02:03"]);
    let undecided = place.mount(&[]);
    assert_eq!(names(&undecided.path("")), ["daily", "hosts", "snapshots", "tags", "weekly"]);
    assert!(names(&undecided.path("daily")).is_empty(), "no day is of one machine alone");
    drop(undecided);
    let mount = place.mount(&["--host", "any"]);
    assert_eq!(names(&mount.path("")), ["daily", "hosts", "latest", "snapshots", "tags", "weekly"]);
    assert_eq!(names(&mount.path("daily")), ["2025-11-07"]);
    assert_eq!(names(&mount.path("weekly")), ["2025-week-45"]);
    assert_eq!(names(&mount.path("tags/before upgrade")), ["2025-11-09T01:02:03"]);
    assert!(names(&mount.path("hosts")).contains(&"mx2".to_owned()));
    let mut ids = [first.clone(), second.clone(), third.clone()];
    ids.sort();
    assert_eq!(names(&mount.path("snapshots")), ids);
    let read = |path: &str| fs::read_to_string(mount.path(path)).expect("file reads");
    assert_eq!(read("daily/2025-11-07/mail/text"), "second, of the same day");
    assert_eq!(read("weekly/2025-week-45/mail/text"), "second, of the same day");
    assert_eq!(read("tags/before upgrade/2025-11-09T01:02:03/mail/text"), "third");
    assert_eq!(read(&format!("snapshots/{first}/mail/text")), "first");
    assert_eq!(read("latest/mail/text"), "third");
    let latest = fs::read_link(mount.path("latest")).expect("link reads");
    assert_eq!(latest, Path::new(&format!("snapshots/{third}")));
    assert!(fs::metadata(mount.path("daily/2025-11-08")).is_err());
}

#[test]
fn a_new_snapshot_appears_without_mounting_again() {
    if !can_mount() {
        return;
    }
    let place = Place::made(&[]);
    fs::write(place.path("mail/text"), "old").expect("file is written");
    place.backup(&["--daily", "--time", "2025-11-07T03:00"]);
    let mount = place.mount(&[]);
    let read = || fs::read_to_string(mount.path("latest/mail/text")).expect("file reads");
    assert_eq!(read(), "old");
    fs::write(place.path("mail/text"), "new").expect("file is written");
    place.backup(&["--daily", "--time", "2025-11-08T03:00"]);
    wait_until("latest is the new one", || {
        fs::read_link(mount.path("latest")).is_ok_and(|to| to == Path::new("daily/2025-11-08"))
    });
    assert_eq!(read(), "new");
    assert_eq!(names(&mount.path("daily")), ["2025-11-07", "2025-11-08"]);
    let old = fs::read_to_string(mount.path("daily/2025-11-07/mail/text")).expect("file reads");
    assert_eq!(old, "old");
}

#[test]
fn an_empty_repository_can_be_mounted_before_its_first_snapshot() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    let mount = place.mount(&[]);
    assert_eq!(names(&mount.path("")), ["daily", "snapshots", "weekly"]);
    fs::write(place.path("mail/text"), "first").expect("file is written");
    place.backup(&[]);
    wait_until("the first snapshot appears", || mount.path("latest/mail/text").exists());
}

#[test]
fn a_mount_that_rests_does_not_keep_a_backup_from_the_index() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    fs::write(place.path("mail/text"), "old").expect("file is written");
    place.backup(&[]);
    let mount = place.mount(&[]);
    assert_eq!(fs::read_to_string(mount.path("latest/mail/text")).expect("file reads"), "old");
    let index = crate::common::index_cache(&place.path(""));
    let config = fs::read_to_string(place.path("repo/config")).expect("config reads");
    let id = config.lines().find_map(|line| line.strip_prefix("repository = ")).expect("config has an id");
    let id: RepositoryId = id.trim_matches('"').parse().expect("id reads");
    let listed = || -> BTreeSet<FragmentId> {
        Cache::open(&index, id).map(|cache| cache.fragments().clone()).unwrap_or_default()
    };
    let before = listed();
    assert!(!before.is_empty());
    let is_closed = || {
        let open = fs::read_dir(format!("/proc/{}/fd", mount.id())).expect("descriptors list");
        !open.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == index))
    };
    wait_until("the mount lets go of the index", is_closed);
    fs::write(place.path("mail/text"), "new").expect("file is written");
    place.backup(&[]);
    assert!(listed().len() > before.len(), "the backup brought the cache up to date");
}
