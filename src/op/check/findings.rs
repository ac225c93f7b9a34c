//! What a check has found so far: damaged files, and the chunks that are lost with them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::fmt::Display;

use crate::base::content::ChunkRef;
use crate::base::entry::quoted;
use crate::base::id::ChunkId;
use crate::op::check::prints::Prints;
use crate::op::check::{Damage, Hurt};
use crate::repo::RepoError;
use crate::stage::dedup::IdHash;
use crate::store::StoreError;

/// What to do about a damaged pack.
pub const MEND_PACK: &str =
    "put back a good copy of it, or remove it and back up again: what the sources still have is stored anew";

/// What to do about a damaged file that nothing can be made anew from.
pub const PUT_BACK: &str = "put back a good copy of it";

/// What is said of files that no repository has made.
const FOREIGN: &str = "not a repository file, and in nobody's way; remove it if you put it there";

/// Files of somebody else that are named; the rest are counted.
const FOREIGN_MAX: usize = 8;

/// Rows for damaged frames of one pack; the rest are counted.
const FRAME_ROWS_MAX: usize = 8;

/// Lost chunks whose pack is remembered, for the reasons; of more it is only known that they are lost.
const LOST_MAX: usize = 1 << 20;

/// Why a chunk is bad.
#[derive(Clone, Copy)]
pub struct Cause(u32);

struct Bad {
    /// Copies in packs that are there, and bad all the same.
    copies: u32,
    cause: Cause,
}

/// What a check has found so far.
#[derive(Default)]
pub struct Findings {
    damages: BTreeSet<(String, String)>,
    /// Where the damaged frames of each pack start.
    frames: BTreeMap<String, BTreeSet<u32>>,
    /// Paths of the snapshots that are hurt.
    pub hurt: Vec<Hurt>,
    /// What is worth knowing and no damage.
    pub notes: Vec<String>,
    foreign: BTreeSet<String>,
    /// Packs that are listed and not there, and what that loses.
    gone: Vec<(String, String)>,
    causes: Vec<String>,
    chunks: HashMap<ChunkId, Bad, IdHash>,
}

impl Findings {
    /// Notes a damaged repository file.
    pub fn damage(&mut self, path: impl Display, what: impl Display) {
        self.damages.insert((path.to_string(), what.to_string()));
    }

    /// Notes a file that no repository has made: the desktop's, an editor's.
    pub fn foreign(&mut self, path: String) {
        self.foreign.insert(path);
    }

    /// Notes a pack that is listed and not there. Whether that hurts anything, [`Self::judge_gone`] says.
    pub fn gone(&mut self, path: String, what: String) {
        self.gone.push((path, what));
    }

    /// Says of packs that are not there that they are damages, unless all that all snapshots need can be had without
    /// them: a prune on a full disk deletes packs before they leave the index.
    pub fn judge_gone(&mut self, is_all_known: bool) {
        let is_harmless = is_all_known && self.hurt.is_empty();
        for (path, what) in std::mem::take(&mut self.gone) {
            match is_harmless {
                true => self.notes.push(format!(
                    "{path}: not there, and no snapshot needs what it held; the next 'snap prune' takes it out of the index"
                )),
                false => self.damage(path, what),
            }
        }
    }

    /// Takes what is worth knowing and no damage.
    pub fn take_notes(&mut self) -> Vec<String> {
        let total = self.foreign.len();
        for path in std::mem::take(&mut self.foreign).into_iter().take(FOREIGN_MAX) {
            self.notes.push(format!("{}: {FOREIGN}", quoted(path.as_bytes())));
        }
        if total > FOREIGN_MAX {
            self.notes.push(format!("{} more files are not the repository's", total - FOREIGN_MAX));
        }
        std::mem::take(&mut self.notes)
    }

    /// Notes a damaged frame of a pack; that it is, however often it is read, is told once.
    pub fn damaged_frame(&mut self, path: &str, offset: u32, what: impl Display) {
        let frames = self.frames.entry(path.to_owned()).or_default();
        if frames.insert(offset) && frames.len() <= FRAME_ROWS_MAX {
            self.damage(path, format!("frame at byte {offset}: {what}"));
        }
    }

    /// Returns whether a file is known to be damaged.
    pub fn is_damaged(&self, path: &str) -> bool {
        let first = (path.to_owned(), String::new());
        self.damages.range(first..).next().is_some_and(|(damaged, _)| damaged == path)
    }

    /// Takes all damages, by path.
    pub fn take_damages(&mut self) -> Vec<Damage> {
        for (path, frames) in std::mem::take(&mut self.frames) {
            if frames.len() > FRAME_ROWS_MAX {
                let more = frames.len() - FRAME_ROWS_MAX;
                self.damage(path, format!("{more} more of its frames are damaged"));
            }
        }
        std::mem::take(&mut self.damages).into_iter().map(|(path, what)| Damage { path, what }).collect()
    }

    /// Names a cause, to be given with chunks.
    pub fn cause(&mut self, text: String) -> Cause {
        self.causes.push(text);
        Cause(u32::try_from(self.causes.len() - 1).unwrap_or(u32::MAX))
    }

    /// Notes that a pack which is gone, or the part of it which is cut off, held a chunk.
    pub fn lost(&mut self, chunk: ChunkRef, cause: Cause) {
        if self.chunks.len() < LOST_MAX {
            self.chunks.entry(chunk.id).or_insert(Bad { copies: 0, cause });
        }
    }

    /// Notes that one of the copies of a chunk that should be there is bad.
    pub fn bad(&mut self, chunk: ChunkRef, cause: Cause) {
        let bad = self.chunks.entry(chunk.id).or_insert(Bad { copies: 0, cause });
        bad.copies += 1;
        bad.cause = cause;
    }

    /// Returns why no pack gives the chunk; none if one does, as far as is known.
    pub fn verdict(&self, prints: &Prints, chunk: ChunkRef) -> Verdict<'_> {
        let copies = prints.copies(chunk);
        if copies > 0 && self.chunks.is_empty() {
            return Verdict::Good;
        }
        match self.chunks.get(&chunk.id) {
            None if copies > 0 => Verdict::Good,
            None => Verdict::Unknown,
            Some(bad) if bad.copies < copies => Verdict::Good,
            Some(bad) => Verdict::Bad(self.causes.get(bad.cause.0 as usize).map_or("lost", String::as_str)),
        }
    }
}

/// Whether a chunk can be had.
pub enum Verdict<'f> {
    /// It can, as far as is known.
    Good,
    /// It can't, and this is why.
    Bad(&'f str),
    /// No pack that anything tells of holds it.
    Unknown,
}

/// Returns an error and its causes as one line about `path`, which it leaves out.
pub fn told(error: &RepoError, path: &str) -> String {
    if let RepoError::NameMismatch { .. } = error {
        return "the bytes are not the ones its name stands for".to_owned();
    }
    if let RepoError::Store(StoreError::Missing { .. }) = error {
        return "not there".to_owned();
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    match text.find(path) {
        Some(at) if !path.is_empty() => {
            let after = &text[at + path.len()..];
            after.trim_start_matches([':', ',', ' ']).to_owned()
        }
        _ => text,
    }
}
