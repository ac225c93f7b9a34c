//! Fragments and packs → the index cache, anew.

use std::collections::BTreeMap;
use std::path::Path;

use crate::base::progress::{Done, Progress};
use crate::repo::index::{self, Index, NewCache};
use crate::repo::listing::Listing;
use crate::repo::{RepoError, Repository};
use crate::store::Name;

/// What was rebuilt.
#[derive(Debug, Default)]
pub struct Report {
    /// Packs in the index.
    pub packs: u64,
    /// Packs that no fragment listed, and a new one lists now.
    pub packs_found: u64,
    /// Fragments and packs that could not be read, and why.
    pub problems: Vec<String>,
}

/// Removes the cache and makes it anew; packs that no fragment lists get one, if they are what their names stand for: each is
/// read once. It is made beside its place and put there when it is whole, so that runs beside this one are in nobody's way; what
/// one of them lists meanwhile, the next that opens the index adds.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::Interrupted`], or [`RepoError::Source`] if the cache can't be kept where it is to lie;
/// the next command tries to make it anew then, or works without.
pub fn rebuild_index(repository: &Repository, progress: &Progress) -> Result<Report, RepoError> {
    go_on(progress)?;
    remove_cache(repository)?;
    let (mut index, mut cache) = open_anew(repository)?;
    let orphans = index.orphans();
    let total = orphans.iter().map(|pack| pack.bytes).sum();
    progress.expect(Done { files: orphans.len() as u64, bytes: total });
    let (mut listing, mut packs_found, mut bad) = (Listing::new(repository), 0, BTreeMap::new());
    for pack in orphans {
        match repository.prove(&Name::Pack(pack.id), pack.bytes, progress) {
            Ok(()) => {
                progress.add(Done { files: 1, bytes: 0 });
                listing.add(pack)?;
                packs_found += 1;
            }
            Err(RepoError::Interrupted) => return Err(RepoError::Interrupted),
            Err(e) => _ = bad.insert(pack.id, e),
        }
    }
    go_on(progress)?;
    if packs_found > 0 {
        drop((index, cache));
        _ = listing.finish()?;
        (index, cache) = open_anew(repository)?;
    }
    let packs = index.packs().filter(|(_, row, is_lost)| !is_lost && !bad.contains_key(&row.id)).count();
    let unread = index.problems().iter().map(|(path, error)| (path.clone(), error.to_string()));
    let unread: BTreeMap<String, String> = unread.collect();
    drop(index);
    if let (Some(cache), Some(path)) = (cache, repository.index_path()) {
        cache.keep().map_err(|e| not_kept(path, &e.to_string()))?;
    }
    let bad = bad.into_iter().map(|(id, error)| (Name::Pack(id).to_string(), error.to_string()));
    let problems = bad.chain(unread).map(|(path, error)| format!("{path}: {error}")).collect();
    Ok(Report { packs: packs as u64, packs_found, problems })
}

/// Ends the operation if it was asked to stop.
fn go_on(progress: &Progress) -> Result<(), RepoError> {
    if progress.is_cancelled() { Err(RepoError::Interrupted) } else { Ok(()) }
}

fn remove_cache(repository: &Repository) -> Result<(), RepoError> {
    let Some(path) = repository.index_path() else { return Ok(()) };
    index::remove_cache(path).map_err(|e| not_kept(path, &e.to_string()))
}

/// Opens the index, with a cache that is made anew unless there is to be none.
fn open_anew(repository: &Repository) -> Result<(Index, Option<NewCache>), RepoError> {
    let Some(path) = repository.index_path() else { return Ok((Index::open(repository)?, None)) };
    let cache = NewCache::begin(path).map_err(|e| not_kept(path, &e.to_string()))?;
    match Index::open_anew(repository, cache.file()) {
        Err(RepoError::Cache(e)) => Err(not_kept(path, &e.to_string())),
        index => Ok((index?, Some(cache))),
    }
}

fn not_kept(path: &Path, why: &str) -> RepoError {
    let reason = format!(
        "the index cannot be kept here: {why}; see to it and run this again, or name another place (--index)"
    );
    RepoError::Source { path: path.display().to_string(), reason }
}
