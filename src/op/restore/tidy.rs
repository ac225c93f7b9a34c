//! What comes after the files: hard links, and what is in the target and not in the snapshot.

use std::collections::BTreeSet;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::base::entry::Kind;
use crate::op::restore::lack;
use crate::op::restore::plan::{Link, Plan};
use crate::op::restore::target::{Target, remove};
use crate::stage::scan;

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

    /// Removes what lies in a restored directory and was not met; what is excluded stays.
    pub fn delete_others(&mut self, number: u32, met: Option<BTreeSet<Vec<u8>>>) {
        let Some(met) = met.filter(|_| self.request.include.is_empty() && self.request.components.is_empty())
        else {
            return;
        };
        let Ok(fd) = self.target.directory(&self.directories[number as usize].path) else { return };
        let Ok(names) = scan::list(&fd) else { return };
        for name in names.iter().filter(|name| !met.contains(*name)) {
            let path = self.directories[number as usize].path_of(name);
            let is_directory = Target::look(&fd, name).is_some_and(|stat| stat.kind == Some(Kind::Directory));
            if !self.filter.wants(&path, is_directory).0 {
                continue;
            }
            match if self.request.dry_run { Ok(()) } else { remove(&fd, name, is_directory) } {
                Ok(()) => self.report.deleted += 1,
                Err(e) => {
                    self.report.lacks.push(lack(&path, format!("not removed: {}", std::io::Error::from(e))))
                }
            }
        }
    }
}
