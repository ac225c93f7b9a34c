//! `snap sync`

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde_json::json;

use crate::base::id::SnapshotId;
use crate::cli::command::watched::{Verb, Worked, first, watched};
use crate::cli::exit::{self, Exit};
use crate::cli::offsite::Sync;
use crate::cli::progress::Display;
use crate::cli::report::{Output, bytes, counted, local, reported, rfc3339, short, tell};
use crate::cli::s3::{connect, endpoint_of_environment, is_s3, s3_options};
use crate::cli::session::Session;
use crate::job::clock::now;
use crate::job::config;
use crate::job::cost::{Amount, Bill};
use crate::job::last::Success;
use crate::job::retention;
use crate::op::prune::Policy;
use crate::op::sync::{Budget, Kept, Options, Report, Request, sync};
use crate::repo::{RepoError, Snapshot};
use crate::store::{LockingStore, refuse_other_kinds};

/// Most problems, and most snapshots, that are told a line each.
const SHOWN: usize = 20;

/// Brings the bucket up to date, and says how everything is kept there.
///
/// # Errors
/// As [`sync`].
pub fn run(session: &Session, given: &Sync) -> Result<Exit, RepoError> {
    if given.dry_run {
        return bring(session, given).map(|worked| reported(worked.exit, worked.shown));
    }
    let store = store(session, given).map(|store| store.display().to_string()).unwrap_or_default();
    watched(session, Verb::Sync(&store), || bring(session, given))
}

/// Returns the bucket: the one that was named, else the configured one.
fn store(session: &Session, given: &Sync) -> Result<PathBuf, RepoError> {
    let configured = session.own_config()?.and_then(|config| config.sync.as_ref());
    let store = given.store.clone().or_else(|| configured.map(|sync| sync.store.clone().into()));
    let reason = "name one: 'snap sync s3://bucket/prefix', or [sync] in the configuration".to_owned();
    store.ok_or(RepoError::Source { path: "no bucket".to_owned(), reason })
}

/// Does it; returns what must be seen to, a line each.
fn bring(session: &Session, given: &Sync) -> Result<Worked, RepoError> {
    let started = std::time::Instant::now();
    let configured = session.own_config()?.and_then(|config| config.sync.as_ref());
    let store = store(session, given)?;
    if !is_s3(&store) {
        let path = store.display().to_string();
        let of_directory = "is not on S3: locks are a bucket's; a second directory is made with 'snap clone'";
        let reason = refuse_other_kinds(&store).err().unwrap_or_else(|| of_directory.to_owned());
        return Err(RepoError::Source { path, reason });
    }
    let mut reached = s3_options(session, configured);
    reached.endpoint = reached.endpoint.or_else(endpoint_of_environment); // what is remembered of a bucket is by server
    let remote: Arc<dyn LockingStore> = Arc::new(connect(&store, reached)?);
    let repository = session.open()?;
    let lock = session.lock(&repository)?;
    let options = options(given, configured);
    let policy = session.own_config()?.and_then(|config| retention::policy(&config.retention));
    let request = Request {
        options: &options,
        now: now(),
        seed: u64::from(now().nanos),
        threads: usize::from(session.global.s3.s3_connections),
        expired: &|all: &[Snapshot]| expired(policy.as_ref(), all),
        progress: &session.progress,
    };
    let display = Display::start(&session.global, "sync", &session.progress);
    let report = sync(&repository, &remote, &request);
    drop((display, lock));
    let report = report?;
    let is_done = report.is_well() || options.dry_run;
    let exit = match &report.stopped {
        Some(error) => Exit::of(error),
        None if is_done => Exit::Done,
        None => Exit::Partial,
    };
    let shown = show(session, &options, &report, started.elapsed().as_secs_f64());
    if let Some(error) = &report.stopped {
        exit::report(error);
    }
    let stopped = report.stopped.iter().map(RepoError::chain);
    let amount = Amount { cost: report.cost.total(), stored_bytes: report.bytes_stored };
    Ok(Worked {
        exit,
        shown,
        findings: stopped.chain(findings(&report)).collect(),
        is_alarm: !report.warnings.is_empty(),
        success: if report.is_well() { Success::Whole } else { Success::None },
        bill: report.stopped.is_none().then(|| Bill {
            amount,
            currency: options.prices.currency.clone(),
            levels: options.budget.levels.clone(),
        }),
    })
}

/// Returns which of these snapshots the configured retention does not keep.
fn expired(policy: Option<&Policy>, all: &[Snapshot]) -> BTreeSet<SnapshotId> {
    let Some(policy) = policy else { return BTreeSet::new() };
    let fates = policy.judge(all, &BTreeSet::new(), now(), &TimeZone::system());
    all.iter().zip(fates).filter(|(_, fate)| !fate.is_kept()).map(|(snapshot, _)| snapshot.id).collect()
}

