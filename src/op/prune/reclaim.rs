//! What is kept → what is condemned, repacked and swept; the steps in their order.

mod repacking;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::base::condemned::{ClosedFrames, Condemned};
use crate::base::id::{ChunkId, PackId, SnapshotId};
use crate::base::time::Time;
use crate::op::prune::forget::{Judgement, manifests_present};
use crate::op::prune::ledger::{Ledger, Origin, Pack, read_ledger};
use crate::op::prune::mark::{Marker, Needed, Reached};
use crate::op::prune::plan::{Plan, amount};
use crate::op::prune::survey::Survey;
use crate::op::prune::{Amount, Report, Request};
use crate::repo::condemned::Marks;
use crate::repo::index::{Index, Presence};
use crate::repo::reader::Reader;
use crate::repo::room::Room;
use crate::repo::sweep::{drop_unreadable, settle_marks, sweep};
use crate::repo::{RepoError, Repository, Snapshot};
use crate::store::{Folder, LockMode, Name, StoreError};

/// Memory for frames of trees, in bytes: each is read once, those again that hold trees which must be read whole.
const SURVEY_CACHE_BYTES: usize = 4 << 20;

/// The space side of a prune.
pub struct Reclaim<'r> {
    repository: &'r Repository,
    request: &'r Request<'r>,
    ledger: Ledger,
    marks: Marks,
    reached: Reached,
    plan: Plan,
}

impl<'r> Reclaim<'r> {
    /// Finds out what the kept snapshots need, and plans. Changes nothing.
    ///
    /// # Errors
    /// [`RepoError::Refused`] if that can't be found out; [`RepoError::Store`], [`RepoError::Interrupted`].
    pub fn plan(
        repository: &'r Repository,
        request: &'r Request<'r>,
        judgement: &Judgement,
    ) -> Result<(Self, Report), RepoError> {
        let marks = repository.marks()?;
        let (mut ledger, index) = read_ledger(repository, &marks)?;
        let reader = Reader::new(repository, index, SURVEY_CACHE_BYTES).without_fallback();
        let survey = Survey::take(&reader, &|id| ledger.best_copy(id), request.progress)?;
        let mut reached = Reached::new(survey);
        let mut need = |needed| match needed {
            Needed::Chunk(chunk) => ledger.need(chunk),
            Needed::Copy(number) => ledger.need_copy(number),
        };
        let marker = Marker::new(&mut reached, &reader, &mut need, request.progress);
        let missing = marker.mark(judgement.kept.iter())?;
        drop(reader);
        ledger.weigh(repository)?;
        let plan = Plan::make(repository, &ledger, &marks, request);
        ledger.forget_ids();
        let reclaim = Self { repository, request, ledger, marks, reached, plan };
        let report = reclaim.expected(judgement, missing)?;
        Ok((reclaim, report))
    }

    /// Returns the report of a run that does all that is planned.
    fn expected(&self, judgement: &Judgement, missing: u64) -> Result<Report, RepoError> {
        let found = self.repository.store().list(Folder::Packs)?;
        let bytes_before = found.iter().filter(|found| found.name.is_some()).map(|found| found.bytes).sum();
        let mut report = Report {
            snapshots: judgement.rows.clone(),
            refusals: judgement.refusals.clone(),
            condemned: amount(&self.ledger, &self.plan.dead),
            repacked: amount(&self.ledger, &self.plan.repack),
            written: self.to_be_written(),
            frames_closed: self.plan.frames_closed,
            rescued: amount(&self.ledger, &self.plan.rescued),
            deleted: amount(&self.ledger, &self.plan.due),
            waiting: amount(&self.ledger, &self.plan.waiting),
            bytes_before,
            ..Report::default()
        };
        let marked = report.condemned.plus(report.repacked);
        match self.request.at_once {
            true => report.deleted = report.deleted.plus(marked),
            false => report.waiting = report.waiting.plus(marked),
        }
        report.bytes_after =
            (report.bytes_before + report.written.bytes).saturating_sub(report.deleted.bytes);
        report.notes.extend(self.ledger.problems.iter().cloned());
        report.notes.extend(self.marks.unreadable.iter().map(|(_, error)| error.chain()));
        if missing > 0 {
            report.notes.push(format!(
                "{missing} references of kept snapshots lead to chunks that no pack holds; 'snap check' names what is hurt"
            ));
        }
        Ok(report)
    }

