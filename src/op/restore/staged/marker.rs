//! What lies in a staging directory beside the tree: which restore it belongs to, and which names go out.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::base::entry::quoted;
use crate::op::restore::Request;
use crate::repo::Snapshot;
use crate::repo::reader::Reader;

/// Which restore a staging directory belongs to: one that asks for something else does not go on there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// For whoever finds it.
    note: String,
    /// Of this layout.
    version: u32,
    repository: String,
    snapshot: String,
    /// As [`quoted`] gives it.
    path: String,
    options: Vec<String>,
    /// Whether the restore that began there made the target.
    #[serde(default)]
    pub is_target_made: bool,
}

/// The only layout so far.
const VERSION: u32 = 1;

fn list<'v>(option: &'static str, values: &'v [String]) -> impl Iterator<Item = String> + 'v {
    values.iter().map(move |value| format!("{option} {value}"))
}

const NOTE: &str = "A restore by snap that is not finished: what it has made so far lies in tree. The same command with --continue goes on here; or remove this directory.";

impl Marker {
    /// Returns the marker of what is asked for. What decides only what becomes of entries that are there
    /// already has no part in it.
    pub fn of(reader: &Reader<'_>, snapshot: &Snapshot, request: &Request<'_>) -> Self {
        let numeric = request.numeric_ids.then(|| "--numeric-ids".to_owned());
        let labels = request.labels.then(|| "--labels".to_owned());
        let path: Vec<&[u8]> =
            request.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        Self {
            note: NOTE.to_owned(),
            version: VERSION,
            repository: reader.repository().id().to_string(),
            snapshot: snapshot.id.to_string(),
            path: quoted(&path.join(&b'/')),
            options: list("--component", &request.components)
                .chain(list("--include", &request.include))
                .chain(list("--exclude", &request.exclude))
                .chain(numeric)
                .chain(labels)
                .collect(),
            is_target_made: false,
        }
    }

    /// Returns whether the two restores ask for the same.
    pub fn asks_same(&self, other: &Self) -> bool {
        Self { is_target_made: other.is_target_made, ..self.clone() } == *other
    }

    /// Reads a marker; none if it is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let marker: Self = serde_json::from_slice(bytes).ok()?;
        (marker.version == VERSION).then_some(marker)
    }

    /// Returns the bytes of the file.
    pub fn build(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Says on one line what was asked for, without control characters: anybody may have written it.
    pub fn shown(&self) -> String {
        let place = match self.path.as_str() {
            "" => self.snapshot.clone(),
            path => format!("{}:{path}", self.snapshot),
        };
        let line = [&[place][..], &self.options].concat().join(" ");
        line.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
    }
}

/// Top entries that go out, or have gone out: name and inode.
pub type TopEntries = HashMap<Vec<u8>, u64>;

/// Returns the bytes of the list of names.
pub fn build_names(names: &TopEntries) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, inode) in names {
        bytes.extend_from_slice(inode.to_string().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(name);
        bytes.push(0);
    }
    bytes
}

/// Reads a list of names. What is cut off or makes no sense is left out: it was never durable, so none of it
/// has gone out.
pub fn parse_names(bytes: &[u8]) -> TopEntries {
    let whole = bytes.iter().rposition(|byte| *byte == 0).map_or(0, |end| end + 1);
    let lines = bytes[..whole].split(|byte| *byte == 0).filter_map(|line| {
        let space = line.iter().position(|byte| *byte == b' ')?;
        let inode = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
        Some((line[space + 1..].to_vec(), inode))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_names_is_read_as_it_was_written_and_what_is_cut_off_is_left_out() {
        let names: TopEntries =
            [(b"mail".to_vec(), 7), (b"a b\n\xff".to_vec(), u64::MAX), (b"7 x".to_vec(), 0)].into();
        let bytes = build_names(&names);
        assert_eq!(parse_names(&bytes), names);
        for end in 0..bytes.len() {
            let cut = parse_names(&bytes[..end]);
            assert!(
                cut.len() < names.len() && cut.iter().all(|(name, inode)| names.get(name) == Some(inode))
            );
        }
        assert!(parse_names(b"x mail\0 \0\0").is_empty());
    }

    #[test]
    fn a_marker_is_shown_on_one_line_whoever_wrote_it() {
        let marker = Marker {
            note: String::new(),
            version: VERSION,
            repository: String::new(),
            snapshot: "ab\x1b[31m".to_owned(),
            path: "a\nb".to_owned(),
            options: vec!["--include *.eml".to_owned()],
            is_target_made: true,
        };
        assert_eq!(Marker::parse(&marker.build()), Some(marker.clone()));
        assert_eq!(marker.shown(), "ab\u{fffd}[31m:a\u{fffd}b --include *.eml");
        assert_eq!(Marker::parse(b"{}"), None);
        assert_eq!(Marker::parse(&Marker { version: 2, ..marker }.build()), None);
    }
}
