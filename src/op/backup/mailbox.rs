//! A mailbox is listed as a whole before its folders are walked, so that no message that moves
//! between them is lost or stored twice.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::entry::Kind;
use crate::stage::scan::{self, Mailbox, Names, Stat};

/// How deep folders are looked for inside folders; what lies deeper is a mailbox of its own.
const FOLDERS_DEPTH_MAX: usize = 32;

/// The messages of a mailbox as they were at one moment.
pub struct Inventory {
    mailbox: Arc<Mailbox>,
    /// Paths of the directories that hold messages.
    sides: HashSet<Vec<u8>>,
    names: Mutex<HashMap<Vec<u8>, Names>>,
}

/// A directory's place in a mailbox.
#[derive(Clone)]
pub struct Inside {
    inventory: Arc<Inventory>,
    /// Path below the mailbox's root; empty for the root itself.
    path: Vec<u8>,
}

/// A directory that holds messages, as the mailbox listed it.
pub struct Side {
    /// The mailbox, to look for what is gone.
    pub mailbox: Arc<Mailbox>,
    /// What it held.
    pub names: Names,
}

/// Returns whether a directory with these subdirectories is a Maildir folder.
pub fn is_folder(has: impl Fn(&[u8]) -> bool) -> bool {
    [&b"cur"[..], b"new", b"tmp"].into_iter().all(has)
}

impl Inside {
    /// Takes the inventory of the Maildir folder `root`, and of folders in it. `subdirectories` are
    /// those of `root` that are wanted.
    pub fn new<'n>(root: &OwnedFd, subdirectories: impl Iterator<Item = &'n [u8]>) -> Option<Self> {
        let mut sides = Vec::new();
        for name in subdirectories {
            match name {
                b"new" | b"cur" => sides.push(name.to_vec()),
                b"tmp" => {}
                _ => add_folder(root, name, name, &mut sides, 0),
            }
        }
        let mailbox = Mailbox::new(root.try_clone().ok()?, sides);
        let scanned = mailbox.scan();
        let names =
            mailbox.sides().iter().zip(scanned).filter_map(|(path, names)| Some((path.clone(), names?)));
        let names = Mutex::new(names.collect());
        let sides = mailbox.sides().iter().cloned().collect();
        let inventory = Inventory { mailbox: Arc::new(mailbox), sides, names };
        Some(Self { inventory: Arc::new(inventory), path: Vec::new() })
    }

    /// Returns the place of a subdirectory.
    pub fn below(&self, name: &[u8]) -> Self {
        let path = if self.path.is_empty() { name.to_vec() } else { [&self.path, &b"/"[..], name].concat() };
        Self { inventory: self.inventory.clone(), path }
    }

    /// Returns whether the mailbox knows this directory as one of its folders.
    pub fn is_known_folder(&self) -> bool {
        self.inventory.sides.contains(&self.below(b"cur").path)
    }

    /// Takes what the mailbox listed of this directory; none if it holds no messages or could not
    /// be listed.
    pub fn take(&self) -> Option<Side> {
        let mut names = self.inventory.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&self.path).map(|names| Side { mailbox: self.inventory.mailbox.clone(), names })
    }
}

/// Adds the sides of a folder and of those in it. What can't be listed says so when it is walked.
fn add_folder(parent: &OwnedFd, name: &[u8], path: &[u8], sides: &mut Vec<Vec<u8>>, depth: usize) {
    let Ok(folder) = scan::open_directory(parent, name) else { return };
    let Ok(names) = scan::list(&folder) else { return };
    let is_directory = |stat: Stat| stat.kind == Some(Kind::Directory);
    let has = |wanted: &[u8]| {
        names.iter().any(|name| name == wanted) && scan::stat_at(&folder, wanted).is_ok_and(is_directory)
    };
    if !is_folder(has) {
        return;
    }
    let below = |name: &[u8]| [path, b"/", name].concat();
    sides.extend([below(b"new"), below(b"cur")]);
    if depth == FOLDERS_DEPTH_MAX {
        return;
    }
    for name in names.iter().filter(|name| !matches!(*name, b"new" | b"cur" | b"tmp")) {
        add_folder(&folder, name, &below(name), sides, depth + 1);
    }
}
