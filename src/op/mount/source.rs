//! What is read of a repository, by directory and entry number, and kept for a while.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use fuser::Errno;

use crate::base::entry::{Entry, Kind};
use crate::op::mount::Settings;
use crate::op::mount::access::Access;
use crate::op::mount::ahead::{Ahead, Hint, Run, WHOLE_BYTES_MAX, bring};
use crate::op::mount::attributes::BLOCK_BYTES;
use crate::op::mount::complaints::Complaints;
use crate::op::mount::folder::{Folder, Numbers};
use crate::op::mount::listing::Listing;
use crate::op::mount::plan::{Plan, Seek};
use crate::op::mount::snapshots::{Amount, Snapshots};
use crate::op::mount::top::Top;
use crate::repo::config::Encryption;
use crate::repo::reader::Reader;
use crate::repo::recent::Recent;
use crate::repo::{RepoError, Repository};

/// Parts of the cache, in percent: for frames, for directories, for lists of chunks.
const SHARES: [usize; 3] = [60, 30, 10];

/// Most frames that are brought into memory at one hint.
const FRAMES_AHEAD_MAX: usize = 6;

/// Part of the cache that frames which nobody has asked for yet may take: one MiB in this many.
const CACHE_TO_FRAMES_AHEAD: usize = 8 << 20;

/// Reads a repository for as long as it is mounted.
pub struct Source {
    access: Access,
    snapshots: Snapshots,
    listings: Recent<[u8; 32], Listing>,
    plans: Recent<([u8; 32], u32), Plan>,
    ahead: Ahead,
    complaints: Complaints,
    frames_ahead: usize,
    is_locked: bool,
}

impl Source {
    /// Reads `repository`. Content is refused if nothing was unlocked. Hints for
    /// [`Self::bring`] and [`Self::bring_files`] come out of the channel.
    pub fn new(repository: Arc<Repository>, settings: &Settings) -> (Self, Receiver<Hint>) {
        let frames_ahead = (settings.cache_bytes / CACHE_TO_FRAMES_AHEAD).clamp(1, FRAMES_AHEAD_MAX);
        let (ahead, hints) = Ahead::new(frames_ahead);
        let is_locked =
            repository.config().encryption == Encryption::Age && repository.identities().is_none();
        let [frames, listings, plans] = SHARES.map(|percent| settings.cache_bytes / 100 * percent);
        let source = Self {
            access: Access::new(repository, frames),
            snapshots: Snapshots::new(settings.naming.clone()),
            listings: Recent::new(listings),
            plans: Recent::new(plans),
            ahead,
            complaints: Complaints::default(),
            frames_ahead,
            is_locked,
        };
        (source, hints)
    }

    /// Says that some time has passed: what is not used is closed, and snapshots are listed again
    /// when they are asked for.
    pub fn rest(&self) {
        self.access.rest();
        self.snapshots.grow_old();
    }

    /// Returns the layout of the top.
    pub fn top(&self, numbers: &Numbers) -> Arc<Top> {
        self.snapshots.top(&self.access, numbers)
    }

    /// Returns how much all snapshots held at the last look.
    pub fn amount(&self) -> Amount {
        self.snapshots.amount()
    }

    /// Checks that a file can be read.
    ///
    /// # Errors
    /// `EACCES` without a key, said once in the log.
    pub fn open_file(&self) -> Result<(), Errno> {
        match self.is_locked {
            false => Ok(()),
            true => {
                self.complaints.locked();
                Err(Errno::EACCES)
            }
        }
    }

    /// Returns up to `length` bytes of a file from `offset` on.
    ///
    /// # Errors
    /// `EACCES` without a key; `EIO` if what holds the bytes is damaged or away; `ESTALE` if the
    /// snapshot was removed and its packs with it.
    pub fn read(&self, folder: &Arc<Folder>, index: u32, offset: u64, length: u32) -> Result<Vec<u8>, Errno> {
        self.open_file()?;
        let plan = self.plan(folder, index)?;
        let bytes = self
            .access
            .with(|reader| plan.read(reader, offset, length))
            .map_err(|e| self.fail_entry(folder, index, &e))?;
        let next = plan.chunk_at(offset.saturating_add(bytes.len() as u64));
        if length > BLOCK_BYTES {
            self.ahead.file_goes_on(&plan, next); // the kernel asks for more than a page when it reads ahead itself
        }
        if next == plan.chunk_count() {
            self.ahead.entry_was_read(folder, index);
        }
        Ok(bytes)
    }

    /// Returns where a file's next data or hole starts, at or after `offset`.
    ///
    /// # Errors
    /// `ENXIO` if there is none.
    pub fn seek(&self, folder: &Folder, index: u32, offset: u64, what: Seek) -> Result<u64, Errno> {
        self.plan(folder, index)?.seek(offset, what).ok_or(Errno::ENXIO)
    }

