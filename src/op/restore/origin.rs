//! Where the entries of a snapshot were read from.
//!
//! Not every directory of a snapshot was one of the source. The root only holds components, a component of several
//! paths holds each by its base name, and paths of the command line lie below directories that only lead to them.

use crate::base::entry::Kind;
use crate::repo::browse::{Place, find};
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};
use crate::stage::snapshot::Component;
use crate::stage::tree::Entries;

/// An entry that was read from a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Number of its component.
    pub component: usize,
    /// Path below the component's directory, as patterns see it.
    pub inside: Vec<u8>,
    /// Absolute path of the source, on the machine that was backed up.
    pub source: Vec<u8>,
    /// Path below the source; empty for the source itself.
    pub below: Vec<u8>,
}

impl Origin {
    /// Returns the absolute path that the entry had.
    pub fn path(&self) -> Vec<u8> {
        join(&self.source, &self.below)
    }
}

/// A snapshot's sources.
pub struct Origins<'m> {
    components: &'m [Component],
    /// Whether a component's only source is a directory, whose content lies right in the component's.
    are_single: Vec<bool>,
}

impl<'m> Origins<'m> {
    /// Looks at what the snapshot says of its sources. Where a manifest leaves it open whether a component's only
    /// source was a file or a directory, the component's directory tells; if that does not either, it was a file.
    ///
    /// # Errors
    /// What reading a component's directory meets, but for damage: what can't be read was no directory.
    pub fn new(reader: &Reader<'_>, snapshot: &'m Snapshot) -> Result<Self, RepoError> {
        let components = snapshot.manifest.components.as_slice();
        let mut are_single = Vec::new();
        for component in components {
            let is_single = match component.sources.as_slice() {
                [source] if !component.directory.is_empty() && is_absolute(source) => {
                    // A file is one.
                    component.files != 1 || holds_more_than(reader, snapshot, component, base_name(source))?
                }
                _ => false,
            };
            are_single.push(is_single);
        }
        Ok(Self { components, are_single })
    }

    /// Returns where what lies at `path` of the snapshot was read from; none if it is no source's, and leads to
    /// sources at most.
    pub fn of(&self, path: &[u8]) -> Option<Origin> {
        (0..).zip(self.components).find_map(|(number, component)| {
            let inside = below(path, &component.directory)?;
            let origin = |source: &[u8], below: &[u8]| Origin {
                component: number,
                inside: inside.to_vec(),
                source: source.to_vec(),
                below: below.to_vec(),
            };
            if self.are_single.get(number) == Some(&true) {
                return component.sources.first().map(|source| origin(trimmed(source), inside));
            }
            self.placed(component).find_map(|(source, at)| Some(origin(source, below(inside, &at)?)))
        })
    }

    /// Returns the path in the snapshot of each source that has one, and the component's number.
    pub fn places(&self) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
        (0..).zip(self.components).flat_map(|(number, component)| {
            let places: Vec<Vec<u8>> = match self.are_single.get(number) {
                Some(true) => vec![component.directory.clone()],
                _ => self.placed(component).map(|(_, at)| join(&component.directory, &at)).collect(),
            };
            places.into_iter().map(move |place| (number, place))
        })
    }

    /// Returns the sources that lie side by side, each with its path below the component's directory.
    fn placed<'c>(&self, component: &'c Component) -> impl Iterator<Item = (&'c [u8], Vec<u8>)> + use<'c> {
        let in_root = component.directory.is_empty();
        let sources = component.sources.iter().map(|source| trimmed(source));
        sources.filter(|source| is_absolute(source)).map(move |source| {
            let at = if in_root { source.get(1..).unwrap_or_default() } else { base_name(source) };
            (source, at.to_vec())
        })
    }
}

/// Returns whether a component's directory holds anything but a single entry of this name that is no directory.
fn holds_more_than(
    reader: &Reader<'_>,
    snapshot: &Snapshot,
    component: &Component,
    name: &[u8],
) -> Result<bool, RepoError> {
    let stream = match find(reader, snapshot, &component.directory) {
        Ok(Place::Entry(record)) => {
            let entry = record.entry()?;
            if entry.kind != Kind::Directory {
                return Ok(false);
            }
            reader.content(entry.content)
        }
        Ok(Place::Root(_)) | Err(RepoError::NoPath { .. }) => return Ok(false),
        Err(e) => Err(e),
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(e) if e.is_unreadable() => return Ok(false),
        Err(e) => return Err(e),
    };
    let mut entries = Entries::new(&stream).map_while(Result::ok);
    let is_it =
        |(_, entry): &(_, crate::base::entry::Entry<'_>)| entry.name == name && entry.kind != Kind::Directory;
    Ok(match (entries.next(), entries.next()) {
        (Some(first), None) => !is_it(&first),
        _ => true,
    })
}

/// Returns what of `path` lies below `above`; empty for `above` itself, none if it lies elsewhere. An empty `above`
/// is above all.
pub fn below<'p>(path: &'p [u8], above: &[u8]) -> Option<&'p [u8]> {
    if above.is_empty() {
        return Some(path);
    }
    let rest = path.strip_prefix(above)?;
    match rest.split_first() {
        None => Some(rest),
        Some((b'/', rest)) => Some(rest),
        Some(_) if above == b"/" => Some(rest),
        Some(_) => None,
    }
}

