//! The house rules that a machine can hold: imports point down, rooms stay apart, files stay short
//! and say what they are for, and nothing names the machine it was written on.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each floor may import. A floor that isn't here may not exist.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("base", &["base"]),
    ("store", &["base", "store"]),
    ("stage", &["base", "stage"]),
    ("repo", &["base", "store", "stage", "repo"]),
    ("op", &["base", "store", "stage", "repo", "op"]),
    ("job", &["base", "store", "stage", "repo", "op", "job"]),
    ("cli", &["base", "store", "stage", "repo", "op", "job", "cli"]),
];
/// Floors whose rooms never meet: `stage::chunk` may not name `stage::hash`.
const ROOMS_APART: &[&str] = &["stage", "op"];
/// Longest file, in lines before its test module: beyond it a file surely holds two things.
const CODE_LINES_MAX: usize = 500;
/// What begins the test module of a file.
const TEST_MODULE: &str = "#[cfg(test)]\nmod ";
/// Folders of the machines this is written on. In two pieces each, so that this file names none.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/opt/", "peers"), concat!("/tmp", "/w/")];

#[test]
fn imports_point_down() {
    let mut bad = Vec::new();
    for file in sources("src") {
        let (floor, room) = place(&file);
        let code = code_of(&file);
        if code.contains("super::") {
            bad.push(format!("{}: super::", file.display()));
        }
        let Some(allowed) = allowed(&floor) else { continue }; // lib.rs and main.rs
        for path in crate_paths(&code) {
            let to_floor = path.first().map_or("", String::as_str);
            let to_room = path.get(1).map_or("", String::as_str);
            let is_down = allowed.contains(&to_floor);
            let is_apart = to_floor == floor && ROOMS_APART.contains(&to_floor) && room != "mod";
            if !is_down || (is_apart && to_room != room && !is_shared_item(to_floor, to_room)) {
                bad.push(format!("{}: crate::{}", file.display(), path.join("::")));
            }
        }
    }
    assert!(bad.is_empty(), "imports that point up or sideways:\n{}", bad.join("\n"));
}

#[test]
fn every_floor_is_known() {
    for file in sources("src") {
        let (floor, room) = place(&file);
        let is_known =
            allowed(&floor).is_some() || (room.is_empty() && ["lib", "main"].contains(&floor.as_str()));
        assert!(is_known, "{}: which floor is this, and what may it import?", file.display());
    }
}

#[test]
fn files_are_short() {
    let mut bad = Vec::new();
    for file in sources("src") {
        let lines = code_of(&file).lines().count();
        if lines > CODE_LINES_MAX {
            bad.push(format!("{}: {lines} lines", file.display()));
        }
    }
    assert!(bad.is_empty(), "more than {CODE_LINES_MAX} lines before the test module:\n{}", bad.join("\n"));
}

#[test]
fn every_file_opens_by_saying_what_it_is_for() {
    let all = ["src", "tests", "benches"].into_iter().flat_map(sources);
    let silent: Vec<_> = all.filter(|file| !text_of(file).starts_with("//! ")).collect();
    assert!(silent.is_empty(), "no //! on the first line: {silent:?}");
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let listed =
        Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).output();
    let Some(listed) = listed.ok().filter(|output| output.status.success()) else {
        println!("skipped: this is no git checkout");
        return;
    };
    let mut bad = Vec::new();
    let paths = listed.stdout.split(|&byte| byte == 0).filter(|path| !path.is_empty());
    for path in paths.map(|path| String::from_utf8_lossy(path).into_owned()) {
        let Ok(bytes) = fs::read(&path) else { continue }; // deleted, or a link to nowhere
        for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let named = MACHINE_PATHS.iter().find(|needle| names_path(line, needle.as_bytes()));
            bad.extend(named.map(|needle| format!("{path}:{}: {needle}", number + 1)));
        }
    }
    assert!(bad.is_empty(), "paths of one machine:\n{}", bad.join("\n"));
}

#[test]
fn what_pages_and_comments_point_to_is_there() {
    let mut bad = Vec::new();
    for page in files(".", "md") {
        let folder = page.parent().expect("lies in a folder");
        let text = text_of(&page);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://") && !link.contains('{')) {
            let to = link.split('#').next().unwrap_or_default();
            if !to.is_empty() && !folder.join(to).exists() {
                bad.push(format!("{}: {link}", page.display()));
            }
        }
        // `op/restore/fill.rs` as pages about the code write it.
        for path in text.split('`').filter(|word| word.ends_with(".rs") && word.contains('/')) {
            if !path.contains(['*', ' ', '{', '…'])
                && !Path::new(path).exists()
                && !Path::new("src").join(path).exists()
            {
                bad.push(format!("{}: {path}", page.display()));
            }
        }
    }
    for file in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        for line in text_of(&file).lines().filter_map(|line| Some(line.split_once("//")?.1.to_owned())) {
            for word in line.split(|c: char| !(c.is_alphanumeric() || "/._-".contains(c))) {
                let word = word.trim_end_matches('.');
                let is_there = Path::new(word).exists()
                    || word.starts_with("docs/decisions/0") && word.len() == 19 && decision(word);
                if word.starts_with("docs/") && !is_there {
                    bad.push(format!("{}: {word}", file.display()));
                }
            }
        }
    }
    assert!(bad.is_empty(), "nothing is there:\n{}", bad.join("\n"));
}

