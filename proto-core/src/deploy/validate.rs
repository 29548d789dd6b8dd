//! What is wrong with a manifest in meaning: conflicts that show without asking any machine.
//!
//! It looks at specs alone, not at text, so that a spec that was changed without one (`scale`, `deploy service --image`) is held
//! to the same rules. What it says is placed in the text by [`super::manifest::parse`].

use std::collections::BTreeMap;

use super::HostName;
use super::manifest::{Code, join};
use super::placement::machine_ports;
use super::spec::{Constraint, Manifest, Replicas, ServiceSpec, Strategy};
use crate::id::ServiceName;
use crate::runtime::{Network, Probe, process};

/// The most services of a namespace.
pub const MAX_SERVICES: usize = 500;
/// The largest commit or revision that the store takes, in bytes of JSON.
pub const MAX_COMMIT_BYTES: usize = 512 << 10;
/// The least that an instance takes in a commit besides its names: three digests' worth of identity, an address, the keys.
pub(super) const INSTANCE_BYTES: usize = 260;
/// The least that a service takes in a commit besides its name, routes and instances.
pub(super) const SERVICE_BYTES: usize = 90;

/// Something that a manifest must not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The kind.
    pub code: Code,
    /// The service, `None` for the whole.
    pub service: Option<ServiceName>,
    /// The key within the service, for example `routes[0].hostnames[1]`.
    pub field: String,
    /// What is wrong, a sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// All violations, by service, none if the manifest can be placed and planned.
#[must_use]
pub fn validate(manifest: &Manifest) -> Vec<Violation> {
    let mut all = Violations(Vec::new());
    for (name, spec) in &manifest.services {
        let mut service = Service { all: &mut all, name, spec };
        service.workload();
        service.network();
        service.port_names();
        service.rollout();
    }
    routes(&mut all, manifest);
    shared_ports(&mut all, manifest);
    sizes(&mut all, manifest);
    all.0
}

struct Violations(Vec<Violation>);

impl Violations {
    fn add(
        &mut self,
        code: Code,
        service: Option<&ServiceName>,
        field: String,
        message: String,
        hint: &str,
    ) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.0.push(Violation { code, service: service.cloned(), field, message, hint });
    }
}

struct Service<'a> {
    all: &'a mut Violations,
    name: &'a ServiceName,
    spec: &'a ServiceSpec,
}

