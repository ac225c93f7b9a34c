//! Goes through what belongs into the bucket: renews the locks of what is there; then, in order, puts what is not there,
//! and puts genuine bytes back on top of what is not. What can't be done of one object holds up no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::progress::Done;
use crate::base::threads::side_by_side;
use crate::base::time::Time;
use crate::op::sync::bucket::{Bucket, Local, Standing, answers, hash, judge};
use crate::op::sync::locks::{Extended, end, extend};
use crate::op::sync::needs::{Needing, Wanted};
use crate::op::sync::refused::attempt;
use crate::op::sync::{DAY_S, Problem, Report, Request};
use crate::repo::bucket_state::BucketState;
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, LockingStore, Name, Overlay, StoreError, Version, VersionId};

/// Bytes sent to a file's upload at one stroke.
const PIECE_BYTES: u64 = 4 << 20;

/// After so many files that were put, what is known of the bucket is kept: a run that is killed has not
/// forgotten them.
const KEEP_EVERY: u64 = 16;

/// What a pass may do.
#[derive(Clone, Copy, Debug)]
pub struct May {
    /// Whether the bucket can lock.
    pub lock: bool,
    /// Whether anything may be put. Else locks are renewed all the same.
    pub put: bool,
}

/// One pass over all files.
pub struct Pass<'p> {
    repository: &'p Repository,
    remote: &'p dyn LockingStore,
    bucket: &'p Bucket,
    request: &'p Request<'p>,
    may: May,
    known: Mutex<BucketState>,
    /// How lies what is there.
    standings: Mutex<BTreeMap<Name, Standing>>,
    did: Mutex<Did>,
}

/// What is known when a pass has ended.
pub struct Settled {
    /// What is known of the bucket.
    pub known: BucketState,
    /// What would be there now if it were not a dry run.
    pub would_put: BTreeSet<Name>,
}

/// What the pass did so far.
#[derive(Default)]
struct Did {
    files_put: u64,
    bytes_put: u64,
    renewed: u64,
    put_back: u64,
    problems: Vec<Problem>,
    /// Files that a dry run would put.
    would_put: BTreeSet<Name>,
    /// Files that could not be brought there: they are damaged here, or nothing may be put.
    failed: BTreeSet<Name>,
    /// Manifests of which something is not in the bucket.
    lacking: BTreeSet<Name>,
}

impl<'p> Pass<'p> {
    /// Begins with what is known of the bucket.
    pub fn new(
        repository: &'p Repository,
        remote: &'p dyn LockingStore,
        bucket: &'p Bucket,
        request: &'p Request<'p>,
        may: May,
        known: BucketState,
    ) -> Self {
        let (known, standings, did) = (Mutex::new(known), Mutex::default(), Mutex::default());
        Self { repository, remote, bucket, request, may, known, standings, did }
    }

