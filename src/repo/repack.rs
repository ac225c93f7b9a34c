//! Packs of which a part is needed → new packs that hold that part.
//!
//! A frame that is needed whole is copied as it is stored: sealed, under the key and salt that it has;
//! the new pack's header carries that key. A frame that is needed in part is rebuilt, where it can be
//! opened. A pack is hashed before anything of it is copied: damage must not get a name of its own.

use std::collections::BTreeSet;

use crate::base::condemned::ClosedFrames;
use crate::base::content::{ChunkRef, refs};
use crate::base::directory::{Directory, FrameRow};
use crate::base::id::{KeyId, PackId};
use crate::base::kind::FrameKind;
use crate::base::layout::FRAME_HEADER_BYTES;
use crate::base::progress::{Done, Progress};
use crate::repo::config::Encryption;
use crate::repo::index::read_directory;
use crate::repo::keys::DataKey;
use crate::repo::listing::{Listed, Listing};
use crate::repo::reader::{Reader, read_pack_header};
use crate::repo::sealer::{FrameSealer, OpenPack};
use crate::repo::{RepoError, Repository};
use crate::stage::frame::{FrameHeader, RawFrame};
use crate::stage::index::{FrameSpan, PackRow};
use crate::stage::pack::SealedKey;
use crate::store::Name;

/// Bytes read at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// Most bytes of sealed keys in a new pack's header, so that it can be read back (half of what a reader takes).
const KEYS_BYTES_MAX: usize = 512 << 10;

/// Chunks below this length on average are headers of messages: they have frames of their own.
const HEADER_CHUNK_BYTES: u32 = 2048;

/// How a frame fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameFate {
    /// Nothing of it is needed.
    Drop,
    /// It is copied as it is stored.
    Copy {
        /// Whether new snapshots keep away from it.
        is_closed: bool,
    },
    /// Those of its chunks are stored anew that are needed.
    Rebuild(Vec<bool>),
}

/// A pack to repack.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name.
    pub pack: PackId,
    /// Its length, in bytes.
    pub bytes: u64,
    /// How its frames fare.
    pub frames: Vec<FrameFate>,
}

/// What repacking made.
#[derive(Default)]
pub struct Repacked {
    /// The new packs.
    pub listed: Listed,
    /// The packs of which all that is needed is in the new ones.
    pub done: Vec<PackId>,
    /// Frames of the new packs that new snapshots keep away from.
    pub closed: Vec<ClosedFrames>,
    /// Packs that were left as they are, and why.
    pub problems: Vec<String>,
}

/// Copies what is needed of `sources` into new packs, and lists them. `reader` opens frames; its index is not asked.
///
/// # Errors
/// [`RepoError::Store`]: new packs that are complete stay, and the next backup takes them over;
/// [`RepoError::Interrupted`]. A damaged source is no error: see [`Repacked::problems`].
pub fn repack(
    repository: &Repository,
    reader: &Reader<'_>,
    sources: &[Source],
    progress: &Progress,
) -> Result<Repacked, RepoError> {
    let is_rebuilt = |source: &Source| source.frames.iter().any(|fate| matches!(fate, FrameFate::Rebuild(_)));
    let is_sealed = repository.config().encryption == Encryption::Age;
    let data_key = match is_sealed && repository.identities().is_some() && sources.iter().any(is_rebuilt) {
        true => Some(DataKey::draw(repository.writer_keys(), &repository.recipients()?)?),
        false => None,
    };
    let mut repacker = Repacker {
        repository,
        reader,
        sealer: FrameSealer::new(repository, data_key.as_ref())?,
        data_key: data_key.as_ref(),
        copied: None,
        rebuilt: None,
        tree: None,
        raw: [FrameKind::Content, FrameKind::Content, FrameKind::Tree].map(RawFrame::new),
        made: Listing::new(repository),
        out: Repacked::default(),
    };
    let keys = sources.iter().map(|source| match used_keys(repository, source) {
        Err(e) if e.is_damage() => Ok(Vec::new()), // found out again when the source is read
        keys => keys,
    });
    let keys: Vec<Vec<SealedKey>> = keys.collect::<Result<_, _>>()?;
    for (place, source) in sources.iter().enumerate() {
        if progress.is_cancelled() {
            return Err(RepoError::Interrupted);
        }
        let ahead = || Ahead { sources: &sources[place..], keys: &keys[place..] };
        match repacker.source(source, &ahead()) {
            Ok(()) => repacker.out.done.push(source.pack),
            Err(e) if e.is_damage() => {
                repacker.out.problems.push(format!(
                    "{}: not repacked: {}",
                    Name::Pack(source.pack),
                    e.chain()
                ));
            }
            Err(e) => return Err(e),
        }
        progress.add(Done { files: 1, bytes: source.bytes });
    }
    repacker.finish()
}

/// Sources that are still to come, with the keys of what is copied of each.
struct Ahead<'a> {
    sources: &'a [Source],
    keys: &'a [Vec<SealedKey>],
}

