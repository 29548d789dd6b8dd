//! The daemon's clocks: the only place of `ployzd` that reads them for the node.

use std::time::{SystemTime, UNIX_EPOCH};

use proto_core::time::{Time, UnixTime};
use tokio::time::Instant;

/// Monotonic time since the daemon started, on tokio's clock, and the machine's wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
    wall: fn() -> UnixTime,
}

impl Clock {
    /// A clock that starts now, with the operating system's wall clock.
    #[must_use]
    pub fn system() -> Self {
        Self::with_wall(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        })
    }

    /// A clock that starts now, with this wall clock.
    #[must_use]
    pub fn with_wall(wall: fn() -> UnixTime) -> Self {
        Self { origin: Instant::now(), wall }
    }

    /// Time since the start.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// When that time is reached, on tokio's clock.
    #[must_use]
    pub fn instant(&self, at: Time) -> Instant {
        self.origin + at.since(Time::ZERO)
    }

    /// The wall clock.
    #[must_use]
    pub fn wall(&self) -> UnixTime {
        (self.wall)()
    }
}
