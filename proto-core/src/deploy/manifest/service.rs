//! One service: from the tree to a spec with every default filled in.

use std::collections::BTreeMap;

use super::keys;
use super::problem::Code;
use super::read::{Reader, Table, View};
use super::tree::Kind;
use super::values;
use crate::deploy::HostName;
use crate::deploy::spec::{
    Constraint, OnFailure, Placement, Replicas, Reservation, Rollout, Route, ServiceSpec, Strategy,
    Topology,
};
use crate::id::ServiceName;
use crate::runtime::{Network, Probe, Readiness, RestartPolicy, Workload};
use crate::span::Span;

const HOUR: Span = Span::from_secs(3600);

pub(super) const STRATEGIES: &[(&str, Strategy)] = &[
    ("recreate", Strategy::Recreate),
    ("rolling", Strategy::Rolling),
    ("blue_green", Strategy::BlueGreen),
];
pub(super) const NETWORKS: &[(&str, Network)] =
    &[("overlay", Network::Overlay), ("host", Network::Host), ("none", Network::None)];
pub(super) const RESTARTS: &[(&str, RestartPolicy)] = &[
    ("always", RestartPolicy::Always),
    ("on-failure", RestartPolicy::OnFailure),
    ("no", RestartPolicy::No),
];
pub(super) const ON_FAILURES: &[(&str, OnFailure)] = &[("abort", OnFailure::Abort)];

/// The name, if it is one, and the spec. What was wrong is reported and read as its default.
pub(super) fn read(
    reader: &mut Reader,
    view: &View<'_>,
) -> Option<(Option<ServiceName>, ServiceSpec)> {
    let table = reader.table(view, &keys::SERVICE)?;
    let name = match table.get("name") {
        Some(view) => reader.parsed(&view, Code::InvalidName),
        None => {
            reader.missing(&table, "name", "write `name = \"web\"`");
            None
        }
    };
    let (reservation, cpu_limit_millis, memory_limit_bytes) = resources(reader, &table);
    let ports = ports(reader, &table);
    // A port name may be left out where there is no choice.
    let only_port = (ports.len() == 1).then(|| ports.keys().next().cloned()).flatten();
    let network = choice(reader, &table, "network", NETWORKS).unwrap_or_default();
    let publish = publish(reader, &table, only_port.as_ref());
    let machine_ports = !publish.is_empty() || network == Network::Host;
    let placement = placement(reader, &table);
    let workload = Workload {
        image: table.get("image").and_then(|v| values::image(reader, &v)).unwrap_or_default(),
        entrypoint: words(reader, &table, "entrypoint"),
        command: words(reader, &table, "command"),
        env: values::env(reader, &table),
        user: table.get("user").and_then(|v| values::user(reader, &v)),
        cap_add: values::capabilities(reader, &table, "cap_add"),
        cap_drop: values::capabilities(reader, &table, "cap_drop"),
        cpu_limit_millis,
        memory_limit_bytes,
        restart: choice(reader, &table, "restart", RESTARTS).unwrap_or_default(),
        stop_grace_period: span(reader, &table, "stop_grace_period", Span::default(), HOUR)
            .unwrap_or(Span::from_secs(10)),
        labels: values::labels(reader, &table),
        publish,
        network,
    };
    let spec = ServiceSpec {
        workload,
        rollout: rollout(reader, &table, machine_ports, placement.replicas),
        placement,
        reservation,
        routes: routes(reader, &table, only_port.as_ref()),
        readiness: readiness(reader, &table, only_port.as_ref()),
        ports,
        on_failure: on_failure(reader, &table).unwrap_or_default(),
    };
    Some((name, spec))
}

