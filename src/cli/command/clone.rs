//! `snap clone`

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use crate::base::entry::quoted;
use crate::cli::command::key::settle;
use crate::cli::command::watched::first;
use crate::cli::exit::Exit;
use crate::cli::offsite::Clone;
use crate::cli::progress::Display;
use crate::cli::report::{Output, bytes, counted, local, rfc3339, short, tell};
use crate::cli::s3::{connect, is_s3, s3_options, store_at};
use crate::cli::session::Session;
use crate::op::clone::{Report, Request, clone};
use crate::repo::index::Index;
use crate::repo::{Opening, RepoError, Repository};
use crate::store::{GenuineStore, Name, Store};

/// What is to be copied, and what somebody has put over it.
struct Source {
    store: Arc<dyn Store>,
    /// Names that somebody has put or deleted on top of.
    contested: Vec<String>,
    /// Names of which no version is genuine.
    forged: Vec<String>,
}

/// Copies a repository, makes this machine know it, and says what it holds.
///
/// # Errors
/// As [`Repository::open`] of what is copied, and [`clone`].
pub fn run(session: &Session, given: &Clone) -> Result<Exit, RepoError> {
    let started = std::time::Instant::now();
    refuse_itself(&given.store, session.location()?)?;
    let source = source(session, given)?;
    let state = session.state_directory()?;
    let opening =
        Opening { store: source.store.clone(), state: &state, index: None, secrets: &session.secrets };
    let repository = Repository::open(&opening)?;
    let target = session.store()?;
    let request = Request {
        threads: session.threads().max(8),
        without_forgotten: given.without_forgotten,
        lock_patience: session.global.lock_wait,
        progress: &session.progress,
    };
    let display = Display::start(&session.global, "clone", &session.progress);
    let report = clone(&repository, &target, &request);
    drop(display);
    let mut report = report?;
    let is_here = |path: &String| {
        Name::parse(path).is_some_and(|name| target.read_range(&name, 0..0).is_ok()) // copied earlier
    };
    for path in source.forged.into_iter().filter(|path| !is_here(path)) {
        let why = "none of its versions in the bucket is genuine and can be read";
        report.lost.push((path, why.to_owned()));
    }
    report.lost.sort();
    let mut exit = if report.is_whole() { Exit::Done } else { Exit::Partial };
    if report.snapshots == 0 {
        exit = Exit::Partial; // nothing shows that the keys are right: the state directory stays as it is
    } else {
        if !repository.is_enrolled() {
            repository.enroll()?;
        }
        let copy = session.open()?;
        if !repository.is_enrolled() {
            let settled = settle(&copy);
            exit = if exit == Exit::Done { settled } else { exit };
        }
        drop(Index::open(&copy)?); // makes the cache
    }
    show(session, &repository, &report, &source.contested, started.elapsed().as_secs_f64())?;
    Ok(exit)
}

/// Refuses to copy a repository over itself, or to a place inside it.
///
/// # Errors
/// [`RepoError::Source`].
fn refuse_itself(source: &Path, target: &Path) -> Result<(), RepoError> {
    let is_within = match is_s3(source) || is_s3(target) {
        true => target.components().eq(source.components()),
        // What is not there yet lies in what is.
        false => source.canonicalize().is_ok_and(|source| {
            let target = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
            let there = target.ancestors().find_map(|above| above.canonicalize().ok());
            there.is_some_and(|there| there.starts_with(&source))
        }),
    };
    if !is_within {
        return Ok(());
    }
    let reason = "the copy would lie in what is to be copied; name another place with --repo".to_owned();
    Err(RepoError::Source { path: target.display().to_string(), reason })
}

/// Opens what is to be copied: of a bucket the genuine versions.
fn source(session: &Session, given: &Clone) -> Result<Source, RepoError> {
    let configured = session.own_config()?.and_then(|config| config.sync.as_ref());
    let options = s3_options(session, configured);
    if !is_s3(&given.store) {
        let store = store_at(&given.store, options)?;
        return Ok(Source { store, contested: Vec::new(), forged: Vec::new() });
    }
    let genuine = GenuineStore::open(Arc::new(connect(&given.store, options)?))?;
    let forged = genuine.lost().to_vec();
    let mut contested = genuine.contested().to_vec();
    contested.retain(|path| !forged.contains(path));
    Ok(Source { store: Arc::new(genuine), contested, forged })
}

