//! Removes from a bucket what no manifest needs and whose lock is over: manifests first, packs last.
//!
//! The one thing that could lose data for good. What can't be accounted for stays, and is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::id::{KeyFileId, PackId, SnapshotId};
use crate::op::sync::absent::Absent;
use crate::op::sync::bucket::Bucket;
use crate::op::sync::needs::{Needing, Wanted, kept, shared};
use crate::op::sync::refused::attempt;
use crate::op::sync::{DAY_S, Kept, Problem, Report, Request};
use crate::repo::bucket_state::BucketState;
use crate::repo::index::{Index, read_fragment};
use crate::repo::keys::KeyInfo;
use crate::repo::reach::Reach;
use crate::repo::reader::{Reader, TREE_CACHE_BYTES};
use crate::repo::{RepoError, Repository, Snapshot};
use crate::store::{BothStores, Folder, LockingStore, Name, Store, StoreError, Version, VersionId};

/// So many snapshots that would go are no mistake, whatever share of all they are.
const FEW: usize = 3;

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
    /// What is in the bucket and not here.
    pub absent: &'d Absent,
    /// Why it is not known what is needed, if it is not.
    pub blind: Option<String>,
    /// Local files that belong into the bucket.
    pub wanted: &'d BTreeMap<Name, Wanted>,
    /// What a dry run would have put.
    pub would_put: &'d BTreeSet<Name>,
    /// Whether anything could be put; else the bucket was too dear.
    pub may_put: bool,
    /// What is asked for.
    pub request: &'d Request<'d>,
}

/// The manifests in the bucket.
#[derive(Default)]
struct Manifests {
    /// Those that the local repository has forgotten, and whose lock is over.
    going: Vec<Name>,
    /// Those that it does not have and that stay.
    staying: Vec<Snapshot>,
    /// Whether there are some that can't be read.
    has_unknown: bool,
    /// How many count: all but those whose place others have taken.
    count: usize,
    /// How many of them go, now or as soon as the locks end that were set together with those that are over.
    forgotten: usize,
    /// Whether one of these goes now.
    has_begun: bool,
}

