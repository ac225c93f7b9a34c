//! Manifests → whose each one is, and which of them are nights.
//!
//! Names, retention, the last good snapshot and the alarm about old backups all go by what is said here. A
//! snapshot belongs to a [`RunKey`]: a host, and the name of the configuration that made it. A manifest of
//! before there were names belongs to the configuration of its host whose components and sources it shares
//! most. Everything here is linear in the number of manifests.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::base::time::Time;
use crate::repo::select::zoned;
use crate::stage::snapshot::{Component, Manifest, Status};

/// How far after now, in seconds, a snapshot may be dated before it counts as from the future.
const AHEAD_SECONDS_MAX: i64 = 86_400;

/// Stands for every machine where one is named, and so is no machine's name.
pub const ANY_HOST: &str = "any";

/// Returns whether a snapshot of this time is from the future: dated more than a day after `now`. No name but
/// its id stands for it, and no age is counted from it.
pub fn is_ahead(time: Time, now: Time) -> bool {
    time.seconds > now.seconds.saturating_add(AHEAD_SECONDS_MAX)
}

/// Whose a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// Name of the machine.
    pub host: String,
    /// Name of the configuration; none for paths and streams by hand.
    pub run: Option<String>,
}

impl std::fmt::Display for RunKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.run {
            Some(run) => write!(f, "{run} on {}", self.host),
            None => write!(f, "{}, without a configuration", self.host),
        }
    }
}

/// The configuration at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// Name of the machine: `run.host`, or the machine's own.
    pub host: String,
    /// `run.name`, or the file's stem.
    pub name: String,
    /// Whether `run.name` says the name.
    pub is_named: bool,
    /// Its components: each one's name, and its sources as a manifest has them.
    pub components: Vec<(String, Vec<Vec<u8>>)>,
}

/// What a configuration is known to back up: for each component's name its sources.
#[derive(Default)]
struct Profile<'m> {
    components: BTreeMap<&'m str, BTreeSet<&'m [u8]>>,
    /// When it ran last; for the configuration at hand, the end of time.
    last: Option<Time>,
    /// What it made last.
    newest: Option<&'m Manifest>,
}

/// How much of a manifest a configuration has. More components count first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Likeness {
    /// Components of the same name that share a source.
    shared: usize,
    /// Components of the same name.
    named: usize,
}

impl<'m> Profile<'m> {
    fn add(&mut self, name: &'m str, sources: impl Iterator<Item = &'m [u8]>) {
        self.components.entry(name).or_default().extend(sources);
    }

    fn likeness<'c>(&self, components: impl Iterator<Item = (&'c str, &'c [Vec<u8>])>) -> Likeness {
        let mut likeness = Likeness { shared: 0, named: 0 };
        for (name, sources) in components {
            let Some(known) = self.components.get(name) else { continue };
            likeness.named += 1;
            likeness.shared += usize::from(sources.iter().any(|source| known.contains(source.as_slice())));
        }
        likeness
    }

    /// Returns how much of a manifest this configuration has; none if the manifest is not of its making. Where
    /// no source is shared the components must have the very same names: a path may have been moved, but a
    /// `mysql` of another configuration is none of ours.
    fn claims(&self, manifest: &Manifest) -> Option<Likeness> {
        let likeness = self.likeness(manifest.components.iter().map(parts));
        let (own, theirs) = (self.components.len(), manifest.components.len());
        let is_alike = likeness.named > 0 && likeness.named == own && likeness.named == theirs;
        (likeness.shared > 0 || is_alike).then_some(likeness)
    }
}

fn parts(component: &Component) -> (&str, &[Vec<u8>]) {
    (&component.name, &component.sources)
}

