//! Up from a name to bytes: index → pack range → open → expand → chunk, re-hashed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::base::content::{ChunkRef, Content, REF_BYTES, refs};
use crate::base::directory::FRAME_STORED_BYTES_CAP;
use crate::base::id::{KeyId, PackId};
use crate::base::kind::FrameKind;
use crate::base::layout::FRAME_HEADER_BYTES;
use crate::base::limits::RECORD_BYTES_CAP;
use crate::base::threads::map_side_by_side;
use crate::base::wire::{self, RecordKind, WireError};
use crate::repo::index::Index;
use crate::repo::keys::open_data_key;
use crate::repo::recent::Recent;
use crate::repo::stand_in::MadeUp;
use crate::repo::{RepoError, Repository};
use crate::stage::frame::{FrameError, FrameHeader, expand};
use crate::stage::index::{FrameSpan, Location, PackRow};
use crate::stage::pack::{PackHeader, SealedKey};
use crate::stage::seal::{SealError, SealKey};
use crate::store::Name;

/// Memory for frames of trees where directories are read one after the other, in bytes. A directory's chunks lie in
/// the frames of many days; what does not fit is read and expanded again for each directory. Filled as far as need be.
pub const TREE_CACHE_BYTES: usize = 64 << 20;

/// First read of a pack's header, in bytes: enough for about ten recipients.
const HEADER_BYTES_GUESS: u64 = 4096;

/// Longest header of a pack that is read, in bytes.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// Reads frames and chunks. Shared by threads.
pub struct Reader<'r> {
    repository: Holder<'r>,
    index: Index,
    second: OnceLock<Option<Index>>,
    lost_keys: Mutex<HashSet<KeyId>>,
    kept: Arc<Kept>,
    pub(in crate::repo) made_up: Option<MadeUp>,
}

/// A frame's raw bytes.
pub type RawBytes = Arc<Vec<u8>>;

/// What holds for as long as the repository is open, whatever becomes of the index: frames that
/// were read lately, and data keys.
pub struct Kept {
    keys: Mutex<HashMap<KeyId, SealKey>>,
    frames: Recent<(PackId, u16), Vec<u8>>,
}

impl Kept {
    /// Keeps up to `cache_bytes` of frames, raw.
    pub fn new(cache_bytes: usize) -> Self {
        Self { keys: Mutex::default(), frames: Recent::new(cache_bytes) }
    }
}

enum Holder<'r> {
    Borrowed(&'r Repository),
    Shared(Arc<Repository>),
}

impl Reader<'static> {
    /// Makes a reader that shares `kept` with those before and after it.
    pub fn shared(repository: Arc<Repository>, index: Index, kept: Arc<Kept>) -> Self {
        Self::with(Holder::Shared(repository), index, kept)
    }
}

impl<'r> Reader<'r> {
    /// Makes a reader that keeps up to `cache_bytes` of frames, raw.
    pub fn new(repository: &'r Repository, index: Index, cache_bytes: usize) -> Self {
        Self::with(Holder::Borrowed(repository), index, Arc::new(Kept::new(cache_bytes)))
    }

    fn with(repository: Holder<'r>, index: Index, kept: Arc<Kept>) -> Self {
        Self { repository, index, second: OnceLock::new(), lost_keys: Mutex::default(), kept, made_up: None }
    }

    /// Relies on its index alone, even where that leads to bytes that are wrong.
    pub fn without_fallback(self) -> Self {
        let _ = self.second.set(None);
        self
    }

    /// Returns the repository.
    pub fn repository(&self) -> &Repository {
        match &self.repository {
            Holder::Borrowed(repository) => repository,
            Holder::Shared(repository) => repository,
        }
    }

    /// Returns the index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Gives the index back.
    pub fn into_index(self) -> Index {
        self.index
    }

    /// Returns a frame's raw bytes, from memory if it was read lately.
    ///
    /// # Errors
    /// As [`Self::read_frame`].
    pub fn frame(&self, pack: &PackRow, number: u16) -> Result<RawBytes, RepoError> {
        self.kept.frames.get_or_make((pack.id, number), || {
            let raw = self.read_frame(pack, number)?.1;
            let bytes = raw.len();
            Ok((raw, bytes))
        })
    }

