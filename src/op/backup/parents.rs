//! What earlier snapshots have of the components: the file cache.

use std::os::unix::ffi::OsStrExt;

use crate::base::content::ContentBuf;
use crate::base::entry::Kind;
use crate::base::id::SnapshotId;
use crate::base::progress::Done;
use crate::op::backup::Request;
use crate::repo::Snapshot;
use crate::repo::reader::Reader;
use crate::stage::snapshot::Status;
use crate::stage::tree::Entries;

/// For each component, the newest snapshot that has it from this machine.
pub struct Parents {
    /// The newest of them.
    pub newest: Option<SnapshotId>,
    /// What each component's directory held.
    pub roots: Vec<Option<ContentBuf>>,
    files: u64,
    bytes: u64,
}

impl Parents {
    /// Looks for them among `all`, which are sorted by time.
    pub fn find(reader: &Reader<'_>, all: &[Snapshot], request: &Request<'_>) -> Self {
        let mut parents = Self { newest: None, roots: Vec::new(), files: 0, bytes: 0 };
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
            let same_sources = candidates().find(|(_, old)| old.sources == sources);
            let Some((snapshot, old)) = same_sources.or_else(|| candidates().next()) else {
                parents.roots.push(None);
                continue;
            };
            parents.files += old.files;
            parents.bytes += old.bytes;
            newest = newest.max(Some((snapshot.manifest.time, snapshot.id)));
            parents.roots.push(below(reader, &snapshot.manifest.root, &component.directory));
        }
        parents.newest = newest.map(|(_, id)| id);
        parents
    }

    /// Returns how much they held.
    pub fn expected(&self) -> Done {
        Done { files: self.files, bytes: self.bytes }
    }
}

/// Returns the content of a component's directory in an old snapshot.
fn below(reader: &Reader<'_>, root: &ContentBuf, directory: &[u8]) -> Option<ContentBuf> {
    if directory.is_empty() {
        return Some(root.clone());
    }
    let stream = reader.content(root.borrowed()).ok()?;
    let mut entries = Entries::new(&stream).map_while(Result::ok);
    let found = entries.find(|(_, entry)| entry.name == directory && entry.kind == Kind::Directory);
    found.map(|(_, entry)| entry.content.to_owned())
}
