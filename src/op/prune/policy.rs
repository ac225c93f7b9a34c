//! Snapshots → which of them stay, and by which rule. Deletes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Zoned};

use crate::base::id::SnapshotId;
use crate::base::time::Time;
use crate::repo::Snapshot;
use crate::repo::select::zoned;
use crate::repo::whose::{RunKey, Whose, is_ahead};
use crate::stage::snapshot::{Component, Manifest, Status};

/// A snapshot with this tag is pinned: no policy removes it.
pub const PIN: &str = "keep";

/// How far, in seconds, one snapshot takes the time from which ages count beyond the snapshot before
/// it: a clock that is ahead for one night costs no more than so much.
const STRIDE_MAX: i64 = 2 * 86_400;

/// Snapshots that carry a tag stay for a span of time.
#[derive(Clone, Debug)]
pub struct TagSpan {
    /// The tag.
    pub tag: String,
    /// How long. Days, months and years are those of the calendar.
    pub span: Span,
}

/// Which snapshots stay. A snapshot stays if any rule keeps it.
///
/// Rules apply to the snapshots of one configuration and one set of components at a time. Ages are counted
/// from the newest snapshot of the configuration that shares a component with these, so that nothing expires
/// only because backups have stopped, and everything does when components are added or taken away; and from
/// no more than two days after the second newest, so that nothing expires only because a clock was ahead
/// once. Snapshots from the future stay, and no rule counts them.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The newest so many.
    pub keep_last: u32,
    /// One of each of the newest so many days that have snapshots.
    pub keep_daily: u32,
    /// One of each of the newest so many weeks (ISO 8601).
    pub keep_weekly: u32,
    /// One of each of the newest so many months.
    pub keep_monthly: u32,
    /// One of each of the newest so many years.
    pub keep_yearly: u32,
    /// All that are younger than this.
    pub keep_within: Option<Span>,
    /// All with one of these tags.
    pub keep_tags: Vec<String>,
    /// All with a tag for a span of time.
    pub tag_spans: Vec<TagSpan>,
}

/// The rule that keeps a snapshot.
#[derive(Clone, Debug)]
pub enum Reason {
    /// [`Policy::keep_last`].
    Last,
    /// [`Policy::keep_daily`].
    Daily,
    /// [`Policy::keep_weekly`].
    Weekly,
    /// [`Policy::keep_monthly`].
    Monthly,
    /// [`Policy::keep_yearly`].
    Yearly,
    /// [`Policy::keep_within`].
    Within(Span),
    /// [`Policy::keep_tags`].
    Tag(String),
    /// [`Policy::tag_spans`].
    TagSpan(TagSpan),
    /// It carries [`PIN`].
    Pinned,
    /// Nothing else keeps it, and no later snapshot holds this component whole.
    LastGood(String),
    /// It is dated more than a day after now: its age is not known.
    Ahead,
    /// No rule speaks of it.
    Unspoken,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.write_str("last"),
            Self::Daily => f.write_str("daily"),
            Self::Weekly => f.write_str("weekly"),
            Self::Monthly => f.write_str("monthly"),
            Self::Yearly => f.write_str("yearly"),
            Self::Within(span) => write!(f, "within {span:#}"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::TagSpan(rule) => write!(f, "tag {} for {:#}", rule.tag, rule.span),
            Self::Pinned => write!(f, "pinned (tag {PIN})"),
            Self::LastGood(component) => write!(f, "last good of {component}"),
            Self::Ahead => f.write_str("from the future"),
            Self::Unspoken => f.write_str("no rule speaks of it"),
        }
    }
}

/// What becomes of a snapshot.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It stays, by these rules; one at least.
    Kept(Vec<Reason>),
    /// No rule keeps it.
    Expired,
    /// It was named as one that is to go.
    Named,
}

impl Fate {
    /// Returns whether the snapshot stays.
    pub fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }
}

impl Policy {
    /// Returns whether there is no rule at all: nothing expires then.
    pub fn is_empty(&self) -> bool {
        !self.has_general_rule() && self.tag_spans.is_empty()
    }

    /// Returns whether the one rule is a number of snapshots: no clock has a say in that, and whoever
    /// gives it has said how many are to stay.
    pub fn is_a_number(&self) -> bool {
        self.keep_last > 0 && Self { keep_last: 0, ..self.clone() }.is_empty()
    }

