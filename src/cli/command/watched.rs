//! Verbs that timers run beside the backup: whoever is to be told hears how they ended.

use std::io::IsTerminal;

use crate::cli::command::configured::{redactor, tell_of_unusable};
use crate::cli::exit::Exit;
use crate::cli::session::{Session, host_name, typed};
use crate::job::clock::now;
use crate::job::config::Level;
use crate::job::notice::Failing;
use crate::job::verb::{self, Ended};
use crate::repo::RepoError;

/// A verb.
#[derive(Clone, Copy)]
pub enum Verb {
    /// `sync`
    Sync,
    /// `check`
    Check,
}

/// Does the verb's `work`, which returns what must be seen to, a line each. If a configuration speaks of
/// the repository, its log says how the verb ended, and where nobody is at hand a mail says what failed.
///
/// # Errors
/// What `work` returns.
pub fn watched(
    session: &Session,
    verb: Verb,
    work: impl FnOnce() -> Result<(Exit, Vec<String>), RepoError>,
) -> Result<Exit, RepoError> {
    let began = now();
    let is_at_hand = std::io::stderr().is_terminal();
    let command = typed();
    if session.global.repo.is_none() && !is_at_hand {
        tell_of_unusable(session, &command);
    }
    let result = work();
    let config = match session.own_config() {
        Ok(Some(config)) => config,
        _ => return result.map(|(exit, _)| exit),
    };
    let why = |error: &RepoError| vec![error.chain()];
    let (exit, findings) = match &result {
        Ok((exit, findings)) => (*exit, findings.clone()),
        Err(error) => (Exit::of(error), why(error)),
    };
    let (component, failed) = match verb {
        Verb::Sync => ("SYNC", "Sync Failed"),
        Verb::Check => ("VERIFY", "Check Failed"),
    };
    let (title, failing) = match (verb, exit) {
        (_, Exit::Damage) => ("Check Found Damage", Failing::Damage),
        (Verb::Sync, _) => (failed, Failing::Sync),
        (Verb::Check, _) => (failed, Failing::Other),
    };
    let (status, level) = match exit {
        Exit::Done if findings.is_empty() => ("succeeded", Level::Info),
        Exit::Done => ("succeeded", Level::Warning),
        Exit::Interrupted => ("interrupted", Level::Warning),
        Exit::Partial => ("failed in part", Level::Error),
        Exit::Damage => ("found damage", Level::Error),
        Exit::Fatal | Exit::Locked => ("failed", Level::Error),
    };
    let location = session.location().map(|path| path.display().to_string()).unwrap_or_default();
    let ended = Ended {
        component,
        title,
        command: &command,
        host: &host_name(),
        repository: &location,
        began,
        status,
        level,
        failing,
        findings: &findings,
        is_mailed: !is_at_hand,
    };
    verb::tell(config, redactor(config), &ended);
    result.map(|(exit, _)| exit)
}
