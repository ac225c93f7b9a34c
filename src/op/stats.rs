//! A repository → its numbers.

use crate::repo::index::Index;
use crate::repo::{RepoError, Repository};
use crate::store::Folder;

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

/// Counts. Reads manifests, and the index once: O(chunks). A chunk that lies in several packs counts once.
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
    }
    let index = Index::open(repository)?;
    match count_chunks(&index, &mut report) {
        Err(RepoError::Cache(_)) => count_chunks(&Index::open_without_cache(repository)?, &mut report)?,
        counted => counted?,
    }
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

/// Counts the distinct chunks of content.
fn count_chunks(index: &Index, report: &mut Report) -> Result<(), RepoError> {
    (report.chunks, report.bytes_raw) = (0, 0);
    index.each_chunk(|_, location| {
        if index.pack(location.pack).is_some_and(|pack| !pack.is_tree) {
            report.chunks += 1;
            report.bytes_raw += u64::from(location.bytes);
        }
    })
}
