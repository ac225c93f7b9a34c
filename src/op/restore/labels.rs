//! SELinux labels: what is restored has the label of what it takes the place of, else that of the directory that it
//! lies in. The stored one belongs to the place that it was read from, and is set only where that is asked for.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::XattrFlags;

/// The extended attribute that is the label.
pub const LABEL: &[u8] = b"security.selinux";

/// Longest label, in bytes; the kernel's own are far shorter.
const LABEL_BYTES_MAX: usize = 4096;

/// Returns whether a directory has a label: where the target has none, no entry gets one.
pub fn has_label(directory: impl AsFd) -> bool {
    rustix::fs::fgetxattr(directory, LABEL, &mut [0; LABEL_BYTES_MAX][..]).is_ok()
}

/// Gives what was made in a directory under a temporary name the label of what lies under `name`; where nothing does,
/// and the kernel gave it none, that of the directory. A label that can't be set is the kernel's to choose.
pub fn keep(parent: impl AsFd, temporary: &[u8], name: &[u8]) {
    let at =
        |name: &[u8]| [format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).as_bytes(), name].concat();
    let read = |path: &[u8]| {
        let mut label = vec![0; LABEL_BYTES_MAX];
        let length = rustix::fs::lgetxattr(path, LABEL, &mut label[..]).ok()?;
        label.truncate(length);
        Some(label)
    };
    let older = if temporary == name { None } else { read(&at(name)) };
    let label = older.or_else(|| match read(&at(temporary)) {
        Some(_) => None,
        None => read(&at(b".")),
    });
    if let Some(label) = label {
        let _ = rustix::fs::lsetxattr(at(temporary), LABEL, &label, XattrFlags::empty());
    }
}
