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
use crate::repo::identify::{Identified, identify};
use crate::repo::keys::{NoSecrets, Secrets, WriterKeys};
use crate::repo::state::{forget_init, keep_secret, state_file};
use crate::repo::unlock::unlock;
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
    config_bytes: Vec<u8>,
    id: RepositoryId,
    writer: WriterKeys,
    chunker: Chunker,
    tree_chunker: Chunker,
    index: Option<PathBuf>,
    state: PathBuf,
    is_enrolled: bool,
    is_vouched_for: bool,
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
        let identified = identify(opening)?;
        if identified.is_enrolled
            && let Ok(id) = identified.config.id()
        {
            forget_init(opening.state, id); // it was done: the config is there
        }
        Self::assemble(opening, identified)
    }

    pub(super) fn assemble(opening: &Opening<'_>, identified: Identified) -> Result<Self, RepoError> {
        let Identified { config, bytes, writer, identities, is_enrolled, is_vouched_for } = identified;
        let bad = |what| RepoError::Config { location: opening.store.location(), what };
        let id = config.id().map_err(bad)?;
        let chunker = Chunker::new(config.chunk_sizes().map_err(bad)?, writer.gear());
        let tree_chunker = Chunker::new(ChunkSizes { avg: TREE_CHUNK_BYTES_AVG }, writer.gear());
        let unlocked = OnceLock::new();
        if !identities.is_empty() {
            let _ = unlocked.set(identities);
        }
        Ok(Self {
            store: opening.store.clone(),
            id,
            chunker,
            tree_chunker,
            config,
            config_bytes: bytes,
            writer,
            index: opening.index.clone(),
            state: opening.state.to_owned(),
            is_enrolled,
            is_vouched_for,
            identities: unlocked,
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
        let identified = Identified {
            config: self.config.clone(),
            bytes: self.config_bytes.clone(),
            writer,
            identities: self.identities.get().cloned().unwrap_or_default(),
            is_enrolled: self.is_enrolled,
            is_vouched_for: self.is_vouched_for,
        };
        Self::assemble(&opening, identified)
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

    /// Returns the bytes of `config`.
    pub fn config_bytes(&self) -> &[u8] {
        &self.config_bytes
    }

    /// Returns what a manifest says of the `config` that it was made with.
    pub fn config_proof(&self) -> [u8; 32] {
        self.writer.config_proof(&self.config_bytes)
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
    /// [`RepoError::Refused`] if nothing speaks for it but that an identity opens it, to which anybody can seal;
    /// [`RepoError::Store`].
    pub fn enroll(&self) -> Result<(), RepoError> {
        if !self.is_vouched_for {
            let mark = self.writer.shown_mark();
            return Err(RepoError::Refused {
                what: format!(
                    "{}: a writer secret opens with the identity, and no snapshot opens with it, so anybody may have put it there; if 'snap init' has printed the mark {mark}, say so with --writer-mark {mark}",
                    self.store.location()
                ),
            });
        }
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
