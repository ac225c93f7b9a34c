//! Stage 5: chunks that lie side by side → one frame, compressed together; and back.

/// Base64 lines → the bytes that they stand for; and back.
mod base64;

use std::cell::RefCell;

use crate::base::content::ChunkRef;
use crate::base::id::KeyId;
use crate::base::kind::FrameKind;
use crate::base::layout::{FRAME_HEADER_BYTES, FRAME_MAGIC};
use crate::base::limits::{FRAME_BYTES, FRAME_BYTES_CAP, FRAME_CHUNKS_MAX};
use crate::stage::frame::base64::Parts;

/// Chunks on their way into one frame.
#[derive(Debug)]
pub struct RawFrame {
    /// What the chunks belong to.
    pub kind: FrameKind,
    /// The chunks' bytes, one after the other.
    pub bytes: Vec<u8>,
    /// The chunks, in the same order.
    pub chunks: Vec<ChunkRef>,
}

impl RawFrame {
    /// Makes an empty frame.
    pub fn new(kind: FrameKind) -> Self {
        Self::inside(Vec::new(), kind)
    }

    /// Makes an empty frame that gathers its bytes in `buffer`, in place of what is there.
    pub fn inside(mut buffer: Vec<u8>, kind: FrameKind) -> Self {
        buffer.clear();
        Self { kind, bytes: buffer, chunks: Vec::new() }
    }

    /// Appends a chunk.
    pub fn push(&mut self, chunk: ChunkRef, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.chunks.push(chunk);
    }

    /// Returns whether the frame should be closed before a chunk of `next_bytes` bytes is added,
    /// where frames aim at `frame_bytes`.
    pub fn is_full_for(&self, next_bytes: usize, frame_bytes: u32) -> bool {
        let would_be = self.bytes.len() + next_bytes;
        !self.chunks.is_empty() && (would_be > frame_bytes as usize || self.chunks.len() >= FRAME_CHUNKS_MAX)
    }

    /// Takes what was gathered and leaves an empty frame; none if there is nothing.
    pub fn take(&mut self) -> Option<Self> {
        let next = Self::new(self.kind);
        (!self.chunks.is_empty()).then(|| std::mem::replace(self, next))
    }
}

/// Why bytes are not a frame. Nothing was changed; never retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The header makes no sense.
    #[error("frame header: {what}")]
    Header {
        /// What is wrong.
        what: &'static str,
    },
    /// The compressed bytes do not expand to what the header says.
    #[error("frame: expands to {found} bytes, expected {expected}")]
    Expand {
        /// Bytes that came out.
        found: u64,
        /// Bytes that the header says.
        expected: u32,
    },
}

/// How a frame's body holds its chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As they are.
    Plain,
    /// Compressed: one zstd frame (RFC 8878).
    Zstd,
    /// Taken apart into runs of base64 lines, decoded, and the rest; then compressed: one zstd frame each.
    Base64Zstd,
}

/// The first bytes of a frame ([`FRAME_HEADER`](crate::base::layout::FRAME_HEADER)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the chunks belong to.
    pub kind: FrameKind,
    /// How the body holds the chunks.
    pub coding: Coding,
    /// Whether the body is sealed.
    pub sealed: bool,
    /// Length of the chunks, in bytes.
    pub raw_bytes: u32,
    /// Length of the body as stored, in bytes, after the header.
    pub stored_bytes: u32,
    /// Number of chunks.
    pub chunk_count: u32,
    /// Which key sealed the body; zeros if it is not sealed.
    pub key_id: KeyId,
    /// Makes the sealing key the frame's own; zeros if it is not sealed.
    pub salt: [u8; 16],
}

const FLAG_COMPRESSED: u8 = 1;
const FLAG_SEALED: u8 = 2;
const FLAG_BASE64: u8 = 4;

