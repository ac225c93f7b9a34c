//! What a profile of `~/.aws/config` says that the client does not read by itself.

use std::path::PathBuf;

use aws_config::SdkConfig;
use aws_types::os_shim_internal::{Env, Fs};
use aws_types::service_config::ServiceConfigKey;

/// Where the bucket's name goes in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// Into the path.
    Path,
    /// Before the host's name.
    Virtual,
}

/// What a profile says.
#[derive(Debug, Default)]
pub struct Profile {
    /// `ca_bundle`.
    pub ca_bundle: Option<PathBuf>,
    /// `addressing_style` of `s3`; none for `auto`.
    pub addressing: Option<Addressing>,
}

impl Profile {
    /// Reads the profile of this name; else the one that counts. One that can't be read says nothing: who looks for
    /// credentials there tells why.
    pub async fn read(name: Option<&str>) -> Self {
        let name = name.map(|name| name.to_owned().into());
        let files = Default::default();
        let Ok(all) = aws_config::profile::load(&Fs::real(), &Env::real(), &files, name).await else {
            return Self::default();
        };
        Self {
            ca_bundle: all.get("ca_bundle").map(PathBuf::from),
            addressing: all.get("s3").and_then(addressing),
        }
    }
}

/// Reads `addressing_style` among the settings that stand below `s3 =`, a line each.
fn addressing(settings: &str) -> Option<Addressing> {
    let mut pairs = settings.lines().filter_map(|line| line.split_once('='));
    let (_, style) = pairs.find(|(key, _)| key.trim() == "addressing_style")?;
    match style.trim() {
        "path" => Some(Addressing::Path),
        "virtual" => Some(Addressing::Virtual),
        _ => None,
    }
}

/// Returns whether environment or profile name another server than Amazon's.
pub fn names_endpoint(found: &SdkConfig) -> bool {
    let of_s3 =
        ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
    let of_s3 = of_s3.ok().and_then(|key| found.service_config()?.load_config(key));
    of_s3.is_some() || found.endpoint_url().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_is_read_among_other_settings() {
        let read = |text: &str| addressing(text);
        assert_eq!(read("\nmax_queue_size = 5\naddressing_style = path"), Some(Addressing::Path));
        assert_eq!(read("\naddressing_style=virtual\nx = y"), Some(Addressing::Virtual));
        assert_eq!((read("\naddressing_style = auto"), read("\nx = path"), read("")), (None, None, None));
    }
}
