//! `snap snapshots`

use serde_json::json;

use crate::base::text::one_line;
use crate::cli::args::Snapshots;
use crate::cli::choice::Owner;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, bytes, local, number, rfc3339, short};
use crate::cli::session::Session;
use crate::repo::select::Names;
use crate::repo::whose::{ANY_HOST, RunKey};
use crate::repo::{RepoError, Snapshot};
use crate::stage::snapshot::{Component, Manifest, Status, facts};

/// Lists snapshots, oldest first.
///
/// # Errors
/// As opening the repository.
pub fn run(session: &Session, options: &Snapshots) -> Result<Exit, RepoError> {
    let repository = session.open()?;
    let all = session.snapshots(&repository)?;
    let naming = session.naming(&options.owner)?;
    let names = naming.names(&all);
    let is_shown = |at: &usize| {
        let tags = &all[*at].manifest.tags;
        options.tag.iter().all(|tag| tags.contains(tag)) && is_asked(&options.owner, names.whose.key(*at))
    };
    let shown: Vec<usize> = (0..all.len()).filter(is_shown).collect();
    let skip = options.latest.map_or(0, |latest| shown.len().saturating_sub(latest));
    let shown = &shown[skip..];
    let mut out = Output::new();
    if session.global.json {
        for at in shown {
            let mut row = as_json(&names, *at);
            if options.log {
                row["log"] = log(&all[*at]).into();
            }
            out.line(row)?;
        }
        out.finish()?;
        return Ok(Exit::Done);
    }
    if let Some(what) = names.clock_remark() {
        tracing::warn!("{what}");
    }
    show_table(&mut out, &names, shown, session.global.verbose > 0)?;
    for snapshot in shown.iter().map(|at| &all[*at]).filter(|_| options.log) {
        let log = log(snapshot).unwrap_or_else(|| "no log: it was not made by a configured run".to_owned());
        out.text(&format!("\n{}\n{log}", short(snapshot.id)))?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

/// Returns whether a snapshot is of those that are asked for.
fn is_asked(owner: &Owner, key: Option<&RunKey>) -> bool {
    let is_host = |host: &String| host == ANY_HOST || key.is_some_and(|key| key.host == *host);
    let is_run = |run: &String| key.is_some_and(|key| key.run.as_ref() == Some(run));
    owner.host.as_ref().is_none_or(is_host) && owner.run.as_ref().is_none_or(is_run)
}

/// Shows a row for each snapshot, with the columns that tell something.
fn show_table(
    out: &mut Output,
    names: &Names<'_>,
    shown: &[usize],
    with_made: bool,
) -> Result<(), RepoError> {
    const HEAD: [&str; 9] = ["id", "time", "host", "run", "tags", "components", "files", "size", "marks"];
    let rows: Vec<[String; 9]> = shown.iter().map(|at| row(names, *at, with_made)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let is_told = |column: &usize| widths[*column] > 0 || !matches!(HEAD[*column], "run" | "marks");
    let columns: Vec<usize> = (0..HEAD.len()).filter(is_told).collect();
    let line = |cells: &dyn Fn(usize) -> String| {
        let cells = columns.iter().map(|column| {
            let width = widths[*column].max(HEAD[*column].len());
            match HEAD[*column] {
                "files" | "size" => format!("{:>width$}", cells(*column)),
                _ => format!("{:<width$}", cells(*column)),
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    out.line(line(&|column| HEAD[column].to_owned()))?;
    rows.iter().try_for_each(|row| out.line(line(&|column| row[column].clone())))
}

fn row(names: &Names<'_>, at: usize, with_made: bool) -> [String; 9] {
    let Snapshot { id, manifest } = &names.all[at];
    let files: u64 = manifest.components.iter().map(|component| component.files).sum();
    let size: u64 = manifest.components.iter().map(|component| component.bytes).sum();
    let component = |component: &Component| match (component.status, manifest.suspicion(&component.name)) {
        (Status::Complete, None) => component.name.clone(),
        (Status::Failed, _) | (_, None) => format!("{} ({})", component.name, component.status.word()),
        (_, Some(_)) => format!("{} (suspect)", component.name),
    };
    let components: Vec<String> = manifest.components.iter().map(component).collect();
    let run = names.whose.key(at).and_then(|key| key.run.clone());
    [
        short(id),
        match manifest.made().filter(|_| with_made) {
            Some(made) => format!("{} (made {})", local(manifest.time), local(made)),
            None => local(manifest.time),
        },
        manifest.host.clone(),
        run.unwrap_or_default(),
        manifest.tags.join(","),
        components.join(","),
        number(files),
        bytes(size),
        marks(names, at).join(","),
    ]
    .map(|cell| one_line(&cell).into_owned())
}

/// Returns why names do not stand for a snapshot: `future`, and `part` for one that is no night.
fn marks(names: &Names<'_>, at: usize) -> Vec<&'static str> {
    let marks = [(names.is_ahead(at), "future"), (!names.whose.is_night(at), "part")];
    marks.into_iter().filter(|(is_so, _)| *is_so).map(|(_, mark)| mark).collect()
}

/// Returns the log of the run that made a snapshot.
fn log(snapshot: &Snapshot) -> Option<String> {
    let fact = snapshot.manifest.extra.iter().find(|(name, _)| name == facts::LOG);
    fact.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
}

fn as_json(names: &Names<'_>, at: usize) -> serde_json::Value {
    let snapshot = &names.all[at];
    let manifest = &snapshot.manifest;
    json!({
        "type": "snapshot",
        "id": snapshot.id.to_string(),
        "time": rfc3339(manifest.time),
        "made": manifest.made().map(rfc3339),
        "tags": manifest.tags,
        "host": manifest.host,
        "run": names.whose.key(at).and_then(|key| key.run.clone()),
        "night": names.whose.is_night(at),
        "future": names.is_ahead(at),
        "user": manifest.user,
        "program": manifest.program,
        "parent": manifest.parent.map(|id| id.to_string()),
        "components": manifest.components.iter().map(|component| component_json(manifest, component)).collect::<Vec<_>>(),
        "files": manifest.components.iter().map(|component| component.files).sum::<u64>(),
        "bytes": manifest.components.iter().map(|component| component.bytes).sum::<u64>(),
        "bytes_stored": manifest.totals.bytes_stored,
        "errors": manifest.lacks_total,
        "duration_s": manifest.duration_ms as f64 / 1000.0,
    })
}

fn component_json(manifest: &Manifest, component: &Component) -> serde_json::Value {
    let mut row = json!({
        "name": component.name,
        "status": component.status.word(),
        "attempts": component.attempts,
        "files": component.files,
        "bytes": component.bytes,
    });
    if let Some(reason) = manifest.suspicion(&component.name) {
        row["suspect"] = reason.into();
    }
    row
}
