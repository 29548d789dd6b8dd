use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use super::Commits;
use crate::id::{InstanceName, Namespace, ServiceName};
use crate::mutant::{self, Mutant};
use crate::store::facts::CommittedService;

/// Which instances take a request, by its host name and path. Immutable: a new state of the commits is a new table.
///
/// The host must equal a route's host name (case, a port and a trailing dot don't count). Of the routes of that host the one
/// with the longest prefix wins, compared by whole segments: `/api` takes `/api` and `/api/x`, not `/apix`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteTable {
    /// By host; the routes of a host by falling length of their prefix.
    hosts: BTreeMap<String, Vec<(String, Arc<Target>)>>,
    conflicts: Vec<Conflict>,
    targets: usize,
}

/// A service as a route reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Counts the targets of a table from 0, so that whoever balances can keep its state in an array.
    pub index: usize,
    /// The namespace.
    pub namespace: Namespace,
    /// The service.
    pub service: ServiceName,
    /// The commit that says so.
    pub commit: u64,
    /// Its instances by slot. Empty: there is a route, and nobody behind it.
    pub backends: Vec<Backend>,
    /// True after `stop`.
    pub stopped: bool,
}

/// An instance that takes requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its name: a later instance at the same address has another one.
    pub instance: InstanceName,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Why a request has no instance to go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteMiss {
    /// No route has this host name.
    #[error("no service has a route for the host {host:?}")]
    NoSuchHost {
        /// As it was looked up.
        host: String,
    },
    /// The host has routes, and none for this path.
    #[error("no service has a route for the path {path:?} of the host {host:?}")]
    NoSuchPath {
        /// As it was looked up.
        host: String,
        /// As it was looked up.
        path: String,
    },
    /// The route leads to a service without instances.
    #[error("the service {namespace}/{service} {}", if *stopped { "is stopped" } else { "has no instances" })]
    NoInstances {
        /// The namespace.
        namespace: Namespace,
        /// The service.
        service: ServiceName,
        /// True after `stop`.
        stopped: bool,
    },
}

/// Two services with the same host and prefix. Claims rule that out, so this is a store that somebody else wrote to. The
/// service that comes first by (namespace, service) is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The host name.
    pub host: String,
    /// The path prefix.
    pub path_prefix: String,
    /// Who is served.
    pub served: (Namespace, ServiceName),
    /// Who is not.
    pub ignored: (Namespace, ServiceName),
}

impl RouteTable {
    /// The table of these commits.
    #[must_use]
    pub fn new(commits: &Commits) -> Self {
        let mut table = Self::default();
        for (namespace, served) in commits {
            for (name, service) in &served.commit.services {
                table.add(namespace, name, served.commit.number, service);
            }
        }
        for routes in table.hosts.values_mut() {
            // Stable, and no two prefixes of a host are equal: the order is total.
            routes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        }
        table
    }

    fn add(
        &mut self,
        namespace: &Namespace,
        name: &ServiceName,
        commit: u64,
        service: &CommittedService,
    ) {
        for route in &service.routes {
            let backends =
                if service.stopped { Vec::new() } else { backends(service, &route.port) };
            let target = Arc::new(Target {
                index: self.targets,
                namespace: namespace.clone(),
                service: name.clone(),
                commit,
                backends,
                stopped: service.stopped,
            });
            self.targets += 1;
            // `/` and `/api/` mean the same segments as the empty prefix and `/api`.
            let prefix = route.path_prefix.trim_end_matches('/');
            let names = if mutant::on(Mutant::FirstNameOnly) { 1 } else { usize::MAX };
            for host in route.hostnames.iter().take(names) {
                let routes = self.hosts.entry(host.as_str().to_owned()).or_default();
                match routes.iter().find(|(taken, _)| taken == prefix) {
                    None => routes.push((prefix.to_owned(), target.clone())),
                    Some((_, first)) => self.conflicts.push(Conflict {
                        host: host.as_str().to_owned(),
                        path_prefix: route.path_prefix.clone(),
                        served: (first.namespace.clone(), first.service.clone()),
                        ignored: (namespace.clone(), name.clone()),
                    }),
                }
            }
        }
    }

