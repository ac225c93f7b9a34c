//! `snap mail show`

use serde_json::json;

use crate::base::entry::quoted;
use crate::cli::command::logged::logged;
use crate::cli::command::mail::find::{line, nights};
use crate::cli::command::mail::{no_mailbox, places, tell_unseen};
use crate::cli::exit::Exit;
use crate::cli::mail::Show;
use crate::cli::report::{Output, bytes, rfc3339, tell};
use crate::cli::session::Session;
use crate::op::mail::find::{Hit, find};
use crate::op::mail::query::Query;
use crate::op::mail::show::{show, write};
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};
use crate::stage::message::folder::shown;
use crate::stage::message::name::HANDLE_DIGITS;

/// Messages whose numbers begin alike that are listed.
const ALIKE_SHOWN_MAX: usize = 10;

/// Fewest digits of a number.
const DIGITS_MIN: usize = 4;

/// Shows a message, or writes its bytes to standard output. A configuration's log says so.
///
/// # Errors
/// [`RepoError::Source`] if no message has the number, or several have; as [`show`] and [`write`].
pub fn run(session: &Session, options: &Show) -> Result<Exit, RepoError> {
    logged(session, || shown_message(session, options))
}

fn shown_message(session: &Session, options: &Show) -> Result<Exit, RepoError> {
    let number = options.number.to_ascii_lowercase();
    let fail =
        |reason: &str| RepoError::Source { path: format!("message {number}"), reason: reason.to_owned() };
    let is_number = (DIGITS_MIN..=HANDLE_DIGITS).contains(&number.len())
        && number.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_number {
        return Err(fail("is no number of a message: 4 to 12 hex digits, as 'snap mail find' shows them"));
    }
    let places = places(session)?;
    let repository = session.open()?;
    let nights = nights(session, &repository, &options.snapshot, &options.owner)?;
    let all: Vec<&Snapshot> = nights.iter().collect();
    repository.unlock(&session.secrets)?;
    let reader = session.reader(&repository)?;
    let query = Query { number: Some(number.clone()), ..Query::default() };
    let report = find(&reader, &places, &all, options.user.as_deref(), &query, session.threads())?;
    if let Some(user) = options.user.as_ref().filter(|_| !report.has_mailbox) {
        return Err(no_mailbox(user, None));
    }
    match report.hits.as_slice() {
        [] => {
            tell_unseen(&report.unseen);
            Err(fail("no message in these nights has that number"))
        }
        [hit] if options.eml => {
            let mut out = Output::new();
            write(&reader, hit, &mut out)?;
            out.finish()?;
            Ok(Exit::Done)
        }
        [hit] => text(session, &reader, hit, &nights),
        several => {
            several.iter().take(ALIKE_SHOWN_MAX).for_each(|hit| tell(line(hit, &nights, true)));
            Err(fail("several messages have numbers that begin so: give more digits"))
        }
    }
}

fn text(session: &Session, reader: &Reader<'_>, hit: &Hit, nights: &[Snapshot]) -> Result<Exit, RepoError> {
    let message = show(reader, hit)?;
    let mut out = Output::new();
    let place = format!("{}:{}", nights[hit.at].id, quoted(&hit.path));
    if session.global.json {
        let header: Vec<_> =
            message.header.iter().map(|(name, text)| json!({ "name": name, "text": text })).collect();
        let attachments = message.body.attachments.iter();
        let attachments: Vec<_> =
            attachments.map(|it| json!({ "name": it.name, "kind": it.kind, "bytes": it.bytes })).collect();
        out.line(json!({
            "type": "message", "user": hit.user, "folder": shown(&hit.folder), "place": place,
            "received": rfc3339(hit.message.received), "bytes": hit.message.bytes, "header": header,
            "text": message.body.text, "attachments": attachments, "is_cut": message.body.is_cut,
        }))?;
    } else {
        out.line(format_args!("{:<12}{}", "Mailbox:", hit.user))?;
        out.line(format_args!("{:<12}{}", "Folder:", shown(&hit.folder)))?;
        out.line(format_args!("{:<12}{place}", "File:"))?;
        for (name, text) in &message.header {
            out.line(format_args!("{:<12}{text}", format!("{name}:")))?;
        }
        for it in &message.body.attachments {
            let name = if it.name.is_empty() { "(without a name)" } else { &it.name };
            out.line(format_args!("{:<12}{name}  {}  {}", "Attached:", it.kind, bytes(it.bytes)))?;
        }
        out.line("")?;
        out.text(message.body.text.trim_end())?;
        if message.body.is_cut {
            tell("snap: there is more of it than is shown: --eml writes all of it");
        }
    }
    out.finish()?;
    Ok(Exit::Done)
}
