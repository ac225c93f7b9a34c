//! Making and opening a repository; reading its manifests.

use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use age::x25519::{Identity, Recipient};
use bincode::{Decode, Encode};

use crate::base::id::{RepositoryId, SnapshotId};
use crate::base::limits::RECORD_BYTES_CAP;
use crate::base::time::Time;
use crate::base::wire::{self, RecordKind};
use crate::repo::RepoError;
use crate::repo::config::{CONFIG_BYTES_MAX, Choices, Config, Encryption};
use crate::repo::keys::{
    KeyBody, KeyFile, KeyInfo, Passphrase, Secrets, WriterKeys, open_with_identities, seal_to_recipients,
    unwrap_identity, wrap_identity,
};
use crate::stage::chunk::Chunker;
use crate::stage::seal::{Secret, open_record, random, seal_record};
use crate::stage::snapshot::Manifest;
use crate::store::{Folder, Lock, LockMode, Name, Store, StoreError};

/// Longest key file that is read, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;

/// What a manifest's seal is bound to.
const MANIFEST_PURPOSE: &str = "snap v1 manifest";

/// Where a repository and what belongs to it lie.
pub struct Opening<'a> {
    /// The repository's files.
    pub store: Arc<dyn Store>,
    /// This machine's state directory.
    pub state: &'a Path,
    /// Where the index cache lies; none for no cache.
    pub index: Option<PathBuf>,
    /// Asked for the passphrase when one is needed.
    pub secrets: &'a dyn Secrets,
}

/// What this machine keeps of a repository.
#[derive(Encode, Decode)]
struct WriterState {
    repository: RepositoryId,
    encryption: Encryption,
    secret: [u8; 32],
}

/// An open repository. Opening changes nothing.
pub struct Repository {
    store: Arc<dyn Store>,
    config: Config,
    id: RepositoryId,
    writer: WriterKeys,
    chunker: Chunker,
    index: Option<PathBuf>,
    state: PathBuf,
    is_enrolled: bool,
    identities: OnceLock<Vec<Identity>>,
}

/// A manifest and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Name of the manifest.
    pub id: SnapshotId,
    /// The manifest.
    pub manifest: Manifest,
}

/// All snapshots by time, and what could not be read of them.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Snapshots, oldest first; those that another one replaces are left out.
    pub all: Vec<Snapshot>,
    /// Manifests that could not be read, and why.
    pub unreadable: Vec<(String, RepoError)>,
}

impl Repository {
    /// Makes a repository in a store that has none, and keeps the writer secret in the state directory.
    ///
    /// `passphrase` wraps a new identity; `recipients` are sealed to as well. Encryption needs one
    /// of them at least. The `config` file comes last: before it there is no repository.
    ///
    /// # Errors
    /// [`RepoError::Exists`], [`RepoError::Store`], [`RepoError::Age`].
    pub fn create(
        opening: &Opening<'_>,
        choices: Choices,
        passphrase: Option<&Passphrase>,
        recipients: &[Recipient],
        created: Time,
    ) -> Result<Self, RepoError> {
        let store = &opening.store;
        let location = store.location();
        match store.read(&Name::Config, CONFIG_BYTES_MAX) {
            Err(StoreError::Missing { .. }) => {}
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {}
            Err(e) => return Err(e.into()),
            Ok(_) => return Err(RepoError::Exists { location }),
        }
        for folder in [Folder::Packs, Folder::Index, Folder::Snapshots] {
            if !store.list(folder)?.is_empty() {
                let what =
                    "there are repository files but no config; restore the config from a copy".to_owned();
                return Err(RepoError::Config { location, what });
            }
        }
        let mut id = [0; RepositoryId::BYTES];
        random(&mut id).map_err(|_| RepoError::System { what: "random bytes" })?;
        let id = RepositoryId::from_bytes(id);
        let secret = Secret::random().map_err(|_| RepoError::System { what: "random bytes" })?;
        let writer = WriterKeys::new(secret, choices.encryption);
        let created_text = jiff::Timestamp::new(created.seconds, 0).unwrap_or_default().to_string();
        let config = Config::new(id, choices, &created_text);
        let text = config.to_text().map_err(|what| RepoError::Config { location: location.clone(), what })?;
        let mut bodies = Vec::new();
        match choices.encryption {
            Encryption::None => bodies.push(KeyBody::PlainWriter { secret: *writer.secret().expose() }),
            Encryption::Age => {
                let mut all = recipients.to_vec();
                if let Some(passphrase) = passphrase {
                    let identity = Identity::generate();
                    all.push(identity.to_public());
                    bodies.push(KeyBody::Identity {
                        recipient: identity.to_public().to_string(),
                        label: "first".to_owned(),
                        created,
                        wrapped: wrap_identity(&identity, passphrase)?,
                    });
                }
                for recipient in recipients {
                    let recipient = recipient.to_string();
                    bodies.push(KeyBody::Recipient { recipient, label: String::new(), created });
                }
                bodies
                    .push(KeyBody::SealedWriter { age: seal_to_recipients(&all, writer.secret().expose())? });
            }
        }
        keep_secret(opening.state, id, choices.encryption, writer.secret())?; // 1. this machine can write
        for body in &bodies {
            put_key(store.as_ref(), body, &writer)?; // 2. whoever has the key can read
        }
        store.put_new(&Name::Config, text.as_bytes())?; // 3. there is a repository
        Self::assemble(opening, config, writer, true)
    }

