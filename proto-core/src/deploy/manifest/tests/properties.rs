use proptest::prelude::*;

use super::super::tree::Node;
use super::super::values::CAPABILITIES;
use super::super::*;
use crate::deploy::HostName;
use crate::deploy::spec::{
    Constraint, OnFailure, Placement, Replicas, Reservation, Rollout, Route,
    Strategy as RolloutStrategy, Topology,
};
use crate::runtime::{Network, Probe, Readiness, RestartPolicy, Workload};
use crate::span::Span;

fn span(max_secs: u64) -> impl Strategy<Value = Span> {
    prop_oneof![
        (0..=max_secs).prop_map(Span::from_secs),
        (100..max_secs * 1000).prop_map(Span::from_millis)
    ]
}

fn topology() -> impl Strategy<Value = Topology> {
    prop_oneof![
        Just(Topology::Machine),
        Just(Topology::Region),
        Just(Topology::Az),
        "[a-z][a-z./-]{0,8}".prop_map(Topology::Label)
    ]
}

fn placement() -> impl Strategy<Value = Placement> {
    let constraint = (topology(), any::<bool>(), "[a-zA-Z0-9._-]{1,9}")
        .prop_map(|(attribute, equal, value)| Constraint { attribute, equal, value });
    let replicas = prop_oneof![Just(Replicas::Global), (0..20_u32).prop_map(Replicas::Count)];
    (replicas, prop::collection::vec(constraint, 0..3), topology()).prop_map(
        |(replicas, constraints, spread)| {
            let spread = if replicas == Replicas::Global { Topology::Machine } else { spread };
            Placement { replicas, constraints, spread }
        },
    )
}

fn workload() -> impl Strategy<Value = Workload> {
    // Texts with everything that has to be escaped.
    let text = "[ -~äß\u{1f600}\n\t\r\u{1b}\u{7f}\"\\\\]{0,12}";
    let words = move || prop::collection::vec(text.prop_map(|text| format!("x{text}")), 0..3);
    let limits = (prop::option::of(1_000..9_000_u32), prop::option::of((6 << 20)..(1_u64 << 40)));
    let names = (
        prop::option::of("[a-z0-9]{1,8}(:[0-9]{1,4})?"),
        prop::collection::btree_set(prop::sample::select(&CAPABILITIES[..]), 0..3),
    );
    (
        words(),
        words(),
        prop::collection::btree_map("X[A-Za-z0-9_]{0,6}", text, 0..3),
        prop::collection::btree_map("[!-<>-~]{1,9}", text, 0..3),
        limits,
        names,
        prop_oneof![
            Just(RestartPolicy::Always),
            Just(RestartPolicy::OnFailure),
            Just(RestartPolicy::No)
        ],
        span(3600),
    )
        .prop_map(
            |(
                entrypoint,
                command,
                env,
                labels,
                limits,
                (user, caps),
                restart,
                stop_grace_period,
            )| Workload {
                image: "registry.example/a/b:c".into(),
                entrypoint,
                command,
                env,
                user,
                cap_add: caps.iter().map(|name| (*name).to_owned()).collect(),
                cap_drop: caps.into_iter().map(str::to_owned).collect(),
                cpu_limit_millis: limits.0,
                memory_limit_bytes: limits.1,
                restart,
                stop_grace_period,
                labels,
                publish: BTreeMap::new(),
                network: Network::Overlay,
            },
        )
}

fn service() -> impl Strategy<Value = ServiceSpec> {
    let probe = prop_oneof![
        "/[a-z?=&%]{0,9}".prop_map(|path| Probe::Http { path, port: "p0".into() }),
        Just(Probe::Tcp { port: "p0".into() }),
        prop::collection::vec("[a-z \"]{1,5}", 1..3).prop_map(|command| Probe::Exec { command }),
    ];
    let times = (span(3600), span(300), 0..1000_u32, span(3600));
    let readiness =
        (probe, times).prop_map(|(probe, (interval, timeout, retries, start_period))| Readiness {
            probe,
            interval: interval.max(Span::from_millis(100)),
            timeout: timeout.max(Span::from_millis(100)),
            retries,
            start_period,
        });
    let route =
        (prop::collection::btree_set("[a-z]{1,9}\\.example", 1..3), "(/|(/[a-z.]{3,5}x){1,2})");
    let strategy = prop_oneof![
        (1..1000_u32).prop_map(|batch| (RolloutStrategy::Rolling, batch)),
        Just((RolloutStrategy::Recreate, 1)),
        Just((RolloutStrategy::BlueGreen, 1)),
    ];
    (
        workload(),
        placement(),
        (
            prop_oneof![Just(0), 10..1000_u32],
            prop_oneof![Just(0), Just(6 << 20), (6 << 20)..(7_u64 << 20)],
        ),
        prop::collection::btree_set(1..=65535_u16, 1..4),
        prop::collection::vec(route, 0..3),
        prop::option::of(readiness),
        (strategy, span(3600)),
        (0..3_u8, any::<u16>()),
    )
        .prop_map(
            |(
                mut workload,
                placement,
                reserved,
                ports,
                routes,
                readiness,
                rollout,
                (network, machine_port),
            )| {
                let ((mut strategy, mut batch), drain) = rollout;
                match network {
                    0 => workload.network = Network::Host,
                    1 => drop(workload.publish.insert(machine_port.max(1), "p0".into())),
                    _ => {}
                }
                let bare = strategy == RolloutStrategy::BlueGreen && readiness.is_none();
                if network < 2 || bare {
                    (strategy, batch) = (RolloutStrategy::Recreate, 1);
                }
                ServiceSpec {
                    workload,
                    placement,
                    reservation: Reservation { cpu_millis: reserved.0, memory_bytes: reserved.1 },
                    ports: ports
                        .into_iter()
                        .enumerate()
                        .map(|(n, port)| (format!("p{n}"), port))
                        .collect(),
                    routes: routes
                        .into_iter()
                        .map(|(names, path_prefix)| Route {
                            hostnames: names
                                .into_iter()
                                .map(|name| HostName::new(name).unwrap())
                                .collect(),
                            path_prefix,
                            port: "p0".into(),
                        })
                        .collect(),
                    readiness,
                    rollout: Rollout { strategy, batch, drain },
                    on_failure: OnFailure::Abort,
                }
            },
        )
}

