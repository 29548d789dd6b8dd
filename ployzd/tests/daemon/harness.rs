//! A real daemon with real sidecars, on loopback and in a directory of its own; all of it ends with the value.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use io_adapters::nats::{Credentials, Link, Store};
use proto_core::Outcome;
use proto_core::api::{OperationEvent, OperationRequest, OperationResult, Submission};
use proto_core::deploy::manifest::{Format, parse};
use proto_core::store::{self, Key, StoreRequest};
use serde_json::{Value, json};

/// How long anything may take before the test gives up; machines that build meanwhile are slow.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const SIDECARS: [&str; 3] = ["nats", "gateway", "dns"];

/// A cluster of one, founded and not yet started.
pub(crate) struct Machine {
    pub(crate) directory: tempfile::TempDir,
    daemon: Option<Child>,
}

/// nats-server, or why the test is skipped.
pub(crate) fn nats_server() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|d| d.join("nats-server")).find(|p| p.is_file());
    if found.is_none() {
        eprintln!("skipped: nats-server is not in PATH");
    }
    found
}

fn ployzd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ployzd"))
}

/// `ployzd init` in this directory.
pub(crate) fn found_in(data: &Path, nats_server: &Path, args: &[&str]) -> Output {
    let mut init = ployzd();
    init.args(["init", "--name", "test", "--runtime", "process"]).args(args);
    init.arg("--data-dir").arg(data).arg("--nats-server").arg(nats_server);
    init.output().expect("ployzd runs")
}

/// A port that was free a moment ago; nats-server takes none of 0.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

impl Machine {
    /// With a copy of nats-server of its own, which a test may change.
    pub(crate) fn found(nats_server: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let own = directory.path().join("nats-server");
        std::fs::copy(nats_server, &own).expect("a copy of nats-server");
        let mut init = ployzd();
        init.args(["init", "--name", "test", "--runtime", "process", "--data-dir"])
            .arg(directory.path())
            .arg("--nats-server")
            .arg(&own)
            .args(["--gateway-listen", "127.0.0.1:0", "--dns-listen", "127.0.0.1:0"])
            .args(["--nats-port", &free_port().to_string()]);
        let output = init.output().expect("ployzd runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { directory, daemon: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a daemon that is expected to refuse.
    pub(crate) fn refusal(&self) -> Output {
        ployzd().args(["run", "--config"]).arg(self.path("ployzd.toml")).output().expect("it runs")
    }

    /// `ployzd check`.
    pub(crate) fn check(&self) -> Output {
        ployzd()
            .args(["check", "--config"])
            .arg(self.path("ployzd.toml"))
            .output()
            .expect("it runs")
    }

    /// Starts the daemon and follows its events.
    pub(crate) fn start(&mut self) -> Events {
        self.launch();
        let began = Instant::now();
        let stream = loop {
            // The socket that a killed daemon left refuses until the new one has taken it over.
            match UnixStream::connect(self.path("ployzd.sock")) {
                Ok(stream) => break stream,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}: {}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Events { lines: BufReader::new(ask(stream, "GET", "/v1/events?follow=true", "")) }
    }

    /// Starts the daemon and waits for nothing; its pid.
    pub(crate) fn launch(&mut self) -> u32 {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log"));
        let mut run = ployzd();
        run.args(["run", "--config"]).arg(self.path("ployzd.toml"));
        run.stdin(Stdio::null()).stderr(log.expect("a log file"));
        self.daemon = Some(run.spawn().expect("ployzd runs"));
        self.daemon.as_ref().map(Child::id).expect("just started")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("it is ours");
            daemon.wait().expect("it was killed");
        }
    }

    pub(crate) fn status(&self) -> Value {
        let body = self.answer("GET", "/v1/status", "");
        serde_json::from_str(&body).expect("a status")
    }

    /// Deploys a manifest; how that ended.
    pub(crate) fn deploy(&self, manifest: &str) -> OperationResult {
        let manifest = parse(manifest, Format::Toml, "test").expect("a manifest");
        let submission = Submission::Apply { request: OperationRequest::Deploy { manifest } };
        let body = serde_json::to_string(&submission).expect("plain JSON");
        let answer = self.answer("POST", "/v1/operations", &body);
        let events = answer.lines().filter_map(|line| serde_json::from_str(line).ok());
        let mut ended = events.filter_map(|event| match event {
            OperationEvent::Finished { result } => Some(result),
            _ => None,
        });
        ended.next_back().unwrap_or_else(|| panic!("it did not end: {answer}"))
    }

    /// The body of an answer; with the sizes of its chunks, if it came in some.
    pub(crate) fn answer(&self, method: &str, path: &str, body: &str) -> String {
        let stream = UnixStream::connect(self.path("ployzd.sock")).expect("the API listens");
        let mut answer = String::new();
        ask(stream, method, path, body).read_to_string(&mut answer).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
        body.to_owned()
    }

    /// The whole answer to these bytes, which say that the connection is to be closed.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path("ployzd.sock")).expect("the API listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(request).expect("the daemon reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// Ends the daemon and all that it started, and removes the instances.
    pub(crate) fn take_down(&mut self) {
        self.shut_down("remove");
    }

    /// Ends the daemon and its sidecars; `workloads`: what becomes of the instances.
    pub(crate) fn shut_down(&mut self, workloads: &str) {
        let request = json!({ "data_plane": true, "workloads": workloads }).to_string();
        self.answer("POST", "/v1/shutdown", &request);
        let ended = self.daemon.take().expect("it runs").wait().expect("it is ours");
        assert!(ended.success(), "{}", self.log());
    }

    /// Writes a fact past the daemon.
    pub(crate) fn write(&self, key: Key, value: Value) {
        let config = std::fs::read_to_string(self.path("ployzd.toml")).expect("a configuration");
        let config: toml::Table = config.parse().expect("TOML");
        let address = format!("127.0.0.1:{}", config["nats"]["port"]);
        let credentials = Credentials::load(&self.path("nats/coordinator.nk")).expect("a seed");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let link = Link::open(address, credentials, "test");
            link.up(PATIENCE).await.expect("the store");
            let writes = vec![store::Write { key, value, expect: None, ttl: None }];
            let request = StoreRequest::Commit { writes };
            let outcome = Store::new(link).execute(request, PATIENCE).await;
            assert!(matches!(outcome, Outcome::Ok(_)), "{outcome:?}");
        });
    }