fn show(
    session: &Session,
    repository: &Repository,
    report: &Report,
    contested: &[String],
    seconds: f64,
) -> Result<(), RepoError> {
    let mut out = Output::new();
    if session.global.json {
        let lost: Vec<_> =
            report.lost.iter().map(|(path, reason)| json!({ "path": path, "reason": reason })).collect();
        let hurt: Vec<_> = report
            .hurt
            .iter()
            .map(|hurt| json!({ "snapshot": hurt.id.to_string(), "reason": hurt.why }))
            .collect();
        let brought: Vec<_> = report
            .brought
            .iter()
            .map(|one| {
                json!({
                    "snapshot": one.id.to_string(),
                    "time": rfc3339(one.time),
                    "removed": rfc3339(one.removed),
                    "host": one.host,
                    "rule": one.rule,
                })
            })
            .collect();
        out.line(json!({
            "type": "summary",
            "repository": repository.id().to_string(),
            "writer_mark": repository.writer_keys().shown_mark(),
            "files": report.files,
            "bytes": report.bytes,
            "files_there": report.files_there,
            "lost": lost,
            "hurt": hurt,
            "contested": contested,
            "strange": report.strange,
            "snapshots": report.snapshots,
            "forgotten": brought,
            "duration_s": seconds,
        }))?;
        return out.finish();
    }
    let contested = contested.iter().map(|path| {
        format!("WARNING: {path}: somebody has put or deleted on top of it; the genuine version was taken")
    });
    let strange = report
        .strange
        .iter()
        .map(|path| format!("WARNING: {path}: was not written by this repository's owner; left where it is"));
    let warnings: Vec<String> = contested.chain(strange).collect();
    let total = warnings.len();
    first(warnings.into_iter(), total, "").iter().for_each(|line| tell(format_args!("{line}")));
    for (path, reason) in &report.lost {
        tell(format_args!("ERROR: {path}: {reason}"));
    }
    for hurt in &report.hurt {
        tell(format_args!(
            "ERROR: snapshot {} of {}: something of it is missing: {}",
            short(hurt.id),
            local(hurt.time),
            hurt.why
        ));
    }
    let place = session.location().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let place = shlex::try_quote(&place).map_or_else(|_| quoted(place.as_bytes()), |it| it.into_owned());
    if report.snapshots == 0 {
        tell(format_args!(
            "ERROR: there is no snapshot in it that opens with these keys, so this machine does not take it for yours; 'snap key enroll --repo {place}' does"
        ));
    }
    if session.global.quiet {
        return Ok(());
    }
    out.line(format_args!(
        "copied {}, {}, in {seconds:.1} s; repository {} holds {}",
        counted(report.files, "file", "files"),
        bytes(report.bytes),
        repository.id(),
        counted(report.snapshots, "snapshot", "snapshots"),
    ))?;
    if !report.brought.is_empty() {
        let lines = report.brought.iter().map(|one| {
            format!(
                "  {} of {}, removed on {} on {}: {}",
                short(one.id),
                local(one.time),
                quoted(one.host.as_bytes()),
                local(one.removed),
                quoted(one.rule.as_bytes())
            )
        });
        let total = report.brought.len();
        out.line(format_args!(
            "of these {} had been removed on purpose, and came back (--without-forgotten leaves that out; 'snap prune' removes again what no rule keeps):",
            counted(total as u64, "snapshot", "snapshots")
        ))?;
        for line in first(lines, total, "") {
            out.line(line)?;
        }
    }
    if !report.is_whole() {
        out.line(format_args!(
            "NOT WHOLE: 'snap check --repo {place}' names every path that is hurt; everything else restores"
        ))?;
    }
    if report.snapshots > 0 {
        out.line("next:")?;
        out.line(format_args!("  snap check --read-data --repo {place}                  reads all of it"))?;
        out.line(format_args!(
            "  snap snapshots --repo {place}                          says what there is"
        ))?;
        out.line(format_args!("  snap restore latest --target DIRECTORY --repo {place}  puts it back"))?;
    }
    out.finish()
}
