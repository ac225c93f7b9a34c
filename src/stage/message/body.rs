//! A message → its text, and what is attached.
//!
//! Parts are walked with a stack of its own and limits of its own, as nothing keeps a stranger from nesting a hundred
//! thousand of them.

use base64_simd::STANDARD as BASE64;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::html::html_to_text;
use mail_parser::parsers::MessageStream;
use mail_parser::{ContentType, HeaderValue};
use memchr::memchr;

use crate::stage::message::header::{end, fields};
use crate::stage::message::{clean, clean_char};

/// Deepest nesting that is looked into.
const DEPTH_MAX: usize = 30;

/// Most parts that are looked at.
const PARTS_MAX: usize = 1000;

/// Longest text that is shown, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Longest name of an attachment that is shown, in characters.
const NAME_CHARS_MAX: usize = 255;

/// An attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its file name; empty if it has none.
    pub name: String,
    /// What it says it is: `application/pdf`.
    pub kind: String,
    /// About how long it is, in bytes, decoded.
    pub bytes: u64,
}

/// What a message shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Its text. No control characters but line feeds and tabs.
    pub text: String,
    /// Its attachments.
    pub attachments: Vec<Attachment>,
    /// Whether there is more than the limits let through.
    pub is_cut: bool,
}

struct Part<'m> {
    bytes: &'m [u8],
    depth: usize,
    /// Whether a text in HTML is shown: not where the same stands beside it as plain text.
    is_html_shown: bool,
}

/// Reads a message. Time: its length × the nesting, of which there are limits; memory: the text and the attachments' names.
pub fn read(message: &[u8]) -> Body {
    let mut body = Body::default();
    let mut todo = vec![Part { bytes: message, depth: 0, is_html_shown: true }];
    let mut count = 0;
    while let Some(part) = todo.pop() {
        count += 1;
        if count > PARTS_MAX || part.depth > DEPTH_MAX {
            body.is_cut = true;
            continue;
        }
        let content = &part.bytes[end(part.bytes).unwrap_or(part.bytes.len())..];
        let field = |name: &str| fields(part.bytes).find(|field| field.is(name));
        let kind = field("content-type").and_then(|field| parameters(field.raw));
        let disposition = field("content-disposition").and_then(|field| parameters(field.raw));
        let (main, sub) = match &kind {
            Some(kind) => (kind.ctype(), kind.subtype().unwrap_or("plain")),
            None => ("text", "plain"),
        };
        let encoding = field("content-transfer-encoding").map(|field| field.text().to_ascii_lowercase());
        if main.eq_ignore_ascii_case("multipart")
            && let Some(boundary) = kind.as_ref().and_then(|kind| kind.attribute("boundary"))
        {
            let inner = split(content, boundary.as_bytes());
            let has_plain = sub.eq_ignore_ascii_case("alternative")
                && inner
                    .iter()
                    .any(|bytes| fields(bytes).all(|field| !field.is("content-type") || is_plain(field.raw)));
            let inner = inner.into_iter().rev();
            let is_html_shown = part.is_html_shown && !has_plain;
            todo.extend(inner.map(|bytes| Part { bytes, depth: part.depth + 1, is_html_shown }));
            body.is_cut |= todo.len() > PARTS_MAX;
            continue;
        }
        let is_attached =
            disposition.as_ref().is_some_and(|it| it.ctype().eq_ignore_ascii_case("attachment"));
        let name = disposition.as_ref().and_then(|it| it.attribute("filename"));
        let name = name.or_else(|| kind.as_ref().and_then(|kind| kind.attribute("name")));
        let is_text = main.eq_ignore_ascii_case("text") && !is_attached && name.is_none();
        if is_text {
            let is_html = sub.eq_ignore_ascii_case("html");
            if !is_html || part.is_html_shown {
                let charset = kind.as_ref().and_then(|kind| kind.attribute("charset"));
                body.add(content, encoding.as_deref(), charset, is_html);
            }
            continue;
        }
        let is_base64 = encoding.as_deref() == Some("base64");
        let bytes = content.len() as u64;
        body.attachments.push(Attachment {
            name: clean(name.unwrap_or_default()).chars().take(NAME_CHARS_MAX).collect(),
            kind: clean(&format!("{main}/{sub}")).to_lowercase().chars().take(NAME_CHARS_MAX).collect(),
            bytes: if is_base64 { bytes / 78 * 57 } else { bytes }, // lines of 76 characters and an end
        });
    }
    body
}

