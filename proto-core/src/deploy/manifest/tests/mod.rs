mod documents;
mod properties;

use super::*;

const WEB: &str = "[[services]]\nname = \"web\"\nimage = \"web:1\"\nports = { http = 8080 }\n";

fn toml_of(text: &str) -> Result<Manifest, Vec<ManifestProblem>> {
    parse(text, Format::Toml, "ployz.toml")
}

/// The problems of a manifest with one service `web`, which has a port `http`, and these lines.
fn web(lines: &str) -> Vec<ManifestProblem> {
    problems(&format!("namespace = \"blog\"\n{WEB}{lines}\n"))
}

fn problems(text: &str) -> Vec<ManifestProblem> {
    toml_of(text).err().unwrap_or_default()
}

fn good(lines: &str) -> ServiceSpec {
    let text = format!("namespace = \"blog\"\n{WEB}{lines}\n");
    let manifest = toml_of(&text).unwrap_or_else(|p| panic!("{lines}: {p:?}"));
    manifest.services.into_values().next().unwrap()
}

#[test]
fn a_service_of_one_line_has_every_default() {
    use crate::deploy::spec::{OnFailure, Replicas, Strategy, Topology};
    let spec = good("");
    assert_eq!(spec.placement.replicas, Replicas::Count(1));
    assert_eq!(spec.placement.spread, Topology::Machine);
    assert_eq!((spec.rollout.strategy, spec.rollout.batch), (Strategy::Rolling, 1));
    assert_eq!(spec.rollout.drain.to_string(), "10s");
    assert_eq!(spec.workload.stop_grace_period.to_string(), "10s");
    assert_eq!(spec.on_failure, OnFailure::Abort);
    assert_eq!(good("publish = [{ machine_port = 80 }]").rollout.strategy, Strategy::Recreate);
    assert_eq!(good("network = \"host\"").rollout.strategy, Strategy::Recreate);
}

#[test]
fn all_problems_are_found_in_one_go_with_their_places_in_order() {
    let text = "namespace = \"Blog\"\n\n[[services]]\nname = \"web\"\nimgae = \"web:1\"\nrestart = 3\n\n[[services]]\nimage = \"a b\"\n\
                \u{20} routes = [{ hostnames = [\"ok.example\", \"Ä.example\"] }]\nenv = { \"ä\" = 1 }\n";
    let lines: Vec<String> = problems(text).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "ployz.toml:1:13: INVALID_NAME namespace: \"Blog\" is no namespace: 1 to 63 of a-z, 0-9, '-' and '_', starting \
             with a letter or digit",
            "ployz.toml:5:1: UNKNOWN_KEY services[0].imgae: there is no key `imgae` (did you mean `image`?)",
            "ployz.toml:6:11: WRONG_TYPE services[0].restart: a string is wanted, not an integer (allowed are \"always\", \
             \"on-failure\", \"no\")",
            "ployz.toml:8:1: MISSING_KEY services[1].name: `name` is missing (write `name = \"web\"`)",
            "ployz.toml:9:9: INVALID_VALUE services[1].image: \"a b\" is no image (write it as `docker pull` takes it, for \
             example \"nginx:1.29\" or \"ghcr.io/example/blog@sha256:…\")",
            "ployz.toml:10:13: MISSING_KEY services[1].routes[0].port: `port` is missing (name one of the service's `ports`)",
            "ployz.toml:10:42: INVALID_NAME services[1].routes[0].hostnames[1]: \"Ä.example\" is no host name: lower-case \
             labels of a-z, 0-9 and '-' joined by dots are wanted, for example \"blog.example.com\"",
            "ployz.toml:11:9: INVALID_NAME services[1].env.\"ä\": a variable's name is 1 to 255 of letters, digits and '_', \
             not starting with a digit",
            "ployz.toml:11:15: WRONG_TYPE services[1].env.\"ä\": a string is wanted, not an integer (write \"1\" in quotes)",
        ]
    );
}

