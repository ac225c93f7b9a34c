//! Path of a folder's directory below the mailbox's → the folder's name as IMAP shows it.
//!
//! Maildir++ has `.Sent.2024` for `Sent.2024`; `LAYOUT=fs` has `Sent/2024` for `Sent/2024`. Names are modified UTF-7 on disk
//! in both (RFC 3501, 5.1.3), unless somebody made the server write UTF-8.

use base64_simd::STANDARD_NO_PAD;

use crate::base::entry::quoted;
use crate::stage::message::clean;

/// What the folder is called whose directory is the mailbox's own.
pub const INBOX: &str = "INBOX";

/// Returns the name of the folder at `path`, relative to the mailbox's directory. What is no modified UTF-7 is shown as it is,
/// without control characters. O(path).
pub fn shown(path: &[u8]) -> String {
    match path {
        b"" => INBOX.to_owned(),
        [b'.', rest @ ..] if !rest.contains(&b'/') => joined(rest, b'.', "."),
        path => joined(path, b'/', "/"),
    }
}

fn joined(path: &[u8], separator: u8, shown: &str) -> String {
    let names = path.split(|byte| *byte == separator);
    names.map(|name| decoded(name).unwrap_or_else(|| clean(&quoted(name)))).collect::<Vec<_>>().join(shown)
}

/// Decodes modified UTF-7; none if it is something else.
fn decoded(name: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(name).ok().filter(|text| text.is_ascii())?;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, coded)) = rest.split_once('&') {
        out.push_str(plain);
        let (coded, after) = coded.split_once('-')?;
        match coded {
            "" => out.push('&'),
            coded => out.push_str(&utf16(coded)?),
        }
        rest = after;
    }
    out.push_str(rest);
    Some(clean(&out))
}

fn utf16(coded: &str) -> Option<String> {
    let bytes = STANDARD_NO_PAD.decode_to_vec(coded.replace(',', "/")).ok()?;
    let units = bytes.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    char::decode_utf16(units).collect::<Result<String, _>>().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn folders_have_the_names_that_imap_shows() {
        let cases: [(&[u8], &str); 9] = [
            (b"", "INBOX"),
            (b".Sent", "Sent"),
            (b".Sent.2024", "Sent.2024"),
            (b"Sent/2024", "Sent/2024"),
            (b".Entw&APw-rfe", "Entwürfe"),
            (b"Entw&APw-rfe/A&-B", "Entwürfe/A&B"),
            (b".&ZeVnLIqe-", "日本語"),
            (b".&2D3eAA-", "😀"),
            (b".INBOX.Old", "INBOX.Old"),
        ];
        for (path, name) in cases {
            assert_eq!(shown(path), name);
        }
    }

    #[test]
    fn what_is_no_modified_utf_7_is_shown_as_it_is() {
        for (path, name) in [
            (&b".Entw\xc3\xbcrfe"[..], "Entwürfe"),
            (b".a&b", "a&b"),
            (b".&2D0-", "&2D0-"),
            (b".&AAA-\x1b", "  "),
            (b".\xff", "\\xff"),
        ] {
            assert!(shown(path).ends_with(name), "{path:?}: {}", shown(path));
            assert!(!shown(path).contains(char::is_control));
        }
    }

    proptest! {
        #[test]
        fn any_path_has_a_name_without_control_characters(path in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(!shown(&path).contains(char::is_control));
        }

        #[test]
        fn what_imap_would_write_reads_back(name in "[^&./\\p{C}\\p{Zl}\\p{Zp}]{1,30}") {
            let mut coded = String::from(".");
            for c in name.chars() {
                if c.is_ascii() {
                    coded.push(c);
                    continue;
                }
                let mut units = [0; 2];
                let bytes: Vec<u8> = c.encode_utf16(&mut units).iter().flat_map(|unit| unit.to_be_bytes()).collect();
                let base64 = STANDARD_NO_PAD.encode_to_string(bytes).replace('/', ",");
                coded.push_str(&format!("&{base64}-"));
            }
            prop_assert_eq!(shown(coded.as_bytes()), clean(&name));
        }
    }
}