impl FrameHeader {
    /// Returns the header as it is stored.
    pub fn to_bytes(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        out[0..4].copy_from_slice(&FRAME_MAGIC);
        out[4] = self.kind.number();
        out[5] = u8::from(self.sealed) * FLAG_SEALED
            + match self.coding {
                Coding::Plain => 0,
                Coding::Zstd => FLAG_COMPRESSED,
                Coding::Base64Zstd => FLAG_COMPRESSED | FLAG_BASE64,
            };
        out[8..12].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.stored_bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.chunk_count.to_le_bytes());
        out[20..28].copy_from_slice(self.key_id.as_bytes());
        out[28..44].copy_from_slice(&self.salt);
        out
    }

    /// Reads a header, and checks every field against its bounds.
    ///
    /// # Errors
    /// [`FrameError::Header`].
    pub fn from_bytes(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let fail = |what| Err(FrameError::Header { what });
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[0..4] != FRAME_MAGIC {
            return fail("magic is wrong");
        }
        let kind = match bytes[4] {
            1 => FrameKind::Content,
            2 => FrameKind::Tree,
            _ => return fail("kind is not known"),
        };
        if bytes[5] & !(FLAG_COMPRESSED | FLAG_SEALED | FLAG_BASE64) != 0 || bytes[6..8] != [0; 2] {
            return fail("a reserved bit is set");
        }
        let coding = match (bytes[5] & FLAG_COMPRESSED != 0, bytes[5] & FLAG_BASE64 != 0) {
            (false, false) => Coding::Plain,
            (true, false) => Coding::Zstd,
            (true, true) => Coding::Base64Zstd,
            (false, true) => return fail("base64 is decoded, and the body not compressed"),
        };
        let mut key_id = [0; KeyId::BYTES];
        key_id.copy_from_slice(&bytes[20..28]);
        let mut salt = [0; 16];
        salt.copy_from_slice(&bytes[28..44]);
        let header = Self {
            kind,
            coding,
            sealed: bytes[5] & FLAG_SEALED != 0,
            raw_bytes: u32_at(8),
            stored_bytes: u32_at(12),
            chunk_count: u32_at(16),
            key_id: KeyId::from_bytes(key_id),
            salt,
        };
        let is_keyed = header.key_id != KeyId::from_bytes([0; 8]) || header.salt != [0; 16];
        match header {
            h if is_keyed && !h.sealed => fail("a frame that is not sealed names a key"),
            h if h.raw_bytes == 0 || h.raw_bytes > FRAME_BYTES_CAP => fail("raw length is out of bounds"),
            h if h.stored_bytes == 0 || h.stored_bytes > FRAME_BYTES_CAP + 1024 => {
                fail("stored length is out of bounds")
            }
            h if h.chunk_count == 0 || h.chunk_count as usize > FRAME_CHUNKS_MAX => {
                fail("number of chunks is out of bounds")
            }
            h => Ok(h),
        }
    }
}

/// Compresses frames, one after the other. One a thread: it holds zstd's tables, and a frame taken apart.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    parts: Parts,
    packed: Vec<u8>,
}

impl Compressor {
    /// Makes a compressor of zstd `level` 1..=19.
    ///
    /// # Errors
    /// As zstd's: out of memory.
    pub fn new(level: i32) -> std::io::Result<Self> {
        let mut zstd = zstd::bulk::Compressor::new(level)?;
        zstd.include_contentsize(false)?; // the header has it
        zstd.include_checksum(false)?; // every chunk is hashed
        zstd.include_dictid(false)?;
        Ok(Self { zstd, parts: Parts::default(), packed: Vec::new() })
    }

    /// Puts `raw` compressed into `body`, in place of what is there, its base64 lines decoded before if it has many;
    /// or `raw` itself where that is not longer. A `body` with room for [`body_bytes_max`] bytes is not allocated anew.
    ///
    /// # Errors
    /// As zstd's: out of memory. O(length).
    pub fn compress(&mut self, raw: &[u8], body: &mut Vec<u8>) -> std::io::Result<Coding> {
        let coding = match self.parts.take(raw) {
            false => {
                pack(&mut self.zstd, raw, body)?;
                Coding::Zstd
            }
            true => {
                let Self { zstd, parts, packed } = self;
                pack(zstd, &parts.plain, body)?;
                pack(zstd, &parts.decoded, packed)?;
                body.extend_from_slice(packed);
                Coding::Base64Zstd
            }
        };
        self.parts.shrink();
        self.packed.shrink_to(FRAME_BYTES as usize);
        if body.len() < raw.len() {
            return Ok(coding);
        }
        body.clear();
        body.extend_from_slice(raw);
        Ok(Coding::Plain)
    }
}

fn pack(zstd: &mut zstd::bulk::Compressor<'static>, raw: &[u8], packed: &mut Vec<u8>) -> std::io::Result<()> {
    packed.clear();
    packed.reserve_exact(zstd::zstd_safe::compress_bound(raw.len()));
    zstd.compress_to_buffer(raw, packed).map(|_| ())
}

/// Returns the room, in bytes, that [`Compressor::compress`] takes for `raw_bytes` bytes.
pub fn body_bytes_max(raw_bytes: usize) -> usize {
    zstd::zstd_safe::compress_bound(raw_bytes)
}

/// Expands what [`Compressor::compress`] made. One a thread.
pub struct Expander {
    zstd: zstd::bulk::Decompressor<'static>,
    parts: Vec<u8>,
}

impl Expander {
    /// Makes an expander.
    ///
    /// # Errors
    /// As zstd's: out of memory.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()?, parts: Vec::new() })
    }

    /// Puts the frame's raw bytes into `raw`, in place of what is there.
    ///
    /// # Errors
    /// [`FrameError::Expand`] if they are not exactly `header.raw_bytes`; never allocates more.
    pub fn expand(&mut self, header: &FrameHeader, body: &[u8], raw: &mut Vec<u8>) -> Result<(), FrameError> {
        let expected = header.raw_bytes;
        let fail = |found: usize| FrameError::Expand { found: found as u64, expected };
        raw.clear();
        match header.coding {
            Coding::Plain => raw.extend_from_slice(body),
            Coding::Zstd => {
                raw.reserve_exact(expected as usize);
                _ = self.zstd.decompress_to_buffer(body, raw).map_err(|_| fail(0))?;
            }
            Coding::Base64Zstd => {
                self.parts.clear();
                self.parts.reserve_exact(expected as usize);
                let expanded = self.zstd.decompress_to_buffer(body, &mut self.parts);
                let is_sized = expanded.is_ok_and(|length| length <= expected as usize);
                let back = is_sized.then(|| base64::put_back(&self.parts, expected as usize, raw)).flatten();
                let found = self.parts.len();
                self.parts.clear();
                self.parts.shrink_to(FRAME_BYTES as usize);
                back.ok_or_else(|| fail(found))?;
            }
        }
        match raw.len() == expected as usize {
            true => Ok(()),
            false => Err(fail(raw.len())),
        }
    }
}

