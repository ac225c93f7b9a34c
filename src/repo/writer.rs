//! Down from bytes to durable names. Alone knows the order of durable writes:
//! packs, then fragments, then the manifest, then the cache (`docs/durability.md`).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::Sender;

use crate::base::content::{ChunkRef, ContentBuf, REF_BYTES};
use crate::base::id::{PackId, SnapshotId};
use crate::base::kind::FrameKind;
use crate::base::limits::{INLINE_CHUNKS_MAX, LIST_DEPTH_MAX, RECORD_BYTES_CAP};
use crate::base::threads::{NO_THREAD, begin, sparing};
use crate::repo::config::Encryption;
use crate::repo::index::{Index, Presence};
use crate::repo::keys::DataKey;
use crate::repo::listing::{Listed, Listing};
use crate::repo::sealer::{FrameBuffers, seal_frames, write_packs};
use crate::repo::{RepoError, Repository};
use crate::stage::dedup::Claims;
use crate::stage::frame::RawFrame;
use crate::stage::index::{Cache, CacheError, EachFragment, Update};
use crate::stage::snapshot::Manifest;
use crate::stage::tree::Stream;
use crate::store::give_to_owner_of;

/// Threads that are left to those who give chunks and to the packs, when more sealers than one begin: where few are to be
/// had, each step of a run needs one before any has two.
const SPARE_THREADS: usize = 5;

/// Frames that wait for a free sealer, for each sealer.
const FRAMES_WAITING: usize = 1;

/// Takes new chunks and frames of one run. Shared by threads.
pub struct Writer<'w> {
    repository: &'w Repository,
    index: &'w Index,
    claims: Claims,
    buffers: &'w FrameBuffers,
    frames: Sender<RawFrame>,
    tree: Mutex<RawFrame>,
    is_broken: &'w AtomicBool,
    chunks_new: AtomicU64,
    bytes_added: AtomicU64,
}

/// What a run wrote before its manifest.
#[derive(Default)]
pub struct Written {
    /// Chunks that were new.
    pub chunks_new: u64,
    /// Their raw bytes.
    pub bytes_added: u64,
    /// Bytes of packs and fragments written.
    pub bytes_stored: u64,
    listed: Listed,
}

