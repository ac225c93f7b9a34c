//! The sections that every configuration has once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::base::redact::Redactor;
use crate::job::config::component::Fault;
use crate::job::config::{Bytes, MailLayout, Span};
use crate::op::sync::Prices;

const DAY: u64 = 86_400;

/// `[repository]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// Its directory, or `s3://bucket/prefix`.
    pub path: Spanned<PathBuf>,
    /// Where the index cache lies.
    pub index: Option<PathBuf>,
    /// Where this machine keeps its writer secret.
    pub state_dir: Option<PathBuf>,
    /// A directory that must be a mount point, or nothing is done.
    pub require_mount: Option<Spanned<PathBuf>>,
    /// Used part of the disk above which a warning is sent, in percent.
    #[serde(default = "eighty")]
    pub warn_used_percent: u8,
    /// Free space below which no run begins.
    #[serde(default = "one_gib")]
    pub min_free: Bytes,
}

fn eighty() -> u8 {
    80
}

fn one_gib() -> Bytes {
    Bytes(1 << 30)
}

impl Repository {
    /// Returns whether it lies on S3.
    pub fn is_remote(&self) -> bool {
        self.path.get_ref().to_string_lossy().starts_with("s3://")
    }
}

/// `[run]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Name of the configuration, to which its snapshots belong; by default the file's stem.
    pub name: Option<String>,
    /// Name of this machine in snapshots; by default its own.
    pub host: Option<String>,
    /// Who may run it besides root.
    pub user: Option<String>,
    /// How often a failed component is tried again.
    pub retries: u32,
    /// Pause before the first of these tries; each further one is twice as long.
    pub retry_delay: Span,
    /// Files read at the same time.
    pub read_threads: Option<u16>,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            name: None,
            host: None,
            user: None,
            retries: 2,
            retry_delay: Span(Duration::from_secs(10)),
            read_threads: None,
        }
    }
}

/// `[retention]`: how long snapshots are kept by their tags.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Those tagged `daily`.
    pub daily: Option<Span>,
    /// Those tagged `weekly`.
    pub weekly: Option<Span>,
    /// How long ago it may have been carried out last.
    pub max_age: Option<Span>,
}

/// When a mail is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// After an ERROR or CRITICAL alone.
    #[default]
    Failure,
    /// After every run.
    Always,
}

/// `[notify]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// When a mail is sent.
    #[serde(default)]
    pub on: On,
    /// What the subjects call it.
    pub name: Option<String>,
    /// The sender's address.
    pub from: Option<Spanned<String>>,
    /// Addresses of those who are told.
    #[serde(default)]
    pub to: Vec<Spanned<String>>,
    /// Program and arguments that take a mail on standard input.
    pub sendmail: Option<Spanned<Vec<String>>>,
    /// A server that takes mails: `smtp://host:25`, `smtps://user:password@host`.
    pub smtp: Option<Spanned<String>>,
    /// A URL that is called when a run starts, succeeds and fails.
    pub ping_url: Option<Spanned<String>>,
    /// A file that Prometheus' node exporter collects.
    pub metrics_file: Option<PathBuf>,
    /// Age of the newest whole backup above which `snap notify --stale` raises an alarm.
    pub max_age: Option<Span>,
}

impl Notify {
    /// Returns what the subjects call it.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("Mailserver")
    }

    /// Returns whether mails are wanted at all.
    pub fn has_mail(&self) -> bool {
        !self.to.is_empty()
    }

    /// Returns what no single value tells: an unusable address or URL, two ways or none to send by.
    pub fn fault(&self) -> Option<Fault> {
        self.address_fault().or_else(|| self.way_fault()).or_else(|| {
            let ping = self.ping_url.as_ref()?;
            let is_web = ["http://", "https://"].iter().any(|scheme| ping.get_ref().starts_with(scheme));
            (!is_web).then(|| fault(ping.span(), "ping_url", "must begin with http:// or https://"))
        })
    }

    fn address_fault(&self) -> Option<Fault> {
        let from = self.from.iter().map(|from| (from, "from"));
        from.chain(self.to.iter().map(|to| (to, "to"))).find_map(|(address, key)| {
            let error = address.get_ref().parse::<lettre::message::Mailbox>().err()?;
            let what = format!("\"{}\" is no mail address: {error}", address.get_ref());
            Some(fault(address.span(), key, &what))
        })
    }

    fn way_fault(&self) -> Option<Fault> {
        let smtp_fault = |smtp: &Spanned<String>| {
            let error = lettre::SmtpTransport::from_url(smtp.get_ref()).err()?;
            Some(fault(smtp.span(), "smtp", &format!("is no smtp:// or smtps:// URL: {error}")))
        };
        let first = self.to.first()?.span();
        let example = "[\"/usr/sbin/sendmail\", \"-t\"]";
        match (&self.from, &self.sendmail, &self.smtp) {
            (None, ..) => Some(fault(first, "from", "is needed to send mail: the sender's address")),
            (_, None, None) => {
                let what = format!("is needed to send mail: {example}; or smtp = \"smtp://127.0.0.1:25\"");
                Some(fault(first, "sendmail", &what))
            }
            (_, Some(_), Some(smtp)) => {
                Some(fault(smtp.span(), "smtp", "and sendmail are both there: choose one"))
            }
            (_, Some(sendmail), None) if sendmail.get_ref().is_empty() => {
                Some(fault(sendmail.span(), "sendmail", &format!("needs a program: {example}")))
            }
            (_, None, Some(smtp)) => smtp_fault(smtp),
            (_, Some(_), None) => None,
        }
    }

    /// Adds what must not be shown.
    pub fn add_secrets(&self, redactor: &mut Redactor) {
        // Whoever knows the URL can report success.
        for url in self.ping_url.iter().map(Spanned::get_ref) {
            redactor.add(url);
            redactor.add(url.split('?').next().unwrap_or_default()); // what is called has more before the query
        }
        if let Some(smtp) = &self.smtp {
            redactor.add(smtp.get_ref());
            let authority = smtp.get_ref().split_once("://").map_or("", |(_, rest)| rest);
            let password = authority.rsplit_once('@').and_then(|(login, _)| login.split_once(':'));
            password.into_iter().for_each(|(_, password)| redactor.add(password));
        }
    }

    /// Returns whether there is anything that others must not read.
    pub fn has_secrets(&self) -> bool {
        self.ping_url.is_some() || self.smtp.as_ref().is_some_and(|url| url.get_ref().contains('@'))
    }
}

