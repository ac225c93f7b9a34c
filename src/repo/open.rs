//! Opening a repository.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use age::x25519::Identity;

use crate::base::id::RepositoryId;
use crate::base::limits::TREE_CHUNK_BYTES_AVG;
use crate::base::progress::{Done, Progress};
use crate::repo::RepoError;
use crate::repo::config::{CONFIG_BYTES_MAX, Config, Encryption};
use crate::repo::keys::{NoSecrets, Secrets, WriterKeys};
use crate::repo::state::{forget_init, keep_secret, kept_secret, state_file};
use crate::repo::unlock::{recover_secret, unlock};
use crate::stage::chunk::{ChunkSizes, Chunker};
use crate::stage::seal::Secret;
use crate::store::{Lock, LockMode, Name, Store, StoreError};

/// Time between the first tries to take a lock, and between the last ones of a long wait: on S3 each costs three requests.
const LOCK_RETRY: Duration = Duration::from_millis(50);
const LOCK_RETRY_MAX: Duration = Duration::from_secs(5);

/// Bytes that are held against a name at one stroke.
const PIECE_BYTES: u64 = 8 << 20;

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

/// An open repository. Opening changes nothing there.
pub struct Repository {
    store: Arc<dyn Store>,
    config: Config,
    id: RepositoryId,
    writer: WriterKeys,
    chunker: Chunker,
    tree_chunker: Chunker,
    index: Option<PathBuf>,
    state: PathBuf,
    is_enrolled: bool,
    identities: OnceLock<Vec<Identity>>,
}

impl Repository {
    /// Opens a repository.
    ///
    /// The writer secret comes from the state directory; where it is not, from `keys/` with a
    /// passphrase or an identity, or from a pack's header.
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
                forget_init(opening.state, id); // it was done: the config is there
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

    pub(super) fn assemble(
        opening: &Opening<'_>,
        config: Config,
        writer: WriterKeys,
        is_enrolled: bool,
    ) -> Result<Self, RepoError> {
        let bad = |what| RepoError::Config { location: opening.store.location(), what };
        let id = config.id().map_err(bad)?;
        let chunker = Chunker::new(config.chunk_sizes().map_err(bad)?, writer.gear());
        let tree_chunker = Chunker::new(ChunkSizes { avg: TREE_CHUNK_BYTES_AVG }, writer.gear());
        Ok(Self {
            store: opening.store.clone(),
            id,
            chunker,
            tree_chunker,
            config,
            writer,
            index: opening.index.clone(),
            state: opening.state.to_owned(),
            is_enrolled,
            identities: OnceLock::new(),
        })
    }

    /// Returns the same repository, its files read from another place, without a cache.
    ///
    /// # Errors
    /// [`RepoError::Config`], which opening has ruled out.
    pub fn over(&self, store: Arc<dyn Store>) -> Result<Self, RepoError> {
        let opening = Opening { store, state: &self.state, index: None, secrets: &NoSecrets };
        let secret = Secret::from_bytes(*self.writer.secret().expose());
        let writer = WriterKeys::new(secret, self.config.encryption);
        let other = Self::assemble(&opening, self.config.clone(), writer, self.is_enrolled)?;
        if let Some(identities) = self.identities.get() {
            let _ = other.identities.set(identities.clone());
        }
        Ok(other)
    }

