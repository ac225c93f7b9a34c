//! `snap check`

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use crate::base::entry::quoted;
use crate::cli::args::Check;
use crate::cli::command::watched::{TOLD, Verb, Worked, first, watched};
use crate::cli::exit::{self, Exit};
use crate::cli::progress::Display;
use crate::cli::report::{Output, bytes, counted, number, short, tell};
use crate::cli::s3::{copy_at, s3_options};
use crate::cli::session::Session;
use crate::job::clock::now;
use crate::job::last::Success;
use crate::op::check::{Report, Request, Subset, check, unopened};
use crate::op::heal::heal;
use crate::repo::config::{CONFIG_BYTES_MAX, Config};
use crate::repo::{RepoError, Repository};
use crate::store::{Name, Store};

/// Rows of damage and of hurt paths that people are shown; `--json` has all.
const SHOWN: usize = 50;

/// Checks, and says what is damaged and what that hurts.
///
/// # Errors
/// As [`check`].
pub fn run(session: &Session, options: &Check) -> Result<Exit, RepoError> {
    watched(session, Verb::Check, || examine(session, options))
}

/// Does it; returns what must be seen to, a line each, as people are shown it.
fn examine(session: &Session, options: &Check) -> Result<Worked, RepoError> {
    let started = std::time::Instant::now();
    let subset: Option<Subset> = options
        .subset
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|reason: String| RepoError::Source { path: "--subset".to_owned(), reason })?;
    let repository = session.open();
    let request = Request {
        read_packs: options.read_packs || options.read_data || subset.is_some(),
        read_data: options.read_data,
        subset,
        seed: u64::from(now().nanos),
        repair: options.repair,
        threads: session.threads(),
        progress: &session.progress,
    };
    let repository = match repository {
        Err(RepoError::KeysDamaged { damaged, .. }) => {
            let report = unopened(&damaged);
            let shown = show(session, &request, &report, started.elapsed().as_secs_f64());
            return Ok(worked((Exit::Damage, shown), &request, &report));
        }
        opened => opened?,
    };
    let lock = session.lock(&repository)?;
    let source =
        options.repair_from.as_deref().map(|from| other_copy(session, &repository, from)).transpose()?;
    let display = Display::start(&session.global, "check", &session.progress);
    let checked = check(&repository, &session.secrets, &request).map(|report| match &source {
        Some(source) => mend(session, &repository, source.as_ref(), &request, report),
        None => (report, None),
    });
    drop((display, lock));
    let (report, stopped) = checked?;
    let shown = show(session, &request, &report, started.elapsed().as_secs_f64());
    if let Some(error) = &stopped {
        exit::report(error);
    }
    let status = match stopped {
        Some(RepoError::Interrupted) => Exit::Interrupted,
        _ => status(&request, &report),
    };
    Ok(worked((status, shown), &request, &report))
}

fn worked((exit, shown): (Exit, Result<(), RepoError>), request: &Request<'_>, report: &Report) -> Worked {
    // A pack lies in the same part for ever; which packs are some percent of them, nobody remembers.
    let success = match request.subset {
        _ if !report.is_sound() || !request.read_packs || exit == Exit::Interrupted => Success::None,
        None => Success::Whole,
        Some(Subset::Part { number, of }) => Success::Part(number, of),
        Some(Subset::Percent(percent)) if percent >= 100.0 => Success::Whole,
        Some(Subset::Percent(_)) => Success::None,
    };
    Worked { exit, findings: told(request, report), is_alarm: false, success, bill: None, shown }
}

/// Rounds of healing: what one brings may tell what else is missing.
const ROUNDS: usize = 3;

