//! What can be said on the command line. One definition feeds parsing, help, completions and the man page.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::base::units::parse_size;
use crate::cli::choice::{Choosing, Owner};
use crate::cli::mail::Mail;
use crate::cli::offsite;
use crate::cli::retention::Prune;
use crate::cli::s3::S3Args;
use crate::cli::sources::Backup;
use crate::cli::values::{LOCK_WAIT, lock_wait, mark};

pub use crate::cli::looking::{Cat, Diff, Find, History, Ls, Mount, Snapshots};

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
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The configuration [default: /etc/snap/config.toml, if it is there]
    #[arg(long, global = true, env = "SNAP_CONFIG", value_parser = path(), value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// The repository: a directory, or s3://bucket/prefix [default: the configured one]
    #[arg(long, short, global = true, env = "SNAP_REPOSITORY", value_parser = path(), value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub repo: Option<PathBuf>,
    /// Where this machine keeps its writer secret [default: /var/lib/snap for root, else ~/.local/state/snap]
    #[arg(long, global = true, env = "SNAP_STATE_DIR", value_parser = path(), value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
    /// Where the index cache lies [default: in the state directory]
    #[arg(long, global = true, env = "SNAP_INDEX", value_parser = path(), value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub index: Option<PathBuf>,
    /// File whose first line is the passphrase (others: SNAP_PASSWORD, SNAP_PASSWORD_COMMAND, a prompt)
    #[arg(long, global = true, env = "SNAP_PASSWORD_FILE", value_parser = path(), value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub password_file: Option<PathBuf>,
    /// File with age identities, in place of a passphrase
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub identity: Vec<PathBuf>,
    /// Try the passphrase on the one key file whose id begins so ('snap key list')
    #[arg(long, global = true, value_name = "ID")]
    pub key: Option<String>,
    /// Open only the repository whose writer secret has a mark that begins so: 'snap init', 'key list' and 'stats' print it
    #[arg(long, global = true, value_name = "MARK", value_parser = mark)]
    pub writer_mark: Option<String>,
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
    #[arg(long, global = true, env = "SNAP_LOCK_WAIT", value_name = "SPAN", default_value = LOCK_WAIT, value_parser = lock_wait)]
    pub lock_wait: std::time::Duration,
    /// No progress bars
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Threads [default: as many as the machine has cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// How S3 is reached.
    #[command(flatten)]
    pub s3: S3Args,
}

impl Global {
    /// Takes variables of the environment that are set and empty as not set, as shells do.
    pub fn without_empty(mut self) -> Self {
        let Self { config, repo, state_dir, index, password_file, .. } = &mut self;
        for path in [config, repo, state_dir, index, password_file] {
            *path = path.take().filter(|path| !path.as_os_str().is_empty());
        }
        self
    }
}

