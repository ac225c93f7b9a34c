//! Names of stored things.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("id: found \"{found}\", expected {expected_digits} lower-case hex digits")]
pub struct IdError {
    /// The text that was given.
    pub found: String,
    /// How many hex digits the name has.
    pub expected_digits: usize,
}

/// Declares a fixed-size name that can't be taken for another kind's.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Length of the name, in bytes.
            pub const BYTES: usize = $bytes;

            /// Wraps the bytes of a name that was hashed or read.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// Returns the name's bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        /// Lower-case hex digits, two a byte, never shortened.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; $bytes];
                match unhex(text, &mut bytes) {
                    true => Ok(Self(bytes)),
                    false => Err(IdError { found: text.to_owned(), expected_digits: 2 * $bytes }),
                }
            }
        }
    };
}

id! {
    /// Name of a chunk: the first 16 bytes of keyed BLAKE3 of its plain bytes, before compression
    /// (`docs/decisions/0002-chunk-ids-of-16-bytes.md`).
    ChunkId, 16
}
id! {
    /// Name of a pack: BLAKE3-256 of the whole file.
    PackId, 32
}
id! {
    /// Name of a fragment: BLAKE3-256 of the whole file.
    FragmentId, 32
}
id! {
    /// Name of a snapshot: BLAKE3-256 of its manifest file.
    SnapshotId, 32
}
id! {
    /// Name of a key file: BLAKE3-256 of the whole file.
    KeyFileId, 32
}
id! {
    /// Name of a condemned list: BLAKE3-256 of the whole file.
    CondemnedId, 32
}
id! {
    /// Name of a note of what was removed: BLAKE3-256 of the whole file.
    ForgottenId, 32
}
id! {
    /// Name of a repository: 16 random bytes, drawn by `init`.
    RepositoryId, 16
}
id! {
    /// Which key sealed a frame or a record: the first 8 bytes of the key's BLAKE3 derivation.
    KeyId, 8
}

/// Reads hex digits into `bytes`; returns whether the text was exactly that long and all hex.
fn unhex(text: &str, bytes: &mut [u8]) -> bool {
    let digits = text.as_bytes();
    if digits.len() != 2 * bytes.len() {
        return false;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
            return false;
        };
        *byte = high << 4 | low;
    }
    true
}

/// Returns the value of a lower-case hex digit.
fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = ChunkId::from_bytes([0xa5; 16]);
        assert_eq!(id.to_string().parse::<ChunkId>(), Ok(id));
    }

    #[test]
    fn upper_case_and_wrong_length_are_refused() {
        assert!("A5".repeat(16).parse::<ChunkId>().is_err());
        assert!("a5".repeat(15).parse::<ChunkId>().is_err());
        assert!("é5".repeat(16).parse::<ChunkId>().is_err());
    }
}
