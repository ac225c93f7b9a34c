//! Components → those that are suddenly something else than their last whole snapshot.
//!
//! A mail disk that is not mounted is an empty directory, and would be backed up with success until retention
//! removes the last snapshot that had mail. So what is still there of the last whole snapshot is counted. On an
//! ordinary night what the walk has [`Seen`] answers that; otherwise both trees are looked at.

mod look;
mod present;
mod said;
mod seen;

use std::os::unix::ffi::OsStrExt;

use jiff::tz::TimeZone;

use crate::base::content::ContentBuf;
use crate::base::entry::Kind;
use crate::base::progress::Progress;
use crate::base::time::Time;
use crate::op::backup::parents::below;
use crate::op::backup::{PartReport, Request, Shrink};
use crate::repo::reader::{Reader, TREE_CACHE_BYTES};
use crate::repo::whose::{Configured, RunKey, Whose, is_ahead};
use crate::repo::writer::Written;
use crate::repo::{RepoError, Repository, Snapshot};
use crate::stage::snapshot::facts::ComponentRules;
use crate::stage::snapshot::{Component, Status};
use crate::stage::tree::Entries;

use look::{Counts, Look};
pub use said::{Finding, Suspected};
pub use seen::{Amount, Seen, Sort};

/// Files, or messages with other content, from which on their number speaks against a component.
const FILES_MIN: u64 = 20;

/// Bytes of files from which on their number speaks against a component.
const BYTES_MIN: u64 = 10_000_000;

/// Bytes by which a stream must be shorter to speak against a component.
const STREAM_BYTES_MIN: u64 = 64 << 10;

/// A component as it was asked for.
struct Asked {
    name: String,
    directory: Vec<u8>,
    sources: Vec<Vec<u8>>,
    streams: Vec<Vec<u8>>,
    shrink: Shrink,
    is_accepted: bool,
}

/// What a run's components are compared with.
pub struct Watch {
    asked: Vec<Asked>,
    rules: Vec<ComponentRules>,
    key: RunKey,
    time: Time,
    dry_run: bool,
}

/// What the run has come to.
pub struct Outcome<'o> {
    /// All snapshots before it, oldest first.
    pub all: &'o [Snapshot],
    /// What each component was compared with while it was read.
    pub parents: &'o [Option<ContentBuf>],
    /// What became of each component.
    pub parts: &'o [PartReport],
    /// What the run wrote.
    pub written: &'o Written,
    /// The new root directory.
    pub root: &'o ContentBuf,
    /// Asked whether to stop.
    pub progress: &'o Progress,
}

/// A component, and the last whole snapshot of it.
struct Case<'c> {
    asked: &'c Asked,
    part: &'c PartReport,
    snapshot: &'c Snapshot,
    old: &'c Component,
    /// What there was; none if that can't be read.
    old_root: Option<ContentBuf>,
    old_streams: Vec<(Vec<u8>, u64)>,
    percent_max: u8,
    /// Whether what the walk has seen does not answer the question.
    is_doubtful: bool,
}

impl Watch {
    /// Notes what is asked for; `rules` is what the manifest is to say of it.
    pub fn new(request: &Request<'_>, rules: Vec<ComponentRules>) -> Self {
        let asked = request.components.iter().map(|component| {
            let streams: Vec<Vec<u8>> = component.streams.iter().map(|stream| stream.name.clone()).collect();
            let paths = component.paths.iter().map(|path| path.as_os_str().as_bytes().to_vec());
            Asked {
                name: component.name.clone(),
                directory: component.directory.clone(),
                sources: paths.chain(streams.iter().cloned()).collect(),
                streams,
                shrink: component.care.shrink,
                is_accepted: component.care.is_accepted,
            }
        });
        let key = RunKey { host: request.host.clone(), run: request.run.clone() };
        Self { asked: asked.collect(), rules, key, time: request.time, dry_run: request.dry_run }
    }

