//! Names and headers of messages, as mail servers write them: bytes → what they say. No I/O.
//!
//! All of it comes from strangers, who send mail, and from users, who name folders and keywords. So each part takes a bounded
//! time and memory, believes no length that it is told, and gives out no control character: see `clean`.

/// What a message's file is wrapped in, so that its text can't be seen as it lies there.
pub mod wrapping;

/// Path of a folder's directory ↔ the folder's name as IMAP shows it.
pub mod folder;

/// Header → its fields, decoded.
pub mod header;

/// `dovecot-keywords`: letters → names.
pub mod keywords;

/// Where mailboxes lie: `vmail/{domain}/{user}`.
pub mod layout;

/// File name of a message → what is in it.
pub mod name;

/// Message → its text, and its attachments by name.
pub mod body;

/// Returns text without what could deceive a terminal or a reader: control characters become spaces, and what turns the
/// direction of writing is shown as the replacement character.
pub fn clean(text: &str) -> String {
    text.chars().map(clean_char).collect()
}

fn clean_char(c: char) -> char {
    match c {
        '\u{2028}' | '\u{2029}' => ' ',
        '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            '\u{fffd}'
        }
        c if c.is_control() => ' ',
        c => c,
    }
}

/// Returns text as it is compared: in small letters, without regard to what [`clean`] takes out.
pub fn folded(text: &str) -> String {
    text.chars().map(clean_char).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deceives_a_terminal_is_taken_out() {
        let all: String = (0..0x180).filter_map(char::from_u32).collect();
        assert!(!clean(&all).contains(char::is_control));
        assert_eq!(clean("a\u{202e}gpj.exe\x1b[2J"), "a\u{fffd}gpj.exe [2J");
        assert_eq!(folded("ÄPFEL\tund"), "äpfel und");
    }
}
