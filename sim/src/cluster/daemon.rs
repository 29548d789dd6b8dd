//! The daemons of the machines: what they are asked and told, and what they put out.

use std::collections::BTreeMap;

use proto_core::Outcome;
use proto_core::api::{OperationRequest, Submission};
use proto_core::coordination::JournalEntry;
use proto_core::coordination::command::CommandReply;
use proto_core::daemon::{
    Completion, EffectId, Input, Node, NodeConfig, NodeEvent, OperationHandle,
};
use proto_core::id::{Epoch, OperationId};
use proto_core::store::Scope;
use proto_core::time::Time;

use super::queue::Event;
use super::words::{said, told};
use super::{Cluster, host};
use crate::fate::Rival;
use crate::invariants::{Seen, rest};
use crate::play::outcome;
use crate::trace::Kind;

/// One machine's daemon.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    pub(crate) node: Option<Node>,
    pub(crate) boot: u32,
    /// What it was asked for, and has not told the result of.
    pub(super) asked: BTreeMap<OperationHandle, Asking>,
    /// The effects that it has heard nothing of yet; of commands for an epoch whose, and which.
    pub(crate) pending: BTreeMap<EffectId, Option<(OperationId, Scope, Epoch)>>,
    pub(super) timer: Option<Time>,
    /// It stands still until then; nothing reaches it.
    pub(super) paused_until: Option<Time>,
    pub(super) held: Vec<Input>,
    /// The whole machine is off.
    pub(crate) off: bool,
    /// How it is slow or failing.
    pub(crate) ails: host::Ails,
}

/// What somebody waits for.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    submission: Submission,
    /// The head of the namespace when it was asked for. `None`: it names no namespace, or a leader that was deposed has answered a read
    /// of this daemon since, and what it said may be older.
    pub(super) head: Option<u64>,
}

/// What somebody asked a daemon for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) machine: usize,
    pub(crate) boot: u32,
    pub(crate) handle: OperationHandle,
}

impl Asked {
    /// Asks; `None` if the daemon does not run or stands still.
    pub(crate) fn of(
        cluster: &mut Cluster<'_>,
        machine: usize,
        submission: Submission,
    ) -> Option<Self> {
        let boot = cluster.boot(machine);
        let handle = cluster.submit(machine, submission)?;
        Some(Self { machine, boot, handle })
    }

    /// The daemon that was asked is no more.
    pub(crate) fn is_lost(&self, cluster: &Cluster<'_>) -> bool {
        cluster.boot(self.machine) != self.boot
    }

    /// There is an answer, or there will be none.
    pub(crate) fn is_over(&self, cluster: &Cluster<'_>) -> bool {
        let answered = cluster.results.contains_key(&self.handle);
        answered || self.is_lost(cluster) || !cluster.is_up(self.machine)
    }
}

