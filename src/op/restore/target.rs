//! The directory that is restored into. Nothing outside it is ever touched: every path is resolved
//! by the kernel beneath it, and no link is followed (openat2(2)).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::base::access_list;
use crate::base::entry::Kind;
use crate::op::restore::attributes::Made;
use crate::op::restore::ground::{Ground, Way, absolute};
use crate::op::restore::handles::{Handles, open_below};
use crate::op::restore::labels::{self, has_label};
use crate::op::restore::plan::Directory;
use crate::op::restore::staged::{Marker, PREFIX, Staged, failed, remove_bare};
use crate::op::restore::{Overwrite, Request};
use crate::repo::RepoError;
use crate::repo::staging::Staging;
use crate::stage::scan::{self, Stat};
use crate::stage::seal::random;

/// A directory that is restored into.
pub struct Target {
    /// Its path, for messages.
    shown: String,
    /// The target itself; none if it is not there.
    place: Option<Arc<OwnedFd>>,
    /// Below this everything is made: the target itself, or the tree of a staging directory in it.
    root: Option<Arc<OwnedFd>>,
    handles: Handles,
    overwrite: Overwrite,
    /// Whether entries may have access lists that this run did not give them.
    pub may_inherit: bool,
    /// The staging directory whose tree it is, if it is one.
    pub staging: Option<String>,
    /// Whether an earlier run has filled a part of it.
    pub is_resumed: bool,
    /// Owner and group that a new file has; none if that is not sure.
    owner_of_new: Option<(u32, u32)>,
    /// Mode bits that a new file does not get, whatever is asked for.
    umask: u32,
    /// Whether what is made gets the label of what it takes the place of, or of the directory that it lies in.
    pub keeps_labels: bool,
    /// What temporary names start with.
    prefix: String,
    /// Number of the last temporary name.
    last: AtomicU64,
}

impl Target {
    /// Begins in a staging directory where that is the way, or goes on in one. In a dry run nothing is made.
    ///
    /// # Errors
    /// [`RepoError::Source`] if a staging directory can't be made or used.
    pub fn open(
        request: &Request<'_>,
        ground: Ground,
        mut marker: Marker,
        known: &Staging,
    ) -> Result<(Self, Option<Staged>), RepoError> {
        let path = &request.target;
        let (Some(place), false) = (&ground.place, request.dry_run) else {
            return Ok((Self::with(request, ground.place)?, None));
        };
        let place = place.clone();
        // Notes of earlier restores: each is asked after only until the next one begins to work.
        if !matches!(ground.way, Way::End(_))
            && let Ok(stat) = scan::stat_of(&place)
        {
            let _ = known.forget_end(&stat);
        }
        if !matches!(ground.way, Way::Begin(_)) {
            let _ = known.forget_making(&absolute(request));
        }
        let staged = match ground.way {
            Way::End(leftovers) => {
                leftovers.iter().for_each(|name| remove_bare(&place, name, known));
                return Ok((Self::with(request, Some(place))?, None));
            }
            Way::Over => return Ok((Self::with(request, Some(place))?, None)),
            Way::Continue((name, found)) => Staged::resume(&place, path, (&name, found), known)?,
            Way::Begin(leftovers) => {
                leftovers.iter().for_each(|name| remove_bare(&place, name, known));
                marker.is_target_made = ground.is_made;
                let staged = Staged::begin(&place, path, &marker, known)?;
                let _ = known.forget_making(&absolute(request)); // the marker says it
                staged
            }
        };
        Ok((Self::staged(request, place, &staged)?, Some(staged)))
    }

    fn staged(request: &Request<'_>, place: Arc<OwnedFd>, staged: &Staged) -> Result<Self, RepoError> {
        let target = Self::with(request, Some(staged.tree.clone()))?;
        Ok(Self {
            place: Some(place),
            overwrite: Overwrite::Never,
            may_inherit: staged.is_resumed,
            staging: Some(staged.name.clone()),
            is_resumed: staged.is_resumed,
            owner_of_new: staged.owner_of_new(target.umask),
            ..target
        })
    }

    /// Takes the target as it is; `place` is none if it is not there.
    ///
    /// # Errors
    /// [`RepoError::System`] without random bytes.
    pub fn with(request: &Request<'_>, place: Option<Arc<OwnedFd>>) -> Result<Self, RepoError> {
        // No process's number: in a container all have the same one, and a killed run may have left files behind.
        let mut own = [0; 8];
        random(&mut own).map_err(|_| RepoError::System { what: "random bytes" })?;
        let umask = rustix::process::umask(Mode::RWXG | Mode::RWXO);
        rustix::process::umask(umask);
        let hands_on = |place: &Arc<OwnedFd>| {
            rustix::fs::fgetxattr(place, access_list::DEFAULT, &mut [0; 0][..]).is_ok()
        };
        Ok(Self {
            shown: request.target.display().to_string(),
            may_inherit: request.overwrite != Overwrite::Never || place.as_ref().is_some_and(hands_on),
            keeps_labels: !request.labels && place.as_ref().is_some_and(has_label),
            root: place.clone(),
            place,
            handles: Handles::default(),
            overwrite: request.overwrite,
            staging: None,
            is_resumed: false,
            owner_of_new: None,
            umask: umask.as_raw_mode(),
            prefix: format!("{PREFIX}{:016x}-", u64::from_le_bytes(own)),
            last: AtomicU64::new(0),
        })
    }

