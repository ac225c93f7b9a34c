//! Who can read what (`docs/security.md`).
//!
//! The writer secret opens trees and names chunks; it lies on the machine that writes. Content is
//! sealed to age identities, which lie in `keys/` wrapped by a passphrase, or offline.

mod files;
mod first;
mod passphrase;
mod wrap;

pub use files::{KeyBody, KeyFile, KeyInfo};
pub use first::{FIRST_SEALING, first_keys};
pub use passphrase::{Passphrase, fit_for_new, forms};
pub use wrap::{
    Sealing, Unwrapped, WrappedIdentity, open_with_identities, recipient_count, seal_to_recipients,
    seal_writer, unwrap_identity, wrap_identity,
};

use std::fmt;

use age::x25519::{Identity, Recipient};
use zeroize::Zeroizing;

use crate::base::id::KeyId;
use crate::base::kind::FrameKind;
use crate::repo::RepoError;
use crate::repo::config::Encryption;
use crate::stage::hash::ChunkNamer;
use crate::stage::pack::SealedKey;
use crate::stage::seal::{SealKey, Secret};

/// Bytes of a mark that are shown: as many as nobody finds again by trying.
const MARK_BYTES_SHOWN: usize = 16;

/// Hex digits of a mark that must be given at least: fewer can be found again by trying.
pub const MARK_DIGITS_MIN: usize = 16;

/// Where passphrases and identities come from; asked only when one is needed.
pub trait Secrets: Sync {
    /// Returns the passphrase; none if nobody gives one.
    ///
    /// # Errors
    /// [`RepoError::Passphrase`] if a source was named and failed.
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError>;

    /// Returns the age identities given directly.
    ///
    /// # Errors
    /// [`RepoError::Passphrase`] if a source was named and failed.
    fn identities(&self) -> Result<Vec<Identity>, RepoError>;

    /// Returns how the id of the one key file begins that is to be tried; none for all.
    fn only_key(&self) -> Option<&str> {
        None
    }

    /// Returns how the mark of the writer secret begins that is meant, in lower-case hex digits; none if that is not said.
    fn writer_mark(&self) -> Option<&str> {
        None
    }

    /// Is told that what the passphrase opens is at hand: it need not be kept any longer. Asked again, it comes
    /// from its source again.
    fn forget(&self) {}
}

/// No secrets at all: what cron has.
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        Ok(None)
    }

    fn identities(&self) -> Result<Vec<Identity>, RepoError> {
        Ok(Vec::new())
    }
}

/// The writer secret, and what is derived from it.
pub struct WriterKeys {
    secret: Secret,
    content_namer: ChunkNamer,
    tree_namer: ChunkNamer,
    gear: [u8; 32],
    metadata: Option<SealKey>,
    proof: SealKey,
}

impl fmt::Debug for WriterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriterKeys(..)")
    }
}

impl WriterKeys {
    /// Derives all keys from the secret.
    pub fn new(secret: Secret, encryption: Encryption) -> Self {
        let metadata = SealKey::new(secret.derive("snap v1 metadata"));
        Self {
            content_namer: ChunkNamer::new(*secret.derive("snap v1 chunk id").expose()),
            tree_namer: ChunkNamer::new(*secret.derive("snap v1 tree chunk id").expose()),
            gear: *secret.derive("snap v1 gear table").expose(),
            metadata: (encryption == Encryption::Age).then_some(metadata),
            proof: SealKey::new(secret.derive("snap v1 key files")),
            secret,
        }
    }

    /// Returns what names chunks of a kind. A tree never has the name of a file's chunk: else
    /// somebody could store a file that is a tree to the byte, and the tree would be found among
    /// content, which the writer secret does not open.
    pub fn namer(&self, kind: FrameKind) -> &ChunkNamer {
        match kind {
            FrameKind::Content => &self.content_namer,
            FrameKind::Tree => &self.tree_namer,
        }
    }

