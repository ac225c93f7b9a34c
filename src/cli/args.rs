//! What can be said on the command line. One definition feeds parsing, help, completions and the man page.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::cli::retention::Prune;
use crate::cli::values::{duration, size};

/// Content-addressed, deduplicating snapshots of a mail server.
#[derive(Debug, Parser)]
#[command(name = "snap", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Arguments {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The repository: a directory
    #[arg(long, short, global = true, env = "SNAP_REPOSITORY", value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub repo: Option<PathBuf>,
    /// Where this machine keeps its writer secret [default: /var/lib/snap for root, else ~/.local/state/snap]
    #[arg(long, global = true, env = "SNAP_STATE_DIR", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
    /// Where the index cache lies [default: index.redb in the repository]
    #[arg(long, global = true, env = "SNAP_INDEX", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub index: Option<PathBuf>,
    /// File whose first line is the passphrase (others: SNAP_PASSWORD, SNAP_PASSWORD_COMMAND, a prompt)
    #[arg(long, global = true, env = "SNAP_PASSWORD_FILE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub password_file: Option<PathBuf>,
    /// File with age identities, in place of a passphrase
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub identity: Vec<PathBuf>,
    /// One JSON object a line on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Say only what went wrong
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Say more; twice for more still
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// How long to wait for a run that has the repository to itself, or for others if it is needed alone
    #[arg(long, global = true, env = "SNAP_LOCK_WAIT", value_name = "SPAN", default_value = "60s", value_parser = duration)]
    pub lock_wait: std::time::Duration,
    /// No progress bars
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Threads [default: as many as the machine has cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a repository
    Init(Init),
    /// Back up into a new snapshot
    Backup(Backup),
    /// List snapshots
    Snapshots(Snapshots),
    /// List what is in a snapshot
    Ls(Ls),
    /// Find entries by name in snapshots
    Find(Find),
    /// Show what changed between two snapshots
    Diff(Diff),
    /// Write a file's content to standard output
    Cat(Cat),
    /// Put back files, with owner, mode, times, attributes, links and holes
    Restore(Restore),
    /// Check that everything is there and as it was written
    Check(Check),
    /// Remove snapshots that no rule keeps, and reclaim the space that nothing needs
    Prune(Prune),
    /// Add tags to a snapshot, or take them away; the tag "keep" pins it
    Tag(Tag),
    /// Manage who can open the repository
    #[command(subcommand)]
    Key(Key),
    /// Show how much the repository holds
    Stats,
    /// Make the index cache anew from the repository's files
    RebuildIndex,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// Whether stored bytes are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Encryption {
    /// Sealed: reading content takes a passphrase or an age identity
    Age,
    /// Not sealed: for a disk that is trusted
    None,
}

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// An age recipient (age1…) whose identity is kept offline; may be given several times. No passphrase is asked then
    #[arg(long, value_name = "age1…")]
    pub recipient: Vec<String>,
    /// Whether to seal what is stored
    #[arg(long, value_enum, default_value = "age")]
    pub encryption: Encryption,
    /// Average length of a chunk, a power of two from 1KiB to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "8KiB", value_parser = size)]
    pub chunk_avg: u64,
    /// zstd level
    #[arg(long, value_name = "LEVEL", default_value = "3", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub compression: i32,
    /// Size at which a pack is closed, from 1MiB to 512MiB
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    pub pack_size: u64,
}

/// `backup`
#[derive(Debug, Args)]
pub struct Backup {
    /// What to back up; lies in the snapshot by its absolute path
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Put the paths or the stream into this top directory: one directory's content right in it, several paths by their base names
    #[arg(long, value_name = "NAME")]
    pub component: Option<String>,
    /// Tag the snapshot "daily"
    #[arg(long)]
    pub daily: bool,
    /// Tag the snapshot "weekly"
    #[arg(long)]
    pub weekly: bool,
    /// Tag the snapshot
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Leave out what matches (patterns as in .gitignore)
    #[arg(long, short, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Leave out what matches a line of the file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub exclude_from: Vec<PathBuf>,
    /// Store directories empty that hold a file of this name
    #[arg(long, value_name = "NAME")]
    pub exclude_if_present: Vec<OsString>,
    /// Do not enter other file systems
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
    /// Time of the snapshot, such as 2026-01-05T03:00 [default: now]
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// Name of this machine in the snapshot [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Files read at the same time [default: threads]; 1 suits a single hard disk
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub read_threads: Option<u16>,
    /// Do all but write
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Command whose output --stdin-name stores; any exit status but 0 stores nothing
    #[arg(last = true, value_name = "CMD", requires = "stdin_name")]
    pub command: Vec<OsString>,
}

