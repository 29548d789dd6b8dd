//! S10: every batch and every command that changes something carries the id of an operation that somebody asked for.

use std::collections::{BTreeMap, BTreeSet};

use proto_core::coordination::command::CommandBody;
use proto_core::daemon::EffectKind;
use proto_core::digest::Digest;
use proto_core::id::OperationId;
use proto_core::store::{StoreRequest, Write};
use serde::Deserialize;

use super::{Invariant, Seen};
use crate::story::machine_name;
use crate::world::World;

/// Its name. Its premises count every batch, every command that is not only a look, and every change of a runtime.
pub const ASKED: &str = "S10 every change is of an operation that was asked for";

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct SomebodyAsked {
    asked: BTreeSet<Digest>,
    known: BTreeMap<OperationId, Digest>,
    seen: u64,
}

impl Invariant for SomebodyAsked {
    fn name(&self) -> &'static str {
        ASKED
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, _: &World) -> Result<(), String> {
        match seen {
            Seen::Asked { digest } => {
                self.asked.insert(*digest);
            }
            Seen::Issued { machine, effect } => {
                let changes = match &effect.kind {
                    EffectKind::Store(StoreRequest::Commit { writes }) => {
                        self.learn(writes);
                        true
                    }
                    EffectKind::Send { command, .. } => {
                        if let Some(operation) = &effect.operation
                            && *operation != command.operation
                        {
                            return Err(format!(
                                "{operation} sends a command of {}",
                                command.operation
                            ));
                        }
                        !matches!(command.body, CommandBody::Observe { .. })
                    }
                    EffectKind::Runtime(request) => request.mutates().is_some(),
                    _ => false,
                };
                if !changes {
                    return Ok(());
                }
                self.seen += 1;
                let of = effect.operation.as_ref();
                let request = of.and_then(|operation| self.known.get(operation));
                if request.is_none_or(|request| !self.asked.contains(request)) {
                    return Err(format!("{} issues {effect:?}", machine_name(*machine)));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What of a record says who asked for what.
#[derive(Debug, Deserialize)]
struct Recorded {
    id: OperationId,
    request_digest: Digest,
}

impl SomebodyAsked {
    fn learn(&mut self, writes: &[Write]) {
        for write in writes.iter().filter(|write| write.key.as_str().starts_with("op.")) {
            if let Ok(record) = Recorded::deserialize(&write.value) {
                self.known.insert(record.id, record.request_digest);
            }
        }
    }
}
