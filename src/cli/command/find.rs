//! `snap find`

use crate::base::entry::{Entry, quoted};
use crate::base::id::SnapshotId;
use crate::cli::args::Find;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, entry_json, local, long, short};
use crate::cli::session::Session;
use crate::op::find::{Pattern, find};
use crate::repo::RepoError;

/// Finds entries by name. Directories that can't be read are named, and the rest is searched.
///
/// # Errors
/// As [`find`].
pub fn run(session: &Session, options: &Find) -> Result<Exit, RepoError> {
    let pattern = Pattern::new(&options.pattern)?;
    let repository = session.open()?;
    let all = match options.snapshot.is_empty() {
        true => session.snapshots(&repository)?,
        false => {
            let named = options
                .snapshot
                .iter()
                .map(|spec| session.snapshot_to_look_at(&repository, spec, &options.owner));
            named.collect::<Result<_, _>>()?
        }
    };
    let reader = session.reader(&repository)?;
    let mut out = Output::new();
    let mut is_whole = true;
    for snapshot in &all {
        let mut each = |path: &[u8], entry: &Entry<'_>| {
            if session.global.json {
                let mut value = entry_json(path, entry);
                value["snapshot"] = snapshot.id.to_string().into();
                return out.line(value);
            }
            let shown = if options.long { long(path, entry) } else { quoted(path) };
            out.line(format_args!("{}  {}  {shown}", short(snapshot.id), local(snapshot.manifest.time)))
        };
        find(&reader, snapshot, &pattern, &mut each, &mut |path, error| {
            is_whole = false;
            tell_damaged(snapshot.id, path, error);
        })?;
    }
    out.finish()?;
    Ok(if is_whole { Exit::Done } else { Exit::Partial })
}

/// Says which directory of a snapshot can't be read, on standard error.
pub fn tell_damaged(snapshot: SnapshotId, path: &[u8], error: &RepoError) {
    let (snapshot, error) = (short(snapshot), error.chain());
    let path = if path.is_empty() { "/".to_owned() } else { quoted(path) };
    tracing::error!("{snapshot}:{path}: directory cannot be read: {error}");
}
