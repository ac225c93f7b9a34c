//! A message's header → its fields (RFC 5322), and their text (RFC 2047).

use std::borrow::Cow;

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;
use memchr::{memchr, memmem};

use crate::stage::message::clean;

/// Longest header that is looked at, in bytes; what is behind is not seen. That of a backup's header chunks.
pub const HEADER_BYTES_MAX: usize = 64 << 10;

/// Most fields that are looked at.
const FIELDS_MAX: usize = 4000;

/// Longest field whose text is decoded, in bytes; what is behind is left out. Decoding takes time that grows with its square
/// where somebody means harm.
const FIELD_BYTES_MAX: usize = 8 << 10;

/// A field of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'h> {
    /// Its name.
    pub name: &'h [u8],
    /// What is behind the colon, folded and coded as it is.
    pub raw: &'h [u8],
}

impl Field<'_> {
    /// Returns whether it is called so; case does not matter.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// Returns its text: unfolded, decoded, without control characters.
    pub fn text(&self) -> String {
        text(self.raw)
    }
}

/// Returns where the header ends, the empty line behind it included; none if it goes on behind `bytes`.
pub fn end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line_end = at + memchr(b'\n', bytes.get(at..)?)? + 1;
        if matches!(&bytes[at..line_end], b"\n" | b"\r\n") {
            return Some(line_end);
        }
        at = line_end;
    }
}

/// Returns the fields of the header that `bytes` begin with. Lines that are no field are passed over. O(bytes), no memory.
pub fn fields(bytes: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let bytes = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
    Fields { rest: &bytes[..end(bytes).unwrap_or(bytes.len())] }.take(FIELDS_MAX).flatten()
}

struct Fields<'h> {
    rest: &'h [u8],
}

impl<'h> Iterator for Fields<'h> {
    type Item = Option<Field<'h>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let mut end = 0;
        loop {
            end += memchr(b'\n', &self.rest[end..]).map_or(self.rest.len() - end, |at| at + 1);
            if !matches!(self.rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        let colon = memchr(b':', line);
        Some(colon.map(|colon| (line[..colon].trim_ascii_end(), &line[colon + 1..])).and_then(
            |(name, raw)| {
                let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
                is_name.then_some(Field { name, raw })
            },
        ))
    }
}

/// Returns the text of a field's raw value: unfolded, coded words decoded, without control characters. Text that is not
/// declared is taken for UTF-8.
pub fn text(raw: &[u8]) -> String {
    let raw = &raw[..raw.len().min(FIELD_BYTES_MAX)];
    let mut line: Vec<u8> = raw.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let text = match memmem::find(&line, b"=?") {
        None => String::from_utf8_lossy(line.trim_ascii()),
        Some(_) => {
            line.push(b'\n');
            match MessageStream::new(&line).parse_unstructured() {
                HeaderValue::Text(text) => Cow::Owned(text.into_owned()),
                _ => Cow::Borrowed(""),
            }
        }
    };
    clean(text.trim())
}

/// Returns the text of the first field that is called so.
pub fn first(bytes: &[u8], name: &str) -> Option<String> {
    fields(bytes).find(|field| field.is(name)).map(|field| field.text())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    const HEADER: &[u8] = b"Received: from x\r\n\tby y; Mon, 1 Jan 2024 00:00:00 +0000\r\nFROM : =?utf-8?q?J=C3=BCrgen?= \
        <j@example.org>\r\nno field\r\nSubject: =?iso-8859-1?Q?Rechnung_f=FCr?=\r\n =?UTF-8?B?TcOkcno=?= und mehr\r\n\
        X-Folded: a\r\n  b\r\n\r\nSubject: in the body\r\n";

    #[test]
    fn fields_are_unfolded_and_decoded() {
        assert_eq!(first(HEADER, "subject").as_deref(), Some("Rechnung fürMärz und mehr"));
        assert_eq!(first(HEADER, "From").as_deref(), Some("Jürgen <j@example.org>"));
        assert_eq!(first(HEADER, "x-folded").as_deref(), Some("a  b"));
        assert_eq!(fields(HEADER).count(), 4, "what is no field is passed over, and the body is none");
        assert_eq!(first(HEADER, "no field"), None);
    }

    #[test]
    fn charsets_of_all_kinds_are_decoded_and_broken_ones_do_no_harm() {
        for (raw, shown) in [
            (&b"=?koi8-r?B?8NLJ18XU?="[..], "Привет"),
            (b"=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "日本"),
            (b"=?gb2312?B?xOO6ww==?=", "你好"),
            (b"=?no-such-set?Q?a=C3=A4?=", "aä"),
            (b"=?utf-8?Q?=FF=FE?=", "\u{fffd}\u{fffd}"),
            (b"=?utf-8?Q?a=0D=0AX-Injected:_yes=1B[2J?=", "a  X-Injected: yes [2J"),
            (b"plain \xc3\xa4 \xff", "plain ä \u{fffd}"),
        ] {
            assert_eq!(text(raw), shown);
        }
    }

    #[test]
    fn the_end_is_the_first_empty_line() {
        assert_eq!(end(b"a: b\n\nbody"), Some(6));
        assert_eq!(end(b"a: b\r\n\r\nbody"), Some(8));
        assert_eq!(end(b"\nbody"), Some(1));
        assert_eq!((end(b"a: b\n"), end(b"")), (None, None));
    }

    /// A million headers, one field without an end, words that begin and never end: each in a blink.
    #[test]
    fn hostile_headers_take_no_time_and_no_memory() {
        let million = b"A: b\n".repeat(1_000_000);
        let endless = [b"Subject: ".as_slice(), &vec![b'x'; 50 << 20]].concat();
        let folded = [b"Subject: a".as_slice(), &b"\n ".repeat(5_000_000)].concat();
        let begun = [b"Subject: ".as_slice(), &b"=?a".repeat(1_000_000)].concat();
        let charset = [b"Subject: ".as_slice(), &b"=?aaa?q?".repeat(1_000_000)].concat();
        let base64 = [b"Subject: =?utf-8?b?".as_slice(), &vec![b'='; 1 << 20]].concat();
        for header in [million, endless, folded, begun, charset, base64] {
            let began = Instant::now();
            assert!(first(&header, "subject").is_none_or(|text| text.len() <= 4 * FIELD_BYTES_MAX));
            assert!(fields(&header).count() <= FIELDS_MAX);
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        }
    }

    proptest! {
        #[test]
        fn hostile_headers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            for field in fields(&bytes) {
                prop_assert!(!field.text().contains(char::is_control));
            }
            let _ = end(&bytes);
        }

        #[test]
        fn hostile_words_never_panic(raw in "[=?a-zA-Z0-9_*\r\n \\-\u{80}-\u{ff}]{0,400}") {
            prop_assert!(!text(raw.as_bytes()).contains(char::is_control));
            let words = format!("=?utf-7?B?{raw}?= =?iso-2022-jp?q?{raw}?=");
            prop_assert!(!text(words.as_bytes()).contains(char::is_control));
        }

        #[test]
        fn a_plain_value_reads_back(value in "[!-<>-~äöü]([ -<>-~äöü]{0,60}[!-<>-~äöü])?") {
            let header = format!("Subject: {value}\n\n");
            prop_assert_eq!(first(header.as_bytes(), "SUBJECT"), Some(value));
        }
    }
}
