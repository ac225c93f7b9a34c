//! Mails: what a person needs to know to act, and the ways to send it.

mod cost;
mod steps;
mod suspects;
mod text;
mod transport;

use std::time::Duration;

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::{SmtpTransport, Transport};

use crate::base::text::lines as text_lines;
use crate::job::config::Notify;
use crate::job::log::Log;
use crate::job::notice::transport::{Program, ProgramError};
use crate::stage::command::Command;

pub use cost::cost;
pub use text::{
    Cause, Facts, Failing, Failure, KeptOfTag, Stale, capacity, failure, found, stale, still_running,
    success, test, verb,
};

/// How the subject of a mail begins that somebody must act on.
const URGENT: &[&str] = &["[ALERT]", "[CRITICAL]"];

/// Time that sending one mail may take.
const SENDING_MAX: Duration = Duration::from_secs(60);

/// A mail, before it is addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Its subject.
    pub subject: String,
    /// Its text, UTF-8.
    pub body: String,
}

/// Why a mail was not sent. May be retried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoticeError {
    /// Nobody is configured to be told.
    #[error("nobody to send it to: [notify] has no 'to'")]
    Nobody,
    /// It can't be written down.
    #[error("the mail cannot be made: {0}")]
    Message(String),
    /// The program refused it.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The server refused it.
    #[error("SMTP server: {0}")]
    Smtp(#[from] lettre::transport::smtp::Error),
}

/// Sends a mail to everybody who is to be told. Returns how, for the log.
///
/// # Errors
/// [`NoticeError`].
pub fn send(notify: &Notify, mail: &Mail) -> Result<String, NoticeError> {
    let message = message(notify, mail)?;
    let told: Vec<&str> = notify.to.iter().map(|to| to.get_ref().as_str()).collect();
    let told = told.join(", ");
    match (&notify.sendmail, &notify.smtp) {
        (Some(sendmail), _) => {
            let argv = sendmail.get_ref().iter().map(Into::into).collect();
            let command = Command { argv, timeout: Some(SENDING_MAX), ..Command::default() };
            let program = command.program();
            Program { command }.send(&message)?;
            Ok(format!("to {told} by {program}"))
        }
        (None, Some(url)) => {
            let transport = SmtpTransport::from_url(url.get_ref())?.timeout(Some(SENDING_MAX)).build();
            transport.send(&message)?;
            Ok(format!("to {told} by SMTP"))
        }
        (None, None) => Err(NoticeError::Nobody),
    }
}

/// Sends a mail, without the secrets that the log knows, if anybody is to be told. That it can't be
/// sent is logged, and changes nothing else. Returns whether it was sent.
pub fn tell(notify: &Notify, mail: &Mail, log: &Log) -> bool {
    if !notify.has_mail() {
        return false;
    }
    let body = text_lines(&log.redact(&mail.body)).into_owned();
    let mail = Mail { subject: log.clean(&mail.subject), body };
    let sent = send(notify, &mail);
    match &sent {
        Ok(how) => log.info("NOTIFY", format!("mail \"{}\" sent {how}", mail.subject)),
        Err(e) => log.warning("NOTIFY", format!("mail \"{}\" cannot be sent: {e}", mail.subject)),
    }
    sent.is_ok()
}

/// Shows a mail on standard error, without the secrets that the log knows: nobody took it, and cron may mail it.
pub fn show(mail: &Mail, log: &Log) {
    use std::io::Write;
    let body = text_lines(&log.redact(&mail.body)).into_owned();
    let _ = writeln!(std::io::stderr(), "{}\n\n{body}", log.clean(&mail.subject)); // nobody is left to tell
}

/// Returns whether the server answers; nothing is sent.
///
/// # Errors
/// [`NoticeError::Smtp`].
pub fn greet(url: &str) -> Result<bool, NoticeError> {
    let transport = SmtpTransport::from_url(url)?.timeout(Some(Duration::from_secs(10))).build();
    Ok(transport.test_connection()?)
}

fn message(notify: &Notify, mail: &Mail) -> Result<Message, NoticeError> {
    let bad = |e: &dyn std::fmt::Display| NoticeError::Message(e.to_string());
    let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|e| bad(&e));
    let from = notify.from.as_ref().ok_or(NoticeError::Nobody)?;
    let mut builder = Message::builder().from(mailbox(from.get_ref())?).subject(&mail.subject);
    if notify.to.is_empty() {
        return Err(NoticeError::Nobody);
    }
    for to in &notify.to {
        builder = builder.to(mailbox(to.get_ref())?);
    }
    // So that no holiday notice answers (RFC 3834), and that what is urgent is seen as such (RFC 4021).
    let urgent = [("X-Priority", "1 (Highest)"), ("Importance", "high"), ("Priority", "urgent")];
    let usual = [("X-Priority", "3 (Normal)"), ("Importance", "normal"), ("Priority", "normal")];
    let priority = if URGENT.iter().any(|word| mail.subject.starts_with(word)) { urgent } else { usual };
    for (name, value) in [("Auto-Submitted", "auto-generated")].into_iter().chain(priority) {
        let name = HeaderName::new_from_ascii_str(name);
        builder = builder.raw_header(HeaderValue::new(name, value.to_owned()));
    }
    builder.header(ContentType::TEXT_PLAIN).body(mail.body.clone()).map_err(|e| bad(&e))
}
