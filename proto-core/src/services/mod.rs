//! Sidecars that outlive the daemon: which to adopt, which to start, which to start anew, and when to restart one that died.

mod supervisor;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use supervisor::Supervisor;

use crate::digest::Digest;

/// A managed sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// The store's server.
    Nats,
    /// The gateway.
    Gateway,
    /// The DNS server.
    Dns,
}

impl Component {
    /// All of them; the store first, as the others follow it.
    pub const ALL: [Self; 3] = [Self::Nats, Self::Gateway, Self::Dns];

    /// As it is written in file names, events and listings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Gateway => "gateway",
            Self::Dns => "dns",
        }
    }
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything that a sidecar is started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the program's bytes.
    pub binary: Digest,
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// Of the configuration as it was rendered.
    pub config: Digest,
    /// The inode of the network namespace that it runs in.
    pub network_namespace: u64,
    /// The inode of the parent's network namespace, where that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_namespace: Option<u64>,
}

impl Identity {
    /// The parts in which the other one differs.
    #[must_use]
    pub fn changed(&self, other: &Self) -> Vec<Part> {
        let parts = [
            (Part::Binary, self.binary != other.binary),
            (Part::Arguments, self.arguments != other.arguments),
            (Part::Config, self.config != other.config),
            (Part::NetworkNamespace, self.network_namespace != other.network_namespace),
            (Part::ParentNamespace, self.parent_namespace != other.parent_namespace),
        ];
        parts.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part).collect()
    }
}

/// A part of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The program.
    Binary,
    /// The arguments.
    Arguments,
    /// The configuration.
    Config,
    /// The network namespace.
    NetworkNamespace,
    /// The parent's network namespace.
    ParentNamespace,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Binary => "the program",
            Self::Arguments => "the arguments",
            Self::Config => "the configuration",
            Self::NetworkNamespace => "the network namespace",
            Self::ParentNamespace => "the parent's network namespace",
        })
    }
}

/// What the daemon remembers of a sidecar that it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which.
    pub component: Component,
    /// Its process.
    pub pid: u32,
    /// When the process was started, in clock ticks since the boot: tells it from a later one with its pid.
    pub start_time: u64,
    /// The boot that it belongs to.
    pub boot_id: String,
    /// What it was started from.
    pub identity: Identity,
}

/// What became of a recorded process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessState {
    /// It runs.
    Alive,
    /// It ended.
    Dead,
    /// It ended, and its pid belongs to somebody else now.
    Reused,
}

/// What is to be done with a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is as it should be.
    Adopt,
    /// There is none that is ours. Whatever has its pid is left alone.
    Start {
        /// Why, for the event.
        reason: &'static str,
    },
    /// It runs and is not as it should be.
    Recreate {
        /// In what.
        changed: Vec<Part>,
    },
}

/// Decides for each wanted sidecar, from what was recorded of it and what became of the recorded process.
#[must_use]
pub fn adopt(
    wanted: &BTreeMap<Component, Identity>,
    recorded: &BTreeMap<Component, (Record, ProcessState)>,
) -> BTreeMap<Component, Decision> {
    let decide = |component: &Component, identity: &Identity| match recorded.get(component) {
        None => Decision::Start { reason: "there was none" },
        Some((_, ProcessState::Dead)) => Decision::Start { reason: "its process had ended" },
        Some((_, ProcessState::Reused)) => Decision::Start {
            reason: "its process had ended; the pid belongs to somebody else, who is left alone",
        },
        Some((record, ProcessState::Alive)) => {
            let changed = record.identity.changed(identity);
            if changed.is_empty() { Decision::Adopt } else { Decision::Recreate { changed } }
        }
    };
    wanted.iter().map(|(component, identity)| (*component, decide(component, identity))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(component: Component) -> Identity {
        Identity {
            binary: Digest::of_bytes(b"binary"),
            arguments: vec!["program".to_owned()],
            config: Digest::of_bytes(component.as_str().as_bytes()),
            network_namespace: 1,
            parent_namespace: (component == Component::Nats).then_some(1),
        }
    }

    fn wanted() -> BTreeMap<Component, Identity> {
        Component::ALL.into_iter().map(|c| (c, identity(c))).collect()
    }

    fn recorded(state: ProcessState) -> BTreeMap<Component, (Record, ProcessState)> {
        let record = |component| Record {
            component,
            pid: 7,
            start_time: 8,
            boot_id: "boot".to_owned(),
            identity: identity(component),
        };
        Component::ALL.into_iter().map(|c| (c, (record(c), state))).collect()
    }

    #[test]
    fn what_is_as_it_should_be_is_adopted() {
        let decisions = adopt(&wanted(), &recorded(ProcessState::Alive));
        assert!(decisions.values().all(|decision| *decision == Decision::Adopt));
    }

    #[test]
    fn each_part_changed_alone_recreates_exactly_its_component_and_is_named() {
        let changes: [(Part, fn(&mut Identity)); 5] = [
            (Part::Binary, |i| i.binary = Digest::of_bytes(b"other")),
            (Part::Arguments, |i| i.arguments.push("--more".to_owned())),
            (Part::Config, |i| i.config = Digest::of_bytes(b"other")),
            (Part::NetworkNamespace, |i| i.network_namespace = 2),
            (Part::ParentNamespace, |i| i.parent_namespace = Some(2)),
        ];
        for component in Component::ALL {
            for (part, change) in changes {
                let mut wanted = wanted();
                change(wanted.get_mut(&component).unwrap());
                for (other, decision) in adopt(&wanted, &recorded(ProcessState::Alive)) {
                    let expected = if other == component {
                        Decision::Recreate { changed: vec![part] }
                    } else {
                        Decision::Adopt
                    };
                    assert_eq!(decision, expected, "{other} after {part} of {component} changed");
                }
            }
        }
    }

    #[test]
    fn a_reused_pid_is_nobodys() {
        for state in [ProcessState::Dead, ProcessState::Reused] {
            let decisions = adopt(&wanted(), &recorded(state));
            assert!(decisions.values().all(|d| matches!(d, Decision::Start { .. })));
        }
        assert!(matches!(
            adopt(&wanted(), &BTreeMap::new())[&Component::Dns],
            Decision::Start { .. }
        ));
    }
}
