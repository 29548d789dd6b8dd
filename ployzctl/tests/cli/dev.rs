//! Founding a cluster and taking it down, with a shell script in the place of `ployzd`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use proto_core::api::ErrorBody;
use serde_json::json;
use tempfile::TempDir;

use crate::fake::{Fake, Ran, Reply, Seen, copy_program};
use crate::questions::status;

/// `ployzctl` beside a `ployzd` whose `init` writes down how it was called, and whose `run` is this script.
struct Bin {
    dir: TempDir,
}

impl Bin {
    fn new(run: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_program(env!("CARGO_BIN_EXE_ployzctl"), &dir.path().join("ployzctl"));
        let script = format!(
            "#!/bin/sh\n\
             D={0}/data\n\
             case $1 in\n\
             init) mkdir -p $D; echo \"$@\" >$D/ployzd.toml;;\n\
             run) {run};;\n\
             esac\n",
            dir.path().display()
        );
        let written = dir.path().join("ployzd.sh");
        std::fs::write(&written, script).unwrap();
        std::fs::set_permissions(&written, Permissions::from_mode(0o755)).unwrap();
        copy_program(written, &dir.path().join("ployzd"));
        Self { dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn run(&self, fake: &Fake, args: &str) -> Ran {
        let mut command = Command::new(self.dir.path().join("ployzctl"));
        command.args(args.split_whitespace()).stdin(Stdio::null());
        command.env("PLOYZ_SOCKET", fake.socket()).env("PLOYZ_DATA_DIR", self.data());
        Ran::of(command.output().unwrap())
    }
}

/// A daemon that is not ready until `ployzd run` was called, and whose process ends when it is told to.
fn daemon(started: PathBuf) -> Fake {
    let looks = AtomicU32::new(0);
    let process: Child = Command::new("sleep").arg("60").spawn().unwrap();
    let (pid, process) = (process.id(), Mutex::new(process));
    Fake::new(move |request: &Seen, reply: &mut Reply| {
        if request.line == "POST /v1/shutdown" {
            reply.json(&json!({}));
            std::fs::remove_file(&request.socket).unwrap();
            let mut process = process.lock().unwrap();
            process.kill().unwrap();
            process.wait().unwrap();
        } else if request.line == "POST /v1/instances/start" {
            reply.json(&json!({"started": [{
                "namespace": "blog", "service": "web", "slot": 1, "instance": "web-1-01234567",
            }], "failed": []}));
        } else if started.exists() {
            let mut status = status();
            status.pid = pid;
            // At the first look its gateway is still behind.
            status.components[0].stale = looks.fetch_add(1, Ordering::Relaxed) == 0;
            reply.json(&status);
        } else {
            reply.error("503 Not yet", &ErrorBody::new("NOT_READY", "it starts"));
        }
    })
}

#[test]
fn a_cluster_is_founded_started_and_shown_then_taken_down_and_removed() {
    let bin = Bin::new("touch $D/started; exec sleep 2");
    let fake = daemon(bin.data().join("started"));
    let ran = bin.run(&fake, "mesh init home --runtime process --nats-port 4333");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("cluster dev (00ff)\n"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("stale"), "it waits until the gateway serves: {}", ran.stdout);
    assert_eq!(
        std::fs::read_to_string(bin.data().join("ployzd.toml")).unwrap(),
        format!(
            "init --name home --data-dir {} --runtime process --socket {} --nats-port 4333\n",
            bin.data().display(),
            fake.socket().display()
        )
    );
    let ran = bin.run(&fake, "dev up");
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (0, "the daemon runs already\nblog/web/1 is started (web-1-01234567)\n")
    );
    let ran = bin.run(&fake, "mesh init again");
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.starts_with("error[CLUSTER_EXISTS]: "), "{}", ran.stderr);

    let ran = bin.run(&fake, "dev destroy");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error[CONFIRMATION_NEEDED]: "), "{}", ran.stderr);
    assert!(bin.data().exists());
    let ran = bin.run(&fake, "dev destroy --yes");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!bin.data().exists());
    let last = fake.seen().pop().unwrap();
    assert_eq!(last.line, "POST /v1/shutdown");
    assert_eq!(last.body, json!({"data_plane": true, "workloads": "remove"}));

    let ran = bin.run(&fake, "dev destroy --yes");
    assert_eq!(ran.code, 0, "gone already is success: {}", ran.stderr);
}

#[test]
fn the_daemon_leads_a_session_of_its_own() {
    // The sixth field of its stat is its session; the name in the second has no blanks.
    let bin = Bin::new(
        "echo $$ $(cut -d' ' -f6 /proc/$$/stat) >$D/session; touch $D/started; exec sleep 2",
    );
    let fake = daemon(bin.data().join("started"));
    let ran = bin.run(&fake, "dev up --runtime process");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let said = std::fs::read_to_string(bin.data().join("session")).unwrap();
    let (pid, session) = said.trim().split_once(' ').unwrap();
    assert_eq!(pid, session);
    assert_eq!(bin.run(&fake, "dev destroy --yes").code, 0);
}

#[test]
fn a_daemon_that_ends_at_once_is_told_with_its_last_words() {
    let bin = Bin::new("echo 'port 4222 is taken' >&2; exit 2");
    let ran = bin.run(&Fake::away(), "dev up --runtime process");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("error[DAEMON_ENDED]: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("\n    port 4222 is taken\n"), "{}", ran.stderr);
}

#[test]
fn a_cluster_is_not_founded_at_a_socket_that_is_taken() {
    let bin = Bin::new("exit 1");
    let ran = bin.run(&Fake::saying(status()), "mesh init home");
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error[SOCKET_TAKEN]: "), "{}", ran.stderr);
    assert!(!bin.data().exists());
}

#[test]
fn there_is_nothing_to_take_down_where_nothing_was_founded() {
    let bin = Bin::new("exit 1");
    let ran = bin.run(&Fake::away(), "dev down");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("there is no cluster in "), "{}", ran.stderr);
}

#[test]
fn up_names_what_it_cannot_start_and_what_mends_it() {
    let bin = Bin::new("exit 1");
    let fake = Fake::new(|request, reply| {
        if request.line == "POST /v1/instances/start" {
            let instance = json!({
                "namespace": "blog", "service": "web", "slot": 1, "instance": "web-1-01234567",
            });
            let failed =
                json!({"instance": instance, "reason": "there is no instance web-1-01234567"});
            reply.json(&json!({"started": [], "failed": [failed]}));
        } else {
            reply.json(&status());
        }
    });
    let ran = bin.run(&fake, "dev up");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let told = "blog/web/1: there is no instance web-1-01234567\n";
    assert!(ran.stderr.contains("error[INSTANCES_NOT_STARTED]: "), "{}", ran.stderr);
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("next: ployzctl restart blog/web\n"), "{}", ran.stderr);
}

#[test]
fn down_stops_instances_and_does_not_remove_them() {
    let bin = Bin::new("touch $D/started; exec sleep 2");
    let fake = daemon(bin.data().join("started"));
    assert_eq!(bin.run(&fake, "dev up --runtime process").code, 0);
    let ran = bin.run(&fake, "dev down");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let last = fake.seen().pop().unwrap();
    assert_eq!(last.body, json!({"data_plane": true, "workloads": "stop"}));
}
