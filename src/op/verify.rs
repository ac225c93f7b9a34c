//! A new snapshot → whether what was just written is there and right.
//!
//! Reads the manifest back, hashes the packs that the run wrote, and walks the snapshot: every
//! component that should be there is, with as many files and bytes as the manifest says, and every
//! chunk lies in a pack. Needs no key that reads content.

use std::collections::HashMap;

use crate::base::content::refs;
use crate::base::entry::{Entry, Kind, quoted};
use crate::base::id::{PackId, SnapshotId};
use crate::base::progress::Progress;
use crate::base::units::counted;
use crate::repo::browse::{Place, Step, Visitor, find, walk};
use crate::repo::index::Index;
use crate::repo::reader::{Reader, TREE_CACHE_BYTES};
use crate::repo::{RepoError, Repository, Snapshot};
use crate::stage::snapshot::{Component, Status};
use crate::store::{Folder, Name};

/// Most problems that are told one by one.
const PROBLEMS_MAX: usize = 100;

/// What a verification found.
#[derive(Debug, Default)]
#[must_use = "a snapshot that does not verify is not a backup"]
pub struct Report {
    /// Packs that were hashed.
    pub packs: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Files in the snapshot.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
    /// What is wrong, each in one line; empty if all is well.
    pub problems: Vec<String>,
}

/// Verifies the snapshot `id`, which a run has just made and for which it wrote `packs`.
///
/// # Errors
/// [`RepoError::Store`] if folders can't be listed, [`RepoError::Interrupted`]. What is wrong with
/// the snapshot is in the report.
pub fn verify(
    repository: &Repository,
    id: SnapshotId,
    packs: &[PackId],
    progress: &Progress,
) -> Result<Report, RepoError> {
    let mut report = Report::default();
    hash_packs(repository, packs, progress, &mut report)?;
    let snapshot = match repository.manifest(id) {
        Ok(manifest) => Snapshot { id, manifest },
        Err(error) => {
            report.problem(format!("{}: {}", Name::Snapshot(id), error.chain()));
            return Ok(report);
        }
    };
    let reader = Reader::new(repository, Index::open(repository)?, TREE_CACHE_BYTES);
    for component in &snapshot.manifest.components {
        verify_component(&reader, &snapshot, component, progress, &mut report)?;
    }
    Ok(report)
}

impl Report {
    fn problem(&mut self, what: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        }
    }
}

fn hash_packs(
    repository: &Repository,
    packs: &[PackId],
    progress: &Progress,
    report: &mut Report,
) -> Result<(), RepoError> {
    if packs.is_empty() {
        return Ok(());
    }
    let listed = repository.store().list(Folder::Packs)?;
    let lengths: HashMap<Name, u64> =
        listed.into_iter().filter_map(|found| Some((found.name?, found.bytes))).collect();
    for id in packs {
        let name = Name::Pack(*id);
        let Some(length) = lengths.get(&name).copied() else {
            report.problem(format!("{name}: was written and is not there"));
            continue;
        };
        match repository.prove(&name, length, progress) {
            Ok(()) => report.bytes_read += length,
            Err(RepoError::Interrupted) => return Err(RepoError::Interrupted),
            Err(RepoError::NameMismatch { .. }) => {
                report.problem(format!("{name}: the bytes that were read back are not the ones written"));
            }
            Err(error) => report.problem(error.chain()),
        }
        report.packs += 1;
    }
    Ok(())
}

fn verify_component(
    reader: &Reader<'_>,
    snapshot: &Snapshot,
    component: &Component,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), RepoError> {
    let name = &component.name;
    let place = find(reader, snapshot, &component.directory);
    let root = match (place, component.status) {
        (Err(RepoError::NoPath { .. }), Status::Failed) => return Ok(()),
        (Ok(_), Status::Failed) if !component.directory.is_empty() => {
            report.problem(format!("component {name}: has failed, and is there"));
            return Ok(());
        }
        (Ok(Place::Root(content)), _) => content,
        (Ok(Place::Entry(record)), _) => record.entry()?.content.to_owned(),
        (Err(error), _) => {
            report.problem(format!("component {name}: {}", error.chain()));
            return Ok(());
        }
    };
    let mut count = Count { reader, progress, name, files: 0, bytes: 0, problems: Vec::new() };
    walk(reader, &root, &mut count)?;
    let Count { files, bytes, problems, .. } = count;
    problems.into_iter().for_each(|problem| report.problem(problem));
    if (files, bytes) != (component.files, component.bytes) {
        report.problem(format!(
            "component {name}: {} of {bytes} bytes there, expected {} of {} bytes",
            counted(files, "file", "files"),
            component.files,
            component.bytes
        ));
    }
    report.files += files;
    report.bytes += bytes;
    Ok(())
}

/// Counts what is in a component, and looks each chunk up.
struct Count<'c> {
    reader: &'c Reader<'c>,
    progress: &'c Progress,
    name: &'c str,
    files: u64,
    bytes: u64,
    problems: Vec<String>,
}

impl Count<'_> {
    fn problem(&mut self, path: &[u8], what: &str) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(format!("component {}: {}: {what}", self.name, quoted(path)));
        }
    }
}

impl Visitor for Count<'_> {
    fn entry(&mut self, path: &[u8], entry: &Entry<'_>) -> Result<Step, RepoError> {
        if self.progress.is_cancelled() {
            return Err(RepoError::Interrupted);
        }
        if entry.kind == Kind::File {
            self.files += 1;
            self.bytes += entry.size;
            let list = match self.reader.flatten(entry.content) {
                Ok(list) => list,
                Err(error) if error.is_damage() => {
                    self.problem(path, &error.chain());
                    return Ok(Step::Over);
                }
                Err(error) => return Err(error),
            };
            for chunk in refs(&list) {
                if self.reader.index().find(&chunk.id)?.is_none() {
                    self.problem(path, &format!("chunk {} is in no pack", chunk.id));
                }
            }
        }
        Ok(Step::Into)
    }

    fn damaged(&mut self, path: &[u8], error: RepoError) -> Result<(), RepoError> {
        match error {
            RepoError::Interrupted => Err(error),
            _ => {
                self.problem(path, &error.chain());
                Ok(())
            }
        }
    }
}
