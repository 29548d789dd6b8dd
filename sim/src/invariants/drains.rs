//! S7: what gateways send requests to is drained before it goes. In stories requests take no time, so nothing there is cut off; that the
//! step is in the plan is looked at instead.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use proto_core::coordination::plan::{Action, Plan, Step};
use proto_core::id::{InstanceName, StepId};
use proto_core::store::Key;
use proto_core::store::facts::{Commit, CommittedInstance, Head};

use super::{Invariant, Seen};
use crate::world::World;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct DrainedFirst {
    seen: u64,
}

impl Invariant for DrainedFirst {
    fn name(&self) -> &'static str {
        "S7 what gateways send requests to is drained before it goes"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        let Seen::Stored { records, .. } = seen else { return Ok(()) };
        for plan in records.iter().filter_map(|record| record.plan.as_ref()) {
            let commit = &plan.commit.commit;
            let namespace = &commit.namespace;
            let head: Option<Head> = world.kv.get(&Key::head(namespace));
            let Some(head) = head.filter(|head| head.commit < commit.number) else { continue };
            let now: Option<Commit> = world.kv.get(&Key::commit(namespace, head.commit));
            let slots = now.iter().flat_map(|commit| commit.services.values());
            for instance in slots.flat_map(|service| service.slots.values()) {
                self.look_at(plan, instance)?;
            }
        }
        Ok(())
    }
}

impl DrainedFirst {
    fn look_at(&mut self, plan: &Plan, instance: &CommittedInstance) -> Result<(), String> {
        let name = &instance.instance;
        let goes = |step: &&Step| matches!(&step.action, Action::Remove { instance, .. } if instance == name);
        let Some(goes) = plan.cleanup.iter().find(goes) else { return Ok(()) };
        // Who is stopped before the commit is down on purpose.
        let stops =
            |step: &Step| matches!(&step.action, Action::Stop { instance, .. } if instance == name);
        if instance.ports.is_empty() || plan.steps.iter().any(stops) {
            return Ok(());
        }
        self.seen += 1;
        let address = |port: &u16| SocketAddr::new(instance.address, *port);
        let wanted: BTreeSet<_> = instance.ports.values().map(address).collect();
        let drains = |step: &&Step| {
            step.machine == instance.machine
                && matches!(&step.action, Action::Drain { backends, .. }
                    if wanted.iter().all(|address| backends.contains(address)))
        };
        let before = before(plan, goes);
        let is_drained = plan.cleanup.iter().filter(drains).any(|step| before.contains(&step.id));
        if is_drained { Ok(()) } else { Err(not_drained(plan, name)) }
    }
}

fn not_drained(plan: &Plan, name: &InstanceName) -> String {
    format!(
        "{} plans to remove {name}, which gets requests, and not to drain it first",
        plan.operation
    )
}

/// What must be done before a step of the clean-up is.
fn before<'a>(plan: &'a Plan, step: &'a Step) -> BTreeSet<&'a StepId> {
    let mut before = BTreeSet::new();
    let mut open: Vec<_> = step.after.iter().collect();
    while let Some(id) = open.pop() {
        if before.insert(id) {
            let earlier = plan.cleanup.iter().filter(|step| step.id == *id);
            open.extend(earlier.flat_map(|step| &step.after));
        }
    }
    before
}