/// The configuration at hand, as the repository knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Whose the snapshots are that it makes.
    pub key: RunKey,
    /// The configuration's own name, if the repository has never seen it, and it goes on under another name of
    /// this host that has its components: the file was renamed.
    pub renamed: Option<String>,
    /// How many snapshots without a name count as its own.
    pub older: usize,
    /// Components of the last snapshot of this name, if it shares none with the configuration: two files seem to have
    /// one name.
    pub strange: Vec<String>,
    /// Other names of this host that have more than half of its components, where `run.name` says a name that
    /// the repository has never seen: what they made stays theirs.
    pub alike: Vec<String>,
}

impl Own {
    /// Returns what somebody should know of the name, and what to do; none if all is well.
    pub fn remark(&self) -> Option<String> {
        let run = self.key.run.as_deref().unwrap_or_default();
        if let Some(stem) = &self.renamed {
            return Some(format!(
                "no snapshot here is of a configuration {stem:?}, and {run:?} has the same components: it goes on as {run:?}; set run.name = {run:?} if the file was renamed, or run.name = {stem:?} if it is another one"
            ));
        }
        if !self.strange.is_empty() {
            return Some(format!(
                "the last snapshot of {run:?} here is of other components ({}): if that is another configuration, set a run.name in each",
                self.strange.join(", ")
            ));
        }
        let other = self.alike.first()?;
        Some(format!(
            "no snapshot here is of a configuration {run:?} yet, and {other:?} has the same components: its snapshots stay under that name (--run {other}); to go on with them set run.name = {other:?}"
        ))
    }
}

/// Whose the snapshots of a repository are, and which of them are nights.
pub struct Whose {
    keys: Vec<RunKey>,
    of: Vec<usize>,
    nights: Vec<bool>,
    own: Option<Own>,
}

impl Whose {
    /// Looks at `manifests`, with the configuration at hand, if there is one. Days are those of `zone`.
    pub fn of<'m>(
        manifests: impl Iterator<Item = &'m Manifest> + Clone,
        configured: Option<&'m Configured>,
        zone: &TimeZone,
    ) -> Self {
        let mut profiles: BTreeMap<&str, BTreeMap<&str, Profile<'m>>> = BTreeMap::new();
        for manifest in manifests.clone() {
            let Some(run) = manifest.run_name() else { continue };
            let profile = profiles.entry(&manifest.host).or_default().entry(run).or_default();
            if profile.last <= Some(manifest.time) {
                (profile.last, profile.newest) = (Some(manifest.time), Some(manifest));
            }
            for (name, sources) in manifest.components.iter().map(parts) {
                profile.add(name, sources.iter().map(Vec::as_slice));
            }
        }
        let mut own = configured.map(|it| own(it, profiles.get(it.host.as_str())));
        if let (Some(configured), Some(own)) = (configured, &own) {
            // The key's name is the configuration's own, or one that is there.
            let known = profiles.entry(&configured.host).or_default();
            let run = own.key.run.as_deref().unwrap_or_default();
            let found = known.keys().copied().find(|name| *name == run);
            let profile = known.entry(found.unwrap_or(&configured.name)).or_default();
            profile.last = Some(Time::new(i64::MAX, 0));
            for (name, sources) in &configured.components {
                profile.add(name, sources.iter().map(Vec::as_slice));
            }
        }
        let mut keys: Vec<RunKey> = Vec::new();
        let mut numbers: BTreeMap<(&str, Option<&str>), usize> = BTreeMap::new();
        let mut older: BTreeMap<usize, usize> = BTreeMap::new();
        let mut of = Vec::new();
        for manifest in manifests.clone() {
            let named = manifest.run_name();
            let run = named.or_else(|| nameless(manifest, profiles.get(manifest.host.as_str())));
            let number = *numbers.entry((&manifest.host, run)).or_insert_with(|| {
                keys.push(RunKey { host: manifest.host.clone(), run: run.map(str::to_owned) });
                keys.len() - 1
            });
            if named.is_none() {
                *older.entry(number).or_default() += 1;
            }
            of.push(number);
        }
        if let Some(own) = &mut own {
            let number = keys.iter().position(|key| *key == own.key);
            own.older = number.and_then(|number| older.get(&number).copied()).unwrap_or(0);
        }
        let nights = nights(manifests, &of, zone);
        Self { keys, of, nights, own }
    }

    /// Returns whose the snapshot at a place is.
    pub fn key(&self, at: usize) -> Option<&RunKey> {
        self.of.get(at).and_then(|number| self.keys.get(*number))
    }

    /// Returns the number, in [`Self::keys`], of whose the snapshot at a place is.
    pub fn number(&self, at: usize) -> Option<usize> {
        self.of.get(at).copied()
    }

    /// Returns how many snapshots there are.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Returns whether there are no snapshots.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Returns all keys that have a snapshot, each once.
    pub fn keys(&self) -> &[RunKey] {
        &self.keys
    }

    /// Returns whether the snapshot at a place is a night: what one run of all configured components made, or of
    /// all paths that were named.
    pub fn is_night(&self, at: usize) -> bool {
        self.nights.get(at).copied().unwrap_or(false)
    }

    /// Returns the configuration at hand; none if there is none.
    pub fn own(&self) -> Option<&Own> {
        self.own.as_ref()
    }
}

