//! Verbs that timers run beside the backup: whoever is to be told hears how they ended.

use std::io::IsTerminal;
use std::time::Instant;

use crate::cli::command::configured::{is_held, redactor, tell_of_unusable};
use crate::cli::exit::Exit;
use crate::cli::report::{self, reported};
use crate::cli::session::{Session, host_name, typed};
use crate::job::clock::now;
use crate::job::config::Level;
use crate::job::cost::Bill;
use crate::job::last::{LastRun, Subject, Success};
use crate::job::notice::Failing;
use crate::job::verb::{self, Ended};
use crate::repo::RepoError;

/// A verb, and what it works on.
#[derive(Clone, Copy)]
pub enum Verb<'v> {
    /// `sync`, to a store.
    Sync(&'v str),
    /// `check`
    Check,
}

impl Verb<'_> {
    fn subject(self) -> Subject {
        match self {
            Self::Sync(store) => Subject::sync(store),
            Self::Check => Subject::Check,
        }
    }
}

/// What a verb has done.
pub struct Worked {
    /// How it ended.
    pub exit: Exit,
    /// What must be seen to, a line each.
    pub findings: Vec<String>,
    /// Whether somebody must hear of it although nothing failed.
    pub is_alarm: bool,
    /// What counts when somebody asks how long ago it was done.
    pub success: Success,
    /// What a bucket costs.
    pub bill: Option<Bill>,
    /// What came of showing the report.
    pub shown: Result<(), RepoError>,
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

/// Does the verb's `work`, which returns what must be seen to, a line each. If a configuration speaks of
/// the repository, its log says how the verb ended, and where nobody is at hand a mail says what failed.
///
/// # Errors
/// What `work` returns.
pub fn watched(
    session: &Session,
    verb: Verb<'_>,
    work: impl FnOnce() -> Result<Worked, RepoError>,
) -> Result<Exit, RepoError> {
    let (began, started) = (now(), Instant::now());
    let is_at_hand = std::io::stderr().is_terminal();
    let command = typed();
    if session.global.repo.is_none() && !is_at_hand {
        tell_of_unusable(session, &command);
    }
    if is_held(&session.global) {
        report::hold();
    }
    let result = work();
    let config = match session.own_config() {
        Ok(Some(config)) => config,
        _ => {
            report::release(true);
            return result.map(|worked| reported(worked.exit, worked.shown));
        }
    };
    let (exit, findings, is_alarm, success) = match &result {
        Ok(worked) => (worked.exit, worked.findings.clone(), worked.is_alarm, worked.success),
        Err(error) => (Exit::of(error), vec![error.chain()], false, Success::None),
    };
    let (component, title, failing) = match (verb, exit) {
        (Verb::Sync(_), Exit::Done) => ("SYNC", "Snapshots Were Removed", Failing::Other),
        (Verb::Sync(_), _) => ("SYNC", "Sync Failed", Failing::Sync),
        (Verb::Check, Exit::Damage) => ("VERIFY", "Check Found Damage", Failing::Damage),
        (Verb::Check, _) => ("VERIFY", "Check Failed", Failing::Other),
    };
    let (status, level) = match exit {
        Exit::Done if is_alarm => ("succeeded, and found what somebody must look at", Level::Error),
        Exit::Done if findings.is_empty() => ("succeeded", Level::Info),
        Exit::Done => ("succeeded", Level::Warning),
        // Beside the interruption itself: some of it is told once.
        Exit::Interrupted if is_alarm || matches!(verb, Verb::Sync(_)) && findings.len() > 1 => {
            ("interrupted, and found what somebody must look at", Level::Error)
        }
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
    let is_told = verb::tell(config, redactor(config), &ended);
    report::release(!is_told);
    if let Ok(state) = session.state_directory() {
        let run =
            LastRun { ended: now().seconds, exit: exit as u8, seconds: started.elapsed().as_secs_f64() };
        verb::remember(config, redactor(config), &state, &verb.subject(), (run, success));
        let bill = result.as_ref().ok().and_then(|worked| worked.bill.as_ref());
        if let (Verb::Sync(store), Some(bill)) = (verb, bill) {
            verb::tell_cost(config, redactor(config), &state, store, bill, &ended);
        }
    }
    match result {
        // Whoever gets cron's mail as well has read it.
        Err(_) if is_told && is_held(&session.global) => Ok(exit),
        result => result.map(|worked| reported(worked.exit, worked.shown)),
    }
}
