//! `dovecot-keywords` of a folder → what the small letters in names of messages mean there.
//!
//! A line each: number, a space, the keyword's name; number 0 is the letter `a`.

use crate::stage::message::clean;
use crate::stage::message::name::{FLAGS, Letters};

/// Longest list that is read, in bytes: 26 names, each far longer than a server takes.
pub const LIST_BYTES_MAX: u64 = 64 << 10;

/// Longest name, in characters, that is shown.
const NAME_CHARS_MAX: usize = 200;

/// What the letters of a folder mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keywords([Option<String>; 26]);

impl Keywords {
    /// Reads a list; passes over lines that say nothing, and of two for one letter takes the first, as Dovecot does. O(bytes).
    pub fn parse(list: &[u8]) -> Self {
        let list = &list[..list.len().min(usize::try_from(LIST_BYTES_MAX).unwrap_or(usize::MAX))];
        let mut names: [Option<String>; 26] = Default::default();
        for line in list.split(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            let Some((number, name)) = line.trim_end_matches('\r').split_once(' ') else { continue };
            let slot = number.parse::<usize>().ok().and_then(|number| names.get_mut(number));
            if let Some(slot @ None) = slot
                && !name.is_empty()
            {
                *slot = Some(clean(name).chars().take(NAME_CHARS_MAX).collect());
            }
        }
        Self(names)
    }

    /// Returns the name of a keyword's letter, if the list has it.
    pub fn name(&self, letter: u8) -> Option<&str> {
        self.0.get(usize::from(letter.checked_sub(b'a')?))?.as_deref()
    }

    /// Returns the names of flags and keywords; a letter that the list does not have as `keyword a`.
    pub fn names(&self, letters: Letters) -> Vec<String> {
        let one = |letter: u8| {
            let flag = FLAGS.iter().find(|(flag, _)| *flag == letter).map(|(_, name)| *name);
            let known = flag.or_else(|| self.name(letter)).map(str::to_owned);
            let what = if letter.is_ascii_lowercase() { "keyword" } else { "flag" };
            known.unwrap_or_else(|| format!("{what} {}", char::from(letter)))
        };
        letters.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn letters_have_names() {
        let keywords = Keywords::parse(b"0 $Forwarded\n1 NonJunk\n25 last\n");
        let names = keywords.names(Letters::new(b"FSabcz"));
        assert_eq!(names, ["\\Flagged", "\\Seen", "$Forwarded", "NonJunk", "keyword c", "last"]);
    }

    #[test]
    fn lists_that_lie_are_passed_over() {
        let list =
            b"0 first\n0 second\n26 none\n-1 x\n99999999999999999999 x\n3\n4 \n\xff\xfe 1\n5 a\x1b[2Jb\r\n";
        let keywords = Keywords::parse(list);
        assert_eq!((keywords.name(b'a'), keywords.name(b'f')), (Some("first"), Some("a [2Jb")));
        assert_eq!((keywords.name(b'e'), keywords.name(b'A'), keywords.name(b'{')), (None, None, None));
        let endless = [b"0 ".as_slice(), &vec![b'x'; 10 << 20]].concat();
        assert_eq!(Keywords::parse(&endless).name(b'a').map(str::len), Some(NAME_CHARS_MAX));
    }

    proptest! {
        #[test]
        fn hostile_lists_never_panic(list in prop::collection::vec(any::<u8>(), 0..2000)) {
            let keywords = Keywords::parse(&list);
            let all: Vec<u8> = (b'a'..=b'z').collect();
            prop_assert!(keywords.names(Letters::new(&all)).iter().all(|name| !name.contains(char::is_control)));
        }
    }
}
