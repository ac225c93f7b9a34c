//! What `--delete` never removes, because the night could not have had it: what patterns left out, other file systems,
//! paths of other components, sockets, and what could not be read.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::Gitignore;

use crate::base::entry::Kind;
use crate::op::restore::Request;
use crate::op::restore::filter::{Filter, Within, patterns};
use crate::op::restore::origin::{Origin, below, join, plain, trimmed};
use crate::repo::RepoError;
use crate::stage::scan::{FolderId, Stat};
use crate::stage::snapshot::Manifest;
use crate::stage::snapshot::facts::ComponentRules;

/// Why an entry of the target stays although the snapshot does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// `--exclude` of the restore matches it.
    Excluded,
    /// A pattern of the backup matches it, the night's or today's.
    Pattern,
    /// It is or lies in a directory that was stored empty for a file in it.
    Marked,
    /// It lies on another file system.
    Mounted,
    /// It belongs to another component.
    Component,
    /// It is a socket, or of another kind that is never stored.
    Socket,
    /// It could not be backed up.
    Lacking,
    /// Nothing is known of the directory: it can't be read in the repository.
    Unknown,
}

impl Why {
    /// Returns the reason, as it follows `kept 3 entries:`.
    pub fn text(self) -> &'static str {
        match self {
            Self::Excluded => "--exclude matches them",
            Self::Pattern => "the backup leaves them out by its patterns",
            Self::Marked => "the backup stores their directory empty (--exclude-if-present)",
            Self::Mounted => "they lie on another file system",
            Self::Component => "they are a component's own sources",
            Self::Socket => "they are of a kind that is never backed up",
            Self::Lacking => "they could not be backed up",
            Self::Unknown => "what the snapshot has in their directory cannot be read",
        }
    }
}

/// An entry of the target, and what it would be where the night would have read it.
#[derive(Clone, Debug)]
pub struct Spot {
    /// Path below the target.
    pub path: Vec<u8>,
    /// Absolute path on this machine.
    pub here: Vec<u8>,
    /// What the night would have called it.
    pub origin: Origin,
    /// Whether the two are one place.
    pub is_in_place: bool,
}

impl Spot {
    /// Returns a name in this directory.
    pub fn below(&self, name: &[u8]) -> Self {
        let Origin { component, inside, source, below } = &self.origin;
        Self {
            path: join(&self.path, name),
            here: join(&self.here, name),
            origin: Origin {
                component: *component,
                inside: join(inside, name),
                source: source.clone(),
                below: join(below, name),
            },
            is_in_place: self.is_in_place,
        }
    }
}

/// What a component of the snapshot leaves out.
struct Rules {
    name: String,
    patterns: Vec<Gitignore>,
    markers: Vec<Vec<u8>>,
    is_known: bool,
    enters_file_systems: bool,
}

/// What is never removed.
pub struct Spared<'r> {
    filter: &'r Filter,
    own: &'r [(FolderId, &'static str)],
    rules: Vec<Rules>,
    /// Paths of all components on their machine, and on this one: who has them.
    sources: BTreeMap<Vec<u8>, Vec<String>>,
    /// Paths of what the snapshot lacks, without the first slash.
    lacks: BTreeSet<Vec<u8>>,
}

