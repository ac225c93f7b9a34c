//! `snap check`

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use crate::base::entry::quoted;
use crate::cli::args::Check;
use crate::cli::exit::Exit;
use crate::cli::progress::Display;
use crate::cli::report::{Output, bytes, counted, short};
use crate::cli::s3::{copy_at, s3_options};
use crate::cli::session::Session;
use crate::job::clock::now;
use crate::op::check::{Report, Request, Subset, check};
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
    let started = std::time::Instant::now();
    let subset: Option<Subset> = options
        .subset
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|reason: String| RepoError::Source { path: "--subset".to_owned(), reason })?;
    let repository = session.open()?;
    let lock = session.lock(&repository)?;
    let request = Request {
        read_packs: options.read_packs || options.read_data || subset.is_some(),
        read_data: options.read_data,
        subset,
        seed: u64::from(now().nanos),
        repair: options.repair,
        threads: session.threads(),
        progress: &session.progress,
    };
    let source =
        options.repair_from.as_deref().map(|from| other_copy(session, &repository, from)).transpose()?;
    let display = Display::start(&session.global, "check", &session.progress);
    let mut checked = check(&repository, &session.secrets, &request);
    if let (Some(source), Ok(report)) = (&source, &mut checked) {
        checked = mend(session, &repository, source.as_ref(), &request, std::mem::take(report));
    }
    drop((display, lock));
    let report = checked?;
    show(session, &request, &report, started.elapsed().as_secs_f64())?;
    Ok(if report.is_sound() { Exit::Done } else { Exit::Damage })
}

/// Rounds of healing: what one brings may tell what else is missing.
const ROUNDS: usize = 3;

/// Heals what a check found from another copy, and checks again.
fn mend(
    session: &Session,
    repository: &Repository,
    source: &dyn Store,
    request: &Request<'_>,
    mut report: Report,
) -> Result<Report, RepoError> {
    let (mut repaired, mut notes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        if report.is_sound() {
            break;
        }
        let paths = report.damages.iter().map(|damage| damage.path.as_str());
        let healed = heal(repository, source, paths, &session.progress)?;
        let brought = healed.healed.iter().map(|path| format!("{path}: brought from {}", source.location()));
        repaired.extend(brought);
        notes = healed.lost.iter().map(|(path, why)| format!("{path}: not healed: {why}")).collect();
        if healed.healed.is_empty() {
            break;
        }
        repaired.append(&mut report.repaired);
        report = check(repository, &session.secrets, request)?;
    }
    repaired.append(&mut report.repaired);
    report.repaired = repaired;
    report.notes.append(&mut notes);
    Ok(report)
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

fn show(session: &Session, request: &Request<'_>, report: &Report, seconds: f64) -> Result<(), RepoError> {
    let mut out = Output::new();
    if session.global.json {
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
            "packs_read": report.packs_read,
            "bytes_read": report.bytes_read,
            "chunks_read": report.chunks_read,
            "frames_closed": report.frames_closed,
            "repaired": report.repaired,
            "notes": report.notes,
            "duration_s": seconds,
        }))?;
        return out.finish();
    }
    let mut err = std::io::stderr().lock();
    for damage in report.damages.iter().take(SHOWN) {
        let _ = writeln!(err, "damaged: {}: {}", damage.path, damage.what);
    }
    for hurt in report.hurt.iter().take(SHOWN) {
        let path = if hurt.path.is_empty() { "all of it".to_owned() } else { quoted(&hurt.path) };
        let _ = writeln!(err, "hurt: snapshot {}: {path}: {}", short(hurt.snapshot), hurt.reason);
    }
    let rest = report.damages.len().saturating_sub(SHOWN) + report.hurt.len().saturating_sub(SHOWN);
    if rest > 0 {
        let _ = writeln!(err, "and {rest} more; --json lists all");
    }
    drop(err);
    if session.global.quiet {
        return Ok(());
    }
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
    match (report.is_sound(), request.read_data, request.read_packs) {
        (true, true, _) => out.line("no damage: everything is there and reads as it was written")?,
        (true, false, true) => {
            out.line("no damage: every pack is as it was written (--read-data opens them too)")?
        }
        (true, false, false) => {
            out.line("no damage found: everything is there (--read-packs and --read-data read it)")?
        }
        (false, ..) => out.line(format_args!(
            "DAMAGE: {} of the repository, {} hurt in snapshots; everything else restores",
            counted(report.damages.len() as u64, "file", "files"),
            counted(report.hurt.len() as u64, "path is", "paths are"),
        ))?,
    }
    out.finish()
}
