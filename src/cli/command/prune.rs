//! `snap prune`

use jiff::tz::TimeZone;
use serde_json::json;

use crate::base::id::SnapshotId;
use crate::cli::command::configured::redactor;
use crate::cli::command::notify::own_key;
use crate::cli::exit::Exit;
use crate::cli::progress::Display;
use crate::cli::report::{Output, bytes, counted, local, reported, rfc3339, short};
use crate::cli::retention::Prune;
use crate::cli::session::Session;
use crate::job::clock::now;
use crate::job::last::{LastRun, Subject, Success};
use crate::job::retention;
use crate::job::run::{RETENTION, rules};
use crate::job::told::Told;
use crate::job::verb;
use crate::op::prune::{Amount, Fate, Judged, Policy, Report, Request, TagSpan, prune};
use crate::repo::{RepoError, Repository};

/// Prunes, and says what stays by which rule and what was reclaimed.
///
/// # Errors
/// As [`prune`]; [`RepoError::NoSnapshot`] for a snapshot to forget that is none.
pub fn run(session: &Session, options: Prune) -> Result<Exit, RepoError> {
    let started = std::time::Instant::now();
    let repository = session.open()?;
    if options.unlock {
        repository.unlock(&session.secrets)?;
    }
    let (policy, is_configured) = policy(session, &options)?;
    let mut request = Request::new(policy, now(), TimeZone::system(), &session.progress);
    request.forget = to_forget(session, &repository, &options)?;
    request.grace = options.grace;
    request.at_once = options.now;
    request.lock_patience = session.global.lock_wait;
    request.force = options.force;
    request.unused_percent_max = options.max_unused;
    request.repack_bytes_max = options.max_repack;
    request.dry_run = options.dry_run;
    let display = Display::start(&session.global, "prune", &session.progress);
    let report = prune(&repository, &request);
    drop(display);
    let seconds = started.elapsed().as_secs_f64();
    if is_configured && !request.dry_run {
        remember(session, &repository, report.as_ref().map_or_else(Exit::of, |_| Exit::Done), seconds);
    }
    let report = report?;
    let shown = show(session, &request, &report, seconds);
    Ok(match request.dry_run {
        true => shown.map(|()| Exit::Done)?,
        false => reported(Exit::Done, shown),
    })
}

/// Remembers how the configured retention was carried out by hand: as a night's own counts. That it can't be remembered
/// is said.
fn remember(session: &Session, repository: &Repository, exit: Exit, seconds: f64) {
    let (Ok(Some(config)), Ok(state)) = (session.own_config(), session.state_directory()) else { return };
    let (host, now) = (session.host(), now());
    let success = if exit == Exit::Done { Success::Whole } else { Success::None };
    let run = LastRun { ended: now.seconds, exit: exit as u8, seconds };
    let subject = Subject::retention(config, &host);
    verb::remember(config, redactor(config), &state, &subject, (run, success));
    if exit == Exit::Done
        && let Ok(snapshots) = repository.snapshots()
    {
        let (_, key) = own_key(config, &host, &snapshots.all);
        let mut told = Told::read(&state, repository.id(), &key);
        told.end(|what| what == RETENTION);
        told.carried_out(&rules(&config.retention));
        if let Err(e) = told.write() {
            tracing::warn!("that it was done cannot be remembered: {e}");
        }
    }
}

/// Returns what the rules on the command line keep; without any, and with no snapshot named to go,
/// what the configured ones keep, and that it is those.
fn policy(session: &Session, options: &Prune) -> Result<(Policy, bool), RepoError> {
    let rule = |(tag, span): &(String, jiff::Span)| TagSpan { tag: tag.clone(), span: *span };
    let given = Policy {
        keep_last: options.keep_last,
        keep_daily: options.keep_daily,
        keep_weekly: options.keep_weekly,
        keep_monthly: options.keep_monthly,
        keep_yearly: options.keep_yearly,
        keep_within: options.keep_within,
        keep_tags: options.keep_tag.clone(),
        tag_spans: options.keep_tagged.iter().map(rule).collect(),
    };
    if !given.is_empty() || !options.forget.is_empty() {
        return Ok((given, false));
    }
    let configured = session.own_config()?.and_then(|config| retention::policy(&config.retention));
    Ok(configured.map_or((given, false), |policy| (policy, true)))
}

/// Returns the snapshots that are named, manifests that can't be read among them.
fn to_forget(
    session: &Session,
    repository: &Repository,
    options: &Prune,
) -> Result<Vec<SnapshotId>, RepoError> {
    let specs = &options.forget;
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let snapshots = repository.snapshots()?;
    let lost = snapshots.unreadable.iter().filter_map(|(path, _)| path.rsplit('/').next()?.parse().ok());
    let lost: Vec<SnapshotId> = lost.collect();
    let naming = session.naming(&options.owner)?;
    let names = naming.names(&snapshots.all);
    let find = |spec: &String| {
        let mut alike = lost.iter().filter(|id| spec.len() >= 4 && id.to_string().starts_with(spec.as_str()));
        match (alike.next(), alike.next()) {
            (Some(id), None) => Ok(*id),
            _ => names.select(spec).map(|chosen| snapshots.all[chosen.at].id),
        }
    };
    specs.iter().map(find).collect()
}

