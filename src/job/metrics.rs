//! Numbers of the last run, as a text file that Prometheus' node exporter collects.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::base::time::Time;
use crate::job::last::Last;
use crate::job::mount::Disk;
use crate::op::backup::PartReport;
use crate::stage::snapshot::Status;
use crate::store::{open_own_file, put_own_file};

/// When all components were last backed up whole.
const LAST_SUCCESS: &str = "snap_last_success_timestamp_seconds";

/// When a component was last backed up whole.
const COMPONENT_LAST_SUCCESS: &str = "snap_component_last_success_timestamp_seconds";

/// What there is to tell.
#[derive(Default)]
pub struct Numbers<'n> {
    /// When the run ended.
    pub ended: Time,
    /// How long it took.
    pub seconds: f64,
    /// Its exit status.
    pub exit: u8,
    /// Whether every component is whole and verified.
    pub is_success: bool,
    /// Whether what was written was read back and is right; else no component counts as backed up.
    pub is_verified: bool,
    /// What became of the components.
    pub parts: &'n [PartReport],
    /// Names of those that are suspect, and that nobody has accepted.
    pub suspects: Vec<&'n str>,
    /// Growth of the repository's files.
    pub bytes_stored: u64,
    /// Entries lacking.
    pub errors: u64,
    /// Bytes of the repository's files, if they could be listed.
    pub repository_bytes: Option<u64>,
    /// Snapshots kept, if they could be listed.
    pub snapshots: Option<u64>,
    /// How full the disk is, if that is known.
    pub disk: Option<Disk>,
    /// What is remembered of verbs beside the backup, by their names.
    pub lasts: Vec<(&'static str, Last)>,
}

/// Replaces the file as a whole; times of the last success are taken over from the old one. `state` is this machine's
/// state directory, which says who writes.
///
/// # Errors
/// As writing, syncing and renaming; the old file stays then.
pub fn write(path: &Path, state: &Path, numbers: &Numbers<'_>) -> io::Result<()> {
    let _lock = lock(state);
    let old = fs::read_to_string(path).unwrap_or_default(); // none yet, or one that is not ours
    let mut out = text(numbers, &samples(&old));
    verbs(&numbers.lasts, numbers.ended, &mut out);
    put_own_file(path, out.0.as_bytes(), 0o644)
}

