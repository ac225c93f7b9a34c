//! Names that people give snapshots: an id's start, `latest`, `daily/2025-11-07`, `latest~2`.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::base::time::Time;
use crate::repo::{RepoError, Snapshot};
use crate::stage::snapshot::Status;

/// Fewest hex digits that name a snapshot.
const PREFIX_DIGITS_MIN: usize = 4;

/// Returns the snapshot that `spec` names among `all`, which are sorted by time.
///
/// Days and weeks are those of `zone`. A tag names the newest snapshot that has it; a date that of [`bearer`].
///
/// # Errors
/// [`RepoError::NoSnapshot`] if there is none, or more than one.
pub fn select<'s>(all: &'s [Snapshot], spec: &str, zone: &TimeZone) -> Result<&'s Snapshot, RepoError> {
    let fail = |what: String| RepoError::NoSnapshot { spec: spec.to_owned(), what };
    let (name, back) = match spec.split_once('~') {
        None => (spec, 0),
        Some((name, "")) => (name, 1),
        Some((name, count)) => {
            (name, count.parse().map_err(|_| fail(format!("\"~{count}\" is not a number of snapshots")))?)
        }
    };
    let at = position(all, name, zone).map_err(fail)?;
    let before =
        at.checked_sub(back).ok_or_else(|| fail(format!("there are only {at} snapshots before {name}")))?;
    all.get(before).ok_or_else(|| fail("there are none".to_owned()))
}

fn position(all: &[Snapshot], name: &str, zone: &TimeZone) -> Result<usize, String> {
    if all.is_empty() {
        return Err("the repository has no snapshots".to_owned());
    }
    if name == "latest" {
        return Ok(all.len() - 1);
    }
    if let Some(at) = all.iter().rposition(|snapshot| snapshot.manifest.tags.iter().any(|tag| tag == name)) {
        return Ok(at);
    }
    let is_named = |snapshot: &Snapshot| dates(snapshot, zone).iter().any(|own| own == name);
    let of_that_date: Vec<usize> = (0..all.len()).filter(|at| is_named(&all[*at])).collect();
    if let Some(at) = bearer(&of_that_date, |at| &all[*at]) {
        return Ok(*at);
    }
    let is_prefix =
        name.len() >= PREFIX_DIGITS_MIN && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    if !is_prefix {
        return Err("no snapshot has that name or tag (an id needs 4 hex digits at least)".to_owned());
    }
    let mut matching = all.iter().enumerate().filter(|(_, s)| s.id.to_string().starts_with(name));
    match (matching.next(), matching.count()) {
        (None, _) => Err("no snapshot's id starts so".to_owned()),
        (Some((at, _)), 0) => Ok(at),
        (Some(_), more) => Err(format!("{} snapshots' ids start so; give more digits", more + 1)),
    }
}

/// Returns which of the snapshots of one date, oldest first, has the date's name: of those of the newest one's
/// machine, the newest of those with something of the most components. So what is backed up again by itself
/// hides nothing. `snapshot` tells what each is.
pub fn bearer<'a, T>(oldest_first: &'a [T], snapshot: impl Fn(&'a T) -> &'a Snapshot) -> Option<&'a T> {
    let host = &snapshot(oldest_first.last()?).manifest.host;
    let parts = |one: &'a T| {
        snapshot(one)
            .manifest
            .components
            .iter()
            .filter(|component| component.status != Status::Failed)
            .count()
    };
    oldest_first.iter().filter(|one| snapshot(one).manifest.host == *host).max_by_key(|one| parts(one))
}

/// Returns the names of a snapshot by its date: `daily/DATE` or `weekly/YEAR-week-NN` (ISO 8601) for
/// those tagged so.
pub fn dates(snapshot: &Snapshot, zone: &TimeZone) -> Vec<String> {
    let tags = &snapshot.manifest.tags;
    let at = zoned(snapshot.manifest.time, zone);
    let mut names = Vec::new();
    if tags.iter().any(|tag| tag == "daily") {
        names.push(format!("daily/{}", at.date()));
    }
    if tags.iter().any(|tag| tag == "weekly") {
        let week = at.date().iso_week_date();
        names.push(format!("weekly/{}-week-{:02}", week.year(), week.week()));
    }
    names
}

/// Returns a moment in a time zone.
pub fn zoned(time: Time, zone: &TimeZone) -> Zoned {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    Timestamp::new(time.seconds, nanos).unwrap_or_default().to_zoned(zone.clone())
}