    /// Where a request goes: `host` as in the Host header, `path` without the query.
    ///
    /// # Errors
    ///
    /// Why it can go nowhere.
    pub fn resolve(&self, host: &str, path: &str) -> Result<&Arc<Target>, RouteMiss> {
        let host = normal_host(host);
        let Some(routes) = self.hosts.get(host.as_ref()) else {
            return Err(RouteMiss::NoSuchHost { host: host.into_owned() });
        };
        let Some((_, target)) = routes.iter().find(|(prefix, _)| takes(prefix, path)) else {
            return Err(RouteMiss::NoSuchPath { host: host.into_owned(), path: path.to_owned() });
        };
        if target.backends.is_empty() {
            return Err(RouteMiss::NoInstances {
                namespace: target.namespace.clone(),
                service: target.service.clone(),
                stopped: target.stopped,
            });
        }
        Ok(target)
    }

    /// How many targets there are: every [`Target::index`] is below it.
    #[must_use]
    pub fn target_count(&self) -> usize {
        self.targets
    }

    /// Routes that are not served, because another service has the same.
    #[must_use]
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }
}

fn backends(service: &CommittedService, port: &str) -> Vec<Backend> {
    let slots = service.slots.values();
    slots
        .filter_map(|slot| {
            let port = *slot.ports.get(port)?;
            let address = SocketAddr::new(slot.address, port);
            Some(Backend { instance: slot.instance.clone(), address })
        })
        .collect()
}

/// Whether `path` starts with the whole segments of `prefix`, which has no trailing slash.
fn takes(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.is_empty())
}

