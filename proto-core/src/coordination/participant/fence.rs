use std::collections::BTreeSet;
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
    /// Who has used places of that turn last, the newest last: of at most 254 places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
}

/// A try of an operation that has used places of a machine's turn, and was the last to do so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The operation.
    pub operation: OperationId,
    /// Which try of it.
    pub attempt: u32,
    /// The places: last bytes of addresses, or ports where all share one address. Never empty.
    pub places: BTreeSet<u16>,
}

impl User {
    fn is(&self, operation: &OperationId, attempt: u32) -> bool {
        self.operation == *operation && self.attempt == attempt
    }
}

/// How many places of its turn a machine knows the users of: all of a subnet, the last ones where ports are used in turn.
const REMEMBERED: u16 = 254;

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

/// Whether somebody else has used this place since a turn was there. Who only passes it, as it is set aside for another, has not used it; a
/// machine that does not remember for so long, or says nothing, may have.
pub(crate) fn is_used(then: u16, now: &Turn, place: u16) -> bool {
    let remembers = now.up_to.abs_diff(then) <= REMEMBERED;
    let others = now.others.as_ref().filter(|_| remembers);
    is_passed(then, now.up_to, place) && others.is_none_or(|others| others.contains(&place))
}

/// Whether a turn that went on from one place to another has passed this one.
fn is_passed(then: u16, now: u16, place: u16) -> bool {
    if then <= now { then < place && place <= now } else { then < place || place <= now }
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
        // Whoever used what the turn only passes now did so a round before.
        let near = place.saturating_sub(last) <= SAME_PLAN;
        let passed = |other: u16| near && last < other && other < place;
        for user in &mut self.users {
            user.places.retain(|other| *other != place && !passed(*other));
        }
        let mut places = BTreeSet::from([place]);
        if let Some(at) = self.users.iter().position(|user| user.is(operation, attempt)) {
            places.append(&mut self.users.remove(at).places);
        }
        self.users.push(User { operation: operation.clone(), attempt, places });
        let known: usize = self.users.iter().map(|user| user.places.len()).sum();
        if known > REMEMBERED.into() {
            self.users[0].places.pop_first();
        }
        self.users.retain(|user| !user.places.is_empty());
    }

    /// How far the turn is, for a try of an operation, and which of its places others have used.
    #[must_use]
    pub fn turn_for(&self, operation: &OperationId, attempt: u32) -> Option<Turn> {
        let others = self.users.iter().filter(|user| !user.is(operation, attempt));
        let others = others.flat_map(|user| &user.places).copied().collect();
        Some(Turn { up_to: self.used_up_to?, others: Some(others) })
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