/// Heals what a check found from another copy, and checks again. Returns the last report that there is, and
/// what kept it from going on, if anything did.
fn mend(
    session: &Session,
    repository: &Repository,
    source: &dyn Store,
    request: &Request<'_>,
    mut report: Report,
) -> (Report, Option<RepoError>) {
    let (mut repaired, mut notes, mut stopped) = (Vec::new(), Vec::new(), None);
    for _ in 0..ROUNDS {
        if report.is_sound() {
            break;
        }
        let paths = report.damages.iter().map(|damage| damage.path.as_str());
        let healed = heal(repository, source, paths, &session.progress);
        let brought = healed.healed.iter().map(|path| format!("{path}: brought from {}", source.location()));
        repaired.extend(brought);
        notes = healed.lost.iter().map(|(path, why)| format!("{path}: not healed: {why}")).collect();
        notes.extend(healed.notes);
        stopped = healed.stopped;
        if stopped.is_some() || healed.healed.is_empty() {
            break;
        }
        match check(repository, &session.secrets, request) {
            Ok(again) => {
                repaired.append(&mut report.repaired);
                report = again;
            }
            Err(error) => {
                stopped = Some(error);
                break;
            }
        }
    }
    repaired.append(&mut report.repaired);
    report.repaired = repaired;
    report.notes.append(&mut notes);
    (report, stopped)
}

/// Opens another copy of the same repository.
fn other_copy(session: &Session, repository: &Repository, from: &Path) -> Result<Arc<dyn Store>, RepoError> {
    let configured = session.own_config()?.and_then(|config| config.sync.as_ref());
    let source = copy_at(from, s3_options(session, configured))?;
    let bytes = source.read(&Name::Config, CONFIG_BYTES_MAX)?;
    let id = Config::from_bytes(&bytes).and_then(|config| config.id());
    match id {
        Ok(id) if id == repository.id() => Ok(source),
        Ok(id) => {
            let reason = format!("holds repository {id}, not {}; name a copy of this one", repository.id());
            Err(RepoError::Source { path: from.display().to_string(), reason })
        }
        Err(what) => Err(RepoError::Config { location: source.location(), what }),
    }
}

/// Returns whether data was to be opened and some of it could not be: nothing is known to be damaged, and not
/// all that was asked for is known to be whole.
fn is_partial(request: &Request<'_>, report: &Report) -> bool {
    report.is_sound() && request.read_data && report.frames_closed > 0
}

fn status(request: &Request<'_>, report: &Report) -> Exit {
    match report.is_sound() {
        false => Exit::Damage,
        true if is_partial(request, report) => Exit::Partial,
        true => Exit::Done,
    }
}

/// Returns what is damaged, and what that hurts, in words: up to `most` lines of each.
fn wrong(report: &Report, most: usize) -> impl Iterator<Item = String> {
    let damages = report.damages.iter().take(most);
    let damages = damages.map(|damage| format!("damaged: {}: {}", damage.path, damage.what));
    let hurt = report.hurt.iter().take(most).map(|hurt| {
        let path = if hurt.path.is_empty() { "all of it".to_owned() } else { quoted(&hurt.path) };
        format!("hurt: snapshot {}: {path}: {}", short(hurt.snapshot), hurt.reason)
    });
    damages.chain(hurt)
}

/// Returns the first lines of what must be seen to.
fn told(request: &Request<'_>, report: &Report) -> Vec<String> {
    let total = report.damages.len() + report.hurt.len();
    let mut lines = first(wrong(report, TOLD), total, "; 'snap check' lists them");
    lines.extend(is_partial(request, report).then(|| verdict(request, report)));
    lines
}