fn on_failure(reader: &mut Reader, table: &Table<'_>) -> Option<OnFailure> {
    let view = table.get("on_failure")?;
    if matches!(&view.node.kind, Kind::String(text) if text == "rollback") {
        let message = "a deploy whose instances do not become ready is always undone before it commits, so there is \
                       nothing to roll back";
        reader.wrong(
            &view,
            Code::Unsupported,
            message.to_owned(),
            "write \"abort\", or leave it out",
        );
        return None;
    }
    reader.choice(&view, ON_FAILURES)
}

fn choice<T: Copy>(
    reader: &mut Reader,
    table: &Table<'_>,
    key: &str,
    choices: &[(&str, T)],
) -> Option<T> {
    reader.choice(&table.get(key)?, choices)
}

fn span(reader: &mut Reader, table: &Table<'_>, key: &str, min: Span, max: Span) -> Option<Span> {
    reader.span(&table.get(key)?, min..=max)
}

fn words(reader: &mut Reader, table: &Table<'_>, key: &str) -> Vec<String> {
    table.get(key).map(|view| reader.words(&view)).unwrap_or_default()
}

fn placement(reader: &mut Reader, table: &Table<'_>) -> Placement {
    let mut placement = Placement {
        replicas: Replicas::Count(1),
        constraints: Vec::new(),
        spread: Topology::Machine,
    };
    let Some(view) = table.get("placement") else { return placement };
    if let Kind::String(_) = view.node.kind {
        placement.replicas =
            reader.choice(&view, &[("global", Replicas::Global)]).unwrap_or(placement.replicas);
        return placement;
    }
    let Some(table) = reader.table(&view, &keys::PLACEMENT) else { return placement };
    if let Some(view) = table.get("replicas") {
        let replicas = match &view.node.kind {
            Kind::String(text) if text.trim().parse::<u32>().is_ok() => {
                let hint = format!("write {} without quotes", text.trim());
                reader.wrong_type(&view, "an integer", &hint);
                None
            }
            Kind::String(_) => reader.choice(&view, &[("global", Replicas::Global)]),
            _ => reader.integer::<u32>(&view, 0..=1000).map(Replicas::Count),
        };
        placement.replicas = replicas.unwrap_or(placement.replicas);
    }
    if let Some(view) = table.get("constraints") {
        let items = reader.array(&view, 32, "write [\"region == eu\"]");
        placement.constraints = items
            .iter()
            .filter_map(|item| reader.parsed::<Constraint>(item, Code::InvalidValue))
            .collect();
    }
    if let Some(view) = table.get("spread") {
        placement.spread = reader.parsed(&view, Code::InvalidValue).unwrap_or(placement.spread);
        if placement.replicas == Replicas::Global {
            let message =
                "a global service is on every machine, there is nothing to spread".to_owned();
            reader.wrong(&view, Code::Contradiction, message, "leave `spread` out");
            placement.spread = Topology::Machine;
        }
    }
    placement
}

fn resources(reader: &mut Reader, table: &Table<'_>) -> (Reservation, Option<u32>, Option<u64>) {
    let mut reservation = Reservation::default();
    let Some(table) = table.get("resources").and_then(|v| reader.table(&v, &keys::RESOURCES))
    else {
        return (reservation, None, None);
    };
    let cpu = table.get("cpu").and_then(|v| values::cpu(reader, &v));
    let memory = table.get("memory").and_then(|v| values::memory(reader, &v));
    if let Some(table) =
        table.get("reservations").and_then(|v| reader.table(&v, &keys::RESERVATIONS))
    {
        reservation.cpu_millis =
            table.get("cpu").and_then(|v| values::cpu(reader, &v)).unwrap_or(0);
        reservation.memory_bytes =
            table.get("memory").and_then(|v| values::memory(reader, &v)).unwrap_or(0);
    }
    (reservation, cpu, memory)
}

