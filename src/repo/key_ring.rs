//! The folder `keys/`: reading, adding, and opening with what a person gives.

use std::collections::{BTreeSet, HashSet};

use age::x25519::{Identity, Recipient};

use crate::base::id::{KeyFileId, RepositoryId};
use crate::base::wire::{self, RecordKind, WireError};
use crate::repo::config::{CONFIG_BYTES_MAX, Config, Encryption};
use crate::repo::keys::{
    KeyBody, KeyFile, KeyInfo, Passphrase, Secrets, WriterKeys, open_carried_secret, open_with_identities,
    unwrap_identity,
};
use crate::repo::open::read_named;
use crate::repo::state::state_file;
use crate::repo::{Opening, RepoError, Repository};
use crate::stage::pack::{PackHeader, SealedKey};
use crate::stage::seal::Secret;
use crate::store::{Folder, Found, Name, Store};

/// Longest key file that is read, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;

/// First read of a pack's header, and the longest header that is read, in bytes.
const HEADER_BYTES_GUESS: u64 = 4096;
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// Most key files that one message names.
const NAMED_MAX: usize = 4;

/// Refuses to make a repository over key files that are there already: nothing would be written beside them.
///
/// # Errors
/// [`RepoError::Config`] if there are any; [`RepoError::Store`].
pub fn refuse_left_keys(store: &dyn Store) -> Result<(), RepoError> {
    let left = store.list(Folder::Keys)?;
    if left.is_empty() {
        return Ok(());
    }
    let mut named: Vec<String> = left.iter().take(NAMED_MAX).map(|found| found.path.clone()).collect();
    if left.len() > NAMED_MAX {
        named.push(format!("{} more", left.len() - NAMED_MAX));
    }
    let what = format!(
        "is not there, and these key files are: {}; if they are left from a 'snap init' that was cut, and nothing was backed up here, remove them and run it again; else restore the config from a copy",
        named.join(", ")
    );
    Err(RepoError::Config { location: store.location(), what })
}

/// Removes the key files of a repository that could not be made, as far as that can be done. They stay if the
/// repository's own `config` is there after all, or that can't be told: with it, they are needed.
pub fn take_back(store: &dyn Store, keys: impl Iterator<Item = KeyFileId>, config: &[u8]) {
    match store.read(&Name::Config, CONFIG_BYTES_MAX) {
        Err(e) if e.is_missing() => {}
        Ok(bytes) if bytes != config => {} // of a repository that somebody else made meanwhile
        _ => return,
    }
    for key in keys {
        let _ = store.delete(&Name::Key(key)); // what stays is named by the next try
    }
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

/// Finds the writer secret under `keys/`, or else in the header of a pack. Reads one header after the other
/// until one opens, all of them if none does.
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
    let open = |age: &Vec<u8>| {
        let plain = open_with_identities(&unlocked.identities, age)?;
        plain.first_chunk::<32>().map(|secret| Secret::from_bytes(*secret))
    };
    let secret = match sealed.iter().find_map(open) {
        // Who is not among those that it is sealed to is not meant to have it.
        None if config.encryption == Encryption::Age && sealed.is_empty() => {
            secret_in_packs(store, id, &unlocked.identities)?
        }
        found => found,
    };
    let writer = WriterKeys::new(secret.ok_or_else(missing)?, config.encryption);
    match unlocked.vouches_for(&writer) {
        true => Ok((writer, unlocked.identities)),
        false => Err(distrusted(store)),
    }
}

/// Looks for the writer secret beside the data keys that packs carry: `keys/` may be lost. Packs that can't be
/// read are passed over.
fn secret_in_packs(
    store: &dyn Store,
    id: RepositoryId,
    identities: &[Identity],
) -> Result<Option<Secret>, RepoError> {
    tracing::info!("no file under keys/ holds the writer secret: it is looked for in the packs");
    let mut tried = HashSet::new();
    for found in store.list(Folder::Packs)? {
        // All packs of a run carry the same key.
        let keys = carried_keys(store, id, &found).unwrap_or_default();
        let mut new = keys.iter().filter(|key| tried.insert(key.key_id));
        if let Some(secret) = new.find_map(|key| open_carried_secret(key, identities)) {
            return Ok(Some(secret));
        }
    }
    Ok(None)
}

