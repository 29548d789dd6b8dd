use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Commits;
use crate::id::Namespace;
use crate::store::facts::CommittedService;

/// The zone that the cluster answers for.
pub const ZONE: &str = "ployz.internal";

/// How long an answer may be kept: short, because an instance's address lives as long as the instance.
pub const TTL_SECONDS: u32 = 2;

/// The names of the cluster's services. Immutable: a new state of the commits is a new zone.
///
/// | name | records |
/// |---|---|
/// | `svc.ns.ployz.internal` | A, AAAA: every instance |
/// | `0.svc.ns.ployz.internal` | A, AAAA: the instance in slot 0 |
/// | `_http._tcp.svc.ns.ployz.internal` | SRV: the port called `http` of every instance, by the names of their slots |
/// | `svc.ployz.internal`, `svc` | the same as `svc.ns…`, where `ns` is the namespace of the instance that asks |
///
/// A stopped service keeps its name and has no records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsZone {
    /// By name without the zone, in lower case; the empty name is the zone's apex. Every ancestor of a name is here too.
    nodes: BTreeMap<String, DnsRecords>,
    /// Whose an address is. Addresses that several namespaces share are nobody's.
    callers: BTreeMap<IpAddr, Option<Namespace>>,
}

/// The records of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsRecords {
    /// A and AAAA.
    pub addresses: BTreeSet<IpAddr>,
    /// SRV.
    pub services: Vec<Srv>,
}

/// An SRV record; priority and weight are equal for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// The port.
    pub port: u16,
    /// The name of the instance, whole, without the trailing dot.
    pub target: String,
    /// Its address, for the additional section.
    pub address: IpAddr,
}

/// A name that is asked for, as far as this zone is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsName {
    /// In the zone: the name without it.
    Inside(String),
    /// A single label: perhaps a service of the caller's namespace.
    Single(String),
    /// Somebody else's.
    Outside,
}

/// What the zone says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsLookup<'a> {
    /// The name exists with these records; if none of them is of the type asked for, that is "no data".
    Records(&'a DnsRecords),
    /// There is no such name.
    NoSuchName,
    /// Not this zone's: ask upstream.
    Outside,
}

impl DnsName {
    /// Places a name, written with or without the trailing dot, in any case.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if name == ZONE {
            return Self::Inside(String::new());
        }
        match name.strip_suffix(ZONE).and_then(|rest| rest.strip_suffix('.')) {
            Some(rest) => Self::Inside(rest.to_owned()),
            None if !name.is_empty() && !name.contains('.') => Self::Single(name),
            None => Self::Outside,
        }
    }
}

impl DnsZone {
    /// The zone of these commits.
    #[must_use]
    pub fn new(commits: &Commits) -> Self {
        let mut zone = Self::default();
        zone.node(String::new());
        for (namespace, served) in commits {
            zone.node(namespace.to_string());
            for (name, service) in &served.commit.services {
                zone.add(namespace, &format!("{name}.{namespace}"), service);
            }
        }
        zone
    }

    fn add(&mut self, namespace: &Namespace, name: &str, service: &CommittedService) {
        self.node(name.to_owned());
        if service.stopped {
            return;
        }
        for (slot, instance) in &service.slots {
            let address = instance.address;
            self.callers
                .entry(address)
                .and_modify(|owner| {
                    if owner.as_ref() != Some(namespace) {
                        *owner = None;
                    }
                })
                .or_insert_with(|| Some(namespace.clone()));
            let slot_name = format!("{slot}.{name}");
            self.node(name.to_owned()).addresses.insert(address);
            self.node(slot_name.clone()).addresses.insert(address);
            for (port_name, port) in &instance.ports {
                // A port's name becomes a label of at most 63 bytes, with the underscore.
                let port_name = port_name.to_ascii_lowercase();
                if port_name.is_empty() || port_name.len() > 62 || port_name.contains('.') {
                    continue;
                }
                let target = format!("{slot_name}.{ZONE}");
                let srv = Srv { port: *port, target, address };
                self.node(format!("_{port_name}._tcp.{name}")).services.push(srv);
            }
        }
    }

    /// The records of a name, made with all its ancestors: a name above one that exists, exists.
    fn node(&mut self, name: String) -> &mut DnsRecords {
        let mut rest = name.as_str();
        while let Some((_, above)) = rest.split_once('.') {
            if self.nodes.contains_key(above) {
                break;
            }
            self.nodes.insert(above.to_owned(), DnsRecords::default());
            rest = above;
        }
        self.nodes.entry(name).or_default()
    }

