//! What a component leaves out: patterns, which never remove a path that was named, nor what leads there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, Glob};

use crate::base::patterns::{PatternError, matcher};

/// A name in a directory: a pattern that matches it matches all that is in the directory.
const ANY_NAME: &[u8] = b"~any name at all~";

/// A component's patterns.
pub struct Excludes {
    lines: Vec<Line>,
    /// All of them, for paths below the component's root.
    all: Gitignore,
    /// Those that begin with a slash, for paths on the machine.
    absolute: Gitignore,
}

/// One pattern.
struct Line {
    text: String,
    alone: Gitignore,
    /// The pattern for paths on the machine, if it begins with a slash.
    absolute: Option<Gitignore>,
    /// Whether it matches at any depth, so that it means the same wherever a path begins.
    is_floating: bool,
    /// Whether the parent snapshot was made with it.
    is_known: bool,
}

/// Where a walk is, as patterns see it.
#[derive(Clone, Default)]
pub struct Place {
    /// Path below the component's root, with a slash at its end; empty for the root.
    inside: Vec<u8>,
    /// The named path that the walk is in; none on the way to one.
    named: Option<Arc<Named>>,
}

/// A path that was named.
struct Named {
    /// Bytes of [`Place::inside`] that lead to it.
    bytes: usize,
    /// Its paths on the machine, without the first slash and with one at the end: as it was named, and without links.
    roots: Vec<Vec<u8>>,
    /// For each pattern how it would remove all of it.
    leading: Vec<Leads>,
}

/// Whether a pattern matches a named path, or what leads to it.
#[derive(Clone, Copy)]
struct Leads {
    /// As a path below the component's root; or all that is in it, at any depth.
    below: bool,
    /// As a path on the machine.
    on_machine: bool,
}

impl Place {
    /// Returns the place of a directory in this one.
    pub fn below(&self, name: &[u8]) -> Self {
        Self { inside: [&self.inside, name, b"/"].concat(), named: self.named.clone() }
    }
}

impl Named {
    /// Returns what a path below the component's root is on the machine.
    fn on_machine(&self, path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
        let relative = path.get(self.bytes..).unwrap_or_default();
        self.roots.iter().map(move |root| [root.as_slice(), relative].concat())
    }
}

impl Excludes {
    /// Reads patterns. `known` are those that the parent snapshot was made with; none if nobody asks.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn new(patterns: &[String], known: Option<&[String]>) -> Result<Self, PatternError> {
        let lines = patterns.iter().map(|text| {
            let is_absolute = body(text).starts_with('/');
            let on_machine = || matcher([Some(text.clone()), without_links(text)].into_iter().flatten());
            Ok(Line {
                text: text.clone(),
                alone: matcher([text])?,
                absolute: is_absolute.then(on_machine).transpose()?,
                is_floating: is_floating(text),
                is_known: known.is_none_or(|known| known.contains(text)),
            })
        });
        let lines = lines.collect::<Result<Vec<_>, PatternError>>()?;
        let absolute = patterns.iter().filter(|text| body(text).starts_with('/'));
        let absolute = absolute.flat_map(|text| [Some(text.clone()), without_links(text)]).flatten();
        Ok(Self { lines, all: matcher(patterns)?, absolute: matcher(absolute)? })
    }

    /// Returns whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Returns the same place, which is what the absolute path `path` names.
    pub fn named(&self, place: Place, path: &Path) -> Place {
        if self.is_empty() {
            return place; // nobody asks
        }
        let mut roots = vec![root_of(path)];
        roots.extend(path.canonicalize().ok().map(|real| root_of(&real)).filter(|real| *real != roots[0]));
        let inside = place.inside;
        let leading = self.lines.iter().map(|line| line.leads_to(&inside, &roots)).collect();
        let named = Named { bytes: inside.len(), roots, leading };
        Place { inside, named: Some(Arc::new(named)) }
    }

    /// Returns whether an entry is left out.
    pub fn leaves_out(&self, place: &Place, name: &[u8], is_directory: bool) -> bool {
        let Some(named) = &place.named else { return false }; // it leads to what was named
        let path = [&place.inside, name].concat();
        let meets = |path: Vec<u8>| !matched(&self.absolute, &path, is_directory).is_none();
        let is_plain = !named.leading.iter().any(|leads| leads.below)
            && (self.absolute.is_empty() || !named.on_machine(&path).any(meets));
        match is_plain {
            true => matched(&self.all, &path, is_directory).is_ignore(),
            false => self.deciding(named, &path, is_directory).is_some(),
        }
    }

    /// Returns the absolute pattern that leaves an entry out and that the parent snapshot was not made with.
    pub fn newly(&self, place: &Place, name: &[u8], is_directory: bool) -> Option<&str> {
        let named = place.named.as_ref().filter(|_| self.lines.iter().any(|line| !line.is_known))?;
        let line = self.deciding(named, &[&place.inside, name].concat(), is_directory)?;
        (line.absolute.is_some() && !line.is_known).then_some(line.text.as_str())
    }

    /// Returns the pattern that leaves a path out: the last that matches it, unless that has a `!`.
    fn deciding(&self, named: &Named, path: &[u8], is_directory: bool) -> Option<&Line> {
        for (line, leads) in self.lines.iter().zip(&named.leading).rev() {
            match line.on(named, *leads, path, is_directory) {
                Match::Ignore(_) => return Some(line),
                Match::Whitelist(_) => return None,
                Match::None => {}
            }
        }
        None
    }
}

