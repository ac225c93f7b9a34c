//! A directory of a snapshot, and the inode numbers of what is in it.

use std::sync::Arc;

use crate::base::content::ContentBuf;
use crate::base::entry::{Entry, Kind};
use crate::base::id::SnapshotId;
use crate::base::time::Time;
use crate::repo::Snapshot;
use crate::stage::snapshot::facts::{self, Order};

/// What a mount needs to know of a snapshot.
pub struct Shown {
    /// Name of the snapshot.
    pub id: SnapshotId,
    /// When the run began.
    pub time: Time,
    /// Its place among others.
    pub order: Order,
    /// Name of the machine.
    pub host: String,
    /// The snapshot with its manifest cut down to what names it.
    pub named: Snapshot,
    /// The snapshot that this one takes the place of.
    pub replaces: Option<SnapshotId>,
    /// Directories that hold one component each.
    pub components: Vec<Vec<u8>>,
    /// Files in it.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
    /// Entries of the root directory.
    pub root: ContentBuf,
}

impl From<Snapshot> for Shown {
    fn from(mut snapshot: Snapshot) -> Self {
        let order = snapshot.order();
        let manifest = &mut snapshot.manifest;
        manifest.lacks = Vec::new(); // up to a thousand rows, which nobody asks a mount for
        manifest.extra.retain(|(name, _)| [facts::RUN, facts::NIGHT].contains(&name.as_str()));
        let components = &manifest.components;
        Self {
            id: snapshot.id,
            order,
            time: manifest.time,
            host: manifest.host.clone(),
            replaces: manifest.replaces,
            files: components.iter().map(|component| component.files).sum(),
            bytes: components.iter().map(|component| component.bytes).sum(),
            components: components.iter().map(|component| component.directory.clone()).collect(),
            root: std::mem::take(&mut manifest.root),
            named: snapshot,
        }
    }
}

/// Makes inode numbers. They depend on what is numbered alone, so that what was forgotten and is met
/// again has its old number; and on a key of the mount's own, so that nobody can make two files that
/// share one.
pub struct Numbers {
    key: [u8; 32],
}

/// Numbers below are the kernel's: 1 is the root.
pub const NUMBERS_START: u64 = 16;

impl Numbers {
    /// Makes numbers under a random `key`.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// Returns the number of what `parts` describe.
    pub fn of(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut number = [0; 8];
        hasher.finalize_xof().fill(&mut number);
        u64::from_le_bytes(number).max(NUMBERS_START)
    }
}

/// A directory of a snapshot.
pub struct Folder {
    /// Its inode number.
    pub number: u64,
    /// Inode number of the directory above.
    pub above: u64,
    /// The directory above and its entry's number there; none for a snapshot's root.
    pub place: Option<(Arc<Folder>, u32)>,
    /// Its entries.
    pub content: ContentBuf,
    /// What tells its entries from any other directory's.
    pub key: [u8; 32],
    /// The snapshot.
    pub snapshot: Arc<Shown>,
    name: Box<[u8]>,
    /// Number of the snapshot's root, in which all hard links of a file lie.
    root: u64,
    /// Inode number of its first entry. The others follow in order: who sorts entries by number, as
    /// `cp` does, reads them in the order in which they were stored.
    first: u64,
    /// Which component it is in; none for what several may share.
    component: Option<u32>,
}

/// Returns what tells a directory's entries from any other's.
fn key_of(content: &ContentBuf) -> [u8; 32] {
    *blake3::Hasher::new().update(&[content.depth]).update(&content.list).finalize().as_bytes()
}

impl Folder {
    /// Returns a snapshot's root. `label` names it below the mount point, `daily/2026-01-05` say.
    pub fn root(snapshot: Arc<Shown>, label: &[u8], number: u64, above: u64, numbers: &Numbers) -> Self {
        let content = snapshot.root.clone();
        Self {
            number,
            above,
            place: None,
            key: key_of(&content),
            content,
            snapshot,
            name: label.into(),
            root: number,
            first: numbers.of(&[b"entries", &number.to_le_bytes()]),
            component: None,
        }
    }

    /// Returns the directory that entry `index` of this one is.
    pub fn child(self: &Arc<Self>, index: u32, entry: &Entry<'_>, number: u64, numbers: &Numbers) -> Self {
        let content = entry.content.to_owned();
        Self {
            number,
            above: self.number,
            place: Some((self.clone(), index)),
            key: key_of(&content),
            content,
            snapshot: self.snapshot.clone(),
            name: entry.name.into(),
            root: self.root,
            first: numbers.of(&[b"entries", &number.to_le_bytes()]),
            component: self.component_of(entry.name),
        }
    }

    /// Returns the component that what is called `name` here is in.
    fn component_of(&self, name: &[u8]) -> Option<u32> {
        if self.place.is_some() {
            return self.component;
        }
        let found = self.snapshot.components.iter().position(|directory| directory == name);
        found.and_then(|found| u32::try_from(found).ok())
    }

    /// Returns the inode number of entry `index` here, and whether other names may share it: names of one
    /// file are those in one component that have the same file system, inode number and content.
    pub fn number_of(&self, numbers: &Numbers, index: u32, entry: &Entry<'_>) -> (u64, bool) {
        if entry.links < 2 || entry.kind == Kind::Directory {
            return (self.first.wrapping_add(u64::from(index)).max(NUMBERS_START), false);
        }
        let component = self.component_of(entry.name).map_or(u64::MAX, u64::from);
        let device = u64::from(entry.device.0) << 32 | u64::from(entry.device.1);
        let kind = entry.kind.letter() as u64;
        let fixed = [self.root, component, entry.filesystem, entry.inode, entry.size, device, kind];
        let fixed: Vec<u8> = fixed.iter().flat_map(|number| number.to_le_bytes()).collect();
        (numbers.of(&[&fixed, &[entry.content.depth], entry.content.list, entry.target]), true)
    }

    /// Returns the path of what is called `name` here, from the mount point on.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut at = self;
        loop {
            names.push(&at.name);
            match &at.place {
                Some((above, _)) => at = above,
                None => break,
            }
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Returns the path of the directory itself, from the mount point on.
    pub fn path(&self) -> Vec<u8> {
        match &self.place {
            Some((above, _)) => above.path_of(&self.name),
            None => self.name.to_vec(),
        }
    }
}