/// Returns the last line: what holds, and of how much of the repository it was found out.
fn verdict(request: &Request<'_>, report: &Report) -> String {
    let part = request.subset.map(|subset| {
        let packs = counted(report.packs, "pack", "packs");
        format!("{} of {packs} (--subset {subset})", number(report.packs_read))
    });
    if is_partial(request, report) {
        let of = part.map_or_else(String::new, |part| format!(" of {part}"));
        let frames = counted(report.frames_closed, "frame", "frames");
        return format!(
            "no damage found, and not all was opened: {frames}{of} could not be opened with the keys at hand and were only checked as bytes; give the passphrase or --identity that opens them"
        );
    }
    match (report.is_sound(), request.read_data, request.read_packs, part) {
        (true, true, _, None) => "no damage: everything is there and reads as it was written".to_owned(),
        (true, true, _, Some(part)) => format!(
            "no damage in the part that was read: {part} read as they were written; the others are there"
        ),
        (true, false, true, None) => {
            "no damage: every pack is as it was written (--read-data opens them too)".to_owned()
        }
        (true, false, true, Some(part)) => format!(
            "no damage in the part that was read: {part} are as they were written; the others are there (--read-data opens them too)"
        ),
        (true, false, false, _) => {
            "no damage found: everything is there (--read-packs and --read-data read it)".to_owned()
        }
        (false, ..) => {
            let files: BTreeSet<&str> = report.damages.iter().map(|damage| damage.path.as_str()).collect();
            let files = counted(files.len() as u64, "file", "files");
            let hurt = report.hurt.len() as u64;
            match hurt {
                0 => format!("DAMAGE: {files} of the repository; no snapshot is known to be hurt by it"),
                _ => format!(
                    "DAMAGE: {files} of the repository; in snapshots {} hurt or may be; everything else restores",
                    counted(hurt, "path is", "paths are"),
                ),
            }
        }
    }
}

fn show(session: &Session, request: &Request<'_>, report: &Report, seconds: f64) -> Result<(), RepoError> {
    if session.global.json {
        return show_json(request, report, seconds);
    }
    for line in wrong(report, SHOWN) {
        tell(line);
    }
    let rest = report.damages.len().saturating_sub(SHOWN) + report.hurt.len().saturating_sub(SHOWN);
    if rest > 0 {
        tell(format_args!("and {rest} more; --json lists all"));
    }
    if session.global.quiet {
        return Ok(());
    }
    let mut out = Output::new();
    for note in &report.notes {
        out.line(format_args!("note: {note}"))?;
    }
    for repaired in &report.repaired {
        out.line(format_args!("repaired: {repaired}"))?;
    }
    out.line(format_args!(
        "checked {}, {} with {} in {seconds:.2} s",
        counted(report.snapshots, "snapshot", "snapshots"),
        counted(report.packs, "pack", "packs"),
        counted(report.chunks, "chunk", "chunks"),
    ))?;
    if request.read_packs {
        out.line(format_args!(
            "  read    {} in {}",
            bytes(report.bytes_read),
            counted(report.packs_read, "pack", "packs")
        ))?;
    }
    if request.read_data {
        out.line(format_args!("  opened  {}", counted(report.chunks_read, "chunk", "chunks")))?;
    }
    out.line(verdict(request, report))?;
    out.finish()
}

fn show_json(request: &Request<'_>, report: &Report, seconds: f64) -> Result<(), RepoError> {
    let mut out = Output::new();
    for damage in &report.damages {
        out.line(json!({ "type": "damage", "path": damage.path, "what": damage.what }))?;
    }
    for hurt in &report.hurt {
        let path = quoted(&hurt.path);
        out.line(json!({ "type": "hurt", "snapshot": hurt.snapshot.to_string(), "path": path, "reason": hurt.reason }))?;
    }
    out.line(json!({
        "type": "summary",
        "sound": report.is_sound(),
        "damages": report.damages.len(),
        "hurt": report.hurt.len(),
        "snapshots": report.snapshots,
        "trees": report.trees,
        "entries": report.entries,
        "fragments": report.fragments,
        "packs": report.packs,
        "chunks": report.chunks,
        "subset": request.subset.map(|subset| subset.to_string()),
        "packs_read": report.packs_read,
        "bytes_read": report.bytes_read,
        "chunks_read": report.chunks_read,
        "frames_closed": report.frames_closed,
        "repaired": report.repaired,
        "notes": report.notes,
        "duration_s": seconds,
    }))?;
    out.finish()
}