/// Least level that goes to the main log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What helps to find out why.
    Debug,
    /// What was done.
    Info,
    /// What should be looked at, some day.
    Warning,
    /// Something is not backed up.
    Error,
    /// Nothing is backed up.
    Critical,
}

impl Level {
    /// Returns the level of a word, in whatever letters.
    pub fn from_word(word: &str) -> Option<Self> {
        let all = [Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical];
        all.into_iter().find(|level| level.word().eq_ignore_ascii_case(word))
    }

    /// Returns the word that logs use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        }
    }
}

/// Whether, and where, CRITICAL lines go to syslog.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Syslog {
    /// To `/dev/log`, or not.
    Switch(bool),
    /// To this socket.
    Socket(PathBuf),
}

impl Syslog {
    /// Returns the socket; none if nothing is sent.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Switch(false) => None,
            Self::Switch(true) => Some(Path::new("/dev/log")),
            Self::Socket(path) => Some(path),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Where the logs lie.
    pub directory: PathBuf,
    /// Least level that goes to the main log.
    pub level: Level,
    /// Whether CRITICAL goes to syslog, facility user.
    pub syslog: Syslog,
    /// How long the logs of single days are kept.
    pub keep: Span,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/log/snap"),
            level: Level::Info,
            syslog: Syslog::Switch(true),
            keep: Span(Duration::from_secs(90 * DAY)),
        }
    }
}

/// `[sync]`: the copy in a bucket.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sync {
    /// `s3://bucket/prefix`.
    pub store: String,
    /// The bucket's region.
    pub region: Option<String>,
    /// Name of the credentials in the AWS configuration.
    pub profile: Option<String>,
    /// Another service than AWS: its URL.
    pub endpoint: Option<String>,
    /// Days for which what is put is locked.
    #[serde(default = "thirty")]
    pub lock_days: u32,
    /// Days left below which a lock is renewed.
    #[serde(default = "twenty_three")]
    pub renew_below_days: u32,
    /// Storage class of what is put.
    pub storage_class: Option<String>,
    /// Most bytes sent in a second.
    pub limit_upload: Option<Bytes>,
    /// Amounts a month above which it is said.
    pub budget: Option<Vec<f64>>,
    /// Amount a month above which nothing more is put.
    pub budget_limit: Option<f64>,
    /// What is charged.
    #[serde(default)]
    pub prices: Prices,
    /// How long ago the last sync that succeeded may be.
    #[serde(default = "three_days")]
    pub max_age: Span,
}

fn three_days() -> Span {
    Span(Duration::from_secs(3 * DAY))
}

fn thirty() -> u32 {
    30
}

fn twenty_three() -> u32 {
    23
}

/// `[check]`: how often all packs are to be read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// How long ago the last check of all packs that found no damage may be.
    pub max_age: Span,
}

impl Default for Check {
    fn default() -> Self {
        Self { max_age: Span(Duration::from_secs(40 * DAY)) }
    }
}

/// `[scan]`: the search for malware. Read now, used by `snap scan`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// Where clamd listens: a socket's path, or host and port.
    pub clamd: String,
}

fn fault(at: std::ops::Range<usize>, key: &str, what: &str) -> Fault {
    (at, key.to_owned(), what.to_owned())
}

/// `[mail]`: where mailboxes lie.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// The component that holds them; all are looked through if none is named.
    pub component: Option<Spanned<String>>,
    /// Where they lie in it; guessed if it is not said.
    pub layout: Option<MailLayout>,
}
