//! `snap clone`

use std::sync::Arc;

use serde_json::json;

use crate::cli::command::key::settle;
use crate::cli::exit::Exit;
use crate::cli::offsite::Clone;
use crate::cli::progress::Display;
use crate::cli::report::{Output, bytes, counted, tell};
use crate::cli::s3::{connect, is_s3, s3_options, store_at};
use crate::cli::session::Session;
use crate::op::clone::{Request, clone};
use crate::repo::RepoError;
use crate::store::{GenuineStore, Name, Store};

/// Copies a repository, makes this machine know it, and says what it holds.
///
/// # Errors
/// As [`clone`]; [`RepoError::WrongPassphrase`] and the like from making the repository known.
pub fn run(session: &Session, given: &Clone) -> Result<Exit, RepoError> {
    let started = std::time::Instant::now();
    let configured = session.own_config()?.and_then(|config| config.sync.as_ref());
    let options = s3_options(session, configured);
    let (mut contested, mut forged) = (Vec::new(), Vec::new());
    let source: Arc<dyn Store> = match is_s3(&given.store) {
        false => store_at(&given.store, options)?,
        true => {
            let genuine = GenuineStore::open(Arc::new(connect(&given.store, options)?))?;
            contested = genuine.contested().to_vec();
            forged = genuine.lost().to_vec();
            contested.retain(|path| !forged.contains(path));
            Arc::new(genuine)
        }
    };
    let target = session.store()?;
    let request = Request { threads: session.threads().max(8), progress: &session.progress };
    let display = Display::start(&session.global, "clone", &session.progress);
    let report = clone(source.as_ref(), target.as_ref(), &request);
    drop(display);
    let mut report = report?;
    let is_here = |path: &String| {
        Name::parse(path).is_some_and(|name| target.read_range(&name, 0..0).is_ok()) // copied earlier
    };
    for path in forged.into_iter().filter(|path| !is_here(path)) {
        let why = "none of its versions in the bucket is genuine and can be read";
        report.lost.push((path, why.to_owned()));
    }
    report.lost.sort();
    let repository = session.open()?;
    let mut exit = Exit::Done;
    if !repository.is_enrolled() {
        repository.enroll()?;
        exit = settle(&repository);
    }
    let snapshots = session.snapshots(&repository)?;
    let is_whole = report.lost.is_empty();
    let mut out = Output::new();
    if session.global.json {
        let lost: Vec<_> =
            report.lost.iter().map(|(path, reason)| json!({ "path": path, "reason": reason })).collect();
        out.line(json!({
            "type": "summary",
            "repository": repository.id().to_string(),
            "files": report.files,
            "bytes": report.bytes,
            "files_there": report.files_there,
            "lost": lost,
            "contested": contested,
            "snapshots": snapshots.len(),
            "duration_s": started.elapsed().as_secs_f64(),
        }))?;
    } else {
        for path in &contested {
            tell(format_args!(
                "WARNING: {path}: somebody has put or deleted on top of it; the genuine version was taken"
            ));
        }
        for (path, reason) in &report.lost {
            tell(format_args!("ERROR: {path}: {reason}"));
        }
        if !session.global.quiet {
            out.line(format_args!(
                "copied {}, {}, in {:.1} s; repository {} holds {}",
                counted(report.files, "file", "files"),
                bytes(report.bytes),
                started.elapsed().as_secs_f64(),
                repository.id(),
                counted(snapshots.len() as u64, "snapshot", "snapshots"),
            ))?;
            if !is_whole {
                out.line("NOT WHOLE: 'snap check' names what that hurts; everything else restores")?;
            }
        }
    }
    out.finish()?;
    Ok(if is_whole { exit } else { Exit::Partial })
}
