//! `[[component]]`: what is backed up, and how.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::base::entry::is_plain_name;
use crate::base::patterns::matcher;
use crate::job::config::{Run, Share, Span};
use crate::op::backup;
use crate::stage::command::{Command, TIMEOUT_DEFAULT};

/// Names that the log uses for itself.
const LOG_NAMES: &[&str] = &["INIT", "VERIFY", "PRUNE", "SYNC", "SCAN", "NOTIFY", "MAIN"];

/// A named part of the snapshot.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Its name, and that of its directory in the snapshot.
    pub name: Spanned<String>,
    /// Absolute paths. One directory: its content lies right in the component; several: each lies there by its base name.
    #[serde(default)]
    pub paths: Vec<Spanned<PathBuf>>,
    /// What is left out: patterns as in `.gitignore`.
    #[serde(default)]
    pub exclude: Vec<Spanned<String>>,
    /// Outputs of commands, each a file.
    #[serde(default, rename = "stream")]
    pub streams: Vec<Stream>,
    /// Run before the component is read.
    pub before: Option<Hook>,
    /// Run after it was read.
    pub after: Option<Hook>,
    /// How much of it may be gone since its last whole snapshot before it is suspect; by default half.
    pub max_shrink: Option<Share>,
    /// Whether it can be suspect at all; by default it can.
    #[serde(default = "yes")]
    pub suspect: bool,
}

/// A file of the snapshot that a command writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Its name.
    pub name: Spanned<String>,
    /// Program and arguments; no shell reads them.
    pub command: Spanned<Vec<String>>,
    /// Variables for the command. Their values are secrets.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Longest time that it may take; 6 hours if nothing is said.
    pub timeout: Option<Span>,
    /// Text that the end of its output must hold.
    pub ends_with: Option<String>,
    /// Whether no output at all is fine.
    #[serde(default)]
    pub may_be_empty: bool,
}

/// A command around a component.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Program and arguments; no shell reads them.
    pub command: Spanned<Vec<String>>,
    /// Variables for the command. Their values are secrets.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Longest time that it may take.
    #[serde(default = "ten_minutes")]
    pub timeout: Span,
}

fn yes() -> bool {
    true
}

fn ten_minutes() -> Span {
    Span(std::time::Duration::from_secs(600))
}

/// Where in the text, which key, what is wrong.
pub type Fault = (Range<usize>, String, String);

