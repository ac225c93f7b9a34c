//! Removes from a bucket what no manifest needs and whose lock is over: manifests first, packs last.
//!
//! The one thing that could lose data for good. What can't be accounted for stays, and is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::id::{PackId, SnapshotId};
use crate::op::sync::bucket::Bucket;
use crate::op::sync::reach::Reach;
use crate::op::sync::{Needing, Problem, Report, Request, Wanted};
use crate::repo::bucket_state::BucketState;
use crate::repo::index::{Index, read_fragment};
use crate::repo::reader::{Reader, TREE_CACHE_BYTES};
use crate::repo::{RepoError, Repository, Snapshot};
use crate::store::{BothStores, Folder, LockingStore, Name, Store, StoreError, Version};

/// What a deletion works on.
pub struct Delete<'d> {
    /// The local repository.
    pub repository: &'d Repository,
    /// Its files.
    pub local: Arc<dyn Store>,
    /// The bucket.
    pub remote: Arc<dyn LockingStore>,
    /// What lies in it.
    pub bucket: &'d Bucket,
    /// The local snapshots, and what they need.
    pub needing: &'d [Needing],
    /// Local files that belong into the bucket.
    pub wanted: &'d BTreeMap<Name, Wanted>,
    /// What is asked for.
    pub request: &'d Request<'d>,
}

