//! What the daemon is asked, beside operations: queries of its paths, and small bodies. An unknown field is refused, so that a
//! misspelt one is not taken for its default.

use serde::{Deserialize, Serialize};

use super::ErrorBody;
use crate::time::UnixTime;

/// The longest body of a request that is read, in bytes: a prepared plan and what is around it.
pub const MAX_BYTES: usize = super::prepared::MAX_BYTES + (1 << 20);

/// The header with the time until which whoever asks waits for the beginning of the answer, in milliseconds since 1970 by the clock of the
/// machine that both run on. What is read later is not done: it was given up.
pub const WAITS_UNTIL: &str = "ployz-waits-until";

/// Whether a request is still to be done `now`, whose header [`WAITS_UNTIL`] says this.
///
/// # Errors
/// `REQUEST_GIVEN_UP` if it is read too late, `HEADER_INVALID` if the header is no such time.
pub fn is_waited_for(header: &[u8], now: UnixTime) -> Result<(), ErrorBody> {
    let until = std::str::from_utf8(header).ok().and_then(|text| text.parse().ok());
    let Some(until) = until.map(UnixTime::from_millis) else {
        let message = format!("the header {WAITS_UNTIL} is no number of milliseconds");
        return Err(ErrorBody::new("HEADER_INVALID", message).next("ployzctl version"));
    };
    if now > until {
        let message =
            format!("whoever asked waited until {until} and gave up; nothing was changed");
        return Err(ErrorBody::new("REQUEST_GIVEN_UP", message).next("ployzctl events"));
    }
    Ok(())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_done_until_its_asker_gives_up_and_not_after() {
        let at = |millis| {
            is_waited_for(b"1000", UnixTime::from_millis(millis)).map_err(|error| error.code)
        };
        assert_eq!((at(999), at(1000)), (Ok(()), Ok(())));
        assert_eq!(at(1001), Err("REQUEST_GIVEN_UP".to_owned()));
        for wrong in [&b"soon"[..], b"-1", b"", b"\xff"] {
            let error = is_waited_for(wrong, UnixTime::from_millis(0)).unwrap_err();
            assert_eq!(error.code, "HEADER_INVALID");
        }
    }
}
