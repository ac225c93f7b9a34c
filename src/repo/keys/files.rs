//! Files under `keys/`: what they hold, and proof that they belong there.

use bincode::{Decode, Encode};

use crate::base::id::KeyFileId;
use crate::base::time::Time;
use crate::base::wire::{self, RecordKind, WireError};
use crate::repo::keys::WriterKeys;
use crate::repo::keys::wrap::WrappedIdentity;

/// A file under `keys/`. The numbers of [`KeyBody`]'s variants are stored.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeyFile {
    /// A [`KeyBody`], encoded.
    pub body: Vec<u8>,
    /// Keyed BLAKE3 of `body` under the writer secret: no thief of the disk can add a recipient.
    pub proof: [u8; 32],
}

/// What a key file holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KeyBody {
    /// An age identity, wrapped by a passphrase.
    Identity {
        /// Its public half (`age1…`).
        recipient: String,
        /// What the owner calls it.
        label: String,
        /// When it was wrapped.
        created: Time,
        /// The identity.
        wrapped: WrappedIdentity,
    },
    /// An age recipient whose identity lies elsewhere.
    Recipient {
        /// The recipient (`age1…`).
        recipient: String,
        /// What the owner calls it.
        label: String,
        /// When it was added.
        created: Time,
    },
    /// The writer secret, sealed to all recipients: 32 bytes in an age file.
    SealedWriter {
        /// The age file.
        age: Vec<u8>,
    },
    /// The writer secret as it is: a repository without encryption.
    PlainWriter {
        /// The secret.
        secret: [u8; 32],
    },
}

impl KeyFile {
    /// Makes the file's bytes, with proof.
    ///
    /// # Errors
    /// [`WireError::Record`] for a record that is too large.
    pub fn build(body: &KeyBody, writer: &WriterKeys) -> Result<(KeyFileId, Vec<u8>), WireError> {
        let body = wire::encode(body)?;
        let proof = writer.proof(&body);
        let bytes = wire::wrap(RecordKind::KeyFile, &wire::encode(&Self { body, proof })?);
        Ok((KeyFileId::from_bytes(*blake3::hash(&bytes).as_bytes()), bytes))
    }

    /// Returns whether the file was written by who has the writer secret.
    pub fn is_by(&self, writer: &WriterKeys) -> bool {
        writer.proof(&self.body) == self.proof
    }

    /// Reads the file's bytes. The proof is not judged yet: see [`Self::is_by`].
    ///
    /// # Errors
    /// [`WireError`].
    pub fn parse(bytes: &[u8]) -> Result<(Self, KeyBody), WireError> {
        let file: Self = wire::decode(wire::unwrap(RecordKind::KeyFile, bytes)?)?;
        let body = wire::decode(&file.body)?;
        Ok((file, body))
    }
}

/// A key file, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its name.
    pub id: KeyFileId,
    /// What it holds.
    pub body: KeyBody,
    /// Whether it was written by who has the writer secret.
    pub is_proven: bool,
}

impl KeyBody {
    /// Returns the recipient that new content is sealed to because of this file.
    pub fn recipient(&self) -> Option<&str> {
        match self {
            Self::Identity { recipient, .. } | Self::Recipient { recipient, .. } => Some(recipient),
            Self::SealedWriter { .. } | Self::PlainWriter { .. } => None,
        }
    }

    /// Returns whether the file gives the writer secret to whoever has the key.
    pub fn is_writer(&self) -> bool {
        matches!(self, Self::SealedWriter { .. } | Self::PlainWriter { .. })
    }
}

impl KeyInfo {
    /// Returns the recipient that new content is sealed to because of this file.
    pub fn recipient(&self) -> Option<&str> {
        self.body.recipient()
    }
}
