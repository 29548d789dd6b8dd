//! Instances that do not run: stopped with the daemon and started by the operator, or ended behind its back.

use proto_core::api::OperationResult;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Machine, nats_server, signal};

const TWO: &str = r#"
namespace = "calm"
[[services]]
name = "sleeper"
placement = { replicas = 2 }
command = ["sleep", "1000"]
restart = "no"
"#;

fn ask(machine: &Machine, method: &str, path: &str) -> Value {
    let text = machine.answer(method, path, "");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Pids by instance; null for one that does not run.
fn pids(machine: &Machine) -> Vec<(String, Value)> {
    let rows = ask(machine, "GET", "/v1/instances")["rows"].take();
    let rows = rows.as_array().unwrap().iter();
    let pid = |row: &Value| {
        let name = row["instance"]["spec"]["name"].as_str().unwrap().to_owned();
        (name, row["instance"]["pid"].clone())
    };
    rows.map(pid).collect()
}

/// Waits until the instance of this row is known to have ended: its process is gone a moment before.
fn exited(machine: &Machine, row: usize) {
    let begun = std::time::Instant::now();
    while !ask(machine, "GET", "/v1/instances")["rows"][row]["instance"]["state"]
        .to_string()
        .contains("exited")
    {
        assert!(begun.elapsed().as_secs() < 10, "it does not end");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn check(machine: &Machine) -> Value {
    let checks = ask(machine, "GET", "/v1/doctor");
    checks.as_array().unwrap().iter().find(|check| check["check"] == "instances").unwrap().clone()
}

fn running(machine: &Machine) -> Value {
    machine.status()["namespaces"][0]["running"].clone()
}

#[test]
fn what_a_shutdown_stopped_is_started_when_it_is_asked_for_and_not_before() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    let deployed = machine.deploy(TWO);
    assert!(matches!(deployed, OperationResult::Committed { .. }), "{deployed:?}");
    let before = pids(&machine);
    // One ended by itself: no shutdown stopped it, so nothing starts it.
    let ended = i32::try_from(before[1].1.as_i64().unwrap()).unwrap();
    signal(ended, Signal::KILL);
    exited(&machine, 1);
    // Twice, as the second daemon is to remember what the first one stopped.
    for _ in 0..2 {
        machine.shut_down("stop");
        machine.start().wait("daemon", "READY");
        let there: Vec<_> = before.iter().map(|(name, _)| (name.clone(), Value::Null)).collect();
        assert_eq!(pids(&machine), there);
    }
    assert_eq!(running(&machine), 0);

    let answer = ask(&machine, "POST", "/v1/instances/start");
    assert_eq!(answer["started"][0]["instance"], json!(before[0].0), "{answer}");
    assert_eq!((answer["started"].as_array().unwrap().len(), &answer["failed"]), (1, &json!([])));
    let after = pids(&machine);
    assert!(after[0].1.is_number() && after[1].1.is_null(), "{after:?}");
    assert_eq!(running(&machine), 1);
    let again = ask(&machine, "POST", "/v1/instances/start");
    assert_eq!(again, json!({"started": [], "failed": []}));
    machine.take_down();
}

#[test]
fn the_doctor_names_an_instance_that_ended_and_the_command_that_mends_it() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    machine.deploy(TWO);
    assert_eq!(check(&machine)["detail"], "all 2 of the heads run");
    let (name, pid) = pids(&machine).remove(0);
    signal(i32::try_from(pid.as_i64().unwrap()).unwrap(), Signal::KILL);
    exited(&machine, 0);
    let found = check(&machine);
    assert_eq!(found["ok"], false);
    let detail = format!("1 of 2 run: calm/sleeper/0 ({name}) exited 137 (signal 9)");
    assert_eq!(found["detail"], json!(detail));
    assert_eq!(found["next"], "ployzctl restart calm/sleeper");
    assert_eq!(running(&machine), 1);

    let restart = json!({"mode": "apply", "request": {
        "operation": "restart", "namespace": "calm", "service": "sleeper",
    }});
    let answer = machine.answer("POST", "/v1/operations", &restart.to_string());
    assert_eq!(check(&machine)["ok"], true, "{answer}");
    machine.take_down();
}
