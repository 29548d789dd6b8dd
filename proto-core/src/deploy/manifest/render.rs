//! Specs back to TOML, for `diff` and `rollback --render`.

use std::fmt::Write as _;

use super::service::{NETWORKS, ON_FAILURES, RESTARTS, STRATEGIES};
use crate::deploy::spec::{Manifest, Replicas, ServiceSpec};
use crate::deploy::units;
use crate::id::ServiceName;
use crate::runtime::{Network, Probe, RestartPolicy};

/// The manifest as TOML: parsed again it is equal. One key a line in a fixed order, so that two renderings can be compared
/// line by line; what has its default is left out, except the roll-out, whose default depends on other keys.
#[must_use]
pub fn render(manifest: &Manifest) -> String {
    let mut out = format!("namespace = {}\n", quote(manifest.namespace.as_str()));
    if manifest.services.is_empty() {
        out += "services = []\n";
    }
    for (name, spec) in &manifest.services {
        service(&mut out, name, spec);
    }
    out
}

/// The same as a JSON document, which reads back as the same manifest too.
///
/// # Panics
///
/// Never: what [`render`] writes is TOML.
#[must_use]
pub fn document(manifest: &Manifest) -> serde_json::Value {
    toml::from_str(&render(manifest)).expect("it was rendered as TOML")
}

fn service(out: &mut String, name: &ServiceName, spec: &ServiceSpec) {
    let workload = &spec.workload;
    *out += "\n[[services]]\n";
    line(out, "name", &quote(name.as_str()));
    if !workload.image.is_empty() {
        line(out, "image", &quote(&workload.image));
    }
    for (key, words) in [("entrypoint", &workload.entrypoint), ("command", &workload.command)] {
        strings(out, key, words);
    }
    if !workload.env.is_empty() {
        line(out, "env", &table(workload.env.iter().map(|(k, v)| (quote_key(k), quote(v)))));
    }
    line(out, "placement", &placement(spec));
    resources(out, spec);
    if workload.network != Network::default() {
        line(out, "network", &word(NETWORKS, &workload.network));
    }
    if !spec.ports.is_empty() {
        line(out, "ports", &table(spec.ports.iter().map(|(k, v)| (quote_key(k), v.to_string()))));
    }
    if !workload.publish.is_empty() {
        let publish = workload.publish.iter().map(|(machine_port, port)| {
            table([
                ("port".to_owned(), quote(port)),
                ("machine_port".to_owned(), machine_port.to_string()),
            ])
        });
        line(out, "publish", &array(publish));
    }
    if !spec.routes.is_empty() {
        let routes = spec.routes.iter().map(|route| {
            table([
                (
                    "hostnames".to_owned(),
                    array(route.hostnames.iter().map(|name| quote(name.as_str()))),
                ),
                ("path_prefix".to_owned(), quote(&route.path_prefix)),
                ("port".to_owned(), quote(&route.port)),
            ])
        });
        line(out, "routes", &array(routes));
    }
    readiness(out, spec);
    rollout(out, spec);
    line(out, "on_failure", &word(ON_FAILURES, &spec.on_failure));
    if workload.restart != RestartPolicy::default() {
        line(out, "restart", &word(RESTARTS, &workload.restart));
    }
    line(out, "stop_grace_period", &quote(&workload.stop_grace_period.to_string()));
    if let Some(user) = &workload.user {
        line(out, "user", &quote(user));
    }
    strings(out, "cap_add", &workload.cap_add);
    strings(out, "cap_drop", &workload.cap_drop);
    if !workload.labels.is_empty() {
        line(out, "labels", &table(workload.labels.iter().map(|(k, v)| (quote_key(k), quote(v)))));
    }
}

