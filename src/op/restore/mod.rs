//! One snapshot → files in a directory.
//!
//! Into an empty directory all goes to a closed directory in it first (`staged`); elsewhere each file under a name of its
//! own. The walk notes what is to be made and what it needs; then directories
//! are made, and the needs met pack by pack, in ascending order, each frame read once; then come hard
//! links, and the directories' attributes.

mod alike;
mod asked;
mod attributes;
mod consent;
mod doubled;
mod fill;
mod filter;
mod ground;
mod handles;
mod holes;
mod labels;
mod needs;
mod origin;
mod placed;
mod plan;
mod removal;
mod spared;
mod staged;
mod stretch;
mod survey;
mod target;
mod tidy;
mod verify;

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::entry::Kind;
use crate::base::progress::{Done, Progress};
use crate::op::restore::attributes::Attributes;
use crate::op::restore::filter::Filter;
use crate::op::restore::ground::{Ground, Way};
use crate::op::restore::origin::{Origins, plain};
use crate::op::restore::plan::Plan;
use crate::op::restore::spared::Spared;
use crate::op::restore::staged::{Marker, Staged};
use crate::op::restore::survey::{Findings, Survey};
use crate::op::restore::target::Target;
use crate::repo::browse::{self, Place, Record, find};
use crate::repo::keys::Secrets;
use crate::repo::reader::Reader;
use crate::repo::staging::Staging;
use crate::repo::{RepoError, Snapshot};
use crate::stage::scan::{self, FolderId};
use crate::stage::snapshot::Lack;

pub use attributes::Unset;
pub use consent::{Answer, Consent, Unattended};

/// Memory for frames that a restore's reader should keep for each of its threads, in bytes: directories that lie side
/// by side share them. None are kept while files are filled.
pub const FRAME_CACHE_BYTES: usize = 2 << 20;

/// What to do with what is in the target already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// The target must be empty.
    Never,
    /// Files of the same kind, size and mtime stay as they are.
    IfChanged,
    /// Everything is written anew.
    Always,
}

/// A component as it is configured today.
#[derive(Clone, Debug, Default)]
pub struct Configured {
    /// Its name.
    pub name: String,
    /// What is read.
    pub paths: Vec<PathBuf>,
    /// What is left out: patterns as in `.gitignore`.
    pub excludes: Vec<String>,
}

/// What a restore is asked for.
#[derive(Clone)]
pub struct Request<'a> {
    /// Path in the snapshot; its content goes right into the target, a file under its own name.
    pub path: Vec<u8>,
    /// The directory to restore into; made if it is not there.
    pub target: PathBuf,
    /// Components that are wanted; all if empty. Only together with the snapshot's root as path. The content of a single
    /// one goes right into the target, as if the path were its directory; several lie there under their names.
    pub components: Vec<String>,
    /// Patterns as in `.gitignore`; only what one of them matches is wanted. All if empty.
    pub include: Vec<String>,
    /// Patterns of what is not wanted.
    pub exclude: Vec<String>,
    /// What to do with what is there.
    pub overwrite: Overwrite,
    /// Go on with a restore into this target that was not finished, and that asked for the same.
    pub is_continued: bool,
    /// Remove what is in directories that were read from a source and not in the snapshot, as far as the night would
    /// have had it.
    pub delete: bool,
    /// Do without a question what would be asked, and what is refused for being much.
    pub force: bool,
    /// Whom to ask.
    pub consent: &'a dyn Consent,
    /// Folders that this program needs, and what they are: nothing is restored into them or removed there.
    pub own_places: Vec<(FolderId, &'static str)>,
    /// Today's components; none if there is no configuration.
    pub configured: Option<Vec<Configured>>,
    /// Owners, and whom access lists name, by number, even where the name is known here.
    pub numeric_ids: bool,
    /// Set the SELinux labels that are stored.
    pub labels: bool,
    /// Say what would be done; write nothing.
    pub dry_run: bool,
    /// Read back what was written.
    pub verify: bool,
    /// Threads.
    pub threads: usize,
    /// Shown to whoever waits; and asked whether to stop.
    pub progress: &'a Progress,
}

