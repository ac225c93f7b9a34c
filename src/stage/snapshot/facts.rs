//! The named facts of a manifest's `extra`, each with the type that `docs/format.md` gives it.
//!
//! A fact that is missing was written by an older program, and one that can't be read by a newer one:
//! both are as if nothing were said. Programs that know nothing of them go on reading the manifest.

use bincode::{Decode, Encode};

use crate::base::wire;
use crate::stage::snapshot::Manifest;

/// Lines that the configured run wrote to its log before the manifest: UTF-8.
pub const LOG: &str = "log";
/// Name of the configuration that ran: UTF-8.
pub const RUN: &str = "run";
/// One byte: 1 if the run was one of all configured components or of all paths that were named, 0 if
/// it was one of some components or a stream by hand.
pub const NIGHT: &str = "night";
/// What each component leaves out: a list of [`ComponentRules`].
pub const RULES: &str = "rules";
/// Components that have suddenly lost most of what they had: a list of [`Suspect`].
pub const SUSPECTS: &str = "suspects";
/// Suspects that somebody has said to be right: a list of components' names.
pub const ACCEPTED: &str = "accepted";

/// What a component leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ComponentRules {
    /// Name of the component.
    pub component: String,
    /// Patterns as in `.gitignore`, in the order in which they were given.
    pub excludes: Vec<String>,
    /// Directories with a file of one of these names were stored empty.
    pub exclude_if_present: Vec<Vec<u8>>,
    /// Whether other file systems were not entered.
    pub one_file_system: bool,
}

/// A component that is not what its last whole snapshot lets expect.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Suspect {
    /// Name of the component.
    pub component: String,
    /// What speaks against it, in one line.
    pub reason: String,
}

impl Manifest {
    /// Returns the bytes of a fact.
    pub fn fact(&self, name: &str) -> Option<&[u8]> {
        self.extra.iter().find(|(own, _)| own == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// Sets a fact, in place of one of that name.
    pub fn set_fact(&mut self, name: &str, bytes: Vec<u8>) {
        self.extra.retain(|(own, _)| own != name);
        self.extra.push((name.to_owned(), bytes));
    }

    /// Returns the name of the configuration that ran; none for paths and streams by hand, and for
    /// manifests of before there were names.
    pub fn run_name(&self) -> Option<&str> {
        std::str::from_utf8(self.fact(RUN)?).ok().filter(|name| !name.is_empty())
    }

    /// Returns whether the manifest says that it is a night, as [`NIGHT`] has it; none if it says nothing.
    pub fn says_night(&self) -> Option<bool> {
        match self.fact(NIGHT)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    /// Returns what each component left out; none if the manifest does not say it.
    pub fn rules(&self) -> Option<Vec<ComponentRules>> {
        wire::decode(self.fact(RULES)?).ok()
    }

    /// Returns the components that were suspect when the snapshot was made, accepted or not.
    pub fn suspects(&self) -> Vec<Suspect> {
        self.fact(SUSPECTS).and_then(|bytes| wire::decode(bytes).ok()).unwrap_or_default()
    }

    /// Returns the names of components that somebody has accepted as they are.
    pub fn accepted(&self) -> Vec<String> {
        self.fact(ACCEPTED).and_then(|bytes| wire::decode(bytes).ok()).unwrap_or_default()
    }

    /// Returns why a component is suspect; none if it is not, or was accepted.
    pub fn suspicion(&self, component: &str) -> Option<String> {
        let suspect = self.suspects().into_iter().find(|suspect| suspect.component == component)?;
        let is_accepted = self.accepted().iter().any(|name| name == component);
        (!is_accepted).then_some(suspect.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_manifest_does_not_say_is_not_made_up() {
        let old = Manifest::default();
        assert_eq!((old.run_name(), old.says_night(), old.rules()), (None, None, None));
        assert_eq!((old.suspects(), old.accepted()), (Vec::new(), Vec::new()));
    }

    #[test]
    fn facts_of_a_newer_program_count_as_unsaid() {
        let mut newer = Manifest::default();
        newer.set_fact(NIGHT, vec![7]);
        newer.set_fact(RUN, vec![0xff]);
        newer.set_fact(RULES, vec![9; 3]);
        newer.set_fact(SUSPECTS, vec![9; 3]);
        assert_eq!((newer.run_name(), newer.says_night(), newer.rules()), (None, None, None));
        assert_eq!(newer.suspects(), Vec::new());
    }

    #[test]
    fn an_accepted_suspect_is_none() {
        let mut manifest = Manifest::default();
        let suspect = Suspect { component: "mail".to_owned(), reason: "empty".to_owned() };
        manifest.set_fact(SUSPECTS, wire::encode(&vec![suspect]).unwrap());
        assert_eq!(manifest.suspicion("mail").as_deref(), Some("empty"));
        assert_eq!(manifest.suspicion("mysql"), None);
        manifest.set_fact(ACCEPTED, wire::encode(&vec!["mail".to_owned()]).unwrap());
        assert_eq!(manifest.suspicion("mail"), None);
    }
}
