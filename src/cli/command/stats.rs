//! `snap stats`

use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::report::{Output, bytes, counted, number};
use crate::cli::session::Session;
use crate::op::stats::stats;
use crate::repo::RepoError;

/// Shows numbers.
///
/// # Errors
/// As [`stats`].
pub fn run(session: &Session) -> Result<Exit, RepoError> {
    let repository = session.open()?;
    let report = stats(&repository)?;
    let mut out = Output::new();
    if session.global.json {
        out.line(json!({
            "type": "summary",
            "repository": repository.id().to_string(),
            "writer_mark": repository.writer_keys().shown_mark(),
            "snapshots": report.snapshots,
            "files": report.files,
            "bytes_logical": report.bytes_logical,
            "chunks": report.chunks,
            "bytes_raw": report.bytes_raw,
            "packs_content": report.packs_content,
            "bytes_content": report.bytes_content,
            "packs_tree": report.packs_tree,
            "bytes_tree": report.bytes_tree,
            "bytes_other": report.bytes_other,
            "bytes_stored": report.bytes_stored,
        }))?;
    } else {
        let less = |part: u64| match report.bytes_logical as f64 / part as f64 {
            times if times.is_finite() && times >= 1.05 => format!(" ({times:.1} times less)"),
            _ => String::new(),
        };
        out.line(format_args!("repository  {} in {}", repository.id(), repository.store().location()))?;
        out.line(format_args!("writer mark {}", repository.writer_keys().shown_mark()))?;
        out.line(format_args!(
            "snapshots   {}, with {} and {} in all",
            number(report.snapshots),
            counted(report.files, "file", "files"),
            bytes(report.bytes_logical)
        ))?;
        out.line(format_args!(
            "distinct    {} in {}{}",
            bytes(report.bytes_raw),
            counted(report.chunks, "chunk", "chunks"),
            less(report.bytes_raw)
        ))?;
        out.line(format_args!(
            "stored      {}{}: content {}, trees {}, index and the rest {}",
            bytes(report.bytes_stored),
            less(report.bytes_stored),
            bytes(report.bytes_content),
            bytes(report.bytes_tree),
            bytes(report.bytes_other)
        ))?;
        out.line(format_args!(
            "packs       {} of content, {} of trees",
            number(report.packs_content),
            number(report.packs_tree)
        ))?;
    }
    out.finish()?;
    Ok(Exit::Done)
}
