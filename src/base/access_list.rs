//! POSIX access lists as Linux keeps them in extended attributes: whom they name, and the same with other numbers.
//!
//! A list is a version of four bytes, then entries of eight: tag and permissions as u16, a user's or group's number
//! as u32, all little-endian (`linux/posix_acl_xattr.h`).

/// The access list that says who may do what with an entry.
pub const ACCESS: &[u8] = b"system.posix_acl_access";

/// The access list that a directory hands on to what is made in it.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Bytes of the version.
const HEAD_BYTES: usize = 4;

/// Bytes of an entry.
const ENTRY_BYTES: usize = 8;

/// Tag of an entry for a user that is named.
const USER: u16 = 2;

/// Tag of an entry for a group that is named.
const GROUP: u16 = 8;

/// Whom an entry of a list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Named {
    /// A user, by number.
    User(u32),
    /// A group, by number.
    Group(u32),
}

/// Returns whether an extended attribute is an access list.
pub fn is_list(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// Returns whom a list names. Bytes that are no list name nobody.
pub fn named(list: &[u8]) -> impl Iterator<Item = Named> + '_ {
    let entries = list.get(HEAD_BYTES..).unwrap_or_default();
    entries.chunks_exact(ENTRY_BYTES).filter_map(named_by)
}

fn named_by(entry: &[u8]) -> Option<Named> {
    let tag = u16::from_le_bytes(*entry.first_chunk::<2>()?);
    let number = u32::from_le_bytes(*entry.last_chunk::<4>()?);
    match tag {
        USER => Some(Named::User(number)),
        GROUP => Some(Named::Group(number)),
        _ => None,
    }
}

/// Returns a list with other numbers for whom it names, those of one kind in ascending order. Bytes that are no list
/// stay as they are.
pub fn renumbered(list: &[u8], number: impl Fn(Named) -> u32) -> Vec<u8> {
    let Some((head, entries)) = list.split_at_checked(HEAD_BYTES) else { return list.to_vec() };
    if !entries.len().is_multiple_of(ENTRY_BYTES) {
        return list.to_vec();
    }
    let mut all: Vec<Vec<u8>> = entries.chunks_exact(ENTRY_BYTES).map(<[u8]>::to_vec).collect();
    for entry in &mut all {
        if let (Some(named), Some(bytes)) = (named_by(entry), entry.last_chunk_mut::<4>()) {
            *bytes = number(named).to_le_bytes();
        }
    }
    // Users stand together in a list, and so do groups: a stable order by both changes nothing else.
    for run in all.chunk_by_mut(|a, b| a.first_chunk::<2>() == b.first_chunk::<2>()) {
        run.sort_by_key(|entry| named_by(entry));
    }
    [head.to_vec(), all.concat()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 2: owner rwx, users 7 and 9, group r-x, group 8, mask, other.
    fn list(users: [u32; 2], group: u32) -> Vec<u8> {
        let entry = |tag: u16, may: u16, id: u32| {
            [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let none = u32::MAX;
        [
            2u32.to_le_bytes().to_vec(),
            entry(1, 7, none),
            entry(USER, 6, users[0]),
            entry(USER, 4, users[1]),
            entry(4, 5, none),
            entry(GROUP, 5, group),
            entry(16, 7, none),
            entry(32, 5, none),
        ]
        .concat()
    }

    #[test]
    fn those_whom_a_list_names_are_found_and_get_other_numbers() {
        let old = list([7, 9], 8);
        let found: Vec<Named> = named(&old).collect();
        assert_eq!(found, [Named::User(7), Named::User(9), Named::Group(8)]);
        let add = |named| match named {
            Named::User(number) => number + 100,
            Named::Group(number) => number + 200,
        };
        assert_eq!(renumbered(&old, add), list([107, 109], 208));
    }

    #[test]
    fn numbers_that_change_places_stay_in_ascending_order() {
        let swapped = renumbered(&list([7, 9], 8), |named| match named {
            Named::User(7) => 9,
            Named::User(_) => 7,
            Named::Group(number) => number,
        });
        let found: Vec<Named> = named(&swapped).collect();
        assert_eq!(found, [Named::User(7), Named::User(9), Named::Group(8)]);
        assert_eq!(swapped[HEAD_BYTES + ENTRY_BYTES + 2], 4, "each keeps what it may do");
    }

    #[test]
    fn what_is_no_list_stays_as_it_is() {
        for odd in [&b""[..], b"\x02", b"\x02\0\0\0", b"\x02\0\0\0\x02\0\x07\0\x01"] {
            assert_eq!(renumbered(odd, |_| 0), odd);
            assert_eq!(named(odd).count(), 0);
        }
    }
}
