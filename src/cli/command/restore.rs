//! `snap restore`

use serde_json::json;

use crate::base::entry::quoted;
use crate::cli::args::{self, Restore};
use crate::cli::choice::{Choice, Wanted};
use crate::cli::command::asking::Asking;
use crate::cli::command::backup::patterns;
use crate::cli::command::logged::logged;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, bytes, counted, lacks, number, reported, short, show_lacks};
use crate::cli::session::{Session, split_place};
use crate::op::restore::{Configured, FRAME_CACHE_BYTES, Overwrite, Report, Request, restore, unfinished};
use crate::repo::RepoError;
use crate::stage::scan::{FolderId, folder_id};

/// Restores, and says what was done. If a configuration counts, its log says so too.
///
/// # Errors
/// As [`restore`].
pub fn run(session: &Session, options: Restore) -> Result<Exit, RepoError> {
    logged(session, || restored(session, options))
}

fn restored(session: &Session, options: Restore) -> Result<Exit, RepoError> {
    let started = std::time::Instant::now();
    let (spec, path) = split_place(&options.place)?;
    let repository = session.open()?;
    let lock = session.lock_to_read(&repository)?;
    let reader = session.reader_keeping(&repository, session.threads().max(4) * FRAME_CACHE_BYTES)?;
    patterns("--include", &options.include)?;
    patterns("--exclude", &options.exclude)?;
    let mut components = options.component;
    if components.iter().any(|name| name == "all") {
        components.clear();
    }
    let wanted = Wanted { spec: &spec, path: &path, components: &components, choosing: &options.choosing };
    let (reader, choice) = session.choose(&repository, reader, wanted)?;
    if options.delete {
        choice.check_delete()?;
    }
    let asking = Asking::new(session, options.dry_run);
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
        is_continued: options.is_continued,
        delete: options.delete,
        force: options.force,
        consent: &asking,
        own_places: own_places(session)?,
        configured: configured(session)?,
        numeric_ids: options.numeric_ids,
        labels: options.labels,
        dry_run: options.dry_run,
        verify: options.verify,
        threads: session.threads(),
        progress: &session.progress,
    };
    if session.secrets.will_prompt() && !request.dry_run {
        _ = repository.unlock(&session.secrets)?; // before a bar is drawn over the question
    }
    let report = restore(&reader, &choice.snapshot, &session.secrets, &request);
    asking.end();
    drop(lock);
    if let Err(e) = &report
        && !matches!(e, RepoError::Source { .. }) // which says it itself
        && let Some(what) = unfinished(&request.target)
    {
        tracing::warn!("{what}; go on with it: the same command with --continue; or remove it");
    }
    let report = report
        .map_err(|error| choice.explain(&request.path, error))
        .map_err(|error| session.with_elsewhere(error, &reader, &choice.snapshot, &request.path))?;
    let exit = if report.is_whole() && !choice.is_short() { Exit::Done } else { Exit::Partial };
    let shown = show(session, &request, &choice, &report, started.elapsed().as_secs_f64());
    match request.dry_run {
        true => shown.map(|()| exit),
        false => Ok(reported(exit, shown)),
    }
}

/// Returns the folders of this machine that the program needs, and what they are.
fn own_places(session: &Session) -> Result<Vec<(FolderId, &'static str)>, RepoError> {
    let mut places = vec![(session.location()?.to_owned(), "the repository")];
    places.extend(session.state_directory().ok().map(|path| (path, "this machine's state directory")));
    places.extend(session.own_config()?.map(|config| (config.log.directory.clone(), "the log directory")));
    Ok(places.into_iter().filter_map(|(path, what)| Some((folder_id(&path)?, what))).collect())
}

/// Returns today's components; none if no configuration counts.
fn configured(session: &Session) -> Result<Option<Vec<Configured>>, RepoError> {
    let components = session.own_config()?.map(|config| {
        let all = config.components.iter().map(|component| Configured {
            name: component.name.get_ref().clone(),
            paths: component.paths.iter().map(|path| path.get_ref().clone()).collect(),
            excludes: component.exclude.iter().map(|pattern| pattern.get_ref().clone()).collect(),
        });
        all.collect()
    });
    Ok(components)
}

fn show(
    session: &Session,
    request: &Request<'_>,
    choice: &Choice,
    report: &Report,
    seconds: f64,
) -> Result<(), RepoError> {
    let mut out = Output::new();
    let snapshot = &choice.snapshot;
    if session.global.json {
        let unset = report.unset.iter().map(
            |unset| json!({ "what": unset.what, "entries": unset.entries, "first": quoted(&unset.first) }),
        );
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
            "deleted_bytes": report.deleted_bytes,
            "kept": report.kept.iter().map(|(why, count)| json!({ "why": why, "entries": count })).collect::<Vec<_>>(),
            "bytes_fetched": report.bytes_fetched,
            "duration_s": seconds,
            "taken_from": choice.taken_json(),
            "missing": choice.missing_json(),
            "errors": lacks(&report.lacks),
            "unmatched": report.unmatched,
            "unset": unset.collect::<Vec<_>>(),
            "warnings": report.warnings.iter().chain(&report.lacking).map(|(what, count)| json!({ "what": what, "entries": count })).collect::<Vec<_>>(),
        }))?;
        return out.finish();
    }
    show_lacks(&report.lacks, "not restored");
    for pattern in &report.unmatched {
        tracing::warn!(
            "--include {pattern:?} matches nothing: see what there is with 'snap ls -R {}'",
            short(snapshot.id)
        );
    }
    for unset in &report.unset {
        let entries = counted(unset.entries, "entry", "entries");
        tracing::error!("{}: {entries}, the first: {}", unset.what, quoted(&unset.first));
    }
    let manifest = &snapshot.manifest;
    // What the manifest names has been said when the snapshot was chosen.
    let has_more = manifest.lacks_total > manifest.lacks.len() as u64;
    for (what, count) in report.warnings.iter().chain(report.lacking.iter().filter(|_| has_more)) {
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
        "  files   {}, {}; {}, {}",
        number(report.files),
        bytes(report.bytes),
        counted(report.directories, "directory", "directories"),
        counted(report.others, "link or special file", "links and special files")
    ))?;
    if report.unchanged > 0 {
        out.line(format_args!(
            "  kept    {} that were there already",
            counted(report.unchanged, "file", "files")
        ))?;
    }
    if report.deleted > 0 {
        let verb = if request.dry_run { "would remove" } else { "removed" };
        out.line(format_args!(
            "  {verb} {} ({}) that the snapshot does not have",
            counted(report.deleted, "entry", "entries"),
            bytes(report.deleted_bytes)
        ))?;
    }
    for (why, count) in &report.kept {
        let entries = counted(*count, "entry", "entries");
        out.line(format_args!("  left    {entries} that the snapshot does not have: {why}"))?;
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
