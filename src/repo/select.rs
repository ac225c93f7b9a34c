//! Names that people give snapshots: an id's start, `latest`, a tag, `daily/2025-11-07`, `weekly/2025-week-45`,
//! `before:2025-11-07T12:00`, each with `~N`.
//!
//! Names stand for nights of one configuration of one host, and never for one from the future; only an id
//! stands for any snapshot there is. No name that has several meanings is guessed: it is refused with a list.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::base::time::Time;
use crate::repo::scope::{Asked, Scope};
use crate::repo::whose::{Configured, Whose, is_ahead};
use crate::repo::{RepoError, Snapshot};

/// When the year 0 began, in seconds: earlier years need a sign.
const YEAR_0: i64 = -62_167_219_200;

/// Fewest hex digits that name a snapshot.
const PREFIX_DIGITS_MIN: usize = 4;

/// Hex digits of an id that people are shown.
const SHOWN_DIGITS: usize = 8;

/// Begins the name of the newest night that is older than a time.
pub const BEFORE: &str = "before:";

/// Tags whose snapshots have the date in their names.
pub const DATED_TAGS: [&str; 2] = ["daily", "weekly"];

/// What names go by, besides the snapshots that there are.
#[derive(Clone)]
pub struct Naming {
    /// The configuration at hand.
    pub configured: Option<Configured>,
    /// What was asked for of whose snapshots are meant.
    pub asked: Asked,
    /// Whose days and weeks are meant.
    pub zone: TimeZone,
    /// The clock.
    pub clock: fn() -> Time,
}

impl Naming {
    /// Looks at all snapshots, which are sorted by time. Linear in their number.
    pub fn names<'s>(&self, all: &'s [Snapshot]) -> Names<'s> {
        let manifests = all.iter().map(|snapshot| &snapshot.manifest);
        let whose = Whose::of(manifests, self.configured.as_ref(), &self.zone);
        let scope = Scope::new(&whose, &self.asked);
        let (zone, now) = (self.zone.clone(), (self.clock)());
        let mut names = Names { all, whose, zone, now, scope, is_clock_wrong: false };
        names.is_clock_wrong = names.scope.as_ref().is_ok_and(|scope| {
            let own = |at: &usize| scope.has_any(names.whose.number(*at));
            let mut own = (0..all.len()).filter(own).peekable();
            own.peek().is_some() && own.all(|at| names.is_ahead(at))
        });
        names
    }
}

/// How a snapshot was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By its id: it is meant as it is.
    Id,
    /// By its day.
    Day,
    /// By another name.
    Name,
}

/// A snapshot that a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its place among all snapshots.
    pub at: usize,
    /// How it was named.
    pub by: By,
}

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name<'n> {
    Latest,
    Day(Date),
    Week {
        year: i16,
        week: i8,
    },
    Before(Time),
    /// A tag, or an id's start.
    Word(&'n str),
}

/// All snapshots, and what their names stand for.
pub struct Names<'s> {
    /// The snapshots, sorted by time.
    pub all: &'s [Snapshot],
    /// Whose they are.
    pub whose: Whose,
    pub(in crate::repo) zone: TimeZone,
    now: Time,
    scope: Result<Scope, String>,
    is_clock_wrong: bool,
}

impl<'s> Names<'s> {
    /// Returns the snapshot that a name stands for.
    ///
    /// # Errors
    /// [`RepoError::NoSnapshot`] if there is none, or more than one.
    pub fn select(&self, spec: &str) -> Result<Chosen, RepoError> {
        self.chosen(spec).map_err(|what| RepoError::NoSnapshot { spec: spec.to_owned(), what })
    }

