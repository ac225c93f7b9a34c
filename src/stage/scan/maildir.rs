//! A Maildir folder that changes while it is listed loses no message.
//!
//! A rename inside a directory may hide a name from a listing that is under way (readdir(3)), and
//! a message may move from `new` to `cur` between the two listings. So both are listed until they
//! hold still; if they never do, the union of several listings is taken, and whoever meets a name
//! that is gone looks for the message under its new one ([`Maildir::locate`]).

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::base::time::Time;
use crate::stage::scan::{Names, Stat, list, stat_at, stat_of};

/// Listings of a folder that never holds still.
const LISTINGS_MAX: usize = 12;

/// Listings in a row without a message not seen before, after which the union is taken.
const QUIET_LISTINGS: usize = 3;

/// Time stamps of files step this coarsely, in nanoseconds; a younger change may hide another.
const STAMP_NANOS: i128 = 20_000_000;

/// How often a message that is gone is looked for under a new name.
const LOOKS_MAX: usize = 100;

/// Returns what names a message whatever its flags: the file name up to the first `:2,` or `;2,`.
pub fn unique_name(name: &[u8]) -> &[u8] {
    let end = name.windows(3).position(|part| part == b":2," || part == b";2,");
    &name[..end.unwrap_or(name.len())]
}

/// The two directories of a Maildir folder that hold messages.
pub struct Maildir {
    /// `new`: delivered, not seen by a client.
    pub new: OwnedFd,
    /// `cur`: seen by a client.
    pub cur: OwnedFd,
}

/// What a Maildir folder held at one moment.
pub struct Listing {
    /// Names in `new` and what they are.
    pub new: Vec<(Vec<u8>, Stat)>,
    /// Names in `cur` and what they are.
    pub cur: Vec<(Vec<u8>, Stat)>,
    /// Names in `new` or `cur` that could not be examined, and why.
    pub failed: Vec<(bool, Vec<u8>, Errno)>,
}

/// A name and whether it lies in `cur`.
type Place = (bool, Vec<u8>);

impl Maildir {
    fn directory(&self, in_cur: bool) -> &OwnedFd {
        if in_cur { &self.cur } else { &self.new }
    }

    /// Lists both directories and examines every entry, each message exactly once.
    ///
    /// O(entries) for a folder that holds still; a few times that for one that does not.
    ///
    /// # Errors
    /// As getdents64(2) and statx(2) on the directories themselves.
    pub fn scan(&self) -> Result<Listing, Errno> {
        let mut seen: HashSet<Place> = HashSet::new();
        let mut messages: HashSet<Vec<u8>> = HashSet::new();
        let mut quiet = 0;
        for _ in 0..LISTINGS_MAX {
            let before = self.stamp()?;
            let (new, cur) = (list(&self.new)?, list(&self.cur)?);
            if before.is_settled && self.stamp()?.at == before.at {
                return Ok(self.examine(places(&new, &cur).collect()));
            }
            let known = messages.len();
            for place in places(&new, &cur) {
                messages.insert(unique_name(&place.1).to_vec());
                seen.insert(place);
            }
            quiet = if messages.len() == known { quiet + 1 } else { 0 };
            if quiet == QUIET_LISTINGS {
                break;
            }
        }
        Ok(self.examine(seen.into_iter().collect()))
    }

    /// Examines each name; a message that has moved is examined where it is now. Of several names
    /// that turn out to be one message, one is kept.
    fn examine(&self, mut places: Vec<Place>) -> Listing {
        places.sort_unstable();
        let mut found: Vec<(Place, Stat)> = Vec::with_capacity(places.len());
        let mut gone = Vec::new();
        let mut failed = Vec::new();
        for place in places {
            match stat_at(self.directory(place.0), &place.1) {
                Ok(stat) => found.push((place, stat)),
                Err(Errno::NOENT) => gone.push(place),
                Err(e) => failed.push((place.0, place.1, e)),
            }
        }
        let mut inodes: HashSet<u64> = found.iter().map(|(_, stat)| stat.inode).collect();
        let mut alive: HashSet<Vec<u8>> =
            found.iter().map(|((_, name), _)| unique_name(name).to_vec()).collect();
        for (_, name) in gone {
            if !alive.contains(unique_name(&name))
                && let Some((place, stat)) = self.locate(&name)
                && inodes.insert(stat.inode)
            {
                alive.insert(unique_name(&name).to_vec());
                found.push((place, stat));
            }
        }
        // One inode with one link under two names: it was renamed between two looks.
        found.sort_unstable_by(|a, b| (a.1.inode, &b.0).cmp(&(b.1.inode, &a.0)));
        found.dedup_by(|a, b| a.1.inode == b.1.inode && a.1.links == 1 && b.1.links == 1);
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let (cur, new) = found.into_iter().partition::<Vec<_>, _>(|((in_cur, _), _)| *in_cur);
        let names =
            |side: Vec<(Place, Stat)>| side.into_iter().map(|((_, name), stat)| (name, stat)).collect();
        Listing { new: names(new), cur: names(cur), failed }
    }

