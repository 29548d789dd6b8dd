//! The store's servers, and the followers that feed the gateways: what is written reaches every gateway that hears the leader, in
//! order; one that does not is told after some seconds, and loads everything anew when it does again.

use std::rc::Rc;
use std::time::Duration;

use proto_core::coordination::OperationRecord;
use proto_core::daemon::{Completion, RoutesRequest};
use proto_core::id::{Namespace, OperationId};
use proto_core::mutant::{self, Mutant};
use proto_core::routing::Heard;
use proto_core::store::facts::{Commit, Head};
use proto_core::store::{Entry, Key, Revision, Write};
use proto_core::time::Time;

use super::queue::Event;
use super::{Cluster, HeadMoved};
use crate::invariants::{Seen, heads_written};
use crate::trace::Kind;
use crate::world::bus::Origin;
use crate::world::feed;
use crate::world::gateway::Link;

/// How long a follower waits for a heartbeat before it says that the store is away.
const SILENCE: Duration = Duration::from_millis(2500);
/// Between two heartbeats of the store.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Until a follower that hears the store again has asked for a load.
const RECONNECT: Duration = Duration::from_millis(300);

/// Somebody waits until a gateway serves a position.
#[derive(Debug, Clone)]
pub(super) struct WaitsForRoutes {
    machine: usize,
    at_least: Revision,
    until: Time,
    origin: Option<Origin>,
}

