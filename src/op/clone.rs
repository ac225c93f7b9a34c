//! A repository's files in one store → the same in another: after a loss, from the bucket to a new disk.
//!
//! What names something comes after it, and `config` last: before that there is no repository. Every
//! file is hashed before it has its name.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::base::progress::{Done, Progress};
use crate::base::threads::side_by_side;
use crate::repo::RepoError;
use crate::repo::claim::refuse_others;
use crate::repo::config::{CONFIG_BYTES_MAX, Config};
use crate::store::{Folder, LockMode, Name, Store, StoreError};

/// Bytes read at one stroke.
const PIECE_BYTES: u64 = 8 << 20;

/// What a clone is asked for.
pub struct Request<'a> {
    /// Files read at the same time.
    pub threads: usize,
    /// Shown to whoever waits; and asked whether to stop.
    pub progress: &'a Progress,
}

/// What a clone did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a file that is not there is missed later"]
pub struct Report {
    /// Files that were copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were there already.
    pub files_there: u64,
    /// Files that could not be copied, and why, by path.
    pub lost: Vec<(String, String)>,
}

/// Copies all files of `source` that `target` lacks. Run again after it was cut, it goes on.
///
/// A file whose bytes are not what its name stands for, or can't be read, is in the report, and not copied: one
/// bad sector, or one object that somebody has put into an archive, must not be the end of all others.
///
/// # Errors
/// [`RepoError::NotThere`] without a repository in `source`, [`RepoError::Config`] if its `config` makes no sense;
/// [`RepoError::Exists`] if another one is in `target`, [`RepoError::Refused`] if files of another one, or of
/// anybody else, are; [`RepoError::Interrupted`]; [`RepoError::Store`] if `target` can't be written, if `source` can't be
/// listed, or if neither a file of it nor its `config` can be read. What was copied until then stays.
pub fn clone(source: &dyn Store, target: &dyn Store, request: &Request<'_>) -> Result<Report, RepoError> {
    let config = match source.read(&Name::Config, CONFIG_BYTES_MAX) {
        Err(StoreError::Missing { .. }) => return Err(RepoError::NotThere { location: source.location() }),
        other => other?,
    };
    let is_done = match target.read(&Name::Config, CONFIG_BYTES_MAX) {
        Err(StoreError::Missing { .. }) => false,
        Ok(there) if there == config => true,
        Ok(_) => return Err(RepoError::Exists { location: target.location() }),
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => false,
        Err(e) => return Err(e.into()),
    };
    if !is_done {
        let bad = |what| RepoError::Config { location: source.location(), what };
        let id = Config::from_bytes(&config).and_then(|config| config.id()).map_err(bad)?;
        refuse_others(source, target, id)?;
    }
    let mut did = Did::default();
    let mut steps = Vec::new();
    // What names something is listed before it, and copied after it: a backup may be under way.
    for folder in [Folder::Snapshots, Folder::Index, Folder::Packs, Folder::Keys] {
        let there: BTreeMap<String, u64> =
            target.list(folder)?.into_iter().map(|found| (found.path, found.bytes)).collect();
        let mut files = Vec::new();
        for found in source.list(folder)? {
            let Some(name) = found.name else { continue };
            match there.get(&found.path) == Some(&found.bytes) {
                true => did.report.files_there += 1,
                false => files.push((name, found.bytes)),
            }
        }
        steps.push(files);
    }
    let all = steps.iter().flatten();
    let expected =
        all.fold(Done::default(), |sum, (_, bytes)| Done { files: sum.files + 1, bytes: sum.bytes + bytes });
    request.progress.expect(expected);
    for files in steps.into_iter().rev() {
        copy_all(source, target, &files, request, &mut did)?;
    }
    let Did { mut report, unreadable } = did;
    if let Some(error) = unreadable.filter(|_| report.files + report.files_there == 0) {
        return Err(error); // not some files, but all
    }
    if !is_done {
        target.put_new(&Name::Config, &config)?;
        let _ = target.lock(LockMode::Shared); // its file is there then when no more files fit
        report.files += 1;
        report.bytes += config.len() as u64;
    }
    report.lost.sort();
    Ok(report)
}

/// What a clone did so far.
#[derive(Default)]
struct Did {
    report: Report,
    /// Why the first file could not be read that can't be read.
    unreadable: Option<RepoError>,
}

/// What became of a file.
enum Copied {
    Whole,
    /// Its bytes are wrong or gone, and why.
    Lost(String),
    /// It can't be read, while `config` can.
    Unreadable(RepoError),
}

fn copy_all(
    source: &dyn Store,
    target: &dyn Store,
    files: &[(Name, u64)],
    request: &Request<'_>,
    did: &mut Did,
) -> Result<(), RepoError> {
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
