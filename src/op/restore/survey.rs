//! A look at a target that is not empty, before anything in it is changed: what would be removed, and which messages
//! would be doubled. Reads the snapshot's trees and the target side by side.

mod extra;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::base::entry::{Entry, Kind, quoted};
use crate::op::restore::Request;
use crate::op::restore::doubled::{Messages, is_folder, is_side};
use crate::op::restore::filter::{Filter, Within};
use crate::op::restore::origin::{Origins, base_name, join};
use crate::op::restore::removal::{Seen, Tally, is_mounted};
use crate::op::restore::spared::{Spared, Spot, Why};
use crate::op::restore::target::Target;
use crate::repo::RepoError;
use crate::repo::browse::{Step, Visitor};
use crate::stage::scan::{self, Names};
use crate::stage::snapshot::Lack;

/// Paths of entries that would go which a question names, at most.
const NAMED: usize = 10;

/// What was found.
#[derive(Default)]
pub struct Findings {
    /// What goes when all else is in its place.
    pub going: Vec<Seen>,
    /// Full directories that give way to what takes their names.
    pub giving_way: Vec<Seen>,
    /// What goes, both together.
    pub tally: Tally,
    /// All that lies in the directories in which something may go.
    pub there: Tally,
    /// Paths of the first entries that go.
    pub first: Vec<String>,
    /// What the snapshot does not have and stays.
    pub kept: BTreeMap<Why, u64>,
    /// Mount points in which nothing goes.
    pub mounted: u64,
    /// Entries that stay and should not.
    pub lacks: Vec<Lack>,
    /// Numbers of the components in whose directories something goes.
    pub components: BTreeSet<usize>,
    /// Messages in and beside the restored folders.
    pub messages: Messages,
}

/// A directory on the way down.
struct Level {
    /// Path below the target.
    path: Vec<u8>,
    /// Where it was read from; none if it only leads to sources.
    spot: Option<Spot>,
    /// Why nothing in it goes.
    stays: Option<Why>,
    /// Names in the target; none if it is not there.
    names: Option<Names>,
    /// How many of them the walk has passed.
    passed: usize,
    /// Those of them that the snapshot does not have.
    extra: Vec<Box<[u8]>>,
    /// What the target finds under names of the snapshot that it does not list: other spellings of names that it does.
    inodes: HashSet<((u32, u32), u64)>,
    spellings: HashSet<u64>,
    /// Whether it holds a folder's messages.
    is_side: bool,
    /// Whether it lies in a mailbox, or is one.
    in_mailbox: bool,
    /// Whether another file system is mounted there.
    is_mount: bool,
    /// Whether the snapshot has nothing in it, as far as the walk has come.
    is_empty: bool,
    /// What the patterns of what is wanted say of it.
    within: Within,
}

/// A look under way.
pub struct Survey<'s> {
    /// The target.
    pub target: &'s Target,
    /// What is asked for.
    pub request: &'s Request<'s>,
    /// What is wanted of it.
    pub filter: &'s Filter,
    /// What is never removed.
    pub spared: &'s Spared<'s>,
    /// Where entries were read from.
    pub origins: &'s Origins<'s>,
    /// Path of what is restored in the snapshot.
    pub place: &'s [u8],
    /// Absolute path of the target.
    pub here: &'s [u8],
    /// Directories of the root that are wanted; all if empty.
    pub wanted: Vec<Vec<u8>>,
    /// What was found so far.
    pub findings: Findings,
    levels: Vec<Level>,
    /// The directory that was opened last.
    hand: Option<(Vec<u8>, OwnedFd)>,
}

impl<'s> Survey<'s> {
    /// Begins.
    pub fn new(
        (target, request, filter): (&'s Target, &'s Request<'s>, &'s Filter),
        (spared, origins): (&'s Spared<'s>, &'s Origins<'s>),
        (place, here): (&'s [u8], &'s [u8]),
        wanted: Vec<Vec<u8>>,
    ) -> Self {
        let findings = Findings::default();
        Self {
            target,
            request,
            filter,
            spared,
            origins,
            place,
            here,
            wanted,
            findings,
            levels: Vec::new(),
            hand: None,
        }
    }