    /// Returns whether a frame is in memory.
    pub fn has_frame(&self, pack: &PackRow, number: u16) -> bool {
        self.kept.frames.has(&(pack.id, number))
    }

    /// Forgets the frames that were read lately: no more of the same are to come.
    pub fn forget_frames(&self) {
        self.kept.frames.clear();
    }

    /// Reads, opens and expands a frame. One read of the store.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::Frame`], [`RepoError::Seal`], [`RepoError::Locked`] if
    /// it holds content and nothing was unlocked.
    pub fn read_frame(&self, pack: &PackRow, number: u16) -> Result<(FrameHeader, Vec<u8>), RepoError> {
        let span = pack.frames.get(usize::from(number)).copied();
        let span = span.filter(|span| span.bytes as usize <= FRAME_STORED_BYTES_CAP).ok_or_else(|| {
            RepoError::record(&Name::Pack(pack.id), WireError::record("no frame of that number and length"))
        })?;
        let range = u64::from(span.offset)..u64::from(span.offset) + u64::from(span.bytes);
        tracing::debug!("{}: reads the frame at byte {}", Name::Pack(pack.id), span.offset);
        let mut bytes = self.repository().store().read_range(&Name::Pack(pack.id), range)?;
        let mut raw = Vec::new();
        let header = self.open_frame(pack, span, &mut bytes, &mut raw)?;
        Ok((header, raw))
    }

    /// Opens a frame in place whose bytes were read already, and expands it into `raw`.
    ///
    /// # Errors
    /// As [`Self::read_frame`].
    pub fn open_frame(
        &self,
        pack: &PackRow,
        span: FrameSpan,
        bytes: &mut [u8],
        raw: &mut Vec<u8>,
    ) -> Result<FrameHeader, RepoError> {
        let fail = |source| RepoError::Frame {
            path: Name::Pack(pack.id).to_string(),
            offset: u64::from(span.offset),
            source,
        };
        let (head, body) = bytes
            .split_first_chunk_mut::<FRAME_HEADER_BYTES>()
            .ok_or_else(|| fail(FrameError::Header { what: "cut short" }))?;
        let header = FrameHeader::from_bytes(head).map_err(fail)?;
        let is_sealed = self.repository().writer_keys().metadata().is_some();
        if header.stored_bytes as usize != body.len() || header.sealed != is_sealed {
            return Err(fail(FrameError::Header { what: "does not fit the index or the repository" }));
        }
        if (header.kind == FrameKind::Tree) != pack.is_tree {
            return Err(fail(FrameError::Header { what: "kind is not the pack's" }));
        }
        let plain: &[u8] = match header.sealed {
            false => body,
            true => self
                .key(pack, &header)?
                .open_in_place(&header.salt, head, body)
                .map_err(|e| RepoError::seal(&Name::Pack(pack.id), e))?,
        };
        expand(&header, plain, raw).map_err(fail)?;
        Ok(header)
    }

