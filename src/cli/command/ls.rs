//! `snap ls`

use crate::base::entry::quoted;
use crate::cli::args::Ls;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, entry_json, long};
use crate::cli::session::{Session, split_place};
use crate::op::list::list;
use crate::repo::RepoError;

/// Lists what is at a place.
///
/// # Errors
/// As [`list`].
pub fn run(session: &Session, options: &Ls) -> Result<Exit, RepoError> {
    let (spec, path) = split_place(&options.place)?;
    let repository = session.open()?;
    let snapshot = session.snapshot(&repository, &spec)?;
    let reader = session.reader(&repository)?;
    let mut out = Output::new();
    list(&reader, &snapshot, &path, options.recursive, &mut |path, entry| match (
        session.global.json,
        options.long,
    ) {
        (true, _) => out.line(entry_json(path, entry)),
        (false, true) => out.line(long(path, entry)),
        (false, false) => out.line(quoted(path)),
    })?;
    out.finish()?;
    Ok(Exit::Done)
}
