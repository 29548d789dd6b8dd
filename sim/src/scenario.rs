//! What is tried: a cluster, what was deployed on it before, and the operation that is broken in every way.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proto_core::api::OperationRequest;
use proto_core::deploy::spec::{Constraint, Manifest, Replicas, ServiceSpec, Strategy, Topology};
use proto_core::id::{MachineId, Namespace, ServiceName};
use proto_core::machine::{Addressing, MachineLifecycle, MachineRecord};
use proto_core::store::facts::{Cluster, VERSION};
use proto_core::store::{Key, Revision, StoreRequest, Write};
use proto_core::time::{Time, UnixTime};

use crate::specs::service;
use crate::world::World;

const HOST: &str = "shop.example.com";

/// A scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// How many machines there are.
    pub machines: usize,
    /// What was done before, with nothing going wrong.
    pub before: Vec<OperationRequest>,
    /// What is broken in every way.
    pub request: OperationRequest,
    /// It cannot succeed: its instances never become ready.
    pub fails: bool,
    /// What is committed never stops serving.
    pub serves_through: bool,
    /// Asking once more is asking for one more: a restart.
    pub repeats: bool,
    /// The request was previewed, and what is asked for is to apply that plan.
    pub prepared: bool,
}

/// All scenarios.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let web = |image: &str, strategy, replicas| {
        deploy(&[("web", service(image, strategy, Replicas::Count(replicas), HOST))])
    };
    let update = |name, about, strategy, machines, replicas, image: &str| Scenario {
        name,
        about,
        machines,
        before: vec![web("ready-800-v1", strategy, replicas)],
        request: web(image, strategy, replicas),
        fails: image.starts_with("never") || image.starts_with("exits"),
        serves_through: strategy != Strategy::Recreate,
        repeats: false,
        prepared: false,
    };
    let on_v1 = |name, about, request| Scenario {
        name,
        about,
        machines: 1,
        before: vec![web("ready-800-v1", Strategy::Rolling, 1)],
        request,
        fails: false,
        serves_through: true,
        repeats: false,
        prepared: false,
    };
    let namespace = || Namespace::new("shop").expect("a literal");
    let web_name = || ServiceName::new("web").expect("a literal");
    let scale = |n| OperationRequest::Scale {
        namespace: namespace(),
        replicas: BTreeMap::from([(web_name(), n)]),
    };
    vec![
        Scenario {
            name: "first",
            about: "the first version of a service",
            machines: 1,
            before: Vec::new(),
            request: web("ready-800-v1", Strategy::Rolling, 1),
            fails: false,
            serves_through: true,
            repeats: false,
            prepared: false,
        },
        update("rolling", "v2 over v1", Strategy::Rolling, 1, 1, "ready-800-v2"),
        update("recreate", "v2 over v1, stopping first", Strategy::Recreate, 1, 1, "ready-800-v2"),
        update("blue-green", "v2 over v1, 2 replicas", Strategy::BlueGreen, 1, 2, "ready-800-v2"),
        update("never-ready", "v2 never becomes ready", Strategy::Rolling, 1, 1, "never-v2"),
        update(
            "never-ready-recreate",
            "the same, v1 stopped",
            Strategy::Recreate,
            1,
            1,
            "never-v2",
        ),
        update("exits", "v2 exits at once", Strategy::Rolling, 1, 1, "exits-3-v2"),
        update("slow", "v2 is ready after 45 s", Strategy::Rolling, 1, 1, "ready-45000-v2"),
        on_v1("scale-up", "from 1 to 2", scale(2)),
        Scenario {
            before: vec![web("ready-800-v1", Strategy::Rolling, 2)],
            ..on_v1("scale-down", "from 2 to 1", scale(1))
        },
        Scenario {
            repeats: true,
            ..on_v1(
                "restart",
                "every instance anew",
                OperationRequest::Restart { namespace: namespace(), service: web_name() },
            )
        },
        on_v1(
            "stop",
            "no instances",
            OperationRequest::Stop { namespace: namespace(), service: web_name() },
        ),
        on_v1(
            "remove",
            "the namespace",
            OperationRequest::RemoveNamespace { namespace: namespace() },
        ),
        Scenario {
            before: vec![
                web("ready-800-v1", Strategy::Rolling, 1),
                web("ready-800-v2", Strategy::Rolling, 1),
            ],
            ..on_v1("back", "v1 again over v2 over v1", web("ready-800-v1", Strategy::Rolling, 1))
        },
        update(
            "two-machines",
            "v2 over v1, a replica each",
            Strategy::Rolling,
            2,
            2,
            "ready-800-v2",
        ),
        update(
            "two-machines-recreate",
            "the same, stopping first",
            Strategy::Recreate,
            2,
            2,
            "ready-800-v2",
        ),
        update(
            "two-machines-never-ready",
            "v2 never becomes ready",
            Strategy::Rolling,
            2,
            2,
            "never-v2",
        ),
    ]
}

