//! `snap unlock`

use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::report::{Output, counted};
use crate::cli::session::Session;
use crate::repo::RepoError;

/// Removes the locks of all runs, and says which.
///
/// # Errors
/// [`RepoError::Store`].
pub fn run(session: &Session) -> Result<Exit, RepoError> {
    let gone = session.store()?.break_locks()?;
    let mut out = Output::new();
    if session.global.json {
        out.line(json!({ "type": "summary", "removed": gone }))?;
    } else if !session.global.quiet {
        for path in &gone {
            out.line(format_args!("removed {path}"))?;
        }
        let locks = counted(gone.len() as u64, "lock", "locks");
        out.line(format_args!("{locks} removed; locks of a directory go with their process"))?;
    }
    out.finish()?;
    Ok(Exit::Done)
}
