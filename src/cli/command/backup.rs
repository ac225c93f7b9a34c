//! `snap backup`

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::base::entry::{is_plain_name, quoted};
use crate::base::patterns::{is_comment, lines, matcher};
use crate::base::progress::Progress;
use crate::cli::command::tag::{NO_TAG, is_tag};
use crate::cli::command::{configured, key};
use crate::cli::exit::Exit;
use crate::cli::progress::Display;
use crate::cli::report::{Output, bytes, counted, lacks, local, number, reported, short, show_lacks};
use crate::cli::session::{Session, parse_time, user_name};
use crate::cli::sources::Backup;
use crate::job::clock::now;
use crate::op::backup::{Care, Component, Input, OwnPlaces, Report, Request, Rules, Stream, backup};
use crate::repo::staging::Staging;
use crate::repo::{RepoError, Repository};
use crate::stage::command::{Command, TIMEOUT_DEFAULT};
use crate::stage::scan::folder_id;
use crate::stage::stdin::StandardInput;
use crate::store::DryStore;

fn bad(path: &str, reason: impl ToString) -> RepoError {
    RepoError::Source { path: path.to_owned(), reason: reason.to_string() }
}

/// Backs up, and says what was done.
///
/// # Errors
/// As [`backup`]; [`RepoError::Source`] for arguments that make no sense.
pub fn run(session: &Session, options: Backup) -> Result<Exit, RepoError> {
    if options.paths.is_empty() && options.stdin_name.is_none() {
        return configured::run(session, options);
    }
    let mut component = component(&options, &session.progress)?;
    if let Some(other) = options.accept.iter().find(|name| **name != component.name) {
        return Err(bad(
            &format!("--accept {other}"),
            format!("the component is called {:?}", component.name),
        ));
    }
    component.care.is_accepted = !options.accept.is_empty();
    let repository = open(session, options.dry_run)?;
    let lock = session.lock(&repository)?;
    let request = request(session, &options, vec![component])?;
    let display = Display::start(&session.global, "backup", &session.progress);
    let report = backup(&repository, request);
    drop((display, lock));
    end(session, &report?)
}

/// Says what was done, and what somebody should look at; returns how the command ends.
///
/// # Errors
/// [`RepoError::Output`] if nothing was written, and nobody takes the report.
pub fn end(session: &Session, report: &Report) -> Result<Exit, RepoError> {
    warn(report);
    show_suspects(report);
    let are_keys_right = key::tell(&report.sealed_to) == Exit::Done;
    let exit = if report.is_whole() && are_keys_right { Exit::Done } else { Exit::Partial };
    let shown = show(session, report, true);
    match report.snapshot {
        Some(_) => Ok(reported(exit, shown)),
        None => shown.map(|()| exit),
    }
}

fn warn(report: &Report) {
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    for problem in &report.problems {
        tracing::warn!("{problem}; 'snap check' says more");
    }
}

/// Says which components are suspect, and what to do.
fn show_suspects(report: &Report) {
    for suspect in report.open_suspects() {
        let name = quoted(suspect.component.as_bytes());
        for line in suspect.lines() {
            tracing::error!("{name} is suspect: {line}");
        }
        let whole = short(suspect.last_whole);
        let at = local(suspect.last_whole_time);
        match report.snapshot {
            Some(id) => tracing::error!(
                "{name}: what is there is saved; the last whole snapshot, {whole} of {at}, stays. If it is right so: snap tag {} --accept {name}",
                short(id)
            ),
            None => tracing::error!("{name}: the last whole snapshot is {whole} of {at}"),
        }
    }
}

/// Opens the repository, for a dry run so that nothing can be written.
///
/// # Errors
/// As [`Repository::open`].
pub fn open(session: &Session, dry_run: bool) -> Result<Repository, RepoError> {
    if !dry_run {
        return session.open();
    }
    let store = DryStore::new(session.store()?);
    session.with_opening(|opening| {
        let store = Arc::new(store);
        Repository::open(&crate::repo::Opening {
            store,
            state: opening.state,
            index: opening.index.clone().filter(|index| index.exists()), // or it would be made
            secrets: opening.secrets,
        })
    })
}

/// Returns what the options ask for.
///
/// # Errors
/// [`RepoError::Source`] for a tag or time that makes no sense.
pub fn request<'s>(
    session: &'s Session,
    options: &Backup,
    components: Vec<Component>,
) -> Result<Request<'s>, RepoError> {
    let threads = session.threads();
    Ok(Request {
        components,
        rules: rules(session, options)?,
        tags: tags(options)?,
        time: options.time.as_deref().map_or_else(|| Ok(now()), parse_time)?,
        host: options.host.clone().unwrap_or_else(|| session.host()),
        began: now(),
        user: user_name(),
        run: None,
        is_night: options.stdin_name.is_none(),
        threads,
        read_threads: options.read_threads.map_or(threads, usize::from),
        dry_run: options.dry_run,
        progress: &session.progress,
        listener: None,
    })
}

