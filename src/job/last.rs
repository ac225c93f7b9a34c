//! When a verb beside the backup last ran, how it ended, and when it last succeeded: remembered by this machine.
//!
//! In the state directory, a file for each verb and what it works on. If one is lost, the verb has never succeeded as far
//! as this machine knows, and is looked for from then on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::time::Time;
use crate::job::config::Config;
use crate::job::record;
use crate::repo::whose::is_ahead;
use crate::store::StoreError;

/// Longest record that is read, in bytes.
const RECORD_BYTES_MAX: u64 = 1 << 18;

/// Successes that are remembered, a day apart at least: as many nights may have a clock that is ahead, and the last
/// success before them is still known.
const SUCCESSES_MAX: usize = 40;

/// Parts of all packs, of which each check reads one, that are remembered.
const PARTS_MAX: u32 = 1000;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// A verb, and what it works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `snap sync`, to a store.
    Sync {
        /// `s3://bucket/prefix`
        store: String,
    },
    /// `snap check`, of all packs.
    Check,
    /// The retention of a configuration.
    Retention {
        /// Name of the machine in snapshots.
        host: String,
        /// Name of the configuration.
        run: String,
    },
}

impl Subject {
    /// Returns the sync to a store.
    pub fn sync(store: &str) -> Self {
        Self::Sync { store: store.trim_end_matches('/').to_owned() }
    }

    /// Returns the retention of a configuration; `host` is this machine's name in snapshots.
    pub fn retention(config: &Config, host: &str) -> Self {
        Self::Retention { host: host.to_owned(), run: config.configured(host).name }
    }

    /// Returns the verb's name, which metrics have as well.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Sync { .. } => "sync",
            Self::Check => "check",
            Self::Retention { .. } => "retention",
        }
    }

    fn parts(&self) -> [&[u8]; 3] {
        let verb = self.verb().as_bytes();
        match self {
            Self::Sync { store } => [verb, store.as_bytes(), b""],
            Self::Check => [verb, b"", b""],
            Self::Retention { host, run } => [verb, host.as_bytes(), run.as_bytes()],
        }
    }
}

/// How a verb ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LastRun {
    /// When, in seconds.
    pub ended: i64,
    /// Its exit status.
    pub exit: u8,
    /// How long it took.
    pub seconds: f64,
}

/// What a run did of all that is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Success {
    /// Nothing that counts.
    #[default]
    None,
    /// All of it.
    Whole,
    /// One of so many parts, from 1.
    Part(u32, u32),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    /// Since when somebody looks whether it succeeded.
    since: Option<i64>,
    /// When it succeeded, oldest first.
    successes: Vec<i64>,
    /// By part, such as `1/30`: when that part was done.
    parts: BTreeMap<String, i64>,
    run: Option<LastRun>,
}

/// What is remembered of a verb.
#[derive(Clone, Debug)]
pub struct Last {
    path: PathBuf,
    record: Record,
}

impl Last {
    /// Reads what is known of a verb for the repository at `location`: nothing if it can't be read.
    pub fn read(state: &Path, location: &Path, subject: &Subject) -> Self {
        let [verb, one, two] = subject.parts();
        let name = blake3::hash(&[location.as_os_str().as_encoded_bytes(), verb, one, two].join(&0)).to_hex();
        let name = format!("last-{}-{}.json", subject.verb(), name.get(..16).unwrap_or_default());
        let path = state.join(name);
        Self { record: record::read(&path, RECORD_BYTES_MAX), path }
    }

    /// Notes how a run ended, and what it did.
    pub fn ran(&mut self, run: LastRun, success: Success) {
        self.record.run = Some(run);
        match success {
            Success::None => (),
            Success::Whole => self.succeeded(run.ended, Time::new(run.ended, 0)),
            Success::Part(number, of) => self.did_part(number, of, Time::new(run.ended, 0)),
        }
    }

    fn succeeded(&mut self, at: i64, now: Time) {
        let successes = &mut self.record.successes;
        successes.retain(|success| !is_ahead(Time::new(*success, 0), now)); // a clock was wrong
        let is_first = successes.len() == 1;
        match successes.last_mut() {
            Some(last) if at <= *last => (),
            Some(last) if at.saturating_sub(*last) < DAY && !is_first => *last = at,
            _ => successes.push(at),
        }
        let more = successes.len().saturating_sub(SUCCESSES_MAX);
        successes.drain(..more);
    }

