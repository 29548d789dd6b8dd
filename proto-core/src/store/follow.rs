use super::{Entry, Key, Revision};

/// What a follower of a key prefix hears, in stream order.
///
/// A follower starts with [`FollowEvent::Uncertain`] or just with entries: both are the beginning of a *load*, which
/// brings every key under the prefix and ends with [`FollowEvent::CaughtUp`]. From then on each write comes as it happens.
/// Whenever the follower can't be sure that it saw every write (a gap in the consumer's sequence, a missed heartbeat, a
/// reconnect) it says `Uncertain` and starts a new load. Keys are never deleted, only rewritten or expired, so what a load
/// does not bring is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowEvent {
    /// A key as it was written.
    Entry(Entry),
    /// A key was written with something that is no JSON.
    Unreadable {
        /// The key.
        key: Key,
        /// Where.
        revision: Revision,
        /// What is wrong with it.
        reason: String,
    },
    /// The load is complete: every write of the prefix up to `position` was brought.
    CaughtUp {
        /// The stream's position, at least the revision of the last entry.
        position: Revision,
    },
    /// Every write of the prefix up to here was brought, and the stream is at least this long. Only after `CaughtUp`.
    Position(Revision),
    /// Writes may have been missed. A new load follows.
    Uncertain {
        /// What was seen.
        reason: String,
    },
    /// The store can't be reached.
    Away {
        /// What was seen.
        reason: String,
    },
    /// The store can be reached again, and nothing was missed unless `Uncertain` says so.
    Back,
}
