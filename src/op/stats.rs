//! A repository → its numbers.

use crate::base::content::refs;
use crate::repo::index::{Index, read_fragment};
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, Name};

/// What a repository holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Snapshots.
    pub snapshots: u64,
    /// Files in all snapshots together.
    pub files: u64,
    /// Their bytes: what the snapshots would take if each were a copy.
    pub bytes_logical: u64,
    /// Distinct chunks of content.
    pub chunks: u64,
    /// Their raw bytes: what is left after deduplication.
    pub bytes_raw: u64,
    /// Packs of content.
    pub packs_content: u64,
    /// Their bytes: what is left after compression.
    pub bytes_content: u64,
    /// Packs of trees.
    pub packs_tree: u64,
    /// Their bytes.
    pub bytes_tree: u64,
    /// Bytes of fragments, manifests and keys.
    pub bytes_other: u64,
    /// Bytes of all repository files; the index cache is not counted.
    pub bytes_stored: u64,
}

/// Counts. Reads manifests and fragments: O(chunks).
///
/// # Errors
/// [`RepoError::Store`].
pub fn stats(repository: &Repository) -> Result<Report, RepoError> {
    let mut report = Report::default();
    let snapshots = repository.snapshots()?.all;
    report.snapshots = snapshots.len() as u64;
    for component in snapshots.iter().flat_map(|snapshot| &snapshot.manifest.components) {
        report.files += component.files;
        report.bytes_logical += component.bytes;
    }
    for folder in Folder::ALL {
        let found = repository.store().list(folder)?;
        let bytes: u64 = found.iter().map(|found| found.bytes).sum();
        report.bytes_stored += bytes;
        if folder != Folder::Packs {
            report.bytes_other += bytes;
        }
        if folder == Folder::Index {
            for name in found.iter().filter_map(|found| found.name) {
                let Name::Fragment(id) = name else { continue };
                let Ok(fragment) = read_fragment(repository, id) else { continue };
                for pack in fragment.packs.iter().filter(|pack| !pack.directory.is_tree) {
                    report.chunks += pack.directory.chunk_count() as u64;
                    report.bytes_raw += refs(&pack.directory.chunks).map(|c| u64::from(c.bytes)).sum::<u64>();
                }
            }
        }
    }
    let index = Index::open(repository)?;
    for (_, pack, _) in index.packs().filter(|(_, _, is_lost)| !is_lost) {
        let (packs, bytes) = match pack.is_tree {
            true => (&mut report.packs_tree, &mut report.bytes_tree),
            false => (&mut report.packs_content, &mut report.bytes_content),
        };
        *packs += 1;
        *bytes += pack.bytes;
    }
    Ok(report)
}
