//! S15: an operation makes what is its own, and starts again only what the head has: anything else is not served, and what it had may be others'.

use proto_core::daemon::EffectKind;
use proto_core::runtime::RuntimeRequest;
use proto_core::store::Key;
use proto_core::store::facts::{Commit, Head};

use super::{Invariant, Seen};
use crate::story::machine_name;
use crate::world::World;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct StartsWhatIsServed {
    seen: u64,
}

impl Invariant for StartsWhatIsServed {
    fn name(&self) -> &'static str {
        "S15 what starts is the operation's own or of the head"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        let Seen::Issued { machine, effect } = seen else { return Ok(()) };
        let EffectKind::Runtime(request) = &effect.kind else { return Ok(()) };
        let instances = world.runtimes[*machine].instances();
        let (spec, is_there) = match request {
            RuntimeRequest::Create { spec } => (&**spec, false),
            RuntimeRequest::Start { instance } => match instances.get(instance) {
                Some(there) => (&there.spec, true),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        self.seen += 1;
        if effect.operation.as_ref() == Some(&spec.operation) {
            return Ok(());
        }
        let head: Option<Head> = world.kv.get(&Key::head(&spec.namespace));
        let head = head.filter(|head| !head.removed);
        let commit: Option<Commit> =
            head.and_then(|head| world.kv.get(&Key::commit(&spec.namespace, head.commit)));
        let mut slots =
            commit.iter().flat_map(|commit| &commit.services).flat_map(|(_, there)| &there.slots);
        if is_there && slots.any(|(_, slot)| slot.instance == spec.name) {
            return Ok(());
        }
        Err(format!(
            "{} starts {} for {:?}, and the head of {} does not have it",
            machine_name(*machine),
            spec.name,
            effect.operation,
            spec.namespace
        ))
    }
}
