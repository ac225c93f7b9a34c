//! What fragments say the packs hold, held against the packs that are there.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::content::{ChunkRef, refs};
use crate::base::directory::Directory;
use crate::base::id::{FragmentId, PackId};
use crate::base::units::counted;
use crate::op::check::findings::{Findings, MEND_PACK, told};
use crate::op::check::prints::{Prints, PrintsBuilder};
use crate::repo::condemned::Marks;
use crate::repo::index::{Index, Presence, read_directory, read_fragment};
use crate::repo::{RepoError, Repository};
use crate::stage::index::{PackEntry, PackRow};
use crate::store::{Folder, Name};

/// What a chunk takes in a fragment's file at least, in bytes: its id does not compress.
const CHUNK_STORED_BYTES: u64 = 16;

/// A pack that is listed, or there.
pub struct Pack {
    /// What is known of it without its chunks.
    pub row: PackRow,
    /// Length of its file, in bytes; none if it is not there.
    pub found: Option<u64>,
    /// The fragment that lists it first; none if its own directory does.
    pub fragment: Option<FragmentId>,
    /// Hash of its directory.
    pub digest: [u8; 32],
}

/// What the repository should hold.
pub struct Ledger {
    /// All packs that a fragment lists, or that list themselves.
    pub packs: BTreeMap<PackId, Pack>,
    /// Fragments that read and count.
    pub fragments: BTreeSet<FragmentId>,
    /// Fragment files that are there, read or not.
    pub present: BTreeSet<FragmentId>,
    /// Packs that list themselves, as no fragment does. Those that are condemned are not among them: a sweep
    /// was cut off before it removed them, and nobody lists them anew.
    pub orphans: BTreeSet<PackId>,
    /// Every chunk that a pack which is there should hold.
    pub prints: Prints,
    /// Number of those.
    pub chunks: u64,
}

/// Returns a hash of all that a directory says.
pub fn digest(directory: &Directory) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[u8::from(directory.is_tree)]);
    for row in &directory.frames {
        for number in [row.offset, row.bytes, row.raw_bytes, row.chunk_count] {
            hasher.update(&number.to_le_bytes());
        }
    }
    hasher.update(&directory.chunks);
    *hasher.finalize().as_bytes()
}

/// Reads all fragments, and the directories of packs that none lists. Returns what they say, and an
/// index of the chunks of trees. Memory: 9 bytes a chunk.
///
/// # Errors
/// [`RepoError::Store`] if files can't be listed.
pub fn read_ledger(
    repository: &Repository,
    marks: &Marks,
    findings: &mut Findings,
) -> Result<(Ledger, Index), RepoError> {
    // Fragments first: the packs that a fragment lists are there before it is.
    let mut fragments = BTreeMap::new();
    for file in repository.store().list(Folder::Index)? {
        match file.name {
            Some(Name::Fragment(id)) => _ = fragments.insert(id, file.bytes),
            _ => findings.foreign(file.path),
        }
    }
    let mut there = BTreeMap::new();
    for file in repository.store().list(Folder::Packs)? {
        match file.name {
            Some(Name::Pack(id)) => _ = there.insert(id, file.bytes),
            _ => findings.foreign(file.path),
        }
    }
    let mut replaced = BTreeSet::new();
    loop {
        let mut reading = Reading::new(repository, &there, &fragments);
        reading.fragments(&fragments, &replaced);
        reading.replaced.retain(|id| fragments.contains_key(id)); // the others are gone, as they should be
        if !reading.replaced.is_subset(&replaced) {
            replaced = reading.replaced; // once more, without them: prune was cut off before it removed them
            continue;
        }
        reading.orphans();
        let condemned = marks.packs();
        reading.orphans.retain(|id| !condemned.contains_key(id));
        reading.tell(findings);
        return Ok(reading.finish(fragments.into_keys().collect()));
    }
}

struct Reading<'r> {
    repository: &'r Repository,
    there: &'r BTreeMap<PackId, u64>,
    packs: BTreeMap<PackId, Pack>,
    read: BTreeSet<FragmentId>,
    replaced: BTreeSet<FragmentId>,
    prints: PrintsBuilder,
    chunks: u64,
    index: Index,
    damages: Vec<(String, String)>,
    /// Packs that are listed and not there.
    gone: Vec<(String, String)>,
    /// Chunks of packs that are gone or cut, with why.
    lost: Vec<(String, Vec<ChunkRef>)>,
    orphans: BTreeSet<PackId>,
}

impl<'r> Reading<'r> {
    fn new(
        repository: &'r Repository,
        there: &'r BTreeMap<PackId, u64>,
        fragments: &BTreeMap<FragmentId, u64>,
    ) -> Self {
        let chunks = fragments.values().sum::<u64>() / CHUNK_STORED_BYTES;
        Self {
            repository,
            there,
            packs: BTreeMap::new(),
            read: BTreeSet::new(),
            replaced: BTreeSet::new(),
            prints: PrintsBuilder::with_room(usize::try_from(chunks).unwrap_or(0)),
            chunks: 0,
            index: Index::default(),
            damages: Vec::new(),
            gone: Vec::new(),
            lost: Vec::new(),
            orphans: BTreeSet::new(),
        }
    }

