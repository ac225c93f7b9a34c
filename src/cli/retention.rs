//! What `snap prune` takes on the command line.

use clap::Args;

use crate::base::units::{parse_duration, parse_size};
use crate::cli::choice::Owner;
use crate::cli::values::{percent, span, tag_span};
use crate::op::prune::UNUSED_PERCENT_MAX;

/// Heading of the rules of retention.
const RULES: &str = "Rules: a snapshot stays if one of them keeps it";

/// `prune`
#[derive(Debug, Args)]
pub struct Prune {
    /// Keep the newest N
    #[arg(long, value_name = "N", default_value = "0", help_heading = RULES)]
    pub keep_last: u32,
    /// Keep one of each of the newest N days that have snapshots
    #[arg(long, value_name = "N", default_value = "0", help_heading = RULES)]
    pub keep_daily: u32,
    /// Keep one of each of the newest N weeks
    #[arg(long, value_name = "N", default_value = "0", help_heading = RULES)]
    pub keep_weekly: u32,
    /// Keep one of each of the newest N months
    #[arg(long, value_name = "N", default_value = "0", help_heading = RULES)]
    pub keep_monthly: u32,
    /// Keep one of each of the newest N years
    #[arg(long, value_name = "N", default_value = "0", help_heading = RULES)]
    pub keep_yearly: u32,
    /// Keep what is less than this much older than the newest, such as 30d, 12w or 1y6mo
    #[arg(long, value_name = "SPAN", value_parser = span, help_heading = RULES)]
    pub keep_within: Option<jiff::Span>,
    /// Keep what has this tag
    #[arg(long, value_name = "TAG", help_heading = RULES)]
    pub keep_tag: Vec<String>,
    /// Keep what has this tag for so long, such as daily=30d; alone, it speaks of no snapshot without the tag
    #[arg(long, value_name = "TAG=SPAN", value_parser = tag_span, help_heading = RULES)]
    pub keep_tagged: Vec<(String, jiff::Span)>,
    /// Remove this snapshot whatever the rules say; may be given several times. Takes the ids of manifests that can't be read too
    #[arg(long, value_name = "SNAP")]
    pub forget: Vec<String>,
    /// Delete at once what nothing needs, also on a disk that is full; nobody else may use the repository meanwhile
    #[arg(long)]
    pub now: bool,
    /// Say what would be done; change nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Do it even if more than half of the snapshots would go, or all are dated after now
    #[arg(long)]
    pub force: bool,
    /// How long packs stay after nothing needs them any more
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = parse_duration)]
    pub grace: std::time::Duration,
    /// Share of the repository that may stay unused, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = UNUSED_PERCENT_MAX, value_parser = percent)]
    pub max_unused: f64,
    /// Most bytes of packs that are rewritten in this run
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_repack: Option<u64>,
    /// Open content with the passphrase, so that frames of which a part is needed are rebuilt now
    #[arg(long)]
    pub unlock: bool,
    /// Whose snapshots --forget means.
    #[command(flatten)]
    pub owner: Owner,
}
