//! Time stamps of files → whether what changes later can be told by them.
//!
//! File systems write down whole steps of a clock: a kernel tick, a second, two. What changes in the step in
//! which it was looked at has the same stamps as before, and nothing tells that it changed. `docs/decisions/0015`
//! says what follows from it.

use std::os::fd::AsFd;

use rustix::time::{ClockId, clock_gettime};

use crate::base::entry::NO_CTIME;
use crate::base::time::Time;
use crate::stage::scan::Stat;

/// How far another machine's clock may be behind this one's, in nanoseconds: a clock of another time zone too.
const OTHER_CLOCK_NANOS: i128 = 3_600 * 1_000_000_000;

/// How far in the future a stamp may lie that the clock is expected to reach, in nanoseconds. One beyond that
/// comes from a clock that was wrong.
const AHEAD_NANOS: i128 = 86_400 * 1_000_000_000;

/// File systems that this kernel stamps by its own clock, by the number that statfs(2) gives them: ext, XFS,
/// btrfs, F2FS, bcachefs, ZFS, tmpfs, ramfs, overlayfs, FAT, exFAT, NTFS, JFS, ReiserFS, NILFS, UBIFS, HFS+, UDF,
/// eCryptfs; squashfs, EROFS and ISO 9660, which never change.
const STAMPED_HERE: [u32; 22] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0xca45_1a4e,
    0x2fc1_2fc1,
    0x0102_1994,
    0x8584_58f6,
    0x794c_7630,
    0x4d44,
    0x2011_bab0,
    0x7366_746e,
    0x3153_464a,
    0x5265_4973,
    0x3434,
    0x2405_1905,
    0x482b,
    0x1501_3346,
    0xf15f,
    0x7371_7368,
    0xe0f5_e1e2,
    0x9660,
];

/// Whose clock stamps changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamper {
    /// This kernel's: [`clock`] tells it.
    Kernel,
    /// A server's, or a program's: nobody tells it.
    Other,
}

impl Stamper {
    fn of(inside: impl AsFd) -> Self {
        // The number has 32 bits, whatever type a machine gives it in.
        let kind = rustix::fs::fstatfs(inside).map(|about| about.f_type as u32);
        match kind.is_ok_and(|kind| STAMPED_HERE.contains(&kind)) {
            true => Self::Kernel,
            false => Self::Other,
        }
    }

    /// Returns whether whatever changes after `seen` has another stamp than `stamp`.
    fn is_past(self, stamp: Time, seen: Time) -> bool {
        let age = nanos(seen) - nanos(stamp);
        let step = match self {
            Self::Kernel => step(stamp),
            Self::Other => OTHER_CLOCK_NANOS,
        };
        age >= step || age < -AHEAD_NANOS
    }
}

/// Returns how coarse the stamps of a file system may be that has made this one, in nanoseconds: twice the largest
/// power of ten that divides it. So whole seconds count as steps of two, as FAT has them.
fn step(stamp: Time) -> i128 {
    let mut ten = 1;
    while ten < 1_000_000_000 && stamp.nanos.is_multiple_of(ten * 10) {
        ten *= 10;
    }
    2 * i128::from(ten)
}

fn nanos(time: Time) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