    /// What there is under a name, for somebody who asks from an address.
    #[must_use]
    pub fn lookup(&self, name: &DnsName, caller: IpAddr) -> DnsLookup<'_> {
        let relative = match name {
            DnsName::Inside(relative) => relative,
            DnsName::Single(label) => {
                // Nobody's but the caller's own: without one it is not for this zone to say that it doesn't exist.
                return match self.of_caller(label, caller) {
                    Some(records) => DnsLookup::Records(records),
                    None => DnsLookup::Outside,
                };
            }
            DnsName::Outside => return DnsLookup::Outside,
        };
        let exact = self.nodes.get(relative);
        let has_records = |r: &&DnsRecords| !r.addresses.is_empty() || !r.services.is_empty();
        let own = || if relative.is_empty() { None } else { self.of_caller(relative, caller) };
        match exact.filter(has_records).or_else(own).or(exact) {
            Some(records) => DnsLookup::Records(records),
            None => DnsLookup::NoSuchName,
        }
    }

    /// A name within the namespace of whoever has this address.
    fn of_caller(&self, name: &str, caller: IpAddr) -> Option<&DnsRecords> {
        let namespace = self.callers.get(&caller.to_canonical())?.as_ref()?;
        self.nodes.get(&format!("{name}.{namespace}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::projection::tests::{commit, commits, service};
    use super::*;

    fn zone() -> DnsZone {
        let mut halted = service(&["10.0.0.9:80"]);
        halted.stopped = true;
        let blog = vec![("web", service(&["10.0.0.1:80", "[fd00::2]:8080"])), ("halted", halted)];
        let shop = vec![("web", service(&["10.0.1.1:80"])), ("db", service(&["10.0.1.2:5432"]))];
        DnsZone::new(&commits([commit("blog", 1, blog), commit("shop", 1, shop)]))
    }

    fn ask(name: &str, from: &str) -> String {
        let zone = zone();
        match zone.lookup(&DnsName::of(name), from.parse().unwrap()) {
            DnsLookup::Outside => "outside".to_owned(),
            DnsLookup::NoSuchName => "no such name".to_owned(),
            DnsLookup::Records(records) => {
                let addresses = records.addresses.iter().map(ToString::to_string);
                let services = records.services.iter().map(|s| format!("{}:{}", s.target, s.port));
                addresses.chain(services).collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn services_slots_and_ports_have_names() {
        for (name, want) in [
            ("web.blog.ployz.internal", "10.0.0.1 fd00::2"),
            ("WEB.Blog.ployz.INTERNAL.", "10.0.0.1 fd00::2"),
            ("1.web.blog.ployz.internal", "fd00::2"),
            (
                "_http._tcp.web.blog.ployz.internal",
                "0.web.blog.ployz.internal:80 1.web.blog.ployz.internal:8080",
            ),
            // These exist without records of their own.
            ("ployz.internal", ""),
            ("blog.ployz.internal", ""),
            ("_tcp.web.blog.ployz.internal", ""),
            ("halted.blog.ployz.internal", ""),
            ("no.blog.ployz.internal", "no such name"),
            ("2.web.blog.ployz.internal", "no such name"),
            ("web.no.ployz.internal", "no such name"),
            ("example.com", "outside"),
            ("xployz.internal", "outside"),
            (".", "outside"),
        ] {
            assert_eq!(ask(name, "192.0.2.1"), want, "{name}");
        }
    }

    #[test]
    fn a_bare_service_name_is_the_callers_own() {
        assert_eq!(ask("web", "10.0.1.2"), "10.0.1.1");
        assert_eq!(ask("web", "::ffff:10.0.1.2"), "10.0.1.1");
        assert_eq!(ask("web.ployz.internal", "10.0.1.2"), "10.0.1.1");
        assert_eq!(
            ask("_http._tcp.db.ployz.internal", "10.0.1.1"),
            "0.db.shop.ployz.internal:5432"
        );
        assert_eq!(ask("web", "10.0.0.1"), "10.0.0.1 fd00::2");
        assert_eq!(ask("db", "10.0.0.1"), "outside");
        assert_eq!(ask("db.ployz.internal", "10.0.0.1"), "no such name");
        assert_eq!(ask("web", "192.0.2.1"), "outside");
        assert_eq!(ask("web.ployz.internal", "192.0.2.1"), "no such name");
    }

    #[test]
    fn an_address_that_two_namespaces_share_is_nobodys() {
        let one = commit("one", 1, vec![("web", service(&["127.0.0.1:80"]))]);
        let two = commit("two", 1, vec![("web", service(&["127.0.0.1:81"]))]);
        let zone = DnsZone::new(&commits([one, two]));
        let localhost = "127.0.0.1".parse().unwrap();
        assert_eq!(zone.lookup(&DnsName::of("web"), localhost), DnsLookup::Outside);
    }
}
