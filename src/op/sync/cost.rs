//! What a bucket costs a month: an estimate, by a price table.

use serde::Deserialize;

use crate::store::Usage;

/// What is charged, in one currency.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    /// What is shown after an amount.
    pub currency: String,
    /// A GiB stored for a month.
    pub gib_month: f64,
    /// A thousand requests that put or list.
    pub thousand_writes: f64,
    /// A thousand requests that get or look.
    pub thousand_reads: f64,
    /// A GiB received.
    pub gib_received: f64,
}

/// Amazon S3 Standard in ap-northeast-1 at 150 yen a dollar.
impl Default for Prices {
    fn default() -> Self {
        Self {
            currency: "yen".to_owned(),
            gib_month: 3.75,
            thousand_writes: 0.705,
            thousand_reads: 0.0555,
            gib_received: 17.1,
        }
    }
}

/// Amounts a month above which something happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Each that is exceeded is said.
    pub levels: Vec<f64>,
    /// Nothing is put that would exceed it.
    pub limit: Option<f64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { levels: vec![10.0, 100.0], limit: None }
    }
}

/// An estimate a month.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// For what is stored.
    pub storage: f64,
    /// For requests, if every day is like this one.
    pub requests: f64,
}

impl Cost {
    /// Estimates what so many stored bytes cost, and a run like this one each day.
    pub fn estimate(prices: &Prices, stored_bytes: u64, daily: &Usage) -> Self {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let a_day = daily.writes as f64 / 1000.0 * prices.thousand_writes
            + daily.reads as f64 / 1000.0 * prices.thousand_reads
            + gib(daily.bytes_received) * prices.gib_received;
        Self { storage: gib(stored_bytes) * prices.gib_month, requests: 30.0 * a_day }
    }

    /// Returns all of it.
    pub fn total(&self) -> f64 {
        self.storage + self.requests
    }
}

impl Budget {
    /// Returns the highest level that is exceeded.
    pub fn exceeded(&self, cost: f64) -> Option<f64> {
        self.levels.iter().copied().filter(|level| cost > *level).max_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_gib_and_a_quiet_night_cost_less_than_forty_yen() {
        let daily = Usage { writes: 12, reads: 20, ..Usage::default() };
        let cost = Cost::estimate(&Prices::default(), 10 << 30, &daily);
        assert!((cost.storage - 37.5).abs() < 0.01, "{cost:?}");
        assert!((0.2..0.4).contains(&cost.requests), "{cost:?}");
    }

    #[test]
    fn the_highest_level_that_is_exceeded_is_named() {
        let budget = Budget::default();
        assert_eq!(budget.exceeded(9.0), None);
        assert_eq!(budget.exceeded(11.0), Some(10.0));
        assert_eq!(budget.exceeded(1000.0), Some(100.0));
    }
}
