//! What the daemon is asked, beside operations: queries of its paths, and small bodies. An unknown field is refused, so that a
//! misspelt one is not taken for its default.

use serde::{Deserialize, Serialize};

/// The longest body of a request that is read, in bytes: a prepared plan and what is around it.
pub const MAX_BYTES: usize = super::prepared::MAX_BYTES + (1 << 20);

/// `GET /v1/instances?namespace=`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstancesQuery {
    /// Of this namespace; `None`: of all. Not checked yet.
    pub namespace: Option<String>,
}

/// `GET /v1/logs?instance=&tail=&follow=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// Whose. Not checked yet.
    pub instance: String,
    /// So many of the last lines; `None`: all that there are.
    pub tail: Option<u32>,
    /// Goes on with each line that comes.
    #[serde(default)]
    pub follow: bool,
}

/// `GET /v1/events?follow=`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Goes on with each event that comes.
    #[serde(default)]
    pub follow: bool,
}

/// `POST /v1/operations/cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// As the header `ployz-handle` of the operation's answer said.
    pub handle: u64,
}
