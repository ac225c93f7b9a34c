//! What can be said of S3 on the command line and in the environment.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::cli::session::Session;
use crate::cli::values::{ATTEMPTS, attempts, rate};
use crate::job::config;
use crate::repo::RepoError;
use crate::repo::config::{CONFIG_BYTES_MAX, Config};
use crate::store::{
    GenuineStore, LocalStore, S3_SCHEME, S3Location, S3Options, S3Store, Store, dead_link, refuse_other_kinds,
};

/// How a repository on S3 is reached. Credentials come from the environment, ~/.aws, web identity or
/// the machine's role, as with every AWS program.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of every command, for S3")]
pub struct S3Args {
    /// URL of an S3 server other than Amazon's [default: AWS_ENDPOINT_URL]
    #[arg(long, global = true, env = "SNAP_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Region [default: AWS_REGION, or the profile's]
    #[arg(long, global = true, env = "SNAP_S3_REGION", value_name = "REGION")]
    pub s3_region: Option<String>,
    /// Profile of ~/.aws [default: AWS_PROFILE]
    #[arg(long, global = true, env = "SNAP_S3_PROFILE", value_name = "NAME")]
    pub s3_profile: Option<String>,
    /// Put the bucket into the path of URLs [default: addressing_style of ~/.aws/config, or if an endpoint is named]
    #[arg(long, global = true)]
    pub s3_path_style: bool,
    /// Storage class of what is put, such as STANDARD_IA
    #[arg(long, global = true, env = "SNAP_S3_STORAGE_CLASS", value_name = "CLASS")]
    pub s3_storage_class: Option<String>,
    /// Requests at the same time
    #[arg(long, global = true, default_value = "8", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub s3_connections: u16,
    /// How often a request is tried
    #[arg(long, global = true, env = "AWS_MAX_ATTEMPTS", default_value = ATTEMPTS, value_name = "N", value_parser = attempts)]
    pub s3_attempts: u32,
    /// Read the version of each file that its name stands for, whatever lies on top: after an attack
    #[arg(long, global = true)]
    pub s3_genuine: bool,
    /// Most bytes sent in a second, such as 2MiB
    #[arg(long, global = true, env = "SNAP_LIMIT_UPLOAD", value_name = "SIZE", value_parser = rate)]
    pub limit_upload: Option<u64>,
    /// Whether a program waits for each read, which is not to hang with the server.
    #[arg(skip)]
    pub is_waited_for: bool,
}

/// Longest silence of a server where a program waits for a read, and for how long it is not asked again then. A read
/// takes at most two silences for its bytes, and two until it is known that the repository is away: less than a minute.
const SILENCE_OF_MOUNT: Duration = Duration::from_secs(10);
const AFTER_SILENCE: Duration = Duration::from_secs(5);

impl S3Args {
    /// Returns how S3 is to be talked to.
    pub fn options(&self) -> S3Options {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let default = S3Options::default();
        let silences = match self.is_waited_for {
            true => (SILENCE_OF_MOUNT, AFTER_SILENCE),
            false => (default.read_timeout, default.after_silence),
        };
        S3Options {
            read_timeout: silences.0,
            after_silence: silences.1,
            endpoint: given(&self.s3_endpoint),
            region: given(&self.s3_region),
            profile: given(&self.s3_profile),
            path_style: self.s3_path_style,
            ca_bundle: std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()).map(PathBuf::from),
            storage_class: given(&self.s3_storage_class),
            attempts: self.s3_attempts.max(1),
            connections: usize::from(self.s3_connections.max(1)),
            upload_bytes_per_s: self.limit_upload.filter(|limit| *limit > 0),
            ..default
        }
    }
}

/// Returns the server that the environment names, as every AWS program takes it.
pub fn endpoint_of_environment() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    set("AWS_ENDPOINT_URL_S3").or_else(|| set("AWS_ENDPOINT_URL"))
}

/// Returns whether a location lies on S3.
pub fn is_s3(location: &Path) -> bool {
    location.as_os_str().as_encoded_bytes().starts_with(S3_SCHEME.as_bytes())
}

/// Connects to a location on S3.
///
/// # Errors
/// [`RepoError::Source`] if it is none, [`RepoError::Store`] if no region is known.
pub fn connect(location: &Path, options: S3Options) -> Result<S3Store, RepoError> {
    let bad = |reason: String| RepoError::Source { path: location.display().to_string(), reason };
    let text = location.to_str().ok_or_else(|| bad("is not text".to_owned()))?;
    let parsed: S3Location = text.parse().map_err(bad)?;
    Ok(S3Store::open(parsed, options)?)
}

/// Returns the store in a directory.
///
/// # Errors
/// [`RepoError::Source`] for the address of a place of another kind, or if a link on the way leads to nothing.
fn directory_at(location: &Path) -> Result<Arc<dyn Store>, RepoError> {
    if let Err(reason) = refuse_other_kinds(location) {
        return Err(RepoError::Source { path: location.display().to_string(), reason });
    }
    match dead_link(location) {
        Some(reason) => Err(RepoError::Source { path: "repository".to_owned(), reason }),
        None => Ok(Arc::new(LocalStore::new(location))),
    }
}

/// Returns the store at a location: a directory, or `s3://bucket/prefix`.
///
/// # Errors
/// As [`connect`]; [`RepoError::Source`] for a place of another kind, or a link that leads to nothing.
pub fn store_at(location: &Path, options: S3Options) -> Result<Arc<dyn Store>, RepoError> {
    match is_s3(location) {
        true => Ok(Arc::new(connect(location, options)?)),
        false => directory_at(location),
    }
}

/// Returns where the index cache of a repository lies unless it is said: in the state directory, beside the
/// writer secret, for it tells every chunk's id and length. Each copy of a repository has its own, by the hash of
/// where it lies. None as long as there is no repository.
pub fn index_of(store: &dyn Store, location: &Path, state: &Path) -> Option<PathBuf> {
    let [config] = <[Vec<u8>; 1]>::try_from(store.configs(CONFIG_BYTES_MAX).ok()?).ok()?; // else it is contested
    let id = Config::from_bytes(&config).and_then(|config| config.id()).ok()?;
    let place = if is_s3(location) { location.to_owned() } else { std::fs::canonicalize(location).ok()? };
    let hash = blake3::hash(place.as_os_str().as_encoded_bytes()).to_hex();
    Some(state.join(id.to_string()).join(format!("index-{}.redb", &hash[..8])))
}

/// Returns how S3 is talked to: as the command line says, else as is configured.
pub fn s3_options(session: &Session, configured: Option<&config::Sync>) -> S3Options {
    let mut options = session.global.s3.options();
    if let Some(sync) = configured {
        options.endpoint = options.endpoint.or_else(|| sync.endpoint.clone());
        options.region = options.region.or_else(|| sync.region.clone());
        options.profile = options.profile.or_else(|| sync.profile.clone());
        options.storage_class = options.storage_class.or_else(|| sync.storage_class.clone());
        let limit = sync.limit_upload.as_ref().map(|limit| limit.0).filter(|limit| *limit > 0);
        options.upload_bytes_per_s = options.upload_bytes_per_s.or(limit);
    }
    options
}

/// Returns another copy of a repository, to be read: of a bucket the genuine versions, whatever lies on
/// top of them.
///
/// # Errors
/// As [`store_at`] and [`GenuineStore::open`].
pub fn copy_at(location: &Path, options: S3Options) -> Result<Arc<dyn Store>, RepoError> {
    match is_s3(location) {
        true => Ok(Arc::new(GenuineStore::open(Arc::new(connect(location, options)?))?)),
        false => directory_at(location),
    }
}
