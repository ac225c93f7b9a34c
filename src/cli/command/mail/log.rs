//! `snap mail log` and `snap mail diff`

use std::cell::RefCell;
use std::collections::HashMap;

use serde_json::json;

use crate::cli::command::logged::logged;
use crate::cli::command::mail::find::summarised;
use crate::cli::command::mail::{no_mailbox, places, tell_unseen};
use crate::cli::exit::Exit;
use crate::cli::mail::{Diff, Log};
use crate::cli::report::{Output, bytes, counted, local, number, rfc3339, short, tell};
use crate::cli::session::{Session, parse_time};
use crate::op::mail::boxes::{Finder, Found, Mailbox, absence};
use crate::op::mail::changes::{Changes, Event, Night, Placed, changes, count};
use crate::op::mail::folders::folders;
use crate::op::mail::head;
use crate::op::mail::headers::headers;
use crate::op::mail::query::Summary;
use crate::repo::reader::Reader;
use crate::repo::stand_in::fault;
use crate::repo::{RepoError, Snapshot};
use crate::stage::message::folder::shown;
use crate::stage::message::keywords::Keywords;
use crate::stage::message::name::{Letters, handle};
use crate::stage::message::wrapping;

/// Shows night by night what became of a mailbox. Asks for no passphrase unless headers are to be shown; then a
/// configuration's log says so.
///
/// # Errors
/// [`RepoError::NoSnapshot`] if it is not known whose nights are meant; [`RepoError::Source`] if no night has the mailbox; what
/// reading meets that is no damage.
pub fn run(session: &Session, options: &Log) -> Result<Exit, RepoError> {
    match options.headers {
        true => logged(session, || nights(session, options)),
        false => nights(session, options),
    }
}

fn nights(session: &Session, options: &Log) -> Result<Exit, RepoError> {
    let since = options.since.as_deref().map(parse_time).transpose()?;
    let places = places(session)?;
    let repository = session.open()?;
    let nights = session.nights(&repository, &options.owner)?;
    // The night before the first one is what that one is compared with.
    let first = since.map_or(0, |since| nights.partition_point(|night| night.manifest.time < since));
    let reader = session.reader(&repository)?;
    if options.headers {
        reader.repository().unlock(&session.secrets)?;
    }
    let mut finder = Finder::new(&reader, &places);
    let mut shower = Shower::new(session, &reader, &options.user, options.folder.as_deref(), options.headers);
    let mut last: Option<(&Snapshot, Option<Mailbox>)> = None;
    let (mut messages, mut near) = (0, None);
    for (at, night) in nights.iter().enumerate().skip(first.saturating_sub(1)) {
        let found = finder.all(night)?;
        let mailbox = shower.mailbox(&found)?.cloned();
        near = near.or_else(|| nearest(&found, &options.user));
        let component =
            mailbox.as_ref().or(last.as_ref().and_then(|(_, it)| it.as_ref())).map(|it| it.component.clone());
        let component = component.or_else(|| places.component.clone());
        let damage = || found.unseen.first().map(|it| format!("{}: {}", it.what, it.reason));
        let gap =
            component.as_ref().and_then(|component| absence(&night.manifest, component)).or_else(damage);
        if let Some(gap) = gap.filter(|_| mailbox.is_none()) {
            if at >= first && last.is_some() {
                shower.gap(night, &gap)?;
            }
            continue; // what it lacks was not deleted
        }
        if mailbox.is_none() && last.is_none() {
            continue; // the mailbox is younger
        }
        let found = match (&last, &mailbox) {
            (Some((before, earlier)), later) => {
                let before = Night { snapshot: before, mailbox: earlier.as_ref() };
                Some(changes(&reader, before, Night { snapshot: night, mailbox: later.as_ref() })?)
            }
            (None, Some(mailbox)) => {
                messages = shower.counted(&reader, mailbox)?;
                None
            }
            (None, None) => None,
        };
        if let Some(found) = &found {
            messages = messages.saturating_add_signed(found.more());
        }
        if at >= first {
            shower.night(night, mailbox.as_ref(), found.as_ref(), messages)?;
        }
        last = Some((night, mailbox));
    }
    if last.is_none() {
        return Err(no_mailbox(&options.user, near));
    }
    shower.finish()
}

/// Shows what became of the messages of a mailbox from one night to another.
///
/// # Errors
/// As [`run`].
pub fn diff(session: &Session, options: &Diff) -> Result<Exit, RepoError> {
    match options.headers {
        true => logged(session, || compared(session, options)),
        false => compared(session, options),
    }
}

