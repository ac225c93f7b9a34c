//! What can be said to `sync` and `clone`.

use std::path::PathBuf;

use clap::Args;

/// `sync`
#[derive(Debug, Args)]
pub struct Sync {
    /// The bucket: s3://bucket/prefix [default: the configured one]
    #[arg(value_name = "STORE")]
    pub store: Option<PathBuf>,
    /// Remove versions that no manifest needs and whose lock is over; takes credentials that may
    #[arg(long)]
    pub delete: bool,
    /// Remove even if more than half of the bucket's snapshots would go
    #[arg(long, requires = "delete")]
    pub force: bool,
    /// Let go of the snapshots that are in the bucket and were lost here; else they stay locked, and each run tells of them
    #[arg(long)]
    pub accept_loss: bool,
    /// Read every lock back, not only a sample
    #[arg(long)]
    pub audit: bool,
    /// Say what would be done, and what it costs; change nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Days for which what is put, or renewed, is locked [default: the configured ones, or 30]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub lock_days: Option<u32>,
    /// Renew locks that end in less than so many days, if what they keep is needed [default: the configured ones, or 23]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36499))]
    pub renew_below_days: Option<u32>,
    /// Go on although the bucket has no Object Lock
    #[arg(long)]
    pub allow_unlocked: bool,
    /// Go on although a lifecycle rule removes current versions, or what is put goes into an archive
    #[arg(long)]
    pub allow_expiry: bool,
    /// Put nothing that would make the bucket cost more than so much a month; what is there stays locked
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    pub budget_limit: Option<f64>,
    /// Say so if the bucket costs more than so much a month; may be given several times [default: 10 and 100]
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    pub budget: Vec<f64>,
}

/// `clone`
#[derive(Debug, Args)]
pub struct Clone {
    /// Where the repository is: s3://bucket/prefix, or a directory
    #[arg(value_name = "STORE")]
    pub store: PathBuf,
    /// Leave out the snapshots that were removed on purpose and are still there
    #[arg(long)]
    pub without_forgotten: bool,
}

fn amount(text: &str) -> Result<f64, String> {
    let amount: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    match amount.is_finite() && amount >= 0.0 {
        true => Ok(amount),
        false => Err("is not an amount".to_owned()),
    }
}
