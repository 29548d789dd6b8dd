//! Routes and names as somebody would answer from the commits who has all day: no tables, every service looked at each time.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use proto_core::id::{Namespace, ServiceName};
use proto_core::routing::{Commits, DnsLookup, DnsName, DnsZone, RouteMiss, RouteTable, ZONE};
use proto_core::store::facts::CommittedService;

/// Who is asked and where it runs; empty: nobody. `None`: there is no such route.
type Route = Option<(Namespace, ServiceName, Vec<SocketAddr>)>;

fn services(
    commits: &Commits,
) -> impl Iterator<Item = (&Namespace, &ServiceName, &CommittedService)> {
    commits.iter().flat_map(|(ns, served)| {
        served.commit.services.iter().map(move |(name, service)| (ns, name, service))
    })
}

/// The name in a Host header: up to a port, without one trailing dot, in lower case; of `[x]` it is `x`.
fn host_name(header: &str) -> String {
    let name: String = match header.chars().next() {
        Some('[') => header.chars().skip(1).take_while(|c| *c != ']').collect(),
        _ => header.chars().take_while(|c| *c != ':').collect(),
    };
    let mut name = name.to_ascii_lowercase();
    if name.ends_with('.') {
        name.pop();
    }
    name
}

/// Whether the path is the prefix, or goes on below it.
fn is_below(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    prefix.is_empty() || path == prefix || path.starts_with(&format!("{prefix}/"))
}

/// Of all routes for the host and path, the one with the longest prefix; of equal ones the first by namespace, service, place.
fn route(commits: &Commits, host: &str, path: &str) -> Route {
    let host = host_name(host);
    let mut best: Option<(usize, Route)> = None;
    for (namespace, name, service) in services(commits) {
        for route in &service.routes {
            let here = route.hostnames.iter().any(|known| known.as_str() == host);
            if !here || !is_below(&route.path_prefix, path) {
                continue;
            }
            let length = route.path_prefix.trim_end_matches('/').len();
            if best.as_ref().is_some_and(|(longest, _)| *longest >= length) {
                continue;
            }
            let slots = service.slots.values().filter(|_| !service.stopped);
            let backends = slots.filter_map(|slot| {
                slot.ports.get(&route.port).map(|port| SocketAddr::new(slot.address, *port))
            });
            best = Some((length, Some((namespace.clone(), name.clone(), backends.collect()))));
        }
    }
    best.and_then(|(_, route)| route)
}

/// The table says what the reference says.
pub(crate) fn compare_route(commits: &Commits, table: &RouteTable, host: &str, path: &str) {
    let wanted = route(commits, host, path);
    let found = match table.resolve(host, path) {
        Ok(target) => {
            assert!(target.index < table.target_count());
            let backends = target.backends.iter().map(|backend| backend.address).collect();
            Some((target.namespace.clone(), target.service.clone(), backends))
        }
        Err(RouteMiss::NoInstances { namespace, service, .. }) => {
            Some((namespace, service, Vec::new()))
        }
        Err(RouteMiss::NoSuchHost { .. } | RouteMiss::NoSuchPath { .. }) => None,
    };
    assert_eq!(found, wanted, "{host:?} {path:?}");
}

/// The addresses of a service's running instances, or of one slot.
fn addresses(service: &CommittedService, slot: Option<u32>) -> BTreeSet<IpAddr> {
    let slots = service.slots.iter().filter(|(number, _)| slot.is_none_or(|slot| slot == **number));
    slots.filter(|_| !service.stopped).map(|(_, instance)| instance.address).collect()
}

/// Every service and slot has exactly its addresses under its name, and whatever else is asked for is answered from the zone
/// only if it is a name of the zone, or a bare one.
pub(crate) fn compare_names(commits: &Commits, zone: &DnsZone, asked: &str, caller: IpAddr) {
    let nobody: IpAddr = [192, 0, 2, 1].into();
    for (namespace, name, service) in services(commits).take(20) {
        for slot in service.slots.keys().copied().map(Some).chain([None]).take(4) {
            let label = slot.map_or_else(String::new, |slot| format!("{slot}."));
            let text = format!("{label}{name}.{namespace}.{ZONE}.");
            let found = match zone.lookup(&DnsName::of(&text), nobody) {
                DnsLookup::Records(records) => records.addresses.clone(),
                DnsLookup::NoSuchName if service.stopped && slot.is_some() => continue,
                other => panic!("{text}: {other:?}"),
            };
            assert_eq!(found, addresses(service, slot), "{text}");
        }
    }
    let name = DnsName::of(asked);
    let lower = asked.to_ascii_lowercase();
    let plain = lower.strip_suffix('.').unwrap_or(&lower);
    let inside = plain == ZONE || plain.ends_with(&format!(".{ZONE}"));
    assert_eq!(matches!(name, DnsName::Inside(_)), inside, "{asked:?}");
    match zone.lookup(&name, caller) {
        DnsLookup::Outside => assert!(!inside, "{asked:?} is the zone's"),
        DnsLookup::NoSuchName => assert!(inside, "{asked:?} is not the zone's to deny"),
        DnsLookup::Records(records) => {
            assert!(inside || !plain.contains('.'), "{asked:?} is not the zone's");
            let known = |address: &IpAddr| {
                services(commits).any(|(_, _, service)| addresses(service, None).contains(address))
            };
            assert!(records.addresses.iter().all(known), "{asked:?}: somebody else's address");
        }
    }
}
