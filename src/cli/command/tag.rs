//! `snap tag`

use serde_json::json;

use crate::base::entry::is_plain_name;
use crate::cli::args::Tag;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, short};
use crate::cli::session::Session;
use crate::job::clock::now;
use crate::op::tag::{Change, tag};
use crate::repo::select::is_reserved;
use crate::repo::{RepoError, Snapshot};

/// What a tag is, for who has typed something else.
pub const NO_TAG: &str = "a tag is text without colon, comma and tilde, a slash stands between names, and latest, daily/…, weekly/… and hex digits alone mean other things";

/// Gives a snapshot other tags, or accepts components of it, and prints its new id.
///
/// # Errors
/// As [`tag`]; [`RepoError::Source`] for what is no tag.
pub fn run(session: &Session, options: &Tag) -> Result<Exit, RepoError> {
    if let Some(tag) = options.add.iter().find(|tag| !is_tag(tag)) {
        let reason = NO_TAG.to_owned();
        return Err(RepoError::Source { path: format!("--add {tag:?}"), reason });
    }
    let repository = session.open()?;
    let _lock = session.lock(&repository)?;
    let snapshot = session.snapshot(&repository, &options.snapshot, &options.owner)?;
    let change =
        Change { add: options.add.clone(), remove: options.remove.clone(), accept: options.accept.clone() };
    let Snapshot { id, manifest } = tag(&repository, &snapshot, &change, now())?;
    let mut out = Output::new();
    if session.global.json {
        out.line(json!({
            "type": "summary",
            "snapshot": id.to_string(),
            "replaced": (id != snapshot.id).then(|| snapshot.id.to_string()),
            "tags": manifest.tags,
            "accepted": manifest.accepted(),
        }))?;
    } else if !session.global.quiet {
        let tags = if manifest.tags.is_empty() { "none".to_owned() } else { manifest.tags.join(", ") };
        let was = if id == snapshot.id { String::new() } else { format!(" (was {})", short(snapshot.id)) };
        let accepted = manifest.accepted();
        let accepted = match accepted.is_empty() {
            true => String::new(),
            false => format!("; right as it is: {}", accepted.join(", ")),
        };
        out.line(format_args!("snapshot {}{was}: tags {tags}{accepted}", short(id)))?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

/// Returns whether a text can be a tag: neither it nor anything in it means something else where snapshots are named,
/// and all that slashes part in it can be names of directories.
pub fn is_tag(text: &str) -> bool {
    let means_more = |c: char| c.is_control() || matches!(c, ':' | '~' | ',');
    !is_reserved(text)
        && !text.contains(means_more)
        && text.split('/').all(|name| is_plain_name(name.as_bytes()))
}
