//! Records as bytes: bincode with one fixed configuration, inside an envelope that says what it is.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{BorrowDecode, Decode, Encode};

use crate::base::layout::{ENVELOPE_BYTES, ENVELOPE_MAGIC};
use crate::base::limits::{FORMAT_VERSION, RECORD_BYTES_CAP};

/// What an envelope holds. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A file under `keys/`.
    KeyFile = 1,
    /// The start of a pack.
    PackHeader = 2,
    /// The table of frames near the end of a pack.
    PackDirectory = 3,
    /// A file under `index/`.
    Fragment = 4,
    /// A file under `snapshots/`.
    Snapshot = 5,
    /// A file under `condemned/`.
    Condemned = 6,
    /// The writer secret in the state directory.
    WriterState = 7,
    /// The recipients in the state directory.
    RecipientsState = 8,
    /// A file under `forgotten/`.
    Forgotten = 9,
    /// The key files of a repository that is being made, in the state directory.
    InitState = 10,
}

/// Why bytes are not the record that was asked for. Nothing was changed; never retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not one of ours, or its first bytes are gone.
    #[error("magic: found {found:02x?}, expected {expected:02x?}")]
    Magic {
        /// The first bytes there are.
        found: Vec<u8>,
        /// What should stand there.
        expected: [u8; 4],
    },
    /// Written by a newer program.
    #[error("format version: found {found}, this program reads up to {supported}; use a newer snap")]
    Newer {
        /// Version in the envelope.
        found: u16,
        /// Newest version known here.
        supported: u16,
    },
    /// A record of another kind under this name.
    #[error("record kind: found {found}, expected {expected}")]
    Kind {
        /// Kind in the envelope.
        found: u16,
        /// Kind that was asked for.
        expected: u16,
    },
    /// Cut short, or bytes too many.
    #[error("length: found {found} bytes, expected {expected}")]
    Length {
        /// Bytes that are there.
        found: u64,
        /// Bytes that should be there.
        expected: u64,
    },
    /// The bytes are not the ones that were written.
    #[error("checksum: the bytes were changed after they were written")]
    Checksum,
    /// The checksum holds, yet the record makes no sense.
    #[error("record: {what}")]
    Record {
        /// What is wrong.
        what: String,
    },
}

impl WireError {
    /// Returns a [`WireError::Record`] that says `what`.
    pub fn record(what: impl Into<String>) -> Self {
        Self::Record { what: what.into() }
    }
}

/// bincode 2, "standard": little-endian, variable-length integers, and a cap on what is allocated.
type Config = Configuration<LittleEndian, Varint, Limit<RECORD_BYTES_CAP>>;

/// Largest record that [`decode_doubtful`] reads, in bytes.
const DOUBTFUL_BYTES_CAP: usize = 1 << 20;

const CONFIG: Config = bincode::config::standard().with_limit::<RECORD_BYTES_CAP>();

/// Appends the record's bytes to `out`.
///
/// # Errors
/// [`WireError::Record`] if the record is larger than [`RECORD_BYTES_CAP`].
pub fn encode_into<T: Encode>(record: &T, out: &mut Vec<u8>) -> Result<(), WireError> {
    bincode::encode_into_std_write(record, out, CONFIG)
        .map(|_| ())
        .map_err(|e| WireError::record(e.to_string()))
}

/// Returns the record's bytes; see [`encode_into`].
///
/// # Errors
/// As [`encode_into`].
pub fn encode<T: Encode>(record: &T) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    encode_into(record, &mut out)?;
    Ok(out)
}

/// Reads one record that takes all of `bytes`.
///
/// # Errors
/// [`WireError::Record`] on hostile bytes, [`WireError::Length`] on bytes left over. Allocates at
/// most [`RECORD_BYTES_CAP`] bytes.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, WireError> {
    let (record, used) = bincode::decode_from_slice(bytes, CONFIG).map_err(record_error)?;
    all_used(bytes, used)?;
    Ok(record)
}

/// As [`decode`], for a record that takes at most `CAP` bytes of memory.
///
/// # Errors
/// As [`decode`].
pub fn decode_within<T: Decode<()>, const CAP: usize>(bytes: &[u8]) -> Result<T, WireError> {
    let config = bincode::config::standard().with_limit::<CAP>();
    let (record, used) = bincode::decode_from_slice(bytes, config).map_err(record_error)?;
    all_used(bytes, used)?;
    Ok(record)
}

/// Reads the record at the start of `bytes`, borrowing from them, and returns how many bytes it took.
///
/// # Errors
/// As [`decode`]; bytes left over are no error.
pub fn decode_prefix<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<(T, usize), WireError> {
    bincode::borrow_decode_from_slice(bytes, CONFIG).map_err(record_error)
}

