//! A configuration that can't be used → what of it can: enough to tell somebody.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::base::redact::Redactor;
use crate::job::config::{CONFIG_BYTES_MAX, Log, Notify};

/// What of an unusable configuration can be used.
#[derive(Clone, Default)]
pub struct Salvage {
    /// Of `[notify]`, the keys that make sense; nobody to be told if they do not go together.
    pub notify: Notify,
    /// Of `[log]`, the keys that make sense; none if the file can't be read at all.
    pub log: Option<Log>,
    /// Knows the secrets that were found.
    pub redactor: Redactor,
}

impl Salvage {
    /// Reads what can be read of a configuration file.
    pub fn read(path: &Path) -> Self {
        let is_small = fs::metadata(path).is_ok_and(|found| found.len() <= CONFIG_BYTES_MAX);
        let text = if is_small { fs::read(path).ok() } else { None };
        text.map_or_else(Self::default, |text| Self::of(&String::from_utf8_lossy(&text)))
    }

    /// Takes what can be read of the text of a configuration file.
    pub fn of(text: &str) -> Self {
        let (table, _) = DeTable::parse_recoverable(text);
        let table = table.get_ref();
        let mut redactor = Redactor::default();
        table.iter().for_each(|(key, value)| add_secrets(key.get_ref(), value.get_ref(), &mut redactor));
        let mut notify: Notify = section(table, "notify");
        notify.add_secrets(&mut redactor);
        if notify.fault().is_some() {
            notify = Notify::default();
        }
        Self { notify, log: Some(section(table, "log")), redactor }
    }
}

/// Returns a section made of those of its keys that make sense each by itself.
fn section<S: DeserializeOwned + Default>(table: &DeTable<'_>, name: &str) -> S {
    let mut good = DeTable::new();
    if let Some(DeValue::Table(found)) = table.get(name).map(toml::Spanned::get_ref) {
        for (key, value) in found {
            let alone = DeTable::from_iter([(key.clone(), value.clone())]);
            if read::<S>(alone).is_some() {
                good.insert(key.clone(), value.clone());
            }
        }
    }
    read(good).unwrap_or_default()
}

fn read<'de, S: Deserialize<'de>>(table: DeTable<'de>) -> Option<S> {
    S::deserialize(ValueDeserializer::from(toml::Spanned::new(0..0, DeValue::Table(table)))).ok()
}

/// Adds every text below a key named `environment`, whatever form it has.
fn add_secrets(key: &str, value: &DeValue<'_>, redactor: &mut Redactor) {
    match value {
        DeValue::String(text) if key == "environment" => redactor.add(text),
        DeValue::Table(table) => table.iter().for_each(|(name, value)| match value.get_ref() {
            DeValue::String(text) if key == "environment" => redactor.add_variable(name.get_ref(), text),
            inner => add_secrets(name.get_ref(), inner, redactor),
        }),
        DeValue::Array(values) => values.iter().for_each(|value| add_secrets(key, value.get_ref(), redactor)),
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTIFY: &str = "[notify]\nto = [\"root@localhost\"]\nfrom = \"snap@localhost\"\n\
                          sendmail = [\"/usr/sbin/sendmail\", \"-t\"]\n";

    fn is_told(text: &str) -> bool {
        Salvage::of(text).notify.has_mail()
    }

    #[test]
    fn a_slip_elsewhere_leaves_whom_to_tell() {
        assert!(is_told(&format!("[repository]\npaht = \"/mnt\"\n{NOTIFY}")));
        assert!(is_told(&format!("[repository\npath = /mnt\n{NOTIFY}")), "no TOML before it");
        assert!(is_told(&format!("{NOTIFY}[log]\nlevel = \"info\n")), "no TOML after it");
    }

    #[test]
    fn a_slip_in_the_section_itself_costs_that_key_alone() {
        assert!(is_told(&format!("{NOTIFY}max_agee = \"26h\"\n")));
        assert!(is_told(&format!("{NOTIFY}on = \"sometimes\"\n")));
        let log = Salvage::of("[log]\nlevel = \"loud\"\ndirectory = \"/srv/log\"\n").log;
        assert_eq!(log.map(|log| log.directory), Some("/srv/log".into()));
    }

    #[test]
    fn keys_that_do_not_go_together_tell_nobody() {
        assert!(!is_told(&format!("{NOTIFY}smtp = \"smtp://127.0.0.1\"\n")));
        assert!(!is_told("[notify]\nto = [\"root@localhost\"]\n"));
        assert!(!is_told("notify = 3\n"));
        assert!(!is_told("\0\u{1}"));
    }

    #[test]
    fn secrets_are_known_whatever_form_they_have() {
        let redacted = |text: &str| Salvage::of(text).redactor.redact("it says hunter22 here");
        for environment in ["\"hunter22\"", "{ MYSQL_PWD = \"hunter22\" }", "[\"hunter22\"]"] {
            let text = format!("[[component]]\n[[component.stream]]\nenvironment = {environment}\n");
            assert_eq!(redacted(&text), "it says *** here", "{environment}");
        }
        assert_eq!(redacted("[notify]\nsmtp = \"smtps://me:hunter22@host\"\nto = 5\n"), "it says *** here");
    }

    #[test]
    fn a_file_that_cannot_be_read_leaves_nothing() {
        assert!(Salvage::read(Path::new("/nonexistent/config.toml")).log.is_none());
    }
}
