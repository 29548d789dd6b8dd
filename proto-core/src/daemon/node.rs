use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Completion, Effect, EffectId, EffectKind, Input, NodeEvent, OperationHandle};
use crate::api::{OperationEvent, OperationResult, Submission};
use crate::coordination::operation::Tag;
use crate::coordination::participant::{FenceFile, Owner};
use crate::coordination::{Operation, Participant};
use crate::id::{MachineId, OperationId};
use crate::random::Random;
use crate::time::{Time, UnixTime};

/// What a node starts from.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// This machine.
    pub machine: MachineId,
    /// The name of its runtime, for observations: `docker` or `process`.
    pub runtime: String,
    /// Where all randomness of the node comes from. Different at each start.
    pub seed: u64,
    /// What the participant remembered.
    pub fence: FenceFile,
}

/// Why a node wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerKind {
    /// A probe, or a settling to be tried again.
    Participant,
    /// A renewal, or something to be tried again, of this operation.
    Operation(OperationHandle),
}

/// Whose an effect is.
#[derive(Debug, Clone)]
enum EffectOwner {
    Participant(Owner),
    Operation(OperationHandle, Tag),
}

/// One machine's participant and the operations that it coordinates.
///
/// Feed it with [`Node::handle_input`]; after each input drain [`Node::poll_effect`] and [`Node::poll_event`] until both are empty, then
/// ask [`Node::poll_timeout`] when to come back with [`Input::Timeout`]. Effects may be carried out at the same time and end in any
/// order, with one exception that the node keeps by itself: it never has two fence files under way.
#[derive(Debug, Clone)]
pub struct Node {
    machine: MachineId,
    random: Random,
    participant: Participant,
    operations: BTreeMap<OperationHandle, Operation>,
    /// Handles that were submitted for what another handle runs already.
    attached: BTreeMap<OperationHandle, OperationHandle>,
    next_effect: u64,
    under_way: BTreeMap<EffectId, EffectOwner>,
    effects: VecDeque<Effect>,
    events: VecDeque<NodeEvent>,
}

impl Node {
    /// A node that goes on from what its participant remembered.
    #[must_use]
    pub fn new(config: NodeConfig) -> Self {
        let participant = Participant::new(config.machine.clone(), config.runtime, config.fence);
        let mut this = Self {
            machine: config.machine,
            random: Random::new(config.seed),
            participant,
            operations: BTreeMap::new(),
            attached: BTreeMap::new(),
            next_effect: 0,
            under_way: BTreeMap::new(),
            effects: VecDeque::new(),
            events: VecDeque::new(),
        };
        this.drain();
        this
    }

    /// Takes one input. `wall` is the machine's clock, for what is recorded; it decides nothing.
    ///
    /// # Panics
    ///
    /// If an effect is answered twice, or with a completion of another kind: the driver's bugs.
    pub fn handle_input(&mut self, now: Time, wall: UnixTime, input: Input) {
        match input {
            Input::Submit { handle, submission } => self.submit(now, wall, handle, submission),
            Input::Cancel { handle } => {
                let handle = self.attached.get(&handle).copied().unwrap_or(handle);
                if let Some(operation) = self.operations.get_mut(&handle) {
                    operation.cancel(now, wall);
                }
            }
            Input::Shutdown => self.operations.values_mut().for_each(Operation::shutdown),
            Input::Command { token, command } => self.participant.command(now, token, *command),
            Input::Done { id, completion } => self.done(now, wall, id, completion),
            Input::Timeout => {
                self.participant.timeout(now);
                self.operations.values_mut().for_each(|operation| operation.timeout(now, wall));
            }
        }
        self.drain();
    }

