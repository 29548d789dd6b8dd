//! The process runtime with real processes; needs no root.

use std::io::BufReader;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use io_adapters::process::{ProcessIdentity, Processes, Supervisor, is_alive, terminate};
use io_adapters::runtime::OutputStream;
use proto_core::Outcome;
use proto_core::digest::Digest;
use proto_core::id::OperationId;
use proto_core::runtime::{
    InstanceSpec, InstanceState, Network, ObservedInstance, Probe, RestartPolicy, RuntimeError,
    RuntimeReply, RuntimeRequest, Workload,
};
use proto_core::span::Span;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ployz-test-process");

/// A state directory; whatever still runs in it ends when it is dropped.
struct World {
    processes: Processes,
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let supervisor =
            Supervisor { program: PROGRAM.into(), arguments: vec!["supervise".into()] };
        Self { processes: Processes::new(directory.path(), supervisor), directory }
    }

    fn place(&self, spec: &InstanceSpec) -> PathBuf {
        self.directory.path().join("instances").join(spec.name.as_str())
    }

    /// The identity of the supervisor or the workload, as the instance's state file says.
    fn identity(&self, spec: &InstanceSpec, whose: &str) -> ProcessIdentity {
        let state = std::fs::read(self.place(spec).join("state.json")).expect("a state");
        let mut state: serde_json::Value = serde_json::from_slice(&state).expect("JSON");
        serde_json::from_value(state[whose].take()).expect("an identity")
    }

    async fn ask(&self, request: RuntimeRequest) -> Result<RuntimeReply, RuntimeError> {
        match self.processes.execute(request.clone()).await {
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

    async fn stop(&self, spec: &InstanceSpec, grace: Span) {
        let stopped = self.ask(RuntimeRequest::Stop { instance: spec.name.clone(), grace }).await;
        assert_eq!(stopped, Ok(RuntimeReply::Done));
    }

    async fn remove(&self, spec: &InstanceSpec) {
        let removed = self.ask(RuntimeRequest::Remove { instance: spec.name.clone() }).await;
        assert_eq!(removed, Ok(RuntimeReply::Done));
    }

    async fn settle(&self, spec: &InstanceSpec) {
        let settled = self.ask(RuntimeRequest::Settle { instance: spec.name.clone() }).await;
        assert_eq!(settled, Ok(RuntimeReply::Done));
    }

    async fn lines(&self, spec: &InstanceSpec) -> Vec<String> {
        match self.ask(RuntimeRequest::Logs { instance: spec.name.clone(), tail: 100 }).await {
            Ok(RuntimeReply::Logs(lines)) => lines,
            other => panic!("a question for logs was answered with {other:?}"),
        }
    }

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
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_lines(&self, spec: &InstanceSpec, wanted: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let lines = self.lines(spec).await;
            if lines == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "it wrote {lines:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts the launcher; returns when it has begun.
    fn launch(&self, request: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = Command::new(PROGRAM)
            .arg(request[0])
            .arg(self.directory.path())
            .args(&request[1..])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the launcher");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        assert_eq!(line(&mut said), "begun");
        (child, said)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let instances = std::fs::read_dir(self.directory.path().join("instances"));
        for entry in instances.into_iter().flatten().flatten() {
            let Ok(state) = std::fs::read(entry.path().join("state.json")) else { continue };
            let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
            for whose in ["supervisor", "workload"] {
                let Ok(identity) = serde_json::from_value::<ProcessIdentity>(state[whose].clone())
                else {
                    continue;
                };
                // Only while it is exactly that process, and its whole group.
                if is_alive(&identity).unwrap_or(false) {
                    drop(
                        Command::new("kill")
                            .args(["-KILL", "--", &format!("-{}", identity.pid)])
                            .status(),
                    );
                }
            }
        }
    }
}

fn line(from: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("a line");
    line.trim_end().to_owned()
}

fn spec(name: &str, script: &str) -> InstanceSpec {
    InstanceSpec {
        name: name.parse().expect("a name"),
        namespace: "shop".parse().expect("a name"),
        service: "web".parse().expect("a name"),
        slot: 0,
        operation: OperationId::from_digest(&Digest::of_bytes(name.as_bytes())),
        workload: Workload {
            image: String::new(),
            entrypoint: vec!["sh".to_owned(), "-c".to_owned()],
            command: vec![script.to_owned()],
            env: [("GREETING".to_owned(), "hello there".to_owned())].into(),
            user: None,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            cpu_limit_millis: None,
            memory_limit_bytes: None,
            restart: RestartPolicy::Always,
            stop_grace_period: Span::from_secs(1),
            labels: [].into(),
            publish: [].into(),
            network: Network::Overlay,
        },
        address: Ipv4Addr::LOCALHOST.into(),
        ports: [("admin".to_owned(), 4001), ("my-http".to_owned(), 4002)].into(),
    }
}

/// A process that has nothing to do with anything; it goes with the test.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}

fn kill(identity: &ProcessIdentity) {
    assert!(is_alive(identity).expect("/proc"));
    let killed = Command::new("kill").args(["-KILL", &identity.pid.to_string()]).status();
    assert!(killed.expect("kill runs").success());
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const SLEEP: &str = "exec sleep 1000";

#[tokio::test]
async fn an_instance_is_made_stopped_started_and_removed_and_each_twice() {
    let world = World::new();
    let spec = spec("web-0-aa", SLEEP);
    assert_eq!(world.inspect(&spec).await, None);
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    let taken = Err(RuntimeError::NameTaken { instance: spec.name.clone() });
    assert_eq!(world.create(&spec).await, taken);
    let seen = world.inspect(&spec).await.expect("it was made");
    assert_eq!((&seen.spec, seen.state, seen.restarts), (&spec, InstanceState::Running, 0));
    assert!(seen.pid.is_some() && seen.started_at.is_some());
    let listed = world.ask(RuntimeRequest::List { namespace: Some(spec.namespace.clone()) }).await;
    assert_eq!(listed, Ok(RuntimeReply::Instances(vec![seen.clone()])));
    let listed = world.ask(RuntimeRequest::List { namespace: "other".parse().ok() }).await;
    assert_eq!(listed, Ok(RuntimeReply::Instances(vec![])));

    let supervisor = world.identity(&spec, "supervisor");
    for _ in 0..2 {
        world.stop(&spec, Span::from_secs(5)).await;
        let stopped = world.inspect(&spec).await.expect("a stop removes nothing");
        assert_eq!(stopped.state, InstanceState::Exited { code: 128 + 15 });
        assert!(!is_alive(&supervisor).expect("/proc"), "what is stopped needs no supervisor");
    }
    assert_eq!(world.start(&spec).await, Ok(RuntimeReply::Done));
    let first = world.inspect(&spec).await.expect("it runs").pid;
    assert_eq!(world.start(&spec).await, Ok(RuntimeReply::Done));
    assert_eq!(world.inspect(&spec).await.expect("it runs").pid, first, "the second did nothing");

    let workload = world.identity(&spec, "workload");
    world.remove(&spec).await;
    world.remove(&spec).await;
    assert!(!is_alive(&workload).expect("/proc"));
    assert_eq!(world.inspect(&spec).await, None);
    world.stop(&spec, Span::from_secs(1)).await;
    let missing = RuntimeError::NoSuchInstance { instance: spec.name.clone() };
    assert_eq!(world.start(&spec).await, Err(missing));
    let left = std::fs::read_dir(world.directory.path().join("instances")).expect("a directory");
    let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, [".locks"], "nothing is left behind");
}

#[tokio::test]
async fn the_environment_is_clean_and_says_who_it_is() {
    let world = World::new();
    let mut spec = spec(
        "env-0-bb",
        "env | grep -v '^_=\\|^PWD=\\|^SHLVL=\\|^OLDPWD=' | sort; pwd; exec sleep 1000",
    );
    spec.workload.restart = RestartPolicy::No;
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    let data = std::fs::canonicalize(world.place(&spec).join("data")).expect("a directory");
    world
        .until_lines(
            &spec,
            &[
                "GREETING=hello there",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "PLOYZ_ADDRESS=127.0.0.1",
                "PLOYZ_INSTANCE=env-0-bb",
                "PLOYZ_NAMESPACE=shop",
                "PLOYZ_SERVICE=web",
                "PORT=4001",
                "PORT_ADMIN=4001",
                "PORT_MY_HTTP=4002",
                &data.display().to_string(),
            ],
        )
        .await;
}

#[tokio::test]
async fn what_cannot_be_run_or_given_is_refused_and_leaves_nothing() {
    let world = World::new();
    let mut missing = spec("web-0-cc", "");
    missing.workload.entrypoint = vec!["/no/such/command".to_owned()];
    let refused = world.create(&missing).await;
    let says = matches!(&refused, Err(RuntimeError::CannotRun { detail }) if detail.contains("No such file"));
    assert!(says, "{refused:?}");
    let mut user = spec("web-1-cc", SLEEP);
    user.workload.user = Some("nobody-here".to_owned());
    let refused = world.create(&user).await;
    assert!(matches!(refused, Err(RuntimeError::CannotRun { .. })), "{refused:?}");

    let with = |change: fn(&mut Workload)| {
        let mut spec = spec("web-2-cc", SLEEP);
        change(&mut spec.workload);
        spec
    };
    for unsupported in [
        with(|workload| workload.memory_limit_bytes = Some(1 << 20)),
        with(|workload| workload.cpu_limit_millis = Some(100)),
        with(|workload| workload.cap_add = vec!["NET_ADMIN".to_owned()]),
        with(|workload| workload.image = "nginx:1".to_owned()),
        with(|workload| workload.network = Network::None),
        with(|workload| workload.publish = [(80, "admin".to_owned())].into()),
    ] {
        let refused = world.create(&unsupported).await;
        let says = matches!(&refused, Err(RuntimeError::Other { detail }) if detail.contains("the process runtime"));
        assert!(says, "{refused:?}");
    }
    for spec in [missing, user, with(|_| ())] {
        assert_eq!(world.inspect(&spec).await, None);
    }
}

#[tokio::test]
async fn an_instance_whose_port_is_a_strangers_is_neither_made_nor_started() {
    let world = World::new();
    let mut spec = spec("web-0-pp", SLEEP);
    let ports: [u16; 2] = tests::ports::free().expect("ports");
    for (address, port) in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED].into_iter().zip(ports) {
        let listen = || std::net::TcpListener::bind((address, port)).expect("a free port");
        let stranger = listen();
        spec.ports.insert("my-http".to_owned(), port);
        let port = port.to_string();
        let is_refused = |said: Result<RuntimeReply, RuntimeError>| {
            let told =
                matches!(&said, Err(RuntimeError::PortInUse { detail }) if detail.contains(&port));
            assert!(told, "{said:?}");
        };
        is_refused(world.create(&spec).await);
        assert_eq!(world.inspect(&spec).await, None, "nothing is left of it");

        drop(stranger);
        assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
        world.stop(&spec, Span::from_secs(1)).await;
        let stranger = listen();
        is_refused(world.start(&spec).await);
        let seen = world.inspect(&spec).await.expect("it stays as it was");
        assert_eq!(seen.state, InstanceState::Exited { code: 128 + 15 });

        drop(stranger);
        assert_eq!(world.start(&spec).await, Ok(RuntimeReply::Done));
        let _late = listen();
        assert_eq!(world.start(&spec).await, Ok(RuntimeReply::Done), "it runs already");
        world.remove(&spec).await;
    }
}

#[tokio::test]
async fn the_workload_survives_the_sigkill_of_its_launcher_and_of_the_launchers_group() {
    let world = World::new();
    let spec = spec("web-0-dd", "echo up; exec sleep 1000");
    let file = world.directory.path().join("spec.json");
    std::fs::write(&file, serde_json::to_vec(&spec).expect("JSON")).expect("a file");
    let (mut launcher, mut said) = world.launch(&["create", file.to_str().expect("text")]);
    assert_eq!(line(&mut said), "Ok(Done)");
    launcher.kill().expect("SIGKILL");
    launcher.wait().expect("its end");

    let seen = world.inspect(&spec).await.expect("it is there");
    assert_eq!((seen.state, seen.restarts), (InstanceState::Running, 0));
    world.until_lines(&spec, &["up"]).await;
    let supervisor = world.identity(&spec, "supervisor");
    let workload = world.identity(&spec, "workload");
    // Sessions of their own: nothing that is done to the launcher's group or session reaches them.
    for identity in [&supervisor, &workload] {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", identity.pid)).expect("/proc");
        let fields: Vec<_> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
        let pid = identity.pid.to_string();
        assert_eq!((fields[2], fields[3]), (pid.as_str(), pid.as_str()), "group and session");
    }
    // Its supervisor still does its work.
    kill(&workload);
    let again = world.until(&spec, |seen| seen.restarts == 1 && seen.pid.is_some()).await;
    assert_ne!(again.pid, Some(workload.pid));
    assert_eq!(again.last_exit, Some(128 + 9), "it is not forgotten while it runs");
    assert_eq!(world.identity(&spec, "supervisor"), supervisor);
}

#[tokio::test]
async fn each_restart_policy_does_what_it_says_with_growing_pauses() {
    let world = World::new();
    let always = spec("always-0", "exit 5");
    let begun = Instant::now();
    assert_eq!(world.create(&always).await, Ok(RuntimeReply::Done));
    world.until(&always, |seen| seen.restarts >= 3).await;
    // 100, 200 and 400 ms.
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    let seen = world.until(&always, |seen| seen.state == InstanceState::Restarting).await;
    assert_eq!((seen.pid, seen.last_exit), (None, Some(5)));
    world.stop(&always, Span::from_secs(1)).await;
    let stopped = world.inspect(&always).await.expect("it is there");
    assert_eq!(stopped.state, InstanceState::Exited { code: 5 });

    let mut failing = spec("failing-0", "[ -e done ] && exit 0; touch done; exit 9");
    failing.workload.restart = RestartPolicy::OnFailure;
    assert_eq!(world.create(&failing).await, Ok(RuntimeReply::Done));
    let ended = |seen: &ObservedInstance| matches!(seen.state, InstanceState::Exited { .. });
    let seen = world.until(&failing, ended).await;
    assert_eq!((seen.state, seen.restarts), (InstanceState::Exited { code: 0 }, 1));

    let mut once = spec("once-0", "echo last words >&2; exit 7");
    once.workload.restart = RestartPolicy::No;
    assert_eq!(world.create(&once).await, Ok(RuntimeReply::Done));
    let seen = world.until(&once, ended).await;
    assert_eq!((seen.state, seen.restarts), (InstanceState::Exited { code: 7 }, 0));
    assert_eq!(world.lines(&once).await, ["last words"]);
}

#[tokio::test]
async fn a_stop_kills_what_ignores_sigterm_after_its_grace_with_all_its_children() {
    let world = World::new();
    let spec = spec("deaf-0", "trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1000; done");
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.lines(&spec).await.is_empty() {
        assert!(Instant::now() < deadline, "it says nothing");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let child = world.lines(&spec).await[0].parse().expect("a pid");
    let child = ProcessIdentity::of(child).expect("/proc").expect("it runs");
    let begun = Instant::now();
    world.stop(&spec, Span::from_millis(300)).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < Duration::from_secs(5)
    );
    let seen = world.inspect(&spec).await.expect("it is there");
    assert_eq!(seen.state, InstanceState::Exited { code: 128 + 9 });
    until("all ended", || !is_alive(&child).expect("/proc")).await;
}

#[tokio::test]
async fn a_reused_pid_is_nobodys_and_is_not_touched() {
    let world = World::new();
    let spec = spec("web-0-ee", SLEEP);
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    let (supervisor, workload) =
        (world.identity(&spec, "supervisor"), world.identity(&spec, "workload"));
    kill(&supervisor);
    kill(&workload);
    // Start times count in ticks of 10 ms; a pid that is really given away again comes round much later than that.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut stranger = Stranger(Command::new("sleep").arg("1000").spawn().expect("a process"));
    // As if the pid had been given to the stranger.
    let path = world.place(&spec).join("state.json");
    let mut state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("a state")).expect("JSON");
    state["workload"]["pid"] = stranger.0.id().into();
    state["supervisor"]["pid"] = stranger.0.id().into();
    std::fs::write(&path, state.to_string()).expect("a state");

    let seen = world.inspect(&spec).await.expect("it is there");
    assert_eq!((seen.state, seen.pid), (InstanceState::Exited { code: 255 }, None));
    world.stop(&spec, Span::from_secs(0)).await;
    world.remove(&spec).await;
    assert_eq!(stranger.0.try_wait().expect("ours"), None, "the stranger lives");
}