    /// Judges how all files lie that are there, and renews the locks of what is genuine. Comes before [`Self::settle_all`].
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Interrupted`].
    pub fn renew(&self, wanted: &BTreeMap<Name, Wanted>) -> Result<(), RepoError> {
        let mut bytes = 0;
        for (name, wanted) in wanted {
            bytes += if self.bucket.of(name).is_empty() { wanted.bytes } else { 0 };
        }
        self.request.progress.expect(Done { files: wanted.len() as u64, bytes });
        let there = wanted.iter().filter(|(name, _)| !self.bucket.of(name).is_empty());
        self.all(&there.collect::<Vec<_>>(), |name, wanted| self.look_after(name, wanted))
    }

    /// Settles all files, folder by folder: nothing is there before what it names. Where that ends early, it is known all the
    /// same which snapshots what could not be put until then leaves broken.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Interrupted`].
    pub fn settle_all(&self, wanted: &BTreeMap<Name, Wanted>, needing: &[Needing]) -> Result<(), RepoError> {
        let folders =
            [Some(Folder::Keys), None, Some(Folder::Forgotten), Some(Folder::Packs), Some(Folder::Index)];
        let settled = folders.into_iter().try_for_each(|folder| {
            let inside = wanted.iter().filter(|(name, _)| name.folder() == folder);
            self.all(&inside.collect::<Vec<_>>(), |name, wanted| self.settle(name, wanted))
        });
        // A manifest is put only when all that it needs is there. One that is there already stays locked.
        let failed = std::mem::take(&mut self.did().failed);
        // Without its keys, or config, nothing in the bucket can be opened.
        let opens = |name: &Name| matches!(name, Name::Config | Name::Key(_));
        let is_shut =
            self.may.put && failed.iter().any(|name| opens(name) && self.bucket.of(name).is_empty());
        let lacks = |one: &&Needing| {
            is_shut || !one.is_known || one.packs.iter().any(|pack| failed.contains(&Name::Pack(*pack)))
        };
        let lacking = needing.iter().filter(lacks).map(|one| Name::Snapshot(one.snapshot.id)).collect();
        self.did().lacking = lacking;
        settled?;
        let manifests = wanted.iter().filter(|(name, _)| name.folder() == Some(Folder::Snapshots));
        self.all(&manifests.collect::<Vec<_>>(), |name, wanted| self.settle(name, wanted))
    }

    /// Returns whether a snapshot that the bucket should hold lacks a pack there. What it has instead, of
    /// which nothing here knows any more, may be the last good copy.
    pub fn leaves_a_snapshot_broken(&self) -> bool {
        // Where nothing may be put, one that is not there breaks nothing.
        self.did().lacking.iter().any(|name| self.may.put || !self.bucket.of(name).is_empty())
    }

    /// Renews the locks of all that lies in the bucket under names that are not here, but for what is `needless`: where it
    /// is not known what snapshots need there, they may need any of it.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Interrupted`].
    pub fn keep_in_doubt(
        &self,
        wanted: &BTreeMap<Name, Wanted>,
        needless: &BTreeSet<Name>,
    ) -> Result<(), RepoError> {
        let is_kept = |name: &Name| !wanted.contains_key(name) && !needless.contains(name);
        for (name, versions) in self.bucket.names.iter().filter(|(name, _)| is_kept(name)) {
            if self.request.progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            let contents = || versions.iter().filter(|version| !version.is_marker);
            let known = contents().rev().find(|one| self.known().until(&one.path, &one.id).is_some());
            // Of versions that nobody knows the oldest: who interferes comes later.
            if let Some(version) = known.or_else(|| contents().next()) {
                let wanted = Wanted { bytes: version.bytes, is_needed: true };
                let renew = || self.renew_one(name, version, &wanted);
                if let Err(why) = attempt(self.remote, self.request, renew)? {
                    self.cannot_look_after(name, &why);
                }
            }
        }
        Ok(())
    }

    /// Ends: returns what is known of the bucket now, and adds to the report.
    pub fn finish(self, report: &mut Report) -> Settled {
        let did = self.did.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.files_put += did.files_put;
        report.bytes_put += did.bytes_put;
        report.renewed += did.renewed;
        report.put_back += did.put_back;
        report.problems.extend(did.problems);
        report.problems.sort_by(|a, b| a.path.cmp(&b.path));
        let known = self.known.into_inner().unwrap_or_else(PoisonError::into_inner);
        Settled { known, would_put: did.would_put }
    }

    fn did(&self) -> MutexGuard<'_, Did> {
        self.did.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, BucketState> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what was done, or what would have been if this were not a dry run.
    fn done(&self, done: &'static str, would: &'static str) -> &'static str {
        if self.request.options.dry_run { would } else { done }
    }

    fn problem(&self, name: &Name, what: impl Into<String>) {
        self.did().problems.push(Problem { path: name.to_string(), what: what.into() });
    }

    fn standings(&self) -> MutexGuard<'_, BTreeMap<Name, Standing>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cannot_look_after(&self, name: &Name, why: &str) {
        self.problem(name, format!("how it lies in the bucket, and its lock, could not be seen to: {why}; the next run tries it again"));
    }

    /// Does `act` for each file, some at the same time.
    fn all(
        &self,
        files: &[(&Name, &Wanted)],
        act: impl Fn(&Name, &Wanted) -> Result<(), RepoError> + Sync,
    ) -> Result<(), RepoError> {
        let next = AtomicUsize::new(0);
        let error: Mutex<Option<RepoError>> = Mutex::new(None);
        let work = || {
            while let Some((name, wanted)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let settled = match self.request.progress.is_cancelled() {
                    true => Err(RepoError::Interrupted),
                    false => act(name, wanted),
                };
                if let Err(e) = settled {
                    next.store(files.len(), Ordering::Relaxed);
                    error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                }
            }
        };
        side_by_side(self.request.threads.clamp(1, files.len().max(1)), work);
        error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Judges how a file lies that is there, and renews the lock of what is genuine.
    fn look_after(&self, name: &Name, wanted: &Wanted) -> Result<(), RepoError> {
        let look_after = || {
            let standing = self.judge(name, wanted, self.bucket.of(name))?;
            let (Standing::Good(genuine) | Standing::Covered { genuine, .. }) = &standing else {
                self.standings().insert(*name, standing);
                return Ok(());
            };
            self.standings().insert(*name, standing.clone());
            self.renew_one(name, genuine, wanted)
        };
        if let Err(why) = attempt(self.remote, self.request, look_after)? {
            self.cannot_look_after(name, &why);
        }
        Ok(())
    }

    /// Puts what is to be put of a file.
    fn settle(&self, name: &Name, wanted: &Wanted) -> Result<(), RepoError> {
        let versions = self.bucket.of(name);
        let standing = match versions {
            [] => Some(Standing::Absent),
            _ => self.standings().get(name).cloned(),
        };
        let Some(standing) = standing else {
            self.did().failed.insert(*name); // told when it was looked after
            return Ok(());
        };
        let mut sent_bytes = 0;
        let settle = || match &standing {
            Standing::Good(_) => Ok(()),
            Standing::Absent if self.did().lacking.contains(name) => Ok(()), // told where the reason is
            Standing::Absent => {
                // Only a deletion is left of it: somebody's marker, unless the object never was there.
                let is_marked = !versions.is_empty();
                let overlay = if is_marked { Overlay::Allowed } else { Overlay::Refused };
                if self.put(name, wanted, overlay)? && is_marked {
                    let put = self.done("put there again", "would be put there again");
                    self.problem(name, format!("was deleted in the bucket, with all that was there; {put}"));
                }
                Ok(())
            }
            Standing::Covered { is_deleted, .. } => self.uncover(name, wanted, *is_deleted),
            Standing::Spoilt => self.replace(name, wanted),
        };
        if let Err(why) = attempt(self.remote, self.request, settle)? {
            // What needs it finds the genuine version, if one lies below.
            if !matches!(standing, Standing::Covered { .. }) {
                self.did().failed.insert(*name);
            }
            self.problem(name, format!("not put into the bucket: {why}; the next run tries it again"));
        } else if standing == Standing::Absent && !self.did().lacking.contains(name) {
            sent_bytes = wanted.bytes;
        }
        self.request.progress.add(Done { files: 1, bytes: sent_bytes });
        Ok(())
    }

    /// Judges how a file lies in the bucket. One that can't be read here is a problem, and the bucket's own
    /// bytes are looked at.
    fn judge(&self, name: &Name, wanted: &Wanted, versions: &[Version]) -> Result<Standing, RepoError> {
        let known = self.known().only(&name.to_string());
        let (mut local, mut unreadable): (Option<Local>, Option<StoreError>) = (None, None);
        let mut read = || {
            if local.is_none() && unreadable.is_none() {
                match hash(self.repository.store(), name, wanted.bytes) {
                    Ok(found) => local = Some(found),
                    Err(e) => unreadable = Some(e),
                }
            }
            local
        };
        let standing = judge(self.remote, name, versions, &known, &mut read)?;
        // Else it is to be put, which tells the same.
        if let (Standing::Good(_), Some(e)) = (&standing, unreadable) {
            let why = RepoError::Store(e).chain();
            self.problem(
                name,
                format!("is whole in the bucket, and here: {why}; heal it with 'snap check --repair-from'"),
            );
        }
        Ok(standing)
    }

    /// Puts the genuine bytes back on top of what somebody has put there.
    fn uncover(&self, name: &Name, wanted: &Wanted, is_deleted: bool) -> Result<(), RepoError> {
        let what = if is_deleted { "a deletion" } else { "other bytes" };
        if self.put(name, wanted, Overlay::Allowed)? {
            self.did().put_back += 1;
            self.problem(
                name,
                format!("somebody has put {what} on top of it; its genuine version is kept, and {} on top: look for who has the uploader's credentials", self.done("was put back", "would be put back")),
            );
        } else {
            self.did().failed.remove(name); // what needs it finds the genuine version
            self.problem(name, format!("somebody has put {what} on top of it; its genuine version is kept"));
        }
        Ok(())
    }

    /// Puts the genuine bytes on top where only others are.
    fn replace(&self, name: &Name, wanted: &Wanted) -> Result<(), RepoError> {
        if self.put(name, wanted, Overlay::Allowed)? {
            self.did().put_back += 1;
            let put = self.done("were put", "would be put");
            self.problem(name, format!("what lies in the bucket under this name are other bytes; the genuine ones {put} on top: look for who has the uploader's credentials"));
        } else {
            self.problem(name, "what lies in the bucket under this name are other bytes, and the genuine ones are not there: look for who has the uploader's credentials");
        }
        Ok(())
    }

    /// Puts a local file there, locked, if anything may be put. Returns whether it could: one that is
    /// damaged is a problem.
    fn put(&self, name: &Name, wanted: &Wanted, overlay: Overlay) -> Result<bool, RepoError> {
        if !self.may.put {
            self.did().failed.insert(*name); // why, is told once for all
            return Ok(false);
        }
        if self.request.options.dry_run {
            self.did().would_put.insert(*name);
            self.has_put(wanted);
            return Ok(true);
        }
        let until = self.ends();
        let mut upload = self.remote.begin_locked(self.may.lock.then_some(until), overlay)?;
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        while at < wanted.bytes {
            let end = wanted.bytes.min(at + PIECE_BYTES);
            let piece = match self.repository.store().read_range(name, at..end) {
                Ok(piece) => piece,
                Err(e) => return self.cannot(name, &RepoError::Store(e).chain()),
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
        let ends = if self.may.lock { until.seconds } else { 0 };
        self.known().learn(&name.to_string(), &id, ends);
        if self.has_put(wanted).is_multiple_of(KEEP_EVERY) {
            let _ = self.known().keep(self.repository); // it is kept again at the end, which tells
        }
        Ok(true)
    }

    /// Counts a file that was put, or would be; returns how many there are now.
    fn has_put(&self, wanted: &Wanted) -> u64 {
        let mut did = self.did();
        did.files_put += 1;
        did.bytes_put += wanted.bytes;
        did.files_put
    }

    fn cannot(&self, name: &Name, why: &str) -> Result<bool, RepoError> {
        self.did().failed.insert(*name);
        self.problem(name, format!("not put into the bucket: {why}; 'snap check --repair-from' may heal it"));
        Ok(false)
    }

    /// Renews a version's lock if it ends too soon and a kept snapshot needs it.
    fn renew_one(&self, name: &Name, version: &Version, wanted: &Wanted) -> Result<(), RepoError> {
        let path = name.to_string();
        if !self.may.lock {
            self.known().learn(&path, &version.id, 0);
            return Ok(());
        }
        let remembered = self.known().until(&path, &version.id).filter(|ends| *ends > 0);
        let ends = match remembered.map_or_else(|| self.remote.retention(&path, &version.id).map(end), Ok) {
            Ok(ends) => ends,
            Err(_) if answers(self.remote) => 0, // as if it were not locked: then it is locked, or told
            Err(e) => return Err(e.into()),
        };
        self.known().learn(&path, &version.id, ends);
        let floor = self.request.now.seconds + i64::from(self.request.options.renew_below_days) * DAY_S;
        if !wanted.is_needed || ends >= floor {
            return Ok(());
        }
        if self.request.options.dry_run {
            self.did().renewed += 1;
            return Ok(());
        }
        self.lock(name, &path, &version.id)
    }

    /// Locks a version anew. One whose lock can't be renewed is a problem, and holds up no other.
    fn lock(&self, name: &Name, path: &str, id: &VersionId) -> Result<(), RepoError> {
        match extend(self.remote, path, id, self.ends())? {
            Extended::Renewed(ends) => {
                self.known().learn(path, id, ends);
                self.did().renewed += 1;
            }
            Extended::Longer(ends) => self.known().learn(path, id, ends),
            Extended::Refused { ends, why } => {
                if let Some(ends) = ends {
                    self.known().learn(path, id, ends);
                }
                self.problem(
                    name,
                    format!("its lock ends too soon and can't be renewed: {why}; look for who else may lock in the bucket, then run it again"),
                );
            }
        }
        Ok(())
    }

    /// Returns when a lock ends that begins now.
    fn ends(&self) -> Time {
        Time::new(self.request.now.seconds + i64::from(self.request.options.lock_days) * DAY_S, 0)
    }
}
