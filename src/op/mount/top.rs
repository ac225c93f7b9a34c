//! Snapshots → what lies right below the mount point: `daily/`, `weekly/`, `latest`, `snapshots/`,
//! and `tags/` and `hosts/` where they tell more.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::base::limits::NAME_BYTES_MAX;
use crate::base::time::Time;
use crate::op::mount::folder::{Numbers, Shown};
use crate::repo::Snapshot;
use crate::repo::select::{Naming, dates, zoned};

/// Inode number of the mount point.
pub const ROOT: u64 = 1;

/// Tags that have directories of their own.
const TAGS_WITH_DIRECTORIES: [&str; 2] = ["daily", "weekly"];

/// What a name right below the mount point, or in one of the directories there, stands for.
#[derive(Clone)]
pub enum Child {
    /// A directory of the top.
    Directory(u64),
    /// A symbolic link of the top.
    Link(u64),
    /// A snapshot's root.
    Snapshot {
        /// Its inode number, if that is free.
        number: u64,
        /// Its path below the mount point.
        label: Vec<u8>,
        /// The snapshot.
        snapshot: Arc<Shown>,
    },
}

/// A directory of the top.
pub struct TopDirectory {
    /// Inode number of the directory above.
    pub above: u64,
    /// When the newest snapshot in it was made.
    pub time: Time,
    /// What is in it, by ascending name bytes.
    pub children: BTreeMap<Vec<u8>, Child>,
}

/// A symbolic link of the top.
pub struct TopLink {
    /// Where it points.
    pub target: Vec<u8>,
    /// When what it points to was made.
    pub time: Time,
}

/// The top as it was when the snapshots were listed.
#[derive(Default)]
pub struct Top {
    /// Its directories, by inode number.
    pub directories: HashMap<u64, TopDirectory>,
    /// Its symbolic links, by inode number.
    pub links: HashMap<u64, TopLink>,
    /// What is to be said of it: why `daily/`, `weekly/` and `latest` are not there, say.
    pub remark: Option<String>,
}

impl Top {
    /// Lays out `snapshots`, oldest first. `daily/`, `weekly/` and `latest` show nights alone, of those that are meant.
    pub fn new(snapshots: &[Arc<Shown>], naming: &Naming, numbers: &Numbers) -> Self {
        let zone = &naming.zone;
        let all: Vec<Snapshot> = snapshots.iter().map(|shown| shown.named.clone()).collect();
        let names = naming.names(&all);
        let nights = names.nights();
        let undecided = nights.as_ref().err().filter(|_| !all.is_empty());
        let undecided = undecided.map(|what| format!("daily, weekly and latest are not shown: each {what}"));
        let mut top = Builder { top: Self::default(), numbers };
        let newest = snapshots.last().map(|snapshot| snapshot.time).unwrap_or_default();
        top.directory(ROOT, ROOT, newest);
        for name in ["daily", "weekly", "snapshots"] {
            top.below(ROOT, name.as_bytes(), name.as_bytes(), Time::default());
        }
        let tags_shown = |snapshot: &Shown| {
            let tags = snapshot.named.manifest.tags.clone();
            tags.into_iter().filter(|tag| !TAGS_WITH_DIRECTORIES.contains(&tag.as_str())).collect::<Vec<_>>()
        };
        let has_hosts = snapshots.windows(2).any(|pair| pair[0].host != pair[1].host);
        for snapshot in snapshots {
            let id = snapshot.id.to_string();
            top.snapshot(b"snapshots", id.as_bytes(), snapshot);
            for tag in tags_shown(snapshot) {
                top.group("tags", &tag, snapshot, zone);
            }
            if has_hosts {
                top.group("hosts", &snapshot.host, snapshot, zone);
            }
        }
        let mut by_date: BTreeMap<String, &Arc<Shown>> = BTreeMap::new();
        let nights = nights.as_ref().map_or(&[][..], Vec::as_slice);
        for shown in nights.iter().filter_map(|at| snapshots.get(*at)) {
            by_date.extend(dates(&shown.named, zone).into_iter().map(|name| (name, shown))); // the newest comes last
        }
        for (name, shown) in &by_date {
            if let Some((folder, day)) = name.split_once('/') {
                top.snapshot(folder.as_bytes(), day.as_bytes(), shown);
            }
        }
        if let Some(snapshot) = nights.last().and_then(|at| snapshots.get(*at)) {
            let target = top.best_path(snapshot);
            top.link(ROOT, b"latest", target, snapshot.time);
        }
        top.top.remark = undecided.or_else(|| names.clock_remark());
        top.top
    }
}

