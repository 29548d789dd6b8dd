//! The model of a runtime, the process runtime and a real Docker engine answer the same to the same random requests.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use io_adapters::docker::{Docker, DockerConfig};
use io_adapters::process::{Processes, Supervisor};
use proto_core::Outcome;
use proto_core::digest::Digest;
use proto_core::id::{InstanceName, OperationId};
use proto_core::random::Random;
use proto_core::runtime::{
    InstanceSpec, InstanceState, Network, ObservedInstance, RestartPolicy, RuntimeError,
    RuntimeReply, RuntimeRequest, Workload,
};
use proto_core::span::Span;
use proto_core::time::{Time, UnixTime};
use sim::world::runtime::{Runtime, Wrong};
use tests::docker::TestDocker;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ployz-test-process");
/// Runs until it is told to end; the last one ends by itself with 3.
const NAMES: [&str; 3] = ["runs-a", "runs-b", "exits-c"];
const RUNS: &str = "trap 'exit 143' TERM; while :; do sleep 0.1; done";
const EXITS: &str = "exit 3";

/// The real part.
enum Real {
    Process { processes: Processes, _state: tempfile::TempDir },
    Docker(Docker, TestDocker),
}

impl Real {
    fn processes() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let supervisor =
            Supervisor { program: PROGRAM.into(), arguments: vec!["supervise".into()] };
        let processes = Processes::new(directory.path(), supervisor);
        Self::Process { processes, _state: directory }
    }

    fn docker() -> Option<Self> {
        let engine = TestDocker::connect_or_start()?;
        let cluster = format!("conformance-{}", std::process::id());
        let socket = engine.socket().to_owned();
        Some(Self::Docker(Docker::new(DockerConfig { socket, cluster, dns: None }), engine))
    }

    async fn ask(&self, request: RuntimeRequest) -> Result<RuntimeReply, RuntimeError> {
        let outcome = match self {
            Self::Process { processes, .. } => processes.execute(request.clone()).await,
            Self::Docker(docker, _) => docker.execute(request.clone()).await,
        };
        match outcome {
            Outcome::Ok(reply) => Ok(reply),
            Outcome::Failed(error) => Err(error),
            other => panic!("{request:?} ended as {other:?}"),
        }
    }

    /// The spec as this part can run it; the model reads what it does from the image's name.
    fn spec(&self, model: &InstanceSpec) -> InstanceSpec {
        let mut spec = model.clone();
        spec.workload.image = match self {
            Self::Process { .. } => String::new(),
            Self::Docker(_, engine) => engine.image().to_owned(),
        };
        // The process runtime has one network only.
        if matches!(self, Self::Process { .. }) {
            spec.workload.network = Network::Overlay;
        }
        let script = if model.name.as_str().starts_with("exits") { EXITS } else { RUNS };
        spec.workload.entrypoint = vec!["sh".to_owned(), "-c".to_owned()];
        spec.workload.command = vec![script.to_owned()];
        spec
    }

    async fn clean_up(&self) {
        for name in NAMES {
            let removed = self.ask(RuntimeRequest::Remove { instance: instance(name) }).await;
            assert_eq!(removed, Ok(RuntimeReply::Done));
        }
    }
}

fn instance(name: &str) -> InstanceName {
    InstanceName::new(name).expect("a literal")
}

