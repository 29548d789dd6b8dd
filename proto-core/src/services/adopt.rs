//! What becomes of the sidecars that an earlier `ployzd` left running.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// A managed sidecar. Their order is the order in which they are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// nats-server: the store and the bus.
    Nats,
    /// `ployzd gateway`.
    Gateway,
    /// `ployzd dns`.
    Dns,
}

impl Component {
    /// Every one, in the order in which they are started.
    pub const ALL: [Self; 3] = [Self::Nats, Self::Gateway, Self::Dns];

    /// The name in events, records and file names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Gateway => "gateway",
            Self::Dns => "dns",
        }
    }
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// All that makes a sidecar the one that is wanted. One that differs in any part is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The digest of the program's file.
    pub binary: Digest,
    /// What the program was called with, without its own name.
    pub arguments: Vec<String>,
    /// The digest of the configuration as it was written for it.
    pub config: Digest,
    /// The inode of the network namespace in which it runs.
    pub network_namespace: u64,
    /// The inode of the network namespace of the process that started it, for a sidecar that is reached from there
    /// (nats-server); `None` where it does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_namespace: Option<u64>,
}

impl Identity {
    /// The parts in which `self` and `other` differ, in the order of [`Part`].
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Part> {
        // Taken apart, so that a part that is added later can't be forgotten here.
        let Self { binary, arguments, config, network_namespace, parent_namespace } = self;
        [
            (Part::Binary, *binary != other.binary),
            (Part::Arguments, *arguments != other.arguments),
            (Part::Config, *config != other.config),
            (Part::NetworkNamespace, *network_namespace != other.network_namespace),
            (Part::ParentNamespace, *parent_namespace != other.parent_namespace),
        ]
        .into_iter()
        .filter_map(|(part, differs)| differs.then_some(part))
        .collect()
    }
}

/// A part of an [`Identity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The program's file.
    Binary,
    /// What it was called with.
    Arguments,
    /// Its configuration.
    Config,
    /// The network namespace in which it runs.
    NetworkNamespace,
    /// The network namespace from which it is reached.
    ParentNamespace,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Binary => "binary",
            Self::Arguments => "arguments",
            Self::Config => "configuration",
            Self::NetworkNamespace => "network namespace",
            Self::ParentNamespace => "parent's network namespace",
        })
    }
}

/// What `ployzd` keeps on disk about a sidecar that it started: enough to find it again, and to know it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which sidecar.
    pub component: Component,
    /// Its process.
    pub pid: u32,
    /// When the process started, in clock ticks since the machine came up: a pid alone is used again.
    pub start_time: u64,
    /// The machine's run in which it was started: ticks since another one say nothing.
    pub boot_id: String,
    /// What was started.
    pub identity: Identity,
}

/// What there is where a [`Record`] points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// The process under the recorded pid.
    pub process: ProcessState,
}

/// The process under a recorded pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs: pid, start time and boot are the recorded ones.
    Alive,
    /// There is none, or a zombie.
    Dead,
    /// There is one, but start time or boot differ: somebody else's.
    Reused,
}

/// What becomes of a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is the one that is wanted: leave it alone and supervise it.
    Adopt,
    /// Start one. Nothing has to be stopped for it.
    Start {
        /// Why there is none.
        reason: StartReason,
    },
    /// Stop the recorded process, then start one.
    Recreate {
        /// In what it drifted; never empty.
        changed: Vec<Part>,
    },
    /// It runs and is no longer wanted: stop the recorded process.
    Stop,
}

impl std::fmt::Display for Decision {
    /// For the event, after the name of the component: `recreated: binary and configuration changed`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Adopt => f.write_str("adopted"),
            Self::Start { reason } => write!(f, "started: {reason}"),
            Self::Recreate { changed } => {
                f.write_str("recreated: ")?;
                for (index, part) in changed.iter().enumerate() {
                    f.write_str(match index {
                        0 => "",
                        _ if index + 1 == changed.len() => " and ",
                        _ => ", ",
                    })?;
                    write!(f, "{part}")?;
                }
                f.write_str(" changed")
            }
            Self::Stop => f.write_str("stopped: no longer wanted"),
        }
    }
}

/// Why a sidecar has to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartReason {
    /// None was ever started here, or its record is gone.
    NoRecord,
    /// The recorded process is gone.
    Died,
    /// The recorded process is gone, and its pid is another process's now.
    PidReused,
}

impl std::fmt::Display for StartReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoRecord => "none was running",
            Self::Died => "the recorded process is gone",
            Self::PidReused => "the recorded process is gone and its pid belongs to another one",
        })
    }
}

/// Decides for every sidecar that is `wanted` or `recorded`.
///
/// One that is recorded, no longer wanted and not alive needs nothing done and has no entry; its record can go.
#[must_use]
pub fn adopt(
    wanted: &BTreeMap<Component, Identity>,
    recorded: &BTreeMap<Component, (Record, Observed)>,
) -> BTreeMap<Component, Decision> {
    let of_wanted = wanted
        .iter()
        .map(|(component, identity)| (*component, decide(identity, recorded.get(component))));
    let of_unwanted = recorded
        .iter()
        .filter(|(component, (_, observed))| {
            !wanted.contains_key(component) && observed.process == ProcessState::Alive
        })
        .map(|(component, _)| (*component, Decision::Stop));
    of_wanted.chain(of_unwanted).collect()
}

fn decide(wanted: &Identity, recorded: Option<&(Record, Observed)>) -> Decision {
    let Some((record, observed)) = recorded else {
        return Decision::Start { reason: StartReason::NoRecord };
    };
    match observed.process {
        ProcessState::Dead => Decision::Start { reason: StartReason::Died },
        ProcessState::Reused => Decision::Start { reason: StartReason::PidReused },
        ProcessState::Alive => match wanted.differences(&record.identity) {
            changed if changed.is_empty() => Decision::Adopt,
            changed => Decision::Recreate { changed },
        },
    }
}

#[cfg(test)]
#[path = "adopt_tests.rs"]
mod tests;
