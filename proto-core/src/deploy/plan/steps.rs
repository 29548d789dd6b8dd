use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{Placed, Planner, Slots};
use crate::coordination::plan::{Action, Step};
use crate::deploy::spec::{Rollout, ServiceSpec, Strategy};
use crate::id::{InstanceName, MachineId, ServiceName, StepId};
use crate::machine::MachineLifecycle;
use crate::mutant::{self, Mutant};
use crate::runtime::InstanceSpec;
use crate::span::Span;

/// How long a runtime may take to make and start an instance.
const ENSURE_WITHIN: Span = Span::from_secs(60);
/// How long gateway and DNS may take to serve a commit before the deploy goes on without them.
const ROUTES_WITHIN: Span = Span::from_secs(10);
/// What stopping and removing may take beyond the grace period.
const STOP_MARGIN_MILLIS: u64 = 20_000;
/// What readiness may take beyond its own limits.
const READY_MARGIN_MILLIS: u64 = 10_000;

fn id(what: &str, name: &str) -> StepId {
    StepId::new(format!("{what}-{name}"))
        .expect("names of instances and machines leave room for a verb")
}

fn within(span: Span, margin_millis: u64) -> Span {
    Span::from_millis(span.as_millis().saturating_add(margin_millis))
}

impl Planner<'_> {
    /// What is done before the commit, and what after it.
    pub(super) fn steps(&mut self, slots: &Slots) -> (Vec<Step>, Vec<Step>) {
        let mut steps = Vec::new();
        let services: BTreeSet<_> = slots.new.iter().map(|(placed, _)| &placed.service).collect();
        for service in services {
            let spec = self.target.services[service].spec.clone();
            let new: Vec<_> = slots.new.iter().filter(|(p, _)| p.service == *service).collect();
            let old: Vec<_> = slots.old.iter().filter(|p| p.service == *service).collect();
            self.note(service, &spec, &new, &old);
            steps.extend(self.bring_up(&spec, &new, &old));
        }
        (steps, self.clean_up(slots))
    }

    fn note(
        &mut self,
        service: &ServiceName,
        spec: &ServiceSpec,
        new: &[&(Placed, InstanceSpec)],
        old: &[&Placed],
    ) {
        if spec.rollout.strategy == Strategy::Recreate && !old.is_empty() {
            self.notes.push(format!(
                "{service} is down while it changes: {} old stop before {} new start",
                old.len(),
                new.len()
            ));
        }
    }

    /// New instances of one service, in the order that its rollout wants.
    fn bring_up(
        &self,
        spec: &ServiceSpec,
        new: &[&(Placed, InstanceSpec)],
        old: &[&Placed],
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut before: Vec<StepId> = Vec::new();
        if spec.rollout.strategy == Strategy::Recreate || mutant::on(Mutant::StopsFirst) {
            for placed in old {
                let stop = self.stop_old(placed);
                if !mutant::on(Mutant::RecreateOverlaps) {
                    before.push(stop.id.clone());
                }
                steps.push(stop);
            }
        }
        let batch = match spec.rollout.strategy {
            Strategy::Rolling => spec.rollout.batch.max(1) as usize,
            Strategy::Recreate | Strategy::BlueGreen => new.len().max(1),
        };
        for batch in new.chunks(batch) {
            let mut ready = Vec::new();
            for (placed, instance) in batch {
                let name = instance.name.as_str();
                let machine = placed.instance.machine.clone();
                let grace = instance.workload.stop_grace_period;
                let ensure = Step {
                    id: id("start", name),
                    machine: machine.clone(),
                    action: Action::Ensure { spec: Box::new(instance.clone()) },
                    undo: Some(Action::Remove { instance: instance.name.clone(), grace }),
                    after: before.clone(),
                    deadline: within(ENSURE_WITHIN, grace.as_millis()),
                };
                let await_ready = await_ready(spec, instance, machine, ensure.id.clone());
                ready.push(await_ready.id.clone());
                steps.extend([ensure, await_ready]);
            }
            before = ready;
        }
        steps
    }

    fn grace(&self, placed: &Placed) -> Span {
        let seen = self.observed(&placed.instance.machine, &placed.instance.instance);
        seen.map_or(Span::from_secs(10), |seen| seen.spec.workload.stop_grace_period)
    }

    fn stop_old(&self, placed: &Placed) -> Step {
        let instance = placed.instance.instance.clone();
        let seen = self.observed(&placed.instance.machine, &instance);
        let ran = seen.is_some_and(|seen| seen.state.runs());
        let grace = self.grace(placed);
        Step {
            id: id("stop", instance.as_str()),
            machine: placed.instance.machine.clone(),
            undo: ran.then(|| Action::Start { instance: instance.clone() }),
            action: Action::Stop { instance, grace },
            after: Vec::new(),
            deadline: within(grace, STOP_MARGIN_MILLIS),
        }
    }

    /// Gateways first, also of machines whose daemon was silent: theirs may well run. Then what was replaced, as gently as the rollout says.
    fn clean_up(&self, slots: &Slots) -> Vec<Step> {
        let machines = self.facts.machines.values();
        let machines = machines.filter(|machine| machine.lifecycle != MachineLifecycle::Removed);
        let mut steps: Vec<_> = machines
            .map(|machine| Step {
                id: id("routes", machine.id.as_str()),
                machine: machine.id.clone(),
                action: Action::AwaitRoutes,
                undo: None,
                after: Vec::new(),
                deadline: ROUTES_WITHIN,
            })
            .collect();
        let routed: Vec<_> = steps.iter().map(|step| step.id.clone()).collect();
        let mut by_service: BTreeMap<&ServiceName, Vec<&Placed>> = BTreeMap::new();
        for placed in &slots.old {
            by_service.entry(&placed.service).or_default().push(placed);
        }
        for (service, old) in by_service {
            let rollout = self.target.services.get(service).map(|t| t.spec.rollout.clone());
            // Only where something new starts the old ones of a recreate have been stopped by now.
            let is_stopped = slots.new.iter().any(|(placed, _)| placed.service == *service)
                && rollout.as_ref().is_some_and(|r| r.strategy == Strategy::Recreate);
            steps.extend(self.retire(rollout.as_ref(), &old, is_stopped, &routed));
        }
        for (machine, stray) in &slots.strays {
            let grace = stray.spec.workload.stop_grace_period;
            steps.push(remove(machine, &stray.spec.name, grace, routed.clone()));
        }
        steps
    }

    fn retire(
        &self,
        rollout: Option<&Rollout>,
        old: &[&Placed],
        is_stopped: bool,
        routed: &[StepId],
    ) -> Vec<Step> {
        let strategy = rollout.map_or(Strategy::BlueGreen, |rollout| rollout.strategy);
        let within_drain = rollout.map_or(Span::from_secs(10), |rollout| rollout.drain);
        let batch = match (strategy, rollout) {
            (Strategy::Rolling, Some(rollout)) => rollout.batch.max(1) as usize,
            _ => old.len().max(1),
        };
        let mut steps = Vec::new();
        let early = mutant::on(Mutant::CleanUpBeforeRoutes);
        let mut before = if early { Vec::new() } else { routed.to_vec() };
        for batch in old.chunks(batch) {
            let mut gone = Vec::new();
            for placed in batch {
                let CommittedAt { machine, name, backends } = CommittedAt::of(placed);
                let mut after = before.clone();
                // What was stopped before the commit serves nothing that could be drained.
                let drains = !is_stopped && !mutant::on(Mutant::DrainSkipped);
                if drains && !backends.is_empty() {
                    let drain = Step {
                        id: id("drain", name.as_str()),
                        machine: machine.clone(),
                        action: Action::Drain { backends, within: within_drain },
                        undo: None,
                        after,
                        deadline: within(within_drain, READY_MARGIN_MILLIS),
                    };
                    after = vec![drain.id.clone()];
                    steps.push(drain);
                }
                let step = remove(machine, name, self.grace(placed), after);
                gone.push(step.id.clone());
                steps.push(step);
            }
            before = gone;
        }
        steps
    }
}