#[test]
fn syntax_errors_and_duplicate_keys_have_their_place_in_both_syntaxes() {
    let cases = [
        (Format::Toml, "namespace = \"a\"\nservices = [", Code::ManifestSyntax, 2),
        (Format::Toml, "namespace = \"a\"\nnamespace = \"b\"\n", Code::DuplicateKey, 2),
        (Format::Json, "{\n\"namespace\": \"a\",\n}", Code::ManifestSyntax, 3),
        (Format::Json, "{\"namespace\": \"a\",\n\n\"namespace\": \"b\"}", Code::DuplicateKey, 3),
    ];
    for (format, text, code, line) in cases {
        let problems = parse(text, format, "f").unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!((problems[0].code, problems[0].line), (code, line), "{problems:?}");
        let names = problems[0].message == "the key `namespace` is there already";
        assert_eq!(names, code == Code::DuplicateKey, "{problems:?}");
    }
}

#[test]
fn a_key_of_the_users_own_is_found_in_the_text_whatever_it_is_made_of() {
    for key in ["ployz.x", "ployz.a.b[0]", "ployz.\"q\"", "ployz.back\\slash"] {
        let lines = format!("env = {{ A = \"1\" }}\nlabels = {{ a = \"1\", {key:?} = \"2\" }}");
        let problem = &web(&lines)[0];
        assert_eq!((problem.line, problem.column), (7, 21), "{problem}");
        assert_eq!(problem.path, format!("services[0].labels.{key:?}"));
    }
}

#[test]
fn a_service_on_the_machine_itself_has_a_command() {
    let text = "namespace = \"n\"\n[[services]]\nname = \"w\"\nimage = \"host\"\n[[services]]\nname = \"x\"\nimage = \"host\"\n";
    let found = problems(&format!("{text}entrypoint = [\"serve\"]\n"));
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "ployz.toml:2:1: MISSING_KEY services[0].command: `image = \"host\"` is no image: a process is a command of the \
             machine, and `command` is missing (write `command = [\"…\"]`)"
        ]
    );
}