    /// Returns about how much repacking writes.
    fn to_be_written(&self) -> Amount {
        let pack_bytes = u64::from(self.repository.config().pack_bytes);
        let mut written = Amount::default();
        for is_tree in [false, true] {
            let packs = self.plan.repack.iter().map(|place| &self.ledger.packs[*place]);
            let frames = packs.filter(|pack| pack.is_tree == is_tree).flat_map(|pack| pack.frames.clone());
            let bytes: u64 = frames.map(|frame| self.ledger.frames[frame].live_stored()).sum();
            written = written.plus(Amount { packs: bytes.div_ceil(pack_bytes), bytes });
        }
        written
    }

    /// Finds out whether what is to be condemned could be noted now: nothing is forgotten before. With `at_once` a full
    /// disk is no hindrance.
    ///
    /// # Errors
    /// [`RepoError::Refused`] if the disk is full, [`RepoError::Store`]; nothing was changed.
    pub fn try_to_write(&self) -> Result<(), RepoError> {
        let plan = &self.plan;
        let packs: Vec<PackId> = self.ids(&plan.dead).into_iter().chain(self.ids(&plan.repack)).collect();
        if packs.is_empty() && plan.rescued.is_empty() && plan.closed.is_empty() {
            return Ok(());
        }
        let time = self.request.now;
        let list = Condemned { time, due: time, packs, closed: plan.closed.clone() };
        match self.repository.try_condemned(&list) {
            Err(e) if e.is_full() && self.request.at_once => Ok(()),
            Err(e) if e.is_full() => Err(RepoError::Refused {
                what: format!(
                    "the disk is full ({}), and a prune notes what is to go before it goes: nothing was changed; 'snap prune --now' gives back at once what no snapshot needs, and needs no room for it",
                    e.chain()
                ),
            }),
            tried => tried,
        }
    }

    /// Condemns what nothing needs, repacks, and condemns what was repacked. The steps, each durable
    /// before the next: rescued packs are unmarked; dead ones are marked; new packs, then the fragments
    /// that list them; the old packs are marked, and frames closed. With `at_once` what is marked goes right away, and
    /// on a full disk before it is marked.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Interrupted`]; what was done so far stays.
    pub fn condemn(&self, report: &mut Report) -> Result<(), RepoError> {
        let doomed = if self.request.at_once { self.doomed() } else { Vec::new() };
        let mut room = Room::of(self.repository, doomed.iter().copied());
        let rescued = self.ids(&self.plan.rescued);
        let is_damaged = |error: &RepoError| error.is_damage() && !error.is_newer();
        let mut is_tidy =
            settle_marks(self.repository, &self.marks, &mut room, |pack| !rescued.contains(pack))?;
        let damaged = self.marks.unreadable.iter().filter(|(_, error)| is_damaged(error));
        drop_unreadable(self.repository, damaged.map(|(id, _)| *id))?;
        is_tidy &= self.mark(self.ids(&self.plan.dead).into_iter().collect(), Vec::new(), &mut room)?;
        is_tidy &= self.delete(&doomed.into_iter().collect(), &mut room)?; // room for what is written next
        is_tidy &= self.repack(report)?;
        if !is_tidy {
            report.notes.push(
                "the disk is full: what no snapshot needs is deleted, and the index still lists some of it, which harms nothing; a later prune tidies up".to_owned(),
            );
        }
        Ok(())
    }

