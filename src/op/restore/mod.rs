//! One snapshot → files in a directory.
//!
//! The walk notes what is to be made and what it needs; then directories
//! are made, and the needs met pack by pack, in ascending order, each frame read once; then come hard
//! links, and the directories' attributes.

mod asked;
mod attributes;
mod fill;
mod holes;
mod needs;
mod placed;
mod plan;
mod removal;
mod stretch;
mod target;
mod tidy;
mod verify;

use std::path::PathBuf;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::base::entry::Kind;
use crate::base::progress::{Done, Progress};
use crate::op::restore::plan::Plan;
use crate::op::restore::target::Target;
use crate::repo::browse::{Place, find};
use crate::repo::keys::Secrets;
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};
use crate::stage::scan::FolderId;
use crate::stage::snapshot::Lack;

/// Memory for frames that a restore's reader should keep for each of its threads, in bytes: directories that lie side
/// by side share them. None are kept while files are filled.
pub const FRAME_CACHE_BYTES: usize = 2 << 20;

/// What to do with what is in the target already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// The target must be empty.
    Never,
    /// Files of the same kind, size and mtime stay as they are.
    IfChanged,
    /// Everything is written anew.
    Always,
}

/// What a restore is asked for.
pub struct Request<'a> {
    /// Path in the snapshot; its content goes right into the target, a file under its own name.
    pub path: Vec<u8>,
    /// The directory to restore into; made if it is not there.
    pub target: PathBuf,
    /// Components that are wanted; all if empty. Only together with the snapshot's root as path.
    pub components: Vec<String>,
    /// Patterns as in `.gitignore`; only what one of them matches is wanted. All if empty.
    pub include: Vec<String>,
    /// Patterns of what is not wanted.
    pub exclude: Vec<String>,
    /// What to do with what is there.
    pub overwrite: Overwrite,
    /// Remove what is in restored directories and not in the snapshot.
    pub delete: bool,
    /// The repository's folder, which is never removed; none if it lies in no folder of this machine.
    pub own_directory: Option<FolderId>,
    /// Owners by number, even where the name is known here.
    pub numeric_ids: bool,
    /// Say what would be done; write nothing.
    pub dry_run: bool,
    /// Read back what was written.
    pub verify: bool,
    /// Threads.
    pub threads: usize,
    /// Shown to whoever waits; and asked whether to stop.
    pub progress: &'a Progress,
}

/// What a restore did.
#[derive(Debug, Default)]
#[must_use = "a restore that lacks entries is not whole"]
pub struct Report {
    /// Files written.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
    /// Files that were as they should be.
    pub unchanged: u64,
    /// Directories made or kept.
    pub directories: u64,
    /// Links, FIFOs and devices made.
    pub others: u64,
    /// Entries removed from the target.
    pub deleted: u64,
    /// Files read back and found right.
    pub verified: u64,
    /// Bytes read from packs.
    pub bytes_fetched: u64,
    /// Entries that are not there as they should be, and why.
    pub lacks: Vec<Lack>,
    /// Attributes that could not be set, and what the snapshot itself lacks, with how many entries each concerns.
    pub warnings: Vec<(String, u64)>,
}

/// Restores.
///
/// # Errors
/// [`RepoError::Source`] if the target can't be used, or what is asked for can't or should not be done;
/// [`RepoError::Locked`] or [`RepoError::WrongPassphrase`] without a key, [`RepoError::NoPath`]. A file that can't be
/// restored is no error: see [`Report::lacks`]. Files appear whole, under their names, or not at all.
pub fn restore(
    reader: &Reader<'_>,
    snapshot: &Snapshot,
    secrets: &dyn Secrets,
    request: &Request<'_>,
) -> Result<Report, RepoError> {
    asked::check(&snapshot.manifest, request)?;
    let place = find(reader, snapshot, &request.path)?;
    let filter = Filter::new(request)?;
    let totals = &snapshot.manifest.components;
    let wanted = |name: &String| request.components.is_empty() || request.components.contains(name);
    request.progress.expect(Done {
        files: totals.iter().filter(|c| wanted(&c.name)).map(|c| c.files).sum(),
        bytes: totals.iter().filter(|c| wanted(&c.name)).map(|c| c.bytes).sum(),
    });
    if !request.dry_run {
        reader.repository().unlock(secrets)?;
    }
    let target = Target::open(&request.target, request.overwrite, request.dry_run)?;
    let mut plan = Plan::new(reader, target, filter, request, totals);
    match place {
        Place::Root(root) => plan.walk(root)?,
        Place::Entry(record) => {
            let entry = record.entry()?;
            match entry.kind {
                Kind::Directory => plan.walk(entry.content.to_owned())?,
                _ => plan.single(&entry)?,
            }
        }
    }
    let mut report = plan.finish()?;
    report.warnings.extend(asked::warnings(&snapshot.manifest, request));
    Ok(report)
}

/// Which entries are wanted.
pub(crate) struct Filter {
    include: Option<Gitignore>,
    exclude: Gitignore,
}

impl Filter {
    fn new(request: &Request<'_>) -> Result<Self, RepoError> {
        let include = (!request.include.is_empty()).then(|| patterns(&request.include)).transpose()?;
        Ok(Self { include, exclude: patterns(&request.exclude)? })
    }

    /// Returns whether an entry is wanted itself, and whether something below it may be.
    fn wants(&self, path: &[u8], is_directory: bool) -> (bool, bool) {
        use std::os::unix::ffi::OsStrExt;
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
        if !self.exclude.is_empty() && self.exclude.matched(path, is_directory).is_ignore() {
            return (false, false);
        }
        match &self.include {
            None => (true, true),
            Some(include) => {
                let is_wanted = include.matched_path_or_any_parents(path, is_directory).is_ignore();
                (is_wanted, is_wanted || is_directory)
            }
        }
    }
}

fn patterns(lines: &[String]) -> Result<Gitignore, RepoError> {
    let mut builder = GitignoreBuilder::new("");
    for line in lines {
        builder
            .add_line(None, line)
            .map_err(|e| RepoError::Source { path: format!("pattern {line:?}"), reason: e.to_string() })?;
    }
    builder.build().map_err(|e| RepoError::Source { path: "patterns".to_owned(), reason: e.to_string() })
}

/// Returns a row for the report.
pub(crate) fn lack(path: &[u8], reason: impl ToString) -> Lack {
    Lack { path: path.to_vec(), reason: reason.to_string() }
}