    /// Returns the repository's files, to be kept.
    pub fn shared_store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Returns the repository's files.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Returns whether the repository is still where it was opened: a disk can be unplugged, and
    /// another one be in its place.
    ///
    /// # Errors
    /// As [`Self::open`]. One read of the store.
    pub fn is_there(&self) -> Result<(), RepoError> {
        let location = self.store.location();
        let bytes = match self.store.read(&Name::Config, CONFIG_BYTES_MAX) {
            Err(StoreError::Missing { .. }) => return Err(RepoError::NotThere { location }),
            other => other?,
        };
        match Config::from_bytes(&bytes).and_then(|config| config.id()) {
            Ok(id) if id == self.id => Ok(()),
            Ok(id) => Err(RepoError::Distrusted { location, what: format!("is now repository {id}") }),
            Err(what) => Err(RepoError::Config { location, what }),
        }
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

    /// Returns what cuts trees and lists.
    pub fn tree_chunker(&self) -> &Chunker {
        &self.tree_chunker
    }

    /// Returns where the index cache lies; none for no cache.
    pub fn index_path(&self) -> Option<&Path> {
        self.index.as_deref()
    }

    /// Returns whether this machine keeps the writer secret.
    pub fn is_enrolled(&self) -> bool {
        self.is_enrolled
    }

    /// Returns this machine's state directory.
    pub fn state_directory(&self) -> &Path {
        &self.state
    }

    /// Returns where this machine keeps the writer secret.
    pub fn secret_file(&self) -> PathBuf {
        state_file(&self.state, self.id)
    }

    /// Returns this machine's state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Returns the error for who wants to write on a machine that was not made to: whatever opens the repository.
    pub fn not_enrolled(&self) -> RepoError {
        RepoError::NotEnrolled {
            location: self.store.location(),
            state: self.secret_file().display().to_string(),
        }
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
    /// [`RepoError::Locked`], [`RepoError::WrongPassphrase`], [`RepoError::Passphrase`],
    /// [`RepoError::KeysDamaged`].
    pub fn unlock(&self, secrets: &dyn Secrets) -> Result<&[Identity], RepoError> {
        if self.identities.get().is_none() {
            let identities = match self.config.encryption {
                Encryption::None => Vec::new(),
                Encryption::Age => {
                    unlock(self.store(), self.id, &self.writer, secrets)?.ok_or(RepoError::Locked)?
                }
            };
            let _ = self.identities.set(identities);
        }
        secrets.forget();
        self.identities.get().map(Vec::as_slice).ok_or(RepoError::Locked)
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

    /// Takes the repository's lock; while a holder is in the way, tries again for as long as `patience`.
    ///
    /// # Errors
    /// [`StoreError::Locked`] as [`RepoError::Store`] once patience is at its end;
    /// [`RepoError::Interrupted`].
    pub fn lock_patiently(
        &self,
        mode: LockMode,
        patience: Duration,
        progress: &Progress,
    ) -> Result<Box<dyn Lock>, RepoError> {
        let started = Instant::now();
        loop {
            match self.lock(mode) {
                Err(RepoError::Store(StoreError::Locked { .. })) if started.elapsed() < patience => {}
                other => return other,
            }
            let waited = started.elapsed();
            let pause = (waited / 10).clamp(LOCK_RETRY, LOCK_RETRY_MAX).min(patience.saturating_sub(waited));
            let again = Instant::now() + pause;
            loop {
                if progress.is_cancelled() {
                    return Err(RepoError::Interrupted);
                }
                match again.saturating_duration_since(Instant::now()) {
                    Duration::ZERO => break,
                    left => std::thread::sleep(left.min(LOCK_RETRY)),
                }
            }
        }
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

impl Repository {
    /// Holds a file of `bytes` bytes against the hash that is its name, piece by piece: 8 MiB of memory.
    ///
    /// # Errors
    /// [`RepoError::NameMismatch`], [`RepoError::Store`] if it can't be read, [`RepoError::Interrupted`].
    pub fn prove(&self, name: &Name, bytes: u64, progress: &Progress) -> Result<(), RepoError> {
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        while at < bytes {
            if progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            let end = bytes.min(at + PIECE_BYTES);
            hasher.update(&self.store().read_range(name, at..end)?);
            progress.add(Done { files: 0, bytes: end - at });
            at = end;
        }
        match name.hash().is_none_or(|hash| hash == *hasher.finalize().as_bytes()) {
            true => Ok(()),
            false => Err(RepoError::NameMismatch { path: name.to_string() }),
        }
    }
}