    /// The process of each sidecar, with its start time, once all run.
    pub(crate) fn sidecars(&self) -> [(i32, String); 3] {
        let began = Instant::now();
        loop {
            let status = self.status();
            let pids = SIDECARS.map(|name| {
                let all = status["components"].as_array().expect("components");
                let component = all.iter().find(|c| c["name"] == name).expect(name);
                component["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())
            });
            if let [Some(nats), Some(gateway), Some(dns)] = pids {
                return [nats, gateway, dns].map(|pid| (pid, start_time(pid)));
            }
            assert!(began.elapsed() < PATIENCE, "{status}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The pid that a sidecar's record names.
    pub(crate) fn recorded(&self, name: &str) -> Option<i32> {
        let record = std::fs::read(self.path(&format!("sidecars/{name}.json"))).ok()?;
        let record: Value = serde_json::from_slice(&record).ok()?;
        i32::try_from(record["pid"].as_i64()?).ok()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        for pid in SIDECARS.iter().filter_map(|name| self.recorded(name)) {
            signal(pid, rustix::process::Signal::KILL);
        }
        for instance in std::fs::read_dir(self.path("instances")).into_iter().flatten().flatten() {
            let state = std::fs::read(instance.path().join("state.json")).unwrap_or_default();
            let state: Value = serde_json::from_slice(&state).unwrap_or_default();
            for whose in ["supervisor", "workload"] {
                if let Some(pid) = state[whose]["pid"].as_i64() {
                    signal(i32::try_from(pid).expect("a pid"), rustix::process::Signal::KILL);
                }
            }
        }
    }
}

/// The daemon's events, as they come.
pub(crate) struct Events {
    lines: BufReader<UnixStream>,
}

impl Events {
    /// The next event about this component with this code.
    pub(crate) fn wait(&mut self, component: &str, code: &str) -> Value {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line);
            assert!(matches!(read, Ok(1..)), "no {code} of {component}, but\n{seen}");
            // What is no event is the head of the answer, or the size of a chunk.
            let Ok(event @ Value::Object(_)) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if event["component"] == component && event["code"] == code {
                return event;
            }
            seen.push_str(&line);
        }
    }
}

fn ask(mut stream: UnixStream, method: &str, path: &str, body: &str) -> UnixStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: ployzd\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("the daemon reads");
    stream
}

/// When a process started, in the kernel's words.
fn start_time(pid: i32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, after_name) = stat.rsplit_once(')').expect("a name in parentheses");
    after_name.split_whitespace().nth(19).expect("a start time").to_owned()
}

/// Sends a signal to a process that this test started.
pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // One that has ended needs none.
        let _ = rustix::process::kill_process(pid, signal);
    }
}