    /// Opens a repository.
    ///
    /// The writer secret comes from the state directory; where it is not, from `keys/` with a
    /// passphrase or an identity.
    ///
    /// # Errors
    /// [`RepoError::NotThere`], [`RepoError::Config`], [`RepoError::Distrusted`],
    /// [`RepoError::NoWriterSecret`], [`RepoError::WrongPassphrase`].
    pub fn open(opening: &Opening<'_>) -> Result<Self, RepoError> {
        let location = opening.store.location();
        let bytes = match opening.store.read(&Name::Config, CONFIG_BYTES_MAX) {
            Err(StoreError::Missing { .. }) => return Err(RepoError::NotThere { location }),
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(RepoError::NotThere { location });
            }
            other => other?,
        };
        let bad = |what| RepoError::Config { location: location.clone(), what };
        let config = Config::from_bytes(&bytes).map_err(bad)?;
        let id = config.id().map_err(bad)?;
        match kept_secret(opening.state, id)? {
            Some(kept) if kept.encryption != config.encryption => Err(RepoError::Distrusted {
                location,
                what: "its encryption is not the one it was made with; somebody changed the config"
                    .to_owned(),
            }),
            Some(kept) => {
                let writer = WriterKeys::new(Secret::from_bytes(kept.secret), config.encryption);
                Self::assemble(opening, config, writer, true)
            }
            None => {
                let (writer, identities) = recover_secret(opening, &config, id)?;
                let repository = Self::assemble(opening, config, writer, false)?;
                if !identities.is_empty() {
                    let _ = repository.identities.set(identities);
                }
                Ok(repository)
            }
        }
    }

    fn assemble(
        opening: &Opening<'_>,
        config: Config,
        writer: WriterKeys,
        is_enrolled: bool,
    ) -> Result<Self, RepoError> {
        let bad = |what| RepoError::Config { location: opening.store.location(), what };
        let id = config.id().map_err(bad)?;
        let chunker = Chunker::new(config.chunk_sizes().map_err(bad)?, writer.gear());
        Ok(Self {
            store: opening.store.clone(),
            id,
            chunker,
            config,
            writer,
            index: opening.index.clone(),
            state: opening.state.to_owned(),
            is_enrolled,
            identities: OnceLock::new(),
        })
    }

    /// Returns the repository's files.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Returns what the repository was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the repository's id.
    pub fn id(&self) -> RepositoryId {
        self.id
    }

    /// Returns the keys that every machine which writes here has.
    pub fn writer_keys(&self) -> &WriterKeys {
        &self.writer
    }

    /// Returns what cuts content.
    pub fn chunker(&self) -> &Chunker {
        &self.chunker
    }

    /// Returns where the index cache lies; none for no cache.
    pub fn index_path(&self) -> Option<&Path> {
        self.index.as_deref()
    }

    /// Returns whether this machine keeps the writer secret.
    pub fn is_enrolled(&self) -> bool {
        self.is_enrolled
    }

    /// Returns where this machine keeps the writer secret.
    pub fn secret_file(&self) -> PathBuf {
        state_file(&self.state, self.id)
    }

    /// Keeps the writer secret in this machine's state directory.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn enroll(&self) -> Result<(), RepoError> {
        keep_secret(&self.state, self.id, self.config.encryption, self.writer.secret())
    }

    /// Returns the identities that open content; asks for the passphrase the first time. None are
    /// needed without encryption. Takes about 0.15 s the first time.
    ///
    /// # Errors
    /// [`RepoError::Locked`], [`RepoError::WrongPassphrase`], [`RepoError::Passphrase`].
    pub fn unlock(&self, secrets: &dyn Secrets) -> Result<&[Identity], RepoError> {
        if let Some(identities) = self.identities.get() {
            return Ok(identities);
        }
        let identities = match self.config.encryption {
            Encryption::None => Vec::new(),
            Encryption::Age => unlock(self.store(), secrets)?.ok_or(RepoError::Locked)?,
        };
        Ok(self.identities.get_or_init(|| identities))
    }

    /// Returns the identities unlocked so far.
    pub fn identities(&self) -> Option<&[Identity]> {
        self.identities.get().map(Vec::as_slice)
    }

    /// Takes the repository's lock.
    ///
    /// # Errors
    /// [`StoreError::Locked`] as [`RepoError::Store`].
    pub fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, RepoError> {
        Ok(self.store.lock(mode)?)
    }

    /// Reads all key files; a damaged one is an error of its own in the list.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn key_files(&self) -> Result<Vec<Result<KeyInfo, RepoError>>, RepoError> {
        let mut all = Vec::new();
        for found in self.store.list(Folder::Keys)? {
            let Some(Name::Key(id)) = found.name else { continue };
            all.push(read_key(self.store(), id).map(|(file, body)| KeyInfo {
                id,
                is_proven: self.writer.proof(&file.body) == file.proof,
                body,
            }));
        }
        Ok(all)
    }

    /// Adds a key file.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn put_key(&self, body: &KeyBody) -> Result<crate::base::id::KeyFileId, RepoError> {
        put_key(self.store(), body, &self.writer)
    }

    /// Returns the recipients that new content is sealed to. Only proven key files count.
    ///
    /// # Errors
    /// [`RepoError::Distrusted`] if a key file was not written by who has the writer secret, or if
    /// there are no recipients at all; [`RepoError::Record`] for a damaged key file.
    pub fn recipients(&self) -> Result<Vec<Recipient>, RepoError> {
        let mut texts = std::collections::BTreeSet::new();
        let distrust = |what: String| RepoError::Distrusted { location: self.store.location(), what };
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

    /// Seals a manifest and makes it durable: the moment from which the snapshot exists.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<SnapshotId, RepoError> {
        let path = "snapshots/";
        let record = wire::encode(manifest).map_err(|e| RepoError::record(&path, e))?;
        let sealed = seal_record(self.writer.metadata(), MANIFEST_PURPOSE, &record);
        let bytes = wire::wrap(RecordKind::Snapshot, &sealed.map_err(|e| RepoError::seal(&path, e))?);
        let id = SnapshotId::from_bytes(*blake3::hash(&bytes).as_bytes());
        self.store.put_new(&Name::Snapshot(id), &bytes)?;
        Ok(id)
    }

    /// Reads one manifest.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::NameMismatch`], [`RepoError::Record`], [`RepoError::Seal`].
    pub fn manifest(&self, id: SnapshotId) -> Result<Manifest, RepoError> {
        let name = Name::Snapshot(id);
        let bytes = read_named(self.store(), &name, RECORD_BYTES_CAP as u64)?;
        let sealed = wire::unwrap(RecordKind::Snapshot, &bytes).map_err(|e| RepoError::record(&name, e))?;
        let record = open_record(self.writer.metadata(), MANIFEST_PURPOSE, sealed);
        wire::decode(&record.map_err(|e| RepoError::seal(&name, e))?).map_err(|e| RepoError::record(&name, e))
    }

    /// Reads all manifests.
    ///
    /// # Errors
    /// [`RepoError::Store`] if they can't be listed; a manifest that can't be read is in the answer.
    pub fn snapshots(&self) -> Result<Snapshots, RepoError> {
        let mut snapshots = Snapshots::default();
        for found in self.store.list(Folder::Snapshots)? {
            let Some(Name::Snapshot(id)) = found.name else { continue };
            match self.manifest(id) {
                Ok(manifest) => snapshots.all.push(Snapshot { id, manifest }),
                Err(RepoError::Store(e)) if e.is_missing() => {} // forgotten meanwhile
                Err(e) => snapshots.unreadable.push((found.path, e)),
            }
        }
        let replaced: Vec<SnapshotId> = snapshots.all.iter().filter_map(|s| s.manifest.replaces).collect();
        snapshots.all.retain(|snapshot| !replaced.contains(&snapshot.id));
        snapshots.all.sort_by_key(|snapshot| (snapshot.manifest.time, snapshot.id));
        Ok(snapshots)
    }
}

