use serde::{Deserialize, Deserializer, Serialize, de};

use crate::id::{MachineId, Namespace, OperationId};

/// A key of the `facts` bucket: tokens of `[a-zA-Z0-9_-]` joined by dots, at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Key(String);

/// The text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no key: dot-separated tokens of a-z, A-Z, 0-9, '-' and '_' are wanted")]
pub struct KeyError(String);

impl Key {
    /// Checks and takes a key.
    ///
    /// # Errors
    ///
    /// If a token is empty or holds another character, or the whole is longer than 255 bytes.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        let token = |t: &str| {
            !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if text.len() <= 255 && text.split('.').all(token) {
            Ok(Self(text))
        } else {
            Err(KeyError(text))
        }
    }

    /// Joins tokens that are valid by their types.
    fn of(tokens: &[&str]) -> Self {
        Self(tokens.join("."))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this key is `prefix` or lies below it.
    #[must_use]
    pub fn is_under(&self, prefix: &Self) -> bool {
        self.0.strip_prefix(&prefix.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// `cluster`
    #[must_use]
    pub fn cluster() -> Self {
        Self::of(&["cluster"])
    }

    /// `machine`: all machines.
    #[must_use]
    pub fn machines() -> Self {
        Self::of(&["machine"])
    }

    /// `machine.<id>`
    #[must_use]
    pub fn machine(id: &MachineId) -> Self {
        Self::of(&["machine", id.as_str()])
    }

    /// `ns`: everything of every namespace.
    #[must_use]
    pub fn namespaces() -> Self {
        Self::of(&["ns"])
    }

    /// `ns.<ns>`: everything of a namespace.
    #[must_use]
    pub fn namespace(ns: &Namespace) -> Self {
        Self::of(&["ns", ns.as_str()])
    }

    /// `ns.<ns>.head`
    #[must_use]
    pub fn head(ns: &Namespace) -> Self {
        Self::of(&["ns", ns.as_str(), "head"])
    }

    /// `ns.<ns>.commit`: all commits of a namespace.
    #[must_use]
    pub fn commits(ns: &Namespace) -> Self {
        Self::of(&["ns", ns.as_str(), "commit"])
    }

    /// `ns.<ns>.commit.<n>`
    #[must_use]
    pub fn commit(ns: &Namespace, number: u64) -> Self {
        Self::of(&["ns", ns.as_str(), "commit", &number.to_string()])
    }

    /// `ns.<ns>.revision.<digest>`
    #[must_use]
    pub fn revision(ns: &Namespace, digest: &crate::digest::Digest) -> Self {
        Self::of(&["ns", ns.as_str(), "revision", &digest.to_string()])
    }

    /// `ns.<ns>.instance.<service>-<slot>`
    #[must_use]
    pub fn instance(ns: &Namespace, service: &crate::id::ServiceName, slot: u32) -> Self {
        Self::of(&["ns", ns.as_str(), "instance", &format!("{service}-{slot}")])
    }

    /// `allocation`: what every namespace takes.
    #[must_use]
    pub fn allocations() -> Self {
        Self::of(&["allocation"])
    }

    /// `allocation.<ns>`
    #[must_use]
    pub fn allocation(ns: &Namespace) -> Self {
        Self::of(&["allocation", ns.as_str()])
    }

    /// `host`: all claims of host names.
    #[must_use]
    pub fn hosts() -> Self {
        Self::of(&["host"])
    }

    /// `host.<name>`, with the dots of the name written `_`, so that it is one token.
    ///
    /// The mapping is injective: host names hold no `_`.
    #[must_use]
    pub fn host(name: &crate::deploy::HostName) -> Self {
        Self::of(&["host", &name.as_str().replace('.', "_")])
    }

    /// `port`: all claims of ports.
    #[must_use]
    pub fn ports() -> Self {
        Self::of(&["port"])
    }

    /// `port.<machine>.<n>`
    #[must_use]
    pub fn port(machine: &MachineId, port: u16) -> Self {
        Self::of(&["port", machine.as_str(), &port.to_string()])
    }

    /// `op`: all operations.
    #[must_use]
    pub fn operations() -> Self {
        Self::of(&["op"])
    }

    /// `op.<id>`
    #[must_use]
    pub fn operation(id: &OperationId) -> Self {
        Self::of(&["op", id.as_str()])
    }

    /// `lease`: all leases.
    #[must_use]
    pub fn leases() -> Self {
        Self::of(&["lease"])
    }

    /// `lease.<scope>`
    #[must_use]
    pub fn lease(scope: &Scope) -> Self {
        match scope {
            Scope::Namespace(ns) => Self::of(&["lease", "ns", ns.as_str()]),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// What a lease covers and an epoch fences: at most one operation at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// A namespace, by its name.
    Namespace(Namespace),
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Namespace(ns) => write!(f, "namespace {ns}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_whole_tokens() {
        let key = |text| Key::new(text).unwrap();
        assert!(key("ns.blog.head").is_under(&key("ns.blog")));
        assert!(key("ns.blog").is_under(&key("ns.blog")));
        assert!(!key("ns.blog2.head").is_under(&key("ns.blog")));
    }

    #[test]
    fn what_the_bucket_would_refuse_is_no_key() {
        for bad in ["", ".", "a..b", "a b", "a.*", "a.>", &"a".repeat(256)] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
    }
}