fn tags(options: &Backup) -> Result<Vec<String>, RepoError> {
    let mut tags = options.tag.clone();
    tags.extend(options.daily.then(|| "daily".to_owned()));
    tags.extend(options.weekly.then(|| "weekly".to_owned()));
    for tag in &tags {
        if !is_tag(tag) {
            return Err(bad(&format!("--tag {tag:?}"), NO_TAG));
        }
    }
    Ok(tags)
}

fn rules(session: &Session, options: &Backup) -> Result<Rules, RepoError> {
    let names = options.exclude_if_present.iter();
    Ok(Rules {
        exclude_if_present: names.map(|name| name.as_bytes().to_vec()).collect(),
        one_file_system: options.one_file_system,
        ignore_ctime: options.ignore_ctime,
        ignore_inode: options.ignore_inode,
        own: OwnPlaces {
            repository: folder_id(session.location()?),
            state: folder_id(&session.state_directory()?),
            staging: Some(Staging::new(&session.state_directory()?)),
        },
    })
}

/// Returns what `--exclude` and `--exclude-from` leave out.
///
/// # Errors
/// [`RepoError::Source`] for a file or a pattern that can't be read.
pub fn excludes(options: &Backup) -> Result<Vec<String>, RepoError> {
    patterns("--exclude", &options.exclude)?;
    let mut excludes = options.exclude.clone();
    for file in &options.exclude_from {
        let what = format!("--exclude-from {}", file.display());
        let text = std::fs::read_to_string(file).map_err(|e| bad(&what, e))?;
        let lines: Vec<String> = lines(&text).map(str::to_owned).collect();
        matcher(&lines).map_err(|e| bad(&what, e))?;
        excludes.extend(lines);
    }
    Ok(excludes)
}

/// Checks patterns that were typed after `option`.
///
/// # Errors
/// [`RepoError::Source`] for one that can't be read, or that is a comment and matches nothing.
pub fn patterns(option: &str, patterns: &[String]) -> Result<(), RepoError> {
    matcher(patterns).map_err(|e| bad(option, e))?;
    match patterns.iter().find(|pattern| is_comment(pattern)) {
        None => Ok(()),
        Some(comment) => {
            Err(bad(option, format!("{comment:?} is a comment, and matches nothing; write '\\{comment}'")))
        }
    }
}

/// Returns what is to be read.
fn component(options: &Backup, progress: &Arc<Progress>) -> Result<Component, RepoError> {
    let named = match &options.component[..] {
        [] => None,
        [name] => Some(name.clone()),
        _ => return Err(bad("--component", "can be given once beside a PATH or a stream")),
    };
    if options.wait {
        return Err(bad("--wait", "is for the configured components: leave out PATH"));
    }
    let directory = named.clone().unwrap_or_default();
    if named.is_some() && !is_plain_name(directory.as_bytes()) {
        return Err(bad(&format!("--component {directory:?}"), "is not a name that a directory can have"));
    }
    let mut component = Component {
        name: named.clone().unwrap_or_else(|| "files".to_owned()),
        directory: directory.into_bytes(),
        paths: Vec::new(),
        streams: Vec::new(),
        excludes: excludes(options)?,
        care: Care::default(),
    };
    if let Some(name) = &options.stdin_name {
        if !is_plain_name(name.as_bytes()) {
            return Err(bad(&format!("--stdin-name {name:?}"), "is not a name that a file can have"));
        }
        if named.is_none() {
            component.name = name.to_string_lossy().into_owned();
        }
        let input = match options.command.is_empty() {
            true => Input::Reader(Box::new(StandardInput::new(progress.clone()))),
            false => Input::Command(Command {
                argv: options.command.clone(),
                timeout: Some(options.timeout.unwrap_or(TIMEOUT_DEFAULT)),
                ..Command::default()
            }),
        };
        component.streams.push(Stream {
            name: name.as_bytes().to_vec(),
            input,
            may_be_empty: options.may_be_empty,
            ends_with: None,
        });
        return Ok(component);
    }
    for path in &options.paths {
        component.paths.push(absolute(path)?);
    }
    if named.is_some() {
        let mut names: Vec<&OsStr> = component.paths.iter().filter_map(|path| path.file_name()).collect();
        names.sort_unstable();
        if names.len() < component.paths.len() && component.paths.len() > 1 {
            return Err(bad("/", "has no name to lie under beside other paths: back it up by itself"));
        }
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(bad(
                "--component",
                "two of the paths have the same base name, and would lie in one place",
            ));
        }
    }
    Ok(component)
}