struct CommittedAt<'a> {
    machine: &'a MachineId,
    name: &'a InstanceName,
    backends: Vec<SocketAddr>,
}

impl<'a> CommittedAt<'a> {
    fn of(placed: &'a Placed) -> Self {
        let instance = &placed.instance;
        let backends =
            instance.ports.values().map(|port| SocketAddr::new(instance.address, *port)).collect();
        Self { machine: &instance.machine, name: &instance.instance, backends }
    }
}

fn await_ready(
    spec: &ServiceSpec,
    instance: &InstanceSpec,
    machine: MachineId,
    after: StepId,
) -> Step {
    let readiness = spec.readiness.clone();
    let port = readiness.as_ref().and_then(|r| r.probe.port());
    let port = port.and_then(|name| instance.ports.get(name)).copied().unwrap_or(0);
    let limit = readiness.as_ref().map_or(0, |r| {
        let a_try = r.interval.as_millis() + r.timeout.as_millis();
        let tries = u64::from(r.retries) + 1;
        r.start_period.as_millis().saturating_add(tries.saturating_mul(a_try))
    });
    Step {
        id: id("ready", instance.name.as_str()),
        machine,
        action: Action::AwaitReady {
            instance: instance.name.clone(),
            address: instance.address,
            port,
            readiness,
        },
        undo: None,
        after: vec![after],
        deadline: Span::from_millis(limit.saturating_add(READY_MARGIN_MILLIS)),
    }
}

fn remove(machine: &MachineId, instance: &InstanceName, grace: Span, after: Vec<StepId>) -> Step {
    Step {
        id: id("remove", instance.as_str()),
        machine: machine.clone(),
        action: Action::Remove { instance: instance.clone(), grace },
        undo: None,
        after,
        deadline: within(grace, STOP_MARGIN_MILLIS),
    }
}
