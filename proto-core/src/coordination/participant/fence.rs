use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::coordination::command::Uses;
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
    /// How often an instance has been made or given up: see [`FenceFile::made`].
    #[serde(default)]
    pub uses: u64,
    /// The newest use of an address that is not in `users` any more; 0 if all are.
    #[serde(default)]
    pub forgotten: u64,
    /// Who used an address last, by its place (see [`Uses`]): of at most 254 of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<u16, User>,
}

/// Who used an address last, or gave it up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Which use it was.
    pub at: u64,
    /// The operation.
    pub operation: OperationId,
    /// Which try of it.
    pub attempt: u32,
    /// The instance that has the address, or had it.
    pub instance: InstanceName,
}

/// As many places as a machine knows the users of: all of a subnet, the last ones where all share one address.
const REMEMBERED: usize = 254;

/// The places of an instance: the last byte of its address, or all its ports where all share one address.
pub(crate) fn places(spec: &InstanceSpec) -> Vec<u16> {
    match spec.address {
        IpAddr::V4(address) if !address.is_loopback() => vec![u16::from(address.octets()[3])],
        _ => spec.ports.values().copied().collect(),
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
    /// What has not been used for longest is used next, so that an address which was given up is not used again at once: a gateway that has not
    /// heard of it for a while would send requests to another service.
    pub fn made(&mut self, spec: &InstanceSpec, operation: &OperationId, attempt: u32) {
        self.use_now(places(spec), &spec.name, operation, attempt);
    }

    /// Remembers that an instance gives its address up: it has been used until now.
    pub fn given_up(&mut self, instance: &InstanceName, operation: &OperationId, attempt: u32) {
        let had = self.users.iter().filter(|(_, user)| user.instance == *instance);
        let had: Vec<_> = had.map(|(place, _)| *place).collect();
        if !had.is_empty() {
            self.use_now(had, instance, operation, attempt);
        }
    }

    fn use_now(
        &mut self,
        places: Vec<u16>,
        instance: &InstanceName,
        operation: &OperationId,
        attempt: u32,
    ) {
        self.uses += 1;
        for place in places {
            let (operation, instance) = (operation.clone(), instance.clone());
            self.users.insert(place, User { at: self.uses, operation, attempt, instance });
        }
        while self.users.len() > REMEMBERED {
            let oldest = self.users.iter().min_by_key(|(_, user)| user.at);
            let (place, at) = oldest.map(|(place, user)| (*place, user.at)).expect("not empty");
            self.forgotten = self.forgotten.max(at);
            self.users.remove(&place);
        }
    }

    /// Which addresses have been used.
    #[must_use]
    pub fn used(&self) -> Uses {
        self.used_by(|_| true)
    }

    /// Which addresses others than this try of an operation have used.
    #[must_use]
    pub fn used_by_others(&self, operation: &OperationId, attempt: u32) -> Uses {
        self.used_by(|user| user.operation != *operation || user.attempt != attempt)
    }

    fn used_by(&self, counts: impl Fn(&User) -> bool) -> Uses {
        let users = self.users.iter().filter(|(_, user)| counts(user));
        let places = users.map(|(place, user)| (*place, user.at)).collect();
        Uses { count: self.uses, forgotten: self.forgotten, places }
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
