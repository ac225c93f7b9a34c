//! The configuration file: TOML → what is wanted. An unknown key is an error.

mod component;
mod error;
mod salvage;
mod sections;
mod values;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::base::redact::Redactor;
use crate::op::mail::boxes::Where;
use crate::repo::whose::{ANY_HOST, Configured};
use crate::store::refuse_other_kinds;

pub use component::{Component, Hook, Stream};
pub use error::ConfigError;
pub use salvage::Salvage;
pub use sections::{Check, Level, Log, Mail, Notify, On, Repository, Retention, Run, Scan, Sync, Syslog};
pub use values::{Bytes, MailLayout, Share, Span};

/// Where the configuration lies, unless said otherwise.
pub const DEFAULT_PATH: &str = "/etc/snap/config.toml";

/// Longest configuration file that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// All that can be configured. Everything but the repository and one component may be left out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the file lies.
    #[serde(skip)]
    pub path: PathBuf,
    /// `[repository]`
    pub repository: Repository,
    /// `[run]`
    #[serde(default)]
    pub run: Run,
    /// `[[component]]`
    #[serde(default, rename = "component")]
    pub components: Vec<Component>,
    /// `[retention]`
    #[serde(default)]
    pub retention: Retention,
    /// `[notify]`
    #[serde(default)]
    pub notify: Notify,
    /// `[log]`
    #[serde(default)]
    pub log: Log,
    /// `[sync]`
    pub sync: Option<Sync>,
    /// `[check]`
    pub check: Option<Check>,
    /// `[scan]`
    pub scan: Option<Scan>,
    /// `[mail]`
    #[serde(default)]
    pub mail: Mail,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`], which says where in the file and what is meant.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |e: std::io::Error| ConfigError::file(path, &e);
        if fs::metadata(path).map_err(unreadable)?.len() > CONFIG_BYTES_MAX {
            return Err(ConfigError::file(path, &"is larger than 4 MiB: this is no configuration"));
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(path, &text)
    }

    /// Reads the text of a configuration file that lies at `path`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let parsed = toml::Deserializer::parse(text).map_err(|e| ConfigError::syntax(path, text, &e))?;
        let mut config: Self =
            serde_path_to_error::deserialize(parsed).map_err(|e| ConfigError::content(path, text, &e))?;
        config.path = path.to_owned();
        config.check(text)?;
        Ok(config)
    }

    /// Checks what no single value tells.
    fn check(&self, text: &str) -> Result<(), ConfigError> {
        let bad = |span: std::ops::Range<usize>, key: &str, what: &str| {
            Err(ConfigError::at(&self.path, text, Some(span), key, what))
        };
        if self.components.is_empty() {
            return Err(ConfigError::at(
                &self.path,
                text,
                None,
                "component",
                "one [[component]] at least is needed",
            ));
        }
        for (number, component) in self.components.iter().enumerate() {
            component
                .check()
                .or_else(|(span, key, what)| bad(span, &format!("component[{number}].{key}"), &what))?;
            let is_taken = self.components.iter().take(number).any(|other| other.name == component.name);
            if is_taken {
                let name = component.name.get_ref();
                let what = format!("there is a component \"{name}\" already");
                return bad(component.name.span(), &format!("component[{number}].name"), &what);
            }
        }
        if let Some(component) = &self.mail.component
            && !self.components.iter().any(|own| own.name.get_ref() == component.get_ref())
        {
            let what = format!("there is no component \"{}\"", component.get_ref());
            return bad(component.span(), "mail.component", &what);
        }
        if let Some(what) = refuse_other_kinds(self.repository.path.get_ref()).err() {
            return bad(self.repository.path.span(), "repository.path", &what);
        }
        if let (Some(mount), false) = (&self.repository.require_mount, self.repository.is_remote())
            && !self.repository.path.get_ref().starts_with(mount.get_ref())
        {
            let what = format!(
                "the repository {} does not lie below it, so it protects nothing",
                self.repository.path.get_ref().display()
            );
            return bad(mount.span(), "repository.require_mount", &what);
        }
        if let Some((span, key, what)) = self.notify.fault() {
            return bad(span, &format!("notify.{key}"), &what);
        }
        match self.fault() {
            Some((key, what)) => Err(ConfigError::at(&self.path, text, None, key, &what)),
            None => Ok(()),
        }
    }

    /// Returns a key whose value can't be meant, and why.
    fn fault(&self) -> Option<(&'static str, String)> {
        let repository = &self.repository;
        let path = Some(repository.path.get_ref()).filter(|_| !repository.is_remote());
        let paths = [
            ("repository.path", path),
            ("repository.index", repository.index.as_ref()),
            ("repository.state_dir", repository.state_dir.as_ref()),
            ("log.directory", Some(&self.log.directory)),
        ];
        let relative = paths.into_iter().find(|(_, path)| path.is_some_and(|path| path.is_relative()));
        if let Some((key, path)) = relative {
            let shown = path.map(|path| path.display().to_string()).unwrap_or_default();
            return Some((key, format!("\"{shown}\" must begin with /: cron and timers start elsewhere")));
        }
        if let Some(what) =
            self.sync.as_ref().and_then(|sync| refuse_other_kinds(Path::new(&sync.store)).err())
        {
            return Some(("sync.store", what));
        }
        let names = [("run.name", &self.run.name), ("run.host", &self.run.host)];
        for (key, name) in names.into_iter().filter_map(|(key, name)| Some((key, name.as_ref()?))) {
            if name.trim().is_empty() || name.contains(char::is_control) || name == ANY_HOST {
                return Some((
                    key,
                    format!("{name:?} can't be a name; take a short word, such as mailserver"),
                ));
            }
        }
        let spans = [("retention.daily", self.retention.daily), ("retention.weekly", self.retention.weekly)];
        if let Some((key, _)) =
            spans.into_iter().find(|(_, span)| span.is_some_and(|span| span.seconds() == 0))
        {
            return Some((
                key,
                "must be longer than nothing: all but the last good ones would go".to_owned(),
            ));
        }
        let ages = [
            ("sync.max_age", self.sync.as_ref().map(|sync| sync.max_age)),
            ("check.max_age", self.check.as_ref().map(|check| check.max_age)),
            ("retention.max_age", self.retention.max_age),
        ];
        let none = ages.into_iter().find(|(_, age)| age.is_some_and(|age| age.seconds() == 0));
        none.map(|(key, _)| {
            (key, "must be longer than nothing: there would be an alarm every night".to_owned())
        })
    }

    /// Returns what of this configuration tells which snapshots are its own; `machine` is this machine's name.
    pub fn configured(&self, machine: &str) -> Configured {
        let stem = || self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let components = self.components.iter().map(|component| {
            let paths =
                component.paths.iter().map(|path| path.get_ref().as_os_str().as_encoded_bytes().to_vec());
            let streams = component.streams.iter().map(|stream| stream.name.get_ref().clone().into_bytes());
            (component.name.get_ref().clone(), paths.chain(streams).collect())
        });
        Configured {
            host: self.run.host.clone().unwrap_or_else(|| machine.to_owned()),
            name: self.run.name.clone().or_else(stem).unwrap_or_default(),
            is_named: self.run.name.is_some(),
            components: components.collect(),
        }
    }

    /// Returns where mailboxes are looked for.
    pub fn mailboxes(&self) -> Where {
        Where {
            component: self.mail.component.as_ref().map(|component| component.get_ref().clone()),
            layout: self.mail.layout.as_ref().map(|it| it.layout.clone()),
        }
    }

    /// Returns what knows all secrets of this configuration.
    pub fn redactor(&self) -> Redactor {
        let mut redactor = Redactor::default();
        for component in &self.components {
            for (name, value) in component.variables() {
                redactor.add_variable(name, value);
            }
        }
        self.notify.add_secrets(&mut redactor);
        redactor
    }

    /// Returns whether the file holds what others must not read.
    pub fn has_secrets(&self) -> bool {
        self.components.iter().any(|component| component.variables().next().is_some())
            || self.notify.has_secrets()
    }
}
