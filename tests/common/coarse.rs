//! A file system whose stamps are whole seconds: ext4 with small inodes, on a loop device.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Such a file system, mounted until it is dropped.
pub struct CoarseDisk {
    folder: tempfile::TempDir,
}

impl CoarseDisk {
    /// Makes and mounts one; says why if that can't be done here.
    pub fn mounted() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: not root");
            return None;
        }
        let disk = Self { folder: tempfile::tempdir().expect("temporary folder") };
        let image = disk.folder.path().join("image");
        let file = std::fs::File::create(&image).expect("image is made");
        file.set_len(64 << 20).expect("image grows");
        std::fs::create_dir(disk.path()).expect("mount point is made");
        let (image, point) = (image.to_str().expect("text"), disk.path());
        let made = run("mkfs.ext4", &["-q", "-F", "-I", "128", image])
            .and_then(|()| run("mount", &["-o", "loop", image, point.to_str().expect("text")]));
        made.inspect_err(|why| eprintln!("skipped: {why}")).ok().map(|()| disk)
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

impl Drop for CoarseDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-q", "-l"]).arg(self.path()).status();
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Returns mtime and ctime of a file.
pub fn stamps(path: &Path) -> [(i64, i64); 2] {
    use std::os::unix::fs::MetadataExt;
    let about = std::fs::metadata(path).expect("file is there");
    [(about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec())]
}