    /// Returns the key of the chunker's gear table.
    pub fn gear(&self) -> &[u8; 32] {
        &self.gear
    }

    /// Returns the key of trees, fragments and manifests; none without encryption.
    pub fn metadata(&self) -> Option<&SealKey> {
        self.metadata.as_ref()
    }

    /// Returns the secret, to be kept on this machine or wrapped.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Returns what tells this writer secret from any other, and nothing else of it.
    pub fn mark(&self) -> [u8; 32] {
        *self.secret.derive("snap v1 writer mark").expose()
    }

    /// Returns the mark as people read and type it: its first half, in hex digits.
    pub fn shown_mark(&self) -> String {
        self.mark()[..MARK_BYTES_SHOWN].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns whether the mark begins with these hex digits.
    pub fn has_mark(&self, digits: &str) -> bool {
        let mark: String = self.mark().iter().map(|byte| format!("{byte:02x}")).collect();
        digits.len() >= MARK_DIGITS_MIN && mark.starts_with(digits)
    }

    /// Returns proof that a `config` of these bytes is the one of who has the writer secret.
    pub fn config_proof(&self, bytes: &[u8]) -> [u8; 32] {
        SealKey::new(self.secret.derive("snap v1 config")).authenticate(bytes)
    }

    /// Returns proof that a key file was written by who has the writer secret.
    pub fn proof(&self, body: &[u8]) -> [u8; 32] {
        self.proof.authenticate(body)
    }
}

/// A run's data key: seals content, and is itself sealed to the recipients.
pub struct DataKey {
    key: SealKey,
    sealed: SealedKey,
}

impl DataKey {
    /// Draws a data key and seals it, and the writer secret with it, to `recipients`.
    ///
    /// # Errors
    /// [`RepoError::Age`], [`RepoError::System`].
    pub fn draw(writer: &WriterKeys, recipients: &[Recipient]) -> Result<Self, RepoError> {
        let key = SealKey::new(Secret::random().map_err(|_| RepoError::System { what: "random bytes" })?);
        let plain = Zeroizing::new([*key.secret().expose(), *writer.secret().expose()].concat());
        let age = seal_to_recipients(recipients, &plain)?;
        let sealed = SealedKey { key_id: key.id(), age };
        Ok(Self { key, sealed })
    }

    /// Returns the key.
    pub fn key(&self) -> &SealKey {
        &self.key
    }

    /// Returns the key as a pack's header carries it.
    pub fn sealed(&self) -> &SealedKey {
        &self.sealed
    }
}

/// Opens a data key that a pack's header carries.
///
/// # Errors
/// [`RepoError::NoIdentity`] if none of the identities opens it.
pub fn open_data_key(sealed: &SealedKey, identities: &[Identity], path: &str) -> Result<SealKey, RepoError> {
    let none = |key: KeyId| RepoError::NoIdentity { path: path.to_owned(), key };
    let plain = open_with_identities(identities, &sealed.age).ok_or_else(|| none(sealed.key_id))?;
    let data = plain.first_chunk::<32>().ok_or_else(|| none(sealed.key_id))?;
    let key = SealKey::new(Secret::from_bytes(*data));
    match key.id() == sealed.key_id {
        true => Ok(key),
        false => Err(none(sealed.key_id)),
    }
}

/// Opens the writer secret that a pack's header carries beside a data key; none if no identity opens it, or
/// if what it holds is not that.
pub fn open_carried_secret(sealed: &SealedKey, identities: &[Identity]) -> Option<Secret> {
    let plain = open_with_identities(identities, &sealed.age)?;
    let (data, secret) = plain.split_first_chunk::<32>()?;
    let key = SealKey::new(Secret::from_bytes(*data));
    let secret = <[u8; 32]>::try_from(secret).ok()?;
    (key.id() == sealed.key_id).then(|| Secret::from_bytes(secret))
}
