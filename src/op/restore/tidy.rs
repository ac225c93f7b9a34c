//! What comes after the files: hard links, and what is in the target and not in the snapshot.

use std::collections::BTreeSet;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::op::restore::lack;
use crate::op::restore::plan::{Link, Plan};
use crate::op::restore::removal::Removal;
use crate::stage::scan::{self, Stat};

impl Plan<'_> {
    /// Gives a file restored earlier one more name.
    ///
    /// # Errors
    /// As linkat(2).
    pub fn link(&self, link: &Link) -> Result<(), Errno> {
        let target = &self.target;
        let parent = target.directory(&self.directories[link.directory as usize].path)?;
        let first = target.directory(&self.directories[link.first.0 as usize].path)?;
        let temporary = target.temporary_name();
        rustix::fs::linkat(&first, link.first.1.as_slice(), &parent, temporary.as_str(), AtFlags::empty())?;
        target.put(&parent, &temporary, &link.name)?;
        // Renaming one name of a file over another of the same file does nothing at all.
        let _ = rustix::fs::unlinkat(&parent, temporary.as_str(), AtFlags::empty());
        Ok(())
    }

    /// Removes what lies in a restored directory and was not met, as far as a [`Removal`] goes.
    pub fn delete_others(&mut self, number: u32, met: Option<BTreeSet<Vec<u8>>>) {
        let Some(met) = met.filter(|_| self.request.include.is_empty() && self.request.components.is_empty())
        else {
            return;
        };
        let Ok(fd) = self.target.directory(&self.directories[number as usize].path) else { return };
        let (Ok(about), Ok(names)) = (scan::stat_of(&fd), scan::list(&fd)) else { return };
        if self.lies_in_repository(number, &about) {
            return;
        }
        if met.is_empty() && !names.is_empty() && self.is_mount_point(number, &about) {
            // As a backup of one file system stores it: what is mounted there was left out.
            self.attributes.warn("not emptied: another file system is mounted there".to_owned());
            return;
        }
        let mut removal = Removal::new(&self.filter, self.request);
        for name in names.iter().filter(|name| !met.contains(*name)) {
            let path = self.directories[number as usize].path_of(name);
            removal.remove((&fd, &about), name, &path);
        }
        self.report.deleted += removal.deleted;
        self.report.lacks.extend(removal.lacks);
    }

    /// Returns whether a directory is the repository, which is a lack, or lies in it.
    fn lies_in_repository(&mut self, number: u32, about: &Stat) -> bool {
        if self.request.own_directory == Some((about.filesystem, about.inode)) {
            self.repository = Some(number);
            let path = &self.directories[number as usize].path;
            self.report.lacks.push(lack(path, "not removed: the repository lies there"));
        }
        let parent = |number: &u32| self.directories.get(*number as usize).and_then(|above| above.parent);
        let mut up = std::iter::successors(Some(number), parent);
        self.repository.is_some() && up.any(|above| self.repository == Some(above))
    }

    /// Returns whether a directory below the target lies on another file system than the one that holds it.
    fn is_mount_point(&self, number: u32, about: &Stat) -> bool {
        let above = self.directories[number as usize].parent.and_then(|above| {
            let fd = self.target.directory(&self.directories[above as usize].path).ok()?;
            scan::stat_of(fd).ok()
        });
        above.is_some_and(|above| above.filesystem != about.filesystem)
    }
}
