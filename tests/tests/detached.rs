//! Processes that outlive the daemon, and are nothing until somebody knows of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use io_adapters::process::{Held, Supervisor, exit_watch, is_alive, spawn_detached, terminate};

/// A script that would be run as a sidecar is; with its log.
fn held(script: &str, directory: &Path) -> Held {
    let argv = ["sh", "-c", script].map(OsString::from);
    spawn(&argv, directory).expect("the gate is started")
}

fn spawn(argv: &[OsString], directory: &Path) -> std::io::Result<Held> {
    let gate = Supervisor {
        program: env!("CARGO_BIN_EXE_ployz-test-process").into(),
        arguments: vec!["supervise".into()],
    };
    let env: BTreeMap<OsString, OsString> =
        [("WHO".into(), "me".into()), ("PATH".into(), "/usr/bin:/bin".into())].into();
    spawn_detached(&gate, argv, &env, &directory.join("log"), directory)
}

#[tokio::test]
async fn it_leads_a_session_of_its_own_and_its_environment_is_what_was_given() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let script = "env | sort | grep -v '^_\\|PWD\\|SHLVL'; pwd; echo ready; exec sleep 1000";
    let held = held(script, directory.path());
    let known = held.identity().clone();
    let identity = held.release().unwrap();
    assert_eq!(identity, known, "the program is the process that was held");
    while !std::fs::read_to_string(&log).unwrap().ends_with("ready\n") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = rustix::process::Pid::from_raw(identity.pid.cast_signed());
    assert_eq!(rustix::process::getsid(pid).ok(), pid);
    assert_eq!(rustix::process::getpgid(pid).ok(), pid);
    let said = std::fs::read_to_string(&log).unwrap();
    let here = directory.path().display();
    assert_eq!(said, format!("PATH=/usr/bin:/bin\nWHO=me\n{here}\nready\n"));
    assert!(is_alive(&identity).unwrap());
    terminate(&identity, Duration::from_secs(5)).await.unwrap();
    assert!(!is_alive(&identity).unwrap());
}

#[tokio::test]
async fn one_that_nobody_releases_ends_without_having_been_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let held = held("touch was-here; exec sleep 1000", directory.path());
    let identity = held.identity().clone();
    assert!(is_alive(&identity).unwrap());
    drop(held);
    tokio::time::timeout(Duration::from_secs(30), exit_watch(&identity)).await.unwrap().unwrap();
    assert!(!directory.path().join("was-here").exists());
}

#[tokio::test]
async fn what_cannot_be_run_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let held = spawn(&["/no/such/program".into()], directory.path()).unwrap();
    let error = held.release().unwrap_err().to_string();
    assert!(error.starts_with("/no/such/program: No such file"), "{error}");
}
