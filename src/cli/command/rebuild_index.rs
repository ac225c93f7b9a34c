//! `snap rebuild-index`

use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::progress::Display;
use crate::cli::report::{Output, counted, reported};
use crate::cli::session::Session;
use crate::op::rebuild_index::{Report, rebuild_index};
use crate::repo::RepoError;

/// Makes the cache anew.
///
/// # Errors
/// As [`rebuild_index`].
pub fn run(session: &Session) -> Result<Exit, RepoError> {
    let repository = session.open()?;
    let lock = session.lock(&repository)?;
    let display = Display::start(&session.global, "rebuild-index", &session.progress);
    let report = rebuild_index(&repository, &session.progress);
    drop((display, lock));
    let report = report?;
    let exit = if report.problems.is_empty() { Exit::Done } else { Exit::Damage };
    Ok(reported(exit, show(session, &report)))
}

fn show(session: &Session, report: &Report) -> Result<(), RepoError> {
    let mut out = Output::new();
    if session.global.json {
        out.line(json!({
            "type": "summary",
            "packs": report.packs,
            "packs_found": report.packs_found,
            "errors": report.problems,
        }))?;
    } else {
        for problem in &report.problems {
            tracing::error!("{problem}");
        }
        if !session.global.quiet {
            out.line(format_args!("index made anew: {}", counted(report.packs, "pack", "packs")))?;
            if report.packs_found > 0 {
                let packs = counted(report.packs_found, "pack was", "packs were");
                out.line(format_args!("  {packs} in no fragment; a new fragment lists them now"))?;
            }
        }
    }
    out.finish()
}
