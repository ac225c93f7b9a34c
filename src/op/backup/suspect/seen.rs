//! What a walk has met that the parent snapshot has as well. It costs next to nothing, and on an ordinary
//! night it is enough to know that no component is suspect.

use std::ops::AddAssign;

use crate::stage::scan::unique_name;

/// Beginnings of the names of Dovecot's own files, which change on an ordinary day wherever they lie.
const OWN_NAMES: &[&[u8]] = &[b"dovecot.index", b"dovecot.list.index", b"dovecot.map.index", b"dovecot-uid"];

/// Some files, and their bytes, holes included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    /// Returns one file of `bytes` bytes.
    pub fn file(bytes: u64) -> Self {
        Self { files: 1, bytes }
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// What a file is to the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A message: a file in `cur` or `new` of a Maildir folder. Its content never changes.
    Message,
    /// What lies in a Maildir beside the messages, and indexes of mail elsewhere: it counts for nothing.
    Beside,
    /// Any other file.
    Other,
}

impl Sort {
    /// Returns what the file `name` is. `is_side` says whether its directory holds messages, `in_mailbox`
    /// whether it lies in a Maildir at all.
    pub fn of(name: &[u8], is_side: bool, in_mailbox: bool) -> Self {
        match (is_side, in_mailbox) {
            (true, _) => Self::Message,
            (false, true) => Self::Beside,
            (false, false) if OWN_NAMES.iter().any(|start| name.starts_with(start)) => Self::Beside,
            (false, false) => Self::Other,
        }
    }
}

/// What was met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Messages that are as the parent has them, under any name.
    pub messages_kept: Amount,
    /// The same of [`Sort::Beside`].
    pub beside_kept: Amount,
    /// The same of [`Sort::Other`].
    pub others_kept: Amount,
    /// Files of [`Sort::Beside`], kept or not.
    pub beside_files: u64,
    /// Messages that were read although the parent has one of that name.
    pub messages_read_again: u64,
    /// Streams that were stored: name and length.
    pub streams: Vec<(Vec<u8>, u64)>,
    /// Whether the parent has a message of the next file's unique name right before it.
    has_namesake: bool,
}

impl Seen {
    /// Returns what is met where a stream of `bytes` bytes was stored.
    pub fn stream(name: &[u8], bytes: u64) -> Self {
        Self { streams: vec![(name.to_vec(), bytes)], ..Self::default() }
    }

    /// Notes which name of the parent's directory comes last before `name`, which the parent does not have; empty
    /// for none.
    pub fn come_to(&mut self, before: &[u8], name: &[u8]) {
        self.has_namesake = !before.is_empty() && unique_name(before) == unique_name(name);
    }

    /// Notes a file that was listed.
    pub fn file(&mut self, sort: Sort) {
        self.beside_files += u64::from(sort == Sort::Beside);
    }

    /// Notes a file that is as the parent has it.
    pub fn kept(&mut self, sort: Sort, bytes: u64) {
        let kept = match sort {
            Sort::Message => &mut self.messages_kept,
            Sort::Beside => &mut self.beside_kept,
            Sort::Other => &mut self.others_kept,
        };
        *kept += Amount::file(bytes);
    }

    /// Notes a file that is to be read. `is_known` says whether the parent has a file of the same name.
    pub fn read(&mut self, sort: Sort, is_known: bool) {
        let is_again = sort == Sort::Message && (is_known || self.has_namesake);
        self.messages_read_again += u64::from(is_again);
    }

    /// Adds what another walk has met.
    pub fn add(&mut self, other: Self) {
        self.messages_kept += other.messages_kept;
        self.beside_kept += other.beside_kept;
        self.others_kept += other.others_kept;
        self.beside_files += other.beside_files;
        self.messages_read_again += other.messages_read_again;
        self.streams.extend(other.streams);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_under_its_name_with_something_appended_is_read_again() {
        let mut seen = Seen::default();
        let mut meet = |before: &[u8], name: &[u8]| {
            seen.come_to(before, name);
            seen.read(Sort::Message, false);
            seen.messages_read_again
        };
        assert_eq!(meet(b"1.host:2,S", b"1.host:2,S.locked"), 1);
        assert_eq!(meet(b"1.host:2,S", b"2.host:2,S"), 1);
        assert_eq!(meet(b"", b""), 1);
    }

    #[test]
    fn what_dovecot_keeps_for_itself_counts_for_nothing() {
        assert_eq!(Sort::of(b"1.host:2,S", true, true), Sort::Message);
        assert_eq!(Sort::of(b"dovecot.index.cache", false, true), Sort::Beside);
        assert_eq!(Sort::of(b"subscriptions", false, true), Sort::Beside);
        assert_eq!(Sort::of(b"dovecot.index.log", false, false), Sort::Beside);
        assert_eq!(Sort::of(b"dovecot.conf", false, false), Sort::Other);
    }
}