impl Component {
    /// Checks what no single value tells.
    pub fn check(&self) -> Result<(), Fault> {
        let name = self.name.get_ref();
        let bad = |key: &str, what: String| Err((self.name.span(), key.to_owned(), what));
        let is_name = is_plain_name(name.as_bytes()) && !name.contains(|c: char| c.is_control());
        if !is_name || LOG_NAMES.contains(&name.to_uppercase().as_str()) {
            return bad(
                "name",
                format!("\"{name}\" can't be a component's name; take a short word, such as mail"),
            );
        }
        if self.paths.is_empty() && self.streams.is_empty() {
            return bad("name", format!("component \"{name}\" has neither paths nor a stream"));
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        for (number, path) in self.paths.iter().enumerate() {
            let key = format!("paths[{number}]");
            if !path.get_ref().is_absolute() {
                return Err((path.span(), key, "must be an absolute path".to_owned()));
            }
            let base = path.get_ref().file_name().unwrap_or_default();
            if base.is_empty() && self.paths.len() + self.streams.len() > 1 {
                let what = "has no name to lie under beside other sources: make it a component of its own";
                return Err((path.span(), key, what.to_owned()));
            }
            self.take(base.as_encoded_bytes(), &mut names).or(Err((
                path.span(),
                key,
                "something else of this component has the same base name, and would lie in the same place"
                    .to_owned(),
            )))?;
        }
        for (number, pattern) in self.exclude.iter().enumerate() {
            let line = pattern.get_ref();
            let read = matcher([line]).map(|_| ());
            read.map_err(|e| (pattern.span(), format!("exclude[{number}]"), e.to_string()))?;
        }
        for (number, stream) in self.streams.iter().enumerate() {
            let key = |key: &str| format!("stream[{number}].{key}");
            let name = stream.name.get_ref();
            if !is_plain_name(name.as_bytes()) {
                let what = format!("\"{name}\" is not a name that a file can have");
                return Err((stream.name.span(), key("name"), what));
            }
            let taken = "something else of this component has this name already".to_owned();
            self.take(name.as_bytes(), &mut names).or(Err((stream.name.span(), key("name"), taken)))?;
            named(&stream.command).map_err(|what| (stream.command.span(), key("command"), what))?;
        }
        for (key, hook) in [("before", &self.before), ("after", &self.after)] {
            if let Some(hook) = hook {
                let key = format!("{key}.command");
                named(&hook.command).map_err(|what| (hook.command.span(), key, what))?;
            }
        }
        Ok(())
    }

    /// Takes a name that nothing else of the component may have.
    fn take(&self, name: &[u8], names: &mut Vec<Vec<u8>>) -> Result<(), ()> {
        match names.iter().any(|known| known == name) {
            true => Err(()),
            false => {
                names.push(name.to_vec());
                Ok(())
            }
        }
    }

    /// Returns all variables of its commands.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let streams = self.streams.iter().map(|stream| &stream.environment);
        let hooks = [&self.before, &self.after].into_iter().flatten().map(|hook| &hook.environment);
        streams.chain(hooks).flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns all its commands, each with what it is for.
    pub fn commands(&self) -> impl Iterator<Item = (String, &[String])> {
        let streams =
            self.streams.iter().map(|stream| (stream.name.get_ref().clone(), stream.command.get_ref()));
        let hooks = [("before", &self.before), ("after", &self.after)].into_iter();
        let hooks =
            hooks.filter_map(|(name, hook)| Some((name.to_owned(), hook.as_ref()?.command.get_ref())));
        streams.chain(hooks).map(|(what, command)| (what, command.as_slice()))
    }

    fn shrink(&self) -> backup::Shrink {
        match (self.suspect, self.max_shrink) {
            (false, _) => backup::Shrink::Any,
            (true, Some(Share(percent))) => backup::Shrink::Percent(percent),
            (true, None) => backup::Shrink::default(),
        }
    }

    /// Returns what a backup needs to know of it.
    pub fn to_backup(&self, run: &Run) -> backup::Component {
        let stream = |stream: &Stream| backup::Stream {
            name: stream.name.get_ref().clone().into_bytes(),
            input: backup::Input::Command(command(
                stream.command.get_ref(),
                &stream.environment,
                Some(stream.timeout.unwrap_or(Span(TIMEOUT_DEFAULT))),
            )),
            may_be_empty: stream.may_be_empty,
            ends_with: stream.ends_with.clone(),
        };
        let hook = |hook: &Option<Hook>| {
            hook.as_ref().map(|hook| command(hook.command.get_ref(), &hook.environment, Some(hook.timeout)))
        };
        backup::Component {
            name: self.name.get_ref().clone(),
            directory: self.name.get_ref().clone().into_bytes(),
            paths: self.paths.iter().map(|path| path.get_ref().clone()).collect(),
            streams: self.streams.iter().map(stream).collect(),
            excludes: self.exclude.iter().map(|pattern| pattern.get_ref().clone()).collect(),
            care: backup::Care {
                retries: run.retries,
                delay: run.retry_delay.0,
                before: hook(&self.before),
                after: hook(&self.after),
                shrink: self.shrink(),
                is_accepted: false,
            },
        }
    }
}

fn named(command: &Spanned<Vec<String>>) -> Result<(), String> {
    match command.get_ref().first() {
        Some(program) if !program.is_empty() => Ok(()),
        _ => Err("needs a program, and its arguments each as a text of its own".to_owned()),
    }
}

fn command(argv: &[String], environment: &BTreeMap<String, String>, timeout: Option<Span>) -> Command {
    let variables = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Command {
        argv: argv.iter().map(OsString::from).collect(),
        environment: variables.collect(),
        timeout: timeout.map(|timeout| timeout.0),
    }
}
