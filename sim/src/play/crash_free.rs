//! L4: what a story comes to is what it comes to without its faults. The requests that committed are asked for once more, in the order of
//! their commits, one after the other, on as many machines to which nothing happens; the heads must say the same then.
//!
//! Which requests commit, and in which order, is what faults and timeouts may decide; so that is taken over from the story. So is where
//! slots are placed: a machine may have been silent. What is pinned to a machine finds room there or not by where others went, so here
//! every machine has room for all; where a published port is taken because of that, nothing is compared. What may not differ is which services there are, of which revision, whether they are
//! stopped, which slots they have (but for those that have one on each machine), and from which workload each slot was made.

use std::collections::BTreeMap;
use std::time::Duration;

use proto_core::api::{OperationRequest, OperationResult, Submission};
use proto_core::deploy::spec::Replicas;
use proto_core::id::Namespace;
use proto_core::random::Random;
use proto_core::store::Key;
use proto_core::store::facts::ServiceRevision;

use crate::cluster::{Cluster, HeadMoved};
use crate::fate::{Fates, Told};
use crate::invariants::Invariants;
use crate::invariants::rest::{self, Content, ServiceContent};
use crate::scenario::founded;
use crate::world::World;

pub(super) const SAME: &str = "L4 the same commits without faults come to the same";

/// How long an operation may take where nothing goes wrong: a slow service with an instance on each of 24 machines, one after the other.
const WITHIN: Duration = Duration::from_secs(3600);
/// More memory than a story reserves, in bytes.
const ENOUGH: u64 = 1 << 50;

/// Two who want the same port of the machines find room or not by where each went.
const HANG_ON_PLACES: [&str; 3] = ["NO_PLACE", "PORT_CONFLICT", "PORT_IN_USE"];

/// Does the same commits where nothing goes wrong; how many were compared, or how that differs.
pub(super) fn compare(nodes: usize, moved: &[HeadMoved], content: &Content) -> Result<u64, String> {
    let told = Told { strikes: Vec::new(), struck: Vec::new(), random: Random::new(0) };
    let mut cluster = Cluster::new(founded(nodes), Fates::Told(told), Invariants::none());
    cluster.world.runtimes.iter_mut().for_each(|runtime| runtime.memory_bytes = ENOUGH);
    let mut numbers = BTreeMap::new();
    for HeadMoved { namespace, number, request } in moved {
        let request = explicit(request, *number, &numbers);
        let summary = request.summary();
        let submission = Submission::Apply { request };
        let handle = cluster.submit(0, submission).expect("its daemon runs");
        cluster.run(WITHIN, u64::MAX, |cluster| cluster.results.contains_key(&handle));
        match cluster.results.remove(&handle) {
            // What was made anew because an instance was gone has nothing to do here.
            Some(
                OperationResult::Committed { commit, .. } | OperationResult::AlreadyDone { commit },
            ) => {
                numbers.insert((namespace.clone(), *number), commit);
            }
            Some(OperationResult::Refused { error })
                if publishes(moved) && HANG_ON_PLACES.contains(&error.code.as_str()) =>
            {
                return Ok(0);
            }
            other => {
                return Err(format!(
                    "{summary} of {namespace} committed, and without faults: {other:?}"
                ));
            }
        }
    }
    if let Some((invariant, what)) = rest::check(&cluster.world).into_iter().next() {
        return Err(format!("without faults {invariant}: {what}"));
    }
    let differs = differs(&cluster.world, content, &rest::content(&cluster.world));
    differs.map_or(Ok(moved.len() as u64), Err)
}

/// Whether a port of machines was asked for.
fn publishes(moved: &[HeadMoved]) -> bool {
    moved.iter().any(|HeadMoved { request, .. }| match request {
        OperationRequest::Deploy { manifest } => {
            manifest.services.values().any(|spec| !spec.workload.publish.is_empty())
        }
        OperationRequest::DeployService { spec, .. } => !spec.workload.publish.is_empty(),
        _ => false,
    })
}

/// A rollback names its commit by the number that it has where nothing goes wrong.
fn explicit(
    request: &OperationRequest,
    number: u64,
    numbers: &BTreeMap<(Namespace, u64), u64>,
) -> OperationRequest {
    let OperationRequest::Rollback { namespace, to } = request else { return request.clone() };
    let to = to.unwrap_or(number.saturating_sub(2));
    let to = numbers.get(&(namespace.clone(), to)).copied().or(Some(to));
    OperationRequest::Rollback { namespace: namespace.clone(), to }
}

fn differs(world: &World, story: &Content, free: &Content) -> Option<String> {
    if !story.keys().eq(free.keys()) {
        return Some(format!("namespaces {:?}, without faults {:?}", story.keys(), free.keys()));
    }
    for (namespace, services) in story {
        let there = &free[namespace];
        if !services.keys().eq(there.keys()) {
            let (a, b) = (services.keys(), there.keys());
            return Some(format!("services of {namespace}: {a:?}, without faults {b:?}"));
        }
        for (name, service) in services {
            if !is_same(world, namespace, service, &there[name]) {
                let free = &there[name];
                return Some(format!("{namespace}/{name}: {service:?}, without faults {free:?}"));
            }
        }
    }
    None
}

fn is_same(world: &World, namespace: &Namespace, a: &ServiceContent, b: &ServiceContent) -> bool {
    let revision: Option<ServiceRevision> = world.kv.get(&Key::revision(namespace, &b.revision));
    let global = revision.is_some_and(|it| it.spec.placement.replicas == Replicas::Global);
    let workloads = |service: &ServiceContent| -> Vec<_> {
        service.slots.iter().map(|(slot, (_, workload))| (*slot, *workload)).collect()
    };
    let alike = |service: &ServiceContent| -> std::collections::BTreeSet<_> {
        service.slots.values().map(|(_, workload)| *workload).collect()
    };
    let slots = if global { alike(a) == alike(b) } else { workloads(a) == workloads(b) };
    a.revision == b.revision && a.stopped == b.stopped && slots
}
