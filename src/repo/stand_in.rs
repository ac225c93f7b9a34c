//! A night that lacks a component → the same night, with that component of an earlier one.
//!
//! A component is usable if it was read, if only in part, and is not suspect. What is not usable is taken from the
//! newest snapshot of the same configuration that has it and is not newer; of a day that was named, only from that
//! day. What was named by its id stays as it is. Nothing here is silent: who asks is told what comes from where.

use std::collections::BTreeMap;

use crate::base::content::{ChunkRef, ContentBuf};
use crate::base::entry::Kind;
use crate::base::id::ChunkId;
use crate::repo::browse::find;
use crate::repo::reader::Reader;
use crate::repo::select::{By, Chosen, Names, zoned};
use crate::repo::{RepoError, Snapshot};
use crate::stage::snapshot::{Component, Lack, Manifest, Status};
use crate::stage::tree::Entries;

/// Rows of what a component lacks that are looked for in other snapshots.
const LACKS_SOUGHT_MAX: usize = 10;

/// Snapshots in which each of them is looked for, to either side.
const NIGHTS_SOUGHT_MAX: usize = 20;

/// A component that is taken from another snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Name of the component.
    pub component: String,
    /// The directory of the snapshot that holds it.
    pub directory: Vec<u8>,
    /// Why the chosen snapshot's own is not usable.
    pub why: String,
    /// Place of the snapshot that it is taken from.
    pub from: usize,
}

/// A component that is not usable, and that nothing stands in for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Name of the component.
    pub component: String,
    /// The directory of the snapshot that should hold it.
    pub directory: Vec<u8>,
    /// Why it is not usable.
    pub why: String,
    /// Places of the snapshots that have it: the nearest one before, and the nearest one after.
    pub elsewhere: Vec<usize>,
}

/// An entry that could not be backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Name of the component.
    pub component: String,
    /// Its path in the snapshot, or where it lay if that is not known.
    pub path: Vec<u8>,
    /// Why.
    pub reason: String,
    /// Place of the nearest snapshot that has it.
    pub elsewhere: Option<usize>,
}

/// Returns why a component of a snapshot is not usable; none if it is.
pub fn fault(manifest: &Manifest, component: &Component) -> Option<String> {
    if component.status == Status::Failed {
        return Some("could not be backed up".to_owned());
    }
    manifest.suspicion(&component.name).map(|reason| format!("is suspect ({reason})"))
}

