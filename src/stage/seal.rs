//! Stage 6: plain bytes → sealed bytes, under keys derived from one secret; and back.
//!
//! AES-256-GCM (NIST SP 800-38D) with a key of its own for each sealing: BLAKE3 derives it from
//! the long-lived key and 16 random bytes, so that a nonce is never used twice under one key.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::base::id::KeyId;
use crate::base::layout::SEALED_BYTES;
use crate::base::limits::RECORD_BYTES_CAP;

/// Length of the tag that sealing appends, in bytes.
pub const TAG_BYTES: usize = 16;

/// Why bytes could not be sealed or opened. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Another key sealed it.
    #[error("sealed with key {found}, this key is {expected}")]
    OtherKey {
        /// The key that the bytes name.
        found: KeyId,
        /// The key that was tried.
        expected: KeyId,
    },
    /// The bytes were changed after they were sealed. Never retry.
    #[error("the seal is broken: the bytes were changed after they were sealed")]
    Broken,
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system")]
    Random,
    /// The record's frame makes no sense. Never retry.
    #[error("sealed record: {what}")]
    Record {
        /// What is wrong.
        what: &'static str,
    },
}

/// 32 secret bytes. Wiped when dropped; never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// Takes 32 bytes as a secret.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Draws a new secret.
    ///
    /// # Errors
    /// [`SealError::Random`].
    pub fn random() -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new([0; 32]);
        random(&mut *bytes)?;
        Ok(Self(bytes))
    }

    /// Returns the bytes, to be wrapped by another key.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Derives another secret for one `purpose`, which no other use may name.
    pub fn derive(&self, purpose: &str) -> Self {
        Self::from_bytes(blake3::derive_key(purpose, &*self.0))
    }
}

/// Shows that there is a secret, not which.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Fills `bytes` from the operating system's generator.
///
/// # Errors
/// [`SealError::Random`].
pub fn random(bytes: &mut [u8]) -> Result<(), SealError> {
    SystemRandom::new().fill(bytes).map_err(|_| SealError::Random)
}

/// A key that seals and opens.
#[derive(Clone, Debug)]
pub struct SealKey {
    secret: Secret,
    id: KeyId,
}

impl SealKey {
    /// Makes a key of a secret.
    pub fn new(secret: Secret) -> Self {
        let name = blake3::derive_key("snap v1 key id", secret.expose());
        let mut id = [0; KeyId::BYTES];
        id.copy_from_slice(&name[..KeyId::BYTES]);
        Self { secret, id: KeyId::from_bytes(id) }
    }

    /// Returns the key's name, which tells nothing of the key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the secret, to be wrapped by another key.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    fn aead(&self, salt: &[u8; 16]) -> Option<LessSafeKey> {
        let key = Zeroizing::new(*blake3::keyed_hash(self.secret.expose(), salt).as_bytes());
        UnboundKey::new(&AES_256_GCM, &*key).ok().map(LessSafeKey::new)
    }

    /// Seals `bytes` in place and appends the tag of [`TAG_BYTES`]. `salt` must be fresh from
    /// [`random`]; `associated` is bound, not hidden. O(length).
    ///
    /// # Errors
    /// [`SealError::Broken`] only for more than 64 GiB.
    pub fn seal(&self, salt: &[u8; 16], associated: &[u8], bytes: &mut Vec<u8>) -> Result<(), SealError> {
        let aead = self.aead(salt).ok_or(SealError::Broken)?;
        let nonce = Nonce::assume_unique_for_key([0; 12]); // the key is this sealing's own
        aead.seal_in_place_append_tag(nonce, Aad::from(associated), bytes).map_err(|_| SealError::Broken)
    }

    /// Opens in place what [`Self::seal`] made, and cuts the tag off. O(length).
    ///
    /// # Errors
    /// [`SealError::Broken`] if key, salt, `associated` or any byte is not what was sealed.
    pub fn open(&self, salt: &[u8; 16], associated: &[u8], bytes: &mut Vec<u8>) -> Result<(), SealError> {
        let length = self.open_in_place(salt, associated, bytes)?.len();
        bytes.truncate(length);
        Ok(())
    }

    /// Opens in place what [`Self::seal`] made; returns what was sealed, without the tag. O(length).
    ///
    /// # Errors
    /// As [`Self::open`]; what the bytes are then is undefined.
    pub fn open_in_place<'b>(
        &self,
        salt: &[u8; 16],
        associated: &[u8],
        bytes: &'b mut [u8],
    ) -> Result<&'b [u8], SealError> {
        let aead = self.aead(salt).ok_or(SealError::Broken)?;
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        match aead.open_in_place(nonce, Aad::from(associated), bytes) {
            Ok(plain) => Ok(plain),
            Err(_) => Err(SealError::Broken),
        }
    }

    /// Returns keyed BLAKE3 of `bytes`: proof that who wrote them had this key.
    pub fn authenticate(&self, bytes: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(self.secret.derive("snap v1 authentication").expose(), bytes).as_bytes()
    }
}

