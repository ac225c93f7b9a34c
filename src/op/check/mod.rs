//! A repository → what of it is damaged, and which paths of which snapshots that hurts.
//!
//! From the small to the large: configuration and keys; manifests; fragments, and the packs they
//! list; what the packs hold, if asked for; the cache; and last every tree of every snapshot, when
//! it is known which chunks can't be had.

mod cache;
mod condemned;
mod findings;
mod forgotten;
mod frames;
mod keys;
mod ledger;
mod packs;
mod pieces;
mod prints;
mod repair;
mod since;
mod subset;
mod walk;

use crate::base::id::{PackId, SnapshotId};
use crate::base::progress::Progress;
use crate::op::check::cache::check_cache;
use crate::op::check::condemned::{check_condemned, tell_condemned};
use crate::op::check::findings::{Findings, PUT_BACK, told};
use crate::op::check::forgotten::check_forgotten;
use crate::op::check::keys::{check_config, check_config_proof, check_keys};
use crate::op::check::ledger::read_ledger;
use crate::op::check::packs::{Counts, PackCheck};
use crate::op::check::repair::Repair;
use crate::op::check::since::tell_orphans;
use crate::op::check::walk::Walk;
use crate::repo::keys::Secrets;
use crate::repo::reader::{Reader, TREE_CACHE_BYTES};
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, Name};

pub use keys::unopened;
pub use subset::Subset;

/// What a check is asked for.
pub struct Request<'a> {
    /// Read every pack whole and hash it.
    pub read_packs: bool,
    /// Also open every frame and hash every chunk; needs the key where there is encryption.
    pub read_data: bool,
    /// Which packs are read; all if none.
    pub subset: Option<Subset>,
    /// Draws the packs of a [`Subset::Percent`].
    pub seed: u64,
    /// Make anew what can be made anew without guessing.
    pub repair: bool,
    /// Threads that open frames and hash chunks; one more reads, and one hashes packs.
    pub threads: usize,
    /// Shown to whoever waits; and asked whether to stop.
    pub progress: &'a Progress,
}

/// A repository file that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its path in the repository; `keys/` for one that is gone, whose name nobody knows.
    pub path: String,
    /// What is wrong with it and what to do, in one line.
    pub what: String,
}

/// A path that can't be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hurt {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The path in it; empty for its root. Of a directory that is hurt itself, all that is below is.
    pub path: Vec<u8>,
    /// Why.
    pub reason: String,
}

/// What a check found.
#[derive(Debug, Default)]
#[must_use = "damage that nobody hears of is not mended"]
pub struct Report {
    /// Damaged files, by path. What was repaired is still among them.
    pub damages: Vec<Damage>,
    /// Paths that can't be restored, snapshot by snapshot, oldest first.
    pub hurt: Vec<Hurt>,
    /// Snapshots whose trees were walked.
    pub snapshots: u64,
    /// Distinct trees read.
    pub trees: u64,
    /// Entries met in them.
    pub entries: u64,
    /// Fragments that read.
    pub fragments: u64,
    /// Packs that are listed or there.
    pub packs: u64,
    /// Chunks in the packs that are there, as far as is listed.
    pub chunks: u64,
    /// Packs that were read whole.
    pub packs_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Chunks that were hashed.
    pub chunks_read: u64,
    /// Frames that could not be judged: they are sealed to none of the identities at hand.
    pub frames_closed: u64,
    /// What was made anew.
    pub repaired: Vec<String>,
    /// What is worth knowing and no damage.
    pub notes: Vec<String>,
}

impl Report {
    /// Returns whether nothing is damaged, as far as was looked.
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty() && self.hurt.is_empty()
    }
}

/// Checks a repository. Changes nothing unless asked to repair.
///
/// Memory: 9 bytes a chunk, and a few frames a thread.
///
/// # Errors
/// [`RepoError::Store`] if a folder can't be listed, [`RepoError::Locked`] or
/// [`RepoError::WrongPassphrase`] if data is to be read without a key, [`RepoError::Interrupted`].
/// Damage is no error: see [`Report::damages`].
pub fn check(
    repository: &Repository,
    secrets: &dyn Secrets,
    request: &Request<'_>,
) -> Result<Report, RepoError> {
    if request.read_data {
        match repository.unlock(secrets) {
            Ok(_) | Err(RepoError::KeysDamaged { .. }) => {} // which is found, and told, below
            Err(e) => return Err(e),
        }
    }
    let mut findings = Findings::default();
    let mut report = Report::default();
    check_config(repository, &mut findings);
    repository.store().strangers()?.into_iter().for_each(|path| findings.foreign(path));
    let identities = repository.identities().unwrap_or_default();
    let keys = check_keys(repository, identities, &mut findings)?;
    let marks = check_condemned(repository, &mut findings)?;
    check_forgotten(repository, &mut findings)?;

    // Manifests before fragments, fragments before packs: what a run adds meanwhile is no damage.
    let snapshots = repository.snapshots()?;
    for (path, error) in &snapshots.unreadable {
        let what = told(error, path);
        findings.damage(path, format!("{what}; the snapshot is lost; {PUT_BACK}"));
    }
    check_config_proof(repository, &snapshots.all, &mut findings);
    for file in repository.store().list(Folder::Snapshots)? {
        if !matches!(file.name, Some(Name::Snapshot(_))) {
            findings.foreign(file.path);
        }
    }
    let (ledger, index) = read_ledger(repository, &marks, &mut findings)?;
    tell_condemned(&marks, &ledger, &mut findings);
    let reader = Reader::new(repository, index, TREE_CACHE_BYTES).without_fallback();
    report.packs = ledger.packs.len() as u64;
    report.chunks = ledger.chunks;
    report.fragments = ledger.fragments.len() as u64;

    let reads = request.read_packs || request.read_data;
    let counts = match reads {
        false => Counts::default(),
        true => {
            let all: Vec<PackId> = ledger.packs.keys().copied().collect();
            let chosen = request.subset.map_or(all.clone(), |subset| subset.of(all, request.seed));
            let (ledger, reader) = (&ledger, &reader);
            let packs = PackCheck { reader, ledger, threads: request.threads, progress: request.progress };
            packs.check(&chosen, request.read_data, &mut findings)?
        }
    };
    report.packs_read = counts.packs;
    report.bytes_read = counts.bytes;
    report.chunks_read = counts.chunks;
    report.frames_closed = counts.closed;
    let cache = check_cache(repository, &ledger, reads, &mut findings)?;

    let mut walk = Walk::new(&reader, &ledger.prints, &mut findings, request.progress);
    for snapshot in &snapshots.all {
        walk.snapshot(snapshot)?;
    }
    (report.trees, report.entries) = (walk.trees, walk.entries);
    report.snapshots = snapshots.all.len() as u64;
    findings.judge_gone(snapshots.unreadable.is_empty());
    let orphans = tell_orphans(repository, &ledger, &mut findings)?;
    if request.repair {
        let (ledger, whole, progress) = (&ledger, &counts.whole, request.progress);
        let repair = Repair { repository, ledger, keys: &keys, orphans: &orphans, whole, cache, progress };
        report.repaired = repair.run(&mut findings)?;
    }
    if report.frames_closed > 0 {
        let what = "frames are sealed to none of the identities at hand, and were not judged";
        findings.notes.push(format!("packs/: {} {what}", report.frames_closed));
    }
    report.damages = findings.take_damages();
    report.notes = findings.take_notes();
    report.hurt = findings.hurt;
    Ok(report)
}
