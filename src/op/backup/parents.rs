//! What earlier snapshots have of the components: the file cache.

use std::os::unix::ffi::OsStrExt;

use crate::base::content::ContentBuf;
use crate::base::entry::Kind;
use crate::base::id::SnapshotId;
use crate::base::progress::Done;
use crate::op::backup::Request;
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};
use crate::stage::snapshot::{Manifest, Status};
use crate::stage::tree::Entries;

/// For each component, the newest snapshot that has it from this machine.
pub struct Parents {
    /// The newest of them.
    pub newest: Option<SnapshotId>,
    /// What each component's directory held.
    pub roots: Vec<Option<ContentBuf>>,
    /// The patterns that each was made with: none without a parent, empty if it does not say.
    pub excludes: Vec<Option<Vec<String>>>,
    files: u64,
    bytes: u64,
}

impl Parents {
    /// Looks for them among `all`, which are sorted by time.
    pub fn find(reader: &Reader<'_>, all: &[Snapshot], request: &Request<'_>) -> Self {
        let mut parents = Self { newest: None, roots: Vec::new(), excludes: Vec::new(), files: 0, bytes: 0 };
        let mut newest = None;
        for component in &request.components {
            let sources: Vec<&[u8]> =
                component.paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
            let candidates = || {
                all.iter().rev().filter(|snapshot| snapshot.manifest.host == request.host).filter_map(
                    |snapshot| {
                        let same = snapshot.manifest.components.iter().find(|old| {
                            old.name == component.name
                                && old.directory == component.directory
                                && old.status != Status::Failed
                        });
                        same.map(|old| (snapshot, old))
                    },
                )
            };
            let same_sources = || candidates().find(|(_, old)| old.sources == sources);
            let Some(last) = same_sources().or_else(|| candidates().next()) else {
                parents.roots.push(None);
                parents.excludes.push(None);
                continue;
            };
            // After a night in which the disk was not mounted, what was there before is what is found again.
            let unsuspected = candidates().find(|(snapshot, old)| {
                old.sources == last.1.sources && snapshot.manifest.suspicion(&old.name).is_none()
            });
            let (snapshot, old) = match unsuspected {
                Some(before) if before.1.files > last.1.files => before,
                _ => last,
            };
            parents.files += old.files;
            parents.bytes += old.bytes;
            parents.roots.push(below(reader, &snapshot.manifest.root, &component.directory).ok().flatten());
            newest = newest.max(Some((snapshot.order(), snapshot.id)));
            parents.excludes.push(Some(excludes(&snapshot.manifest, &component.name)));
        }
        parents.newest = newest.map(|(_, id)| id);
        parents
    }

    /// Returns how much they held.
    pub fn expected(&self) -> Done {
        Done { files: self.files, bytes: self.bytes }
    }
}

/// Returns the patterns that a component of an old snapshot was made with.
fn excludes(manifest: &Manifest, component: &str) -> Vec<String> {
    let rules = manifest.rules().unwrap_or_default();
    let rules = rules.into_iter().find(|rules| rules.component == component);
    rules.map(|rules| rules.excludes).unwrap_or_default()
}

/// Returns the content of a component's directory in a snapshot; none if it has none.
///
/// # Errors
/// What reading the root meets.
pub fn below(
    reader: &Reader<'_>,
    root: &ContentBuf,
    directory: &[u8],
) -> Result<Option<ContentBuf>, RepoError> {
    if directory.is_empty() {
        return Ok(Some(root.clone()));
    }
    let stream = reader.content(root.borrowed())?;
    for entry in Entries::new(&stream) {
        let (_, entry) = entry?;
        if entry.name == directory && entry.kind == Kind::Directory {
            return Ok(Some(entry.content.to_owned()));
        }
    }
    Ok(None)
}
