//! A query → the messages that answer it in any of some nights, each once, with the first and the last night it was there.
//!
//! What nights share is read once: mailboxes that are the same, folders that are the same, and of folders that are not the
//! parts that are. So many nights cost little more than one.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::base::content::{ChunkRef, ContentBuf};
use crate::op::mail::boxes::{Finder, Mailbox, Unseen, Where, absence, joined};
use crate::op::mail::folders::{Folder, Message, chunks, messages, readable_folders, records};
use crate::op::mail::headers::headers;
use crate::op::mail::query::{Query, Summary};
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};
use crate::stage::message::folder::shown;
use crate::stage::message::wrapping::{self, Wrapping};

/// A message that answers a query.
#[derive(Clone, Debug)]
pub struct Hit {
    /// Whose it is.
    pub user: String,
    /// Its path in the newest snapshot of those that have it so.
    pub path: Vec<u8>,
    /// Its folder there.
    pub folder: Vec<u8>,
    /// It.
    pub message: Message,
    /// Number of the first night that it was in, in any folder.
    pub first: usize,
    /// Number of the last one.
    pub last: usize,
    /// Number of the newest night that has it so.
    pub at: usize,
    /// What its header says; none if that was not read.
    pub summary: Option<Summary>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// By the time received.
    pub hits: Vec<Hit>,
    /// What could not be searched, and why.
    pub unseen: Vec<Unseen>,
    /// Whether headers could not be read for want of the passphrase.
    pub is_locked: bool,
    /// Whether the mailbox is in any night.
    pub has_mailbox: bool,
}

/// A part of a side of a folder, which several nights may have.
struct Slot {
    first: usize,
    last: usize,
    user: Arc<str>,
    folder: Arc<Placed>,
    is_new: bool,
    matching: Vec<Message>,
    /// What all messages in it are known by.
    keys: Vec<u64>,
}

#[derive(PartialEq, Eq, Hash)]
struct Placed {
    mailbox: Vec<u8>,
    folder: Vec<u8>,
}

/// Looks for messages in nights, oldest first, of one user or of all; reads headers on `threads` threads.
///
/// # Errors
/// What reading meets that is no damage.
pub fn find(
    reader: &Reader<'_>,
    places: &Where,
    nights: &[&Snapshot],
    user: Option<&str>,
    query: &Query,
    threads: usize,
) -> Result<Report, RepoError> {
    let mut search = Search {
        reader,
        query,
        threads,
        hasher: RandomState::new(),
        slots: Vec::new(),
        versions: HashMap::new(),
        sides: HashMap::new(),
        report: Report::default(),
    };
    let mut finder = Finder::new(reader, places);
    let mut components: Vec<String> = places.component.iter().cloned().collect();
    for (number, night) in nights.iter().enumerate() {
        let found = finder.all(night)?;
        let wanted: Vec<&Mailbox> = match user {
            Some(user) => found.of_user(user)?.into_iter().collect(),
            None => found.mailboxes.iter().collect(),
        };
        for mailbox in wanted {
            if !components.contains(&mailbox.component) {
                components.push(mailbox.component.clone());
            }
            search.mailbox(number, mailbox)?;
        }
        search.report.unseen.extend(found.unseen);
    }
    search.report.has_mailbox = !search.slots.is_empty() || !search.versions.is_empty();
    for night in nights {
        let gaps = components.iter().filter_map(|component| absence(&night.manifest, component));
        let what = format!("night {}", night.id);
        search.report.unseen.extend(gaps.map(|reason| Unseen { what: what.clone(), reason }));
    }
    search.finish(nights)
}

struct Search<'s> {
    reader: &'s Reader<'s>,
    query: &'s Query,
    threads: usize,
    hasher: RandomState,
    slots: Vec<Slot>,
    /// Slots of mailboxes that were looked at.
    versions: HashMap<(Vec<u8>, ContentBuf), Arc<Vec<usize>>>,
    /// Slots of sides of folders that were looked at, and of their chunks.
    sides: HashMap<(Arc<Placed>, bool, Part), Arc<Vec<usize>>>,
    report: Report,
}

/// What a header was read for.
enum Header {
    Matches(Summary),
    Other,
    Unseen(Wrapping),
    Damaged(String),
}

