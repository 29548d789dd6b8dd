use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::coordination::command::Turn;
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
    /// Who used the last places of that turn, the newest last: at most [`REMEMBERED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
}

/// Who used a place of the turn last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The place: see [`place_in_turn`].
    pub place: u16,
    /// The operation.
    pub operation: OperationId,
    /// Which try of it.
    pub attempt: u32,
}

/// How many of the last places of its turn a machine knows the users of.
pub(crate) const REMEMBERED: u16 = 64;

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
    /// Remembers that an instance is made at this address for a try of an operation.
    ///
    /// Addresses are used in turn, so that one that was given up is not used again at once: a gateway that has not heard of it for a
    /// while would send requests to another service.
    pub fn made(&mut self, spec: &InstanceSpec, operation: &OperationId, attempt: u32) {
        let place = place_in_turn(spec);
        let last = self.used_up_to.unwrap_or(0);
        if place > last || last - place > SAME_PLAN {
            self.used_up_to = Some(place);
        }
        self.users.retain(|user| user.place != place);
        self.users.push(User { place, operation: operation.clone(), attempt });
        let more = self.users.len().saturating_sub(REMEMBERED.into());
        self.users.drain(..more);
    }

    /// How far the turn is, for a try of an operation, and which of its last places others have used.
    #[must_use]
    pub fn turn_for(&self, operation: &OperationId, attempt: u32) -> Option<Turn> {
        let own = |user: &&User| user.operation == *operation && user.attempt == attempt;
        let others = self.users.iter().filter(|user| !own(user)).map(|user| user.place);
        Some(Turn { up_to: self.used_up_to?, others: Some(others.collect()) })
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
