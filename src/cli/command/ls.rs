//! `snap ls`

use crate::base::entry::{Entry, quoted};
use crate::cli::args::Ls;
use crate::cli::command::find::tell_damaged;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, entry_json, long};
use crate::cli::session::{Session, split_place};
use crate::op::list::list;
use crate::repo::RepoError;

/// Lists what is at a place. Directories below it that can't be read are named, and the rest is listed.
///
/// # Errors
/// As [`list`].
pub fn run(session: &Session, options: &Ls) -> Result<Exit, RepoError> {
    let (spec, path) = split_place(&options.place)?;
    let repository = session.open()?;
    let snapshot = session.snapshot(&repository, &spec)?;
    let reader = session.reader(&repository)?;
    let mut out = Output::new();
    let mut is_whole = true;
    let mut each = |path: &[u8], entry: &Entry<'_>| match (session.global.json, options.long) {
        (true, _) => out.line(entry_json(path, entry)),
        (false, true) => out.line(long(path, entry)),
        (false, false) => out.line(quoted(path)),
    };
    list(&reader, &snapshot, &path, options.recursive, &mut each, &mut |path, error| {
        is_whole = false;
        tell_damaged(snapshot.id, path, error);
    })?;
    out.finish()?;
    Ok(if is_whole { Exit::Done } else { Exit::Partial })
}
