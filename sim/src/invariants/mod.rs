//! What must hold, a file for what belongs together. The numbers are those of the architecture's list.
//!
//! An invariant sees what happens between the nodes and the world and remembers what it needs; it looks into no node.

mod after_commit;
mod applied;
mod asked;
mod claims;
mod drains;
mod fence;
mod fits;
mod intent;
mod lineage;
mod phases;
mod recreate;
pub mod rest;
mod restarts;
mod serving;
mod started;
mod success;

pub use asked::ASKED;

use std::collections::BTreeMap;

use proto_core::api::Submission;
use proto_core::coordination::command::{Command, CommandReply};
use proto_core::coordination::{FenceFile, OperationRecord};
use proto_core::daemon::{Effect, NodeEvent, ReplyToken};
use proto_core::digest::Digest;
use proto_core::id::{Epoch, OperationId};
use proto_core::runtime::RuntimeRequest;
use proto_core::store::{Entry, Scope, Write};
use proto_core::time::Time;
use serde::Deserialize as _;

use crate::world::World;

pub(crate) use serving::heads_written;

/// Something that happened.
#[derive(Debug)]
pub enum Seen<'a> {
    /// Somebody asks for this request.
    Asked {
        /// Its digest.
        digest: Digest,
    },
    /// The store took a batch. The world shows it already.
    Stored {
        /// The batch.
        writes: &'a [Write],
        /// The records of operations in it.
        records: &'a [OperationRecord],
        /// On whose behalf.
        operation: Option<&'a OperationId>,
    },
    /// The store, which was killed, has a key again that had ended.
    CameBack {
        /// As it is now.
        entry: &'a Entry,
    },
    /// The record of an operation has ended with its life, and the next batch begins it anew.
    Forgotten {
        /// The operation.
        operation: &'a OperationId,
    },
    /// A machine's fence file was written.
    Persisted {
        /// The machine.
        machine: usize,
        /// What it holds now.
        file: &'a FenceFile,
    },
    /// A node wants this done.
    Issued {
        /// The machine.
        machine: usize,
        /// What.
        effect: &'a Effect,
    },
    /// A command reached a node, which is about to see it.
    Delivered {
        /// The machine.
        machine: usize,
        /// How it will be answered.
        token: ReplyToken,
        /// The command.
        command: &'a Command,
    },
    /// A node answered a command.
    Replied {
        /// The machine.
        machine: usize,
        /// Which.
        token: ReplyToken,
        /// How.
        reply: &'a CommandReply,
    },
    /// A node hears that a machine has refused its command for a newer epoch's sake.
    Fenced {
        /// The node's machine.
        machine: usize,
        /// Whose command.
        operation: &'a OperationId,
        /// For which scope.
        scope: &'a Scope,
        /// At which epoch.
        epoch: Epoch,
    },
    /// A change reached a runtime. The world shows it already.
    Landed {
        /// The machine.
        machine: usize,
        /// What.
        request: &'a RuntimeRequest,
        /// The command that it was issued for.
        by: Option<&'a (Scope, Epoch)>,
    },
    /// A gateway serves something else than before. The world shows it already.
    Published {
        /// The machine.
        machine: usize,
    },
    /// An audience was told something.
    Told {
        /// What it had asked for.
        submission: &'a Submission,
        /// The head of its namespace when it was asked for. `None`: it names no namespace, or what was read since may be older.
        head: Option<u64>,
        /// What.
        event: &'a NodeEvent,
    },
}

/// The record of an operation, if that is what came back.
fn record(entry: &Entry) -> Option<OperationRecord> {
    let is_record = entry.key.as_str().starts_with("op.");
    is_record.then(|| OperationRecord::deserialize(&*entry.value).ok()).flatten()
}

/// An invariant that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which: `S5 no abort after the commit`.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
    /// When, on the simulated clock.
    pub at: Time,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.at.as_nanos() / 1_000_000;
        write!(f, "[{}.{:03} s] {}: {}", seconds / 1000, seconds % 1000, self.invariant, self.what)
    }
}

/// One invariant.
trait Invariant: std::fmt::Debug + Send + Copied {
    /// Its name.
    fn name(&self) -> &'static str;

    /// In how many states its premise was true so far: how often it could have been broken.
    fn premises(&self) -> u64;

    /// Something happened.
    fn see(&mut self, _seen: &Seen<'_>, _world: &World) -> Result<(), String> {
        Ok(())
    }

    /// The world may have changed; called after each event.
    fn look(&mut self, _world: &World) -> Result<(), String> {
        Ok(())
    }
}

