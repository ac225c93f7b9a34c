//! A verb beside the backup, as timers run them: how it ended is logged, and told if it failed.

use std::path::Path;

use crate::base::redact::Redactor;
use crate::base::time::Time;
use crate::job::clock;
use crate::job::config::{Config, Level};
use crate::job::cost::{Bill, Costs};
use crate::job::last::{Last, LastRun, Subject, Success};
use crate::job::log::{self, Log};
use crate::job::metrics;
use crate::job::notice::{self, Facts, Failing};

/// How a verb ended.
pub struct Ended<'e> {
    /// Who says so in the log: `SYNC`, `VERIFY`.
    pub component: &'e str,
    /// What the mail's subject says if it failed: `Sync Failed`.
    pub title: &'e str,
    /// What was typed.
    pub command: &'e str,
    /// Name of this machine.
    pub host: &'e str,
    /// Where the repository lies.
    pub repository: &'e str,
    /// When it began.
    pub began: Time,
    /// How it ended, in words.
    pub status: &'e str,
    /// [`Level::Error`] if somebody must see to it.
    pub level: Level,
    /// What kind of trouble there is.
    pub failing: Failing,
    /// What was found, or why it ended early, a line each.
    pub findings: &'e [String],
    /// Whether a mail is sent about an error: not to whoever is at hand.
    pub is_mailed: bool,
}

/// Logs one line of a verb: level, who says so, and what. Never fails: whoever may not write the log still may restore.
pub fn note(config: &Config, redactor: Redactor, (level, who, line): (Level, &str, &str), now: Time) {
    let (log, _) = Log::open(&config.log, redactor, None, now);
    log.line(level, who, line);
}

/// Logs how a verb ended, and mails it if somebody must see to it. Standard error is left to the caller.
/// Never fails: there is nobody else to tell. Returns whether a mail was taken that says what is wrong.
pub fn tell(config: &Config, redactor: Redactor, ended: &Ended<'_>) -> bool {
    let (log, failure) = Log::open(&config.log, redactor, None, ended.began);
    if let Some(failure) = failure {
        tracing::warn!("logs cannot be written: {failure}");
    }
    let seconds = ended.seconds();
    for finding in ended.findings {
        log.line(ended.level, ended.component, finding);
    }
    let words = format!("{}: {} in {}", ended.command, ended.status, clock::length(seconds));
    log.line(ended.level, ended.component, words);
    if ended.level < Level::Error || !ended.is_mailed {
        return false;
    }
    let facts = Facts { log: log.lines(Level::Debug), ..ended.facts(config) };
    notice::tell(&config.notify, &notice::verb(ended.title, &facts, ended.findings), &log)
}

impl Ended<'_> {
    fn seconds(&self) -> u64 {
        u64::try_from(clock::now().seconds.saturating_sub(self.began.seconds)).unwrap_or(0)
    }

    fn facts<'f>(&'f self, config: &'f Config) -> Facts<'f> {
        Facts {
            name: config.notify.name(),
            host: self.host,
            repository: self.repository,
            command: self.command,
            began: self.began,
            seconds: self.seconds(),
            status: self.status,
            failing: self.failing,
            has_failed: true,
            log_file: config.log.directory.join(log::day_name(self.began)).display().to_string(),
            ..Facts::default()
        }
    }
}

/// Remembers in the state directory how a verb ended, with its exit status and what it did, and shows it in the numbers.
/// Never fails: what can't be remembered is logged.
pub fn remember(
    config: &Config,
    redactor: Redactor,
    state: &Path,
    subject: &Subject,
    (run, success): (LastRun, Success),
) {
    let mut last = Last::read(state, config.repository.path.get_ref(), subject);
    last.ran(run, success);
    let mut troubles = Vec::new();
    if let Err(e) = last.write() {
        troubles.push(format!("when {} ended cannot be remembered: {e}", subject.verb()));
    }
    if let Some(path) = &config.notify.metrics_file
        && let Err(e) = metrics::write_verbs(path, state, &[(subject.verb(), last)], clock::now())
    {
        troubles.push(format!("{} cannot be written: {e}", path.display()));
    }
    for trouble in troubles {
        note(config, redactor.clone(), (Level::Warning, "NOTIFY", &trouble), clock::now());
    }
}

/// Remembers what a bucket costs, and mails it if it is more than a level of which nobody was told this month. Where
/// nobody takes the mail it is shown on standard error. Never fails.
pub fn tell_cost(
    config: &Config,
    redactor: Redactor,
    state: &Path,
    store: &str,
    bill: &Bill,
    ended: &Ended<'_>,
) {
    let now = clock::now();
    let mut costs = Costs::read(state, store);
    costs.note(bill.amount, now);
    let (log, _) = Log::open(&config.log, redactor, None, ended.began);
    if ended.is_mailed
        && let Some(exceeded) = costs.due(bill, now)
    {
        let facts = Facts { failing: Failing::Cost, ..ended.facts(config) };
        let mail = notice::cost(&facts, store, bill, exceeded, costs.before(now));
        let level = if exceeded.is_critical { Level::Critical } else { Level::Warning };
        log.line(level, ended.component, mail.body.lines().next().unwrap_or_default());
        match notice::tell(&config.notify, &mail, &log) {
            true => costs.told(bill, now),
            false => notice::show(&mail, &log),
        }
    }
    if let Err(e) = costs.write() {
        log.warning(ended.component, format!("what the bucket costs cannot be remembered: {e}"));
    }
}
