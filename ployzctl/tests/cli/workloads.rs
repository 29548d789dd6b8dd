//! Logs and commands of instances.

use proto_core::api::views::{InstancesView, LogLine};
use proto_core::runtime::InstanceState;
use serde_json::json;

use crate::fake::Fake;
use crate::fixture::{instances, row};

/// A daemon with these instances, whose logs are a line with what was asked, and whose commands say this.
fn with_instances(view: InstancesView, said: Vec<serde_json::Value>) -> Fake {
    Fake::new(move |request, reply| {
        if request.line.starts_with("GET /v1/instances") {
            reply.json(&view);
        } else if let Some(query) = request.line.strip_prefix("GET /v1/logs?instance=") {
            let (name, rest) = query.split_once('&').unwrap();
            let instance = name.parse().unwrap();
            reply.json(&LogLine { instance, stream: "stdout".to_owned(), text: rest.to_owned() });
        } else {
            reply.operation();
            said.iter().for_each(|line| reply.line(line));
        }
    })
}

fn two() -> InstancesView {
    let rows = vec![row(1, true, InstanceState::Running), row(0, true, InstanceState::Running)];
    InstancesView { rows, ..instances() }
}

#[test]
fn logs_of_a_service_name_their_instance_and_those_of_one_slot_do_not() {
    let fake = with_instances(two(), Vec::new());
    let ran = fake.run("logs blog/web -n 5");
    assert_eq!(
        ran.stdout, "web-0-01234567 | tail=5&follow=false\nweb-1-01234567 | tail=5&follow=false\n",
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.starts_with("machine m2 did not answer"), "{}", ran.stderr);
    let ran = fake.run("logs blog/web/1 -f");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "tail=100&follow=true\n"));
    let ran = fake.run("logs blog/web --json");
    assert_eq!(ran.stdout.lines().count(), 2);
    assert!(ran.stdout.starts_with(r#"{"instance":"web-0-01234567","stream":"stdout","#));
}

#[test]
fn following_several_instances_shows_the_lines_of_all() {
    let ran = with_instances(two(), Vec::new()).run("logs -f blog/web");
    let mut lines: Vec<_> = ran.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["web-0-01234567 | tail=100&follow=true", "web-1-01234567 | tail=100&follow=true"]
    );
}

#[test]
fn a_service_without_instances_is_refused() {
    for command in ["logs blog/db", "logs blog/web/9", "exec blog/db -- true"] {
        let ran = with_instances(two(), Vec::new()).run(command);
        assert_eq!(ran.code, 3, "{command}");
        assert!(ran.stderr.contains("error[INSTANCE_UNKNOWN]: "), "{command}: {}", ran.stderr);
        assert!(ran.stderr.ends_with("next: ployzctl ps blog\n"), "{command}: {}", ran.stderr);
    }
}

#[test]
fn a_command_runs_in_what_the_head_names_and_its_exit_code_is_ours() {
    let said = vec![
        json!({"event": "output", "stream": "stdout", "text": "out"}),
        json!({"event": "output", "stream": "stderr", "text": "err\n"}),
        json!({"event": "exited", "code": 7}),
    ];
    let fake = with_instances(instances(), said);
    let ran = fake.run("exec -q blog/web -- sh -c x");
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (7, "out", "err\n"));
    let body = fake.seen()[1].body.clone();
    assert_eq!(body, json!({"instance": "web-1-01234567", "command": ["sh", "-c", "x"]}));
}

#[test]
fn a_command_is_not_run_in_what_does_not_run() {
    let rows = vec![row(0, true, InstanceState::Restarting)];
    let view = InstancesView { rows, silent: Vec::new(), ..instances() };
    let ran = with_instances(view, Vec::new()).run("exec blog/web -- true");
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.starts_with("error[INSTANCE_NOT_RUNNING]: "), "{}", ran.stderr);
}

#[test]
fn an_error_in_the_middle_of_a_stream_is_shown_as_such() {
    let said = vec![json!({"code": "RUNTIME_ERROR", "message": "the engine is away"})];
    let ran = with_instances(instances(), said).run("exec -q blog/web -- true");
    assert_eq!(ran.code, 1);
    assert_eq!(ran.stderr, "error[RUNTIME_ERROR]: the engine is away\n");
}
