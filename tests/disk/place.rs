//! Where a repository is made, and what of somebody else's files lies there.

use std::fs;
use std::os::unix::fs::symlink;

use crate::{Scene, files_below};

#[test]
fn nothing_is_made_in_a_directory_that_holds_somebody_elses_files() {
    for left in
        ["photos/a.jpg", "tmp/letter.txt", "tmp/upload-1", "packs/notes.txt", "keys/id_rsa", ".DS_Store"]
    {
        let scene = Scene::new();
        let path = scene.repo.join(left);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folder is made");
        fs::write(&path, b"my own").expect("file is written");
        let (status, said) = scene.run(&["init", "--encryption", "none"]);
        let top = left.split('/').next().expect("a first part");
        assert!(
            status == 2 && said.contains(top) && said.contains("no repository has made"),
            "{left}: {said}"
        );
        assert_eq!(files_below(&scene.repo), [path], "nothing came, nothing went");
        assert!(!scene.state.join("writer").exists());
    }
}

#[test]
fn a_repository_is_made_beside_lost_and_found_and_what_a_cut_init_left() {
    let scene = Scene::new();
    for folder in ["lost+found", "tmp", "packs", "keys"] {
        fs::create_dir_all(scene.repo.join(folder)).expect("folder is made");
    }
    fs::write(scene.repo.join("tmp/upload-a1B2c3"), b"cut").expect("file is written");
    fs::write(scene.repo.join("lock"), b"").expect("file is written");
    scene.with_snapshots(1, 1);
    assert!(!scene.repo.join("tmp/upload-a1B2c3").exists(), "a dead run's, and swept");
}

#[test]
fn only_uploads_of_dead_runs_are_removed_from_tmp() {
    let scene = Scene::new();
    scene.with_snapshots(2, 1);
    let tmp = |name: &str| scene.repo.join("tmp").join(name);
    let foreign = ["letter.txt", "upload-", "upload-1234567", "upload-12345", "upload-12.456", ".DS_Store"];
    for name in foreign {
        fs::write(tmp(name), b"my own").expect("file is written");
    }
    fs::create_dir(tmp("upload-folder")).expect("folder is made");
    symlink(scene.at("source/file"), tmp("upload-linked")).expect("link is made");
    fs::write(tmp("upload-a1B2c3"), b"cut").expect("file is written");
    scene.runs(&["backup", "source"]);
    scene.runs(&["prune", "--keep-last", "1", "--now"]);
    assert!(!tmp("upload-a1B2c3").exists());
    assert!(foreign.iter().all(|name| tmp(name).exists()));
    assert!(
        tmp("upload-folder").exists()
            && tmp("upload-linked").is_symlink()
            && scene.at("source/file").exists()
    );
}

#[test]
fn what_desktops_and_editors_leave_in_a_repository_is_told_and_no_damage() {
    let scene = Scene::new();
    scene.with_snapshots(2, 1);
    let mut left =
        vec![".DS_Store".to_owned(), "Thumbs.db".to_owned(), "._x".to_owned(), "config~".to_owned()];
    for folder in ["keys", "packs", "packs/00", "index", "snapshots", "condemned", "tmp"] {
        left.push(format!("{folder}/.DS_Store"));
    }
    for path in &left {
        let path = scene.repo.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folder is made");
        fs::write(path, b"not yours").expect("file is written");
    }
    let said = scene.runs(&["check", "--read-data"]);
    assert!(said.contains(".DS_Store: not a repository file") && said.contains("more files"), "{said}");
    for verb in
        [&["backup", "source"][..], &["prune", "--keep-last", "1", "--now"], &["rebuild-index"], &["stats"]]
    {
        scene.runs(verb);
    }
    assert!(left.iter().all(|path| scene.repo.join(path).exists()), "they are somebody's");
    let copy = scene.at("copy");
    scene.runs(&["clone", scene.repo.to_str().expect("text"), "--repo", copy.to_str().expect("text")]);
}

