//! Every tree of every snapshot, and which paths need what can't be had.

use std::collections::{HashMap, HashSet};

use crate::base::content::refs;
use crate::base::entry::{Entry, Kind};
use crate::base::id::SnapshotId;
use crate::base::progress::{Done, Progress};
use crate::op::check::Hurt;
use crate::op::check::findings::{Findings, MEND_PACK, Verdict, told};
use crate::op::check::prints::Prints;
use crate::repo::browse::{self, Step, Visitor};
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};
use crate::stage::hash::digest;
use crate::store::{Name, StoreError};

/// Hurt paths that are listed; a repository so damaged that more are hurt is restored, not mended.
const HURT_MAX: usize = 1_000_000;

/// What stands for a content.
type Digest = [u8; 16];

/// A walk over the trees of all snapshots. What was found clean once is not read again.
pub struct Walk<'w> {
    reader: &'w Reader<'w>,
    prints: &'w Prints,
    findings: &'w mut Findings,
    progress: &'w Progress,
    clean: HashSet<Digest>,
    unreadable: HashMap<Digest, String>,
    /// Directories from the snapshot's root down to where the walk is, each with the number of
    /// paths that were hurt before it.
    stack: Vec<(Digest, usize)>,
    snapshot: SnapshotId,
    /// Entries of this snapshot that need chunks which nothing tells of.
    unknown: u64,
    /// Distinct trees read.
    pub trees: u64,
    /// Entries met, those of clean trees once.
    pub entries: u64,
}

impl<'w> Walk<'w> {
    /// Begins.
    pub fn new(
        reader: &'w Reader<'w>,
        prints: &'w Prints,
        findings: &'w mut Findings,
        progress: &'w Progress,
    ) -> Self {
        Self {
            reader,
            prints,
            findings,
            progress,
            clean: HashSet::new(),
            unreadable: HashMap::new(),
            stack: Vec::new(),
            snapshot: SnapshotId::from_bytes([0; 32]),
            unknown: 0,
            trees: 0,
            entries: 0,
        }
    }

    /// Walks a snapshot.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`]. A tree that can't be read is a finding.
    pub fn snapshot(&mut self, snapshot: &Snapshot) -> Result<(), RepoError> {
        let root = &snapshot.manifest.root;
        let digest = digest(root.borrowed(), true);
        if self.clean.contains(&digest) {
            return Ok(());
        }
        self.snapshot = snapshot.id;
        self.unknown = 0;
        self.stack = vec![(digest, self.findings.hurt.len())];
        self.trees += 1;
        browse::walk(self.reader, root, self)?;
        self.pop();
        if self.unknown > 0 {
            let what = format!(
                "{} of its entries need chunks that lie in no pack: a pack is gone that no fragment lists; put back a good copy of it",
                self.unknown
            );
            self.findings.damage(Name::Snapshot(snapshot.id), what);
        }
        Ok(())
    }

    fn pop(&mut self) {
        if let Some((digest, hurt_before)) = self.stack.pop()
            && self.findings.hurt.len() == hurt_before
        {
            self.clean.insert(digest);
        }
    }

    fn hurt(&mut self, path: &[u8], reason: String) {
        match self.findings.hurt.len() {
            HURT_MAX => self.findings.notes.push(format!("only the first {HURT_MAX} hurt paths are listed")),
            more if more > HURT_MAX => return,
            _ => {}
        }
        self.findings.hurt.push(Hurt { snapshot: self.snapshot, path: path.to_vec(), reason });
    }

