//! Services for scenarios and stories. What an instance does is said by its image: see [`crate::world::runtime::Behaviour`].

use std::collections::BTreeMap;
use std::time::Duration;

use proto_core::deploy::HostName;
use proto_core::deploy::spec::{
    OnFailure, Placement, Replicas, Reservation, Rollout, Route, ServiceSpec, Strategy, Topology,
};
use proto_core::runtime::{Network, Probe, Readiness, RestartPolicy, Workload};
use proto_core::span::Span;

use crate::world::runtime::Behaviour;

/// A service with one port, probed once a second, that is routed to from this host name.
///
/// # Panics
///
/// If the host name is none.
#[must_use]
pub fn service(image: &str, strategy: Strategy, replicas: Replicas, host: &str) -> ServiceSpec {
    let slow = Behaviour::of(image) == Behaviour::ReadyAfter(Duration::from_secs(45));
    ServiceSpec {
        workload: Workload {
            image: image.to_owned(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            env: BTreeMap::new(),
            user: None,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            cpu_limit_millis: None,
            memory_limit_bytes: None,
            restart: RestartPolicy::Always,
            stop_grace_period: Span::from_secs(10),
            labels: BTreeMap::new(),
            publish: BTreeMap::new(),
            network: Network::Overlay,
        },
        placement: Placement { replicas, constraints: Vec::new(), spread: Topology::Machine },
        reservation: Reservation::default(),
        ports: BTreeMap::from([("http".to_owned(), 8080)]),
        routes: vec![Route {
            hostnames: vec![host.parse::<HostName>().expect("a host name")],
            path_prefix: "/".to_owned(),
            port: "http".to_owned(),
        }],
        readiness: Some(Readiness {
            probe: Probe::Http { path: "/".to_owned(), port: "http".to_owned() },
            interval: Span::from_secs(if slow { 15 } else { 1 }),
            timeout: Span::from_secs(1),
            retries: 0,
            start_period: Span::from_secs(if slow { 60 } else { 2 }),
        }),
        rollout: Rollout { strategy, batch: 1, drain: Span::from_secs(5) },
        on_failure: OnFailure::Abort,
    }
}
