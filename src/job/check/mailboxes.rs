//! `config check`: which mailboxes the newest night has, by the configured layout or guessed.

use jiff::tz::TimeZone;

use crate::job::check::{Surroundings, Table};
use crate::job::config::{Config, Level};
use crate::op::mail::boxes::{Finder, Found};
use crate::repo::index::Index;
use crate::repo::reader::Reader;
use crate::repo::whose::Whose;
use crate::repo::{RepoError, Repository};

/// Memory for frames, in bytes.
const CACHE_BYTES: usize = 8 << 20;

/// Says what `[mail]` is taken for; nothing where there is neither a mailbox nor that section.
pub fn look(config: &Config, around: &Surroundings<'_>, repository: &Repository, table: &mut Table) {
    let mail = &config.mail;
    let is_said = mail.component.is_some() || mail.layout.is_some();
    let found = match newest(config, around, repository) {
        Ok(Some(found)) => found,
        Ok(None) if is_said => {
            return table.row(Level::Info, "mail", "no night to look for mailboxes in yet");
        }
        Ok(None) => return,
        Err(error) => return table.row(Level::Warning, "mail", error.chain()),
    };
    let how = match &mail.layout {
        Some(layout) => format!("layout {}", layout.text),
        None => "guessed from where cur/ lies".to_owned(),
    };
    let place =
        mail.component.as_ref().map_or_else(String::new, |it| format!(" in component {}", it.get_ref()));
    match found.mailboxes.as_slice() {
        [] if is_said => {
            let detail = format!("{how}{place}: no mailbox lies there in the newest night");
            table.row(Level::Warning, "mail", detail);
        }
        [] => {}
        [first, ..] => {
            let count = found.mailboxes.len();
            let what = if count == 1 { "mailbox" } else { "mailboxes" };
            table.row(Level::Info, "mail", format!("{how}{place}: {count} {what}, such as {}", first.user));
        }
    }
}

fn newest(
    config: &Config,
    around: &Surroundings<'_>,
    repository: &Repository,
) -> Result<Option<Found>, RepoError> {
    let all = repository.snapshots()?.all;
    let configured = config.configured(around.host);
    let manifests = all.iter().map(|snapshot| &snapshot.manifest);
    let whose = Whose::of(manifests, Some(&configured), &TimeZone::system());
    let Some(own) = whose.own() else { return Ok(None) };
    let is_own = |at: &usize| whose.key(*at) == Some(&own.key) && whose.is_night(*at);
    let Some(at) = (0..all.len()).rev().find(is_own) else { return Ok(None) };
    let reader = Reader::new(repository, Index::open_to_read(repository)?, CACHE_BYTES);
    Finder::new(&reader, &config.mailboxes()).all(&all[at]).map(Some)
}
