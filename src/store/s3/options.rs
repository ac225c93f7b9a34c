//! Where a repository on S3 lies, and how it is talked to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use zeroize::Zeroizing;

/// What a location on S3 begins with.
pub const SCHEME: &str = "s3://";

/// A bucket, and the start of the keys in it: `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Location {
    bucket: String,
    /// Without slashes at its ends; may be empty.
    prefix: String,
}

impl S3Location {
    /// Returns the bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Returns the key of the file with this path in the repository.
    pub fn key(&self, path: &str) -> String {
        match self.prefix.is_empty() {
            true => path.to_owned(),
            false => format!("{}/{path}", self.prefix),
        }
    }

    /// Returns the path in the repository that a key stands for; none for a key outside it.
    pub fn path<'k>(&self, key: &'k str) -> Option<&'k str> {
        match self.prefix.is_empty() {
            true => Some(key),
            false => key.strip_prefix(&self.prefix)?.strip_prefix('/'),
        }
    }
}

impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

impl FromStr for S3Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix(SCHEME).ok_or("does not begin with s3://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(is_good) {
            return Err(format!(
                "\"{bucket}\" is not a bucket's name: 3 to 63 of a-z, 0-9, '.', '-'; write s3://bucket/prefix"
            ));
        }
        let prefix = prefix.trim_end_matches('/');
        let is_bad = |part: &str| part.is_empty() || part == "." || part == "..";
        if !prefix.is_empty() && (prefix.split('/').any(is_bad) || prefix.chars().any(char::is_control)) {
            return Err(format!("prefix \"{prefix}\": has an empty part, '.', '..' or a control character"));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

/// An access key, given directly. Its secret is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Keys {
    /// The key's name.
    pub access_key: String,
    /// The secret.
    pub secret: Zeroizing<String>,
}

impl S3Keys {
    /// Takes an access key's name and its secret.
    pub fn new(access_key: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { access_key: access_key.into(), secret: Zeroizing::new(secret.into()) }
    }
}

impl fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Keys").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// How long a lock holds that nobody renews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// A lock that was not renewed for so long is a dead run's.
    pub lasts: Duration,
    /// Time between two renewals; well below `lasts`.
    pub renewed_every: Duration,
}

impl Default for Lease {
    fn default() -> Self {
        Self { lasts: Duration::from_secs(15 * 60), renewed_every: Duration::from_secs(3 * 60) }
    }
}

/// How S3 is talked to. What is not set comes from where every AWS program takes it: environment,
/// `~/.aws`, web identity, the machine's role.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// URL of another server than Amazon's.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Profile of `~/.aws`.
    pub profile: Option<String>,
    /// Credentials, where they are not to be looked for.
    pub credentials: Option<S3Keys>,
    /// Bucket in the path, not in the host's name; else as the profile's `addressing_style` says, or in the path where
    /// another server than Amazon's is named.
    pub path_style: bool,
    /// Storage class of what is put.
    pub storage_class: Option<String>,
    /// Requests at the same time, at least 1.
    pub connections: usize,
    /// Most bytes sent in a second; none for no limit.
    pub upload_bytes_per_s: Option<u64>,
    /// How often a request is tried, the first time included.
    pub attempts: u32,
    /// Time before a request is tried again, on average half of it; doubles, up to 20 s.
    pub backoff: Duration,
    /// Time within which a connection is made.
    pub connect_timeout: Duration,
    /// Longest silence: time for which no byte comes or goes while something is asked.
    pub read_timeout: Duration,
    /// Time for which nothing is read after the server was silent: whoever asks then is told at once.
    pub after_silence: Duration,
    /// File of certificates, in PEM: whoever they vouch for is trusted, and nobody else. None for those of this machine.
    pub ca_bundle: Option<PathBuf>,
    /// Where files lie until they are sent; the system's temporary folder if none.
    pub spool: Option<PathBuf>,
    /// How long locks hold.
    pub lease: Lease,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            profile: None,
            credentials: None,
            path_style: false,
            storage_class: None,
            connections: 8,
            upload_bytes_per_s: None,
            attempts: 6,
            backoff: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            after_silence: Duration::ZERO,
            ca_bundle: None,
            spool: None,
            lease: Lease::default(),
        }
    }
}

impl S3Options {
    /// Returns how long to wait before a read that broke off is tried again.
    pub fn again(&self, attempt: u32) -> Duration {
        (self.backoff / 2 * (1 << attempt.min(6))).min(Duration::from_secs(20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_reads_back() {
        for text in ["s3://bucket", "s3://my.bucket-1/a", "s3://bucket/a/b c"] {
            assert_eq!(text.parse::<S3Location>().map(|l| l.to_string()), Ok(text.to_owned()));
        }
        let trimmed: S3Location = "s3://bucket/a/".parse().unwrap();
        assert_eq!(trimmed.to_string(), "s3://bucket/a");
        assert_eq!(trimmed.key("config"), "a/config");
        assert_eq!(trimmed.path("a/config"), Some("config"));
        assert_eq!(trimmed.path("ab/config"), None);
    }

    #[test]
    fn what_is_no_location_is_refused() {
        for text in ["s3:/b", "s3://", "s3://ab", "s3://Bucket", "s3://bucket//a", "s3://bucket/../a"] {
            assert!(text.parse::<S3Location>().is_err(), "{text}");
        }
    }
}
