//! Names and numbers, a type each, checked where they enter.

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::digest::Digest;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no {kind}: 1 to {max} of a-z, 0-9, '-' and '_', starting with a letter or digit"
)]
pub struct NameError {
    kind: &'static str,
    max: usize,
    text: String,
}

fn check_name(kind: &'static str, max: usize, text: &str) -> Result<(), NameError> {
    let head = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ok = (1..=max).contains(&text.len())
        && text.bytes().next().is_some_and(head)
        && text.bytes().all(|b| head(b) || b == b'-' || b == b'_');
    if ok { Ok(()) } else { Err(NameError { kind, max, text: text.to_owned() }) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            ///
            /// If it is empty, too long (63 bytes, 127 for an instance), or holds anything but `[a-z0-9_-]` after `[a-z0-9]`.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check_name($kind, $max, &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}

name!(
    /// A namespace: the unit of deploy authority.
    Namespace, "namespace", 63
);
name!(
    /// A service within a namespace.
    ServiceName, "service name", 63
);
name!(
    /// A volume within a namespace.
    VolumeName, "volume name", 63
);
name!(
    /// The identity of a machine: drawn once when it joins, never reused.
    MachineId, "machine id", 63
);
name!(
    /// A step of a plan, unique within the plan, for example `start-web-0`.
    StepId, "step id", 127
);
name!(
    /// A running copy of a service: the name of its container or process directory, unique on its machine.
    ///
    /// `<service>-<slot>-<first digits of the operation>`, drawn when the plan is made.
    InstanceName, "instance name", 127
);

/// An operation: a digest of the request and of the head (or other fact) that it was first planned against.
///
/// Written as 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct OperationId(String);

impl OperationId {
    /// The id that follows from a digest.
    #[must_use]
    pub fn from_digest(digest: &Digest) -> Self {
        Self(digest.to_string()[..16].to_owned())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 8 digits: for the names of what the operation makes.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl std::fmt::Display for OperationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no operation id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no operation id: 16 lower-case hexadecimal digits are wanted; `ployzctl op ls` lists them"
)]
pub struct OperationIdError(String);

impl std::str::FromStr for OperationId {
    type Err = OperationIdError;

    fn from_str(text: &str) -> Result<Self, OperationIdError> {
        let ok = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if ok { Ok(Self(text.to_owned())) } else { Err(OperationIdError(text.to_owned())) }
    }
}

impl<'de> Deserialize<'de> for OperationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The fencing token of a lease: commands with a lower one are rejected by every machine that saw a higher one.
///
/// Ordered by the cluster's incarnation first (it rises with every recover or restore of the store), then by
/// the store revision of the lease's first take.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Epoch {
    /// The cluster's incarnation.
    pub incarnation: u64,
    /// The revision of the first take of the lease.
    pub revision: u64,
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_the_edge() {
        for good in ["a", "0", "web-1_x", &"a".repeat(63)] {
            assert!(Namespace::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", "-a", "_a", "A", "a.b", "a b", "ä", &"a".repeat(64)] {
            assert!(Namespace::new(bad).is_err(), "{bad:?}");
            assert!(serde_json::from_value::<Namespace>(bad.into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn epochs_order_by_incarnation_first() {
        let old = Epoch { incarnation: 1, revision: 900 };
        let new = Epoch { incarnation: 2, revision: 3 };
        assert!(old < new);
    }
}