impl Service<'_> {
    fn add(&mut self, code: Code, field: &str, message: String, hint: &str) {
        self.all.add(code, Some(self.name), field.to_owned(), message, hint);
    }

    fn workload(&mut self) {
        let workload = &self.spec.workload;
        if workload.image.is_empty()
            && workload.command.is_empty()
            && workload.entrypoint.is_empty()
        {
            let hint = "write `image = \"…\"`, or for the process runtime `command = [\"…\"]`";
            self.add(Code::MissingKey, "image", "`image` is missing".to_owned(), hint);
        }
        // No container is made of it: it is how the process runtime is written.
        if workload.image == process::HOST
            && workload.command.is_empty()
            && workload.entrypoint.is_empty()
        {
            let message = "`image = \"host\"` is no image: a process is a command of the machine, and `command` is missing";
            self.add(Code::MissingKey, "command", message.to_owned(), "write `command = [\"…\"]`");
        }
        for (field, words) in [("command", &workload.command), ("entrypoint", &workload.entrypoint)]
        {
            if words.first().is_some_and(String::is_empty) {
                self.add(Code::InvalidValue, field, "the program's name is empty".to_owned(), "");
            }
        }
        for key in workload.labels.keys().filter(|key| key.starts_with("ployz.")) {
            let message = format!("labels that start with `ployz.` are set by ployz itself: {key}");
            self.add(Code::ReservedName, &join("labels", key), message, "choose another name");
        }
        for key in workload.env.keys() {
            let of_port = self.spec.ports.keys().any(|port| port_variable(port) == *key);
            if key == "PORT" || of_port || key.starts_with("PLOYZ_") {
                let hint = "declare `ports`: the number of the first comes as PORT, of each as PORT_<NAME>";
                let hint = if key.starts_with("PLOYZ_") { "choose another name" } else { hint };
                let message = format!("the variable {key} is set by ployz itself");
                self.add(Code::ReservedName, &format!("env.{key}"), message, hint);
            }
        }
        let reserved = self.spec.reservation;
        let more = "more is reserved than the limit allows to use".to_owned();
        if workload.cpu_limit_millis.is_some_and(|limit| reserved.cpu_millis > limit) {
            self.add(
                Code::Contradiction,
                "resources.reservations.cpu",
                more.clone(),
                "raise `resources.cpu`",
            );
        }
        if workload.memory_limit_bytes.is_some_and(|limit| reserved.memory_bytes > limit) {
            self.add(
                Code::Contradiction,
                "resources.reservations.memory",
                more,
                "raise `resources.memory`",
            );
        }
    }

    fn network(&mut self) {
        let spec = self.spec;
        if spec.workload.network == Network::Host && !spec.workload.publish.is_empty() {
            let message =
                "with `network = \"host\"` the service listens on the machine's ports already"
                    .to_owned();
            self.add(Code::Contradiction, "publish", message, "leave `publish` out");
        }
        let probes_port = spec.readiness.as_ref().is_some_and(|r| r.probe.port().is_some());
        let used = [
            ("ports", !spec.ports.is_empty()),
            ("publish", !spec.workload.publish.is_empty()),
            ("routes", !spec.routes.is_empty()),
            ("readiness", probes_port),
        ];
        if spec.workload.network == Network::None {
            for (field, _) in used.iter().filter(|(_, used)| *used) {
                let message = "with `network = \"none\"` nothing can reach the service".to_owned();
                let hint = "leave it out, or write `network = \"overlay\"`";
                self.add(Code::Contradiction, field, message, hint);
            }
        }
    }

    fn port_names(&mut self) {
        let spec = self.spec;
        let mut by_number: BTreeMap<u16, &str> = BTreeMap::new();
        let mut by_variable: BTreeMap<String, &str> = BTreeMap::new();
        for (name, port) in &spec.ports {
            if let Some(first) = by_number.insert(*port, name) {
                let message = format!("port {port} has the name `{first}` already");
                self.add(
                    Code::PortConflict,
                    &format!("ports.{name}"),
                    message,
                    "one name a port is enough",
                );
            }
            let variable = port_variable(name);
            if let Some(first) = by_variable.insert(variable.clone(), name) {
                let message = format!("`{first}` and `{name}` would both be passed as {variable}");
                self.add(
                    Code::PortConflict,
                    &format!("ports.{name}"),
                    message,
                    "choose another name",
                );
            }
        }
        let mut used: Vec<(String, &str)> = Vec::new();
        used.extend(
            spec.workload.publish.values().map(|port| ("publish".to_owned(), port.as_str())),
        );
        used.extend(
            spec.routes
                .iter()
                .enumerate()
                .map(|(n, r)| (format!("routes[{n}].port"), r.port.as_str())),
        );
        if let Some(readiness) = &spec.readiness {
            let field = if matches!(readiness.probe, Probe::Http { .. }) { "http" } else { "tcp" };
            used.extend(
                readiness.probe.port().map(|port| (format!("readiness.{field}.port"), port)),
            );
        }
        let known: Vec<String> = spec.ports.keys().map(|name| format!("`{name}`")).collect();
        let hint = if known.is_empty() {
            "declare it: `ports = { http = 8080 }`".to_owned()
        } else {
            format!("declared are {}", known.join(", "))
        };
        for (field, _) in used.iter().filter(|(_, port)| !spec.ports.contains_key(*port)) {
            self.add(
                Code::UndeclaredPort,
                field,
                "the service declares no port of this name".to_owned(),
                &hint,
            );
        }
    }

    fn rollout(&mut self) {
        let spec = self.spec;
        let strategy = spec.rollout.strategy;
        if strategy == Strategy::BlueGreen && spec.readiness.is_none() {
            let message = "blue_green without a readiness check would send all requests to instances that may not answer";
            let hint = "write `readiness = { http = { path = \"/healthz\" } }`";
            self.add(Code::ReadinessRequired, "rollout.strategy", message.to_owned(), hint);
        }
        let beside = matches!(strategy, Strategy::Rolling | Strategy::BlueGreen);
        if beside && (!spec.workload.publish.is_empty() || spec.workload.network == Network::Host) {
            let message =
                "a service on the machine's own ports cannot run beside its successor there"
                    .to_owned();
            let hint = "write `strategy = \"recreate\"`, or use `routes`, which need no port of the machine";
            self.add(Code::Contradiction, "rollout.strategy", message, hint);
        }
    }
}

