//! The ledger, weighed → which packs go, which are repacked, and which frames are closed.

use crate::base::condemned::ClosedFrames;
use crate::base::time::Time;
use crate::op::prune::ledger::{Ledger, Origin, Pack};
use crate::op::prune::{Amount, Request};
use crate::repo::Repository;
use crate::repo::condemned::Marks;
use crate::repo::config::Encryption;
use crate::repo::index::Presence;
use crate::repo::repack::{FrameFate, Source};

/// A pack below this share of a full one is small.
const SMALL_PACK_DIVISOR: u64 = 4;

/// So many small packs of trees, or of content, may lie side by side before they are joined.
const SMALL_PACKS_MAX: usize = 16;

/// A frame below this share of a full one is small.
const SMALL_FRAME_DIVISOR: u32 = 2;

/// A frame of which less is dead is not closed: to free that, backups would store more than three times as
/// much afresh.
const CLOSED_DEAD_SHARE_MIN: f64 = 0.25;

/// What is to be done.
#[derive(Default)]
pub struct Plan {
    /// Packs, by place in the ledger, that nothing needs and that are not condemned yet.
    pub dead: Vec<usize>,
    /// Packs that nothing needs and that may go: they are condemned and their time has come, or they are
    /// listed and not there.
    pub due: Vec<usize>,
    /// Packs that are condemned, needed by nothing, and may not go yet.
    pub waiting: Vec<usize>,
    /// Packs that are condemned and needed again.
    pub rescued: Vec<usize>,
    /// Packs to repack.
    pub repack: Vec<usize>,
    /// How each frame of those fares.
    pub sources: Vec<Source>,
    /// Frames to close, in packs that are not repacked.
    pub closed: Vec<ClosedFrames>,
    /// Frames to close, those in packs that are repacked too.
    pub frames_closed: u64,
}

/// What can be done about frames, and how much of it.
struct Means<'m> {
    ledger: &'m Ledger,
    /// Whether frames of content can be opened.
    has_key: bool,
    frame_bytes: u32,
    /// Source bytes that may still be rewritten.
    budget: u64,
    /// Unused bytes that are too many.
    excess: f64,
}

impl Plan {
    /// Plans. Reads nothing.
    pub fn make(repository: &Repository, ledger: &Ledger, marks: &Marks, request: &Request<'_>) -> Self {
        let mut plan = Self::default();
        let due = marks.packs();
        let mut staying = Vec::new();
        for (place, pack) in ledger.packs.iter().enumerate() {
            let is_needed = ledger.frames[pack.frames.clone()].iter().any(|frame| frame.live_count > 0);
            let is_due = |due: &Time| request.at_once || *due <= request.now;
            match (is_needed, due.get(&pack.id)) {
                (true, Some(_)) => plan.rescued.push(place),
                (true, None) => staying.push(place),
                (false, Some(due)) if is_due(due) => plan.due.push(place),
                (false, Some(_)) => plan.waiting.push(place),
                (false, None) if pack.presence == Presence::Gone => plan.due.push(place),
                // A run that is under way may be writing it; if none is, the next backup lists it.
                (false, None) if pack.origin == Origin::Orphan && !request.at_once => {}
                (false, None) => plan.dead.push(place),
            }
        }
        let total: u64 = staying.iter().map(|place| ledger.packs[*place].bytes).sum();
        let encryption = repository.config().encryption;
        let mut means = Means {
            ledger,
            has_key: encryption == Encryption::None || repository.identities().is_some(),
            frame_bytes: repository.config().frame_bytes,
            budget: request.repack_bytes_max.unwrap_or(u64::MAX),
            excess: -(total as f64) * request.unused_percent_max / 100.0,
        };
        staying.retain(|place| {
            let pack = &ledger.packs[*place];
            pack.presence == Presence::Whole && pack.origin == Origin::Listed
        });
        means.excess += staying.iter().map(|place| means.unused(&ledger.packs[*place])).sum::<f64>();
        plan.choose_wasteful(&mut means, &staying);
        plan.choose_small(&mut means, &staying, u64::from(repository.config().pack_bytes));
        plan.repack.sort_unstable();
        let closed = means.choose_to_close(&staying);
        plan.settle(&means, &closed);
        plan
    }

