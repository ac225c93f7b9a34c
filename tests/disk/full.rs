//! Real disks on which not one byte, or not one file, fits any more. They need root and loop devices.

use std::fs;

use crate::common::Noise;
use crate::common::disk::{Disk, fill_up, fill_with_files};
use crate::{Scene, files_below};

/// A repository on a disk of its own, with four snapshots of 3 MiB each; its state directory beside it if that is wanted.
fn on_disk(files: Option<u64>, with_state: bool) -> Option<(Scene, Disk)> {
    let mut scene = Scene::new();
    let disk = match files {
        Some(files) => Disk::of_files(scene.folder.path(), 24, files)?,
        None => Disk::mounted(scene.folder.path(), 24)?,
    };
    scene.repo = disk.path().join("repo");
    if with_state {
        scene.state = disk.path().join("state");
    }
    scene.with_snapshots(4, 3);
    Some((scene, disk))
}

fn pack_bytes(scene: &Scene) -> u64 {
    let packs = files_below(&scene.repo.join("packs"));
    packs.iter().map(|path| fs::metadata(path).expect("pack is there").len()).sum()
}

/// The newest snapshot is all that is left, whole, and the next backup works.
fn is_well(scene: &Scene) {
    assert_eq!(scene.snapshots(), 1);
    assert!(pack_bytes(scene) < 5 << 20, "{} bytes of packs are left", pack_bytes(scene));
    scene.runs(&["check", "--read-data"]);
    let newest = format!("latest:{}", scene.at("source").display());
    scene.runs(&["restore", &newest, "--target", "back", "--verify"]);
    let (before, after) = (fs::read(scene.at("source/file")), fs::read(scene.at("back/file")));
    assert!(before.expect("file reads") == after.expect("file reads"), "the same bytes");
    scene.change(99, 1);
    scene.runs(&["backup", "source"]);
    let said = scene.runs(&["check", "--read-data"]);
    assert!(!said.contains("no snapshot needs what it held"), "{said}");
}

#[test]
fn prune_now_gives_space_back_on_a_disk_with_no_byte_left() {
    for (with_state, is_condemned) in [(false, true), (false, false), (true, true), (true, false)] {
        let Some((scene, disk)) = on_disk(None, with_state) else { return };
        if is_condemned {
            scene.runs(&["prune", "--keep-last", "1"]);
        }
        fill_up(disk.path());
        let (status, said) = scene.run(&["prune", "--keep-last", "1", "--now"]);
        assert_eq!(status, 0, "state on it: {with_state}, condemned before: {is_condemned}: {said}");
        is_well(&scene);
    }
}

#[test]
fn prune_now_gives_space_back_on_other_file_systems_and_within_a_quota_that_is_used_up() {
    let made: [fn(&std::path::Path) -> Option<Disk>; 2] = [Disk::of_xfs, Disk::of_btrfs];
    for (make, has_quota) in made.into_iter().zip([false, true]) {
        let mut scene = Scene::new();
        let Some(disk) = make(scene.folder.path()) else { continue };
        scene.repo = disk.path().join("repo");
        scene.with_snapshots(4, 3);
        if has_quota {
            disk.limit(20);
        }
        fill_up(disk.path());
        let more = scene.at("source/more");
        fs::write(&more, Noise::new(7).bytes(3 << 20)).expect("file is written");
        let (status, said) = scene.run(&["backup", "source"]);
        assert!(status == 2 && said.contains("snap prune --now"), "{status}: {said}");
        fs::remove_file(more).expect("file goes");
        scene.runs(&["prune", "--keep-last", "1", "--now"]);
        is_well(&scene);
    }
}

#[test]
fn prune_now_gives_space_back_on_a_disk_where_no_more_files_fit() {
    for with_state in [false, true] {
        let Some((scene, disk)) = on_disk(Some(400), with_state) else { return };
        fill_with_files(disk.path());
        let (status, said) = scene.run(&["prune", "--keep-last", "1", "--now"]);
        assert_eq!(status, 0, "state on it: {with_state}: {said}");
        is_well(&scene);
    }
}

