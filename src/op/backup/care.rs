//! What is done about a component besides reading it: commands around it, and trying again.

use std::time::Duration;

use crate::op::backup::suspect::Seen;
use crate::stage::command::Command;
use crate::stage::snapshot::{Lack, Status};

/// How much of a component may be gone since its last whole snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shrink {
    /// So much of it, in percent, before it is suspect.
    Percent(u8),
    /// Anything: it is never suspect.
    Any,
}

impl Default for Shrink {
    fn default() -> Self {
        Self::Percent(50)
    }
}

/// How a component is tried. The default is once, and nothing around it.
#[derive(Clone, Default)]
pub struct Care {
    /// How often it is tried again after it has failed.
    pub retries: u32,
    /// Pause before the first of these tries; each further one is twice as long.
    pub delay: Duration,
    /// Run before each try; if it fails, so does the try.
    pub before: Option<Command>,
    /// Run after each try for which `before` was run, whatever came of it; also when the run is stopped.
    pub after: Option<Command>,
    /// How much of it may be gone before it is suspect.
    pub shrink: Shrink,
    /// Whether somebody has said that it is right as it is.
    pub is_accepted: bool,
}

impl Care {
    /// Returns the pause after try number `attempt`, counted from 1; none if that was the last.
    pub fn pause_after(&self, attempt: u32) -> Option<Duration> {
        let doubled = attempt.checked_sub(1).and_then(|times| 2u32.checked_pow(times)).unwrap_or(u32::MAX);
        (attempt <= self.retries).then(|| self.delay.saturating_mul(doubled))
    }
}

/// What happens during a backup, as it happens.
#[derive(Clone, Copy, Debug)]
pub enum Event<'e> {
    /// A component's turn has come.
    Started {
        /// Its name.
        component: &'e str,
    },
    /// A source of it, or a command around it, has failed.
    Failed {
        /// The component's name.
        component: &'e str,
        /// Which try it was, from 1.
        attempt: u32,
        /// What failed, and why, in one line.
        reason: &'e str,
        /// The end of what a command wrote to standard error; empty if there is none.
        complaint: &'e str,
        /// When it is tried again; never if none.
        again_in: Option<Duration>,
    },
    /// All that could be read of a component was read.
    Ended(&'e PartReport),
}

/// Is told what happens.
pub trait Listener: Sync {
    /// Takes an event; called on the thread that reads, so it must not take long.
    fn hear(&self, event: Event<'_>);

    /// Returns named facts for the manifest; asked when all components are read.
    fn facts(&self) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }
}

/// What became of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReport {
    /// Its name.
    pub name: String,
    /// How it fared.
    pub status: Status,
    /// How often it was tried.
    pub attempts: u32,
    /// Files in it.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
    /// Bytes read from files and streams, those of tries that failed included.
    pub bytes_read: u64,
    /// Raw bytes of chunks that were new.
    pub bytes_added: u64,
    /// Time it took, in milliseconds.
    pub duration_ms: u64,
    /// What is lacking of it, and why.
    pub lacks: Vec<Lack>,
    /// What of it the parent snapshot has as well.
    pub seen: Seen,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_retries_wait_ten_twenty_and_forty_seconds() {
        let care = Care { retries: 3, delay: Duration::from_secs(10), ..Care::default() };
        let pauses: Vec<_> = (1..=4).map(|attempt| care.pause_after(attempt).map(|p| p.as_secs())).collect();
        assert_eq!(pauses, [Some(10), Some(20), Some(40), None]);
    }
}