/// As [`decode_prefix`], for bytes that may be anything: allocates a megabyte at most.
///
/// # Errors
/// As [`decode`].
pub fn decode_doubtful<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<(T, usize), WireError> {
    let config = bincode::config::standard().with_limit::<DOUBTFUL_BYTES_CAP>();
    bincode::borrow_decode_from_slice(bytes, config).map_err(record_error)
}

fn record_error(error: bincode::error::DecodeError) -> WireError {
    WireError::record(error.to_string())
}

fn all_used(bytes: &[u8], used: usize) -> Result<(), WireError> {
    match used == bytes.len() {
        true => Ok(()),
        false => Err(WireError::Length { found: bytes.len() as u64, expected: used as u64 }),
    }
}

/// Puts `payload` into an envelope.
pub fn wrap(kind: RecordKind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENVELOPE_BYTES + payload.len());
    out.extend_from_slice(&ENVELOPE_MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&(kind as u16).to_le_bytes());
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    let checksum = checksum(&out, payload);
    out.extend_from_slice(&checksum);
    out.extend_from_slice(payload);
    out
}

/// Returns the payload of the envelope that takes all of `bytes`.
///
/// # Errors
/// Every variant of [`WireError`]; the version is judged before the checksum, so that a newer
/// format is called newer and not damaged.
pub fn unwrap(kind: RecordKind, bytes: &[u8]) -> Result<&[u8], WireError> {
    let (payload, used) = unwrap_prefix(kind, bytes)?;
    all_used(bytes, used)?;
    Ok(payload)
}

/// Returns the payload of the envelope at the start of `bytes`, and the envelope's length.
///
/// # Errors
/// As [`unwrap`]; bytes after the envelope are no error.
pub fn unwrap_prefix(kind: RecordKind, bytes: &[u8]) -> Result<(&[u8], usize), WireError> {
    let found_magic = &bytes[..bytes.len().min(4)];
    if found_magic != ENVELOPE_MAGIC {
        return Err(WireError::Magic { found: found_magic.to_vec(), expected: ENVELOPE_MAGIC });
    }
    let Some((head, rest)) = bytes.split_first_chunk::<ENVELOPE_BYTES>() else {
        return Err(WireError::Length { found: bytes.len() as u64, expected: ENVELOPE_BYTES as u64 });
    };
    let version = u16::from_le_bytes([head[4], head[5]]);
    if version == 0 {
        return Err(WireError::record("format version 0 never was"));
    }
    if version > FORMAT_VERSION {
        return Err(WireError::Newer { found: version, supported: FORMAT_VERSION });
    }
    let mut length = [0; 8];
    length.copy_from_slice(&head[8..16]);
    let length = u64::from_le_bytes(length);
    let expected = (ENVELOPE_BYTES as u64).saturating_add(length);
    let payload = usize::try_from(length)
        .ok()
        .and_then(|length| rest.get(..length))
        .ok_or(WireError::Length { found: bytes.len() as u64, expected })?;
    if checksum(&head[..16], payload) != head[16..] {
        return Err(WireError::Checksum);
    }
    let found_kind = u16::from_le_bytes([head[6], head[7]]);
    if found_kind != kind as u16 {
        return Err(WireError::Kind { found: found_kind, expected: kind as u16 });
    }
    Ok((payload, ENVELOPE_BYTES + payload.len()))
}

/// Returns BLAKE3-256 of the envelope's first 16 bytes and the payload.
fn checksum(head: &[u8], payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(payload);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_gives_back_its_payload() {
        let bytes = wrap(RecordKind::Snapshot, b"payload");
        assert_eq!(unwrap(RecordKind::Snapshot, &bytes), Ok(&b"payload"[..]));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let whole = wrap(RecordKind::Snapshot, b"payload");
        for cut in 0..whole.len() {
            assert!(unwrap(RecordKind::Snapshot, &whole[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap(RecordKind::Snapshot, &bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_called_newer() {
        let mut bytes = wrap(RecordKind::Snapshot, b"payload");
        bytes[4] = 2;
        let refused = unwrap(RecordKind::Snapshot, &bytes);
        assert_eq!(refused, Err(WireError::Newer { found: 2, supported: 1 }));
    }

    #[test]
    fn a_hostile_length_allocates_nothing() {
        // A vector that claims 2^60 elements in nine bytes.
        let bytes = [253, 0, 0, 0, 0, 0, 0, 0, 16];
        assert!(decode::<Vec<u64>>(&bytes).is_err());
    }
}