#[test]
fn prune_now_needs_neither_the_folder_of_uploads_nor_one_of_lists() {
    let Some((scene, disk)) = on_disk(Some(400), false) else { return };
    fs::remove_dir_all(scene.repo.join("tmp")).expect("folder goes");
    fill_with_files(disk.path());
    fill_up(disk.path());
    scene.runs(&["prune", "--keep-last", "1", "--now"]);
    is_well(&scene);
}

#[test]
fn a_lock_file_that_finds_no_room_gets_it_from_what_a_dead_run_left() {
    let Some((scene, disk)) = on_disk(Some(400), false) else { return };
    fs::remove_file(scene.repo.join("lock")).expect("file goes");
    fs::write(scene.repo.join("tmp/upload-a1B2c3"), b"cut").expect("file is written");
    fill_with_files(disk.path());
    scene.runs(&["prune", "--keep-last", "1", "--now"]);
    is_well(&scene);
}

#[test]
fn a_plain_prune_on_a_full_disk_forgets_nothing_and_says_what_helps() {
    let Some((scene, disk)) = on_disk(None, false) else { return };
    fill_up(disk.path());
    let (status, said) = scene.run(&["prune", "--keep-last", "1"]);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("the disk is full") && said.contains("snap prune --now"), "{said}");
    assert_eq!(scene.snapshots(), 4);
    scene.runs(&["check", "--read-data"]);
    scene.runs(&["prune", "--keep-last", "1", "--now"]);
    is_well(&scene);
}

#[test]
fn packs_of_which_a_part_is_needed_are_repacked_as_far_as_there_is_room() {
    let mut scene = Scene::new();
    let Some(disk) = Disk::mounted(scene.folder.path(), 32) else { return };
    scene.repo = disk.path().join("repo");
    scene.runs(&["init", "--encryption", "none", "--pack-size", "4MiB"]);
    let name = |number: usize| scene.at(&format!("source/{number:02}"));
    let mut noise = crate::common::Noise::new(5);
    for number in 0..36 {
        fs::write(name(number), noise.bytes(512 << 10)).expect("file is written");
    }
    scene.runs(&["backup", "source"]);
    (0..36)
        .filter(|number| number % 4 != 0)
        .for_each(|number| fs::remove_file(name(number)).expect("file goes"));
    scene.runs(&["backup", "source", "--accept", "files"]);
    fill_up(disk.path());
    let before = pack_bytes(&scene);
    let said = scene.runs(&["prune", "--keep-last", "1", "--now", "--max-unused", "0"]);
    scene.runs(&["check", "--read-data"]);
    assert!(pack_bytes(&scene) <= before, "{said}");
    fs::remove_file(disk.path().join("filler-1")).expect("room is made");
    scene.runs(&["prune", "--now", "--max-unused", "0"]);
    assert!(pack_bytes(&scene) < before / 3, "{} of {before} bytes are left", pack_bytes(&scene));
    scene.runs(&["check", "--read-data"]);
}

#[test]
fn a_cache_that_found_no_room_is_no_damage() {
    let mut scene = Scene::new();
    let Some(disk) = Disk::mounted(scene.folder.path(), 8) else { return };
    scene.state = disk.path().join("state");
    scene.with_snapshots(1, 1);
    fill_up(disk.path());
    for seed in 10..14 {
        // Many small files: the cache has to grow.
        for number in 0..400 {
            let bytes = crate::common::Noise::new(seed * 1000 + number).bytes(3000);
            fs::write(scene.at(&format!("source/{seed}-{number}")), bytes).expect("file is written");
        }
        scene.runs(&["backup", "source", "-q"]);
        let said = scene.runs(&["check", "--read-data"]);
        assert!(!said.contains("DAMAGE"), "{said}");
    }
    let (status, said) = scene.run(&["rebuild-index"]);
    assert!(status == 0 || said.contains("No space left"), "{status}: {said}");
    for entry in fs::read_dir(disk.path()).expect("disk lists").flatten() {
        if entry.file_name().to_string_lossy().starts_with("filler") {
            fs::remove_file(entry.path()).expect("filler goes");
        }
    }
    scene.runs(&["rebuild-index"]);
    scene.runs(&["check", "--read-data"]);
}
