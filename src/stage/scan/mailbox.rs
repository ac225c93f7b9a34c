//! A mailbox that changes while it is listed loses no message, and has none twice.
//!
//! A rename may hide a name from a listing that is under way (readdir(3)), and a message may move
//! between two directories while one is listed and the other is not yet. So all directories of a
//! mailbox that hold messages are listed until none has changed since it was listed: then the
//! listings show one moment. If they never hold still, the union of several listings is taken. Of several
//! names of one message one is kept: links are names of their own only if they stay. Whoever meets a name that is gone later looks for
//! the message where it is now ([`Mailbox::moved`]).

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use crate::base::time::Time;
use crate::stage::scan::stamps::clock;
use crate::stage::scan::{Names, Stat, list, open_directory, stat_at, stat_of};

/// Listings of directories that never hold still.
const LISTINGS_MAX: usize = 12;

/// Listings in a row without a message not seen before, after which the union is taken.
const QUIET_LISTINGS: usize = 3;

/// How often a message that keeps moving is looked for.
const LOOKS_MAX: usize = 1000;

/// How often it is looked whether several names of a file stay, and the first pause, each further one twice as long: two
/// thirds of a second in all. A message that is moved by link and removal has lost one of its names by then.
const LINK_LOOKS: u32 = 8;
const LINK_PAUSE: Duration = Duration::from_millis(5);

/// Names of a file that has not changed for so long stay, in seconds.
const LINK_AGE: i64 = 2;

/// How often in a row it may be in no listing of a mailbox that does not hold still: it may have
/// moved from a directory not yet listed to one that was.
const MISSES_MAX: usize = 12;

/// Returns what names a message whatever its flags: the file name up to the first `:2,` or `;2,`.
pub fn unique_name(name: &[u8]) -> &[u8] {
    let end = name.windows(3).position(|part| part == b":2," || part == b";2,");
    &name[..end.unwrap_or(name.len())]
}

/// The directories of a mailbox that hold messages: `new` and `cur` of a Maildir folder, and of the
/// folders inside it. Messages move between them; a directory is opened only while it is looked at.
pub struct Mailbox {
    root: OwnedFd,
    /// Paths below the root, such as `cur` or `.Trash/new`.
    sides: Vec<Vec<u8>>,
    listed_at: Mutex<Time>,
    looks: Mutex<Vec<Option<Look>>>,
}

/// A directory as it was when it was listed last.
struct Look {
    stamp: Stamp,
    names: Names,
}

/// A side's number and a name in it.
type Place = (usize, Vec<u8>);

impl Mailbox {
    /// Names the directories `sides` below `root`.
    pub fn new(root: OwnedFd, sides: Vec<Vec<u8>>) -> Self {
        let looks = Mutex::new(sides.iter().map(|_| None).collect());
        Self { root, sides, listed_at: Mutex::new(Time::new(i64::MAX, 0)), looks }
    }

    /// Returns the directories' paths below the root.
    pub fn sides(&self) -> &[Vec<u8>] {
        &self.sides
    }

    fn open(&self, side: usize) -> Result<OwnedFd, Errno> {
        let mut names = self.sides[side].split(|byte| *byte == b'/');
        let first = open_directory(&self.root, names.next().unwrap_or_default())?;
        names.try_fold(first, open_directory)
    }

    /// Lists all directories as they were at one moment; each message is in one of them once, a
    /// file with several names under each. None for a directory that can't be listed.
    ///
    /// O(entries) for a mailbox that holds still; a few times that for one that does not.
    pub fn scan(&self) -> Vec<Option<Names>> {
        // What is made in this clock's next step or later is younger than the listing.
        *self.listed_at.lock().unwrap_or_else(PoisonError::into_inner) = clock();
        let mut seen = Seen::default();
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        match self.hold_still(&mut looks, &mut seen) {
            true => {
                let listed = looks.iter_mut().map(|look| look.take().map(|look| look.names)).collect();
                drop(looks);
                self.without_passing(listed)
            }
            false => {
                let can_be_listed: Vec<bool> = looks.iter().map(Option::is_some).collect();
                looks.iter_mut().for_each(|look| *look = None);
                drop(looks);
                self.union(seen, &can_be_listed)
            }
        }
    }

