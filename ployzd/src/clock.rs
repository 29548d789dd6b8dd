//! The daemon's clocks: the only place of `ployzd` that reads them for the node.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proto_core::time::{Time, UnixTime};

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Monotonic time since the daemon first asked.
pub(crate) fn now() -> Time {
    let origin = *ORIGIN.get_or_init(Instant::now);
    Time::from_nanos(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// When that time is reached, on tokio's clock.
pub(crate) fn instant(at: Time) -> tokio::time::Instant {
    let origin = *ORIGIN.get_or_init(Instant::now);
    tokio::time::Instant::from_std(origin + at.since(Time::ZERO))
}

/// The machine's clock.
pub(crate) fn wall() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
