//! What is asked of messages.

use crate::base::time::Time;
use crate::op::mail::folders::Message;
use crate::stage::message::folded;
use crate::stage::message::folder::shown;
use crate::stage::message::header::{fields, first, text};
use crate::stage::message::name::{Letters, handle};

/// What is asked for: all of it must hold.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Texts that header fields of a name must hold; as [`folded`] gives them.
    pub headers: Vec<(String, String)>,
    /// A text that the file's name must hold.
    pub name: Option<String>,
    /// The name of the folder, as IMAP shows it.
    pub folder: Option<String>,
    /// Received then or later.
    pub since: Option<Time>,
    /// Received earlier.
    pub before: Option<Time>,
    /// More bytes than that.
    pub larger: Option<u64>,
    /// Fewer bytes than that.
    pub smaller: Option<u64>,
    /// Flags that it must have.
    pub flags: Letters,
    /// Flags that it must not have.
    pub no_flags: Letters,
    /// It must not be in the last night any more.
    pub is_deleted: bool,
    /// The first night that it is missing in is then or later.
    pub deleted_since: Option<Time>,
    /// The first night that it is missing in is earlier.
    pub deleted_before: Option<Time>,
    /// How its number begins.
    pub number: Option<String>,
}

impl Query {
    /// Adds that a field must hold a text.
    pub fn add_header(&mut self, name: &str, text: &str) {
        self.headers.push((name.to_owned(), folded(text)));
    }

    /// Returns whether all holds that its file's name, and what a tree says of it, tell.
    pub(super) fn matches(&self, user: &str, folder: &[u8], message: &Message) -> bool {
        let has = |text: &String| memchr::memmem::find(&message.name, text.as_bytes()).is_some();
        self.name.as_ref().is_none_or(has)
            && self.folder.as_ref().is_none_or(|name| shown(folder) == *name)
            && self.since.is_none_or(|since| message.received >= since)
            && self.before.is_none_or(|before| message.received < before)
            && self.larger.is_none_or(|bytes| message.bytes > bytes)
            && self.smaller.is_none_or(|bytes| message.bytes < bytes)
            && self.flags.without(message.letters).is_empty()
            && self.no_flags.without(message.letters) == self.no_flags
            && self
                .number
                .as_ref()
                .is_none_or(|number| handle(user, &message.base).starts_with(number.as_str()))
    }

    /// Returns whether a message may be missing since that night; none if it is in the last one.
    pub(super) fn matches_end(&self, missing_since: Option<Time>) -> bool {
        let is_asked = self.is_deleted || self.deleted_since.is_some() || self.deleted_before.is_some();
        let Some(time) = missing_since else { return !is_asked };
        self.deleted_since.is_none_or(|since| time >= since)
            && self.deleted_before.is_none_or(|before| time < before)
    }

    /// Returns whether a header holds what it must.
    pub(super) fn matches_header(&self, header: &[u8]) -> bool {
        self.headers.iter().all(|(name, wanted)| {
            fields(header).any(|field| field.is(name) && folded(&text(field.raw)).contains(wanted.as_str()))
        })
    }
}

/// What a header says, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Who sent it.
    pub from: String,
    /// What it is about.
    pub subject: String,
    /// Its id.
    pub message_id: String,
}

impl Summary {
    /// Reads a header.
    pub fn of(header: &[u8]) -> Self {
        let field = |name| first(header, name).unwrap_or_default();
        Self { from: field("from"), subject: field("subject"), message_id: field("message-id") }
    }
}
