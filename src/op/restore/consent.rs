//! What must be said before a restore changes what is there: `--force`, or yes to a question.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::base::entry::quoted;
use crate::base::units::{counted, number, show_bytes};
use crate::op::restore::origin::{Origins, below, join};
use crate::op::restore::spared::Spared;
use crate::op::restore::survey::Findings;
use crate::op::restore::{Overwrite, Request};
use crate::repo::RepoError;
use crate::stage::scan;
use crate::stage::snapshot::{Manifest, Status};

/// Entries that `--delete` removes without `--force`, at most.
const REMOVED_MAX: u64 = 1_000;

/// Part of what is in the target that `--delete` removes without `--force`, at most: one in so many.
const REMOVED_PART: u64 = 10;

/// What somebody says to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Yes,
    /// Change nothing.
    No,
    /// There is nobody to ask.
    Nobody,
}

/// Whoever a restore asks.
pub trait Consent: Sync {
    /// Hears of an entry that would be removed: its path below the target, and its bytes.
    fn hear(&self, _path: &[u8], _bytes: u64) {}

    /// Answers a question of one or more lines.
    fn ask(&self, _question: &str) -> Answer {
        Answer::Nobody
    }

    /// Hears that all is settled, and that work begins.
    fn begin(&self) {}
}

/// Nobody: what would be asked is refused without `--force`.
pub struct Unattended;

impl Consent for Unattended {}

/// Refuses what is not to be done, and asks where that is due. Returns what a restore would want that is only tried.
///
/// # Errors
/// [`RepoError::Refused`]; nothing was changed.
pub fn settle(
    (manifest, request): (&Manifest, &Request<'_>),
    findings: &Findings,
    spared: &Spared<'_>,
    live: &[String],
) -> Result<Vec<String>, RepoError> {
    let too_much = too_much(manifest, request, findings);
    let must_be_answered = unanswered(findings, spared, live);
    if request.dry_run {
        let force = too_much.into_iter().map(|what| format!("it would want --force: {what}"));
        let asked = must_be_answered.into_iter().map(|what| format!("it would ask, or want --force: {what}"));
        return Ok(force.chain(asked).collect());
    }
    if request.force {
        return Ok(Vec::new());
    }
    if !too_much.is_empty() {
        let what = [too_much, must_be_answered].concat().join("; ");
        return Err(refused(&what, "--force does it all the same, --dry-run names what would go"));
    }
    let removed = (findings.tally.entries > 0)
        .then(|| format!("{} will be removed, such as {}", removed(findings), findings.first.join(", ")));
    if must_be_answered.is_empty() && removed.is_none() {
        return Ok(Vec::new());
    }
    let lines: Vec<&str> = must_be_answered.iter().chain(&removed).map(String::as_str).collect();
    match request.consent.ask(&lines.join("\n")) {
        Answer::Yes => Ok(Vec::new()),
        Answer::No if request.progress.is_cancelled() => Err(RepoError::Interrupted),
        Answer::No => Err(refused("the answer was no", "nothing was changed")),
        Answer::Nobody if must_be_answered.is_empty() => Ok(Vec::new()), // it was asked for with --delete
        Answer::Nobody => {
            let what = must_be_answered.join("; ");
            Err(refused(&what, "at a terminal it would be asked about; --force does it all the same"))
        }
    }
}

/// Returns why what would be removed is more than is removed without `--force`.
fn too_much(manifest: &Manifest, request: &Request<'_>, findings: &Findings) -> Vec<String> {
    let mut reasons = Vec::new();
    if !request.delete {
        return reasons;
    }
    let failed = manifest.components.iter().filter(|component| component.status == Status::Failed);
    reasons.extend(failed.map(|component| {
        format!("--delete: this snapshot lacks component {}, which could not be backed up", component.name)
    }));
    let suspects = manifest.components.iter().filter_map(|component| {
        Some(format!(
            "--delete: component {} is suspect: {}",
            component.name,
            manifest.suspicion(&component.name)?
        ))
    });
    reasons.extend(suspects);
    let (goes, there) = (findings.tally, findings.there);
    let is_part = goes.entries > there.entries / REMOVED_PART || goes.bytes > there.bytes / REMOVED_PART;
    if goes.entries > REMOVED_MAX || goes.entries > 0 && is_part {
        reasons.push(format!(
            "--delete would remove {} of the {} ({}) that are there",
            removed(findings),
            number(there.entries),
            show_bytes(there.bytes)
        ));
    }
    reasons
}

/// Returns what only somebody who is asked can know.
fn unanswered(findings: &Findings, spared: &Spared<'_>, live: &[String]) -> Vec<String> {
    let mut reasons = live.to_vec();
    let unknown: Vec<&str> =
        findings.components.iter().filter_map(|component| spared.unknown(*component)).collect();
    if !unknown.is_empty() {
        reasons.push(format!(
            "--delete: nobody knows what was left out of component {}: the snapshot does not say it, and no configuration does",
            unknown.join(", ")
        ));
    }
    reasons
}

fn removed(findings: &Findings) -> String {
    let entries = findings.tally.entries;
    format!("{} ({})", counted(entries, "entry", "entries"), show_bytes(findings.tally.bytes))
}

fn refused(what: &str, advice: &str) -> RepoError {
    RepoError::Refused { what: format!("{what}; {advice}") }
}

/// Returns which places that are restored into are what components are backed up from, and are not empty.
pub fn live_places(
    request: &Request<'_>,
    (place, here): (&[u8], &[u8]),
    wanted: &[Vec<u8>],
    origins: &Origins<'_>,
    spared: &Spared<'_>,
) -> Vec<String> {
    if request.overwrite == Overwrite::Never {
        return Vec::new(); // into an empty directory alone
    }
    let is_source = origins.of(place).is_some();
    let is_wanted = |path: &Vec<u8>| wanted.is_empty() || wanted.iter().any(|top| below(path, top).is_some());
    let mut paths = vec![here.to_vec()];
    let inner = origins.places().map(|(_, path)| path).filter(|_| !is_source).filter(is_wanted);
    for path in inner.filter_map(|path| below(&path, place).map(<[u8]>::to_vec)) {
        // Also the directories on the way: a component's own, under its name.
        let mut at = Vec::new();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at = join(&at, name);
            paths.push(join(here, &at));
        }
    }
    paths.sort();
    paths.dedup();
    let mut found: Vec<String> = Vec::new();
    for path in paths {
        if !holds_something(&path) {
            continue;
        }
        if let Some((source, name)) = spared.component_at(&path) {
            found.push(match path == source {
                true => {
                    format!("{} is what component {name} is backed up from, and is not empty", quoted(&path))
                }
                false => format!(
                    "{} lies in {}, which component {name} is backed up from, and is not empty",
                    quoted(&path),
                    quoted(source)
                ),
            });
        }
    }
    found
}

