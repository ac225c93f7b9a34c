//! What the kernel knows by number, for as long as it does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::op::mount::folder::Folder;

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
    fn is(&self, other: &Self) -> bool {
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
                Some(_) => number = number.wrapping_add(1),
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