impl Delete<'_> {
    /// Removes what may go. Returns how many bytes went.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Interrupted`]; what went until then is told in the report.
    pub fn run(&self, known: &mut BucketState, report: &mut Report) -> Result<u64, RepoError> {
        let both: Arc<dyn Store> = Arc::new(BothStores::new(self.local.clone(), self.remote.clone()));
        let both = self.repository.over(both)?;
        let (going, staying) = self.manifests(&both, known, report)?;
        let needed = self.needs(&both, staying, report)?;
        let has_keys = self.wanted.keys().any(|name| matches!(name, Name::Key(_)));
        let mut names: Vec<Name> = going;
        for (name, _) in self.bucket.names.iter().filter(|(name, _)| !self.wanted.contains_key(name)) {
            let may_go = match name {
                Name::Config | Name::Snapshot(_) => false,
                Name::Pack(id) => needed.as_ref().is_some_and(|needed| !needed.contains(id)),
                Name::Fragment(id) => match (&needed, read_fragment(&both, *id)) {
                    (Some(needed), Ok(fragment)) => {
                        !fragment.packs.iter().any(|pack| needed.contains(&pack.id))
                    }
                    (None, _) => false,
                    (_, Err(e)) => {
                        report.notes.push(format!("{name}: left alone: {}", e.chain()));
                        false
                    }
                },
                Name::Key(_) => has_keys, // a repository that has lost its own leaves these alone
                Name::Condemned(_) => true,
            };
            if may_go {
                names.push(*name);
            }
        }
        let order = |name: &Name| match name.folder() {
            Some(Folder::Snapshots) => 0,
            Some(Folder::Index) => 1,
            Some(Folder::Packs) => 2,
            _ => 3,
        };
        names.sort_by_key(|name| (order(name), *name));
        let mut bytes = 0;
        for name in names {
            if self.request.progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            for version in self.bucket.of(&name) {
                bytes += self.remove(version, known, report)?;
            }
        }
        Ok(bytes)
    }

    /// Parts the manifests that the local repository does not have: those that it has forgotten and whose
    /// lock is over, and those that stay; none of these if one can't be read.
    fn manifests(
        &self,
        both: &Repository,
        known: &BucketState,
        report: &mut Report,
    ) -> Result<(Vec<Name>, Option<Vec<Snapshot>>), RepoError> {
        let replaced = self.replaced(both);
        let newest = self.needing.iter().map(|one| one.snapshot.manifest.time).max();
        let (mut going, mut staying, mut is_unknown) = (Vec::new(), Vec::new(), false);
        for (name, versions) in &self.bucket.names {
            let Name::Snapshot(id) = name else { continue };
            if self.wanted.contains_key(name) || versions.iter().all(|version| version.is_marker) {
                continue;
            }
            let manifest = match both.manifest(*id) {
                Ok(manifest) => manifest,
                Err(e) => {
                    let what = format!(
                        "what it needs is not known, so no pack is removed; if it is not yours, remove it by hand: {}",
                        e.chain()
                    );
                    report.problems.push(Problem { path: name.to_string(), what });
                    is_unknown = true;
                    continue;
                }
            };
            let is_newer = newest.is_none_or(|newest| manifest.time >= newest) && !replaced.contains(id);
            if is_newer {
                let what = "is newer than every snapshot of the local repository, which has not forgotten it but lost it, or another machine made it; kept, with all it needs".to_owned();
                report.problems.push(Problem { path: name.to_string(), what });
            }
            let mut is_over = true;
            for version in versions.iter().filter(|version| !version.is_marker) {
                is_over &= !self.is_locked(version, known)?;
            }
            match is_newer || !is_over {
                true => staying.push(Snapshot { id: *id, manifest }),
                false => going.push(*name),
            }
        }
        Ok((going, (!is_unknown).then_some(staying)))
    }

    /// Returns the manifests whose place others have taken, down to those of the local snapshots.
    fn replaced(&self, both: &Repository) -> BTreeSet<SnapshotId> {
        let mut all = BTreeSet::new();
        for one in self.needing {
            let mut next = one.snapshot.manifest.replaces;
            while let Some(id) = next.filter(|id| all.insert(*id)) {
                next = both.manifest(id).ok().and_then(|manifest| manifest.replaces);
            }
        }
        all
    }

    /// Returns the packs that manifests need which stay; none if that can't be known.
    fn needs(
        &self,
        both: &Repository,
        staying: Option<Vec<Snapshot>>,
        report: &mut Report,
    ) -> Result<Option<BTreeSet<PackId>>, RepoError> {
        let Some(staying) = staying else { return Ok(None) };
        let mut needed: BTreeSet<PackId> =
            self.needing.iter().flat_map(|one| one.packs.iter().copied()).collect();
        if staying.is_empty() {
            return Ok(Some(needed));
        }
        let reader = Reader::new(both, Index::open_without_cache(both)?, TREE_CACHE_BYTES);
        let mut reach = Reach::new(&reader, self.request.progress);
        for snapshot in staying {
            let needs = reach.of(&snapshot)?;
            if let Some(lacking) = needs.lacking {
                let what = format!("what it needs is not known, so no pack is removed: {lacking}");
                report.problems.push(Problem { path: Name::Snapshot(snapshot.id).to_string(), what });
                return Ok(None);
            }
            needed.extend(needs.packs);
        }
        Ok(Some(needed))
    }

    fn is_locked(&self, version: &Version, known: &BucketState) -> Result<bool, RepoError> {
        let now = self.request.now.seconds;
        if known.until(&version.path, &version.id).is_some_and(|until| until > now) {
            return Ok(true);
        }
        let found = self.remote.retention(&version.path, &version.id)?;
        Ok(found.is_some_and(|found| found.until.seconds > now))
    }

    fn remove(
        &self,
        version: &Version,
        known: &mut BucketState,
        report: &mut Report,
    ) -> Result<u64, RepoError> {
        if version.is_marker {
            report.notes.push(format!("{}: a deletion lies on it; left alone", version.path));
            return Ok(0);
        }
        if self.is_locked(version, known)? {
            return Ok(0);
        }
        if !self.request.options.dry_run {
            match self.remote.delete_version(&version.path, &version.id) {
                Ok(()) | Err(StoreError::Missing { .. }) => known.forget(&version.path, &version.id),
                Err(e) => return Err(e.into()),
            }
        }
        report.deleted += 1;
        report.bytes_deleted += version.bytes;
        Ok(version.bytes)
    }
}
