//! Founding a cluster and taking it down, with a shell script in the place of `ployzd`.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
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
fn bare_dev_is_dev_up_with_its_environment_and_its_flags() {
    for flags in ["", " --data-dir DATA", " --runtime process --nats-port 4333"] {
        let said = ["dev", "dev up"].map(|command| {
            let bin = Bin::new("touch $D/started; exec sleep 2");
            let fake = daemon(bin.data().join("started"));
            let flags = flags.replace("DATA", &bin.data().display().to_string());
            let ran = bin.run(&fake, &format!("{command}{flags}"));
            assert_eq!(ran.code, 0, "{command}{flags}: {}", ran.stderr);
            let init = std::fs::read_to_string(bin.data().join("ployzd.toml")).unwrap();
            init.replace(&bin.data().display().to_string(), "DATA")
                .replace(&fake.socket().display().to_string(), "SOCKET")
        });
        assert!(said[0].starts_with("init --name dev --data-dir DATA "), "{said:?}");
        assert_eq!(said[0], said[1]);
    }
}

#[test]
fn a_flag_in_front_of_a_subcommand_of_dev_is_refused_and_not_ignored() {
    let bin = Bin::new("exit 1");
    let ran = bin.run(&Fake::away(), "dev --data-dir /elsewhere up");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error[USAGE]: --data-dir belongs behind"), "{}", ran.stderr);
    let ran = bin.run(&Fake::away(), "dev --json --runtime process down");
    assert!(ran.stdout.contains("--runtime belongs behind"), "{ran:?}");
    assert!(!bin.data().exists());
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
    assert!(!bin.data().exists(), "what it founded is removed");

    std::fs::create_dir(bin.data()).unwrap();
    std::fs::write(bin.data().join("ployzd.toml"), "").unwrap();
    std::fs::write(bin.data().join("ployzd.log"), "an earlier start\n").unwrap();
    let ran = bin.run(&Fake::away(), "dev up");
    assert!(ran.stderr.contains("\n    port 4222 is taken\n"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("an earlier start"), "{}", ran.stderr);
    assert!(bin.data().exists(), "what was there before stays");
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

/// A process, and how records name it.
fn recorded() -> (Child, serde_json::Value) {
    let child = Command::new("sleep").arg("60").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let started: u64 =
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let record = json!({"pid": child.id(), "start_time": started, "boot_id": boot.trim()});
    (child, record)
}

/// A cluster whose lock names a process as its daemon, which listens here.
fn locked(bin: &Bin, fake: &Fake) -> (Child, serde_json::Value) {
    std::fs::create_dir(bin.data()).unwrap();
    std::fs::write(bin.data().join("ployzd.toml"), "").unwrap();
    let (daemon, mut record) = recorded();
    // Until it has become the program it is this test.
    let program = loop {
        let program = std::fs::read_link(format!("/proc/{}/exe", daemon.id())).unwrap();
        if program != std::env::current_exe().unwrap() {
            break program;
        }
        std::thread::yield_now();
    };
    record["socket"] = json!(fake.socket());
    record["program"] = json!(program);
    std::fs::write(bin.data().join("ployzd.lock"), record.to_string()).unwrap();
    (daemon, record)
}

#[test]
fn a_daemon_that_does_not_answer_is_named_and_only_force_kills_it() {
    let bin = Bin::new("exit 2");
    let fake = Fake::new(|_, _| std::thread::park());
    let (mut daemon, _) = locked(&bin, &fake);
    let pid = daemon.id();
    for command in ["dev up", "dev down", "dev destroy --yes"] {
        let ran = bin.run(&fake, &format!("{command} --timeout 1"));
        assert_eq!(ran.code, 1, "{command}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error[DAEMON_SILENT]: the daemon of "), "{}", ran.stderr);
        let next = match command {
            "dev destroy --yes" => "\nnext: ployzctl dev destroy --force ".to_owned(),
            _ => format!("\nnext: kill -9 {pid}; ployzctl "),
        };
        assert!(ran.stderr.contains(&next), "{command}: {}", ran.stderr);
        let again = command.trim_end_matches("--yes");
        assert!(ran.stderr.contains(again), "it is what was wanted: {}", ran.stderr);
        assert!(daemon.try_wait().unwrap().is_none(), "{command}: nobody asked for its end");
    }
    let ran = bin.run(&fake, "dev destroy --yes --force --timeout 1");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("process {pid}, is killed\n")), "{}", ran.stderr);
    assert_eq!(daemon.wait().unwrap().signal(), Some(9));
    assert!(!bin.data().exists());
}

#[test]
fn a_daemon_that_has_lost_its_socket_is_named_with_the_way_out() {
    let bin = Bin::new("exit 2");
    let fake = Fake::away();
    let (mut daemon, mut record) = locked(&bin, &fake);
    let (pid, lock) = (daemon.id(), bin.data().join("ployzd.lock"));
    let ran = bin.run(&fake, "dev up");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error[DAEMON_UNREACHABLE]: "), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("\nnext: kill {pid}; ployzctl ")), "{}", ran.stderr);
    assert!(daemon.try_wait().unwrap().is_none(), "nobody asked for its end");

    // Of another program the pid is nobody's.
    record["program"] = json!("/bin/another");
    std::fs::write(&lock, record.to_string()).unwrap();
    let ran = bin.run(&fake, "dev up");
    assert!(ran.stderr.starts_with("error[DAEMON_ENDED]: "), "{}", ran.stderr);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn the_records_of_what_still_runs_are_not_removed_even_by_force() {
    let bin = Bin::new("exit 2");
    let sidecars = bin.data().join("sidecars");
    std::fs::create_dir_all(&sidecars).unwrap();
    std::fs::write(bin.data().join("ployzd.toml"), "").unwrap();
    let (mut sidecar, record) = recorded();
    std::fs::write(sidecars.join("nats.json"), record.to_string()).unwrap();
    let ran = bin.run(&Fake::away(), "dev destroy --force --yes");
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("error[STILL_RUNNING]: "), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("\nnext: kill {}; ", sidecar.id())), "{}", ran.stderr);
    assert!(sidecars.join("nats.json").exists());

    sidecar.kill().unwrap();
    sidecar.wait().unwrap();
    let ran = bin.run(&Fake::away(), "dev destroy --force --yes");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!bin.data().exists());
}

#[test]
fn the_second_of_two_at_once_waits_and_finds_what_the_first_has_started() {
    let bin = Bin::new("exit 1");
    let fake = daemon(bin.data().join("started"));
    std::fs::create_dir(bin.data()).unwrap();
    let first = std::fs::File::open(bin.data()).unwrap();
    first.lock().unwrap();
    let mut second = Command::new(bin.dir.path().join("ployzctl"));
    second.args(["dev", "up"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    second.env("PLOYZ_SOCKET", fake.socket()).env("PLOYZ_DATA_DIR", bin.data());
    let mut second = second.spawn().unwrap();
    let mut said = BufReader::new(second.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().starts_with("another ployzctl "));
    std::fs::write(bin.data().join("started"), "").unwrap();
    drop(first);
    assert_eq!(said.next().unwrap().unwrap(), "the daemon runs already");
    assert!(second.wait().unwrap().success());
}

#[test]
fn what_is_no_socket_is_said_to_be_none_and_not_proposed_to_a_daemon() {
    let ran = Bin::new("exit 1").run(&Fake::away(), "--socket /dev/null status");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error[NOT_A_SOCKET]: "), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("next: ls -ld /dev/null\n"), "{}", ran.stderr);
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
