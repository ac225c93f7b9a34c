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

/// Lines that a mail has of what must be seen to, at most; the program's output has all.
pub const TOLD: usize = 20;

/// Returns the first [`TOLD`] of `total` lines, and how many more there are, `where_all` after it.
pub fn first(lines: impl Iterator<Item = String>, total: usize, where_all: &str) -> Vec<String> {
    let mut first: Vec<String> = lines.take(TOLD).collect();
    let more = total - first.len();
    first.extend((more > 0).then(|| format!("and {more} more{where_all}")));
    first
}

/// How the verb's work ended.
pub struct Worked {
    /// What the program ends with.
    pub exit: Exit,
    /// What must be seen to, a line each.
    pub findings: Vec<String>,
    /// Whether somebody must hear of it although nothing failed.
    pub is_alarm: bool,
}

impl From<(Exit, Vec<String>)> for Worked {
    fn from((exit, findings): (Exit, Vec<String>)) -> Self {
        Self { exit, findings, is_alarm: false }
    }
}

/// Does the verb's `work`, which returns what must be seen to, a line each. If a configuration speaks of
/// the repository, its log says how the verb ended, and where nobody is at hand a mail says what failed.
///
/// # Errors
/// What `work` returns.
pub fn watched<W: Into<Worked>>(
    session: &Session,
    verb: Verb,
    work: impl FnOnce() -> Result<W, RepoError>,
) -> Result<Exit, RepoError> {
    let began = now();
    let is_at_hand = std::io::stderr().is_terminal();
    let command = typed();
    if session.global.repo.is_none() && !is_at_hand {
        tell_of_unusable(session, &command);
    }
    let result: Result<Worked, RepoError> = work().map(Into::into);
    let config = match session.own_config() {
        Ok(Some(config)) => config,
        _ => return result.map(|worked| worked.exit),
    };
    let (exit, findings, is_alarm) = match &result {
        Ok(worked) => (worked.exit, worked.findings.clone(), worked.is_alarm),
        Err(error) => (Exit::of(error), vec![error.chain()], false),
    };
    let (component, title, failing) = match (verb, exit) {
        (Verb::Sync, Exit::Done) => ("SYNC", "Snapshots Were Removed", Failing::Other),
        (Verb::Sync, _) => ("SYNC", "Sync Failed", Failing::Sync),
        (Verb::Check, Exit::Damage) => ("VERIFY", "Check Found Damage", Failing::Damage),
        (Verb::Check, _) => ("VERIFY", "Check Failed", Failing::Other),
    };
    let (status, level) = match exit {
        Exit::Done if is_alarm => ("succeeded, and found what somebody must look at", Level::Error),
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
    result.map(|worked| worked.exit)
}
