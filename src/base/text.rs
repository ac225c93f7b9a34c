//! Text of others on its way to a terminal, a log or a mail: no control character reaches them raw.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns a text as one line: each control character as `\n`, `\t` or `\u001b`, as JSON writes them too. A JSON value
/// stays the value it is.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, char::is_control)
}

/// Returns a text of several lines, without other control characters than line feeds and tabs: see [`one_line`].
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c.is_control() && c != '\n' && c != '\t')
}

fn escaped(text: &str, is_raw: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_raw) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_raw(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => _ = write!(out, "\\u{:04x}", u32::from(c)),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_stays_raw() {
        let all: String = (0..0x180).filter_map(char::from_u32).collect();
        assert!(!one_line(&all).contains(char::is_control));
        assert_eq!(one_line("a\n\x1b[2J\u{9b}\r\tä"), "a\\n\\u001b[2J\\u009b\\r\\tä");
        assert_eq!(lines("a\n\x1b\tb\r\n"), "a\n\\u001b\tb\\r\n");
        assert!(matches!(one_line("as it is"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_json_stays_the_same_value() {
        let value = serde_json::json!({ "host": "a\n\x1b\u{9b}\u{7f}\\", "n": 1 });
        let shown = value.to_string();
        let shown = one_line(&shown);
        assert!(!shown.contains(char::is_control));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
