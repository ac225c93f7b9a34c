//! What several test crates share.
#![allow(dead_code, reason = "each test crate uses a part of this")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test's own files need not be durable")]

pub mod coarse;
pub mod cutting;
pub mod disk;
pub mod fault;
pub mod front;
pub mod killed;
pub mod machine;
pub mod manifest;
pub mod proxy;
pub mod repo;
pub mod s3;
pub mod tls;
pub mod watched;

/// Returns the program, to be run in `folder` with `repo` and `state` there, and nothing else of the environment.
pub fn program(folder: &std::path::Path, arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_snap"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TZ", "UTC")
        .env("SNAP_REPOSITORY", folder.join("repo"))
        .env("SNAP_STATE_DIR", folder.join("state"))
        .env("SNAP_PASSWORD", "correct horse")
        .current_dir(folder)
        .stdin(std::process::Stdio::null());
    command
}

/// Returns where [`program`] keeps the index cache of the one repository that it knows in `folder`.
pub fn index_cache(folder: &std::path::Path) -> std::path::PathBuf {
    let kept = std::fs::read_dir(folder.join("state")).expect("state lists").flatten();
    let kept: Vec<_> = kept.filter(|entry| entry.path().is_dir()).collect();
    assert_eq!(kept.len(), 1, "one repository is known");
    let inside = std::fs::read_dir(kept[0].path()).expect("state lists").flatten().map(|entry| entry.path());
    let caches: Vec<_> =
        inside.filter(|path| path.extension().is_some_and(|extension| extension == "redb")).collect();
    assert_eq!(caches.len(), 1, "and one cache");
    caches[0].clone()
}

/// Returns whether a mount can be tried here; says why not.
pub fn can_mount() -> bool {
    let lacking = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if !std::path::Path::new("/dev/fuse").exists() {
        "no /dev/fuse"
    } else {
        return true;
    };
    eprintln!("skipped: {lacking}");
    false
}

/// Returns the last of the JSON lines that a command said.
pub fn summary(said: &str) -> serde_json::Value {
    serde_json::from_str(said.lines().last().expect("a summary")).expect("JSON")
}

/// Returns the seed of a random test and prints it; `SNAP_TEST_SEED` gives an old one back.
pub fn seed() -> u64 {
    let given = std::env::var("SNAP_TEST_SEED").ok();
    let seed = match given {
        Some(text) => text.parse().expect("SNAP_TEST_SEED is a number"),
        None => {
            let mut bytes = [0; 8];
            snap::stage::seal::random(&mut bytes).expect("random bytes");
            u64::from_le_bytes(bytes)
        }
    };
    println!("seed: SNAP_TEST_SEED={seed}");
    seed
}

/// Endless bytes that depend on a seed alone and do not compress.
pub struct Noise(blake3::OutputReader);

impl Noise {
    /// Starts the bytes that belong to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    /// Returns the next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.fill(&mut bytes);
        bytes
    }

    /// Returns a number in `0..bound`; `bound` is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % bound
    }
}