impl Body {
    fn add(&mut self, content: &[u8], encoding: Option<&str>, charset: Option<&str>, is_html: bool) {
        let room = TEXT_BYTES_MAX.saturating_sub(self.text.len());
        let (content, rest) = content.split_at(content.len().min(room));
        self.is_cut |= !rest.is_empty();
        let bytes = match encoding {
            Some("base64") => base64(content),
            Some("quoted-printable") => quoted_printable(content),
            _ => content.to_vec(),
        };
        let decoder = charset.and_then(|charset| charset_decoder(charset.as_bytes()));
        let text =
            decoder.map_or_else(|| String::from_utf8_lossy(&bytes).into_owned(), |decode| decode(&bytes));
        let text = if is_html { html_to_text(&text) } else { text };
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        let text = text.replace("\r\n", "\n");
        self.text.extend(text.chars().map(|c| if matches!(c, '\n' | '\t') { c } else { clean_char(c) }));
    }
}

fn is_plain(raw: &[u8]) -> bool {
    parameters(raw).is_none_or(|kind| {
        kind.ctype().eq_ignore_ascii_case("text")
            && kind.subtype().is_some_and(|sub| sub.eq_ignore_ascii_case("plain"))
    })
}

/// Reads a value with parameters: `text/plain; charset=utf-8`.
fn parameters(raw: &[u8]) -> Option<ContentType<'static>> {
    let mut line: Vec<u8> =
        raw.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).take(VALUE_BYTES_MAX).collect();
    line.push(b'\n');
    match MessageStream::new(&line).parse_content_type().into_owned() {
        HeaderValue::ContentType(parsed) => Some(parsed),
        _ => None,
    }
}

/// Longest value with parameters that is read, in bytes.
const VALUE_BYTES_MAX: usize = 4 << 10;

/// Returns the parts between lines that begin with a boundary: [`PARTS_MAX`] and one at most. O(bytes).
fn split<'m>(content: &'m [u8], boundary: &[u8]) -> Vec<&'m [u8]> {
    let (mut parts, mut begun, mut at) = (Vec::new(), None, 0);
    while at < content.len() && parts.len() <= PARTS_MAX {
        let line_end = memchr(b'\n', &content[at..]).map_or(content.len(), |end| at + end + 1);
        let line = content[at..line_end].trim_ascii_end();
        let rest = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary));
        if let Some(rest) = rest.filter(|rest| rest.is_empty() || *rest == b"--") {
            parts.extend(begun.map(|begun| &content[begun..at]));
            begun = rest.is_empty().then_some(line_end);
            if begun.is_none() {
                return parts;
            }
        }
        at = line_end;
    }
    parts.extend(begun.map(|begun| &content[begun..at])); // cut short
    parts
}

/// Decodes base64; what can't be decoded ends it.
fn base64(content: &[u8]) -> Vec<u8> {
    let letters: Vec<u8> = content.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let whole = memchr(b'=', &letters).unwrap_or(letters.len());
    let whole = letters[..whole]
        .iter()
        .position(|byte| !byte.is_ascii_alphanumeric() && !b"+/".contains(byte))
        .unwrap_or(whole);
    let mut quads = letters[..whole].to_vec();
    if quads.len() % 4 == 1 {
        quads.pop();
    }
    while !quads.len().is_multiple_of(4) {
        quads.push(b'=');
    }
    BASE64
        .decode_to_vec(&quads)
        .or_else(|_| BASE64.decode_to_vec(&quads[..quads.len().saturating_sub(4)]))
        .unwrap_or_default()
}

