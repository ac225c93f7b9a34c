//! Exit status, and how an error is shown.

use std::process::ExitCode;

use crate::cli::report::tell;
use crate::repo::RepoError;
use crate::store::StoreError;

/// How a command ended. The numbers are the program's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All done.
    Done = 0,
    /// Done in part: what succeeded is kept.
    Partial = 1,
    /// Fatal, or usage.
    Fatal = 2,
    /// `check` found damage.
    Damage = 3,
    /// Another run holds the lock.
    Locked = 4,
    /// Interrupted by a signal.
    Interrupted = 130,
}

impl Exit {
    /// Returns how a command ends that met this error.
    pub fn of(error: &RepoError) -> Self {
        match error {
            RepoError::Store(StoreError::Locked { .. }) => Self::Locked,
            RepoError::Interrupted => Self::Interrupted,
            _ => Self::Fatal,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Shows an error on one line of standard error, causes after it.
pub fn report(error: &RepoError) {
    let mut line = format!("snap: {}", error.chain());
    if error.is_full() {
        line.push_str("; earlier snapshots are unharmed: make room and run it again ('snap prune --now' gives back what no snapshot needs, and needs no room itself)");
    }
    if let RepoError::Store(StoreError::Locked { path }) = error {
        line.push_str("; wait for its end (--lock-wait)");
        if path.starts_with("s3://") {
            line.push_str(", or remove its lock with 'snap unlock' if it is dead");
        }
    }
    tell(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_the_status_that_the_contract_says() {
        let locked = RepoError::Store(StoreError::Locked { path: "lock".to_owned() });
        assert_eq!(Exit::of(&locked) as u8, 4);
        assert_eq!(Exit::of(&RepoError::Interrupted) as u8, 130);
        assert_eq!(Exit::of(&RepoError::Locked) as u8, 2);
    }
}
