//! What the target has and the snapshot does not.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::base::entry::{Kind, quoted};
use crate::op::restore::Overwrite;
use crate::op::restore::alike::folded;
use crate::op::restore::doubled::{is_folder, is_side};
use crate::op::restore::origin::join;
use crate::op::restore::removal::{Removal, Seen};
use crate::op::restore::spared::{Spot, Why};
use crate::op::restore::survey::{Level, NAMED, Survey};
use crate::stage::scan::{self, Stat};

impl Survey<'_> {
    /// Leaves a directory: what is left of its names the snapshot does not have.
    pub fn up(&mut self) {
        self.pass(None);
        if let Some(level) = self.levels.last_mut().filter(|level| level.is_mount && level.is_empty) {
            // As a backup of one file system stores it: what is mounted there was left out.
            level.stays = level.stays.or(Some(Why::Mounted));
        }
        let removes = self.removes_here();
        let Some(mut level) = self.levels.pop() else { return };
        let extra = std::mem::take(&mut level.extra);
        let is_folder = level.names.as_ref().is_some_and(is_folder);
        if extra.is_empty() {
            return;
        }
        let Ok(fd) = self.open(&level.path).and_then(|fd| fd.try_clone().map_err(|_| Errno::MFILE)) else {
            return;
        };
        if let (true, Some(_), Some(why)) = (self.request.delete, &level.spot, level.stays) {
            self.findings.mounted += u64::from(why == Why::Mounted && level.is_mount);
            *self.findings.kept.entry(why).or_default() += extra.len() as u64;
        }
        for name in &extra {
            let goes = removes && self.goes(&fd, name, &level);
            if goes {
                continue;
            }
            if level.is_side {
                self.findings.messages.stray(&level.path, name);
            } else if is_folder && !is_side(name) && **name != *b"tmp" {
                self.findings.messages.unknown_folder(&fd, &join(&level.path, name), 0);
            }
        }
    }

    /// Notes an entry that the snapshot does not have, if it may go. Returns whether it goes whole.
    fn goes(&mut self, fd: &OwnedFd, name: &[u8], level: &Level) -> bool {
        let Some(spot) = &level.spot else { return false };
        let is_spelling = |stat: Stat| level.inodes.contains(&(stat.filesystem, stat.inode));
        if level.spellings.contains(&folded(name)) || scan::stat_at(fd, name).is_ok_and(is_spelling) {
            return false; // the snapshot's own, as this file system writes it
        }
        let Some((is_whole, seen)) = self.look(fd, name, &spot.below(name)) else { return false };
        self.findings.going.push(seen);
        is_whole
    }

    /// Looks at what would go of an entry; notes and counts it. Returns whether it goes whole, and what was seen; none if
    /// nothing goes.
    fn look(&mut self, fd: &OwnedFd, name: &[u8], spot: &Spot) -> Option<(bool, Seen)> {
        let consent = self.request.consent;
        let first = &mut self.findings.first;
        let mut each = |path: &[u8], stat: &Stat| {
            if first.len() < NAMED {
                first.push(quoted(path));
            }
            consent.hear(path, stat.size);
        };
        let mut removal = Removal::look(self.spared, &mut each);
        let seen = removal.over((fd, &scan::stat_of(fd).ok()?), name, spot);
        let (tally, kept, lacks) = (removal.tally, removal.kept, removal.lacks);
        let findings = &mut self.findings;
        let stayed: u64 = kept.values().sum::<u64>() + lacks.len() as u64;
        findings.tally.entries += tally.entries;
        findings.tally.bytes = findings.tally.bytes.saturating_add(tally.bytes);
        findings.there.entries += tally.entries + stayed;
        findings.there.bytes = findings.there.bytes.saturating_add(tally.bytes);
        kept.into_iter().for_each(|(why, count)| *findings.kept.entry(why).or_default() += count);
        findings.lacks.extend(lacks);
        if tally.entries > 0 {
            findings.components.insert(spot.origin.component);
        }
        (tally.entries > 0).then_some(seen)
    }

    /// Passes the target's names that come before `name`, or all: the snapshot does not have them. Returns whether the
    /// target has `name`.
    pub fn pass(&mut self, name: Option<&[u8]>) -> bool {
        let Some(level) = self.levels.last_mut() else { return false };
        let Some(names) = &level.names else { return false };
        let keeps = self.request.delete && level.spot.is_some() || level.in_mailbox || level.is_side;
        while let Some(there) = names.get(level.passed) {
            if name.is_some_and(|name| there >= name) {
                break;
            }
            if keeps {
                level.extra.push(there.into());
            }
            level.passed += 1;
        }
        let is_there = name.is_some() && names.get(level.passed) == name;
        level.passed += usize::from(is_there);
        is_there
    }

    /// Counts what the target has under a name of the snapshot; if it finds something there and lists no such name, it
    /// is another spelling of one that it lists.
    pub fn count(&mut self, name: &[u8], is_there: bool) -> Option<Stat> {
        let path = self.levels.last()?.path.clone();
        let stat = self.open(&path).ok().and_then(|fd| scan::stat_at(fd, name).ok())?;
        match is_there {
            true => self.findings.there.add(&stat),
            false => {
                let level = self.levels.last_mut()?;
                level.inodes.insert((stat.filesystem, stat.inode));
                level.spellings.insert(folded(name));
            }
        }
        Some(stat)
    }

    /// Notes a full directory that is to give way to what takes its name, if all of it may go.
    pub fn gives_way(&mut self, name: &[u8], stat: &Stat) {
        if stat.kind != Some(Kind::Directory) || self.request.overwrite != Overwrite::Always {
            return;
        }
        let Some(level) = self.levels.last() else { return };
        let Some(spot) = level.spot.as_ref().map(|spot| spot.below(name)) else { return };
        let Ok(fd) = self.target.below(&level.path) else { return };
        let is_full =
            scan::open_directory(&fd, name).and_then(scan::list).is_ok_and(|names| !names.is_empty());
        // Only if it goes whole: half a directory is in the way all the same.
        let mut nobody = |_: &[u8], _: &Stat| ();
        let goes = scan::stat_of(&fd)
            .is_ok_and(|about| Removal::look(self.spared, &mut nobody).over((&fd, &about), name, &spot).0);
        if is_full
            && goes
            && let Some((_, seen)) = self.look(&fd, name, &spot)
        {
            self.findings.giving_way.push(seen);
        }
    }
}