impl<'w> Writer<'w> {
    /// Runs `body` with a writer over `threads` sealing threads; when it returns, all that it gave
    /// is durable in packs, and fragments list them.
    ///
    /// # Errors
    /// What `body` returns, or why writing failed. Complete packs stay; the next run takes them over.
    pub fn run<'r, R>(
        repository: &'r Repository,
        index: &Index,
        threads: usize,
        body: impl FnOnce(&Writer<'_>) -> Result<R, RepoError>,
    ) -> Result<(R, Written), RepoError> {
        let data_key = match repository.config().encryption {
            Encryption::None => None,
            Encryption::Age => Some(DataKey::draw(repository.writer_keys(), &repository.recipients()?)?),
        };
        let data_key = data_key.as_ref();
        let is_broken = AtomicBool::new(false);
        let buffers = FrameBuffers::new(repository.config().frame_bytes);
        let (frame_sender, frame_receiver) = crossbeam_channel::bounded(threads * FRAMES_WAITING);
        let (sealed_sender, sealed_receiver) = crossbeam_channel::bounded(4);
        let (answer, written, listing) = std::thread::scope(|scope| {
            let (is_broken, buffers) = (&is_broken, &buffers);
            let guard = move |result: Result<Option<Listing<'r>>, RepoError>| {
                is_broken.fetch_or(result.is_err(), Ordering::Relaxed);
                result
            };
            let none = |_| RepoError::System { what: NO_THREAD };
            let pack = move || guard(write_packs(repository, data_key, buffers, &sealed_receiver).map(Some));
            let packer = begin(scope, pack).map_err(none)?;
            let begin_sealer = |_| {
                let (frames, sealed) = (frame_receiver.clone(), sealed_sender.clone());
                begin(scope, move || {
                    let result = seal_frames(repository, data_key, buffers, &frames, &sealed);
                    guard(result.map(|()| None))
                })
            };
            let mut sealers = vec![begin_sealer(0).map_err(none)?];
            sealers.extend(sparing(SPARE_THREADS, (1..threads).map(begin_sealer))); // with fewer it takes longer
            drop((frame_receiver, sealed_sender));
            let writer = Writer {
                repository,
                index,
                claims: Claims::default(),
                buffers,
                frames: frame_sender,
                tree: Mutex::new(RawFrame::new(FrameKind::Tree)),
                is_broken,
                chunks_new: AtomicU64::new(0),
                bytes_added: AtomicU64::new(0),
            };
            let answer = body(&writer).and_then(|answer| writer.flush_tree().map(|()| answer));
            let written = Written {
                chunks_new: writer.chunks_new.load(Ordering::Relaxed),
                bytes_added: writer.bytes_added.load(Ordering::Relaxed),
                ..Written::default()
            };
            drop(writer); // the channel closes, and the threads end
            let mut threads = sealers;
            threads.push(packer);
            let joined = threads.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => Err(RepoError::System { what: "end of a writing thread" }),
            });
            // The reason for a broken pipe lies with the thread that broke it.
            let results: Vec<_> = joined.collect();
            let mut listing = Ok(None);
            for result in results {
                match (&listing, result) {
                    (Ok(_), result) => listing = result,
                    (Err(_), _) => {}
                }
            }
            Ok::<_, RepoError>((answer, written, listing))
        })?;
        let listing = listing?.ok_or(RepoError::System { what: "end of a writing thread" })?;
        let answer = answer?;
        let written = list_packs(index, listing, written)?;
        Ok((answer, written))
    }

    /// Returns whether the chunk must be stored by the caller: no pack that is to stay holds it, and
    /// nobody in this run has claimed it.
    ///
    /// # Errors
    /// [`RepoError::Cache`].
    pub fn claim(&self, chunk: ChunkRef) -> Result<bool, RepoError> {
        if !self.claims.claim(chunk.id) || self.index.find_lasting(&chunk.id)?.is_some() {
            return Ok(false);
        }
        self.chunks_new.fetch_add(1, Ordering::Relaxed);
        self.bytes_added.fetch_add(u64::from(chunk.bytes), Ordering::Relaxed);
        Ok(true)
    }

    /// Returns the raw bytes of the chunks that were new so far.
    pub fn bytes_added(&self) -> u64 {
        self.bytes_added.load(Ordering::Relaxed)
    }

    /// Returns whether every chunk of a list of depth 0 lies where a new snapshot may refer to it.
    ///
    /// # Errors
    /// [`RepoError::Cache`].
    pub fn holds_all(&self, list: &[u8]) -> Result<bool, RepoError> {
        for chunk in crate::base::content::refs(list) {
            if self.index.find_lasting(&chunk.id)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns an empty frame, in memory that an earlier one has left.
    pub fn frame(&self, kind: FrameKind) -> RawFrame {
        RawFrame::inside(self.buffers.raw.take(), kind)
    }

    /// Hands a frame on; waits while all sealers are busy.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`] if writing has failed; [`Writer::run`] returns the reason.
    pub fn push_frame(&self, frame: RawFrame) -> Result<(), RepoError> {
        let is_broken = self.is_broken.load(Ordering::Relaxed);
        match !is_broken && self.frames.send(frame).is_ok() {
            true => Ok(()),
            false => Err(RepoError::Interrupted),
        }
    }

    /// Cuts, names and stores a tree; returns what refers to it.
    ///
    /// # Errors
    /// As [`Self::push_frame`]; [`RepoError::Content`] if it is too long to be read back.
    pub fn store_tree(&self, stream: &Stream) -> Result<ContentBuf, RepoError> {
        if stream.bytes().len() > RECORD_BYTES_CAP {
            return Err(RepoError::Content { what: "a directory has more entries than can be read back" });
        }
        self.store_list(self.store_records(stream.bytes(), |at| stream.ends_around(at))?)
    }

    /// Returns what refers to content whose chunks are in `list`; a long list is stored in turn.
    ///
    /// # Errors
    /// As [`Self::store_tree`].
    pub fn store_list(&self, mut list: Vec<u8>) -> Result<ContentBuf, RepoError> {
        let mut depth = 0;
        while list.len() > INLINE_CHUNKS_MAX * REF_BYTES && depth < LIST_DEPTH_MAX {
            if list.len() > RECORD_BYTES_CAP {
                return Err(RepoError::Content { what: "a file has more chunks than can be read back" });
            }
            list = self.store_records(&list, |at| (at - at % REF_BYTES, at.next_multiple_of(REF_BYTES)))?;
            depth += 1;
        }
        Ok(ContentBuf { depth, list })
    }

    /// Cuts records, which end where `ends_around` says, and names and stores the chunks.
    fn store_records(
        &self,
        bytes: &[u8],
        ends_around: impl Fn(usize) -> (usize, usize),
    ) -> Result<Vec<u8>, RepoError> {
        let chunker = self.repository.tree_chunker();
        let namer = self.repository.writer_keys().namer(FrameKind::Tree);
        let mut list = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let length = chunker.cut_records(&bytes[at..], |length| {
                let (before, from) = ends_around(at + length);
                (before.saturating_sub(at), from - at)
            });
            let piece = &bytes[at..at + length];
            at += length;
            let length =
                u32::try_from(piece.len()).map_err(|_| RepoError::Content { what: "chunk is too long" })?;
            let chunk = ChunkRef { id: namer.name(piece), bytes: length };
            list.extend_from_slice(&chunk.to_bytes());
            if self.claim(chunk)? {
                self.push_tree_chunk(chunk, piece)?;
            }
        }
        Ok(list)
    }

    fn push_tree_chunk(&self, chunk: ChunkRef, bytes: &[u8]) -> Result<(), RepoError> {
        let full = {
            let mut frame = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
            let is_full = frame.is_full_for(bytes.len(), self.repository.config().frame_bytes);
            let full = is_full.then(|| std::mem::replace(&mut *frame, self.frame(FrameKind::Tree)));
            frame.push(chunk, bytes);
            full
        };
        full.map_or(Ok(()), |frame| self.push_frame(frame))
    }

    fn flush_tree(&self) -> Result<(), RepoError> {
        let rest = self.tree.lock().unwrap_or_else(PoisonError::into_inner).take();
        rest.map_or(Ok(()), |frame| self.push_frame(frame))
    }
}

