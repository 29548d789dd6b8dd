//! Operations of a real daemon.

use proto_core::api::OperationResult;
use proto_core::store::Key;
use serde_json::json;

use crate::harness::{Machine, nats_server};

/// A service of one process that listens nowhere.
const SLEEPER: &str = r#"
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
