//! File name of a message in a Maildir → its unique part, flags, and what else a server wrote into it.
//!
//! `1738000000.M700104P20016.mx1,S=2034,W=2076:2,FSab`: the base, which stays for ever and goes along when the message is moved
//! or copied; then flags in capital letters and keywords in small ones. Source: <https://cr.yp.to/proto/maildir.html>, and
//! Dovecot's `maildir-filename.c`.

/// Flags (capital letters) and keywords (small letters) of a message, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Letters(u64);

impl Letters {
    /// Reads letters; passes over whatever else there is.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(0, |bits, byte| bits | bit(*byte)))
    }

    /// Returns whether a letter is among them.
    pub fn has(self, letter: u8) -> bool {
        self.0 & bit(letter) != 0
    }

    /// Returns those that are not among others.
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Returns whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the letters, capitals first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (b'A'..=b'Z').chain(b'a'..=b'z').filter(move |letter| self.has(*letter))
    }
}

fn bit(letter: u8) -> u64 {
    match letter {
        b'A'..=b'Z' => 1 << (letter - b'A'),
        b'a'..=b'z' => 1 << (26 + letter - b'a'),
        _ => 0,
    }
}

/// Letters of flags, and what IMAP calls them.
pub const FLAGS: [(u8, &str); 6] = [
    (b'D', "\\Draft"),
    (b'F', "\\Flagged"),
    (b'P', "$Forwarded"),
    (b'R', "\\Answered"),
    (b'S', "\\Seen"),
    (b'T', "\\Deleted"),
];

/// Returns the letter of a flag that is named as IMAP does, with or without what is before the word, in whatever case.
pub fn flag_letter(word: &str) -> Option<u8> {
    let plain = |word: &str| word.trim_start_matches(['\\', '$']).to_ascii_lowercase();
    FLAGS.iter().find(|(_, name)| plain(name) == plain(word)).map(|(letter, _)| *letter)
}

/// What a file's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'n> {
    /// All before the flags: it stays when flags change, and when the message is moved or copied.
    pub base: &'n [u8],
    /// Flags and keywords.
    pub letters: Letters,
    /// `S=`: length of the message in bytes, as it was before it was compressed or enciphered. Whoever wrote the name may lie.
    pub bytes: Option<u64>,
    /// `W=`: the same with each line's end as two bytes.
    pub wire_bytes: Option<u64>,
    /// When it was delivered, in seconds since 1970; none if the name does not begin with that.
    pub delivered: Option<i64>,
}

/// Reads a name. Whatever bytes there are have a meaning: a name without flags is all base. O(name).
pub fn parse(name: &[u8]) -> Name<'_> {
    let flags_at = name.windows(2).rposition(|two| two == b":2").filter(|at| {
        let rest = &name[at + 2..];
        rest.is_empty() || rest.starts_with(b",")
    });
    let (base, letters) = match flags_at {
        Some(at) => (&name[..at], Letters::new(name.get(at + 3..).unwrap_or_default())),
        None => (name, Letters::default()),
    };
    let field = |key: &[u8]| {
        let mut fields = base.split(|byte| *byte == b',').skip(1);
        fields.find_map(|field| number(field.strip_prefix(key)?))
    };
    let delivered = base.split(|byte| *byte == b'.').next().filter(|first| first.len() < base.len());
    Name {
        base,
        letters,
        bytes: field(b"S="),
        wire_bytes: field(b"W="),
        delivered: delivered.and_then(number).and_then(|seconds| i64::try_from(seconds).ok()),
    }
}

/// Reads digits alone; none for an empty text, or a number that does not fit.
fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

/// Returns a number for a message that is the same in each night, for people to say which they mean: twelve hex digits of the
/// hash of its mailbox and its base.
pub fn handle(user: &str, base: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(user.as_bytes()).update(&[0]).update(base);
    hasher.finalize().to_hex().chars().take(HANDLE_DIGITS).collect()
}

/// Digits of a [`handle`].
pub const HANDLE_DIGITS: usize = 12;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_says_base_flags_lengths_and_time() {
        let name = parse(b"1738000000.M700104P20016.mx1,S=2034,W=2076:2,FSab");
        assert_eq!(name.base, b"1738000000.M700104P20016.mx1,S=2034,W=2076");
        assert_eq!(name.letters.iter().collect::<Vec<_>>(), b"FSab");
        let numbers = (name.bytes, name.wire_bytes, name.delivered);
        assert_eq!(numbers, (Some(2034), Some(2076), Some(1_738_000_000)));
    }

    #[test]
    fn a_new_message_has_no_flags() {
        let name = parse(b"1738000000.P1.mx1");
        assert_eq!((name.base, name.letters.is_empty(), name.bytes), (&b"1738000000.P1.mx1"[..], true, None));
        assert_eq!(parse(b"1.P1.mx1:2,").base, b"1.P1.mx1");
        assert_eq!(parse(b"1.P1.mx1:2").base, b"1.P1.mx1");
    }

    #[test]
    fn names_that_lie_say_nothing() {
        let name = parse(b"99999999999999999999999.x,S=99999999999999999999999,W=-1,S=+5:2,\x1b\xff");
        assert_eq!((name.bytes, name.wire_bytes, name.delivered), (None, None, None));
        assert!(name.letters.is_empty());
        assert_eq!(parse(b"1738000000").delivered, None);
    }

    #[test]
    fn flags_go_by_any_common_way_to_write_them() {
        for word in ["\\Seen", "seen", "SEEN"] {
            assert_eq!(flag_letter(word), Some(b'S'), "{word}");
        }
        assert_eq!((flag_letter("$forwarded"), flag_letter("recent")), (Some(b'P'), None));
    }

    proptest! {
        #[test]
        fn any_name_of_255_bytes_is_read(name in prop::collection::vec(any::<u8>(), 0..=255)) {
            let read = parse(&name);
            prop_assert!(name.starts_with(read.base));
            prop_assert!(read.letters.iter().all(|letter| letter.is_ascii_alphabetic()));
        }

        #[test]
        fn flags_never_change_the_base(base in "[0-9]{1,10}\\.[a-zA-Z0-9,=.]{1,60}", flags in "[A-Za-z]{0,20}") {
            let name = format!("{base}:2,{flags}");
            let read = parse(name.as_bytes());
            prop_assert_eq!(read.base, base.as_bytes());
            prop_assert_eq!(read.letters, Letters::new(flags.as_bytes()));
        }
    }
}