/// A line of a service, the code that it earns, and a part of what is said.
const REFUSED: &[(&str, Code, &str)] = &[
    ("command = \"nginx -g x\"", Code::WrongType, "write [\"nginx\", \"-g\", \"x\"]"),
    ("command = [\"\"]", Code::InvalidValue, "program's name is empty"),
    ("replicas = 2", Code::UnknownKey, "placement = { replicas = 2 }"),
    ("healthcheck = {}", Code::UnknownKey, "write `readiness`"),
    ("placement = \"globl\"", Code::InvalidValue, "did you mean \"global\"?"),
    ("placement = { replicas = 1001 }", Code::OutOfRange, "0 to 1000"),
    ("placement = { replicas = -1 }", Code::OutOfRange, "0 to 1000"),
    ("placement = { constraints = [\"region = eu\"] }", Code::InvalidValue, "region == eu"),
    ("placement = { constraints = [\"zone == eu\"] }", Code::InvalidValue, "`label.NAME`"),
    ("placement = { spread = \"rack\" }", Code::InvalidValue, "`label.NAME`"),
    (
        "placement = { replicas = \"global\", spread = \"az\" }",
        Code::Contradiction,
        "nothing to spread",
    ),
    ("resources = { memory = \"256m\" }", Code::InvalidValue, "256MiB"),
    ("resources = { memory = \"1MiB\" }", Code::OutOfRange, "6MiB"),
    ("resources = { cpu = 0.0005 }", Code::InvalidValue, "500m"),
    ("resources = { cpu = 5000 }", Code::OutOfRange, "1024 cores"),
    (
        "resources = { cpu = 1, reservations = { cpu = 2 } }",
        Code::Contradiction,
        "more is reserved",
    ),
    (
        "resources = { memory = \"1GiB\", reservations = { memory = \"2GiB\" } }",
        Code::Contradiction,
        "more is reserved",
    ),
    (
        "publish = [{ port = \"https\", machine_port = 80 }]",
        Code::UndeclaredPort,
        "declared are `http`",
    ),
    ("publish = [{ machine_port = 80 }, { machine_port = 80 }]", Code::PortConflict, "twice"),
    (
        "publish = [{ machine_port = 80 }]\nrollout = { strategy = \"rolling\" }",
        Code::Contradiction,
        "recreate",
    ),
    ("publish = [{ machine_port = 0 }]", Code::OutOfRange, "1 to 65535"),
    ("network = \"none\"", Code::Contradiction, "nothing can reach"),
    (
        "network = \"host\"\npublish = [{ machine_port = 80 }]",
        Code::Contradiction,
        "leave `publish` out",
    ),
    (
        "network = \"host\"\nrollout = { strategy = \"blue_green\" }\nreadiness = { tcp = {} }",
        Code::Contradiction,
        "recreate",
    ),
    ("routes = [{ hostnames = [] }]", Code::InvalidValue, "at least one"),
    ("routes = [{ hostnames = [\"*.example.com\"] }]", Code::InvalidName, "wildcards"),
    (
        "routes = [{ hostnames = [\"Blog.example.com.\"] }]",
        Code::InvalidName,
        "write \"blog.example.com\"",
    ),
    (
        "routes = [{ hostnames = [\"a.example\"], path_prefix = \"api\" }]",
        Code::InvalidValue,
        "/api/v1",
    ),
    (
        "routes = [{ hostnames = [\"a.example\"], path_prefix = \"/a/../b\" }]",
        Code::InvalidValue,
        "whole segments",
    ),
    (
        "routes = [{ hostnames = [\"a.example\", \"a.example\"] }]",
        Code::RouteConflict,
        "by this service",
    ),
    ("routes = [{ listen_port = 5432 }]", Code::Unsupported, "tcp routes"),
    ("readiness = {}", Code::MissingKey, "exactly one"),
    (
        "readiness = { tcp = {}, exec = { command = [\"true\"] } }",
        Code::Contradiction,
        "exactly one",
    ),
    ("readiness = { http = {} }", Code::MissingKey, "/healthz"),
    ("readiness = { http = { path = \"healthz\" } }", Code::InvalidValue, "absolute path"),
    ("readiness = { exec = {} }", Code::MissingKey, "`command` is missing"),
    ("readiness = { tcp = {}, interval = \"1\" }", Code::InvalidValue, "for example \"5s\""),
    ("readiness = { tcp = {}, interval = \"0s\" }", Code::OutOfRange, "100ms to 1h"),
    ("rollout = { strategy = \"blue-green\" }", Code::InvalidValue, "did you mean \"blue_green\"?"),
    ("rollout = { strategy = \"blue_green\" }", Code::ReadinessRequired, "/healthz"),
    ("rollout = { strategy = \"recreate\", batch = 2 }", Code::Contradiction, "batches"),
    (
        "rollout = { strategy = \"recreate\", max_unavailable = 0 }",
        Code::Contradiction,
        "stops all",
    ),
    ("rollout = { batch = 0 }", Code::OutOfRange, "1 to 1000"),
    ("rollout = { drain = \"2h\" }", Code::OutOfRange, "0s to 1h"),
    ("rollout = { drain = \"800h\" }", Code::InvalidValue, "no duration of 0s to 1h"),
    ("stop_grace_period = \"1.5s\"", Code::InvalidValue, "no duration of 0s to 1h"),
    ("on_failure = \"rollback\"", Code::Unsupported, "write \"abort\""),
    ("on_failure = \"retry\"", Code::InvalidValue, "\"abort\""),
    ("restart = \"unless-stopped\"", Code::InvalidValue, "\"always\""),
    ("user = \"a b\"", Code::InvalidValue, "\"user:group\" or \"uid:gid\""),
    ("cap_add = [\"NET ADMIN\"]", Code::InvalidValue, "capabilities(7)"),
    ("cap_add = [\"CAP_NET_ADMN\"]", Code::InvalidValue, "capabilities(7)"),
    ("cap_drop = [\"EVERYTHING\"]", Code::InvalidValue, "capabilities(7)"),
    ("placement = { replicas = \"3\" }", Code::WrongType, "write 3 without quotes"),
    ("labels = { \"ployz.x\" = \"1\" }", Code::ReservedName, "ployz.x"),
    ("env = { PORT = \"80\" }", Code::ReservedName, "declare `ports`"),
    ("env = { PORT_HTTP = \"80\" }", Code::ReservedName, "declare `ports`"),
    ("env = { PLOYZ_X = \"80\" }", Code::ReservedName, "choose another name"),
    ("env = { DEBUG = true }", Code::WrongType, "write \"true\" in quotes"),
    ("mounts = []", Code::Unsupported, "managed volumes"),
    ("secrets = []", Code::Unsupported, "secrets"),
    ("configs = []", Code::Unsupported, "configuration files"),
    ("hooks = { pre_deploy = [\"x\"] }", Code::Unsupported, "hooks"),
    ("[[volumes]]\nname = \"x\"", Code::Unsupported, "managed volumes"),
    ("[intent]", Code::Unsupported, "moves"),
    ("[[services]]\nname = \"web\"\nimage = \"x\"", Code::DuplicateName, "services[0]"),
    ("[[services]]\nname = \"two\"", Code::MissingKey, "`image` is missing"),
    (
        "[[services]]\nname = \"two\"\nimage = \"x\"\nports = { a = 1, b = 1 }",
        Code::PortConflict,
        "`a` already",
    ),
    (
        "[[services]]\nname = \"two\"\nimage = \"x\"\nports = { a-b = 1, a_b = 2 }",
        Code::PortConflict,
        "PORT_A_B",
    ),
];

