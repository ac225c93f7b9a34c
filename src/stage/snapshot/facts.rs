//! The named facts of a manifest's `extra`, each with the type that `docs/format.md` gives it.
//!
//! A fact that is missing was written by an older program, and one that can't be read by a newer one:
//! both are as if nothing were said. Programs that know nothing of them go on reading the manifest.

use bincode::{Decode, Encode};

use crate::base::id::SnapshotId;
use crate::base::time::Time;
use crate::base::wire;
use crate::stage::snapshot::{Component, Manifest, Status};

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
/// When the snapshot was made by the clock, whatever time it was given: a [`Time`].
pub const MADE: &str = "made";

/// Proof that the repository's `config` was this one: 32 bytes, keyed BLAKE3 of its bytes.
pub const CONFIG: &str = "config";

/// What snapshots are ordered by: their time; of those with the same time, when they were made. Those that do not say
/// it are older; among them the one that took longer counts as later, as it ended later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    time: Time,
    made: Option<Time>,
    duration_ms: u64,
    id: SnapshotId,
}
/// Names of the users and groups that access lists name by number: a [`ListNames`].
pub const LIST_NAMES: &str = "list-names";

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

/// What the machine called those whom access lists name by number alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ListNames {
    /// Users: number and name, by ascending number; none without a name.
    pub users: Vec<(u32, Vec<u8>)>,
    /// Groups, as users.
    pub groups: Vec<(u32, Vec<u8>)>,
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

    /// Returns the place of the snapshot `id`, whose manifest this is, among others: everything that orders snapshots
    /// orders them so.
    pub fn order(&self, id: SnapshotId) -> Order {
        Order { time: self.time, made: self.made(), duration_ms: self.duration_ms, id }
    }

    /// Returns when the snapshot was made by the clock; none for manifests of older programs.
    pub fn made(&self) -> Option<Time> {
        let made: Time = wire::decode(self.fact(MADE)?).ok()?;
        (made.nanos < 1_000_000_000).then_some(made)
    }

    /// Returns the proof of the `config` that the snapshot was made with; none for manifests of older programs.
    pub fn config_proof(&self) -> Option<[u8; 32]> {
        self.fact(CONFIG)?.try_into().ok()
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

    /// Returns the names of those whom access lists name.
    pub fn list_names(&self) -> ListNames {
        self.fact(LIST_NAMES).and_then(|bytes| wire::decode(bytes).ok()).unwrap_or_default()
    }

    /// Returns why a component is suspect; none if it is not, or was accepted.
    pub fn suspicion(&self, component: &str) -> Option<String> {
        let suspect = self.suspects().into_iter().find(|suspect| suspect.component == component)?;
        let is_accepted = self.accepted().iter().any(|name| name == component);
        (!is_accepted).then_some(suspect.reason)
    }

    /// Returns whether a component of this snapshot is whole: all of it is there, and it is not suspect.
    pub fn is_whole(&self, component: &Component) -> bool {
        component.status == Status::Complete && self.suspicion(&component.name).is_none()
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
        newer.set_fact(MADE, vec![9; 3]);
        assert_eq!(newer.made(), None);
        newer.set_fact(LIST_NAMES, vec![9; 3]);
        assert_eq!(newer.list_names(), ListNames::default());
        assert_eq!((newer.run_name(), newer.says_night(), newer.rules()), (None, None, None));
        assert_eq!(newer.suspects(), Vec::new());
    }

    #[test]
    fn snapshots_of_one_time_are_in_the_order_in_which_they_were_made() {
        let id = |digit| SnapshotId::from_bytes([digit; 32]);
        let made = |seconds| {
            let mut manifest = Manifest { time: Time::new(100, 0), ..Manifest::default() };
            manifest.set_fact(MADE, wire::encode(&Time::new(seconds, 0)).unwrap());
            manifest
        };
        assert!(made(5).order(id(9)) < made(6).order(id(1)), "whatever their ids are");
        let old = |duration_ms| Manifest { time: Time::new(100, 0), duration_ms, ..Manifest::default() };
        assert!(old(2000).order(id(9)) < made(5).order(id(1)), "an older program made it");
        assert!(old(1000).order(id(9)) < old(2000).order(id(1)));
        assert!(old(1000).order(id(1)) < old(1000).order(id(9)));
        let later = Manifest { time: Time::new(101, 0), ..Manifest::default() };
        assert!(made(500).order(id(9)) < later.order(id(1)), "the time that was given comes first");
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
