//! The folder `keys/`: reading, adding, and opening with what a person gives.

use std::collections::BTreeSet;

use age::x25519::{Identity, Recipient};

use crate::base::id::{KeyFileId, RepositoryId};
use crate::repo::config::{Config, Encryption};
use crate::repo::keys::{
    KeyBody, KeyFile, KeyInfo, Secrets, WriterKeys, open_with_identities, unwrap_identity,
};
use crate::repo::open::read_named;
use crate::repo::state::state_file;
use crate::repo::{Opening, RepoError, Repository};
use crate::stage::seal::Secret;
use crate::store::{Folder, Name, Store};

/// Longest key file that is read, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;

/// Adds a key file.
///
/// # Errors
/// [`RepoError::Store`].
pub fn put_key(store: &dyn Store, body: &KeyBody, writer: &WriterKeys) -> Result<KeyFileId, RepoError> {
    let (id, bytes) = KeyFile::build(body, writer).map_err(|e| RepoError::record(&"keys/", e))?;
    store.put_new(&Name::Key(id), &bytes)?;
    Ok(id)
}

/// Reads a key file.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::NameMismatch`], [`RepoError::Record`].
pub fn read_key(store: &dyn Store, id: KeyFileId) -> Result<(KeyFile, KeyBody), RepoError> {
    let name = Name::Key(id);
    let bytes = read_named(store, &name, KEY_FILE_BYTES_MAX)?;
    KeyFile::parse(&bytes).map_err(|e| RepoError::record(&name, e))
}

/// Identities that were given or unwrapped, and what those that were unwrapped vouch for.
pub struct Unlocked {
    /// The identities.
    pub identities: Vec<Identity>,
    marks: Vec<[u8; 32]>,
}

impl Unlocked {
    /// Returns whether every passphrase-wrapped identity was wrapped by who had this writer secret.
    /// An identity that was given directly vouches for nothing.
    pub fn vouches_for(&self, writer: &WriterKeys) -> bool {
        self.marks.iter().all(|mark| *mark == writer.mark())
    }
}

/// Returns the identities that `secrets` give; none if they give neither identity nor passphrase.
///
/// # Errors
/// [`RepoError::WrongPassphrase`]; [`RepoError::Distrusted`] if what the passphrase opens was wrapped
/// for another repository.
pub fn unlock(
    store: &dyn Store,
    id: RepositoryId,
    secrets: &dyn Secrets,
) -> Result<Option<Unlocked>, RepoError> {
    let identities = secrets.identities()?;
    if !identities.is_empty() {
        return Ok(Some(Unlocked { identities, marks: Vec::new() }));
    }
    let mut wrapped_keys = Vec::new();
    for found in store.list(Folder::Keys)? {
        let Some(Name::Key(key)) = found.name else { continue };
        if let Ok((_, KeyBody::Identity { wrapped, .. })) = read_key(store, key) {
            wrapped_keys.push(wrapped);
        }
    }
    if wrapped_keys.is_empty() {
        return Ok(None); // no passphrase could open anything
    }
    let Some(passphrase) = secrets.passphrase()? else { return Ok(None) };
    let mut unlocked = Unlocked { identities: Vec::new(), marks: Vec::new() };
    for unwrapped in wrapped_keys.iter().filter_map(|wrapped| unwrap_identity(wrapped, &passphrase)) {
        if unwrapped.repository != id {
            return Err(distrusted(store));
        }
        unlocked.identities.push(unwrapped.identity);
        unlocked.marks.push(unwrapped.writer);
    }
    match unlocked.identities.is_empty() {
        true => Err(RepoError::WrongPassphrase { tried: wrapped_keys.len(), location: store.location() }),
        false => Ok(Some(unlocked)),
    }
}

/// Returns the error for a repository whose keys belong to another one.
pub fn distrusted(store: &dyn Store) -> RepoError {
    RepoError::Distrusted {
        location: store.location(),
        what: "its keys were made for another repository: somebody put this one in its place".to_owned(),
    }
}

/// Finds the writer secret under `keys/`.
///
/// # Errors
/// [`RepoError::NoWriterSecret`] if nothing that is given opens it, or as [`unlock`].
pub fn recover_secret(
    opening: &Opening<'_>,
    config: &Config,
    id: RepositoryId,
) -> Result<(WriterKeys, Vec<Identity>), RepoError> {
    let store = opening.store.as_ref();
    let mut sealed = Vec::new();
    for found in store.list(Folder::Keys)? {
        let Some(Name::Key(key)) = found.name else { continue };
        match read_key(store, key) {
            Ok((_, KeyBody::PlainWriter { secret })) if config.encryption == Encryption::None => {
                return Ok((WriterKeys::new(Secret::from_bytes(secret), config.encryption), Vec::new()));
            }
            Ok((_, KeyBody::SealedWriter { age })) => sealed.push(age),
            _ => {}
        }
    }
    let missing = || RepoError::NoWriterSecret {
        location: store.location(),
        state: state_file(opening.state, id).display().to_string(),
    };
    let unlocked = unlock(store, id, opening.secrets)?.ok_or_else(missing)?;
    for age in &sealed {
        if let Some(plain) = open_with_identities(&unlocked.identities, age)
            && let Some(secret) = plain.first_chunk::<32>()
        {
            let writer = WriterKeys::new(Secret::from_bytes(*secret), config.encryption);
            return match unlocked.vouches_for(&writer) {
                true => Ok((writer, unlocked.identities)),
                false => Err(distrusted(store)),
            };
        }
    }
    Err(missing())
}

impl Repository {
    /// Reads all key files; a damaged one is an error of its own in the list.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn key_files(&self) -> Result<Vec<Result<KeyInfo, RepoError>>, RepoError> {
        let mut all = Vec::new();
        for found in self.store().list(Folder::Keys)? {
            let Some(Name::Key(id)) = found.name else { continue };
            all.push(read_key(self.store(), id).map(|(file, body)| KeyInfo {
                id,
                is_proven: self.writer_keys().proof(&file.body) == file.proof,
                body,
            }));
        }
        Ok(all)
    }

    /// Adds a key file.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn put_key(&self, body: &KeyBody) -> Result<KeyFileId, RepoError> {
        put_key(self.store(), body, self.writer_keys())
    }

    /// Returns the recipients that new content is sealed to. Only proven key files count.
    ///
    /// # Errors
    /// [`RepoError::Distrusted`] if a key file was not written by who has the writer secret, or if
    /// there are no recipients at all; [`RepoError::Record`] for a damaged key file.
    pub fn recipients(&self) -> Result<Vec<Recipient>, RepoError> {
        let mut texts = BTreeSet::new();
        let distrust = |what: String| RepoError::Distrusted { location: self.store().location(), what };
        for info in self.key_files()? {
            let info = info?;
            if !info.is_proven {
                return Err(distrust(format!(
                    "keys/{} was not written by this repository's owner; remove it, or ask who added it",
                    info.id
                )));
            }
            texts.extend(info.recipient().map(str::to_owned));
        }
        if texts.is_empty() {
            return Err(distrust("no recipient under keys/; restore the keys folder from a copy".to_owned()));
        }
        let parse =
            |text: &String| text.parse().map_err(|e: &str| distrust(format!("recipient {text}: {e}")));
        texts.iter().map(parse).collect()
    }
}
