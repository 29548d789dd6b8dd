//! Clients: requests through the gateways, all the time.
//!
//! A request is *owed* an answer if its gateway hears the store and its route has an instance that no fault struck. In
//! namespaces with an even number nothing is ever stopped before its successor serves, so there an owed request that fails was
//! dropped by an operation. Nowhere may a request reach an instance of another service.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proto_core::id::Namespace;
use proto_core::store::facts::Commit;
use proto_core::time::Time;

use super::Play;
use crate::story::{Story, host, machine_name};
use crate::trace::Kind;
use crate::world::gateway::{Gateway, Link};

pub(super) const DROPPED: &str = "S7 no request is dropped by an operation";

pub(super) const MISROUTED: &str = "S7 no request reaches another service";

pub(super) const ROUTED: &str = "S7 a host name goes where the commit that is served says";
/// How long after a fault of its own an instance may fail.
const RECOVERY: Duration = Duration::from_secs(60);
/// How long a gateway may take to load everything once it hears the store.
const LOADING: Duration = Duration::from_secs(20);

/// What clients remember.
#[derive(Debug)]
pub(super) struct Clients {
    /// Namespace, service and host name of whatever may ever be there.
    hosts: Vec<(u32, u32, String)>,
    /// Instances of this machine may fail until then.
    excused: Vec<Time>,
}

impl Clients {
    pub(super) fn new(story: &Story) -> Self {
        let mut hosts = Vec::new();
        for asked in &story.operations {
            let ns = asked.action.ns();
            for s in 0..2 {
                hosts.push((ns, s, host(ns, s)));
            }
        }
        hosts.sort();
        hosts.dedup();
        Self { hosts, excused: vec![Time::ZERO; story.nodes] }
    }

    /// Something struck the instances of a machine.
    pub(super) fn excuse(&mut self, machine: usize, until: Time) {
        self.excused[machine] = self.excused[machine].max(until + RECOVERY);
    }
}

impl Play<'_> {
    /// A request of somebody to somewhere.
    pub(super) fn request(&mut self) {
        if self.clients.hosts.is_empty() {
            return;
        }
        let gateway = self.below(self.story.nodes);
        let pick = self.below(self.clients.hosts.len());
        let (ns, s, host) = self.clients.hosts[pick].clone();
        let world = &self.cluster.world;
        if !world.gateways[gateway].up {
            return;
        }
        match routed(&world.gateways[gateway], ns, s) {
            Ok(looked) => self.report.requests.looked_up += looked,
            Err(what) => {
                let what = format!("the gateway of {}: {what}", machine_name(gateway));
                return self.violate(ROUTED, what);
            }
        }
        let Some(backends) = world.gateways[gateway].route(&host, "/") else {
            self.report.requests.unrouted += 1;
            return;
        };
        let now = world.now;
        let mut served = false;
        let mut owed = None;
        let mut strangers = None;
        for (instance, address) in &backends {
            let Some(machine) = machine_of(address, self.story.nodes) else { continue };
            let connects = world.network.connects(gateway, machine);
            let reached =
                connects && world.gateways[machine].up && self.clients.excused[machine] <= now;
            let there = world.runtimes[machine].listens_at(address.ip());
            let serves = there.is_some_and(|there| there.serves(now));
            if let Some(there) = there
                && serves
                && (there.spec.namespace.as_str() != format!("ns{ns}")
                    || there.spec.service.as_str() != format!("s{s}"))
            {
                strangers = Some(there.spec.name.clone());
            }
            served |= serves && connects;
            if reached && !serves {
                owed = Some(instance.clone());
            }
        }
        let steady = match world.gateways[gateway].link {
            Link::Following(since) => {
                // One that is behind and whose daemon cannot be asked is not waited for.
                let missed = world.gateways[gateway].missed;
                now.since(since) > LOADING && missed.is_none_or(|at| now.since(at) > LOADING)
            }
            Link::Silent(_) => false,
        };
        // What operations do to namespaces with an odd number may stop them for a while.
        let is_owed = steady && ns % 2 == 0;
        self.report.requests.sent += 1;
        self.report.requests.owed += u64::from(is_owed && (served || owed.is_some()));
        if let Some(stranger) = strangers {
            let what =
                format!("the gateway of {} sends {host} to {stranger}", machine_name(gateway));
            return self.violate(MISROUTED, what);
        }
        if served {
            self.report.requests.served += 1;
            return;
        }
        self.report.requests.failed += 1;
        self.cluster.note(Some(gateway), Kind::Failed, None, || format!("nobody serves {host}"));
        if let Some(instance) = owed
            && is_owed
        {
            let what = format!("{host} at {}: {instance} does not serve", machine_name(gateway));
            self.violate(DROPPED, what);
        }
    }
}

/// Whether each host name of a service goes to the instances that the served commit names, and nowhere else: how many were looked at.
/// Written down as plainly as it can be, as it is to be wrong in another way than the table that it is compared with.
fn routed(gateway: &Gateway, ns: u32, s: u32) -> Result<u64, String> {
    let name = |text: String| Namespace::new(&text).ok();
    let Some(namespace) = name(format!("ns{ns}")) else { return Ok(0) };
    let Some(served) = gateway.served().get(&namespace) else { return Ok(0) };
    let service = format!("s{s}");
    let service = served.commit.services.iter().find(|(name, _)| name.as_str() == service);
    let Some((_, service)) = service else { return Ok(0) };
    let mut looked = 0;
    for host in service.routes.iter().flat_map(|route| &route.hostnames) {
        // What is served of several namespaces may be of different times: for a while two of them may have the name.
        let has = |commit: &Commit| {
            let routes = commit.services.values().flat_map(|service| &service.routes);
            routes.into_iter().any(|route| route.hostnames.contains(host))
        };
        let others = gateway.served().iter().filter(|(other, _)| **other != namespace);
        if host.as_str().starts_with("shared") && others.into_iter().any(|(_, o)| has(&o.commit)) {
            continue;
        }
        looked += 1;
        let there = gateway.route(host.as_str(), "/").unwrap_or_default();
        let there: BTreeSet<_> = there.into_iter().map(|(instance, _)| instance).collect();
        let wanted: BTreeSet<_> =
            service.slots.values().map(|slot| slot.instance.clone()).collect();
        if there != wanted {
            return Err(format!("{host} goes to {there:?}, and it is served by {wanted:?}"));
        }
    }
    Ok(looked)
}

/// The machine of an address, which has a byte of it.
fn machine_of(address: &SocketAddr, nodes: usize) -> Option<usize> {
    let IpAddr::V4(address) = address.ip() else { return None };
    let [_, _, n, _] = address.octets();
    usize::from(n).checked_sub(1).filter(|machine| *machine < nodes)
}
