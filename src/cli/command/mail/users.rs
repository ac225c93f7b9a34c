//! `snap mail users`

use serde_json::json;

use crate::base::entry::quoted;
use crate::cli::choice::Wanted;
use crate::cli::command::mail::{places, tell_unseen};
use crate::cli::exit::Exit;
use crate::cli::mail::Users;
use crate::cli::report::{Output, bytes, counted, local, number, rfc3339, tell};
use crate::cli::session::Session;
use crate::op::mail::boxes::Mailbox;
use crate::op::mail::users::{Counts, users};
use crate::repo::RepoError;

/// Shows the mailboxes of a snapshot. Asks for no passphrase.
///
/// # Errors
/// As [`users`].
pub fn run(session: &Session, options: &Users) -> Result<Exit, RepoError> {
    let places = places(session)?;
    let repository = session.open()?;
    let components: Vec<String> = places.component.iter().cloned().collect();
    let wanted =
        Wanted { spec: &options.snapshot, path: b"", components: &components, choosing: &options.choosing };
    let (reader, choice) = session.choose(&repository, session.reader(&repository)?, wanted)?;
    let mut out = Output::new();
    let mut rows: Vec<(Mailbox, Counts)> = Vec::new();
    let found = users(&reader, &places, &choice.snapshot, &mut |mailbox, counts| {
        rows.push((mailbox.clone(), counts.clone()));
        Ok(())
    })?;
    tell_unseen(&found.unseen);
    let width = rows.iter().map(|(mailbox, _)| mailbox.user.chars().count()).max().unwrap_or(0);
    let mut total = Counts::default();
    for (mailbox, counts) in &rows {
        total.messages += counts.messages;
        total.bytes = total.bytes.saturating_add(counts.bytes);
        total.unreadable += counts.unreadable;
        if session.global.json {
            out.line(json!({
                "type": "mailbox", "user": mailbox.user, "component": mailbox.component,
                "path": quoted(&mailbox.path), "folders": counts.folders, "messages": counts.messages,
                "bytes": counts.bytes, "newest": counts.newest.map(rfc3339), "unreadable": counts.unreadable,
                "taken_from": choice.taken_from(&mailbox.path).map(|id| id.to_string()),
            }))?;
            continue;
        }
        if counts.unreadable > 0 {
            let count = counted(counts.unreadable, "directory", "directories");
            tell(format_args!(
                "snap: {}: {count} cannot be read, and what is there is not counted",
                mailbox.user
            ));
        }
        out.line(format_args!(
            "{:<width$}  {:>12}  {:>16}  {:>11}  {}",
            mailbox.user,
            counted(counts.folders, "folder", "folders"),
            counted(counts.messages, "message", "messages"),
            bytes(counts.bytes),
            counts.newest.map_or_else(|| "-".to_owned(), local),
        ))?;
    }
    if session.global.json {
        out.line(json!({
            "type": "summary", "snapshot": choice.snapshot.id.to_string(), "mailboxes": rows.len(),
            "messages": total.messages, "bytes": total.bytes, "unreadable": total.unreadable,
            "taken_from": choice.taken_json(), "missing": choice.missing_json(),
        }))?;
    } else if !session.global.quiet {
        let mailboxes = counted(rows.len() as u64, "mailbox", "mailboxes");
        out.line(format_args!("{mailboxes}, {} messages, {}", number(total.messages), bytes(total.bytes)))?;
    }
    out.finish()?;
    let is_whole = total.unreadable == 0 && found.unseen.is_empty() && !choice.is_missing_some();
    Ok(if is_whole { Exit::Done } else { Exit::Partial })
}
