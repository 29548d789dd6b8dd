//! The disk of the store's server, which does not write again by itself once it was full.
//!
//! nats-server 2.15 remembers that a write failed ("critical write error") and leaves every later one unanswered, also when there is room
//! again. Started anew it writes. Whether one failed is not seen from outside, so it is started anew after each time that the disk was full.

use crate::deploy::plan::MIN_DISK_FREE;

/// With less room than this, in bytes, a write may have failed.
const FULL: u64 = 1 << 20;

/// What was seen of the disk so far. Feed it with [`StoreDisk::seen`].
#[derive(Debug, Default)]
pub struct StoreDisk {
    was_full: bool,
}

/// What changed about the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskChange {
    /// It is full now: to be told.
    Full,
    /// There is room again: the server is to be started anew.
    Freed,
}

impl StoreDisk {
    /// Takes the free bytes that were seen; what is to be done about a change.
    pub fn seen(&mut self, free: u64) -> Option<DiskChange> {
        if free < FULL {
            return (!std::mem::replace(&mut self.was_full, true)).then_some(DiskChange::Full);
        }
        if free < MIN_DISK_FREE {
            return None;
        }
        std::mem::take(&mut self.was_full).then_some(DiskChange::Freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_started_anew_once_after_its_disk_was_full_and_only_with_room() {
        let mut disk = StoreDisk::default();
        assert_eq!(disk.seen(MIN_DISK_FREE), None, "it never was full");
        assert_eq!(disk.seen(FULL), None, "little, and not full");
        assert_eq!(disk.seen(FULL - 1), Some(DiskChange::Full));
        assert_eq!(disk.seen(0), None, "told already");
        assert_eq!(disk.seen(MIN_DISK_FREE - 1), None, "not enough to go on");
        assert_eq!(disk.seen(MIN_DISK_FREE), Some(DiskChange::Freed));
        assert_eq!(disk.seen(MIN_DISK_FREE), None);
    }
}
