//! Two nights of a mailbox → what became of its messages: arrived, deleted, moved, flagged.
//!
//! A message is known by the base of its file's name, which moves and copies keep; where a server renamed it altogether, by its
//! content. Costs what changed: folders that are the same are not read, of others the parts that differ.

use std::collections::{BTreeMap, HashMap};

use crate::base::content::ContentBuf;
use crate::op::mail::boxes::{Mailbox, joined};
use crate::op::mail::folders::{Folder, Message, difference, folders, messages, readable_folders};
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};
use crate::stage::message::name::Letters;
use crate::stage::snapshot::Lack;

/// A message, and the folder that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The folder's path below the mailbox's.
    pub folder: Vec<u8>,
    /// The message.
    pub message: Message,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It came.
    Arrived(Placed),
    /// It is gone.
    Deleted(Placed),
    /// It is in another folder; the first is where it was.
    Moved(Placed, Placed),
    /// Its flags or keywords are others; the first is as it was.
    Flagged(Placed, Placed),
    /// It has other bytes under its name, which no mail server does.
    Altered(Placed, Placed),
    /// It could not be backed up in one of the two nights, so nothing is known of it.
    Unknown(Placed),
}

/// What became of a mailbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// By folder and name.
    pub events: Vec<Event>,
    /// Folders that can't be read, and why: what is in them is left out.
    pub unreadable: Vec<(Vec<u8>, String)>,
}

/// A night, as far as a mailbox is concerned.
#[derive(Clone, Copy)]
pub struct Night<'n> {
    /// The snapshot.
    pub snapshot: &'n Snapshot,
    /// The mailbox in it; none if it is not there.
    pub mailbox: Option<&'n Mailbox>,
}

/// Compares a mailbox in two nights; one that is not in a night is as an empty one.
///
/// # Errors
/// What reading meets that is no damage.
pub fn changes(reader: &Reader<'_>, earlier: Night<'_>, later: Night<'_>) -> Result<Changes, RepoError> {
    let mut found = Changes::default();
    let content = |night: Night<'_>| night.mailbox.map(|mailbox| mailbox.content.clone());
    let (old, new) = (content(earlier), content(later));
    if old == new {
        return Ok(found);
    }
    let (old, new) = (found.folders(reader, old)?, found.folders(reader, new)?);
    let names: std::collections::BTreeSet<&Vec<u8>> = old.keys().chain(new.keys()).collect();
    let empty = Folder::default();
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    for name in names {
        let (before, after) = (old.get(name).unwrap_or(&empty), new.get(name).unwrap_or(&empty));
        if found.unreadable.iter().any(|(path, _)| is_at_or_below(name, path)) {
            continue; // what is not known on one side tells nothing
        }
        let read = || -> Result<[Vec<Placed>; 2], RepoError> {
            let placed = |message| Placed { folder: name.clone(), message };
            let (mut gone, mut come) = (Vec::new(), Vec::new());
            for (side, is_new) in [false, true].into_iter().enumerate() {
                let [old, new] = difference(reader, &before.sides[side], &after.sides[side], is_new)?;
                gone.extend(old.into_iter().map(placed));
                come.extend(new.into_iter().map(placed));
            }
            Ok([gone, come])
        };
        match read() {
            Ok([old, new]) => {
                gone.extend(old);
                come.extend(new);
            }
            Err(e) if e.is_unreadable() => found.unreadable.push((name.clone(), e.chain())),
            Err(e) => return Err(e),
        }
    }
    found.events = paired(gone, come);
    let lacking = [(earlier, later), (later, earlier)].map(|(night, other)| {
        let path = night.mailbox.or(other.mailbox).map(|mailbox| mailbox.path.clone()).unwrap_or_default();
        Lacking { lacks: &night.snapshot.manifest.lacks, mailbox: path }
    });
    for event in &mut found.events {
        match event {
            Event::Deleted(placed) if lacking[1].has(placed) => *event = Event::Unknown(placed.clone()),
            Event::Arrived(placed) if lacking[0].has(placed) => *event = Event::Unknown(placed.clone()),
            _ => {}
        }
    }
    Ok(found)
}

impl Changes {
    fn folders(
        &mut self,
        reader: &Reader<'_>,
        mailbox: Option<ContentBuf>,
    ) -> Result<BTreeMap<Vec<u8>, Folder>, RepoError> {
        let Some(mailbox) = mailbox else { return Ok(BTreeMap::new()) };
        let mut damaged =
            |path: &[u8], error: &RepoError| self.unreadable.push((path.to_vec(), error.chain()));
        let all = readable_folders(reader, &mailbox, &mut damaged)?;
        Ok(all.into_iter().map(|folder| (folder.path.clone(), folder)).collect())
    }

