//! What an operation prints, and how it ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};
use std::sync::{Mutex, mpsc};

use proto_core::api::OperationResult;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fake::{Fake, Ran};
use crate::fixture::{
    committed, deploy_events, error, finished, machine, manifest, operation, plan, recorded,
};

fn deploy(events: Vec<proto_core::api::OperationEvent>, args: &str) -> (Fake, Ran) {
    let fake = Fake::running(events);
    fake.file("ployz.toml", crate::fixture::MANIFEST);
    let ran = fake.run(args);
    (fake, ran)
}

#[test]
fn a_deploy_sends_the_manifest_and_prints_a_line_an_event() {
    let (fake, ran) = deploy(deploy_events(), "deploy");
    let digest = plan().digest().short();
    let expected = format!(
        "asking the machines\n\
         planned: 2 before the commit, 1 after it, digest {digest}\n\
         note: db is removed: the manifest does not have it\n\
         operation 0123456789abcdef\n\
         m1: start web-0-01234567 at 10.101.0.2 …\n\
         m1: start web-0-01234567 at 10.101.0.2: done\n\
         m1: wait until web-0-01234567 is ready …\n\
         m1: wait until web-0-01234567 is ready: done\n\
         committed 2 by operation 0123456789abcdef\n"
    );
    assert_eq!((ran.code, ran.stdout, ran.stderr), (0, expected, String::new()));
    let seen = fake.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "POST /v1/operations");
    assert_eq!(
        seen[0].body,
        json!({"mode": "apply", "request": {"operation": "deploy", "manifest": manifest()}})
    );
}

#[test]
fn json_is_the_events_as_they_came() {
    let (_fake, ran) = deploy(deploy_events(), "deploy --json");
    let events: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Value::Array(events), serde_json::to_value(deploy_events()).unwrap());
}

#[test]
fn quiet_prints_the_result_only() {
    let (_fake, ran) = deploy(deploy_events(), "deploy -q");
    assert_eq!(ran.stdout, "committed 2 by operation 0123456789abcdef\n");
}

#[test]
fn preview_prints_the_whole_plan_and_asks_for_nothing_else() {
    let plan = plan();
    let digest = plan.digest();
    let result = OperationResult::Previewed { plan: Box::new(plan.clone()), digest };
    let (fake, ran) = deploy(vec![finished(result)], "deploy preview");
    let revision = plan.commit.commit.services.values().next().unwrap().revision.short();
    let expected = format!(
        "plan of operation 0123456789abcdef on namespace blog\n\
         note: db is removed: the manifest does not have it\n\
         before the commit, undone if it fails: 2 steps\n\
         \x20 start-web-0  m1  start web-0-01234567 at 10.101.0.2\n\
         \x20 ready-web-0  m1  wait until web-0-01234567 is ready  (after start-web-0)\n\
         commit 2 of blog: 1 service\n\
         \x20 web: 1 instance, revision {revision}\n\
         \x20   /0  m1  web-0-01234567 at 10.101.0.2 http=8080\n\
         \x20   route blog.example.org/ to port http\n\
         after the commit: 1 step\n\
         \x20 remove-web-0  m1  remove web-0-fedcba98\n\
         digest {digest}\n"
    );
    assert_eq!((ran.code, ran.stdout), (0, expected));
    assert_eq!(fake.seen()[0].body["mode"], "preview");
}

#[test]
fn every_result_has_its_exit_code() {
    let operation = operation();
    let ends = [
        (0, OperationResult::AlreadyDone { commit: 2 }),
        (0, committed()),
        (3, OperationResult::Refused { error: error("PORT_CONFLICT") }),
        (8, OperationResult::Refused { error: error("LEASE_HELD") }),
        (9, OperationResult::Refused { error: error("PLAN_DRIFTED") }),
        (4, OperationResult::Aborted { operation: operation.clone(), error: error("NOT_READY") }),
        (
            5,
            OperationResult::Interrupted {
                operation: operation.clone(),
                error: error("LEASE_LOST"),
            },
        ),
        (
            6,
            OperationResult::Unknown {
                operation: operation.clone(),
                error: error("OUTCOME_UNKNOWN"),
            },
        ),
        (
            7,
            OperationResult::CleanupPending {
                operation,
                commit: 2,
                error: error("MACHINE_SILENT"),
            },
        ),
    ];
    for (code, result) in ends {
        let (_fake, ran) = deploy(vec![finished(result.clone())], "deploy");
        assert_eq!(ran.code, code, "{result:?}");
        assert!(!ran.stdout.is_empty(), "{result:?}");
        let wants_error = code != 0;
        assert_eq!(ran.stderr.starts_with("error["), wants_error, "{result:?}: {}", ran.stderr);
        assert_eq!(ran.stderr.contains("]: it is so\nnext: ployzctl op ls\n"), wants_error);
    }
}