    fn ids(&self, places: &[usize]) -> BTreeSet<PackId> {
        places.iter().map(|place| self.ledger.packs[*place].id).collect()
    }

    /// Packs that go at once if nobody else uses the repository: all that nothing needs. First those that nothing names,
    /// then those that are condemned already; the largest of each first.
    fn doomed(&self) -> Vec<PackId> {
        let marked = self.marks.packs();
        let mut doomed: Vec<&Pack> =
            self.plan.dead.iter().chain(&self.plan.due).map(|place| &self.ledger.packs[*place]).collect();
        doomed.sort_by_key(|pack| {
            let is_listed = pack.origin == Origin::Listed;
            (is_listed, is_listed && !marked.contains_key(&pack.id), Reverse(pack.bytes))
        });
        doomed.into_iter().map(|pack| pack.id).collect()
    }

    /// Condemns packs and closes frames. With `at_once` that may stay undone on a full disk: all packs of `room` are gone
    /// then. Returns whether it was done.
    fn mark(
        &self,
        packs: Vec<PackId>,
        closed: Vec<ClosedFrames>,
        room: &mut Room<'_>,
    ) -> Result<bool, RepoError> {
        if packs.is_empty() && closed.is_empty() {
            return Ok(true);
        }
        let time = self.request.now;
        let grace = if self.request.at_once { 0 } else { self.request.grace.as_secs() };
        let grace = i64::try_from(grace).unwrap_or(i64::MAX);
        let due = Time::new(time.seconds.saturating_add(grace), time.nanos);
        let list = Condemned { time, due, packs, closed };
        let write = || self.repository.put_condemned(&list);
        match self.request.at_once {
            true => Ok(room.write_if_it_fits(write)?.is_some()),
            false => write().map(|_| true),
        }
    }

    /// Deletes packs, which `room` is to hold. Returns whether the index and the lists are up to date.
    fn delete(&self, packs: &BTreeSet<PackId>, room: &mut Room<'_>) -> Result<bool, RepoError> {
        if packs.is_empty() {
            return Ok(true);
        }
        let is_swept = sweep(self.repository, packs, room)?;
        let marks = self.repository.marks()?;
        Ok(settle_marks(self.repository, &marks, room, |pack| !packs.contains(pack))? && is_swept)
    }

    /// Deletes what was condemned by earlier runs and is due. Takes the repository's lock alone, for no
    /// run that could need such a pack may be under way; if others hold it, nothing is deleted.
    ///
    /// # Errors
    /// [`RepoError::Store`]; what was deleted stays so.
    pub fn sweep(&mut self, judgement: &Judgement, report: &mut Report) -> Result<(), RepoError> {
        let mut swept: Vec<usize> = Vec::new();
        if !self.plan.due.is_empty() {
            let (patience, progress) = (self.request.lock_patience, self.request.progress);
            match self.repository.lock_patiently(LockMode::Exclusive, patience, progress) {
                Ok(_alone) => {
                    swept = self.still_unneeded(judgement, report)?;
                    let packs = self.ids(&swept);
                    self.delete(&packs, &mut Room::of(self.repository, packs.iter().copied()))?;
                }
                Err(RepoError::Store(StoreError::Locked { .. })) => {
                    report
                        .notes
                        .push("the repository is in use: what is due goes with a later prune".to_owned());
                }
                Err(e) => return Err(e),
            }
        }
        let planned = report.deleted;
        report.deleted = amount(&self.ledger, &swept);
        report.waiting = report.waiting.plus(planned.minus(report.deleted));
        Ok(())
    }

