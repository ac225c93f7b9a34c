//! Stage 7: frames → the bytes of a pack file; and back.
//!
//! header · frame · frame · … · directory · trailer (`docs/format.md`, section "Pack").

use bincode::{Decode, Encode};

use crate::base::id::{KeyId, RepositoryId};
use crate::base::layout::{PACK_MAGIC, PACK_TRAILER_BYTES};
use crate::base::limits::FORMAT_VERSION;
use crate::base::wire::WireError;

/// A run's data key, sealed to the age recipients.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SealedKey {
    /// The key's name, as frames give it.
    pub key_id: KeyId,
    /// An age file (age-encryption.org/v1): 32 bytes of data key, then 32 bytes of writer secret.
    pub age: Vec<u8>,
}

/// The record at a pack's start, in an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PackHeader {
    /// The repository that the pack belongs to.
    pub repository: RepositoryId,
    /// The keys that its frames are sealed with, each named once; empty for trees and without encryption.
    pub keys: Vec<SealedKey>,
}

/// The last bytes of a pack ([`PACK_TRAILER`](crate::base::layout::PACK_TRAILER)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the directory's envelope starts, in bytes from the pack's start.
    pub directory_offset: u64,
    /// Length of the directory's envelope, in bytes.
    pub directory_bytes: u64,
    /// Number of frames.
    pub frame_count: u32,
}

impl Trailer {
    /// Returns the trailer as it is stored.
    pub fn to_bytes(self) -> [u8; PACK_TRAILER_BYTES] {
        let mut out = [0; PACK_TRAILER_BYTES];
        out[0..8].copy_from_slice(&self.directory_offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.directory_bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.frame_count.to_le_bytes());
        out[20..22].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[28..32].copy_from_slice(&PACK_MAGIC);
        out
    }

    /// Reads the trailer of a pack of `pack_bytes`.
    ///
    /// # Errors
    /// [`WireError::Magic`], [`WireError::Newer`], or [`WireError::Record`] if the directory can't lie there.
    pub fn from_bytes(bytes: &[u8; PACK_TRAILER_BYTES], pack_bytes: u64) -> Result<Self, WireError> {
        if bytes[28..32] != PACK_MAGIC {
            return Err(WireError::Magic { found: bytes[28..32].to_vec(), expected: PACK_MAGIC });
        }
        let version = u16::from_le_bytes([bytes[20], bytes[21]]);
        if version == 0 {
            return Err(WireError::record("format version 0 never was"));
        }
        if version > FORMAT_VERSION {
            return Err(WireError::Newer { found: version, supported: FORMAT_VERSION });
        }
        let u64_at = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(field)
        };
        let trailer = Self {
            directory_offset: u64_at(0),
            directory_bytes: u64_at(8),
            frame_count: u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]),
        };
        let end = trailer.directory_offset.checked_add(trailer.directory_bytes);
        match end.and_then(|end| end.checked_add(PACK_TRAILER_BYTES as u64)) {
            Some(end) if end == pack_bytes && bytes[22..28] == [0; 6] => Ok(trailer),
            _ => Err(WireError::record("pack trailer: the directory cannot lie there")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hostile_trailers_never_panic(bytes in any::<[u8; 32]>(), pack_bytes in any::<u64>()) {
            let mut bytes = bytes;
            let _ = Trailer::from_bytes(&bytes, pack_bytes);
            bytes[28..].copy_from_slice(&PACK_MAGIC);
            let _ = Trailer::from_bytes(&bytes, pack_bytes);
        }
    }
}