impl Cluster<'_> {
    /// Asks the daemon of a machine for something; `None` if it does not run or stands still.
    pub fn submit(&mut self, machine: usize, submission: Submission) -> Option<OperationHandle> {
        self.ask(machine, submission, true)
    }

    fn ask(
        &mut self,
        machine: usize,
        submission: Submission,
        may_cancel: bool,
    ) -> Option<OperationHandle> {
        self.handles += 1;
        let handle = OperationHandle(self.handles);
        let request = requested(&submission);
        if let Some(request) = request {
            let digest = request.digest();
            self.invariants.see(&Seen::Asked { digest }, &self.world);
        }
        if !self.is_up(machine) {
            return None;
        }
        let operation = match &submission {
            Submission::Resume { operation } | Submission::Abort { operation } => Some(operation),
            _ => None,
        };
        self.note(Some(machine), Kind::Asked, operation.cloned().as_ref(), || said(&submission));
        self.trace.asked(self.world.now, machine, handle, || said(&submission));
        if may_cancel {
            self.cancellable = Some((machine, handle));
        }
        let head = request.map(|request| self.world.head(request.namespace()));
        let asking = Asking { submission: submission.clone(), head };
        self.machines[machine].asked.insert(handle, asking);
        self.input(machine, Input::Submit { handle, submission });
        Some(handle)
    }

    /// Who asked last waits no longer; what second operators asked for meanwhile.
    pub(crate) fn nobody_waits(&mut self) -> Vec<Asked> {
        self.cancellable = None;
        std::mem::take(&mut self.rivals)
    }

    /// While somebody waits: what a second operator could take up, and where, which is the first other machine that runs.
    pub(super) fn contest(&self) -> Option<(usize, OperationId)> {
        let (first, _) = self.cancellable?;
        let other = (0..self.machines.len()).find(|other| *other != first && self.is_up(*other))?;
        rest::first_unfinished(&self.world).map(|operation| (other, operation))
    }

    /// A second operator comes.
    pub(super) fn join(&mut self, rival: Rival) {
        let Some((machine, operation)) = self.contest() else { return };
        let submission = match rival {
            Rival::Resumes => Submission::Resume { operation },
            Rival::Aborts => Submission::Abort { operation },
        };
        let boot = self.boot(machine);
        let handle = self.ask(machine, submission, false);
        self.rivals.extend(handle.map(|handle| Asked { machine, boot, handle }));
    }

    /// The audience of an operation asks it to stop.
    pub fn cancel(&mut self, machine: usize, handle: OperationHandle) {
        self.note(Some(machine), Kind::Asked, None, || "to cancel".to_owned());
        self.input(machine, Input::Cancel { handle });
    }

    /// Which run of the machine's daemon it is.
    #[must_use]
    pub fn boot(&self, machine: usize) -> u32 {
        self.machines[machine].boot
    }

    /// Whether the machine's daemon runs and does not stand still.
    #[must_use]
    pub fn is_up(&self, machine: usize) -> bool {
        let machine = &self.machines[machine];
        machine.node.is_some() && machine.paused_until.is_none()
    }

    /// How many operations run in the machine's daemon.
    #[must_use]
    pub fn running(&self, machine: usize) -> usize {
        self.machines[machine].node.as_ref().map_or(0, |node| node.running().count())
    }

    /// What the machine's daemon may have under way, as it knows.
    #[must_use]
    pub fn journal(&self, machine: usize) -> Vec<JournalEntry> {
        let node = self.machines[machine].node.as_ref();
        node.map_or_else(Vec::new, |node| node.fence().journal.clone())
    }

    pub(super) fn start(&mut self, machine: usize) {
        let there = &mut self.machines[machine];
        let seed = (machine as u64 + 1) * 1_000_003 + u64::from(there.boot);
        let config = NodeConfig {
            machine: self.world.machines[machine].clone(),
            runtime: "model".to_owned(),
            seed,
            fence: self.world.fences[machine].clone(),
        };
        there.node = Some(Node::new(config));
        self.began_anew = true;
        self.note(Some(machine), Kind::Mended, None, || host::STARTS.to_owned());
        self.drain(machine);
    }

    pub(crate) fn input(&mut self, machine: usize, input: Input) {
        let there = &mut self.machines[machine];
        if there.paused_until.is_some() {
            return there.held.push(input);
        }
        if let Input::Done { id, completion } = &input {
            // An adapter tells once how it went.
            let Some(sent) = there.pending.remove(id) else { return };
            if let Completion::Send(Outcome::Ok(CommandReply::Stale { .. })) = completion
                && let Some((operation, scope, epoch)) = &sent
            {
                let seen = Seen::Fenced { machine, operation, scope, epoch: *epoch };
                self.invariants.see(&seen, &self.world);
            }
        }
        let Some(node) = &mut self.machines[machine].node else { return };
        let now = self.world.clocks[machine].monotonic(self.world.now);
        node.handle_input(now, self.world.wall(machine), input);
        self.drain(machine);
    }

    fn drain(&mut self, machine: usize) {
        loop {
            let there = &mut self.machines[machine];
            let Some(node) = &mut there.node else { return };
            // One that stands still keeps what it has not put out yet.
            if there.paused_until.is_some() {
                return;
            }
            if let Some(event) = node.poll_event() {
                self.hear_event(machine, &event);
            } else if let Some(effect) = node.poll_effect() {
                self.issue(machine, effect);
            } else {
                break;
            }
        }
        let there = &mut self.machines[machine];
        let next = there.node.as_ref().and_then(Node::poll_timeout);
        if let Some((at, _)) = next {
            let at = self.world.clocks[machine].when(at).max(self.world.now);
            if there.timer.is_none_or(|timer| at < timer) {
                there.timer = Some(at);
                let (boot, after) = (there.boot, at.since(self.world.now));
                self.schedule(after, Event::Timer { machine, boot, at });
            }
        }
    }

    fn hear_event(&mut self, machine: usize, event: &NodeEvent) {
        let asked = self.machines[machine].asked.get(&event.handle);
        let Asking { submission, head } = asked.expect("a node speaks of what it was asked for");
        self.invariants.see(&Seen::Told { submission, head: *head, event }, &self.world);
        self.trace.mix(event.handle.0);
        let operation = self.trace.says(self.world.now, event);
        self.note(Some(machine), Kind::Says, operation.as_ref(), || told(event));
        if let Some(result) = event.result() {
            if self.cancellable == Some((machine, event.handle)) {
                self.cancellable = None;
            }
            self.machines[machine].asked.remove(&event.handle);
            self.trace.mix_text(outcome(result));
            self.trace.mix_text(result.error().map_or("", |error| &error.code));
            self.results.insert(event.handle, result.clone());
            self.told.push(event.handle);
        }
    }
}

/// The request that it is about, if it carries one that may be carried out.
fn requested(submission: &Submission) -> Option<&OperationRequest> {
    match submission {
        Submission::Apply { request } | Submission::ApplyPrepared { request, .. } => Some(request),
        _ => None,
    }
}