impl Delete<'_> {
    /// Removes what may go; nothing, and tells why, where that could lose something. Where the bucket
    /// refuses one of them, nothing goes that others name: its packs stay as long as a manifest.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Interrupted`]; what went until then is told in the report.
    pub fn run(&self, known: &mut BucketState, report: &mut Report) -> Result<(), RepoError> {
        if let Some(what) = self.blind.clone() {
            report.problems.push(Problem { path: self.remote.location(), what });
            return Ok(());
        }
        if let Some(doubt) = self.doubt(known) {
            report.problems.push(doubt);
            return Ok(());
        }
        let both: Arc<dyn Store> = Arc::new(BothStores::new(self.local.clone(), self.remote.clone()));
        let both = self.repository.over(both)?;
        let manifests = self.manifests(&both, known, report)?;
        if let Some(mistake) = self.mistake(&manifests) {
            report.problems.push(mistake);
            if !self.request.options.dry_run {
                return Ok(());
            }
        }
        let needed = match manifests.has_unknown {
            true => None,
            false => self.needs(&both, manifests.staying, known, report)?,
        };
        let mut names = manifests.going;
        self.unneeded(&both, needed.as_ref(), &mut names, report)?;
        let order = |name: &Name| match name.folder() {
            Some(Folder::Snapshots) => 0,
            Some(Folder::Index) => 1,
            Some(Folder::Packs) => 2,
            _ => 3,
        };
        names.sort_by_key(|name| (order(name), *name));
        let mut refused = None;
        for name in names {
            if refused.is_some_and(|refused| refused < order(&name)) {
                break; // what is left there may name it
            }
            if self.request.progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            for version in self.bucket.of(&name) {
                if !self.remove(version, known, report)? {
                    refused = Some(order(&name));
                }
            }
        }
        Ok(())
    }

    /// Says why nothing may go: what looks as if nobody needed it may be the last good copy of something
    /// that has not come into the bucket in another pack.
    fn doubt(&self, known: &BucketState) -> Option<Problem> {
        let mut known = known.clone();
        for name in self.would_put {
            known.learn(&name.to_string(), &VersionId("to be put".to_owned()), 0);
        }
        let mut all = kept(self.needing, &shared(self.wanted, self.may_put), &known);
        if !self.may_put {
            // What waits for a higher limit is in nobody's way, but something must be there.
            all.retain(|kept| self.is_there(&Name::Snapshot(kept.id)));
        }
        let way_out = match self.may_put {
            true => "put right what is told of other files, and run it again",
            false => "raise the limit, so that 'snap sync' can put what it lacks, and run it again",
        };
        let broken: Vec<&Kept> = all.iter().filter(|kept| !kept.is_whole).collect();
        let (path, why) = match broken.first() {
            Some(first) => {
                let why = format!(
                    "{} of {} snapshots are not whole there, this one first",
                    broken.len(),
                    all.len()
                );
                (Name::Snapshot(first.id).to_string(), why)
            }
            None if all.is_empty() => {
                (self.remote.location(), "none of the local snapshots is there".to_owned())
            }
            None => return None,
        };
        Some(Problem { path, what: format!("nothing is removed from the bucket: {why}; {way_out}") })
    }

    /// Returns whether a file was in the bucket before this run.
    fn is_there(&self, name: &Name) -> bool {
        self.bucket.of(name).iter().any(|version| !version.is_marker)
    }

    /// Returns whether a file is in the bucket, or would be if this were not a dry run.
    fn has(&self, name: &Name, known: &BucketState) -> bool {
        self.is_there(name) || self.would_put.contains(name) || known.latest(&name.to_string()).is_some()
    }

    /// Says why so many snapshots would hardly be forgotten by intent.
    fn mistake(&self, manifests: &Manifests) -> Option<Problem> {
        let Manifests { forgotten, count, .. } = manifests;
        if self.request.options.force || !manifests.has_begun || *forgotten <= FEW || *forgotten <= count / 2
        {
            return None;
        }
        let what = format!(
            "nothing is removed: {forgotten} of its {count} snapshots are not in the local repository and would go, now or in some days, more than half; if they were lost here, 'snap clone' brings them back; look at it with --dry-run, and use --force if it is meant"
        );
        Some(Problem { path: self.remote.location(), what })
    }

    /// Adds what no manifest needs, other than manifests; no pack if it is not known which are `needed`.
    fn unneeded(
        &self,
        both: &Repository,
        needed: Option<&BTreeSet<PackId>>,
        names: &mut Vec<Name>,
        report: &mut Report,
    ) -> Result<(), RepoError> {
        let absent = || self.bucket.names.keys().filter(|name| !self.wanted.contains_key(name));
        let has_keys = absent().any(|name| matches!(name, Name::Key(_)));
        let replaced_keys = if has_keys { self.replaced_keys(both)? } else { BTreeSet::new() };
        for name in absent() {
            let may_go = match name {
                Name::Config | Name::Snapshot(_) => false,
                Name::Pack(id) => needed.is_some_and(|needed| !needed.contains(id)),
                Name::Fragment(id) => match (needed, read_fragment(both, *id)) {
                    (Some(needed), Ok(fragment)) => {
                        !fragment.packs.iter().any(|pack| needed.contains(&pack.id))
                    }
                    (None, _) => false,
                    (_, Err(e)) => {
                        report.notes.push(format!("{name}: left alone: {}", e.chain()));
                        false
                    }
                },
                Name::Key(id) => replaced_keys.contains(id),
                Name::Condemned(_) | Name::Forgotten(_) => true,
            };
            if may_go {
                names.push(*name);
            }
        }
        Ok(())
    }

    /// Returns the key files for whose recipient the local repository has one of its own. Any other may be
    /// all that opens what is there, and is small.
    fn replaced_keys(&self, both: &Repository) -> Result<BTreeSet<KeyFileId>, RepoError> {
        let local: Vec<KeyInfo> = self.repository.key_files()?.into_iter().filter_map(Result::ok).collect();
        let has_own =
            |recipient: &str| local.iter().any(|own| own.is_proven && own.recipient() == Some(recipient));
        let all = both.key_files()?.into_iter().filter_map(Result::ok);
        Ok(all.filter(|info| info.recipient().is_some_and(has_own)).map(|info| info.id).collect())
    }

    /// Parts the manifests that the local repository does not have: those that it has forgotten and whose
    /// lock is over, and those that stay.
    fn manifests(
        &self,
        both: &Repository,
        known: &BucketState,
        report: &mut Report,
    ) -> Result<Manifests, RepoError> {
        let replaced = self.replaced(both);
        let options = self.request.options;
        // All locks that were renewed when it was last known what is needed end within so many days.
        let spread_s = i64::from(options.lock_days.saturating_sub(options.renew_below_days)) * DAY_S;
        let mut parted = Manifests::default();
        for (name, versions) in &self.bucket.names {
            let Name::Snapshot(id) = name else { continue };
            if !self.is_there(name) || self.absent.strange.contains(name) {
                continue;
            }
            let is_replaced = replaced.contains(id);
            if self.wanted.contains_key(name) {
                parted.count += usize::from(!is_replaced);
                continue;
            }
            if !self.absent.forgotten.contains(id) {
                let what = "what it needs is not known, so no pack is removed; if it is not yours, remove it by hand";
                report.problems.push(Problem { path: name.to_string(), what: what.to_owned() });
                parted.has_unknown = true;
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
                    parted.has_unknown = true;
                    continue;
                }
            };
            let is_over = self.are_over(versions, known, 0, report)?;
            let is_soon_over = is_over || self.are_over(versions, known, spread_s, report)?;
            parted.count += usize::from(!is_replaced);
            parted.forgotten += usize::from(is_soon_over && !is_replaced);
            parted.has_begun |= is_over && !is_replaced;
            match is_over {
                true => parted.going.push(*name),
                false => parted.staying.push(Snapshot { id: *id, manifest }),
            }
        }
        Ok(parted)
    }

    /// Returns whether the locks of all versions are over in so many seconds.
    fn are_over(
        &self,
        versions: &[Version],
        known: &BucketState,
        in_s: i64,
        report: &mut Report,
    ) -> Result<bool, RepoError> {
        for version in versions.iter().filter(|version| !version.is_marker) {
            if self.is_locked(version, known, in_s, report)?.unwrap_or(true) {
                return Ok(false);
            }
        }
        Ok(true)
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

    /// Returns the packs that manifests need which stay; none if that can't be known, or if one needs a pack
    /// that is only here: the bucket may have the same in another one.
    fn needs(
        &self,
        both: &Repository,
        staying: Vec<Snapshot>,
        known: &BucketState,
        report: &mut Report,
    ) -> Result<Option<BTreeSet<PackId>>, RepoError> {
        let mut needed: BTreeSet<PackId> =
            self.needing.iter().flat_map(|one| one.packs.iter().copied()).collect();
        if staying.is_empty() {
            return Ok(Some(needed));
        }
        let reader = Reader::new(both, Index::open_without_cache(both)?, TREE_CACHE_BYTES);
        let mut reach = Reach::new(&reader, self.request.progress);
        for snapshot in staying {
            let needs = reach.of(&snapshot)?;
            let absent = || needs.packs.iter().map(|id| Name::Pack(*id)).find(|name| !self.has(name, known));
            let absent = || absent().map(|name| format!("{name} is not in the bucket"));
            if let Some(lacking) = needs.lacking.or_else(absent) {
                let what = format!("what it needs is not known, so no pack is removed: {lacking}");
                report.problems.push(Problem { path: Name::Snapshot(snapshot.id).to_string(), what });
                return Ok(None);
            }
            needed.extend(needs.packs);
        }
        Ok(Some(needed))
    }

    /// Returns whether a version will be locked in so many seconds; none, and tells why, if that can't be read.
    fn is_locked(
        &self,
        version: &Version,
        known: &BucketState,
        in_s: i64,
        report: &mut Report,
    ) -> Result<Option<bool>, RepoError> {
        let then = self.request.now.seconds.saturating_add(in_s);
        if known.until(&version.path, &version.id).is_some_and(|until| until > then) {
            return Ok(Some(true));
        }
        let read = || Ok(self.remote.retention(&version.path, &version.id)?);
        match attempt(self.remote.as_ref(), self.request, read)? {
            Ok(found) => Ok(Some(found.is_some_and(|found| found.until.seconds > then))),
            Err(why) => {
                let what = format!(
                    "its lock can't be read, so it counts as locked: {why}; the next run tries it again"
                );
                let problem = Problem { path: version.path.clone(), what };
                if !report.problems.contains(&problem) {
                    report.problems.push(problem);
                }
                Ok(None)
            }
        }
    }

    /// Removes a version if its lock is over. Returns whether the bucket did what it was asked; else it is told.
    fn remove(
        &self,
        version: &Version,
        known: &mut BucketState,
        report: &mut Report,
    ) -> Result<bool, RepoError> {
        if version.is_marker {
            report.notes.push(format!("{}: a deletion lies on it; left alone", version.path));
            return Ok(true);
        }
        match self.is_locked(version, known, 0, report)? {
            Some(false) => {}
            is_locked => return Ok(is_locked.is_some()),
        }
        if !self.request.options.dry_run {
            let delete = || match self.remote.delete_version(&version.path, &version.id) {
                Ok(()) | Err(StoreError::Missing { .. }) => Ok(()),
                Err(e) => Err(e.into()),
            };
            if let Err(why) = attempt(self.remote.as_ref(), self.request, delete)? {
                let what = format!("not removed from the bucket: {why}; the next run tries it again");
                report.problems.push(Problem { path: version.path.clone(), what });
                return Ok(false);
            }
            known.forget(&version.path, &version.id);
        }
        report.deleted += 1;
        report.bytes_deleted += version.bytes;
        Ok(true)
    }
}
