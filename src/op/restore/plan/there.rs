//! What an earlier run of the same restore has made already. It is trusted only as far as its bytes are right.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use crate::base::entry::{Entry, Kind, quoted};
use crate::op::restore::attributes::{On, change_mode};
use crate::op::restore::lack;
use crate::op::restore::placed::in_order;
use crate::op::restore::plan::{Plan, path_of};
use crate::op::restore::staged::TopEntries;
use crate::op::restore::verify::hold_against;
use crate::repo::RepoError;
use crate::stage::scan;

/// What an earlier run has made, as far as the walk is.
#[derive(Default)]
pub struct There {
    /// Top entries that are in place: nothing is to be done for them.
    pub gone_out: TopEntries,
    /// Names in the directory where the walk is that were not met yet.
    names: HashSet<Vec<u8>>,
}

impl Plan<'_> {
    /// Takes what an earlier run has put in place already.
    pub fn skip(&mut self, gone_out: TopEntries) {
        self.there.gone_out = gone_out;
    }

    /// Lists what an earlier run has made in a directory, before the walk meets what belongs there.
    pub fn list_there(&mut self, number: u32) {
        self.there.names.clear();
        if self.target.is_resumed
            && let Ok(fd) = self.target.directory(&self.directories, number)
            && let Ok(names) = scan::list(&*fd)
        {
            self.there.names.extend(names.iter().map(<[u8]>::to_vec));
        }
    }

    /// Says what an earlier run did not make, and lies there all the same.
    pub fn name_strangers(&mut self, number: u32) {
        for name in self.there.names.drain() {
            let path = path_of(&self.directories, number, &name);
            self.report
                .lacks
                .push(lack(&path, "lay in the staging directory, and the snapshot does not have it"));
        }
    }

    /// Takes note that an entry was met.
    pub fn meet(&mut self, name: &[u8]) {
        self.there.names.remove(name);
    }

    /// Returns whether an entry is in place already.
    pub fn is_in_place(&self, name: &[u8]) -> bool {
        self.here == 0 && self.there.gone_out.contains_key(name)
    }

    /// Prepares what lies where an entry will be: a directory stays, and can be written; a file stays if its content
    /// is `list`'s, and gets its attributes; all else makes room. Returns whether nothing is left to do for it.
    ///
    /// # Errors
    /// [`RepoError::Source`] if what is there can't be removed.
    pub fn take_there(&mut self, entry: &Entry<'_>, list: &[u8]) -> Result<bool, RepoError> {
        if !self.there.names.remove(entry.name) {
            return Ok(false);
        }
        let prepared = self.target.directory(&self.directories, self.here).and_then(|parent| {
            let kind = scan::stat_at(&*parent, entry.name)?.kind;
            match (entry.kind, kind) {
                (Kind::Directory, Some(Kind::Directory)) => {
                    change_mode(&*parent, entry.name, Kind::Directory, Mode::RWXU)?;
                    return Ok(false);
                }
                (Kind::File, Some(Kind::File)) if self.is_right(&parent, entry, list) => return Ok(true),
                _ => {}
            }
            rustix::fs::unlinkat(&*parent, entry.name, AtFlags::empty()).map(|()| false)
        });
        prepared.map_err(|e| {
            let path = quoted(&path_of(&self.directories, self.here, entry.name));
            self.target.failed(&format!("{path}, of an earlier run, cannot be removed"), e)
        })
    }

    fn is_right(&self, parent: &OwnedFd, entry: &Entry<'_>, list: &[u8]) -> bool {
        let mode = Mode::RUSR | Mode::WUSR; // an ordinary user may have restored what he may not read
        let opened = match scan::open_file(parent, entry.name) {
            Err(Errno::ACCESS) => change_mode(parent, entry.name, Kind::File, mode)
                .and_then(|()| scan::open_file(parent, entry.name)),
            other => other,
        };
        let Ok(file) = opened.map(File::from) else { return false };
        let is_right = hold_against(self.reader, &file, entry, in_order(list)).is_ok();
        if is_right {
            self.attributes
                .set(&On::File(&file), entry, &|| path_of(&self.directories, self.here, entry.name));
        }
        is_right
    }
}