#[derive(PartialEq, Eq, Hash)]
enum Part {
    Whole(ContentBuf),
    Chunk(ChunkRef),
}

impl Search<'_> {
    fn mailbox(&mut self, night: usize, mailbox: &Mailbox) -> Result<(), RepoError> {
        let key = (mailbox.path.clone(), mailbox.content.clone());
        let slots = match self.versions.get(&key) {
            Some(slots) => slots.clone(),
            None => {
                let slots = Arc::new(self.version(night, mailbox)?);
                self.versions.insert(key, slots.clone());
                slots
            }
        };
        for slot in slots.iter() {
            self.slots[*slot].last = self.slots[*slot].last.max(night);
        }
        Ok(())
    }

    /// Returns the slots of a version of a mailbox.
    fn version(&mut self, night: usize, mailbox: &Mailbox) -> Result<Vec<usize>, RepoError> {
        let user: Arc<str> = mailbox.user.as_str().into();
        let unseen = &mut self.report.unseen;
        let mut damaged = |path: &[u8], error: &RepoError| {
            let what = format!("{}: folder {}", mailbox.user, shown(path));
            unseen.push(Unseen { what, reason: format!("cannot be read: {}", error.chain()) });
        };
        let all = readable_folders(self.reader, &mailbox.content, &mut damaged)?;
        let mut slots = Vec::new();
        for folder in &all {
            let placed = Arc::new(Placed { mailbox: mailbox.path.clone(), folder: folder.path.clone() });
            for is_new in [false, true] {
                slots.extend(self.side(night, &user, &placed, folder, is_new)?.iter());
            }
        }
        Ok(slots)
    }

    fn side(
        &mut self,
        night: usize,
        user: &Arc<str>,
        placed: &Arc<Placed>,
        folder: &Folder,
        is_new: bool,
    ) -> Result<Arc<Vec<usize>>, RepoError> {
        let content = &folder.sides[usize::from(is_new)];
        let key = (placed.clone(), is_new, Part::Whole(content.clone()));
        if let Some(known) = self.sides.get(&key) {
            return Ok(known.clone());
        }
        let slots = match self.by_chunks(night, user, placed, content, is_new) {
            Err(e) if e.is_unreadable() => {
                // A chunk that is damaged, or not made of whole records: the directory as a whole says more.
                let mut slot = self.slot(night, user, placed, is_new);
                match messages(self.reader, content, is_new, &mut |message, _| self.take(&mut slot, message))
                {
                    Err(e) if e.is_unreadable() => {
                        let what = format!("{user}: folder {}", shown(&placed.folder));
                        let reason = format!("cannot be read: {}", e.chain());
                        self.report.unseen.push(Unseen { what, reason });
                    }
                    other => other?,
                }
                self.slots.push(slot);
                vec![self.slots.len() - 1]
            }
            other => other?,
        };
        let slots = Arc::new(slots);
        self.sides.insert(key, slots.clone());
        Ok(slots)
    }

    fn slot(&self, night: usize, user: &Arc<str>, placed: &Arc<Placed>, is_new: bool) -> Slot {
        let (user, folder) = (user.clone(), placed.clone());
        Slot { first: night, last: night, user, folder, is_new, matching: Vec::new(), keys: Vec::new() }
    }

    fn take(&self, slot: &mut Slot, message: Message) {
        slot.keys.push(self.hasher.hash_one((&*slot.user, &slot.folder.mailbox, &message.base)));
        if self.query.matches(&slot.user, &slot.folder.folder, &message) {
            slot.matching.push(message);
        }
    }

    fn by_chunks(
        &mut self,
        night: usize,
        user: &Arc<str>,
        placed: &Arc<Placed>,
        content: &ContentBuf,
        is_new: bool,
    ) -> Result<Vec<usize>, RepoError> {
        let (mut slots, mut fresh) = (Vec::new(), Vec::new());
        for chunk in chunks(self.reader, content)? {
            match self.sides.get(&(placed.clone(), is_new, Part::Chunk(chunk))) {
                Some(known) => slots.extend(known.iter()),
                None => fresh.push(chunk),
            }
        }
        let mut read: Vec<Slot> = fresh.iter().map(|_| self.slot(night, user, placed, is_new)).collect();
        records(self.reader, &fresh, is_new, &mut |number, message| self.take(&mut read[number], message))?;
        for (chunk, slot) in fresh.into_iter().zip(read) {
            let number = self.slots.len();
            self.slots.push(slot);
            self.sides.insert((placed.clone(), is_new, Part::Chunk(chunk)), Arc::new(vec![number]));
            slots.push(number);
        }
        Ok(slots)
    }

    /// Puts together what was found: each message once, as it was last.
    fn finish(mut self, nights: &[&Snapshot]) -> Result<Report, RepoError> {
        let mut hits: HashMap<u64, Hit> = HashMap::new();
        for slot in &mut self.slots {
            for message in std::mem::take(&mut slot.matching) {
                let key = self.hasher.hash_one((&*slot.user, &slot.folder.mailbox, &message.base));
                if hits.get(&key).is_some_and(|known| known.at > slot.last) {
                    continue;
                }
                let side: &[u8] = if slot.is_new { b"new" } else { b"cur" };
                let place = joined(&joined(&slot.folder.mailbox, &slot.folder.folder), side);
                let hit = Hit {
                    user: slot.user.to_string(),
                    path: joined(&place, &message.name),
                    folder: slot.folder.folder.clone(),
                    message,
                    first: slot.first,
                    last: slot.last,
                    at: slot.last,
                    summary: None,
                };
                hits.insert(key, hit);
            }
        }
        for slot in &self.slots {
            for key in &slot.keys {
                if let Some(hit) = hits.get_mut(key) {
                    (hit.first, hit.last) = (hit.first.min(slot.first), hit.last.max(slot.last));
                }
            }
        }
        let mut hits: Vec<Hit> = hits.into_values().collect();
        hits.retain(|hit| self.query.matches_end(nights.get(hit.last + 1).map(|night| night.manifest.time)));
        let key = |hit: &Hit| (hit.message.received, hit.user.clone(), hit.message.base.clone());
        hits.sort_by_cached_key(key);
        self.slots = Vec::new();
        (self.sides, self.versions) = Default::default();
        let hits = self.by_header(hits)?;
        self.report.hits = hits;
        Ok(self.report)
    }

    /// Returns the hits whose headers hold what they must.
    fn by_header(&mut self, hits: Vec<Hit>) -> Result<Vec<Hit>, RepoError> {
        let contents: Vec<&ContentBuf> = hits.iter().map(|hit| &hit.message.content).collect();
        let mut summaries: Vec<Option<Summary>> = hits.iter().map(|_| None).collect();
        let mut wrapped: BTreeMap<String, u64> = BTreeMap::new();
        let (query, unseen) = (self.query, &mut self.report.unseen);
        let is_asked = !query.headers.is_empty();
        let make = |_, header: Result<&[u8], RepoError>| match header {
            Ok(header) => match wrapping::of(header) {
                Some(wrapping) => Header::Unseen(wrapping),
                None if query.matches_header(header) => Header::Matches(Summary::of(header)),
                None => Header::Other,
            },
            Err(e) => Header::Damaged(e.chain()),
        };
        let read = headers(self.reader, &contents, self.threads, make, |number, header| {
            match header {
                Header::Matches(summary) => summaries[number] = Some(summary),
                Header::Other => {}
                Header::Unseen(wrapping) => *wrapped.entry(wrapping.reason()).or_default() += 1,
                Header::Damaged(reason) => {
                    let hit = &hits[number];
                    let what = format!("{}: {}", hit.user, crate::base::entry::quoted(&hit.message.name));
                    unseen.push(Unseen { what, reason });
                }
            }
            Ok(())
        });
        match read {
            Err(RepoError::Locked) if !is_asked => self.report.is_locked = true,
            other => other?,
        }
        for (reason, count) in wrapped {
            let what = format!("{count} {}", if count == 1 { "message" } else { "messages" });
            let reason = format!("{reason}: only name, size, date, flags and folder can be seen");
            self.report.unseen.push(Unseen { what, reason });
        }
        let found = hits.into_iter().zip(summaries);
        let found = found.filter(|(_, summary)| !is_asked || summary.is_some());
        Ok(found.map(|(hit, summary)| Hit { summary, ..hit }).collect())
    }
}