/// What a restore did.
#[derive(Debug, Default)]
#[must_use = "a restore that lacks entries is not whole"]
pub struct Report {
    /// Files written.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
    /// Files that were there already, as they should be.
    pub unchanged: u64,
    /// Directories made or kept.
    pub directories: u64,
    /// Links, FIFOs and devices made.
    pub others: u64,
    /// Entries removed from the target, each by itself, whatever it lay in.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// What the snapshot does not have and `--delete` keeps: why, and how many entries.
    pub kept: Vec<(&'static str, u64)>,
    /// Files read back and found right, those that were there already among them.
    pub verified: u64,
    /// Bytes read from packs.
    pub bytes_fetched: u64,
    /// Entries that are not there as they should be, and why.
    pub lacks: Vec<Lack>,
    /// Owners, modes and access lists that could not be set.
    pub unset: Vec<Unset>,
    /// Other attributes that could not be set, and what else is to be said, with how many entries each concerns.
    pub warnings: Vec<(String, u64)>,
    /// What the snapshot itself lacks, with how many entries each concerns.
    pub lacking: Vec<(String, u64)>,
    /// Patterns of [`Request::include`] that match nothing of what was looked at.
    pub unmatched: Vec<String>,
}

impl Report {
    /// Returns whether all that was asked for is there, as it was.
    pub fn is_whole(&self) -> bool {
        self.lacks.is_empty() && self.unset.is_empty() && self.unmatched.is_empty()
    }
}

/// Restores.
///
/// # Errors
/// [`RepoError::Source`] if the target can't be used, or what is asked for can't be done; [`RepoError::Refused`] if it
/// should not, or was answered with no; [`RepoError::Locked`] or [`RepoError::WrongPassphrase`] without a key,
/// [`RepoError::NoPath`]. Nothing was changed then. A file that can't be restored is no error: see [`Report::lacks`].
/// Files appear whole, under their names, or not at all.
pub fn restore(
    reader: &Reader<'_>,
    snapshot: &Snapshot,
    secrets: &dyn Secrets,
    asked: &Request<'_>,
) -> Result<Report, RepoError> {
    asked::check(&snapshot.manifest, asked)?;
    let request = &asked::resolved(&snapshot.manifest, asked);
    let place = find(reader, snapshot, &request.path)?;
    asked::check_place(&place, request)?;
    let filter = Filter::new(request)?;
    let spared = Spared::new(&snapshot.manifest, &filter, request)?;
    consent::check_own_places(request)?;
    let marker = Marker::of(reader, snapshot, request);
    let known = Staging::new(reader.repository().state_directory());
    let ground = Ground::look(request, &marker, &known)?;
    let (findings, notes) = survey((reader, snapshot), request, (&place, &ground), (&filter, &spared))?;
    let totals = &snapshot.manifest.components;
    let wanted = |name: &String| asked.components.is_empty() || asked.components.contains(name);
    request.progress.expect(Done {
        files: totals.iter().filter(|c| wanted(&c.name)).map(|c| c.files).sum(),
        bytes: totals.iter().filter(|c| wanted(&c.name)).map(|c| c.bytes).sum(),
    });
    if !request.dry_run {
        reader.repository().unlock(secrets)?;
    }
    request.consent.begin();
    let attributes = Attributes::new(request, snapshot.manifest.list_names());
    let (ground, root) = prepare((reader, snapshot), request, (&place, ground), (&attributes, &known))?;
    let is_at_end = matches!(ground.way, Way::End(_));
    let (target, staged) = Target::open(request, ground, marker, &known)?;
    let mut plan = Plan::new(reader, target, &filter, attributes, request, totals);
    if let Some(root) = root {
        plan.root(root);
    }
    if let Some(staged) = &staged {
        plan.skip(staged.gone_out());
    }
    if !is_at_end && let Err(e) = make(&mut plan, place, &spared, findings) {
        staged.into_iter().for_each(Staged::leave);
        return Err(e);
    }
    match staged {
        Some(staged) => staged.put_in_place(&mut plan)?,
        None => plan.settle(),
    }
    if is_at_end && !request.dry_run {
        plan.target.end(&known);
    }
    let mut report = plan.end();
    report.warnings.extend(notes.into_iter().map(|note| (note, 1)));
    report.lacking = asked::warnings(&snapshot.manifest, asked);
    Ok(report)
}

/// Makes the target if it is not there. If a directory's content goes right into it, and that is known of it, it gets
/// owner, mode and lists before anything is in it; returns that directory's entry then: the rest is due at the end.
/// Of a directory that was there, and that no source was, nothing is known.
fn prepare(
    (reader, snapshot): (&Reader<'_>, &Snapshot),
    request: &Request<'_>,
    (place, mut ground): (&Place, Ground),
    (attributes, known): (&Attributes, &Staging),
) -> Result<(Ground, Option<Record>), RepoError> {
    let root = match place {
        Place::Entry(record) if record.entry()?.kind == Kind::Directory => Some(record),
        _ => None,
    };
    if request.dry_run {
        return Ok((ground, None));
    }
    ground.make(request, known, root.is_some())?;
    let Some(root) = root else { return Ok((ground, None)) };
    if !ground.is_made && Origins::new(reader, snapshot)?.of(&plain(&request.path)).is_none() {
        return Ok((ground, None));
    }
    if let Some(place) = &ground.place
        && !matches!(ground.way, Way::End(_))
    {
        attributes.close(place, &root.entry()?);
    }
    Ok((ground, Some(root.clone())))
}

/// Makes all that `place` leads to.
fn make(plan: &mut Plan<'_>, place: Place, spared: &Spared<'_>, findings: Findings) -> Result<(), RepoError> {
    plan.give_way(spared, &findings.giving_way)?;
    match place {
        Place::Root(root) => plan.walk(root)?,
        Place::Entry(record) => {
            let entry = record.entry()?;
            match entry.kind {
                Kind::Directory => plan.walk(entry.content.to_owned())?,
                _ => plan.single(&entry)?,
            }
        }
    }
    plan.finish(spared, findings)
}

/// Says on one line what unfinished restore lies in a directory; none if none does.
pub fn unfinished(target: &Path) -> Option<String> {
    let target = File::open(target).ok()?;
    let names = scan::list(&target).ok()?;
    let found = staged::look(&target, &names).into_iter();
    let mut unfinished = found.filter(|found| matches!(found.what, staged::What::Unfinished(_)));
    unfinished.next().map(|found| found.shown())
}

/// Looks at what is in the target, and settles whether what is asked for may be done.
fn survey(
    (reader, snapshot): (&Reader<'_>, &Snapshot),
    asked: &Request<'_>,
    (place, ground): (&Place, &Ground),
    (filter, spared): (&Filter, &Spared<'_>),
) -> Result<(Findings, Vec<String>), RepoError> {
    let is_over = match ground.way {
        Way::Over => true,
        Way::Begin(_) => false,
        Way::Continue(_) | Way::End(_) => return Ok(Default::default()), // all that is there is of a restore
    };
    if asked.overwrite == Overwrite::Never {
        return Ok(Default::default()); // the target is empty
    }
    let Ok(here) = asked.target.canonicalize() else { return Ok(Default::default()) }; // not there yet
    let request = &Request { delete: asked.delete && is_over, ..asked.clone() };
    let target = Target::with(request, ground.place.clone())?;
    let (here, path) = (here.as_os_str().as_bytes(), plain(&request.path));
    let origins = Origins::new(reader, snapshot)?;
    let wanted = asked::directories(&snapshot.manifest, request);
    let survey = Survey::new((&target, request, filter), (spared, &origins), (&path, here), wanted.clone());
    let findings = match place {
        Place::Root(root) => survey.run(|survey| browse::walk(reader, root, survey))?,
        Place::Entry(record) => {
            let entry = record.entry()?;
            let content = entry.content.to_owned();
            match entry.kind {
                Kind::Directory => survey.run(|survey| browse::walk(reader, &content, survey))?,
                _ => survey.single(&entry)?,
            }
        }
    };
    consent::check_messages(request, &findings)?;
    if !is_over {
        return Ok(Default::default()); // nothing that is there is touched
    }
    let live = consent::live_places(request, (&path, here), &wanted, &origins, spared);
    let notes = consent::settle((&snapshot.manifest, request), &findings, spared, &live)?;
    Ok((findings, notes))
}

/// Returns a row for the report.
pub(crate) fn lack(path: &[u8], reason: impl ToString) -> Lack {
    Lack { path: path.to_vec(), reason: reason.to_string() }
}
