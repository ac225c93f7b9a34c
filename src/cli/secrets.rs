//! Where passphrases and identities come from; never from arguments, which anybody can see.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use age::x25519::Identity;

use crate::repo::RepoError;
use crate::repo::keys::{Passphrase, Secrets};

/// Shortest passphrase that is taken for a new key, in characters.
const PASSPHRASE_CHARS_MIN: usize = 8;

/// Passphrase and identities as the command line and environment name them.
pub struct CliSecrets {
    password_file: Option<PathBuf>,
    identity_files: Vec<PathBuf>,
    known: Mutex<Option<Passphrase>>,
}

fn fail(what: impl Into<String>) -> RepoError {
    RepoError::Passphrase { what: what.into() }
}

impl CliSecrets {
    /// Asks nothing yet.
    pub fn new(password_file: Option<PathBuf>, identity_files: Vec<PathBuf>) -> Self {
        Self { password_file, identity_files, known: Mutex::new(None) }
    }

    /// Returns whether the passphrase would be asked for at the terminal.
    pub fn will_prompt(&self) -> bool {
        self.password_file.is_none()
            && self.identity_files.is_empty()
            && ["SNAP_PASSWORD", "SNAP_PASSWORD_COMMAND"].iter().all(|name| std::env::var_os(name).is_none())
            && std::io::stdin().is_terminal()
    }

    fn ask(&self) -> Result<Option<Passphrase>, RepoError> {
        if let Some(file) = &self.password_file {
            return first_line(file).map(Some);
        }
        if let Some(passphrase) = from_environment("SNAP_PASSWORD")? {
            return Ok(Some(passphrase));
        }
        if let Some(command) = std::env::var_os("SNAP_PASSWORD_COMMAND").filter(|command| !command.is_empty())
        {
            let output = Command::new("sh")
                .arg("-c")
                .arg(&command)
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output();
            let output = output.map_err(|e| fail(format!("SNAP_PASSWORD_COMMAND: {e}")))?;
            if !output.status.success() {
                return Err(fail(format!("SNAP_PASSWORD_COMMAND failed: {}", output.status)));
            }
            let text = Passphrase::new(
                String::from_utf8(output.stdout).map_err(|_| fail("SNAP_PASSWORD_COMMAND: not text"))?,
            );
            return Ok(Some(Passphrase::new(text.lines().next().unwrap_or_default().to_owned())));
        }
        match std::io::stdin().is_terminal() {
            true => prompt("Passphrase: ").map(Some),
            false => Ok(None),
        }
    }

    /// Returns a passphrase for a new key: from the named file or variable, or twice from a prompt.
    ///
    /// # Errors
    /// [`RepoError::Passphrase`] if there is none, or it is too short.
    pub fn new_passphrase(file: Option<&Path>, variable: &str) -> Result<Passphrase, RepoError> {
        let passphrase = match (file, from_environment(variable)?) {
            (Some(file), _) => first_line(file)?,
            (None, Some(passphrase)) => passphrase,
            (None, None) if std::io::stdin().is_terminal() => {
                let passphrase = prompt("New passphrase: ")?;
                if *prompt("The same again: ")? != *passphrase {
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
        match passphrase.chars().count() >= PASSPHRASE_CHARS_MIN {
            true => Ok(passphrase),
            false => Err(fail(format!("too short: {PASSPHRASE_CHARS_MIN} characters at least"))),
        }
    }

    /// Returns the passphrase for a repository that is being made.
    ///
    /// # Errors
    /// As [`Self::new_passphrase`].
    pub fn first_passphrase(&self) -> Result<Passphrase, RepoError> {
        let is_given = self.password_file.is_some() || std::env::var_os("SNAP_PASSWORD").is_some();
        if !is_given && std::env::var_os("SNAP_PASSWORD_COMMAND").is_some() {
            return self.ask()?.ok_or_else(|| fail("SNAP_PASSWORD_COMMAND gave none"));
        }
        Self::new_passphrase(self.password_file.as_deref(), "SNAP_PASSWORD")
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

    fn identities(&self) -> Result<Vec<Identity>, RepoError> {
        let mut identities = Vec::new();
        for path in &self.identity_files {
            let text = fs::read_to_string(path).map_err(|e| fail(format!("{}: {e}", path.display())))?;
            let text = Passphrase::new(text);
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
            {
                let identity = line.parse().map_err(|e: &str| fail(format!("{}: {e}", path.display())))?;
                identities.push(identity);
            }
        }
        Ok(identities)
    }
}

fn from_environment(variable: &str) -> Result<Option<Passphrase>, RepoError> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(Passphrase::new(text))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(fail(format!("{variable}: not text"))),
    }
}

fn first_line(file: &Path) -> Result<Passphrase, RepoError> {
    let text = fs::read_to_string(file).map_err(|e| fail(format!("{}: {e}", file.display())))?;
    let text = Passphrase::new(text);
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Passphrase::new(line.to_owned())),
        _ => Err(fail(format!("{}: its first line is empty", file.display()))),
    }
}

fn prompt(text: &str) -> Result<Passphrase, RepoError> {
    rpassword::prompt_password(text).map(Passphrase::new).map_err(|e| fail(e.to_string()))
}