    /// Looks for the message that was called `name`: returns where it is now and what it is; none
    /// if it was expunged. Up to 100 listings if it keeps moving.
    pub fn locate(&self, name: &[u8]) -> Option<((bool, Vec<u8>), Stat)> {
        let unique = unique_name(name);
        let mut misses = 0;
        for _ in 0..LOOKS_MAX {
            let mut is_listed = false;
            // `new` first: a message only ever moves from there to `cur`.
            for in_cur in [false, true] {
                let names = list(self.directory(in_cur)).ok()?;
                for name in names.iter().filter(|name| unique_name(name) == unique) {
                    is_listed = true;
                    if let Ok(stat) = stat_at(self.directory(in_cur), name) {
                        return Some(((in_cur, name.to_vec()), stat));
                    }
                }
            }
            misses = if is_listed { 0 } else { misses + 1 };
            if misses > QUIET_LISTINGS {
                return None; // in no listing, time after time: it is gone
            }
        }
        None
    }

    fn stamp(&self) -> Result<Stamp, Errno> {
        let (new, cur) = (stat_of(&self.new)?, stat_of(&self.cur)?);
        let now = clock_gettime(ClockId::Realtime);
        let now = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
        let nanos = |time: Time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        let last = nanos(new.ctime).max(nanos(cur.ctime));
        Ok(Stamp {
            at: [new.mtime, new.ctime, cur.mtime, cur.ctime],
            is_settled: (now - last).abs() > STAMP_NANOS,
        })
    }
}

struct Stamp {
    at: [Time; 4],
    is_settled: bool,
}

fn places<'a>(new: &'a Names, cur: &'a Names) -> impl Iterator<Item = Place> + 'a {
    let new = new.iter().map(|name| (false, name.to_vec()));
    new.chain(cur.iter().map(|name| (true, name.to_vec())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn maildir(root: &Path) -> Maildir {
        for side in ["new", "cur"] {
            fs::create_dir_all(root.join(side)).unwrap();
        }
        let open = |side| fs::File::open(root.join(side)).unwrap().into();
        Maildir { new: open("new"), cur: open("cur") }
    }

    #[test]
    fn unique_names_end_before_the_flags() {
        assert_eq!(unique_name(b"1.M2P3.host,S=4:2,RS"), b"1.M2P3.host,S=4");
        assert_eq!(unique_name(b"1.M2P3.host"), b"1.M2P3.host");
    }

    /// Messages are renamed as fast as the machine can while the folder is scanned again and again.
    #[test]
    fn messages_renamed_during_the_scan_are_each_found_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let maildir = maildir(root);
        let count = 300;
        for n in 0..count {
            fs::File::create(root.join(format!("new/{n}.host"))).unwrap();
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut names: Vec<String> = (0..count).map(|n| format!("new/{n}.host")).collect();
                let mut turn = 0usize;
                while !stop.load(Ordering::Relaxed) {
                    let n = (turn * 7919) % count;
                    let flags = ["", "S", "RS", "FS"][turn % 4];
                    let to = match turn % 11 {
                        0 => format!("new/{n}.host"),
                        _ => format!("cur/{n}.host:2,{flags}"),
                    };
                    rustix::fs::rename(root.join(&names[n]), root.join(&to)).unwrap();
                    names[n] = to;
                    turn += 1;
                }
            });
            for _ in 0..100 {
                let listing = maildir.scan().unwrap();
                let mut found: Vec<&[u8]> =
                    listing.new.iter().chain(&listing.cur).map(|(name, _)| unique_name(name)).collect();
                found.sort_unstable();
                let total = found.len();
                found.dedup();
                assert_eq!((total, found.len()), (count, count));
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn two_files_with_one_unique_name_are_both_kept() {
        let folder = tempfile::tempdir().unwrap();
        let maildir = maildir(folder.path());
        fs::File::create(folder.path().join("cur/1.host:2,")).unwrap();
        fs::File::create(folder.path().join("cur/1.host:2,S")).unwrap();
        assert_eq!(maildir.scan().unwrap().cur.len(), 2);
    }
}