    /// Returns how many messages more there are later than earlier.
    pub fn more(&self) -> i64 {
        let one = |event: &Event| match event {
            Event::Arrived(_) => 1,
            Event::Deleted(_) => -1,
            _ => 0,
        };
        self.events.iter().map(one).sum()
    }
}

/// Returns whether a folder is another one, or lies below it; all lie below the mailbox's own directory.
fn is_at_or_below(folder: &[u8], above: &[u8]) -> bool {
    let rest = folder.strip_prefix(above);
    above.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// What a night could not read of a mailbox.
struct Lacking<'l> {
    lacks: &'l [Lack],
    mailbox: Vec<u8>,
}

impl Lacking<'_> {
    /// Returns whether a message, or a directory that it lies in, could not be backed up. Lacks have the paths of the source
    /// machine, of which the end is known.
    fn has(&self, placed: &Placed) -> bool {
        if self.lacks.is_empty() {
            return false;
        }
        let last = |path: &[u8]| -> Vec<u8> {
            path.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec).unwrap_or_default()
        };
        let side: &[u8] = if placed.message.is_new { b"new" } else { b"cur" };
        let folder = joined(&last(&self.mailbox), &placed.folder);
        let (side, base) = (joined(&folder, side), &placed.message.base);
        self.lacks.iter().any(|lack| {
            let ends = |end: &[u8]| lack.path == end || lack.path.ends_with(&[b"/", end].concat());
            let own = || joined(&side, &placed.message.name);
            ends(&folder)
                || ends(&side)
                || ends(&own())
                || crate::stage::message::name::parse(&last(&lack.path)).base == base
        })
    }
}

/// Pairs messages that are gone with those that came: by folder and base, by base, by content.
fn paired(gone: Vec<Placed>, come: Vec<Placed>) -> Vec<Event> {
    let mut events = Vec::new();
    let in_place = |placed: &Placed| (placed.folder.clone(), placed.message.base.clone());
    let (gone, come) = pair(gone, come, in_place, &mut |old, new| {
        let (before, after) = (&old.message, &new.message);
        if before.content != after.content {
            events.push(Event::Altered(old, new));
        } else if before.letters != after.letters {
            events.push(Event::Flagged(old, new));
        } // else it was seen by a client for the first time, and went from new/ to cur/
    });
    let base = |placed: &Placed| placed.message.base.clone();
    let mut moved = |old: Placed, new: Placed| {
        if old.folder != new.folder {
            events.push(Event::Moved(old.clone(), new.clone()));
        }
        if old.message.letters != new.message.letters && are_comparable(&old, &new) {
            events.push(Event::Flagged(old, new));
        }
    };
    let (gone, come) = pair(gone, come, base, &mut moved);
    let content = |placed: &Placed| placed.message.content.clone();
    let is_nothing = |placed: &Placed| placed.message.content.list.is_empty();
    let (empty_gone, gone) = gone.into_iter().partition::<Vec<_>, _>(is_nothing);
    let (empty_come, come) = come.into_iter().partition::<Vec<_>, _>(is_nothing);
    let (gone, come) = pair(gone, come, content, &mut moved);
    events.extend(gone.into_iter().chain(empty_gone).map(Event::Deleted));
    events.extend(come.into_iter().chain(empty_come).map(Event::Arrived));
    events.sort_by_cached_key(|event| {
        let placed = event.placed();
        (placed.folder.clone(), placed.message.base.clone(), event.word())
    });
    events
}

/// Returns whether letters mean the same in two folders: keywords go by the folder's own list.
fn are_comparable(old: &Placed, new: &Placed) -> bool {
    let flags =
        |letters: Letters| Letters::new(&letters.iter().filter(u8::is_ascii_uppercase).collect::<Vec<_>>());
    old.folder == new.folder || flags(old.message.letters) != flags(new.message.letters)
}

/// Pairs each message that is gone with at most one that came and has the same key; returns what is left.
fn pair<K: std::hash::Hash + Eq>(
    gone: Vec<Placed>,
    come: Vec<Placed>,
    key: impl Fn(&Placed) -> K,
    each: &mut dyn FnMut(Placed, Placed),
) -> (Vec<Placed>, Vec<Placed>) {
    let mut by_key: HashMap<K, Vec<usize>> = HashMap::new();
    for (number, placed) in come.iter().enumerate().rev() {
        by_key.entry(key(placed)).or_default().push(number);
    }
    let mut come: Vec<Option<Placed>> = come.into_iter().map(Some).collect();
    let mut left = Vec::new();
    for old in gone {
        let number = by_key.get_mut(&key(&old)).and_then(Vec::pop);
        match number.and_then(|number| come[number].take()) {
            Some(new) => each(old, new),
            None => left.push(old),
        }
    }
    (left, come.into_iter().flatten().collect())
}

