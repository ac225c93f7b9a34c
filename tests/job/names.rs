//! Names of days and weeks: at the ends of years, and on the days when clocks change.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use snap::base::id::SnapshotId;
use snap::base::time::Time;
use snap::repo::Snapshot;
use snap::repo::scope::Asked;
use snap::repo::select::{Naming, dates};
use snap::stage::snapshot::Manifest;

use crate::place::Place;

/// Central Europe: clocks go forward on the last Sunday of March, back on that of October.
fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("is a zone")
}

fn at(utc: &str, tag: &str, number: u8) -> Snapshot {
    let time: Timestamp = utc.parse().expect("is a time");
    let manifest = Manifest {
        time: Time::new(time.as_second(), 0),
        host: "mx1".to_owned(),
        tags: vec![tag.to_owned()],
        ..Manifest::default()
    };
    Snapshot { id: SnapshotId::from_bytes([number; 32]), manifest }
}

fn name(utc: &str, tag: &str, zone: &TimeZone) -> String {
    dates(&at(utc, tag, 1), zone).pop().expect("there is a name besides the tag")
}

#[test]
fn weeks_at_the_ends_of_years_are_those_of_iso_8601() {
    let utc = TimeZone::UTC;
    for (day, week) in [
        ("2025-12-28", "2025-week-52"),
        ("2025-12-29", "2026-week-01"),
        ("2026-01-01", "2026-week-01"),
        ("2026-12-31", "2026-week-53"),
        ("2027-01-03", "2026-week-53"),
        ("2027-01-04", "2027-week-01"),
        ("2024-12-30", "2025-week-01"),
        ("2023-01-01", "2022-week-52"),
        ("2025-11-09", "2025-week-45"),
    ] {
        assert_eq!(name(&format!("{day}T04:00:00Z"), "weekly", &utc), format!("weekly/{week}"), "{day}");
    }
}

#[test]
fn the_day_is_that_of_the_clock_on_the_wall() {
    let tokyo = TimeZone::posix("JST-9").expect("is a zone");
    assert_eq!(name("2025-11-06T18:00:00Z", "daily", &tokyo), "daily/2025-11-07", "three at night in Tokyo");
    assert_eq!(name("2025-12-31T18:00:00Z", "daily", &tokyo), "daily/2026-01-01");
    assert_eq!(name("2025-12-28T19:00:00Z", "weekly", &tokyo), "weekly/2026-week-01", "Monday there already");
}

#[test]
fn on_the_two_days_when_clocks_change_each_day_has_its_name() {
    let zone = berlin();
    // 2026-03-29: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00, and 02:30 comes twice.
    for (utc, day) in [
        ("2026-03-28T22:59:59Z", "2026-03-28"),
        ("2026-03-28T23:00:00Z", "2026-03-29"),
        ("2026-03-29T00:59:59Z", "2026-03-29"),
        ("2026-03-29T01:00:00Z", "2026-03-29"),
        ("2026-03-29T21:59:59Z", "2026-03-29"),
        ("2026-03-29T22:00:00Z", "2026-03-30"),
        ("2026-10-24T21:59:59Z", "2026-10-24"),
        ("2026-10-25T00:30:00Z", "2026-10-25"),
        ("2026-10-25T01:30:00Z", "2026-10-25"),
        ("2026-10-25T22:59:59Z", "2026-10-25"),
        ("2026-10-25T23:00:00Z", "2026-10-26"),
    ] {
        assert_eq!(name(utc, "daily", &zone), format!("daily/{day}"), "{utc}");
    }
    // Both runs of the night whose 02:30 comes twice stay reachable, the later one by the day's name.
    let all = [at("2026-10-25T00:30:00Z", "daily", 1), at("2026-10-25T01:30:00Z", "daily", 2)];
    let clock = || Time::new(1_900_000_000, 0);
    let naming = Naming { configured: None, asked: Asked::default(), zone, clock };
    let names = naming.names(&all);
    let named = |spec: &str| all[names.select(spec).expect("is there").at].id;
    assert_eq!(named("daily/2026-10-25"), all[1].id);
    assert_eq!(named("daily/2026-10-25~1"), all[0].id);
    assert_eq!(named(&all[0].id.to_string()), all[0].id);
}

#[test]
fn two_runs_in_a_day_both_stay_reachable() {
    let place = Place::with_mail(2);
    let id = |time: &str| {
        place.backup(&["--daily", "--time", time]).1["snapshot"].as_str().expect("text").to_owned()
    };
    let (first, second) = (id("2025-11-07T03:00"), id("2025-11-07T15:00"));
    let meant = |spec: &str| {
        place.json(&["find", "cur", "--snapshot", spec])["snapshot"].as_str().expect("text").to_owned()
    };
    assert_eq!((meant("daily/2025-11-07"), meant("latest")), (second.clone(), second));
    assert_eq!((meant("daily/2025-11-07~1"), meant(&first[..8])), (first.clone(), first));
}

/// What failed in the night is backed up by itself in the morning: the day still has all its mail.
#[test]
fn a_component_by_itself_does_not_take_the_name_of_its_day() {
    let mut place = Place::with_mail(2);
    place.rest += "[[component]]\nname = \"mysql\"\n[[component.stream]]\nname = \"a.sql\"\ncommand = [\"echo\", \"x\"]\n";
    let id = |arguments: &[&str]| place.backup(arguments).1["snapshot"].as_str().expect("text").to_owned();
    let whole = id(&["--daily", "--time", "2025-11-07T03:00"]);
    let part = id(&["--daily", "--component", "mysql", "--time", "2025-11-07T09:00"]);
    let meant = |spec: &str| {
        place.json(&["find", "a.sql", "--snapshot", spec])["snapshot"].as_str().expect("text").to_owned()
    };
    for name in ["daily/2025-11-07", "latest", "daily", "before:2025-11-08"] {
        assert_eq!(meant(name), whole, "{name}");
    }
    assert_eq!(meant(&part[..8]), part);
    let again = id(&["--daily", "--time", "2025-11-07T10:00"]);
    assert_eq!(meant("daily/2025-11-07"), again, "as much, and newer");
}

#[test]
fn the_program_takes_its_time_zone_from_the_environment() {
    let place = Place::with_mail(1);
    place.write_config();
    let mut command =
        place.command(&["--json", "backup", "--daily", "--weekly", "--time", "2025-12-28T19:00:00Z"]);
    assert!(command.env("TZ", "JST-9").status().expect("runs").success());
    for (zone, spec, is_there) in [
        ("JST-9", "daily/2025-12-29", true),
        ("JST-9", "weekly/2026-week-01", true),
        ("UTC0", "daily/2025-12-28", true),
        ("UTC0", "daily/2025-12-29", false),
    ] {
        let found = place.command(&["ls", spec]).env("TZ", zone).output().expect("runs");
        assert_eq!(found.status.success(), is_there, "{zone} {spec}");
    }
}
