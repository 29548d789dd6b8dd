use serde::{Deserialize, Serialize};

/// How an effect ended.
///
/// [`Outcome::Unknown`] is first class: the request was sent and its answer was lost, so it may have
/// happened, may still happen, or may never happen. It is never treated as failed and never as done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Outcome<T, E> {
    /// It happened, and this is the answer.
    Ok(T),
    /// It did not happen, and never will.
    Failed(E),
    /// It was refused because a newer epoch is in force. It did not happen, and never will.
    Stale,
    /// The answer was lost.
    Unknown,
}

impl<T, E> Outcome<T, E> {
    /// Applies `f` to the value of [`Outcome::Ok`].
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Outcome<U, E> {
        match self {
            Self::Ok(value) => Outcome::Ok(f(value)),
            Self::Failed(error) => Outcome::Failed(error),
            Self::Stale => Outcome::Stale,
            Self::Unknown => Outcome::Unknown,
        }
    }
}
