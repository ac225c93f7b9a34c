//! How a run ends, and why it ends early.

use crate::job::config::Level;
use crate::job::notice::Failing;
use crate::repo::RepoError;
use crate::store::StoreError;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything is backed up.
    Done,
    /// There is a snapshot, and something is lacking.
    Partial,
    /// There is no snapshot.
    Fatal,
    /// Another run is under way.
    Locked,
    /// A signal ended it.
    Interrupted,
}

impl Ending {
    /// Returns the exit status.
    pub fn status(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Partial => 1,
            Self::Fatal => 2,
            Self::Locked => 4,
            Self::Interrupted => 130,
        }
    }

    /// Returns how it ended, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Done => "succeeded",
            Self::Partial => "failed in part",
            Self::Fatal => "failed",
            Self::Locked => "not begun",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Why a run ended early.
pub struct Stop {
    /// How the run ends.
    pub ending: Ending,
    /// How bad that is.
    pub level: Level,
    /// What kind of trouble it is.
    pub failing: Failing,
    /// Who says so in the log.
    pub component: &'static str,
    /// Why, and what to do.
    pub what: String,
}

impl Stop {
    /// Nothing is backed up.
    pub fn critical(failing: Failing, component: &'static str, what: String) -> Self {
        Self { ending: Ending::Fatal, level: Level::Critical, failing, component, what }
    }

    /// Nobody needs a mail about it.
    pub fn quiet(ending: Ending, what: String) -> Self {
        Self { ending, level: Level::Warning, failing: Failing::Other, component: "MAIN", what }
    }

    /// Returns what an error means for the run.
    pub fn of(error: &RepoError) -> Self {
        match error {
            RepoError::Interrupted => {
                Self::quiet(Ending::Interrupted, "interrupted; no snapshot was made".to_owned())
            }
            RepoError::Store(StoreError::Locked { .. }) => Self {
                ending: Ending::Locked,
                level: Level::Error, // who holds it is no backup: nobody else tells that there was none
                failing: Failing::Other,
                component: "INIT",
                what: format!("{error} that needs the repository alone; --wait waits for its end"),
            },
            full if full.is_full() => {
                let what = format!(
                    "the disk is full: {}; the earlier snapshots are unharmed; 'snap prune --now' gives back what no snapshot needs",
                    error.chain()
                );
                Self::critical(Failing::Space, "MAIN", what)
            }
            _ => Self::critical(Failing::Other, "MAIN", error.chain()),
        }
    }
}