/// Decodes quoted-printable; an `=` that says nothing stays.
fn quoted_printable(content: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::with_capacity(content.len()), 0);
    let digit = |at: usize| content.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    while let Some(byte) = content.get(at) {
        let rest = &content[at..];
        let pair = if *byte == b'=' { digit(at + 1).zip(digit(at + 2)) } else { None };
        at += match (byte, pair) {
            (_, Some((high, low))) => {
                out.extend(u8::try_from(high * 16 + low));
                3
            }
            (b'=', None) if rest.starts_with(b"=\r\n") => 3,
            (b'=', None) if rest.starts_with(b"=\n") => 2,
            _ => {
                out.push(*byte);
                1
            }
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    const MIXED: &str = "From: a@b\nContent-Type: multipart/mixed; boundary=\"x y\"\n\nnothing\n--x y\n\
        Content-Type: multipart/alternative; boundary=in\n\n--in\nContent-Type: text/plain; charset=iso-8859-1\n\
        Content-Transfer-Encoding: quoted-printable\n\nGr=FC=DFe=\n!\n--in\nContent-Type: text/html\n\n<b>Hi</b>\n--in--\n\
        --x y\nContent-Type: application/pdf; name=old.pdf\n\
        Content-Disposition: attachment; filename*=utf-8''R%C3%A4.pdf\nContent-Transfer-Encoding: base64\n\nAAAA\n--x y--\n";

    #[test]
    fn text_is_shown_once_and_attachments_by_name() {
        let body = read(MIXED.as_bytes());
        assert_eq!(body.text, "Grüße!\n");
        let names: Vec<_> = body.attachments.iter().map(|it| (it.name.as_str(), it.kind.as_str())).collect();
        assert_eq!((names, body.is_cut), (vec![("Rä.pdf", "application/pdf")], false));
    }

    #[test]
    fn a_message_in_html_alone_is_shown_as_text() {
        let body =
            read(b"Content-Type: text/html; charset=utf-8\n\n<p>Hello <b>you</b></p><script>x()</script>");
        assert!(body.text.contains("Hello you"), "{:?}", body.text);
        let base64 = b"Content-Transfer-Encoding: BASE64\n\nSGVs\nbG8g\xf0\x9f\n";
        assert_eq!(read(base64).text, "Hello ");
    }

    #[test]
    fn a_message_without_header_or_text_is_shown_as_what_it_is() {
        assert_eq!(read(b""), Body::default());
        assert_eq!(read(b"\nonly text\x1b[2J\n").text, "only text [2J\n");
        assert_eq!(read(b"Subject: x").text, "");
    }

    /// Nested a hundred thousand times, parts without end, boundaries that never end.
    #[test]
    fn hostile_parts_take_no_time_and_no_stack() {
        let nested = "Content-Type: message/rfc822\n\n".repeat(100_000);
        let multipart = "Content-Type: multipart/mixed; boundary=a\n\n--a\n".repeat(100_000);
        let mut deep = String::new();
        for n in 0..3000 {
            deep.push_str(&format!("Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n"));
        }
        let many = format!("Content-Type: multipart/mixed; boundary=a\n\n{}", "--a\n\nx\n".repeat(500_000));
        let long = format!("Content-Type: text/plain\n\n{}", "x".repeat(20 << 20));
        let name = format!("Content-Type: a/b; name=\"{}\"\n\nx", "n".repeat(1 << 20));
        for message in [nested, multipart, deep, many, long, name] {
            let began = Instant::now();
            let body = read(message.as_bytes());
            assert!(body.text.len() <= 2 * TEXT_BYTES_MAX && body.attachments.len() <= PARTS_MAX);
            assert!(body.attachments.iter().all(|it| it.name.len() <= 4 * NAME_CHARS_MAX));
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        }
    }

    proptest! {
        #[test]
        fn hostile_messages_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let body = read(&bytes);
            prop_assert!(!body.text.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
        }

        #[test]
        fn messages_that_are_nearly_right_never_panic(
            lines in prop::collection::vec("(--a|--a--|--|)|Content-Type: (multipart/[a-z]{1,5}; boundary=a|text/html|text/plain; charset=[a-z0-9-]{0,12}|[ -~]{0,30})|Content-Disposition: attachment; filename\\*?[0-9]?\\*?=[ -~]{0,20}|Content-Transfer-Encoding: (base64|quoted-printable)|[ -~]{0,40}", 0..30),
        ) {
            let body = read(lines.join("\n").as_bytes());
            prop_assert!(body.attachments.iter().all(|it| !it.name.contains(char::is_control)));
        }
    }
}