    /// Lists until no directory has changed since it was listed; returns whether that came to pass.
    /// If something is listed more than once, all that was listed is in `seen`.
    fn hold_still(&self, looks: &mut [Option<Look>], seen: &mut Seen) -> bool {
        let mut quiet = 0;
        for round in 0..LISTINGS_MAX {
            let stale: Vec<usize> =
                (0..looks.len()).filter(|side| !self.is_fresh(*side, &looks[*side])).collect();
            if stale.is_empty() {
                return true;
            }
            if round == 1 {
                looks.iter().enumerate().for_each(|(side, look)| _ = seen.add(round, side, look));
            }
            let mut is_quiet = round > 0;
            for side in stale {
                looks[side] = self.open(side).and_then(|fd| Look::at(&fd)).ok();
                is_quiet &= round > 0 && !seen.add(round, side, &looks[side]);
            }
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet == QUIET_LISTINGS {
                break;
            }
        }
        false
    }

    /// Returns whether a directory is as it was when it was listed; one that can't be opened has
    /// nothing to list.
    fn is_fresh(&self, side: usize, look: &Option<Look>) -> bool {
        let Ok(stamp) = self.open(side).and_then(Stamp::of) else { return look.is_none() };
        look.as_ref().is_some_and(|look| look.stamp.is_settled && look.stamp.at == stamp.at)
    }

    /// Leaves out the second name that a message had at that moment because it was being moved by link and removal.
    fn without_passing(&self, listed: Vec<Option<Names>>) -> Vec<Option<Names>> {
        let each =
            || listed.iter().flatten().flat_map(|names| names.iter_with_inodes().map(|(_, inode)| inode));
        let mut inodes: Vec<u64> = each().collect();
        inodes.sort_unstable();
        let several: HashSet<u64> =
            inodes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        if several.is_empty() || !self.tells_inodes(&listed) {
            return listed;
        }
        let mut seen = Seen { places: HashMap::new(), inodes: inodes.into_iter().collect() };
        let mut single: Vec<Names> = listed.iter().map(|_| Names::default()).collect();
        for (side, names) in listed.iter().enumerate() {
            for (name, inode) in names.iter().flat_map(Names::iter_with_inodes) {
                match several.contains(&inode) {
                    true => _ = seen.places.insert((side, name.to_vec()), (0, inode)),
                    false => single[side].push(name, inode),
                }
            }
        }
        let can_be_listed: Vec<bool> = listed.iter().map(Option::is_some).collect();
        let mut kept = self.union(seen, &can_be_listed);
        for (side, single) in kept.iter_mut().zip(&single) {
            let Some(side) = side else { continue };
            single.iter_with_inodes().for_each(|(name, inode)| side.push(name, inode));
            side.sort();
        }
        kept
    }

    /// Returns whether a listing tells files' inodes; on some file systems it says anything.
    fn tells_inodes(&self, listed: &[Option<Names>]) -> bool {
        listed.iter().enumerate().any(|(side, names)| {
            let Ok(fd) = self.open(side) else { return false };
            let mut names = names.iter().flat_map(Names::iter_with_inodes);
            let met = names.find_map(|(name, inode)| Some(stat_at(&fd, name).ok()?.inode == inode));
            met == Some(true)
        })
    }