    fn chosen(&self, spec: &str) -> Result<Chosen, String> {
        if self.all.is_empty() {
            return Err("the repository has no snapshots".to_owned());
        }
        let (name, back) = match spec.split_once('~') {
            None => (spec, 0),
            Some((name, "")) => (name, 1),
            Some((name, count)) => {
                (name, count.parse().map_err(|_| format!("\"~{count}\" is not a number of snapshots"))?)
            }
        };
        let parsed = Name::parse(name, &self.zone)?;
        if let Name::Word(word) = parsed
            && let Some(at) = self.by_id(word)?
        {
            return match back {
                0 => Ok(Chosen { at, by: By::Id }),
                _ => Err("an id stands for one snapshot: no other comes before it by that name".to_owned()),
            };
        }
        let places = self.places(parsed, self.scope.as_ref().map_err(Clone::clone)?);
        let last = places.len().checked_sub(1).ok_or_else(|| self.nothing(parsed))?;
        let place = last.checked_sub(back).and_then(|place| places.get(place));
        let by = if matches!(parsed, Name::Day(_)) { By::Day } else { By::Name };
        let at = place.ok_or_else(|| match last {
            0 => format!("{name} stands for one snapshot alone"),
            _ => format!("{name} stands for {} snapshots: there are only {last} before the newest", last + 1),
        })?;
        Ok(Chosen { at: *at, by })
    }

    /// Returns the snapshot whose id starts with `word`, if that can be an id's start.
    fn by_id(&self, word: &str) -> Result<Option<usize>, String> {
        let is_prefix =
            word.len() >= PREFIX_DIGITS_MIN && word.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if !is_prefix {
            return Ok(None);
        }
        let is_tag = || self.all.iter().any(|snapshot| has_tag(snapshot, word));
        let mut matching = (0..self.all.len()).filter(|at| self.all[*at].id.to_string().starts_with(word));
        match (matching.next(), matching.count()) {
            (None, _) if is_tag() => Ok(None),
            (None, _) => Err("no snapshot's id starts so".to_owned()),
            (Some(_), 0) if is_tag() => {
                Err("is a tag, and a snapshot's id starts so: give more digits".to_owned())
            }
            (Some(at), 0) => Ok(Some(at)),
            (Some(_), more) => Err(format!("{} snapshots' ids start so; give more digits", more + 1)),
        }
    }

    /// Returns the places of all that a name selects, the newest last.
    fn places(&self, name: Name<'_>, scope: &Scope) -> Vec<usize> {
        let counts = |at: &usize| !self.is_from_the_future(*at);
        let own = || (0..self.all.len()).filter(|at| scope.has(self.whose.number(*at))).filter(counts);
        let mut nights: Vec<usize> = own().filter(|at| self.whose.is_night(*at)).collect();
        if nights.is_empty() && !scope.is_configured() {
            nights = own().collect(); // streams by hand alone: there is no night that they could displace
        }
        nights.retain(|at| self.is_meant(name, *at));
        match name {
            Name::Word(tag) if nights.is_empty() && !DATED_TAGS.contains(&tag) => {
                let any = (0..self.all.len()).filter(|at| scope.has_any(self.whose.number(*at)));
                any.filter(counts).filter(|at| has_tag(&self.all[*at], tag)).collect()
            }
            _ => nights,
        }
    }

    /// Returns whether a name speaks of a snapshot, whosever it is.
    fn is_meant(&self, name: Name<'_>, at: usize) -> bool {
        let snapshot = &self.all[at];
        let day = || zoned(snapshot.manifest.time, &self.zone).date();
        match name {
            Name::Latest => true,
            Name::Day(date) => has_tag(snapshot, DATED_TAGS[0]) && day() == date,
            Name::Week { year, week } => {
                let own = || day().iso_week_date();
                has_tag(snapshot, DATED_TAGS[1]) && (own().year(), own().week()) == (year, week)
            }
            Name::Before(time) => snapshot.manifest.time < time,
            Name::Word(tag) => has_tag(snapshot, tag),
        }
    }