/// Returns the path of `below` in the directory `above`; either may be empty.
pub fn join(above: &[u8], below: &[u8]) -> Vec<u8> {
    match (above, below) {
        (above, b"") => above.to_vec(),
        (b"", below) => below.to_vec(),
        (b"/", below) => [b"/", below].concat(),
        (above, below) => [above, b"/", below].concat(),
    }
}

/// Returns a path of a snapshot without slashes that mean nothing.
pub fn plain(path: &[u8]) -> Vec<u8> {
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    names.join(&b'/')
}

/// Returns the last name of a path.
pub fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').find(|name| !name.is_empty()).unwrap_or_default()
}

fn is_absolute(source: &[u8]) -> bool {
    source.first() == Some(&b'/')
}

/// Returns a path without slashes at its end.
pub fn trimmed(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
    path.get(..end).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::snapshot::Status;

    fn component(directory: &str, sources: &[&str]) -> Component {
        Component {
            name: directory.to_owned(),
            directory: directory.as_bytes().to_vec(),
            sources: sources.iter().map(|source| source.as_bytes().to_vec()).collect(),
            status: Status::Complete,
            attempts: 1,
            files: 1,
            bytes: 1,
        }
    }

    fn of(components: &[Component], are_single: &[bool], path: &str) -> Option<(String, String)> {
        let origins = Origins { components, are_single: are_single.to_vec() };
        let origin = origins.of(path.as_bytes())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((text(&origin.path()), text(&origin.inside)))
    }

    #[test]
    fn directories_that_only_lead_to_a_source_have_no_origin() {
        let components = [
            component("mail", &["/srv/mail/"]),
            component("config", &["/opt/config", "/opt/.env"]),
            component("mysql", &["all.sql"]),
        ];
        let of = |path| of(&components, &[true, false, false], path);
        let is = |path: &str, inside: &str| Some((path.to_owned(), inside.to_owned()));
        assert_eq!(of("mail"), is("/srv/mail", ""));
        assert_eq!(of("mail/anna/cur"), is("/srv/mail/anna/cur", "anna/cur"));
        assert_eq!(of("config/config/a"), is("/opt/config/a", "config/a"));
        assert_eq!(of("config/.env"), is("/opt/.env", ".env"));
        for made_up in ["", "config", "config/other", "mysql", "mysql/all.sql", "mailbox"] {
            assert_eq!(of(made_up), None, "{made_up}");
        }
    }

    #[test]
    fn paths_of_the_command_line_lie_by_their_absolute_names() {
        let components = [component("", &["/srv/mail", "/etc/passwd"])];
        let of = |path| of(&components, &[false], path);
        assert_eq!(of("srv/mail/a"), Some(("/srv/mail/a".to_owned(), "srv/mail/a".to_owned())));
        assert_eq!(of("etc/passwd").map(|(path, _)| path).as_deref(), Some("/etc/passwd"));
        for above in ["", "srv", "etc", "srv/mailbox"] {
            assert_eq!(of(above), None, "{above}");
        }
        let all = [component("", &["/"])];
        assert_eq!(super::tests::of(&all, &[false], "").map(|(path, _)| path).as_deref(), Some("/"));
        assert_eq!(super::tests::of(&all, &[false], "a/b").map(|(path, _)| path).as_deref(), Some("/a/b"));
    }

    #[test]
    fn names_are_told_apart_at_slashes() {
        assert_eq!(below(b"a/b", b"a"), Some(&b"b"[..]));
        assert_eq!(below(b"a", b"a"), Some(&b""[..]));
        assert_eq!(below(b"ab", b"a"), None);
        assert_eq!(below(b"/a", b"/"), Some(&b"a"[..]));
        assert_eq!((trimmed(b"/a//"), trimmed(b"///"), trimmed(b"")), (&b"/a"[..], &b"/"[..], &b""[..]));
        assert_eq!(plain(b"//a//b/"), b"a/b");
    }
}
