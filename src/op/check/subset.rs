//! Which packs a check reads.

use std::fmt;
use std::str::FromStr;

use crate::base::id::PackId;

/// A part of all packs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Subset {
    /// That many of a hundred packs, one at least; which ones, the seed draws.
    Percent(f64),
    /// Part `number`, from 1, of `of` parts, about equal. A pack lies in the same part for ever, so
    /// that all are read when each part was.
    Part {
        /// Which part, from 1.
        number: u32,
        /// How many parts there are.
        of: u32,
    },
}

/// Reads `5%` or `1/30`.
impl FromStr for Subset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("found \"{text}\", expected a percentage as 5% or a part as 1/30");
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| bad())?;
            return match percent > 0.0 && percent <= 100.0 {
                true => Ok(Self::Percent(percent)),
                false => Err(bad()),
            };
        }
        let (number, of) = text.split_once('/').ok_or_else(bad)?;
        let (number, of) = (number.trim().parse().map_err(|_| bad())?, of.trim().parse().map_err(|_| bad())?);
        match (1..=of).contains(&number) {
            true => Ok(Self::Part { number, of }),
            false => Err(bad()),
        }
    }
}

/// As it is read.
impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Part { number, of } => write!(f, "{number}/{of}"),
        }
    }
}

impl Subset {
    /// Returns those of `packs` that are in the subset, in the same order.
    pub fn of(self, packs: Vec<PackId>, seed: u64) -> Vec<PackId> {
        match self {
            Self::Part { number, of } => {
                let is_in =
                    |id: &PackId| first_bytes(id.as_bytes()) % u64::from(of.max(1)) + 1 == u64::from(number);
                packs.into_iter().filter(is_in).collect()
            }
            Self::Percent(percent) => {
                let draw = |id: &PackId| {
                    let mut hasher = blake3::Hasher::new();
                    hasher.update(&seed.to_le_bytes()).update(id.as_bytes());
                    first_bytes(hasher.finalize().as_bytes())
                };
                let mut drawn: Vec<(u64, PackId)> = packs.into_iter().map(|id| (draw(&id), id)).collect();
                drawn.sort_unstable();
                drawn.truncate(share(drawn.len(), percent));
                let mut chosen: Vec<PackId> = drawn.into_iter().map(|(_, id)| id).collect();
                chosen.sort_unstable();
                chosen
            }
        }
    }
}

/// Returns `percent` of `total`, rounded up.
fn share(total: usize, percent: f64) -> usize {
    (0..total).find(|count| *count as f64 * 100.0 >= percent * total as f64).unwrap_or(total)
}

fn first_bytes(bytes: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(total: u64) -> Vec<PackId> {
        let mut packs: Vec<PackId> =
            (0..total).map(|n| PackId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect();
        packs.sort_unstable();
        packs
    }

    #[test]
    fn subsets_read_from_text() {
        assert_eq!("5%".parse(), Ok(Subset::Percent(5.0)));
        assert_eq!("0.5 %".parse(), Ok(Subset::Percent(0.5)));
        assert_eq!("1/30".parse(), Ok(Subset::Part { number: 1, of: 30 }));
        for text in ["5%", "0.5%", "1/30"] {
            assert_eq!(text.parse::<Subset>().map(|subset| subset.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "%", "0%", "101%", "NaN%", "5", "0/3", "4/3", "1/0", "1/", "-1/3", "a/b"] {
            let message = bad.parse::<Subset>().unwrap_err();
            assert!(message.contains("5%"), "{bad}: {message}");
        }
    }

    #[test]
    fn all_parts_together_are_all_packs_and_each_pack_is_in_one() {
        let mut all: Vec<PackId> =
            (1..=7).flat_map(|number| Subset::Part { number, of: 7 }.of(packs(200), number.into())).collect();
        all.sort_unstable();
        assert_eq!(all, packs(200));
    }

    #[test]
    fn a_percentage_is_drawn_by_the_seed() {
        let five = |seed| Subset::Percent(5.0).of(packs(200), seed);
        assert_eq!(five(1).len(), 10);
        assert_eq!(five(1), five(1));
        assert_ne!(five(1), five(2));
        assert_eq!(Subset::Percent(0.1).of(packs(3), 1).len(), 1);
        assert_eq!(Subset::Percent(100.0).of(packs(3), 1), packs(3));
        assert!(Subset::Percent(5.0).of(Vec::new(), 1).is_empty());
    }
}
