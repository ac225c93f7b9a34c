//! What this machine keeps of a repository: the writer secret, and to whom it seals, in the state directory; and of one
//! that is being made its key files.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};
use zeroize::Zeroizing;

use crate::base::id::RepositoryId;
use crate::base::wire::{self, RecordKind};
use crate::repo::RepoError;
use crate::repo::config::Encryption;
use crate::stage::seal::Secret;
use crate::store::{StoreError, keep_own_file, open_regular};

/// What this machine keeps of a repository.
#[derive(Encode, Decode)]
pub struct WriterState {
    /// The repository.
    pub repository: RepositoryId,
    /// Whether it is encrypted: a config that says otherwise was changed by somebody.
    pub encryption: Encryption,
    /// The writer secret.
    pub secret: [u8; 32],
}

/// The recipients that this machine seals content to, whatever `keys/` comes to say.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RecipientsState {
    /// The repository.
    pub repository: RepositoryId,
    /// Number of the newest sealing of the writer secret that was seen under `keys/`.
    pub number: u64,
    /// The recipients (`age1…`), sorted, each once.
    pub recipients: Vec<String>,
}

/// The key files of a repository that is being made: should that be cut, it goes on with them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InitState {
    /// The repository.
    pub repository: RepositoryId,
    /// All of them, whole.
    pub keys: Vec<Vec<u8>>,
}

/// Longest file in the state directory that is read, in bytes.
const STATE_BYTES_MAX: u64 = 1 << 20;

/// Returns where the secret of a repository lies.
pub fn state_file(state: &Path, id: RepositoryId) -> PathBuf {
    state.join(id.to_string()).join("writer")
}

/// Returns where the recipients of a repository are remembered.
pub fn recipients_file(state: &Path, id: RepositoryId) -> PathBuf {
    state_file(state, id).with_file_name("recipients")
}

fn init_file(state: &Path, id: RepositoryId) -> PathBuf {
    state_file(state, id).with_file_name("init")
}

/// Returns the repositories whose making was not finished, as far as can be read: each with its key files.
pub fn kept_inits(state: &Path) -> Vec<InitState> {
    let inside = fs::read_dir(state).into_iter().flatten().flatten();
    let ids = inside.filter_map(|entry| entry.file_name().to_str()?.parse::<RepositoryId>().ok());
    let kept = ids.filter_map(|id| {
        let kept: Option<InitState> = read(&init_file(state, id), RecordKind::InitState, false).ok()?;
        kept.filter(|kept| kept.repository == id)
    });
    kept.collect()
}

/// Forgets that a repository is being made: it is there. A note that stays is in nobody's way.
pub fn forget_init(state: &Path, id: RepositoryId) {
    let path = init_file(state, id);
    if fs::remove_file(&path).is_ok() {
        let _ = path.parent().map(|folder| File::open(folder).and_then(|folder| folder.sync_all()));
    }
}

/// Returns what the state directory keeps of a repository.
///
/// # Errors
/// [`RepoError::Refused`] if others may read it; [`RepoError::Record`], [`RepoError::Store`] if it can't be read;
/// [`RepoError::Distrusted`] if it is another repository's.
pub fn kept_secret(state: &Path, id: RepositoryId) -> Result<Option<WriterState>, RepoError> {
    let path = state_file(state, id);
    let kept: Option<WriterState> = read(&path, RecordKind::WriterState, true)?;
    kept.map(|kept| ours(kept.repository, id, &path, "the secret").map(|()| kept)).transpose()
}

/// Returns the recipients that the state directory remembers; none if it never knew them.
///
/// # Errors
/// As [`kept_secret`]; recipients are no secret.
pub fn kept_recipients(state: &Path, id: RepositoryId) -> Result<Option<RecipientsState>, RepoError> {
    let path = recipients_file(state, id);
    let kept: Option<RecipientsState> = read(&path, RecordKind::RecipientsState, false)?;
    kept.map(|kept| ours(kept.repository, id, &path, "the recipients").map(|()| kept)).transpose()
}

fn ours(found: RepositoryId, id: RepositoryId, path: &Path, what: &str) -> Result<(), RepoError> {
    match found == id {
        true => Ok(()),
        false => Err(RepoError::Distrusted {
            location: path.display().to_string(),
            what: format!("holds {what} of repository {found}, not of {id}"),
        }),
    }
}

fn read<T: Decode<()>>(path: &Path, kind: RecordKind, is_secret: bool) -> Result<Option<T>, RepoError> {
    let failed = |e| state_error(path, "read", e);
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    if is_secret {
        refuse_open_doors(path, &file)?;
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(STATE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    let path = path.display();
    let payload = wire::unwrap(kind, &bytes).map_err(|e| RepoError::record(&path, e))?;
    wire::decode(payload).map(Some).map_err(|e| RepoError::record(&path, e))
}

/// Refuses a secret that others than its owner may read, or whose folder they may look into.
fn refuse_open_doors(path: &Path, file: &File) -> Result<(), RepoError> {
    let failed = |e| state_error(path, "read", e);
    let folder = path.parent().unwrap_or(path);
    let modes = [
        (folder, 0o700, fs::metadata(folder).map_err(failed)?.mode()),
        (path, 0o600, file.metadata().map_err(failed)?.mode()),
    ];
    let open = modes.into_iter().filter(|(_, _, mode)| mode & 0o077 != 0);
    let mend: Vec<String> = open
        .map(|(path, mode, _)| {
            let path = path.to_string_lossy();
            let quoted =
                shlex::try_quote(&path).map_or_else(|_| path.to_string(), |quoted| quoted.into_owned());
            format!("chmod {mode:o} {quoted}")
        })
        .collect();
    match mend.is_empty() {
        true => Ok(()),
        false => Err(RepoError::Refused {
            what: format!(
                "others may read this machine's secret of the repository; if nobody has, close it: {}",
                mend.join(" && ")
            ),
        }),
    }
}

/// Keeps a writer secret in the state directory, durably, readable by its owner alone.
///
/// # Errors
/// [`RepoError::Store`]; what was kept before is as it was.
pub fn keep_secret(
    state: &Path,
    id: RepositoryId,
    encryption: Encryption,
    secret: &Secret,
) -> Result<(), RepoError> {
    let kept = WriterState { repository: id, encryption, secret: *secret.expose() };
    keep(&state_file(state, id), RecordKind::WriterState, &kept)
}

/// Remembers recipients in the state directory, durably.
///
/// # Errors
/// As [`keep_secret`].
pub fn keep_recipients(state: &Path, kept: &RecipientsState) -> Result<(), RepoError> {
    keep(&recipients_file(state, kept.repository), RecordKind::RecipientsState, kept)
}

/// Notes, durably, the key files of a repository that is being made.
///
/// # Errors
/// As [`keep_secret`].
pub fn keep_init(state: &Path, kept: &InitState) -> Result<(), RepoError> {
    keep(&init_file(state, kept.repository), RecordKind::InitState, kept)
}

fn keep(path: &Path, kind: RecordKind, kept: &impl Encode) -> Result<(), RepoError> {
    let record = Zeroizing::new(wire::encode(kept).map_err(|e| RepoError::record(&path.display(), e))?);
    let bytes = Zeroizing::new(wire::wrap(kind, &record));
    Ok(keep_own_file(path, &bytes)?)
}

fn state_error(path: &Path, verb: &'static str, source: std::io::Error) -> RepoError {
    RepoError::Store(StoreError::Io { path: path.display().to_string(), verb, source })
}