    /// The next effect.
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.pop_front()
    }

    /// When to come back with [`Input::Timeout`] if nothing else happens, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Time, TimerKind)> {
        let participant = self.participant.poll_timeout().map(|at| (at, TimerKind::Participant));
        let operations = self.operations.iter().filter_map(|(handle, operation)| {
            operation.poll_timeout().map(|at| (at, TimerKind::Operation(*handle)))
        });
        participant.into_iter().chain(operations).min_by_key(|(at, _)| *at)
    }

    /// The operations that run here.
    pub fn running(&self) -> impl Iterator<Item = &OperationId> {
        self.operations.values().filter_map(Operation::id)
    }

    /// The participant's fence as it is in memory.
    #[must_use]
    pub fn fence(&self) -> &FenceFile {
        self.participant.fence()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.operations.is_empty() && self.participant.is_idle()
    }

    fn submit(
        &mut self,
        now: Time,
        wall: UnixTime,
        handle: OperationHandle,
        submission: Submission,
    ) {
        if let Some(running) = self.running_already(&submission) {
            self.attached.insert(handle, running);
            let operation = self.operations.get_mut(&running).expect("it was found there");
            operation.join();
            if matches!(submission, Submission::Abort { .. }) {
                operation.abort_too(now, wall);
            }
            return;
        }
        let seed = self.random.next_u64();
        let operation = Operation::new(self.machine.clone(), seed, submission);
        self.operations.insert(handle, operation);
    }

    /// The handle under which this node does already what is asked for.
    fn running_already(&self, submission: &Submission) -> Option<OperationHandle> {
        let same = |operation: &Operation| match submission {
            Submission::Apply { request } => operation.applies(request),
            Submission::Resume { operation: id } | Submission::Abort { operation: id } => {
                operation.id() == Some(id)
            }
            Submission::Preview { .. } | Submission::ApplyPrepared { .. } => false,
        };
        self.operations.iter().find(|(_, operation)| same(operation)).map(|(handle, _)| *handle)
    }

    fn done(&mut self, now: Time, wall: UnixTime, id: EffectId, completion: Completion) {
        let owner = self.under_way.remove(&id).expect("an effect is answered once");
        match owner {
            EffectOwner::Participant(owner) => self.participant.done(now, owner, completion),
            EffectOwner::Operation(handle, tag) => {
                let others: BTreeSet<_> = self
                    .operations
                    .iter()
                    .filter(|(other, _)| **other != handle)
                    .filter_map(|(_, operation)| operation.id().cloned())
                    .collect();
                // One that ended before its last effects were answered is not asked any more.
                if let Some(operation) = self.operations.get_mut(&handle) {
                    operation.set_running_here(others);
                    operation.done(now, wall, tag, completion);
                }
            }
        }
    }

    /// Moves what the machines put out into the node's own queues.
    fn drain(&mut self) {
        while let Some((owner, operation, kind)) = self.participant.poll_effect() {
            self.emit(EffectOwner::Participant(owner), operation, kind);
        }
        let handles: Vec<_> = self.operations.keys().copied().collect();
        for handle in handles {
            let mut effects = Vec::new();
            let mut events = Vec::new();
            let Some(operation) = self.operations.get_mut(&handle) else { continue };
            while let Some(effect) = operation.poll_effect() {
                effects.push(effect);
            }
            while let Some(event) = operation.poll_event() {
                events.push(event);
            }
            let id = operation.id().cloned();
            let finished = operation.is_finished();
            for (tag, kind) in effects {
                self.emit(EffectOwner::Operation(handle, tag), id.clone(), kind);
            }
            for event in events {
                self.publish(handle, event);
            }
            if finished {
                self.operations.remove(&handle);
                self.attached.retain(|_, to| *to != handle);
            }
        }
    }

    fn emit(&mut self, owner: EffectOwner, operation: Option<OperationId>, kind: EffectKind) {
        let id = EffectId(self.next_effect);
        self.next_effect += 1;
        if !matches!(kind, EffectKind::Reply { .. }) {
            self.under_way.insert(id, owner);
        }
        self.effects.push_back(Effect { id, operation, kind });
    }

    fn publish(&mut self, handle: OperationHandle, event: OperationEvent) {
        let audience: Vec<_> =
            self.attached.iter().filter(|(_, to)| **to == handle).map(|(h, _)| *h).collect();
        for handle in audience {
            self.events.push_back(NodeEvent { handle, event: event.clone() });
        }
        self.events.push_back(NodeEvent { handle, event });
    }
}

impl NodeEvent {
    /// How the operation ended, if this is its last event.
    #[must_use]
    pub fn result(&self) -> Option<&OperationResult> {
        match &self.event {
            OperationEvent::Finished { result } => Some(result),
            _ => None,
        }
    }
}
