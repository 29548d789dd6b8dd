//! Machines: identity, lifecycle, what they offer.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::id::MachineId;

/// `machine.<id>`: what operators said of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Shape version.
    pub v: u32,
    /// Its identity.
    pub id: MachineId,
    /// Whether it takes part.
    pub lifecycle: MachineLifecycle,
    /// Its region.
    pub region: String,
    /// Its availability zone within the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub az: Option<String>,
    /// The operator's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How instances on it get addresses.
    pub addressing: Addressing,
}

/// Whether a machine takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineLifecycle {
    /// It is a member and takes no instances yet.
    Standby,
    /// It takes instances.
    Active,
    /// It takes no new ones.
    Draining,
    /// It is gone.
    Removed,
}

/// How the instances of a machine get addresses. The planner draws them, so they are in the plan and in the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Addressing {
    /// One address of this /24 each; `.1` is the bridge.
    Subnet(Ipv4Addr),
    /// All share 127.0.0.1; each port gets a number of its own from this range (both ends included).
    Loopback {
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
}