/// Returns what the configuration is called here: by its name if `run.name` says it, or if the name was seen
/// before. A file's stem that was never seen is one of a file that was renamed if another name of the host has
/// more than half of its components, with sources.
fn own(configured: &Configured, known: Option<&BTreeMap<&str, Profile<'_>>>) -> Own {
    let key = |run: &str| RunKey { host: configured.host.clone(), run: Some(run.to_owned()) };
    let own =
        Own { key: key(&configured.name), renamed: None, older: 0, strange: Vec::new(), alike: Vec::new() };
    let components =
        || configured.components.iter().map(|(name, sources)| (name.as_str(), sources.as_slice()));
    let Some(known) = known else { return own };
    if let Some(profile) = known.get(configured.name.as_str()) {
        let mut made = Profile::default();
        let last = profile.newest.map_or(&[][..], |manifest| &manifest.components);
        last.iter().map(parts).for_each(|(name, sources)| made.add(name, sources.iter().map(Vec::as_slice)));
        let Likeness { shared, named } = made.likeness(components());
        let is_alike = named == last.len() && named == configured.components.len(); // with paths that were moved
        let is_strange = shared == 0 && !is_alike;
        let strange = last.iter().filter(|_| is_strange).map(|component| component.name.clone());
        return Own { strange: strange.collect(), ..own };
    }
    let likeness = known.iter().map(|(name, profile)| (profile.likeness(components()), profile.last, *name));
    let mut alike: Vec<_> = likeness.filter(|(it, ..)| 2 * it.shared > configured.components.len()).collect();
    alike.sort_unstable();
    match (configured.is_named, alike.last()) {
        (false, Some((.., name))) => Own { key: key(name), renamed: Some(configured.name.clone()), ..own },
        _ => Own { alike: alike.iter().rev().map(|(.., name)| (*name).to_owned()).collect(), ..own },
    }
}

/// Returns the configuration of its host that a manifest without a name belongs to: the one that it shares most
/// with; of several, the one that ran last. One that says whether it is a night was made by hand, and is nobody's.
fn nameless<'m>(manifest: &Manifest, known: Option<&BTreeMap<&'m str, Profile<'m>>>) -> Option<&'m str> {
    if manifest.says_night().is_some() {
        return None;
    }
    let claims = known?.iter().filter_map(|(name, profile)| {
        let likeness = profile.claims(manifest)?;
        Some((likeness, profile.last, *name))
    });
    claims.max().map(|(.., name)| name)
}

/// How much of its configuration a run set out to back up: its components, and whether it read paths. A stream
/// by hand is one component, and reads none.
type Extent = (usize, bool);

fn extent(manifest: &Manifest) -> Extent {
    let mut sources = manifest.components.iter().flat_map(|component| &component.sources);
    (manifest.components.len(), sources.any(|source| source.starts_with(b"/")))
}

fn read_components(manifest: &Manifest) -> usize {
    manifest.components.iter().filter(|component| component.status != Status::Failed).count()
}

