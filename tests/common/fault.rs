//! A store that fails where a test wants it to; `tests/fault_store.rs` holds it to its word.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;
use snap::store::{Folder, Found, Lock, LockMode, Name, Store, StoreError, Upload};

/// When a store fails, and how. Calls that change files are numbered from 0, over all threads:
/// `begin`, each `write` of an upload, its `commit` or `replace`, and `delete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It never fails; calls are counted.
    Never,
    /// The power goes during call `call`. From then on every call fails for good, reads too.
    PowerCut {
        /// The call that is cut.
        call: u64,
        /// What becomes of it.
        work: Work,
    },
    /// Call `call` fails, and no other one.
    Once {
        /// The call that fails.
        call: u64,
        /// What the system says, `Errno::IO` say.
        error: Errno,
        /// What becomes of it.
        work: Work,
    },
    /// The disk is full from call `call` on: files can be read and deleted, no bytes or names added.
    DiskFull {
        /// The first call that fails.
        call: u64,
    },
    /// Nothing can be added until `deletes` files were deleted; the power goes during call `cut`, which does nothing.
    FullUntil {
        /// Files that must go.
        deletes: u64,
        /// What the system says until then, `Errno::DQUOT` say.
        error: Errno,
        /// The call that is cut.
        cut: u64,
    },
    /// From call `call` on every call that changes files fails; files can be read.
    ReadOnly {
        /// The first call that fails.
        call: u64,
        /// What the system says, `Errno::ROFS` say.
        error: Errno,
    },
}

/// What becomes of the call that a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// It does nothing.
    Undone,
    /// It does its work, durably, and fails only then: the acknowledgement is lost.
    Done,
}

/// A store over another one, with one [`Fault`].
///
/// An upload that is cut leaves nothing behind. What a killed process leaves under `tmp/` can't be
/// had inside one process; `tests/store.rs` kills a real one.
pub struct FaultStore {
    inner: Arc<dyn Store>,
    state: Arc<State>,
}

struct State {
    fault: Fault,
    calls: AtomicU64,
    deletes: AtomicU64,
    is_off: AtomicBool,
    struck: OnceLock<String>,
}

/// What a call that changes files is to do.
enum Step {
    Go,
    Fail(StoreError),
    /// The call's work is done, then it fails.
    FailAfter(StoreError),
}

/// The calls that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Begin,
    Write,
    Commit,
    Replace,
    Delete,
}

impl Change {
    fn verb(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Write => "write",
            Self::Commit => "commit",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }
}

impl FaultStore {
    /// Puts `fault` over `inner`.
    pub fn new(inner: Arc<dyn Store>, fault: Fault) -> Self {
        let state = State {
            fault,
            calls: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
            is_off: AtomicBool::new(false),
            struck: OnceLock::new(),
        };
        Self { inner, state: Arc::new(state) }
    }

    /// Returns how many calls that change files there were, failed ones included.
    pub fn calls(&self) -> u64 {
        self.state.calls.load(Ordering::SeqCst)
    }

    /// Returns the first call that failed, `commit packs/ab/…` say; none if the fault has not struck.
    pub fn struck(&self) -> Option<&str> {
        self.state.struck.get().map(String::as_str)
    }
}

impl State {
    fn step(&self, change: Change, path: &str) -> Step {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let fail = |source: io::Error| {
            let _ = self.struck.set(format!("{} {path}", change.verb())); // the first one stays
            StoreError::Io { path: path.to_owned(), verb: change.verb(), source }
        };
        let with_work = |work, error| match work {
            Work::Undone => Step::Fail(error),
            Work::Done => Step::FailAfter(error),
        };
        match self.fault {
            Fault::PowerCut { call, work } if number == call => {
                self.is_off.store(true, Ordering::SeqCst);
                with_work(work, fail(power_cut()))
            }
            Fault::PowerCut { call, .. } if number > call => Step::Fail(fail(power_cut())),
            Fault::Once { call, error, work } if number == call => with_work(work, fail(error.into())),
            Fault::DiskFull { call } if number >= call && change != Change::Delete => {
                Step::Fail(fail(Errno::NOSPC.into()))
            }
            Fault::FullUntil { cut, .. } if number >= cut => {
                self.is_off.store(true, Ordering::SeqCst);
                Step::Fail(fail(power_cut()))
            }
            Fault::FullUntil { deletes, error, .. } => match change {
                Change::Delete => {
                    self.deletes.fetch_add(1, Ordering::SeqCst);
                    Step::Go
                }
                _ if self.deletes.load(Ordering::SeqCst) < deletes => Step::Fail(fail(error.into())),
                _ => Step::Go,
            },
            Fault::ReadOnly { call, error } if number >= call => Step::Fail(fail(error.into())),
            _ => Step::Go,
        }
    }

    /// Fails if the power is off.
    fn powered(&self, verb: &'static str, path: impl ToString) -> Result<(), StoreError> {
        match self.is_off.load(Ordering::SeqCst) {
            true => Err(StoreError::Io { path: path.to_string(), verb, source: power_cut() }),
            false => Ok(()),
        }
    }
}

fn power_cut() -> io::Error {
    io::Error::other("power cut")
}

/// Does what a step says with `work`.
fn take(step: Step, work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    match step {
        Step::Go => work(),
        Step::Fail(error) => Err(error),
        Step::FailAfter(error) => work().and(Err(error)),
    }
}

struct FaultUpload {
    inner: Box<dyn Upload>,
    state: Arc<State>,
}

impl Upload for FaultUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let step = self.state.step(Change::Write, "tmp/");
        take(step, || self.inner.write(bytes))
    }

    fn commit(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        let step = self.state.step(Change::Commit, &name.to_string());
        take(step, || self.inner.commit(name))
    }

    fn replace(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        let step = self.state.step(Change::Replace, &name.to_string());
        take(step, || self.inner.replace(name))
    }
}

impl Store for FaultStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        match self.state.step(Change::Begin, "tmp/") {
            Step::Go => {
                let inner = self.inner.begin()?;
                Ok(Box::new(FaultUpload { inner, state: self.state.clone() }))
            }
            Step::Fail(error) => Err(error),
            Step::FailAfter(error) => self.inner.begin().and(Err(error)),
        }
    }

    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.state.powered("read", name)?;
        self.inner.read(name, bytes_max)
    }

    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.state.powered("read", name)?;
        self.inner.read_range(name, range)
    }

    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        self.state.powered("list", folder.name())?;
        self.inner.list(folder)
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let step = self.state.step(Change::Delete, &name.to_string());
        take(step, || self.inner.delete(name))
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        self.state.powered("lock", "lock")?;
        self.inner.lock(mode)
    }

    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        self.state.powered("sweep", "tmp/")?;
        self.inner.sweep_uploads()
    }
}
