//! Operations of a real daemon.

use proto_core::api::OperationResult;
use proto_core::store::Key;
use serde_json::json;

use crate::harness::{Machine, nats_server};

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
