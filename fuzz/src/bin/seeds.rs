//! Writes inputs that are as they should be, a folder for each target: what a new corpus grows from, and what it can do without
//! once it has grown (`scripts/fuzz.sh merge`).
//!
//!     cargo run -p fuzz --bin seeds -- fuzz/corpus

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto_core::api::prepared::Prepared;
use proto_core::api::{OperationResult, Submission};
use proto_core::coordination::command::{Command, CommandBody};
use proto_core::coordination::{FenceFile, Plan};
use proto_core::id::Epoch;
use proto_core::random::Random;
use proto_core::span::Span;
use proto_core::store::{Key, StoreReply, StoreRequest};
use sim::cluster::Cluster;
use sim::fate::{Fates, Told};
use sim::invariants::Invariants;
use sim::scenario::{self, Scenario};

const REQUESTS: [&str; 9] = [
    "GET /v1/logs?instance=web-0-0123abcd&tail=100&follow=true",
    "GET /v1/events?follow=true",
    "GET /v1/instances?namespace=shop",
    "GET /v1/operations/0123456789abcdef",
    "GET /v1/namespaces/shop/commits/head",
    "POST /v1/operations/cancel\n{\"handle\":1}",
    "POST /v1/exec\n{\"instance\":\"web-0\",\"command\":[\"ls\"]}",
    "POST /v1/shutdown\n{\"data_plane\":true,\"workloads\":false}",
    "POST /v1/operations\n{\"mode\":\"resume\",\"operation\":\"0123456789abcdef\"}",
];

const ROUTES: &str = "service shop/web 10.0.0.1 fd00::1
route shop/web a.test /
service shop/api 10.0.0.2
route shop/api a.test /api/
route blog/web b.test /x
stop blog/web
route zoo/web a.test /api
ask A.test.:80 /api/x
ask [::1]:80 /
ask b.test /x
name web.shop.ployz.internal. 10.0.0.1
name web 10.0.0.1
name api.ployz.internal ::ffff:10.0.0.1
";

/// Labels and type of a DNS question.
const QUERIES: [(&[&str], u16); 5] = [
    (&["web", "shop", "ployz", "internal"], 1),
    (&["many", "blog", "ployz", "internal"], 255),
    (&["_http", "_tcp", "many", "blog", "ployz", "internal"], 33),
    (&["ployz", "internal"], 6),
    (&["web"], 28),
];

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "fuzz/corpus".to_owned()));
    for scenario in scenario::all() {
        of_scenario(&folder, &scenario)?;
    }
    for (n, entry) in std::fs::read_dir("docs/examples")?.enumerate() {
        let path = entry?.path();
        if path.is_file() {
            write(&folder, "manifest", &format!("example-{n}"), &std::fs::read(path)?)?;
        }
    }
    for (n, request) in REQUESTS.iter().enumerate() {
        write(&folder, "api", &format!("request-{n}"), request.as_bytes())?;
    }
    write(&folder, "routes", "all", ROUTES.as_bytes())?;
    for (n, (labels, kind)) in QUERIES.iter().enumerate() {
        for extended in [false, true] {
            let name = format!("query-{n}-{extended}");
            write(&folder, "dns", &name, &query(labels, *kind, extended))?;
        }
    }
    let mut random = Random::new(1);
    for n in 0..24 {
        let bytes: Vec<u8> = (0..200).map(|_| random.below(256) as u8).collect();
        write(&folder, "story", &format!("random-{n}"), &bytes)?;
    }
    Ok(())
}

fn write(folder: &Path, target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let folder = folder.join(target);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("seed-{name}")), bytes)
}

/// The scenario's operation as a request, a prepared plan, the commands of its steps, and the facts that it leaves.
fn of_scenario(folder: &Path, scenario: &Scenario) -> std::io::Result<()> {
    let told = Told { strikes: Vec::new(), struck: Vec::new(), random: Random::new(0) };
    let world = scenario::founded(2);
    let mut cluster = Cluster::new(world, Fates::Told(told), Invariants::none());
    let mut ask = |submission: &Submission| {
        let handle = cluster.submit(0, submission.clone()).expect("no daemon died");
        cluster.run(Duration::from_secs(300), u64::MAX, |cluster| {
            cluster.results.contains_key(&handle)
        });
        cluster.results.get(&handle).cloned()
    };
    let request = scenario.request.clone();
    for before in &scenario.before {
        ask(&Submission::Apply { request: before.clone() });
    }
    let previewed = ask(&Submission::Preview { request: request.clone() });
    let apply = Submission::Apply { request: request.clone() };
    ask(&apply);
    let apply = serde_json::to_string(&apply).expect("submissions are plain JSON");
    let name = scenario.name;
    write(folder, "api", name, format!("POST /v1/operations\n{apply}").as_bytes())?;
    if let Some(OperationResult::Previewed { plan, .. }) = previewed {
        write(folder, "messages", name, commands(&plan).as_bytes())?;
        write(folder, "prepared", name, Prepared::new(request, plan, None).text().as_bytes())?;
    }

    let all = ["cluster", "machine", "ns", "allocation", "host", "port", "op", "lease"];
    let prefixes = all.map(|key| Key::new(key).expect("a token")).to_vec();
    let now = cluster.world.now;
    let read = cluster.world.kv.apply(now, &StoreRequest::Read { prefixes });
    let Ok(StoreReply::Entries(entries)) = read else { return Ok(()) };
    let lines = entries.iter().map(|entry| format!("{} {}\n", entry.key, entry.value));
    let facts: String = lines.collect();
    let rest = "! caught-up 40\n! away\n! back\n@ shop.example.com:80 /x\n# web.shop.ployz.internal\n# web\n";
    write(folder, "facts", name, format!("{facts}{rest}? {apply}\n").as_bytes())
}

fn commands(plan: &Plan) -> String {
    let epoch = Epoch { incarnation: 1, revision: 7 };
    let fence = FenceFile { floors: vec![(plan.scope.clone(), epoch)], ..FenceFile::default() };
    let mut text = serde_json::to_string(&fence).expect("fence files are plain JSON") + "\n";
    let mut bodies = vec![
        CommandBody::Observe { namespace: None, images: Vec::new(), ports: vec![80] },
        CommandBody::Barrier { scope: plan.scope.clone(), epoch },
    ];
    for step in plan.steps.iter().chain(&plan.cleanup) {
        let (scope, step, action) = (plan.scope.clone(), step.id.clone(), step.action.clone());
        bodies.push(CommandBody::Perform { scope, epoch, step, action, commit: None });
    }
    for body in bodies {
        let operation = plan.operation.clone();
        let command = Command { v: 1, operation, attempt: 0, deadline: Span::from_secs(10), body };
        text += &serde_json::to_string(&command).expect("commands are plain JSON");
        text.push('\n');
    }
    text
}

/// Over UDP from the first caller: a query of a name, with or without the record that says how much is taken.
fn query(labels: &[&str], kind: u16, extended: bool) -> Vec<u8> {
    let mut bytes = vec![0, 0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(extended)];
    for label in labels {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    if extended {
        bytes.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
    }
    bytes
}