#[test]
fn a_stream_that_breaks_off_leaves_the_outcome_unknown() {
    let (_fake, ran) = deploy(vec![recorded()], "deploy");
    assert_eq!(ran.code, 6);
    assert!(ran.stderr.starts_with("error[CONNECTION_LOST]: "), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("next: ployzctl op show 0123456789abcdef\n"), "{}", ran.stderr);
    let (_fake, ran) = deploy(Vec::new(), "deploy");
    assert_eq!(ran.code, 6, "it may be recorded: {}", ran.stderr);
    let (_fake, ran) = deploy(Vec::new(), "deploy preview");
    assert_eq!(ran.code, 1, "a preview changes nothing: {}", ran.stderr);
}

#[test]
fn without_a_daemon_the_next_command_is_named() {
    let fake = Fake::away();
    fake.file("ployz.toml", crate::fixture::MANIFEST);
    for command in ["deploy", "status", "op ls", "restart blog/web"] {
        let ran = fake.run(command);
        assert_eq!(ran.code, 1, "{command}");
        assert!(ran.stderr.starts_with("error[DAEMON_AWAY]: "), "{command}: {}", ran.stderr);
        assert!(ran.stderr.ends_with("next: ployzctl dev up\n"), "{command}: {}", ran.stderr);
    }
}

#[test]
fn the_daemon_s_refusals_keep_their_code_and_exit_by_status() {
    for (status, exit) in
        [("400 Bad Request", 2), ("404 Not Found", 3), ("500 Oh", 1), ("503 No", 1)]
    {
        let fake = Fake::new(move |_, reply| reply.error(status, &error("NAMESPACE_UNKNOWN")));
        let ran = fake.run("restart blog/web --json");
        assert_eq!(ran.code, exit, "{status}");
        assert!(ran.stderr.starts_with("error[NAMESPACE_UNKNOWN]: it is so\n"), "{}", ran.stderr);
        let document: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(document["error"]["code"], "NAMESPACE_UNKNOWN");
    }
}

#[test]
fn every_change_is_asked_for_as_it_was_typed() {
    let cases = [
        (
            "scale blog/web=3 blog/db=1",
            json!({"operation": "scale", "namespace": "blog", "replicas": {"web": 3, "db": 1}}),
        ),
        (
            "restart blog/web",
            json!({"operation": "restart", "namespace": "blog", "service": "web"}),
        ),
        ("stop blog/web", json!({"operation": "stop", "namespace": "blog", "service": "web"})),
        ("rollback blog", json!({"operation": "rollback", "namespace": "blog"})),
        ("rollback blog --to 4", json!({"operation": "rollback", "namespace": "blog", "to": 4})),
        ("namespace rm blog --yes", json!({"operation": "remove_namespace", "namespace": "blog"})),
    ];
    for (line, request) in cases {
        let fake = Fake::running(vec![finished(committed())]);
        assert_eq!(fake.run(line).code, 0, "{line}");
        assert_eq!(fake.run(&format!("{line} --preview")).code, 0, "{line}");
        let bodies: Vec<Value> = fake.seen().into_iter().map(|seen| seen.body).collect();
        let expected = ["apply", "preview"].map(|mode| json!({"mode": mode, "request": request}));
        assert_eq!(bodies, expected, "{line}");
    }
    // An abort that comes after the commit is not done.
    for (mode, code) in [("resume", 0), ("abort", 3)] {
        let fake = Fake::running(vec![finished(committed())]);
        assert_eq!(fake.run(&format!("op {mode} 0123456789abcdef")).code, code);
        assert_eq!(fake.seen()[0].body, json!({"mode": mode, "operation": "0123456789abcdef"}));
    }
}

#[test]
fn what_destroys_is_refused_without_a_terminal_unless_yes_is_said() {
    let fake = Fake::running(vec![finished(committed())]);
    let ran = fake.run("namespace rm blog");
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.starts_with("error[CONFIRMATION_NEEDED]: "), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("next: ployzctl namespace rm blog --yes\n"), "{}", ran.stderr);
    assert!(fake.seen().is_empty());
}

#[test]
fn scaling_two_namespaces_or_a_service_twice_is_a_mistake() {
    let fake = Fake::running(vec![finished(committed())]);
    for line in ["scale blog/web=1 shop/web=1", "scale blog/web=1 blog/web=2"] {
        let ran = fake.run(line);
        assert_eq!((ran.code, fake.seen().len()), (2, 0), "{line}: {}", ran.stderr);
    }
}

/// A daemon whose operation ends, aborted, when it is cancelled, if it `yields`; and each cancel as it comes.
fn cancellable(yields: bool) -> (Fake, mpsc::Receiver<Value>) {
    let (seen, cancels) = mpsc::channel();
    let (wake, woken) = mpsc::channel::<()>();
    let (seen, wake, woken) = (Mutex::new(seen), Mutex::new(wake), Mutex::new(woken));
    let fake = Fake::new(move |request, reply| {
        if request.line == "POST /v1/operations/cancel" {
            reply.json(&json!({}));
            seen.lock().unwrap().send(request.body.clone()).unwrap();
            if yields {
                wake.lock().unwrap().send(()).unwrap();
            }
            return;
        }
        reply.operation();
        reply.line(&recorded());
        // Ends with the test's process if nobody cancels.
        _ = woken.lock().unwrap().recv();
        let error = error("CANCELLED");
        reply.line(&finished(OperationResult::Aborted { operation: operation(), error }));
    });
    (fake, cancels)
}