    /// Brings a file's chunks from number `next` on into memory, as far as reading ahead goes.
    pub fn bring(&self, plan: &Plan, next: usize) {
        if let Some(reader) = self.reader_ahead() {
            bring(&reader, plan, next, self.frames_ahead);
        }
    }

    /// Reads entries before anybody asks for them, as long as that takes few frames. `each` gets the
    /// bytes of those files for which `is_wanted` returns true.
    pub fn bring_files(
        &self,
        run: &Run,
        is_wanted: impl Fn(u32, &Entry<'_>) -> bool,
        each: impl Fn(u32, &Entry<'_>, &[u8]),
    ) {
        let Some(reader) = self.reader_ahead() else { return };
        let Ok(listing) = self.try_listing(&run.folder) else { return };
        let mut frames = 0;
        for index in run.entries.clone().filter(|index| !run.is_past(*index)) {
            let (Ok(entry), false) = (listing.entry(index), frames >= self.frames_ahead) else {
                return run.ended_before(index);
            };
            if entry.kind != Kind::File {
                continue;
            }
            let Ok(Some(plan)) = self.plan_quietly(&run.folder, index) else { continue };
            frames += bring(&reader, &plan, 0, self.frames_ahead - frames);
            let is_whole = entry.size <= WHOLE_BYTES_MAX && !run.is_left_out(index);
            if is_whole
                && is_wanted(index, &entry)
                && let Ok(length) = u32::try_from(entry.size)
                && let Ok(bytes) = plan.read(&reader, 0, length)
            {
                each(index, &entry, &bytes);
            }
        }
    }

    /// Returns the reader if anybody is reading.
    fn reader_ahead(&self) -> Option<Arc<Reader<'static>>> {
        self.access.reader().filter(|_| !self.is_locked)
    }

    /// Returns a directory's entries.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn listing(&self, folder: &Folder) -> Result<Arc<Listing>, Errno> {
        self.try_listing(folder).map_err(|e| self.fail(folder, &e))
    }

    fn try_listing(&self, folder: &Folder) -> Result<Arc<Listing>, RepoError> {
        self.listings.get_or_make(folder.key, || {
            let listing = self.access.with(|reader| Listing::read(reader, &folder.content))?;
            let bytes = listing.bytes();
            Ok((listing, bytes))
        })
    }

    /// Calls `act` with an entry.
    ///
    /// # Errors
    /// What `act` returns, or as [`Self::read`].
    pub fn with_entry<R>(
        &self,
        folder: &Folder,
        index: u32,
        act: impl FnOnce(&Entry<'_>) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let listing = self.listing(folder)?;
        let entry = listing.entry(index).map_err(|e| self.fail(folder, &e))?;
        act(&entry)
    }

    fn plan(&self, folder: &Folder, index: u32) -> Result<Arc<Plan>, Errno> {
        let found = self.plan_quietly(folder, index).map_err(|e| self.fail_entry(folder, index, &e))?;
        found.ok_or(Errno::EINVAL) // neither a directory nor a file: the kernel does not ask
    }

    /// Returns how to read an entry; none if it is no file.
    fn plan_quietly(&self, folder: &Folder, index: u32) -> Result<Option<Arc<Plan>>, RepoError> {
        let listing = self.try_listing(folder)?;
        let entry = listing.entry(index)?;
        if entry.kind != Kind::File {
            return Ok(None);
        }
        let plan = self.plans.get_or_make((folder.key, index), || {
            let plan = self.access.with(|reader| Plan::new(reader, &entry))?;
            let bytes = plan.bytes();
            Ok::<_, RepoError>((plan, bytes))
        })?;
        Ok(Some(plan))
    }

    /// Logs why a directory can't be read, and returns what the kernel is told.
    pub fn fail(&self, folder: &Folder, error: &RepoError) -> Errno {
        self.complaints.about(&folder.path(), error, self.has_snapshot(folder, error))
    }

    fn fail_entry(&self, folder: &Folder, index: u32, error: &RepoError) -> Errno {
        let listing = self.try_listing(folder).ok();
        let entry = listing.as_ref().and_then(|listing| listing.entry(index).ok());
        let path = entry.map_or_else(|| folder.path(), |entry| folder.path_of(entry.name));
        self.complaints.about(&path, error, self.has_snapshot(folder, error))
    }

    /// Returns whether a folder's snapshot is there. Who has a file open does not look at the top: before
    /// anything is called damaged, the snapshots are listed.
    fn has_snapshot(&self, folder: &Folder, error: &RepoError) -> bool {
        match error.is_damage() {
            true => self.snapshots.still_has(&self.access, folder.snapshot.id),
            false => self.snapshots.has(folder.snapshot.id),
        }
    }
}
