//! What is mounted: as this process sees it.

use std::fs;

/// What a mount says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedAs {
    /// Type of the file system, such as `ext4` or `fuse.sshfs`.
    pub kind: String,
    /// What is mounted, such as a device.
    pub source: String,
}

/// Returns as what the file system with these device numbers is mounted; none if that is not known. Reads
/// `/proc/self/mountinfo`; a file system that is mounted several times says the same each time.
pub fn mounted_as(device: (u32, u32)) -> Option<MountedAs> {
    find(&String::from_utf8_lossy(&fs::read("/proc/self/mountinfo").ok()?), device)
}

/// Looks in a text as proc_pid_mountinfo(5) describes it.
fn find(text: &str, (major, minor): (u32, u32)) -> Option<MountedAs> {
    let wanted = format!("{major}:{minor}");
    text.lines().find_map(|line| {
        let is_it = line.split(' ').nth(2) == Some(&wanted);
        let (_, after) = line.split_once(" - ").filter(|_| is_it)?; // before it are as many fields as there may be
        let mut fields = after.split(' ').map(str::to_owned);
        Some(MountedAs { kind: fields.next()?, source: fields.next()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_device_numbers() {
        let text = "29 1 0:26 / /srv rw,nosuid shared:7 - ext4 /dev/sda1 rw\n\
                    31 29 0:52 / /srv/a\\040b ro,nosuid - fuse.snap snap ro,user_id=0\n";
        let snap = MountedAs { kind: "fuse.snap".to_owned(), source: "snap".to_owned() };
        assert_eq!(find(text, (0, 52)), Some(snap));
        assert_eq!(find(text, (0, 26)).map(|mount| mount.kind).as_deref(), Some("ext4"));
        assert_eq!(
            (find(text, (0, 5)), find("", (0, 1)), find("29 1 0:26 / /srv", (0, 26))),
            (None, None, None)
        );
    }
}