/// Replaces the numbers of verbs beside the backup, and leaves the others as they are.
///
/// # Errors
/// As [`write()`].
pub fn write_verbs(path: &Path, state: &Path, lasts: &[(&'static str, Last)], now: Time) -> io::Result<()> {
    let _lock = lock(state);
    let old = fs::read_to_string(path).unwrap_or_default();
    let is_replaced = |line: &&str| {
        let name = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        lasts.iter().any(|(verb, _)| name.starts_with(&format!("snap_{verb}_")))
    };
    let mut out =
        Text(old.lines().filter(|line| !is_replaced(line)).map(|line| format!("{line}\n")).collect());
    verbs(lasts, now, &mut out);
    put_own_file(path, out.0.as_bytes(), 0o644)
}

/// Waits until nobody else writes numbers: what a run has just written would be lost. None where there can be no lock.
fn lock(state: &Path) -> Option<File> {
    let file = open_own_file(&state.join("metrics.lock")).ok()?;
    flock(&file, FlockOperation::LockExclusive).ok()?;
    Some(file)
}

/// Writes the numbers of verbs beside the backup.
fn verbs(lasts: &[(&'static str, Last)], now: Time, out: &mut Text) {
    for (verb, last) in lasts {
        let mut row = |name: &str, help: &str, value: Option<String>| {
            out.metric(&format!("snap_{verb}_{name}"), help, value.map(|value| (String::new(), value)));
        };
        let success = last.success(now).map(|at| at.seconds.to_string());
        let run = last.run();
        row("last_success_timestamp_seconds", &format!("When {verb} last succeeded."), success);
        row(
            "last_run_timestamp_seconds",
            &format!("When {verb} last ended."),
            run.map(|run| run.ended.to_string()),
        );
        row(
            "last_run_exit_status",
            &format!("Exit status of the last {verb}."),
            run.map(|run| run.exit.to_string()),
        );
        row(
            "last_run_duration_seconds",
            &format!("How long the last {verb} took."),
            run.map(|run| run.seconds.to_string()),
        );
    }
}

/// Returns the samples of an exposition: name with labels → value.
fn samples(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// Writes one metric after the other.
struct Text(String);

impl Text {
    fn metric(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (String, String)>) {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return;
        }
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in rows {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn one(&mut self, name: &str, help: &str, value: impl ToString) {
        self.metric(name, help, [(String::new(), value.to_string())]);
    }
}

fn label(part: &str) -> String {
    let name = part.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{{component=\"{name}\"}}")
}

fn text(numbers: &Numbers<'_>, old: &BTreeMap<String, String>) -> Text {
    let mut out = Text(String::new());
    let ended = numbers.ended.seconds.to_string();
    out.one("snap_last_run_timestamp_seconds", "When the last run ended.", &ended);
    let last = if numbers.is_success { Some(&ended) } else { old.get(LAST_SUCCESS) };
    let help = "When the last run ended that backed up all components whole.";
    out.metric(LAST_SUCCESS, help, last.map(|last| (String::new(), last.clone())));
    out.one("snap_last_run_duration_seconds", "How long the last run took.", numbers.seconds);
    out.one("snap_last_run_exit_status", "Exit status of the last run.", numbers.exit);
    out.one("snap_last_run_errors", "Entries that the last run could not back up.", numbers.errors);
    let read: u64 = numbers.parts.iter().map(|part| part.bytes_read).sum();
    out.one("snap_last_run_bytes_read", "Bytes read from sources.", read);
    let added: u64 = numbers.parts.iter().map(|part| part.bytes_added).sum();
    out.one("snap_last_run_bytes_added", "Bytes that were new, before compression.", added);
    out.one("snap_last_run_bytes_stored", "Growth of the repository's files.", numbers.bytes_stored);
    let optional = |value: Option<u64>| value.map(|value| (String::new(), value.to_string()));
    out.metric(
        "snap_repository_bytes",
        "Size of the repository's files.",
        optional(numbers.repository_bytes),
    );
    out.metric("snap_snapshots", "Snapshots kept.", optional(numbers.snapshots));
    if let Some(disk) = &numbers.disk {
        out.one("snap_disk_capacity_bytes", "Size of the backup disk.", disk.capacity_bytes);
        out.one("snap_disk_used_bytes", "Used space of the backup disk.", disk.used_bytes);
        out.one("snap_disk_available_bytes", "Free space of the backup disk.", disk.available_bytes);
    }
    parts(numbers, old, &ended, &mut out);
    out
}

fn parts(numbers: &Numbers<'_>, old: &BTreeMap<String, String>, ended: &str, out: &mut Text) {
    let rows = |value: &dyn Fn(&PartReport) -> String| {
        numbers.parts.iter().map(|part| (label(&part.name), value(part))).collect::<Vec<_>>()
    };
    let is_suspect = |part: &PartReport| numbers.suspects.contains(&part.name.as_str());
    let is_whole = |part: &PartReport| part.status == Status::Complete && !is_suspect(part);
    let complete = rows(&|part| u8::from(is_whole(part)).to_string());
    out.metric("snap_component_complete", "Whether the component is whole in the last snapshot.", complete);
    let help = "Whether the component is suddenly something else than its last whole snapshot.";
    out.metric("snap_component_suspect", help, rows(&|part| u8::from(is_suspect(part)).to_string()));
    let mut last: BTreeMap<String, String> = old
        .iter()
        .filter_map(|(name, value)| {
            Some((name.strip_prefix(COMPONENT_LAST_SUCCESS)?.to_owned(), value.clone()))
        })
        .collect();
    let whole = numbers.parts.iter().filter(|part| numbers.is_verified && is_whole(part));
    last.extend(whole.map(|part| (label(&part.name), ended.to_owned())));
    out.metric(COMPONENT_LAST_SUCCESS, "When the component was last backed up whole.", last);
    out.metric(
        "snap_component_attempts",
        "How often the component was tried.",
        rows(&|part| part.attempts.to_string()),
    );
    out.metric("snap_component_files", "Files of the component.", rows(&|part| part.files.to_string()));
    out.metric("snap_component_bytes", "Bytes of the component.", rows(&|part| part.bytes.to_string()));
    out.metric(
        "snap_component_bytes_added",
        "Bytes that were new.",
        rows(&|part| part.bytes_added.to_string()),
    );
    out.metric("snap_component_errors", "Entries lacking.", rows(&|part| part.lacks.len().to_string()));
    let seconds = rows(&|part| (part.duration_ms as f64 / 1000.0).to_string());
    out.metric("snap_component_duration_seconds", "How long the component took.", seconds);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::job::last::{LastRun, Subject, Success};

    fn part(name: &str, status: Status) -> PartReport {
        PartReport {
            name: name.to_owned(),
            status,
            attempts: 1,
            files: 2,
            bytes: 30,
            bytes_read: 30,
            bytes_added: 4,
            duration_ms: 1500,
            lacks: Vec::new(),
            seen: Default::default(),
        }
    }

    #[test]
    fn a_failed_run_keeps_the_time_of_the_last_good_one() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("snap.prom");
        let good = [part("mail", Status::Complete), part("mysql", Status::Complete)];
        let numbers = Numbers {
            ended: Time::new(100, 0),
            is_success: true,
            is_verified: true,
            parts: &good,
            ..Numbers::default()
        };
        write(&path, folder.path(), &numbers).expect("is written");
        let bad = [part("mail", Status::Complete), part("mysql", Status::Failed)];
        let numbers = Numbers {
            ended: Time::new(200, 0),
            exit: 1,
            is_verified: true,
            parts: &bad,
            ..Numbers::default()
        };
        write(&path, folder.path(), &numbers).expect("is written");
        let now = samples(&fs::read_to_string(&path).expect("reads"));
        assert_eq!(now[LAST_SUCCESS], "100");
        assert_eq!(now["snap_last_run_exit_status"], "1");
        assert_eq!(now[&format!("{COMPONENT_LAST_SUCCESS}{{component=\"mail\"}}")], "200");
        assert_eq!(now[&format!("{COMPONENT_LAST_SUCCESS}{{component=\"mysql\"}}")], "100");
        assert_eq!(now["snap_component_complete{component=\"mysql\"}"], "0");
        let unverified = Numbers { ended: Time::new(300, 0), exit: 1, parts: &good, ..Numbers::default() };
        write(&path, folder.path(), &unverified).expect("is written");
        let now = samples(&fs::read_to_string(&path).expect("reads"));
        assert_eq!(now[&format!("{COMPONENT_LAST_SUCCESS}{{component=\"mail\"}}")], "200");
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o644);
        let left: Vec<_> = fs::read_dir(folder.path()).expect("lists").map(|it| it.expect("reads")).collect();
        assert_eq!(left.len(), 2, "the numbers and the lock, and no temporary file: {left:?}");
    }
    #[test]
    fn a_sync_replaces_its_own_numbers_and_no_others() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("snap.prom");
        let subject = Subject::sync("s3://copies/mail");
        let mut last = Last::read(folder.path(), Path::new("/r"), &subject);
        let run = LastRun { ended: 100, exit: 0, seconds: 2.5 };
        last.ran(run, Success::Whole);
        let numbers =
            Numbers { ended: Time::new(150, 0), lasts: vec![("sync", last.clone())], ..Numbers::default() };
        write(&path, folder.path(), &numbers).expect("is written");
        last.ran(LastRun { ended: 200, exit: 2, ..run }, Success::None);
        write_verbs(&path, folder.path(), &[("sync", last)], Time::new(200, 0)).expect("is written");
        let text = fs::read_to_string(&path).expect("reads");
        let now = samples(&text);
        assert_eq!(now["snap_last_run_timestamp_seconds"], "150");
        assert_eq!(now["snap_sync_last_success_timestamp_seconds"], "100");
        assert_eq!(
            (
                now["snap_sync_last_run_exit_status"].as_str(),
                now["snap_sync_last_run_timestamp_seconds"].as_str()
            ),
            ("2", "200")
        );
        assert_eq!(text.matches("# TYPE snap_sync_last_run_exit_status").count(), 1, "{text}");
    }
}