/// Returns the time by the clock that stamps files here: the kernel's, in steps of its tick.
pub fn clock() -> Time {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    Time::new(now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl Stat {
    /// Returns whether whatever changes after this look has other stamps than these. `inside` lies on the same
    /// file system. A system call for what has changed within the last hour.
    pub fn is_settled(&self, inside: impl AsFd) -> bool {
        let are_past = |stamper: Stamper| {
            [self.mtime, self.ctime].into_iter().all(|stamp| stamper.is_past(stamp, self.seen))
        };
        are_past(Stamper::Other) || (are_past(Stamper::Kernel) && Stamper::of(inside) == Stamper::Kernel)
    }

    /// Returns the ctime that stands for these stamps: their own, which is never [`NO_CTIME`].
    pub fn known_ctime(&self) -> Time {
        match self.ctime == NO_CTIME {
            true => Time::new(0, 1),
            false => self.ctime,
        }
    }

    /// Returns the same with the ctime that the next backup is to compare with: [`NO_CTIME`] if what is there
    /// then may be something else with the same stamps.
    pub fn to_compare(self, inside: impl AsFd) -> Self {
        let ctime = if self.is_settled(inside) { self.known_ctime() } else { NO_CTIME };
        Self { ctime, ..self }
    }

    /// Returns whether the inode was made when the clock showed `then`, or before, as far as its stamps tell.
    ///
    /// Where there are no birth times, mtime stands for it: nobody writes a message twice.
    pub fn is_from_before(&self, then: Time, inside: impl AsFd) -> bool {
        let made = self.btime.unwrap_or(self.mtime);
        let behind = nanos(made) - nanos(then);
        behind <= 0 || (behind <= OTHER_CLOCK_NANOS && Stamper::of(inside) == Stamper::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the moment that many nanoseconds after second 1,000.
    fn at(nanos: i64) -> Time {
        let second = 1_000_000_000;
        Time::new(1_000 + nanos.div_euclid(second), u32::try_from(nanos.rem_euclid(second)).unwrap())
    }

    #[test]
    fn a_stamp_of_the_tick_in_which_one_looks_tells_nothing() {
        let tick = at(123_456_789);
        assert!(!Stamper::Kernel.is_past(tick, tick), "a later change in this tick has it too");
        assert!(Stamper::Kernel.is_past(tick, at(127_456_789)), "the next tick");
        assert!(!Stamper::Kernel.is_past(at(123_456_999), tick), "stamped more finely than the clock tells");
    }

    /// Every file system that writes down steps of its clock: whatever the moment at which one looks, a stamp that
    /// counts as past is no later change's.
    #[test]
    fn no_change_after_the_look_has_a_stamp_that_counts_as_past() {
        let second = 1_000_000_000;
        for step in [1, 100, 1_000, 1_000_000, 10_000_000, 20_000_000, second, 2 * second] {
            for looked in (0..5 * second).step_by(37_000_003) {
                for changed in [looked, looked + 1, looked + step / 2, looked + step - 1, looked + 3 * second]
                {
                    let stamp = changed - changed % step;
                    let is_past = Stamper::Kernel.is_past(at(stamp), at(looked));
                    assert!(!is_past, "steps of {step}: stamp {stamp}, looked at {looked}");
                }
            }
        }
    }

    #[test]
    fn what_changed_long_ago_costs_nothing() {
        let now = at(4_000_000_000);
        assert!(Stamper::Kernel.is_past(at(1_500_000_000), now), "two seconds and a half");
        assert!(Stamper::Kernel.is_past(at(2_000_000_000), now), "whole seconds: two are enough");
        assert!(!Stamper::Kernel.is_past(at(3_000_000_000), now));
        let hour = Time::new(now.seconds - 3_600, now.nanos);
        assert!(Stamper::Other.is_past(hour, now) && !Stamper::Other.is_past(at(0), now));
    }

    #[test]
    fn a_stamp_that_the_clock_is_about_to_reach_tells_nothing_and_a_wrong_clocks_does() {
        let now = at(0);
        for stamper in [Stamper::Kernel, Stamper::Other] {
            assert!(!stamper.is_past(Time::new(now.seconds + 3_600, 0), now));
            assert!(stamper.is_past(Time::new(now.seconds + 10 * 86_400, 0), now));
            for far in [i64::MIN, i64::MAX] {
                assert!(stamper.is_past(Time::new(far, 0), now));
            }
        }
    }

    #[test]
    fn a_ctime_that_is_zero_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let folder = std::fs::File::open(folder.path()).unwrap();
        let stat = crate::stage::scan::stat_of(&folder).unwrap();
        let old = Stat { mtime: Time::new(5, 0), ctime: NO_CTIME, ..stat };
        assert_ne!(old.to_compare(&folder).ctime, NO_CTIME);
        assert_eq!(old.to_compare(&folder).ctime, old.known_ctime(), "as it is compared the next time");
        let fresh = Stat { ctime: stat.seen, ..old };
        assert_eq!(fresh.to_compare(&folder).ctime, NO_CTIME);
    }
}
