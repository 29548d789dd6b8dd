use std::sync::Arc;

use serde_json::Value;

use crate::id::Namespace;
use crate::store::facts::{Commit, Head, VERSION};
use crate::store::{Entry, FollowEvent, Key, Revision};

/// What a follower of the store said, as far as a projection listens: heads and commits are read, everything else is left out.
///
/// Made from a [`FollowEvent`]. A commit is shared by its clones, so many projections can be fed with what was read once.
#[derive(Debug, Clone)]
pub struct Heard(pub(super) Said);

#[derive(Debug, Clone)]
pub(super) enum Said {
    Fact(Fact),
    Position(Revision),
    CaughtUp(Revision),
    Uncertain(String),
    Away(String),
    Back,
    /// A key that no projection looks at.
    Other,
}

/// A key of a namespace as it was written.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    pub(super) namespace: Namespace,
    pub(super) key: Key,
    pub(super) revision: Revision,
    pub(super) what: What,
}

/// What it holds, or why it can't be read.
#[derive(Debug, Clone)]
pub(super) enum What {
    Head(Result<Head, String>),
    /// Under this number.
    Commit(u64, Result<Arc<Commit>, String>),
}

impl Heard {
    /// Whether it says that writes may have been missed: what is served may be behind from now on.
    #[must_use]
    pub fn is_doubt(&self) -> bool {
        matches!(self.0, Said::Uncertain(_) | Said::Away(_))
    }
}

impl From<FollowEvent> for Heard {
    fn from(event: FollowEvent) -> Self {
        Self(match event {
            FollowEvent::Entry(Entry { key, revision, value }) => {
                Said::of_key(key, revision, Ok(value))
            }
            FollowEvent::Unreadable { key, revision, reason } => {
                Said::of_key(key, revision, Err(reason))
            }
            FollowEvent::Position(position) => Said::Position(position),
            FollowEvent::CaughtUp { position } => Said::CaughtUp(position),
            FollowEvent::Uncertain { reason } => Said::Uncertain(reason),
            FollowEvent::Away { reason } => Said::Away(reason),
            FollowEvent::Back => Said::Back,
        })
    }
}

impl Said {
    fn of_key(key: Key, revision: Revision, value: Result<Arc<Value>, String>) -> Self {
        let mut tokens = key.as_str().split('.');
        let (Some("ns"), Some(namespace)) = (tokens.next(), tokens.next()) else {
            return Self::Other;
        };
        let Ok(namespace) = Namespace::new(namespace) else { return Self::Other };
        let what = match (tokens.next(), tokens.next(), tokens.next()) {
            (Some("head"), None, None) => What::Head(value.and_then(|value| read(&value))),
            (Some("commit"), Some(number), None) => {
                let Ok(number) = number.parse() else { return Self::Other };
                What::Commit(number, value.and_then(|value| commit(&namespace, number, &value)))
            }
            _ => return Self::Other,
        };
        Self::Fact(Fact { namespace, key, revision, what })
    }
}

fn commit(namespace: &Namespace, number: u64, value: &Value) -> Result<Arc<Commit>, String> {
    let commit: Commit = read(value)?;
    if commit.namespace != *namespace || commit.number != number {
        return Err(format!("it says that it is commit {} of {}", commit.number, commit.namespace));
    }
    Ok(Arc::new(commit))
}

/// Reads a fact of any version up to this build's.
fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, String> {
    match value.get("v").and_then(Value::as_u64) {
        Some(v) if v > u64::from(VERSION) => {
            Err(format!("it has version {v}, this build reads up to {VERSION}"))
        }
        _ => T::deserialize(value).map_err(|error| error.to_string()),
    }
}