impl Line {
    fn on(&self, named: &Named, leads: Leads, path: &[u8], is_directory: bool) -> Match<&Glob> {
        let found = match leads.below {
            false => matched(&self.alone, path, is_directory),
            // Seen from the named path it may still match: there can be a 'mail' in 'mail'.
            true if self.is_floating => {
                matched(&self.alone, path.get(named.bytes..).unwrap_or_default(), is_directory)
            }
            true => Match::None,
        };
        let absolute = self.absolute.as_ref().filter(|_| found.is_none() && !leads.on_machine);
        let mut on_machine = absolute.into_iter().flat_map(|absolute| {
            named.on_machine(path).map(move |path| matched(absolute, &path, is_directory))
        });
        on_machine.find(|found| !found.is_none()).unwrap_or(found)
    }

    /// Returns how it matches a named path, or what lies above it.
    fn leads_to(&self, inside: &[u8], roots: &[Vec<u8>]) -> Leads {
        let meets = |patterns: &Gitignore, path: &[u8]| !matched(patterns, path, true).is_none();
        let absolute =
            |patterns: &Gitignore| roots.iter().any(|root| upwards(root).any(|p| meets(patterns, p)));
        let below = upwards(inside).any(|path| meets(&self.alone, path))
            || self.is_floating && meets(&self.alone, &[inside, ANY_NAME].concat());
        Leads { below, on_machine: self.absolute.as_ref().is_some_and(absolute) }
    }
}

fn matched<'g>(patterns: &'g Gitignore, path: &[u8], is_directory: bool) -> Match<&'g Glob> {
    patterns.matched(Path::new(OsStr::from_bytes(path)), is_directory)
}

/// Returns a path that ends with a slash, without that, and all that lies above it.
fn upwards(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    ends.map(|end| &path[..end])
}

fn root_of(path: &Path) -> Vec<u8> {
    let names = path.as_os_str().as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    names.flat_map(|name| [name, b"/"]).flatten().copied().collect()
}

fn body(pattern: &str) -> &str {
    pattern.strip_prefix('!').unwrap_or(pattern)
}

fn is_floating(pattern: &str) -> bool {
    let body = body(pattern).trim_end().trim_end_matches('/');
    !body.contains('/') || body.starts_with("**/") || body.starts_with("/**/")
}