/// Returns the absolute path of what `path` names, links on the way resolved; the last one is not: what it
/// leads to lies in the snapshot under the name that was typed. `LINK`, `LINK/` and `LINK/.` are the same.
fn absolute(path: &Path) -> Result<PathBuf, RepoError> {
    let shown = path.display().to_string();
    let whole = std::path::absolute(path).map_err(|e| bad(&shown, e))?;
    if path.metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotADirectory)
        && path.as_os_str().as_bytes().ends_with(b"/")
    {
        return Err(bad(&shown, "is not a directory, as the slash at its end says"));
    }
    match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) => match parent.canonicalize() {
            Ok(parent) => Ok(parent.join(name)),
            Err(_) => Ok(whole.components().collect()), // the backup will say what is wrong with it
        },
        _ => whole.canonicalize().map_err(|e| bad(&shown, e)),
    }
}

/// Says what was done; what is lacking if that has not been said.
///
/// # Errors
/// [`RepoError::Source`] if nobody takes it.
pub fn show(session: &Session, report: &Report, report_lacks: bool) -> Result<(), RepoError> {
    let totals = &report.manifest.totals;
    let mut out = Output::new();
    if session.global.json {
        let components = report.manifest.components.iter().map(|component| {
            json!({
                "name": component.name,
                "status": component.status.word(),
                "suspect": report.manifest.suspicion(&component.name),
                "attempts": component.attempts,
                "files": component.files,
                "bytes": component.bytes,
            })
        });
        out.line(json!({
            "type": "summary",
            "snapshot": report.snapshot.map(|id| id.to_string()),
            "parent": report.manifest.parent.map(|id| id.to_string()),
            "dry_run": report.snapshot.is_none(),
            "files_new": totals.files_new,
            "files_changed": totals.files_changed,
            "files_unmodified": totals.files_unmodified,
            "files_renamed": totals.files_renamed,
            "files_torn": report.torn,
            "dirs": totals.directories,
            "bytes_scanned": totals.bytes_scanned,
            "bytes_read": totals.bytes_read,
            "bytes_added": totals.bytes_added,
            "bytes_stored": report.bytes_stored,
            "chunks_new": totals.chunks_new,
            "packs_taken_over": report.taken_over,
            "duration_s": report.manifest.duration_ms as f64 / 1000.0,
            "errors": lacks(&report.lacks),
            "key_errors": report.key_errors(),
            "skipped": lacks(&report.skipped),
            "warnings": report.warnings,
            "components": components.collect::<Vec<_>>(),
        }))?;
        return out.finish();
    }
    if report_lacks {
        show_lacks(&report.lacks, "not backed up");
    }
    if session.global.verbose > 0 {
        show_lacks(&report.skipped, "left out");
    }
    if session.global.quiet {
        return Ok(());
    }
    let seconds = report.manifest.duration_ms as f64 / 1000.0;
    match report.snapshot {
        Some(id) => out.line(format_args!("snapshot {} saved in {seconds:.2} s", short(id)))?,
        None => out.line(format_args!("dry run: nothing was written ({seconds:.2} s)"))?,
    }
    let files = totals.files_new + totals.files_changed + totals.files_unmodified + totals.files_renamed;
    out.line(format_args!(
        "  files   {}: {} new, {} changed, {} renamed, {} unmodified; {}",
        number(files),
        number(totals.files_new),
        number(totals.files_changed),
        number(totals.files_renamed),
        number(totals.files_unmodified),
        counted(totals.directories, "directory", "directories"),
    ))?;
    out.line(format_args!("  read    {} of {}", bytes(totals.bytes_read), bytes(totals.bytes_scanned)))?;
    out.line(format_args!(
        "  added   {} in {}, stored in {}",
        bytes(totals.bytes_added),
        counted(totals.chunks_new, "new chunk", "new chunks"),
        bytes(report.bytes_stored)
    ))?;
    if report.taken_over > 0 {
        out.line(format_args!(
            "  {} of an earlier run that was cut off taken over",
            counted(report.taken_over, "pack", "packs")
        ))?;
    }
    if report.torn > 0 {
        out.line(format_args!(
            "  {} changed while being read; stored as read",
            counted(report.torn, "file", "files")
        ))?;
    }
    if !report.skipped.is_empty() {
        let rows = counted(report.skipped.len() as u64, "entry", "entries");
        let first = report.skipped.first().map(|row| format!("{} ({})", quoted(&row.path), row.reason));
        out.line(format_args!("  {rows} left out, such as {}; -v lists them", first.unwrap_or_default()))?;
    }
    if !report.lacks.is_empty() {
        let where_all = if report_lacks { "as listed above" } else { "as the log says" };
        out.line(format_args!(
            "  {} could not be backed up, {where_all}",
            counted(report.lacks.len() as u64, "entry", "entries")
        ))?;
    }
    out.finish()
}
