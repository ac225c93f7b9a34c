//! Names of one directory that a file system may take for one: in other case, in another Unicode form, with dots or
//! spaces at their ends.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::os::fd::OwnedFd;

use crate::base::entry::quoted;
use crate::op::restore::lack;
use crate::op::restore::origin::join;
use crate::stage::scan::{self, Stat};
use crate::stage::snapshot::Lack;
use crate::stage::tree::Entries;

/// A name, and what all names of its file share if it has more than one.
pub type Alike = (Vec<u8>, Option<(u64, u64)>);

/// Returns a number that names share which some file system may take for one. Others may share it too.
pub fn folded(name: &[u8]) -> u64 {
    let hash = |kept: &[u8]| {
        let mut hasher = DefaultHasher::new();
        let end = kept.iter().rposition(|byte| !matches!(byte, b'.' | b' ')).map_or(0, |last| last + 1);
        hasher.write(kept.get(..end).unwrap_or_default());
        hasher.finish()
    };
    if name.is_ascii() {
        return hash(&name.to_ascii_lowercase());
    }
    // What is not ASCII may be written in several ways: it is left out, and so is a letter with a mark after it.
    let text = String::from_utf8_lossy(name).to_uppercase().to_lowercase();
    let kept: Vec<u8> = text
        .chars()
        .zip(text.chars().skip(1).chain([' ']))
        .filter(|(_, next)| !is_mark(*next))
        .filter_map(|(letter, _)| u8::try_from(letter).ok().filter(u8::is_ascii))
        .collect();
    hash(&kept)
}

/// Returns whether a character is a mark on the letter before it.
fn is_mark(letter: char) -> bool {
    matches!(letter, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}')
}

/// Returns the names of a directory that are alike, those that are together. O(n log n) for n names.
pub fn alike(stream: &[u8]) -> Vec<Vec<Alike>> {
    let entries = Entries::new(stream).map_while(Result::ok);
    let mut folds: Vec<_> = entries.map(|(range, entry)| (folded(entry.name), range)).collect();
    folds.sort_unstable_by_key(|(fold, range)| (*fold, range.start));
    let several = folds.chunk_by(|(a, _), (b, _)| a == b).filter(|run| run.len() > 1);
    let groups = several.map(|run| {
        let own = run.iter().filter_map(|(_, range)| Entries::new(stream.get(range.clone())?).next()?.ok());
        own.map(|(_, entry)| {
            (entry.name.to_vec(), (entry.links > 1).then_some((entry.filesystem, entry.inode)))
        })
        .collect()
    });
    groups.collect()
}

/// Returns a lack for each name of these that lies in one place with another, in the directory `path`. `is_due` says
/// whether a name was to be there. Looks at each name once: O(n) for n names in the directory and in the groups.
pub fn fallen_together(
    directory: &OwnedFd,
    path: &[u8],
    groups: &[Vec<Alike>],
    is_due: impl Fn(&[u8]) -> bool,
) -> Vec<Lack> {
    let Ok(listed) = scan::list(directory) else { return Vec::new() };
    let listed: HashSet<&[u8]> = listed.iter().collect();
    let mut spelled: HashMap<u64, usize> = HashMap::new();
    listed.iter().for_each(|name| *spelled.entry(folded(name)).or_default() += 1);
    let mut lacks = Vec::new();
    for group in groups {
        let due = group.iter().filter(|(name, _)| is_due(name));
        let present: Vec<(&Alike, Stat)> = due
            .filter_map(|alike| scan::stat_at(directory, &alike.0).ok().map(|stat| (alike, stat)))
            .collect();
        let Some(((first, _), _)) = present.first() else { continue };
        let spelled = spelled.get(&folded(first)).copied().unwrap_or(0);
        // Names that are listed as they are come first: of two that fell together it is the one that is there.
        let (exact, other): (Vec<_>, Vec<_>) =
            present.iter().partition(|((name, _), _)| listed.contains(name.as_slice()));
        let (mut count, mut first) = (0, None);
        // Names of one file share their link: any other is in the same place by mistake.
        let mut kept: HashMap<_, &Alike> = HashMap::new();
        for (alike @ (name, link), stat) in exact.into_iter().chain(other) {
            let place = (stat.filesystem, stat.inode);
            let there = kept.get(&place).filter(|(_, other)| link.is_none() || link != other);
            let same = there.map(|(name, _)| name.as_slice());
            // Not every file system says of two names that they are one file; that it lists fewer tells as well.
            let is_too_many = || count >= spelled && !listed.contains(name.as_slice());
            match same.or_else(|| is_too_many().then_some(first).flatten()) {
                Some(other) => {
                    let other = quoted(other);
                    let reason = format!(
                        "fell together with {other}: this file system takes the two names for one, and only one is there; restore to one that tells them apart"
                    );
                    lacks.push(lack(&join(path, name), reason));
                }
                None => {
                    count += 1;
                    first = first.or(Some(name.as_slice()));
                    kept.entry(place).or_insert(alike);
                }
            }
        }
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_some_file_system_takes_for_one_are_alike() {
        for (a, b) in [
            ("MAIL", "mail"),
            ("Straße", "STRASSE"),
            ("k\u{e9}y", "ke\u{301}y"),
            ("\u{212a}", "k"),
            ("name", "name. "),
        ] {
            assert_eq!(folded(a.as_bytes()), folded(b.as_bytes()), "{a} {b}");
        }
        assert_ne!(folded(b"mail"), folded(b"mails"));
    }

    #[test]
    fn names_that_are_alike_and_lie_side_by_side_are_no_trouble() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["MAIL", "mail"] {
            std::fs::File::create(folder.path().join(name)).unwrap();
        }
        let fd = std::fs::File::open(folder.path()).unwrap().into();
        let group: Vec<Alike> = vec![(b"MAIL".to_vec(), None), (b"mail".to_vec(), None)];
        assert_eq!(fallen_together(&fd, b"", std::slice::from_ref(&group), |_| true), Vec::new());
        // As a file system would have it that knows one name: both lead to one file.
        std::fs::remove_file(folder.path().join("mail")).unwrap();
        std::fs::hard_link(folder.path().join("MAIL"), folder.path().join("mail")).unwrap();
        let found = fallen_together(&fd, b"in", &[group], |_| true);
        assert_eq!(found.len(), 1);
        assert!(found[0].path == b"in/mail" && found[0].reason.contains("with MAIL"), "{found:?}");
    }
}
