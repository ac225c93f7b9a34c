//! `snap mail find`

use serde_json::json;

use crate::base::entry::quoted;
use crate::cli::choice::Owner;
use crate::cli::command::logged::logged;
use crate::cli::command::mail::{no_mailbox, places, tell_unseen};
use crate::cli::exit::Exit;
use crate::cli::mail::{Asked, Find};
use crate::cli::report::{Output, bytes, counted, local, rfc3339, tell};
use crate::cli::session::{Session, parse_time};
use crate::op::mail::find::{Hit, find};
use crate::op::mail::query::{Query, Summary};
use crate::repo::{RepoError, Repository, Snapshot};
use crate::stage::message::folder::shown;
use crate::stage::message::keywords::Keywords;
use crate::stage::message::name::{Letters, flag_letter, handle};

/// Longest text of a header that a line shows, in characters.
const TEXT_CHARS_MAX: usize = 60;

/// Finds messages. What looks into headers or into everybody's mail takes the passphrase, and a configuration's log says so.
///
/// # Errors
/// As [`find`].
pub fn run(session: &Session, options: &Find) -> Result<Exit, RepoError> {
    let query = query(&options.asked)?;
    let is_inside = options.headers || options.user.is_none() || !query.headers.is_empty();
    match is_inside {
        true => logged(session, || found(session, options, &query, true)),
        false => found(session, options, &query, false),
    }
}

fn found(session: &Session, options: &Find, query: &Query, is_inside: bool) -> Result<Exit, RepoError> {
    let places = places(session)?;
    let repository = session.open()?;
    let nights = nights(session, &repository, &options.snapshot, &options.owner)?;
    if is_inside {
        repository.unlock(&session.secrets)?;
    }
    let reader = session.reader(&repository)?;
    let all: Vec<&Snapshot> = nights.iter().collect();
    let report = find(&reader, &places, &all, options.user.as_deref(), query, session.threads())?;
    tell_unseen(&report.unseen);
    if let Some(user) = options.user.as_ref().filter(|_| !report.has_mailbox) {
        return Err(no_mailbox(user, None));
    }
    let mut out = Output::new();
    for hit in &report.hits {
        match session.global.json {
            true => out.line(row(hit, &nights))?,
            false => out.line(line(hit, &nights, options.user.is_none()))?,
        }
    }
    if session.global.json {
        let unseen: Vec<_> =
            report.unseen.iter().map(|it| json!({ "what": it.what, "reason": it.reason })).collect();
        out.line(json!({
            "type": "summary", "messages": report.hits.len(), "nights": nights.len(), "unseen": unseen,
            "headers": report.hits.iter().any(|hit| hit.summary.is_some()),
        }))?;
    } else if !session.global.quiet {
        let messages = counted(report.hits.len() as u64, "message", "messages");
        out.line(format_args!("{messages} in {}", counted(nights.len() as u64, "night", "nights")))?;
    }
    out.finish()?;
    if report.is_locked && !report.hits.is_empty() && !session.global.quiet {
        tell("snap: whom messages are from and their subjects take the passphrase (--headers)");
    }
    Ok(if report.unseen.is_empty() { Exit::Done } else { Exit::Partial })
}

/// Returns the nights that are looked at, oldest first.
pub(super) fn nights(
    session: &Session,
    repository: &Repository,
    named: &[String],
    owner: &Owner,
) -> Result<Vec<Snapshot>, RepoError> {
    if !named.is_empty() {
        let named = named.iter().map(|spec| session.snapshot_to_look_at(repository, spec, owner));
        let mut named = named.collect::<Result<Vec<_>, _>>()?;
        named.sort_by_key(|snapshot| snapshot.manifest.time);
        named.dedup_by_key(|snapshot| snapshot.id);
        return Ok(named);
    }
    session.nights(repository, owner)
}

fn query(asked: &Asked) -> Result<Query, RepoError> {
    let mut query = Query {
        name: asked.name.clone(),
        folder: asked.folder.clone(),
        since: asked.since.as_deref().map(parse_time).transpose()?,
        before: asked.before.as_deref().map(parse_time).transpose()?,
        larger: asked.larger,
        smaller: asked.smaller,
        flags: letters(&asked.flag)?,
        no_flags: letters(&asked.no_flag)?,
        is_deleted: asked.deleted,
        deleted_since: asked.deleted_since.as_deref().map(parse_time).transpose()?,
        deleted_before: asked.deleted_before.as_deref().map(parse_time).transpose()?,
        ..Query::default()
    };
    let fields = [
        ("From", &asked.from),
        ("To", &asked.to),
        ("Cc", &asked.cc),
        ("Subject", &asked.subject),
        ("Message-ID", &asked.message_id),
    ];
    for (name, texts) in fields {
        texts.iter().for_each(|text| query.add_header(name, text));
    }
    for term in &asked.header {
        let reason = "is written NAME=TEXT, such as --header List-Id=dovecot".to_owned();
        let (name, text) = term
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or(RepoError::Source { path: format!("--header {term}"), reason })?;
        query.add_header(name, text);
    }
    Ok(query)
}

fn letters(words: &[String]) -> Result<Letters, RepoError> {
    let letter = |word: &String| {
        let reason = "is none of seen, answered, flagged, deleted, draft, forwarded".to_owned();
        flag_letter(word).ok_or(RepoError::Source { path: format!("flag {word}"), reason })
    };
    Ok(Letters::new(&words.iter().map(letter).collect::<Result<Vec<_>, _>>()?))
}

/// Returns a message as a line.
pub(super) fn line(hit: &Hit, nights: &[Snapshot], is_user_shown: bool) -> String {
    let day = |at: usize| local(nights[at].manifest.time).chars().take(10).collect::<String>();
    let number = handle(&hit.user, &hit.message.base);
    let user = if is_user_shown { format!("{}  ", hit.user) } else { String::new() };
    let gone = if hit.last + 1 < nights.len() { "  gone" } else { "" };
    let summary = hit.summary.as_ref().map(summarised).unwrap_or_default();
    format!(
        "{number}  {}  {:>11}  {user}{}  {}..{}{gone}{summary}",
        local(hit.message.received),
        bytes(hit.message.bytes),
        shown(&hit.folder),
        day(hit.first),
        day(hit.last),
    )
}

/// Returns what a line shows of a header.
pub(super) fn summarised(summary: &Summary) -> String {
    let cut = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
    format!("  {}  {}", cut(&summary.from), cut(&summary.subject))
}

fn row(hit: &Hit, nights: &[Snapshot]) -> serde_json::Value {
    let night = |at: usize| {
        let snapshot = &nights[at];
        json!({ "snapshot": snapshot.id.to_string(), "time": rfc3339(snapshot.manifest.time) })
    };
    let message = &hit.message;
    json!({
        "type": "message", "message": handle(&hit.user, &message.base), "user": hit.user,
        "folder": shown(&hit.folder), "received": rfc3339(message.received), "bytes": message.bytes,
        "flags": Keywords::default().names(message.letters), "name": quoted(&message.name),
        "first": night(hit.first), "last": night(hit.last), "is_there": hit.last + 1 == nights.len(),
        "place": format!("{}:{}", nights[hit.at].id, quoted(&hit.path)),
        "from": hit.summary.as_ref().map(|it| &it.from), "subject": hit.summary.as_ref().map(|it| &it.subject),
        "message_id": hit.summary.as_ref().map(|it| &it.message_id),
    })
}
