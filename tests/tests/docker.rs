//! The Docker adapter on a real engine.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use io_adapters::docker::{Docker, DockerConfig};
use io_adapters::runtime::OutputStream;
use proto_core::Outcome;
use proto_core::digest::Digest;
use proto_core::id::{InstanceName, OperationId};
use proto_core::runtime::{
    InstanceSpec, InstanceState, Network, ObservedInstance, Probe, RestartPolicy, RuntimeError,
    RuntimeReply, RuntimeRequest, Workload,
};
use proto_core::span::Span;
use tests::docker::TestDocker;
use tokio::io::AsyncWriteExt as _;

/// A cluster of its own on an engine, with a network; whatever is left of it goes when it is dropped.
struct World {
    docker: Docker,
    cluster: String,
    subnet: [u8; 3],
    engine: TestDocker,
}

impl World {
    async fn new() -> Option<Self> {
        Self::on(TestDocker::connect_or_start()?).await
    }

    async fn on(engine: TestDocker) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cluster = format!("test-{}-{number}", std::process::id());
        let socket = engine.socket().to_owned();
        let docker = Docker::new(DockerConfig { socket, cluster: cluster.clone(), dns: None });
        // Subnets of concurrent tests must differ, also from those of other test binaries.
        for attempt in 0..50_u8 {
            let seed = Digest::of_bytes(format!("{cluster}/{attempt}").as_bytes()).to_string();
            let part = |at: usize| u8::from_str_radix(&seed[at..at + 2], 16).expect("hexadecimal");
            let subnet = [10, 128 + part(0) % 120, part(2)];
            let text = format!("{}.{}.{}.0/24", subnet[0], subnet[1], subnet[2]);
            match docker.ensure_network(&text).await {
                Ok(gateway) => {
                    assert_eq!(gateway.octets()[3], 1);
                    assert_eq!(docker.ensure_network(&text).await, Ok(gateway), "twice is once");
                    return Some(Self { docker, cluster, subnet, engine });
                }
                Err(error) if error.to_string().contains("overlaps") => {}
                Err(error) => panic!("no network: {error}"),
            }
        }
        panic!("no free subnet in 50 attempts");
    }

    fn spec(&self, name: &str, host: u8, command: &[&str]) -> InstanceSpec {
        let [a, b, c] = self.subnet;
        InstanceSpec {
            name: InstanceName::new(name).expect("a name"),
            namespace: "shop".parse().expect("a name"),
            service: "web".parse().expect("a name"),
            slot: 0,
            operation: OperationId::from_digest(&Digest::of_bytes(name.as_bytes())),
            workload: Workload {
                image: self.engine.image().to_owned(),
                entrypoint: Vec::new(),
                command: command.iter().map(|&part| part.to_owned()).collect(),
                env: [("GREETING".to_owned(), "hello there".to_owned())].into(),
                user: None,
                cap_add: Vec::new(),
                cap_drop: Vec::new(),
                cpu_limit_millis: Some(500),
                memory_limit_bytes: Some(64 << 20),
                restart: RestartPolicy::Always,
                stop_grace_period: Span::from_secs(1),
                labels: [("team".to_owned(), "blue".to_owned())].into(),
                publish: [].into(),
                network: Network::Overlay,
            },
            address: Ipv4Addr::new(a, b, c, host).into(),
            ports: [("http".to_owned(), 8080)].into(),
        }
    }

    async fn ask(&self, request: RuntimeRequest) -> Result<RuntimeReply, RuntimeError> {
        match self.docker.execute(request.clone()).await {
            Outcome::Ok(reply) => Ok(reply),
            Outcome::Failed(error) => Err(error),
            other => panic!("{request:?} ended as {other:?}"),
        }
    }

    async fn create(&self, spec: &InstanceSpec) -> Result<RuntimeReply, RuntimeError> {
        self.ask(RuntimeRequest::Create { spec: Box::new(spec.clone()) }).await
    }

    async fn inspect(&self, spec: &InstanceSpec) -> Option<ObservedInstance> {
        match self.ask(RuntimeRequest::Inspect { instance: spec.name.clone() }).await {
            Ok(RuntimeReply::Instance(instance)) => instance,
            other => panic!("an inspection was answered with {other:?}"),
        }
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<RuntimeReply, RuntimeError> {
        self.ask(RuntimeRequest::Start { instance: spec.name.clone() }).await
    }

    async fn stop(&self, spec: &InstanceSpec) {
        let grace = Span::from_secs(1);
        let stopped = self.ask(RuntimeRequest::Stop { instance: spec.name.clone(), grace }).await;
        assert_eq!(stopped, Ok(RuntimeReply::Done));
    }

    async fn remove(&self, spec: &InstanceSpec) {
        let removed = self.ask(RuntimeRequest::Remove { instance: spec.name.clone() }).await;
        assert_eq!(removed, Ok(RuntimeReply::Done));
    }

    async fn probe(&self, spec: &InstanceSpec, probe: Probe) -> Result<(), String> {
        let request = RuntimeRequest::Probe {
            instance: spec.name.clone(),
            address: spec.address,
            port: 8080,
            probe,
            timeout: Span::from_secs(2),
        };
        match self.ask(request).await {
            Ok(RuntimeReply::Probed(verdict)) => verdict,
            other => panic!("a probe was answered with {other:?}"),
        }
    }

    /// Looks again and again until `wanted` is seen.
    async fn until(
        &self,
        spec: &InstanceSpec,
        wanted: impl Fn(&ObservedInstance) -> bool,
    ) -> ObservedInstance {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = self.inspect(spec).await;
            if let Some(seen) = seen.as_ref().filter(|seen| wanted(seen)) {
                return seen.clone();
            }
            assert!(Instant::now() < deadline, "it stays {seen:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn serves(&self, spec: &InstanceSpec) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(why) = self.probe(spec, http("/")).await {
            assert!(Instant::now() < deadline, "{why}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let label = format!("label=ployz.cluster={}", self.cluster);
        let left = self.engine.cli(&["ps", "--all", "--quiet", "--filter", &label]);
        for id in left.unwrap_or_default().split_whitespace() {
            drop(self.engine.cli(&["rm", "--force", id]));
        }
        if let Err(why) = self.engine.cli(&["network", "rm", &self.docker.network_name()]) {
            eprintln!("network left behind: {why}");
        }
    }
}

fn http(path: &str) -> Probe {
    Probe::Http { path: path.to_owned(), port: "http".to_owned() }
}

fn tcp() -> Probe {
    Probe::Tcp { port: "http".to_owned() }
}

fn exec(script: &str) -> Probe {
    Probe::Exec { command: ["sh", "-c", script].map(str::to_owned).into() }
}

#[tokio::test]
async fn an_instance_is_made_stopped_started_and_removed_and_each_twice() {
    let Some(world) = World::new().await else { return };
    let spec = world.spec("web-0-aa", 10, &[]);
    assert_eq!(world.inspect(&spec).await, None);
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    let seen = world.inspect(&spec).await.expect("it was made");
    assert_eq!(seen.spec, spec, "the labels hold the whole spec");
    assert_eq!((seen.state, seen.restarts), (InstanceState::Running, 0));
    assert!(seen.pid.is_some() && seen.started_at.is_some());
    world.serves(&spec).await;

    world.stop(&spec).await;
    world.stop(&spec).await;
    let stopped = world.inspect(&spec).await.expect("a stop removes nothing");
    assert!(matches!(stopped.state, InstanceState::Exited { .. }) && stopped.pid.is_none());
    assert_eq!(world.start(&spec).await, Ok(RuntimeReply::Done));
    assert_eq!(world.start(&spec).await, Ok(RuntimeReply::Done));
    // At the same address as before the stop.
    world.serves(&spec).await;

    world.remove(&spec).await;
    world.remove(&spec).await;
    assert_eq!(world.inspect(&spec).await, None);
    world.stop(&spec).await;
    let missing = RuntimeError::NoSuchInstance { instance: spec.name.clone() };
    assert_eq!(world.start(&spec).await, Err(missing));
}

#[tokio::test]
async fn a_listing_shows_the_instances_of_this_cluster_only() {
    let Some(world) = World::new().await else { return };
    let mut specs = [
        world.spec("web-0-bb", 10, &[]),
        world.spec("web-1-bb", 11, &[]),
        world.spec("api-0-bb", 12, &[]),
    ];
    specs[2].namespace = "other".parse().expect("a name");
    for spec in &specs {
        assert_eq!(world.create(spec).await, Ok(RuntimeReply::Done));
    }
    let names = async |namespace: Option<&str>| {
        let namespace = namespace.map(|name| name.parse().expect("a name"));
        match world.ask(RuntimeRequest::List { namespace }).await {
            Ok(RuntimeReply::Instances(all)) => {
                all.into_iter().map(|one| one.spec.name.to_string()).collect::<Vec<_>>()
            }
            other => panic!("a listing was answered with {other:?}"),
        }
    };
    assert_eq!(names(None).await, ["api-0-bb", "web-0-bb", "web-1-bb"]);
    assert_eq!(names(Some("shop")).await, ["web-0-bb", "web-1-bb"]);

    let stranger = Docker::new(DockerConfig {
        socket: world.engine.socket().to_owned(),
        cluster: "somebody-else".to_owned(),
        dns: None,
    });
    let listed = stranger.execute(RuntimeRequest::List { namespace: None }).await;
    assert_eq!(listed, Outcome::Ok(RuntimeReply::Instances(Vec::new())));
}

#[tokio::test]
async fn a_crash_loop_shows_as_restarting_and_counts_and_can_be_stopped() {
    let Some(world) = World::new().await else { return };
    let spec = world.spec("loop-0-cc", 10, &["sh", "-c", "exit 3"]);
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    let restarting = |seen: &ObservedInstance| seen.state == InstanceState::Restarting;
    let seen = world.until(&spec, |seen| restarting(seen) && seen.restarts >= 2).await;
    assert_eq!(seen.last_exit, Some(3));
    world.stop(&spec).await;
    world.until(&spec, |seen| matches!(seen.state, InstanceState::Exited { .. })).await;
}

#[tokio::test]
async fn one_that_exits_and_is_not_restarted_keeps_its_code_and_its_last_lines() {
    let Some(world) = World::new().await else { return };
    let script = "echo out; echo err >&2; exit 7";
    let mut spec = world.spec("job-0-dd", 10, &["sh", "-c", script]);
    spec.workload.restart = RestartPolicy::No;
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    let seen = world.until(&spec, |seen| seen.state != InstanceState::Running).await;
    assert_eq!(seen.state, InstanceState::Exited { code: 7 });

    let logs = async |tail| match world
        .ask(RuntimeRequest::Logs { instance: spec.name.clone(), tail })
        .await
    {
        Ok(RuntimeReply::Logs(lines)) => lines,
        other => panic!("a question for logs was answered with {other:?}"),
    };
    let mut lines = logs(10).await;
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    assert_eq!(logs(1).await.len(), 1);
}

#[tokio::test]
async fn a_taken_name_is_refused_and_the_stranger_is_not_touched() {
    let Some(world) = World::new().await else { return };
    let spec = world.spec("web-0-ee", 10, &[]);
    let name = world.docker.container_name(&spec.name);
    let image = world.engine.image();
    let run = ["run", "-d", "--net=none", "--name", &name, image];
    let id = world.engine.cli(&run).expect("a container");
    let taken = Err(RuntimeError::NameTaken { instance: spec.name.clone() });
    assert_eq!(world.create(&spec).await, taken);
    assert_eq!(world.inspect(&spec).await, None, "it is not ours");
    world.stop(&spec).await;
    world.remove(&spec).await;
    let running = world.engine.cli(&["inspect", "-f", "{{.State.Running}} {{.Id}}", &name]);
    assert_eq!(running, Ok(format!("true {id}")));
    world.engine.cli(&["rm", "-f", &name]).expect("the test's own container");

    // Ours and the same is taken too: whoever asks inspects first.
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    assert_eq!(world.create(&spec).await, taken);
}

#[tokio::test]
async fn what_cannot_be_made_says_why_and_leaves_nothing() {
    let Some(world) = World::new().await else { return };
    let mut missing = world.spec("web-0-ff", 10, &[]);
    missing.workload.image = "ployz-test-no-such-image:1".to_owned();
    let image = missing.workload.image.clone();
    assert_eq!(world.create(&missing).await, Err(RuntimeError::ImageMissing { image }));

    let command = world.spec("web-1-ff", 11, &["/no/such/command"]);
    let refused = world.create(&command).await;
    assert!(matches!(refused, Err(RuntimeError::CannotRun { .. })), "{refused:?}");

    let mut user = world.spec("web-2-ff", 12, &[]);
    user.workload.user = Some("nobody-here".to_owned());
    let refused = world.create(&user).await;
    assert!(matches!(refused, Err(RuntimeError::CannotRun { .. })), "{refused:?}");

    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut published = world.spec("web-3-ff", 13, &[]);
    published.workload.publish = [(port, "http".to_owned())].into();
    let refused = world.create(&published).await;
    assert!(matches!(refused, Err(RuntimeError::PortInUse { .. })), "{refused:?}");
    let facts = RuntimeRequest::Facts { images: Vec::new(), ports: vec![port] };
    let facts = world.ask(facts).await;
    assert!(matches!(facts, Ok(RuntimeReply::Facts(facts)) if facts.ports_taken == [port]));

    for spec in [&missing, &command, &user, &published] {
        assert_eq!(world.inspect(spec).await, None, "{} is left behind", spec.name);
    }
    // With the port free, the same request succeeds, and the machine's own address answers.
    drop(listener);
    assert_eq!(world.create(&published).await, Ok(RuntimeReply::Done));
    world.serves(&published).await;
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(io_adapters::probe::http(here, port, "/", Duration::from_secs(2)).await, Ok(()));
}

#[tokio::test]
async fn facts_tell_what_the_machine_offers() {
    let Some(world) = World::new().await else { return };
    let present = world.engine.image().to_owned();
    let images = vec![present.clone(), "ployz-test-no-such-image:1".to_owned()];
    let facts = world.ask(RuntimeRequest::Facts { images, ports: vec![] }).await;
    let Ok(RuntimeReply::Facts(facts)) = facts else { panic!("{facts:?}") };
    assert_eq!(facts.images_present, [present]);
    assert!(facts.cpu_total_millis >= 1000 && facts.memory_total_bytes > 1 << 28);
    assert!(facts.disk_free_bytes > 0);
}

#[tokio::test]
async fn probes_of_each_kind_say_ready_or_why_not() {
    let Some(world) = World::new().await else { return };
    let spec = world.spec("web-0-gg", 10, &[]);
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    world.serves(&spec).await;
    assert_eq!(world.probe(&spec, tcp()).await, Ok(()));
    let why = world.probe(&spec, http("/no-such-page")).await.expect_err("there is none");
    assert!(why.contains("404"), "{why}");
    assert_eq!(world.probe(&spec, exec("test \"$GREETING\" = 'hello there'")).await, Ok(()));
    let why = world.probe(&spec, exec("echo too early; exit 4")).await.expect_err("it fails");
    assert!(why.contains("exited with 4") && why.contains("too early"), "{why}");

    let slow = world.probe(&spec, exec("echo $$ > /tmp/slow; exec sleep 1000")).await;
    assert!(slow.expect_err("it takes long").contains("took longer"), "it is given up");
    let gone = exec("! kill -0 $(cat /tmp/slow)");
    assert_eq!(world.probe(&spec, gone).await, Ok(()), "a probe that took too long is killed");

    world.stop(&spec).await;
    assert!(world.probe(&spec, exec("true")).await.is_err());
    assert!(world.probe(&spec, tcp()).await.is_err());
}

#[tokio::test]
async fn logs_follow_and_exec_carries_input_output_and_exit_code() {
    let Some(world) = World::new().await else { return };
    let script =
        "echo first; until [ -e /tmp/go ]; do sleep 0.05; done; echo second; exec sleep 100";
    let spec = world.spec("talk-0-hh", 10, &["sh", "-c", script]);
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    let mut lines = world.docker.logs(&spec.name, None, true).await.expect("logs");
    let line = lines.next().await.expect("a line").expect("no error");
    assert_eq!((line.text.as_str(), line.stream), ("first", OutputStream::Stdout));
    assert!(line.time.is_some());

    let argv = ["sh", "-c", "cat; echo oops >&2; : > /tmp/go; exit 9"].map(str::to_owned);
    let mut run = world.docker.exec(&spec.name, &argv, false).await.expect("it runs");
    run.input.write_all(b"through and back\n").await.expect("it reads");
    run.input.shutdown().await.expect("the end of the input arrives");
    let output: Vec<_> = run.output.try_collect().await.expect("output");
    let said = |wanted| {
        let parts = output.iter().filter(move |(stream, _)| *stream == wanted);
        parts.map(|(_, bytes)| String::from_utf8_lossy(bytes)).collect::<String>()
    };
    assert_eq!(said(OutputStream::Stdout), "through and back\n");
    assert_eq!(said(OutputStream::Stderr), "oops\n");
    assert_eq!(run.exit.await, Ok(9));
    // As a shell and `docker exec` tell it, in our words.
    for (program, code, why) in
        [("nope", 127, "there is no such program"), ("/etc/passwd", 126, "it cannot be run")]
    {
        let argv = [program.to_owned()];
        let run = world.docker.exec(&spec.name, &argv, false).await.expect("an answer");
        let output: Vec<_> = run.output.try_collect().await.expect("output");
        let (stream, line) = output.first().expect("a line");
        assert_eq!(*stream, OutputStream::Stderr);
        assert_eq!(String::from_utf8_lossy(line), format!("{program}: {why}\n"));
        assert_eq!(run.exit.await, Ok(code), "{program}");
    }

    let line = lines.next().await.expect("a line").expect("no error");
    assert_eq!(line.text, "second", "what is written later arrives by itself");
}

#[tokio::test]
async fn an_engine_that_is_away_is_unavailable_and_never_unknown() {
    let directory = tempfile::tempdir().expect("a directory");
    let stale = directory.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a socket"));
    for socket in [directory.path().join("missing"), stale] {
        let docker = Docker::new(DockerConfig { socket, cluster: "c".to_owned(), dns: None });
        let instance = InstanceName::new("web-0").expect("a name");
        for request in [
            RuntimeRequest::Inspect { instance: instance.clone() },
            RuntimeRequest::Remove { instance: instance.clone() },
            RuntimeRequest::Settle { instance },
        ] {
            let outcome = docker.execute(request).await;
            let away = matches!(outcome, Outcome::Failed(RuntimeError::Unavailable { .. }));
            assert!(away, "{outcome:?}");
        }
    }
}

/// The engine is frozen, a client sends `create` and dies as a daemon does by SIGKILL: the kernel closes its end. While the
/// engine can still carry the request out, `settle` does not answer.
#[tokio::test]
async fn settle_answers_only_when_a_dead_clients_create_has_landed() {
    let Some(engine) = TestDocker::start_private() else { return };
    let pid = engine.pid().expect("it is private").to_string();
    let Some(world) = World::on(engine).await else { return };
    let spec = world.spec("web-0-ii", 10, &[]);
    let signal = |name: &str| {
        let sent = std::process::Command::new("kill").args([name, &pid]).status();
        assert!(sent.expect("kill runs").success());
    };

    signal("-STOP");
    let name = world.docker.container_name(&spec.name);
    let labels = serde_json::json!({
        "ployz.cluster": world.cluster,
        "ployz.instance": spec.name,
        "ployz.spec": serde_json::to_string(&spec).expect("JSON"),
    });
    let body = serde_json::json!({ "Image": world.engine.image(), "Labels": labels }).to_string();
    let head = format!(
        "POST /v1.41/containers/create?name={name} HTTP/1.1\r\nHost: docker\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut client = UnixStream::connect(world.engine.socket()).expect("the queue has room");
    client.write_all((head + &body).as_bytes()).expect("the buffer has room");
    drop(client);

    let docker = world.docker.clone();
    let settle = RuntimeRequest::Settle { instance: spec.name.clone() };
    let settling = tokio::spawn(async move { docker.execute(settle).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let early = settling.is_finished();
    signal("-CONT");
    assert!(!early, "the create can still land");
    assert_eq!(settling.await.expect("no panic"), Outcome::Ok(RuntimeReply::Done));

    let settled = world.inspect(&spec).await;
    assert_eq!(settled.as_ref().map(|seen| seen.state), Some(InstanceState::Created));
    // And what is removed now stays removed.
    world.remove(&spec).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.inspect(&spec).await, None);
}
