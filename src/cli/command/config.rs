//! `snap config`

use serde_json::json;

use crate::cli::args::Config as Options;
use crate::cli::exit::Exit;
use crate::cli::report::Output;
use crate::cli::session::{Session, user_name};
use crate::job::check::{Row, Surroundings, check};
use crate::job::config::Level;
use crate::repo::RepoError;

/// Looks at the configuration.
///
/// # Errors
/// [`RepoError::Source`] if it can't be read.
pub fn run(session: &Session, options: &Options) -> Result<Exit, RepoError> {
    let Options::Check = options;
    let config = session.needed_config()?;
    let rows = check(
        config,
        &Surroundings {
            location: session.location()?,
            state: &session.state_directory()?,
            user: &user_name(),
            open: &|| session.open(),
        },
    );
    show(session, &rows)?;
    let is_bad = rows.iter().any(|row| row.level >= Level::Error);
    Ok(if is_bad { Exit::Partial } else { Exit::Done })
}

fn show(session: &Session, rows: &[Row]) -> Result<(), RepoError> {
    let mut out = Output::new();
    let word = |row: &Row| match row.level {
        Level::Debug | Level::Info => "ok",
        Level::Warning => "WARNING",
        Level::Error | Level::Critical => "ERROR",
    };
    let width = rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
    for row in rows {
        let is_well = row.level <= Level::Info;
        match (session.global.json, session.global.quiet && is_well) {
            (true, _) => {
                out.line(
                    json!({ "type": "check", "what": row.what, "state": word(row), "detail": row.detail }),
                )?;
            }
            (false, true) => {}
            (false, false) => {
                out.line(format_args!("{:<7}  {:<width$}  {}", word(row), row.what, row.detail))?
            }
        }
    }
    let errors = rows.iter().filter(|row| row.level >= Level::Error).count();
    let warnings = rows.iter().filter(|row| row.level == Level::Warning).count();
    if session.global.json {
        out.line(json!({ "type": "summary", "checks": rows.len(), "errors": errors, "warnings": warnings }))?;
    }
    out.finish()
}