/// Takes any path, an empty one too: see [`Global::without_empty`].
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a repository, in a directory that is empty or not there yet, or in a bucket
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
    /// Show what a path held, night by night
    History(History),
    /// Ask about messages, not files: which mailboxes there are, what became of messages, where one is
    #[command(subcommand)]
    Mail(Mail),
    /// Write a file's content to standard output
    Cat(Cat),
    /// Put back files, with owner, mode, times, attributes, links and holes
    Restore(Restore),
    /// Show all snapshots as directories, to be browsed and copied from
    Mount(Mount),
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
    /// Bring a bucket with Object Lock up to date, and keep what snapshots need locked
    Sync(offsite::Sync),
    /// Copy a whole repository from a bucket or a directory to --repo: after a loss
    Clone(offsite::Clone),
    /// Remove all locks of a repository on S3: those that dead runs left, and those of live runs, which then stop writing
    Unlock,
    /// Look at the configuration
    #[command(subcommand)]
    Config(Config),
    /// Send a notice: a test, or an alarm if backups are too old
    Notify(Notify),
    /// Collect what somebody who helps needs to see, without secrets, into one archive
    Support(Support),
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
    #[arg(long, value_name = "SIZE", default_value = "8KiB", value_parser = parse_size)]
    pub chunk_avg: u64,
    /// zstd level
    #[arg(long, value_name = "LEVEL", default_value = "3", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub compression: i32,
    /// Size at which a pack is closed, from 1MiB to 512MiB
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    pub pack_size: u64,
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
    /// Only this component, as SNAP:NAME; of several each lies in the target under its name ("all" for all)
    #[arg(long, value_name = "NAME")]
    pub component: Vec<String>,
    /// Only what matches (patterns as in .gitignore); status 1 if a pattern matches nothing
    #[arg(long, short, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Not what matches
    #[arg(long, short, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// What to do with what is in the target
    #[arg(long, value_enum, default_value = "never")]
    pub overwrite: Overwrite,
    /// Go on with a restore into this directory that was not finished
    #[arg(long = "continue", conflicts_with = "dry_run")]
    pub is_continued: bool,
    /// Remove what the snapshot lacks, in directories that were read from a source; what backups leave out stays. -n and -v name each path
    #[arg(long)]
    pub delete: bool,
    /// Do it without asking: over what is backed up, or --delete of more than 1000 entries or a tenth
    #[arg(long)]
    pub force: bool,
    /// Owners, and whom access lists name, by number, even where this machine knows the name
    #[arg(long)]
    pub numeric_ids: bool,
    /// Set the SELinux labels that were stored, not those of the target
    #[arg(long)]
    pub labels: bool,
    /// Say what would be done; write nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Read back from the disk what was written, and look at what was kept
    #[arg(long)]
    pub verify: bool,
    /// Which snapshot it is, and whether others complete it.
    #[command(flatten)]
    pub choosing: Choosing,
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
    /// Bring what is damaged or missing from another copy: s3://bucket/prefix, or a directory
    #[arg(long, value_name = "STORE", value_hint = ValueHint::DirPath)]
    pub repair_from: Option<PathBuf>,
}

/// `config`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Look at everything that is configured, harmlessly
    Check {
        /// Try it for real as well: run each dump to its end and throw it away, look at every file, list the bucket. As root, all that as 'run.user'
        #[arg(long)]
        run: bool,
    },
}

/// `notify`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["test", "stale"]))]
pub struct Notify {
    /// Send a test mail to everybody who is to be told
    #[arg(long)]
    pub test: bool,
    /// Send an alarm if a component's newest whole backup is older than max_age, or a sync, a check or the retention is
    /// overdue, and end with status 1
    #[arg(long)]
    pub stale: bool,
    /// Look at the backups of this machine [default: run.host, or the host name]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

/// `support`
#[derive(Debug, Args)]
pub struct Support {
    /// The archive to write [default: snap-support-DATE.tar.gz here]
    #[arg(long, value_name = "FILE", value_parser = path(), value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Do not ask before it is written
    #[arg(long, short)]
    pub yes: bool,
}

/// `tag`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").args(["add", "remove", "accept"]).required(true).multiple(true))]
pub struct Tag {
    /// The snapshot; its id changes
    #[arg(value_name = "SNAP")]
    pub snapshot: String,
    /// Add this tag; may be given several times
    #[arg(long, value_name = "TAG")]
    pub add: Vec<String>,
    /// Take this tag away; may be given several times
    #[arg(long, value_name = "TAG")]
    pub remove: Vec<String>,
    /// Say that this component, which is suspect in the snapshot, is right as it is; may be given several times
    #[arg(long, value_name = "COMPONENT")]
    pub accept: Vec<String>,
    /// Whose snapshots are meant.
    #[command(flatten)]
    pub owner: Owner,
}

/// `key`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List the keys
    List,
    /// Add a passphrase, or a recipient with --recipient
    Add {
        /// An age recipient: opens content that is stored from now on, not what was stored before
        #[arg(long, value_name = "age1…")]
        recipient: Option<String>,
        /// File whose first line is the new passphrase [default: SNAP_NEW_PASSWORD, or a prompt]
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        new_password_file: Option<PathBuf>,
        /// What you call it
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
    },
    /// Remove a key by the start of its id; if content may be sealed to it alone, this takes a passphrase or identity that stays
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
    /// Seal to the recipients that keys/ names now, where this machine remembers others
    Accept,
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
