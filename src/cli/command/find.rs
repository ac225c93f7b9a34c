//! `snap find`

use crate::base::entry::quoted;
use crate::cli::args::Find;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, entry_json, local, long, short};
use crate::cli::session::Session;
use crate::op::find::{Pattern, find};
use crate::repo::RepoError;

/// Finds entries by name.
///
/// # Errors
/// As [`find`].
pub fn run(session: &Session, options: &Find) -> Result<Exit, RepoError> {
    let pattern = Pattern::new(&options.pattern)?;
    let repository = session.open()?;
    let all = match options.snapshot.is_empty() {
        true => session.snapshots(&repository)?,
        false => {
            let named = options.snapshot.iter().map(|spec| session.snapshot(&repository, spec));
            named.collect::<Result<_, _>>()?
        }
    };
    let reader = session.reader(&repository)?;
    let mut out = Output::new();
    for snapshot in &all {
        find(&reader, snapshot, &pattern, &mut |path, entry| {
            if session.global.json {
                let mut value = entry_json(path, entry);
                value["snapshot"] = snapshot.id.to_string().into();
                return out.line(value);
            }
            let shown = if options.long { long(path, entry) } else { quoted(path) };
            out.line(format_args!("{}  {}  {shown}", short(snapshot.id), local(snapshot.manifest.time)))
        })?;
    }
    out.finish()?;
    Ok(Exit::Done)
}