struct Builder<'b> {
    top: Top,
    numbers: &'b Numbers,
}

impl Builder<'_> {
    fn directory(&mut self, number: u64, above: u64, time: Time) {
        let empty = TopDirectory { above, time, children: BTreeMap::new() };
        let directory = self.top.directories.entry(number).or_insert(empty);
        directory.time = directory.time.max(time);
    }

    /// Makes a directory, or takes the one that is there; `path` is its path below the mount point.
    fn below(&mut self, above: u64, path: &[u8], name: &[u8], time: Time) -> u64 {
        let number = self.numbers.of(&[b"directory", path]);
        self.directory(number, above, time);
        self.add(above, name, Child::Directory(number));
        number
    }

    fn add(&mut self, above: u64, name: &[u8], child: Child) {
        if let Some(directory) = self.top.directories.get_mut(&above) {
            directory.children.insert(name.to_vec(), child);
        }
    }

    fn link(&mut self, above: u64, name: &[u8], target: Vec<u8>, time: Time) {
        // With another target it is another inode: the kernel keeps what a link says.
        let number = self.numbers.of(&[b"link", &above.to_le_bytes(), name, &target]);
        self.top.links.insert(number, TopLink { target, time });
        self.add(above, name, Child::Link(number));
    }

    /// Puts a snapshot in a directory of the top.
    fn snapshot(&mut self, folder: &[u8], name: &[u8], snapshot: &Arc<Shown>) {
        let above = self.below(ROOT, folder, folder, snapshot.time);
        let label = [folder, b"/", name].concat();
        let number = self.numbers.of(&[b"snapshot", &label, snapshot.id.as_bytes()]);
        self.add(above, name, Child::Snapshot { number, label, snapshot: snapshot.clone() });
    }

    /// Puts a link to a snapshot, named by its time, in a directory of a directory of the top.
    fn group(&mut self, folder: &str, group: &str, snapshot: &Arc<Shown>, zone: &TimeZone) {
        let group = file_name(group);
        let outer = self.below(ROOT, folder.as_bytes(), folder.as_bytes(), snapshot.time);
        let path = [folder.as_bytes(), b"/", &group].concat();
        let inner = self.below(outer, &path, &group, snapshot.time);
        let time = zoned(snapshot.time, zone).strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let mut name = time.clone();
        for copy in 2.. {
            let is_free = self
                .top
                .directories
                .get(&inner)
                .is_none_or(|directory| !directory.children.contains_key(name.as_bytes()));
            if is_free {
                break;
            }
            name = format!("{time}-{copy}");
        }
        let target = format!("../../snapshots/{}", snapshot.id).into_bytes();
        self.link(inner, name.as_bytes(), target, snapshot.time);
    }

    /// Returns the path below the mount point by which people know a snapshot best.
    fn best_path(&self, snapshot: &Shown) -> Vec<u8> {
        for folder in [&b"daily"[..], b"weekly"] {
            let number = self.numbers.of(&[b"directory", folder]);
            let children = self.top.directories.get(&number).map(|directory| &directory.children);
            for child in children.into_iter().flat_map(BTreeMap::values) {
                match child {
                    Child::Snapshot { label, snapshot: other, .. } if other.id == snapshot.id => {
                        return label.clone();
                    }
                    _ => {}
                }
            }
        }
        format!("snapshots/{}", snapshot.id).into_bytes()
    }
}