/// Compresses a record, and seals it if there is a key; the payload of fragments, manifests and
/// pack directories ([`SEALED`](crate::base::layout::SEALED)). `purpose` is bound to it. No two
/// calls give the same bytes: a file that was deleted or replaced never comes back under its name.
/// The record is let go on the way, for it may be long.
///
/// # Errors
/// [`SealError::Random`]; [`SealError::Record`] if zstd has no memory.
pub fn seal_record(key: Option<&SealKey>, purpose: &str, record: Vec<u8>) -> Result<Vec<u8>, SealError> {
    let mut salt = [0; 16];
    let length = record.len() as u64;
    let mut body =
        zstd::bulk::compress(&record, 3).map_err(|_| SealError::Record { what: "cannot be compressed" })?;
    drop(record);
    let key_id = key.map_or(KeyId::from_bytes([0; 8]), SealKey::id);
    random(&mut salt)?;
    let mut out = Vec::with_capacity(SEALED_BYTES + body.len() + TAG_BYTES);
    out.extend_from_slice(key_id.as_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&salt);
    if let Some(key) = key {
        let associated = [&out[..], purpose.as_bytes()].concat();
        key.seal(&salt, &associated, &mut body)?;
    }
    out.extend_from_slice(&body);
    Ok(out)
}

/// Opens what [`seal_record`] made under the same key and `purpose`.
///
/// # Errors
/// Every variant of [`SealError`]; never allocates more than [`RECORD_BYTES_CAP`].
pub fn open_record(key: Option<&SealKey>, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    open_record_within(key, purpose, sealed, RECORD_BYTES_CAP)
}

/// As [`open_record`], for a record of at most `bytes_max` bytes.
///
/// # Errors
/// As [`open_record`].
pub fn open_record_within(
    key: Option<&SealKey>,
    purpose: &str,
    sealed: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, SealError> {
    let Some((head, body)) = sealed.split_first_chunk::<SEALED_BYTES>() else {
        return Err(SealError::Record { what: "cut short" });
    };
    let mut field = [0; 8];
    field.copy_from_slice(&head[..8]);
    let found = KeyId::from_bytes(field);
    field.copy_from_slice(&head[8..16]);
    let raw_bytes = u64::from_le_bytes(field);
    let mut salt = [0; 16];
    salt.copy_from_slice(&head[24..40]);
    let expected = key.map_or(KeyId::from_bytes([0; 8]), SealKey::id);
    if found != expected {
        return Err(SealError::OtherKey { found, expected });
    }
    if head[16..24] != [0; 8] {
        return Err(SealError::Record { what: "a reserved byte is set" });
    }
    let mut body = body.to_vec();
    if let Some(key) = key {
        let associated = [&head[..], purpose.as_bytes()].concat();
        key.open(&salt, &associated, &mut body)?;
    }
    let capacity = usize::try_from(raw_bytes).ok().filter(|&bytes| bytes <= bytes_max);
    let capacity = capacity.ok_or(SealError::Record { what: "longer than any record may be" })?;
    match zstd::bulk::decompress(&body, capacity) {
        Ok(record) if record.len() == capacity => Ok(record),
        _ => Err(SealError::Record { what: "does not expand to its length" }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_flipped_bit_breaks_the_seal() {
        let key = SealKey::new(Secret::from_bytes([3; 32]));
        let sealed = seal_record(Some(&key), "test", b"record".to_vec()).unwrap();
        assert_eq!(open_record(Some(&key), "test", &sealed).unwrap(), b"record");
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(open_record(Some(&key), "test", &bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_purpose_or_key_does_not_open() {
        let key = SealKey::new(Secret::from_bytes([3; 32]));
        let sealed = seal_record(Some(&key), "test", b"record".to_vec()).unwrap();
        assert_eq!(open_record(Some(&key), "other", &sealed), Err(SealError::Broken));
        let other = SealKey::new(Secret::from_bytes([4; 32]));
        let refused = open_record(Some(&other), "test", &sealed);
        assert_eq!(refused, Err(SealError::OtherKey { found: key.id(), expected: other.id() }));
        assert!(open_record(None, "test", &sealed).is_err(), "a sealed record is not read as a plain one");
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::from_bytes([0x41; 32])), "Secret(..)");
    }

    proptest! {
        #[test]
        fn open_undoes_seal(record in prop::collection::vec(any::<u8>(), 0..5000), sealed in any::<bool>()) {
            let key = SealKey::new(Secret::from_bytes([3; 32]));
            let key = sealed.then_some(&key);
            let bytes = seal_record(key, "test", record.clone()).unwrap();
            prop_assert_eq!(open_record(key, "test", &bytes).unwrap(), record);
        }

        #[test]
        fn hostile_records_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let key = SealKey::new(Secret::from_bytes([3; 32]));
            prop_assert!(open_record(Some(&key), "test", &bytes).is_err());
            let _ = open_record(None, "test", &bytes);
        }
    }
}