/// Each kind of operation on two machines: asked for on the first, its one service pinned to the second, so that everything
/// goes over the network and either may adopt it.
#[must_use]
pub fn pairs() -> Vec<Scenario> {
    let pinned = |image: &str, strategy, replicas| {
        let mut spec = service(image, strategy, Replicas::Count(replicas), HOST);
        let value = "m2".to_owned();
        spec.placement.constraints.push(Constraint {
            attribute: Topology::Machine,
            equal: true,
            value,
        });
        spec
    };
    let web = |image: &str, strategy| deploy(&[("web", pinned(image, strategy, 1))]);
    let v1 = || web("ready-800-v1", Strategy::Rolling);
    let v2 = || web("ready-800-v2", Strategy::Rolling);
    let namespace = || Namespace::new("shop").expect("a literal");
    let web_name = || ServiceName::new("web").expect("a literal");
    let of = |name, about, before, request| Scenario {
        name,
        about,
        machines: 2,
        before,
        request,
        fails: false,
        serves_through: true,
        repeats: false,
        prepared: false,
    };
    let recreated = |image| web(image, Strategy::Recreate);
    let alone = OperationRequest::DeployService {
        namespace: namespace(),
        service: web_name(),
        spec: Box::new(pinned("ready-800-v2", Strategy::Rolling, 1)),
    };
    let scale = OperationRequest::Scale {
        namespace: namespace(),
        replicas: BTreeMap::from([(web_name(), 2)]),
    };
    let restart = OperationRequest::Restart { namespace: namespace(), service: web_name() };
    let stop = OperationRequest::Stop { namespace: namespace(), service: web_name() };
    let back = OperationRequest::Rollback { namespace: namespace(), to: Some(1) };
    let remove = OperationRequest::RemoveNamespace { namespace: namespace() };
    vec![
        of("pair-first", "deploy: the first version", Vec::new(), v1()),
        of("pair-rolling", "deploy: v2 over v1", vec![v1()], v2()),
        Scenario {
            serves_through: false,
            ..of(
                "pair-recreate",
                "deploy: v2 over v1, stopping first",
                vec![recreated("ready-800-v1")],
                recreated("ready-800-v2"),
            )
        },
        Scenario {
            fails: true,
            ..of(
                "pair-never-ready",
                "deploy: v2 never becomes ready",
                vec![v1()],
                web("never-v2", Strategy::Rolling),
            )
        },
        Scenario {
            prepared: true,
            ..of("pair-prepared", "deploy apply-prepared: v2 over v1", vec![v1()], v2())
        },
        of("pair-service", "deploy service: v2 over v1", vec![v1()], alone),
        of("pair-scale", "scale: from 1 to 2", vec![v1()], scale),
        Scenario { repeats: true, ..of("pair-restart", "restart", vec![v1()], restart) },
        of("pair-stop", "stop", vec![v1()], stop),
        of("pair-rollback", "rollback: v1 over v2 over v1", vec![v1(), v2()], back),
        of("pair-remove", "namespace rm", vec![v1()], remove),
    ]
}

/// The scenario of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<Scenario> {
    all().into_iter().chain(pairs()).find(|scenario| scenario.name == name)
}

fn deploy(services: &[(&str, ServiceSpec)]) -> OperationRequest {
    let named = services
        .iter()
        .map(|(name, spec)| (ServiceName::new(*name).expect("a literal"), spec.clone()));
    let namespace = Namespace::new("shop").expect("a literal");
    OperationRequest::Deploy { manifest: Manifest { namespace, services: named.collect() } }
}

/// Machines of a founded cluster with nothing on them.
///
/// # Panics
///
/// Beyond 250 machines.
#[must_use]
pub fn founded(machines: usize) -> World {
    assert!(machines <= 250, "each machine has a byte of the addresses");
    let ids: Vec<_> = (1..=machines)
        .map(|n| MachineId::new(format!("m{n}")).expect("a letter, a digit"))
        .collect();
    let mut world = World::new(ids.clone());
    let cluster = Cluster {
        v: VERSION,
        name: "model".to_owned(),
        id: "00000000c0ffee00".to_owned(),
        incarnation: 1,
        created: UnixTime::from_millis(1_800_000_000_000),
    };
    let mut writes = vec![write(Key::cluster(), &cluster)];
    for (n, id) in (1u8..).zip(ids) {
        let record = MachineRecord {
            v: VERSION,
            id: id.clone(),
            lifecycle: MachineLifecycle::Active,
            region: "eu".to_owned(),
            az: None,
            labels: BTreeMap::new(),
            addressing: Addressing::Subnet(Ipv4Addr::new(10, 210, n, 0)),
        };
        writes.push(write(Key::machine(&id), &record));
    }
    world
        .kv
        .apply(Time::ZERO, &StoreRequest::Commit { writes })
        .expect("an empty store takes a first batch");
    world
}

fn write<T: serde::Serialize>(key: Key, value: &T) -> Write {
    let value = serde_json::to_value(value).expect("facts are plain JSON");
    Write { key, value, expect: Some(Revision::ABSENT), ttl: None }
}