    /// Returns why a file can't be restored; none if it can, as far as is known.
    fn file(&mut self, entry: &Entry<'_>) -> Option<String> {
        let list = match self.reader.flatten(entry.content) {
            Ok(list) => list,
            Err(e) => return Some(self.blame(&e)),
        };
        let bytes: u64 = refs(&list).map(|chunk| u64::from(chunk.bytes)).sum();
        if bytes != entry.data_bytes() {
            let what = "a tree of it gives a file another length than its chunks have";
            self.findings.damage(Name::Snapshot(self.snapshot), what);
            return Some("its chunks are not as long as the file".to_owned());
        }
        for chunk in refs(&list) {
            match self.findings.verdict(self.prints, chunk) {
                Verdict::Good => {}
                Verdict::Bad(cause) => return Some(format!("chunk {}: {cause}", chunk.id)),
                Verdict::Unknown => {
                    self.unknown += 1;
                    return Some(format!("chunk {}: in no pack", chunk.id));
                }
            }
        }
        None
    }

    /// Returns what to say of an error that reading a tree met, and sees to it that the file which
    /// is to blame is among the damages.
    fn blame(&mut self, error: &RepoError) -> String {
        let path = match error {
            RepoError::DamagedChunk { path, .. }
            | RepoError::Frame { path, .. }
            | RepoError::Seal { path, .. }
            | RepoError::Record { path, .. } => path.as_str(),
            RepoError::Store(
                StoreError::Missing { path } | StoreError::Short { path, .. } | StoreError::Io { path, .. },
            ) => {
                let location = self.reader.repository().store().location();
                let inside = path.strip_prefix(&location).map(|inside| inside.trim_start_matches('/'));
                inside.unwrap_or(path)
            }
            RepoError::UnknownChunk { id } => {
                let chunk = crate::base::content::ChunkRef { id: *id, bytes: 0 };
                return match self.findings.verdict(self.prints, chunk) {
                    Verdict::Bad(cause) => format!("chunk {id}: {cause}"),
                    Verdict::Good | Verdict::Unknown => {
                        self.unknown += 1;
                        format!("chunk {id}: in no pack")
                    }
                };
            }
            other => {
                let what = told(other, "");
                self.findings
                    .damage(Name::Snapshot(self.snapshot), format!("a tree of it makes no sense: {what}"));
                return what;
            }
        };
        let what = told(error, path);
        if !self.findings.is_damaged(path) {
            self.findings.damage(path, format!("{what}; {MEND_PACK}"));
        }
        format!("{path}: {what}")
    }
}

impl Visitor for Walk<'_> {
    fn entry(&mut self, path: &[u8], entry: &Entry<'_>) -> Result<Step, RepoError> {
        if self.progress.is_cancelled() {
            return Err(RepoError::Interrupted);
        }
        self.entries += 1;
        match entry.kind {
            Kind::Directory => {
                let digest = digest(entry.content, true);
                if let Some(reason) = self.unreadable.get(&digest).cloned() {
                    self.hurt(path, reason);
                    return Ok(Step::Over);
                }
                if self.clean.contains(&digest) || self.findings.hurt.len() > HURT_MAX {
                    return Ok(Step::Over);
                }
                self.trees += 1;
                self.progress.add(Done { files: 1, bytes: 0 });
                self.stack.push((digest, self.findings.hurt.len()));
                return Ok(Step::Into);
            }
            Kind::File => {
                let nested = (entry.content.depth > 0).then(|| digest(entry.content, false));
                let is_clean = nested.is_some_and(|nested| self.clean.contains(&nested));
                if !is_clean {
                    match self.file(entry) {
                        Some(reason) => self.hurt(path, reason),
                        None => self.clean.extend(nested),
                    }
                }
            }
            Kind::Symlink | Kind::Fifo | Kind::CharDevice | Kind::BlockDevice => {}
        }
        Ok(Step::Over)
    }

    fn leave(&mut self, _path: &[u8]) -> Result<(), RepoError> {
        self.pop();
        Ok(())
    }

    fn damaged(&mut self, path: &[u8], error: RepoError) -> Result<(), RepoError> {
        if let RepoError::Interrupted = error {
            return Err(error);
        }
        let reason = self.blame(&error);
        self.hurt(path, reason.clone());
        if let Some((digest, _)) = self.stack.last() {
            self.unreadable.insert(*digest, reason);
        }
        if !path.is_empty() {
            self.stack.pop();
        }
        Ok(())
    }
}
