//! `snap mail`

mod find;
mod log;
mod show;
mod users;

use crate::cli::exit::Exit;
use crate::cli::mail::Mail;
use crate::cli::report::tell;
use crate::cli::session::Session;
use crate::op::mail::boxes::{Unseen, Where};
use crate::repo::RepoError;

/// Answers what is asked about messages.
///
/// # Errors
/// What the verb meets.
pub fn run(session: &Session, options: &Mail) -> Result<Exit, RepoError> {
    match options {
        Mail::Users(options) => users::run(session, options),
        Mail::Log(options) => log::run(session, options),
        Mail::Diff(options) => log::diff(session, options),
        Mail::Find(options) => find::run(session, options),
        Mail::Show(options) => show::run(session, options),
    }
}

/// Returns where mailboxes are looked for: as the configuration says, if one speaks of the repository.
fn places(session: &Session) -> Result<Where, RepoError> {
    Ok(session.own_config()?.map(|config| config.mailboxes()).unwrap_or_default())
}

/// Says what can't be seen.
fn tell_unseen(unseen: &[Unseen]) {
    unseen.iter().for_each(|it| tell(format_args!("snap: {}: {}", it.what, it.reason)));
}

/// The error that nobody has such a mailbox.
fn no_mailbox(user: &str, near: Option<String>) -> RepoError {
    let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let reason = format!(
        "no night has it{near} ('snap mail users' lists those of a night, [mail] layout says where they lie)"
    );
    RepoError::Source { path: format!("mailbox {user}"), reason }
}