#[test]
fn a_clone_goes_on_where_it_was_cut_and_never_over_another_repository() {
    let (scene, other) = (Scene::new(), Scene::new());
    scene.with_snapshots(2, 1);
    other.with_snapshots(1, 2);
    let (from, copy) = (scene.repo.to_str().expect("text").to_owned(), scene.at("copy"));
    let clone = |from: &str| scene.run(&["clone", from, "--repo", copy.to_str().expect("text")]);
    assert_eq!(clone(&from).0, 0);
    // Cut before its config came, and the snapshots of then have gone from the source since.
    fs::remove_file(copy.join("config")).expect("config goes");
    scene.change(7, 1);
    scene.runs(&["backup", "source"]);
    scene.runs(&["prune", "--keep-last", "1", "--now"]);
    let before = files_below(&copy);
    let (status, said) = clone(other.repo.to_str().expect("text"));
    assert!(status == 2 && said.contains("not of repository"), "{said}");
    assert_eq!(files_below(&copy), before, "nothing came, nothing went");
    let (status, said) = clone(&from);
    assert_eq!(status, 0, "{said}");
    fs::write(copy.join("holiday.jpg"), b"my own").expect("file is written");
    assert_eq!(clone(&from).0, 0, "a repository that is there is no new one");
    fs::remove_file(copy.join("config")).expect("config goes");
    let (status, said) = clone(&from);
    assert!(status == 2 && said.contains("holiday.jpg"), "{said}");
}

#[test]
fn an_address_of_another_kind_is_refused_wherever_a_place_is_named() {
    let scene = Scene::new();
    scene.with_snapshots(1, 1);
    let before = files_below(scene.folder.path());
    let refuses = |output: std::process::Output, right: &str| {
        let (status, said) = crate::said(&output);
        assert!(status == 2 && said.contains(right), "{status}: {said}");
    };
    let run = |arguments: &[&str]| scene.command(arguments).output().expect("program runs");
    for place in ["s3:bucket/x", "S3://bucket/x"] {
        refuses(run(&["--repo", place, "init"]), "s3://bucket/x");
        refuses(run(&["--repo", place, "snapshots"]), "s3://bucket/x");
        refuses(run(&["sync", place]), "s3://bucket/x");
        refuses(run(&["clone", place, "--repo", "copy"]), "s3://bucket/x");
        refuses(run(&["check", "--repair-from", place]), "s3://bucket/x");
    }
    for place in ["sftp:user@host:/x", "user@host:/x", "rest:http://h/x", "rclone:remote:x", "b2:bucket:x"] {
        refuses(run(&["--repo", place, "init"]), "sshfs");
        let by_environment = scene.command(&["init"]).env("SNAP_REPOSITORY", place).output();
        refuses(by_environment.expect("program runs"), "sshfs");
    }
    let config =
        "[repository]\npath = \"user@host:/x\"\n[[component]]\nname = \"mail\"\npaths = [\"/srv\"]\n";
    fs::write(scene.at("config.toml"), config).expect("configuration is written");
    let configured =
        scene.command(&["--config", "config.toml", "config", "check"]).env_remove("SNAP_REPOSITORY").output();
    refuses(configured.expect("program runs"), "sshfs");
    fs::remove_file(scene.at("config.toml")).expect("configuration goes");
    assert_eq!(files_below(scene.folder.path()), before, "nothing was made");
    // Who does mean a directory of such a name says so.
    scene.runs(&["--repo", "./s3:bucket", "init", "--encryption", "none"]);
}

#[test]
fn a_link_that_leads_to_nothing_is_called_that() {
    let scene = Scene::new();
    scene.with_snapshots(1, 1);
    symlink(scene.at("not/mounted"), scene.at("hdd")).expect("link is made");
    let link = scene.at("hdd");
    for verb in ["init", "snapshots"] {
        for place in [link.clone(), link.join("below")] {
            let (status, said) = scene.run(&["--repo", place.to_str().expect("text"), verb]);
            assert!(status == 2 && said.contains("is a link to") && said.contains("not/mounted"), "{said}");
        }
        let (status, said) = scene.run(&["--state-dir", link.to_str().expect("text"), verb]);
        assert!(status == 2 && said.contains("state directory") && said.contains("is a link to"), "{said}");
    }
}