    /// Of all names seen, returns those that are there; of the names of one message, one. None for a directory that
    /// could not be listed last.
    fn union(&self, seen: Seen, can_be_listed: &[bool]) -> Vec<Option<Names>> {
        let fds: Vec<_> = (0..self.sides.len()).map(|side| self.open(side).ok()).collect();
        let stat = |(side, name): &Place| stat_at(fds[*side].as_ref()?, name).ok();
        let Seen { places, inodes } = seen;
        let mut files: HashMap<u64, Vec<(usize, Place)>> = HashMap::new();
        for (place, (round, inode)) in places {
            files.entry(inode).or_default().push((round, place));
        }
        let listed = fds.iter().zip(can_be_listed).map(|(fd, can_be)| fd.is_some() && *can_be);
        let mut kept: Vec<Option<Names>> = listed.map(|is_listed| is_listed.then(Names::default)).collect();
        let mut keep = |(side, name): &Place, inode: u64| {
            if let Some(names) = kept[*side].as_mut() {
                names.push(name, inode);
            }
        };
        let mut linked: Vec<(u64, Vec<Place>)> = Vec::new();
        let mut strangers = HashSet::new();
        for (inode, mut places) in files {
            places.sort_unstable_by(|a, b| b.cmp(a)); // the place seen last is the likeliest
            let there = places.iter().filter_map(|(_, place)| Some((place, stat(place)?)));
            let (there, others): (Vec<(&Place, Stat)>, Vec<_>) =
                there.partition(|(_, stat)| stat.inode == inode);
            // What a listing says of inodes is of no use on some file systems: no file may be lost for that.
            let unknown = others.iter().filter(|(_, stat)| !inodes.contains(&stat.inode));
            let unknown: Vec<&(&Place, Stat)> = unknown.collect();
            for (place, stat) in &unknown {
                // One that moved while we looked is met under two of the names.
                if stat.links > 1 || strangers.insert((stat.filesystem, stat.inode)) {
                    keep(place, stat.inode);
                }
            }
            if there.is_empty() {
                // On its way, or gone: whoever walks this side looks for it.
                let first = places.first().map(|(_, place)| place);
                let first = first.filter(|first| unknown.iter().all(|(place, _)| place != first));
                first.into_iter().for_each(|place| keep(place, inode));
            }
            // One link under two names was renamed between two looks.
            let mut single = HashSet::new();
            let mut links = Vec::new();
            for (place, stat) in there {
                match stat.links {
                    1 if single.insert(stat.filesystem) => keep(place, inode),
                    1 => {}
                    _ => links.push(place.clone()),
                }
            }
            if single.is_empty() && !links.is_empty() {
                linked.push((inode, links));
            }
        }
        for look in 1..=LINK_LOOKS {
            linked.retain_mut(|(inode, places)| {
                let there = |place: &Place| stat(place).filter(|stat| stat.inode == *inode);
                let stats: Vec<Option<Stat>> = places.iter().map(there).collect();
                match stats.iter().any(Option::is_some) {
                    true => {
                        let mut is_there = stats.iter().map(Option::is_some);
                        places.retain(|_| is_there.next().unwrap_or_default());
                    }
                    false => places.truncate(1), // on its way, or gone
                }
                let is_old = |stat: &Stat| stat.seen.seconds.saturating_sub(stat.ctime.seconds) > LINK_AGE;
                let is_sure = places.len() < 2 || stats.iter().flatten().all(is_old) || look == LINK_LOOKS;
                if is_sure {
                    places.iter().for_each(|place| keep(place, *inode));
                }
                !is_sure
            });
            if linked.is_empty() {
                break;
            }
            std::thread::sleep(LINK_PAUSE * (1 << (look - 1)));
        }
        kept.iter_mut().flatten().for_each(Names::sort);
        kept
    }