fn ports(reader: &mut Reader, table: &Table<'_>) -> BTreeMap<String, u16> {
    let Some(view) = table.get("ports") else { return BTreeMap::new() };
    let mut ports = BTreeMap::new();
    for (field, view) in reader.map(&view, 64, "write { http = 8080 }") {
        if ServiceName::new(field.key.as_str()).is_err() {
            let message = "a port's name is 1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit".to_owned();
            reader.report(field.at, Code::InvalidName, &view.path, message, None);
        }
        if let Some(port) = reader.integer::<u16>(&view, 1..=65535) {
            ports.insert(field.key.clone(), port);
        }
    }
    ports
}

/// The name of a port, by `port` of a table.
fn port_name(reader: &mut Reader, table: &Table<'_>, only: Option<&String>) -> Option<String> {
    const HINT: &str = "name one of the service's `ports`";
    let Some(view) = table.get("port") else {
        if only.is_none() {
            reader.missing(table, "port", HINT);
        }
        return only.cloned();
    };
    reader.string(&view, HINT)
}

fn publish(reader: &mut Reader, table: &Table<'_>, only: Option<&String>) -> BTreeMap<u16, String> {
    let Some(view) = table.get("publish") else { return BTreeMap::new() };
    let mut publish = BTreeMap::new();
    for view in reader.array(&view, 64, "write [{ port = \"http\", machine_port = 8080 }]") {
        let Some(table) = reader.table(&view, &keys::PUBLISH) else { continue };
        let name = port_name(reader, &table, only);
        let Some(at) = table.get("machine_port") else {
            reader.missing(
                &table,
                "machine_port",
                "name the port of the machine, for example `machine_port = 8080`",
            );
            continue;
        };
        let (Some(name), Some(port)) = (name, reader.integer::<u16>(&at, 1..=65535)) else {
            continue;
        };
        if publish.insert(port, name).is_some() {
            reader.wrong(
                &at,
                Code::PortConflict,
                format!("port {port} of the machine is published twice"),
                "",
            );
        }
    }
    publish
}

fn routes(reader: &mut Reader, table: &Table<'_>, only: Option<&String>) -> Vec<Route> {
    let Some(view) = table.get("routes") else { return Vec::new() };
    let mut routes = Vec::new();
    for view in
        reader.array(&view, 64, "write [{ hostnames = [\"blog.example.com\"], port = \"http\" }]")
    {
        let Some(table) = reader.table(&view, &keys::ROUTE) else { continue };
        if table.get("listen_port").is_some() {
            // A tcp route: refused already, and held to no rule of http routes.
            continue;
        }
        let mut hostnames: Vec<HostName> = Vec::new();
        match table.get("hostnames") {
            Some(view) => {
                let items = reader.array(&view, 64, "write [\"blog.example.com\"]");
                if items.is_empty() && matches!(view.node.kind, Kind::Array(_)) {
                    reader.wrong(
                        &view,
                        Code::InvalidValue,
                        "at least one host name is wanted".to_owned(),
                        "",
                    );
                }
                hostnames.extend(items.iter().filter_map(|item| values::host_name(reader, item)));
            }
            None => {
                reader.missing(&table, "hostnames", "write `hostnames = [\"blog.example.com\"]`")
            }
        }
        let prefix = table.get("path_prefix").and_then(|v| values::path_prefix(reader, &v));
        let path_prefix = prefix.unwrap_or_else(|| "/".to_owned());
        if let Some(port) = port_name(reader, &table, only) {
            routes.push(Route { hostnames, path_prefix, port });
        }
    }
    routes
}

