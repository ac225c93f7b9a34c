//! What happens during a backup → log lines, and failures for the notice.

use std::sync::{Mutex, PoisonError};

use crate::base::entry::quoted;
use crate::base::units::{counted, show_bytes, show_duration};
use crate::job::clock::length;
use crate::job::config::Level;
use crate::job::log::Log;
use crate::job::notice::Failure;
use crate::op::backup::{Event, Listener, PartReport};
use crate::stage::snapshot::{Status, facts};

/// Entries lacking that the main log names one by one; the day's log has them all.
const LACKS_SHOWN: usize = 10;

/// Listens to a backup.
pub struct JobListener<'l> {
    log: &'l Log,
    failures: Mutex<Vec<Failure>>,
}

impl<'l> JobListener<'l> {
    /// Writes to `log`.
    pub fn new(log: &'l Log) -> Self {
        Self { log, failures: Mutex::default() }
    }

    /// Returns the tries that failed, in order.
    pub fn failures(&self) -> Vec<Failure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ended(&self, part: &PartReport) {
        let (log, name) = (self.log, part.name.as_str());
        let seconds = part.duration_ms / 1000;
        let numbers = format!(
            "{} read, {} added; {}, {}; {}",
            show_bytes(part.bytes_read),
            show_bytes(part.bytes_added),
            counted(part.files, "file", "files"),
            show_bytes(part.bytes),
            length(seconds)
        );
        let tries = if part.attempts == 1 { "try" } else { "tries" };
        match part.status {
            Status::Complete => log.info(name, &numbers),
            Status::Partial => {
                let lacking = counted(part.lacks.len() as u64, "entry is", "entries are");
                log.error(name, format!("{lacking} lacking after {} {tries}", part.attempts));
                for (number, lack) in part.lacks.iter().enumerate() {
                    let level = if number < LACKS_SHOWN { Level::Error } else { Level::Debug };
                    log.line(level, name, format!("not backed up: {}: {}", quoted(&lack.path), lack.reason));
                }
                log.info(name, &numbers);
            }
            Status::Failed => {
                let what = "failed: nothing of it is in the snapshot";
                log.error(name, format!("{what} after {} {tries}", part.attempts));
            }
        }
    }
}

impl Listener for JobListener<'_> {
    fn hear(&self, event: Event<'_>) {
        match event {
            Event::Started { component } => self.log.debug(component, "begins"),
            Event::Failed { component, attempt, reason, complaint, again_in } => {
                match again_in {
                    Some(pause) => {
                        let pause = show_duration(pause);
                        self.log
                            .warning(component, format!("try {attempt}: {reason}; tried again in {pause}"));
                    }
                    None => self.log.error(component, format!("try {attempt}: {reason}; given up")),
                }
                for line in complaint.lines().filter(|line| !line.trim().is_empty()) {
                    self.log.debug(component, format!("| {line}"));
                }
                self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(Failure {
                    component: component.to_owned(),
                    attempt,
                    reason: self.log.clean(reason),
                    complaint: self.log.redact(complaint),
                });
            }
            Event::Ended(part) => self.ended(part),
        }
    }

    fn facts(&self) -> Vec<(String, Vec<u8>)> {
        let lines = self.log.lines(Level::Debug).join("\n");
        vec![(facts::LOG.to_owned(), lines.into_bytes())]
    }
}