    /// Does `act` with a message where it was listed; if it is no longer there, as [`Self::moved`]
    /// does. Without a mailbox only the former.
    ///
    /// # Errors
    /// [`Errno::NOENT`] if it is gone; else what `act` returns.
    pub fn follow<T>(
        mailbox: Option<&Self>,
        directory: &OwnedFd,
        name: &[u8],
        inode: u64,
        act: impl Fn(&OwnedFd, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match (act(directory, name), mailbox) {
            (Err(Errno::NOENT), Some(mailbox)) => mailbox.moved(name, inode, act),
            (found, _) => found,
        }
    }

    /// Does `act` with a message that is no longer under its `name`: with the directory that it is
    /// in now, and its name there. It is known by its unique name or, copied and expunged as mail
    /// servers move mail, by its `inode`.
    ///
    /// # Errors
    /// [`Errno::NOENT`] if it was expunged; else what `act` returns.
    pub fn moved<T>(
        &self,
        name: &[u8],
        inode: u64,
        act: impl Fn(&OwnedFd, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut misses = 0;
        for _ in 0..LOOKS_MAX {
            let mut is_seen = false;
            for side in 0..looks.len() {
                if !self.is_fresh(side, &looks[side]) {
                    looks[side] = self.open(side).and_then(|fd| Look::at(&fd)).ok();
                }
                let Some(found) = self.find(side, &looks[side], unique_name(name), inode) else { continue };
                is_seen = true;
                match self.open(side).and_then(|fd| act(&fd, &found)) {
                    Err(Errno::NOENT) => {} // moved again
                    other => return other,
                }
            }
            let is_still = || (0..looks.len()).all(|side| self.is_fresh(side, &looks[side]));
            misses = if is_seen { 0 } else { misses + 1 };
            if misses > MISSES_MAX || (!is_seen && is_still()) {
                break;
            }
        }
        Err(Errno::NOENT)
    }

    /// Returns the name of a message in a directory, if it is in it.
    fn find(&self, side: usize, look: &Option<Look>, unique: &[u8], inode: u64) -> Option<Vec<u8>> {
        let names = || look.iter().flat_map(|look| look.names.iter_with_inodes());
        if let Some((name, _)) = names().find(|(name, _)| unique_name(name) == unique) {
            return Some(name.to_vec());
        }
        let (name, _) = names().find(|(_, found)| *found == inode)?;
        // An inode that was freed may be a younger message's by now.
        let stat = stat_at(self.open(side).ok()?, name).ok()?;
        let listed_at = *self.listed_at.lock().unwrap_or_else(PoisonError::into_inner);
        (stat.inode == inode && stat.is_from_before(listed_at, &self.root)).then(|| name.to_vec())
    }
}

impl Look {
    fn at(directory: &OwnedFd) -> Result<Self, Errno> {
        let stamp = Stamp::of(directory)?; // before the listing: a change during it shows
        Ok(Self { stamp, names: list(directory)? })
    }
}

/// All names that several listings showed, with the last round that showed each, and its inode.
#[derive(Default)]
struct Seen {
    places: HashMap<Place, (usize, u64)>,
    inodes: HashSet<u64>,
}

impl Seen {
    /// Adds what a listing showed; returns whether a file was in it that was in none before.
    fn add(&mut self, round: usize, side: usize, look: &Option<Look>) -> bool {
        let known = self.inodes.len();
        for (name, inode) in look.iter().flat_map(|look| look.names.iter_with_inodes()) {
            self.inodes.insert(inode);
            self.places.insert((side, name.to_vec()), (round, inode));
        }
        self.inodes.len() > known
    }
}

struct Stamp {
    at: [Time; 2],
    is_settled: bool,
}

impl Stamp {
    fn of(directory: impl AsFd) -> Result<Self, Errno> {
        let stat = stat_of(&directory)?;
        Ok(Self { at: [stat.mtime, stat.ctime], is_settled: stat.is_settled(directory) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const SIDES: [&str; 4] = ["new", "cur", ".Trash/new", ".Trash/cur"];

    fn mailbox(root: &Path) -> Mailbox {
        SIDES.iter().for_each(|side| fs::create_dir_all(root.join(side)).unwrap());
        let sides = SIDES.iter().map(|side| side.as_bytes().to_vec()).collect();
        Mailbox::new(fs::File::open(root).unwrap().into(), sides)
    }

    fn names(scanned: &[Option<Names>]) -> Vec<(usize, Vec<u8>, u64)> {
        let all = scanned.iter().enumerate().flat_map(|(side, names)| {
            let names = names.as_ref().unwrap().iter_with_inodes();
            names.map(move |(name, inode)| (side, name.to_vec(), inode)).collect::<Vec<_>>()
        });
        all.collect()
    }

    #[test]
    fn unique_names_end_before_the_flags() {
        assert_eq!(unique_name(b"1.M2P3.host,S=4:2,RS"), b"1.M2P3.host,S=4");
        assert_eq!(unique_name(b"1.M2P3.host"), b"1.M2P3.host");
    }

    /// Messages are renamed and moved between folders as fast as the machine can, while the mailbox
    /// is scanned again and again; some moves are made as Dovecot makes them: a link under a new
    /// name, then the old name goes.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test's own files need not be durable")]
    fn messages_moved_during_the_scan_are_each_found_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mailbox = mailbox(root);
        let count = 300;
        for n in 0..count {
            fs::write(root.join(format!("new/{n}.host")), n.to_string()).unwrap();
        }
        // One that came at the moment of the scan can't be told from one that came later with its inode.
        let made = clock();
        while clock() == made {
            std::thread::yield_now();
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut names: Vec<String> = (0..count).map(|n| format!("new/{n}.host")).collect();
                let mut turn = 0usize;
                while !stop.load(Ordering::Relaxed) {
                    let n = (turn * 7919) % count;
                    let flags = ["", "S", "RS", "FS"][turn % 4];
                    let side = SIDES[turn % 4];
                    let from = root.join(&names[n]);
                    if turn.is_multiple_of(3) {
                        names[n] = format!("{side}/{n}-{turn}.host:2,{flags}");
                        fs::hard_link(&from, root.join(&names[n])).unwrap();
                        fs::remove_file(from).unwrap();
                    } else {
                        let base = names[n].rsplit('/').next().unwrap();
                        let to = format!("{side}/{}:2,{flags}", base.split(":2,").next().unwrap());
                        rustix::fs::rename(from, root.join(&to)).unwrap();
                        names[n] = to;
                    }
                    turn += 1;
                }
            });
            let stopping = StopAtEnd(&stop);
            for _ in 0..50 {
                let scanned = names(&mailbox.scan());
                let mut found: Vec<String> = scanned
                    .iter()
                    .map(|(side, name, inode)| {
                        let fd = mailbox.open(*side).unwrap();
                        let read = |fd: &OwnedFd, name: &[u8]| {
                            let opened = crate::stage::scan::open_file(fd, name)?;
                            Ok(std::io::read_to_string(fs::File::from(opened)).unwrap())
                        };
                        // Moved hundreds of times a second, one may slip away from all looks of a call.
                        let look = |_| mailbox.moved(name, *inode, read).ok();
                        match read(&fd, name) {
                            Err(Errno::NOENT) => (0..100).find_map(look).expect("it is there"),
                            read => read.unwrap(),
                        }
                    })
                    .collect();
                let total = found.len();
                found.sort_unstable();
                found.dedup();
                assert_eq!(found.len(), count, "none is lost");
                assert_eq!(total, count, "none is there twice");
            }
            drop(stopping);
        });
    }

    /// Stops the other thread even if the test fails, so that it fails and does not hang.
    struct StopAtEnd<'s>(&'s AtomicBool);