    /// Returns whether a rule speaks of snapshots whatever their tags are. Without one, snapshots that
    /// carry no tag with a span are spoken of by nobody, and stay.
    fn has_general_rule(&self) -> bool {
        let counts = [self.keep_last, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly];
        counts.iter().any(|count| *count > 0) || self.keep_within.is_some() || !self.keep_tags.is_empty()
    }

    /// Judges `snapshots`, which are sorted by time. Days and weeks are those of `zone`. `named` are
    /// those that go whatever the rules say; they count for no rule.
    pub fn judge(
        &self,
        snapshots: &[Snapshot],
        named: &BTreeSet<SnapshotId>,
        now: Time,
        zone: &TimeZone,
    ) -> Vec<Fate> {
        let whose = Whose::of(snapshots.iter().map(|snapshot| &snapshot.manifest), None, zone);
        let rows = rows(snapshots, &whose, named, |_| true);
        let mut kept = self.reasons(&rows, now, zone);
        let fate = |(at, snapshot): (usize, &Snapshot)| match named.contains(&snapshot.id) {
            true => Fate::Named,
            false => kept.remove(&at).map_or(Fate::Expired, Fate::Kept),
        };
        snapshots.iter().enumerate().map(fate).collect()
    }

    /// Returns why each of `rows` stays, by its place; nothing of those that no rule keeps.
    pub fn reasons(&self, rows: &[Row<'_>], now: Time, zone: &TimeZone) -> BTreeMap<usize, Vec<Reason>> {
        // A number of snapshots asks no clock; and if all are ahead it is the clock that is wrong.
        let is_wrong = self.is_a_number() && rows.iter().all(|row| is_ahead(row.manifest.time, now));
        let now = if is_wrong { Time::new(i64::MAX, 0) } else { now };
        let (ahead, rows): (Vec<Row<'_>>, Vec<Row<'_>>) =
            rows.iter().partition(|row| is_ahead(row.manifest.time, now));
        let mut reasons: BTreeMap<usize, Vec<Reason>> =
            ahead.iter().map(|row| (row.at, vec![Reason::Ahead])).collect();
        let mut groups: BTreeMap<(&RunKey, BTreeSet<&str>), Vec<Row<'_>>> = BTreeMap::new();
        for row in rows.iter().rev() {
            let names = row.manifest.components.iter().map(|c| c.name.as_str()).collect();
            groups.entry((row.key, names)).or_default().push(*row);
        }
        for ((key, names), newest_first) in &groups {
            let shares = |row: &&Row<'_>| {
                let components = &row.manifest.components;
                let is_same = |name: &str| names.contains(name) || names.is_empty();
                row.key == *key && (components.is_empty() || components.iter().any(|c| is_same(&c.name)))
            };
            let times = rows.iter().rev().filter(shares).map(|row| row.manifest.time);
            let group = Group { newest_first, reference: reference(times, now), zone };
            self.judge_group(&group, &mut reasons);
        }
        keep_last_good(&rows, &mut reasons);
        reasons
    }

    fn judge_group(&self, group: &Group<'_>, reasons: &mut BTreeMap<usize, Vec<Reason>>) {
        let mut keep = |at: usize, reason: Reason| reasons.entry(at).or_default().push(reason);
        for row in group.newest_first.iter().take(self.keep_last as usize) {
            keep(row.at, Reason::Last);
        }
        group.keep_one_of_each(
            self.keep_daily,
            |date| (date.year(), date.day_of_year()),
            |at| keep(at, Reason::Daily),
        );
        let week = |date: Date| (date.iso_week_date().year(), i16::from(date.iso_week_date().week()));
        group.keep_one_of_each(self.keep_weekly, week, |at| keep(at, Reason::Weekly));
        group.keep_one_of_each(
            self.keep_monthly,
            |date| (date.year(), i16::from(date.month())),
            |at| keep(at, Reason::Monthly),
        );
        group.keep_one_of_each(self.keep_yearly, |date| (date.year(), 0), |at| keep(at, Reason::Yearly));
        for row in group.newest_first {
            let tags = &row.manifest.tags;
            if let Some(span) = self.keep_within
                && group.is_younger(row, span)
            {
                keep(row.at, Reason::Within(span));
            }
            let kept_tags = self.keep_tags.iter().filter(|tag| tags.contains(tag));
            kept_tags.for_each(|tag| keep(row.at, Reason::Tag(tag.clone())));
            let spoken = self.tag_spans.iter().filter(|rule| tags.contains(&rule.tag));
            let young = spoken.clone().filter(|rule| group.is_younger(row, rule.span));
            young.for_each(|rule| keep(row.at, Reason::TagSpan(rule.clone())));
            if tags.iter().any(|tag| tag == PIN) {
                keep(row.at, Reason::Pinned);
            }
            if spoken.count() == 0 && !self.has_general_rule() {
                keep(row.at, Reason::Unspoken);
            }
        }
    }
}