impl Ahead<'_> {
    /// Returns the keys of the first source.
    fn own(&self) -> &[SealedKey] {
        self.keys.first().map_or(&[], Vec::as_slice)
    }

    /// Returns the keys that a pack needs to take what comes next, until it is full.
    fn keys(&self, pack_bytes: u32) -> Vec<SealedKey> {
        let mut all: Vec<SealedKey> = Vec::new();
        let (mut bytes, mut key_bytes) = (0, 0);
        for (source, keys) in self.sources.iter().zip(self.keys) {
            let new: Vec<_> = keys.iter().filter(|key| !has(&all, key.key_id)).cloned().collect();
            key_bytes += new.iter().map(|key| key.age.len()).sum::<usize>();
            if bytes >= u64::from(pack_bytes) || (!all.is_empty() && key_bytes > KEYS_BYTES_MAX) {
                break;
            }
            all.extend(new);
            bytes += source.bytes;
        }
        all
    }
}

fn has(keys: &[SealedKey], id: KeyId) -> bool {
    keys.iter().any(|key| key.key_id == id)
}

/// Returns the keys that the frames of a source which are copied are sealed with.
fn used_keys(repository: &Repository, source: &Source) -> Result<Vec<SealedKey>, RepoError> {
    let header = read_pack_header(repository, source.pack)?;
    if header.keys.len() < 2 {
        return Ok(header.keys);
    }
    let directory = read_directory(repository, source.pack, source.bytes)?;
    let mut used = BTreeSet::new();
    for (row, fate) in directory.frames.iter().zip(&source.frames) {
        if let FrameFate::Copy { .. } = fate {
            let start = u64::from(row.offset);
            let range = start..start + FRAME_HEADER_BYTES as u64;
            let head = repository.store().read_range(&Name::Pack(source.pack), range)?;
            used.insert(frame_header(source.pack, row.offset, &head)?.key_id);
        }
    }
    Ok(header.keys.into_iter().filter(|key| used.contains(&key.key_id)).collect())
}

fn frame_header(pack: PackId, offset: u32, frame: &[u8]) -> Result<FrameHeader, RepoError> {
    let head =
        frame.first_chunk().ok_or(RepoError::Content { what: "a frame is shorter than its header" })?;
    let path = || Name::Pack(pack).to_string();
    FrameHeader::from_bytes(head).map_err(|source| RepoError::Frame {
        path: path(),
        offset: u64::from(offset),
        source,
    })
}

/// A pack of copied frames, and what its header and its frames say.
struct CopiedPack {
    pack: OpenPack,
    keys: Vec<SealedKey>,
    closed: Vec<u16>,
}

struct Repacker<'r> {
    repository: &'r Repository,
    reader: &'r Reader<'r>,
    sealer: FrameSealer<'r>,
    data_key: Option<&'r DataKey>,
    copied: Option<CopiedPack>,
    rebuilt: Option<OpenPack>,
    tree: Option<OpenPack>,
    /// Headers of messages, other content, trees.
    raw: [RawFrame; 3],
    made: Listing<'r>,
    out: Repacked,
}

