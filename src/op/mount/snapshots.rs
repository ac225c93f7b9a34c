//! Which snapshots there are, looked at again when somebody asks and some time has passed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::id::SnapshotId;
use crate::op::mount::access::Access;
use crate::op::mount::folder::{Numbers, Shown};
use crate::op::mount::top::Top;
use crate::repo::select::Naming;
use crate::repo::{MANIFESTS_MEMORY_MAX, RepoError, Snapshot};
use crate::store::{Folder, Name};

/// Looks that go by before a manifest is tried again that could not be read: on a bad disk that takes its time.
const LOOKS_BETWEEN_TRIES: u32 = 10;

/// The snapshots, and how they are laid out.
pub struct Snapshots {
    naming: Naming,
    is_old: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// None for a manifest that is damaged.
    all: BTreeMap<SnapshotId, Option<Arc<Shown>>>,
    /// Manifests that could not be read, and looks that go by before they are tried again.
    unread: BTreeMap<SnapshotId, u32>,
    /// Whether the last look failed, which was said.
    is_failing: bool,
    /// None before the first look.
    top: Option<Arc<Top>>,
}

/// How much all snapshots hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Files, in each snapshot anew.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
}

impl Snapshots {
    /// Knows none yet.
    pub fn new(naming: Naming) -> Self {
        Self { naming, is_old: AtomicBool::new(true), known: Mutex::default() }
    }

    /// Says that time has passed: the next look lists the snapshots again.
    pub fn grow_old(&self) {
        self.is_old.store(true, Ordering::Relaxed);
    }

    /// Returns the layout of the snapshots. While the repository is away, that of the last look; before any
    /// look has succeeded, one without a root.
    pub fn top(&self, access: &Access, numbers: &Numbers) -> Arc<Top> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_old.swap(false, Ordering::Relaxed) && access.is_there().is_ok() {
            match known.look(access) {
                Ok(is_changed) => {
                    known.is_failing = false;
                    if is_changed || known.top.is_none() {
                        let top = Top::new(&known.shown(), &self.naming, numbers);
                        let before = known.top.as_ref().and_then(|top| top.remark.as_ref());
                        if let Some(what) = top.remark.as_ref().filter(|what| before != Some(what)) {
                            tracing::warn!("{what}");
                        }
                        known.top = Some(Arc::new(top));
                    }
                }
                Err(e) => {
                    if !std::mem::replace(&mut known.is_failing, true) {
                        tracing::warn!("new snapshots are not shown until they can be listed: {}", e.chain());
                    }
                }
            }
        }
        known.top.clone().unwrap_or_default()
    }

    /// Returns whether a snapshot was there at the last look.
    pub fn has(&self, id: SnapshotId) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).all.contains_key(&id)
    }

    /// Returns whether a snapshot is there now; where that can't be known, whether it was at the last look. One
    /// listing of the store.
    pub fn still_has(&self, access: &Access, id: SnapshotId) -> bool {
        if !self.has(id) || access.is_there().is_err() {
            return self.has(id);
        }
        let listed = access.repository().store().list(Folder::Snapshots);
        listed.map_or(true, |all| all.iter().any(|found| found.name == Some(Name::Snapshot(id))))
    }

    /// Returns how much there is.
    pub fn amount(&self) -> Amount {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.all.values().flatten().fold(Amount::default(), |sum, shown| Amount {
            files: sum.files.saturating_add(shown.files),
            bytes: sum.bytes.saturating_add(shown.bytes),
        })
    }
}

impl Known {
    /// Lists the snapshots, and reads the manifests that are new. Returns whether anything changed. One that
    /// can't be read hides no other: it is named once, and tried again later.
    ///
    /// # Errors
    /// [`RepoError::Store`] if they can't be listed, or as [`Access::is_there`].
    fn look(&mut self, access: &Access) -> Result<bool, RepoError> {
        let repository = access.repository();
        let mut present = BTreeSet::new();
        let mut unread = BTreeMap::new();
        let mut is_changed = false;
        let memory_of = |shown: &Shown| shown.named.manifest.memory_bytes();
        let mut memory_bytes: usize = self.all.values().flatten().map(|shown| memory_of(shown)).sum();
        for found in repository.store().list(Folder::Snapshots)? {
            let Some(Name::Snapshot(id)) = found.name else { continue };
            if self.all.contains_key(&id) {
                present.insert(id);
                continue;
            }
            let before = self.unread.get(&id).copied();
            if let Some(looks @ 1..) = before {
                unread.insert(id, looks - 1);
                continue;
            }
            let read = repository.manifest(id).map(|manifest| Shown::from(Snapshot { id, manifest }));
            let shown = match read {
                Ok(shown) if memory_bytes + memory_of(&shown) > MANIFESTS_MEMORY_MAX => {
                    tracing::warn!("{}: all manifests together are larger than any repository's", found.path);
                    None
                }
                Ok(shown) => {
                    memory_bytes += memory_of(&shown);
                    Some(Arc::new(shown))
                }
                Err(RepoError::Store(e)) if e.is_missing() => continue, // forgotten meanwhile
                Err(e @ RepoError::Store(_)) => {
                    access.is_there()?; // or it is not this one alone
                    if before.is_none() {
                        tracing::warn!("{}; the snapshot is not shown until it can be read", e.chain());
                    }
                    unread.insert(id, LOOKS_BETWEEN_TRIES);
                    continue;
                }
                Err(e) => {
                    tracing::warn!("{}: {}; 'snap check' says more", found.path, e.chain());
                    None
                }
            };
            is_changed = true;
            present.insert(id);
            self.all.insert(id, shown);
        }
        self.unread = unread;
        let before = self.all.len();
        self.all.retain(|id, _| present.contains(id));
        Ok(is_changed || self.all.len() != before)
    }

    /// Returns the snapshots, oldest first; those that another one replaces are left out.
    fn shown(&self) -> Vec<Arc<Shown>> {
        let mut all: Vec<Arc<Shown>> = self.all.values().flatten().cloned().collect();
        let replaced: BTreeSet<SnapshotId> = all.iter().filter_map(|shown| shown.replaces).collect();
        all.retain(|shown| !replaced.contains(&shown.id));
        all.sort_by_key(|shown| shown.order);
        all
    }
}