fn readiness(reader: &mut Reader, table: &Table<'_>, only: Option<&String>) -> Option<Readiness> {
    const ONE: &str = "write exactly one of `http = { path = \"/healthz\", port = \"http\" }`, `tcp = { port = \"http\" }`, \
                       `exec = { command = [\"…\"] }`";
    let view = table.get("readiness")?;
    let table = reader.table(&view, &keys::READINESS)?;
    let mut probes = Vec::new();
    if let Some(table) = table.get("http").and_then(|v| reader.table(&v, &keys::HTTP)) {
        let path = match table.get("path") {
            Some(view) => values::request_path(reader, &view),
            None => {
                reader.missing(&table, "path", "write `path = \"/healthz\"`");
                None
            }
        };
        let port = port_name(reader, &table, only);
        probes.push(path.zip(port).map(|(path, port)| Probe::Http { path, port }));
    }
    if let Some(table) = table.get("tcp").and_then(|v| reader.table(&v, &keys::TCP)) {
        probes.push(port_name(reader, &table, only).map(|port| Probe::Tcp { port }));
    }
    if let Some(table) = table.get("exec").and_then(|v| reader.table(&v, &keys::EXEC)) {
        let command = words(reader, &table, "command");
        if table
            .get("command")
            .is_none_or(|v| matches!(&v.node.kind, Kind::Array(items) if items.is_empty()))
        {
            reader.missing(&table, "command", "write `command = [\"…\"]`");
        }
        probes.push((!command.is_empty()).then_some(Probe::Exec { command }));
    }
    let written = ["http", "tcp", "exec"].iter().filter(|key| table.get(key).is_some()).count();
    if written == 0 {
        reader.missing(&table, "http", ONE);
    } else if written > 1 {
        reader.wrong(
            &view,
            Code::Contradiction,
            format!("{written} kinds of probe, exactly one is wanted"),
            ONE,
        );
    }
    let tick = Span::from_millis(100);
    let interval = span(reader, &table, "interval", tick, HOUR);
    let timeout = span(reader, &table, "timeout", tick, Span::from_secs(300));
    let retries = table.get("retries").and_then(|v| reader.integer::<u32>(&v, 0..=1000));
    let start_period = span(reader, &table, "start_period", Span::default(), HOUR);
    let mut readiness = Readiness::new(probes.into_iter().next().flatten()?);
    readiness.interval = interval.unwrap_or(readiness.interval);
    readiness.timeout = timeout.unwrap_or(readiness.timeout);
    readiness.retries = retries.unwrap_or(readiness.retries);
    readiness.start_period = start_period.unwrap_or(readiness.start_period);
    Some(readiness)
}

fn rollout(
    reader: &mut Reader,
    table: &Table<'_>,
    machine_ports: bool,
    replicas: Replicas,
) -> Rollout {
    // What takes a port of the machine cannot run twice on it.
    let strategy = if machine_ports { Strategy::Recreate } else { Strategy::Rolling };
    let mut rollout = Rollout { strategy, batch: 1, drain: Span::from_secs(10) };
    let Some(table) = table.get("rollout").and_then(|v| reader.table(&v, &keys::ROLLOUT)) else {
        return rollout;
    };
    rollout.strategy = choice(reader, &table, "strategy", STRATEGIES).unwrap_or(rollout.strategy);
    rollout.drain = span(reader, &table, "drain", Span::default(), HOUR).unwrap_or(rollout.drain);
    if let Some(view) = table.get("batch") {
        rollout.batch = reader.integer::<u32>(&view, 1..=1000).unwrap_or(1);
        if rollout.strategy != Strategy::Rolling {
            let message = "only `rolling` goes in batches".to_owned();
            reader.wrong(
                &view,
                Code::Contradiction,
                message,
                "leave `batch` out, or write `strategy = \"rolling\"`",
            );
        }
    }
    // A bound, not a setting: `rolling` and `blue_green` never have less than all instances, `recreate` has none for
    // a while. So it is checked here and stored nowhere.
    if let Some(view) = table.get("max_unavailable") {
        let bound = reader.integer::<u32>(&view, 0..=1000);
        let all = if let Replicas::Count(count) = replicas { count } else { u32::MAX };
        if rollout.strategy == Strategy::Recreate && bound.is_some_and(|bound| bound < all) {
            let message = "`recreate` stops all instances before it starts new ones".to_owned();
            reader.wrong(
                &view,
                Code::Contradiction,
                message,
                "leave `max_unavailable` out, or write `strategy = \"rolling\"`",
            );
        }
    }
    rollout
}
