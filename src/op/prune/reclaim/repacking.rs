//! Packs of which a part is needed → new packs; on a full disk in rounds, each of which gives room for the next.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::PackId;
use crate::base::units::counted;
use crate::op::prune::plan::amount;
use crate::op::prune::reclaim::Reclaim;
use crate::op::prune::{Amount, Report};
use crate::repo::RepoError;
use crate::repo::index::Index;
use crate::repo::reader::Reader;
use crate::repo::repack::repack;
use crate::repo::room::{Before, Room};

impl Reclaim<'_> {
    /// Repacks, and condemns what was repacked. With `at_once` it goes right away, and where there is no room for all
    /// new packs at the same time, as many are made as fit. Returns whether the index is up to date.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Interrupted`]; what was done so far stays.
    pub fn repack(&self, report: &mut Report) -> Result<bool, RepoError> {
        let at_once = self.request.at_once;
        let reader = Reader::new(self.repository, Index::default(), 0);
        let mut left = self.plan.sources.clone();
        let (mut done, mut closed) = (BTreeSet::new(), self.plan.closed.clone());
        let (mut at_most, mut is_tidy) = (left.len(), true);
        report.written = Amount::default();
        while !left.is_empty() {
            let count = at_most.min(left.len());
            let some = &left[..count];
            let before = if at_once { Some(Before::now(self.repository)?) } else { None };
            let made = match (repack(self.repository, &reader, some, self.request.progress), before) {
                (Err(e), Some(before)) if e.is_full() => {
                    before.restore(self.repository)?;
                    if count == 1 {
                        break;
                    }
                    at_most = count / 2;
                    let live: BTreeMap<PackId, u64> =
                        self.plan.repack.iter().map(|at| self.live(*at)).collect();
                    left.sort_by_key(|source| live.get(&source.pack).copied());
                    continue;
                }
                (made, _) => made?,
            };
            report.notes.extend(made.problems);
            let written = Amount { packs: made.listed.packs().len() as u64, bytes: made.listed.pack_bytes };
            report.written = report.written.plus(written);
            closed.extend(made.closed);
            left.drain(..count);
            done.extend(made.done.iter().copied());
            let gone: BTreeSet<PackId> =
                if at_once { made.done.iter().copied().collect() } else { BTreeSet::new() };
            let mut room = Room::of(self.repository, gone.iter().copied());
            is_tidy &= self.mark(made.done, std::mem::take(&mut closed), &mut room)?;
            is_tidy &= self.delete(&gone, &mut room)?;
        }
        let mut room = Room::of(self.repository, []);
        is_tidy &= self.mark(Vec::new(), closed, &mut room)?;
        if !left.is_empty() {
            report.notes.push(format!(
                "{} left as before, though only a part is needed: there is no room to write that part anew",
                counted(left.len() as u64, "pack is", "packs are")
            ));
        }
        let done = self.plan.repack.iter().filter(|place| done.contains(&self.ledger.packs[**place].id));
        let repacked = amount(&self.ledger, done.clone());
        report.waiting = report.waiting.minus(report.repacked.minus(repacked));
        report.repacked = repacked;
        if at_once {
            let gone = self.plan.dead.iter().chain(&self.plan.due).chain(done);
            report.deleted = amount(&self.ledger, gone);
            report.waiting = Amount::default();
        }
        Ok(is_tidy)
    }

    /// Returns a pack, and about how many bytes repacking it writes.
    fn live(&self, place: usize) -> (PackId, u64) {
        let pack = &self.ledger.packs[place];
        let frames = pack.frames.clone().map(|frame| self.ledger.frames[frame].live_stored());
        (pack.id, frames.sum())
    }
}