fn findings(report: &Report) -> Vec<String> {
    let problems = report.problems.iter().map(|problem| format!("{}: {}", problem.path, problem.what));
    let torn = report.snapshots.iter().filter(|kept| !kept.is_whole);
    let torn = torn.map(|kept| format!("snapshot {} is not whole in the bucket", short(kept.id)));
    let exceeded = report.exceeded.map(|level| format!("the bucket costs more than {level:.0} a month"));
    let all: Vec<String> = problems.chain(torn).chain(exceeded).collect();
    let total = all.len();
    // What an intruder may have done is told whatever else there is to tell.
    let mut findings: Vec<String> = report.warnings.clone();
    findings.extend(first(all.into_iter(), total, ""));
    findings
}

fn options(given: &Sync, configured: Option<&config::Sync>) -> Options {
    let default = Options::default();
    let levels = match (&given.budget[..], configured.and_then(|sync| sync.budget.clone())) {
        ([], Some(levels)) => levels,
        ([], None) => default.budget.levels.clone(),
        (levels, _) => levels.to_vec(),
    };
    let limit = given.budget_limit.or(configured.and_then(|sync| sync.budget_limit));
    let days = |given: Option<u32>, configured: Option<u32>, default| given.or(configured).unwrap_or(default);
    Options {
        lock_days: days(given.lock_days, configured.map(|sync| sync.lock_days), default.lock_days),
        renew_below_days: days(
            given.renew_below_days,
            configured.map(|sync| sync.renew_below_days),
            default.renew_below_days,
        ),
        audit: given.audit,
        delete: given.delete,
        force: given.force,
        accept_loss: given.accept_loss,
        dry_run: given.dry_run,
        allow_unlocked: given.allow_unlocked,
        allow_expiry: given.allow_expiry,
        patience: default.patience,
        budget: Budget { levels, limit },
        prices: configured.map_or(default.prices, |sync| sync.prices.clone()),
    }
}

fn show(session: &Session, options: &Options, report: &Report, seconds: f64) -> Result<(), RepoError> {
    let mut out = Output::new();
    if session.global.json {
        json_lines(&mut out, options, report, seconds)?;
        return out.finish();
    }
    for problem in report.problems.iter().take(SHOWN) {
        tell(format_args!("ERROR: {}: {}", problem.path, problem.what));
    }
    let more = report.problems.len().saturating_sub(SHOWN);
    if more > 0 {
        tell(format_args!("ERROR: and {more} more; --json names all"));
    }
    for warning in &report.warnings {
        tell(format_args!("WARNING: {warning}"));
    }
    if let (Some(level), false) = (report.exceeded, session.global.quiet) {
        let currency = &options.prices.currency;
        let cost = report.cost.total();
        tell(format_args!(
            "WARNING: the bucket costs about {cost:.0} {currency} a month, more than {level:.0}"
        ));
    }
    if session.global.quiet {
        return Ok(());
    }
    for note in &report.notes {
        out.line(format_args!("note: {note}"))?;
    }
    let (put, renewed, removed) = match options.dry_run {
        true => ("would put", "would be renewed", "would remove"),
        false => ("put", "renewed", "removed"),
    };
    out.line(format_args!(
        "{put} {}, {}; {} {renewed}, {} read back, in {seconds:.1} s",
        counted(report.files_put, "file", "files"),
        bytes(report.bytes_put),
        counted(report.renewed, "lock", "locks"),
        report.audited,
    ))?;
    if options.delete {
        out.line(format_args!(
            "  {removed:<9} {}, {}",
            counted(report.deleted, "version", "versions"),
            bytes(report.bytes_deleted)
        ))?;
    }
    if seconds > 0.0 && report.usage.bytes_sent > 0 {
        let rate = (report.usage.bytes_sent as f64 / seconds) as u64;
        out.line(format_args!("  sent      {} at {}/s", bytes(report.usage.bytes_sent), bytes(rate)))?;
    }
    out.line(format_args!(
        "  requests  {} that put or list, {} that read, {} that delete",
        report.usage.writes, report.usage.reads, report.usage.deletes
    ))?;
    out.line(format_args!(
        "  bucket    {}, about {:.1} {} a month",
        bytes(report.bytes_stored),
        report.cost.total(),
        options.prices.currency
    ))?;
    snapshot_lines(&report.snapshots, options.dry_run).into_iter().try_for_each(|line| out.line(line))?;
    out.finish()
}

