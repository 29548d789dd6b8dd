//! Listings: as text and as JSON.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use proto_core::api::views::{
    ComponentView, DaemonEvent, DoctorCheck, NamespaceView, StatusView, StoreView,
};
use proto_core::time::UnixTime;
use serde_json::{Value, json};

use crate::fake::{Fake, Ran, copy_program};
use crate::fixture::{instances, machine, manifest};

pub(crate) fn status() -> StatusView {
    StatusView {
        version: "0.1.0".to_owned(),
        cluster: "dev".to_owned(),
        cluster_id: "00ff".to_owned(),
        machine: machine(),
        runtime: "process".to_owned(),
        pid: 7,
        uptime_ms: 61_000,
        store: StoreView { reachable: true, detail: None },
        components: vec![ComponentView {
            name: "gateway".to_owned(),
            pid: Some(8),
            state: "running".to_owned(),
            applied: Some(12),
            stale: true,
            detail: Some("127.0.0.1:8080".to_owned()),
        }],
        namespaces: vec![NamespaceView {
            namespace: manifest().namespace,
            commit: 2,
            services: 1,
            instances: 2,
            running: Some(1),
        }],
    }
}

#[test]
fn status_shows_daemon_components_and_namespaces() {
    let fake = Fake::saying(status());
    let expected = "\
cluster dev (00ff)
machine m1, runtime process, ployzd 0.1.0 (pid 7, up 1m1s)
store answers

COMPONENT  STATE           PID  SERVES  DETAIL
gateway    running, stale  8    12      127.0.0.1:8080

NAMESPACE  COMMIT  SERVICES  RUNNING
blog       2       1         1/2
";
    for command in ["status", "dev status"] {
        assert_eq!(fake.run(command).stdout, expected, "{command}");
    }
    let document: Value = serde_json::from_str(&fake.run("status --json").stdout).unwrap();
    assert_eq!(document, serde_json::to_value(status()).unwrap());
}

#[test]
fn a_status_without_the_store_does_not_say_that_there_are_no_namespaces() {
    let mut view = status();
    view.store = StoreView { reachable: false, detail: Some("no answer in time".to_owned()) };
    view.namespaces = Vec::new();
    let said = Fake::saying(view).run("status").stdout;
    assert!(said.contains("store DOES NOT ANSWER: no answer in time\n"), "{said}");
    assert!(said.ends_with("namespaces: not known while the store does not answer\n"), "{said}");
}

#[test]
fn ps_shows_what_was_seen_and_who_was_silent() {
    let fake = Fake::saying(instances());
    let expected = "\
SLOT        INSTANCE        MACHINE  STATE                    RESTARTS  ADDRESS               IMAGE
blog/web/0  web-0-01234567  m1       exited 3, not committed  1         10.101.0.2 http=8080  example/web:2
blog/web/1  web-1-01234567  m1       running                  1         10.101.0.3 http=8080  example/web:2
silent: m2: no answer within 1 s; what runs there is unknown
";
    assert_eq!(fake.run("ps").stdout, expected);
    fake.run("ps blog");
    let asked: Vec<_> = fake.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(asked, ["GET /v1/instances", "GET /v1/instances?namespace=blog"]);
}

#[test]
fn a_doctor_that_finds_something_wrong_exits_with_1() {
    let check = |ok| DoctorCheck {
        check: "store".to_owned(),
        ok,
        detail: "asked".to_owned(),
        next: Some("ployzctl status".to_owned()),
    };
    let ran = Fake::saying([check(true)]).run("doctor");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "ok     store: asked\n"));
    let ran = Fake::saying([check(true), check(false)]).run("doctor");
    assert_eq!(ran.code, 1);
    assert!(
        ran.stdout.ends_with("WRONG  store: asked\n       next: ployzctl status\n"),
        "{}",
        ran.stdout
    );
}

#[test]
fn operations_and_leases_are_listed() {
    let record = json!({
        "v": 1, "id": "0123456789abcdef", "scope": {"namespace": "blog"}, "summary": "deploy blog",
        "request_digest": "0".repeat(64), "phase": "executing", "attempt": 1,
        "epoch": {"incarnation": 1, "revision": 9}, "coordinator": "m1", "nonce": "n",
        "started": 1_795_176_001_999_u64, "updated": 1_795_176_001_999_u64,
        "revision": 10, "running_here": false,
    });
    let expected = "\
OPERATION         PHASE                         SCOPE           WHAT         COORDINATOR  STARTED
0123456789abcdef  executing, does not run here  namespace blog  deploy blog  m1           2026-11-20T12:00:01Z
";
    let ran = Fake::saying(json!([record])).run("op ls");
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
    let mut over = record.clone();
    over["phase"] = json!("committed");
    over["done"] = json!({"commit": 2, "steps": ["m1: start web-0-x at 10.101.0.2"]});
    let shown = Fake::saying(over).run("op show 0123456789abcdef").stdout;
    let done = "committed 2, 1 step done\n  m1: start web-0-x at 10.101.0.2\n";
    assert!(shown.ends_with(done), "{shown}");
    let shown = Fake::saying(record).run("op show 0123456789abcdef").stdout;
    assert!(shown.contains("coordinator m1, epoch 1.9\n"), "{shown}");
    assert!(shown.contains("next: ployzctl op resume 0123456789abcdef, or"), "{shown}");

    let lease = |released| {
        json!({"key": "lease.ns.blog", "lease": {
            "v": 1, "operation": "0123456789abcdef", "holder": "m1", "nonce": "n", "since": 0, "released": released,
        }})
    };
    let ran = Fake::saying(json!([lease(false), lease(true)])).run("lock ls");
    assert_eq!(
        ran.stdout,
        "LEASE          OPERATION         HOLDER  EPOCH       SINCE\n\
         lease.ns.blog  0123456789abcdef  m1      first take  1970-01-01T00:00:00Z\n",
        "{}",
        ran.stderr
    );
    assert_eq!(Fake::saying(json!([lease(true)])).run("lock ls").stdout, "no leases are held\n");
}

