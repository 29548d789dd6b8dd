//! Operations of a real daemon.

use proto_core::api::OperationResult;
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