    /// Returns the components that are suspect. What can't be compared goes to `problems`, a line each.
    ///
    /// The reader comes back; it knows the new trees if they had to be looked at.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`], or if what the run wrote can't be found again.
    pub fn judge<'r>(
        &self,
        repository: &'r Repository,
        mut reader: Reader<'r>,
        outcome: &Outcome<'_>,
        problems: &mut Vec<String>,
    ) -> Result<(Reader<'r>, Vec<Suspected>), RepoError> {
        let whole = self.last_whole(outcome.all);
        let mut cases = Vec::new();
        for (number, (asked, part)) in self.asked.iter().zip(outcome.parts).enumerate() {
            let Some((snapshot, old)) = whole.get(number).copied().flatten() else { continue };
            let Shrink::Percent(percent_max) = asked.shrink else { continue };
            if part.status == Status::Failed {
                continue; // there is nothing of it in the snapshot, and that is said
            }
            let parent = outcome.parents.get(number).and_then(Option::as_ref);
            let mut case = Case::new(asked, part, (snapshot, old), percent_max);
            match case.read(&reader, parent) {
                Ok(()) => {}
                Err(error) => problems.push(not_compared(asked, snapshot, &error)?),
            }
            cases.push(case);
        }
        // The new trees are not written by a dry run.
        let can_look = |case: &Case<'_>| case.is_doubtful && (case.has_nothing() || !self.dry_run);
        if cases.iter().any(|case| can_look(case) && !case.has_nothing()) {
            let mut index = reader.into_index();
            outcome.written.add_trees(&mut index)?;
            reader = Reader::new(repository, index, TREE_CACHE_BYTES);
        }
        let mut suspects = Vec::new();
        for mut case in cases {
            let mut findings = case.streams();
            if can_look(&case) {
                match case.look(&reader, outcome) {
                    Ok(found) => findings.extend(found),
                    Err(error) => {
                        case.old_root = None;
                        problems.push(not_compared(case.asked, case.snapshot, &error)?);
                    }
                }
            }
            findings.extend(case.nothing_unread());
            if !findings.is_empty() {
                suspects.push(self.suspected(&case, findings));
            }
        }
        Ok((reader, suspects))
    }

    /// Returns for each component the newest snapshot of the same configuration that has it whole, or if none
    /// has, the newest that has it in part and in which it is not suspect.
    fn last_whole<'s>(&self, all: &'s [Snapshot]) -> Vec<Option<(&'s Snapshot, &'s Component)>> {
        let configured = self.key.run.as_ref().map(|run| Configured {
            host: self.key.host.clone(),
            name: run.clone(),
            is_named: true,
            components: self.asked.iter().map(|asked| (asked.name.clone(), asked.sources.clone())).collect(),
        });
        let manifests = all.iter().map(|snapshot| &snapshot.manifest);
        let whose = Whose::of(manifests, configured.as_ref(), &TimeZone::UTC);
        let own = |ahead: bool| {
            let own = all.iter().enumerate().rev().filter(|(at, _)| whose.key(*at) == Some(&self.key));
            own.map(|(_, own)| own).filter(move |own| is_ahead(own.manifest.time, self.time) == ahead)
        };
        let find = |asked: &Asked, wanted: Status| {
            // One that is dated in the future comes last: whatever it has, it is not the night before.
            own(false).chain(own(true)).find_map(|snapshot| {
                let manifest = &snapshot.manifest;
                let old = manifest.components.iter().find(|old| asked.is_same(old))?;
                let is_good = old.status == wanted && manifest.suspicion(&old.name).is_none();
                is_good.then_some((snapshot, old))
            })
        };
        let rows = self.asked.iter();
        rows.map(|asked| find(asked, Status::Complete).or_else(|| find(asked, Status::Partial))).collect()
    }

    fn suspected(&self, case: &Case<'_>, findings: Vec<Finding>) -> Suspected {
        let old = case.snapshot.manifest.rules();
        let rules_of =
            |rules: &[ComponentRules]| rules.iter().find(|rules| rules.component == case.asked.name).cloned();
        let rules = old.as_deref().and_then(rules_of).zip(rules_of(&self.rules));
        Suspected {
            component: case.asked.name.clone(),
            changed: said::changed(&case.old.sources, &case.asked.sources, rules.as_ref()),
            findings,
            last_whole: case.snapshot.id,
            last_whole_time: case.snapshot.manifest.time,
            is_accepted: case.asked.is_accepted,
        }
    }
}

impl Asked {
    /// Returns whether an older snapshot's component is this one. Where paths lie in the root by their absolute
    /// names, `files` is no more of a name than the paths are.
    fn is_same(&self, old: &Component) -> bool {
        let is_named = !self.directory.is_empty() || old.sources == self.sources;
        old.name == self.name && old.directory == self.directory && is_named
    }
}

fn not_compared(asked: &Asked, snapshot: &Snapshot, error: &RepoError) -> Result<String, RepoError> {
    match error {
        RepoError::Interrupted => Err(RepoError::Interrupted),
        _ => Ok(format!(
            "{} cannot be compared with its last whole snapshot {}: {}",
            asked.name,
            snapshot.id,
            error.chain()
        )),
    }
}

impl<'c> Case<'c> {
    fn new(
        asked: &'c Asked,
        part: &'c PartReport,
        (snapshot, old): (&'c Snapshot, &'c Component),
        percent_max: u8,
    ) -> Self {
        Self {
            asked,
            part,
            snapshot,
            old,
            old_root: None,
            old_streams: Vec::new(),
            percent_max,
            is_doubtful: false,
        }
    }

    /// Reads what there was: the component's own directory, and its streams.
    fn read(&mut self, reader: &Reader<'_>, parent: Option<&ContentBuf>) -> Result<(), RepoError> {
        let root = below(reader, &self.snapshot.manifest.root, &self.asked.directory)?.unwrap_or_default();
        let sources = self.old.sources.iter().map(Vec::as_slice);
        let names: Vec<&[u8]> = sources.filter(|source| !source.starts_with(b"/")).collect();
        if !names.is_empty() {
            let stream = reader.content(root.borrowed())?;
            for entry in Entries::new(&stream) {
                let (_, entry) = entry?;
                if entry.kind == Kind::File && names.contains(&entry.name) {
                    self.old_streams.push((entry.name.to_vec(), entry.size));
                }
            }
        }
        self.is_doubtful = parent != Some(&root) || !self.is_ordinary();
        self.old_root = Some(root);
        Ok(())
    }