#[test]
fn each_mistake_has_one_problem_with_its_code_and_a_way_out() {
    for (lines, code, said) in REFUSED {
        let all = web(lines);
        let wanted = all.iter().filter(|p| p.code == *code && p.to_string().contains(said)).count();
        let codes = all.iter().filter(|p| p.code == *code).count();
        assert_eq!((wanted, all.len() - codes), (codes, 0), "{lines}\n{all:#?}");
        assert!(wanted >= 1, "{lines}\n{all:#?}");
        assert!(all.iter().all(|p| p.line > 1), "{lines}: the place is not known\n{all:#?}");
    }
}

#[test]
fn every_code_is_reached() {
    let elsewhere = [Code::ManifestSyntax, Code::DuplicateKey, Code::TooLarge, Code::TooMany];
    for code in Code::ALL {
        let reached =
            elsewhere.contains(code) || REFUSED.iter().any(|(_, wanted, _)| wanted == code);
        assert!(reached, "{code} has no test");
    }
}

#[test]
fn two_services_cannot_take_the_same_route_or_the_same_port_of_a_machine() {
    let two = |a: &str, b: &str| {
        let service = |name: &str, lines: &str| {
            format!(
                "[[services]]\nname = \"{name}\"\nimage = \"x\"\nports = {{ http = 80 }}\n{lines}\n"
            )
        };
        problems(&format!("namespace = \"n\"\n{}{}", service("a", a), service("b", b)))
    };
    let route = |prefix: &str| {
        format!("routes = [{{ hostnames = [\"h.example\"], path_prefix = \"{prefix}\" }}]")
    };
    assert_eq!(two(&route("/api"), &route("/api/v1")), []);
    let clash = &two(&route("/api"), &route("/api/"))[0];
    assert_eq!(clash.code, Code::RouteConflict);
    assert_eq!(clash.path, "services[1].routes[0].hostnames[0]");
    assert_eq!((clash.line, clash.column), (11, 26));
    assert_eq!(clash.message, "h.example/api is routed by service a already");

    let publish = |constraint: &str| {
        format!(
            "publish = [{{ machine_port = 80 }}]\nplacement = {{ constraints = [\"{constraint}\"] }}"
        )
    };
    assert_eq!(two(&publish("region == eu"), &publish("region == us")), []);
    assert_eq!(two(&publish("label.edge == yes"), &publish("label.edge != yes")), []);
    assert_eq!(two(&publish("region == eu"), &publish("az == us")).len(), 1);
    let clash = &two(&publish("region == eu"), &publish("az != b"))[0];
    assert_eq!((clash.code, clash.path.as_str()), (Code::PortConflict, "services[1].publish"));
    let clash = &two(&publish("region == eu"), "network = \"host\"")[0];
    assert_eq!((clash.code, clash.path.as_str()), (Code::PortConflict, "services[1].ports"));
}

#[test]
fn what_the_store_could_not_hold_is_refused() {
    let codes = |text: &str| problems(text).iter().map(|p| p.code).collect::<Vec<_>>();
    assert_eq!(codes(&" ".repeat(MAX_BYTES + 1)), [Code::TooLarge]);
    let many = |n: usize, lines: &str| {
        let service = |n| format!("[[services]]\nname = \"s{n}\"\nimage = \"x\"\n{lines}\n");
        format!("namespace = \"n\"\n{}", (0..n).map(service).collect::<String>())
    };
    assert_eq!(codes(&many(500, "")), []);
    assert!(codes(&many(501, "")).contains(&Code::TooMany));
    assert_eq!(codes(&many(3, "placement = { replicas = 1000 }")), [Code::TooLarge]);
    let large = format!("user = \"1\"\nentrypoint = [\"{}\"]", "x".repeat(2_000));
    assert_eq!(codes(&many(300, &large)), [Code::TooLarge]);
}