/// A snapshot that is judged.
#[derive(Clone, Copy)]
pub struct Row<'r> {
    /// Its place among all.
    pub at: usize,
    /// Its manifest.
    pub manifest: &'r Manifest,
    /// Whose it is.
    pub key: &'r RunKey,
}

/// Returns the snapshots, oldest first, that are not `named` and that are `wanted`.
pub fn rows<'r>(
    snapshots: &'r [Snapshot],
    whose: &'r Whose,
    named: &BTreeSet<SnapshotId>,
    wanted: impl Fn(&Manifest) -> bool,
) -> Vec<Row<'r>> {
    let all = snapshots.iter().enumerate().filter(|(_, it)| !named.contains(&it.id) && wanted(&it.manifest));
    all.filter_map(|(at, it)| Some(Row { at, manifest: &it.manifest, key: whose.key(at)? })).collect()
}

/// Returns the time from which ages count, as [`Policy`] says, given times from the newest on.
fn reference(mut newest_first: impl Iterator<Item = Time>, now: Time) -> Time {
    let newest = newest_first.next().unwrap_or(now).min(now);
    let stride = newest_first
        .next()
        .map(|second| Time { seconds: second.seconds.saturating_add(STRIDE_MAX), ..second });
    stride.map_or(newest, |stride| newest.min(stride))
}

/// The snapshots of one configuration and one set of components.
struct Group<'g> {
    newest_first: &'g [Row<'g>],
    /// Ages count from here.
    reference: Time,
    zone: &'g TimeZone,
}

impl Group<'_> {
    fn time(&self, row: &Row<'_>) -> Zoned {
        zoned(row.manifest.time, self.zone)
    }

    /// Returns whether a snapshot is less than `span` old. A span that leads before all time keeps
    /// everything.
    fn is_younger(&self, row: &Row<'_>, span: Span) -> bool {
        zoned(self.reference, self.zone).checked_sub(span.abs()).map_or(true, |start| self.time(row) > start)
    }

    /// Calls `keep` for one snapshot of each of the newest `count` periods: the newest one that is
    /// whole, or the newest one if none is.
    fn keep_one_of_each(&self, count: u32, period: impl Fn(Date) -> (i16, i16), mut keep: impl FnMut(usize)) {
        let mut chosen: Vec<((i16, i16), &Row<'_>)> = Vec::new();
        for row in self.newest_first {
            let period = period(self.time(row).date());
            if let Some((last, best)) = chosen.last_mut()
                && *last == period
            {
                if !is_whole(best.manifest) && is_whole(row.manifest) {
                    *best = row;
                }
                continue;
            }
            if chosen.len() >= count as usize {
                break;
            }
            chosen.push((period, row));
        }
        chosen.into_iter().for_each(|(_, row)| keep(row.at));
    }
}

fn is_whole(manifest: &Manifest) -> bool {
    manifest.components.iter().all(|component| manifest.is_whole(component))
}

/// How good a component of a snapshot is, the better the more; none if it is not there.
fn goodness(manifest: &Manifest, component: &Component) -> Option<u8> {
    match (component.status, manifest.suspicion(&component.name).is_some()) {
        (Status::Failed, _) => None,
        (_, true) => Some(0),
        (Status::Partial, false) => Some(1),
        (Status::Complete, false) => Some(2),
    }
}

/// What tells a component from others of its name: whose it is and, where no configuration is known, its sources.
type Named<'r> = (&'r RunKey, &'r str, &'r [Vec<u8>]);

