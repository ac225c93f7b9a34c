//! What is wrong with a configuration: file, line, key, and the key that was meant.

use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How alike two keys are, from 0 to 1, for one to be taken for a slip of the other.
const ALIKE_MIN: f64 = 0.8;

/// Keys whose values nobody is shown.
const SECRET_KEYS: [&str; 3] = ["environment", "smtp", "ping_url"];

/// A configuration that can't be used. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// File, line, key.
    pub place: String,
    /// What is wrong, and what to do.
    pub what: String,
}

impl ConfigError {
    /// The file can't be read.
    pub fn file(path: &Path, what: &dyn Display) -> Self {
        Self { path: path.to_owned(), place: path.display().to_string(), what: what.to_string() }
    }

    /// The text is no TOML.
    pub fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let what = format!("is not TOML: {}", one_line(error.message()));
        Self::at(path, text, error.span(), "", &what)
    }

    /// The text is TOML, and not what is wanted.
    pub fn content(path: &Path, text: &str, error: &serde_path_to_error::Error<toml::de::Error>) -> Self {
        let message = one_line(error.inner().message());
        let key = error.path().to_string();
        // Where serde looks inside a value for its place, that is no key.
        let key = key.split(".$__").next().filter(|key| *key != ".").unwrap_or_default().to_owned();
        // What is said of a value shows it.
        let is_secret = key.split(['.', '[']).any(|part| SECRET_KEYS.contains(&part));
        let what = match unknown_key(&message) {
            None if is_secret => "is not what belongs here: texts in quotes are".to_owned(),
            None => message,
            Some((unknown, known)) => {
                let meant = known
                    .iter()
                    .map(|key| (strsim::jaro_winkler(&unknown, key), key))
                    .max_by(|a, b| a.0.total_cmp(&b.0))
                    .filter(|(alike, _)| *alike >= ALIKE_MIN);
                match meant {
                    Some((_, meant)) => format!("unknown key; did you mean \"{meant}\"?"),
                    None => format!("unknown key; known here: {}", known.join(", ")),
                }
            }
        };
        Self::at(path, text, error.inner().span(), &key, &what)
    }

    /// Something at `span` of the text is wrong.
    pub fn at(path: &Path, text: &str, span: Option<Range<usize>>, key: &str, what: &str) -> Self {
        let line = span.map(|span| 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count());
        let line = line.map_or_else(String::new, |line| format!(":{line}"));
        let colon = if key.is_empty() { "" } else { ": " };
        let place = format!("{}{line}{colon}{key}", path.display());
        Self { path: path.to_owned(), place, what: what.to_owned() }
    }
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
}

/// Returns the unknown key and the known ones that serde's message names in backquotes.
fn unknown_key(message: &str) -> Option<(String, Vec<String>)> {
    if !message.starts_with("unknown field") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2).map(str::to_owned);
    Some((quoted.next()?, quoted.collect()))
}
