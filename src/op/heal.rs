//! Damaged and missing files of a repository ← the same files in another copy of it.
//!
//! Names are hashes, so a copy's file is proven good before it takes the place of anything, and a file
//! is proven damaged before anything takes its place.

use std::collections::BTreeSet;

use crate::base::progress::{Done, Progress};
use crate::repo::index::read_fragment;
use crate::repo::keys::KeyFile;
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, Name, Store, StoreError};

/// Bytes read at one stroke.
const PIECE_BYTES: u64 = 8 << 20;

/// What was healed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "what could not be healed needs somebody"]
pub struct Report {
    /// Files that are whole again, by path.
    pub healed: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
    /// Files that could not be healed, and why.
    pub lost: Vec<(String, String)>,
}

/// How a file lies in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    Wrong,
    Good,
}

/// Heals the files that a check has named, from `source`, which holds another copy of the repository.
/// Where a snapshot needs what nothing here tells of, the fragments of `source` tell.
///
/// A file that is damaged is removed only when the good bytes are here, and just before they get its name.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::Interrupted`]; what was healed before stays.
pub fn heal<'p>(
    repository: &Repository,
    source: &dyn Store,
    damaged: impl IntoIterator<Item = &'p str>,
    progress: &Progress,
) -> Result<Report, RepoError> {
    let mut report = Report::default();
    let (mut needs_fragments, mut needs_keys) = (false, false);
    for path in damaged.into_iter().collect::<BTreeSet<&str>>() {
        if progress.is_cancelled() {
            return Err(RepoError::Interrupted);
        }
        let Some(name) = Name::parse(path).filter(|name| name.hash().is_some()) else {
            needs_keys |= path.trim_end_matches('/') == Folder::Keys.name();
            continue;
        };
        match state(repository.store(), &name)? {
            State::Good => needs_fragments |= matches!(name, Name::Snapshot(_)),
            state => bring(repository, source, &name, state, progress, &mut report)?,
        }
    }
    if needs_fragments {
        bring_fragments(repository, source, progress, &mut report)?;
    }
    if needs_keys {
        bring_keys(repository, source, progress, &mut report)?;
    }
    Ok(report)
}

/// Reads a whole file and tells whether it is what its name stands for. A read that fails is tried twice.
fn state(store: &dyn Store, name: &Name) -> Result<State, RepoError> {
    let found = name.folder().map(|folder| store.list(folder)).transpose()?.unwrap_or_default();
    let Some(found) = found.into_iter().find(|found| found.name == Some(*name)) else {
        return Ok(State::Missing);
    };
    for _ in 0..2 {
        match hash(store, name, found.bytes) {
            Ok(hash) if Some(hash) == name.hash() => return Ok(State::Good),
            Ok(_) => return Ok(State::Wrong),
            Err(StoreError::Missing { .. }) => return Ok(State::Missing),
            Err(_) => {}
        }
    }
    Ok(State::Wrong)
}

fn hash(store: &dyn Store, name: &Name, bytes: u64) -> Result<[u8; 32], StoreError> {
    let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
    while at < bytes {
        let end = bytes.min(at + PIECE_BYTES);
        hasher.update(&store.read_range(name, at..end)?);
        at = end;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Brings a file from the other copy.
fn bring(
    repository: &Repository,
    source: &dyn Store,
    name: &Name,
    state: State,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), RepoError> {
    let store = repository.store();
    let lost = |why: &str| (name.to_string(), why.to_owned());
    let found = name.folder().map(|folder| source.list(folder)).transpose()?.unwrap_or_default();
    let Some(found) = found.into_iter().find(|found| found.name == Some(*name)) else {
        report.lost.push(lost("the other copy lacks it too"));
        return Ok(());
    };
    let mut upload = store.begin()?;
    let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
    while at < found.bytes {
        let end = found.bytes.min(at + PIECE_BYTES);
        let piece = source.read_range(name, at..end)?;
        hasher.update(&piece);
        upload.write(&piece)?;
        at = end;
    }
    if name.hash() != Some(*hasher.finalize().as_bytes()) {
        report.lost.push(lost("in the other copy it is damaged as well"));
        return Ok(());
    }
    if state == State::Wrong {
        store.delete(name)?;
    }
    match upload.commit(name) {
        Ok(()) | Err(StoreError::Taken { .. }) => {} // somebody has stored the same just now
        Err(e) => return Err(e.into()),
    }
    progress.add(Done { files: 1, bytes: found.bytes });
    report.healed.push(name.to_string());
    report.bytes += found.bytes;
    Ok(())
}

/// Returns the names that the other copy has in a folder, and the repository has not.
fn lacking(repository: &Repository, source: &dyn Store, folder: Folder) -> Result<Vec<Name>, RepoError> {
    let here: BTreeSet<String> =
        repository.store().list(folder)?.into_iter().map(|found| found.path).collect();
    let there = source.list(folder)?.into_iter().filter(|found| !here.contains(&found.path));
    Ok(there.filter_map(|found| found.name).collect())
}

/// Brings fragments that read: the packs that they list are found missing by the next check.
fn bring_fragments(
    repository: &Repository,
    source: &dyn Store,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), RepoError> {
    for name in lacking(repository, source, Folder::Index)? {
        bring(repository, source, &name, State::Missing, progress, report)?;
        if let Name::Fragment(id) = name
            && let Err(e) = read_fragment(repository, id)
        {
            repository.store().delete(&name)?; // it was not here before
            report.healed.retain(|path| *path != name.to_string());
            report.lost.push((name.to_string(), e.chain()));
        }
    }
    Ok(())
}

/// Brings key files that were written by who has the writer secret.
fn bring_keys(
    repository: &Repository,
    source: &dyn Store,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), RepoError> {
    for name in lacking(repository, source, Folder::Keys)? {
        let bytes = source.read(&name, 1 << 20)?;
        let is_proven = KeyFile::parse(&bytes)
            .is_ok_and(|(file, _)| repository.writer_keys().proof(&file.body) == file.proof);
        if is_proven {
            bring(repository, source, &name, State::Missing, progress, report)?;
        } else {
            let why = "was not written by this repository's owner; left where it is".to_owned();
            report.lost.push((name.to_string(), why));
        }
    }
    Ok(())
}