/// Keeps the newest snapshot that holds a component whole; if none does, the newest that holds it in part, and
/// is not suspect; else the newest that has it: for each configuration and component.
fn keep_last_good(rows: &[Row<'_>], reasons: &mut BTreeMap<usize, Vec<Reason>>) {
    let mut best: BTreeMap<Named<'_>, (u8, usize)> = BTreeMap::new();
    for row in rows {
        for component in &row.manifest.components {
            let Some(good) = goodness(row.manifest, component) else { continue };
            let own = (good, row.at);
            // Where no configuration is known, components of one name may be those of several: the dump of a blog
            // is none of the mail server's.
            let sources = if row.key.run.is_none() { component.sources.as_slice() } else { &[] };
            let best = best.entry((row.key, &component.name, sources)).or_insert(own);
            *best = own.max(*best);
        }
    }
    for ((_, component, _), (_, at)) in best {
        let own = reasons.entry(at).or_default();
        if own.iter().all(|reason| matches!(reason, Reason::LastGood(_))) {
            own.push(Reason::LastGood(component.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::wire;
    use crate::stage::snapshot::facts::{self, Suspect};

    /// 2026-01-05 03:00 UTC, a Monday.
    const START: i64 = 1_767_582_000;
    const DAY: i64 = 86_400;

    fn component(name: &str, status: Status) -> Component {
        Component {
            name: name.to_owned(),
            directory: name.as_bytes().to_vec(),
            sources: Vec::new(),
            status,
            attempts: 1,
            files: 0,
            bytes: 0,
        }
    }

    fn snapshot(seconds: i64, tags: &[&str]) -> Snapshot {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&seconds.to_be_bytes());
        let manifest = Manifest {
            time: Time::new(seconds, 0),
            host: "mx1".to_owned(),
            user: "root".to_owned(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            components: vec![component("mail", Status::Complete)],
            ..Manifest::default()
        };
        Snapshot { id: SnapshotId::from_bytes(id), manifest }
    }

    fn days(count: i64, tags: &[&str]) -> Vec<Snapshot> {
        (0..count).map(|day| snapshot(START + day * DAY, tags)).collect()
    }

    fn kept_in(policy: &Policy, snapshots: &[Snapshot], now: i64, zone: &TimeZone) -> Vec<usize> {
        let fates = policy.judge(snapshots, &BTreeSet::new(), Time::new(now, 0), zone);
        fates.iter().enumerate().filter(|(_, fate)| fate.is_kept()).map(|(at, _)| at).collect()
    }

    fn kept(policy: &Policy, snapshots: &[Snapshot]) -> Vec<usize> {
        let now = snapshots.last().map_or(0, |newest| newest.manifest.time.seconds);
        kept_in(policy, snapshots, now, &TimeZone::UTC)
    }

    fn span(text: &str) -> Span {
        text.parse().unwrap()
    }

    fn operator() -> Policy {
        let rule = |tag: &str, text| TagSpan { tag: tag.to_owned(), span: span(text) };
        Policy { tag_spans: vec![rule("daily", "30d"), rule("weekly", "84d")], ..Policy::default() }
    }

    #[test]
    fn no_rule_keeps_everything() {
        assert!(Policy::default().is_empty());
        assert_eq!(kept(&Policy::default(), &days(5, &[])), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_last_ones_stay() {
        let policy = Policy { keep_last: 2, ..Policy::default() };
        assert_eq!(kept(&policy, &days(5, &[])), [3, 4]);
        assert_eq!(kept(&policy, &days(1, &[])), [0]);
        assert_eq!(kept(&policy, &[]), [0; 0]);
    }

    #[test]
    fn of_each_day_the_newest_stays() {
        let times = [0, 3600, DAY, DAY + 7200, 3 * DAY];
        let snapshots: Vec<_> = times.iter().map(|time| snapshot(START + time, &[])).collect();
        let policy = Policy { keep_daily: 2, ..Policy::default() };
        assert_eq!(kept(&policy, &snapshots), [3, 4], "days without snapshots do not count");
        let policy = Policy { keep_daily: 9, ..Policy::default() };
        assert_eq!(kept(&policy, &snapshots), [1, 3, 4]);
    }

    #[test]
    fn a_day_is_that_of_the_time_zone() {
        // 14:00 and 16:00 UTC.
        let snapshots = [snapshot(START + 11 * 3600, &[]), snapshot(START + 13 * 3600, &[])];
        let policy = Policy { keep_daily: 9, ..Policy::default() };
        let now = START + DAY;
        assert_eq!(kept_in(&policy, &snapshots, now, &TimeZone::UTC), [1]);
        let tokyo = TimeZone::fixed(jiff::tz::offset(9)); // 23:00, and 01:00 on the next day
        assert_eq!(kept_in(&policy, &snapshots, now, &tokyo), [0, 1]);
    }

    #[test]
    fn weeks_are_those_of_iso_8601_across_the_year() {
        // 2026-12-28 to 2027-01-03 is week 53 of 2026.
        let monday = START + 357 * DAY;
        let snapshots: Vec<_> = (-1..8).map(|day| snapshot(monday + day * DAY, &[])).collect();
        let policy = Policy { keep_weekly: 9, ..Policy::default() };
        assert_eq!(kept(&policy, &snapshots), [0, 7, 8]);
    }

    #[test]
    fn months_and_years_have_one_each() {
        let snapshots = days(400, &[]); // 2026-01-05 to 2027-02-08
        let monthly = kept(&Policy { keep_monthly: 3, ..Policy::default() }, &snapshots);
        assert_eq!(monthly, [360, 391, 399], "2026-12-31, 2027-01-31, 2027-02-08");
        let yearly = kept(&Policy { keep_yearly: 5, ..Policy::default() }, &snapshots);
        assert_eq!(yearly, [360, 399]);
    }

    #[test]
    fn a_whole_snapshot_stands_for_its_day_before_a_partial_one() {
        let mut snapshots = vec![snapshot(START, &[]), snapshot(START + 3600, &[])];
        snapshots.push(snapshot(START + DAY, &[]));
        snapshots[1].manifest.components[0].status = Status::Partial;
        let policy = Policy { keep_daily: 9, ..Policy::default() };
        assert_eq!(kept(&policy, &snapshots), [0, 2]);
    }

    #[test]
    fn rules_add_up() {
        let policy = Policy { keep_last: 1, keep_weekly: 2, ..Policy::default() };
        // Mondays are 0, 7, 14; the Sundays before them 6 and 13.
        assert_eq!(kept(&policy, &days(16, &[])), [13, 15]);
        let fates = policy.judge(&days(16, &[]), &BTreeSet::new(), Time::new(START * 2, 0), &TimeZone::UTC);
        let Fate::Kept(reasons) = &fates[15] else { unreachable!() };
        assert_eq!(reasons.iter().map(ToString::to_string).collect::<Vec<_>>(), ["last", "weekly"]);
    }

    #[test]
    fn daily_tags_stay_thirty_days_and_weekly_ones_twelve_weeks() {
        let mut snapshots = Vec::new();
        for day in 0..100 {
            snapshots.push(snapshot(START + day * DAY, &["daily"]));
            if day % 7 == 6 {
                snapshots.push(snapshot(START + day * DAY + 3600, &["weekly"]));
            }
        }
        // The newest is Sunday's weekly one of day 97 for its age; both lie in one group.
        let policy = operator();
        let stay = kept(&policy, &snapshots);
        let tagged = |tag: &str| {
            stay.iter().filter(|at| snapshots[**at].manifest.tags.contains(&tag.to_owned())).count()
        };
        assert_eq!((tagged("daily"), tagged("weekly")), (30, 12));
    }

    #[test]
    fn a_snapshot_goes_once_it_is_as_old_as_its_span() {
        let snapshots = days(31, &["daily"]);
        assert_eq!(kept(&operator(), &snapshots), (1..31).collect::<Vec<_>>());
        let mut snapshots = snapshots;
        snapshots[0].manifest.time.nanos = 1; // a moment younger
        assert_eq!(kept(&operator(), &snapshots).len(), 31);
    }

    #[test]
    fn the_longer_span_of_two_tags_counts() {
        let mut snapshots = days(40, &["daily"]);
        snapshots[0].manifest.tags.push("weekly".to_owned());
        assert_eq!(kept(&operator(), &snapshots)[0], 0);
        assert_eq!(kept(&operator(), &snapshots).len(), 31);
    }

    #[test]
    fn rules_of_tags_leave_other_snapshots_alone() {
        let mut snapshots = days(100, &["daily"]);
        snapshots[3].manifest.tags = vec!["before-upgrade".to_owned()];
        assert_eq!(kept(&operator(), &snapshots)[0], 3);
        let policy = Policy { keep_last: 1, ..operator() };
        assert_eq!(kept(&policy, &snapshots)[0], 70, "a general rule speaks of all");
    }

    #[test]
    fn ages_count_from_the_newest_snapshot() {
        let snapshots = days(40, &["daily"]);
        let now = START + 400 * DAY; // backups stopped a year ago
        assert_eq!(kept_in(&operator(), &snapshots, now, &TimeZone::UTC).len(), 30);
        let policy = Policy { keep_within: Some(span("7d")), ..Policy::default() };
        assert_eq!(kept_in(&policy, &snapshots, now, &TimeZone::UTC).len(), 7);
    }

    #[test]
    fn one_snapshot_of_a_clock_that_is_ahead_takes_two_days_at_most() {
        let mut snapshots = days(40, &["daily"]);
        snapshots.push(snapshot(START + 57 * DAY, &["daily"]));
        assert_eq!(kept(&operator(), &snapshots)[0], 12, "not 28, and by itself day 39 keeps from 10 on");
        let policy = Policy { keep_within: Some(span("7d")), ..Policy::default() };
        assert_eq!(kept(&policy, &snapshots).len(), 6, "days 35 to 39, and the one that is ahead");
        // Backups that had stopped and go on: the second one after the pause takes what is due.
        snapshots.push(snapshot(START + 58 * DAY, &["daily"]));
        assert_eq!(kept(&operator(), &snapshots)[0], 29);
    }

    #[test]
    fn a_clock_that_was_set_back_removes_less() {
        let snapshots = days(40, &["daily"]);
        let now = START + 20 * DAY;
        assert_eq!(kept_in(&operator(), &snapshots, now, &TimeZone::UTC).len(), 40);
    }

    #[test]
    fn a_month_is_as_long_as_the_calendar_says() {
        let policy = Policy { keep_within: Some(span("1mo")), ..Policy::default() };
        // The newest is of 2026-03-05: a month before is 2026-02-05, day 31.
        assert_eq!(kept(&policy, &days(60, &[]))[0], 32);
    }

    #[test]
    fn a_span_beyond_all_time_keeps_everything() {
        let policy = Policy { keep_within: Some(span("19000y")), ..Policy::default() };
        assert_eq!(kept(&policy, &days(5, &[])).len(), 5);
    }

    #[test]
    fn a_day_of_daylight_saving_does_not_cost_a_snapshot() {
        // Every day at 03:00 in Berlin, over the change of 2026-03-29: 30 daily ones stay all the same.
        let Ok(zone) = TimeZone::get("Europe/Berlin") else { return };
        let first = jiff::civil::date(2026, 3, 1).at(3, 0, 0, 0);
        let snapshots: Vec<_> = (0..45)
            .map(|day| {
                let at = (first + Span::new().days(day)).to_zoned(zone.clone()).unwrap();
                snapshot(at.timestamp().as_second(), &["daily"])
            })
            .collect();
        let now = snapshots[44].manifest.time.seconds;
        assert_eq!(kept_in(&operator(), &snapshots, now, &zone).len(), 30);
    }

    #[test]
    fn hosts_and_sets_of_components_are_judged_apart() {
        let mut snapshots = days(6, &[]);
        for at in [0, 1] {
            snapshots[at].manifest.host = "mx2".to_owned();
        }
        for at in [2, 3] {
            snapshots[at].manifest.components.push(component("mysql", Status::Complete));
        }
        let policy = Policy { keep_last: 1, ..Policy::default() };
        assert_eq!(kept(&policy, &snapshots), [1, 3, 5]);
    }

    /// A component is added, one is backed up by itself: what was before does not stay for ever.
    #[test]
    fn another_set_of_components_goes_on_with_the_ages_of_those_before() {
        let mut snapshots = days(100, &["daily"]);
        for snapshot in &mut snapshots[10..] {
            snapshot.manifest.components.push(component("mysql", Status::Complete));
        }
        snapshots[50].manifest.components.remove(0); // mysql alone
        let keepsake = |snapshot: &mut Snapshot| snapshot.manifest.components[0].name = "web".to_owned();
        keepsake(&mut snapshots[3]); // shares nothing, and has stopped
        let policy = operator();
        assert_eq!(kept(&policy, &snapshots), [&[3][..], &(70..100).collect::<Vec<_>>()].concat());
        snapshots[3].manifest.components[0].name = "mail".to_owned();
        snapshots[3].manifest.host = "mx2".to_owned();
        assert_eq!(kept(&policy, &snapshots)[0], 3, "another machine's");
    }

    #[test]
    fn tagged_and_pinned_snapshots_stay() {
        let mut snapshots = days(5, &[]);
        snapshots[0].manifest.tags.push(PIN.to_owned());
        snapshots[1].manifest.tags.push("audit".to_owned());
        let policy = Policy { keep_last: 1, keep_tags: vec!["audit".to_owned()], ..Policy::default() };
        assert_eq!(kept(&policy, &snapshots), [0, 1, 4]);
    }

    #[test]
    fn the_last_good_snapshot_of_each_component_stays() {
        let mut snapshots = days(60, &["daily"]);
        for (at, snapshot) in snapshots.iter_mut().enumerate() {
            let mysql = if at == 10 { Status::Complete } else { Status::Failed };
            snapshot.manifest.components.push(component("mysql", mysql));
        }
        let policy = operator();
        let fates = policy.judge(&snapshots, &BTreeSet::new(), Time::new(START * 2, 0), &TimeZone::UTC);
        let Fate::Kept(reasons) = &fates[10] else { unreachable!() };
        assert_eq!(reasons.iter().map(ToString::to_string).collect::<Vec<_>>(), ["last good of mysql"]);
        assert_eq!(kept(&policy, &snapshots).len(), 31);
    }

    #[test]
    fn a_partial_one_is_the_last_good_if_there_is_no_whole_one() {
        let mut snapshots = days(3, &["daily"]);
        snapshots[0].manifest.components[0].status = Status::Partial;
        snapshots[1].manifest.components[0].status = Status::Failed;
        snapshots[2].manifest.components[0].status = Status::Failed;
        let policy = Policy { keep_last: 1, ..Policy::default() };
        assert_eq!(kept(&policy, &snapshots), [0, 2]);
    }

    fn set<T: bincode::Encode>(snapshot: &mut Snapshot, name: &str, fact: T) {
        snapshot.manifest.set_fact(name, wire::encode(&fact).unwrap());
    }

    #[test]
    fn forty_nights_of_which_35_are_empty_keep_the_last_with_mail_and_an_accepted_one_is_the_last() {
        let mut snapshots = days(40, &["daily"]);
        for snapshot in &mut snapshots[5..] {
            let suspect = Suspect { component: "mail".to_owned(), reason: "nothing is there".to_owned() };
            set(snapshot, facts::SUSPECTS, vec![suspect]);
        }
        let policy = Policy { keep_within: Some(span("3d")), keep_daily: 2, ..Policy::default() };
        assert_eq!(kept(&policy, &snapshots), [4, 37, 38, 39]);
        set(&mut snapshots[20], facts::ACCEPTED, vec!["mail".to_owned()]);
        assert_eq!(kept(&policy, &snapshots), [20, 37, 38, 39]);
    }

    #[test]
    fn the_last_good_one_is_that_of_its_own_configuration() {
        let mut snapshots = days(40, &["daily"]);
        for (at, snapshot) in snapshots.iter_mut().enumerate() {
            snapshot.manifest.set_fact(facts::RUN, if at == 2 { b"blog".to_vec() } else { b"mail".to_vec() });
        }
        let policy = Policy { keep_last: 1, ..Policy::default() };
        assert_eq!(kept(&policy, &snapshots), [2, 39]);
    }

    #[test]
    fn what_is_dated_in_the_future_stays_and_counts_for_nothing() {
        let mut snapshots = days(10, &["daily"]);
        snapshots.push(snapshot(START + 3650 * DAY, &["daily"]));
        let policy = Policy { keep_last: 2, keep_within: Some(span("3d")), ..Policy::default() };
        let now = START + 9 * DAY;
        assert_eq!(kept_in(&policy, &snapshots, now, &TimeZone::UTC), [7, 8, 9, 10]);
        // Before the time of all of them no age is known, but a number is a number.
        let past = START - 5 * DAY;
        assert_eq!(kept_in(&policy, &snapshots, past, &TimeZone::UTC).len(), 11);
        let number = Policy { keep_last: 2, ..Policy::default() };
        assert_eq!(kept_in(&number, &snapshots, past, &TimeZone::UTC), [9, 10]);
    }

    #[test]
    fn what_is_named_goes_and_counts_for_no_rule() {
        let snapshots = days(4, &[PIN]);
        let named = BTreeSet::from([snapshots[3].id]);
        let policy = Policy { keep_last: 1, ..Policy::default() };
        let fates = policy.judge(&snapshots, &named, Time::new(START * 2, 0), &TimeZone::UTC);
        assert!(matches!(fates[3], Fate::Named));
        let Fate::Kept(reasons) = &fates[2] else { unreachable!() };
        assert!(matches!(reasons[0], Reason::Last));
    }
}