fn show(session: &Session, request: &Request<'_>, report: &Report, seconds: f64) -> Result<(), RepoError> {
    let mut out = Output::new();
    if session.global.json {
        for snapshot in &report.snapshots {
            out.line(as_json(snapshot))?;
        }
        let amount = |amount: Amount| json!({ "packs": amount.packs, "bytes": amount.bytes });
        out.line(json!({
            "type": "summary",
            "dry_run": request.dry_run,
            "snapshots_kept": report.kept(),
            "snapshots_forgotten": report.forgotten(),
            "condemned": amount(report.condemned),
            "repacked": amount(report.repacked),
            "written": amount(report.written),
            "frames_closed": report.frames_closed,
            "rescued": amount(report.rescued),
            "deleted": amount(report.deleted),
            "waiting": amount(report.waiting),
            "bytes_before": report.bytes_before,
            "bytes_after": report.bytes_after,
            "refusals": report.refusals,
            "notes": report.notes,
            "duration_s": seconds,
        }))?;
        return out.finish();
    }
    for note in &report.notes {
        tracing::warn!("{note}");
    }
    for refusal in &report.refusals {
        tracing::warn!("{refusal}: {}", if request.force { "forced" } else { "without --force, refused" });
    }
    if session.global.quiet {
        return out.finish();
    }
    let is_shown = !request.policy.is_empty() || !request.forget.is_empty() || session.global.verbose > 0;
    if is_shown {
        as_text(&report.snapshots).into_iter().try_for_each(|line| out.line(line))?;
    }
    show_space(&mut out, request, report, seconds)?;
    out.finish()
}

fn show_space(
    out: &mut Output,
    request: &Request<'_>,
    report: &Report,
    seconds: f64,
) -> Result<(), RepoError> {
    let packs =
        |amount: Amount| format!("{} ({})", counted(amount.packs, "pack", "packs"), bytes(amount.bytes));
    let head = if request.dry_run {
        "dry run: nothing was changed".to_owned()
    } else {
        format!("done in {seconds:.2} s")
    };
    out.line(head)?;
    out.line(format_args!("  snapshots  {} kept, {} forgotten", report.kept(), report.forgotten()))?;
    let rows = [
        ("condemned", report.condemned, "needed by nothing"),
        ("repacked", report.repacked, "of which a part is needed"),
        ("written", report.written, "with that part"),
        ("rescued", report.rescued, "condemned, and needed again"),
        ("deleted", report.deleted, ""),
        ("waiting", report.waiting, "condemned; a later prune deletes them"),
    ];
    for (name, amount, what) in rows.iter().filter(|(_, amount, _)| amount.packs > 0) {
        let what = if what.is_empty() { String::new() } else { format!(", {what}") };
        out.line(format_args!("  {name:<9}  {}{what}", packs(*amount)))?;
    }
    if report.frames_closed > 0 {
        let frames = counted(report.frames_closed, "frame", "frames");
        out.line(format_args!(
            "  closed     {frames} that can't be opened here: backups store afresh what still lives of them"
        ))?;
    }
    out.line(format_args!(
        "  packs      {} before, {} after",
        bytes(report.bytes_before),
        bytes(report.bytes_after)
    ))
}

fn reasons(fate: &Fate) -> Vec<String> {
    match fate {
        Fate::Kept(reasons) => reasons.iter().map(ToString::to_string).collect(),
        Fate::Expired | Fate::Named => Vec::new(),
    }
}

/// Returns a line for each snapshot, in columns.
fn as_text(snapshots: &[Judged]) -> Vec<String> {
    let verdict = |snapshot: &Judged| match &snapshot.fate {
        Fate::Kept(_) => format!("keep    {}", reasons(&snapshot.fate).join(", ")),
        Fate::Expired => "forget".to_owned(),
        Fate::Named => "forget  named".to_owned(),
    };
    let cells = |snapshot: &Judged| {
        [snapshot.host.clone(), snapshot.tags.join(","), snapshot.components.join(","), verdict(snapshot)]
    };
    let rows: Vec<[String; 4]> = snapshots.iter().map(cells).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (hosts, tags, components) = (width(0), width(1), width(2));
    let line = |(snapshot, [host, tag, component, verdict]): (&Judged, &[String; 4])| {
        let (id, time) = (short(snapshot.id), local(snapshot.time));
        format!("{id}  {time}  {host:<hosts$}  {tag:<tags$}  {component:<components$}  {verdict}")
    };
    snapshots.iter().zip(&rows).map(line).collect()
}

fn as_json(snapshot: &Judged) -> serde_json::Value {
    json!({
        "type": "snapshot",
        "id": snapshot.id.to_string(),
        "time": rfc3339(snapshot.time),
        "host": snapshot.host,
        "tags": snapshot.tags,
        "components": snapshot.components,
        "kept": snapshot.fate.is_kept(),
        "reasons": reasons(&snapshot.fate),
    })
}
