//! The `config` file: what a repository is made with. Plain, small, readable by people.

use serde::{Deserialize, Serialize};

use crate::base::id::RepositoryId;
use crate::base::limits::{FORMAT_VERSION, FRAME_BYTES, FRAME_BYTES_CAP, PACK_BYTES, PACK_BYTES_CAP};
use crate::stage::chunk::ChunkSizes;

/// Longest `config` that is read, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 64 << 10;

/// What begins the last line, which guards all lines above it.
const CHECKSUM: &str = "checksum = \"";

/// Whether stored bytes are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Content to age recipients, trees and lists to the writer secret.
    Age,
    /// Nothing is sealed: for a disk that is trusted.
    None,
}

/// What `config` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Format version.
    pub format: u16,
    /// The repository's id, 32 hex digits.
    pub repository: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Program and version that made it.
    pub created_by: String,
    /// Whether stored bytes are sealed.
    pub encryption: Encryption,
    /// Average chunk length, in bytes.
    pub chunk_bytes_avg: u32,
    /// Raw bytes gathered in one frame.
    pub frame_bytes: u32,
    /// Size at which a pack is closed, in bytes.
    pub pack_bytes: u32,
    /// zstd level, 1..=19.
    pub compression: i32,
}

/// What the maker of a repository may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// Whether stored bytes are sealed.
    pub encryption: Encryption,
    /// Chunk lengths.
    pub chunks: ChunkSizes,
    /// zstd level, 1..=19.
    pub compression: i32,
    /// Size at which a pack is closed, in bytes: 1 MiB to 512 MiB.
    pub pack_bytes: u32,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            encryption: Encryption::Age,
            chunks: ChunkSizes::default(),
            compression: 3,
            pack_bytes: PACK_BYTES,
        }
    }
}

impl Config {
    /// Makes the configuration of a new repository. `created` is RFC 3339.
    pub fn new(id: RepositoryId, choices: Choices, created: &str) -> Self {
        Self {
            format: FORMAT_VERSION,
            repository: id.to_string(),
            created: created.to_owned(),
            created_by: concat!("snap ", env!("CARGO_PKG_VERSION")).to_owned(),
            encryption: choices.encryption,
            chunk_bytes_avg: choices.chunks.avg,
            frame_bytes: FRAME_BYTES,
            pack_bytes: choices.pack_bytes,
            compression: choices.compression,
        }
    }

    /// Returns the file's text.
    ///
    /// # Errors
    /// What toml says, which is a bug of ours.
    pub fn to_text(&self) -> Result<String, String> {
        let body = toml::to_string(self).map_err(|e| e.to_string())?;
        let sum = blake3::hash(body.as_bytes());
        Ok(format!("{body}{CHECKSUM}{sum}\"\n"))
    }

    /// Reads the file's bytes, and checks every value against its bounds.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "not text".to_owned())?;
        let table: toml::Table = text
            .parse()
            .map_err(|_| "not TOML: cut short, damaged, or not a repository of snap".to_owned())?;
        match table.get("format").and_then(toml::Value::as_integer) {
            None => return Err("no format version: cut short, or not a repository of snap".to_owned()),
            Some(found) if found > i64::from(FORMAT_VERSION) => {
                return Err(format!(
                    "format version {found}: this program reads up to {FORMAT_VERSION}; use a newer snap"
                ));
            }
            Some(_) => {}
        }
        let at = text.rfind(CHECKSUM).ok_or("no checksum on the last line: the file was cut short")?;
        let (body, last) = text.split_at(at);
        let sum = last.strip_prefix(CHECKSUM).and_then(|last| last.strip_suffix("\"\n"));
        if sum != Some(blake3::hash(body.as_bytes()).to_string().as_str()) {
            return Err("the checksum does not fit: the file was changed or cut short".to_owned());
        }
        let config: Self = toml::from_str(body).map_err(|e| e.message().to_owned())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.id()?;
        self.chunk_sizes()?;
        let frame_fits = (64 << 10..=FRAME_BYTES_CAP / 2).contains(&self.frame_bytes);
        let pack_fits = (1 << 20..=PACK_BYTES_CAP / 2).contains(&u64::from(self.pack_bytes));
        match frame_fits && pack_fits && (1..=19).contains(&self.compression) {
            true => Ok(()),
            false => Err("frame_bytes, pack_bytes or compression is out of bounds".to_owned()),
        }
    }

    /// Returns the repository's id.
    ///
    /// # Errors
    /// One line, if it is none.
    pub fn id(&self) -> Result<RepositoryId, String> {
        self.repository.parse().map_err(|e| format!("repository: {e}"))
    }

    /// Returns the lengths that chunks have.
    ///
    /// # Errors
    /// One line, if there are none such.
    pub fn chunk_sizes(&self) -> Result<ChunkSizes, String> {
        ChunkSizes::around(self.chunk_bytes_avg).ok_or_else(|| {
            format!("chunk_bytes_avg: {} is not a power of two from 1024 to 1048576", self.chunk_bytes_avg)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new(RepositoryId::from_bytes([7; 16]), Choices::default(), "2026-01-01T00:00:00Z")
    }

    #[test]
    fn a_configuration_reads_back() {
        let text = config().to_text().unwrap();
        assert_eq!(Config::from_bytes(text.as_bytes()), Ok(config()));
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_refused() {
        let text = config().to_text().unwrap().into_bytes();
        for cut in 0..text.len() {
            assert!(Config::from_bytes(&text[..cut]).is_err(), "cut at {cut}");
            let mut flipped = text.clone();
            flipped[cut] ^= 1;
            assert!(Config::from_bytes(&flipped).is_err(), "byte {cut}");
        }
    }

    #[test]
    fn a_newer_format_is_called_newer() {
        let text = config().to_text().unwrap().replace("format = 1", "format = 9");
        assert!(Config::from_bytes(text.as_bytes()).unwrap_err().contains("use a newer snap"));
    }
}
