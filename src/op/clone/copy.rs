//! Files of one store → the same under the same names in another, each hashed before it has its name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::base::progress::Done;
use crate::base::threads::side_by_side;
use crate::op::clone::{Report, Request};
use crate::repo::RepoError;
use crate::repo::config::CONFIG_BYTES_MAX;
use crate::store::{Folder, Name, Store, StoreError};

/// Bytes read at one stroke.
const PIECE_BYTES: u64 = 8 << 20;

/// A file, and its length.
pub type Sized = (Name, u64);

/// What a clone did so far.
#[derive(Default)]
pub struct Did {
    /// What is told.
    pub report: Report,
    /// Why the first file could not be read that can't be read.
    pub unreadable: Option<RepoError>,
}

/// Returns the files that a store has in a folder, with their lengths.
///
/// # Errors
/// [`RepoError::Store`].
pub fn listed(store: &dyn Store, folder: Folder) -> Result<BTreeMap<Name, u64>, RepoError> {
    let found = store.list(folder)?;
    Ok(found.into_iter().filter_map(|found| Some((found.name?, found.bytes))).collect())
}

/// What became of a file.
enum Copied {
    Whole,
    /// Its bytes are wrong or gone, and why.
    Lost(String),
    /// It can't be read, while `config` can.
    Unreadable(RepoError),
}

/// Copies those of `files` that `target` lacks.
///
/// # Errors
/// [`RepoError::Store`] if `target` can't be written, or nothing of `source` can be read any more;
/// [`RepoError::Interrupted`]. A file that can't be had is told.
pub fn copy_all(
    source: &dyn Store,
    target: &dyn Store,
    files: Vec<Sized>,
    request: &Request<'_>,
    did: &mut Did,
) -> Result<(), RepoError> {
    let mut there = BTreeMap::new();
    for folder in files.iter().filter_map(|(name, _)| name.folder()).collect::<BTreeSet<_>>() {
        there.extend(listed(target, folder)?);
    }
    let (files, here): (Vec<Sized>, Vec<Sized>) =
        files.into_iter().partition(|(name, bytes)| there.get(name) != Some(bytes));
    did.report.files_there += here.len() as u64;
    request.progress.add(Done { files: here.len() as u64, bytes: here.iter().map(|(_, bytes)| bytes).sum() });
    let next = AtomicUsize::new(0);
    let error: Mutex<Option<RepoError>> = Mutex::new(None);
    let shared = Mutex::new(did);
    let work = || {
        while let Some((name, bytes)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let copied = match request.progress.is_cancelled() {
                true => Err(RepoError::Interrupted),
                false => copy(source, target, name, *bytes),
            };
            let mut did = shared.lock().unwrap_or_else(PoisonError::into_inner);
            match copied {
                Ok(Copied::Whole) => {
                    did.report.files += 1;
                    did.report.bytes += bytes;
                }
                Ok(Copied::Lost(why)) => did.report.lost.push((name.to_string(), why)),
                Ok(Copied::Unreadable(why)) => {
                    did.report.lost.push((name.to_string(), why.chain()));
                    did.unreadable.get_or_insert(why);
                }
                Err(e) => {
                    next.store(files.len(), Ordering::Relaxed);
                    error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                }
            }
            request.progress.add(Done { files: 1, bytes: *bytes });
        }
    };
    side_by_side(request.threads.clamp(1, files.len().max(1)), work);
    error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Copies a file, if it can be read and its bytes are the right ones.
fn copy(source: &dyn Store, target: &dyn Store, name: &Name, bytes: u64) -> Result<Copied, RepoError> {
    let mut upload = target.begin()?;
    let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
    while at < bytes {
        let end = bytes.min(at + PIECE_BYTES);
        let piece = match source.read_range(name, at..end) {
            Ok(piece) => piece,
            Err(e @ (StoreError::Missing { .. } | StoreError::Short { .. })) => {
                return Ok(Copied::Lost(e.to_string()));
            }
            // It is the connection, or the credentials, if `config` can't be read any more either.
            Err(e) => {
                return match source.read(&Name::Config, CONFIG_BYTES_MAX) {
                    Ok(_) => Ok(Copied::Unreadable(e.into())),
                    Err(_) => Err(e.into()),
                };
            }
        };
        hasher.update(&piece);
        upload.write(&piece)?;
        at = end;
    }
    if name.hash().is_some_and(|hash| hash != *hasher.finalize().as_bytes()) {
        return Ok(Copied::Lost("the bytes are not the ones its name stands for".to_owned()));
    }
    match upload.commit(name) {
        Ok(()) => Ok(Copied::Whole),
        Err(StoreError::Taken { .. }) => Ok(Copied::Lost(
            "a file of this name and of another length is there already; remove it, then run this again"
                .to_owned(),
        )),
        Err(e) => Err(e.into()),
    }
}
