//! Backups that have not happened for too long.

use crate::base::time::Time;
use crate::job::config::Span;
use crate::job::notice::Stale;
use crate::repo::Snapshot;
use crate::repo::whose::{RunKey, Whose, is_ahead};

/// Returns the components whose newest whole backup by `key` is older than `max_age`, or missing. One that is dated in
/// the future, by a clock that was wrong, does not hide that none came after those before it.
pub fn stale<'c>(
    snapshots: &[Snapshot],
    whose: &Whose,
    key: &RunKey,
    components: impl IntoIterator<Item = &'c str>,
    max_age: Span,
    now: Time,
) -> Vec<Stale> {
    let limit = i64::try_from(max_age.seconds()).unwrap_or(i64::MAX);
    let is_old = |time: Time| now.seconds.saturating_sub(time.seconds) > limit;
    let own = |ahead: bool| {
        let own = snapshots.iter().enumerate().rev().filter(|(at, _)| whose.key(*at) == Some(key));
        own.map(|(_, own)| &own.manifest).filter(move |own| is_ahead(own.time, now) == ahead)
    };
    let rows = components.into_iter().map(|name| {
        let parts = |ahead: bool| {
            own(ahead).flat_map(|manifest| manifest.components.iter().map(move |part| (manifest, part)))
        };
        let whole =
            |ahead: bool| parts(ahead).find(|(manifest, part)| part.name == name && manifest.is_whole(part));
        let last = whole(false).or_else(|| whole(true)).map(|(manifest, _)| manifest.time);
        let newest = parts(false).find(|(_, part)| part.name == name);
        let suspicion = newest.filter(|(manifest, _)| !is_old(manifest.time));
        let suspicion = suspicion.and_then(|(manifest, _)| manifest.suspicion(name));
        Stale { component: name.to_owned(), last, suspicion }
    });
    rows.filter(|row| row.last.is_none_or(is_old)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::tz::TimeZone;

    use super::*;
    use crate::base::id::SnapshotId;
    use crate::base::wire;
    use crate::stage::snapshot::{Component, Manifest, Status, facts};

    fn snapshot(seconds: i64, host: &str, parts: &[(&str, Status)]) -> Snapshot {
        let component = |(name, status): &(&str, Status)| Component {
            name: (*name).to_owned(),
            directory: name.as_bytes().to_vec(),
            sources: Vec::new(),
            status: *status,
            attempts: 1,
            files: 0,
            bytes: 0,
        };
        let manifest = Manifest {
            time: Time::new(seconds, 0),
            host: host.to_owned(),
            components: parts.iter().map(component).collect(),
            ..Manifest::default()
        };
        Snapshot { id: SnapshotId::from_bytes([0; 32]), manifest }
    }

    fn look(all: &[Snapshot], names: &[&str], now: i64) -> Vec<Stale> {
        let whose = Whose::of(all.iter().map(|snapshot| &snapshot.manifest), None, &TimeZone::UTC);
        let key = RunKey { host: "mx1".to_owned(), run: None };
        let age = Span(Duration::from_secs(2000));
        stale(all, &whose, &key, names.iter().copied(), age, Time::new(now, 0))
    }

    fn row(name: &str, last: Option<i64>) -> Stale {
        Stale { component: name.to_owned(), last: last.map(|last| Time::new(last, 0)), suspicion: None }
    }

    #[test]
    fn only_a_whole_backup_of_this_machine_counts() {
        let all = [
            snapshot(1000, "mx1", &[("mail", Status::Complete), ("mysql", Status::Complete)]),
            snapshot(5000, "mx1", &[("mail", Status::Complete), ("mysql", Status::Failed)]),
            snapshot(5001, "mx2", &[("mysql", Status::Complete)]),
        ];
        let found = look(&all, &["mail", "mysql", "dkim"], 6000);
        assert_eq!(found, [row("mysql", Some(1000)), row("dkim", None)]);
        assert_eq!(look(&all, &["mail"], 7000), []);
        assert_eq!(look(&all, &["mail"], 0), [], "a clock that was set back is no alarm");
        let wrong = snapshot(900_000, "mx1", &[("mail", Status::Complete)]);
        let all = [&all[..], &[wrong]].concat();
        let found = look(&all, &["mail"], 9000);
        assert_eq!(found, [row("mail", Some(5000))], "one that is dated in the future hides nothing");
    }

    #[test]
    fn a_suspect_component_is_stale_and_says_why_as_long_as_backups_go_on() {
        let mut suspect = snapshot(5000, "mx1", &[("mail", Status::Complete)]);
        let why = facts::Suspect { component: "mail".to_owned(), reason: "nothing is there".to_owned() };
        suspect.manifest.set_fact(facts::SUSPECTS, wire::encode(&vec![why]).unwrap());
        let mut all = vec![snapshot(1000, "mx1", &[("mail", Status::Complete)]), suspect];
        let why = |found: &[Stale]| found.iter().map(|row| row.suspicion.clone()).collect::<Vec<_>>();
        assert_eq!(look(&all, &["mail"], 6000)[0].last, Some(Time::new(1000, 0)));
        assert_eq!(why(&look(&all, &["mail"], 6000)), [Some("nothing is there".to_owned())]);
        assert_eq!(why(&look(&all, &["mail"], 9000)), [None], "no backup was made since");
        let accepted = wire::encode(&vec!["mail".to_owned()]).unwrap();
        all[1].manifest.set_fact(facts::ACCEPTED, accepted);
        assert_eq!(look(&all, &["mail"], 6000), []);
    }
}