#[tokio::test]
async fn everything_of_an_earlier_boot_has_ended() {
    let world = World::new();
    let spec = spec("web-0-ff", SLEEP);
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    let (supervisor, workload) =
        (world.identity(&spec, "supervisor"), world.identity(&spec, "workload"));
    kill(&supervisor);
    let path = world.place(&spec).join("state.json");
    let state = std::fs::read_to_string(&path).expect("a state");
    std::fs::write(&path, state.replace(&workload.boot_id, "an-earlier-boot")).expect("a state");
    let seen = world.inspect(&spec).await.expect("it is there");
    assert_eq!(seen.state, InstanceState::Exited { code: 255 });
    assert_eq!(world.processes.resume().await, Ok(vec![]));
    assert_eq!(world.start(&spec).await, Ok(RuntimeReply::Done));
    let now = world.identity(&spec, "workload");
    assert!(now != workload && is_alive(&now).expect("/proc"));
    terminate(&workload, Duration::ZERO).await.expect("/proc");
}

#[tokio::test]
async fn a_killed_supervisor_is_replaced_and_the_workload_goes_on() {
    let world = World::new();
    let spec = spec("web-0-gg", "trap 'echo heard' USR1; echo ready; while :; do sleep 0.05; done");
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    world.until_lines(&spec, &["ready"]).await;
    let (supervisor, workload) =
        (world.identity(&spec, "supervisor"), world.identity(&spec, "workload"));
    assert_eq!(world.processes.resume().await, Ok(vec![]), "it has one");
    kill(&supervisor);
    until("gone", || !is_alive(&supervisor).expect("/proc")).await;
    assert_eq!(world.inspect(&spec).await.expect("it is there").state, InstanceState::Running);
    // What it writes while nobody reads is not lost.
    let told = Command::new("kill").args(["-USR1", &workload.pid.to_string()]).status();
    assert!(told.expect("kill runs").success());
    assert_eq!(world.processes.resume().await, Ok(vec![spec.name.clone()]));
    world.until_lines(&spec, &["ready", "heard"]).await;
    assert_eq!(world.identity(&spec, "workload"), workload);
    let second = world.identity(&spec, "supervisor");
    assert_ne!(second, supervisor);
    // The new one restarts it, though it is not its child, and stops it.
    kill(&workload);
    world.until(&spec, |seen| seen.restarts == 1 && seen.pid.is_some()).await;

    kill(&second);
    until("gone", || !is_alive(&second).expect("/proc")).await;
    let workload = world.identity(&spec, "workload");
    world.stop(&spec, Span::from_secs(5)).await;
    assert!(!is_alive(&workload).expect("/proc"), "stopped without a supervisor");
}

