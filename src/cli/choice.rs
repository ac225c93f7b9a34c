//! A snapshot's name, as it was typed → the snapshot, with what stands in for what it lacks; and what is said of it.

use clap::Args;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::base::entry::quoted;
use crate::base::id::SnapshotId;
use crate::cli::report::{counted, rfc3339, short, tell};
use crate::cli::session::{Session, host_name};
use crate::job::clock::now;
use crate::job::config::Config;
use crate::repo::reader::Reader;
use crate::repo::scope::Asked;
use crate::repo::select::{By, Chosen, Names, Naming};
use crate::repo::stand_in::{Lost, Missing, Taken, fault, is_in, is_root, put_together};
use crate::repo::whose::Own;
use crate::repo::{RepoError, Repository, Snapshot};
use crate::stage::snapshot::{Component, Status};

/// Rows of what a component lacks that are shown.
const LOST_SHOWN_MAX: usize = 5;

/// Whose snapshots are meant.
#[derive(Clone, Debug, Default, Args)]
pub struct Owner {
    /// Names stand for snapshots of this configuration [default: the one at hand, or the only one]
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// Names stand for snapshots of this machine, or of "any" [default: the configured one, or the only one]
    #[arg(long, value_name = "NAME|any")]
    pub host: Option<String>,
}

/// Which snapshot is looked at, and whether others complete it.
#[derive(Clone, Debug, Default, Args)]
pub struct Choosing {
    /// Whose snapshots are meant.
    #[command(flatten)]
    pub owner: Owner,
    /// The snapshot as it is: nothing of an earlier one in place of what could not be backed up
    #[arg(long)]
    pub as_is: bool,
}

impl Owner {
    /// Returns what is asked for.
    pub fn asked(&self) -> Asked {
        Asked { run: self.run.clone(), host: self.host.clone() }
    }
}

/// What is wanted of a snapshot.
#[derive(Clone, Copy)]
pub struct Wanted<'w> {
    /// The snapshot's name.
    pub spec: &'w str,
    /// A path in it; empty for all.
    pub path: &'w [u8],
    /// Components; all if none are named.
    pub components: &'w [String],
    /// Whose snapshots are meant, and how.
    pub choosing: &'w Choosing,
}

impl Wanted<'_> {
    fn asks_for(&self, component: &Component) -> bool {
        match self.components.is_empty() {
            true => is_root(self.path) || is_in(self.path, &component.directory),
            false => self.components.contains(&component.name),
        }
    }

    /// Returns whether it is said what is wanted, not just all of it.
    fn is_part(&self) -> bool {
        !self.components.is_empty() || !is_root(self.path)
    }
}

/// A component that comes from another snapshot.
struct Source {
    taken: Taken,
    id: SnapshotId,
    shown: String,
    time: String,
}

/// The snapshot that is meant.
pub struct Choice {
    /// It, with what stands in for what it lacks.
    pub snapshot: Snapshot,
    shown: String,
    is_exact: bool,
    taken: Vec<Source>,
    missing: Vec<(Missing, Vec<String>)>,
    lost: Vec<(Lost, Option<String>)>,
}

impl Session {
    /// Returns what names go by. In the configured copy in a bucket they mean the same as in the repository.
    ///
    /// # Errors
    /// As [`Self::own_config`].
    pub fn naming(&self, owner: &Owner) -> Result<Naming, RepoError> {
        let is_copy = |config: &&Config| {
            let store = config.sync.as_ref().map(|sync| sync.store.as_str());
            store.is_some() && store == self.global.repo.as_ref().and_then(|repo| repo.to_str())
        };
        let own = self.own_config()?.or_else(|| self.config().ok().flatten().filter(is_copy));
        let configured = own.map(|config| config.configured(&host_name()));
        Ok(Naming { configured, asked: owner.asked(), zone: TimeZone::system(), clock: now })
    }

    /// Returns the nights that are meant, oldest first.
    ///
    /// # Errors
    /// [`RepoError::NoSnapshot`] if it is not known whose nights are meant; [`RepoError::Store`].
    pub fn nights(&self, repository: &Repository, owner: &Owner) -> Result<Vec<Snapshot>, RepoError> {
        let all = self.snapshots(repository)?;
        let naming = self.naming(owner)?;
        let nights = naming.names(&all).nights();
        let nights = nights.map_err(|what| RepoError::NoSnapshot { spec: "nights".to_owned(), what })?;
        let is_meant = |(place, snapshot)| nights.binary_search(&place).is_ok().then_some(snapshot);
        Ok(all.into_iter().enumerate().filter_map(is_meant).collect())
    }

