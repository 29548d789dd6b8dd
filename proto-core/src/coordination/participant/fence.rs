use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, InstanceName, OperationId, StepId};
use crate::runtime::InstanceSpec;
use crate::store::Scope;

/// What a participant must remember over a restart of its daemon: written and synced before it acts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceFile {
    /// The highest epoch that it has seen of each scope.
    pub floors: Vec<(Scope, Epoch)>,
    /// Commands whose effects may be under way.
    pub journal: Vec<JournalEntry>,
    /// How far this machine's addresses have been used: see [`FenceFile::made`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_up_to: Option<u16>,
    /// For which operation this machine has begun to make an instance last, in each scope.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub begun: Vec<Begun>,
}

/// A try of an operation for which a machine has begun to make an instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    /// The fenced scope.
    pub scope: Scope,
    /// The operation.
    pub operation: OperationId,
    /// Which try of it.
    pub attempt: u32,
}

/// So far behind the last address that was used, it is one of the next round and not of the same plan.
const SAME_PLAN: u16 = 64;

/// Where in the turn of its machine's addresses an instance is: the last byte, or its highest port where all share one address.
#[must_use]
pub(crate) fn place_in_turn(spec: &InstanceSpec) -> u16 {
    match spec.address {
        IpAddr::V4(address) if !address.is_loopback() => u16::from(address.octets()[3]),
        _ => spec.ports.values().copied().max().unwrap_or(0),
    }
}

/// A command whose effects may be under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalEntry {
    /// The fenced scope.
    pub scope: Scope,
    /// The command's epoch.
    pub epoch: Epoch,
    /// The operation.
    pub operation: OperationId,
    /// The step.
    pub step: StepId,
    /// The instance that it changes.
    pub instance: InstanceName,
}

impl FenceFile {
    /// Remembers that an instance is made at this address: its last byte, or its highest port where all share one address.
    ///
    /// Addresses are used in turn, so that one that was given up is not used again at once: a gateway that has not heard of it for a
    /// while would send requests to another service.
    pub fn made(&mut self, spec: &InstanceSpec) {
        let position = place_in_turn(spec);
        let last = self.used_up_to.unwrap_or(0);
        if position > last || last - position > SAME_PLAN {
            self.used_up_to = Some(position);
        }
    }

    /// Remembers that an instance is made for this try of an operation.
    pub(crate) fn begun_for(&mut self, begun: Option<Begun>) {
        let Some(begun) = begun else { return };
        self.begun.retain(|before| before.scope != begun.scope);
        self.begun.push(begun);
        self.begun.sort();
    }

    /// The highest epoch seen of a scope.
    #[must_use]
    pub fn floor(&self, scope: &Scope) -> Epoch {
        self.floors.iter().find(|(s, _)| s == scope).map_or(Epoch::default(), |(_, epoch)| *epoch)
    }

    /// Raises the floor of a scope; it never falls. Returns whether it changed.
    pub fn raise(&mut self, scope: &Scope, epoch: Epoch) -> bool {
        match self.floors.iter_mut().find(|(s, _)| s == scope) {
            Some((_, floor)) if *floor >= epoch => false,
            Some((_, floor)) => {
                *floor = epoch;
                true
            }
            None => {
                self.floors.push((scope.clone(), epoch));
                self.floors.sort();
                true
            }
        }
    }
}
