//! Passphrases as they are typed, stored in files and printed by commands → the text that keys are derived from.
//!
//! The same words come with a line's end or without, with a byte order mark, and with letters composed in another
//! way: one keyboard gives `é` as one character, another as two. The composed form (Unicode NFC) counts.

use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// Shortest passphrase that is taken for a new key, in characters.
pub const PASSPHRASE_CHARS_MIN: usize = 8;

/// What some editors put at the beginning of a file.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A passphrase. Wiped when dropped.
pub type Passphrase = Zeroizing<String>;

/// Composing makes a text at most so many times longer (Unicode Standard Annex 15, table 3: UTF-8, NFC).
const GROWTH_MAX: usize = 3;

/// Returns the text in composed form.
fn composed(text: &str) -> Passphrase {
    // All at once: a string that grows leaves what it held before in memory.
    let mut out = Zeroizing::new(String::with_capacity(text.len() * GROWTH_MAX));
    out.extend(text.nfc());
    out
}

/// Takes off what nobody means to be a part of a passphrase: a byte order mark, and one line's end.
fn bare(given: &str) -> &str {
    let given = given.strip_prefix(BYTE_ORDER_MARK).unwrap_or(given);
    given.strip_suffix("\r\n").or_else(|| given.strip_suffix('\n')).unwrap_or(given)
}

/// Returns what a passphrase that was given may stand for, what is likeliest first: bare and composed; bare; as it
/// was given, for a key may have been made of just that. Mostly these are one.
pub fn forms(given: &Passphrase) -> Vec<Passphrase> {
    let bare = bare(given);
    let mut forms = vec![composed(bare)];
    for form in [bare, given.as_str()] {
        if forms.iter().all(|known| known.as_str() != form) {
            forms.push(Zeroizing::new(form.to_owned()));
        }
    }
    forms
}

/// Returns what a new key is derived from, if the passphrase can be typed again on any keyboard and is long enough.
///
/// # Errors
/// Why it is not taken.
pub fn fit_for_new(given: &Passphrase) -> Result<Passphrase, String> {
    let passphrase = composed(bare(given));
    if passphrase.chars().any(|c| c.is_control() || c == BYTE_ORDER_MARK) {
        let what = "it holds a control character, such as a tab or a second line, which no prompt takes; leave it out";
        return Err(what.to_owned());
    }
    if passphrase.starts_with(char::is_whitespace) || passphrase.ends_with(char::is_whitespace) {
        return Err("it begins or ends with a blank, which gets lost too easily; leave it out".to_owned());
    }
    match passphrase.chars().count() >= PASSPHRASE_CHARS_MIN {
        true => Ok(passphrase),
        false => Err(format!("too short: {PASSPHRASE_CHARS_MIN} characters at least")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn given(text: &str) -> Passphrase {
        Zeroizing::new(text.to_owned())
    }

    fn texts(text: &str) -> Vec<String> {
        forms(&given(text)).iter().map(|form| form.to_string()).collect()
    }

    #[test]
    fn a_line_end_and_a_byte_order_mark_are_taken_off_and_what_was_given_is_tried_too() {
        assert_eq!(texts("correct horse"), ["correct horse"]);
        assert_eq!(texts("correct horse\n"), ["correct horse", "correct horse\n"]);
        assert_eq!(texts("\u{feff}correct horse\r\n"), ["correct horse", "\u{feff}correct horse\r\n"]);
        assert_eq!(texts("two\n\n"), ["two\n", "two\n\n"], "one line's end");
        assert_eq!(texts(" blanks "), [" blanks "], "an old key may have been made of them");
    }

    #[test]
    fn letters_are_composed_and_what_was_given_is_tried_too() {
        assert_eq!(texts("caf\u{e9}"), ["caf\u{e9}"]);
        assert_eq!(texts("cafe\u{301}"), ["caf\u{e9}", "cafe\u{301}"]);
    }

    #[test]
    fn a_new_passphrase_can_be_typed_again() {
        assert_eq!(fit_for_new(&given("cafe\u{301} noir\n")).unwrap().as_str(), "caf\u{e9} noir");
        for (bad, why) in [
            ("correct\thorse", "control character"),
            ("correct\nhorse\n", "control character"),
            ("correct horse\r", "control character"),
            ("correct\u{7f}horse", "control character"),
            ("correct\u{9b}horse", "control character"),
            (" correct horse", "blank"),
            ("correct horse\u{3000}", "blank"),
            ("cafe\u{301}caf", "too short"),
            ("\u{feff}", "too short"),
            ("\u{feff}\u{feff}correct horse", "control character"),
        ] {
            assert!(fit_for_new(&given(bad)).unwrap_err().contains(why), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_new_key_is_made_of_is_tried_first_however_it_is_given(text in any::<String>()) {
            if let Ok(new) = fit_for_new(&given(&text)) {
                prop_assert_eq!(&forms(&given(&text))[0], &new);
                prop_assert_eq!(&forms(&new), std::slice::from_ref(&new), "given as it is kept");
                prop_assert!(new.capacity() <= text.len() * GROWTH_MAX, "it never had to grow");
            }
        }
    }
}