/// `snapshots`
#[derive(Debug, Args)]
pub struct Snapshots {
    /// Only those with this tag; given several times, with all of them
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Only the newest N
    #[arg(long, value_name = "N")]
    pub latest: Option<usize>,
}

/// `ls`
#[derive(Debug, Args)]
pub struct Ls {
    /// A snapshot (an id's start, latest, latest~2, daily/2026-01-05, a tag), and maybe :PATH in it
    #[arg(value_name = "SNAP[:PATH]", default_value = "latest")]
    pub place: OsString,
    /// Everything below as well
    #[arg(long, short = 'R')]
    pub recursive: bool,
    /// Mode, links, owner, size and time too
    #[arg(long, short)]
    pub long: bool,
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
    /// Compare only what is below this path
    #[arg(value_name = "PATH", default_value = "")]
    pub path: OsString,
}

/// `cat`
#[derive(Debug, Args)]
pub struct Cat {
    /// A snapshot and the file's path in it
    #[arg(value_name = "SNAP:PATH")]
    pub place: OsString,
}

/// What to do with what is in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Overwrite {
    /// Refuse a target that is not empty
    Never,
    /// Keep files of the same size and time
    IfChanged,
    /// Write everything anew
    Always,
}

/// `restore`
#[derive(Debug, Args)]
pub struct Restore {
    /// A snapshot, and maybe :PATH in it: then a directory's content goes right into the target
    #[arg(value_name = "SNAP[:PATH]")]
    pub place: OsString,
    /// Directory to restore into; made if it is not there
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub target: PathBuf,
    /// Only this component; may be given several times ("all" for all)
    #[arg(long, value_name = "NAME")]
    pub component: Vec<String>,
    /// Only what matches (patterns as in .gitignore)
    #[arg(long, short, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Not what matches
    #[arg(long, short, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// What to do with what is in the target
    #[arg(long, value_enum, default_value = "never")]
    pub overwrite: Overwrite,
    /// Remove what is in the target and not in the snapshot
    #[arg(long)]
    pub delete: bool,
    /// Owners by number, even where this machine knows the name
    #[arg(long)]
    pub numeric_ids: bool,
    /// Say what would be done; write nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Read back from the disk what was written
    #[arg(long)]
    pub verify: bool,
}

/// `check`
#[derive(Debug, Args)]
pub struct Check {
    /// Hash every pack (no key is needed)
    #[arg(long)]
    pub read_packs: bool,
    /// Open and hash every chunk (the passphrase is needed)
    #[arg(long)]
    pub read_data: bool,
    /// Read only a part of the packs: 5% at random, or 1/30 for the first of thirty parts
    #[arg(long, value_name = "PART")]
    pub subset: Option<String>,
    /// Repair what can be repaired here: the index, and fragments of packs that are whole
    #[arg(long)]
    pub repair: bool,
}

/// `tag`
#[derive(Debug, Args)]
pub struct Tag {
    /// The snapshot; its id changes
    #[arg(value_name = "SNAP")]
    pub snapshot: String,
    /// Add this tag; may be given several times
    #[arg(long, value_name = "TAG", required_unless_present = "remove")]
    pub add: Vec<String>,
    /// Take this tag away; may be given several times
    #[arg(long, value_name = "TAG")]
    pub remove: Vec<String>,
}

/// `key`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List the keys
    List,
    /// Add a passphrase, or a recipient with --recipient
    Add {
        /// An age recipient: opens what is backed up from now on
        #[arg(long, value_name = "age1…")]
        recipient: Option<String>,
        /// File whose first line is the new passphrase [default: SNAP_NEW_PASSWORD, or a prompt]
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        new_password_file: Option<PathBuf>,
        /// What you call it
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
    },
    /// Remove a key by the start of its id
    Remove {
        /// The id's first digits
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Replace the passphrase
    RotatePassphrase {
        /// File whose first line is the new passphrase [default: SNAP_NEW_PASSWORD, or a prompt]
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        new_password_file: Option<PathBuf>,
    },
    /// Print the age identity, to be kept offline
    Export,
    /// Keep the writer secret on this machine, so that it can back up without a passphrase
    Enroll,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }
}
