//! A verb beside the backup, as timers run them: how it ended is logged, and told if it failed.

use crate::base::redact::Redactor;
use crate::base::time::Time;
use crate::job::clock;
use crate::job::config::{Config, Level};
use crate::job::log::{self, Log};
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
/// Never fails: there is nobody else to tell.
pub fn tell(config: &Config, redactor: Redactor, ended: &Ended<'_>) {
    let (log, _) = Log::open(&config.log, redactor, None, ended.began);
    let seconds = clock::now().seconds.saturating_sub(ended.began.seconds);
    let seconds = u64::try_from(seconds).unwrap_or(0);
    for finding in ended.findings {
        log.line(ended.level, ended.component, finding);
    }
    let words = format!("{}: {} in {}", ended.command, ended.status, clock::length(seconds));
    log.line(ended.level, ended.component, words);
    if ended.level < Level::Error || !ended.is_mailed {
        return;
    }
    let facts = Facts {
        name: config.notify.name(),
        host: ended.host,
        repository: ended.repository,
        command: ended.command,
        began: ended.began,
        seconds,
        status: ended.status,
        failing: ended.failing,
        log: log.lines(Level::Debug),
        log_file: config.log.directory.join(log::day_name(ended.began)).display().to_string(),
        ..Facts::default()
    };
    let _ = notice::tell(&config.notify, &notice::verb(ended.title, &facts, ended.findings), &log);
}
