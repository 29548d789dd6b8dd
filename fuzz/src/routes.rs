//! Services and who asks for them, a line each:
//!
//! ```text
//! service shop/web 10.0.0.1 10.0.0.2    its instances
//! route shop/web shop.test /api         a route of it, to its port `http`
//! stop shop/web
//! ask shop.test:80 /api/x               a Host header and a path
//! name 0.web.shop.ployz.internal. 10.0.0.1   a name, and who asks for it
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proto_core::deploy::spec::Route;
use proto_core::digest::Digest;
use proto_core::id::{InstanceName, MachineId, Namespace, OperationId, ServiceName};
use proto_core::routing::{Commits, DnsZone, RouteTable, Served};
use proto_core::store::Revision;
use proto_core::store::facts::{Commit, CommittedInstance, CommittedService, VERSION};
use proto_core::time::UnixTime;

use crate::reference;

/// How many lines are read, and how many instances a service may have.
const MOST_LINES: usize = 64;
const MOST_INSTANCES: usize = 16;

/// Builds the tables and asks.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines: Vec<Vec<&str>> =
        text.lines().take(MOST_LINES).map(|line| line.split(' ').collect()).collect();
    let mut services = Services::new();
    for line in &lines {
        let _ = build(&mut services, line);
    }
    let commits = commits(services);
    let (table, zone) = (RouteTable::new(&commits), DnsZone::new(&commits));
    for line in &lines {
        match line[..] {
            ["ask", host, path] => reference::compare_route(&commits, &table, host, path),
            ["name", name, caller] => {
                let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                let caller = caller.parse().unwrap_or(nobody);
                reference::compare_names(&commits, &zone, name, caller);
            }
            _ => {}
        }
    }
}

type Services = BTreeMap<Namespace, BTreeMap<ServiceName, CommittedService>>;

/// What a line says of a service; `None`: nothing that can be said.
fn build(services: &mut Services, line: &[&str]) -> Option<()> {
    let (what, rest) = line.split_first()?;
    let (namespace, service) = rest.first()?.split_once('/')?;
    let (namespace, name) = (Namespace::new(namespace).ok()?, ServiceName::new(service).ok()?);
    let service = services.entry(namespace).or_default().entry(name).or_insert_with(empty);
    match (*what, &rest[1..]) {
        ("service", addresses) => {
            let addresses = addresses.iter().take(MOST_INSTANCES);
            let addresses = addresses.filter_map(|address| address.parse().ok());
            service.slots = (0..).zip(addresses.map(instance)).collect();
        }
        ("route", [host, prefix]) => service.routes.push(Route {
            hostnames: vec![host.parse().ok()?],
            path_prefix: (*prefix).to_owned(),
            port: "http".to_owned(),
        }),
        ("stop", _) => service.stopped = true,
        _ => {}
    }
    Some(())
}

fn empty() -> CommittedService {
    let revision = Digest::of_bytes(b"");
    CommittedService { revision, stopped: false, slots: BTreeMap::new(), routes: Vec::new() }
}

fn instance(address: IpAddr) -> CommittedInstance {
    let digest = Digest::of_bytes(b"");
    CommittedInstance {
        machine: MachineId::new("m1").expect("a letter, a digit"),
        instance: InstanceName::new("i").expect("a letter"),
        operation: OperationId::from_digest(&digest),
        config_hash: digest,
        workload: digest,
        address,
        ports: BTreeMap::from([("http".to_owned(), 8080)]),
    }
}

/// The commits that hold these services.
pub(crate) fn commits(services: Services) -> Commits {
    let digest = Digest::of_bytes(b"");
    let commit = |(namespace, services): (Namespace, _)| {
        let commit = Commit {
            v: VERSION,
            namespace: namespace.clone(),
            number: 1,
            operation: OperationId::from_digest(&digest),
            request: digest,
            summary: "deploy".to_owned(),
            at: UnixTime::default(),
            services,
        };
        (namespace, Served { head: Revision(1), commit: Arc::new(commit) })
    };
    services.into_iter().map(commit).collect()
}

/// The commits of such lines, for the targets that only ask.
#[cfg(feature = "adapters")]
pub(crate) fn of_lines(lines: &str) -> Commits {
    let mut services = Services::new();
    for line in lines.lines() {
        let _ = build(&mut services, &line.split(' ').collect::<Vec<_>>());
    }
    commits(services)
}
