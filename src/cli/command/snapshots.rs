//! `snap snapshots`

use serde_json::json;

use crate::cli::args::Snapshots;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, bytes, local, number, rfc3339, short};
use crate::cli::session::Session;
use crate::repo::{RepoError, Snapshot};
use crate::stage::snapshot::facts;

/// Lists snapshots, oldest first.
///
/// # Errors
/// As opening the repository.
pub fn run(session: &Session, options: &Snapshots) -> Result<Exit, RepoError> {
    let repository = session.open()?;
    let mut all = session.snapshots(&repository)?;
    all.retain(|snapshot| options.tag.iter().all(|tag| snapshot.manifest.tags.contains(tag)));
    let skip = options.latest.map_or(0, |latest| all.len().saturating_sub(latest));
    let all = &all[skip..];
    let mut out = Output::new();
    if session.global.json {
        for snapshot in all {
            let mut row = as_json(snapshot);
            if options.log {
                row["log"] = log(snapshot).into();
            }
            out.line(row)?;
        }
        out.finish()?;
        return Ok(Exit::Done);
    }
    let rows: Vec<[String; 7]> = all
        .iter()
        .map(|snapshot| {
            let manifest = &snapshot.manifest;
            let files: u64 = manifest.components.iter().map(|component| component.files).sum();
            let size: u64 = manifest.components.iter().map(|component| component.bytes).sum();
            let components: Vec<String> = manifest
                .components
                .iter()
                .map(|component| match component.status {
                    crate::stage::snapshot::Status::Complete => component.name.clone(),
                    status => format!("{} ({})", component.name, status.word()),
                })
                .collect();
            [
                short(snapshot.id),
                local(manifest.time),
                manifest.host.clone(),
                manifest.tags.join(","),
                components.join(","),
                number(files),
                bytes(size),
            ]
        })
        .collect();
    let head = ["id", "time", "host", "tags", "components", "files", "size"].map(str::to_owned);
    let all_rows = || std::iter::once(&head).chain(&rows);
    let width = |column: usize| all_rows().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in all_rows() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            5 | 6 => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        out.line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    for snapshot in all.iter().filter(|_| options.log) {
        out.line(format_args!("\n{}", short(snapshot.id)))?;
        out.line(log(snapshot).unwrap_or_else(|| "no log: it was not made by a configured run".to_owned()))?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

/// Returns the log of the run that made a snapshot.
fn log(snapshot: &Snapshot) -> Option<String> {
    let fact = snapshot.manifest.extra.iter().find(|(name, _)| name == facts::LOG);
    fact.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
}

fn as_json(snapshot: &Snapshot) -> serde_json::Value {
    let manifest = &snapshot.manifest;
    json!({
        "type": "snapshot",
        "id": snapshot.id.to_string(),
        "time": rfc3339(manifest.time),
        "tags": manifest.tags,
        "host": manifest.host,
        "user": manifest.user,
        "program": manifest.program,
        "parent": manifest.parent.map(|id| id.to_string()),
        "components": manifest.components.iter().map(|component| json!({
            "name": component.name,
            "status": component.status.word(),
            "attempts": component.attempts,
            "files": component.files,
            "bytes": component.bytes,
        })).collect::<Vec<_>>(),
        "files": manifest.components.iter().map(|component| component.files).sum::<u64>(),
        "bytes": manifest.components.iter().map(|component| component.bytes).sum::<u64>(),
        "bytes_stored": manifest.totals.bytes_stored,
        "errors": manifest.lacks_total,
        "duration_s": manifest.duration_ms as f64 / 1000.0,
    })
}
