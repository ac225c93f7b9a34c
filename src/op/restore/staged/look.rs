//! What lies in a target of restores that were not finished. Reads only; follows no link, and trusts nothing
//! that is not this user's alone.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

use crate::base::entry::{Kind, quoted};
use crate::op::restore::staged::marker::{Marker, TopEntries, parse_names};
use crate::op::restore::staged::{MARKER, MARKER_NEW, NAMES, NAMES_NEW, PREFIX, PROBE, TREE};
use crate::stage::scan::{self, Names};

/// Most bytes of a marker: it holds the patterns of one command line.
const MARKER_BYTES_MAX: u64 = 4 << 20;

/// Most bytes of a list of names: two million of them.
const NAMES_BYTES_MAX: u64 = 256 << 20;

/// A name in a target that a staging directory could have.
pub struct Found {
    /// The name.
    pub name: Vec<u8>,
    /// What lies under it.
    pub what: What,
}

/// What lies under such a name.
pub enum What {
    /// A restore that was not finished, and that nobody works at.
    Unfinished(Box<Unfinished>),
    /// One that somebody works at.
    Busy(Marker),
    /// One that had only begun, or was at its very end: nothing of worth.
    Leftover,
    /// None of ours; and why.
    Foreign(String),
}

/// A restore that was not finished.
pub struct Unfinished {
    /// Its directory.
    pub directory: OwnedFd,
    /// Its marker's file, locked.
    pub lock: File,
    /// What it was to do.
    pub marker: Marker,
    /// The names that were to go out.
    pub names: TopEntries,
}

impl Found {
    /// Returns whether it is a staging directory of this user.
    pub fn is_ours(&self) -> bool {
        !matches!(self.what, What::Foreign(_))
    }

    /// Says what lies there, on one line.
    pub fn shown(&self) -> String {
        let name = quoted(&self.name);
        match &self.what {
            What::Unfinished(it) => {
                let gone = it.gone();
                let state = match gone {
                    0 => "nothing of it is in place yet".to_owned(),
                    _ => format!("{gone} of its {} names are in place, so it is not whole", it.names.len()),
                };
                format!("an unfinished restore of {} lies there, in {name}; {state}", it.marker.shown())
            }
            What::Busy(marker) => format!("a restore of {} is at work there, in {name}", marker.shown()),
            What::Leftover => format!("{name}, of a restore that had only begun, lies there"),
            What::Foreign(why) => {
                format!("{name} lies there, which {why}: it is neither followed nor trusted")
            }
        }
    }
}

impl Unfinished {
    /// Returns how many of the names have gone out of the tree.
    fn gone(&self) -> usize {
        let Ok(tree) = scan::open_directory(&self.directory, TREE.to_bytes()) else {
            return self.names.len();
        };
        self.names.keys().filter(|name| scan::stat_at(&tree, name).is_err()).count()
    }
}

/// Looks at the names of a target that a staging directory could have.
pub fn look(target: impl AsFd, names: &Names) -> Vec<Found> {
    let named = names.iter().filter(|name| name.starts_with(PREFIX.as_bytes()));
    let found = named.filter_map(|name| {
        let what = match scan::stat_at(&target, name).ok()?.kind {
            Some(Kind::Directory) => examine(&target, name).unwrap_or_else(What::Foreign),
            Some(Kind::Symlink) => What::Foreign("is a link".to_owned()),
            _ => return None, // a file that a restore with --overwrite left behind
        };
        Some(Found { name: name.to_vec(), what })
    });
    found.collect()
}

fn examine(target: impl AsFd, name: &[u8]) -> Result<What, String> {
    let directory = scan::open_directory(target, name).map_err(|e| unreadable(e, "it"))?;
    let about = scan::stat_of(&directory).map_err(|e| unreadable(e, "it"))?;
    if about.uid != rustix::process::geteuid().as_raw() {
        return Err("belongs to another user".to_owned());
    }
    if about.mode & 0o077 != 0 {
        return Err("is open to other users".to_owned());
    }
    let (bytes, lock) = match read(&directory, MARKER.to_bytes(), MARKER_BYTES_MAX)? {
        Some(found) => found,
        None => {
            let inside = scan::list(&directory).map_err(|e| unreadable(e, "it"))?;
            let is_empty = |tree| scan::list(tree).is_ok_and(|names| names.is_empty());
            let is_bare = inside.iter().all(|name| {
                [MARKER_NEW, PROBE, NAMES, NAMES_NEW].iter().any(|own| name == own.to_bytes())
                    || name == TREE.to_bytes() && scan::open_directory(&directory, name).is_ok_and(is_empty)
            });
            return is_bare.then_some(What::Leftover).ok_or_else(|| "has no marker".to_owned());
        }
    };
    let marker = Marker::parse(&bytes).ok_or("has a marker that this version cannot read")?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
        return Ok(What::Busy(marker)); // any other error: there are no locks here
    }
    let names = read(&directory, NAMES.to_bytes(), NAMES_BYTES_MAX)?;
    let names = names.map_or_else(TopEntries::default, |(bytes, _)| parse_names(&bytes));
    Ok(What::Unfinished(Box::new(Unfinished { directory, lock, marker, names })))
}

/// Reads a file of a staging directory; none if it is not there.
fn read(directory: &OwnedFd, name: &[u8], bytes_max: u64) -> Result<Option<(Vec<u8>, File)>, String> {
    let shown = quoted(name);
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut file = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(unreadable(e, &shown)),
    };
    let about = scan::stat_of(&file).map_err(|e| unreadable(e, &shown))?;
    let is_own = about.uid == rustix::process::geteuid().as_raw() && about.mode & 0o022 == 0;
    if about.kind != Some(Kind::File) || !is_own || about.links != 1 || about.size > bytes_max {
        return Err(format!("has a {shown} that this user's restore did not make"));
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file)
        .take(bytes_max)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot be used, as {shown} cannot be read: {e}"))?;
    Ok(Some((bytes, file)))
}

fn unreadable(error: Errno, what: &str) -> String {
    format!("cannot be used, as {what} cannot be opened: {}", std::io::Error::from(error))
}
