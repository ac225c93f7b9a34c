//! `snap history`

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use crate::base::entry::quoted;
use crate::cli::args::History;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, bytes, counted, local, number, rfc3339, short};
use crate::cli::session::Session;
use crate::op::diff::{Change, diff};
use crate::op::history::{Counter, Held};
use crate::repo::reader::Reader;
use crate::repo::stand_in::is_in;
use crate::repo::{RepoError, Snapshot};
use crate::stage::snapshot::Status;

/// What a path held in one night.
struct Row<'s> {
    snapshot: &'s Snapshot,
    held: Option<Held>,
    /// Files that came and went since the night before; none for the first.
    changes: Option<(u64, u64)>,
    state: String,
    is_whole: bool,
}

/// Shows what a path held, night by night.
///
/// # Errors
/// [`RepoError::NoSnapshot`] if it is not known whose nights are meant, [`RepoError::NoPath`] if no night has the path; what
/// reading meets.
pub fn run(session: &Session, options: &History) -> Result<Exit, RepoError> {
    let path = options.path.as_bytes();
    let repository = session.open()?;
    let nights = session.nights(&repository, &options.owner)?;
    let reader = session.reader(&repository)?;
    let mut counter = Counter::default();
    let mut rows: Vec<Row<'_>> = Vec::new();
    for snapshot in &nights {
        let held = counter.count(&reader, snapshot, path)?;
        let before = rows.last().filter(|row| row.held.is_some() || held.is_some());
        let changes = before.map(|row| changes(&reader, row.snapshot, snapshot, path)).transpose()?;
        let (state, is_whole) = state(snapshot, path);
        let is_whole = is_whole && held.is_some_and(|held| held.unreadable == 0);
        rows.push(Row { snapshot, held, changes, state, is_whole });
    }
    if rows.iter().all(|row| row.held.is_none()) {
        let snapshot = rows.last().map_or_else(|| "none".to_owned(), |row| row.snapshot.id.to_string());
        return Err(RepoError::NoPath { path: quoted(path), snapshot, elsewhere: String::new() });
    }
    show(session, &rows)?;
    let is_damaged = rows.iter().any(|row| row.held.is_some_and(|held| held.unreadable > 0));
    Ok(if is_damaged { Exit::Partial } else { Exit::Done })
}

/// Counts the files that came to a path and went from it. A file under another name did neither.
fn changes(
    reader: &Reader<'_>,
    earlier: &Snapshot,
    later: &Snapshot,
    path: &[u8],
) -> Result<(u64, u64), RepoError> {
    let report = match diff(reader, earlier, later, path) {
        Ok(report) => report,
        Err(error) if error.is_unreadable() => return Ok((0, 0)), // the row says that it can't be read
        Err(error) => return Err(error),
    };
    let mut counts: BTreeMap<bool, u64> = BTreeMap::new();
    for change in report.changes.values() {
        match change {
            Change::Added => *counts.entry(true).or_default() += 1,
            Change::Removed => *counts.entry(false).or_default() += 1,
            _ => {}
        }
    }
    let count = |is_added| counts.get(&is_added).copied().unwrap_or(0);
    Ok((count(true), count(false)))
}

/// Says how the components fared that a path lies in, and whether all of them are whole.
fn state(snapshot: &Snapshot, path: &[u8]) -> (String, bool) {
    let manifest = &snapshot.manifest;
    let mut words = Vec::new();
    for component in manifest.components.iter().filter(|component| is_in(path, &component.directory)) {
        let word = match (component.status, manifest.suspicion(&component.name)) {
            (Status::Complete, None) => continue,
            (Status::Failed, _) => "failed",
            (_, Some(_)) => "suspect",
            (Status::Partial, None) => "partial",
        };
        words.push(format!("{} {word}", component.name));
    }
    (words.join(", "), words.is_empty())
}

fn show(session: &Session, rows: &[Row<'_>]) -> Result<(), RepoError> {
    let mut out = Output::new();
    let last_whole = rows.iter().rposition(|row| row.is_whole);
    for (at, row) in rows.iter().enumerate() {
        let manifest = &row.snapshot.manifest;
        let (files, size) = (row.held.map(|held| held.files), row.held.map(|held| held.bytes));
        if session.global.json {
            out.line(json!({
                "type": "night",
                "snapshot": row.snapshot.id.to_string(),
                "time": rfc3339(manifest.time),
                "tags": manifest.tags,
                "files": files,
                "bytes": size,
                "added": row.changes.map(|(added, _)| added),
                "removed": row.changes.map(|(_, removed)| removed),
                "state": row.state,
                "last_whole": last_whole == Some(at),
                "unreadable": row.held.map(|held| held.unreadable),
            }))?;
            continue;
        }
        let changes = match row.changes {
            Some((added, removed)) => format!("+{} -{}", number(added), number(removed)),
            None => String::new(),
        };
        let held = match (files, size) {
            (Some(files), Some(size)) => {
                let noun = if files == 1 { "file" } else { "files" };
                format!("{:>10} {noun:<5}  {:>11}", number(files), bytes(size))
            }
            _ => format!("{:>29}", "not there"),
        };
        let mut remarks = vec![row.state.clone()];
        if let Some(lost) = row.held.map(|held| held.unreadable).filter(|lost| *lost > 0) {
            remarks.push(format!("{} cannot be read", counted(lost, "directory", "directories")));
        }
        if last_whole == Some(at) {
            remarks.push("<- the last whole one".to_owned());
        }
        let remarks = remarks.into_iter().filter(|remark| !remark.is_empty()).collect::<Vec<_>>().join("; ");
        let line =
            format!("{}  {}  {held}  {changes:<16}  {remarks}", local(manifest.time), short(row.snapshot.id));
        out.line(line.trim_end())?;
    }
    out.finish()
}