    /// Returns the snapshot that `spec` names, as it is.
    ///
    /// # Errors
    /// [`RepoError::NoSnapshot`].
    pub fn snapshot(
        &self,
        repository: &Repository,
        spec: &str,
        owner: &Owner,
    ) -> Result<Snapshot, RepoError> {
        let all = self.snapshots(repository)?;
        let naming = self.naming(owner)?;
        let names = naming.names(&all);
        let chosen = choose(&names, spec)?;
        Ok(all[chosen.at].clone())
    }

    /// As [`Self::snapshot`], for who looks inside: says which of its components are not usable.
    ///
    /// # Errors
    /// [`RepoError::NoSnapshot`].
    pub fn snapshot_to_look_at(
        &self,
        repository: &Repository,
        spec: &str,
        owner: &Owner,
    ) -> Result<Snapshot, RepoError> {
        let snapshot = self.snapshot(repository, spec, owner)?;
        for component in &snapshot.manifest.components {
            if let Some(why) = fault(&snapshot.manifest, component) {
                tracing::warn!("{} {why} in {}", component.name, short(snapshot.id));
            }
        }
        Ok(snapshot)
    }

    /// Returns the snapshot that is wanted, and what reads it: `reader`, who knows how it was put together. Says on
    /// standard error which of its components come from others, and what is missing.
    ///
    /// # Errors
    /// [`RepoError::NoSnapshot`]; [`RepoError::Source`] if what is wanted by name is not in it and nothing stands in for it;
    /// what reading a directory meets.
    pub fn choose<'r>(
        &self,
        repository: &Repository,
        reader: Reader<'r>,
        wanted: Wanted<'_>,
    ) -> Result<(Reader<'r>, Choice), RepoError> {
        let all = self.snapshots(repository)?;
        let naming = self.naming(&wanted.choosing.owner)?;
        let names = naming.names(&all);
        let chosen = choose(&names, wanted.spec)?;
        let (taken, missing) = names.stand_ins(chosen, wanted.choosing.as_is);
        let is_exact = chosen.by == By::Id || wanted.choosing.as_is;
        let components = &all[chosen.at].manifest.components;
        for name in wanted.components {
            if !components.iter().any(|component| component.name == *name) {
                return Err(no_component(&names, chosen, name));
            }
        }
        let asked = |name: &str| components.iter().any(|own| own.name == name && wanted.asks_for(own));
        for missing in missing.iter().filter(|missing| asked(&missing.component)) {
            let mut own = components.iter().filter(|own| own.name == missing.component);
            let is_there = is_exact && own.any(|own| own.status != Status::Failed);
            if wanted.is_part() && !is_there {
                let reason =
                    format!("{} in {}; {}", missing.why, names.shown(chosen.at), elsewhere(&names, missing));
                return Err(RepoError::Source { path: format!("component {}", missing.component), reason });
            }
        }
        let is_near = |path: &[u8]| is_below(path, wanted.path) || is_below(wanted.path, path);
        let lost = names.lost(&reader, chosen, &taken, |component| wanted.asks_for(component), is_near)?;
        let (snapshot, made_up) = put_together(&reader, &all, chosen, &taken)?;
        let choice = Choice {
            snapshot,
            shown: names.shown(chosen.at),
            is_exact,
            taken: taken.into_iter().filter(|it| asked(&it.component)).map(|it| source(&names, it)).collect(),
            missing: missing
                .into_iter()
                .filter(|it| asked(&it.component))
                .map(|it| {
                    let shown = it.elsewhere.iter().map(|at| names.shown(*at)).collect();
                    (it, shown)
                })
                .collect(),
            lost: lost
                .into_iter()
                .map(|it| {
                    let shown = it.elsewhere.map(|at| names.shown(at));
                    (it, shown)
                })
                .collect(),
        };
        choice.tell();
        Ok((reader.with_made_up(made_up), choice))
    }
}

fn source(names: &Names<'_>, taken: Taken) -> Source {
    let other = &names.all[taken.from];
    Source { id: other.id, shown: names.shown(taken.from), time: rfc3339(other.manifest.time), taken }
}

/// Returns what a name stands for; says what is odd about names here.
fn choose(names: &Names<'_>, spec: &str) -> Result<Chosen, RepoError> {
    let chosen = names.select(spec)?;
    if chosen.by != By::Id {
        let own = names.whose.own().filter(|own| own.renamed.is_some() || !own.strange.is_empty());
        let remarks = [names.clock_remark(), own.and_then(Own::remark)];
        remarks.into_iter().flatten().for_each(|what| tracing::warn!("{what}"));
    }
    Ok(chosen)
}

