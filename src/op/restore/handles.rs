//! Directories of the target that are open, those that were used last: a deep one is opened from one that
//! lies near, so that no path is longer than the kernel takes, and none is walked from the top each time.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::op::restore::plan::Directory;

/// Most directories that are kept open: far fewer than a process may have open (1,024 by default).
const OPEN_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(127);

/// Most names that are resolved at one stroke; the directory that they lead to is kept open. One that lies
/// near a kept one costs no more than this many steps.
const NAMES_MAX: usize = 64;

/// Most bytes of these names: less than PATH_MAX.
const PATH_BYTES_MAX: usize = 4000;

/// Directories that are open, by number.
pub struct Handles(Mutex<LruCache<u32, Arc<OwnedFd>>>);

impl Default for Handles {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(OPEN_MAX)))
    }
}

impl Handles {
    /// Opens directory `number` of `all`, whose number 0 is `top`; no link is followed, and nothing outside
    /// `top` is reached. Cost: the steps from the nearest directory that is open.
    ///
    /// # Errors
    /// As openat2(2); `ELOOP` or `ENOTDIR` if a link is in the way.
    pub fn open(&self, top: &Arc<OwnedFd>, all: &[Directory], number: u32) -> Result<Arc<OwnedFd>, Errno> {
        let mut below = Vec::new();
        let mut at = number;
        let mut nearest = loop {
            if at == 0 {
                break top.clone();
            }
            if let Some(open) = self.kept().get(&at) {
                break open.clone();
            }
            below.push(at);
            at = all.get(at as usize).and_then(|directory| directory.parent).unwrap_or(0);
        };
        while !below.is_empty() {
            let mut path = Vec::new();
            for _ in 0..NAMES_MAX {
                let Some(next) = below.last() else { break };
                let name = all.get(*next as usize).map_or(&[][..], |directory| &directory.name);
                if !path.is_empty() && path.len() + name.len() > PATH_BYTES_MAX {
                    break;
                }
                path.extend_from_slice(name);
                path.push(b'/');
                at = *next;
                below.pop();
            }
            path.pop();
            nearest = Arc::new(open_below(&nearest, &path)?);
            self.kept().put(at, nearest.clone());
        }
        Ok(nearest)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, LruCache<u32, Arc<OwnedFd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a directory below another one, through no link.
///
/// # Errors
/// As openat2(2).
pub fn open_below(above: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(above, path, flags, Mode::empty(), resolve) {
        Err(Errno::NAMETOOLONG) => step_by_step(above, path, flags),
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(above, path, flags), // an old kernel, or a sandbox
        other => other,
    }
}

/// Opens one directory after the other, none through a link.
fn step_by_step(above: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut names = path.split(|byte| *byte == b'/');
    let first = openat(above, names.next().unwrap_or_default(), flags, Mode::empty())?;
    names.try_fold(first, |at, name| openat(&at, name, flags, Mode::empty()))
}
