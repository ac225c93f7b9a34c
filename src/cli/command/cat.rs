//! `snap cat`

use crate::cli::args::Cat;
use crate::cli::exit::Exit;
use crate::cli::report::Output;
use crate::cli::session::{Session, split_place};
use crate::op::cat::cat;
use crate::repo::RepoError;

/// Writes a file's content to standard output.
///
/// # Errors
/// As [`cat`].
pub fn run(session: &Session, options: &Cat) -> Result<Exit, RepoError> {
    let (spec, path) = split_place(&options.place)?;
    let repository = session.open()?;
    let snapshot = session.snapshot(&repository, &spec)?;
    let reader = session.reader(&repository)?;
    let mut out = Output::new();
    cat(&reader, &snapshot, &path, &session.secrets, &mut out)?;
    out.finish()?;
    Ok(Exit::Done)
}
