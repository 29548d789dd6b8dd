//! S13: of a service that is recreated, what was before stops before what is new starts, and the other way round where that is undone: it may
//! be what cannot run twice at once.

use std::collections::BTreeMap;

use proto_core::coordination::OperationRecord;
use proto_core::deploy::spec::{ServiceSpec, Strategy};
use proto_core::id::{Namespace, OperationId, ServiceName};
use proto_core::runtime::RuntimeRequest;
use proto_core::store::Key;
use proto_core::store::facts::ServiceRevision;

use super::{Invariant, Seen};
use crate::story::machine_name;
use crate::world::World;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct RecreatedOneByOne {
    /// How each operation rolls out the services of its namespace.
    strategies: BTreeMap<OperationId, BTreeMap<ServiceName, Strategy>>,
    /// The operation of each namespace that was recorded last: whoever undoes has just been.
    last: BTreeMap<Namespace, OperationId>,
    seen: u64,
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
        let by = made_by.or_else(|| self.last.get(&started.namespace));
        let services = by.and_then(|operation| self.strategies.get(operation));
        if services.and_then(|of| of.get(&started.service)) != Some(&Strategy::Recreate) {
            return Ok(());
        }
        self.seen += 1;
        for (at, runtime) in world.runtimes.iter().enumerate() {
            let beside = runtime.instances().iter().find(|(name, other)| {
                *name != instance
                    && (&other.spec.namespace, &other.spec.service, other.spec.slot)
                        == (&started.namespace, &started.service, started.slot)
                    && other.started.is_some()
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
    fn learn(&mut self, record: &OperationRecord, world: &World) {
        let Some(planned) = record.plan.as_ref().map(|plan| &plan.commit) else { return };
        let namespace = &planned.commit.namespace;
        let strategy = |spec: &ServiceSpec| spec.rollout.strategy;
        let of = planned.commit.services.iter().filter_map(|(name, service)| {
            let planned = planned.revisions.get(&service.revision).map(strategy);
            let there = || -> Option<ServiceRevision> {
                world.kv.get(&Key::revision(namespace, &service.revision))
            };
            let strategy = planned.or_else(|| Some(strategy(&there()?.spec)))?;
            Some((name.clone(), strategy))
        });
        self.strategies.insert(record.id.clone(), of.collect());
        self.last.insert(namespace.clone(), record.id.clone());
    }
}
