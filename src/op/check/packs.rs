//! Packs, each read once from end to end: the whole hashed on one thread, frames judged on others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::base::content::refs;
use crate::base::directory::Directory;
use crate::base::id::PackId;
use crate::base::progress::{Done, Progress};
use crate::base::threads::{NO_THREAD, begin};
use crate::base::wire::{self, RecordKind};
use crate::op::check::findings::{Findings, MEND_PACK, told};
use crate::op::check::frames::{BadFrame, Fault, Job, Judged, Task, judge_frames};
use crate::op::check::ledger::{Ledger, Pack, digest};
use crate::op::check::pieces::{ChunkRanges, PIECE_BYTES, Unit, Units};
use crate::repo::RepoError;
use crate::repo::config::Encryption;
use crate::repo::index::{read_directory, read_fragment};
use crate::repo::reader::Reader;
use crate::stage::pack::PackHeader;
use crate::store::{Name, StoreError};

/// What reading packs counted.
#[derive(Default)]
pub struct Counts {
    /// Packs read.
    pub packs: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Chunks hashed.
    pub chunks: u64,
    /// Frames that no identity at hand opens.
    pub closed: u64,
    /// Packs whose bytes are what their names say.
    pub whole: BTreeSet<PackId>,
}

/// Reads packs.
pub struct PackCheck<'c> {
    /// Opens frames.
    pub reader: &'c Reader<'c>,
    /// What the packs should hold.
    pub ledger: &'c Ledger,
    /// Threads that judge frames.
    pub threads: usize,
    /// Turned; and asked whether to stop.
    pub progress: &'c Progress,
}

/// What goes to the thread that hashes.
enum ToHash {
    Piece(Arc<Vec<u8>>),
    /// The pack has ended; `false` if some of it could not be read.
    End(PackId, bool),
}

/// What one reading of packs gave.
struct Streamed {
    /// Hashes of the packs that could be read to their ends.
    hashes: BTreeMap<PackId, blake3::Hash>,
    judged: Vec<Judged>,
}

impl<'c> PackCheck<'c> {
    /// Reads the packs `ids`, which ascend. With `read_data` every frame is opened and every chunk hashed;
    /// without, only those of packs that turn out to be damaged, as far as the keys at hand allow.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`]. A pack that can't be read is a damage.
    pub fn check(
        &self,
        ids: &[PackId],
        read_data: bool,
        findings: &mut Findings,
    ) -> Result<Counts, RepoError> {
        let there = |id: &&PackId| self.ledger.packs.get(id).is_some_and(|pack| pack.found.is_some());
        let ids: Vec<PackId> = ids.iter().filter(there).copied().collect();
        let bytes = ids.iter().filter_map(|id| self.ledger.packs.get(id)?.found).sum();
        self.progress.expect(Done { files: ids.len() as u64, bytes });
        let mut counts = Counts { packs: ids.len() as u64, bytes, ..Counts::default() };
        let streamed = self.stream(&ids, read_data, findings)?;
        let mut wrong = Vec::new();
        for id in ids {
            match streamed.hashes.get(&id) {
                Some(hash) if hash.as_bytes() == id.as_bytes() => _ = counts.whole.insert(id),
                Some(hash) => {
                    self.tell_mismatch(id, hash, findings);
                    wrong.push(id);
                }
                None => wrong.push(id), // told where it was read
            }
        }
        self.tell_frames(streamed.judged, &wrong, &mut counts, findings);
        if !read_data {
            let (open, closed): (Vec<PackId>, Vec<PackId>) = wrong.iter().partition(|id| self.can_open(**id));
            let streamed = self.stream(&open, true, findings)?;
            self.tell_frames(streamed.judged, &open, &mut counts, findings);
            closed.into_iter().for_each(|id| self.suspect(id, findings));
        }
        Ok(counts)
    }

    fn can_open(&self, id: PackId) -> bool {
        let repository = self.reader.repository();
        let is_tree = self.ledger.packs.get(&id).is_some_and(|pack| pack.row.is_tree);
        is_tree || repository.config().encryption == Encryption::None || repository.identities().is_some()
    }

    fn tell_mismatch(&self, id: PackId, hash: &blake3::Hash, findings: &mut Findings) {
        let other = PackId::from_bytes(*hash.as_bytes());
        let whose = match self.ledger.packs.contains_key(&other) {
            true => format!(" (they are those of {})", Name::Pack(other)),
            false => String::new(),
        };
        let what = format!("the bytes are not the ones its name stands for{whose}; {MEND_PACK}");
        findings.damage(Name::Pack(id), what);
    }

