//! What `snap backup` takes on the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use crate::base::units::parse_duration;

/// `backup`
#[derive(Debug, Args)]
pub struct Backup {
    /// What to back up; lies in the snapshot by its absolute path. A link to a directory stands for what it leads to
    /// [default: the configured components]
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Put the paths or the stream into this top directory: one directory's content right in it, several paths by their base names.
    /// Without a PATH: only this configured component; may be given several times
    #[arg(long, value_name = "NAME")]
    pub component: Vec<String>,
    /// Tag the snapshot "daily"
    #[arg(long)]
    pub daily: bool,
    /// Tag the snapshot "weekly"
    #[arg(long)]
    pub weekly: bool,
    /// Tag the snapshot
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Leave out what matches (patterns as in .gitignore; /… also from the machine's root); never what was named
    #[arg(long, short, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Leave out what matches a line of the file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub exclude_from: Vec<PathBuf>,
    /// Store directories empty that hold a file of this name
    #[arg(long, value_name = "NAME")]
    pub exclude_if_present: Vec<OsString>,
    /// Do not enter other file systems than those of the paths that were named
    #[arg(long, short = 'x')]
    pub one_file_system: bool,
    /// Do not read a file again because its ctime alone changed
    #[arg(long)]
    pub ignore_ctime: bool,
    /// Do not read a file again because its inode number alone changed
    #[arg(long)]
    pub ignore_inode: bool,
    /// Store standard input, or what the command after -- writes, as a file of this name
    #[arg(long, value_name = "NAME", conflicts_with = "paths")]
    pub stdin_name: Option<OsString>,
    /// This component is right as it is, however little is left of it; may be given several times
    #[arg(long, value_name = "COMPONENT")]
    pub accept: Vec<String>,
    /// Take a stream without any bytes for a good one [default: it is a failure, and nothing is stored]
    #[arg(long, requires = "stdin_name")]
    pub may_be_empty: bool,
    /// Longest time that the command after -- may take [default: 6h]
    #[arg(long, value_name = "SPAN", requires = "command", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Time of the snapshot, such as 2026-01-05T03:00 [default: now]
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// Name of this machine in the snapshot [default: run.host, or the host name]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Files read at the same time [default: threads]; 1 suits a single hard disk
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub read_threads: Option<u16>,
    /// Wait for another configured run to end [default: end with status 4]
    #[arg(long)]
    pub wait: bool,
    /// Do all but write
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Command whose output --stdin-name stores; any exit status but 0 stores nothing
    #[arg(last = true, value_name = "CMD", requires = "stdin_name")]
    pub command: Vec<OsString>,
}