    fn fragments(&mut self, fragments: &BTreeMap<FragmentId, u64>, replaced: &BTreeSet<FragmentId>) {
        for id in fragments.keys() {
            match read_fragment(self.repository, *id) {
                Ok(fragment) => {
                    self.replaced.extend(fragment.replaces);
                    if !replaced.contains(id) {
                        self.read.insert(*id);
                        fragment.packs.into_iter().for_each(|pack| self.pack(pack, Some(*id)));
                    }
                }
                Err(RepoError::Store(e)) if e.is_missing() => {} // replaced meanwhile
                Err(e) => {
                    let path = Name::Fragment(*id).to_string();
                    let what = told(&e, &path);
                    let advice = "its packs are read from their own directories; 'snap check --repair' lists them anew, and it may be removed then";
                    self.damages.push((path, format!("{what}; {advice}")));
                }
            }
        }
    }

    fn orphans(&mut self) {
        let there = self.there;
        let unlisted: Vec<_> = there.iter().filter(|(id, _)| !self.packs.contains_key(id)).collect();
        for (id, bytes) in unlisted {
            match read_directory(self.repository, *id, *bytes) {
                Ok(directory) => {
                    self.orphans.insert(*id);
                    self.pack(PackEntry { id: *id, bytes: *bytes, directory }, None);
                }
                Err(e) => {
                    let path = Name::Pack(*id).to_string();
                    let what = told(&e, &path);
                    self.damages.push((
                        path,
                        format!(
                            "no fragment lists it, and its own directory cannot be read: {what}; {MEND_PACK}"
                        ),
                    ));
                }
            }
        }
    }

    fn pack(&mut self, mut pack: PackEntry, fragment: Option<FragmentId>) {
        let digest = digest(&pack.directory);
        if let Some(known) = self.packs.get(&pack.id) {
            if known.digest != digest || known.row.bytes != pack.bytes {
                let path = fragment.map_or_else(String::new, |id| Name::Fragment(id).to_string());
                let what = format!("lists {} otherwise than another fragment does", Name::Pack(pack.id));
                self.damages.push((path, what));
            }
            return;
        }
        let found = self.there.get(&pack.id).copied();
        let presence = Presence::of(pack.bytes, found);
        if let Some(id) = fragment
            && presence != Presence::Gone
            && !pack.has_room()
        {
            let what = format!("lists more chunks of {} than it can hold", Name::Pack(pack.id));
            self.damages.push((Name::Fragment(id).to_string(), what));
            return;
        }
        let mut gone = Vec::new();
        for (_, row, chunks) in pack.directory.frames() {
            let is_there = found.is_some_and(|found| u64::from(row.offset) + u64::from(row.bytes) <= found);
            match is_there {
                true => refs(chunks).for_each(|chunk| self.prints.push(chunk)),
                false => gone.extend(refs(chunks)),
            }
        }
        self.chunks += (pack.directory.chunk_count() - gone.len()) as u64;
        if presence != Presence::Whole {
            self.absent(&pack, found, gone);
        }
        if !pack.directory.is_tree {
            pack.directory.chunks = Vec::new(); // only those of trees are read by id
        }
        let row = pack.row();
        self.index.add(&pack, presence);
        self.packs.insert(pack.id, Pack { row, found, fragment, digest });
    }

    fn absent(&mut self, pack: &PackEntry, found: Option<u64>, gone: Vec<ChunkRef>) {
        let path = Name::Pack(pack.id).to_string();
        let lost =
            format!("{} lost with it; {MEND_PACK}", counted(gone.len() as u64, "chunk is", "chunks are"));
        match found {
            None => {
                self.lost.push((format!("{path} is not there"), gone));
                self.gone.push((path, format!("not there: {lost}")));
            }
            Some(found) => {
                self.lost.push((format!("{path} was cut before it"), gone));
                self.damages.push((path, format!("found {found} bytes, expected {}: {lost}", pack.bytes)));
            }
        }
    }

    fn tell(&mut self, findings: &mut Findings) {
        for (path, what) in self.damages.drain(..) {
            findings.damage(path, what);
        }
        for (path, what) in self.gone.drain(..) {
            findings.gone(path, what);
        }
        for (cause, chunks) in self.lost.drain(..) {
            let cause = findings.cause(cause);
            chunks.into_iter().for_each(|chunk| findings.lost(chunk, cause));
        }
    }

    fn finish(self, present: BTreeSet<FragmentId>) -> (Ledger, Index) {
        let ledger = Ledger {
            packs: self.packs,
            fragments: self.read,
            present,
            orphans: self.orphans,
            prints: self.prints.build(),
            chunks: self.chunks,
        };
        (ledger, self.index)
    }
}
