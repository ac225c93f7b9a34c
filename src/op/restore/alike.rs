//! Names of one directory that a file system may take for one: in other case, in another Unicode form, with dots or
//! spaces at their ends.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;

use crate::base::entry::quoted;
use crate::op::restore::lack;
use crate::op::restore::origin::join;
use crate::stage::scan;
use crate::stage::snapshot::Lack;
use crate::stage::tree::Entries;

/// A name, and what all names of its file share if it has more than one.
pub type Alike = (Vec<u8>, Option<(u64, u64)>);

/// Returns a number that names share which some file system may take for one. Others may share it too.
pub fn folded(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    if name.is_ascii() {
        let end = name.iter().rposition(|byte| !matches!(byte, b'.' | b' ')).map_or(0, |last| last + 1);
        name[..end].iter().for_each(|byte| byte.to_ascii_lowercase().hash(&mut hasher));
        return hasher.finish();
    }
    // What is not ASCII may be written in several ways: it is left out, and so is a letter with a mark after it.
    let text = String::from_utf8_lossy(name).to_uppercase().to_lowercase();
    let kept: String = text
        .chars()
        .zip(text.chars().skip(1).chain([' ']))
        .filter(|(letter, next)| letter.is_ascii() && !is_mark(*next))
        .map(|(letter, _)| letter)
        .collect();
    kept.trim_end_matches(['.', ' ']).bytes().for_each(|byte| byte.hash(&mut hasher));
    hasher.finish()
}

/// Returns whether a character is a mark on the letter before it.
fn is_mark(letter: char) -> bool {
    matches!(letter, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}')
}

/// Returns the names of a directory that are alike, those that are together.
pub fn alike(stream: &[u8]) -> Vec<Vec<Alike>> {
    let entries = || Entries::new(stream).map_while(Result::ok).map(|(_, entry)| entry);
    let mut folds: Vec<u64> = entries().map(|entry| folded(entry.name)).collect();
    folds.sort_unstable();
    let several = folds.chunk_by(|a, b| a == b).filter(|run| run.len() > 1).filter_map(|run| run.first());
    let groups = several.map(|fold| {
        let own = entries().filter(|entry| folded(entry.name) == *fold);
        own.map(|entry| (entry.name.to_vec(), (entry.links > 1).then_some((entry.filesystem, entry.inode))))
            .collect()
    });
    groups.collect()
}

/// Returns a lack for each name of these that lies in one place with another, in the directory `path`. `is_due` says
/// whether a name was to be there.
pub fn fallen_together(
    directory: &OwnedFd,
    path: &[u8],
    groups: &[Vec<Alike>],
    is_due: impl Fn(&[u8]) -> bool,
) -> Vec<Lack> {
    let Ok(listed) = scan::list(directory) else { return Vec::new() };
    let mut lacks = Vec::new();
    for group in groups {
        let due: Vec<&Alike> = group.iter().filter(|(name, _)| is_due(name)).collect();
        let there = |name: &[u8]| scan::stat_at(directory, name).ok();
        let present: Vec<&Alike> = due.into_iter().filter(|(name, _)| there(name).is_some()).collect();
        let Some((first, _)) = present.first() else { continue };
        let fold = folded(first);
        let spelled = listed.iter().filter(|name| folded(name) == fold).count();
        let mut kept: Vec<&Alike> = Vec::new();
        // Names that are listed as they are come first: of two that fell together it is the one that is there.
        let (exact, other): (Vec<&Alike>, Vec<&Alike>) =
            present.iter().partition(|(name, _)| listed.contains(name));
        for alike @ (name, link) in exact.into_iter().chain(other) {
            let stat = there(name);
            let same = kept.iter().find(|(other, other_link)| {
                let is_one = there(other).zip(stat).is_some_and(|(other, own)| {
                    (other.filesystem, other.inode) == (own.filesystem, own.inode)
                });
                is_one && (link.is_none() || link != other_link)
            });
            // Not every file system says of two names that they are one file; that it lists fewer tells as well.
            let is_too_many = || kept.len() >= spelled && !listed.contains(name);
            match same.or_else(|| is_too_many().then(|| kept.first()).flatten()) {
                Some((other, _)) => {
                    let other = quoted(other);
                    let reason = format!(
                        "fell together with {other}: this file system takes the two names for one, and only one is there; restore to one that tells them apart"
                    );
                    lacks.push(lack(&join(path, name), reason));
                }
                None => kept.push(alike),
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
