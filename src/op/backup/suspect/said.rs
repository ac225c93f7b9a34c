//! What speaks against a component that is suspect, and how it is said.

use std::fmt;

use crate::base::entry::quoted;
use crate::base::id::SnapshotId;
use crate::base::time::Time;
use crate::base::units::{number, show_bytes};
use crate::op::backup::suspect::Amount;
use crate::stage::snapshot::facts::{ComponentRules, Suspect};

/// What speaks against a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// There is nothing where there was so much.
    Nothing {
        /// Whether these were messages alone.
        is_mail: bool,
        /// What there was.
        had: Amount,
    },
    /// Too few files are left, or too few bytes of them.
    Less {
        /// Whether these are messages alone.
        is_mail: bool,
        /// What is still there.
        kept: Amount,
        /// What there was.
        had: Amount,
    },
    /// So many messages have other content under their own names.
    Rewritten(u64),
    /// A stream is much shorter, or not there.
    Stream {
        /// Its name.
        name: Vec<u8>,
        /// Its length in bytes; none if nobody asks for it any more.
        now: Option<u64>,
        /// What it was.
        was: u64,
    },
}

/// A component that is suspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspected {
    /// Its name.
    pub component: String,
    /// What of its paths or patterns has changed since; none if nothing has.
    pub changed: Option<String>,
    /// What speaks against it; one at least.
    pub findings: Vec<Finding>,
    /// The snapshot that it was compared with.
    pub last_whole: SnapshotId,
    /// That one's time.
    pub last_whole_time: Time,
    /// Whether somebody has said that it is right as it is.
    pub is_accepted: bool,
}

impl Suspected {
    /// Returns what is to be said of it, line by line: a change of its paths or patterns first.
    pub fn lines(&self) -> Vec<String> {
        self.changed.iter().cloned().chain(self.findings.iter().map(ToString::to_string)).collect()
    }

    /// Returns what the manifest says of it.
    pub fn fact(&self) -> Suspect {
        Suspect { component: self.component.clone(), reason: self.lines().join("; ") }
    }
}

fn noun(is_mail: bool, count: u64) -> &'static str {
    match (is_mail, count) {
        (true, 1) => "message",
        (true, _) => "messages",
        (false, 1) => "file",
        (false, _) => "files",
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = |amount: &Amount, is_mail| {
            format!("{} {}, {}", number(amount.files), noun(is_mail, amount.files), show_bytes(amount.bytes))
        };
        match self {
            Self::Nothing { is_mail, had } => {
                let what = if *is_mail { "no message is" } else { "nothing is" };
                write!(f, "{what} there, where there were {}", amount(had, *is_mail))
            }
            Self::Less { is_mail, kept, had } => {
                let (had, kept) = (amount(had, *is_mail), amount(kept, *is_mail));
                write!(f, "of {had}, only {kept} are still there under any name")
            }
            Self::Rewritten(count) => {
                let count = number(*count);
                write!(
                    f,
                    "{count} messages have other content under their own names: is something enciphering the mail?"
                )
            }
            Self::Stream { name, now, was } => {
                let (name, was) = (quoted(name), show_bytes(*was));
                match now {
                    Some(now) => write!(f, "{name}: {}, where there were {was}", show_bytes(*now)),
                    None => write!(f, "{name}: is not asked for any more; there were {was}"),
                }
            }
        }
    }
}

/// Returns what has changed of a component's sources and rules, the old and the new ones; none if nothing has.
/// Where `rules` is none the old ones are not known.
pub fn changed(
    old: &[Vec<u8>],
    new: &[Vec<u8>],
    rules: Option<&(ComponentRules, ComponentRules)>,
) -> Option<String> {
    let mut said = Vec::new();
    said.extend(difference(old, new).map(|what| format!("its sources have changed: {what}")));
    if let Some((old, new)) = rules {
        let what = difference(&old.excludes, &new.excludes);
        said.extend(what.map(|what| format!("its patterns have changed: {what}")));
        let what = difference(&old.exclude_if_present, &new.exclude_if_present);
        said.extend(what.map(|what| format!("names that leave a directory out have changed: {what}")));
        let turned = (old.one_file_system != new.one_file_system).then_some(match new.one_file_system {
            true => "other file systems are not entered any more",
            false => "other file systems are entered now",
        });
        said.extend(turned.map(str::to_owned));
    }
    (!said.is_empty()).then(|| format!("the configuration has changed since then: {}", said.join("; ")))
}

fn difference<T: AsRef<[u8]> + PartialEq>(old: &[T], new: &[T]) -> Option<String> {
    let only = |all: &[T], other: &[T]| {
        all.iter().filter(|it| !other.contains(it)).map(|it| quoted(it.as_ref())).collect::<Vec<_>>()
    };
    let (gone, come) = (only(old, new), only(new, old));
    let mut parts = Vec::new();
    parts.extend((!come.is_empty()).then(|| format!("now also {}", come.join(", "))));
    parts.extend((!gone.is_empty()).then(|| format!("no longer {}", gone.join(", "))));
    match (parts.is_empty(), old == new) {
        (false, _) => Some(parts.join(", ")),
        (true, false) => Some("their order".to_owned()),
        (true, true) => None,
    }
}