    /// Says that a name stands for nothing, and what comes nearest to it.
    fn nothing(&self, name: Name<'_>) -> String {
        let mut near = (0..self.all.len()).rev().filter(|at| self.is_meant(name, *at));
        let Some(at) = near.next() else {
            return match name {
                Name::Before(_) => "no snapshot is older".to_owned(),
                Name::Word(word) if word.contains('/') => {
                    "no snapshot has that name or tag (days are written daily/2025-11-07, weeks weekly/2025-week-45)".to_owned()
                }
                Name::Word(_) => {
                    "no snapshot has that name or tag (an id needs 4 hex digits at least)".to_owned()
                }
                _ => "no snapshot has that name".to_owned(),
            };
        };
        let key = self.whose.key(at).map(ToString::to_string).unwrap_or_default();
        let is_own = self.scope.as_ref().is_ok_and(|scope| scope.has(self.whose.number(at)));
        let why = match (self.is_from_the_future(at), is_own) {
            (true, _) => "is dated in the future".to_owned(),
            (false, true) => "is of some components alone, or a stream".to_owned(),
            (false, false) => format!("is of {key}"),
        };
        let more = match near.count() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        format!("no night has that name; {} {why}: name it by its id{more}", self.shown(at))
    }

    /// Returns whether a snapshot is dated more than a day ahead of the clock.
    pub fn is_ahead(&self, at: usize) -> bool {
        self.all.get(at).is_some_and(|snapshot| is_ahead(snapshot.manifest.time, self.now))
    }

    /// Returns whether a snapshot is dated in the future, and the clock is not what is wrong.
    pub fn is_from_the_future(&self, at: usize) -> bool {
        self.is_ahead(at) && !self.is_clock_wrong
    }

    /// Says that the clock is wrong if all snapshots that are meant are dated in the future.
    pub fn clock_remark(&self) -> Option<String> {
        let now = zoned(self.now, &self.zone).strftime("%Y-%m-%d %H:%M").to_string();
        self.is_clock_wrong.then(|| {
            format!("all snapshots here are dated in the future: this machine's clock, which says {now}, seems to be wrong")
        })
    }

    /// Returns the places of the nights that are meant, oldest first.
    ///
    /// # Errors
    /// That it is not known whose snapshots are meant, with a list.
    pub fn nights(&self) -> Result<Vec<usize>, String> {
        self.scope.as_ref().map(|scope| self.places(Name::Latest, scope)).map_err(Clone::clone)
    }

    /// Returns whether a snapshot is of those whose names are meant; all are if that is not known.
    pub fn is_own(&self, at: usize) -> bool {
        self.scope.as_ref().map_or(true, |scope| scope.has_any(self.whose.number(at)))
    }

    /// Returns a snapshot's id and time, as people are shown them.
    pub fn shown(&self, at: usize) -> String {
        let Some(snapshot) = self.all.get(at) else { return String::new() };
        let mut id = snapshot.id.to_string();
        id.truncate(SHOWN_DIGITS);
        let time = zoned(snapshot.manifest.time, &self.zone).strftime("%Y-%m-%d %H:%M").to_string();
        format!("{id} of {time}")
    }
}

impl<'n> Name<'n> {
    fn parse(name: &'n str, zone: &TimeZone) -> Result<Self, String> {
        if let Some(text) = name.strip_prefix(BEFORE) {
            let date = || Date::strptime("%Y-%m-%d", text).map(DateTime::from);
            let time = DateTime::strptime("%Y-%m-%dT%H:%M", text).or_else(|_| date());
            let moment = time.and_then(|time| time.to_zoned(zone.clone())).map(|at| at.timestamp());
            let moment =
                moment.map_err(|_| "is no time such as before:2025-11-07 or before:2025-11-07T12:00")?;
            return Ok(Self::Before(Time::new(moment.as_second(), 0)));
        }
        if let Some(date) = name.strip_prefix("daily/").and_then(|day| Date::strptime("%Y-%m-%d", day).ok()) {
            return Ok(Self::Day(date));
        }
        let week = name.strip_prefix("weekly/").and_then(|week| week.split_once("-week-"));
        if let Some((Ok(year), Ok(week))) = week.map(|(year, week)| (year.parse(), week.parse())) {
            return Ok(Self::Week { year, week });
        }
        Ok(if name == "latest" { Self::Latest } else { Self::Word(name) })
    }
}

