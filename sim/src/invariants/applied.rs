//! S7: at the position that it has applied a gateway routes to the instances of that head, and to no others.

use std::borrow::Cow;
use std::collections::BTreeMap;

use proto_core::id::Namespace;
use proto_core::store::facts::{Commit, Head};
use proto_core::store::{Key, Revision};

use super::{Invariant, Seen};
use crate::story::machine_name;
use crate::world::World;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct AppliedIsRouted {
    /// Every head that ever was, by where it was written.
    heads: BTreeMap<(Namespace, Revision), (u64, bool)>,
    /// The commit of the last of them, for most looks are at that.
    last: BTreeMap<Namespace, Commit>,
    seen: u64,
}

impl Invariant for AppliedIsRouted {
    fn name(&self) -> &'static str {
        "S7 a gateway routes to the instances of the head that it has applied"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        match seen {
            Seen::Stored { writes, .. } => {
                for namespace in super::serving::heads_written(writes) {
                    let key = Key::head(&namespace);
                    let head: Option<Head> = world.kv.get(&key);
                    if let Some(head) = head {
                        let at = (namespace.clone(), world.kv.revision(&key));
                        self.heads.insert(at, (head.commit, head.removed));
                        let commit = world.kv.get(&Key::commit(&namespace, head.commit));
                        self.last.extend(commit.map(|commit| (namespace, commit)));
                    }
                }
            }
            Seen::Published { machine } => self.look_at(*machine, world)?,
            _ => {}
        }
        Ok(())
    }
}

impl AppliedIsRouted {
    fn look_at(&mut self, machine: usize, world: &World) -> Result<(), String> {
        let gateway = &world.gateways[machine];
        for (namespace, served) in gateway.served() {
            self.seen += 1;
            let number = match self.heads.get(&(namespace.clone(), served.head)) {
                Some((number, false)) => *number,
                other => {
                    return Err(format!(
                        "the gateway of {} serves {namespace} of head {}, which is {other:?}",
                        machine_name(machine),
                        served.head
                    ));
                }
            };
            if served.commit.number != number {
                return Err(format!(
                    "the gateway of {} serves commit {} of {namespace} where its head says {number}",
                    machine_name(machine),
                    served.commit.number
                ));
            }
            let last = self.last.get(namespace).filter(|commit| commit.number == number);
            let older = || world.kv.get(&Key::commit(namespace, number)).map(Cow::Owned);
            let stored: Option<Cow<'_, Commit>> = last.map(Cow::Borrowed).or_else(older);
            if stored.is_some_and(|stored| *stored != *served.commit) {
                return Err(format!("the gateway of {} made up a commit", machine_name(machine)));
            }
        }
        Ok(())
    }
}
