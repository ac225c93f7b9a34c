//! What the mails say: what happened, what is affected, what to do.

use std::fmt::Write;

use crate::base::time::Time;
use crate::base::units::{counted, number, show_bytes as bytes};
use crate::job::clock::{day, length, shown};
use crate::job::mount::Disk;
use crate::job::notice::{Mail, steps, suspects};
use crate::op::backup::{PartReport, Suspected};
use crate::stage::snapshot::Status;

/// Lines of the log that a mail shows, at most.
const LOG_LINES: usize = 60;

/// Lines of a command's standard error that a mail shows, at most.
const COMPLAINT_LINES: usize = 15;

/// A try that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The component.
    pub component: String,
    /// Which try it was, from 1.
    pub attempt: u32,
    /// What failed, and why.
    pub reason: String,
    /// The end of what a command wrote to standard error.
    pub complaint: String,
}

/// What kind of trouble it is: decides what a person should do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failing {
    /// The disk is not mounted.
    Mount,
    /// There is not enough space.
    Space,
    /// A component could not be read.
    Component,
    /// A component is suddenly something else.
    Suspect,
    /// Old snapshots are not removed.
    Retention,
    /// Nobody has tried to remove old snapshots for too long.
    RetentionAge,
    /// The copy in the bucket was not brought up to date for too long.
    SyncAge,
    /// The packs were not read for too long.
    CheckAge,
    /// The disk is nearly full.
    Capacity,
    /// The bucket costs more than it should.
    Cost,
    /// The logs can't be written any more.
    Log,
    /// There was no backup for some nights.
    Missed,
    /// What was written does not verify.
    Verify,
    /// The configuration can't be used.
    Configuration,
    /// The repository is damaged.
    Damage,
    /// The bucket is not as it should be.
    Sync,
    /// The key files are not those that this machine knows.
    Keys,
    /// Anything else.
    #[default]
    Other,
}

impl Facts<'_> {
    /// Returns the folder where the logs lie.
    pub fn log_folder(&self) -> &str {
        self.log_file.rsplit_once('/').map_or(self.log_file.as_str(), |(folder, _)| folder)
    }
}

/// Something that somebody must see to, whatever became of the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What the subject says: `Sync Is Overdue`.
    pub title: String,
    /// What kind of trouble it is.
    pub failing: Failing,
    /// What is wrong, in one line.
    pub what: String,
}

/// What is known of a run.
#[derive(Default)]
pub struct Facts<'f> {
    /// What the subjects call it.
    pub name: &'f str,
    /// The machine.
    pub host: &'f str,
    /// Where the repository lies.
    pub repository: &'f str,
    /// The command, to be run again.
    pub command: &'f str,
    /// When it began.
    pub began: Time,
    /// How long it took.
    pub seconds: u64,
    /// How it ended, in words.
    pub status: &'f str,
    /// Why it ended early; empty if it did not.
    pub fatal: &'f str,
    /// What kind of trouble there is.
    pub failing: Failing,
    /// The new snapshot's name.
    pub snapshot: Option<String>,
    /// What became of the components.
    pub parts: &'f [PartReport],
    /// Tries that failed.
    pub failures: &'f [Failure],
    /// Components that are suspect, and that nobody has accepted.
    pub suspects: Vec<&'f Suspected>,
    /// How the key files differ from what this machine remembers.
    pub key_errors: Vec<String>,
    /// How full the disk is.
    pub disk: Option<Disk>,
    /// Where the disk is mounted.
    pub mount: &'f str,
    /// Snapshots kept.
    pub snapshots: Option<u64>,
    /// Whether this is about something that failed, and not only about what was found besides.
    pub has_failed: bool,
    /// What was found besides: each with a title, what is said, and steps of its own.
    pub causes: &'f [Cause],
    /// Lines of the log.
    pub log: Vec<String>,
    /// Where all of the log is.
    pub log_file: String,
}

/// Snapshots of one tag, for the mail about a disk that fills up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptOfTag {
    /// The tag.
    pub tag: String,
    /// How many there are.
    pub count: u64,
    /// Bytes of all files of the newest one, before deduplication.
    pub newest_bytes: u64,
    /// Bytes by which they have made the repository grow.
    pub stored_bytes: u64,
}

