//! What somebody was told by mail and what goes on: told again after a week, not every night.
//!
//! It lies in the state directory. If it is lost, it is told once more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::id::RepositoryId;
use crate::base::time::Time;
use crate::job::record;
use crate::repo::whose::{RunKey, is_ahead};
use crate::store::StoreError;

/// Longest record that is read, in bytes: a line for each component and kind of trouble.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// How long, in seconds, it is not told again. Two hours less than a week: a run begins a little earlier or later.
const AGAIN_SECONDS: i64 = 7 * 86_400 - 2 * 3600;

/// From when on, in seconds, something has gone on for three nights: the third one after the first.
const THREE_NIGHTS_SECONDS: i64 = 2 * 86_400 - 2 * 3600;

/// Something that goes on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Trouble {
    /// Since when, in seconds.
    since: i64,
    /// When somebody was told last.
    told: Option<i64>,
}

/// What goes on in the runs of one configuration.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    troubles: BTreeMap<String, Trouble>,
    /// The retention that was carried out last.
    retention: Option<String>,
}

/// What goes on, and who was told.
#[derive(Debug)]
pub struct Told {
    path: PathBuf,
    record: Record,
}

impl Told {
    /// Reads what is known of the runs of `key` into a repository: nothing if it can't be read.
    pub fn read(state: &Path, repository: RepositoryId, key: &RunKey) -> Self {
        let run = key.run.as_deref().unwrap_or_default();
        let name = blake3::hash(&[key.host.as_bytes(), run.as_bytes()].join(&0)).to_hex();
        let name = format!("told-{}.json", name.get(..16).unwrap_or_default());
        let path = state.join(repository.to_string()).join(name);
        Self { record: record::read(&path, RECORD_BYTES_MAX), path }
    }

    /// Notes that something goes on. Returns since when.
    pub fn goes_on(&mut self, what: &str, now: Time) -> Time {
        let begun = Trouble { since: now.seconds, told: None };
        let trouble = self.record.troubles.entry(what.to_owned()).or_insert(begun);
        if is_ahead(Time::new(trouble.since, 0), now) {
            *trouble = begun; // a clock was wrong
        }
        Time::new(trouble.since, 0)
    }

    /// Returns since when something has gone on; none if it does not.
    pub fn since(&self, what: &str) -> Option<Time> {
        self.record.troubles.get(what).map(|trouble| Time::new(trouble.since, 0))
    }

    /// Returns whether something that goes on is to be told now.
    pub fn is_due(&self, what: &str, now: Time) -> bool {
        let told = self.record.troubles.get(what).and_then(|trouble| trouble.told);
        told.is_none_or(|told| {
            is_ahead(Time::new(told, 0), now) || now.seconds.saturating_sub(told) >= AGAIN_SECONDS
        })
    }

    /// Notes that somebody was told.
    pub fn told(&mut self, what: &str, now: Time) {
        self.goes_on(what, now);
        if let Some(trouble) = self.record.troubles.get_mut(what) {
            trouble.told = Some(now.seconds);
        }
    }

    /// Notes that what `is_over` names goes on no more.
    pub fn end(&mut self, is_over: impl Fn(&str) -> bool) {
        self.record.troubles.retain(|what, _| !is_over(what));
    }

    /// Returns whether this retention was carried out last.
    pub fn is_usual(&self, retention: &str) -> bool {
        self.record.retention.as_deref() == Some(retention)
    }

    /// Notes that a retention was carried out.
    pub fn carried_out(&mut self, retention: &str) {
        self.record.retention = Some(retention.to_owned());
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was known before stays.
    pub fn write(&self) -> Result<(), StoreError> {
        record::write(&self.path, &self.record)
    }
}

/// Returns whether something that began at `since` has gone on for three nights.
pub fn is_three_nights(since: Time, now: Time) -> bool {
    now.seconds.saturating_sub(since.seconds) >= THREE_NIGHTS_SECONDS
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    const DAY: i64 = 86_400;

    fn at(day: i64) -> Time {
        Time::new(1_767_582_000 + day * DAY, 0)
    }

    fn read(state: &Path) -> Told {
        let key = RunKey { host: "mx1".to_owned(), run: Some("mailserver".to_owned()) };
        Told::read(state, RepositoryId::from_bytes([7; 16]), &key)
    }

    #[test]
    fn what_goes_on_is_told_at_once_and_after_a_week_and_anew_if_it_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut told_on = Vec::new();
        for day in 0..16 {
            let mut told = read(folder.path());
            told.goes_on("mail", at(day));
            if told.is_due("mail", at(day)) {
                told.told("mail", at(day));
                told_on.push(day);
            }
            told.write().unwrap();
        }
        assert_eq!(told_on, [0, 7, 14]);
        let mut told = read(folder.path());
        assert_eq!(told.since("mail"), Some(at(0)));
        told.end(|what| what == "mail");
        assert!(told.is_due("mail", at(16)) && told.since("mail").is_none());
    }

    #[test]
    fn a_file_that_is_lost_or_broken_and_a_clock_that_was_ahead_tell_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut told = read(folder.path());
        told.told("mail", at(3650));
        told.write().unwrap();
        let mut told = read(folder.path());
        assert!(told.is_due("mail", at(1)));
        assert_eq!(told.goes_on("mail", at(1)), at(1));
        fs::File::create(&told.path).unwrap().write_all(b"{\"troubles\":7}").unwrap();
        assert!(read(folder.path()).is_due("mail", at(1)));
        fs::remove_file(&told.path).unwrap();
        assert!(read(folder.path()).is_due("mail", at(1)));
    }

    #[test]
    fn three_nights_are_over_at_the_third() {
        let nights = |nights: i64| is_three_nights(at(0), at(nights));
        assert!(!nights(1) && nights(2));
    }
}