    /// Looks at the target and all below it.
    ///
    /// # Errors
    /// [`RepoError::Source`] if what is restored would lie in a folder that the program needs; what reading trees meets,
    /// but for damage.
    pub fn run(
        mut self,
        walk: impl FnOnce(&mut Self) -> Result<(), RepoError>,
    ) -> Result<Findings, RepoError> {
        self.enter(Vec::new(), None, Within::default())?;
        walk(&mut self)?;
        self.up();
        Ok(self.findings)
    }

    /// Looks for the messages that one entry, restored right into the target, would double.
    ///
    /// # Errors
    /// [`RepoError::Source`] if the target is a folder that the program needs.
    pub fn single(mut self, entry: &Entry<'_>) -> Result<Findings, RepoError> {
        self.enter(Vec::new(), None, Within::default())?;
        let is_side = is_side(base_name(self.here));
        let Some(level) = self.levels.pop().filter(|_| is_side) else { return Ok(self.findings) };
        if level.names.as_ref().is_some_and(|names| names.contains(entry.name)) {
            return Ok(self.findings);
        }
        let messages = &mut self.findings.messages;
        messages.missing(entry.name);
        let above = self.target.below(b"").and_then(|fd| scan::open_directory(&fd, b".."));
        for side in [&b"cur"[..], b"new"] {
            let names = above.as_ref().ok().and_then(|fd| scan::open_directory(fd, side).ok());
            let names = names.and_then(|fd| scan::list(fd).ok());
            names.iter().flat_map(Names::iter).for_each(|name| messages.stray(side, name));
        }
        Ok(self.findings)
    }

    /// Opens a directory of the target, unless it is the one that was opened last.
    fn open(&mut self, path: &[u8]) -> Result<&OwnedFd, Errno> {
        if self.hand.as_ref().is_none_or(|(open, _)| open != path) {
            self.hand = Some((path.to_vec(), self.target.below(path)?));
        }
        self.hand.as_ref().map(|(_, fd)| fd).ok_or(Errno::NOENT)
    }

    /// Goes down into a directory; `name` is its own, none for the target itself.
    fn enter(&mut self, path: Vec<u8>, name: Option<&[u8]>, within: Within) -> Result<(), RepoError> {
        let about = self.open(&path).and_then(|fd| Ok((scan::list(fd)?, scan::stat_of(fd)?))).ok();
        let (names, stat) = about.unzip();
        if let Some(what) = stat.as_ref().and_then(|stat| self.spared.own(stat)) {
            let path = quoted(&join(self.here, &path));
            let reason = format!(
                "{what} lies there, and nothing is restored into it; leave it out with --exclude, or name another target"
            );
            return Err(RepoError::Source { path, reason });
        }
        let spot = self.spot(&path);
        let above = self.levels.last();
        let mut stays = above.filter(|above| above.spot.is_some()).and_then(|above| above.stays);
        if let (Some(spot), Some(names), None) = (&spot, &names, stays) {
            let is_marked = self.spared.is_marked(spot, names.iter());
            let is_above_free = above.is_some_and(|above| above.spot.is_some());
            stays = self.spared.why_above(spot, is_above_free).or(is_marked.then_some(Why::Marked));
        }
        let in_folder = above.is_some_and(|above| match &above.names {
            Some(names) => is_folder(names),
            None => above.in_mailbox,
        });
        let is_side = match name {
            Some(name) => is_side(name) && in_folder,
            None => is_side(base_name(self.here)) && is_side(base_name(self.place)),
        };
        let in_mailbox = names.as_ref().is_some_and(is_folder) || above.is_some_and(|above| above.in_mailbox);
        let is_below_source = spot.as_ref().is_some_and(|spot| !spot.origin.below.is_empty());
        let is_mount = match name.filter(|_| self.request.delete && is_below_source && names.is_some()) {
            Some(name) => self.is_mount(&path, name),
            None => false,
        };
        if let (true, Some(spot), None) = (is_mount, &spot, stays) {
            stays = (!self.spared.enters_file_systems(spot)).then_some(Why::Mounted);
        }
        self.levels.push(Level {
            path,
            spot,
            stays,
            names,
            passed: 0,
            extra: Vec::new(),
            inodes: HashSet::new(),
            spellings: HashSet::new(),
            is_side,
            in_mailbox,
            is_mount,
            is_empty: true,
            within,
        });
        Ok(())
    }

