//! Every key of the manifest, in one list: the reader refuses what is not here, `docs/schema/manifest.schema.json` and
//! `docs/manifest.md` are held against it by tests.

/// The keys of one table.
#[derive(Debug)]
pub(super) struct Table {
    /// Where it lies, for example `services[].readiness.http`; empty for the top.
    pub(super) path: &'static str,
    pub(super) keys: &'static [&'static str],
    /// Keys that are known and not in this version, with what is said of them.
    pub(super) later: &'static [(&'static str, &'static str)],
    /// What users of other tools write, with what to write here.
    pub(super) aliases: &'static [(&'static str, &'static str)],
}

const VOLUMES: &str = "this version has no managed volumes";

impl Table {
    /// Which keys there are.
    pub(super) fn hint(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(|key| format!("`{key}`")).collect();
        let of = if self.path.is_empty() { "a manifest" } else { self.path };
        format!("the keys of {of} are {}", keys.join(", "))
    }
}

pub(super) const TOP: Table = Table {
    path: "",
    keys: &["namespace", "services"],
    later: &[
        ("volumes", VOLUMES),
        ("intent", "this version has no moves, clones, phases or restores in a manifest"),
        ("phases", "this version has no phases"),
    ],
    aliases: &[
        ("service", "write `[[services]]`"),
        ("name", "write `namespace = \"…\"`"),
        ("version", "leave it out: there is one version of the manifest"),
    ],
};

pub(super) const SERVICE: Table = Table {
    path: "services[]",
    keys: &[
        "name",
        "image",
        "command",
        "entrypoint",
        "env",
        "placement",
        "resources",
        "network",
        "ports",
        "publish",
        "routes",
        "readiness",
        "rollout",
        "on_failure",
        "restart",
        "stop_grace_period",
        "user",
        "cap_add",
        "cap_drop",
        "labels",
    ],
    later: &[
        ("mounts", VOLUMES),
        (
            "secrets",
            "this version has no secrets; an environment variable can be read by everyone who can read the store",
        ),
        ("configs", "this version has no configuration files"),
        ("hooks", "this version runs no hooks"),
    ],
    aliases: &[
        ("replicas", "write `placement = { replicas = 2 }`"),
        ("environment", "write `env`"),
        ("cmd", "write `command`"),
        ("args", "write `command`"),
        ("volumes", "managed volumes are written as `mounts`, and this version has none"),
        ("healthcheck", "write `readiness`"),
        ("health_check", "write `readiness`"),
        ("hostnames", "write `routes = [{ hostnames = [\"…\"] }]`"),
        ("deploy", "write `placement`, `resources`, `rollout` and `restart`"),
        ("update", "write `rollout`"),
        ("memory", "write `resources = { memory = \"256MiB\" }`"),
        ("cpu", "write `resources = { cpu = \"500m\" }`"),
    ],
};

pub(super) const PLACEMENT: Table =
    plain("services[].placement", &["replicas", "constraints", "spread"]);
pub(super) const RESOURCES: Table =
    plain("services[].resources", &["cpu", "memory", "reservations"]);
pub(super) const RESERVATIONS: Table =
    plain("services[].resources.reservations", &["cpu", "memory"]);
pub(super) const PUBLISH: Table = Table {
    aliases: &[
        ("host_port", "write `machine_port`"),
        ("published", "write `machine_port`"),
        ("target", "write `port`, the name of a port"),
    ],
    ..plain("services[].publish[]", &["port", "machine_port"])
};
pub(super) const ROUTE: Table = Table {
    later: &[(
        "listen_port",
        "this version has no tcp routes; `publish` gives a port of the machine itself",
    )],
    aliases: &[("host", "write `hostnames = [\"…\"]`"), ("path", "write `path_prefix`")],
    ..plain("services[].routes[]", &["hostnames", "path_prefix", "port"])
};
pub(super) const READINESS: Table = Table {
    aliases: &[
        ("path", "write `http = { path = \"/…\" }`"),
        ("command", "write `exec = { command = [\"…\"] }`"),
    ],
    ..plain(
        "services[].readiness",
        &["http", "tcp", "exec", "interval", "timeout", "retries", "start_period"],
    )
};
pub(super) const HTTP: Table = plain("services[].readiness.http", &["path", "port"]);
pub(super) const TCP: Table = plain("services[].readiness.tcp", &["port"]);
pub(super) const EXEC: Table = plain("services[].readiness.exec", &["command"]);
pub(super) const ROLLOUT: Table =
    plain("services[].rollout", &["strategy", "batch", "max_unavailable", "drain"]);

#[cfg(test)]
pub(super) const TABLES: &[Table] = &[
    TOP,
    SERVICE,
    PLACEMENT,
    RESOURCES,
    RESERVATIONS,
    PUBLISH,
    ROUTE,
    READINESS,
    HTTP,
    TCP,
    EXEC,
    ROLLOUT,
];

const fn plain(path: &'static str, keys: &'static [&'static str]) -> Table {
    Table { path, keys, later: &[], aliases: &[] }
}

/// The one of `known` that `word` most likely means.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // Nobody mistypes a key into something that long.
    if word.len() > 40 {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let (best, distance) = known
        .iter()
        .map(|key| (*key, distance(&word, key)))
        .min_by_key(|(_, distance)| *distance)?;
    (distance <= 1 + best.len() / 4).then_some(best)
}

/// Insertions, deletions, replacements and swaps of neighbours that make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_its_key_and_nonsense_finds_none() {
        for (word, key) in [
            ("imgae", "image"),
            ("Image", "image"),
            ("cap-add", "cap_add"),
            ("route", "routes"),
            ("commnd", "command"),
        ] {
            assert_eq!(nearest(word, SERVICE.keys), Some(key), "{word}");
        }
        for word in ["", "xyz", "frobnicate", &"x".repeat(1000)] {
            assert_eq!(nearest(word, SERVICE.keys), None, "{word}");
        }
    }
}