impl Names<'_> {
    /// Returns what the chosen snapshot is to be completed with, and what can't be had. With `as_is` nothing is taken.
    pub fn stand_ins(&self, chosen: Chosen, as_is: bool) -> (Vec<Taken>, Vec<Missing>) {
        let (mut taken, mut missing) = (Vec::new(), Vec::new());
        let Some(snapshot) = self.all.get(chosen.at) else { return (taken, missing) };
        let is_alone = snapshot.manifest.components.len() == 1;
        for component in &snapshot.manifest.components {
            let Some(why) = fault(&snapshot.manifest, component) else { continue };
            let day = |at: usize| zoned(self.all[at].manifest.time, &self.zone).date();
            let is_near = |at: &usize| chosen.by != By::Day || day(*at) == day(chosen.at);
            let before = self.nearest(chosen.at, component, (0..chosen.at).rev());
            let (name, directory) = (component.name.clone(), component.directory.clone());
            let can_be_put = !directory.is_empty() || is_alone;
            match before.filter(is_near).filter(|_| chosen.by != By::Id && !as_is && can_be_put) {
                Some(from) => taken.push(Taken { component: name, directory, why, from }),
                None => {
                    let after = self.nearest(chosen.at, component, chosen.at + 1..self.all.len());
                    let elsewhere = before.into_iter().chain(after).collect();
                    missing.push(Missing { component: name, directory, why, elsewhere });
                }
            }
        }
        (taken, missing)
    }

    /// Returns the first of some places where a component is usable, of the same configuration as at `at`. What was
    /// made by hand is the same only if its sources are.
    fn nearest(
        &self,
        at: usize,
        component: &Component,
        places: impl Iterator<Item = usize>,
    ) -> Option<usize> {
        let key = self.whose.number(at);
        let by_hand = self.whose.key(at).is_none_or(|key| key.run.is_none());
        let mut places =
            places.filter(|place| self.whose.number(*place) == key && !self.is_from_the_future(*place));
        places.find(|place| {
            let manifest = &self.all[*place].manifest;
            manifest.components.iter().any(|other| {
                other.name == component.name
                    && other.directory == component.directory
                    && (!by_hand || other.sources == component.sources)
                    && fault(manifest, other).is_none()
            })
        })
    }

    /// Returns the place of the newest snapshot not newer than the chosen one that has a component of this name; else
    /// of the next one that has it.
    pub fn with_component(&self, chosen: Chosen, name: &str) -> Option<usize> {
        let has = |at: &usize| {
            let manifest = &self.all[*at].manifest;
            let mut components = manifest.components.iter();
            self.whose.number(*at) == self.whose.number(chosen.at)
                && !self.is_from_the_future(*at)
                && components.any(|component| component.name == name && fault(manifest, component).is_none())
        };
        (0..chosen.at).rev().find(has).or_else(|| (chosen.at + 1..self.all.len()).find(has))
    }

    /// Returns what the components of a snapshot lack that are there in part, and where that is: of those components that
    /// are asked for, what lies near what is wanted. `taken` are those of other snapshots. The manifest may know a thousand
    /// rows; the first of each component are looked for.
    ///
    /// # Errors
    /// What reading a directory meets, but for damage.
    pub fn lost(
        &self,
        reader: &Reader<'_>,
        chosen: Chosen,
        taken: &[Taken],
        is_asked: impl Fn(&Component) -> bool,
        is_near: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<Lost>, RepoError> {
        let mut lost = Vec::new();
        let Some(snapshot) = self.all.get(chosen.at) else { return Ok(lost) };
        for component in snapshot.manifest.components.iter().filter(|component| is_asked(component)) {
            let at = taken.iter().find(|it| it.component == component.name).map_or(chosen.at, |it| it.from);
            let manifest = &self.all[at].manifest;
            let own = manifest.components.iter().find(|own| own.name == component.name);
            let Some(own) = own.filter(|own| own.status == Status::Partial) else { continue };
            let rows = manifest.lacks.iter().filter_map(|lack| Some((lack, place_of(own, &lack.path)?)));
            let rows = rows.filter(|(_, place)| place.as_deref().is_none_or(&is_near));
            for (number, (Lack { path, reason }, place)) in rows.enumerate() {
                let sought = place.as_deref().filter(|_| number < LACKS_SOUGHT_MAX);
                let elsewhere = sought.map(|path| self.holder(reader, at, own, path)).transpose()?.flatten();
                lost.push(Lost {
                    component: own.name.clone(),
                    path: place.clone().unwrap_or_else(|| path.clone()),
                    reason: reason.clone(),
                    elsewhere,
                });
            }
        }
        Ok(lost)
    }

    /// Returns the nearest snapshot that has an entry: one before, else one after.
    fn holder(
        &self,
        reader: &Reader<'_>,
        at: usize,
        component: &Component,
        path: &[u8],
    ) -> Result<Option<usize>, RepoError> {
        let key = self.whose.number(at);
        let is_like = |place: &usize| {
            let manifest = &self.all[*place].manifest;
            let mut own = manifest.components.iter();
            self.whose.number(*place) == key
                && !self.is_from_the_future(*place)
                && own.any(|own| own.name == component.name && fault(manifest, own).is_none())
        };
        let before = (0..at).rev().filter(is_like).take(NIGHTS_SOUGHT_MAX);
        let after = (at + 1..self.all.len()).filter(is_like).take(NIGHTS_SOUGHT_MAX);
        for place in before.chain(after) {
            match find(reader, &self.all[place], path) {
                Ok(_) => return Ok(Some(place)),
                Err(RepoError::NoPath { .. }) => {}
                Err(e) if e.is_unreadable() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }
}

/// Returns whether what is lacking is of a component; and its path in the snapshot, if it has one.
fn place_of(component: &Component, path: &[u8]) -> Option<Option<Vec<u8>>> {
    let below = |name: &[u8]| match component.directory.is_empty() {
        true => name.to_vec(),
        false => [&component.directory, &b"/"[..], name].concat(),
    };
    for source in &component.sources {
        if !source.starts_with(b"/") {
            if path == below(source) {
                return Some(Some(path.to_vec()));
            }
            continue;
        }
        let rest = path.strip_prefix(source.as_slice());
        let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with(b"/") || source == b"/")
        else {
            continue;
        };
        if component.directory.is_empty() {
            return Some(Some(path[1..].to_vec()));
        }
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let base = source.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        return Some(Some(match component.sources.len() {
            1 => below(rest),
            _ => below(&[base, b"/", rest].concat()),
        }));
    }
    // What failed around it, such as a command: "mysql: before".
    path.strip_prefix(component.name.as_bytes())?.starts_with(b": ").then_some(None)
}

/// A directory that no pack holds: the root of a snapshot that was put together.
pub struct MadeUp {
    chunk: ChunkRef,
    bytes: Vec<u8>,
}

impl MadeUp {
    fn new(bytes: Vec<u8>) -> Option<Self> {
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length > 0)?;
        let mut id = [0; ChunkId::BYTES];
        blake3::Hasher::new().update(&bytes).finalize_xof().fill(&mut id);
        Some(Self { chunk: ChunkRef { id: ChunkId::from_bytes(id), bytes: length }, bytes })
    }

    /// Returns its bytes if this is what it is called.
    pub fn bytes(&self, chunk: ChunkRef) -> Option<&[u8]> {
        (chunk == self.chunk).then_some(self.bytes.as_slice())
    }
}

