//! What `snap mail` takes.

use clap::{Args, Subcommand};

use crate::cli::choice::{Choosing, Owner};

/// `mail`
#[derive(Debug, Subcommand)]
pub enum Mail {
    /// Show the mailboxes of a snapshot: folders, messages, bytes, the newest message
    Users(Users),
    /// Show night by night which messages of a mailbox arrived, were deleted, moved or flagged; -v shows each
    Log(Log),
    /// Show what became of the messages of a mailbox from one night to another
    Diff(Diff),
}

/// `mail users`
#[derive(Debug, Args)]
pub struct Users {
    /// The snapshot
    #[arg(value_name = "SNAP", default_value = "latest")]
    pub snapshot: String,
    /// Which snapshot it is, and whether others complete it.
    #[command(flatten)]
    pub choosing: Choosing,
}

/// `mail log`
#[derive(Debug, Args)]
pub struct Log {
    /// Whose mailbox: anna@example.org, as 'snap mail users' shows it
    #[arg(value_name = "USER")]
    pub user: String,
    /// Only what concerns this folder, named as IMAP shows it
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<String>,
    /// Only nights since then: 2026-01-05, or 2026-01-05T12:00
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Name keywords where only their letters can be seen without it. Takes the passphrase
    #[arg(long)]
    pub keywords: bool,
    /// Whose nights they are.
    #[command(flatten)]
    pub owner: Owner,
}

/// `mail diff`
#[derive(Debug, Args)]
pub struct Diff {
    /// Whose mailbox: anna@example.org, as 'snap mail users' shows it
    #[arg(value_name = "USER")]
    pub user: String,
    /// The earlier snapshot
    #[arg(value_name = "SNAP")]
    pub earlier: String,
    /// The later snapshot
    #[arg(value_name = "SNAP")]
    pub later: String,
    /// Name keywords where only their letters can be seen without it. Takes the passphrase
    #[arg(long)]
    pub keywords: bool,
    /// Whose snapshots are meant.
    #[command(flatten)]
    pub owner: Owner,
}