impl Cluster<'_> {
    /// Links have changed: servers may lead or not, followers may hear or not.
    pub fn links_changed(&mut self) {
        self.look_at_servers();
    }

    /// The leader of the store gives up its office.
    pub fn depose(&mut self) {
        let now = self.world.now;
        self.world.servers.depose(&mut self.world.kv, now);
        self.look_at_servers();
    }

    /// The store's lone server, which was killed, will have this again.
    pub fn bring_back(&mut self, entry: Entry) {
        self.note(None, Kind::Fault, None, || {
            format!("{} is BACK as it was at {}", entry.key, entry.revision)
        });
        self.invariants.see(&Seen::CameBack { entry: &entry }, &self.world);
        self.trace.mix(entry.revision.0);
        self.world.kv.bring_back(entry);
    }

    pub(super) fn look_at_servers(&mut self) {
        let world = &mut self.world;
        let landed = world.servers.look(&mut world.kv, &world.network, world.now);
        let mut last = world.kv.last();
        // The last of them has the last revision, and so on backwards.
        let mut stored = Vec::new();
        for writes in landed.into_iter().rev() {
            let begins = Revision(last.0 - writes.len() as u64);
            stored.push((writes, last));
            last = begins;
        }
        for (writes, last) in stored.into_iter().rev() {
            self.note(None, Kind::Stored, None, || "what was undecided lands".to_owned());
            self.stored(&writes, last, None);
        }
        if let Some(at) = self.world.servers.wake_at()
            && self.servers_wake.is_none_or(|wake| at < wake || wake <= self.world.now)
        {
            self.servers_wake = Some(at);
            self.schedule(at.since(self.world.now), Event::Servers);
        }
        self.look_at_followers();
    }

    fn look_at_followers(&mut self) {
        let now = self.world.now;
        for machine in 0..self.machines.len() {
            let hears = self.world.servers.is_followed(&self.world.network, machine);
            let gateway = &mut self.world.gateways[machine];
            match gateway.link {
                Link::Following(_) if !hears => {
                    gateway.link = Link::Silent(now);
                    gateway.load += 1;
                    let load = gateway.load;
                    self.schedule(SILENCE, Event::Follower { machine, load });
                }
                Link::Silent(_) if hears => self.follow_anew(machine),
                _ => {}
            }
        }
    }

    /// The follower of a gateway asks for everything.
    pub(super) fn follow_anew(&mut self, machine: usize) {
        let hears = self.world.servers.is_followed(&self.world.network, machine);
        let now = self.world.now;
        let gateway = &mut self.world.gateways[machine];
        gateway.load += 1;
        gateway.link = if hears { Link::Following(now) } else { Link::Silent(now) };
        let load = gateway.load;
        let after = if hears { RECONNECT } else { SILENCE };
        self.schedule(after, Event::Follower { machine, load });
    }

    /// A follower has heard nothing for a while, or has asked for a load.
    pub(super) fn follower(&mut self, machine: usize, load: u32) {
        let gateway = &self.world.gateways[machine];
        if gateway.load != load || !gateway.up {
            return;
        }
        match gateway.link {
            Link::Silent(_) => {
                self.hear(machine, load, &[feed::silence()]);
            }
            Link::Following(_) => {
                self.world.gateways[machine].misses = false;
                let mut said = feed::heard_again();
                said.extend(self.feed.load(&mut self.world.kv, self.world.now));
                self.tell(machine, said);
            }
        }
    }

    /// Fills a gateway at the beginning.
    pub(super) fn load_gateway(&mut self, machine: usize) {
        let load = self.world.gateways[machine].load;
        let said = self.feed.load(&mut self.world.kv, self.world.now);
        self.hear(machine, load, &said);
    }

    /// The store took a batch whose last write has this revision.
    pub(super) fn stored(
        &mut self,
        writes: &[Write],
        last: Revision,
        operation: Option<&OperationId>,
    ) {
        let named = writes
            .iter()
            .find_map(|write| write.key.as_str().strip_prefix("op.")?.parse::<OperationId>().ok());
        let operation = operation.or(named.as_ref());
        self.invariants.stored(writes, operation, &self.world);
        for namespace in heads_written(writes) {
            let moved = self.moved(namespace);
            self.heads_moved.extend(moved);
        }
        for write in writes {
            self.trace.mix_text(write.key.as_str());
            self.trace.mix_value(&write.value);
        }
        self.trace.mix(last.0);
        let said = feed::of_writes(writes, last);
        if said.is_empty() {
            return;
        }
        let said = Rc::new(said);
        for machine in 0..self.machines.len() {
            if matches!(self.world.gateways[machine].link, Link::Following(_)) {
                self.tell_all(machine, &said);
            }
        }
    }

    /// The commit that the head of this namespace names now.
    fn moved(&self, namespace: Namespace) -> Option<HeadMoved> {
        let kv = &self.world.kv;
        let number = kv.get::<Head>(&Key::head(&namespace))?.commit;
        let commit: Commit = kv.get(&Key::commit(&namespace, number))?;
        let record: OperationRecord = kv.get(&Key::operation(&commit.operation))?;
        let request = record.request?;
        Some(HeadMoved { namespace, number, request })
    }

    fn tell(&mut self, machine: usize, said: Vec<Heard>) {
        self.tell_all(machine, &Rc::new(said));
    }

    /// Sends to a gateway, behind what was sent before.
    fn tell_all(&mut self, machine: usize, said: &Rc<Vec<Heard>>) {
        let now = self.world.now;
        let from = self.world.servers.answers(&self.world.network, machine).unwrap_or(machine);
        let arrivals = self.world.network.carry(from, machine);
        let gateway = &mut self.world.gateways[machine];
        let load = gateway.load;
        if gateway.misses {
            // The sequence of its consumer has a gap: nothing more is heard before a load.
            let after = arrivals.first().unwrap_or(HEARTBEAT);
            return self.schedule(after, Event::Follower { machine, load });
        }
        let missed = gateway.gaps > 0;
        gateway.gaps = gateway.gaps.saturating_sub(1);
        let Some(after) = arrivals.first().filter(|_| !missed) else {
            // The next heartbeat shows that something is missing.
            gateway.load += 1;
            gateway.misses = true;
            gateway.missed = Some(now);
            let load = gateway.load;
            if missed {
                self.hits.push(("follower_gap", machine));
            }
            self.note(Some(machine), Kind::Fault, None, || "the gateway MISSES a write".to_owned());
            return self.schedule(HEARTBEAT, Event::Follower { machine, load });
        };
        if !gateway.lag.is_zero() {
            self.hits.push(("slow_follower", machine));
        }
        let arrives = (now + after + gateway.lag).max(gateway.last_arrival);
        gateway.last_arrival = arrives;
        let (after, said) = (arrives.since(now), said.clone());
        if arrivals.second().is_some() {
            let said = said.clone();
            self.schedule(after, Event::Hear { machine, load, said });
        }
        self.schedule(after, Event::Hear { machine, load, said });
    }

    pub(super) fn hear(&mut self, machine: usize, load: u32, said: &[Heard]) {
        let gateway = &self.world.gateways[machine];
        if gateway.load != load || !gateway.up {
            return;
        }
        let wall = self.world.wall(machine);
        let mut changed = false;
        for heard in said {
            changed |= self.world.gateways[machine].hear(wall, heard);
        }
        if changed {
            self.note(Some(machine), Kind::Changed, None, || "the gateway serves anew".to_owned());
            self.invariants.see(&Seen::Published { machine }, &self.world);
        }
        self.tell_routes(machine);
    }

    /// A daemon waits for its gateway.
    pub(super) fn routes(
        &mut self,
        machine: usize,
        request: RoutesRequest,
        until: Time,
        origin: Option<Origin>,
    ) {
        match request {
            RoutesRequest::Applied { .. } if mutant::on(Mutant::RoutesSaidTooSoon) => {
                self.answer(origin, super::flight::HOP, Completion::Routes(Ok(None)));
            }
            RoutesRequest::Applied { at_least, .. } => {
                let waits = WaitsForRoutes { machine, at_least, until, origin };
                self.waiting_for_routes.push(waits);
                self.schedule(until.since(self.world.now), Event::RoutesDue { machine });
                self.tell_routes(machine);
            }
            RoutesRequest::Drained { within, .. } => {
                let after = super::flight::DRAINED.min(within.duration());
                self.answer(origin, after, Completion::Routes(Ok(None)));
            }
        }
    }

    /// Whether somebody waits for this gateway.
    pub(super) fn waits_for_routes(&self, machine: usize) -> bool {
        self.waiting_for_routes.iter().any(|waits| waits.machine == machine)
    }

    /// Answers whoever waited for this gateway, if it is where they want it, or their time is over.
    pub(super) fn tell_routes(&mut self, machine: usize) {
        if !self.waits_for_routes(machine) {
            return;
        }
        let gateway = &self.world.gateways[machine];
        let applied = if gateway.up { gateway.applied(None) } else { Revision::ABSENT };
        let now = self.world.now;
        let mut answers = Vec::new();
        self.waiting_for_routes.retain(|waits| {
            let there = waits.machine == machine && applied >= waits.at_least;
            let late = waits.machine == machine && waits.until <= now;
            if there || late {
                let note = (!there).then(|| "the gateway is behind".to_owned());
                answers.push((waits.origin, note));
            }
            !there && !late
        });
        for (origin, note) in answers {
            self.answer(origin, super::flight::HOP, Completion::Routes(Ok(note)));
        }
    }
}