#[test]
fn an_empty_list_of_services_must_be_written() {
    let hint = problems("namespace = \"n\"")[0].hint.clone();
    assert!(hint.is_some_and(|hint| hint.contains("services = []")));
    assert!(toml_of("namespace = \"n\"\nservices = []").unwrap().services.is_empty());
}

#[test]
fn toml_and_json_that_ask_for_the_same_have_the_same_digest_whatever_the_order() {
    let toml = r#"
        namespace = "blog"
        [[services]]
        name = "web"
        image = "web:1"
        ports.http = 8080
        cap_add = ["CAP_NET_ADMIN", "sys_time"]
        placement = { replicas = 2, constraints = ["region==eu", "az != b"] }
        routes = [{ hostnames = ["b.example", "a.example"], path_prefix = "/api/" }, { hostnames = ["c.example"] }]
        rollout = { drain = "60s" }
        resources = { cpu = 0.5, memory = "1024MiB" }
        [[services]]
        name = "api"
        image = "api:1"
    "#;
    let json = r#"{
        "services": [
            {"image": "api:1", "name": "api", "restart": "always"},
            {"name": "web", "rollout": {"drain": "1m", "strategy": "rolling", "max_unavailable": 0},
             "ports": {"http": 8080}, "image": "web:1", "cap_add": ["SYS_TIME", "NET_ADMIN", "NET_ADMIN"],
             "placement": {"constraints": ["az != b", "region == eu"], "replicas": 2, "spread": "machine"},
             "resources": {"memory": "1GiB", "cpu": "500m"},
             "routes": [{"hostnames": ["c.example"], "path_prefix": "/", "port": "http"},
                        {"hostnames": ["a.example", "b.example"], "path_prefix": "/api", "port": "http"}]}],
        "namespace": "blog"}"#;
    let a = parse(toml, Format::guess("x", toml), "x").unwrap();
    let b = parse(json, Format::guess("x", json), "x").unwrap();
    assert_eq!(a, b);
    assert_eq!(a.digest(), b.digest());
    let other = parse(&toml.replace("0.5", "0.6"), Format::Toml, "x").unwrap();
    assert_ne!(a.digest(), other.digest());
}

#[test]
fn image_references_are_what_docker_takes() {
    let digest = format!("a@sha256:{}", "0".repeat(64));
    for image in [
        "nginx",
        "nginx:1.29",
        "ghcr.io/a/b-c:v1",
        "localhost:5000/x",
        "a/b",
        &digest,
        "/srv/rootfs",
    ] {
        assert_eq!(
            web(&format!(
                "user = \"1\"\nenv = {{}}\n[[services]]\nname = \"i\"\nimage = \"{image}\""
            )),
            [],
            "{image}"
        );
    }
    for image in [
        "Nginx",
        "-v",
        "a b",
        "a:",
        ":a",
        "a//b",
        "a@sha256:12",
        "http://a/b",
        "/srv/../etc",
        "a:b:c",
    ] {
        assert_eq!(
            web(&format!("[[services]]\nname = \"i\"\nimage = \"{image}\"")).len(),
            1,
            "{image}"
        );
    }
}

#[test]
fn no_commit_is_refused_for_its_size_that_the_store_would_take() {
    use crate::deploy::validate::{INSTANCE_BYTES, SERVICE_BYTES};
    use crate::digest::Digest;
    use crate::id::{InstanceName, MachineId, OperationId};
    use crate::store::facts::{CommittedInstance, CommittedService};
    let digest = Digest::of_bytes(b"");
    let mut service = CommittedService {
        revision: digest,
        stopped: false,
        slots: BTreeMap::new(),
        routes: Vec::new(),
    };
    let bytes = |service: &CommittedService| serde_json::to_string(service).unwrap().len();
    let empty = bytes(&service);
    assert!(empty >= SERVICE_BYTES, "{empty}");
    let operation = OperationId::from_digest(&digest);
    // Everything as short as it can be.
    let instance = CommittedInstance {
        machine: MachineId::new("m").unwrap(),
        instance: InstanceName::new(format!("s-0-{}", operation.short())).unwrap(),
        operation,
        config_hash: digest,
        workload: digest,
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        ports: BTreeMap::new(),
    };
    service.slots.insert(0, instance);
    let one = bytes(&service) - empty;
    assert!(one >= INSTANCE_BYTES + "s".len() + "{}".len(), "{one}");
}