fn no_component(names: &Names<'_>, chosen: Chosen, name: &str) -> RepoError {
    let there: Vec<&str> =
        names.all[chosen.at].manifest.components.iter().map(|component| component.name.as_str()).collect();
    let elsewhere = names.with_component(chosen, name);
    let elsewhere = elsewhere.map(|at| format!("; {} has it: name that one by its id", names.shown(at)));
    let reason = format!(
        "no such component in {}; it has: {}{}",
        names.shown(chosen.at),
        there.join(", "),
        elsewhere.unwrap_or_default()
    );
    RepoError::Source { path: format!("--component {name}"), reason }
}

fn elsewhere(names: &Names<'_>, missing: &Missing) -> String {
    has_it(&missing.elsewhere.iter().map(|at| names.shown(*at)).collect::<Vec<_>>())
}

fn has_it(shown: &[String]) -> String {
    match shown {
        [] => "no other snapshot here has it".to_owned(),
        [one] => format!("{one} has it: name that one by its id"),
        several => format!("{} have it: name one by its id", several.join(" and ")),
    }
}

/// Returns whether a path is, or lies below, another one.
fn is_below(path: &[u8], above: &[u8]) -> bool {
    let names = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
    };
    names(path).starts_with(&names(above))
}

impl Choice {
    /// Returns whether something of what is wanted could not be backed up, and nothing stands in for it.
    pub fn is_short(&self) -> bool {
        !self.missing.is_empty() || !self.lost.is_empty()
    }

    /// Returns whether components that are wanted are missing, though the snapshot was not wanted as it is.
    pub fn is_missing_some(&self) -> bool {
        !self.is_exact && !self.missing.is_empty()
    }

    /// Returns the snapshot that what lies at a path comes from; none if it is the chosen one.
    pub fn taken_from(&self, path: &[u8]) -> Option<SnapshotId> {
        self.taken.iter().find(|it| is_in(path, &it.taken.directory)).map(|it| it.id)
    }

    /// Returns the snapshots that components come from, for JSON.
    pub fn taken_json(&self) -> Value {
        let row = |it: &Source| {
            json!({
                "component": it.taken.component, "snapshot": it.id.to_string(), "time": it.time,
                "reason": it.taken.why,
            })
        };
        self.taken.iter().map(row).collect()
    }

    /// Returns what is missing, for JSON.
    pub fn missing_json(&self) -> Value {
        let row = |(it, shown): &(Missing, Vec<String>)| json!({ "component": it.component, "reason": it.why, "elsewhere": shown });
        self.missing.iter().map(row).collect()
    }

    /// Refuses to remove what the snapshot does not have where that comes from an earlier one, or is suspect: the target
    /// may hold the only copy of what came since.
    ///
    /// # Errors
    /// [`RepoError::Source`].
    pub fn check_delete(&self) -> Result<(), RepoError> {
        let taken = self.taken.iter().map(|it| (&it.taken.component, format!("comes from {}", it.shown)));
        let missing = self.missing.iter().map(|(it, _)| (&it.component, it.why.clone()));
        let Some((component, why)) = taken.chain(missing).next() else { return Ok(()) };
        let reason = format!(
            "component {component} {why}, and the target may hold the only copy of what is newer; leave out --delete, or name a snapshot that is complete by its id"
        );
        Err(RepoError::Source { path: "--delete".to_owned(), reason })
    }

    /// Returns the error in place of that a path is not there, if it could not be backed up.
    pub fn explain(&self, path: &[u8], error: RepoError) -> RepoError {
        let RepoError::NoPath { path: shown, .. } = &error else { return error };
        let Some((lost, elsewhere)) = self.lost.iter().find(|(lost, _)| is_below(path, &lost.path)) else {
            return error;
        };
        let elsewhere: Vec<String> = elsewhere.iter().cloned().collect();
        let reason =
            format!("could not be backed up in {}: {}; {}", self.shown, lost.reason, has_it(&elsewhere));
        RepoError::Source { path: shown.clone(), reason }
    }

    /// Says what comes from where, and what is missing, also to who wants to hear only of what went wrong.
    fn tell(&self) {
        let line = |text: String| tell(format_args!("snap: {text}"));
        for Source { taken, shown, .. } in &self.taken {
            line(format!("{} {} in {}: taken from {shown}", taken.component, taken.why, self.shown));
        }
        for (missing, shown) in &self.missing {
            line(format!("{} {} in {}; {}", missing.component, missing.why, self.shown, has_it(shown)));
        }
        for (lost, elsewhere) in self.lost.iter().take(LOST_SHOWN_MAX) {
            let elsewhere = elsewhere.as_ref().map(|shown| format!("; {shown} has it")).unwrap_or_default();
            line(format!("{} could not be backed up ({}){elsewhere}", quoted(&lost.path), lost.reason));
        }
        if let Some(more) = self.lost.len().checked_sub(LOST_SHOWN_MAX).filter(|more| *more > 0) {
            line(format!("and {} more could not be backed up", counted(more as u64, "entry", "entries")));
        }
    }
}