/// A component whose newest whole backup is too old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Its name.
    pub component: String,
    /// When it was last backed up whole; never if none.
    pub last: Option<Time>,
    /// Why it is not whole although it was backed up lately: it is suspect.
    pub suspicion: Option<String>,
}

fn head(facts: &Facts<'_>, body: &mut String) {
    let _ = writeln!(body, "Date:        {}", shown(facts.began));
    let _ = writeln!(body, "Machine:     {}", facts.host);
    let _ = writeln!(body, "Command:     {}", facts.command);
    let _ = writeln!(body, "Status:      {}", facts.status);
    let _ = writeln!(body, "Duration:    {}", length(facts.seconds));
    let _ = writeln!(body, "Repository:  {}", facts.repository);
}

fn stored(facts: &Facts<'_>, body: &mut String) {
    let snapshot = facts.snapshot.as_deref().unwrap_or("none was made; the earlier ones are untouched");
    let _ = writeln!(body, "Snapshot:    {snapshot}");
    if let Some(disk) = &facts.disk {
        let _ = writeln!(
            body,
            "Disk:        {} of {} used ({}%), {} available",
            bytes(disk.used_bytes),
            bytes(disk.capacity_bytes),
            disk.used_percent(),
            bytes(disk.available_bytes)
        );
    }
}

fn failed_parts(facts: &Facts<'_>, body: &mut String) {
    let bad: Vec<&PartReport> = facts.parts.iter().filter(|part| part.status != Status::Complete).collect();
    let others: Vec<&Failure> =
        facts.failures.iter().filter(|f| !facts.parts.iter().any(|part| part.name == f.component)).collect();
    if bad.is_empty() && others.is_empty() {
        return;
    }
    body.push_str("\nFailed\n");
    for part in bad {
        let what = match part.status {
            Status::Failed => "nothing of it is in the snapshot",
            _ => "the rest of it is in the snapshot",
        };
        let tries = if part.attempts == 1 { "try" } else { "tries" };
        let _ =
            writeln!(body, "  {}: {} after {} {tries}; {what}", part.name, part.status.word(), part.attempts);
        for lack in part.lacks.iter().take(20) {
            let _ = writeln!(body, "    {}: {}", crate::base::entry::quoted(&lack.path), lack.reason);
        }
        if part.lacks.len() > 20 {
            let _ = writeln!(body, "    and {} more; the log has them", part.lacks.len() - 20);
        }
        let last =
            facts.failures.iter().rev().find(|f| f.component == part.name && !f.complaint.trim().is_empty());
        last.into_iter().for_each(|failure| complaint(failure, body));
    }
    for failure in others {
        let _ = writeln!(body, "  {}: try {}: {}", failure.component, failure.attempt, failure.reason);
        complaint(failure, body);
    }
}

fn keys(facts: &Facts<'_>, body: &mut String) {
    if !facts.key_errors.is_empty() {
        body.push_str("\nKeys\n");
    }
    for line in facts.key_errors.iter().take(20) {
        let _ = writeln!(body, "  {line}");
    }
    if facts.key_errors.len() > 20 {
        let _ = writeln!(body, "  and {} more; the log has them", facts.key_errors.len() - 20);
    }
}

fn complaint(failure: &Failure, body: &mut String) {
    let lines: Vec<&str> = failure.complaint.lines().filter(|line| !line.trim().is_empty()).collect();
    if !lines.is_empty() {
        body.push_str("    what the command said:\n");
    }
    for line in &lines[lines.len().saturating_sub(COMPLAINT_LINES)..] {
        let _ = writeln!(body, "      | {}", line.trim_end());
    }
}

fn good_parts(facts: &Facts<'_>, body: &mut String) {
    let is_suspect = |part: &PartReport| facts.suspects.iter().any(|suspect| suspect.component == part.name);
    let whole = facts.parts.iter().filter(|part| part.status == Status::Complete && !is_suspect(part));
    let good: Vec<&PartReport> = whole.collect();
    if good.is_empty() {
        return;
    }
    body.push_str("\nSucceeded\n");
    let width = good.iter().map(|part| part.name.chars().count()).max().unwrap_or(0);
    for part in good {
        let _ = writeln!(
            body,
            "  {:<width$}  {} in {}, {} added",
            part.name,
            bytes(part.bytes),
            counted(part.files, "file", "files"),
            bytes(part.bytes_added)
        );
    }
}

