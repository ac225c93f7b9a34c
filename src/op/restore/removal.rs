//! Removes what is in the target and not in the snapshot: first a look at what would go, then, when all else is in
//! place, what is still as it was seen. Never through a link, never the repository or what leads to it, nothing that
//! is spared, and nothing on another file system.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;

use crate::base::entry::Kind;
use crate::op::restore::lack;
use crate::op::restore::origin::base_name;
use crate::op::restore::spared::{Spared, Spot, Why};
use crate::stage::scan::{self, Stat};
use crate::stage::snapshot::Lack;

/// Why a directory stays, with all that is in it.
const MOUNTED: &str = "another file system is mounted there";

/// Entries, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entries, each by itself, whatever it lies in.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

impl Tally {
    /// Counts one more entry.
    pub fn add(&mut self, stat: &Stat) {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(stat.size);
    }
}

/// What an entry of the target was when it was looked at.
pub struct Seen {
    /// Where it is.
    pub spot: Spot,
    /// Tells whether what would go of it is what was seen.
    print: blake3::Hash,
}

/// What a [`Removal`] does with what it meets.
enum Act<'r> {
    /// Notes it, and calls this with the path of each entry that would go.
    Look(&'r mut dyn FnMut(&[u8], &Stat)),
    /// Unlinks it.
    Take,
}

/// A removal under way.
pub struct Removal<'r> {
    spared: &'r Spared<'r>,
    act: Act<'r>,
    print: blake3::Hasher,
    /// What goes, or is gone.
    pub tally: Tally,
    /// What stays for a reason that is no failure.
    pub kept: BTreeMap<Why, u64>,
    /// Entries that stay and should not, and why.
    pub lacks: Vec<Lack>,
}

impl<'r> Removal<'r> {
    /// Begins to look. `each` is called with each entry that would go, those in a directory before it.
    pub fn look(spared: &'r Spared<'r>, each: &'r mut dyn FnMut(&[u8], &Stat)) -> Self {
        Self::new(spared, Act::Look(each))
    }

    fn new(spared: &'r Spared<'r>, act: Act<'r>) -> Self {
        let print = blake3::Hasher::new();
        Self { spared, act, print, tally: Tally::default(), kept: BTreeMap::new(), lacks: Vec::new() }
    }

    /// Goes over an entry and all below it. Returns whether it goes whole, and what it is to be known by.
    pub fn over(&mut self, (parent, about): (&OwnedFd, &Stat), name: &[u8], spot: &Spot) -> (bool, Seen) {
        self.print.reset();
        let is_whole = self.take((parent, about), name, spot);
        (is_whole, Seen { spot: spot.clone(), print: self.print.finalize() })
    }

    /// Goes over an entry; returns whether it goes.
    fn take(&mut self, parent: (&OwnedFd, &Stat), name: &[u8], spot: &Spot) -> bool {
        let result = self.entry(parent, name, spot);
        result.unwrap_or_else(|reason| {
            self.lacks.push(lack(&spot.path, format!("not removed: {reason}")));
            false
        })
    }

    fn entry(
        &mut self,
        (parent, about): (&OwnedFd, &Stat),
        name: &[u8],
        spot: &Spot,
    ) -> Result<bool, String> {
        let stat = scan::stat_at(parent, name).map_err(text)?;
        if let Some(why) = self.spared.why(spot, &stat) {
            return Ok(self.keep(why, 1));
        }
        if stat.kind != Some(Kind::Directory) {
            return self.unlink(parent, name, spot, &stat);
        }
        if let Some(what) = self.spared.own(&stat) {
            return Err(format!("{what} lies there"));
        }
        if stat.filesystem != about.filesystem {
            return Err(MOUNTED.to_owned());
        }
        let directory = open(parent, name).map_err(|e| match e {
            Errno::XDEV => MOUNTED.to_owned(),
            e => text(e),
        })?;
        let names = scan::list(&directory).map_err(text)?;
        if self.spared.is_marked(spot, names.iter()) {
            return Ok(self.keep(Why::Marked, 1));
        }
        let mut is_empty = true;
        for inner in names.iter() {
            is_empty &= self.take((&directory, &stat), inner, &spot.below(inner));
        }
        if !is_empty {
            return Ok(false);
        }
        self.unlink(parent, name, spot, &stat)
    }

    fn keep(&mut self, why: Why, count: u64) -> bool {
        *self.kept.entry(why).or_default() += count;
        false
    }

    fn unlink(&mut self, parent: &OwnedFd, name: &[u8], spot: &Spot, stat: &Stat) -> Result<bool, String> {
        let is_directory = stat.kind == Some(Kind::Directory);
        // A directory's own times change with what is removed from it.
        let changed = if is_directory { (0, 0) } else { (stat.mtime.seconds, stat.mtime.nanos) };
        let known = (stat.filesystem, stat.inode, stat.size, changed);
        self.print.update(&(spot.path.len() as u64).to_le_bytes());
        self.print.update(&spot.path);
        self.print.update(format!("{known:?}").as_bytes());
        match &mut self.act {
            Act::Look(each) => each(&spot.path, stat),
            Act::Take => {
                let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                unlinkat(parent, name, flags).map_err(text)?;
            }
        }
        self.tally.add(stat);
        Ok(true)
    }
}

/// Removes what was looked at, if it is still what was seen: what has come meanwhile was in no list and in no
/// question. Returns what is gone, and what stays and should not.
pub fn remove(spared: &Spared<'_>, parent: &OwnedFd, seen: &Seen) -> (Tally, Vec<Lack>) {
    let (name, spot) = (base_name(&seen.spot.path), &seen.spot);
    let stays = |reason: String| (Tally::default(), vec![lack(&spot.path, format!("not removed: {reason}"))]);
    let about = match scan::stat_of(parent).and_then(|about| Ok((scan::stat_at(parent, name)?, about))) {
        Ok((_, about)) => about,
        Err(Errno::NOENT) => return (Tally::default(), Vec::new()), // somebody else has removed it
        Err(e) => return stays(text(e)),
    };
    let mut nobody = |_: &[u8], _: &Stat| ();
    let (_, now) = Removal::look(spared, &mut nobody).over((parent, &about), name, spot);
    if now.print != seen.print {
        return stays("it has changed since it was looked at; run the restore again".to_owned());
    }
    let mut removal = Removal::new(spared, Act::Take);
    removal.take((parent, &about), name, spot);
    (removal.tally, removal.lacks)
}

/// Opens a directory, unless something is mounted on it: even what lies on the same device.
fn open(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match openat2(&parent, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => scan::open_directory(&parent, name), // an old kernel, or a sandbox
        other => other,
    }
}

/// Returns whether something is mounted on a directory of `parent`.
pub fn is_mounted(parent: &OwnedFd, name: &[u8]) -> bool {
    let device = |stat: Result<Stat, Errno>| stat.ok().map(|stat| stat.filesystem);
    matches!(open(parent, name), Err(Errno::XDEV))
        || device(scan::stat_at(parent, name)) != device(scan::stat_of(parent))
}

fn text(error: Errno) -> String {
    io::Error::from(error).to_string()
}