fn compared(session: &Session, options: &Diff) -> Result<Exit, RepoError> {
    let places = places(session)?;
    let repository = session.open()?;
    let earlier = session.snapshot_to_look_at(&repository, &options.earlier, &options.owner)?;
    let later = session.snapshot_to_look_at(&repository, &options.later, &options.owner)?;
    let reader = session.reader(&repository)?;
    if options.headers {
        reader.repository().unlock(&session.secrets)?;
    }
    let mut finder = Finder::new(&reader, &places);
    let mut shower = Shower::new(session, &reader, &options.user, None, options.headers);
    let (before, after) = (finder.all(&earlier)?, finder.all(&later)?);
    let (old, new) = (shower.mailbox(&before)?.cloned(), shower.mailbox(&after)?.cloned());
    let Some(any) = old.as_ref().or(new.as_ref()) else {
        return Err(no_mailbox(&options.user, nearest(&after, &options.user)));
    };
    for (snapshot, mailbox, found) in [(&earlier, &old, &before), (&later, &new, &after)] {
        let damage = || found.unseen.first().map(|it| format!("{}: {}", it.what, it.reason));
        let gap = absence(&snapshot.manifest, &any.component).or_else(damage);
        if let Some(gap) = gap.filter(|_| mailbox.is_none()) {
            let path = format!("mailbox {} in {}", options.user, short(snapshot.id));
            return Err(RepoError::Source { path, reason: gap });
        }
    }
    let night = |snapshot, mailbox| Night { snapshot, mailbox };
    let found = changes(&reader, night(&earlier, old.as_ref()), night(&later, new.as_ref()))?;
    shower.events(&later, new.as_ref().or(old.as_ref()), &found)?;
    shower.total(&found)?;
    shower.finish()
}

/// Returns the user whose name is nearest to one that nobody has.
fn nearest(found: &Found, user: &str) -> Option<String> {
    let distance = |other: &str| strsim::damerau_levenshtein(other, user);
    let near = found.mailboxes.iter().map(|mailbox| (distance(&mailbox.user), &mailbox.user)).min();
    near.filter(|(distance, _)| *distance <= 3).map(|(_, user)| user.clone())
}

/// Shows nights and messages.
struct Shower<'s> {
    session: &'s Session,
    reader: &'s Reader<'s>,
    user: &'s str,
    folder: Option<&'s str>,
    /// Whether headers are read.
    has_headers: bool,
    out: Output,
    is_whole: bool,
    /// Keywords of a folder in a version of the mailbox.
    keywords: RefCell<HashMap<(crate::base::content::ContentBuf, Vec<u8>), Keywords>>,
    has_letters: std::cell::Cell<bool>,
}

impl<'s> Shower<'s> {
    fn new(
        session: &'s Session,
        reader: &'s Reader<'s>,
        user: &'s str,
        folder: Option<&'s str>,
        has_headers: bool,
    ) -> Self {
        Self {
            session,
            reader,
            user,
            folder,
            has_headers,
            out: Output::new(),
            is_whole: true,
            keywords: RefCell::default(),
            has_letters: std::cell::Cell::new(false),
        }
    }