#[test]
fn events_end_quietly_when_their_reader_goes() {
    let fake = Fake::new(|_, reply| {
        reply.operation();
        let event = DaemonEvent {
            at: UnixTime::from_millis(0),
            code: "SIDECAR_ADOPTED".to_owned(),
            component: "gateway".to_owned(),
            message: "x".repeat(1000),
            result: None,
        };
        // More than a pipe holds.
        (0..1000).for_each(|_| reply.line(&event));
    });
    let mut command = fake.command("events -f");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let all = fake.run("events").stdout;
    assert!(all.starts_with("1970-01-01T00:00:00Z  gateway    SIDECAR_ADOPTED   xxx"));
    assert_eq!(all.lines().count(), 1000);
}

#[test]
fn a_daemon_that_does_not_answer_in_time_is_silent() {
    let fake = Fake::new(|_, _| std::thread::park());
    let ran = fake.run("status --timeout 1");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("error[DAEMON_SILENT]: "), "{}", ran.stderr);
    // Asking it once more would tell no more.
    let mut command = fake.command("status --timeout 1");
    let ran = Ran::of(command.env("PLOYZ_DATA_DIR", "/d").output().unwrap());
    assert!(ran.stderr.ends_with("next: tail /d/ployzd.log\n"), "{}", ran.stderr);
}

#[test]
fn a_socket_that_is_not_permitted_is_told_apart_from_one_that_is_not_there() {
    let fake = Fake::saying(status());
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    // Where anybody may run it: the build's directory can be a private one.
    let program = fake.socket().with_file_name("ployzctl");
    copy_program(env!("CARGO_BIN_EXE_ployzctl"), &program);
    mode(&program, 0o755);
    mode(program.parent().unwrap(), 0o755);
    let mut command = std::process::Command::new(&program);
    command.arg("status").env_clear().env("PLOYZ_SOCKET", fake.socket()).stdin(Stdio::null());
    // Nothing is forbidden to root, so root becomes nobody; everybody else forbids it to himself.
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        mode(&fake.socket(), 0o600);
        command.uid(65_534).gid(65_534);
    } else {
        mode(&fake.socket(), 0o000);
    }
    let ran = Ran::of(command.output().unwrap());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error[SOCKET_FORBIDDEN]: "), "{}", ran.stderr);
    let next = format!("next: sudo ployzctl --socket {} status\n", fake.socket().display());
    assert!(ran.stderr.ends_with(&next), "nobody else may use it: {}", ran.stderr);
    assert!(fake.seen().is_empty());
    assert!(Fake::away().run("status").stderr.starts_with("error[DAEMON_AWAY]: "));
}

#[test]
fn an_answer_of_another_shape_is_no_answer() {
    let ran = Fake::saying(json!({"a": 1})).run("status");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("error[ANSWER_UNREADABLE]: "), "{}", ran.stderr);
}

#[test]
fn version_completions_and_man_pages_need_no_daemon() {
    let fake = Fake::away();
    let ran = fake.run("version");
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.starts_with(concat!(
        "ployzctl ",
        env!("CARGO_PKG_VERSION"),
        "\nployzd unknown: "
    )));
    assert_eq!(Fake::saying(status()).run("version").stdout.lines().last(), Some("ployzd 0.1.0"));
    for shell in ["bash", "zsh", "fish"] {
        let ran = fake.run(&format!("completions {shell}"));
        assert!(ran.code == 0 && ran.stdout.contains("ployzctl"), "{shell}");
    }
    assert_eq!(fake.run("man pages/man1").code, 0);
    let pages = fake.socket().with_file_name("pages").join("man1");
    // A page for a command of a command too.
    let page = std::fs::read_to_string(pages.join("ployzctl-deploy-preview.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("change nothing"), "{page}");
    assert!(pages.join("ployzctl.1").exists() && pages.join("ployzctl-exec.1").exists());
}