    /// Notes that one of `of` parts was done. When each was, all of it was done when the oldest of them was.
    fn did_part(&mut self, number: u32, of: u32, now: Time) {
        if of > PARTS_MAX {
            return;
        }
        let end = format!("/{of}");
        self.record.parts.retain(|part, at| part.ends_with(&end) && !is_ahead(Time::new(*at, 0), now));
        self.record.parts.insert(format!("{number}{end}"), now.seconds);
        let oldest = self.record.parts.values().copied().min();
        if let Some(oldest) = oldest.filter(|_| self.record.parts.len() as u64 == u64::from(of)) {
            self.succeeded(oldest, now);
        }
    }

    /// Returns when it last succeeded. A success that is dated in the future, by a clock that was wrong, hides none
    /// before it, and is none.
    pub fn success(&self, now: Time) -> Option<Time> {
        let mut successes = self.record.successes.iter().rev().map(|success| Time::new(*success, 0));
        successes.find(|success| !is_ahead(*success, now))
    }

    /// Returns how it last ended.
    pub fn run(&self) -> Option<LastRun> {
        self.record.run
    }

    /// Returns since when it is looked for, from now on at the latest, and whether that is news to be written.
    pub fn look_for(&mut self, now: Time) -> (Time, bool) {
        let since = self.record.since.map(|since| Time::new(since, 0)).filter(|since| !is_ahead(*since, now));
        self.record.since = Some(since.unwrap_or(now).seconds);
        (since.unwrap_or(now), since.is_none())
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was known before stays.
    pub fn write(&self) -> Result<(), StoreError> {
        record::write(&self.path, &self.record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Time {
        Time::new(1_767_582_000 + day * DAY, 0)
    }

    fn run(day: i64) -> LastRun {
        LastRun { ended: at(day).seconds, exit: 0, seconds: 1.5 }
    }

    fn read(state: &Path) -> Last {
        Last::read(state, Path::new("/mnt/disk/repo"), &Subject::sync("s3://copies/mail/"))
    }

    #[test]
    fn a_success_is_remembered_and_a_failure_after_it_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut last = read(folder.path());
        assert_eq!((last.success(at(0)), last.run()), (None, None));
        last.ran(run(0), Success::Whole);
        last.write().unwrap();
        let mut last = read(folder.path());
        last.ran(LastRun { exit: 2, ..run(5) }, Success::None);
        last.write().unwrap();
        let last = read(folder.path());
        assert_eq!((last.success(at(5)), last.run().map(|run| run.exit)), (Some(at(0)), Some(2)));
        let other = Last::read(folder.path(), Path::new("/mnt/disk/repo"), &Subject::sync("s3://other"));
        assert_eq!(other.success(at(5)), None);
    }

    #[test]
    fn nights_of_a_clock_that_was_ahead_hide_no_success_before_them_and_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut last = read(folder.path());
        (0..60).for_each(|day| last.ran(run(day), Success::Whole));
        (3650..3680).for_each(|day| last.ran(run(day), Success::Whole));
        assert_eq!(last.success(at(61)), Some(at(59)));
        last.ran(run(62), Success::Whole);
        assert_eq!(last.success(at(62)), Some(at(62)));
        assert_eq!(last.success(at(4000)), Some(at(62)), "what was in the future is forgotten");
        assert_eq!(last.success(at(-400)), None, "a clock that is behind knows of no success");
    }

    #[test]
    fn all_parts_are_done_when_the_oldest_of_them_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut last = read(folder.path());
        (1..=2).for_each(|day| last.ran(run(day), Success::Part(u32::try_from(day).unwrap(), 3)));
        assert_eq!(last.success(at(2)), None);
        last.ran(run(3), Success::Part(3, 3));
        assert_eq!(last.success(at(3)), Some(at(1)));
        last.ran(run(4), Success::Part(1, 3));
        assert_eq!(last.success(at(4)), Some(at(2)));
        last.ran(run(5), Success::Part(1, 2));
        assert_eq!(last.success(at(5)), Some(at(2)), "other parts begin anew");
    }

    #[test]
    fn what_was_lost_is_looked_for_from_now_on_also_after_a_clock_that_was_ahead() {
        let folder = tempfile::tempdir().unwrap();
        let mut last = read(folder.path());
        assert_eq!(last.look_for(at(3650)), (at(3650), true));
        assert_eq!(last.look_for(at(1)), (at(1), true));
        last.write().unwrap();
        assert_eq!(read(folder.path()).look_for(at(9)), (at(1), false));
    }
}