    fn key(&self, pack: &PackRow, header: &FrameHeader) -> Result<SealKey, RepoError> {
        let path = Name::Pack(pack.id).to_string();
        if header.kind == FrameKind::Tree {
            let key = self.repository().writer_keys().metadata();
            let key = key.filter(|key| key.id() == header.key_id).cloned();
            return key.ok_or_else(|| RepoError::seal(&path, SealError::Broken));
        }
        if let Some(key) = self.kept.keys.lock().unwrap_or_else(PoisonError::into_inner).get(&header.key_id) {
            return Ok(key.clone());
        }
        let identities = self.repository().identities().ok_or(RepoError::Locked)?;
        let sealed = match self.sealed_key(pack.id, header.key_id) {
            Ok(Some(sealed)) => sealed,
            own => {
                // Damaged. Every pack of a run carries the run's key: another one may have it.
                let Some(sealed) = self.look_elsewhere(header.key_id) else {
                    return Err(own.err().unwrap_or_else(|| RepoError::seal(&path, SealError::Broken)));
                };
                sealed
            }
        };
        let key = open_data_key(&sealed, identities, &path)?;
        self.kept.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key.id(), key.clone());
        Ok(key)
    }

    fn sealed_key(&self, pack: PackId, key: KeyId) -> Result<Option<SealedKey>, RepoError> {
        let header = read_pack_header(self.repository(), pack)?;
        Ok(header.keys.into_iter().find(|sealed| sealed.key_id == key))
    }

    /// Looks for a data key in the headers of all packs, once.
    fn look_elsewhere(&self, key: KeyId) -> Option<SealedKey> {
        let mut lost = self.lost_keys.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.contains(&key) {
            return None;
        }
        let mut packs = self.index.packs().filter(|(_, pack, _)| !pack.is_tree);
        let found = packs.find_map(|(_, pack, _)| self.sealed_key(pack.id, key).ok().flatten());
        if found.is_none() {
            lost.insert(key);
        }
        found
    }

    /// Returns a chunk's bytes, hashed again. If where the cache points is wrong, the fragments
    /// are asked as well.
    ///
    /// # Errors
    /// [`RepoError::UnknownChunk`], [`RepoError::DamagedChunk`], or as [`Self::frame`].
    pub fn chunk(&self, chunk: ChunkRef) -> Result<Vec<u8>, RepoError> {
        let mut out = Vec::with_capacity(chunk.bytes as usize);
        self.append_chunk(chunk, &mut out)?;
        Ok(out)
    }

    /// Appends a chunk that was found at `location` some time ago; where that does not hold any
    /// more, it is looked up again.
    ///
    /// # Errors
    /// As [`Self::chunk`].
    pub fn append_found(
        &self,
        location: Option<Location>,
        chunk: ChunkRef,
        out: &mut Vec<u8>,
    ) -> Result<(), RepoError> {
        if let Some(location) = location
            && self.append_at(&self.index, location, chunk, out).is_ok()
        {
            return Ok(());
        }
        self.append_chunk(chunk, out)
    }

    fn append_chunk(&self, chunk: ChunkRef, out: &mut Vec<u8>) -> Result<(), RepoError> {
        if let Some(bytes) = self.made_up.as_ref().and_then(|made_up| made_up.bytes(chunk)) {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        match self.append_from(&self.index, chunk, out) {
            Err(e) if e.is_unreadable() => {
                let second = self.second.get_or_init(|| Index::open_in_memory(self.repository()).ok());
                let second = second.as_ref().map(|index| self.append_from(index, chunk, out));
                match second {
                    Some(Ok(())) => Ok(()),
                    _ => Err(e),
                }
            }
            other => other,
        }
    }

    fn append_from(&self, index: &Index, chunk: ChunkRef, out: &mut Vec<u8>) -> Result<(), RepoError> {
        let first = match index.find(&chunk.id)? {
            Some(location) => self.append_at(index, location, chunk, out),
            None => Err(RepoError::UnknownChunk { id: chunk.id }),
        };
        let Err(mut error) = first else { return Ok(()) };
        if error.is_unreadable() {
            for location in index.others(&chunk.id) {
                match self.append_at(index, *location, chunk, out) {
                    Ok(()) => return Ok(()),
                    Err(other) if error.is_damage() => error = other,
                    Err(_) => {} // a disk that fails says nothing of the bytes: that is what counts
                }
            }
        }
        Err(error)
    }

    fn append_at(
        &self,
        index: &Index,
        location: Location,
        chunk: ChunkRef,
        out: &mut Vec<u8>,
    ) -> Result<(), RepoError> {
        let pack = index.pack(location.pack).ok_or(RepoError::UnknownChunk { id: chunk.id })?;
        let raw = self.frame(pack, location.frame)?;
        out.extend_from_slice(verified(self.repository(), pack, location, chunk, &raw)?);
        Ok(())
    }

    /// Returns the bytes of a content: for trees; a large file's should be read chunk by chunk.
    ///
    /// # Errors
    /// As [`Self::flatten`]; more than [`RECORD_BYTES_CAP`] bytes are refused.
    pub fn content(&self, content: Content<'_>) -> Result<Vec<u8>, RepoError> {
        self.gather(&self.flatten(content)?)
    }

    /// Returns the bytes of the chunks of `list`, one after the other.
    pub(super) fn gather(&self, list: &[u8]) -> Result<Vec<u8>, RepoError> {
        let total: u64 = refs(list).map(|chunk| u64::from(chunk.bytes)).sum();
        if total > RECORD_BYTES_CAP as u64 {
            return Err(RepoError::Content { what: "longer than any list or directory may be" });
        }
        let mut out =
            Vec::with_capacity(usize::try_from(total).unwrap_or(0).min(list.len() / REF_BYTES * (64 << 10)));
        let readers = self.repository().store().reads_at_once();
        if readers > 1 {
            for some in refs(list).collect::<Vec<_>>().chunks(2 * readers) {
                self.bring(some, readers);
                some.iter().try_for_each(|chunk| self.append_chunk(*chunk, &mut out))?;
            }
            return Ok(out);
        }
        for chunk in refs(list) {
            self.append_chunk(chunk, &mut out)?;
        }
        Ok(out)
    }

    /// Brings the frames of these chunks into memory, so many at the same time: a folder's entries lie in the frames of all
    /// nights on which they changed, and each costs a request. What can't be read is told when it is wanted.
    fn bring(&self, chunks: &[ChunkRef], readers: usize) {
        let find = |chunk: &ChunkRef| self.index().find(&chunk.id).ok().flatten();
        let frames: BTreeSet<_> =
            chunks.iter().filter_map(find).map(|found| (found.pack, found.frame)).collect();
        let frames = frames.into_iter().filter_map(|(pack, frame)| Some((self.index().pack(pack)?, frame)));
        let lacking: Vec<_> = frames.filter(|(pack, frame)| !self.has_frame(pack, *frame)).collect();
        if lacking.len() > 1 {
            map_side_by_side(readers, lacking.len(), |number| {
                let _ = lacking.get(number).map(|(pack, frame)| self.frame(pack, *frame));
            });
        }
    }
}

