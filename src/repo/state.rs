//! What this machine keeps of a repository: the writer secret, in the state directory.

use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};

use crate::base::id::RepositoryId;
use crate::base::wire::{self, RecordKind};
use crate::repo::RepoError;
use crate::repo::config::Encryption;
use crate::stage::seal::Secret;
use crate::store::StoreError;

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

/// Returns where the secret of a repository lies.
pub fn state_file(state: &Path, id: RepositoryId) -> PathBuf {
    state.join(id.to_string()).join("writer")
}

/// Returns what the state directory keeps of a repository.
pub fn kept_secret(state: &Path, id: RepositoryId) -> Result<Option<WriterState>, RepoError> {
    let path = state_file(state, id);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
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
pub fn keep_secret(
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
