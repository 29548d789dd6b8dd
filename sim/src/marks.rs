//! "Sometimes" marks: rare states that a sweep must have reached, or it has tried too little.

use std::collections::BTreeMap;

use proto_core::api::OperationResult;

use crate::world::World;

/// How often each rare state was reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Marks(pub BTreeMap<String, u64>);

/// Every mark that a sweep must hit.
pub const ALL: [&str; 40] = [
    "a leader of the store was elected",
    "the store lost its quorum",
    "a read was answered from an old state",
    "a write was left undecided",
    "an undecided write landed late",
    "an undecided write was lost with its leader",
    "a write was refused because another was undecided",
    "a batch was torn",
    "a record that had ended came back",
    "a host name that was given up came back",
    "a message was lost",
    "a message came twice",
    "a message was late",
    "a message was cut off",
    "a gateway served an old state and said so",
    "a daemon was away when it was asked",
    "a client went away and its operation went on",
    "an operator asked for a cancel",
    "an operator's second try came to an end",
    "an operator ended what somebody else had left",
    "an operation was resumed or aborted after the faults",
    "ended with CANCELLED",
    "ended with LEASE_HELD",
    "ended with LEASE_LOST",
    "ended with ADOPTED_ELSEWHERE",
    "ended with COMMIT_UNKNOWN",
    "ended with STORE_AWAY",
    "ended with MACHINE_SILENT",
    "ended with PLAN_DRIFTED",
    "ended with IMAGE_MISSING",
    "ended with NOT_READY",
    "ended with INSTANCE_EXITED",
    "ended with DISK_FULL",
    "ended with RUNTIME_ERROR",
    "ended with OPERATION_UNFINISHED",
    "ended with ROUTE_CONFLICT",
    "ended with NO_PLACE",
    "ended with CAPACITY_TAKEN",
    "an operation could not go on without a machine, and said so",
    "an operation had committed when its record came back",
];

impl Marks {
    /// Reached once more.
    pub fn hit(&mut self, mark: &str) {
        self.add(mark, 1);
    }

    fn add(&mut self, mark: &str, count: u64) {
        if count == 0 {
            return;
        }
        match self.0.get_mut(mark) {
            Some(there) => *there += count,
            None => {
                self.0.insert(mark.to_owned(), count);
            }
        }
    }

    /// What the end of an operation shows.
    pub fn of_result(&mut self, result: &OperationResult) {
        let error = match result {
            OperationResult::Refused { error }
            | OperationResult::Aborted { error, .. }
            | OperationResult::Interrupted { error, .. }
            | OperationResult::Unknown { error, .. }
            | OperationResult::CleanupPending { error, .. } => error,
            OperationResult::Previewed { .. }
            | OperationResult::AlreadyDone { .. }
            | OperationResult::Committed { .. } => return,
        };
        self.hit(&format!("ended with {}", error.code));
    }

    /// What the world saw.
    pub fn of_world(&mut self, world: &World) {
        let seen = &world.servers.seen;
        self.add("a leader of the store was elected", seen.elections);
        self.add("the store lost its quorum", seen.quorums_lost);
        self.add("a read was answered from an old state", seen.stale_reads);
        self.add("a write was left undecided", seen.undecided);
        self.add("an undecided write landed late", seen.landed_late);
        self.add("an undecided write was lost with its leader", seen.lost_with_leader);
        self.add("a write was refused because another was undecided", seen.in_flight);
        self.add("a batch was torn", seen.torn);
        let struck = &world.network.struck;
        self.add("a message was lost", struck.lost);
        self.add("a message came twice", struck.doubled);
        self.add("a message was late", struck.late);
        self.add("a message was cut off", struck.cut);
        let stale: u64 = world.gateways.iter().map(|gateway| gateway.was_stale).sum();
        self.add("a gateway served an old state and said so", stale);
    }

    /// Adds those of another run.
    pub fn merge(&mut self, other: &Self) {
        for (mark, count) in &other.0 {
            self.add(mark, *count);
        }
    }

    /// Marks of the list that were not reached.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        ALL.into_iter().filter(|mark| !self.0.contains_key(*mark)).collect()
    }
}