    /// Returns those packs that are due and that nothing needs, now that no other run is under way.
    fn still_unneeded(
        &mut self,
        judgement: &Judgement,
        report: &mut Report,
    ) -> Result<Vec<usize>, RepoError> {
        let mut later = |why: &str| {
            report.notes.push(format!("{why}: what is due goes with a later prune"));
            Ok(Vec::new())
        };
        let mut fragments = BTreeSet::new();
        for found in self.repository.store().list(Folder::Index)? {
            if let Some(Name::Fragment(id)) = found.name {
                fragments.insert(id);
            }
        }
        if !self.ledger.fragments.is_subset(&fragments) {
            return later("another prune was at work");
        }
        let present = manifests_present(self.repository)?;
        let known: BTreeSet<SnapshotId> = judgement.kept.iter().map(|snapshot| snapshot.id).collect();
        let mut new = Vec::new();
        for id in present.difference(&known) {
            match self.repository.manifest(*id) {
                Ok(manifest) => new.push(Snapshot { id: *id, manifest }),
                Err(_) => return later("a manifest that is new cannot be read"),
            }
        }
        let needed = match self.needed_by(&new) {
            Ok(needed) => needed,
            Err(RepoError::Refused { .. }) => return later("a snapshot that is new cannot be read"),
            Err(e) => return Err(e),
        };
        let due = self.repository.marks()?.packs();
        let mut there = BTreeSet::new();
        for found in self.repository.store().list(Folder::Packs)? {
            if let Some(Name::Pack(id)) = found.name {
                there.insert(id);
            }
        }
        let is_due = |place: &usize| {
            let pack = &self.ledger.packs[*place];
            let is_marked = due.get(&pack.id).is_some_and(|due| *due <= self.request.now);
            is_marked || (pack.presence == Presence::Gone && !there.contains(&pack.id))
        };
        let swept = self.plan.due.iter().filter(|place| is_due(place) && !needed.contains(place));
        Ok(swept.copied().collect())
    }

    /// Returns which of the packs that are due hold something that these snapshots need, and that was
    /// needed by none when it was planned.
    fn needed_by(&mut self, snapshots: &[Snapshot]) -> Result<BTreeSet<usize>, RepoError> {
        let mut needed = BTreeSet::new();
        if snapshots.is_empty() {
            return Ok(needed);
        }
        let due: BTreeSet<usize> = self.plan.due.iter().copied().collect();
        let mut watched: Vec<(ChunkId, usize)> = Vec::new();
        let place_of = |frame: usize| self.ledger.packs.partition_point(|pack| pack.frames.end <= frame);
        self.ledger.each_copy(self.repository, |frame, _, chunk| {
            let place = place_of(frame);
            if due.contains(&place) {
                watched.push((chunk.id, place));
            }
        })?;
        watched.sort_unstable();
        let mut need = |wanted| {
            match wanted {
                Needed::Copy(number) => {
                    let place = place_of(self.ledger.frame_number(number));
                    needed.extend(due.contains(&place).then_some(place));
                }
                Needed::Chunk(chunk) => {
                    let first = watched.partition_point(|(id, _)| *id < chunk.id);
                    let own = watched[first..].iter().take_while(|(id, _)| *id == chunk.id);
                    needed.extend(own.map(|(_, place)| *place));
                }
            }
            true
        };
        // What the kept snapshots need as well was reached, and lies in packs that stay.
        let reader = Reader::new(self.repository, Index::open(self.repository)?, SURVEY_CACHE_BYTES);
        Marker::new(&mut self.reached, &reader, &mut need, self.request.progress).mark(snapshots.iter())?;
        Ok(needed)
    }

    /// Measures what is left.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn measure(&self, report: &mut Report) -> Result<(), RepoError> {
        let found = self.repository.store().list(Folder::Packs)?;
        report.bytes_after = found.iter().filter(|found| found.name.is_some()).map(|found| found.bytes).sum();
        report.frames_closed = self.plan.frames_closed;
        Ok(())
    }
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        Self { packs: self.packs + other.packs, bytes: self.bytes + other.bytes }
    }

    fn minus(self, other: Self) -> Self {
        Self { packs: self.packs.saturating_sub(other.packs), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}
