//! What a sync refuses before it begins, and what it does not do because it would cost too much.

use std::collections::BTreeMap;

use crate::op::sync::bucket::{Bucket, Standing, hash, judge};
use crate::op::sync::needs::{Needing, Wanted};
use crate::op::sync::{Cost, Options, Report, Request};
use crate::repo::bucket_state::BucketState;
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, LockingStore, Name, Usage, Version};

/// Returns whether the bucket can lock.
///
/// # Errors
/// [`RepoError::Refused`] if it protects nothing and that was not allowed; [`RepoError::Store`].
pub fn refuse_unprotected(remote: &dyn LockingStore, options: &Options) -> Result<bool, RepoError> {
    let location = remote.location();
    let refuse = |what: String| Err(RepoError::Refused { what });
    if options.lock_days == 0 || options.renew_below_days >= options.lock_days {
        return refuse(format!(
            "locks of {} days that are renewed below {} days: a lock must last longer than the floor below which it is renewed",
            options.lock_days, options.renew_below_days
        ));
    }
    let protection = remote.protection()?;
    let is_locking = protection.has_versions && protection.has_locks;
    if !is_locking && !options.allow_unlocked {
        let lacks = if protection.has_versions { "Object Lock" } else { "versioning and Object Lock" };
        return refuse(format!(
            "{location}: the bucket lacks {lacks}, so whoever has these credentials can destroy the copy; make one with Object Lock (scripts/terraform), or allow it with --allow-unlocked"
        ));
    }
    if !protection.expiring_rules.is_empty() && !options.allow_expiry {
        return refuse(format!(
            "{location}: a lifecycle rule ({}) removes current versions by age: old packs hold live mail; remove the rule, or allow it with --allow-expiry",
            protection.expiring_rules.join(", ")
        ));
    }
    if !protection.archiving.is_empty() && !options.allow_expiry {
        return refuse(format!(
            "{location}: what lies there goes into an archive ({}), of which nothing is read before hours have passed, so no clone and no restore works; remove the rule or choose another storage class, or allow it with --allow-expiry",
            protection.archiving.join(", ")
        ));
    }
    Ok(is_locking)
}

/// Refuses a prefix of another repository: where `config` or key files lie, and no version of any is this repository's.
/// Where one is, the prefix is ours, whatever lies on top.
///
/// # Errors
/// [`RepoError::Refused`]; nothing was put. [`RepoError::Store`].
pub fn refuse_anothers(
    repository: &Repository,
    remote: &dyn LockingStore,
    bucket: &Bucket,
    known: &BucketState,
) -> Result<(), RepoError> {
    let is_mark = |name: &Name| matches!(name, Name::Config | Name::Key(_));
    let there: Vec<(&Name, &Version)> = bucket
        .names
        .iter()
        .filter(|(name, _)| is_mark(name))
        .flat_map(|(name, versions)| versions.iter().map(move |version| (name, version)))
        .filter(|(_, version)| !version.is_marker)
        .collect();
    let is_remembered = |(_, version): &(&Name, &Version)| known.until(&version.path, &version.id).is_some();
    if there.is_empty() || there.iter().any(is_remembered) {
        return Ok(());
    }
    let keys = repository.store().list(Folder::Keys)?.into_iter();
    let keys = keys.filter_map(|found| Some((found.name?, found.bytes)));
    for (name, bytes) in keys.chain([(Name::Config, repository.config_bytes().len() as u64)]) {
        let mut local = || hash(repository.store(), &name, bytes).ok();
        let standing = judge(remote, &name, bucket.of(&name), known, &mut local)?;
        if matches!(standing, Standing::Good(_) | Standing::Covered { .. }) {
            return Ok(());
        }
    }
    let location = remote.location();
    Err(RepoError::Refused {
        what: format!(
            "{location}: what lies there is another repository's, as no version of config and of keys/ is of repository {}; nothing was put. Name another prefix (sync.store); if that one is yours and was lost here, 'snap clone {location}' with the administrator's credentials and --repo with an empty directory brings it back",
            repository.id()
        ),
    })
}

/// Says why nothing may be removed from the bucket: deleting rests on knowing what is needed. None if that is known.
pub fn blind(needing: &[Needing], is_in_doubt: bool, report: &Report) -> Option<String> {
    let why = match report.problems.first() {
        _ if needing.is_empty() => "the local repository holds no snapshot".to_owned(),
        Some(problem) if is_in_doubt => format!("{}: {}", problem.path, problem.what),
        _ => return None,
    };
    Some(format!("nothing is removed from the bucket while it is not known what is needed: {why}"))
}

/// Says why nothing may be put, if what the bucket lacks would make it cost more than the limit.
///
/// # Errors
/// [`RepoError::Refused`] if nothing is there yet that could go on being locked.
pub fn over_limit(
    bucket: &Bucket,
    wanted: &BTreeMap<Name, Wanted>,
    request: &Request<'_>,
) -> Result<Option<String>, RepoError> {
    let absent = wanted.iter().filter(|(name, _)| bucket.of(name).is_empty());
    let more: u64 = absent.map(|(_, wanted)| wanted.bytes).sum();
    let (prices, budget) = (&request.options.prices, &request.options.budget);
    let cost = Cost::estimate(prices, bucket.bytes + more, &Usage::default()).total();
    let Some(limit) = budget.limit.filter(|limit| cost > *limit && more > 0) else { return Ok(None) };
    let currency = &prices.currency;
    let what =
        format!("the bucket would cost about {cost:.0} {currency} a month, above the limit of {limit:.0}");
    match bucket.names.is_empty() {
        true => Err(RepoError::Refused { what: format!("{what}; raise the limit") }),
        false => Ok(Some(format!(
            "{what}, so nothing is put; what is there stays locked; raise the limit, or remove what nothing needs with 'snap prune' and 'snap sync --delete'"
        ))),
    }
}
