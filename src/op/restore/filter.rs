//! `--include` and `--exclude` of a restore: which entries are wanted.
//!
//! Each path is held against the patterns once, whatever its depth: what the patterns say of the directories above it
//! is handed down.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ignore::Match;
use ignore::gitignore::Gitignore;

use crate::base::patterns::matcher;
use crate::op::restore::Request;
use crate::repo::RepoError;

/// Which entries are wanted.
pub struct Filter {
    include: Option<Gitignore>,
    exclude: Gitignore,
    /// Each pattern of `include` alone, and whether it has matched anything so far.
    met: Vec<(String, Gitignore, AtomicBool)>,
}

/// What the patterns say of a directory, those above it taken into account: it holds for all in it that they do not
/// name themselves. By default: of the place where a restore begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Within {
    is_included: bool,
    /// Numbers of the patterns that match it or a directory above, and have matched nothing that is wanted.
    matching: Box<[u32]>,
}

/// What the patterns say of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whether it is wanted itself.
    pub is_chosen: bool,
    /// Whether something below it may be.
    pub is_above: bool,
    /// What holds for what is in it.
    pub within: Within,
}

impl Filter {
    /// Takes the patterns of a request.
    ///
    /// # Errors
    /// [`RepoError::Source`] for one that can't be read.
    pub fn new(request: &Request<'_>) -> Result<Self, RepoError> {
        let include = (!request.include.is_empty()).then(|| patterns(&request.include)).transpose()?;
        let alone = |line: &String| Ok((line.clone(), patterns([line])?, AtomicBool::new(false)));
        let met = request.include.iter().map(alone).collect::<Result<_, RepoError>>()?;
        Ok(Self { include, exclude: patterns(&request.exclude)?, met })
    }

