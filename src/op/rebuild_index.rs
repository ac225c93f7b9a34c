//! Fragments and packs → the index cache, anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::base::id::FragmentId;
use crate::base::progress::{Done, Progress};
use crate::repo::index::{self, Index, fragments_present};
use crate::repo::listing::Listing;
use crate::repo::{RepoError, Repository};
use crate::stage::index::{Cache, CacheError};
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
/// read once.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::Interrupted`], or [`RepoError::Source`] if the cache can't be kept where it is to lie;
/// the next command tries to make it anew then, or works without.
pub fn rebuild_index(repository: &Repository, progress: &Progress) -> Result<Report, RepoError> {
    go_on(progress)?;
    remove_cache(repository)?;
    let mut present = fragments_present(repository.store())?;
    let mut index = Index::open(repository)?;
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
        drop(index); // the cache takes one writer and no reader
        _ = listing.finish()?;
        present = fragments_present(repository.store())?;
        index = Index::open(repository)?;
    }
    let packs = index.packs().filter(|(_, row, is_lost)| !is_lost && !bad.contains_key(&row.id)).count();
    let unread = index.problems().iter().map(|(path, error)| (path.clone(), error.to_string()));
    let unread: BTreeMap<String, String> = unread.collect();
    drop(index);
    present.retain(|id| !unread.contains_key(&Name::Fragment(*id).to_string()));
    verify_cache(repository, &present)?;
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

/// Makes sure that the cache can be opened and holds what the `fragments` say, which read and were there before
/// it was made: an index that opens may lie in memory alone.
fn verify_cache(repository: &Repository, fragments: &BTreeSet<FragmentId>) -> Result<(), RepoError> {
    let Some(path) = repository.index_path() else { return Ok(()) };
    if fragments.is_empty() {
        return Ok(()); // of nothing no cache is made
    }
    match Cache::open(path, repository.id()) {
        Ok(cache) => {
            let holds = |id: &FragmentId| cache.fragments().contains(id) || cache.replaced().contains(id);
            match fragments.iter().all(holds) {
                true => Ok(()),
                false => Err(not_kept(path, &obstacle(path))),
            }
        }
        Err(CacheError::Absent) => Err(not_kept(path, &obstacle(path))),
        Err(e) => Err(not_kept(path, &e.to_string())),
    }
}

/// Returns why no file can be kept at `path`, as far as the system tells.
fn obstacle(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match tempfile::tempfile_in(folder) {
        Err(e) => e.to_string(),
        Ok(_) => "it could not be written; is the disk full?".to_owned(),
    }
}

fn not_kept(path: &Path, why: &str) -> RepoError {
    let reason = format!(
        "the index cannot be kept here: {why}; see to it and run this again, or name another place (--index)"
    );
    RepoError::Source { path: path.display().to_string(), reason }
}
