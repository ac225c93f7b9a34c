//! What the kernel knows by number, for as long as it does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::op::mount::folder::{Folder, NUMBERS_START};

/// Something in a snapshot.
#[derive(Clone)]
pub enum Node {
    /// A directory.
    Folder(Arc<Folder>),
    /// What is no directory.
    Entry {
        /// The directory that it lies in, or one of them.
        folder: Arc<Folder>,
        /// Its entry's number there.
        index: u32,
        /// Whether other names may share its inode number.
        is_linked: bool,
    },
}

impl Node {
    /// Returns whether both are the same inode, if their numbers are the same.
    pub fn is(&self, other: &Self) -> bool {
        let place = |folder: &Folder| folder.place.as_ref().map(|(above, index)| (above.number, *index));
        match (self, other) {
            (Self::Folder(one), Self::Folder(other)) => {
                (one.above, place(one), one.snapshot.id) == (other.above, place(other), other.snapshot.id)
            }
            (
                Self::Entry { folder, index, is_linked },
                Self::Entry { folder: other, index: at, is_linked: other_is },
            ) => (*is_linked && *other_is) || (folder.number, index) == (other.number, at),
            _ => false,
        }
    }
}

/// How far the next number lies that is tried for an inode whose number is taken: not among those
/// of its neighbours.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

struct Held {
    node: Node,
    lookups: u64,
}

/// The inodes that the kernel has looked up and not forgotten. About 60 bytes each, and the
/// directories that they lie in.
#[derive(Default)]
pub struct Inodes {
    held: Mutex<HashMap<u64, Held>>,
}

impl Inodes {
    fn held(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the kernel was told of an inode; returns its node and its number: `wanted`, unless
    /// another inode has that one. `make` makes the node for a number.
    pub fn look_up(&self, wanted: u64, make: impl Fn(u64) -> Node) -> (u64, Node) {
        let mut held = self.held();
        let mut number = wanted;
        loop {
            let node = make(number);
            match held.get_mut(&number) {
                None => {
                    held.insert(number, Held { node: node.clone(), lookups: 1 });
                    return (number, node);
                }
                Some(known) if known.node.is(&node) => {
                    known.lookups += 1;
                    return (number, known.node.clone());
                }
                Some(_) => number = number.wrapping_add(STEP).max(NUMBERS_START),
            }
        }
    }

    /// Returns what has a number.
    pub fn get(&self, number: u64) -> Option<Node> {
        self.held().get(&number).map(|held| held.node.clone())
    }

    /// Undoes `lookups` calls of [`Self::look_up`].
    pub fn forget(&self, number: u64, lookups: u64) {
        let mut held = self.held();
        if let Some(known) = held.get_mut(&number) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0 {
                held.remove(&number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::SnapshotId;
    use crate::op::mount::folder::{Numbers, Shown};
    use crate::repo::Snapshot;
    use crate::stage::snapshot::Manifest;

    fn folder() -> Arc<Folder> {
        let manifest = Manifest { ..Manifest::default() };
        let shown = Shown::from(Snapshot { id: SnapshotId::from_bytes([1; 32]), manifest });
        Arc::new(Folder::root(Arc::new(shown), b"daily/2026-01-05", 100, 1, &Numbers::new([0; 32])))
    }

    fn entry(folder: &Arc<Folder>, index: u32) -> Node {
        Node::Entry { folder: folder.clone(), index, is_linked: false }
    }

    #[test]
    fn what_is_told_twice_is_forgotten_when_both_are_undone() {
        let (inodes, folder) = (Inodes::default(), folder());
        for _ in 0..2 {
            assert_eq!(inodes.look_up(500, |_| entry(&folder, 7)).0, 500);
        }
        inodes.forget(500, 1);
        assert!(inodes.get(500).is_some());
        inodes.forget(500, 1);
        assert!(inodes.get(500).is_none());
        assert_eq!(Arc::strong_count(&folder), 1, "nothing is held for it");
        assert_eq!(inodes.look_up(500, |_| entry(&folder, 7)).0, 500, "met again, it has its number");
    }

    #[test]
    fn two_files_never_share_a_number() {
        let (inodes, folder) = (Inodes::default(), folder());
        let other = 500 + STEP;
        assert_eq!(inodes.look_up(500, |_| entry(&folder, 7)).0, 500);
        assert_eq!(inodes.look_up(500, |_| entry(&folder, 8)).0, other);
        assert_eq!(inodes.look_up(500, |_| entry(&folder, 8)).0, other);
        assert!(matches!(inodes.get(500), Some(Node::Entry { index: 7, .. })));
        assert!(matches!(inodes.get(other), Some(Node::Entry { index: 8, .. })));
    }

    #[test]
    fn names_of_one_file_share_its_number() {
        let (inodes, folder) = (Inodes::default(), folder());
        let linked = |index| Node::Entry { folder: folder.clone(), index, is_linked: true };
        assert_eq!(inodes.look_up(500, |_| linked(7)).0, 500);
        assert_eq!(inodes.look_up(500, |_| linked(9)).0, 500);
        inodes.forget(500, 1);
        assert!(inodes.get(500).is_some());
    }
}
