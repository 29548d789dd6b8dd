//! Requests that a daemon reads when nobody waits for the answer any more.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proto_core::api::{OperationRequest, OperationResult, Submission};
use proto_core::deploy::manifest::{Format, parse};
use rustix::process::Signal;

use crate::harness::{Machine, nats_server, signal};
use crate::operations::SLEEPER;

/// Asks for a deploy into this namespace.
fn ask(machine: &Machine, namespace: &str) -> UnixStream {
    let manifest = parse(&SLEEPER.replace("calm", namespace), Format::Toml, "test").unwrap();
    let submission = Submission::Apply { request: OperationRequest::Deploy { manifest } };
    let body = serde_json::to_string(&submission).unwrap();
    let mut stream = UnixStream::connect(machine.path("ployzd.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "POST /v1/operations HTTP/1.1\r\nhost: ployzd\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// What is answered, up to the end of the operation.
fn answer(stream: UnixStream) -> String {
    let mut answer = String::new();
    let mut lines = BufReader::new(stream);
    while !answer.contains("\"finished\"") {
        assert_ne!(lines.read_line(&mut answer).unwrap(), 0, "{answer}");
    }
    answer
}

/// Stops a process and waits until it stands still.
fn stop(pid: i32) {
    signal(pid, Signal::STOP);
    let began = Instant::now();
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        if stat.rsplit_once(") ").unwrap().1.starts_with('T') {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{stat}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_daemon_that_goes_on_does_not_run_what_was_given_up_while_it_was_stopped() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    let pid = i32::try_from(machine.status()["pid"].as_i64().unwrap()).unwrap();

    stop(pid);
    drop(ask(&machine, "late"));
    let waiting = ask(&machine, "waiting");
    signal(pid, Signal::CONT);

    let waiting = answer(waiting);
    // Whatever was begun before this one is recorded by its end.
    let done = machine.deploy(SLEEPER);
    let namespaces = machine.answer("GET", "/v1/namespaces", "");
    let operations = machine.answer("GET", "/v1/operations", "");
    machine.take_down();
    assert!(waiting.contains("\"committed\""), "{waiting}");
    assert!(matches!(done, OperationResult::Committed { commit: 1, .. }), "{done:?}");
    for listing in [namespaces, operations] {
        assert!(listing.contains("waiting") && listing.contains("calm"), "{listing}");
        assert!(!listing.contains("late"), "{listing}");
    }
}