#[tokio::test]
async fn settle_completes_a_stop_whose_daemon_was_killed() {
    let world = World::new();
    let spec = spec("web-0-hh", "trap '' TERM; echo ready; while :; do sleep 0.05; done");
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    world.until_lines(&spec, &["ready"]).await;
    let workload = world.identity(&spec, "workload");
    let (mut launcher, _said) = world.launch(&["stop", spec.name.as_str(), "1500"]);
    let wanted = world.place(&spec).join("wanted.json");
    until("asked to stop", || std::fs::read_to_string(&wanted).expect("it").contains("false"))
        .await;
    launcher.kill().expect("SIGKILL");
    launcher.wait().expect("its end");
    assert!(is_alive(&workload).expect("/proc"), "the stop has not landed yet");
    world.settle(&spec).await;
    assert!(!is_alive(&workload).expect("/proc"), "and now it can't land any more");
    let seen = world.inspect(&spec).await.expect("it is there");
    assert!(matches!(seen.state, InstanceState::Exited { .. }));
}

#[tokio::test]
async fn settle_after_a_launcher_killed_at_any_moment_of_a_create_shows_what_stays() {
    for delay in [0, 1, 2, 3, 4, 6, 8, 12, 16, 24] {
        let world = World::new();
        let spec = spec("web-0-ii", SLEEP);
        let file = world.directory.path().join("spec.json");
        std::fs::write(&file, serde_json::to_vec(&spec).expect("JSON")).expect("a file");
        let (mut launcher, _said) = world.launch(&["create", file.to_str().expect("text")]);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        launcher.kill().expect("SIGKILL");
        launcher.wait().expect("its end");
        world.settle(&spec).await;
        let settled = world.inspect(&spec).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(world.inspect(&spec).await, settled, "killed after {delay} ms");
        if settled.is_none() {
            assert!(!world.place(&spec).with_file_name(".new-web-0-ii").exists());
        }
        world.remove(&spec).await;
    }
}

