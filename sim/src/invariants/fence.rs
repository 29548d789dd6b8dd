//! S6: machines never act for a lower epoch, and who hears that goes no further.

use std::collections::BTreeMap;

use proto_core::coordination::command::{CommandBody, CommandReply};
use proto_core::daemon::{EffectKind, ReplyToken};
use proto_core::id::{Epoch, OperationId};
use proto_core::store::{Scope, StoreRequest};

use super::{Invariant, Seen};
use crate::story::machine_name;
use crate::world::World;

/// A command below the floor that the machine has written down is answered with `Stale`.
#[derive(Debug, Clone, Default)]
pub(super) struct LowerEpochsAreRefused {
    floors: BTreeMap<(usize, Scope), Epoch>,
    /// Commands that arrived below the floor, with both.
    lower: BTreeMap<ReplyToken, (Epoch, Epoch)>,
    seen: u64,
}

impl Invariant for LowerEpochsAreRefused {
    fn name(&self) -> &'static str {
        "S6 a machine refuses what is below its floor"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, _: &World) -> Result<(), String> {
        match seen {
            Seen::Persisted { machine, file } => {
                for (scope, epoch) in &file.floors {
                    self.floors.insert((*machine, scope.clone()), *epoch);
                }
            }
            Seen::Delivered { machine, token, command } => {
                let (CommandBody::Barrier { scope, epoch }
                | CommandBody::Perform { scope, epoch, .. }) = &command.body
                else {
                    return Ok(());
                };
                let floor = self.floors.get(&(*machine, scope.clone())).copied();
                if let Some(floor) = floor.filter(|floor| epoch < floor) {
                    self.seen += 1;
                    self.lower.insert(*token, (*epoch, floor));
                }
            }
            Seen::Replied { machine, token, reply } => {
                let refused = matches!(reply, CommandReply::Stale { .. });
                match self.lower.remove(token) {
                    Some((epoch, floor)) if !refused => {
                        return Err(format!(
                            "{} answered a command of epoch {epoch} below its floor {floor} with {reply:?}",
                            machine_name(*machine)
                        ));
                    }
                    // The floor rose while it waited.
                    None if refused => self.seen += 1,
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Once a barrier is acknowledged, nothing of a lower epoch lands on that machine; once a higher epoch acts anywhere,
/// nothing of a lower one lands anywhere.
#[derive(Debug, Clone, Default)]
pub(super) struct NothingLandsBehindTheBarrier {
    asked: BTreeMap<ReplyToken, (usize, Scope, Epoch)>,
    acknowledged: BTreeMap<(usize, Scope), Epoch>,
    acting: BTreeMap<Scope, Epoch>,
    seen: u64,
}

impl Invariant for NothingLandsBehindTheBarrier {
    fn name(&self) -> &'static str {
        "S6 nothing of a lower epoch lands behind the barrier"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, _: &World) -> Result<(), String> {
        match seen {
            Seen::Delivered { machine, token, command } => match &command.body {
                CommandBody::Barrier { scope, epoch } => {
                    self.asked.insert(*token, (*machine, scope.clone(), *epoch));
                }
                CommandBody::Perform { scope, epoch, .. } => {
                    let highest = self.acting.entry(scope.clone()).or_default();
                    *highest = (*highest).max(*epoch);
                }
                CommandBody::Observe { .. } => {}
            },
            Seen::Replied { token, reply: CommandReply::Done { .. }, .. } => {
                if let Some((machine, scope, epoch)) = self.asked.remove(token) {
                    let there = self.acknowledged.entry((machine, scope)).or_default();
                    *there = (*there).max(epoch);
                }
            }
            Seen::Landed { machine, request, by: Some((scope, epoch)) } => {
                let barrier = self.acknowledged.get(&(*machine, scope.clone()));
                self.seen += u64::from(barrier.is_some());
                if let Some(barrier) = barrier.filter(|barrier| epoch < barrier) {
                    return Err(format!(
                        "{} acknowledged a barrier of {barrier}, then {request:?} of epoch {epoch} landed",
                        machine_name(*machine)
                    ));
                }
                let acting = self.acting.get(scope);
                if let Some(acting) = acting.filter(|acting| epoch < acting) {
                    return Err(format!(
                        "epoch {acting} acts, and on {} {request:?} of epoch {epoch} landed",
                        machine_name(*machine)
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A node whose command was refused for a newer epoch's sake sends nothing more for that epoch, and commits nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct WhoIsFencedStops {
    fenced: BTreeMap<(usize, OperationId), (Scope, Epoch)>,
    /// The highest epoch that each node has told anybody to act for.
    told: BTreeMap<(usize, OperationId), Epoch>,
    seen: u64,
}

impl Invariant for WhoIsFencedStops {
    fn name(&self) -> &'static str {
        "S6 who was fenced goes no further"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, _: &World) -> Result<(), String> {
        let (machine, effect) = match seen {
            Seen::Fenced { machine, operation, scope, epoch } => {
                let key = (*machine, (*operation).clone());
                // An answer from before it was taken again says nothing of now.
                if self.told.get(&key).is_none_or(|told| told <= epoch) {
                    self.fenced.insert(key, ((*scope).clone(), *epoch));
                }
                return Ok(());
            }
            Seen::Issued { machine, effect } => (*machine, effect),
            _ => return Ok(()),
        };
        let Some(operation) = &effect.operation else { return Ok(()) };
        let key = (machine, operation.clone());
        if let EffectKind::Send { command, .. } = &effect.kind
            && let CommandBody::Barrier { epoch, .. } | CommandBody::Perform { epoch, .. } =
                &command.body
        {
            let told = self.told.entry(key.clone()).or_default();
            *told = (*told).max(*epoch);
        }
        let Some((fenced, below)) = self.fenced.get(&key) else { return Ok(()) };
        self.seen += 1;
        let goes_on = match &effect.kind {
            EffectKind::Send { command, .. } => match &command.body {
                CommandBody::Barrier { scope, epoch }
                | CommandBody::Perform { scope, epoch, .. }
                    if scope == fenced =>
                {
                    if epoch > below {
                        // It was taken again.
                        self.fenced.remove(&key);
                        return Ok(());
                    }
                    true
                }
                _ => false,
            },
            EffectKind::Store(StoreRequest::Commit { writes }) => {
                writes.iter().any(|write| write.key.as_str().ends_with(".head"))
            }
            _ => false,
        };
        if goes_on {
            return Err(format!(
                "{} was refused for {operation} at epoch {below} and issues {:?}",
                machine_name(machine),
                effect.kind
            ));
        }
        Ok(())
    }
}
