//! Goes through what belongs into the bucket, in order: puts what is not there, puts genuine bytes back
//! on top of what is not, and renews locks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::progress::Done;
use crate::base::time::Time;
use crate::op::sync::bucket::{Bucket, Local, Standing, hash, judge};
use crate::op::sync::{DAY_S, Needing, Problem, Report, Request, Wanted};
use crate::repo::bucket_state::BucketState;
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, LockingStore, Mode, Name, Overlay, StoreError, Version, VersionId};

/// Bytes sent to a file's upload at one stroke.
const PIECE_BYTES: u64 = 4 << 20;

/// One pass over all files.
pub struct Pass<'p> {
    repository: &'p Repository,
    remote: &'p dyn LockingStore,
    bucket: &'p Bucket,
    request: &'p Request<'p>,
    /// Whether the bucket can lock.
    has_locks: bool,
    known: Mutex<BucketState>,
    did: Mutex<Did>,
}

/// What the pass did so far.
#[derive(Default)]
struct Did {
    files_put: u64,
    bytes_put: u64,
    renewed: u64,
    put_back: u64,
    problems: Vec<Problem>,
    /// Files that could not be brought there, because they are damaged here.
    failed: BTreeSet<Name>,
}

impl<'p> Pass<'p> {
    /// Begins with what is known of the bucket.
    pub fn new(
        repository: &'p Repository,
        remote: &'p dyn LockingStore,
        bucket: &'p Bucket,
        request: &'p Request<'p>,
        has_locks: bool,
        known: BucketState,
    ) -> Self {
        let (known, did) = (Mutex::new(known), Mutex::default());
        Self { repository, remote, bucket, request, has_locks, known, did }
    }

    /// Settles all files, folder by folder: nothing is there before what it names.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Interrupted`].
    pub fn run(&self, wanted: &BTreeMap<Name, Wanted>, needing: &[Needing]) -> Result<(), RepoError> {
        let mut bytes = 0;
        for (name, wanted) in wanted {
            bytes += if self.bucket.of(name).is_empty() { wanted.bytes } else { 0 };
        }
        self.request.progress.expect(Done { files: wanted.len() as u64, bytes });
        let folders = [Some(Folder::Keys), None, Some(Folder::Packs), Some(Folder::Index)];
        for folder in folders {
            let inside = wanted.iter().filter(|(name, _)| name.folder() == folder);
            self.settle_all(&inside.collect::<Vec<_>>())?;
        }
        let failed = std::mem::take(&mut self.did().failed);
        let manifests = wanted.iter().filter(|(name, _)| match name {
            Name::Snapshot(id) => needing
                .iter()
                .filter(|one| one.snapshot.id == *id)
                .all(|one| one.is_known && !one.packs.iter().any(|pack| failed.contains(&Name::Pack(*pack)))),
            _ => false,
        });
        self.settle_all(&manifests.collect::<Vec<_>>())
    }

    /// Ends: returns what is known of the bucket now, and adds to the report.
    pub fn finish(self, report: &mut Report) -> BucketState {
        let did = self.did.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.files_put += did.files_put;
        report.bytes_put += did.bytes_put;
        report.renewed += did.renewed;
        report.put_back += did.put_back;
        report.problems.extend(did.problems);
        report.problems.sort_by(|a, b| a.path.cmp(&b.path));
        self.known.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn did(&self) -> MutexGuard<'_, Did> {
        self.did.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, BucketState> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self, name: &Name, what: impl Into<String>) {
        self.did().problems.push(Problem { path: name.to_string(), what: what.into() });
    }

