//! Wrapping: identities under a passphrase, secrets to age recipients.

use std::collections::{BTreeSet, HashSet};
use std::io::{Read, Write};

use age::secrecy::ExposeSecret;
use age::x25519::{Identity, Recipient};
use age_core::format::{FileKey, Stanza};
use argon2::{Algorithm, Argon2, Params, Version};
use bincode::{Decode, Encode};
use zeroize::{Zeroize, Zeroizing};

use crate::base::id::RepositoryId;
use crate::base::threads::in_pool;
use crate::base::wire;
use crate::repo::RepoError;
use crate::repo::keys::WriterKeys;
use crate::stage::seal::{SealKey, Secret, random};

/// Memory that deriving a key takes, in KiB: 64 MiB. With passes and lanes RFC 9106's second recommendation.
const MEMORY_KIB: u32 = 64 << 10;

/// Passes over that memory.
const PASSES: u32 = 3;

/// Lanes, which are filled side by side on as many cores.
const LANES: u32 = 4;

/// Bounds on what a key file may ask for: 1 GiB, 16 passes, 16 lanes.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// An age identity, sealed under a key that Argon2id (RFC 9106) derives from a passphrase.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WrappedIdentity {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Parallel lanes.
    pub lanes: u32,
    /// Salt of the derivation.
    pub salt: [u8; 16],
    /// The identity, bound to its repository (a `Bound` record), sealed.
    pub sealed: Vec<u8>,
}

/// An identity, and the repository that it belongs to: so that no other repository that somebody
/// puts in its place opens with the same passphrase.
#[derive(Encode, Decode)]
struct Bound {
    /// The identity's text (`AGE-SECRET-KEY-1…`).
    identity: String,
    repository: RepositoryId,
    /// [`WriterKeys::mark`] of the repository's writer secret.
    writer: [u8; 32],
}

/// What a passphrase opened.
pub struct Unwrapped {
    /// The identity.
    pub identity: Identity,
    /// The repository that it was wrapped for.
    pub repository: RepositoryId,
    /// [`WriterKeys::mark`] of that repository's writer secret.
    pub writer: [u8; 32],
}

/// What marks the line of an age file's header that says to whom it is sealed.
const SEALING_TAG: &str = "snap-recipients";

/// What is bound to the sealed identity.
const PURPOSE: &[u8] = b"snap v1 wrapped identity";

fn derive(passphrase: &str, wrapped: &WrappedIdentity) -> Option<SealKey> {
    let params = Params::new(wrapped.memory_kib, wrapped.passes, wrapped.lanes, Some(32)).ok()?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut key = Zeroizing::new([0; 32]);
    let lanes = usize::try_from(wrapped.lanes).unwrap_or(1); // it works on each lane with rayon
    in_pool(lanes, || argon.hash_password_into(passphrase.as_bytes(), &wrapped.salt, &mut *key))
        .ok()?
        .ok()?;
    Some(SealKey::new(Secret::from_bytes(*key)))
}

/// Wraps an identity by a passphrase. Takes 64 MiB, and 0.2 s of CPU time on up to four cores.
///
/// # Errors
/// [`RepoError::System`] without memory or random bytes.
pub fn wrap_identity(
    identity: &Identity,
    passphrase: &str,
    repository: RepositoryId,
    writer: &WriterKeys,
) -> Result<WrappedIdentity, RepoError> {
    let mut salt = [0; 16];
    random(&mut salt).map_err(|_| RepoError::System { what: "random bytes" })?;
    let mut wrapped =
        WrappedIdentity { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt, sealed: Vec::new() };
    let key = derive(passphrase, &wrapped).ok_or(RepoError::System { what: "memory for Argon2id" })?;
    let identity = identity.to_string().expose_secret().to_owned();
    let mut bound = Bound { identity, repository, writer: writer.mark() };
    let encoded = wire::encode(&bound);
    bound.identity.zeroize();
    let mut sealed = encoded.map_err(|e| RepoError::record(&"keys/", e))?;
    key.seal(&wrapped.salt, PURPOSE, &mut sealed).map_err(|_| RepoError::System { what: "seal" })?;
    wrapped.sealed = sealed;
    Ok(wrapped)
}

impl WrappedIdentity {
    /// Returns whether it asks for what [`wrap_identity`] writes.
    pub fn is_ordinary(&self) -> bool {
        (self.memory_kib, self.passes, self.lanes) == (MEMORY_KIB, PASSES, LANES)
    }