fn log(facts: &Facts<'_>, body: &mut String) {
    body.push_str("\nLog\n");
    let skipped = facts.log.len().saturating_sub(LOG_LINES);
    if skipped > 0 {
        let _ = writeln!(body, "  ({} before)", counted(skipped as u64, "line", "lines"));
    }
    for line in facts.log.iter().skip(skipped) {
        let _ = writeln!(body, "  {line}");
    }
    let _ = writeln!(body, "\nAll of it: {}", facts.log_file);
}

/// Returns the mail about a run of which not everything succeeded.
pub fn failure(facts: &Facts<'_>) -> Mail {
    let (was, title) = match facts.failing {
        Failing::Suspect => ("was made, and is suspect", "Backup Is Suspect"),
        Failing::Log => ("was made, and its log could not be written", "Backup Has No Log"),
        _ => ("has failed", "Backup Failed"),
    };
    let mut body = format!("The backup of {} on {} {was}.\n\n", facts.name, facts.host);
    head(facts, &mut body);
    stored(facts, &mut body);
    if !facts.fatal.is_empty() {
        let _ = write!(body, "\nWhy\n  {}\n", facts.fatal);
    }
    suspects::section(facts, &mut body);
    failed_parts(facts, &mut body);
    keys(facts, &mut body);
    besides(facts, &mut body);
    good_parts(facts, &mut body);
    steps::section(facts, &mut body);
    log(facts, &mut body);
    Mail { subject: format!("[ALERT] {} {title} - {}", facts.name, day(facts.began)), body }
}

fn besides(facts: &Facts<'_>, body: &mut String) {
    if !facts.causes.is_empty() {
        body.push_str("\nFound besides\n");
    }
    for cause in facts.causes {
        let _ = writeln!(body, "  {}", cause.what);
    }
}

/// Returns the one mail about what a run found that did not fail, `facts.causes`: one at least.
pub fn found(facts: &Facts<'_>) -> Mail {
    let titles: Vec<&str> = facts.causes.iter().map(|cause| cause.title.as_str()).collect();
    let findings: Vec<String> = facts.causes.iter().map(|cause| cause.what.clone()).collect();
    verb(&titles.join(", "), facts, &findings)
}

/// Returns the mail about a verb beside the backup, such as `Sync Failed`, and what it found.
pub fn verb(title: &str, facts: &Facts<'_>, findings: &[String]) -> Mail {
    let mut body = format!("{title}: {} on {}.\n\n", facts.name, facts.host);
    head(facts, &mut body);
    body.push_str("\nWhy\n");
    for finding in findings {
        let _ = writeln!(body, "  {finding}");
    }
    steps::section(facts, &mut body);
    log(facts, &mut body);
    Mail { subject: format!("[ALERT] {} {title} - {}", facts.name, day(facts.began)), body }
}

/// Returns the mail about a run that did not begin, as another is still under way: `holder` says which.
pub fn still_running(facts: &Facts<'_>, holder: &str) -> Mail {
    let mut body = format!(
        "The backup of {} on {} is still running, so the next one did not begin.\n\n",
        facts.name, facts.host
    );
    head(facts, &mut body);
    let _ = writeln!(body, "\nStill running\n  {holder}");
    let _ = write!(body, "\nWhat to do\n  1. See whether it goes on: its lines are in {}\n", facts.log_file);
    body.push_str(
        "  2. If it hangs, look at what it waits for: a dump, a disk, a network share (ps, dmesg | tail)\n",
    );
    body.push_str(
        "  3. End it with 'kill PROCESS', which ends its dumps too: no snapshot is harmed by that\n",
    );
    let _ = writeln!(body, "  4. Run it again: {}", facts.command);
    body.push_str("\nThis mail comes once for each run that is held up so.\n");
    log(facts, &mut body);
    Mail { subject: format!("[ALERT] {} Backup Still Running - {}", facts.name, day(facts.began)), body }
}