/// Makes fragments durable that list the new packs, and packs that a killed run left.
fn list_packs(index: &Index, mut listing: Listing<'_>, mut written: Written) -> Result<Written, RepoError> {
    written.bytes_stored += listing.pack_bytes();
    index.proven_orphans().try_for_each(|pack| listing.add(pack))?;
    written.listed = listing.finish()?;
    written.bytes_stored += written.listed.fragment_bytes;
    Ok(written)
}

impl Written {
    /// Returns the packs that were written or taken over.
    pub fn packs(&self) -> Vec<PackId> {
        self.listed.packs().collect()
    }

    /// Adds the packs of trees to the run's index, so that the new directories can be read before the manifest is
    /// there.
    ///
    /// # Errors
    /// [`RepoError::System`] if what was noted of the packs can't be read again.
    pub fn add_trees(&self, index: &mut Index) -> Result<(), RepoError> {
        self.listed.each(&mut |_, fragment| {
            for pack in fragment.packs.iter().filter(|pack| pack.directory.is_tree) {
                index.add(pack, Presence::Whole);
            }
        })
    }
}

/// Makes the snapshot exist, then brings the cache up to date. `index` must be closed by then: the
/// cache takes one writer and no reader. A cache that is in use elsewhere catches up next time. Returns
/// the snapshot and the length of its manifest, in bytes.
///
/// # Errors
/// [`RepoError::Store`].
pub fn commit(
    repository: &Repository,
    index: Index,
    written: Written,
    manifest: &Manifest,
) -> Result<(SnapshotId, u64), RepoError> {
    let (id, bytes) = repository.put_manifest(manifest)?;
    drop(index);
    if let Some(path) = repository.index_path()
        && written.listed.packs().len() > 0
    {
        let added = |each: &mut EachFragment<'_>| {
            written.listed.each(each).map_err(|e| CacheError::Failed { what: e.chain() })
        };
        let update = Update { added: &added, gone: &BTreeSet::new(), from_scratch: false };
        let _ = Cache::update(path, repository.id(), &update);
        if let Some(folder) = path.parent() {
            give_to_owner_of(folder, path);
        }
    }
    Ok((id, bytes))
}
