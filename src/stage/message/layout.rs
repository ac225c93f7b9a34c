//! Where mailboxes lie in a component: `vmail/{domain}/{user}` ↔ the users that they belong to.

use crate::base::entry::quoted;
use crate::stage::message::clean;

const DOMAIN: &str = "{domain}";
const USER: &str = "{user}";

/// Names of directories that hold a user's mail, and are no user.
const INNER: [&[u8]; 5] = [b"Maildir", b"maildir", b".maildir", b"mail", b"Mail"];

/// Deepest layout, in directories.
const DEPTH_MAX: usize = 16;

/// A layout that was parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout(Vec<Segment>);

/// Name of a directory: fixed texts, and what stands between them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    /// One more than the variables.
    texts: Vec<String>,
    /// Whether each is the user's name, else the domain.
    is_user: Vec<bool>,
}

/// Who a mailbox belongs to, as far as a path has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    user: Option<String>,
    domain: Option<String>,
}

impl Layout {
    /// Reads a layout: names of directories with `/` between, in which `{user}` stands once and `{domain}` at most once.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Err("must not begin with /: it is a path in the component".to_owned());
        }
        let segments: Vec<Segment> = text.split('/').map(Segment::parse).collect::<Result<_, _>>()?;
        if segments.len() > DEPTH_MAX {
            return Err(format!("has more than {DEPTH_MAX} directories"));
        }
        let count =
            |wanted: bool| segments.iter().flat_map(|it| &it.is_user).filter(|it| **it == wanted).count();
        match (count(true), count(false)) {
            (1, 0 | 1) => Ok(Self(segments)),
            (1, _) => Err(format!("has {DOMAIN} more than once")),
            (0, _) => Err(format!("lacks {USER}; such as \"vmail/{DOMAIN}/{USER}\"")),
            _ => Err(format!("has {USER} more than once")),
        }
    }

    /// Returns how many directories lie on the way to a mailbox, its own among them.
    pub fn depth(&self) -> usize {
        self.0.len()
    }

    /// Returns whether a directory's name, that many directories below the component's, can lie on the way to a mailbox.
    pub fn is_on_the_way(&self, depth: usize, name: &[u8]) -> bool {
        let segment = self.0.get(depth);
        segment.is_some_and(|segment| segment.matches(name, &mut Found::default()))
    }

    /// Returns whose mailbox lies at a path in the component; none if none does.
    pub fn user(&self, path: &[u8]) -> Option<String> {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let mut found = Found::default();
        let is_whole = names.len() == self.0.len()
            && self.0.iter().zip(&names).all(|(segment, name)| segment.matches(name, &mut found));
        let user = found.user.filter(|_| is_whole)?;
        Some(found.domain.map_or(user.clone(), |domain| format!("{user}@{domain}")))
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, String> {
        if matches!(text, "" | "." | "..") {
            return Err(format!("\"{text}\" is no name of a directory"));
        }
        let (mut texts, mut is_user) = (vec![String::new()], Vec::new());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let variable = [USER, DOMAIN].into_iter().find(|variable| rest.starts_with(variable));
            match variable {
                Some(variable) => {
                    is_user.push(variable == USER);
                    texts.push(String::new());
                    rest = &rest[variable.len()..];
                }
                None if matches!(c, '{' | '}') || c.is_control() => {
                    return Err(format!(
                        "\"{}\": only {USER} and {DOMAIN} stand for something",
                        text.escape_debug()
                    ));
                }
                None => {
                    texts.last_mut().into_iter().for_each(|last| last.push(c));
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        if is_user.len() > 1 && texts[1..texts.len() - 1].iter().any(String::is_empty) {
            return Err(format!("\"{text}\": something must stand between {USER} and {DOMAIN}"));
        }
        Ok(Self { texts, is_user })
    }

    /// Returns whether a directory's name fits; notes what its variables stand for.
    fn matches(&self, name: &[u8], found: &mut Found) -> bool {
        let Some((first, texts)) = self.texts.split_first() else { return false };
        let Some(mut rest) = name.strip_prefix(first.as_bytes()) else { return false };
        let last = texts.len().saturating_sub(1);
        for (at, (text, is_user)) in texts.iter().zip(&self.is_user).enumerate() {
            let end = match at == last {
                true => rest.strip_suffix(text.as_bytes()).map(<[u8]>::len),
                false => memchr::memmem::find(rest, text.as_bytes()),
            };
            let Some(end) = end.filter(|end| *end > 0) else { return false };
            let value = clean(&quoted(&rest[..end]));
            *(if *is_user { &mut found.user } else { &mut found.domain }) = Some(value);
            rest = &rest[end + text.len()..];
        }
        rest.is_empty()
    }
}

/// Guesses whose mailbox lies at a path in a component: `…/example.org/anna/Maildir` is anna@example.org's.
pub fn guessed(path: &[u8]) -> String {
    let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    if names.len() > 1 && names.last().is_some_and(|last| INNER.contains(last)) {
        names.pop();
    }
    match names.as_slice() {
        [.., domain, user]
            if domain.contains(&b'.') && !domain.starts_with(b".") && !user.contains(&b'@') =>
        {
            clean(&format!("{}@{}", quoted(user), quoted(domain)))
        }
        [.., user] => clean(&quoted(user)),
        [] => "(mailbox)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_layout_says_whose_mailbox_it_is() {
        let user = |layout: &str, path: &str| Layout::parse(layout).unwrap().user(path.as_bytes());
        let anna = Some("anna@example.org".to_owned());
        assert_eq!(user("vmail/{domain}/{user}", "vmail/example.org/anna"), anna);
        assert_eq!(user("{domain}/{user}/Maildir", "example.org/anna/Maildir"), anna);
        assert_eq!(user("box-{user}@{domain}.d", "box-anna@example.org.d"), anna);
        assert_eq!(user("{user}", "anna"), Some("anna".to_owned()));
        assert_eq!(user("vmail/{domain}/{user}", "vmail/example.org"), None);
        assert_eq!(user("vmail/{domain}/{user}", "other/example.org/anna"), None);
        assert_eq!(user("vmail/{user}.box", "vmail/.box"), None);
    }

    #[test]
    fn layouts_that_mean_nothing_are_refused() {
        for (layout, what) in [
            ("", "no name"),
            ("/vmail/{user}", "must not begin"),
            ("vmail//{user}", "no name"),
            ("../{user}", "no name"),
            ("vmail/{domain}", "lacks {user}"),
            ("{user}/{user}", "more than once"),
            ("{domain}/{domain}/{user}", "more than once"),
            ("{domain}{user}", "between"),
            ("{name}", "only {user}"),
            ("{user", "only {user}"),
            ("{user}}", "only {user}"),
            ("{user}\u{1b}", "only {user}"),
            ("1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/{user}", "more than 16"),
        ] {
            let error = Layout::parse(layout).unwrap_err();
            assert!(error.contains(what), "{layout}: {error}");
            assert!(!error.contains(char::is_control));
        }
    }

    #[test]
    fn users_are_guessed_from_where_they_lie() {
        for (path, user) in [
            ("vmail/example.org/anna", "anna@example.org"),
            ("example.org/anna/Maildir", "anna@example.org"),
            ("home/anna/Maildir", "anna"),
            ("vmail/anna@example.org", "anna@example.org"),
            ("x.y/anna@example.org", "anna@example.org"),
            ("Maildir", "Maildir"),
            ("", "(mailbox)"),
        ] {
            assert_eq!(guessed(path.as_bytes()), user);
        }
    }

    proptest! {
        #[test]
        fn hostile_paths_never_panic(path in prop::collection::vec(any::<u8>(), 0..300), layout in "[a@{}/.userdomain-]{0,30}") {
            prop_assert!(!guessed(&path).contains(char::is_control));
            if let Ok(layout) = Layout::parse(&layout) {
                prop_assert!(layout.user(&path).is_none_or(|user| !user.contains(char::is_control)));
            }
        }

        #[test]
        fn who_is_put_into_a_layout_is_found_there(user in "[a-z0-9._-]{1,20}", domain in "[a-z0-9.-]{1,20}") {
            let layout = Layout::parse("vmail/{domain}/{user}").unwrap();
            let path = format!("vmail/{domain}/{user}");
            prop_assert_eq!(layout.user(path.as_bytes()), Some(format!("{user}@{domain}")));
        }
    }
}
