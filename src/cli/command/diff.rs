//! `snap diff`

use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use crate::base::entry::quoted;
use crate::cli::args::Diff;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, bytes, number};
use crate::cli::session::Session;
use crate::op::diff::{Change, diff};
use crate::repo::RepoError;

/// Shows what changed.
///
/// # Errors
/// As [`diff`].
pub fn run(session: &Session, options: &Diff) -> Result<Exit, RepoError> {
    let repository = session.open()?;
    let earlier = session.snapshot_to_look_at(&repository, &options.earlier, &options.owner)?;
    let later = session.snapshot_to_look_at(&repository, &options.later, &options.owner)?;
    let reader = session.reader(&repository)?;
    let report = diff(&reader, &earlier, &later, options.path.as_bytes())?;
    let mut out = Output::new();
    let mut counts = [0u64; 6];
    for (path, change) in &report.changes {
        let (at, letter, word) = match change {
            Change::Added => (0, '+', "added"),
            Change::Removed => (1, '-', "removed"),
            Change::Modified => (2, 'M', "modified"),
            Change::Renamed(_) => (3, 'R', "renamed"),
            Change::Attributes => (4, 'A', "attributes"),
            Change::Kind => (5, 'T', "kind"),
        };
        counts[at] += 1;
        let from = match change {
            Change::Renamed(from) => Some(quoted(from)),
            _ => None,
        };
        match (session.global.json, from) {
            (true, from) => {
                out.line(json!({ "type": "change", "change": word, "path": quoted(path), "from": from }))?
            }
            (false, Some(from)) => out.line(format_args!("{letter} {from} -> {}", quoted(path)))?,
            (false, None) => out.line(format_args!("{letter} {}", quoted(path)))?,
        }
    }
    let [added, removed, modified, renamed, attributes, kind] = counts;
    if session.global.json {
        out.line(json!({
            "type": "summary", "added": added, "removed": removed, "modified": modified, "renamed": renamed,
            "attributes": attributes, "kind": kind,
            "bytes_added": report.bytes_added, "bytes_removed": report.bytes_removed,
        }))?;
    } else if !session.global.quiet {
        out.line(format_args!(
            "{} added, {} removed, {} modified, {} renamed, {} with other attributes, {} of another kind; {} more, {} less",
            number(added), number(removed), number(modified), number(renamed), number(attributes), number(kind),
            bytes(report.bytes_added), bytes(report.bytes_removed),
        ))?;
    }
    out.finish()?;
    Ok(Exit::Done)
}