/// The environment variable that tells an instance the number of a port: `PORT_HTTP_API` for `http-api`.
#[must_use]
pub fn port_variable(name: &str) -> String {
    format!("PORT_{}", name.to_ascii_uppercase().replace('-', "_"))
}

fn routes(all: &mut Violations, manifest: &Manifest) {
    let mut owners: BTreeMap<(&HostName, &str), &ServiceName> = BTreeMap::new();
    for (name, spec) in &manifest.services {
        for (n, route) in spec.routes.iter().enumerate() {
            for (h, host) in route.hostnames.iter().enumerate() {
                let Some(first) = owners.insert((host, &route.path_prefix), name) else { continue };
                let whose = if first == name {
                    "this service".to_owned()
                } else {
                    format!("service {first}")
                };
                let message = format!("{host}{} is routed by {whose} already", route.path_prefix);
                let field = format!("routes[{n}].hostnames[{h}]");
                all.add(
                    Code::RouteConflict,
                    Some(name),
                    field,
                    message,
                    "give one of them another `path_prefix`",
                );
            }
        }
    }
}

fn shared_ports(all: &mut Violations, manifest: &Manifest) {
    let mut owners: BTreeMap<u16, Vec<(&ServiceName, &ServiceSpec)>> = BTreeMap::new();
    for (name, spec) in &manifest.services {
        for port in machine_ports(spec) {
            let there = owners.entry(port).or_default();
            if let Some((first, _)) =
                there.iter().find(|(first, other)| *first != name && can_meet(spec, other))
            {
                let field =
                    if spec.workload.publish.contains_key(&port) { "publish" } else { "ports" };
                let message = format!(
                    "service {first} takes port {port} of the machine too, and both may be on one"
                );
                let hint = "choose another port, or keep them apart with constraints, such as \"region == eu\" here and \
                            \"region != eu\" there";
                all.add(Code::PortConflict, Some(name), field.to_owned(), message, hint);
            }
            there.push((name, spec));
        }
    }
}

/// Whether one machine can hold both.
fn can_meet(a: &ServiceSpec, b: &ServiceSpec) -> bool {
    let none = |spec: &ServiceSpec| spec.placement.replicas == Replicas::Count(0);
    let excludes = |a: &Constraint, b: &Constraint| {
        let same = a.value == b.value;
        a.attribute == b.attribute
            && ((a.equal && b.equal && !same) || (a.equal != b.equal && same))
    };
    let apart = a
        .placement
        .constraints
        .iter()
        .any(|a| b.placement.constraints.iter().any(|b| excludes(a, b)));
    !(none(a) || none(b) || apart)
}

/// The least that the commit can take is checked here; the planner, which knows the machines, measures the real one.
fn sizes(all: &mut Violations, manifest: &Manifest) {
    let mut commit = 0;
    let mut whole = 0;
    for (name, spec) in &manifest.services {
        let written = |value: serde_json::Result<String>| value.map_or(0, |text| text.len());
        let spec_bytes = written(serde_json::to_string(spec));
        whole += spec_bytes + name.as_str().len();
        let slots = match spec.placement.replicas {
            Replicas::Count(count) => count as usize,
            Replicas::Global => 1,
        };
        let ports = written(serde_json::to_string(&spec.ports));
        let routes = written(serde_json::to_string(&spec.routes));
        commit += SERVICE_BYTES + name.as_str().len() + routes;
        commit += slots.saturating_mul(INSTANCE_BYTES + name.as_str().len() + ports);
    }
    let hint = "split it into several namespaces";
    if manifest.services.len() > MAX_SERVICES {
        let message =
            format!("{} services, at most {MAX_SERVICES} are allowed", manifest.services.len());
        all.add(Code::TooMany, None, "services".to_owned(), message, hint);
    }
    for (what, bytes) in [("the commit", commit), ("the manifest", whole)] {
        if bytes > MAX_COMMIT_BYTES {
            let message = format!(
                "{what} would take at least {bytes} bytes in the store, at most {MAX_COMMIT_BYTES} fit"
            );
            all.add(Code::TooLarge, None, "services".to_owned(), message, hint);
        }
    }
}
