//! Comparing an entry with what the parent snapshot has.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::base::content::Content;
use crate::base::entry::{Entry, Hole, Kind, NO_CTIME};
use crate::base::progress::Done;
use crate::op::backup::cut::Job;
use crate::op::backup::pending::{Slot, no_content};
use crate::op::backup::run::{Run, Scanned, count};
use crate::op::backup::suspect::Sort;
use crate::op::backup::walk::{BATCH_BYTES, BATCH_FILES, Walk};
use crate::repo::RepoError;
use crate::stage::scan::{self, Mailbox, Stat};

impl Walk<'_> {
    /// Decides about a file: as it was, renamed, or to be read.
    ///
    /// # Errors
    /// What handing it on meets.
    pub fn file(
        &mut self,
        name: &[u8],
        stat: Stat,
        old: Option<(Slot, &Entry<'_>)>,
    ) -> Result<(), RepoError> {
        let run = self.run;
        count(&self.part.files, 1);
        count(&self.part.bytes, stat.size);
        count(&run.counts.bytes_scanned, stat.size);
        let sort = Sort::of(name, self.messages.is_some(), self.mailbox.is_some());
        self.seen.file(sort);
        let filesystem = run.filesystem(&self.part, stat.filesystem, &self.fd);
        let old = old.filter(|(_, old)| old.kind == Kind::File);
        if let Some((slot, old)) = old
            && is_unchanged(run, old, &stat, filesystem)
            && self.is_stored(old.content)?
        {
            count(&run.counts.files_unmodified, 1);
            self.seen.kept(sort, stat.size);
            run.progress.add(Done { files: 1, bytes: stat.size });
            let is_whole =
                old.ctime == stat.known_ctime() && old.inode == stat.inode && old.mode == stat.mode;
            if is_whole {
                run.listed.note(old.xattrs.iter().copied());
                self.next_slot(slot);
                return Ok(());
            }
            let scanned = self.scanned_without_reading(name, stat, filesystem, old.holes.clone());
            let at = self.next_slot(Slot::Later);
            self.directory.put_now(at, scanned.encode(old.content)?);
            return Ok(());
        }
        if old.is_none()
            && let Some(renames) = &self.part.renames
            && let Some(known) = renames.find(run.reader, name, &stat, filesystem, self.messages.is_some())
            && self.is_stored(known.content.borrowed())?
        {
            count(&run.counts.files_renamed, 1);
            if stat.links == 1 {
                self.seen.kept(sort, stat.size); // else the same file may count by several names
            }
            run.progress.add(Done { files: 1, bytes: stat.size });
            let scanned = self.scanned_without_reading(name, stat, filesystem, known.holes);
            let at = self.next_slot(Slot::Later);
            self.directory.put_now(at, scanned.encode(known.content.borrowed())?);
            return Ok(());
        }
        count(if old.is_some() { &run.counts.files_changed } else { &run.counts.files_new }, 1);
        self.seen.read(sort, old.is_some());
        let slot = self.next_slot(Slot::Later);
        self.directory.expect();
        let scanned = run.scanned(name, stat, filesystem, Kind::File);
        self.batch.push(Job { slot, scanned });
        self.batch_bytes += stat.size;
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_FILES {
            self.send_batch()?;
        }
        Ok(())
    }

    /// Returns whether content of the parent snapshot is still there. Asked only if a pack is gone.
    fn is_stored(&self, content: Content<'_>) -> Result<bool, RepoError> {
        if !self.run.reader.index().has_losses() {
            return Ok(true);
        }
        match self.run.reader.flatten(content) {
            Ok(list) => self.run.writer.holds_all(&list),
            Err(e) if e.is_damage() => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn scanned_without_reading(&self, name: &[u8], stat: Stat, filesystem: u64, holes: Vec<Hole>) -> Scanned {
        let stat = stat.to_compare(&self.fd);
        let mut scanned = self.run.scanned(name, stat, filesystem, Kind::File);
        scanned.holes = holes;
        scanned.xattrs = self.xattrs(name, stat.inode);
        scanned
    }

    fn xattrs(&self, name: &[u8], inode: u64) -> scan::Xattrs {
        let read = |fd: &OwnedFd, name: &[u8]| scan::xattrs_at(fd, name);
        let found = Mailbox::follow(self.messages.as_deref(), &self.fd, name, inode, read);
        if let Err(Errno::NOENT) = found {
            return scan::Xattrs::new(); // gone since it was listed
        }
        self.run.xattrs(found, &self.part, || self.path_of(name))
    }

    /// Decides about a link, FIFO or device.
    ///
    /// # Errors
    /// [`RepoError::Record`] for an entry too large to be one.
    pub fn special(
        &mut self,
        name: &[u8],
        stat: Stat,
        kind: Kind,
        old: Option<(Slot, &Entry<'_>)>,
    ) -> Result<(), RepoError> {
        let filesystem = self.run.filesystem(&self.part, stat.filesystem, &self.fd);
        self.run.progress.add(Done { files: 1, bytes: 0 });
        if let Some((slot, old)) = old
            && old.kind == kind
            && old.ctime == stat.known_ctime()
            && is_unchanged(self.run, old, &stat, filesystem)
        {
            self.run.listed.note(old.xattrs.iter().copied());
            self.next_slot(slot);
            return Ok(());
        }
        let mut scanned = self.run.scanned(name, stat.to_compare(&self.fd), filesystem, kind);
        if kind == Kind::Symlink {
            match scan::read_link(&self.fd, name) {
                Ok(target) => scanned.target = target,
                Err(Errno::NOENT) => return Ok(()), // gone meanwhile
                Err(e) => {
                    let reason = format!("link cannot be read: {}", std::io::Error::from(e));
                    self.run.lack(Some(&self.part), self.path_of(name), reason);
                    return Ok(());
                }
            }
        }
        scanned.xattrs = self.xattrs(name, stat.inode);
        let slot = self.next_slot(Slot::Later);
        self.directory.put_now(slot, scanned.encode(no_content())?);
        Ok(())
    }
}

/// Returns whether a file is as the parent snapshot has it under the run's rules.
fn is_unchanged(run: &Run<'_>, old: &Entry<'_>, stat: &Stat, filesystem: u64) -> bool {
    old.size == stat.size
        && old.mtime == stat.mtime
        && !old.torn
        && old.ctime != NO_CTIME
        && (old.ctime == stat.known_ctime() || run.rules.ignore_ctime)
        && ((old.inode == stat.inode && old.filesystem == filesystem) || run.rules.ignore_inode)
}