    /// Returns whether another file system is mounted on a directory of the target.
    fn is_mount(&mut self, path: &[u8], name: &[u8]) -> bool {
        let above = path.len().saturating_sub(name.len()).saturating_sub(1);
        self.open(&path[..above]).is_ok_and(|parent| is_mounted(parent, name))
    }

    /// Returns where what lies at a path below the target was read from.
    fn spot(&self, path: &[u8]) -> Option<Spot> {
        let origin = self.origins.of(&join(self.place, path))?;
        let here = join(self.here, path);
        let above = self.levels.last().and_then(|above| above.spot.as_ref());
        let is_in_place = match above {
            Some(above) => above.is_in_place,
            None => is_one_place(&here, &origin.path()),
        };
        Some(Spot { path: path.to_vec(), here, origin, is_in_place })
    }

    /// Returns whether something in the directory where the walk is may go.
    fn removes_here(&self) -> bool {
        let level = self.levels.last();
        self.request.delete
            && level
                .is_some_and(|level| level.spot.is_some() && level.stays.is_none() && level.names.is_some())
    }
}

impl Visitor for Survey<'_> {
    fn entry(&mut self, path: &[u8], entry: &Entry<'_>) -> Result<Step, RepoError> {
        if self.request.progress.is_cancelled() {
            return Err(RepoError::Interrupted);
        }
        let is_there = self.pass(Some(entry.name));
        self.levels.iter_mut().next_back().into_iter().for_each(|level| level.is_empty = false);
        let is_directory = entry.kind == Kind::Directory;
        let is_named = self.wanted.is_empty() || self.levels.len() > 1 || {
            self.wanted.iter().any(|directory| directory.is_empty() || directory == entry.name)
        };
        let within = self.levels.last().map(|level| level.within.clone()).unwrap_or_default();
        let wanted = self.filter.judge(path, is_directory, &within);
        let stat = if self.removes_here() { self.count(entry.name, is_there) } else { None };
        if !is_named || !wanted.is_above {
            return Ok(Step::Over);
        }
        if !is_directory {
            if let Some(stat) = stat.filter(|_| is_there) {
                self.gives_way(entry.name, &stat);
            }
            let in_side = self.levels.last().is_some_and(|level| level.is_side);
            if in_side && !is_there {
                self.findings.messages.missing(entry.name);
            }
            return Ok(Step::Over);
        }
        let in_mailbox = self.levels.last().is_some_and(|level| level.in_mailbox);
        if !is_there && !in_mailbox {
            return Ok(Step::Over);
        }
        self.enter(path.to_vec(), Some(entry.name), wanted.within)?;
        Ok(Step::Into)
    }

    fn leave(&mut self, _: &[u8]) -> Result<(), RepoError> {
        self.up();
        Ok(())
    }

    fn damaged(&mut self, path: &[u8], error: RepoError) -> Result<(), RepoError> {
        if !error.is_unreadable() {
            return Err(error);
        }
        // Nothing is known of what should be in it: all that is there stays.
        if let Some(level) = self.levels.last_mut() {
            level.stays = Some(Why::Unknown);
            level.passed = 0;
            level.extra.clear();
            if !path.is_empty() {
                self.levels.pop();
            }
        }
        Ok(())
    }
}

/// Returns whether two paths lead to one place.
fn is_one_place(here: &[u8], origin: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let real = |path: &[u8]| std::path::Path::new(std::ffi::OsStr::from_bytes(path)).canonicalize().ok();
    here == origin || real(here).is_some_and(|here| Some(here) == real(origin))
}