/// Reads a file and checks that its bytes are what its name stands for.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::NameMismatch`].
pub fn read_named(store: &dyn Store, name: &Name, bytes_max: u64) -> Result<Vec<u8>, RepoError> {
    let bytes = store.read(name, bytes_max)?;
    match name.hash().is_none_or(|hash| hash == *blake3::hash(&bytes).as_bytes()) {
        true => Ok(bytes),
        false => Err(RepoError::NameMismatch { path: name.to_string() }),
    }
}

fn put_key(
    store: &dyn Store,
    body: &KeyBody,
    writer: &WriterKeys,
) -> Result<crate::base::id::KeyFileId, RepoError> {
    let (id, bytes) = KeyFile::build(body, writer).map_err(|e| RepoError::record(&"keys/", e))?;
    store.put_new(&Name::Key(id), &bytes)?;
    Ok(id)
}

fn read_key(store: &dyn Store, id: crate::base::id::KeyFileId) -> Result<(KeyFile, KeyBody), RepoError> {
    let name = Name::Key(id);
    let bytes = read_named(store, &name, KEY_FILE_BYTES_MAX)?;
    KeyFile::parse(&bytes).map_err(|e| RepoError::record(&name, e))
}

/// Returns the identities that `secrets` give; none if they give neither identity nor passphrase.
fn unlock(store: &dyn Store, secrets: &dyn Secrets) -> Result<Option<Vec<Identity>>, RepoError> {
    let mut identities = secrets.identities()?;
    if !identities.is_empty() {
        return Ok(Some(identities));
    }
    let mut wrapped_keys = Vec::new();
    for found in store.list(Folder::Keys)? {
        let Some(Name::Key(id)) = found.name else { continue };
        if let Ok((_, KeyBody::Identity { wrapped, .. })) = read_key(store, id) {
            wrapped_keys.push(wrapped);
        }
    }
    if wrapped_keys.is_empty() {
        return Ok(None); // no passphrase could open anything
    }
    let Some(passphrase) = secrets.passphrase()? else { return Ok(None) };
    identities.extend(wrapped_keys.iter().filter_map(|wrapped| unwrap_identity(wrapped, &passphrase)));
    match identities.is_empty() {
        true => Err(RepoError::WrongPassphrase { tried: wrapped_keys.len(), location: store.location() }),
        false => Ok(Some(identities)),
    }
}

