//! What the absolute patterns of a configuration match now, for whoever reads `snap config check`.

use std::fs;
use std::path::{Path, PathBuf};

use globset::GlobBuilder;

/// Entries of directories that are looked at for one pattern.
const LOOKED_AT_MAX: usize = 100_000;

/// What a pattern matches.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Matches {
    /// Paths on this machine, all below those that were named.
    pub paths: Vec<PathBuf>,
    /// Whether there may be more, which were not looked for.
    pub is_cut: bool,
}

/// Returns whether a pattern begins with a slash.
pub fn is_absolute(pattern: &str) -> bool {
    pattern.strip_prefix('!').unwrap_or(pattern).starts_with('/')
}

/// Returns what an absolute pattern matches now, from the root of the machine and from that of the component
/// whose paths are `named`. At most 100,000 names are looked at.
pub fn matches(pattern: &str, named: &[PathBuf]) -> Matches {
    let body = pattern.strip_prefix('!').unwrap_or(pattern).trim_end();
    let is_only_directory = body.ends_with('/');
    let names: Vec<&str> = body.split('/').filter(|name| !name.is_empty()).collect();
    let mut found = Matches::default();
    let mut left = LOOKED_AT_MAX;
    expand(Path::new("/"), &names, &mut found, &mut left);
    let is_below = |path: &PathBuf| named.iter().any(|named| path.starts_with(named) && path != named);
    found.paths.retain(is_below);
    match named {
        [single] => expand(single, &names, &mut found, &mut left),
        several => {
            let first = names.first().copied().unwrap_or_default();
            let is_first = |path: &&PathBuf| {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                name.is_some_and(|name| is_match(first, &name)) && names.len() > 1
            };
            several.iter().filter(is_first).for_each(|path| expand(path, &names[1..], &mut found, &mut left));
        }
    }
    found.paths.retain(|path| !is_only_directory || path.is_dir());
    found.paths.sort();
    found.paths.dedup();
    found
}

/// Adds what lies below `folder` and is called `names`, one below the other.
fn expand(folder: &Path, names: &[&str], found: &mut Matches, left: &mut usize) {
    let Some((name, rest)) = names.split_first() else {
        found.paths.push(folder.to_owned());
        return;
    };
    if name.contains("**") {
        found.is_cut = true; // all that lies below would have to be looked at
        return;
    }
    if !name.contains(['*', '?', '[', '{', '\\']) {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            expand(&path, rest, found, left);
        }
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if *left == 0 {
            found.is_cut = true;
            return;
        }
        *left -= 1;
        if is_match(name, &entry.file_name().to_string_lossy()) {
            expand(&entry.path(), rest, found, left);
        }
    }
}

fn is_match(pattern: &str, name: &str) -> bool {
    let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
    glob.is_ok_and(|glob| glob.compile_matcher().is_match(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_absolute_pattern_matches_is_found_from_both_roots() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["mail/cache", "mail/anna/tmp", "mail/bob/tmp", "other/tmp"] {
            fs::create_dir_all(path(name)).expect("directory");
        }
        let on_machine = |rest: &str| format!("{}/{rest}", folder.path().display());
        let found = |pattern: &str, named: &[PathBuf]| {
            let matches = matches(pattern, named);
            assert!(!matches.is_cut);
            matches.paths
        };
        let mail = [path("mail")];
        assert_eq!(found(&on_machine("mail/cache/"), &mail), [path("mail/cache")]);
        assert_eq!(found(&on_machine("*/*/tmp"), &mail), [path("mail/anna/tmp"), path("mail/bob/tmp")]);
        assert_eq!(found("/cache", &mail), [path("mail/cache")]);
        assert!(found(&on_machine("mail"), &mail).is_empty(), "what was named stays");
        assert!(found("/nothing", &mail).is_empty());
        let both = [path("mail"), path("other")];
        assert_eq!(found("/other/tmp", &both), [path("other/tmp")]);
        assert!(matches(&on_machine("mail/**/tmp"), &mail).is_cut);
    }
}