impl<'r> Spared<'r> {
    /// Gathers what the snapshot says, and what is configured today.
    ///
    /// # Errors
    /// [`RepoError::Source`] for patterns that can't be used together.
    pub fn new(manifest: &Manifest, filter: &'r Filter, request: &'r Request<'_>) -> Result<Self, RepoError> {
        let said = manifest.rules();
        let mut rules = Vec::new();
        for component in &manifest.components {
            let night = said.iter().flatten().find(|rules| rules.component == component.name);
            let today = request.configured.iter().flatten().find(|today| today.name == component.name);
            let lists = [night.map(|rules| &rules.excludes), today.map(|today| &today.excludes)];
            let mut is_known = night.is_some() || today.is_some();
            let mut matchers = Vec::new();
            for list in lists.into_iter().flatten() {
                // A line that is no pattern was taken by an older program: what it left out nobody knows.
                let can_be_read = |line: &&String| patterns(std::slice::from_ref(*line)).is_ok();
                let lines: Vec<String> = list.iter().filter(can_be_read).cloned().collect();
                is_known &= lines.len() == list.len();
                matchers.push(patterns(&lines)?);
            }
            rules.push(Rules {
                name: component.name.clone(),
                patterns: matchers,
                markers: night.map(|rules| rules.exclude_if_present.clone()).unwrap_or_default(),
                is_known,
                enters_file_systems: night.is_some_and(|rules: &ComponentRules| !rules.one_file_system),
            });
        }
        let mut sources: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
        let night = manifest.components.iter().flat_map(|component| {
            component.sources.iter().map(|source| (source.as_slice(), &component.name))
        });
        let today = request.configured.iter().flatten().flat_map(|component| {
            component.paths.iter().map(|path| (path.as_os_str().as_bytes(), &component.name))
        });
        for (path, name) in night.chain(today).filter(|(path, _)| path.first() == Some(&b'/')) {
            let real = Path::new(OsStr::from_bytes(path)).canonicalize().ok();
            let real = real.map(|real| real.as_os_str().as_bytes().to_vec());
            for path in [Some(trimmed(path).to_vec()), real].into_iter().flatten() {
                let names = sources.entry(path).or_default();
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        let lacks = manifest.lacks.iter().map(|lack| plain(&lack.path)).collect();
        Ok(Self { filter, own: &request.own_places, rules, sources, lacks })
    }

    /// Returns why an entry stays; none if the night would have had it, had it been there. What lies above it is not
    /// looked at: see [`Self::why_above`].
    pub fn why(&self, spot: &Spot, stat: &Stat) -> Option<Why> {
        let is_directory = stat.kind == Some(Kind::Directory);
        // Only --exclude: with --include nothing is removed.
        if !self.filter.judge(&spot.path, is_directory, &Within::default()).is_chosen {
            return Some(Why::Excluded);
        }
        if stat.kind.is_none() {
            return Some(Why::Socket);
        }
        self.why_known(spot, is_directory)
    }

    fn why_known(&self, spot: &Spot, is_directory: bool) -> Option<Why> {
        let Origin { component, inside, below, .. } = &spot.origin;
        let Some(rules) = self.rules.get(*component) else { return Some(Why::Unknown) };
        let path = spot.origin.path();
        // A pattern may have been read as one from the component's root, the source, or the file system's root.
        let spellings = [inside.as_slice(), below, path.get(1..).unwrap_or_default()];
        let is_left_out = rules.patterns.iter().filter(|patterns| !patterns.is_empty()).any(|patterns| {
            spellings.iter().any(|spelling| {
                let path = Path::new(OsStr::from_bytes(spelling));
                !spelling.is_empty() && patterns.matched(path, is_directory).is_ignore()
            })
        });
        if is_left_out {
            return Some(Why::Pattern);
        }
        // Of a component of several paths a manifest may call what it lacks by the path in the component.
        if self.lacks.contains(&plain(&path)) || self.lacks.contains(inside) {
            return Some(Why::Lacking);
        }
        // Also one of its own component: as a source of its own it lies elsewhere in the snapshot.
        let is_source = self.sources.contains_key(&path) || self.sources.contains_key(&spot.here);
        is_source.then_some(Why::Component)
    }

    /// Returns why nothing in a directory is removed, as far as the directory and those above it up to its source
    /// tell; and, where it is not in its place, those above it on this machine. With `is_above_free` those up to its
    /// source are known not to.
    pub fn why_above(&self, spot: &Spot, is_above_free: bool) -> Option<Why> {
        let mut at = spot.clone();
        let mut above = Vec::new();
        while !at.origin.below.is_empty() {
            above.push(at.clone());
            if is_above_free {
                break;
            }
            at = Spot {
                path: parent(&at.path).to_vec(),
                here: parent(&at.here).to_vec(),
                origin: Origin {
                    inside: parent(&at.origin.inside).to_vec(),
                    below: parent(&at.origin.below).to_vec(),
                    ..at.origin
                },
                is_in_place: at.is_in_place,
            };
        }
        above.iter().find_map(|spot| self.why_known(spot, true)).or_else(|| {
            let name = &self.rules.get(spot.origin.component)?.name;
            let mut here = self.sources.iter().filter(|(path, _)| below(&spot.here, path).is_some());
            let is_taken = !spot.is_in_place && here.any(|(_, names)| !names.contains(name));
            is_taken.then_some(Why::Component)
        })
    }

    /// Returns whether a directory that holds these names was stored empty for one of them.
    pub fn is_marked<'n>(&self, spot: &Spot, mut names: impl Iterator<Item = &'n [u8]>) -> bool {
        let rules = self.rules.get(spot.origin.component);
        rules.is_some_and(|rules| names.any(|name| rules.markers.iter().any(|marker| marker == name)))
    }

    /// Returns whether the night is known to have entered file systems that are mounted below the source.
    pub fn enters_file_systems(&self, spot: &Spot) -> bool {
        self.rules.get(spot.origin.component).is_some_and(|rules| rules.enters_file_systems)
    }

    /// Returns the name of a component of which nobody knows what it leaves out.
    pub fn unknown(&self, component: usize) -> Option<&str> {
        self.rules.get(component).filter(|rules| !rules.is_known).map(|rules| rules.name.as_str())
    }

    /// Returns what a folder is, if it is one that the program itself needs.
    pub fn own(&self, stat: &Stat) -> Option<&'static str> {
        let id = (stat.filesystem, stat.inode);
        self.own.iter().find(|(own, _)| *own == id).map(|(_, what)| *what)
    }

    /// Returns the component whose source a path of this machine is or lies in, unless its patterns leave it out.
    pub fn component_at(&self, here: &[u8]) -> Option<(&[u8], &str)> {
        self.sources.iter().find_map(|(source, names)| {
            let inside = below(here, source)?;
            let name = names.iter().find(|name| !self.leaves_out(name, source, inside))?;
            Some((source.as_slice(), name.as_str()))
        })
    }

    /// Returns whether a component leaves out what lies at `inside` of its source.
    fn leaves_out(&self, component: &str, source: &[u8], inside: &[u8]) -> bool {
        let rules = self.rules.iter().filter(|rules| rules.name == component);
        let spellings = [inside.to_vec(), join(source, inside).get(1..).unwrap_or_default().to_vec()];
        rules.flat_map(|rules| &rules.patterns).any(|patterns| {
            let is_ignored = |spelling: &Vec<u8>| {
                let path = Path::new(OsStr::from_bytes(spelling));
                !inside.is_empty() && patterns.matched_path_or_any_parents(path, true).is_ignore()
            };
            spellings.iter().any(is_ignored)
        })
    }
}

/// Returns the path above; empty for a single name.
fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |slash| &path[..slash])
}
