//! What `snap mail` takes.

use clap::{Args, Subcommand};

use crate::base::units::parse_size;
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
    /// Find messages in all nights, each once, with the first and the last night it was there
    Find(Box<Find>),
    /// Show a message: its header and text, attachments by name; or its bytes
    Show(Show),
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
    /// Show whom messages are from and their subjects, and keywords by name. Takes the passphrase
    #[arg(long)]
    pub headers: bool,
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
    /// Show whom messages are from and their subjects, and keywords by name. Takes the passphrase
    #[arg(long)]
    pub headers: bool,
    /// Whose snapshots are meant.
    #[command(flatten)]
    pub owner: Owner,
}

/// `mail find`
#[derive(Debug, Args)]
pub struct Find {
    /// Whose mailbox [default: all, which takes the passphrase]
    #[arg(value_name = "USER")]
    pub user: Option<String>,
    /// Show whom each message is from and its subject, also where nothing asks for them. Takes the passphrase
    #[arg(long)]
    pub headers: bool,
    /// Look in this snapshot alone; may be given several times [default: all nights]
    #[arg(long, value_name = "SNAP")]
    pub snapshot: Vec<String>,
    /// Whose nights they are.
    #[command(flatten)]
    pub owner: Owner,
    /// What is asked of the messages.
    #[command(flatten)]
    pub asked: Asked,
}

/// What is asked of messages: all of it must hold.
#[derive(Debug, Args)]
#[command(next_help_heading = "What messages must have (texts of headers take the passphrase)")]
pub struct Asked {
    /// This text in From
    #[arg(long, value_name = "TEXT")]
    pub from: Vec<String>,
    /// This text in To
    #[arg(long, value_name = "TEXT")]
    pub to: Vec<String>,
    /// This text in Cc
    #[arg(long, value_name = "TEXT")]
    pub cc: Vec<String>,
    /// This text in the subject
    #[arg(long, value_name = "TEXT")]
    pub subject: Vec<String>,
    /// This text in the Message-ID
    #[arg(long, value_name = "TEXT")]
    pub message_id: Vec<String>,
    /// This text in a header field of that name
    #[arg(long, value_name = "NAME=TEXT")]
    pub header: Vec<String>,
    /// This text in the name of its file
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// In this folder, named as IMAP shows it
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<String>,
    /// Received then or later: 2026-01-05, or 2026-01-05T12:00
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Received earlier
    #[arg(long, value_name = "TIME")]
    pub before: Option<String>,
    /// More bytes
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub larger: Option<u64>,
    /// Fewer bytes
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub smaller: Option<u64>,
    /// This flag, in some night: seen, answered, flagged, deleted, draft, forwarded
    #[arg(long, value_name = "FLAG")]
    pub flag: Vec<String>,
    /// Not this flag, in some night
    #[arg(long, value_name = "FLAG")]
    pub no_flag: Vec<String>,
    /// No longer in the last night
    #[arg(long)]
    pub deleted: bool,
    /// Missing since a night that is then or later, and in all nights after it
    #[arg(long, value_name = "TIME")]
    pub deleted_since: Option<String>,
    /// Missing since an earlier night, and in all nights after it
    #[arg(long, value_name = "TIME")]
    pub deleted_before: Option<String>,
}

/// `mail show`
#[derive(Debug, Args)]
pub struct Show {
    /// The message's number, as 'snap mail find' and 'snap mail log -v' show it, or how it begins
    #[arg(value_name = "N")]
    pub number: String,
    /// Whose mailbox it is in: looks there alone
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Write its bytes, as they are
    #[arg(long)]
    pub eml: bool,
    /// Look in this snapshot alone; may be given several times [default: all nights]
    #[arg(long, value_name = "SNAP")]
    pub snapshot: Vec<String>,
    /// Whose nights they are.
    #[command(flatten)]
    pub owner: Owner,
}
