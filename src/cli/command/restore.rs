//! `snap restore`

use serde_json::json;

use crate::cli::args::{self, Restore};
use crate::cli::exit::Exit;
use crate::cli::progress::Display;
use crate::cli::report::{Output, bytes, counted, lacks, number, short, show_lacks};
use crate::cli::session::{Session, split_place};
use crate::op::restore::{FRAME_CACHE_BYTES, Overwrite, Report, Request, restore};
use crate::repo::{RepoError, Snapshot};
use crate::stage::scan::folder_id;

/// Restores, and says what was done.
///
/// # Errors
/// As [`restore`].
pub fn run(session: &Session, options: Restore) -> Result<Exit, RepoError> {
    let started = std::time::Instant::now();
    let (spec, path) = split_place(&options.place)?;
    let repository = session.open()?;
    let lock = session.lock(&repository)?;
    let snapshot = session.snapshot(&repository, &spec)?;
    let reader = session.reader_keeping(&repository, session.threads().max(4) * FRAME_CACHE_BYTES)?;
    let mut components = options.component;
    if components.iter().any(|name| name == "all") {
        components.clear();
    }
    let request = Request {
        path,
        target: options.target,
        components,
        include: options.include,
        exclude: options.exclude,
        overwrite: match options.overwrite {
            args::Overwrite::Never => Overwrite::Never,
            args::Overwrite::IfChanged => Overwrite::IfChanged,
            args::Overwrite::Always => Overwrite::Always,
        },
        delete: options.delete,
        own_directory: folder_id(session.location()?),
        numeric_ids: options.numeric_ids,
        dry_run: options.dry_run,
        verify: options.verify,
        threads: session.threads(),
        progress: &session.progress,
    };
    if session.secrets.will_prompt() && !request.dry_run {
        _ = repository.unlock(&session.secrets)?; // before a bar is drawn over the question
    }
    let display = Display::start(&session.global, "restore", &session.progress);
    let report = restore(&reader, &snapshot, &session.secrets, &request);
    drop((display, lock));
    let report = report?;
    show(session, &request, &snapshot, &report, started.elapsed().as_secs_f64())?;
    Ok(if report.lacks.is_empty() { Exit::Done } else { Exit::Partial })
}

fn show(
    session: &Session,
    request: &Request<'_>,
    snapshot: &Snapshot,
    report: &Report,
    seconds: f64,
) -> Result<(), RepoError> {
    let mut out = Output::new();
    if session.global.json {
        out.line(json!({
            "type": "summary",
            "snapshot": snapshot.id.to_string(),
            "target": request.target.display().to_string(),
            "dry_run": request.dry_run,
            "files": report.files,
            "bytes": report.bytes,
            "files_unchanged": report.unchanged,
            "files_verified": report.verified,
            "dirs": report.directories,
            "others": report.others,
            "deleted": report.deleted,
            "bytes_fetched": report.bytes_fetched,
            "duration_s": seconds,
            "errors": lacks(&report.lacks),
            "warnings": report.warnings.iter().map(|(what, count)| json!({ "what": what, "entries": count })).collect::<Vec<_>>(),
        }))?;
        return out.finish();
    }
    show_lacks(&report.lacks, "not restored");
    for (what, count) in &report.warnings {
        tracing::warn!("{what} ({})", counted(*count, "entry", "entries"));
    }
    if session.global.quiet {
        return Ok(());
    }
    let verb = if request.dry_run { "would be restored" } else { "restored" };
    out.line(format_args!(
        "snapshot {} {verb} to {} in {seconds:.2} s",
        short(snapshot.id),
        request.target.display()
    ))?;
    out.line(format_args!(
        "  files   {}, {}; {}, {} links and special files",
        number(report.files),
        bytes(report.bytes),
        counted(report.directories, "directory", "directories"),
        number(report.others)
    ))?;
    if report.unchanged > 0 {
        out.line(format_args!(
            "  kept    {} that were there already",
            counted(report.unchanged, "file", "files")
        ))?;
    }
    if report.deleted > 0 {
        out.line(format_args!(
            "  removed {} that the snapshot does not have",
            counted(report.deleted, "entry", "entries")
        ))?;
    }
    if request.verify {
        out.line(format_args!("  read back and found right: {}", counted(report.verified, "file", "files")))?;
    }
    if !report.lacks.is_empty() {
        out.line(format_args!(
            "  {} could not be restored, as listed above",
            counted(report.lacks.len() as u64, "entry", "entries")
        ))?;
    }
    out.finish()
}
