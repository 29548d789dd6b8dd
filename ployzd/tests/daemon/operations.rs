//! Operations of a real daemon.

use std::time::{Duration, Instant};

use proto_core::api::OperationResult;
use proto_core::api::views::InstancesView;
use proto_core::runtime::InstanceState;
use proto_core::store::Key;
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Machine, nats_server, signal};

/// A service of one process that listens nowhere.
pub(crate) const SLEEPER: &str = r#"
namespace = "calm"

[[services]]
name = "sleeper"
command = ["sleep", "1000"]
stop_grace_period = "1s"
"#;

#[test]
fn a_namespace_whose_head_cannot_be_read_holds_up_no_other() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    machine.write(Key::new("ns.broken.head").unwrap(), json!("no head at all"));
    let result = machine.deploy(SLEEPER);
    machine.take_down();
    let OperationResult::Committed { commit: 1, notes, .. } = &result else { panic!("{result:?}") };
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn an_operation_that_ended_is_told_in_a_sentence_with_the_next_command() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    let mut events = machine.start();
    events.wait("daemon", "READY");
    let done = machine.deploy(SLEEPER);
    let OperationResult::Committed { operation, .. } = &done else { panic!("{done:?}") };
    let told = events.wait("operation", "OPERATION_ENDED");
    assert_eq!(told["message"], format!("deploy calm: committed 1 by operation {operation}"));
    assert_eq!(told["result"]["outcome"], "committed");

    let broken = SLEEPER.replace(r#"["sleep", "1000"]"#, r#"["false"]"#) + "restart = \"no\"\n";
    let failed = machine.deploy(&broken);
    let told = events.wait("operation", "OPERATION_ENDED");
    machine.take_down();
    let OperationResult::Aborted { operation, error } = &failed else { panic!("{failed:?}") };
    assert_eq!(error.code, "INSTANCE_EXITED");
    assert_eq!(error.next, Some(format!("ployzctl op show {operation}")));
    let sentence = format!(
        "deploy calm: aborted operation {operation}: everything was undone. INSTANCE_EXITED: {}",
        error.message
    );
    assert_eq!(told["message"], sentence);
}

#[test]
fn an_instance_that_keeps_exiting_is_told_with_its_real_exit_code() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    let done = machine.deploy(&crashing("sleep 2; exit 3"));
    assert!(matches!(done, OperationResult::Committed { commit: 1, .. }), "{done:?}");
    let until = Instant::now() + Duration::from_secs(30);
    let seen = loop {
        let seen = machine.answer("GET", "/v1/instances", "");
        let seen: InstancesView = serde_json::from_str(&seen).unwrap();
        let [row] = &seen.rows[..] else { panic!("{seen:?}") };
        if row.instance.state == InstanceState::Restarting {
            break row.instance.clone();
        }
        assert!(Instant::now() < until, "{row:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let codes = [("exit 3", "code 3"), ("kill -9 $$", "code 137 (signal 9)")];
    let told = codes.map(|(script, code)| (code, machine.deploy(&crashing(script))));
    machine.take_down();
    assert_eq!(seen.last_exit, Some(3));
    for (code, failed) in told {
        let OperationResult::Aborted { error, .. } = &failed else { panic!("{failed:?}") };
        assert_eq!(error.code, "INSTANCE_EXITED");
        assert!(error.message.contains(&format!(" exited with {code}")), "{error:?}");
    }
}

/// A service whose instances run this, and are started again whenever it ends.
fn crashing(script: &str) -> String {
    SLEEPER.replace(r#"["sleep", "1000"]"#, &format!(r#"["sh", "-c", "{script}"]"#))
}

#[test]
fn a_store_that_has_lost_its_facts_is_not_founded_anew_and_takes_no_deploy() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    let done = machine.deploy(SLEEPER);
    assert!(matches!(done, OperationResult::Committed { commit: 1, .. }), "{done:?}");
    machine.kill();
    signal(machine.recorded("nats").expect("it runs"), Signal::KILL);
    let emptied = empty_blocks(&machine.path("nats"));
    assert!(emptied > 0, "the store keeps its messages elsewhere");

    let told = machine.start().wait("daemon", "NOT_READY");
    let message = told["message"].as_str().unwrap_or_default();
    let refused = machine.deploy(SLEEPER);
    machine.take_down();
    assert!(message.contains("has lost the facts of cluster"), "{message}");
    let OperationResult::Refused { error } = &refused else { panic!("{refused:?}") };
    assert_eq!(error.code, "FACTS_LOST");
}

/// Empties the files in which nats-server keeps messages; how many.
fn empty_blocks(directory: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .map(|path| match path.extension().is_some_and(|ending| ending == "blk") {
            _ if path.is_dir() => empty_blocks(&path),
            true => std::fs::write(&path, "").map(|()| 1).expect("a file"),
            false => 0,
        })
        .sum()
}