impl Repacker<'_> {
    fn source(&mut self, source: &Source, ahead: &Ahead<'_>) -> Result<(), RepoError> {
        let name = Name::Pack(source.pack);
        if !is_whole(self.repository, source)? {
            return Err(RepoError::NameMismatch { path: name.to_string() });
        }
        let directory = read_directory(self.repository, source.pack, source.bytes)?;
        if directory.frames.len() != source.frames.len() {
            return Err(RepoError::Content { what: "a pack has other frames than its fragment lists" });
        }
        let row = row_of(source, &directory);
        for ((number, frame, chunks), fate) in directory.frames().zip(&source.frames) {
            let chunks: Vec<ChunkRef> = refs(chunks).collect();
            match fate {
                FrameFate::Drop => {}
                FrameFate::Copy { is_closed } => {
                    let start = u64::from(frame.offset);
                    let bytes =
                        self.repository.store().read_range(&name, start..start + u64::from(frame.bytes))?;
                    let header = frame_header(source.pack, frame.offset, &bytes)?;
                    if header.sealed && row.kind() == FrameKind::Content && !has(ahead.own(), header.key_id) {
                        // Nobody could open it where it would lie.
                        let what = "the key of a frame is not in the header of its pack";
                        return Err(RepoError::Content { what });
                    }
                    self.copy(&bytes, frame, &chunks, row.kind(), *is_closed, ahead)?;
                }
                FrameFate::Rebuild(live) => {
                    let number = u16::try_from(number).unwrap_or(u16::MAX);
                    let (_, raw) = self.reader.read_frame(&row, number)?;
                    self.rebuild(&row, &raw, &chunks, live)?;
                }
            }
        }
        Ok(())
    }

    fn copy(
        &mut self,
        bytes: &[u8],
        row: FrameRow,
        chunks: &[ChunkRef],
        kind: FrameKind,
        is_closed: bool,
        ahead: &Ahead<'_>,
    ) -> Result<(), RepoError> {
        let pack_bytes = self.repository.config().pack_bytes;
        if kind == FrameKind::Tree {
            let mut pack = match self.tree.take() {
                Some(pack) => pack,
                None => OpenPack::begin(self.repository, kind, Vec::new())?,
            };
            pack.push_stored(bytes, row, chunks)?;
            self.tree = close_if_full(self.repository, pack, &mut self.made)?;
            return Ok(());
        }
        let fits = |open: &CopiedPack| ahead.own().iter().all(|key| has(&open.keys, key.key_id));
        if self.copied.as_ref().is_some_and(|open| open.pack.is_full(pack_bytes) || !fits(open)) {
            self.close_copied()?;
        }
        let mut open = match self.copied.take() {
            Some(open) => open,
            None => {
                let keys = ahead.keys(pack_bytes);
                let pack = OpenPack::begin(self.repository, kind, keys.clone())?;
                CopiedPack { pack, keys, closed: Vec::new() }
            }
        };
        let number = open.pack.push_stored(bytes, row, chunks)?;
        if is_closed {
            open.closed.push(number);
        }
        self.copied = Some(open);
        Ok(())
    }

    fn close_copied(&mut self) -> Result<(), RepoError> {
        let Some(open) = self.copied.take() else { return Ok(()) };
        let pack = open.pack.close(self.repository)?;
        if !open.closed.is_empty() {
            self.out.closed.push(ClosedFrames { pack: pack.id, frames: open.closed });
        }
        self.made.add(&pack)
    }

    fn rebuild(
        &mut self,
        row: &PackRow,
        raw: &[u8],
        chunks: &[ChunkRef],
        live: &[bool],
    ) -> Result<(), RepoError> {
        let namer = self.repository.writer_keys().namer(row.kind());
        let average = raw.len() / chunks.len().max(1);
        let place = match row.kind() {
            FrameKind::Tree => 2,
            FrameKind::Content => usize::from(average >= HEADER_CHUNK_BYTES as usize),
        };
        let mut at = 0;
        for (chunk, is_live) in chunks.iter().zip(live) {
            let bytes = raw.get(at..at + chunk.bytes as usize).unwrap_or_default();
            at += chunk.bytes as usize;
            if !is_live {
                continue;
            }
            if namer.name(bytes) != chunk.id {
                let path = Name::Pack(row.id).to_string();
                return Err(RepoError::DamagedChunk { id: chunk.id, path, offset: 0 });
            }
            if self.raw[place].is_full_for(bytes.len(), self.repository.config().frame_bytes)
                && let Some(full) = self.raw[place].take()
            {
                self.push_raw(full)?;
            }
            self.raw[place].push(*chunk, bytes);
        }
        Ok(())
    }

    fn push_raw(&mut self, frame: RawFrame) -> Result<(), RepoError> {
        let kind = frame.kind;
        let sealed = self.sealer.seal(&frame, Vec::new())?;
        let (open, key) = match kind {
            FrameKind::Tree => (&mut self.tree, None),
            FrameKind::Content => (&mut self.rebuilt, self.data_key),
        };
        let mut pack = match open.take() {
            Some(pack) => pack,
            None => {
                let keys = key.map(|key| key.sealed().clone()).into_iter().collect();
                OpenPack::begin(self.repository, kind, keys)?
            }
        };
        pack.push(&sealed)?;
        *open = close_if_full(self.repository, pack, &mut self.made)?;
        Ok(())
    }

    fn finish(mut self) -> Result<Repacked, RepoError> {
        for place in 0..self.raw.len() {
            if let Some(rest) = self.raw[place].take() {
                self.push_raw(rest)?;
            }
        }
        self.close_copied()?;
        for pack in [self.rebuilt.take(), self.tree.take()].into_iter().flatten() {
            self.made.add(&pack.close(self.repository)?)?;
        }
        Ok(Repacked { listed: self.made.finish()?, ..self.out })
    }
}

fn close_if_full(
    repository: &Repository,
    pack: OpenPack,
    made: &mut Listing<'_>,
) -> Result<Option<OpenPack>, RepoError> {
    if !pack.is_full(repository.config().pack_bytes) {
        return Ok(Some(pack));
    }
    made.add(&pack.close(repository)?)?;
    Ok(None)
}

fn row_of(source: &Source, directory: &Directory) -> PackRow {
    let frames = directory.frames.iter().map(|row| FrameSpan { offset: row.offset, bytes: row.bytes });
    PackRow { id: source.pack, bytes: source.bytes, is_tree: directory.is_tree, frames: frames.collect() }
}

/// Returns whether a pack's bytes are what its name stands for. Reads it once, in order.
fn is_whole(repository: &Repository, source: &Source) -> Result<bool, RepoError> {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < source.bytes {
        let end = source.bytes.min(at + PIECE_BYTES);
        hasher.update(&repository.store().read_range(&Name::Pack(source.pack), at..end)?);
        at = end;
    }
    Ok(hasher.finalize().as_bytes() == source.pack.as_bytes())
}