    /// Chooses packs to repack, those first that hold the most that can be reclaimed.
    fn choose_wasteful(&mut self, means: &mut Means<'_>, staying: &[usize]) {
        let mut rows: Vec<(f64, usize)> = Vec::new();
        for place in staying {
            let pack = &means.ledger.packs[*place];
            let reclaimed = means.reclaimed(pack);
            if reclaimed > 0.0 {
                rows.push((reclaimed / pack.bytes.max(1) as f64, *place));
            }
        }
        rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, place) in rows {
            let pack = &means.ledger.packs[place];
            if means.excess <= 0.0 {
                break;
            }
            if means.take(pack.bytes) {
                means.excess -= means.reclaimed(pack);
                self.repack.push(place);
            }
        }
    }

    /// Chooses small packs, if together they fill one or are many: else there would be two more each day
    /// for ever.
    fn choose_small(&mut self, means: &mut Means<'_>, staying: &[usize], pack_bytes: u64) {
        for is_tree in [false, true] {
            let small = staying.iter().copied().filter(|place| {
                let pack = &means.ledger.packs[*place];
                pack.is_tree == is_tree
                    && pack.bytes < pack_bytes / SMALL_PACK_DIVISOR
                    && !self.repack.contains(place)
            });
            let small: Vec<usize> = small.collect();
            let bytes: u64 = small.iter().map(|place| means.ledger.packs[*place].bytes).sum();
            if bytes >= pack_bytes || small.len() > SMALL_PACKS_MAX {
                self.repack
                    .extend(small.into_iter().filter(|place| means.take(means.ledger.packs[*place].bytes)));
            }
        }
    }

    /// Says how each frame of the packs to repack fares, and which frames of others are closed.
    fn settle(&mut self, means: &Means<'_>, closed: &[usize]) {
        self.frames_closed = closed.len() as u64;
        let is_closed = |frame: usize| closed.binary_search(&frame).is_ok();
        for place in &self.repack {
            let pack = &means.ledger.packs[*place];
            let fates = pack.frames.clone().map(|frame| means.fate(pack, frame, is_closed(frame)));
            self.sources.push(Source { pack: pack.id, bytes: pack.bytes, frames: fates.collect() });
        }
        for (place, pack) in means.ledger.packs.iter().enumerate() {
            if self.repack.binary_search(&place).is_err() {
                let own = pack.frames.clone().filter(|frame| is_closed(*frame));
                let frames: Vec<u16> =
                    own.filter_map(|frame| u16::try_from(frame - pack.frames.start).ok()).collect();
                if !frames.is_empty() {
                    self.closed.push(ClosedFrames { pack: pack.id, frames });
                }
            }
        }
    }
}

impl Means<'_> {
    fn take(&mut self, bytes: u64) -> bool {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                true
            }
            None => false,
        }
    }

    fn can_open(&self, pack: &Pack) -> bool {
        pack.is_tree || self.has_key
    }

    /// Returns about how many stored bytes of a frame nothing needs.
    fn unused_of(&self, frame: usize) -> f64 {
        let frame = &self.ledger.frames[frame];
        let dead = f64::from(frame.raw_bytes.saturating_sub(frame.live_bytes));
        f64::from(frame.bytes) * dead / f64::from(frame.raw_bytes.max(1))
    }

    /// Returns about how many bytes of a pack nothing needs, those of closed frames left out: they go
    /// by themselves.
    fn unused(&self, pack: &Pack) -> f64 {
        let open = pack.frames.clone().filter(|frame| {
            self.ledger.frames[*frame].live_count == 0 || !self.ledger.frames[*frame].is_closed()
        });
        open.map(|frame| self.unused_of(frame)).sum()
    }

    /// Returns about how many bytes repacking a pack gives back.
    fn reclaimed(&self, pack: &Pack) -> f64 {
        let is_reclaimed = |frame: &usize| self.can_open(pack) || self.ledger.frames[*frame].live_count == 0;
        pack.frames.clone().filter(is_reclaimed).map(|frame| self.unused_of(frame)).sum()
    }

    /// Returns the frames, ascending, whose dead part is to go by itself: those first of which least is needed.
    fn choose_to_close(&mut self, staying: &[usize]) -> Vec<usize> {
        let mut rows: Vec<(f64, usize)> = Vec::new();
        for pack in staying.iter().map(|place| &self.ledger.packs[*place]) {
            if !self.can_open(pack) {
                for frame in pack.frames.clone() {
                    let own = &self.ledger.frames[frame];
                    let share = self.unused_of(frame) / f64::from(own.bytes.max(1));
                    if own.live_count > 0 && share >= CLOSED_DEAD_SHARE_MIN && !own.is_closed() {
                        rows.push((share, frame));
                    }
                }
            }
        }
        rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut closed = Vec::new();
        for (_, frame) in rows {
            if self.excess <= 0.0 {
                break;
            }
            if self.take(u64::from(self.ledger.frames[frame].bytes)) {
                self.excess -= self.unused_of(frame);
                closed.push(frame);
            }
        }
        closed.sort_unstable();
        closed
    }

    fn fate(&self, pack: &Pack, frame: usize, is_closed: bool) -> FrameFate {
        let own = &self.ledger.frames[frame];
        let is_whole = own.live_count == own.chunk_count;
        let is_small = own.raw_bytes < self.frame_bytes / SMALL_FRAME_DIVISOR;
        match own.live_count {
            0 => FrameFate::Drop,
            _ if self.can_open(pack) && (!is_whole || is_small) => {
                FrameFate::Rebuild(self.ledger.live_chunks(frame))
            }
            _ => FrameFate::Copy { is_closed: is_closed || own.is_closed() },
        }
    }
}

/// Returns how much some packs of the ledger are, as far as they are there.
pub fn amount<'p>(ledger: &Ledger, places: impl IntoIterator<Item = &'p usize>) -> Amount {
    let mut amount = Amount::default();
    for pack in places.into_iter().map(|place| &ledger.packs[*place]) {
        if pack.presence != Presence::Gone {
            amount.packs += 1;
            amount.bytes += pack.bytes;
        }
    }
    amount
}
