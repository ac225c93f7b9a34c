//! Secrets → stars, in whatever is shown or kept: log lines, notices, a command's complaints.

/// What stands in a secret's place.
const STARS: &str = "***";

/// Shortest value that is taken for a secret whatever its name, in bytes: shorter ones, such as
/// `1` or `mail`, would black out words of every text.
const VALUE_BYTES_MIN: usize = 6;

/// Parts of a variable's name that say that its value is a secret, however short.
const TELLING_NAMES: &[&str] = &["PASS", "PWD", "PW", "SECRET", "TOKEN", "KEY", "AUTH", "CRED"];

/// Knows secrets, and takes them out of texts.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Longest first, so that a secret that holds another one goes whole.
    secrets: Vec<String>,
}

impl Redactor {
    /// Adds a secret. An empty one is none.
    pub fn add(&mut self, secret: &str) {
        if !secret.is_empty() && !self.secrets.iter().any(|known| known == secret) {
            self.secrets.push(secret.to_owned());
            self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        }
    }

    /// Adds the value of a command's environment variable, unless it is too short to be a secret.
    pub fn add_variable(&mut self, name: &str, value: &str) {
        let name = name.to_ascii_uppercase();
        let is_telling = TELLING_NAMES.iter().any(|part| name.contains(part));
        if is_telling || value.len() >= VALUE_BYTES_MIN {
            self.add(value);
        }
    }

    /// Takes the secrets that another one knows.
    pub fn join(&mut self, other: Self) {
        other.secrets.iter().for_each(|secret| self.add(secret));
    }

    /// Returns the text without secrets.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            if text.contains(secret) {
                text = text.replace(secret, STARS);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_secret_stays() {
        let mut redactor = Redactor::default();
        redactor.add("horse");
        redactor.add("correct horse");
        assert_eq!(redactor.redact("using correct horse, horse"), "using ***, ***");
    }

    #[test]
    fn a_short_value_is_a_secret_only_where_its_name_says_so() {
        let mut redactor = Redactor::default();
        redactor.add_variable("VERBOSE", "1");
        redactor.add_variable("MYSQL_PWD", "x9");
        redactor.add_variable("PGPASSFILE", "");
        assert_eq!(redactor.redact("1 row, x9"), "1 row, ***");
    }
}