impl Reader<'_> {
    /// Reads a directory that no pack holds as `made_up` has it.
    pub fn with_made_up(mut self, made_up: Option<MadeUp>) -> Self {
        self.made_up = made_up;
        self
    }
}

/// Puts together the chosen snapshot and the components that are taken from others: it has their directories, and what
/// their manifests say of them. Its root is to be given to the reader; none if there is nothing to take.
///
/// # Errors
/// What reading a root meets; [`RepoError::NoPath`] if a snapshot does not have a component that it should.
pub fn put_together(
    reader: &Reader<'_>,
    all: &[Snapshot],
    chosen: Chosen,
    taken: &[Taken],
) -> Result<(Snapshot, Option<MadeUp>), RepoError> {
    let Some(mut snapshot) = all.get(chosen.at).cloned() else {
        return Err(RepoError::System { what: "a snapshot that is none was chosen" });
    };
    if taken.is_empty() {
        return Ok((snapshot, None));
    }
    let stream = reader.content(snapshot.manifest.root.borrowed())?;
    let mut entries: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for entry in Entries::new(&stream) {
        let (range, entry) = entry?;
        entries.insert(entry.name.to_vec(), stream[range].to_vec());
    }
    for Taken { component, directory, from, .. } in taken {
        let Some(other) = all.get(*from) else { continue };
        replace_rows(&mut snapshot.manifest, &other.manifest, component);
        if directory.is_empty() {
            snapshot.manifest.root = other.manifest.root.clone(); // it is the only component
            return Ok((snapshot, None));
        }
        let stream = reader.content(other.manifest.root.borrowed())?;
        let mut theirs = Entries::new(&stream).map_while(Result::ok);
        let found = theirs.find(|(_, entry)| entry.name == directory && entry.kind == Kind::Directory);
        let Some((range, _)) = found else {
            let path = crate::base::entry::quoted(directory);
            return Err(RepoError::NoPath { path, snapshot: other.id.to_string(), elsewhere: String::new() });
        };
        entries.insert(directory.clone(), stream[range].to_vec());
    }
    let made_up = MadeUp::new(entries.into_values().flatten().collect());
    let list = made_up.as_ref().map(|made_up| made_up.chunk.to_bytes().to_vec());
    snapshot.manifest.root = ContentBuf { depth: 0, list: list.unwrap_or_default() };
    Ok((snapshot, made_up))
}

/// Puts what another manifest says of a component in the place of what this one says.
fn replace_rows(manifest: &mut Manifest, other: &Manifest, name: &str) {
    let mut own = manifest.components.iter_mut().filter(|component| component.name == name);
    let theirs = other.components.iter().find(|component| component.name == name);
    let (Some(own), Some(theirs)) = (own.next(), theirs) else { return };
    let old = std::mem::replace(own, theirs.clone());
    let before = manifest.lacks.len();
    manifest.lacks.retain(|lack| place_of(&old, &lack.path).is_none());
    let gone = (before - manifest.lacks.len()) as u64;
    let come = other.lacks.iter().filter(|lack| place_of(theirs, &lack.path).is_some());
    manifest.lacks.extend(come.cloned());
    let come = (manifest.lacks.len() + usize::try_from(gone).unwrap_or(0) - before) as u64;
    manifest.lacks_total = manifest.lacks_total.saturating_sub(gone).saturating_add(come);
}

/// Returns whether a path in a snapshot leads to, or into, a directory of its root.
pub fn is_in(path: &[u8], directory: &[u8]) -> bool {
    let first = path.split(|byte| *byte == b'/').find(|name| !name.is_empty());
    directory.is_empty() || first == Some(directory)
}

/// Returns whether a path is that of the whole snapshot.
pub fn is_root(path: &[u8]) -> bool {
    path.iter().all(|byte| *byte == b'/')
}
