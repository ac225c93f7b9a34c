//! Whom access lists name: numbers, for which the manifest keeps the names that this machine has.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::base::access_list::{Named, is_list, named};
use crate::stage::snapshot::facts::ListNames;

/// Users and groups in the access lists of a run's entries.
#[derive(Default)]
pub struct Listed(Mutex<BTreeSet<Named>>);

impl Listed {
    /// Notes whom the access lists among an entry's extended attributes name.
    pub fn note<'x>(&self, xattrs: impl Iterator<Item = (&'x [u8], &'x [u8])>) {
        for (_, list) in xattrs.filter(|(name, _)| is_list(name)) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(named(list));
        }
    }

    /// Returns the names of all that were noted. Who has no name here any more has the one that `known`, an earlier
    /// snapshot's, gives.
    pub fn names(&self, known: &ListNames) -> ListNames {
        let mut names = ListNames::default();
        for named in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let (name, number, earlier, names) = match *named {
                Named::User(uid) => {
                    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
                    (user.map(|user| user.name), uid, &known.users, &mut names.users)
                }
                Named::Group(gid) => {
                    let group = nix::unistd::Group::from_gid(gid.into()).ok().flatten();
                    (group.map(|group| group.name), gid, &known.groups, &mut names.groups)
                }
            };
            let earlier = || earlier.iter().find(|(own, _)| *own == number).map(|(_, name)| name.clone());
            names.extend(name.map(String::into_bytes).or_else(earlier).map(|name| (number, name)));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_gone_is_taken_from_the_snapshot_before() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()].concat();
        let list = [2u32.to_le_bytes().to_vec(), entry(2, 0), entry(2, 3_999_999_999)].concat();
        let listed = Listed::default();
        let xattrs = [(&b"system.posix_acl_access"[..], &list[..]), (b"user.other", &list)];
        listed.note(xattrs.into_iter());
        let known = ListNames { users: vec![(3_999_999_999, b"anna".to_vec())], groups: Vec::new() };
        let expected = vec![(0, b"root".to_vec()), (3_999_999_999, b"anna".to_vec())];
        assert_eq!(listed.names(&known).users, expected);
        assert_eq!(listed.names(&ListNames::default()).users, expected[..1]);
    }
}
