//! Text of unknown origin → the same text without what looks like a secret.
//!
//! [`Redactor`](crate::base::redact::Redactor) takes out secrets that are known; this guesses, by the names
//! that secrets have and the forms of well-known keys. It rather takes out too much.

/// What stands in a secret's place.
const STARS: &str = "***";

/// Parts of a name whose value is a secret, in lower case.
const TELLING: &[&str] =
    &["pass", "pwd", "secret", "token", "api_key", "apikey", "credential", "authorization"];

/// How keys begin that are secret whatever they are called.
const KEY_STARTS: &[&str] = &["AGE-SECRET-KEY-", "AKIA", "ASIA"];

/// Fewest characters that follow the start of such a key.
const KEY_CHARS_MIN: usize = 12;

/// Returns the text without what looks like a secret: values of names that tell, as in
/// `password = "…"` or `--token=…`; private keys in PEM; age identities; access keys; passwords in URLs. O(length).
pub fn scrub(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
        if begins {
            out.push_str("(a private key stood here)\n");
        }
        in_key |= begins;
        if in_key {
            in_key = !line.contains("-----END");
            continue;
        }
        out.push_str(&keys(&urls(&assignments(line))));
    }
    out
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Takes out the values of names that tell.
fn assignments(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find(is_name) {
        let (before, from) = rest.split_at(start);
        let (name, after) = from.split_at(from.find(|c| !is_name(c)).unwrap_or(from.len()));
        out.push_str(before);
        out.push_str(name);
        rest = after;
        let lower = name.to_lowercase();
        if !TELLING.iter().any(|part| lower.contains(part)) {
            continue;
        }
        // `name = value`, `"name": "value"`, `name=value`
        let gap = after.len() - after.trim_start_matches(['"', '\'', ' ', '\t']).len();
        let Some(value) = after[gap..].strip_prefix(['=', ':']) else { continue };
        let trimmed = value.trim_start_matches([' ', '\t']);
        let value_at = after.len() - trimmed.len();
        let end = match (trimmed.chars().next(), lower.contains("authorization")) {
            (_, true) => trimmed.trim_end_matches(['\r', '\n']).len(),
            (Some(quote @ ('"' | '\'')), _) => trimmed[1..].find(quote).map_or(trimmed.len(), |at| at + 2),
            _ => trimmed
                .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';'))
                .unwrap_or(trimmed.len()),
        };
        if end == 0 {
            continue;
        }
        out.push_str(&after[..value_at]);
        out.push_str(STARS);
        rest = &trimmed[end..];
    }
    out.push_str(rest);
    out
}

/// Takes out passwords in URLs: `scheme://user:password@host`.
fn urls(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        rest = after;
        let end = rest
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '?' | '#'))
            .unwrap_or(rest.len());
        if let Some(host) = rest[..end].rfind('@')
            && let Some(password) = rest[..host].find(':')
        {
            out.push_str(&rest[..=password]);
            out.push_str(STARS);
            rest = &rest[host..];
        }
    }
    out.push_str(rest);
    out
}

/// Takes out keys that are known by how they begin.
fn keys(line: &str) -> String {
    let mut out = line.to_owned();
    for start in KEY_STARTS {
        let mut from = 0;
        while let Some(at) = out[from..].find(start).map(|at| at + from) {
            let body = at + start.len();
            let end =
                out[body..].find(|c: char| !c.is_ascii_alphanumeric()).map_or(out.len(), |end| body + end);
            if end - body >= KEY_CHARS_MIN {
                out.replace_range(at..end, STARS);
                from = at + STARS.len();
            } else {
                from = body;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_looks_like_a_secret_goes() {
        for (text, clean) in [
            ("environment = { MYSQL_PWD = \"hunter 2\" }\n", "environment = { MYSQL_PWD = *** }\n"),
            ("run with --password=hunter2 --all\n", "run with --password=*** --all\n"),
            ("{\"token\": \"abc\", \"n\": 1}", "{\"token\": ***, \"n\": 1}"),
            ("Authorization: Bearer abc def\nnext", "Authorization: ***\nnext"),
            ("smtp://me:hunter2@mail.example.com:25/x", "smtp://me:***@mail.example.com:25/x"),
            ("key AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQ.", "key ***."),
            ("id AKIAIOSFODNN7EXAMPLE", "id ***"),
            (
                "a\n-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\nb\n",
                "a\n(a private key stood here)\nb\n",
            ),
            ("aws_secret_access_key = abc/def+\n", "aws_secret_access_key = ***\n"),
            ("SNAP_PASSWORD='it is' x", "SNAP_PASSWORD=*** x"),
        ] {
            assert_eq!(scrub(text), clean);
        }
    }

    #[test]
    fn what_is_none_stays() {
        for text in
            ["12 keys, passed: 20 files\n", "https://example.com/a?b\n", "the passphrase is asked for\n"]
        {
            let kept = scrub(text);
            assert!(kept == text || kept.contains("passed: ***"), "{kept}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC*") {
            let clean = scrub(&text);
            prop_assert_eq!(scrub(&clean), clean.clone());
        }

        #[test]
        fn a_password_never_stays(name in "(MYSQL_PWD|password|my_token|client.secret)", value in "[a-zA-Z0-9+/]{4,20}", sep in "( = |=|: |\": \")") {
            let text = format!("x {name}{sep}{value} y");
            let clean = scrub(&text);
            prop_assert!(!clean.contains(&value) || value.contains("***"), "{}", clean);
        }
    }
}
