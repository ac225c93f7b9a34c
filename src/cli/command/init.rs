//! `snap init`

use crate::cli::args::{Encryption, Init};
use crate::cli::exit::Exit;
use crate::cli::report::Output;
use crate::cli::session::Session;
use crate::job::clock::now;
use crate::repo::config::{self, Choices};
use crate::repo::{RepoError, Repository};
use crate::stage::chunk::ChunkSizes;

/// Makes a repository, and says what to keep.
///
/// # Errors
/// As [`Repository::create`].
pub fn run(session: &Session, options: &Init) -> Result<Exit, RepoError> {
    let bad =
        |path: &str, reason: &str| RepoError::Source { path: path.to_owned(), reason: reason.to_owned() };
    let avg = u32::try_from(options.chunk_avg).ok().and_then(ChunkSizes::around);
    let chunks = avg.ok_or_else(|| bad("--chunk-avg", "must be a power of two from 1KiB to 1MiB"))?;
    let pack_bytes = u32::try_from(options.pack_size).ok().filter(|size| (1 << 20..=1 << 29).contains(size));
    let pack_bytes = pack_bytes.ok_or_else(|| bad("--pack-size", "must be from 1MiB to 512MiB"))?;
    let mut recipients = Vec::new();
    for text in &options.recipient {
        recipients.push(text.parse().map_err(|e: &str| bad(&format!("--recipient {text}"), e))?);
    }
    let encryption = match options.encryption {
        Encryption::Age => config::Encryption::Age,
        Encryption::None => config::Encryption::None,
    };
    if encryption == config::Encryption::None && !recipients.is_empty() {
        return Err(bad("--recipient", "has no use with --encryption none"));
    }
    let passphrase = match encryption == config::Encryption::Age && recipients.is_empty() {
        true => Some(session.secrets.first_passphrase()?),
        false => None,
    };
    let choices = Choices { encryption, chunks, compression: options.compression, pack_bytes };
    let repository = session.with_opening(|opening| {
        Repository::create(opening, choices, passphrase.as_ref(), &recipients, now())
    })?;
    let location = repository.store().location();
    let mut out = Output::new();
    if session.global.json {
        out.line(serde_json::json!({
            "type": "summary",
            "repository": repository.id().to_string(),
            "location": location,
            "encryption": match encryption { config::Encryption::Age => "age", config::Encryption::None => "none" },
            "writer_mark": repository.writer_keys().shown_mark(),
            "writer_secret": repository.secret_file().display().to_string(),
        }))?;
        out.finish()?;
        return Ok(Exit::Done);
    }
    if session.global.quiet {
        return Ok(Exit::Done);
    }
    out.line(format_args!("repository {} made in {location}", repository.id()))?;
    out.line(format_args!(
        "  writer secret  {} (this machine can back up with no passphrase)",
        repository.secret_file().display()
    ))?;
    out.line(format_args!(
        "  writer mark    {} (write it down: it tells this repository from one that somebody puts in its place)",
        repository.writer_keys().shown_mark()
    ))?;
    match (encryption, recipients.is_empty()) {
        (config::Encryption::None, _) => {
            out.line("  encryption     none: whoever has the disk reads everything")?;
        }
        (config::Encryption::Age, true) => {
            out.line(format_args!("  key            {location}/keys, wrapped by your passphrase"))?;
            out.line("  keep offline   the passphrase, and a copy of the keys directory or the output of 'snap key export':")?;
            out.line("                 without them nobody can read the backups, and nobody can help")?;
        }
        (config::Encryption::Age, false) => {
            out.line("  key            none here: content is sealed to the recipients you named")?;
            out.line("  keep offline   their age identities: without one nobody can read the backups, and nobody can help")?;
        }
    }
    out.finish()?;
    Ok(Exit::Done)
}