    fn tell_frames(
        &self,
        judged: Vec<Judged>,
        wrong: &[PackId],
        counts: &mut Counts,
        findings: &mut Findings,
    ) {
        counts.chunks += judged.iter().map(|judged| judged.chunks).sum::<u64>();
        let mut bad: Vec<BadFrame> = judged.into_iter().flat_map(|judged| judged.bad).collect();
        bad.sort_by(|a, b| (&a.task.path, a.offset).cmp(&(&b.task.path, b.offset)));
        for BadFrame { task, offset, fault, chunks } in bad {
            let path = &task.path;
            let cause = match fault {
                Fault::Damaged(what) => {
                    findings.damaged_frame(path, offset, &what);
                    format!("{path}, frame at byte {offset}: {what}")
                }
                Fault::Closed if wrong.contains(&task.row.id) => {
                    counts.closed += 1;
                    format!("may be hurt: {path} is damaged, and no identity at hand opens it")
                }
                Fault::Closed => {
                    counts.closed += 1;
                    continue;
                }
            };
            let cause = findings.cause(cause);
            chunks.into_iter().for_each(|chunk| findings.bad(chunk, cause));
        }
    }

    /// Takes every chunk of a damaged pack for bad, since nothing at hand opens it.
    fn suspect(&self, id: PackId, findings: &mut Findings) {
        let path = Name::Pack(id).to_string();
        let Some(pack) = self.ledger.packs.get(&id) else { return };
        let Some(directory) = self.directory(id, pack, &mut Findings::default()) else { return };
        let cause = format!("may be hurt: {path} is damaged; 'snap check --read-data' tells");
        let cause = findings.cause(cause);
        for (_, row, chunks) in directory.frames() {
            if pack.found.is_some_and(|found| u64::from(row.offset) + u64::from(row.bytes) <= found) {
                refs(chunks).for_each(|chunk| findings.bad(chunk, cause));
            }
        }
    }

    /// Returns a pack's directory: its own if that is what the fragment says, else the fragment's.
    fn directory(&self, id: PackId, pack: &Pack, findings: &mut Findings) -> Option<Directory> {
        let repository = self.reader.repository();
        let path = Name::Pack(id).to_string();
        let found = pack.found?;
        if found == pack.row.bytes {
            match read_directory(repository, id, found) {
                Ok(own) if digest(&own) == pack.digest => return Some(own),
                Ok(_) => findings.damage(&path, "its own directory is not the one that its fragment lists"),
                Err(e) => {
                    findings.damage(&path, format!("its own directory cannot be read: {}", told(&e, &path)));
                }
            }
        }
        let fragment = read_fragment(repository, pack.fragment?).ok()?;
        fragment.packs.into_iter().find(|listed| listed.id == id).map(|listed| listed.directory)
    }

    fn stream(&self, ids: &[PackId], judge: bool, findings: &mut Findings) -> Result<Streamed, RepoError> {
        let threads = if judge { self.threads.max(1) } else { 0 };
        let (to_hash, hash_queue) = crossbeam_channel::bounded(2);
        let (to_judge, jobs) = crossbeam_channel::bounded(2 * threads);
        std::thread::scope(|scope| {
            let none = RepoError::System { what: NO_THREAD };
            let Ok(hasher) = begin(scope, || hash_packs(&hash_queue)) else { return Err(none) };
            let begin_judge = |_| {
                let jobs = jobs.clone();
                begin(scope, move || judge_frames(self.reader, &jobs)).ok()
            };
            let judges: Vec<_> = (0..threads).map_while(begin_judge).collect();
            if judges.len() < threads.min(1) {
                drop(to_hash); // the channel closes, and the thread ends
                return Err(none);
            }
            drop(jobs);
            let out = Out { to_hash, to_judge: judge.then_some(to_judge) };
            let read = ids.iter().try_for_each(|id| self.pack(*id, &out, findings));
            drop(out); // the channels close, and the threads end
            let ended = |_| RepoError::System { what: "end of a checking thread" };
            let hashes = hasher.join().map_err(ended)?;
            let judged: Result<Vec<Judged>, _> = judges.into_iter().map(|thread| thread.join()).collect();
            read?;
            Ok(Streamed { hashes, judged: judged.map_err(ended)? })
        })
    }

    fn pack(&self, id: PackId, out: &Out, findings: &mut Findings) -> Result<(), RepoError> {
        let Some(pack) = self.ledger.packs.get(&id) else { return Ok(()) };
        let found = pack.found.unwrap_or(0);
        let directory = self.directory(id, pack, findings).unwrap_or_default();
        let task = Task { path: Name::Pack(id).to_string(), row: pack.row.clone(), chunks: directory.chunks };
        let task = Arc::new(task);
        let mut is_whole = true;
        let mut units = Units::new(&task.row.frames, found).peekable();
        let mut chunks = ChunkRanges::new(&directory.frames);
        while let Some(first) = units.next() {
            if self.progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            let mut piece = vec![first];
            let start = piece[0].range.start;
            while let Some(unit) = units.next_if(|next| next.range.end - start <= PIECE_BYTES) {
                piece.push(unit);
            }
            is_whole &= self.piece(&task, &piece, &mut chunks, out, findings)?;
        }
        self.progress.add(Done { files: 1, bytes: 0 });
        out.hash(ToHash::End(id, is_whole))
    }

