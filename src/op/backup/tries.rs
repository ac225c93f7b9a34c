//! Trying a component until its sources can be read: paths opened, streams stored.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::base::entry::{Kind, quoted};
use crate::op::backup::Component;
use crate::op::backup::care::Event;
use crate::op::backup::cut::Cutter;
use crate::op::backup::own::REPOSITORY;
use crate::op::backup::run::{Part, count};
use crate::op::backup::stream::{Stream, command_failure};
use crate::op::backup::suspect::Seen;
use crate::op::backup::tasks::Tasks;
use crate::op::backup::wanted::{link_failure, open_named};
use crate::repo::RepoError;
use crate::stage::scan::{self, Stat};

/// What the tries gave.
#[derive(Default)]
pub struct Tried {
    /// How many there were.
    pub attempts: u32,
    /// Whether the command before the last try succeeded, so that the one after it is due.
    pub is_begun: bool,
    /// The component's only source, if that is a directory, opened.
    pub single: Option<(OwnedFd, Stat)>,
    /// Paths that can be read.
    pub paths: Vec<PathBuf>,
    /// Streams that were stored: name, entry.
    pub streams: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Tried {
    /// Returns whether there is anything to be stored, if only an empty directory.
    pub fn has_any(&self) -> bool {
        self.single.is_some() || !self.paths.is_empty() || !self.streams.is_empty()
    }
}

/// A source that could not be read.
struct Failure {
    path: Vec<u8>,
    reason: String,
    complaint: String,
}

/// Tries a component until all of its sources can be read, or as often as is allowed. A stream that
/// was stored is not read again. What can't be read in the end is a lack.
///
/// # Errors
/// The run's: [`RepoError::Interrupted`], or what writing meets.
pub fn tried(
    tasks: &Tasks<'_>,
    part: &Arc<Part>,
    component: &mut Component,
    cutter: &mut Cutter<'_>,
) -> Result<Tried, RepoError> {
    let mut tried = Tried::default();
    let care = component.care.clone();
    loop {
        tried.attempts += 1;
        let result = attempt(tasks, part, component, cutter, &mut tried);
        let after = care.after.as_ref().filter(|_| tried.is_begun);
        let failures = match result {
            Ok(failures) => failures,
            Err(error) => {
                after.into_iter().for_each(|after| tasks.after(after, &component.name, tried.attempts, part));
                return Err(error);
            }
        };
        let can_repeat = component.streams.iter().all(Stream::is_repeatable);
        let again_in = care.pause_after(tried.attempts).filter(|_| can_repeat && !failures.is_empty());
        for failure in &failures {
            tell(tasks, &component.name, tried.attempts, failure, again_in);
        }
        let Some(pause) = again_in else {
            for Failure { path, reason, .. } in failures {
                tasks.run.lack(Some(part), path, reason);
            }
            return Ok(tried);
        };
        after.into_iter().for_each(|after| tasks.after(after, &component.name, tried.attempts, part));
        tried.is_begun = false;
        tasks.pause(pause)?;
    }
}

fn tell(tasks: &Tasks<'_>, component: &str, attempt: u32, failure: &Failure, again_in: Option<Duration>) {
    let reason = format!("{}: {}", quoted(&failure.path), failure.reason);
    tasks.tell(Event::Failed {
        component,
        attempt,
        reason: &reason,
        complaint: &failure.complaint,
        again_in,
    });
}

/// Tries once; returns what failed.
fn attempt(
    tasks: &Tasks<'_>,
    part: &Arc<Part>,
    component: &mut Component,
    cutter: &mut Cutter<'_>,
    tried: &mut Tried,
) -> Result<Vec<Failure>, RepoError> {
    (tried.single, tried.paths) = (None, Vec::new());
    if let Some(before) = &component.care.before
        && let Err(error) = before.run(b"", Some(tasks.run.progress))
    {
        if tasks.run.is_stopped() {
            return Err(RepoError::Interrupted);
        }
        let failure = command_failure(&error);
        let path = format!("{}: before", component.name).into_bytes();
        return Ok(vec![Failure { path, reason: failure.reason, complaint: failure.complaint }]);
    }
    tried.is_begun = true;
    let mut failures = Vec::new();
    open_paths(tasks, component, tried, &mut failures);
    for stream in &mut component.streams {
        if tried.streams.contains_key(&stream.name) {
            continue;
        }
        match stream.cut(cutter)? {
            Ok(cut) => {
                let run = tasks.run;
                let mut scanned = run.scanned(&stream.name, tasks.made_up(Kind::File, 0o600), 0, Kind::File);
                count(&part.files, 1);
                count(&part.bytes, cut.bytes);
                part.see(Seen::stream(&stream.name, cut.bytes));
                count(&run.counts.files_new, 1);
                count(&run.counts.bytes_scanned, cut.bytes);
                scanned.size = cut.bytes;
                let content = run.writer.store_list(cut.list)?;
                tried.streams.insert(stream.name.clone(), scanned.encode(content.borrowed())?);
            }
            Err(failure) => {
                let directory = component.directory.as_slice();
                let slash = if directory.is_empty() { &b""[..] } else { b"/" };
                let path = [directory, slash, &stream.name].concat();
                failures.push(Failure { path, reason: failure.reason, complaint: failure.complaint });
            }
        }
    }
    Ok(failures)
}

/// Opens the component's paths. Those of a component in the snapshot's root are left to the walk.
fn open_paths(tasks: &Tasks<'_>, component: &Component, tried: &mut Tried, failures: &mut Vec<Failure>) {
    if component.directory.is_empty() {
        return;
    }
    let is_single = component.paths.len() == 1 && component.streams.is_empty();
    for path in &component.paths {
        let opened = match is_single && !path.is_file() {
            _ if tasks.run.rules.own.is_in_repository(path) => {
                Err(format!("{REPOSITORY}, which is not backed up into itself"))
            }
            true => open_named(path)
                .and_then(|fd| Ok((scan::stat_of(&fd)?, fd)))
                .map(Some)
                .map_err(|e| why_not(path, e)),
            false => can_be_read(path).map(|()| None).map_err(|e| why_not(path, e)),
        };
        match opened {
            Ok(Some((stat, fd))) => tried.single = Some((fd, stat)),
            Ok(None) => tried.paths.push(path.clone()),
            Err(reason) => failures.push(Failure {
                path: path.as_os_str().as_bytes().to_vec(),
                reason,
                complaint: String::new(),
            }),
        }
    }
}

/// Says why a path that was named can't be read.
fn why_not(path: &Path, error: Errno) -> String {
    match path.is_symlink() {
        true => link_failure(error),
        false => std::io::Error::from(error).to_string(),
    }
}

/// Fails as reading a file or directory would, and for a link that leads nowhere: it led to something
/// when it was named. What is none of these is not opened: that may block.
fn can_be_read(path: &Path) -> Result<(), Errno> {
    let stat = scan::stat_at(rustix::fs::CWD, path.as_os_str().as_bytes())?;
    match stat.kind {
        Some(Kind::File | Kind::Directory) => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            rustix::fs::open(path, flags, Mode::empty()).map(drop)
        }
        Some(Kind::Symlink) => match open_named(path) {
            Err(Errno::NOTDIR) => Ok(()), // one to anything else is stored as a link
            opened => opened.map(drop),
        },
        _ => Ok(()),
    }
}
