//! Commands between machines: each arrives at a node that listens, or at nobody; each is answered once, or never.

use std::collections::BTreeMap;

use proto_core::coordination::command::{Command, CommandBody};
use proto_core::daemon::{EffectId, ReplyToken};
use proto_core::id::{Epoch, InstanceName, MachineId, OperationId};
use proto_core::store::Scope;

/// Which run of which machine's daemon issued an effect. What comes back for an earlier run finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The machine.
    pub machine: usize,
    /// Counts the starts of its daemon.
    pub boot: u32,
    /// The effect.
    pub effect: EffectId,
}

/// A command that a node has and has not answered.
#[derive(Debug, Clone)]
pub struct Open {
    /// Who waits for the answer; `None` for a straggler, whose sender is gone.
    pub origin: Option<Origin>,
    /// The machine that has it.
    pub at: usize,
    /// The run of that machine's daemon.
    pub boot: u32,
    /// The command.
    pub command: Command,
}

/// Commands under way.
#[derive(Debug, Clone, Default)]
pub struct Bus {
    last: u64,
    open: BTreeMap<ReplyToken, Open>,
}

impl Bus {
    /// A command reaches a node: the token by which it will be answered.
    pub fn deliver(&mut self, open: Open) -> ReplyToken {
        self.last += 1;
        let token = ReplyToken(self.last);
        self.open.insert(token, open);
        token
    }

    /// A node answered.
    pub fn answer(&mut self, token: ReplyToken) -> Option<Open> {
        self.open.remove(&token)
    }

    /// A node died: whoever waits for it hears nothing.
    pub fn forget(&mut self, machine: usize) {
        self.open.retain(|_, open| open.at != machine);
    }

    /// The commands that have no answer, and how they will be answered.
    #[must_use]
    pub fn open(&self) -> &BTreeMap<ReplyToken, Open> {
        &self.open
    }

    /// The commands that a machine works on.
    pub fn at(&self, machine: usize) -> impl Iterator<Item = &Open> {
        self.open.values().filter(move |open| open.at == machine)
    }

    /// The commands that a machine works on and that change this instance: of which operation, for which scope at which epoch.
    pub fn changing(
        &self,
        machine: usize,
        instance: &InstanceName,
    ) -> impl Iterator<Item = (&OperationId, (Scope, Epoch))> {
        self.at(machine).filter_map(move |open| match &open.command.body {
            CommandBody::Perform { scope, epoch, action, .. }
                if action.changes() == Some(instance) =>
            {
                Some((&open.command.operation, (scope.clone(), *epoch)))
            }
            _ => None,
        })
    }
}

/// A machine by its place in the cluster.
#[must_use]
pub fn place(machines: &[MachineId], id: &MachineId) -> Option<usize> {
    machines.iter().position(|other| other == id)
}
