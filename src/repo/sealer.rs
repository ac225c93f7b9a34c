//! Raw frames → sealed frames → packs, each on threads of their own.

use crossbeam_channel::{Receiver, Sender};

use crate::base::content::ChunkRef;
use crate::base::directory::{Directory, FrameRow};
use crate::base::id::{KeyId, PackId};
use crate::base::kind::FrameKind;
use crate::base::layout::FRAME_HEADER_BYTES;
use crate::base::limits::PACK_FRAMES_MAX;
use crate::base::threads::{Begun, begin_or_do};
use crate::base::wire::{self, RecordKind};
use crate::repo::buffers::Buffers;
use crate::repo::index::build_directory;
use crate::repo::keys::DataKey;
use crate::repo::listing::Listing;
use crate::repo::{RepoError, Repository};
use crate::stage::frame::{Compressor, FrameHeader, RawFrame, body_bytes_max};
use crate::stage::index::PackEntry;
use crate::stage::pack::{PackHeader, SealedKey, Trailer};
use crate::stage::seal::{SealKey, TAG_BYTES, random};
use crate::store::{Name, StoreError, Upload};

/// A frame as it is stored.
pub struct SealedFrame {
    kind: FrameKind,
    raw_bytes: u32,
    head: [u8; FRAME_HEADER_BYTES],
    body: Vec<u8>,
    chunks: Vec<ChunkRef>,
}

/// The memory that frames take on their way, as they are and as they are stored.
pub struct FrameBuffers {
    /// For frames' raw bytes.
    pub raw: Buffers,
    /// For their bodies.
    pub bodies: Buffers,
}

impl FrameBuffers {
    /// Begins without any, for frames that aim at `frame_bytes`.
    pub fn new(frame_bytes: u32) -> Self {
        let raw_bytes = frame_bytes as usize;
        let bodies = Buffers::new(body_bytes_max(raw_bytes) + TAG_BYTES);
        Self { raw: Buffers::new(raw_bytes), bodies }
    }
}

/// Compresses and seals frames until there are no more. Their raw bytes go back to `buffers`.
///
/// # Errors
/// [`RepoError::System`]. A closed `sealed` ends it without error: whoever closed it has the reason.
pub fn seal_frames(
    repository: &Repository,
    data_key: Option<&DataKey>,
    buffers: &FrameBuffers,
    frames: &Receiver<RawFrame>,
    sealed: &Sender<SealedFrame>,
) -> Result<(), RepoError> {
    let mut sealer = FrameSealer::new(repository, data_key)?;
    for frame in frames {
        let stored = sealer.seal(&frame, buffers.bodies.take())?;
        buffers.raw.give(frame.bytes);
        if sealed.send(stored).is_err() {
            break;
        }
    }
    Ok(())
}

/// Compresses and seals frames one by one.
pub struct FrameSealer<'s> {
    repository: &'s Repository,
    data_key: Option<&'s DataKey>,
    compressor: Compressor,
}

impl<'s> FrameSealer<'s> {
    /// Makes a sealer; frames of content are sealed with `data_key`.
    ///
    /// # Errors
    /// [`RepoError::System`].
    pub fn new(repository: &'s Repository, data_key: Option<&'s DataKey>) -> Result<Self, RepoError> {
        let compressor = Compressor::new(repository.config().compression).map_err(no_memory)?;
        Ok(Self { repository, data_key, compressor })
    }

    /// Compresses and seals a frame; `body` will hold what is stored, in place of what is there.
    ///
    /// # Errors
    /// [`RepoError::System`].
    pub fn seal(&mut self, frame: &RawFrame, mut body: Vec<u8>) -> Result<SealedFrame, RepoError> {
        let coding = self.compressor.compress(&frame.bytes, &mut body).map_err(no_memory)?;
        let key: Option<&SealKey> = match frame.kind {
            FrameKind::Tree => self.repository.writer_keys().metadata(),
            FrameKind::Content => self.data_key.map(DataKey::key),
        };
        let mut salt = [0; 16];
        if key.is_some() {
            random(&mut salt).map_err(|_| RepoError::System { what: "random bytes" })?;
        }
        let stored = body.len() + if key.is_some() { TAG_BYTES } else { 0 };
        let too_long = |_| RepoError::Content { what: "frame is longer than any may be" };
        let header = FrameHeader {
            kind: frame.kind,
            coding,
            sealed: key.is_some(),
            raw_bytes: u32::try_from(frame.bytes.len()).map_err(too_long)?,
            stored_bytes: u32::try_from(stored).map_err(too_long)?,
            chunk_count: u32::try_from(frame.chunks.len()).map_err(too_long)?,
            key_id: key.map_or(KeyId::from_bytes([0; 8]), SealKey::id),
            salt,
        };
        let head = header.to_bytes();
        if let Some(key) = key {
            key.seal(&salt, &head, &mut body).map_err(|_| RepoError::System { what: "seal" })?;
        }
        let (kind, raw_bytes) = (frame.kind, header.raw_bytes);
        Ok(SealedFrame { kind, raw_bytes, head, body, chunks: frame.chunks.clone() })
    }
}

fn no_memory(_: std::io::Error) -> RepoError {
    RepoError::System { what: "memory for zstd" }
}