/// Finds the writer secret under `keys/`.
fn recover_secret(
    opening: &Opening<'_>,
    config: &Config,
    id: RepositoryId,
) -> Result<(WriterKeys, Vec<Identity>), RepoError> {
    let store = opening.store.as_ref();
    let mut sealed = Vec::new();
    for found in store.list(Folder::Keys)? {
        let Some(Name::Key(id)) = found.name else { continue };
        match read_key(store, id) {
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
    let identities = unlock(store, opening.secrets)?.ok_or_else(missing)?;
    for age in &sealed {
        if let Some(plain) = open_with_identities(&identities, age)
            && let Some(secret) = plain.first_chunk::<32>()
        {
            return Ok((WriterKeys::new(Secret::from_bytes(*secret), config.encryption), identities));
        }
    }
    Err(missing())
}

fn state_file(state: &Path, id: RepositoryId) -> PathBuf {
    state.join(id.to_string()).join("writer")
}

/// Returns what the state directory keeps of a repository.
fn kept_secret(state: &Path, id: RepositoryId) -> Result<Option<WriterState>, RepoError> {
    let path = state_file(state, id);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        Err(e) => return Err(state_error(&path, "read", e)),
    };
    let path = path.display();
    let payload = wire::unwrap(RecordKind::WriterState, &bytes).map_err(|e| RepoError::record(&path, e))?;
    let kept: WriterState = wire::decode(payload).map_err(|e| RepoError::record(&path, e))?;
    match kept.repository == id {
        true => Ok(Some(kept)),
        false => Err(RepoError::Distrusted {
            location: path.to_string(),
            what: format!("holds the secret of repository {}, not of {id}", kept.repository),
        }),
    }
}

/// Keeps a writer secret in the state directory, durably, readable by its owner alone.
fn keep_secret(
    state: &Path,
    id: RepositoryId,
    encryption: Encryption,
    secret: &Secret,
) -> Result<(), RepoError> {
    let path = state_file(state, id);
    let folder = path.parent().unwrap_or(state);
    let kept = WriterState { repository: id, encryption, secret: *secret.expose() };
    let record = wire::encode(&kept).map_err(|e| RepoError::record(&path.display(), e))?;
    let bytes = wire::wrap(RecordKind::WriterState, &record);
    let failed = |e| state_error(&path, "write", e);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?; // 0600
    file.write_all(&bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|e| failed(e.error))?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn state_error(path: &Path, verb: &'static str, source: std::io::Error) -> RepoError {
    RepoError::Store(StoreError::Io { path: path.display().to_string(), verb, source })
}