/// Returns the mail about a run that succeeded.
pub fn success(facts: &Facts<'_>) -> Mail {
    let mut body = format!("The backup of {} on {} has succeeded.\n\n", facts.name, facts.host);
    head(facts, &mut body);
    stored(facts, &mut body);
    good_parts(facts, &mut body);
    log(facts, &mut body);
    Mail { subject: format!("[OK] {} Backup Succeeded - {}", facts.name, day(facts.began)), body }
}

/// Returns the mail about a disk that fills up.
pub fn capacity(facts: &Facts<'_>, disk: &Disk, limit_percent: u8, kept: &[KeptOfTag]) -> Mail {
    let percent = disk.used_percent();
    let mut body = format!(
        "The backup disk of {} on {} is {percent}% full; the limit is {limit_percent}%.\n\n",
        facts.name, facts.host
    );
    let _ = writeln!(body, "Date:         {}", shown(facts.began));
    let _ = writeln!(body, "Mount point:  {}", facts.mount);
    let _ = writeln!(body, "Capacity:     {}", bytes(disk.capacity_bytes));
    let _ = writeln!(body, "Used:         {} ({percent}%)", bytes(disk.used_bytes));
    let _ = writeln!(body, "Available:    {}", bytes(disk.available_bytes));
    let all = facts.snapshots.map_or_else(|| "not known".to_owned(), number);
    let _ = writeln!(body, "Snapshots:    {all}");
    for row in kept {
        let _ = writeln!(
            body,
            "  {:<11} {}; the newest holds {}, all of them have added {} to the disk",
            format!("{}:", row.tag),
            number(row.count),
            bytes(row.newest_bytes),
            bytes(row.stored_bytes)
        );
    }
    let added: u64 = facts.parts.iter().map(|part| part.bytes_added).sum();
    if added > 0 {
        let _ = writeln!(body, "Last run:     {} of new data, before compression", bytes(added));
    }
    body.push_str("\nRecommendations\n");
    let _ = writeln!(body, "  1. See what takes the space: df -h {}; snap stats", facts.mount);
    body.push_str("  2. See what could go: snap prune --dry-run; then snap prune\n");
    body.push_str("  3. Shorten [retention] in the configuration, or exclude what need not be kept\n");
    body.push_str(
        "  4. Plan a larger disk: backups go on until the free space is below min_free, then they stop\n",
    );
    Mail { subject: format!("[WARNING] Backup Disk Capacity at {percent}%"), body }
}

/// Returns the mail about backups that have not happened for too long. `trouble` says why nothing
/// is known at all; empty if all is known.
pub fn stale(
    (name, host): (&str, &str),
    now: Time,
    max_age: &str,
    stale: &[Stale],
    trouble: &str,
    besides: &[Cause],
) -> Mail {
    let mut body = format!("The backup of {name} on {host} is older than {max_age}.\n\n");
    if !trouble.is_empty() {
        let _ = writeln!(body, "The repository could not be read: {trouble}\n");
    }
    for row in stale {
        let last = row.last.map_or_else(|| "never".to_owned(), shown);
        let _ = writeln!(body, "  {}: last backed up whole {last}", row.component);
        if let Some(what) = &row.suspicion {
            let _ = writeln!(body, "    it is suspect since: {what}");
        }
    }
    for cause in besides {
        let _ = writeln!(body, "  {}", cause.what);
    }
    let _ = writeln!(body, "\nWhat to do\n  1. {}", steps::runs());
    body.push_str(
        "  2. Look at the logs of the last runs, and try everything harmlessly: snap config check --run\n",
    );
    body.push_str("  3. Run it by hand: snap backup --daily\n");
    Mail { subject: format!("[ALERT] {name} Backup Is Stale - {}", day(now)), body }
}

/// Returns the mail that shows that mails arrive.
pub fn test(name: &str, host: &str, now: Time) -> Mail {
    let body = format!(
        "This is a test of the backup notices of {name} on {host}, sent {}.\n\nIf you read this, notices arrive — übliche Umlaute und 日本語 too. Nothing needs to be done.\n",
        shown(now)
    );
    Mail { subject: format!("[TEST] {name} Backup Notice - {}", day(now)), body }
}