    impl Drop for StopAtEnd<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_union_has_each_file_that_is_there_whatever_inode_a_listing_said() {
        let folder = tempfile::tempdir().unwrap();
        let mailbox = mailbox(folder.path());
        let mut seen = Seen::default();
        for name in ["1.host:2,S", "2.host:2,S", "3.host:2,S"] {
            fs::File::create(folder.path().join("cur").join(name)).unwrap();
            seen.places.insert((1, name.into()), (1, 7));
        }
        let found = mailbox.union(seen, &[true; SIDES.len()]);
        assert_eq!(names(&found).len(), 3);
    }

    #[test]
    fn a_directory_that_cannot_be_listed_is_not_taken_for_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let mailbox = mailbox(folder.path());
        let found = mailbox.union(Seen::default(), &[true, false, true, true]);
        assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, true]);
    }

    #[test]
    fn two_files_with_one_unique_name_are_both_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mailbox = mailbox(folder.path());
        fs::File::create(folder.path().join("cur/1.host:2,")).unwrap();
        fs::File::create(folder.path().join("cur/1.host:2,S")).unwrap();
        assert_eq!(names(&mailbox.scan()).len(), 2);
    }

    #[test]
    fn two_names_of_one_file_are_both_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mailbox = mailbox(folder.path());
        fs::File::create(folder.path().join("cur/1.host:2,S")).unwrap();
        fs::hard_link(folder.path().join("cur/1.host:2,S"), folder.path().join(".Trash/cur/2.host:2,S"))
            .unwrap();
        let inodes: HashSet<u64> = names(&mailbox.scan()).into_iter().map(|(_, _, inode)| inode).collect();
        assert_eq!((names(&mailbox.scan()).len(), inodes.len()), (2, 1));
    }

    #[test]
    fn a_message_that_was_expunged_is_looked_for_and_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let mailbox = mailbox(folder.path());
        fs::File::create(folder.path().join("cur/1.host:2,S")).unwrap();
        let (_, name, inode) = names(&mailbox.scan()).remove(0);
        fs::remove_file(folder.path().join("cur/1.host:2,S")).unwrap();
        let listed_at = *mailbox.listed_at.lock().unwrap();
        while clock() == listed_at {
            std::thread::yield_now();
        }
        fs::File::create(folder.path().join("new/2.host")).unwrap(); // perhaps with the same inode
        assert_eq!(mailbox.moved(&name, inode, |fd, name| stat_at(fd, name)).unwrap_err(), Errno::NOENT);
    }
}