/// Returns the chunk's bytes in its frame, if they are the chunk's.
///
/// # Errors
/// [`RepoError::DamagedChunk`].
pub fn verified<'f>(
    repository: &Repository,
    pack: &PackRow,
    location: Location,
    chunk: ChunkRef,
    raw: &'f [u8],
) -> Result<&'f [u8], RepoError> {
    let start = location.offset as usize;
    let bytes = raw.get(start..start.saturating_add(chunk.bytes as usize));
    let bytes = bytes.filter(|bytes| {
        chunk.bytes == location.bytes && repository.writer_keys().namer(pack.kind()).name(bytes) == chunk.id
    });
    bytes.ok_or_else(|| RepoError::DamagedChunk {
        id: chunk.id,
        path: Name::Pack(pack.id).to_string(),
        offset: pack.frames.get(usize::from(location.frame)).map_or(0, |span| u64::from(span.offset)),
    })
}

/// Reads the header at a pack's start.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::Record`]; [`RepoError::Distrusted`] for another repository's pack.
pub fn read_pack_header(repository: &Repository, id: PackId) -> Result<PackHeader, RepoError> {
    let name = Name::Pack(id);
    let store = repository.store();
    let short = |e: crate::store::StoreError| match e {
        crate::store::StoreError::Short { found, .. } => store.read_range(&name, 0..found),
        other => Err(other),
    };
    let mut bytes = store.read_range(&name, 0..HEADER_BYTES_GUESS).or_else(short)?;
    if let Err(WireError::Length { expected, .. }) = wire::unwrap_prefix(RecordKind::PackHeader, &bytes)
        && expected <= HEADER_BYTES_MAX
    {
        bytes = store.read_range(&name, 0..expected)?;
    }
    let bad = |e: WireError| RepoError::record(&name, e);
    let (payload, _) = wire::unwrap_prefix(RecordKind::PackHeader, &bytes).map_err(bad)?;
    let header: PackHeader = wire::decode(payload).map_err(bad)?;
    match header.repository == repository.id() {
        true => Ok(header),
        false => Err(RepoError::Distrusted {
            location: name.to_string(),
            what: format!("belongs to repository {}", header.repository),
        }),
    }
}