/// Returns an absolute pattern with the links on its way followed; none if there are none. The last name
/// stays as it is: a link may be left out itself.
fn without_links(pattern: &str) -> Option<String> {
    let mut plain = PathBuf::from("/");
    let mut rest = body(pattern).strip_prefix('/')?;
    while let Some((name, after)) = rest.split_once('/')
        && !after.is_empty()
        && !name.contains(['*', '?', '[', '{', '\\'])
    {
        plain.push(name);
        rest = after;
    }
    let real = plain.canonicalize().ok().filter(|real| *real != plain)?;
    let real = globset::escape(real.to_str()?);
    let sign = if pattern.starts_with('!') { "!" } else { "" };
    Some(format!("{sign}{}/{rest}", real.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns which of `paths`, which lie in the component's root at `root`, are left out.
    fn left_out<'p>(patterns: &[&str], root: &str, named: &str, paths: &[&'p str]) -> Vec<&'p str> {
        let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        let excludes = Excludes::new(&patterns, None).expect("patterns");
        let place = Place { inside: named.as_bytes().to_vec(), named: None };
        let place = excludes.named(place, Path::new(root));
        let out = |path: &&&str| excludes.leaves_out(&place, path.as_bytes(), false);
        paths.iter().filter(out).copied().collect()
    }

    #[test]
    fn an_absolute_pattern_matches_the_path_on_the_machine_and_below_the_component() {
        let paths = ["cache", "tmp", "x"];
        assert_eq!(left_out(&["/no/such/mail/cache"], "/no/such/mail", "", &paths), ["cache"]);
        assert_eq!(left_out(&["/tmp"], "/no/such/mail", "", &paths), ["tmp"]);
        assert_eq!(left_out(&["/no/*/mail/[ct]*", "!/tmp"], "/no/such/mail", "", &paths), ["cache"]);
        assert_eq!(left_out(&["/no/such/mail/cache"], "/no/such/mail", "mail/", &paths), ["cache"]);
    }

    #[test]
    fn a_pattern_that_matches_above_the_named_path_leaves_nothing_of_it_out() {
        let paths = ["cache", "mail", "x"];
        let named = "no/cache/mail/";
        for pattern in ["**/cache/**", "/no/**", "/no", "cache", "no/cache/mail", "/no/cache/", "**/mail/**"]
        {
            let left = left_out(&[pattern], "/no/cache/mail", named, &paths);
            let inner = if pattern == "cache" { vec!["cache"] } else { vec![] };
            assert_eq!(left, inner, "{pattern}");
            let left = left_out(&[pattern], "/no/cache/mail", "", &paths);
            assert_eq!(left, inner, "{pattern}, as a component");
        }
        assert_eq!(
            left_out(&["mail"], "/no/cache/mail", named, &paths),
            ["mail"],
            "what is in it is another"
        );
        assert_eq!(left_out(&["**/mail/x"], "/no/cache/mail", named, &paths), ["x"]);
        assert_eq!(left_out(&["*", "!x"], "/no/cache/mail", named, &paths), ["cache", "mail"]);
        assert_eq!(left_out(&["/*", "!/x"], "/no/cache/mail", "", &paths), ["cache", "mail"]);
    }

    #[test]
    fn a_pattern_through_a_link_matches_what_the_link_leads_to() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let real = folder.path().canonicalize().expect("is there").join("real");
        std::fs::create_dir(&real).expect("directory");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&real, &link).expect("link");
        for (named, other) in [(&real, &link), (&link, &real)] {
            let pattern = format!("{}/cache", other.display());
            assert_eq!(left_out(&[&pattern], named.to_str().expect("text"), "", &["cache"]), ["cache"]);
        }
    }

    #[test]
    fn only_absolute_patterns_that_the_parent_lacks_are_new() {
        let patterns = ["/no/such/a", "/no/such/b", "c"].map(str::to_owned);
        let excludes = Excludes::new(&patterns, Some(&patterns[1..2])).expect("patterns");
        let place = excludes.named(Place::default(), Path::new("/no/such"));
        let new = |name: &str| excludes.newly(&place, name.as_bytes(), false);
        assert_eq!((new("a"), new("b"), new("c"), new("d")), (Some("/no/such/a"), None, None, None));
    }
}
