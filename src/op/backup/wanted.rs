//! Which paths of a file system were named, as a tree of names.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What is wanted of a directory: all of it, or what was named below it. A path that lies below another
/// named path stays named: it must be there, and is entered whatever else is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    is_whole: bool,
    names: BTreeMap<Vec<u8>, Wanted>,
}

impl Wanted {
    /// Returns what is wanted of a directory of which one name was named.
    pub fn one(name: &[u8]) -> Self {
        let mut wanted = Self::default();
        wanted.add(&[name]);
        wanted
    }

    /// Adds the path made of `names`.
    pub fn add(&mut self, names: &[&[u8]]) {
        match names.split_first() {
            None => self.is_whole = true,
            Some((name, rest)) => self.names.entry(name.to_vec()).or_default().add(rest),
        }
    }

    /// Returns whether the directory itself was named.
    pub fn is_all(&self) -> bool {
        self.is_whole
    }

    /// Returns what is wanted of a directory; none if all of it is, and nothing in it was named by itself.
    pub fn of(self) -> Option<Self> {
        Some(self).filter(|wanted| !wanted.is_whole || !wanted.names.is_empty())
    }

    /// Returns whether all of a directory is wanted.
    pub fn is_whole(only: Option<&Self>) -> bool {
        only.is_none_or(|only| only.is_whole)
    }

    /// Returns the names that were named, or lead to what was.
    pub fn names(only: Option<&Self>) -> impl Iterator<Item = &[u8]> {
        only.into_iter().flat_map(|only| only.names.keys().map(Vec::as_slice))
    }

    /// Returns whether `name` was named, or leads to what was.
    pub fn leads(only: Option<&Self>, name: &[u8]) -> bool {
        only.is_some_and(|only| only.names.contains_key(name))
    }

    /// Returns whether `name` itself was named.
    pub fn is_named(only: Option<&Self>, name: &[u8]) -> bool {
        only.and_then(|only| only.names.get(name)).is_some_and(|wanted| wanted.is_whole)
    }

    /// Returns whether something below `name` was named.
    pub fn is_above(only: Option<&Self>, name: &[u8]) -> bool {
        only.and_then(|only| only.names.get(name)).is_some_and(|wanted| !wanted.names.is_empty())
    }

    /// Returns what is wanted of the directory `name`; none if all of it is. Of one that `is_left_out` as
    /// such only what was named.
    pub fn below(only: Option<&Self>, name: &[u8], is_left_out: bool) -> Option<Self> {
        let only = only?;
        let mut below = only.names.get(name).cloned().unwrap_or_default();
        below.is_whole |= only.is_whole && !is_left_out;
        below.of()
    }
}

/// Opens a directory that was named, links in its path followed.
///
/// # Errors
/// As open(2).
pub fn open_named(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Returns what is wrong with a link that was named and can't be followed.
pub fn link_failure(error: Errno) -> String {
    match error {
        Errno::NOENT | Errno::LOOP => "a link that leads nowhere".to_owned(),
        error => format!("a link that cannot be followed: {}", std::io::Error::from(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(paths: &[&str]) -> Wanted {
        let mut wanted = Wanted::default();
        for path in paths {
            let names: Vec<&[u8]> =
                path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect();
            wanted.add(&names);
        }
        wanted
    }

    #[test]
    fn a_path_below_another_is_still_named_whatever_the_order() {
        for paths in [["/srv", "/srv/cache/mail"], ["/srv/cache/mail", "/srv"]] {
            let root = wanted(&paths).of();
            assert!(!Wanted::is_whole(root.as_ref()) && Wanted::is_named(root.as_ref(), b"srv"));
            let srv = Wanted::below(root.as_ref(), b"srv", false);
            assert!(Wanted::is_whole(srv.as_ref()) && Wanted::is_above(srv.as_ref(), b"cache"));
            assert_eq!(Wanted::below(srv.as_ref(), b"other", false), None, "all of it");
            let cache = Wanted::below(srv.as_ref(), b"cache", true);
            assert!(!Wanted::is_whole(cache.as_ref()), "left out, but for what was named");
            assert!(Wanted::is_named(cache.as_ref(), b"mail"));
            assert_eq!(Wanted::below(cache.as_ref(), b"mail", false), None);
        }
    }

    #[test]
    fn the_root_directory_can_be_named_too() {
        assert_eq!(wanted(&["/"]).of(), None);
        let both = wanted(&["/", "/home"]).of();
        assert!(Wanted::is_whole(both.as_ref()) && Wanted::is_named(both.as_ref(), b"home"));
    }
}
