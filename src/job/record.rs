//! What runs remember for those after them: small files of the state directory, as JSON.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::{StoreError, keep_own_file, read_regular};

/// Reads a record: as of somebody who knows nothing yet if it can't be read, or is longer than `bytes_max`.
pub fn read<R: DeserializeOwned + Default>(path: &Path, bytes_max: u64) -> R {
    let bytes = read_regular(path, bytes_max).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Writes a record durably, in place of the one that is there.
///
/// # Errors
/// [`StoreError::Io`]; what was known before stays.
pub fn write<R: Serialize>(path: &Path, record: &R) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { path: path.display().to_string(), verb: "write", source };
    let bytes = serde_json::to_vec(record).map_err(|e| failed(e.into()))?;
    keep_own_file(path, &bytes)
}