fn start(fake: &Fake, args: &str) -> Child {
    let mut command = fake.command(args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // One byte at a time, so that nothing after the line is lost.
    let mut stdout = BufReader::with_capacity(1, child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "operation 0123456789abcdef\n");
    child.stdout = Some(stdout.into_inner());
    child
}

fn press_ctrl_c(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

#[test]
fn ctrl_c_cancels_and_the_end_is_shown_still() {
    let (fake, cancels) = cancellable(true);
    let child = start(&fake, "restart blog/web");
    press_ctrl_c(&child);
    assert_eq!(cancels.recv().unwrap(), json!({"handle": 7}));
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert_eq!(ran.stdout, "aborted operation 0123456789abcdef: everything was undone\n");
    assert!(ran.stderr.contains("error[CANCELLED]"), "{}", ran.stderr);
}

#[test]
fn ctrl_c_twice_leaves_and_says_that_it_runs_on() {
    let (fake, cancels) = cancellable(false);
    let child = start(&fake, "restart blog/web");
    press_ctrl_c(&child);
    cancels.recv().unwrap();
    press_ctrl_c(&child);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("error[DETACHED]: "), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("next: ployzctl op show 0123456789abcdef\n"), "{}", ran.stderr);
}

#[test]
fn a_reader_that_goes_away_does_not_change_the_exit_code() {
    let (fake, cancels) = cancellable(true);
    let mut child = start(&fake, "restart blog/web");
    drop(child.stdout.take());
    press_ctrl_c(&child);
    cancels.recv().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(4), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_step_that_fails_shows_where_and_why() {
    let mut events = deploy_events();
    events.truncate(3);
    let mut failed = error("EXITED");
    failed.logs = vec!["boom".to_owned()];
    events.push(proto_core::api::OperationEvent::Step {
        step: "start-web-0".parse().unwrap(),
        machine: machine(),
        action: "start web-0".to_owned(),
        status: proto_core::api::StepStatus::Failed { error: failed.clone() },
    });
    events.push(finished(OperationResult::Aborted { operation: operation(), error: failed }));
    let (_fake, ran) = deploy(events, "deploy");
    assert_eq!(ran.code, 4);
    assert!(ran.stdout.contains("m1: start web-0: failed: it is so\n"), "{}", ran.stdout);
    assert_eq!(ran.stderr, "error[EXITED]: it is so\n    boom\nnext: ployzctl op ls\n");
}

#[test]
fn an_abort_that_was_asked_for_is_done_and_one_that_was_not_is_an_error() {
    let result = OperationResult::Aborted { operation: operation(), error: error("CANCELLED") };
    let fake = Fake::running(vec![recorded(), finished(result)]);
    let ran = fake.run("op abort -q 0123456789abcdef");
    let said = "aborted operation 0123456789abcdef: everything was undone\n";
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, said, ""));
    let ran = fake.run("op resume -q 0123456789abcdef");
    assert_eq!((ran.code, ran.stdout.as_str()), (4, said));
    assert!(ran.stderr.starts_with("error[CANCELLED]: "), "{}", ran.stderr);
}

#[test]
fn a_daemon_that_does_not_begin_to_answer_in_time_is_silent_for_changes_too() {
    let fake = Fake::new(|request, reply| match request.line.as_str() {
        "GET /v1/instances?namespace=blog" => reply.json(&crate::fixture::instances()),
        _ => std::thread::park(),
    });
    fake.file("ployz.toml", crate::fixture::MANIFEST);
    let unread = "what it has not read by now it does not run";
    for (line, changes) in [
        ("deploy", true),
        ("scale blog/web=3", true),
        ("op resume 0123456789abcdef", true),
        ("deploy preview", false),
        ("exec blog/web -- true", false),
    ] {
        let ran = fake.run(&format!("--timeout 1 {line}"));
        assert_eq!(ran.code, 1, "{line}: {ran:?}");
        assert!(ran.stderr.contains("error[DAEMON_SILENT]: "), "{line}: {ran:?}");
        assert_eq!(ran.stderr.contains(unread), changes, "{line}: {ran:?}");
    }
}

#[test]
fn ctrl_c_twice_before_the_daemon_answers_does_not_say_that_anything_runs() {
    let (seen, asked) = mpsc::channel();
    let seen = Mutex::new(seen);
    let fake = Fake::new(move |_, _| {
        seen.lock().unwrap().send(()).unwrap();
        std::thread::park();
    });
    let mut command = fake.command("restart blog/web --timeout 600");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    asked.recv().unwrap();
    press_ctrl_c(&child);
    let mut stderr = BufReader::with_capacity(1, child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("the daemon has not answered yet; "), "{line}");
    press_ctrl_c(&child);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5), "{rest}");
    assert!(rest.starts_with("error[GIVEN_UP]: given up before the daemon answered"), "{rest}");
    assert!(!rest.contains("runs on"), "{rest}");
}
