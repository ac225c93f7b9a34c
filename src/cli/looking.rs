//! What the commands take that look at snapshots.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::base::units::parse_size;
use crate::cli::choice::{Choosing, Owner};

/// `snapshots`
#[derive(Debug, Args)]
pub struct Snapshots {
    /// Only those with this tag; given several times, with all of them
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Only the newest N
    #[arg(long, value_name = "N")]
    pub latest: Option<usize>,
    /// The log of the run that made each, if it kept one
    #[arg(long)]
    pub log: bool,
    /// Whose snapshots are meant.
    #[command(flatten)]
    pub owner: Owner,
}

/// `find`
#[derive(Debug, Args)]
pub struct Find {
    /// A glob over base names, or over whole paths if it holds a /
    #[arg(value_name = "PATTERN")]
    pub pattern: String,
    /// Look in this snapshot alone; may be given several times [default: all]
    #[arg(long, short, value_name = "SNAP")]
    pub snapshot: Vec<String>,
    /// Mode, links, owner, size and time too
    #[arg(long, short)]
    pub long: bool,
    /// Whose snapshots are meant.
    #[command(flatten)]
    pub owner: Owner,
}

/// `history`
#[derive(Debug, Args)]
pub struct History {
    /// A path in the snapshots: a component, a directory or a file [default: all]
    #[arg(value_name = "PATH", default_value = "")]
    pub path: OsString,
    /// Whose nights they are.
    #[command(flatten)]
    pub owner: Owner,
}

/// `cat`
#[derive(Debug, Args)]
pub struct Cat {
    /// A snapshot and the file's path in it
    #[arg(value_name = "SNAP:PATH")]
    pub place: OsString,
    /// Which snapshot it is, and whether others complete it.
    #[command(flatten)]
    pub choosing: Choosing,
}

/// `mount`
#[derive(Debug, Args)]
pub struct Mount {
    /// An empty directory; Ctrl-C or umount ends the mount
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub point: PathBuf,
    /// Let other users look as well, each at what its mode and access list let them
    #[arg(long)]
    pub allow_other: bool,
    /// Go to the background once the mount is up
    #[arg(long)]
    pub background: bool,
    /// Memory for what was read lately
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    pub cache_size: u64,
    /// File for log lines with --background [default: mount.log in this machine's state directory]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "background")]
    pub log: Option<PathBuf>,
    /// Whose snapshots are meant.
    #[command(flatten)]
    pub owner: Owner,
}

/// `ls`
#[derive(Debug, Args)]
pub struct Ls {
    /// A snapshot (latest, daily~1, daily/2026-01-05, before:2026-01-05, a tag, an id's start), and maybe :PATH in it
    #[arg(value_name = "SNAP[:PATH]", default_value = "latest")]
    pub place: OsString,
    /// Everything below as well
    #[arg(long, short = 'R')]
    pub recursive: bool,
    /// Mode, links, owner, size and time too
    #[arg(long, short)]
    pub long: bool,
    /// The SHA-256 of each file's content instead, as sha256sum(1) writes it: 'sha256sum -c' in a restored snapshot compares. Takes the passphrase
    #[arg(long, conflicts_with = "long")]
    pub sha256: bool,
    /// Which snapshot it is, and whether others complete it.
    #[command(flatten)]
    pub choosing: Choosing,
}

/// `diff`
#[derive(Debug, Args)]
pub struct Diff {
    /// The earlier snapshot
    #[arg(value_name = "SNAP")]
    pub earlier: String,
    /// The later snapshot
    #[arg(value_name = "SNAP")]
    pub later: String,
    /// Compare only this file, or what is below this directory
    #[arg(value_name = "PATH", default_value = "")]
    pub path: OsString,
    /// Whose snapshots are meant.
    #[command(flatten)]
    pub owner: Owner,
}
