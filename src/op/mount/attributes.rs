//! What the source machine knew of an entry → what the kernel is told of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::base::entry::{Entry, Kind, NO_CTIME};
use crate::base::time::Time;

/// Block length that is reported, in bytes.
pub const BLOCK_BYTES: u32 = 4096;

/// Length of the blocks that a file's space is counted in, in bytes.
const COUNTED_BYTES: u64 = 512;

/// Returns an entry's attributes. A file's access time is not kept: it is given the time of its last change.
pub fn attributes_of(number: u64, entry: &Entry<'_>) -> FileAttr {
    let size = match entry.kind {
        Kind::File => entry.size,
        Kind::Symlink => entry.target.len() as u64,
        _ => 0,
    };
    let (major, minor) = entry.device;
    let block = u64::from(BLOCK_BYTES);
    let mtime = system_time(entry.mtime);
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: entry.data_bytes().div_ceil(block).saturating_mul(block / COUNTED_BYTES),
        atime: mtime,
        mtime,
        ctime: if entry.ctime == NO_CTIME { mtime } else { system_time(entry.ctime) },
        crtime: entry.btime.map_or(mtime, system_time),
        kind: match entry.kind {
            Kind::File => FileType::RegularFile,
            Kind::Directory => FileType::Directory,
            Kind::Symlink => FileType::Symlink,
            Kind::Fifo => FileType::NamedPipe,
            Kind::CharDevice => FileType::CharDevice,
            Kind::BlockDevice => FileType::BlockDevice,
        },
        perm: u16::try_from(entry.mode).unwrap_or(0),
        nlink: entry.links,
        uid: entry.uid,
        gid: entry.gid,
        rdev: (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xfff00) << 12, // as the kernel packs it
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// Returns the attributes of a directory that no source machine had; `owner` is user and group.
pub fn directory_of_top(number: u64, time: Time, owner: (u32, u32)) -> FileAttr {
    let time = system_time(time);
    FileAttr {
        ino: INodeNo(number),
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: FileType::Directory,
        perm: 0o555,
        nlink: 2,
        uid: owner.0,
        gid: owner.1,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let second = match time.seconds < 0 {
        true => UNIX_EPOCH.checked_sub(whole),
        false => UNIX_EPOCH.checked_add(whole),
    };
    let moment = second.and_then(|second| second.checked_add(Duration::from_nanos(u64::from(time.nanos))));
    moment.unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_and_hostile_ones_are_times() {
        let early = UNIX_EPOCH - Duration::new(2, 0) + Duration::from_nanos(5);
        assert_eq!(system_time(Time::new(-2, 5)), early);
        for seconds in [i64::MIN, i64::MAX] {
            system_time(Time::new(seconds, 999_999_999));
        }
    }
}
