//! Random trees, patterns and targets: `--delete` removes nothing that it can't account for, and all that it can.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::gitignore::GitignoreBuilder;
use snap::base::progress::Progress;
use snap::op::backup::{self, Component};
use snap::op::restore::{Configured, restore};
use snap::repo::Snapshot;
use snap::repo::index::Index;
use snap::repo::keys::NoSecrets;
use snap::repo::reader::Reader;

use crate::common::repo::{backup_request, restore_request};
use crate::common::{Noise, seed};
use crate::{Place, lacks};

const NAMES: [&str; 6] = ["a", "b", "keep", "x.tmp", "cur", "deep"];
const PATTERNS: [&str; 8] = ["*.tmp", "keep/", "/p/a", "a/b", "deep", "!x.tmp", "/q", "cur/*"];

/// All paths below a directory.
fn paths(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            found.insert(path.strip_prefix(root).expect("lies below").to_owned());
            if path.is_dir() {
                todo.push(path);
            }
        }
    }
    found
}

/// Makes some files, and the directories that lead to them.
fn grow(root: &Path, count: u64, noise: &mut Noise) {
    for number in 0..count {
        let mut path = root.to_owned();
        for _ in 0..=noise.below(3) {
            path.push(NAMES[noise.below(NAMES.len() as u64) as usize]);
        }
        if let Some(above) = path.parent()
            && fs::create_dir_all(above).is_ok()
            && !path.exists()
        {
            fs::write(&path, format!("{number}")).expect("file is written");
        }
    }
}

fn some_patterns(noise: &mut Noise) -> Vec<String> {
    let all = PATTERNS.iter().filter(|_| noise.below(4) == 0);
    all.map(|pattern| (*pattern).to_owned()).collect()
}

/// Returns whether one of these patterns leaves a path out: it, or a directory that it lies in. The first `named` names
/// were named, and are not left out.
fn leaves_out(patterns: &[String], path: &Path, named: usize, is_directory: bool) -> bool {
    let mut builder = GitignoreBuilder::new("");
    patterns.iter().for_each(|line| _ = builder.add_line(None, line).expect("is a pattern"));
    let matcher = builder.build().expect("patterns");
    let own: Vec<&Path> = path.ancestors().filter(|above| above.iter().count() > named).collect();
    own.iter().any(|at| matcher.matched(at, is_directory || *at != path).is_ignore())
}

fn component(name: &str, paths: Vec<PathBuf>, excludes: Vec<String>) -> Component {
    let directory = name.as_bytes().to_vec();
    let (name, care) = (name.to_owned(), backup::Care::default());
    Component { name, directory, paths, streams: Vec::new(), excludes, care }
}

/// Backs up components `two`, of the directories `p` and `q`, `one`, of `s` alone, and `inner`, of a directory in `p`.
fn back_up(place: &Place, excludes: &[String]) -> Snapshot {
    let path = |name: &str| place.path("source").join(name);
    let components = vec![
        component("two", vec![path("p"), path("q")], excludes.to_vec()),
        component("one", vec![path("s")], excludes.to_vec()),
        component("inner", vec![path("p/cur")], Vec::new()),
    ];
    let progress = Progress::default();
    let request = backup_request(components, 1, &progress);
    let _ = backup::backup(&place.repository, request).expect("backup");
    place.repository.snapshots().expect("snapshots list").all.pop().expect("a snapshot")
}

#[test]
fn delete_removes_exactly_what_it_can_account_for() {
    let seed = seed();
    for round in 0..25 {
        one_round(seed.wrapping_add(round));
    }
}