fn placement(spec: &ServiceSpec) -> String {
    let placement = &spec.placement;
    let constraints = || {
        let texts = placement.constraints.iter().map(|c| quote(&c.to_string()));
        (!placement.constraints.is_empty()).then(|| ("constraints".to_owned(), array(texts)))
    };
    match placement.replicas {
        Replicas::Global if placement.constraints.is_empty() => quote("global"),
        Replicas::Global => {
            table([("replicas".to_owned(), quote("global"))].into_iter().chain(constraints()))
        }
        Replicas::Count(count) => {
            let spread = ("spread".to_owned(), quote(&placement.spread.to_string()));
            table(
                [("replicas".to_owned(), count.to_string())]
                    .into_iter()
                    .chain(constraints())
                    .chain([spread]),
            )
        }
    }
}

fn resources(out: &mut String, spec: &ServiceSpec) {
    let amounts = |cpu: Option<u32>, memory: Option<u64>| {
        let cpu = cpu.map(|millis| ("cpu".to_owned(), quote(&format!("{millis}m"))));
        let memory = memory.map(|bytes| ("memory".to_owned(), quote(&units::memory(bytes))));
        cpu.into_iter().chain(memory)
    };
    let reserved = spec.reservation;
    let reserved = amounts(
        Some(reserved.cpu_millis).filter(|n| *n > 0),
        Some(reserved.memory_bytes).filter(|n| *n > 0),
    );
    let reserved =
        (!spec.reservation.is_zero()).then(|| ("reservations".to_owned(), table(reserved)));
    let all: Vec<_> = amounts(spec.workload.cpu_limit_millis, spec.workload.memory_limit_bytes)
        .chain(reserved)
        .collect();
    if !all.is_empty() {
        line(out, "resources", &table(all));
    }
}

fn readiness(out: &mut String, spec: &ServiceSpec) {
    let Some(readiness) = &spec.readiness else { return };
    let port = |port: &str| ("port".to_owned(), quote(port));
    let probe = match &readiness.probe {
        Probe::Http { path, port: name } => {
            ("http", table([("path".to_owned(), quote(path)), port(name)]))
        }
        Probe::Tcp { port: name } => ("tcp", table([port(name)])),
        Probe::Exec { command } => {
            ("exec", table([("command".to_owned(), array(command.iter().map(|word| quote(word))))]))
        }
    };
    let all = [
        (probe.0, probe.1),
        ("interval", quote(&readiness.interval.to_string())),
        ("timeout", quote(&readiness.timeout.to_string())),
        ("retries", readiness.retries.to_string()),
        ("start_period", quote(&readiness.start_period.to_string())),
    ];
    line(out, "readiness", &table(all.map(|(key, value)| (key.to_owned(), value))));
}

fn rollout(out: &mut String, spec: &ServiceSpec) {
    let rollout = &spec.rollout;
    let batch = (rollout.batch != 1).then(|| ("batch".to_owned(), rollout.batch.to_string()));
    let all = [("strategy".to_owned(), word(STRATEGIES, &rollout.strategy))]
        .into_iter()
        .chain(batch)
        .chain([("drain".to_owned(), quote(&rollout.drain.to_string()))]);
    line(out, "rollout", &table(all));
}

fn strings(out: &mut String, key: &str, words: &[String]) {
    if !words.is_empty() {
        line(out, key, &array(words.iter().map(|word| quote(word))));
    }
}

fn line(out: &mut String, key: &str, value: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{key} = {value}");
}

fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

fn table(fields: impl IntoIterator<Item = (String, String)>) -> String {
    let fields: Vec<String> =
        fields.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", fields.join(", "))
}

/// The word of a choice.
fn word<T: PartialEq>(choices: &[(&str, T)], value: &T) -> String {
    let (word, _) =
        choices.iter().find(|(_, v)| v == value).expect("every variant is in its list of choices");
    quote(word)
}

fn quote_key(key: &str) -> String {
    let bare = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare && !key.is_empty() { key.to_owned() } else { quote(key) }
}

/// A TOML basic string on one line.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out += "\\n",
            '\t' => out += "\\t",
            '\r' => out += "\\r",
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