fn has_tag(snapshot: &Snapshot, tag: &str) -> bool {
    snapshot.manifest.tags.iter().any(|own| own == tag)
}

/// Returns whether a text means something else where snapshots are named, and so can't be a tag.
pub fn is_reserved(text: &str) -> bool {
    let is_dated =
        || DATED_TAGS.iter().any(|tag| text.strip_prefix(tag).is_some_and(|rest| rest.starts_with('/')));
    text == "latest"
        || text.starts_with(BEFORE)
        || text.bytes().all(|digit| digit.is_ascii_hexdigit())
        || is_dated()
}

/// Returns where the name ends in `SNAP:PATH`: at the first colon that is not one of `before:DATE` or of its time.
pub fn name_length(place: &[u8]) -> usize {
    let colon = |from: usize| place.iter().skip(from).position(|byte| *byte == b':').map(|at| from + at);
    let end = |from: usize| colon(from).unwrap_or(place.len());
    if !place.starts_with(BEFORE.as_bytes()) {
        return end(0);
    }
    let first = end(BEFORE.len());
    let has_hour = place[BEFORE.len()..first].contains(&b'T');
    let minute = place.get(first + 1..first + 3).is_some_and(|it| it.iter().all(u8::is_ascii_digit));
    let is_over = place.get(first + 3).is_none_or(|byte| matches!(byte, b':' | b'~'));
    if has_hour && minute && is_over { end(first + 3) } else { first }
}

/// Returns the names of a snapshot by its date: `daily/DATE` or `weekly/YEAR-week-NN` (ISO 8601) for
/// those tagged so.
pub fn dates(snapshot: &Snapshot, zone: &TimeZone) -> Vec<String> {
    let at = zoned(snapshot.manifest.time, zone);
    let mut names = Vec::new();
    if has_tag(snapshot, DATED_TAGS[0]) {
        names.push(format!("daily/{}", at.date()));
    }
    if has_tag(snapshot, DATED_TAGS[1]) {
        let week = at.date().iso_week_date();
        names.push(format!("weekly/{}-week-{:02}", week.year(), week.week()));
    }
    names
}

/// Returns a moment as people read it in a time zone: `2026-01-05 03:00:12`. One that no time zone knows is in UTC, and
/// says so: `+012345-06-07 08:09:10Z`.
pub fn shown(time: Time, zone: &TimeZone) -> String {
    match timestamp(time).filter(|_| time.seconds >= YEAR_0) {
        Some(at) => at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => {
            let (day, time) = time.utc();
            format!("{day} {time}Z")
        }
    }
}

/// Returns a moment as RFC 3339 says it, UTC; a year that it does not know as ISO 8601 says it.
pub fn rfc3339(time: Time) -> String {
    timestamp(time).map_or_else(
        || {
            let (day, time) = time.utc();
            format!("{day}T{time}Z")
        },
        |at| at.to_string(),
    )
}

fn timestamp(time: Time) -> Option<Timestamp> {
    Timestamp::new(time.seconds, i32::try_from(time.nanos).ok()?).ok()
}