fn one_round(seed: u64) {
    let noise = &mut Noise::new(seed);
    let place = Place::new();
    for top in ["p", "q", "s", "p/cur"] {
        fs::create_dir_all(place.path("source").join(top)).expect("folder is made");
    }
    for top in ["p", "q", "s", "p/cur"] {
        grow(&place.path("source").join(top), 8, noise);
    }
    let (night, today) = (some_patterns(noise), some_patterns(noise));
    let snapshot = back_up(&place, &night);
    let reader =
        Reader::new(&place.repository, Index::open(&place.repository).expect("index opens"), 1 << 20);
    let progress = Progress::default();
    // What the night has of each component, and where that goes.
    let (asked, in_place) = ([["two"], ["one"], [""]][noise.below(3) as usize][0], noise.below(3) == 0);
    let target = match (asked, in_place) {
        ("two", true) => place.path("source"),
        ("one", true) => place.path("source/s"),
        _ => place.path("target"),
    };
    let mut request = restore_request(asked.as_bytes(), &place.path("fresh"), &progress);
    let _ = restore(&reader, &snapshot, &NoSecrets, &request).expect("restore");
    let stored = paths(&place.path("fresh"));
    grow(&target, 25, noise);
    for top in ["p", "q", "two/p", "one", "p/cur", "beside"] {
        grow(&target.join(top), 6, noise);
    }
    // What is of another kind than the snapshot has it is another test's.
    for path in &stored {
        let (fresh, live) = (place.path("fresh").join(path), target.join(path));
        match (fresh.is_dir(), live.is_dir(), live.exists()) {
            (false, true, _) => fs::remove_dir_all(live).expect("folder goes"),
            (true, false, true) => fs::remove_file(live).expect("file goes"),
            _ => {}
        }
    }
    let configured = |name: &str, paths: &[&str]| Configured {
        name: name.to_owned(),
        paths: paths.iter().map(|path| place.path("source").join(path)).collect(),
        excludes: today.clone(),
    };
    request.configured = Some(vec![configured("two", &["p", "q"]), configured("one", &["s"])]);
    request.target.clone_from(&target);
    (request.overwrite, request.delete, request.force) =
        (snap::op::restore::Overwrite::IfChanged, true, true);
    let before = paths(&target);
    let is_directory: BTreeSet<&PathBuf> = before.iter().filter(|path| target.join(path).is_dir()).collect();
    let goes = |path: &PathBuf| {
        let (component, below, source) = match (asked, path.iter().next().and_then(|top| top.to_str())) {
            ("one", _) => ("one", path.clone(), path.clone()),
            ("", Some("one")) => ("one", path.iter().skip(1).collect(), path.iter().skip(1).collect()),
            ("", Some("two")) => ("two", path.iter().skip(1).collect(), path.iter().skip(2).collect()),
            ("", Some("inner")) => ("inner", path.iter().skip(1).collect(), path.iter().skip(1).collect()),
            ("two", _) => ("two", path.clone(), path.iter().skip(1).collect()),
            _ => return false,
        };
        let (below, source): (PathBuf, PathBuf) = (below, source);
        let is_source_top = component == "two" && ["p", "q"].iter().any(|top| below.starts_with(top));
        let is_read = component != "two" || is_source_top;
        // A pattern may mean the component's root, or the source.
        let is_directory = is_directory.contains(path);
        let is_left_out = component != "inner"
            && [&night, &today].into_iter().any(|patterns| {
                leaves_out(patterns, &below, usize::from(component == "two"), is_directory)
                    || leaves_out(patterns, &source, 0, is_directory)
            });
        let is_inner = component == "two" && below.starts_with("p/cur");
        is_read && !source.as_os_str().is_empty() && !stored.contains(path) && !is_left_out && !is_inner
    };
    let mut expected: BTreeSet<PathBuf> = before.iter().filter(|path| goes(path)).cloned().collect();
    // A directory stays with what stays in it, and nothing goes below one that is left out.
    let stays: Vec<PathBuf> = before.difference(&expected).cloned().collect();
    stays.iter().flat_map(|path| path.ancestors().skip(1)).for_each(|above| _ = expected.remove(above));
    let report = restore(&reader, &snapshot, &NoSecrets, &request).expect("restore");
    assert_eq!(lacks(&report), Vec::<String>::new(), "seed {seed}");
    let after = paths(&target);
    let gone: BTreeSet<PathBuf> = before.difference(&after).cloned().collect();
    let text = |paths: BTreeSet<PathBuf>| -> Vec<String> {
        paths.iter().map(|path| String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()).collect()
    };
    assert_eq!(
        (text(&gone - &expected), text(&expected - &gone)),
        (Vec::new(), Vec::new()),
        "seed {seed}, {asked:?}, in place {in_place}, night {night:?}, today {today:?}: removed and should not; should and was not"
    );
    assert_eq!(report.deleted, gone.len() as u64, "seed {seed}");
    assert!(after.is_superset(&stored), "seed {seed}: all is there");
}