/// Says how the bucket keeps each snapshot. Of many, those that are not kept well come first, and of the others the one whose
/// lock ends first, and the newest.
fn snapshot_lines(all: &[Kept], dry_run: bool) -> Vec<String> {
    let line = |kept: &Kept| {
        let state = match (kept.is_whole, kept.lowest) {
            (false, _) if dry_run => "not in the bucket yet".to_owned(),
            (false, _) => "NOT WHOLE in the bucket".to_owned(),
            (true, Some(lowest)) => format!("locked until {}", local(lowest)),
            (true, None) => "not locked".to_owned(),
        };
        format!("  snapshot  {}  {}  {state}", short(kept.id), local(kept.time))
    };
    if all.len() <= SHOWN {
        return all.iter().map(line).collect();
    }
    let (well, bad): (Vec<&Kept>, Vec<&Kept>) =
        all.iter().partition(|kept| kept.is_whole && kept.lowest.is_some());
    let mut lines: Vec<String> = bad.iter().take(SHOWN).map(|kept| line(kept)).collect();
    let more = bad.len().saturating_sub(SHOWN);
    lines.extend(
        (more > 0).then(|| format!("  and {more} more that are not whole, or not locked; --json names all")),
    );
    let first = well.iter().min_by_key(|kept| kept.lowest).map(|kept| kept.id);
    let shown = well.iter().enumerate().filter(|(at, kept)| first == Some(kept.id) || at + 1 == well.len());
    lines.extend(shown.map(|(_, kept)| line(kept)));
    let whole = counted(well.len() as u64, "snapshot is", "snapshots are");
    lines.push(format!("  {whole} whole and locked; above are the one whose lock ends first, and the newest; --json names all"));
    lines
}

fn json_lines(out: &mut Output, options: &Options, report: &Report, seconds: f64) -> Result<(), RepoError> {
    for problem in &report.problems {
        out.line(json!({ "type": "problem", "path": problem.path, "what": problem.what }))?;
    }
    for kept in &report.snapshots {
        let lowest = kept.lowest.map(rfc3339);
        let now = now();
        let days = kept.lowest.map(|lowest| (lowest.seconds - now.seconds) as f64 / 86_400.0);
        out.line(json!({
            "type": "snapshot",
            "id": kept.id.to_string(),
            "time": rfc3339(kept.time),
            "whole": kept.is_whole,
            "locked_until": lowest,
            "locked_days": days,
        }))?;
    }
    out.line(json!({
        "type": "summary",
        "dry_run": options.dry_run,
        "well": report.is_well(),
        "files_put": report.files_put,
        "bytes_put": report.bytes_put,
        "renewed": report.renewed,
        "put_back": report.put_back,
        "audited": report.audited,
        "deleted": report.deleted,
        "bytes_deleted": report.bytes_deleted,
        "problems": report.problems.len(),
        "warnings": report.warnings,
        "notes": report.notes,
        "snapshots": report.snapshots.len(),
        "bytes_stored": report.bytes_stored,
        "bytes_sent": report.usage.bytes_sent,
        "bytes_received": report.usage.bytes_received,
        "requests_write": report.usage.writes,
        "requests_read": report.usage.reads,
        "requests_delete": report.usage.deletes,
        "cost_month": report.cost.total(),
        "currency": options.prices.currency,
        "budget_exceeded": report.exceeded,
        "duration_s": seconds,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::SnapshotId;
    use crate::base::time::Time;

    #[test]
    fn of_many_snapshots_those_that_are_not_kept_well_are_told_and_few_others() {
        let kept = |n: u16, is_whole| {
            let mut id = [0; SnapshotId::BYTES];
            id[..2].copy_from_slice(&n.to_be_bytes());
            let (time, lowest) = (Time::new(i64::from(n), 0), Some(Time::new(i64::from(10_000 - n), 0)));
            Kept { id: SnapshotId::from_bytes(id), time, is_whole, lowest }
        };
        let few: Vec<Kept> = (0..20).map(|n| kept(n, true)).collect();
        assert_eq!(snapshot_lines(&few, false).len(), 20);
        let many: Vec<Kept> = (0..1300).map(|n| kept(n, n != 7)).collect();
        let lines = snapshot_lines(&many, false);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[0].contains(&short(many[7].id).to_string()) && lines[0].contains("NOT WHOLE"),
            "{lines:?}"
        );
        assert!(lines[1].contains(&short(many[1299].id).to_string()), "its lock ends first: {lines:?}");
        assert!(lines[2].contains("1299 snapshots are") || lines[2].contains("1,299"), "{lines:?}");
        let torn: Vec<Kept> = (0..1300).map(|n| kept(n, false)).collect();
        assert_eq!(snapshot_lines(&torn, false).len(), 22);
    }
}