    /// Reads some units that follow one another; returns whether all could be read.
    fn piece(
        &self,
        task: &Arc<Task>,
        units: &[Unit],
        chunks: &mut ChunkRanges,
        out: &Out,
        findings: &mut Findings,
    ) -> Result<bool, RepoError> {
        let (Some(first), Some(last)) = (units.first(), units.last()) else { return Ok(true) };
        let store = self.reader.repository().store();
        let name = Name::Pack(task.row.id);
        let start = first.range.start;
        self.progress.add(Done { files: 0, bytes: last.range.end - start });
        match store.read_range(&name, start..last.range.end) {
            Ok(bytes) => {
                let bytes = Arc::new(bytes);
                if start == 0 {
                    self.header(task, &bytes, findings);
                }
                out.hash(ToHash::Piece(bytes.clone()))?;
                for unit in units {
                    let Some(span) = unit.frame else { continue };
                    let at = usize::try_from(unit.range.start - start).unwrap_or(usize::MAX);
                    out.judge(Job {
                        task: task.clone(),
                        span,
                        chunks: chunks.next_frame(),
                        piece: bytes.clone(),
                        at,
                    })?;
                }
                Ok(true)
            }
            Err(_) if units.len() > 1 => {
                // A bad place on the disk: find out which frames it hurts.
                for unit in units {
                    self.piece(task, std::slice::from_ref(unit), chunks, out, findings)?;
                }
                Ok(false)
            }
            Err(e) => {
                self.unread(task, first, chunks, e, out.to_judge.is_some(), findings);
                Ok(false)
            }
        }
    }

    /// Tells of what can't be read. Its chunks count as bad where frames are judged: where they are not, the
    /// pack is read once more, or all of it is suspect, and a copy of a chunk must not count twice.
    fn unread(
        &self,
        task: &Task,
        unit: &Unit,
        chunks: &mut ChunkRanges,
        error: StoreError,
        is_judged: bool,
        findings: &mut Findings,
    ) {
        let what = told(&error.into(), &task.path);
        let Some(span) = unit.frame else {
            let Range { start, end } = unit.range;
            findings
                .damage(&task.path, format!("bytes {start} to {end} cannot be read: {what}; {MEND_PACK}"));
            return;
        };
        findings.damaged_frame(&task.path, span.offset, &what);
        let list = task.chunks.get(chunks.next_frame()).unwrap_or_default();
        if is_judged {
            let cause = findings.cause(format!("{}, frame at byte {}: {what}", task.path, span.offset));
            refs(list).for_each(|chunk| findings.bad(chunk, cause));
        }
    }

    /// Judges the header at a pack's start; `bytes` reach to the first frame at least, or are cut.
    fn header(&self, task: &Task, bytes: &[u8], findings: &mut Findings) {
        let repository = self.reader.repository();
        let end = task.row.frames.first().map_or(bytes.len(), |span| span.offset as usize);
        let header = wire::unwrap_prefix(RecordKind::PackHeader, bytes.get(..end).unwrap_or(bytes));
        let header = header.and_then(|(payload, _)| wire::decode::<PackHeader>(payload));
        match header {
            Ok(header) if header.repository == repository.id() => {}
            Ok(header) => {
                findings.damage(&task.path, format!("belongs to repository {}", header.repository));
            }
            Err(e) => findings.damage(&task.path, format!("its header: {e}")),
        }
    }
}

/// Where pieces of packs go.
struct Out {
    to_hash: Sender<ToHash>,
    to_judge: Option<Sender<Job>>,
}

impl Out {
    fn hash(&self, what: ToHash) -> Result<(), RepoError> {
        self.to_hash.send(what).map_err(|_| RepoError::System { what: "end of a checking thread" })
    }

    fn judge(&self, job: Job) -> Result<(), RepoError> {
        let Some(to_judge) = &self.to_judge else { return Ok(()) };
        to_judge.send(job).map_err(|_| RepoError::System { what: "end of a checking thread" })
    }
}

fn hash_packs(queue: &Receiver<ToHash>) -> BTreeMap<PackId, blake3::Hash> {
    let mut hashes = BTreeMap::new();
    let mut hasher = blake3::Hasher::new();
    for what in queue {
        match what {
            ToHash::Piece(bytes) => _ = hasher.update(&bytes),
            ToHash::End(id, is_whole) => {
                let hash = hasher.finalize();
                hasher.reset();
                if is_whole {
                    hashes.insert(id, hash);
                }
            }
        }
    }
    hashes
}
