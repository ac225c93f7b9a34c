//! What a bucket costs: told by mail once a month for each level that is exceeded, with the growth since last month.
//!
//! Each month's last estimate lies in the state directory. If that is lost, it is told once more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::time::Time;
use crate::job::{clock, record};
use crate::store::StoreError;

/// Longest record that is read, in bytes.
const RECORD_BYTES_MAX: u64 = 1 << 16;

/// Months that are remembered.
const MONTHS_MAX: usize = 24;

/// An estimate of what a bucket costs a month.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Amount {
    /// In whatever currency prices are configured.
    pub cost: f64,
    /// Bytes of all versions in the bucket.
    pub stored_bytes: u64,
}

/// What a sync says that the bucket costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Bill {
    /// How much.
    pub amount: Amount,
    /// What is shown after an amount of money.
    pub currency: String,
    /// Amounts above which it is told.
    pub levels: Vec<f64>,
}

/// A level that is exceeded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exceeded {
    /// The amount.
    pub level: f64,
    /// Whether it is the highest of several: CRITICAL, the others are WARNING.
    pub is_critical: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    /// By month, such as `2026-01`: the last estimate of it.
    months: BTreeMap<String, Amount>,
    /// By level: the month in which it was told.
    told: BTreeMap<String, String>,
}

/// What is remembered of a bucket's cost.
#[derive(Debug)]
pub struct Costs {
    path: PathBuf,
    record: Record,
}

impl Bill {
    /// Returns the highest level that is exceeded.
    pub fn exceeded(&self) -> Option<Exceeded> {
        let highest = self.levels.iter().copied().max_by(f64::total_cmp)?;
        let level = self.passed().max_by(f64::total_cmp)?;
        Some(Exceeded { level, is_critical: self.levels.len() > 1 && level >= highest })
    }

    fn passed(&self) -> impl Iterator<Item = f64> {
        self.levels.iter().copied().filter(|level| self.amount.cost > *level)
    }
}

/// Returns an amount of money as it is shown: small ones with cents.
pub fn money(amount: f64) -> String {
    match amount.abs() < 10.0 {
        true => format!("{amount:.2}"),
        false => format!("{amount:.0}"),
    }
}

fn month(now: Time) -> String {
    clock::day(now).rsplit_once('-').map_or_else(String::new, |(month, _)| month.to_owned())
}

impl Costs {
    /// Reads what is known of a bucket: nothing if it can't be read.
    pub fn read(state: &Path, store: &str) -> Self {
        let name = blake3::hash(store.trim_end_matches('/').as_bytes()).to_hex();
        let path = state.join(format!("cost-{}.json", name.get(..16).unwrap_or_default()));
        Self { record: record::read(&path, RECORD_BYTES_MAX), path }
    }

    /// Notes what the bucket costs now.
    pub fn note(&mut self, amount: Amount, now: Time) {
        let this = month(now);
        self.record.months.retain(|month, _| *month < this); // what is later is of a clock that was wrong
        self.record.months.insert(this, amount);
        while self.record.months.len() > MONTHS_MAX {
            self.record.months.pop_first();
        }
    }

    /// Returns the month before this one of which something is known, and what the bucket cost at its end.
    pub fn before(&self, now: Time) -> Option<(&str, Amount)> {
        let earlier = self.record.months.range(..month(now)).next_back();
        earlier.map(|(month, amount)| (month.as_str(), *amount))
    }

    /// Returns the level that is exceeded, if it was not told this month.
    pub fn due(&self, bill: &Bill, now: Time) -> Option<Exceeded> {
        let exceeded = bill.exceeded()?;
        let told = self.record.told.get(&exceeded.level.to_string());
        (told != Some(&month(now))).then_some(exceeded)
    }

    /// Notes that somebody was told: of the level that is exceeded, and of those below.
    pub fn told(&mut self, bill: &Bill, now: Time) {
        for level in bill.passed() {
            self.record.told.insert(level.to_string(), month(now));
        }
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

    const NOON: i64 = 1_767_268_800; // 2026-01-01, UTC

    fn at(day: i64) -> Time {
        Time::new(NOON + day * 86_400, 0)
    }

    fn bill(cost: f64) -> Bill {
        let amount = Amount { cost, stored_bytes: (cost * 1e9) as u64 };
        Bill { amount, currency: "yen".to_owned(), levels: vec![10.0, 100.0] }
    }

    /// A sync of a day, which tells what is due; returns what that was.
    fn sync(state: &Path, day: i64, cost: f64) -> Option<(f64, bool)> {
        let mut costs = Costs::read(state, "s3://copies/mail");
        costs.note(bill(cost).amount, at(day));
        let due = costs.due(&bill(cost), at(day));
        if due.is_some() {
            costs.told(&bill(cost), at(day));
        }
        costs.write().unwrap();
        due.map(|due| (due.level, due.is_critical))
    }

    #[test]
    fn each_level_is_told_once_a_month() {
        let folder = tempfile::tempdir().unwrap();
        let costs: Vec<_> =
            [(0, 9.0), (1, 11.0), (2, 12.0), (3, 101.0), (4, 99.0), (5, 140.0), (40, 140.0), (41, 50.0)]
                .into_iter()
                .map(|(day, cost)| sync(folder.path(), day, cost))
                .collect();
        let warning = Some((10.0, false));
        let critical = Some((100.0, true));
        assert_eq!(costs, [None, warning, None, critical, None, None, critical, None]);
    }

    #[test]
    fn growth_is_against_the_end_of_the_month_before_and_a_wrong_clock_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        sync(folder.path(), 0, 20.0);
        sync(folder.path(), 20, 30.0);
        sync(folder.path(), 3650, 1.0);
        sync(folder.path(), 35, 45.0);
        let costs = Costs::read(folder.path(), "s3://copies/mail/");
        assert_eq!(costs.before(at(35)).map(|(month, amount)| (month, amount.cost)), Some(("2026-01", 30.0)));
        assert_eq!(costs.before(at(0)), None);
        assert_eq!(sync(folder.path(), 36, 45.0), None, "told on the day before");
        std::fs::File::create(&costs.path).unwrap();
        assert_eq!(sync(folder.path(), 37, 45.0), Some((10.0, false)), "what is lost is told once more");
    }

    #[test]
    fn the_only_level_is_a_warning_and_none_says_nothing() {
        let one = Bill { levels: vec![10.0], ..bill(500.0) };
        assert_eq!(one.exceeded(), Some(Exceeded { level: 10.0, is_critical: false }));
        assert_eq!(Bill { levels: Vec::new(), ..one }.exceeded(), None);
        assert_eq!([money(0.456), money(139.6)], ["0.46", "140"]);
    }
}