#[tokio::test]
async fn logs_follow_and_exec_and_probes_run_in_the_instances_environment() {
    let world = World::new();
    let spec = spec(
        "talk-0",
        "echo first; until [ -e go ]; do sleep 0.02; done; echo second >&2; exec sleep 1000",
    );
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    let mut lines = world.processes.logs(&spec.name, None, true).await.expect("logs");
    let line = lines.next().await.expect("a line").expect("no error");
    assert_eq!((line.text.as_str(), line.stream), ("first", OutputStream::Stdout));
    assert!(line.time.is_some());

    let argv = ["sh", "-c", "cat; echo $GREETING >&2; : > go; exit 9"].map(str::to_owned);
    let mut run = world.processes.exec(&spec.name, &argv, false).await.expect("it runs");
    run.input.write_all(b"through and back\n").await.expect("it reads");
    run.input.shutdown().await.expect("the end of the input arrives");
    let output: Vec<_> = run.output.try_collect().await.expect("output");
    let said = |wanted| {
        let parts = output.iter().filter(move |(stream, _)| *stream == wanted);
        parts.map(|(_, bytes)| String::from_utf8_lossy(bytes)).collect::<String>()
    };
    assert_eq!(said(OutputStream::Stdout), "through and back\n");
    assert_eq!(said(OutputStream::Stderr), "hello there\n");
    assert_eq!(run.exit.await, Ok(9));
    // As a shell and `docker exec` tell it, in our words.
    for (program, code, why) in
        [("nope", 127, "there is no such program"), ("/etc/passwd", 126, "it cannot be run")]
    {
        let argv = [program.to_owned()];
        let run = world.processes.exec(&spec.name, &argv, false).await.expect("an answer");
        let output: Vec<_> = run.output.try_collect().await.expect("output");
        let (stream, line) = output.first().expect("a line");
        assert_eq!(*stream, OutputStream::Stderr);
        assert_eq!(String::from_utf8_lossy(line), format!("{program}: {why}\n"));
        assert_eq!(run.exit.await, Ok(code), "{program}");
    }
    let line = lines.next().await.expect("a line").expect("no error");
    assert_eq!((line.text.as_str(), line.stream), ("second", OutputStream::Stderr));

    let probe = async |script: &str| {
        let request = RuntimeRequest::Probe {
            instance: spec.name.clone(),
            address: spec.address,
            probe: Probe::Exec { command: ["sh", "-c", script].map(str::to_owned).into() },
            port: 0,
            timeout: Span::from_millis(500),
        };
        match world.ask(request).await {
            Ok(RuntimeReply::Probed(verdict)) => verdict,
            other => panic!("a probe was answered with {other:?}"),
        }
    };
    assert_eq!(probe("test -e go").await, Ok(()));
    let why = probe("echo too early; exit 4").await.expect_err("it fails");
    assert!(why.contains("exited with 4") && why.contains("too early"), "{why}");
    let why = probe("sleep 1000 & echo $! > slow; wait").await.expect_err("it takes long");
    assert!(why.contains("took longer than 500 ms"), "{why}");
    let slow = std::fs::read_to_string(world.place(&spec).join("data/slow")).expect("a pid");
    let slow: u32 = slow.trim().parse().expect("a pid");
    until("killed", || ProcessIdentity::of(slow).expect("/proc").is_none()).await;
    world.stop(&spec, Span::from_secs(1)).await;
    assert!(probe("true").await.expect_err("it is stopped").contains("does not run"));

    world.remove(&spec).await;
    assert!(lines.next().await.is_none(), "the stream ends with the instance");
}

