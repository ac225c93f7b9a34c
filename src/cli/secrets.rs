//! Where passphrases and identities come from; never from arguments, which anybody can see.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use age::x25519::Identity;

use crate::base::progress::Progress;
use crate::cli::args::Global;
use crate::cli::awaited::Wait;
use crate::cli::prompt;
use crate::repo::RepoError;
use crate::repo::keys::{Passphrase, Secrets, fit_for_new};

/// Longest file with a passphrase or identities that is read, in bytes.
const SECRET_BYTES_MAX: usize = 64 << 10;

/// Passphrase and identities as the command line and environment name them.
pub struct CliSecrets {
    password_file: Option<PathBuf>,
    identity_files: Vec<PathBuf>,
    only_key: Option<String>,
    writer_mark: Option<String>,
    progress: Arc<Progress>,
    known: Mutex<Option<Passphrase>>,
}

fn fail(what: impl Into<String>) -> RepoError {
    RepoError::Passphrase { what: what.into() }
}

impl CliSecrets {
    /// Asks nothing yet. A prompt ends when `progress` says that the program is to stop.
    pub fn new(global: &Global, progress: Arc<Progress>) -> Self {
        Self {
            password_file: global.password_file.clone(),
            identity_files: global.identity.clone(),
            only_key: global.key.clone(),
            writer_mark: global.writer_mark.clone(),
            progress,
            known: Mutex::new(None),
        }
    }

    /// Returns whether the passphrase would be asked for at the terminal.
    pub fn will_prompt(&self) -> bool {
        self.password_file.is_none()
            && self.identity_files.is_empty()
            && !["SNAP_PASSWORD", "SNAP_PASSWORD_COMMAND"].iter().any(|name| is_set(name))
            && std::io::stdin().is_terminal()
    }

    fn ask(&self) -> Result<Option<Passphrase>, RepoError> {
        if let Some(file) = &self.password_file {
            return self.in_file(file).map(Some);
        }
        if let Some(passphrase) = from_environment("SNAP_PASSWORD")? {
            return Ok(Some(passphrase));
        }
        if let Some(passphrase) = self.printed()? {
            return Ok(Some(passphrase));
        }
        match std::io::stdin().is_terminal() {
            true => prompt::ask("Passphrase: ", &self.progress).map(Some),
            false => Ok(None),
        }
    }

    /// Returns a passphrase for a new key: from the named file or variable, or twice from a prompt.
    ///
    /// # Errors
    /// [`RepoError::Passphrase`] if there is none, or it is none that is sure to be typed again.
    pub fn new_passphrase(&self, file: Option<&Path>, variable: &str) -> Result<Passphrase, RepoError> {
        let passphrase = match (file, from_environment(variable)?) {
            (Some(file), _) => self.in_file(file)?,
            (None, Some(passphrase)) => passphrase,
            (None, None) if std::io::stdin().is_terminal() => {
                let passphrase = prompt::ask("New passphrase: ", &self.progress)?;
                if *prompt::ask("The same again: ", &self.progress)? != *passphrase {
                    return Err(fail("the two are not the same; nothing was changed"));
                }
                passphrase
            }
            (None, None) => {
                return Err(fail(format!(
                    "none was given; give it with a password file, {variable}, or at a terminal"
                )));
            }
        };
        fit(&passphrase)
    }

    /// Returns the passphrase for a repository that is being made: from the sources of any passphrase, or twice
    /// from a prompt.
    ///
    /// # Errors
    /// As [`Self::new_passphrase`].
    pub fn first_passphrase(&self) -> Result<Passphrase, RepoError> {
        let is_given = self.password_file.is_some() || is_set("SNAP_PASSWORD");
        let printed = if is_given { None } else { self.printed()? };
        match printed {
            Some(passphrase) => fit(&passphrase),
            None => self.new_passphrase(self.password_file.as_deref(), "SNAP_PASSWORD"),
        }
    }

    /// Returns the first line that the command in `SNAP_PASSWORD_COMMAND` prints; none if there is no command.
    fn printed(&self) -> Result<Option<Passphrase>, RepoError> {
        if !is_set("SNAP_PASSWORD_COMMAND") {
            return Ok(None);
        }
        let command = std::env::var_os("SNAP_PASSWORD_COMMAND").unwrap_or_default();
        let wait = Wait::for_source("SNAP_PASSWORD_COMMAND", &self.progress);
        let text = wait.printed(&command, SECRET_BYTES_MAX)?;
        first_line(text, "what SNAP_PASSWORD_COMMAND printed").map(Some)
    }

    fn in_file(&self, file: &Path) -> Result<Passphrase, RepoError> {
        first_line(self.read_secret(file)?, &file.display().to_string())
    }

    /// Reads a file that holds a secret; it may be a pipe, and is not read beyond any secret's length.
    fn read_secret(&self, file: &Path) -> Result<Passphrase, RepoError> {
        Wait::for_source(&file.display().to_string(), &self.progress).read(file, SECRET_BYTES_MAX)
    }
}

impl Secrets for CliSecrets {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = self.ask()?;
        }
        Ok(known.clone())
    }

    fn only_key(&self) -> Option<&str> {
        self.only_key.as_deref()
    }

    fn writer_mark(&self) -> Option<&str> {
        self.writer_mark.as_deref()
    }

    fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn identities(&self) -> Result<Vec<Identity>, RepoError> {
        let mut identities = Vec::new();
        for path in &self.identity_files {
            let text = self.read_secret(path)?;
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
            {
                let identity = line.parse().map_err(|e: &str| fail(format!("{}: {e}", path.display())))?;
                identities.push(identity);
            }
        }
        Ok(identities)
    }
}

/// Returns whether a variable is set; one that is set and empty counts as not set.
fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

fn from_environment(variable: &str) -> Result<Option<Passphrase>, RepoError> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty()).map(Passphrase::new)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(fail(format!("{variable}: not text"))),
    }
}

fn first_line(text: Passphrase, source: &str) -> Result<Passphrase, RepoError> {
    match text.lines().next() {
        Some(line) if !line.trim_start_matches('\u{feff}').is_empty() => Ok(Passphrase::new(line.to_owned())),
        _ => Err(fail(format!("{source}: its first line is empty"))),
    }
}

/// Takes a passphrase for a new key, wherever it comes from.
fn fit(passphrase: &Passphrase) -> Result<Passphrase, RepoError> {
    fit_for_new(passphrase).map_err(fail)
}
