//! S14: once everything is mended, something new is asked for. Every machine answers and nothing is reserved, so where its instances go is
//! known.

use std::collections::BTreeSet;
use std::time::Duration;

use proto_core::api::{OperationResult, Submission};
use proto_core::deploy::spec::Strategy;
use proto_core::id::{MachineId, ServiceName};

use super::Play;
use crate::invariants::rest;
use crate::story::{Action, Service, namespace};

pub(super) const PLACED: &str = "S14 a new service is spread, and a global one is everywhere";

/// A namespace that no story has: the number in its name.
pub(super) const NEW: u32 = 1000;
/// On more machines than these one on each takes longer than the rest of a story.
const FEW_MACHINES: u32 = 8;
/// As many instances the service has that is to be spread, if there are as many machines.
const SPREAD: u32 = 3;
const WITHIN: Duration = Duration::from_secs(600);

impl Play<'_> {
    /// Deploys a service with a few instances and, on few machines, one with an instance on each.
    pub(super) fn new_is_placed(&mut self) {
        if !self.is_fine() || !self.has_addresses() {
            return;
        }
        let machines = u32::try_from(self.story.nodes).expect("few machines");
        let few = SPREAD.min(machines);
        let service =
            |s, replicas| Service::new(s, "ready-300-v1".to_owned(), replicas, Strategy::Rolling);
        let global = (machines <= FEW_MACHINES).then(|| service(1, 0));
        let services = [service(0, few)].into_iter().chain(global).collect();
        let request = Action::Deploy { ns: NEW, services }.request();
        let namespace = namespace(NEW);
        let machine = self.below(self.story.nodes);
        let Some(handle) = self.cluster.submit(machine, Submission::Apply { request }) else {
            return;
        };
        let end = self.cluster.world.now + WITHIN;
        self.run_until(end, |play| play.cluster.results.contains_key(&handle));
        let result = self.cluster.results.get(&handle);
        if !matches!(result, Some(OperationResult::Committed { .. })) {
            let what = format!("something new was asked for: {result:?}");
            return self.violate(PLACED, what);
        }
        let heads = rest::heads(&self.cluster.world);
        let commit = &heads[&namespace];
        let mut wrong = Vec::new();
        for (s, wanted) in [(0, few), (1, machines)] {
            let name = ServiceName::new(format!("s{s}")).expect("a letter, a digit");
            let Some(service) = commit.services.get(&name) else { continue };
            let slots = service.slots.values();
            let on: BTreeSet<&MachineId> = slots.map(|slot| &slot.machine).collect();
            *self.report.premises.entry(PLACED).or_default() += u64::from(wanted);
            if on.len() as u32 != wanted {
                wrong.push(format!("{name} is on {on:?}, and {wanted} machines are wanted"));
            }
        }
        for what in wrong {
            self.violate(PLACED, what);
        }
    }
}
