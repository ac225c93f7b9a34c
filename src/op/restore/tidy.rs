//! What comes after the files: hard links, and what is in the target and not in the snapshot.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::op::restore::alike::fallen_together;
use crate::op::restore::plan::{Link, Plan, path, path_of};
use crate::op::restore::removal::{Seen, remove};
use crate::op::restore::spared::Spared;
use crate::op::restore::survey::Findings;
use crate::repo::RepoError;

impl Plan<'_> {
    /// Gives a file restored earlier one more name.
    ///
    /// # Errors
    /// As linkat(2).
    pub fn link(&self, link: &Link) -> Result<(), Errno> {
        let target = &self.target;
        let parent = target.directory(&self.directories, link.directory)?;
        let first = target.directory(&self.directories, link.first.0)?;
        if target.is_staged() {
            if target.is_resumed {
                let _ = rustix::fs::unlinkat(&*parent, link.name.as_slice(), AtFlags::empty()); // an earlier run's
            }
            return rustix::fs::linkat(
                &*first,
                link.first.1.as_slice(),
                &*parent,
                link.name.as_slice(),
                AtFlags::empty(),
            );
        }
        let temporary = target.temporary_name();
        rustix::fs::linkat(&*first, link.first.1.as_slice(), &*parent, temporary.as_str(), AtFlags::empty())?;
        target.put(&*parent, &temporary, &link.name)?;
        // Renaming one name of a file over another of the same file does nothing at all.
        let _ = rustix::fs::unlinkat(&*parent, temporary.as_str(), AtFlags::empty());
        Ok(())
    }

    /// Removes full directories that are in the way of what takes their names.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`].
    pub fn give_way(&mut self, spared: &Spared<'_>, all: &[Seen]) -> Result<(), RepoError> {
        if self.request.dry_run { Ok(()) } else { self.remove(spared, all) }
    }

    /// Removes what was seen before anything was changed, as far as it is still that.
    fn remove(&mut self, spared: &Spared<'_>, all: &[Seen]) -> Result<(), RepoError> {
        let mut hand: Option<(Vec<u8>, OwnedFd)> = None;
        for seen in all {
            if self.request.progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            let path = &seen.spot.path;
            let above = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |slash| &path[..slash]);
            if hand.as_ref().is_none_or(|(open, _)| open != above) {
                hand = self.target.below(above).ok().map(|fd| (above.to_vec(), fd));
            }
            let Some((_, fd)) = &hand else { continue }; // gone
            let (tally, lacks) = remove(spared, fd, seen);
            self.report.deleted += tally.entries;
            self.report.deleted_bytes += tally.bytes;
            self.report.lacks.extend(lacks);
        }
        Ok(())
    }

    /// Removes what the snapshot does not have, and says what stays of it.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`].
    pub fn delete_others(&mut self, spared: &Spared<'_>, findings: Findings) -> Result<(), RepoError> {
        let has_lacks = !self.report.lacks.is_empty();
        self.report.lacks.extend(findings.lacks);
        self.report.kept = findings.kept.iter().map(|(why, count)| (why.text(), *count)).collect();
        for _ in 0..findings.mounted {
            self.attributes.warn("not emptied: another file system is mounted there".to_owned());
        }
        if self.request.dry_run {
            (self.report.deleted, self.report.deleted_bytes) = (findings.tally.entries, findings.tally.bytes);
        } else if has_lacks && !findings.going.is_empty() {
            // What could not be restored may be there under another name.
            let what = "nothing was removed, for not everything could be restored; run it again".to_owned();
            self.attributes.warn(what);
        } else {
            self.remove(spared, &findings.going)?;
        }
        Ok(())
    }

    /// Finds names that lie in one place on this file system.
    pub fn find_fallen_together(&mut self) {
        let lacking: HashSet<Vec<u8>> = self.report.lacks.iter().map(|lack| lack.path.clone()).collect();
        for (number, groups) in std::mem::take(&mut self.alike) {
            let Ok(fd) = self.target.directory(&self.directories, number) else { continue };
            let within = &self.directories[number as usize].within;
            let is_due = |name: &[u8]| {
                let path = path_of(&self.directories, number, name);
                self.filter.judge(&path, false, within).is_chosen && !lacking.contains(&path)
            };
            let path = path(&self.directories, number);
            self.report.lacks.extend(fallen_together(&fd, &path, &groups, is_due));
        }
    }
}
