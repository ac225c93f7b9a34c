//! `snap cat`

use crate::cli::args::Cat;
use crate::cli::choice::Wanted;
use crate::cli::command::logged::logged;
use crate::cli::exit::Exit;
use crate::cli::report::Output;
use crate::cli::session::{Session, split_place};
use crate::op::cat::cat;
use crate::repo::RepoError;

/// Writes a file's content to standard output. If a configuration counts, its log says so.
///
/// # Errors
/// As [`cat`].
pub fn run(session: &Session, options: &Cat) -> Result<Exit, RepoError> {
    logged(session, || written(session, options))
}

fn written(session: &Session, options: &Cat) -> Result<Exit, RepoError> {
    let (spec, path) = split_place(&options.place)?;
    let repository = session.open()?;
    let wanted = Wanted { spec: &spec, path: &path, components: &[], choosing: &options.choosing };
    let (reader, choice) = session.choose(&repository, session.reader(&repository)?, wanted)?;
    let mut out = Output::new();
    cat(&reader, &choice.snapshot, &path, &session.secrets, &mut out)
        .map_err(|error| choice.explain(&path, error))
        .map_err(|error| session.with_elsewhere(error, &reader, &choice.snapshot, &path))?;
    out.finish()?;
    Ok(Exit::Done)
}