/// Returns the sealed keys in a pack's header; none if it can't be read, or is another repository's. Needs no
/// open repository, as [`read_pack_header`](crate::repo::reader::read_pack_header) does.
fn carried_keys(store: &dyn Store, id: RepositoryId, found: &Found) -> Option<Vec<SealedKey>> {
    let name = found.name.filter(|name| matches!(name, Name::Pack(_)))?;
    let read = |end: u64| store.read_range(&name, 0..end.min(found.bytes)).ok();
    let mut bytes = read(HEADER_BYTES_GUESS)?;
    if let Err(WireError::Length { expected, .. }) = wire::unwrap_prefix(RecordKind::PackHeader, &bytes) {
        bytes = read(expected.min(HEADER_BYTES_MAX))?;
    }
    let (payload, _) = wire::unwrap_prefix(RecordKind::PackHeader, &bytes).ok()?;
    let header: PackHeader = wire::decode(payload).ok()?;
    (header.repository == id).then_some(header.keys)
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
            all.push(self.key_file(id));
        }
        Ok(all)
    }

    /// Reads a key file, and says whether it was written by who has the writer secret.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::NameMismatch`], [`RepoError::Record`].
    pub fn key_file(&self, id: KeyFileId) -> Result<KeyInfo, RepoError> {
        let (file, body) = read_key(self.store(), id)?;
        Ok(KeyInfo { id, is_proven: self.writer_keys().proof(&file.body) == file.proof, body })
    }

    /// Reads all key files, and refuses where one of them can't be relied on: nothing is sealed by what the
    /// others say, nor removed, as long as it is there.
    ///
    /// # Errors
    /// [`RepoError::Distrusted`] if one was not written by who has the writer secret; [`RepoError::Record`],
    /// [`RepoError::NameMismatch`] or [`RepoError::Store`] if one can't be read.
    pub fn proven_keys(&self) -> Result<Vec<KeyInfo>, RepoError> {
        let all: Vec<KeyInfo> = self.key_files()?.into_iter().collect::<Result<_, _>>()?;
        if let Some(info) = all.iter().find(|info| !info.is_proven) {
            return Err(RepoError::Distrusted {
                location: self.store().location(),
                what: format!(
                    "keys/{} was not written by this repository's owner; remove it, or ask who added it",
                    info.id
                ),
            });
        }
        Ok(all)
    }

    /// Returns the key files that a passphrase opens, each with its identity. Takes about 0.15 s for each
    /// wrapped identity.
    ///
    /// # Errors
    /// [`RepoError::WrongPassphrase`] if it opens none; [`RepoError::Distrusted`] if one was wrapped for another
    /// repository; as [`Self::proven_keys`].
    pub fn opened_by(&self, passphrase: &Passphrase) -> Result<Vec<(KeyFileId, Identity)>, RepoError> {
        let (mut opened, mut tried) = (Vec::new(), 0);
        for info in self.proven_keys()? {
            let KeyBody::Identity { wrapped, .. } = &info.body else { continue };
            tried += 1;
            let Some(unwrapped) = unwrap_identity(wrapped, passphrase) else { continue };
            if unwrapped.repository != self.id() || unwrapped.writer != self.writer_keys().mark() {
                return Err(distrusted(self.store()));
            }
            opened.push((info.id, unwrapped.identity));
        }
        match opened.is_empty() {
            true => Err(RepoError::WrongPassphrase { tried, location: self.store().location() }),
            false => Ok(opened),
        }
    }

    /// Adds a key file.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn put_key(&self, body: &KeyBody) -> Result<KeyFileId, RepoError> {
        let built = KeyFile::build(body, self.writer_keys());
        let (id, bytes) = built.map_err(|e| RepoError::record(&"keys/", e))?;
        self.store().put_new(&Name::Key(id), &bytes)?;
        Ok(id)
    }

    /// Returns the recipients that new content is sealed to, each once. Only proven key files count.
    ///
    /// # Errors
    /// As [`Self::proven_keys`]; [`RepoError::Distrusted`] if there are no recipients at all.
    pub fn recipients(&self) -> Result<Vec<Recipient>, RepoError> {
        let mut texts = BTreeSet::new();
        let distrust = |what: String| RepoError::Distrusted { location: self.store().location(), what };
        for info in self.proven_keys()? {
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
