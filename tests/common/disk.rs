//! A small file system in a file, mounted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system; unmounted when it is dropped.
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

impl Disk {
    /// Makes and mounts one of `mib` MiB; none, and says so, where that is not allowed.
    pub fn mounted(folder: &Path, mib: u64) -> Option<Self> {
        Self::made(folder, mib, &[])
    }

    /// As [`Self::mounted`], with room for so many files.
    pub fn of_files(folder: &Path, mib: u64, files: u64) -> Option<Self> {
        Self::made(folder, mib, &["-N", &files.to_string()])
    }

    /// As [`Self::mounted`], with XFS on it; of the least size that it has. None, and says so, without its tools.
    pub fn of_xfs(folder: &Path) -> Option<Self> {
        Self::made_by(folder, 320, &["mkfs.xfs", "-q", "-f"])
    }

    /// As [`Self::mounted`], with btrfs on it, which can count what lies there; none, and says so, without its tools.
    pub fn of_btrfs(folder: &Path) -> Option<Self> {
        let disk = Self::made_by(folder, 256, &["mkfs.btrfs", "-q", "-f"])?;
        run("btrfs", &["quota", "enable", disk.mount.to_str().expect("text")]).expect("it counts");
        Some(disk)
    }

    /// Lets no more than so many MiB lie on it, as [`Self::of_btrfs`] made it.
    pub fn limit(&self, mib: u64) {
        let path = self.mount.to_str().expect("text");
        run("btrfs", &["filesystem", "sync", path]).expect("is synced");
        run("btrfs", &["qgroup", "limit", &format!("{mib}M"), path]).expect("is limited");
    }

    fn made(folder: &Path, mib: u64, options: &[&str]) -> Option<Self> {
        Self::made_by(folder, mib, &[&["mkfs.ext4", "-q", "-F", "-m", "0"], options].concat())
    }

    /// Makes the file system with a program and its arguments; none, and says so, where there is no such program.
    fn made_by(folder: &Path, mib: u64, program: &[&str]) -> Option<Self> {
        let disk = Self { image: folder.join("disk.img"), mount: folder.join("hdd") };
        fs::create_dir(&disk.mount).expect("folder is made");
        File::create(&disk.image).expect("image is made").set_len(mib << 20).expect("image grows");
        let image = disk.image.to_str().expect("text");
        match run(program[0], &[&program[1..], &[image]].concat()) {
            Err(e) if e.contains("os error 2") => {
                eprintln!("skipped: {e}");
                return None;
            }
            made => made.expect("file system is made"),
        }
        match disk.mount() {
            Ok(()) => Some(disk),
            Err(e) => {
                eprintln!(
                    "skipped: file systems can't be mounted here (root and loop devices are needed): {e}"
                );
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    pub fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", self.image.to_str().expect("text"), self.mount.to_str().expect("text")])
    }

    pub fn unmount(&self) {
        run("umount", &[self.mount.to_str().expect("text")]).expect("is unmounted");
    }

    /// Fills it until less than `left` bytes are free.
    pub fn fill(&self, left: u64) {
        let about = rustix::fs::statvfs(&self.mount).expect("is asked");
        let free = about.f_bavail * about.f_frsize;
        let file = File::create(self.mount.join("filler")).expect("file is made");
        let bytes = free.saturating_sub(left);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).expect("is filled");
    }
}

/// Writes into a directory until not one byte more fits on its disk.
pub fn fill_up(folder: &Path) {
    use std::io::Write;
    let mut number = 0;
    loop {
        number += 1;
        let Ok(mut file) = File::create(folder.join(format!("filler-{number}"))) else { return };
        let mut wrote = 0;
        for bytes in [1 << 20, 4096, 1] {
            while file.write_all(&vec![7; bytes]).is_ok() && file.sync_data().is_ok() {
                wrote += bytes;
            }
        }
        if wrote == 0 {
            return;
        }
    }
}

/// Makes files in a directory until not one more fits on its disk.
pub fn fill_with_files(folder: &Path) {
    let made = |number: &u32| File::create(folder.join(format!("file-{number}"))).is_ok();
    assert!((0..100_000).take_while(made).count() < 100_000, "the disk takes files for ever");
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", self.mount.to_str().unwrap_or_default()]);
    }
}