/// Returns which manifests are nights. Of those that do not say so it is the most complete of each day: no other of
/// the same key set out for more, and none with the same of the tags `daily` and `weekly` got more.
fn nights<'m>(
    manifests: impl Iterator<Item = &'m Manifest> + Clone,
    of: &[usize],
    zone: &TimeZone,
) -> Vec<bool> {
    let mut largest: BTreeMap<(usize, Date), Extent> = BTreeMap::new();
    let mut most_read: BTreeMap<(usize, Date, Extent, [bool; 2]), usize> = BTreeMap::new();
    let tagged =
        |manifest: &Manifest| ["daily", "weekly"].map(|tag| manifest.tags.iter().any(|own| own == tag));
    let rows: Vec<_> = manifests.zip(of).map(|(it, key)| (it, *key, zoned(it.time, zone).date())).collect();
    for (manifest, key, day) in &rows {
        let extent = extent(manifest);
        let widest = largest.entry((*key, *day)).or_insert(extent);
        *widest = extent.max(*widest);
        let most = most_read.entry((*key, *day, extent, tagged(manifest))).or_default();
        *most = read_components(manifest).max(*most);
    }
    let is_night = |(manifest, key, day): &(&Manifest, usize, Date)| {
        manifest.says_night().unwrap_or_else(|| {
            let extent = extent(manifest);
            largest.get(&(*key, *day)) == Some(&extent)
                && most_read.get(&(*key, *day, extent, tagged(manifest))) == Some(&read_components(manifest))
        })
    };
    rows.iter().map(is_night).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::snapshot::facts;

    const NIGHT: i64 = 1_767_000_000; // 2025-12-29 09:20 UTC
    const DAY: i64 = 86_400;

    const MAIL: (&str, &[&str]) = ("mail", &["/opt/mail"]);
    const MYSQL: (&str, &[&str]) = ("mysql", &["usermgmt.sql"]);
    const WWW: (&str, &[&str]) = ("www", &["/var/www"]);
    const BLOG_SQL: (&str, &[&str]) = ("mysql", &["blog.sql"]);

    fn sources(paths: &[&str]) -> Vec<Vec<u8>> {
        paths.iter().map(|path| path.as_bytes().to_vec()).collect()
    }

    /// Returns a manifest as version 0.1 wrote them: it says nothing of names and nights.
    fn old(seconds: i64, components: &[(&str, &[&str])]) -> Manifest {
        let component = |(name, paths): &(&str, &[&str])| Component {
            name: (*name).to_owned(),
            directory: name.as_bytes().to_vec(),
            sources: sources(paths),
            status: Status::Complete,
            attempts: 1,
            files: 1,
            bytes: 1,
        };
        Manifest {
            time: Time::new(seconds, 0),
            host: "mx1".to_owned(),
            components: components.iter().map(component).collect(),
            ..Manifest::default()
        }
    }

    fn tagged(mut manifest: Manifest, tag: &str) -> Manifest {
        manifest.tags = vec![tag.to_owned()];
        manifest
    }

    /// Returns a manifest that says who made it, and whether it is a night.
    fn said(seconds: i64, run: Option<&str>, is_night: bool, components: &[(&str, &[&str])]) -> Manifest {
        let mut manifest = old(seconds, components);
        manifest.set_fact(facts::NIGHT, vec![u8::from(is_night)]);
        run.into_iter().for_each(|run| manifest.set_fact(facts::RUN, run.as_bytes().to_vec()));
        manifest
    }

    fn configured(name: &str, is_named: bool, components: &[(&str, &[&str])]) -> Configured {
        let components = components.iter().map(|(name, paths)| ((*name).to_owned(), sources(paths)));
        Configured {
            host: "mx1".to_owned(),
            name: name.to_owned(),
            is_named,
            components: components.collect(),
        }
    }

    fn whose(all: &[Manifest], configured: Option<&Configured>) -> Whose {
        Whose::of(all.iter(), configured, &TimeZone::UTC)
    }

    /// Returns the name of each manifest's configuration; `-` for none.
    fn runs(all: &[Manifest], configured: Option<&Configured>) -> Vec<String> {
        let whose = whose(all, configured);
        let run = |at| whose.key(at).and_then(|key| key.run.clone()).unwrap_or_else(|| "-".to_owned());
        (0..all.len()).map(run).collect()
    }

    fn nights_of(all: &[Manifest]) -> Vec<bool> {
        let whose = whose(all, None);
        (0..all.len()).map(|at| whose.is_night(at)).collect()
    }

    #[test]
    fn older_snapshots_belong_to_the_configuration_that_has_their_components_and_sources() {
        let mailserver = configured("mailserver", false, &[MAIL, MYSQL]);
        let blog = configured("blog", false, &[WWW, BLOG_SQL]);
        let all = [old(NIGHT, &[MAIL, MYSQL]), old(NIGHT, &[WWW, BLOG_SQL]), old(NIGHT, &[MYSQL])];
        assert_eq!(runs(&all, Some(&mailserver)), ["mailserver", "-", "mailserver"]);
        assert_eq!(runs(&all, Some(&blog)), ["-", "blog", "-"], "a database of one name is another one's");
        let own = whose(&all, Some(&mailserver)).own().cloned().unwrap();
        assert_eq!((own.older, own.renamed, own.alike), (2, None, Vec::new()));
        // Once both have run it is the same whoever looks, and also without a configuration.
        let both = [
            all.as_slice(),
            &[
                said(NIGHT + DAY, Some("mailserver"), true, &[MAIL, MYSQL]),
                said(NIGHT + DAY, Some("blog"), true, &[WWW, BLOG_SQL]),
            ],
        ]
        .concat();
        for look in [None, Some(&mailserver), Some(&blog)] {
            assert_eq!(runs(&both, look), ["mailserver", "blog", "mailserver", "mailserver", "blog"]);
        }
    }

    #[test]
    fn a_path_that_was_moved_leaves_older_snapshots_whose_they_were() {
        let moved = configured("mailserver", false, &[("mail", &["/srv/mail"])]);
        assert_eq!(runs(&[old(NIGHT, &[MAIL])], Some(&moved)), ["mailserver"]);
        let both = [old(NIGHT, &[MAIL]), said(NIGHT + DAY, Some("other"), true, &[MAIL])];
        assert_eq!(runs(&both, Some(&moved)), ["other", "other"], "who has the source comes first");
    }

    #[test]
    fn another_machine_and_what_is_made_by_hand_belong_to_no_configuration_here() {
        let mailserver = configured("mailserver", false, &[MAIL]);
        let mut foreign = old(NIGHT, &[MAIL]);
        foreign.host = "mx2".to_owned();
        let by_hand = said(NIGHT, None, true, &[MAIL]);
        let all = [foreign, by_hand, old(NIGHT, &[("files", &["/home"])])];
        assert_eq!(runs(&all, Some(&mailserver)), ["-", "-", "-"]);
        assert_eq!(whose(&all, Some(&mailserver)).own().unwrap().older, 0);
    }

    #[test]
    fn a_file_that_is_renamed_splits_nothing() {
        let all = [old(NIGHT, &[MAIL, MYSQL]), said(NIGHT + DAY, Some("config"), true, &[MAIL, MYSQL])];
        let renamed = configured("mailserver", false, &[MAIL, MYSQL, WWW]);
        let own = whose(&all, Some(&renamed)).own().cloned().unwrap();
        assert_eq!((own.key.run.as_deref(), own.renamed.as_deref()), (Some("config"), Some("mailserver")));
        assert_eq!((own.older, runs(&all, Some(&renamed))), (1, vec!["config".to_owned(); 2]));
        let named = configured("mailserver", true, &[MAIL, MYSQL]);
        let own = whose(&all, Some(&named)).own().cloned().unwrap();
        assert_eq!((own.key.run.as_deref(), own.renamed), (Some("mailserver"), None), "it is said");
        assert_eq!((own.alike, own.older), (vec!["config".to_owned()], 1));
        let blog = configured("blog", false, &[WWW, BLOG_SQL]);
        assert_eq!(whose(&all, Some(&blog)).own().unwrap().key.run.as_deref(), Some("blog"), "another one");
        let half = configured("half", false, &[MYSQL, WWW]);
        assert_eq!(whose(&all, Some(&half)).own().unwrap().key.run.as_deref(), Some("half"));
    }

    #[test]
    fn two_files_of_one_name_are_noticed() {
        let mailserver = configured("config", false, &[MAIL, MYSQL]);
        let blog = configured("config", false, &[WWW, BLOG_SQL]);
        let moved = configured("config", false, &[("mail", &["/srv/mail"]), ("mysql", &["all.sql"])]);
        let mut all = vec![said(NIGHT, Some("config"), true, &[MAIL, MYSQL])];
        let strange =
            |all: &[Manifest], configured| whose(all, Some(configured)).own().unwrap().strange.clone();
        assert_eq!(strange(&all, &mailserver), Vec::<String>::new());
        assert_eq!(strange(&all, &blog), ["mail", "mysql"]);
        assert_eq!(strange(&all, &moved), Vec::<String>::new());
        all.push(said(NIGHT + 60, Some("config"), true, &[WWW]));
        assert_eq!(strange(&all, &mailserver), ["www"], "each night again, until one has another name");
        assert!(whose(&all, Some(&mailserver)).own().unwrap().remark().unwrap().contains("run.name"));
    }

    #[test]
    fn a_part_is_no_night_whatever_its_tags_are() {
        let all = [
            tagged(old(NIGHT, &[MAIL, MYSQL]), "daily"),
            tagged(old(NIGHT + 60, &[MYSQL]), "daily"),
            old(NIGHT + 120, &[MYSQL]),
            old(NIGHT + DAY, &[MYSQL]),
        ];
        assert_eq!(nights_of(&all), [true, false, false, true], "alone on its day it is all that is known");
    }

    #[test]
    fn a_stream_by_hand_is_no_night_beside_a_component_of_paths() {
        let all = [old(NIGHT, &[MAIL]), old(NIGHT + 60, &[("s.sql", &["s.sql"])])];
        assert_eq!(nights_of(&all), [true, false]);
    }

    #[test]
    fn a_night_in_which_a_component_failed_stands_unless_its_own_kind_has_a_better_one() {
        let failed = |tag: &str| {
            let mut manifest = tagged(old(NIGHT, &[MAIL, MYSQL]), tag);
            manifest.components[0].status = Status::Failed;
            manifest
        };
        let better = |tag: &str| tagged(old(NIGHT + 60, &[MAIL, MYSQL]), tag);
        assert_eq!(nights_of(&[failed("daily"), better("weekly")]), [true, true]);
        assert_eq!(nights_of(&[better("daily"), failed("daily")]), [true, false]);
        assert_eq!(nights_of(&[better("daily"), better("daily")]), [true, true], "each is reachable");
    }

    #[test]
    fn what_a_manifest_says_counts_more_than_what_it_looks_like() {
        let all = [
            said(NIGHT, Some("config"), true, &[MAIL, MYSQL]),
            said(NIGHT + 60, Some("config"), false, &[MYSQL]),
            said(NIGHT + DAY, Some("config"), false, &[MYSQL]),
            old(NIGHT + 120, &[MYSQL]),
        ];
        assert_eq!(nights_of(&all), [true, false, false, false]);
    }

    #[test]
    fn more_than_a_day_after_now_is_the_future() {
        let now = Time::new(NIGHT, 0);
        assert!(!is_ahead(Time::new(NIGHT + DAY, 0), now) && is_ahead(Time::new(NIGHT + DAY + 1, 0), now));
        assert!(!is_ahead(Time::new(i64::MAX, 0), Time::new(i64::MAX, 0)));
    }
}
