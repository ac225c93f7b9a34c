//! How things are shown: text for people, one JSON object a line for programs.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::tz::TimeZone;
use serde_json::Value;

use crate::base::entry::{Entry, Kind, quoted};
use crate::base::text;
use crate::base::time::Time;
use crate::cli::exit::Exit;
use crate::repo::RepoError;
use crate::repo::select;
use crate::stage::snapshot::Lack;

pub use crate::base::units::{counted, number, show_bytes as bytes};
pub use crate::repo::select::rfc3339;

/// Whether this process does something of which its output is only the report.
static DOES_WORK: AtomicBool = AtomicBool::new(false);

/// Says that this process does something of which its output is only the report: that nobody takes that ends nothing.
pub fn does_work() {
    DOES_WORK.store(true, Ordering::Relaxed);
}

/// Standard output, which may be a closed pipe.
pub struct Output {
    out: io::BufWriter<io::Stdout>,
}

impl Output {
    /// Opens standard output.
    pub fn new() -> Self {
        Self { out: io::BufWriter::new(io::stdout()) }
    }

    /// Writes one line, whatever is in it: see [`text::one_line`].
    ///
    /// # Errors
    /// [`RepoError::Output`] if nobody takes it.
    pub fn line(&mut self, line: impl std::fmt::Display) -> Result<(), RepoError> {
        writeln!(self, "{}", text::one_line(&line.to_string())).map_err(failed)
    }

    /// Writes a text that may have several lines: see [`text::lines`].
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn text(&mut self, lines: &str) -> Result<(), RepoError> {
        writeln!(self, "{}", text::lines(lines)).map_err(failed)
    }

    /// Writes bytes as they are: for other programs, never for a terminal.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), RepoError> {
        self.write_all(bytes).map_err(failed)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn finish(mut self) -> Result<(), RepoError> {
        self.flush().map_err(failed)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        heard(self.out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        heard(self.out.flush())
    }
}

/// Lines for standard error that are held back until it is known whether somebody was told; none if nothing is.
static HELD: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// Holds back what [`tell`] says until [`release`]: cron mails each line of it.
pub fn hold() {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
}

/// Shows what was held back, or lets it go; from now on nothing is held back.
pub fn release(is_shown: bool) {
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).take();
    held.into_iter().flatten().filter(|_| is_shown).for_each(tell);
}

/// Writes one line to standard error, whatever is in it: see [`text::one_line`].
pub fn tell(line: impl std::fmt::Display) {
    if let Some(held) = HELD.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        return held.push(line.to_string());
    }
    let _ = writeln!(io::stderr(), "{}", text::one_line(&line.to_string())); // nobody is left to tell
}

/// Ends the program as if by SIGPIPE if nobody listens any more, and its output was all that it is for.
fn heard<T>(written: io::Result<T>) -> io::Result<T> {
    let is_closed = written.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
    if is_closed && !DOES_WORK.load(Ordering::Relaxed) {
        std::process::exit(141);
    }
    written
}

/// Returns how a command ends whose work is done, and ended so, when its report was `shown`: that this could not be
/// written undoes nothing, and is said.
pub fn reported(exit: Exit, shown: Result<(), RepoError>) -> Exit {
    let Err(error) = shown else { return exit };
    let how = match exit {
        Exit::Done => "the work is done; only its report could not be written",
        _ => "the work has ended, not all of it well; its report could not be written",
    };
    tell(format_args!("snap: {how}: {}", error.chain()));
    if exit == Exit::Done { Exit::Partial } else { exit }
}

fn failed(source: io::Error) -> RepoError {
    RepoError::Output { source }
}

/// Returns a moment as people read it here: `2026-01-05 03:00:12`.
pub fn local(time: Time) -> String {
    select::shown(time, &TimeZone::system())
}

/// Returns the first digits of an id, enough for people.
pub fn short(id: impl std::fmt::Display) -> String {
    id.to_string().chars().take(8).collect()
}

/// Returns rows of path and reason for JSON.
pub fn lacks(rows: &[Lack]) -> Value {
    rows.iter().map(|row| serde_json::json!({ "path": quoted(&row.path), "reason": row.reason })).collect()
}

/// Shows up to 20 rows of path and reason on standard error.
pub fn show_lacks(rows: &[Lack], what: &str) {
    const SHOWN: usize = 20;
    for row in rows.iter().take(SHOWN) {
        tell(format_args!("{what}: {}: {}", quoted(&row.path), row.reason));
    }
    if rows.len() > SHOWN {
        tell(format_args!("{what}: and {} more; --json lists all", rows.len() - SHOWN));
    }
}

/// Returns an entry as `ls -l` shows it.
pub fn long(path: &[u8], entry: &Entry<'_>) -> String {
    let name = |text: &[u8], id: u32| if text.is_empty() { id.to_string() } else { quoted(text) };
    let size = match entry.kind {
        Kind::CharDevice | Kind::BlockDevice => format!("{},{}", entry.device.0, entry.device.1),
        _ => entry.size.to_string(),
    };
    let target = match entry.kind {
        Kind::Symlink => format!(" -> {}", quoted(entry.target)),
        _ => String::new(),
    };
    format!(
        "{}{} {:>3} {:<8} {:<8} {:>12} {} {}{}",
        entry.kind.letter(),
        mode(entry.mode),
        entry.links,
        name(entry.user, entry.uid),
        name(entry.group, entry.gid),
        size,
        local(entry.mtime),
        quoted(path),
        target
    )
}

/// Returns permission bits as `ls -l` shows them.
fn mode(mode: u32) -> String {
    let special = |bit: u32, set: char, both: char, execute: u32| match (mode & bit != 0, mode & execute != 0)
    {
        (false, false) => '-',
        (false, true) => 'x',
        (true, false) => set,
        (true, true) => both,
    };
    let bit = |bit: u32, letter: char| if mode & bit != 0 { letter } else { '-' };
    [
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        special(0o4000, 'S', 's', 0o100),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        special(0o2000, 'S', 's', 0o010),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        special(0o1000, 'T', 't', 0o001),
    ]
    .iter()
    .collect()
}

/// Returns an entry for JSON.
pub fn entry_json(path: &[u8], entry: &Entry<'_>) -> Value {
    let kind = match entry.kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::CharDevice => "char_device",
        Kind::BlockDevice => "block_device",
    };
    let mut value = serde_json::json!({
        "type": "entry",
        "path": quoted(path),
        "kind": kind,
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "user": quoted(entry.user),
        "group": quoted(entry.group),
        "size": entry.size,
        "mtime": rfc3339(entry.mtime),
        "links": entry.links,
    });
    if entry.kind == Kind::Symlink {
        value["target"] = quoted(entry.target).into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_in_ls() {
        assert_eq!(mode(0o755), "rwxr-xr-x");
        assert_eq!(mode(0o4755), "rwsr-xr-x");
        assert_eq!(mode(0o2644), "rw-r-Sr--");
        assert_eq!(mode(0o1777), "rwxrwxrwt");
        assert_eq!(mode(0o1000), "--------T");
    }
}
