use serde::{Deserialize, Serialize};

use crate::span::Span;

/// When an instance counts as ready.
///
/// The manifest reader refuses unknown keys; here, where it is read back from the store, a newer daemon's are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// What to try. Exactly one of `http`, `tcp`, `exec`.
    #[serde(flatten)]
    pub probe: Probe,
    /// Between two probes.
    #[serde(default = "interval")]
    pub interval: Span,
    /// How long one probe may take.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// How many probes may fail after `start_period` before the instance counts as failed.
    #[serde(default = "retries")]
    pub retries: u32,
    /// Failures within this time after the start do not count.
    #[serde(default = "start_period")]
    pub start_period: Span,
}

impl Readiness {
    /// A check with the default times: every second, 2 s for an answer, 3 failures after 30 s.
    #[must_use]
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: interval(),
            timeout: timeout(),
            retries: retries(),
            start_period: start_period(),
        }
    }
}

fn interval() -> Span {
    Span::from_secs(1)
}

fn timeout() -> Span {
    Span::from_secs(2)
}

fn retries() -> u32 {
    3
}

fn start_period() -> Span {
    Span::from_secs(30)
}

/// One kind of probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// `GET` that must answer with a status of 200 to 399.
    Http {
        /// Absolute path, with a query if wanted.
        path: String,
        /// Port name.
        port: String,
    },
    /// A connection must be accepted.
    Tcp {
        /// Port name.
        port: String,
    },
    /// A command run in the instance must exit with 0.
    Exec {
        /// The command and its arguments.
        command: Vec<String>,
    },
}

impl Probe {
    /// The port name that is probed, if any.
    #[must_use]
    pub fn port(&self) -> Option<&str> {
        match self {
            Self::Http { port, .. } | Self::Tcp { port } => Some(port),
            Self::Exec { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_reads_back_and_a_newer_field_is_ignored() {
        let probes = [
            Probe::Http { path: "/healthz".into(), port: "http".into() },
            Probe::Tcp { port: "db".into() },
            Probe::Exec { command: vec!["true".into()] },
        ];
        for probe in probes {
            let readiness = Readiness {
                probe,
                interval: Span::from_secs(7),
                timeout: timeout(),
                retries: 9,
                start_period: start_period(),
            };
            let mut stored = serde_json::to_value(&readiness).unwrap();
            assert_eq!(serde_json::from_value::<Readiness>(stored.clone()).unwrap(), readiness);
            stored["later"] = true.into();
            assert_eq!(serde_json::from_value::<Readiness>(stored).unwrap(), readiness);
        }
    }
}