    /// Returns whether all of it is in a closed directory until it is whole.
    pub fn is_staged(&self) -> bool {
        self.staging.is_some()
    }

    /// Returns a name under which nothing lies yet.
    pub fn temporary_name(&self) -> String {
        format!("{}{}", self.prefix, self.last.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Makes a file that has no name and is gone when it is closed.
    ///
    /// # Errors
    /// [`RepoError::Source`] if there is no room for it, or it can't be made.
    pub fn nameless_file(&self) -> Result<File, RepoError> {
        let made = self.root().and_then(|root| {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            match rustix::fs::openat(root, c".", flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR) {
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                    let name = self.temporary_name();
                    let file = create_file(root, name.as_bytes(), 0o600)?;
                    rustix::fs::unlinkat(root, name, AtFlags::empty())?;
                    Ok(file)
                }
                other => other.map(File::from),
            }
        });
        made.map_err(|e| self.unusable(&e.into()))
    }

    /// Returns the error for a target in which what was noted can't be kept.
    pub fn unusable(&self, error: &io::Error) -> RepoError {
        let error = Errno::from_io_error(error).unwrap_or(Errno::IO);
        self.failed("a temporary file of the restore cannot be used", error)
    }

    /// Returns the error for a target that can't take what is restored.
    pub fn failed(&self, what: &str, error: Errno) -> RepoError {
        match &self.staging {
            Some(staging) => failed(&self.shown, staging, what, error),
            None => RepoError::Source {
                path: self.shown.clone(),
                reason: format!("{what}: {}", io::Error::from(error)),
            },
        }
    }

    /// Tells whether an error is of the whole file system, and nothing is to be shown that lacks what is to come.
    ///
    /// # Errors
    /// [`RepoError::Source`] if so.
    pub fn stops(&self, error: Errno) -> Result<(), RepoError> {
        match error {
            Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO if self.is_staged() => {
                Err(self.failed("it cannot take more", error))
            }
            _ => Ok(()),
        }
    }

    fn root(&self) -> Result<&Arc<OwnedFd>, Errno> {
        self.root.as_ref().ok_or(Errno::NOENT)
    }

    /// Opens a directory of the target by its number.
    ///
    /// # Errors
    /// As [`Handles::open`].
    pub fn directory(&self, all: &[Directory], number: u32) -> Result<Arc<OwnedFd>, Errno> {
        self.handles.open(self.root()?, all, number)
    }

    /// Opens the target itself, or a directory below it by its path, whatever is made elsewhere until it is whole.
    ///
    /// # Errors
    /// As openat2(2); `ELOOP` if a link is in the way.
    pub fn below(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let place = self.place.as_ref().ok_or(Errno::NOENT)?;
        open_below(place, if path.is_empty() { b"." } else { path })
    }

    /// Makes durable that nothing more is due of a restore into it.
    pub fn end(&self, known: &Staging) {
        let Some(place) = &self.place else { return };
        if let (Ok(()), Ok(stat)) = (rustix::fs::fsync(place), scan::stat_of(place)) {
            let _ = known.forget_end(&stat); // else it can be ended once more, and loses nothing by that
        }
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// As syncfs(2).
    pub fn sync(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(self.root()?)
    }

    /// Returns what a file of this mode is to be made with, and what it has then.
    pub fn made(&self, mode: u32) -> Made {
        let mode = mode & 0o777;
        Made { owner: self.owner_of_new, mode: mode & !self.umask }
    }

    /// Makes a directory, or takes the one that is there. What else is there gives way if it may.
    ///
    /// # Errors
    /// As mkdirat(2); `EEXIST` if something else is there that must stay.
    pub fn make_directory(&self, parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
        let make = || {
            rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
            if self.keeps_labels {
                labels::keep(&parent, name, name);
            }
            Ok(())
        };
        match make() {
            Err(Errno::EXIST) => {}
            other => return other,
        }
        match scan::stat_at(&parent, name)?.kind {
            Some(Kind::Directory) => Ok(()),
            _ if self.overwrite == Overwrite::Never => Err(Errno::EXIST),
            _ => {
                rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
                make()
            }
        }
    }

    /// Returns what lies under a name; none if nothing does.
    pub fn look(parent: impl AsFd, name: &[u8]) -> Option<Stat> {
        scan::stat_at(parent, name).ok()
    }

    /// Gives what was made under a temporary name, or under its own, the label that belongs to its place.
    pub fn label(&self, parent: impl AsFd, temporary: &[u8], name: &[u8]) {
        if self.keeps_labels {
            labels::keep(parent, temporary, name);
        }
    }

    /// Puts what was made under a temporary name in its place.
    ///
    /// # Errors
    /// As renameat(2).
    pub fn put(&self, parent: impl AsFd, temporary: &str, name: &[u8]) -> Result<(), Errno> {
        let renamed = match rustix::fs::renameat(&parent, temporary, &parent, name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY) => {
                // An empty directory gives way to a file; a full one holds what nobody told us to remove.
                rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)
                    .and_then(|()| rustix::fs::renameat(&parent, temporary, &parent, name))
            }
            other => other,
        };
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&parent, temporary, AtFlags::empty()); // ours alone
        }
        renamed
    }
}

/// Makes a new file.
///
/// # Errors
/// As openat(2).
pub fn create_file(parent: impl AsFd, name: &[u8], mode: u32) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode)).map(File::from)
}

/// Opens a file that this run is writing.
///
/// # Errors
/// As openat(2).
pub fn reopen_file(parent: impl AsFd, name: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map(File::from)
}
