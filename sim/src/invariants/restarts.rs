//! S8: a daemon restart restarts no workload: whatever a node changes on its machine belongs to an operation that is recorded and
//! not over. What an operation that ended has left under way was settled behind its barrier.

use proto_core::coordination::Phase;
use proto_core::daemon::EffectKind;
use proto_core::id::OperationId;
use proto_core::store::Key;
use serde::Deserialize;

use super::{Invariant, Seen};
use crate::story::machine_name;
use crate::world::World;

/// What of a record says how far the operation is.
#[derive(Debug, Deserialize)]
struct Standing {
    id: OperationId,
    phase: Phase,
}

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct OnlyOperationsChange {
    seen: u64,
}

impl Invariant for OnlyOperationsChange {
    fn name(&self) -> &'static str {
        "S8 only an operation that is under way changes instances"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        let Seen::Issued { machine, effect } = seen else { return Ok(()) };
        let EffectKind::Runtime(request) = &effect.kind else { return Ok(()) };
        if request.mutates().is_none() {
            return Ok(());
        }
        self.seen += 1;
        let record: Option<Standing> =
            effect.operation.as_ref().and_then(|id| world.kv.get(&Key::operation(id)));
        match record {
            Some(record) if !record.phase.is_final() => Ok(()),
            Some(record) => Err(format!(
                "{} issues {request:?} for {}, which is {}",
                machine_name(*machine),
                record.id,
                record.phase
            )),
            None => Err(format!("{} issues {request:?} for nobody", machine_name(*machine))),
        }
    }
}
