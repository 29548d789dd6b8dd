//! The file that `deploy prepare` writes and `deploy apply-prepared` takes.

use serde::{Deserialize, Serialize};

use super::OperationRequest;
use crate::coordination::plan::Plan;
use crate::digest::Digest;

/// The largest file that is read, in bytes: what can be recorded, 1664 KiB, written for people.
pub const MAX_BYTES: usize = 16 << 20;
/// The version that this build writes into `v`.
const VERSION: u32 = 1;

/// A plan as it was reviewed, with what was asked for. JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// Shape version.
    v: u32,
    /// Of the plan: what was reviewed.
    pub digest: Digest,
    /// What was asked for.
    pub request: OperationRequest,
    /// What will be done.
    pub plan: Box<Plan>,
    /// The file that the request was read from, as it was typed, `-` for standard input: for the command that prepares it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
}

/// Why a text is no prepared plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreparedError {
    /// It has more than [`MAX_BYTES`].
    #[error("has more than {MAX_BYTES} bytes, which no prepared plan has")]
    TooLarge,
    /// It is no such JSON.
    #[error("is not what `deploy prepare` writes: {0}")]
    Unreadable(String),
    /// A newer program wrote it.
    #[error("has version {0}, this program knows {VERSION}")]
    Version(u32),
    /// The digest is not the plan's.
    #[error("was changed since it was prepared: the plan is not the one that the digest names")]
    Changed,
}

impl Prepared {
    /// A plan with its digest, and the file that the request was read from.
    #[must_use]
    pub fn new(request: OperationRequest, plan: Box<Plan>, manifest: Option<String>) -> Self {
        Self { v: VERSION, digest: plan.digest(), request, plan, manifest }
    }

    /// As the file holds it, for people to read.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("plans are plain JSON") + "\n"
    }

    /// Reads the file.
    ///
    /// # Errors
    ///
    /// If it is none, or if its plan is not the one that was prepared.
    pub fn parse(text: &[u8]) -> Result<Self, PreparedError> {
        if text.len() > MAX_BYTES {
            return Err(PreparedError::TooLarge);
        }
        let prepared: Self = serde_json::from_slice(text)
            .map_err(|error| PreparedError::Unreadable(error.to_string()))?;
        if prepared.v != VERSION {
            return Err(PreparedError::Version(prepared.v));
        }
        if prepared.plan.digest() != prepared.digest {
            return Err(PreparedError::Changed);
        }
        Ok(prepared)
    }
}