impl Event {
    /// Returns what it is called.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Arrived(_) => "arrived",
            Self::Deleted(_) => "deleted",
            Self::Moved(..) => "moved",
            Self::Flagged(..) => "flags",
            Self::Altered(..) => "altered",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Returns the message, as it is later if it is there then.
    pub fn placed(&self) -> &Placed {
        match self {
            Self::Arrived(placed) | Self::Deleted(placed) | Self::Unknown(placed) => placed,
            Self::Moved(_, placed) | Self::Flagged(_, placed) | Self::Altered(_, placed) => placed,
        }
    }

    /// Returns where it was before, if it was there.
    pub fn before(&self) -> Option<&Placed> {
        match self {
            Self::Moved(before, _) | Self::Flagged(before, _) | Self::Altered(before, _) => Some(before),
            _ => None,
        }
    }
}

/// Counts the messages of a mailbox.
///
/// # Errors
/// What reading meets: damage, too.
pub fn count(reader: &Reader<'_>, mailbox: &Mailbox) -> Result<u64, RepoError> {
    let mut count = 0;
    for folder in folders(reader, &mailbox.content, &mut |_, _| {})? {
        for (side, is_new) in folder.sides.iter().zip([false, true]) {
            messages(reader, side, is_new, &mut |_, _| count += 1)?;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(folder: &str, name: &str, content: &str) -> Placed {
        let name = crate::stage::message::name::parse(name.as_bytes());
        Placed {
            folder: folder.into(),
            message: Message {
                base: name.base.to_vec(),
                name: name.base.to_vec(),
                letters: name.letters,
                bytes: 1,
                received: crate::base::time::Time::new(1, 0),
                content: ContentBuf { depth: 0, list: content.repeat(20).into_bytes() },
                is_new: false,
                is_sparse: false,
            },
        }
    }

    fn words(gone: Vec<Placed>, come: Vec<Placed>) -> Vec<&'static str> {
        paired(gone, come).iter().map(Event::word).collect()
    }

    #[test]
    fn a_message_is_known_by_its_name_then_by_its_content() {
        let one = |folder, name, content| vec![placed(folder, name, content)];
        assert_eq!(words(one("", "1.a:2,", "x"), one("", "1.a:2,S", "x")), ["flags"]);
        assert_eq!(words(one("", "1.a:2,", "x"), one(".Trash", "1.a:2,", "x")), ["moved"]);
        assert_eq!(words(one("", "1.a:2,", "x"), one(".Trash", "1.a:2,ST", "x")), ["flags", "moved"]);
        assert_eq!(
            words(one("", "1.a:2,", "x"), one(".Trash", "2.b:2,", "x")),
            ["moved"],
            "renamed by a server"
        );
        assert_eq!(words(one("", "1.a:2,", "x"), one("", "1.a:2,", "y")), ["altered"]);
        assert_eq!(words(one("", "1.a:2,", "x"), one("", "2.b:2,", "y")), ["deleted", "arrived"]);
        assert_eq!(words(one("", "1.a", "x"), one("", "1.a:2,", "x")), [""; 0], "seen for the first time");
    }

    #[test]
    fn what_could_not_be_backed_up_is_known_by_where_it_lay() {
        let lacks = |path: &str| [Lack { path: path.into(), reason: String::new() }];
        let message = placed(".Sent", "1.a:2,S", "x");
        let has = |path: &str| {
            let lacks = lacks(path);
            Lacking { lacks: &lacks, mailbox: b"mail/example.org/anna".to_vec() }.has(&message)
        };
        for path in ["/srv/anna/.Sent/cur/1.a:2,", "/srv/anna/.Sent/cur", "/srv/anna/.Sent", "anna/.Sent"] {
            assert!(has(path), "{path}");
        }
        for path in ["/srv/bob/.Sent/cur", "/srv/anna/.Trash", "/srv/joanna/.Sent", "/srv/anna/cur/2.b:2,S"] {
            assert!(!has(path), "{path}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_read_hides_those_below_it() {
        assert!(
            is_at_or_below(b"Sent/2024", b"Sent")
                && is_at_or_below(b"Sent", b"")
                && is_at_or_below(b"Sent", b"Sent")
        );
        assert!(!is_at_or_below(b"Sent2", b"Sent") && !is_at_or_below(b"Sent", b"Sent/2024"));
    }

    #[test]
    fn copies_pair_once_and_empty_messages_are_not_taken_for_one_another() {
        let come = vec![placed(".A", "1.a:2,", "x"), placed(".B", "1.a:2,", "x")];
        assert_eq!(words(vec![placed("", "1.a:2,", "x")], come), ["moved", "arrived"]);
        let empty = |name| vec![placed("", name, "")];
        assert_eq!(words(empty("1.a:2,"), empty("2.b:2,")), ["deleted", "arrived"]);
    }
}
