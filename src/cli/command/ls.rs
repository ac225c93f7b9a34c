//! `snap ls`

use std::io::{self, IsTerminal, Write};

use ring::digest::{Context, SHA256};
use serde_json::json;

use crate::base::entry::{Entry, Kind, quoted};
use crate::cli::args::Ls;
use crate::cli::choice::{Choice, Wanted};
use crate::cli::command::find::tell_damaged;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, entry_json, long};
use crate::cli::session::{Session, split_place};
use crate::op::cat::content;
use crate::op::list::list;
use crate::repo::RepoError;
use crate::repo::reader::Reader;

/// Lists what is at a place. Directories below it that can't be read are named, and the rest is listed.
///
/// # Errors
/// As [`list`].
pub fn run(session: &Session, options: &Ls) -> Result<Exit, RepoError> {
    let (spec, path) = split_place(&options.place)?;
    let repository = session.open()?;
    let wanted = Wanted { spec: &spec, path: &path, components: &[], choosing: &options.choosing };
    let (reader, choice) = session.choose(&repository, session.reader(&repository)?, wanted)?;
    let snapshot = &choice.snapshot;
    let mut out = Output::new();
    let listed = match options.sha256 {
        true => sums(session, &reader, &choice, (&path, options.recursive), &mut out),
        false => rows(session, &reader, &choice, (&path, options), &mut out),
    };
    let is_whole = listed
        .map_err(|error| choice.explain(&path, error))
        .map_err(|error| session.with_elsewhere(error, &reader, snapshot, &path))?;
    out.finish()?;
    Ok(if is_whole && !choice.is_missing_some() { Exit::Done } else { Exit::Partial })
}

/// Lists what is at a place; returns whether all of it could be read.
fn rows(
    session: &Session,
    reader: &Reader<'_>,
    choice: &Choice,
    (path, options): (&[u8], &Ls),
    out: &mut Output,
) -> Result<bool, RepoError> {
    let mut is_whole = true;
    let mut each = |path: &[u8], entry: &Entry<'_>| match (session.global.json, options.long) {
        (true, _) => {
            let mut row = entry_json(path, entry);
            row["taken_from"] = choice.taken_from(path).map(|id| id.to_string()).into();
            out.line(row)
        }
        (false, true) => out.line(long(path, entry)),
        (false, false) => out.line(quoted(path)),
    };
    list(reader, &choice.snapshot, path, options.recursive, &mut each, &mut |path, error| {
        is_whole = false;
        tell_damaged(choice.snapshot.id, path, error);
    })?;
    Ok(is_whole)
}

/// Lists the files at a place, each with the SHA-256 of its content. One that can't be read is named, and
/// the others are listed; returns whether all could.
fn sums(
    session: &Session,
    reader: &Reader<'_>,
    choice: &Choice,
    (path, recursive): (&[u8], bool),
    out: &mut Output,
) -> Result<bool, RepoError> {
    let snapshot = &choice.snapshot;
    reader.repository().unlock(&session.secrets)?;
    let is_terminal = io::stdout().is_terminal();
    let unread = std::cell::Cell::new(false);
    let tell = |path: &[u8], error: &RepoError| {
        unread.set(true);
        tell_damaged(snapshot.id, path, error);
    };
    let mut each = |path: &[u8], entry: &Entry<'_>| {
        if entry.kind != Kind::File {
            return Ok(());
        }
        let mut sum = Sum(Context::new(&SHA256));
        if let Err(error) = content(reader, entry, &mut sum, &quoted(path)) {
            if !error.is_unreadable() {
                return Err(error);
            }
            tell(path, &error);
            return Ok(());
        }
        let hex: String = sum.0.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        match (session.global.json, is_terminal) {
            (true, _) => out.line(json!({ "type": "entry", "path": quoted(path), "sha256": hex })),
            (false, true) => out.line(format_args!("{hex}  {}", quoted(path))),
            (false, false) => out.bytes(&sum_line(&hex, path)),
        }
    };
    list(reader, snapshot, path, recursive, &mut each, &mut |path, error| tell(path, error))?;
    Ok(!unread.get())
}

/// Returns a line as sha256sum(1) writes and reads it: a name with a backslash or the end of a line in
/// it is escaped, and a backslash before the sum says so.
fn sum_line(hex: &str, path: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(path.len());
    for byte in path {
        match byte {
            b'\\' => name.extend_from_slice(b"\\\\"),
            b'\n' => name.extend_from_slice(b"\\n"),
            b'\r' => name.extend_from_slice(b"\\r"),
            other => name.push(*other),
        }
    }
    let mark: &[u8] = if name.len() == path.len() { b"" } else { b"\\" };
    [mark, hex.as_bytes(), b"  ", &name, b"\n"].concat()
}

/// Takes bytes for their hash alone.
struct Sum(Context);

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_sha256sum_does() {
        assert_eq!(sum_line("ab", b"mail/a b"), b"ab  mail/a b\n");
        assert_eq!(sum_line("ab", b"a\nb\\c\rd"), b"\\ab  a\\nb\\\\c\\rd\n");
    }
}
