//! What was asked for, and the configuration at hand → whose snapshots names stand for. Never guesses among several.

use std::collections::{BTreeMap, BTreeSet};

use crate::repo::whose::{ANY_HOST, RunKey, Whose};

/// Whose snapshots are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Those of the configuration of this name.
    pub run: Option<String>,
    /// Those of this machine, or [`ANY_HOST`].
    pub host: Option<String>,
}

/// Whose snapshots names stand for.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Numbers of the keys whose nights are meant.
    keys: BTreeSet<usize>,
    /// Numbers of the keys of what was made by hand on the same hosts: a tag alone may stand for that.
    by_hand: BTreeSet<usize>,
    is_configured: bool,
}

impl Scope {
    /// Finds out whose snapshots are meant: those that were asked for; else those of the configuration at hand; else
    /// those of the only one there is.
    ///
    /// # Errors
    /// That there are none, or several, with the list.
    pub fn new(whose: &Whose, asked: &Asked) -> Result<Self, String> {
        let own = whose.own().map(|own| &own.key);
        let is_any = asked.host.as_deref() == Some(ANY_HOST);
        let host = asked.host.as_deref().filter(|_| !is_any);
        let run = asked.run.as_deref();
        let found = match (host, run, own) {
            (None, None, Some(own)) if !is_any => number(whose, own).into_iter().collect::<Vec<_>>(),
            (None, Some(run), Some(own)) if !is_any => {
                with(whose, |key| key.run.as_deref() == Some(run) && key.host == own.host)
            }
            (None, None, Some(own)) => with(whose, |key| key.run == own.run),
            _ => with(whose, |key| {
                host.is_none_or(|host| key.host == host)
                    && run.is_none_or(|run| key.run.as_deref() == Some(run))
            }),
        };
        let mut found = without_made_by_hand(whose, found);
        if found.is_empty() && asked == &Asked::default() && own.is_some() {
            // A configuration that has never run does not count.
            let all = without_made_by_hand(whose, with(whose, |_| true));
            let is_here = |at: &usize| own.is_some_and(|own| whose.keys()[*at].host == own.host);
            let is_by_hand = |at: &usize| whose.keys()[*at].run.is_none();
            found = all.into_iter().filter(is_by_hand).collect();
            if found.len() != 1
                || !found.iter().all(is_here)
                || whose.keys().iter().any(|key| key.run.is_some())
            {
                found.clear();
            }
        }
        let names: BTreeSet<_> = found.iter().map(|at| &whose.keys()[*at].run).collect();
        match found.len() {
            0 => Err(none(whose, asked)),
            1 => Ok(Self::of(whose, found)),
            _ if is_any && names.len() == 1 => Ok(Self::of(whose, found)),
            _ => Err(several(whose, &found)),
        }
    }

    fn of(whose: &Whose, found: Vec<usize>) -> Self {
        let hosts: BTreeSet<&str> = found.iter().map(|at| whose.keys()[*at].host.as_str()).collect();
        let by_hand = with(whose, |key| key.run.is_none() && hosts.contains(key.host.as_str()));
        let is_configured = found.iter().any(|at| whose.keys()[*at].run.is_some());
        Self { keys: found.into_iter().collect(), by_hand: by_hand.into_iter().collect(), is_configured }
    }

    /// Returns whether nights of the key of this number are meant.
    pub fn has(&self, number: Option<usize>) -> bool {
        number.is_some_and(|number| self.keys.contains(&number))
    }

    /// Returns whether a tag may stand for snapshots of the key of this number.
    pub fn has_any(&self, number: Option<usize>) -> bool {
        self.has(number) || number.is_some_and(|number| self.by_hand.contains(&number))
    }

    /// Returns whether it is a configuration whose nights are meant.
    pub fn is_configured(&self) -> bool {
        self.is_configured
    }
}

fn number(whose: &Whose, key: &RunKey) -> Option<usize> {
    whose.keys().iter().position(|own| own == key)
}

fn with(whose: &Whose, is_meant: impl Fn(&RunKey) -> bool) -> Vec<usize> {
    (0..whose.keys().len()).filter(|at| is_meant(&whose.keys()[*at])).collect()
}

/// Leaves out what was made by hand on hosts where a configuration counts.
fn without_made_by_hand(whose: &Whose, found: Vec<usize>) -> Vec<usize> {
    let configured: BTreeSet<&str> = found
        .iter()
        .map(|at| &whose.keys()[*at])
        .filter(|key| key.run.is_some())
        .map(|key| key.host.as_str())
        .collect();
    let is_meant = |at: &usize| {
        let key = &whose.keys()[*at];
        key.run.is_some() || !configured.contains(key.host.as_str())
    };
    found.into_iter().filter(is_meant).collect()
}

fn none(whose: &Whose, asked: &Asked) -> String {
    let own = whose.own().filter(|_| asked == &Asked::default());
    let what = match (own, &asked.run, &asked.host) {
        (Some(own), ..) => own.key.to_string(),
        (None, Some(run), Some(host)) => format!("{run} on {host}"),
        (None, Some(run), None) => run.clone(),
        (None, None, host) => host.clone().unwrap_or_default(),
    };
    format!(
        "no snapshot is of {what}; there are those of {}",
        list(whose, &without_made_by_hand(whose, with(whose, |_| true)))
    )
}

fn several(whose: &Whose, found: &[usize]) -> String {
    format!("may be of {}", list(whose, found))
}

/// Returns a list of keys, and how to say which is meant.
fn list(whose: &Whose, keys: &[usize]) -> String {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    (0..whose.len()).filter_map(|at| whose.number(at)).for_each(|key| *counts.entry(key).or_default() += 1);
    let mut rows: Vec<(&RunKey, usize)> =
        keys.iter().map(|at| (&whose.keys()[*at], counts.get(at).copied().unwrap_or(0))).collect();
    rows.sort();
    let rows = rows.into_iter().map(|(key, count)| match count {
        1 => format!("{key} (1 snapshot)"),
        _ => format!("{key} ({count} snapshots)"),
    });
    format!("{}: say whose with --run NAME or --host NAME", rows.collect::<Vec<_>>().join(", "))
}