    /// Returns whether nothing is there that counts: no message, and no file outside of mailboxes.
    fn has_nothing(&self) -> bool {
        let seen = &self.part.seen;
        self.part.files.saturating_sub(seen.streams.len() as u64 + seen.beside_files) == 0
    }

    /// Returns what there was, streams left out.
    fn had(&self) -> Amount {
        let bytes: u64 = self.old_streams.iter().map(|(_, bytes)| bytes).sum();
        Amount {
            files: self.old.files.saturating_sub(self.old_streams.len() as u64),
            bytes: self.old.bytes.saturating_sub(bytes),
        }
    }

    /// Returns whether what the walk has seen is enough to know that nothing speaks against the component, given
    /// that it was compared with the last whole snapshot. What was not seen again may be anything that counts.
    fn is_ordinary(&self) -> bool {
        let (had, seen) = (self.had(), &self.part.seen);
        if had.files == 0 {
            return true;
        }
        if self.has_nothing() || seen.messages_read_again >= FILES_MIN {
            return false;
        }
        let mut kept = seen.messages_kept;
        kept += seen.others_kept;
        let lost = Amount {
            files: had.files.saturating_sub(kept.files + seen.beside_kept.files),
            bytes: had.bytes.saturating_sub(kept.bytes + seen.beside_kept.bytes),
        };
        !self.is_less(kept, lost) && !self.is_less(seen.messages_kept, lost)
    }

    /// Returns whether so much is lost of what there was that it speaks against the component.
    fn is_less(&self, kept: Amount, lost: Amount) -> bool {
        let is_over = |kept: u64, lost: u64, min: u64| {
            let (kept, lost) = (u128::from(kept), u128::from(lost));
            lost >= u128::from(min) && lost * 100 > (kept + lost) * u128::from(self.percent_max)
        };
        is_over(kept.files, lost.files, FILES_MIN) || is_over(kept.bytes, lost.bytes, BYTES_MIN)
    }

    /// Returns what speaks against the streams.
    fn streams(&self) -> Vec<Finding> {
        let findings = self.old_streams.iter().filter_map(|(name, was)| {
            let now = self.part.seen.streams.iter().find(|(own, _)| own == name).map(|(_, bytes)| *bytes);
            if now.is_none() && self.asked.streams.contains(name) {
                return None; // it failed, and that is said
            }
            let left = now.unwrap_or(0);
            let lost = was.saturating_sub(left);
            let is_over = u128::from(lost) * 100 > u128::from(*was) * u128::from(self.percent_max);
            let is_less = lost >= STREAM_BYTES_MIN && is_over;
            let is_nothing = now == Some(0) && *was > 0;
            (is_less || is_nothing).then(|| Finding::Stream { name: name.clone(), now, was: *was })
        });
        findings.collect()
    }

    /// Returns that nothing is there where there was something, if what there was can't be read but is counted.
    fn nothing_unread(&self) -> Option<Finding> {
        let had = self.had();
        let is_nothing = self.old_root.is_none() && self.has_nothing() && had.files > 0;
        is_nothing.then_some(Finding::Nothing { is_mail: false, had })
    }

    /// Looks at both trees; returns what speaks against the files.
    fn look(&self, reader: &Reader<'_>, outcome: &Outcome<'_>) -> Result<Vec<Finding>, RepoError> {
        let new = match self.has_nothing() {
            true => None,
            false => Some(below(reader, outcome.root, &self.asked.directory)?.unwrap_or_default()),
        };
        let Some(old) = self.old_root.clone().filter(|old| Some(old) != new.as_ref()) else {
            return Ok(Vec::new());
        };
        let streams = self.old_streams.iter().map(|(name, _)| name).chain(&self.asked.streams);
        let look = Look {
            reader,
            progress: outcome.progress,
            old,
            new,
            new_bytes: self.part.bytes,
            streams: streams.cloned().collect(),
        };
        Ok(self.findings(&look.counts(|counts| self.findings(counts).is_empty())?))
    }

    fn findings(&self, counts: &Counts) -> Vec<Finding> {
        let mut findings = Vec::new();
        let is_mail = counts.messages.had().files > 0;
        if self.has_nothing() {
            let had = if is_mail { counts.messages.had() } else { counts.all.had() };
            findings.extend((counts.all.had().files > 0).then_some(Finding::Nothing { is_mail, had }));
            return findings;
        }
        if self.is_less(counts.messages.kept, counts.messages.lost) {
            let (kept, had) = (counts.messages.kept, counts.messages.had());
            findings.push(Finding::Less { is_mail: true, kept, had });
        } else if self.is_less(counts.all.kept, counts.all.lost) {
            findings.push(Finding::Less { is_mail: false, kept: counts.all.kept, had: counts.all.had() });
        }
        findings.extend((counts.rewritten >= FILES_MIN).then_some(Finding::Rewritten(counts.rewritten)));
        findings
    }
}