thread_local! {
    static EXPANDER: RefCell<Option<Expander>> = const { RefCell::new(None) };
}

/// Puts a frame's raw bytes into `raw`, in place of what is there, with the thread's own expander.
///
/// # Errors
/// As [`Expander::expand`].
pub fn expand(header: &FrameHeader, body: &[u8], raw: &mut Vec<u8>) -> Result<(), FrameError> {
    let no_memory = FrameError::Expand { found: 0, expected: header.raw_bytes };
    EXPANDER.with_borrow_mut(|expander| {
        if expander.is_none() {
            *expander = Expander::new().ok();
        }
        expander.as_mut().ok_or(no_memory)?.expand(header, body, raw)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compressed(raw: &[u8]) -> (Vec<u8>, Coding) {
        let mut body = Vec::new();
        let coding = Compressor::new(3).unwrap().compress(raw, &mut body).unwrap();
        (body, coding)
    }

    fn header(raw: &[u8], body: &[u8], coding: Coding) -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Content,
            coding,
            sealed: false,
            raw_bytes: raw.len() as u32,
            stored_bytes: body.len() as u32,
            chunk_count: 1,
            key_id: KeyId::from_bytes([0; 8]),
            salt: [0; 16],
        }
    }

    #[test]
    fn incompressible_bytes_stay_as_they_are() {
        let mut raw = vec![0; 10_000];
        blake3::Hasher::new().finalize_xof().fill(&mut raw);
        let found = compressed(&raw);
        assert_eq!(found, (raw, Coding::Plain));
    }

    #[test]
    fn attachments_are_decoded_before_they_are_compressed() {
        let mut bytes = vec![0; 57 * 200];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let lines = bytes.chunks(57).map(|line| base64_simd::STANDARD.encode_to_string(line) + "\r\n");
        let raw = lines.collect::<String>().into_bytes();
        let (body, coding) = compressed(&raw);
        assert_eq!(coding, Coding::Base64Zstd);
        assert!(body.len() < bytes.len() + 100, "{} of {} bytes", body.len(), bytes.len());
        let header = header(&raw, &body, coding);
        assert_eq!(FrameHeader::from_bytes(&header.to_bytes()), Ok(header));
        let mut found = Vec::new();
        let mut expander = Expander::new().unwrap();
        assert_eq!(expander.expand(&header, &body, &mut found), Ok(()));
        assert!(found == raw);
        let too_short = FrameHeader { raw_bytes: header.raw_bytes - 1, ..header };
        assert!(expander.expand(&too_short, &body, &mut found).is_err());
    }

    #[test]
    fn a_header_with_any_reserved_bit_is_refused() {
        let good = header(b"abc", b"abc", Coding::Plain).to_bytes();
        assert!(FrameHeader::from_bytes(&good).is_ok());
        for (at, value) in
            [(0, b'X'), (4, 3), (5, 4), (5, 8), (6, 1), (7, 1), (11, 0xff), (15, 0xff), (19, 0xff)]
        {
            let mut bytes = good;
            bytes[at] = value;
            assert!(FrameHeader::from_bytes(&bytes).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn expand_undoes_compress(raw in prop::collection::vec(0u8..4, 1..100_000)) {
            let (body, coding) = compressed(&raw);
            let header = header(&raw, &body, coding);
            prop_assert_eq!(FrameHeader::from_bytes(&header.to_bytes()), Ok(header));
            let mut found = vec![7; 5];
            prop_assert_eq!(Expander::new().unwrap().expand(&header, &body, &mut found), Ok(()));
            prop_assert_eq!(found, raw);
        }

        #[test]
        fn hostile_bodies_are_refused(body in prop::collection::vec(any::<u8>(), 1..2000), claim in 1u32..100_000, base64: bool) {
            let coding = if base64 { Coding::Base64Zstd } else { Coding::Zstd };
            let mut header = header(b"x", &body, coding);
            header.raw_bytes = claim;
            let mut raw = Vec::new();
            if Expander::new().unwrap().expand(&header, &body, &mut raw).is_ok() {
                prop_assert_eq!(raw.len(), claim as usize);
            }
        }

        #[test]
        fn hostile_headers_never_panic(bytes in any::<[u8; 32]>(), rest in any::<[u8; 12]>()) {
            let mut all = [0; FRAME_HEADER_BYTES];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&rest);
            let _ = FrameHeader::from_bytes(&all);
        }
    }
}