/// A pack that is made durable.
type Closing<'s> = Begun<'s, Result<PackEntry, RepoError>>;

/// Writes frames into packs until there are no more; every pack is durable when this returns, and none is listed yet. The
/// disk takes its time for that, so a full pack is made durable while the next one is written. Bodies go back to `buffers`.
///
/// # Errors
/// [`RepoError::Store`]; packs that were named before stay, and the next run takes them over.
pub fn write_packs<'r>(
    repository: &'r Repository,
    data_key: Option<&DataKey>,
    buffers: &FrameBuffers,
    sealed: &Receiver<SealedFrame>,
) -> Result<Listing<'r>, RepoError> {
    let mut listing = Listing::new(repository);
    let (mut content, mut tree) = (None, None);
    std::thread::scope(|scope| {
        // Without a thread to be had nothing is written meanwhile.
        let close = |pack: OpenPack| begin_or_do(scope, move || pack.close(repository));
        let mut list = |closing: Closing<'_>| {
            let pack = closing.join().ok_or(RepoError::System { what: "end of a writing thread" })?;
            listing.add(&pack?)
        };
        let mut closing: Option<Closing<'_>> = None;
        for frame in sealed {
            let open = match frame.kind {
                FrameKind::Content => &mut content,
                FrameKind::Tree => &mut tree,
            };
            let mut pack = match open.take() {
                Some(pack) => pack,
                None => {
                    let is_content = frame.kind == FrameKind::Content;
                    let key = data_key.filter(|_| is_content).map(|key| key.sealed().clone());
                    OpenPack::begin(repository, frame.kind, key.into_iter().collect())?
                }
            };
            pack.push(&frame)?;
            buffers.bodies.give(frame.body);
            if !pack.is_full(repository.config().pack_bytes) {
                *open = Some(pack);
                continue;
            }
            closing.take().map_or(Ok(()), &mut list)?;
            closing = Some(close(pack));
        }
        closing.map_or(Ok(()), &mut list)?;
        let last: Vec<_> = [content, tree].into_iter().flatten().map(close).collect();
        last.into_iter().try_for_each(list)
    })?;
    Ok(listing)
}

/// A pack while it is written. Dropped, it leaves nothing behind.
pub struct OpenPack {
    upload: Box<dyn Upload>,
    hasher: blake3::Hasher,
    at: u32,
    directory: Directory,
}

impl OpenPack {
    /// Begins a pack whose frames are sealed with `keys`; none for trees and without encryption.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn begin(repository: &Repository, kind: FrameKind, keys: Vec<SealedKey>) -> Result<Self, RepoError> {
        let header = PackHeader { repository: repository.id(), keys };
        let record = wire::encode(&header).map_err(|e| RepoError::record(&"packs/", e))?;
        let mut pack = Self {
            upload: repository.store().begin()?,
            hasher: blake3::Hasher::new(),
            at: 0,
            directory: Directory { is_tree: kind == FrameKind::Tree, ..Directory::default() },
        };
        pack.write(&wire::wrap(RecordKind::PackHeader, &record))?;
        Ok(pack)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), RepoError> {
        self.hasher.update(bytes);
        self.upload.write(bytes)?;
        self.at = self.at.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        Ok(())
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn push(&mut self, frame: &SealedFrame) -> Result<(), RepoError> {
        let offset = self.at;
        self.write(&frame.head)?;
        self.write(&frame.body)?;
        let row = FrameRow {
            offset,
            bytes: self.at - offset,
            raw_bytes: frame.raw_bytes,
            chunk_count: u32::try_from(frame.chunks.len()).unwrap_or(u32::MAX),
        };
        self.directory.push(row, &frame.chunks);
        Ok(())
    }

    /// Appends a frame as it is stored in another pack; returns its number.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn push_stored(
        &mut self,
        bytes: &[u8],
        row: FrameRow,
        chunks: &[ChunkRef],
    ) -> Result<u16, RepoError> {
        let number = u16::try_from(self.directory.frames.len()).unwrap_or(u16::MAX);
        let offset = self.at;
        self.write(bytes)?;
        self.directory.push(FrameRow { offset, ..row }, chunks);
        Ok(number)
    }

    /// Returns whether it should be closed, where packs aim at `pack_bytes`.
    pub fn is_full(&self, pack_bytes: u32) -> bool {
        self.at >= pack_bytes || self.directory.frames.len() >= PACK_FRAMES_MAX
    }

    /// Makes the pack durable.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn close(mut self, repository: &Repository) -> Result<PackEntry, RepoError> {
        let directory = build_directory(repository, &self.directory)?;
        let trailer = Trailer {
            directory_offset: u64::from(self.at),
            directory_bytes: directory.len() as u64,
            frame_count: u32::try_from(self.directory.frames.len()).unwrap_or(u32::MAX),
        };
        self.write(&directory)?;
        self.write(&trailer.to_bytes())?;
        let id = PackId::from_bytes(*self.hasher.finalize().as_bytes());
        match self.upload.commit(&Name::Pack(id)) {
            Ok(()) | Err(StoreError::Taken { .. }) => {} // the same bytes
            Err(e) => return Err(e.into()),
        }
        Ok(PackEntry { id, bytes: u64::from(self.at), directory: self.directory })
    }
}