/// Returns whether a path is a directory with something in it, or anything else that is there.
fn holds_something(path: &[u8]) -> bool {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    match path.symlink_metadata() {
        Ok(about) if about.is_dir() => std::fs::read_dir(path).is_ok_and(|mut all| all.next().is_some()),
        Ok(_) => true,
        Err(_) => false,
    }
}

/// Refuses a target that lies in a folder which the program needs.
///
/// # Errors
/// [`RepoError::Source`]; nothing was changed, and the target was not made.
pub fn check_own_places(request: &Request<'_>) -> Result<(), RepoError> {
    let Ok(target) = std::path::absolute(&request.target) else { return Ok(()) };
    // Of what is not there yet it is the directory above that counts.
    let there = target.ancestors().find_map(|above| above.canonicalize().ok());
    for above in there.iter().flat_map(|there| there.ancestors()) {
        let Some(id) = scan::folder_id(above) else { continue };
        if let Some((_, what)) = request.own_places.iter().find(|(own, _)| *own == id) {
            let reason = format!("the target lies in {what}, where nothing is restored; name another target");
            return Err(RepoError::Source { path: request.target.display().to_string(), reason });
        }
    }
    Ok(())
}

/// Refuses a restore that would double messages.
///
/// # Errors
/// [`RepoError::Refused`]; nothing was changed.
pub fn check_messages(request: &Request<'_>, findings: &Findings) -> Result<(), RepoError> {
    let Some((count, first)) = findings.messages.doubled() else { return Ok(()) };
    let noun = if count == 1 { "message is" } else { "messages are" };
    let what = format!(
        "{} {noun} in {} already under other flags or in another folder, and would be there twice: {first}{}",
        number(count as u64),
        request.target.display(),
        if count > 3 { ", …" } else { "" }
    );
    Err(refused(&what, "restore to an empty directory elsewhere, and take from there what is missing"))
}