/// Returns a name that a directory can have for a tag or a host.
fn file_name(text: &str) -> Vec<u8> {
    let mut name = text.replace(['/', '\0'], "_").into_bytes();
    name.truncate(NAME_BYTES_MAX);
    match name.as_slice() {
        b"" | b"." | b".." => [b"_", name.as_slice()].concat(),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::SnapshotId;
    use crate::repo::scope::Asked;
    use crate::stage::snapshot::{Component, Manifest, Status};

    fn shown(seed: u8, seconds: i64, tags: &[&str], host: &str) -> Arc<Shown> {
        shown_of(seed, seconds, tags, host, &[])
    }

    fn shown_of(seed: u8, seconds: i64, tags: &[&str], host: &str, components: &[&str]) -> Arc<Shown> {
        let component = |name: &&str| Component {
            name: (*name).to_owned(),
            directory: name.as_bytes().to_vec(),
            sources: Vec::new(),
            status: Status::Complete,
            attempts: 1,
            files: 0,
            bytes: 0,
        };
        let manifest = Manifest {
            time: Time::new(seconds, 0),
            host: host.to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            components: components.iter().map(component).collect(),
            root: crate::base::content::ContentBuf::default(),
            ..Manifest::default()
        };
        Arc::new(Shown::from(Snapshot { id: SnapshotId::from_bytes([seed; 32]), manifest }))
    }

    /// Returns all paths, links with their targets, snapshots with the first byte of their id.
    fn paths(top: &Top) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![(ROOT, String::new())];
        while let Some((number, path)) = todo.pop() {
            for (name, child) in &top.directories[&number].children {
                let path = format!("{path}/{}", String::from_utf8_lossy(name));
                match child {
                    Child::Directory(number) => todo.push((*number, path)),
                    Child::Link(number) => {
                        let target = String::from_utf8_lossy(&top.links[number].target).into_owned();
                        found.push(format!("{path} -> {}", target.replace("0303030303", "")));
                    }
                    Child::Snapshot { snapshot, .. } if !path.starts_with("/snapshots") => {
                        found.push(format!("{path} {}", snapshot.id.as_bytes()[0]));
                    }
                    Child::Snapshot { .. } => {}
                }
            }
        }
        found.sort();
        found
    }

    const NOON: i64 = 1_762_516_800; // 2025-11-07 12:00 UTC, a Friday

    fn top_of(snapshots: &[Arc<Shown>], asked: Asked) -> Top {
        let clock = || Time::new(NOON + 3600, 0);
        let naming = Naming { configured: None, asked, zone: TimeZone::UTC, clock };
        Top::new(snapshots, &naming, &Numbers::new([7; 32]))
    }

    fn laid_out(snapshots: &[Arc<Shown>]) -> Vec<String> {
        paths(&top_of(snapshots, Asked::default()))
    }

    #[test]
    fn the_newest_snapshot_of_a_day_stands_for_it() {
        let all = [shown(1, NOON, &["daily"], "a"), shown(2, NOON + 60, &["daily", "weekly"], "a")];
        let expected = ["/daily/2025-11-07 2", "/latest -> daily/2025-11-07", "/weekly/2025-week-45 2"];
        assert_eq!(laid_out(&all), expected);
    }

    #[test]
    fn what_is_backed_up_again_by_itself_does_not_stand_for_the_day() {
        let whole = shown_of(1, NOON, &["daily"], "a", &["mail", "mysql"]);
        let part = shown_of(2, NOON + 60, &["daily"], "a", &["mysql"]);
        assert_eq!(laid_out(&[whole, part])[0], "/daily/2025-11-07 1");
    }

    #[test]
    fn tags_and_hosts_are_shown_where_they_tell_more() {
        let all = [shown(1, NOON, &["daily"], "a"), shown(3, NOON, &["sql"], "../b")];
        let expected = [
            "/hosts/.._b/2025-11-07T12:00:00 -> ../../snapshots/0303",
            "/hosts/a/2025-11-07T12:00:00 -> ../../snapshots/0101010101010101010101010101010101010101010101010101010101010101",
            "/tags/sql/2025-11-07T12:00:00 -> ../../snapshots/0303",
        ];
        assert_eq!(laid_out(&all), expected, "no day is of one machine alone");
        let remark = top_of(&all, Asked::default()).remark.unwrap_or_default();
        assert!(remark.contains("not shown") && remark.contains("--host"), "{remark}");
        let one = top_of(&all, Asked { host: Some("a".to_owned()), run: None });
        assert_eq!((paths(&one)[0].as_str(), &one.remark), ("/daily/2025-11-07 1", &None));
    }

    #[test]
    fn what_is_dated_in_the_future_stands_for_no_day() {
        let all = [shown(1, NOON, &["daily"], "a"), shown(2, NOON + 3 * 86_400, &["daily"], "a")];
        assert_eq!(laid_out(&all), ["/daily/2025-11-07 1", "/latest -> daily/2025-11-07"]);
        let wrong = top_of(&all[1..], Asked::default());
        assert_eq!(paths(&wrong), ["/daily/2025-11-10 2", "/latest -> daily/2025-11-10"]);
        assert!(wrong.remark.is_some_and(|what| what.contains("clock")), "it is the clock that is wrong");
    }

    #[test]
    fn snapshots_of_one_second_have_names_of_their_own() {
        let all = [shown(1, NOON, &["a/b"], "a"), shown(3, NOON, &["a/b"], "a")];
        let found = laid_out(&all);
        assert!(found[1].starts_with("/tags/a_b/2025-11-07T12:00:00 -> "), "{found:?}");
        assert!(found[2].starts_with("/tags/a_b/2025-11-07T12:00:00-2 -> "), "{found:?}");
    }

    #[test]
    fn an_empty_repository_has_an_empty_top() {
        assert_eq!(laid_out(&[]), Vec::<String>::new());
    }
}