    /// Returns what trying a passphrase costs: KiB of memory that are filled, all passes together.
    pub fn cost_kib(&self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }
}

/// Unwraps an identity; none if the passphrase is another, or the file was changed. The time and
/// memory that a hostile file can ask for are bounded.
pub fn unwrap_identity(wrapped: &WrappedIdentity, passphrase: &str) -> Option<Unwrapped> {
    if wrapped.memory_kib > MEMORY_KIB_MAX || wrapped.passes > PASSES_MAX || wrapped.lanes > LANES_MAX {
        return None;
    }
    let key = derive(passphrase, wrapped)?;
    let mut plain = Zeroizing::new(wrapped.sealed.clone());
    key.open(&wrapped.salt, PURPOSE, &mut plain).ok()?;
    let bound: Bound = wire::decode(&plain).ok()?;
    let identity = Zeroizing::new(bound.identity).parse().ok()?;
    Some(Unwrapped { identity, repository: bound.repository, writer: bound.writer })
}

/// Seals bytes to age recipients (age-encryption.org/v1).
///
/// # Errors
/// [`RepoError::Age`] without recipients.
pub fn seal_to_recipients(recipients: &[Recipient], plain: &[u8]) -> Result<Vec<u8>, RepoError> {
    seal_to(recipients.iter().map(|recipient| recipient as &dyn age::Recipient), plain)
}

fn seal_to<'r>(
    each: impl Iterator<Item = &'r dyn age::Recipient>,
    plain: &[u8],
) -> Result<Vec<u8>, RepoError> {
    let failed = |what: String| RepoError::Age { path: "keys".to_owned(), what };
    let encryptor = age::Encryptor::with_recipients(each).map_err(|e| failed(e.to_string()))?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(|e| failed(e.to_string()))?;
    writer.write_all(plain).map_err(|e| failed(e.to_string()))?;
    writer.finish().map_err(|e| failed(e.to_string()))?;
    Ok(sealed)
}

/// Opens what [`seal_to_recipients`] made; none if no identity opens it.
pub fn open_with_identities(identities: &[Identity], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let decryptor = age::Decryptor::new_buffered(sealed).ok()?;
    let each = identities.iter().map(|identity| identity as &dyn age::Identity);
    let reader = decryptor.decrypt(each).ok()?;
    let mut plain = Zeroizing::new(Vec::new());
    reader.take(64 << 10).read_to_end(&mut plain).ok()?;
    Some(plain)
}

/// Seals the writer secret to age recipients. Which they are, and the number of this sealing, stand in the age
/// file's header: a stanza that no identity opens, and that readers of age files pass over.
///
/// # Errors
/// [`RepoError::Age`] without recipients.
pub fn seal_writer(secret: &Secret, recipients: &[Recipient], number: u64) -> Result<Vec<u8>, RepoError> {
    if recipients.is_empty() {
        return seal_to_recipients(recipients, secret.expose());
    }
    let says = SealingStanza { number, recipients: recipients.iter().map(ToString::to_string).collect() };
    let each = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    seal_to(each.chain([&says as &dyn age::Recipient]), secret.expose())
}

/// Says in an age file's header to whom it is sealed.
struct SealingStanza {
    number: u64,
    recipients: BTreeSet<String>,
}

impl age::Recipient for SealingStanza {
    fn wrap_file_key(&self, _: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let args = std::iter::once(self.number.to_string()).chain(self.recipients.iter().cloned()).collect();
        let stanza = Stanza { tag: SEALING_TAG.to_owned(), args, body: Vec::new() };
        Ok((vec![stanza], HashSet::new()))
    }
}

/// What the header of a sealed writer secret says: which sealing it is, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealing {
    /// 0 for one that says nothing, as they were made before; each later one has a higher number.
    pub number: u64,
    /// The recipients, if it says so.
    pub recipients: BTreeSet<String>,
}

impl Sealing {
    /// Reads the header of an age file. What it says holds if the key file is proven.
    pub fn of(age: &[u8]) -> Self {
        let prefix = [b"-> ", SEALING_TAG.as_bytes(), b" "].concat();
        let line = header_lines(age).find_map(|line| line.strip_prefix(&prefix[..]));
        let mut words = line.and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default().split(' ');
        match words.next().and_then(|number| number.parse().ok()) {
            Some(number) => Self { number, recipients: words.map(str::to_owned).collect() },
            None => Self::default(),
        }
    }
}