/// What an invariant remembers, once more.
trait Copied {
    fn copied(&self) -> Box<dyn Invariant>;
}

impl<T: Invariant + Clone + 'static> Copied for T {
    fn copied(&self) -> Box<dyn Invariant> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn Invariant> {
    fn clone(&self) -> Self {
        (**self).copied()
    }
}

/// All of them.
#[derive(Debug, Clone)]
pub struct Invariants {
    all: Vec<Box<dyn Invariant>>,
    /// When the records of operations that are over end.
    ends: BTreeMap<OperationId, Time>,
    violations: Vec<Violation>,
}

impl Invariants {
    /// All that are checked while a run goes on. `serves_through`: what is committed never stops serving (not so for a
    /// recreate, which stops first).
    #[must_use]
    pub fn new(serves_through: bool) -> Self {
        let mut all = Self::always();
        if serves_through {
            all.push(Box::new(serving::CommittedServes::default()));
        }
        Self::of(all)
    }

    /// Those that are checked in a story, where instances stop by themselves too.
    #[must_use]
    pub fn of_a_story() -> Self {
        Self::of(Self::always())
    }

    /// None: for worlds and plans that nobody could have come to, where only panics and rest are asked for.
    #[must_use]
    pub fn none() -> Self {
        Self::of(Vec::new())
    }

    fn of(all: Vec<Box<dyn Invariant>>) -> Self {
        Self { all, ends: BTreeMap::new(), violations: Vec::new() }
    }

    fn always() -> Vec<Box<dyn Invariant>> {
        vec![
            Box::new(after_commit::NoAbortAfterCommit::default()),
            Box::new(phases::OnlyForward::default()),
            Box::new(fence::LowerEpochsAreRefused::default()),
            Box::new(fence::NothingLandsBehindTheBarrier::default()),
            Box::new(fence::WhoIsFencedStops::default()),
            Box::new(applied::AppliedIsRouted::default()),
            Box::new(drains::DrainedFirst::default()),
            Box::new(restarts::OnlyOperationsChange::default()),
            Box::new(success::SuccessIsCommitted::default()),
            Box::new(lineage::FollowsFromTheRequest::default()),
            Box::new(asked::SomebodyAsked::default()),
            Box::new(intent::IntentIsPlanned::default()),
            Box::new(claims::ClaimsAreOfTheHead::default()),
            Box::new(fits::CommittedFits::default()),
            Box::new(recreate::RecreatedOneByOne::default()),
            Box::new(started::StartsWhatIsServed::default()),
        ]
    }

    /// In how many states each premise was true.
    #[must_use]
    pub fn premises(&self) -> BTreeMap<&'static str, u64> {
        self.all.iter().map(|invariant| (invariant.name(), invariant.premises())).collect()
    }

    /// Something happened.
    pub fn see(&mut self, seen: &Seen<'_>, world: &World) {
        for invariant in &mut self.all {
            if let Err(what) = invariant.see(seen, world) {
                let violation = Violation { invariant: invariant.name(), what, at: world.now };
                self.violations.push(violation);
            }
        }
    }

    /// The store took a batch; what is no record where one should be is a violation too.
    pub fn stored(&mut self, writes: &[Write], operation: Option<&OperationId>, world: &World) {
        let mut records = Vec::new();
        for write in writes.iter().filter(|write| write.key.as_str().starts_with("op.")) {
            match OperationRecord::deserialize(&write.value) {
                Ok(record) => {
                    if self.ends.remove(&record.id).is_some_and(|end| end <= world.now) {
                        self.see(&Seen::Forgotten { operation: &record.id }, world);
                    }
                    if let Some(life) = write.ttl {
                        self.ends.insert(record.id.clone(), world.now + life.duration());
                    }
                    records.push(record);
                }
                Err(error) => {
                    let what = format!("{} is no record: {error}", write.key);
                    self.violate("S11 intent is what was planned", what, world.now);
                }
            }
        }
        self.see(&Seen::Stored { writes, records: &records, operation }, world);
    }

    /// The world may have changed.
    pub fn look(&mut self, world: &World) {
        for invariant in &mut self.all {
            if let Err(what) = invariant.look(world) {
                let violation = Violation { invariant: invariant.name(), what, at: world.now };
                self.violations.push(violation);
            }
        }
    }

    /// Notes a violation that was found elsewhere.
    pub fn violate(&mut self, invariant: &'static str, what: String, at: Time) {
        self.violations.push(Violation { invariant, what, at });
    }

    /// What was broken so far.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }
}
