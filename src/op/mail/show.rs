//! One message → its bytes, or what people read in it.

use std::io::Write;

use crate::base::content::refs;
use crate::op::mail::find::Hit;
use crate::op::mail::head::head;
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::stage::message::body::{Body, read};
use crate::stage::message::header::fields;
use crate::stage::message::wrapping;

/// Longest message that is shown, in bytes; its bytes can be written however many they are.
const SHOWN_BYTES_MAX: u64 = 64 << 20;

/// Fields that are shown, in this order.
const FIELDS: [&str; 6] = ["From", "To", "Cc", "Date", "Subject", "Message-ID"];

/// Most fields of one name that are shown.
const FIELDS_MAX: usize = 10;

/// What people read in a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Names and texts of fields.
    pub header: Vec<(&'static str, String)>,
    /// Its text and its attachments.
    pub body: Body,
}

/// Reads a message. Memory: its length, 64 MiB at most.
///
/// # Errors
/// [`RepoError::Locked`] without the passphrase; [`RepoError::Source`] if it is compressed or enciphered; what reading meets.
pub fn show(reader: &Reader<'_>, hit: &Hit) -> Result<Shown, RepoError> {
    let bytes = head(reader, &hit.message.content, SHOWN_BYTES_MAX)?;
    if let Some(wrapping) = wrapping::of(&bytes) {
        let reason = format!("is {}: --eml writes its bytes as they are", wrapping.reason());
        return Err(fail(hit, reason));
    }
    let field = |name: &'static str| {
        fields(&bytes)
            .filter(move |field| field.is(name))
            .take(FIELDS_MAX)
            .map(move |field| (name, field.text()))
    };
    let header = FIELDS.into_iter().flat_map(field).collect();
    let mut body = read(&bytes);
    body.is_cut |= bytes.len() as u64 >= SHOWN_BYTES_MAX;
    Ok(Shown { header, body })
}

/// Writes a message's bytes, each chunk verified before it is written.
///
/// # Errors
/// [`RepoError::Locked`] without the passphrase; [`RepoError::Source`] if it has holes, or `out` fails; what reading meets: then
/// `out` has the bytes before it.
pub fn write(reader: &Reader<'_>, hit: &Hit, out: &mut dyn Write) -> Result<(), RepoError> {
    if hit.message.is_sparse {
        return Err(fail(hit, "has holes, which no message has: 'snap cat' writes it".to_owned()));
    }
    let written = |e: std::io::Error| fail(hit, format!("output: {e}"));
    for chunk in refs(&reader.flatten(hit.message.content.borrowed())?) {
        out.write_all(&reader.chunk(chunk)?).map_err(written)?;
    }
    out.flush().map_err(written)
}

fn fail(hit: &Hit, reason: String) -> RepoError {
    RepoError::Source { path: crate::base::entry::quoted(&hit.path), reason }
}
