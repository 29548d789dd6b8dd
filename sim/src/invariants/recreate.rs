//! S13: of a service that is recreated, what was before stops before what is new starts, and the other way round where that is undone: it may
//! be what cannot run twice at once.

use std::collections::{BTreeMap, BTreeSet};

use proto_core::coordination::OperationRecord;
use proto_core::coordination::plan::Action;
use proto_core::deploy::spec::Strategy;
use proto_core::id::{InstanceName, Namespace, OperationId, ServiceName};
use proto_core::runtime::RuntimeRequest;
use proto_core::store::Key;
use proto_core::store::facts::ServiceRevision;

use super::{Invariant, Seen};
use crate::story::machine_name;
use crate::world::World;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct RecreatedOneByOne {
    plans: BTreeMap<OperationId, Learned>,
    /// The operation of each namespace that was recorded last: whoever undoes has just been.
    last: BTreeMap<Namespace, OperationId>,
    seen: u64,
}

/// What is known of a plan.
#[derive(Debug, Clone, Default)]
struct Learned {
    /// The services that it recreates.
    recreates: BTreeSet<ServiceName>,
    stops: BTreeSet<InstanceName>,
    makes: BTreeSet<InstanceName>,
}

impl Invariant for RecreatedOneByOne {
    fn name(&self) -> &'static str {
        "S13 what is recreated stops before it starts"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        let (machine, request) = match seen {
            Seen::Stored { records, .. } => {
                records.iter().for_each(|record| self.learn(record, world));
                return Ok(());
            }
            Seen::Landed { machine, request, .. } => (*machine, *request),
            _ => return Ok(()),
        };
        let (instance, made_by) = match request {
            RuntimeRequest::Create { spec } => (&spec.name, Some(&spec.operation)),
            RuntimeRequest::Start { instance } => (instance, None),
            _ => return Ok(()),
        };
        let Some(started) = world.runtimes[machine].instances().get(instance) else {
            return Ok(());
        };
        let started = &started.spec;
        let last = self.last.get(&started.namespace);
        // No undo starts what its operation made.
        let made_by = made_by.or(last.filter(|last| **last == started.operation));
        let by = made_by.or(last);
        let of_slot = by.is_some_and(|operation| self.recreates(operation, &started.service));
        // Wherever in the service these are.
        let not_beside = match made_by {
            Some(operation) if of_slot => self.plans[operation].stops.clone(),
            Some(_) => BTreeSet::new(),
            None => self.successors(instance, &started.service),
        };
        if !of_slot && not_beside.is_empty() {
            return Ok(());
        }
        self.seen += 1;
        for (at, runtime) in world.runtimes.iter().enumerate() {
            let beside = runtime.instances().iter().find(|(name, other)| {
                let is_of_service = (&other.spec.namespace, &other.spec.service)
                    == (&started.namespace, &started.service);
                let is_of_slot = of_slot && other.spec.slot == started.slot;
                *name != instance
                    && other.started.is_some()
                    && is_of_service
                    && (is_of_slot || not_beside.contains(*name))
            });
            if let Some((other, _)) = beside {
                let (here, there) = (machine_name(machine), machine_name(at));
                return Err(format!("{instance} starts on {here} while {other} runs on {there}"));
            }
        }
        Ok(())
    }
}

impl RecreatedOneByOne {
    fn recreates(&self, operation: &OperationId, service: &ServiceName) -> bool {
        self.plans.get(operation).is_some_and(|plan| plan.recreates.contains(service))
    }

    /// What is made once this instance of the service has stopped.
    fn successors(&self, instance: &InstanceName, service: &ServiceName) -> BTreeSet<InstanceName> {
        let replaces =
            |plan: &&Learned| plan.recreates.contains(service) && plan.stops.contains(instance);
        let plans = self.plans.values().filter(replaces);
        plans.flat_map(|plan| plan.makes.iter().cloned()).collect()
    }

    fn learn(&mut self, record: &OperationRecord, world: &World) {
        let Some(plan) = record.plan.as_ref() else { return };
        let planned = &plan.commit;
        let namespace = &planned.commit.namespace;
        let recreates = planned.commit.services.iter().filter(|(_, service)| {
            let there = || -> Option<ServiceRevision> {
                world.kv.get(&Key::revision(namespace, &service.revision))
            };
            let spec = planned.revisions.get(&service.revision).cloned();
            let spec = spec.or_else(|| there().map(|revision| revision.spec));
            spec.is_some_and(|spec| spec.rollout.strategy == Strategy::Recreate)
        });
        let stops = plan.steps.iter().filter_map(|step| match &step.action {
            Action::Stop { instance, .. } => Some(instance.clone()),
            _ => None,
        });
        let learned = Learned {
            recreates: recreates.map(|(name, _)| name.clone()).collect(),
            stops: stops.collect(),
            makes: plan.made().map(|(_, spec)| spec.name.clone()).collect(),
        };
        self.plans.insert(record.id.clone(), learned);
        self.last.insert(namespace.clone(), record.id.clone());
    }
}
