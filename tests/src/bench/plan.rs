//! How long the planner thinks about a large namespace.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, bail};
use proto_core::api::OperationRequest;
use proto_core::coordination::command::{MachineObservation, Uses};
use proto_core::coordination::plan::{Action, Plan};
use proto_core::deploy::manifest::{Format, parse};
use proto_core::deploy::plan::{Planned, plan};
use proto_core::id::{MachineId, Namespace};
use proto_core::machine::{Addressing, MachineLifecycle, MachineRecord};
use proto_core::runtime::{InstanceState, ObservedInstance, RuntimeFacts};
use proto_core::store::facts::{Head, VERSION};
use proto_core::store::{Facts, Revision, Versioned};

use super::section::{Bound, Section, Table};
use super::stats::Samples;

const MACHINES: u8 = 200;
const SERVICES: u32 = 500;
/// Of each service.
const REPLICAS: u32 = 1;
const ROUNDS: usize = 20;
/// At most, in milliseconds.
const LIMIT: f64 = 50.0;

const TEXT: &str = "\
The planner of `proto-core` alone: from request, facts and observations in memory to the plan. 500 services of one replica, each with a route, a\n\
probe and a reservation, on 200 machines, which also run 500 instances of another namespace.";

pub(super) fn run() -> anyhow::Result<Section> {
    let all = |image: &str| (0..SERVICES).map(|_| image.to_owned()).collect::<Vec<_>>();
    let mut other = World::new()?;
    other.apply("other", &all("app:v1"))?;
    // The same observations, without the other namespace's commit.
    let mut world = World {
        facts: Facts { machines: other.facts.machines, ..Facts::default() },
        seen: other.seen,
    };

    let mut table = Table::new(&["", "ms", "steps", "rounds"]);
    let mut bounds = Vec::new();
    let mut one = all("app:v1");
    one[250] = "app:v2".to_owned();
    let mut most = all("app:v1");
    most.iter_mut().take(200).for_each(|image| *image = "app:v2".to_owned());
    let cases = [
        ("first deploy", all("app:v1")),
        ("one service changed", one),
        ("200 services changed", most.clone()),
        ("nothing changed", most),
    ];
    for (name, images) in cases {
        let request = request("shop", &images)?;
        let mut samples = Samples::default();
        let mut steps = 0;
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let planned = plan(&request, &world.facts, &world.seen, &[]);
            samples.push(begun.elapsed().as_secs_f64() * 1000.0);
            steps = match &planned {
                Planned::Plan(plan) => plan.steps.len() + plan.cleanup.len(),
                Planned::AlreadyDone { .. } => 0,
                Planned::Refused(error) => bail!("{name}: {error:?}"),
            };
        }
        table.row([
            name.to_owned(),
            samples.show(1),
            steps.to_string(),
            samples.count().to_string(),
        ]);
        bounds.push(Bound {
            what: format!("plan: {name}"),
            seen: samples.median(),
            limit: LIMIT,
            unit: "ms",
        });
        world.apply("shop", &images)?;
    }
    Ok(Section { title: "Planning", text: TEXT.to_owned(), table, bounds })
}

/// What the store and the machines say.
struct World {
    facts: Facts,
    seen: BTreeMap<MachineId, MachineObservation>,
}

impl World {
    fn new() -> anyhow::Result<Self> {
        let mut facts = Facts::default();
        let mut seen = BTreeMap::new();
        for number in 0..MACHINES {
            let id = MachineId::new(format!("m-{number:03}"))?;
            let record = MachineRecord {
                v: VERSION,
                id: id.clone(),
                lifecycle: MachineLifecycle::Active,
                region: "local".to_owned(),
                az: Some(format!("az{}", number % 3)),
                labels: BTreeMap::new(),
                addressing: Addressing::Subnet([10, 101, number, 0].into()),
            };
            let observation = MachineObservation {
                machine: id.clone(),
                instances: Vec::new(),
                facts: RuntimeFacts {
                    images_present: vec!["app:v1".to_owned(), "app:v2".to_owned()],
                    ports_taken: Vec::new(),
                    ports_listening: Vec::new(),
                    cpu_total_millis: 16_000,
                    memory_total_bytes: 1 << 36,
                    disk_free_bytes: 1 << 40,
                },
                runtime: "docker".to_owned(),
                uses: Uses::default(),
            };
            facts.machines.insert(id.clone(), record);
            seen.insert(id, observation);
        }
        Ok(Self { facts, seen })
    }

    /// Does what engine and machines would do.
    fn apply(&mut self, namespace: &str, images: &[String]) -> anyhow::Result<()> {
        let request = request(namespace, images)?;
        let plan = match plan(&request, &self.facts, &self.seen, &[]) {
            Planned::Plan(plan) => *plan,
            Planned::AlreadyDone { .. } => return Ok(()),
            Planned::Refused(error) => bail!("{error:?}"),
        };
        let Plan { steps, cleanup, commit, .. } = plan;
        for step in steps.into_iter().chain(cleanup) {
            let seen = self.seen.get_mut(&step.machine).context("a machine of ours")?;
            match step.action {
                Action::Ensure { spec } => seen.instances.push(ObservedInstance {
                    spec: *spec,
                    state: InstanceState::Running,
                    started_at: None,
                    pid: Some(1),
                    restarts: 0,
                    last_exit: None,
                }),
                Action::Remove { instance, .. } => {
                    seen.instances.retain(|i| i.spec.name != instance);
                }
                _ => {}
            }
        }
        let head = Head { v: VERSION, commit: commit.commit.number, removed: false };
        self.facts.head = Some(Versioned { revision: Revision(head.commit), value: head });
        self.facts.revisions.extend(commit.revisions);
        self.facts.commits.insert(commit.commit.number, commit.commit);
        for (key, value) in commit.claims {
            self.facts.claims.insert(key, Versioned { revision: Revision(1), value });
        }
        Ok(())
    }
}

/// A deploy of a service for each image.
fn request(namespace: &str, images: &[String]) -> anyhow::Result<OperationRequest> {
    let mut text = format!("namespace = \"{}\"\n", Namespace::new(namespace)?);
    for (number, image) in images.iter().enumerate() {
        text += &format!(
            r#"
[[services]]
name = "web-{number}"
image = "{image}"
env = {{ LOG_LEVEL = "info", PEER = "web-{peer}.{namespace}.ployz.internal" }}
placement = {{ replicas = {REPLICAS} }}
resources = {{ reservations = {{ cpu = "100m", memory = "128MiB" }} }}
ports = {{ http = 8080 }}
routes = [{{ hostnames = ["web-{number}.{namespace}.example"], port = "http" }}]
readiness = {{ http = {{ path = "/healthz", port = "http" }} }}
rollout = {{ strategy = "rolling" }}
"#,
            peer = (number + 1) % images.len(),
        );
    }
    let manifest = parse(&text, Format::Toml, "bench.toml")
        .map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    Ok(OperationRequest::Deploy { manifest })
}