fn manifest() -> impl Strategy<Value = Manifest> {
    prop::collection::btree_map("[a-z0-9][a-z0-9_-]{0,9}", service(), 0..4).prop_map(|services| {
        let named = services.into_iter().map(|(name, mut spec)| {
            normalise(&mut spec);
            (ServiceName::new(name).unwrap(), spec)
        });
        Manifest { namespace: Namespace::new("n").unwrap(), services: named.collect() }
    })
}

/// Texts that look somewhat like manifests, so that more than the first character is read.
fn fragments() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[[services]]\n".to_owned()),
        Just("namespace = \"a\"\n".to_owned()),
        prop::sample::select(
            &[
                "{", "}", "[", "]", ",", ":", "\"", "\\u12", "\\", "1e999", "-0", "null", "=",
                "\n", "'''"
            ][..]
        )
        .prop_map(str::to_owned),
        prop::sample::select(keys::SERVICE.keys).prop_map(|key| format!("{key} = ")),
        prop::sample::select(keys::READINESS.keys).prop_map(|key| format!("\"{key}\": ")),
        "\\PC{0,4}",
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_filter("JSON has no such number", |n| n.is_finite()).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn equals(node: &Node, value: &serde_json::Value) -> bool {
    use super::super::tree::Kind;
    match (&node.kind, value) {
        (Kind::Null, serde_json::Value::Null) => true,
        (Kind::Bool(a), serde_json::Value::Bool(b)) => a == b,
        (Kind::Integer(a), b) => {
            b.as_i64().map(i128::from) == Some(*a) || b.as_f64() == Some(*a as f64)
        }
        (Kind::Float(a), b) => b.as_f64().is_some_and(|b| (a - b).abs() <= a.abs() * 1e-14),
        (Kind::String(a), serde_json::Value::String(b)) => a == b,
        (Kind::Array(a), serde_json::Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equals(a, b))
        }
        (Kind::Table(a), serde_json::Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|f| b.get(&f.key).is_some_and(|b| equals(&f.value, b)))
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn what_is_rendered_parses_back_to_the_same_in_both_syntaxes(manifest in manifest()) {
        // Routes and ports of generated services may clash with one another.
        prop_assume!(crate::deploy::validate::validate(&manifest).is_empty());
        let text = render(&manifest);
        let back = parse(&text, Format::Toml, "x");
        prop_assert_eq!(back.as_ref(), Ok(&manifest), "{}", text);
        prop_assert_eq!(render(&back.unwrap()), text.as_str());
        let json = serde_json::to_string_pretty(&document(&manifest)).unwrap();
        let back = parse(&json, Format::Json, "x");
        prop_assert_eq!(back.map(|m| m.digest()), Ok(manifest.digest()), "{}", json);
    }

    #[test]
    fn what_is_stored_reads_back(manifest in manifest()) {
        let stored = serde_json::to_value(&manifest).unwrap();
        prop_assert_eq!(serde_json::from_value::<Manifest>(stored).unwrap(), manifest);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in prop_oneof![any::<String>(), fragments()]) {
        for format in [Format::Toml, Format::Json] {
            if let Err(problems) = parse(&text, format, "x") {
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.is_sorted_by_key(|p| (p.line, p.column)));
                let lines = text.split('\n').count() as u32;
                prop_assert!(problems.iter().all(|p| (1..=lines).contains(&p.line) && p.column >= 1));
            }
        }
    }

    #[test]
    fn our_json_reader_accepts_what_serde_json_accepts(text in fragments()) {
        // Of these serde_json takes the last of equal keys, and refuses numbers beyond f64.
        if let Err(error) = json::parse(&text) {
            prop_assert!(error.duplicate || serde_json::from_str::<serde_json::Value>(&text).is_err(), "{:?}", error);
        } else if !text.contains("1e999") {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }

    #[test]
    fn our_json_reader_reads_what_serde_json_writes(value in json_value()) {
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let node = json::parse(&text).unwrap();
            prop_assert!(equals(&node, &value), "{} {:?}", text, node);
        }
    }
}

#[test]
fn json_escapes_and_depth_are_those_of_the_standard() {
    for good in [
        "\"\\ud83d\\ude00\\u00e4\\/\\b\\f\\n\\r\\t\\\"\\\\\"",
        "-0",
        "0.5e-3",
        " [ ] ",
        &("[".repeat(64) + &"]".repeat(64)),
    ] {
        let node = json::parse(good).unwrap();
        assert!(equals(&node, &serde_json::from_str(good).unwrap()), "{good}");
    }
    let deep = "[".repeat(100_000);
    for bad in [
        "",
        "01",
        "1.",
        ".5",
        "+1",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\n\"",
        "{'a':1}",
        "[1,]",
        "nul",
        "\u{a0}1",
        "\"\\u+123\"",
        &deep,
    ] {
        assert!(json::parse(bad).is_err(), "{bad}");
    }
    let toml = format!("a = {deep}");
    assert_eq!(parse(&toml, Format::Toml, "x").unwrap_err().len(), 1);
}
