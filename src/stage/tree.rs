//! Stage 9: entries of a directory → tree stream; and back.
//!
//! A stream is the entries' records one after the other, by ascending name bytes. Cut where the content
//! says so, like files, so that one new mail in a folder of a million rewrites a few KB; and between records,
//! so that each chunk can be read by itself.

use std::ops::Range;

use crate::base::entry::{Entry, EntryError, quoted};
use crate::base::wire::{self, WireError};

/// Why bytes are not a tree stream. Nothing was changed; never retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A record does not decode.
    #[error("tree: at byte {offset}")]
    Record {
        /// Where the record starts in the stream, in bytes.
        offset: usize,
        /// What is wrong with it.
        source: WireError,
    },
    /// A record breaks a rule.
    #[error("tree: at byte {offset}")]
    Entry {
        /// Where the record starts in the stream, in bytes.
        offset: usize,
        /// The rule.
        source: EntryError,
    },
    /// Names do not ascend.
    #[error("tree: entry {name}: does not come after the one before it")]
    Order {
        /// The later name, quoted.
        name: String,
    },
}

/// Appends an entry's record.
///
/// # Errors
/// As [`wire::encode_into`].
pub fn push(entry: &Entry<'_>, bytes: &mut Vec<u8>) -> Result<(), WireError> {
    wire::encode_into(entry, bytes)
}

/// A stream that is being made, and where its records end.
#[derive(Default)]
pub struct Stream {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Stream {
    /// Makes room for about `bytes` bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::new() }
    }

    /// Appends an entry's record, as [`push`] makes it.
    pub fn push_record(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        // A stream that is longer is refused before anything asks for its ends.
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }

    /// Returns its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the last end of a record up to byte `at`, 0 for none, and the first one from there on.
    pub fn ends_around(&self, at: usize) -> (usize, usize) {
        let place = self.ends.partition_point(|end| (*end as usize) < at);
        let from = self.ends.get(place).map_or(self.bytes.len(), |end| *end as usize);
        let before =
            place.checked_sub(1).and_then(|place| self.ends.get(place)).map_or(0, |end| *end as usize);
        (if from == at { at } else { before }, from)
    }
}

/// Reads a stream: each entry with the bytes that its record takes. Ends after the first error. Nobody reads entries in
/// another way, so that all find the same ones damaged.
pub struct Entries<'a> {
    stream: &'a [u8],
    at: usize,
    last_name: &'a [u8],
    is_doubtful: bool,
}

impl<'a> Entries<'a> {
    /// Reads `stream` from its start.
    pub fn new(stream: &'a [u8]) -> Self {
        Self { stream, at: 0, last_name: b"", is_doubtful: false }
    }

    /// Reads bytes that may be anything, such as one chunk of a tree: a record takes a megabyte of memory at most.
    pub fn of_chunk(bytes: &'a [u8]) -> Self {
        Self { is_doubtful: true, ..Self::new(bytes) }
    }

    fn read(&mut self) -> Result<(Range<usize>, Entry<'a>), TreeError> {
        let offset = self.at;
        let rest = &self.stream[offset..];
        let read = if self.is_doubtful { wire::decode_doubtful(rest) } else { wire::decode_prefix(rest) };
        let (entry, used): (Entry<'a>, usize) =
            read.map_err(|source| TreeError::Record { offset, source })?;
        entry.validate().map_err(|source| TreeError::Entry { offset, source })?;
        if entry.name <= self.last_name {
            return Err(TreeError::Order { name: quoted(entry.name) });
        }
        self.last_name = entry.name;
        self.at += used;
        Ok((offset..self.at, entry))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(Range<usize>, Entry<'a>), TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.stream.len() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.at = self.stream.len();
        }
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::content::Content;
    use crate::base::entry::{Hole, Kind};
    use crate::base::time::Time;

    fn entry<'a>(name: &'a [u8], list: &'a [u8], holes: Vec<Hole>) -> Entry<'a> {
        Entry {
            name,
            kind: Kind::File,
            mode: 0o4755,
            uid: 1000,
            gid: u32::MAX,
            user: b"vmail",
            group: b"",
            mtime: Time::new(-1, 999_999_999),
            ctime: Time::new(i64::MAX, 0),
            btime: Some(Time::new(i64::MIN, 1)),
            filesystem: u64::MAX,
            inode: u64::MAX,
            links: 2,
            size: u64::MAX,
            torn: true,
            device: (8, 1),
            target: b"",
            xattrs: vec![(b"user.a", b"\0\xff")],
            holes,
            content: Content { depth: 1, list },
        }
    }

    fn record(entry: &Entry<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(entry, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn names_must_ascend() {
        for names in [[&b"b"[..], b"a"], [b"a", b"a"]] {
            let mut stream = Stream::default();
            names.iter().for_each(|name| stream.push_record(&record(&entry(name, b"", vec![]))));
            let read: Vec<_> = Entries::new(stream.bytes()).collect();
            assert!(matches!(read[..], [Ok(_), Err(TreeError::Order { .. })]));
        }
    }

    #[test]
    fn a_name_that_leaves_the_directory_is_refused() {
        let mut stream = Stream::default();
        stream.push_record(&record(&entry(b"..", b"", vec![])));
        assert!(matches!(Entries::new(stream.bytes()).next(), Some(Err(TreeError::Entry { .. }))));
    }

    proptest! {
        #[test]
        fn entries_read_back(names in prop::collection::btree_set("[a-z]{1,20}", 0..20), refs in 0usize..5) {
            let list = vec![9; refs * 20];
            let holes = vec![Hole { offset: 5, bytes: 10 }, Hole { offset: 15, bytes: 1 }];
            let mut made = Stream::default();
            for name in &names {
                made.push_record(&record(&entry(name.as_bytes(), &list, holes.clone())));
            }
            let stream = made.bytes();
            let mut end = 0;
            let mut count = 0;
            for (read, name) in Entries::new(stream).zip(&names) {
                let (range, read) = read.unwrap();
                prop_assert_eq!(range.start, end);
                end = range.end;
                prop_assert_eq!(made.ends_around(range.start + 1), (range.start, end));
                prop_assert_eq!(made.ends_around(end), (end, end));
                count += 1;
                prop_assert_eq!(read, entry(name.as_bytes(), &list, holes.clone()));
            }
            prop_assert_eq!(count, names.len());
            prop_assert_eq!(end, stream.len());
        }

        #[test]
        fn hostile_streams_never_panic(stream in prop::collection::vec(any::<u8>(), 0..400)) {
            for read in Entries::new(&stream) {
                if read.is_err() { break }
            }
        }
    }
}
