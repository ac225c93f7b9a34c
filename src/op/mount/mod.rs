//! A repository → a read-only file system, for as long as it is mounted.
//!
//! `view` answers what is where, `source` what it holds; `fuse` passes on what the kernel asks.
//! Nothing is ever written, and no lock is held (`docs/durability.md`).

mod access;
mod ahead;
mod attributes;
mod complaints;
mod folder;
mod fuse;
mod inodes;
mod listing;
mod plan;
mod point;
mod snapshots;
mod source;
mod top;
mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use fuser::{Config, INodeNo, MountOption, Notifier, SessionACL};

use crate::op::mount::ahead::Hint;
use crate::op::mount::fuse::Answers;
use crate::op::mount::point::Identity;
use crate::op::mount::source::Source;
use crate::op::mount::view::View;
use crate::repo::select::Naming;
use crate::repo::{RepoError, Repository};

pub use point::{NotEnded, usable};

/// Threads that read ahead: while one gives files to the kernel, the other is at the next ones.
const THREADS_AHEAD: usize = 2;

/// How a repository is mounted.
#[derive(Clone)]
pub struct Settings {
    /// Memory for frames, directories and lists of chunks, in bytes.
    pub cache_bytes: usize,
    /// Whether other users may look as well; the kernel then holds modes and access lists against them.
    pub for_others: bool,
    /// Whose nights `daily/`, `weekly/` and `latest` stand for, and whose days and weeks.
    pub naming: Naming,
    /// Owner of the directories at the top: user and group.
    pub owner: (u32, u32),
    /// Threads that answer the kernel.
    pub threads: usize,
}

/// What a mount's keeper waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody asked the program to stop.
    Stop,
    /// The mount is gone: it was unmounted.
    Ended,
}

/// A mount that is up.
pub struct Mounted {
    point: PathBuf,
    /// None if the system does not tell.
    identity: Option<Identity>,
    source: Arc<Source>,
    ahead: Vec<JoinHandle<()>>,
    session: fuser::BackgroundSession,
}

/// Mounts a repository on an empty directory. When this returns, the mount is up. `events` gets
/// [`Event::Ended`] when it is gone.
///
/// # Errors
/// [`RepoError::Source`] if the directory can't be mounted on, or the system mounts nothing.
pub fn mount(
    repository: Arc<Repository>,
    point: &Path,
    settings: &Settings,
    events: Sender<Event>,
) -> Result<Mounted, RepoError> {
    let point = usable(point)?;
    let fail = |e: io::Error| {
        let reason = match e.kind() {
            io::ErrorKind::NotFound => {
                "cannot be mounted on: no /dev/fuse here, or no fusermount3 (package fuse3)".to_owned()
            }
            io::ErrorKind::PermissionDenied if std::fs::File::open("/dev/fuse").is_err() => {
                "cannot be mounted on: this user may not open /dev/fuse".to_owned()
            }
            _ => format!("cannot be mounted on: {}", e.to_string().trim()),
        };
        RepoError::Source { path: point.display().to_string(), reason }
    };
    let (source, hints) = Source::new(repository, settings);
    let source = Arc::new(source);
    let view = Arc::new(View::new(source.clone(), settings.owner)?);
    view.top(); // manifests are read before anybody waits for them
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("snap".to_owned()),
        MountOption::Subtype("snap".to_owned()),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
    ];
    if settings.for_others {
        config.acl = SessionACL::All;
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.n_threads = Some(settings.threads.max(2));
    let answers = Answers::new(view.clone(), events, settings.for_others);
    let session = fuser::Session::new(answers, &point, &config).map_err(fail)?;
    let session = session.spawn().map_err(fail)?;
    let identity = point::identity(&point).ok();
    let ahead = spawn_ahead(&view, &hints, &session.notifier()).map_err(fail)?;
    Ok(Mounted { point, identity, source, ahead, session })
}

/// Reads ahead on threads of their own: to give bytes to the kernel may wait for who answers it.
fn spawn_ahead(
    view: &Arc<View>,
    hints: &Receiver<Hint>,
    kernel: &Notifier,
) -> io::Result<Vec<JoinHandle<()>>> {
    let spawn = |_| {
        let (view, hints, kernel) = (view.clone(), hints.clone(), kernel.clone());
        std::thread::Builder::new().name("read-ahead".to_owned()).spawn(move || {
            view.read_ahead(&hints, &|number, bytes| {
                // What the kernel does not take it asks for.
                let _ = kernel.store(INodeNo(number), 0, bytes);
            });
        })
    };
    (0..THREADS_AHEAD).map(spawn).collect()
}

impl Mounted {
    /// Says that some time has passed: what is not used is closed, and snapshots are listed again
    /// when somebody looks.
    pub fn rest(&self) {
        self.source.rest();
    }

    /// Returns the directory that is mounted on.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Asks the system to unmount; [`Event::Ended`] follows. Leaves alone what somebody else has mounted there.
    ///
    /// # Errors
    /// [`NotEnded`]; this may be tried again, unless that says otherwise.
    pub fn unmount(&self) -> Result<(), NotEnded> {
        point::unmount(&self.point, self.identity)
    }

    /// Lets go of a mount that is gone.
    pub fn forget(self) {
        // fuser unmounts once more when this is dropped, and by then something else may be there.
        std::mem::forget(self.session);
        drop(self.ahead);
    }
}