    /// Returns the mailbox in a night; says what can't be seen there.
    fn mailbox<'f>(&mut self, found: &'f Found) -> Result<Option<&'f Mailbox>, RepoError> {
        tell_unseen(&found.unseen);
        self.is_whole &= found.unseen.is_empty();
        found.of_user(self.user)
    }

    fn counted(&mut self, reader: &Reader<'_>, mailbox: &Mailbox) -> Result<u64, RepoError> {
        match count(reader, mailbox) {
            Err(e) if e.is_unreadable() => {
                self.is_whole = false;
                tell(format_args!("snap: {}: messages cannot be counted: {}", self.user, e.chain()));
                Ok(0)
            }
            other => other,
        }
    }

    fn is_wanted(&self, event: &Event) -> bool {
        let is = |placed: &Placed| self.folder.is_none_or(|folder| shown(&placed.folder) == folder);
        is(event.placed()) || event.before().is_some_and(is)
    }

    /// Shows a night in which the mailbox can't be seen.
    fn gap(&mut self, night: &Snapshot, why: &str) -> Result<(), RepoError> {
        self.is_whole = false;
        let (id, time) = (night.id, night.manifest.time);
        match self.session.global.json {
            true => self.out.line(json!({
                "type": "night", "snapshot": id.to_string(), "time": rfc3339(time), "state": why,
            })),
            false => self.out.line(format_args!("{}  {}  {why}", short(id), local(time))),
        }
    }

    /// Shows what became of the mailbox in a night; without changes it is the first that has it.
    fn night(
        &mut self,
        night: &Snapshot,
        mailbox: Option<&Mailbox>,
        found: Option<&Changes>,
        messages: u64,
    ) -> Result<(), RepoError> {
        let count = |word: &str| {
            let events = found.iter().flat_map(|found| &found.events);
            events.filter(|event| event.word() == word && self.is_wanted(event)).count() as u64
        };
        let counts = ["arrived", "deleted", "moved", "flags", "altered", "unknown"].map(count);
        let [arrived, deleted, moved, flags, altered, unknown] = counts;
        let component = mailbox.and_then(|mailbox| {
            night.manifest.components.iter().find(|component| component.name == mailbox.component)
        });
        let mut state: Vec<String> = Vec::new();
        state.extend(mailbox.is_none().then(|| "the mailbox is gone".to_owned()));
        state.extend(
            component.and_then(|it| fault(&night.manifest, it).map(|why| format!("{} {why}", it.name))),
        );
        state.extend((altered > 0).then(|| format!("{altered} have other bytes under their names")));
        state.extend((unknown > 0).then(|| format!("{unknown} could not be backed up")));
        let unreadable = found.map_or(0, |found| found.unreadable.len()) as u64;
        state.extend(
            (unreadable > 0).then(|| format!("{} cannot be read", counted(unreadable, "folder", "folders"))),
        );
        self.is_whole &= unreadable == 0 && unknown == 0;
        let (id, time) = (night.id, night.manifest.time);
        if self.session.global.json {
            let of = |count: u64| found.map(|_| count);
            self.out.line(json!({
                "type": "night", "snapshot": id.to_string(), "time": rfc3339(time), "messages": messages,
                "arrived": of(arrived), "deleted": of(deleted), "moved": of(moved), "flags": of(flags),
                "altered": of(altered), "unknown": of(unknown), "unreadable": unreadable, "state": state.join("; "),
            }))?;
        } else {
            let changed = match found {
                None => "the first night that has it".to_owned(),
                Some(_) => format!("+{arrived} -{deleted}  {moved} moved  {flags} flagged"),
            };
            let messages = counted(messages, "message", "messages");
            let line =
                format!("{}  {}  {messages:>14}  {changed}  {}", short(id), local(time), state.join("; "));
            self.out.line(line.trim_end())?;
        }
        match found {
            Some(found) if self.session.global.verbose > 0 => self.events(night, mailbox, found),
            _ => Ok(()),
        }
    }

    /// Shows each message that something became of.
    fn events(
        &mut self,
        night: &Snapshot,
        mailbox: Option<&Mailbox>,
        found: &Changes,
    ) -> Result<(), RepoError> {
        for (path, why) in &found.unreadable {
            self.is_whole = false;
            tell(format_args!("snap: {}: folder {} cannot be read: {why}", self.user, shown(path)));
        }
        let wanted: Vec<&Event> = found.events.iter().filter(|event| self.is_wanted(event)).collect();
        let summaries = self.summaries(&wanted)?;
        for (event, summary) in wanted.into_iter().zip(summaries) {
            self.event(night, mailbox, event, summary.as_ref())?;
        }
        Ok(())
    }

    /// Reads the headers of messages, if they are to be shown.
    fn summaries(&mut self, events: &[&Event]) -> Result<Vec<Option<Summary>>, RepoError> {
        let mut summaries = vec![None; events.len()];
        if !self.has_headers {
            return Ok(summaries);
        }
        let contents: Vec<_> = events.iter().map(|event| &event.placed().message.content).collect();
        let make = |_, header: Result<&[u8], RepoError>| {
            header.ok().filter(|header| wrapping::of(header).is_none()).map(Summary::of)
        };
        headers(self.reader, &contents, self.session.threads(), make, |number, summary| {
            self.is_whole &= summary.is_some();
            summaries[number] = summary;
            Ok(())
        })?;
        Ok(summaries)
    }

    fn event(
        &mut self,
        night: &Snapshot,
        mailbox: Option<&Mailbox>,
        event: &Event,
        summary: Option<&Summary>,
    ) -> Result<(), RepoError> {
        let placed = event.placed();
        let message = &placed.message;
        let number = handle(self.user, &message.base);
        let names = |placed: &Placed, letters: Letters| self.names(mailbox, placed, letters);
        let flags = names(placed, message.letters);
        let (added, removed) = match event {
            Event::Flagged(old, new) => {
                let (old_letters, new_letters) = (old.message.letters, new.message.letters);
                (names(new, new_letters.without(old_letters)), names(old, old_letters.without(new_letters)))
            }
            _ => Default::default(),
        };
        let from = event.before().map(|before| shown(&before.folder));
        let folder = shown(&placed.folder);
        if self.session.global.json {
            return self.out.line(json!({
                "type": "message", "event": event.word(), "snapshot": night.id.to_string(), "message": number,
                "folder": folder, "from_folder": from, "received": rfc3339(message.received), "bytes": message.bytes,
                "flags": flags, "added": added, "removed": removed,
                "from": summary.map(|it| &it.from), "subject": summary.map(|it| &it.subject),
            }));
        }
        let what = match event {
            Event::Moved(..) => format!("{} -> {folder}", from.unwrap_or_default()),
            Event::Flagged(..) => {
                let signed = |sign: char, names: Vec<String>| {
                    names.into_iter().map(move |name| format!(" {sign}{name}"))
                };
                format!("{folder} {}", signed('+', added).chain(signed('-', removed)).collect::<String>())
            }
            _ => folder,
        };
        let (time, size) = (local(message.received), bytes(message.bytes));
        let summary = match (summary, self.has_headers) {
            (Some(summary), _) => summarised(summary),
            (None, true) => "  (its header cannot be seen)".to_owned(),
            (None, false) => String::new(),
        };
        self.out.line(format_args!("    {:<8}  {number}  {time}  {size:>11}  {what}{summary}", event.word()))
    }

    /// Returns the names of flags and keywords. Keywords that nobody may read the names of have letters.
    fn names(&self, mailbox: Option<&Mailbox>, placed: &Placed, letters: Letters) -> Vec<String> {
        let is_plain = letters.iter().all(|letter| letter.is_ascii_uppercase());
        let Some(mailbox) = mailbox.filter(|_| !is_plain) else { return Keywords::default().names(letters) };
        let key = (mailbox.content.clone(), placed.folder.clone());
        if let Some(known) = self.keywords.borrow().get(&key) {
            return known.names(letters);
        }
        let all = folders(self.reader, &mailbox.content, &mut |_, _| {}).unwrap_or_default();
        let folder = all.iter().find(|folder| folder.path == placed.folder);
        let read = folder.map(|folder| head::keywords(self.reader, folder));
        let keywords = match read {
            Some(Err(_)) => {
                self.has_letters.set(true);
                Keywords::default()
            }
            Some(Ok(keywords)) => keywords,
            None => Keywords::default(),
        };
        let names = keywords.names(letters);
        self.keywords.borrow_mut().insert(key, keywords);
        names
    }

    /// Shows the numbers of a comparison.
    fn total(&mut self, found: &Changes) -> Result<(), RepoError> {
        let count = |word: &str| found.events.iter().filter(|event| event.word() == word).count() as u64;
        let counts = ["arrived", "deleted", "moved", "flags", "altered", "unknown"].map(count);
        let [arrived, deleted, moved, flags, altered, unknown] = counts;
        self.is_whole &= unknown == 0;
        if self.session.global.json {
            return self.out.line(json!({
                "type": "summary", "arrived": arrived, "deleted": deleted, "moved": moved, "flags": flags,
                "altered": altered, "unknown": unknown, "unreadable": found.unreadable.len(),
            }));
        }
        if self.session.global.quiet {
            return Ok(());
        }
        let mut line = format!(
            "{} arrived, {} deleted, {} moved, {} with other flags",
            number(arrived),
            number(deleted),
            number(moved),
            number(flags),
        );
        if altered > 0 {
            line.push_str(&format!(", {} with other bytes under their names", number(altered)));
        }
        if unknown > 0 {
            line.push_str(&format!(", {} that could not be backed up in one of them", number(unknown)));
        }
        self.out.line(line)
    }

    fn finish(self) -> Result<Exit, RepoError> {
        if self.has_letters.get() && !self.session.global.quiet {
            tell("snap: keywords are shown by their letters: the names take the passphrase (--headers)");
        }
        self.out.finish()?;
        Ok(if self.is_whole { Exit::Done } else { Exit::Partial })
    }
}
