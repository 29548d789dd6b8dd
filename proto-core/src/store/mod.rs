//! The store as the machines see it: keys with revisions, atomic batches of conditional writes.
//!
//! The real store is one NATS JetStream KV bucket, `facts`. A revision is the sequence of the bucket's
//! stream, so revisions order all writes. What each key holds is in [`facts`].

pub mod facts;
mod follow;
mod key;
mod view;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use follow::FollowEvent;
pub use key::{Key, KeyError, Scope};
pub use view::{FactError, Facts, Versioned};

use crate::span::Span;

/// The stream sequence at which a key was last written. Zero: never, or expired.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The expectation that a key does not exist.
    pub const ABSENT: Self = Self(0);
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A key as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// Where it was written.
    pub revision: Revision,
    /// JSON, as stored.
    #[serde(with = "crate::shared")]
    pub value: Arc<serde_json::Value>,
}

/// One write of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// The new value.
    pub value: serde_json::Value,
    /// The revision that the key must have, [`Revision::ABSENT`] for "must not exist"; `None` writes whatever is there
    /// (only for what is immutable and named by its content, and for status).
    pub expect: Option<Revision>,
    /// How long the key lives; `None` for ever. Whole seconds, at least one.
    pub ttl: Option<Span>,
}

/// What a machine asks of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreRequest {
    /// The latest value of each key that equals one of these or lies below one of them (`ns.blog` takes `ns.blog.head`),
    /// read from the store's leader. Expired keys are left out.
    Read {
        /// Prefixes in whole tokens.
        prefixes: Vec<Key>,
    },
    /// All of these writes, or none. At most 900 writes.
    ///
    /// If a lone server dies between the writes of a batch, it keeps the first of them when it starts again; the outcome was
    /// [`crate::Outcome::Unknown`]. So the write that decides goes last, and what became of the batch is found out on its key.
    Commit {
        /// The writes, in order.
        writes: Vec<Write>,
    },
}

/// The store's answer. (That there was none is [`crate::Outcome::Unknown`].)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreReply {
    /// To a read: entries by key.
    Entries(Vec<Entry>),
    /// To a commit: the revision of the *last* write; the others precede it without a gap.
    Committed(Revision),
}

/// Why the store did not do it. Each of these says that nothing was written and nothing will be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum StoreError {
    /// An expected revision was not the current one (JetStream 10071).
    #[error("another writer was first")]
    Conflict,
    /// Another proposal for a key is in flight and undecided (JetStream 10164): ask again.
    #[error("another write of the same key is undecided")]
    InFlight,
    /// Nobody answers for the store (no responders, 503, 10008).
    #[error("the store is away: {0}")]
    Unavailable(String),
    /// The store will not take it: a permission, a limit, a malformed batch (10176).
    #[error("the store refused it: {0}")]
    Refused(String),
}