/// Returns whether a decision of this number exists: `docs/decisions/0004`.
fn decision(start: &str) -> bool {
    files("docs/decisions", "md").iter().any(|page| page.to_string_lossy().starts_with(start))
}

#[test]
fn paths_in_braces_and_under_aliases_are_found() {
    let code = "use crate::op::{Report, backup::{Backup, Plan as P}, self};\nx(crate::base::id::PackId); $crate::store::Name; mycrate::a;";
    let found: Vec<String> = crate_paths(code).iter().map(|path| path.join("::")).collect();
    let expected = [
        "op::Report",
        "op::backup::Backup",
        "op::backup::Plan",
        "op::self",
        "base::id::PackId",
        "store::Name",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_machine_path_is_found_at_a_paths_start_only() {
    let needle = concat!("/wo", "rk/").as_bytes();
    let found = |before: &str| names_path(&[before.as_bytes(), needle, b"x"].concat(), needle);
    assert!(found("") && found("see ") && found("\"") && found("`"));
    assert!(!found("net") && !found("..") && !found("src"));
}

fn allowed(floor: &str) -> Option<&'static [&'static str]> {
    MAY_IMPORT.iter().find(|(name, _)| *name == floor).map(|(_, to)| *to)
}

/// Returns the floor and room of `src/floor/room[/…].rs`.
fn place(file: &Path) -> (String, String) {
    let part = |n: usize| {
        let part = file.iter().nth(n).map(|part| part.to_str().expect("source paths are UTF-8"));
        part.unwrap_or_default().trim_end_matches(".rs").to_owned()
    };
    (part(1), part(2))
}

/// Returns whether `item` is a type, trait or constant that the floor's own `mod.rs` defines: all
/// rooms may name it. One that is only re-exported there belongs to a room.
fn is_shared_item(floor: &str, item: &str) -> bool {
    let code = code_of(&Path::new("src").join(floor).join("mod.rs"));
    let definitions = ["struct", "enum", "trait", "type", "const", "static"];
    item.starts_with(char::is_uppercase)
        && definitions.iter().any(|word| {
            let text = format!("{word} {item}");
            code.match_indices(&text).any(|(at, _)| {
                let after = code[at + text.len()..].chars().next();
                !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
            })
        })
}

fn text_of(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Returns the text of `file` before its test module, with comments blanked.
fn code_of(file: &Path) -> String {
    let text = text_of(file);
    let code = text.split(TEST_MODULE).next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns what follows every `crate::` in `code`, in segments, with braces spread out.
fn crate_paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            spread(&code[at + start.len()..], &[], &mut found);
        }
    }
    found
}

/// Reads the path or brace group at the start of `code` as what follows `prefix`; returns the rest.
fn spread<'c>(code: &'c str, prefix: &[String], found: &mut Vec<Vec<String>>) -> &'c str {
    let code = code.trim_start();
    if let Some(mut rest) = code.strip_prefix('{') {
        loop {
            rest = spread(rest, prefix, found).trim_start();
            // What stands between a path and the next comma is an alias.
            let end = rest.find([',', '}']).unwrap_or(rest.len());
            match rest[end..].strip_prefix(',').map(str::trim_start) {
                Some(more) if !more.starts_with('}') => rest = more,
                Some(more) => return &more[1..],
                None => return rest.get(end + 1..).unwrap_or_default(),
            }
        }
    }
    let end = code.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(code.len());
    let path = [prefix, &[code[..end].to_owned()]].concat();
    match code[end..].strip_prefix("::") {
        Some(rest) if !rest.starts_with('<') => spread(rest, &path, found),
        _ => {
            found.push(path);
            &code[end..]
        }
    }
}

/// Returns whether `line` holds `path` as the start of a path, not as a part of a longer one.
fn names_path(line: &[u8], path: &[u8]) -> bool {
    let mut starts = (0..line.len()).filter(|&at| line[at..].starts_with(path));
    starts.any(|at| {
        at == 0 || !matches!(line[at - 1], b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-')
    })
}

/// Returns the Rust files under `folder`, sorted; none if there is no such folder.
fn sources(folder: &str) -> Vec<PathBuf> {
    files(folder, "rs")
}

/// Returns the files under `folder` whose names end so, sorted, but for what is hidden or was built.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from(folder)];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("folder lists");
            let entries = entries.map(|entry| entry.expect("entry reads"));
            let is_ours =
                |name: &std::ffi::OsStr| name != "target" && !name.to_string_lossy().starts_with('.');
            todo.extend(entries.filter(|entry| is_ours(&entry.file_name())).map(|entry| entry.path()));
        } else if path.extension().is_some_and(|ext| ext == end) {
            found.push(path);
        }
    }
    found.sort();
    assert!(folder != "src" || !found.is_empty(), "run from the crate root");
    found
}
