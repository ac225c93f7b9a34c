//! Messages that a restore into a mailbox would double.
//!
//! A message's flags are part of its name (`…:2,S`), so one whose flags have changed since the night is not where the
//! snapshot has it: restored, it would be there twice, with one UID for both.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;

use crate::base::entry::{Kind, quoted};
use crate::op::restore::origin::{base_name, join};
use crate::stage::scan::{self, Names, unique_name};

/// How deep folders are looked for inside folders.
const FOLDERS_DEPTH_MAX: usize = 32;

/// Messages that are told, at most.
const TOLD: usize = 3;

/// Messages that are at places where the snapshot has none, and messages of the snapshot that are not in their places.
#[derive(Default)]
pub struct Messages {
    /// Unique name, and a path below the target.
    strays: HashMap<Box<[u8]>, Box<[u8]>>,
    /// Hashes of unique names.
    missing: HashSet<u64>,
    hashes: RandomState,
}

/// Returns whether a directory of this name holds a Maildir folder's messages.
pub fn is_side(name: &[u8]) -> bool {
    matches!(name, b"cur" | b"new")
}

/// Returns whether a directory with these names is a Maildir folder.
pub fn is_folder(names: &Names) -> bool {
    names.contains(b"cur") && names.contains(b"new")
}

impl Messages {
    /// Notes a message that stays where the snapshot has none.
    pub fn stray(&mut self, directory: &[u8], name: &[u8]) {
        let unique = unique_name(name);
        if !self.strays.contains_key(unique) {
            self.strays.insert(unique.into(), join(directory, name).into());
        }
    }

    /// Notes a message of the snapshot that is not in its place.
    pub fn missing(&mut self, name: &[u8]) {
        self.missing.insert(self.hashes.hash_one(unique_name(name)));
    }

    /// Notes all messages of a folder, and of those in it, of which the snapshot knows nothing.
    pub fn unknown_folder(&mut self, parent: &OwnedFd, path: &[u8], depth: usize) {
        let Ok(folder) = scan::open_directory(parent, base_name(path)) else { return };
        let Ok(names) = scan::list(&folder) else { return };
        if !is_folder(&names) || depth == FOLDERS_DEPTH_MAX {
            return;
        }
        for name in names.iter() {
            let below = join(path, name);
            let is_directory =
                || scan::stat_at(&folder, name).is_ok_and(|stat| stat.kind == Some(Kind::Directory));
            if is_side(name) {
                let side = scan::open_directory(&folder, name).and_then(scan::list);
                side.iter().flat_map(Names::iter).for_each(|message| self.stray(&below, message));
            } else if name != b"tmp" && is_directory() {
                self.unknown_folder(&folder, &below, depth + 1);
            }
        }
    }

    /// Returns how many messages would be doubled, and paths of some of them; none if none would.
    pub fn doubled(&self) -> Option<(usize, String)> {
        let is_missing = |unique: &[u8]| self.missing.contains(&self.hashes.hash_one(unique));
        let mut doubled: Vec<&[u8]> =
            self.strays.iter().filter(|(unique, _)| is_missing(unique)).map(|(_, path)| &**path).collect();
        doubled.sort_unstable();
        let first: Vec<String> = doubled.iter().take(TOLD).map(|path| quoted(path)).collect();
        (!doubled.is_empty()).then(|| (doubled.len(), first.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_doubled_if_it_is_elsewhere_under_other_flags() {
        let mut messages = Messages::default();
        messages.stray(b"cur", b"1.M1P1.mx,S=3:2,S");
        messages.stray(b".Old/cur", b"2.M1P1.mx,S=3:2,S");
        messages.missing(b"3.M1P1.mx,S=3:2,");
        assert_eq!(messages.doubled(), None);
        messages.missing(b"1.M1P1.mx,S=3");
        assert_eq!(messages.doubled(), Some((1, "cur/1.M1P1.mx,S=3:2,S".to_owned())));
        messages.missing(b"2.M1P1.mx,S=3:2,");
        assert_eq!(messages.doubled().map(|(count, _)| count), Some(2));
    }
}