fn header_lines(sealed: &[u8]) -> impl Iterator<Item = &[u8]> {
    sealed.split(|byte| *byte == b'\n').take_while(|line| !line.starts_with(b"---"))
}

/// Returns to how many X25519 recipients an age file is sealed.
pub fn recipient_count(sealed: &[u8]) -> usize {
    header_lines(sealed).filter(|line| line.starts_with(b"-> X25519 ")).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::config::Encryption;

    fn wrapped(identity: &Identity) -> WrappedIdentity {
        let writer = WriterKeys::new(Secret::from_bytes([9; 32]), Encryption::Age);
        wrap_identity(identity, "right", RepositoryId::from_bytes([1; 16]), &writer).unwrap()
    }

    #[test]
    fn a_wrapped_identity_needs_its_passphrase() {
        let identity = Identity::generate();
        let wrapped = wrapped(&identity);
        let back = unwrap_identity(&wrapped, "right").unwrap();
        assert_eq!(back.identity.to_public().to_string(), identity.to_public().to_string());
        assert_eq!(back.repository, RepositoryId::from_bytes([1; 16]));
        assert!(unwrap_identity(&wrapped, "wrong").is_none());
    }

    #[test]
    fn lanes_are_as_the_file_says() {
        let mut wrapped = wrapped(&Identity::generate());
        let mut plain = wrapped.sealed.clone();
        derive("right", &wrapped).unwrap().open(&wrapped.salt, PURPOSE, &mut plain).unwrap();
        for lanes in [1, 2, LANES_MAX] {
            wrapped.lanes = lanes;
            assert!(unwrap_identity(&wrapped, "right").is_none(), "sealed with another number of lanes");
            wrapped.sealed.clone_from(&plain);
            derive("right", &wrapped).unwrap().seal(&wrapped.salt, PURPOSE, &mut wrapped.sealed).unwrap();
            assert!(unwrap_identity(&wrapped, "right").is_some(), "{lanes} lanes");
        }
    }

    #[test]
    fn a_file_that_asks_for_too_much_is_refused_at_once() {
        let sound = wrapped(&Identity::generate());
        for wrapped in [
            WrappedIdentity { memory_kib: u32::MAX, ..sound.clone() },
            WrappedIdentity { passes: u32::MAX, ..sound.clone() },
            WrappedIdentity { lanes: u32::MAX, ..sound },
        ] {
            assert!(unwrap_identity(&wrapped, "right").is_none());
        }
    }

    #[test]
    fn a_sealed_writer_secret_says_to_whom_it_is_sealed_and_opens_as_before() {
        let (one, other) = (Identity::generate(), Identity::generate());
        let recipients = [one.to_public(), other.to_public()];
        let secret = Secret::from_bytes([9; 32]);
        let sealed = seal_writer(&secret, &recipients, 7).unwrap();
        let texts = recipients.iter().map(ToString::to_string).collect();
        assert_eq!(Sealing::of(&sealed), Sealing { number: 7, recipients: texts });
        assert_eq!(recipient_count(&sealed), 2);
        for identity in [&one, &other] {
            assert_eq!(
                open_with_identities(std::slice::from_ref(identity), &sealed).unwrap().as_slice(),
                secret.expose()
            );
        }
        // The header can't be changed by who does not know the file's key.
        let at = sealed.windows(20).position(|part| part == b"-> snap-recipients 7").unwrap();
        let mut changed = sealed.clone();
        changed[at + 19] = b'8';
        assert_eq!(Sealing::of(&changed).number, 8);
        assert!(open_with_identities(&[one], &changed).is_none());
    }

    #[test]
    fn one_that_was_sealed_before_says_nothing() {
        let one = Identity::generate();
        let sealed = seal_to_recipients(&[one.to_public()], b"plain").unwrap();
        assert_eq!(Sealing::of(&sealed), Sealing::default());
        assert_eq!(Sealing::of(b"-> snap-recipients many age1\n"), Sealing::default());
        assert_eq!(Sealing::of(b""), Sealing::default());
    }

    #[test]
    fn what_is_sealed_to_one_is_not_opened_by_another() {
        let (one, other) = (Identity::generate(), Identity::generate());
        let sealed = seal_to_recipients(&[one.to_public()], b"plain").unwrap();
        assert_eq!(recipient_count(&sealed), 1);
        assert_eq!(open_with_identities(&[one], &sealed).unwrap().as_slice(), b"plain");
        assert!(open_with_identities(&[other], &sealed).is_none());
    }
}