fn spec(name: &str) -> InstanceSpec {
    let image = if name.starts_with("exits") { "exits-3" } else { "ready-0" };
    InstanceSpec {
        name: instance(name),
        namespace: "shop".parse().expect("a literal"),
        service: "web".parse().expect("a literal"),
        slot: 0,
        operation: OperationId::from_digest(&Digest::of_bytes(name.as_bytes())),
        workload: Workload {
            image: image.to_owned(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            env: [].into(),
            user: None,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            cpu_limit_millis: None,
            memory_limit_bytes: None,
            restart: RestartPolicy::No,
            stop_grace_period: Span::from_secs(5),
            labels: [].into(),
            publish: [].into(),
            network: Network::None,
        },
        address: Ipv4Addr::LOCALHOST.into(),
        ports: [].into(),
    }
}

fn draw(random: &mut Random) -> RuntimeRequest {
    let name = NAMES[usize::try_from(random.below(3)).expect("small")];
    let instance = instance(name);
    match random.below(12) {
        0..4 => RuntimeRequest::Create { spec: Box::new(spec(name)) },
        4..6 => RuntimeRequest::Start { instance },
        6..8 => RuntimeRequest::Stop { instance, grace: Span::from_secs(5) },
        8..10 => RuntimeRequest::Remove { instance },
        10 => RuntimeRequest::Settle { instance },
        _ => RuntimeRequest::List { namespace: None },
    }
}

/// An answer without what may differ: words, times, process ids, and how a stopped instance was ended.
fn outline(result: &Result<RuntimeReply, RuntimeError>) -> String {
    let seen = |seen: &ObservedInstance| {
        let state = match seen.state {
            InstanceState::Exited { code } if code > 128 => "stopped".to_owned(),
            state => format!("{state:?}"),
        };
        format!("{} {state} restarts {}", seen.spec.name, seen.restarts)
    };
    match result {
        Ok(RuntimeReply::Done) => "done".to_owned(),
        Ok(RuntimeReply::Instance(there)) => there.as_ref().map_or("none".to_owned(), seen),
        Ok(RuntimeReply::Instances(all)) => {
            let mut all: Vec<_> = all.iter().map(seen).collect();
            all.sort();
            all.join(", ")
        }
        Ok(other) => format!("{other:?}"),
        Err(RuntimeError::NameTaken { instance }) => format!("{instance} is taken"),
        Err(RuntimeError::NoSuchInstance { instance }) => format!("no {instance}"),
        Err(other) => format!("another error: {other}"),
    }
}

/// So many random requests on both, each followed by a look; the first difference, if there is one.
async fn compare(real: &Real, mut model: Runtime, seed: u64, steps: usize) -> Option<String> {
    let mut random = Random::new(seed);
    let mut now = Time::ZERO;
    let wall = UnixTime::from_millis(0);
    for _ in 0..steps {
        now = now + Duration::from_secs(1);
        let request = draw(&mut random);
        let translated = match &request {
            RuntimeRequest::Create { spec } => {
                RuntimeRequest::Create { spec: Box::new(real.spec(spec)) }
            }
            other => other.clone(),
        };
        let ours = outline(&model.apply(now, wall, &request));
        let theirs = outline(&real.ask(translated).await);
        if ours != theirs {
            return Some(format!("{request:?}\n  the model: {ours}\n  the runtime: {theirs}"));
        }
        // What ends by itself has ended in the model a moment later.
        now = now + Duration::from_secs(1);
        let Some(changed) = request.mutates() else { continue };
        let look = RuntimeRequest::Inspect { instance: changed.clone() };
        let ours = outline(&model.apply(now, wall, &look));
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let theirs = outline(&real.ask(look.clone()).await);
            if ours == theirs {
                break;
            }
            if Instant::now() > deadline {
                let said = format!("after {request:?}\n  the model: {ours}");
                return Some(format!("{said}\n  the runtime: {theirs}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    None
}

async fn agree(real: Real, seeds: std::ops::Range<u64>, steps: usize) {
    for seed in seeds {
        let difference = compare(&real, Runtime::default(), seed, steps).await;
        real.clean_up().await;
        assert_eq!(difference, None, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_and_the_process_runtime_agree_on_random_requests() {
    agree(Real::processes(), 1..4, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_and_a_docker_engine_agree_on_random_requests() {
    let Some(real) = Real::docker() else { return };
    agree(real, 1..3, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_wrong_is_told_apart_from_the_process_runtime() {
    for wrong in
        [Wrong::NamesAreShared, Wrong::StopNeedsInstance, Wrong::StopRemoves, Wrong::StartInvents]
    {
        let real = Real::processes();
        let difference = compare(&real, Runtime::wrong(wrong), 1, 60).await;
        real.clean_up().await;
        assert!(difference.is_some(), "{wrong:?} was not seen");
    }
}