    /// Returns whether everything is wanted.
    pub fn is_for_all(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    /// Judges an entry that lies in a directory of which `above` holds. `path` is its path below the target; it is not
    /// looked at where everything is wanted.
    pub fn judge(&self, path: &[u8], is_directory: bool, above: &Within) -> Wanted {
        let path = Path::new(OsStr::from_bytes(path));
        if !self.exclude.is_empty() && matched(&self.exclude, path, is_directory).is_ignore() {
            return Wanted { is_chosen: false, is_above: false, within: Within::default() };
        }
        let Some(include) = &self.include else {
            return Wanted { is_chosen: true, is_above: true, within: Within::default() };
        };
        let is_included = match matched(include, path, is_directory) {
            Match::None => above.is_included,
            found => found.is_ignore(),
        };
        // A directory that a pattern matches is wanted, and the pattern met; but for what another one takes back.
        let matching = match is_directory && include.num_whitelists() > 0 {
            true => self.matching(path, true, above).collect(),
            false => Box::default(),
        };
        let within = Within { is_included, matching };
        Wanted { is_chosen: is_included, is_above: is_included || is_directory, within }
    }

    /// Notes that there is an entry which is wanted, in a directory of which `above` holds.
    pub fn meet(&self, path: &[u8], is_directory: bool, above: &Within) {
        let path = Path::new(OsStr::from_bytes(path));
        for number in self.matching(path, is_directory, above) {
            if let Some((_, _, is_met)) = self.met.get(number as usize) {
                is_met.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Returns the numbers of the patterns that match an entry or a directory above it, and have matched nothing so far.
    fn matching<'m>(
        &'m self,
        path: &'m Path,
        is_directory: bool,
        above: &'m Within,
    ) -> impl Iterator<Item = u32> + 'm {
        let numbered = (0u32..).zip(&self.met).filter(|(_, (_, _, is_met))| !is_met.load(Ordering::Relaxed));
        let matching = numbered.filter(move |(number, (_, pattern, _))| {
            above.matching.contains(number) || !matched(pattern, path, is_directory).is_none()
        });
        matching.map(|(number, _)| number)
    }

    /// Returns the patterns that match nothing of what is wanted.
    pub fn unmatched(&self) -> Vec<String> {
        let unmet = self.met.iter().filter(|(_, _, is_met)| !is_met.load(Ordering::Relaxed));
        unmet.map(|(pattern, ..)| pattern.clone()).collect()
    }
}

/// Returns what matches any of the patterns.
///
/// # Errors
/// [`RepoError::Source`] for one that can't be read.
pub fn patterns<P: AsRef<str>>(lines: impl IntoIterator<Item = P>) -> Result<Gitignore, RepoError> {
    let unreadable = |e: crate::base::patterns::PatternError| RepoError::Source {
        path: format!("pattern {:?}", e.pattern),
        reason: e.reason,
    };
    matcher(lines).map_err(unreadable)
}

/// Holds a path against patterns, and none of the directories above it.
fn matched<'m>(
    patterns: &'m Gitignore,
    path: &Path,
    is_directory: bool,
) -> Match<&'m ignore::gitignore::Glob> {
    #[cfg(test)]
    tests::HELD.with(|held| held.set(held.get() + 1));
    patterns.matched(path, is_directory)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Paths that were held against patterns.
        pub static HELD: Cell<u64> = const { Cell::new(0) };
    }

    fn filter(include: &[&str], exclude: &[&str]) -> Filter {
        let alone = |line: &&str| ((*line).to_owned(), patterns([line]).unwrap(), AtomicBool::new(false));
        Filter {
            include: (!include.is_empty()).then(|| patterns(include).unwrap()),
            exclude: patterns(exclude).unwrap(),
            met: include.iter().map(alone).collect(),
        }
    }

    /// Judges all prefixes of a path, as a walk does; returns what is said of the last one, if the walk gets there.
    fn walk(filter: &Filter, path: &str, is_directory: bool) -> Option<Wanted> {
        let mut within = Within::default();
        let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        for end in ends {
            let above = &path.as_bytes()[..end];
            let wanted = filter.judge(above, true, &within);
            if wanted.is_chosen {
                filter.meet(above, true, &within);
            }
            within = Some(wanted).filter(|wanted| wanted.is_above)?.within;
        }
        let wanted = filter.judge(path.as_bytes(), is_directory, &within);
        if wanted.is_chosen {
            filter.meet(path.as_bytes(), is_directory, &within);
        }
        Some(wanted)
    }

    #[test]
    fn a_directory_below_4096_others_is_held_against_the_patterns_as_often_as_one_at_the_top() {
        const DEPTH: u64 = 4096;
        let filter = filter(&["cur", "/etc/**/x", "!tmp/"], &["*.lock"]);
        let path = vec!["d"; DEPTH as usize].join("/");
        let held = HELD.with(Cell::get);
        let wanted = walk(&filter, &path, true).unwrap();
        assert!(!wanted.is_chosen && wanted.is_above);
        assert_eq!(HELD.with(Cell::get) - held, 5 * DEPTH, "both lists, and each of three patterns");
        assert_eq!(filter.unmatched().len(), 3);
    }

    #[test]
    fn what_is_handed_down_is_what_a_look_at_all_directories_above_would_say() {
        let names = ["a", "b", "cur", "x.eml"];
        let lists: [&[&str]; 8] = [
            &["a"],
            &["/a", "!cur"],
            &["cur/", "!/a/b"],
            &["!a", "b"],
            &["a/b/**", "x.eml"],
            &["*", "!b/", "x.eml"],
            &["/a/b", "!x.eml", "cur"],
            &["b", "!b", "cur/x.eml"],
        ];
        for include in lists {
            let (whole, walked) = (patterns(include).unwrap(), filter(include, &[]));
            let alone: Vec<_> = include.iter().map(|line| patterns([line]).unwrap()).collect();
            let mut unmet: Vec<bool> = vec![true; include.len()];
            for number in 0..4usize.pow(4) {
                let path: Vec<&str> = (0..4).map(|place| names[number / 4usize.pow(place) % 4]).collect();
                for depth in 1..=4 {
                    let path = path[..depth].join("/");
                    let is_directory = depth < 4;
                    let is_chosen = whole.matched_path_or_any_parents(&path, is_directory).is_ignore();
                    let said = walk(&walked, &path, is_directory).unwrap();
                    assert_eq!(said.is_chosen, is_chosen, "{include:?} {path}");
                    for (pattern, unmet) in alone.iter().zip(&mut unmet) {
                        *unmet &=
                            !is_chosen || pattern.matched_path_or_any_parents(&path, is_directory).is_none();
                    }
                    let unmatched = include.iter().zip(&unmet).filter(|(_, unmet)| **unmet);
                    let unmatched: Vec<_> = unmatched.map(|(line, _)| (*line).to_owned()).collect();
                    assert_eq!(walked.unmatched(), unmatched, "{include:?} {path}");
                }
            }
        }
    }
}
