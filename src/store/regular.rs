//! Opening files where somebody else may have put something that is none: a FIFO that nobody writes to, a device, a
//! link that leads elsewhere.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What is there is no regular file.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("is no regular file")]
pub struct NoRegularFile;

/// Opens a regular file to read; never through a link in its own place, and never waiting for anybody.
///
/// # Errors
/// As open(2); an error that says so for what is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::RDONLY)
}

/// As [`open_regular`], to append to and for its owner alone; made if it is not there.
///
/// # Errors
/// As [`open_regular`].
pub fn append_regular(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE)
}

/// Reads a regular file of at most `bytes_max` bytes.
///
/// # Errors
/// As [`open_regular`] and read(2); [`io::ErrorKind::FileTooLarge`] for a longer one.
pub fn read_regular(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= bytes_max {
        true => Ok(bytes),
        false => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {bytes_max} bytes"))),
    }
}

fn open_with(path: &Path, how: OFlags) -> io::Result<File> {
    let flags = how | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let no_file = || io::Error::other(NoRegularFile);
    let opened = match rustix::fs::open(path, flags | OFlags::NONBLOCK, mode) {
        // Another program has a lease on it (fcntl(2)), and gives it up when it is asked.
        Err(Errno::AGAIN) if path.symlink_metadata().is_ok_and(|about| about.is_file()) => {
            rustix::fs::open(path, flags, mode)
        }
        opened => opened,
    };
    let file = match opened {
        Ok(opened) => File::from(opened),
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Err(no_file()),
        Err(e) => return Err(e.into()),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        drop(append_regular(&path("file")).unwrap());
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("device")).unwrap();
        for name in ["fifo", "socket", "link", "device", "."] {
            for opened in [open_regular(&path(name)), append_regular(&path(name))] {
                let error = opened.unwrap_err();
                assert!(error.get_ref().is_some_and(|error| error.is::<NoRegularFile>()), "{name}: {error}");
            }
        }
        assert_eq!(open_regular(&path("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::io::Write::write_all(&mut append_regular(&path).unwrap(), b"12345").unwrap();
        assert_eq!(read_regular(&path, 5).unwrap(), b"12345");
        assert_eq!(read_regular(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
