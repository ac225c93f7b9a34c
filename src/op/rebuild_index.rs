//! Fragments and packs → the index cache, anew.

use crate::repo::index::Index;
use crate::repo::listing::Listing;
use crate::repo::{RepoError, Repository};

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
/// [`RepoError::Store`]; the cache is made anew by the next command then.
pub fn rebuild_index(repository: &Repository) -> Result<Report, RepoError> {
    if let Some(path) = repository.index_path() {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                let reason = e.to_string();
                return Err(RepoError::Source { path: path.display().to_string(), reason });
            }
            _ => {}
        }
    }
    let mut index = Index::open(repository)?;
    let bad = index.prove_orphans(repository);
    let packs = index.orphans().to_vec();
    let packs_found = packs.len() as u64;
    let index = match packs.is_empty() {
        true => index,
        false => {
            drop(index);
            let mut listing = Listing::new(repository);
            packs.iter().try_for_each(|pack| listing.add(pack))?;
            _ = listing.finish()?;
            Index::open(repository)?
        }
    };
    Ok(Report {
        packs: index.packs().filter(|(_, _, is_lost)| !is_lost).count() as u64,
        packs_found,
        problems: bad
            .iter()
            .chain(index.problems())
            .map(|(path, error)| format!("{path}: {error}"))
            .collect(),
    })
}