    fn settle_all(&self, files: &[(&Name, &Wanted)]) -> Result<(), RepoError> {
        let next = AtomicUsize::new(0);
        let error: Mutex<Option<RepoError>> = Mutex::new(None);
        let work = || {
            while let Some((name, wanted)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let settled = match self.request.progress.is_cancelled() {
                    true => Err(RepoError::Interrupted),
                    false => self.settle(name, wanted),
                };
                if let Err(e) = settled {
                    next.store(files.len(), Ordering::Relaxed);
                    error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.request.threads.clamp(1, files.len().max(1)) {
                scope.spawn(work);
            }
        });
        error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn settle(&self, name: &Name, wanted: &Wanted) -> Result<(), RepoError> {
        let versions = self.bucket.of(name);
        let known = self.known().only(&name.to_string());
        let mut local: Option<Local> = None;
        let mut read = || {
            if local.is_none() {
                local = Some(hash(self.repository.store(), name, wanted.bytes)?);
            }
            Ok(local)
        };
        let standing = judge(self.remote, name, versions, &known, &mut read)?;
        let mut sent_bytes = 0;
        match standing {
            Standing::Good(version) => self.renew(name, &version, wanted)?,
            Standing::Absent => {
                // Only a deletion is left of it: somebody's marker, unless the object never was there.
                let is_marked = !versions.is_empty();
                let overlay = if is_marked { Overlay::Allowed } else { Overlay::Refused };
                sent_bytes = wanted.bytes;
                if self.put(name, wanted, overlay)? && is_marked {
                    self.problem(name, "was deleted in the bucket, with all that was there; put there again");
                }
            }
            Standing::Covered { genuine, is_deleted } => {
                self.renew(name, &genuine, wanted)?;
                let what = if is_deleted { "a deletion" } else { "other bytes" };
                if self.put(name, wanted, Overlay::Allowed)? {
                    self.did().put_back += 1;
                    self.problem(
                        name,
                        format!("somebody has put {what} on top of it; its genuine version is kept, and was put back on top: look for who has the uploader's credentials"),
                    );
                } else {
                    self.problem(
                        name,
                        format!("somebody has put {what} on top of it; its genuine version is kept"),
                    );
                }
            }
            Standing::Spoilt => {
                if self.put(name, wanted, Overlay::Allowed)? {
                    self.did().put_back += 1;
                }
                self.problem(name, "what lies in the bucket under this name are other bytes; the genuine ones were put on top: look for who has the uploader's credentials");
            }
        }
        self.request.progress.add(Done { files: 1, bytes: sent_bytes });
        Ok(())
    }

    /// Puts a local file there, locked. Returns whether it could: one that is damaged is a problem.
    fn put(&self, name: &Name, wanted: &Wanted, overlay: Overlay) -> Result<bool, RepoError> {
        if self.request.options.dry_run {
            let mut did = self.did();
            did.files_put += 1;
            did.bytes_put += wanted.bytes;
            return Ok(true);
        }
        let until = self.ends();
        let mut upload = self.remote.begin_locked(self.has_locks.then_some(until), overlay)?;
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        while at < wanted.bytes {
            let end = wanted.bytes.min(at + PIECE_BYTES);
            let piece = match self.repository.store().read_range(name, at..end) {
                Ok(piece) => piece,
                Err(e) => return self.cannot(name, &e.to_string()),
            };
            hasher.update(&piece);
            upload.write(&piece)?;
            at = end;
        }
        if name.hash().is_some_and(|hash| hash != *hasher.finalize().as_bytes()) {
            return self.cannot(name, "its bytes here are not the ones its name stands for");
        }
        let id = match upload.commit_locked(name) {
            Ok(id) => id,
            Err(StoreError::Taken { .. }) => return Ok(false), // another machine was faster; the next run looks at it
            Err(e) => return Err(e.into()),
        };
        let ends = if self.has_locks { until.seconds } else { 0 };
        self.known().learn(&name.to_string(), &id, ends);
        let mut did = self.did();
        did.files_put += 1;
        did.bytes_put += wanted.bytes;
        Ok(true)
    }

    fn cannot(&self, name: &Name, why: &str) -> Result<bool, RepoError> {
        self.did().failed.insert(*name);
        self.problem(name, format!("not put into the bucket: {why}; 'snap check --repair-from' may heal it"));
        Ok(false)
    }

    /// Renews a version's lock if it ends too soon and a kept snapshot needs it.
    fn renew(&self, name: &Name, version: &Version, wanted: &Wanted) -> Result<(), RepoError> {
        let path = name.to_string();
        if !self.has_locks {
            self.known().learn(&path, &version.id, 0);
            return Ok(());
        }
        let ends = match self.known().until(&path, &version.id).filter(|ends| *ends > 0) {
            Some(ends) => ends,
            None => {
                let found = self.remote.retention(&path, &version.id)?;
                let ends = found.filter(|found| found.mode == Mode::Compliance);
                ends.map_or(0, |found| found.until.seconds)
            }
        };
        self.known().learn(&path, &version.id, ends);
        let floor = self.request.now.seconds + i64::from(self.request.options.renew_below_days) * DAY_S;
        if !wanted.is_needed || ends >= floor {
            return Ok(());
        }
        if !self.request.options.dry_run {
            self.lock(&path, &version.id)?;
        }
        self.did().renewed += 1;
        Ok(())
    }

    fn lock(&self, path: &str, id: &VersionId) -> Result<(), RepoError> {
        let until = self.ends();
        self.remote.extend(path, id, until)?;
        self.known().learn(path, id, until.seconds);
        Ok(())
    }

    /// Returns when a lock ends that begins now.
    fn ends(&self) -> Time {
        Time::new(self.request.now.seconds + i64::from(self.request.options.lock_days) * DAY_S, 0)
    }
}
