//! What a restore finds where it is to go, and how it goes about it. Nothing in a target is changed before that is known.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::op::restore::staged::{Found, Marker, Unfinished, What, is_nothing, look};
use crate::op::restore::{Overwrite, Request};
use crate::repo::RepoError;
use crate::repo::staging::Staging;
use crate::stage::scan;

/// How a restore goes about it.
pub enum Way {
    /// It begins in a staging directory; these of earlier ones hold nothing, and go.
    Begin(Vec<Vec<u8>>),
    /// It goes on in one, of this name.
    Continue((Vec<u8>, Unfinished)),
    /// All that it would make is in place: it does what an earlier one was cut off before, and removes these staging
    /// directories, which hold nothing.
    End(Vec<Vec<u8>>),
    /// Each entry gets its name when it is whole, beside or over what is there.
    Over,
}

/// A target, before a restore begins.
pub struct Ground {
    /// It; none if it is not there.
    pub place: Option<Arc<OwnedFd>>,
    /// How the restore goes about it.
    pub way: Way,
    /// Whether this restore has made it.
    pub is_made: bool,
}

impl Ground {
    /// Looks at the target. It need not be there.
    ///
    /// # Errors
    /// [`RepoError::Source`] if it can't be used, holds something and nothing may be overwritten, or holds a restore
    /// that was not finished and that this one is not to go on with. Nothing was changed.
    pub fn look(request: &Request<'_>, marker: &Marker, known: &Staging) -> Result<Self, RepoError> {
        let fail = |reason: String| failed(request, &reason);
        let place = match open(&request.target) {
            Ok(place) => place,
            Err(Errno::NOENT) => {
                return Ok(Self { place: None, way: Way::Begin(Vec::new()), is_made: false });
            }
            Err(e) => return Err(fail(format!("target cannot be opened: {}", io::Error::from(e)))),
        };
        let names = scan::list(&place)
            .map_err(|e| fail(format!("target cannot be listed: {}", io::Error::from(e))))?;
        let found = look(&place, &names);
        let is_ours = |name: &[u8]| found.iter().any(|found| found.name == name && found.is_ours());
        let is_empty = names.iter().all(|name| is_nothing(&place, name) || is_ours(name));
        let ended = scan::stat_of(&place).ok().and_then(|stat| known.end_of(&stat));
        let ended = ended.and_then(|bytes| Marker::parse(&bytes)).filter(|_| !is_empty);
        let way = decide(request, marker, (found, ended.as_ref()), is_empty).map_err(fail)?;
        let is_made = match &way {
            Way::Continue((_, found)) => found.marker.is_target_made,
            Way::End(_) => ended.is_some_and(|ended| ended.is_target_made),
            Way::Begin(_) => known.was_making(&absolute(request)), // and was cut off before its marker
            Way::Over => false,
        };
        Ok(Self { place: Some(Arc::new(place)), way, is_made })
    }

    /// Makes the target if it is not there; if `is_closed`, so that nobody else may enter it yet.
    ///
    /// # Errors
    /// [`RepoError::Source`] if it can't be made, or has appeared meanwhile.
    pub fn make(&mut self, request: &Request<'_>, known: &Staging, is_closed: bool) -> Result<(), RepoError> {
        if self.place.is_some() {
            return Ok(());
        }
        let fail = |what: &str, e: io::Error| failed(request, &format!("target cannot be {what}: {e}"));
        let mode = if is_closed { 0o700 } else { 0o777 };
        if is_closed {
            let _ = known.note_making(&absolute(request)); // without it a cut now may cost the target its attributes
        }
        self.is_made = make(&request.target, mode).map_err(|e| fail("made", e))?;
        if !self.is_made {
            return Err(failed(request, "it has appeared meanwhile; run it again"));
        }
        let place = open(&request.target).map_err(|e| fail("opened", e.into()))?;
        self.place = Some(Arc::new(place));
        Ok(())
    }
}

/// Returns the target's path from the root.
pub fn absolute(request: &Request<'_>) -> PathBuf {
    std::path::absolute(&request.target).unwrap_or_else(|_| request.target.clone())
}

fn failed(request: &Request<'_>, reason: &str) -> RepoError {
    RepoError::Source { path: request.target.display().to_string(), reason: reason.to_owned() }
}

fn open(target: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(target, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Decides how, by what was found of earlier restores and whether there is nothing else; or says why not.
fn decide(
    request: &Request<'_>,
    marker: &Marker,
    (found, ended): (Vec<Found>, Option<&Marker>),
    is_empty: bool,
) -> Result<Way, String> {
    let remove = "remove it, or name another directory";
    let (mut leftovers, mut others) = (Vec::new(), Vec::new());
    for found in found {
        match found.what {
            What::Unfinished(it) if request.is_continued && it.marker.asks_same(marker) => {
                return Ok(Way::Continue((found.name, *it)));
            }
            What::Leftover => leftovers.push(found.name),
            _ => others.push(found),
        }
    }
    let busy = others.iter().find(|found| matches!(found.what, What::Busy(_)));
    if let Some(busy) = busy {
        return Err(format!("{}; wait for its end", busy.shown()));
    }
    if request.is_continued {
        return match others.first() {
            Some(other) => Err(format!(
                "{}; this run asks for {}: ask for the same, or {remove}",
                other.shown(),
                marker.shown()
            )),
            None if is_empty => Ok(Way::Begin(leftovers)),
            None if ended.is_some_and(|ended| ended.asks_same(marker)) => Ok(Way::End(leftovers)),
            None => Err("no unfinished restore lies in it; leave out --continue".to_owned()),
        };
    }
    if let Some(unfinished) = others.iter().find(|found| matches!(found.what, What::Unfinished(_))) {
        let advice = format!("go on with it: the same command with --continue; or {remove}");
        return Err(format!("{}; {advice}", unfinished.shown()));
    }
    if is_empty {
        return Ok(Way::Begin(leftovers));
    }
    if request.overwrite != Overwrite::Never {
        return Ok(Way::Over);
    }
    if let Some(ended) = ended {
        return Err(format!(
            "target is not empty: a restore of {} has put all of it there, and was cut off before its very end; end it: the same command with --continue",
            ended.shown()
        ));
    }
    let advice =
        "target is not empty; name an empty directory, or allow it with --overwrite if-changed or always";
    Err(others.first().map_or_else(|| advice.to_owned(), |odd| format!("{advice} ({})", odd.shown())))
}

/// Makes a directory of this mode, and those above it; returns whether it was not there.
fn make(path: &Path, mode: u32) -> io::Result<bool> {
    if let Some(above) = path.parent() {
        std::fs::create_dir_all(above)?;
    }
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}