/// Returns a moment in a time zone; the epoch for one that no time zone knows.
pub fn zoned(time: Time, zone: &TimeZone) -> Zoned {
    timestamp(time).unwrap_or_default().to_zoned(zone.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::SnapshotId;
    use crate::stage::snapshot::{Component, Manifest, Status, facts};

    /// 2025-11-07 03:00 UTC, a Friday.
    const NIGHT: i64 = 1_762_484_400;
    const DAY: i64 = 86_400;

    fn clock() -> Time {
        Time::new(NIGHT + 10 * DAY, 0)
    }

    /// What a run made: its configuration, if it is a night, its tags and host.
    struct Made<'m>(Option<&'m str>, bool, &'m [&'m str], &'m str);

    const NIGHTLY: Made<'_> = Made(Some("mailserver"), true, &["daily"], "mx1");

    /// Returns a snapshot whose id's digits are all those of `number`, which is less than 16.
    fn snapshot(number: u8, seconds: i64, made: &Made<'_>) -> Snapshot {
        let Made(run, is_night, tags, host) = made;
        let component = Component {
            name: "mail".to_owned(),
            directory: b"mail".to_vec(),
            sources: vec![b"/mail".to_vec()],
            status: Status::Complete,
            attempts: 1,
            files: 1,
            bytes: 1,
        };
        let mut manifest = Manifest {
            time: Time::new(seconds, 0),
            host: (*host).to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            components: vec![component],
            ..Manifest::default()
        };
        manifest.set_fact(facts::NIGHT, vec![u8::from(*is_night)]);
        run.iter().for_each(|run| manifest.set_fact(facts::RUN, run.as_bytes().to_vec()));
        Snapshot { id: SnapshotId::from_bytes([number * 17; 32]), manifest }
    }

    fn configured(name: &str) -> Configured {
        let components = vec![("mail".to_owned(), vec![b"/mail".to_vec()])];
        Configured { host: "mx1".to_owned(), name: name.to_owned(), is_named: true, components }
    }

    /// Returns the first digit of the snapshot that a name stands for, or what is said instead.
    fn named(all: &[Snapshot], own: Option<&str>, asked: &Asked, spec: &str) -> String {
        let configured = own.map(configured);
        let naming = Naming { configured, asked: asked.clone(), zone: TimeZone::UTC, clock };
        match naming.names(all).select(spec) {
            Ok(chosen) => all[chosen.at].id.to_string()[..1].to_owned(),
            Err(error) => error.to_string(),
        }
    }

    fn own(all: &[Snapshot], spec: &str) -> String {
        named(all, Some("mailserver"), &Asked::default(), spec)
    }

    /// Three nights with a stream by hand, a part and another configuration's night after each, and a weekly one.
    fn scene() -> Vec<Snapshot> {
        let others = [
            NIGHTLY,
            Made(None, false, &["sql"], "mx1"),
            Made(Some("mailserver"), false, &["daily"], "mx1"),
            Made(Some("blog"), true, &["daily"], "mx1"),
        ];
        let day = |day: u8| {
            let row = |(at, made): (u8, &Made<'_>)| {
                snapshot(4 * day + at, NIGHT + i64::from(day) * DAY + i64::from(at) * 60, made)
            };
            (0..4).zip(&others).map(row).collect::<Vec<_>>()
        };
        let mut all: Vec<Snapshot> = (0..3).flat_map(day).collect();
        all.push(snapshot(12, NIGHT + 3 * DAY, &Made(Some("mailserver"), true, &["weekly"], "mx1")));
        all
    }

    #[test]
    fn names_stand_for_nights_of_the_configuration_at_hand() {
        let all = scene();
        for (spec, meant) in [
            ("latest", "c"),
            ("latest~1", "8"),
            ("daily", "8"),
            ("daily~2", "0"),
            ("weekly", "c"),
            ("daily/2025-11-08", "4"),
            ("weekly/2025-week-46", "c"),
            ("before:2025-11-08", "0"),
            ("before:2025-11-08T03:00", "0"),
            ("before:2025-11-08T03:01", "4"),
            ("before:2025-11-20~1", "8"),
            ("sql", "9"),
            ("sql~2", "1"),
            ("2222", "2"),
            ("7777", "7"),
        ] {
            assert_eq!(own(&all, spec), meant, "{spec}");
        }
        let blog = Asked { run: Some("blog".to_owned()), host: None };
        assert_eq!(named(&all, Some("mailserver"), &blog, "latest"), "b");
        assert_eq!(named(&all, None, &blog, "daily~1"), "7");
        assert_eq!(named(&all, Some("blog"), &Asked::default(), "daily/2025-11-07"), "3");
    }

    #[test]
    fn what_no_name_stands_for_is_said_with_what_comes_near() {
        let all = scene();
        for (spec, said) in [
            ("daily~3", "there are only 2 before the newest"),
            ("daily/2025-11-07~1", "stands for one snapshot alone"),
            ("daily~x", "not a number"),
            ("daily/2025-11-20", "no snapshot has that name"),
            ("daily/monday", "days are written"),
            ("before:2025-11-07", "no snapshot is older"),
            ("before:yesterday", "is no time such as"),
            ("before:2025-11-07T3", "is no time such as"),
            ("nothing", "no snapshot has that name or tag"),
            ("dddd", "no snapshot's id starts so"),
            ("0000~1", "an id stands for one snapshot"),
        ] {
            let found = own(&all, spec);
            assert!(found.contains(said), "{spec}: {found}");
        }
        let parts = [snapshot(1, NIGHT, &Made(Some("mailserver"), false, &["daily"], "mx1"))];
        assert!(own(&parts, "daily").contains("11111111 of 2025-11-07 03:00 is of some components alone"));
        assert!(own(&[], "latest").contains("the repository has no snapshots"));
    }

    #[test]
    fn several_machines_or_configurations_are_not_guessed_among() {
        let all = scene();
        let found = named(&all, None, &Asked::default(), "latest");
        assert!(found.contains("blog on mx1 (3 snapshots), mailserver on mx1 (7 snapshots)"), "{found}");
        assert_eq!(named(&all, None, &Asked::default(), "5555"), "5", "an id is one snapshot's");
        let other = Made(Some("mailserver"), true, &["daily"], "mx2");
        let all = [all, vec![snapshot(13, NIGHT + 4 * DAY, &other)]].concat();
        let asked = |run: Option<&str>, host: Option<&str>| Asked {
            run: run.map(str::to_owned),
            host: host.map(str::to_owned),
        };
        assert_eq!(own(&all, "latest"), "c");
        assert_eq!(named(&all, None, &asked(None, Some("mx2")), "latest"), "d");
        assert_eq!(named(&all, Some("mailserver"), &asked(None, Some("mx2")), "latest"), "d");
        assert_eq!(named(&all, Some("mailserver"), &asked(None, Some("any")), "latest"), "d");
        assert_eq!(named(&all, None, &asked(Some("mailserver"), Some("any")), "latest~1"), "c");
        for (asked, said) in [
            (asked(Some("mailserver"), None), "mailserver on mx1"),
            (asked(None, Some("mx1")), "blog on mx1"),
            (asked(None, Some("any")), "blog on mx1"),
            (asked(Some("nobody"), None), "no snapshot is of nobody"),
            (asked(None, Some("mx3")), "no snapshot is of mx3"),
        ] {
            let found = named(&all, None, &asked, "latest");
            assert!(found.contains(said), "{asked:?}: {found}");
        }
        let lost = named(&all, Some("other"), &Asked::default(), "latest");
        assert!(lost.contains("no snapshot is of other on mx1; there are those of blog on mx1"), "{lost}");
    }

    #[test]
    fn without_a_configuration_what_is_made_by_hand_has_names() {
        let by_hand = |number: u8, is_night: bool, tags: &[&str]| {
            snapshot(number, NIGHT + i64::from(number) * DAY, &Made(None, is_night, tags, "mx1"))
        };
        let all = [by_hand(0, true, &["daily"]), by_hand(1, true, &["daily"]), by_hand(2, false, &["sql"])];
        for own in [None, Some("never-run")] {
            let named = |spec: &str| named(&all, own, &Asked::default(), spec);
            assert_eq!(["latest", "daily~1", "sql"].map(named), ["1", "0", "2"]);
        }
        let streams = [by_hand(1, false, &["sql"]), by_hand(2, false, &["sql"])];
        assert_eq!(
            named(&streams, None, &Asked::default(), "latest~1"),
            "1",
            "there is no night to displace"
        );
        let mixed = [&all[..], &[snapshot(5, NIGHT, &NIGHTLY)]].concat();
        assert_eq!(named(&mixed, None, &Asked::default(), "latest"), "5", "a configuration counts");
        assert_eq!(named(&mixed, None, &Asked::default(), "sql"), "2");
    }

    #[test]
    fn a_snapshot_from_the_future_is_named_by_its_id_alone() {
        let mut all = vec![snapshot(0, NIGHT, &NIGHTLY), snapshot(1, NIGHT + 12 * DAY, &NIGHTLY)];
        assert_eq!(["latest", "daily", "1111"].map(|spec| own(&all, spec)), ["0", "0", "1"]);
        let found = own(&all, "daily/2025-11-19");
        assert!(found.contains("11111111 of 2025-11-19 03:00 is dated in the future"), "{found}");
        // A machine whose clock is wrong has none but such.
        all.remove(0);
        let naming = Naming {
            configured: Some(configured("mailserver")),
            asked: Asked::default(),
            zone: TimeZone::UTC,
            clock,
        };
        let names = naming.names(&all);
        assert!(names.select("daily/2025-11-19").is_ok() && names.is_ahead(0));
        assert!(names.clock_remark().is_some_and(|what| what.contains("says 2025-11-17 03:00")));
    }

    #[test]
    fn a_tag_of_hex_digits_from_before_is_found_unless_it_is_an_id_too() {
        let tagged = |number: u8, tag: &str| {
            snapshot(number, NIGHT + i64::from(number), &Made(Some("mailserver"), true, &[tag], "mx1"))
        };
        let all = [tagged(1, "beef"), tagged(2, "1111")];
        assert_eq!(own(&all, "beef"), "1");
        assert!(own(&all, "1111").contains("is a tag, and a snapshot's id starts so"));
        assert_eq!(own(&all, "11111"), "1");
    }

    #[test]
    fn what_means_something_else_is_no_tag() {
        let reserved = ["latest", "daily/2025-11-07", "weekly/x", "before:2025-11-07", "beef", "2025", "A1"];
        assert!(reserved.iter().all(|text| is_reserved(text)));
        assert!(
            !["daily", "weekly", "sql", "keep", "a/b", "beefy", "dailyx"]
                .iter()
                .any(|text| is_reserved(text))
        );
    }

    #[test]
    fn a_name_with_a_time_is_parted_from_the_path_after_it() {
        for (place, name) in [
            ("latest:mail/a:b", "latest"),
            ("daily~1", "daily~1"),
            ("daily/2025-11-07:12:00", "daily/2025-11-07"),
            ("before:2025-11-07:mail", "before:2025-11-07"),
            ("before:2025-11-07:12:00", "before:2025-11-07"),
            ("before:2025-11-07T12:00:mail", "before:2025-11-07T12:00"),
            ("before:2025-11-07T12:00", "before:2025-11-07T12:00"),
            ("before:2025-11-07T12:00~2:m", "before:2025-11-07T12:00~2"),
            ("before:2025-11-07~1:T12", "before:2025-11-07~1"),
            ("before:2025-11-07T12:mail", "before:2025-11-07T12"),
            ("before:", "before:"),
            ("before", "before"),
            (":mail", ""),
        ] {
            assert_eq!(&place[..name_length(place.as_bytes())], name, "{place}");
        }
    }

    #[test]
    fn far_times_are_shown_as_they_are() {
        let berlin = TimeZone::fixed(jiff::tz::offset(1));
        let both = |seconds| (shown(Time::new(seconds, 0), &berlin), rfc3339(Time::new(seconds, 0)));
        let is = |text: &str, utc: &str| (text.to_owned(), utc.to_owned());
        assert_eq!(both(-1), is("1970-01-01 00:59:59", "1969-12-31T23:59:59Z"));
        assert_eq!(both(-62_135_596_800), is("0001-01-01 01:00:00", "0001-01-01T00:00:00Z"));
        assert_eq!(both(253_402_300_800), is("+010000-01-01 00:00:00Z", "+010000-01-01T00:00:00Z"));
        assert_eq!(both(i64::MAX), is("+292277026596-12-04 15:30:07Z", "+292277026596-12-04T15:30:07Z"));
        assert_eq!(both(i64::MIN).1, "-292277022657-01-27T08:29:52Z");
        assert_eq!(rfc3339(Time::new(-2, 500_000_000)), "1969-12-31T23:59:58.5Z");
    }
}