/// The host name of a Host header: without the port, without a trailing dot, in lower case.
fn normal_host(host: &str) -> Cow<'_, str> {
    let name = match host.strip_prefix('[') {
        // An IPv6 literal holds colons of its own.
        Some(literal) => literal.split(']').next().unwrap_or(literal),
        None => host.split(':').next().unwrap_or(host),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::projection::tests::{commit, commits, service};
    use super::*;

    fn table(routes: &[(&str, &str, &[&str], &str)]) -> RouteTable {
        let mut by_namespace: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (namespace, name, hosts, prefix) in routes {
            let mut service = service(&["127.0.0.1:80"]);
            service.routes.push(crate::deploy::spec::Route {
                hostnames: hosts.iter().map(|host| host.parse().unwrap()).collect(),
                path_prefix: (*prefix).to_owned(),
                port: "http".to_owned(),
            });
            by_namespace.entry(namespace).or_default().push((*name, service));
        }
        let all = by_namespace.into_iter().map(|(ns, services)| commit(ns, 1, services));
        RouteTable::new(&commits(all))
    }

    fn found(table: &RouteTable, host: &str, path: &str) -> String {
        match table.resolve(host, path) {
            Ok(target) => format!("{}/{}", target.namespace, target.service),
            Err(miss) => miss.to_string(),
        }
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let table = table(&[
            ("a", "site", &["a.test"], "/"),
            ("a", "api", &["a.test"], "/api"),
            ("b", "v2", &["a.test"], "/api/v2/"),
        ]);
        for (path, want) in [
            ("/", "a/site"),
            ("/apix", "a/site"),
            ("/api", "a/api"),
            ("/api/", "a/api"),
            ("/api/v1", "a/api"),
            ("/api/v2", "b/v2"),
            ("/api/v2/x", "b/v2"),
            ("*", "a/site"),
        ] {
            assert_eq!(found(&table, "a.test", path), want, "{path}");
        }
    }

    #[test]
    fn a_host_matches_in_any_case_with_port_or_trailing_dot() {
        let table = table(&[("a", "site", &["a.test"], "/")]);
        for host in ["a.test", "A.Test:8080", "a.test.", "a.test.:80"] {
            assert_eq!(found(&table, host, "/x"), "a/site", "{host}");
        }
        for host in ["", "b.a.test", "test", "[::1]:80", "a.test.evil"] {
            assert!(
                matches!(table.resolve(host, "/"), Err(RouteMiss::NoSuchHost { .. })),
                "{host}"
            );
        }
    }

    #[test]
    fn a_miss_says_why() {
        let mut stopped = service(&["127.0.0.1:80"]);
        stopped.stopped = true;
        let mut without_port = service(&["127.0.0.1:80"]);
        for (service, port) in [(&mut stopped, "http"), (&mut without_port, "admin")] {
            service.routes.push(crate::deploy::spec::Route {
                hostnames: vec![format!("{port}.test").parse().unwrap()],
                path_prefix: "/only".to_owned(),
                port: port.to_owned(),
            });
        }
        let services = vec![("halted", stopped), ("portless", without_port)];
        let table = RouteTable::new(&commits([commit("a", 1, services)]));
        for (host, path, why) in [
            ("x.test", "/", "no service has a route for the host \"x.test\""),
            (
                "http.test",
                "/",
                "no service has a route for the path \"/\" of the host \"http.test\"",
            ),
            ("http.test", "/only", "the service a/halted is stopped"),
            ("admin.test", "/only", "the service a/portless has no instances"),
        ] {
            assert_eq!(table.resolve(host, path).unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn of_two_claimants_the_first_by_name_is_served_and_the_other_reported() {
        let table =
            table(&[("b", "web", &["x.test"], "/"), ("a", "web", &["x.test", "y.test"], "/")]);
        assert_eq!(found(&table, "x.test", "/"), "a/web");
        assert_eq!(table.conflicts().len(), 1);
        assert_eq!(table.conflicts()[0].ignored.0.as_str(), "b");
    }

    /// The rule, written the slow way: all routes, segments compared one by one.
    fn model<'a>(routes: &'a [(String, String)], host: &str, path: &str) -> Option<&'a str> {
        let segments = |text: &str| -> Vec<String> {
            let text = text.trim_start_matches('/').to_owned();
            text.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect()
        };
        let matching = routes.iter().filter(|(route_host, prefix)| {
            route_host.eq_ignore_ascii_case(host) && segments(path).starts_with(&segments(prefix))
        });
        matching.max_by_key(|(_, prefix)| segments(prefix).len()).map(|(_, prefix)| prefix.as_str())
    }

    proptest! {
        #[test]
        fn resolve_agrees_with_comparing_segments_of_all_routes(
            routes in proptest::collection::btree_set(
                ("[ab]\\.test", "(/[ab]{1,2}){0,3}"), 0..8),
            host in "[abAB]\\.test",
            path in "(/[ab]{1,2}){0,4}/?",
        ) {
            let routes: Vec<(String, String)> = routes.into_iter().collect();
            let names: Vec<String> = (0..routes.len()).map(|n| format!("s{n}")).collect();
            let hosts: Vec<[&str; 1]> = routes.iter().map(|(host, _)| [host.as_str()]).collect();
            let prefixes: Vec<String> = routes
                .iter()
                .map(|(_, p)| if p.is_empty() { "/".to_owned() } else { p.clone() })
                .collect();
            let specs: Vec<(&str, &str, &[&str], &str)> = (0..routes.len())
                .map(|n| ("ns", names[n].as_str(), &hosts[n][..], prefixes[n].as_str()))
                .collect();
            let table = table(&specs);
            let want = model(&routes, &host, &path).map(|prefix| {
                let n = routes.iter().position(|(h, p)| {
                    h.eq_ignore_ascii_case(&host) && p == prefix
                });
                names[n.unwrap()].clone()
            });
            let got = table.resolve(&host, &path).ok().map(|t| t.service.as_str().to_owned());
            prop_assert_eq!(got, want);
        }

        #[test]
        fn no_host_or_path_makes_resolve_panic(host in ".{0,20}", path in ".{0,20}") {
            let _ = table(&[("a", "w", &["a.test"], "/x")]).resolve(&host, &path);
        }
    }
}