#[tokio::test]
async fn a_supervisor_is_small_and_does_nothing_while_nothing_happens() {
    let world = World::new();
    let spec = spec("idle-0", SLEEP);
    assert_eq!(world.create(&spec).await, Ok(RuntimeReply::Done));
    let pid = world.identity(&spec, "supervisor").pid;
    let read = |name: &str| {
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(name)).expect("/proc")
    };
    let number = |text: &str, key: &str| -> u64 {
        let value = text.lines().find_map(|line| line.strip_prefix(key)).expect(key);
        value.trim().trim_end_matches("kB").trim().parse().expect("a number")
    };
    let switches = || number(&read("status"), "voluntary_ctxt_switches:");
    // It reports before it lies down.
    let mut before = switches();
    let lies = Instant::now() + Duration::from_secs(10);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = switches();
        if now == before {
            break;
        }
        assert!(Instant::now() < lies, "it is restless");
        before = now;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(switches(), before, "it was woken");
    let own = number(&read("status"), "RssAnon:");
    assert!(own <= 2048, "{own} KiB of its own");
    assert_eq!(number(&read("status"), "Threads:"), 1);
}

#[tokio::test]
async fn facts_tell_what_the_machine_offers() {
    let world = World::new();
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let images = ["", "host", "nginx:1"].map(str::to_owned).into();
    let facts = world.ask(RuntimeRequest::Facts { images, ports: vec![port] }).await;
    let Ok(RuntimeReply::Facts(facts)) = facts else { panic!("{facts:?}") };
    assert_eq!(facts.images_present, ["", "host"]);
    assert_eq!(facts.ports_taken, [port]);
    assert!(facts.ports_listening.contains(&port), "{:?}", facts.ports_listening);
    assert!(facts.cpu_total_millis >= 1000 && facts.memory_total_bytes > 1 << 28);
    assert!(facts.disk_free_bytes > 0);
}
