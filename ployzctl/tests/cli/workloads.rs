//! Logs and commands of instances.

use std::sync::atomic::{AtomicUsize, Ordering};

use proto_core::api::views::{CommitView, InstanceRow, InstancesView, LogLine};
use proto_core::runtime::InstanceState;
use serde_json::json;

use crate::fake::Fake;
use crate::fixture::{commit, error, instances, manifest, row};

/// A daemon with these instances, whose logs are a line with what was asked, and whose commands say this.
fn with_instances(view: InstancesView, said: Vec<serde_json::Value>) -> Fake {
    Fake::new(move |request, reply| {
        if request.line.starts_with("GET /v1/instances") {
            reply.json(&view);
        } else if let Some(query) = request.line.strip_prefix("GET /v1/logs?instance=") {
            let (name, rest) = query.split_once('&').unwrap();
            let instance = name.parse().unwrap();
            reply.json(&LogLine { instance, stream: "stdout".to_owned(), text: rest.to_owned() });
        } else if request.line.starts_with("GET /v1/namespaces/blog/") {
            reply.json(&CommitView { commit: commit(2), head: true, manifest: manifest() });
        } else if request.line.starts_with("GET /v1/namespaces/") {
            reply.error("404 Not Found", &error("NO_SUCH_NAMESPACE"));
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
    let ran = fake.run("logs blog/web --json");
    assert_eq!(ran.stdout.lines().count(), 2);
    assert!(ran.stdout.starts_with(r#"{"instance":"web-0-01234567","stream":"stdout","#));
}

/// A daemon whose service has these instances, one listing after the other, the last again and again; the head has a slot of it until the last
/// listing was asked for. A log is a line with the query, and ends.
fn changing(listings: Vec<Vec<InstanceRow>>) -> Fake {
    let asked = AtomicUsize::new(0);
    Fake::new(move |request, reply| {
        let last = listings.len() - 1;
        if request.line.starts_with("GET /v1/instances") {
            let rows = listings[asked.fetch_add(1, Ordering::Relaxed).min(last)].clone();
            reply.json(&InstancesView { rows, silent: Vec::new(), ..instances() });
        } else if let Some(query) = request.line.strip_prefix("GET /v1/logs?instance=") {
            let (name, rest) = query.split_once('&').unwrap();
            let instance = name.parse().unwrap();
            reply.json(&LogLine { instance, stream: "stdout".to_owned(), text: rest.to_owned() });
        } else if asked.load(Ordering::Relaxed) > last {
            reply.error("404 Not Found", &error("NO_SUCH_NAMESPACE"));
        } else {
            reply.json(&CommitView { commit: commit(2), head: true, manifest: manifest() });
        }
    })
}

#[test]
fn following_goes_on_with_what_takes_an_instance_s_place() {
    let running = |name: &str| {
        let mut row = row(0, true, InstanceState::Running);
        row.instance.spec.name = name.parse().unwrap();
        row
    };
    let listings =
        vec![vec![running("web-0-old")], Vec::new(), vec![running("web-0-new")], Vec::new()];
    let ran = changing(listings).run("logs -f -n 7 blog/web");
    // The last lines of what was there, all lines of what came.
    assert_eq!(ran.stdout, "tail=7&follow=true\nfollow=true\n", "{}", ran.stderr);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (
            0,
            "web-0-old has ended\nweb-0-new is followed too\nweb-0-new has ended\nblog/web has no instances any more\n"
        )
    );
}

#[test]
fn following_takes_up_an_instance_that_runs_again_where_it_was_left() {
    let at = |state| vec![row(0, true, state)];
    let exited = InstanceState::Exited { code: 3 };
    let listings =
        vec![at(InstanceState::Running), at(exited), at(InstanceState::Running), Vec::new()];
    let ran = changing(listings).run("logs -f blog/web -q");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "tail=100&follow=true\ntail=0&follow=true\n"));
}

#[test]
fn following_several_instances_shows_the_lines_of_all() {
    let both = vec![row(1, true, InstanceState::Running), row(0, true, InstanceState::Running)];
    let ran = changing(vec![both, Vec::new()]).run("logs -f blog/web");
    let mut lines: Vec<_> = ran.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["web-0-01234567 | tail=100&follow=true", "web-1-01234567 | tail=100&follow=true"]
    );
}

#[test]
fn a_service_without_instances_is_refused() {
    for command in ["logs blog/web/8", "logs -f blog/web/9", "exec blog/web/7 -- true"] {
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

#[test]
fn what_is_not_there_is_told_apart_from_what_does_not_run() {
    let fake = with_instances(InstancesView { rows: Vec::new(), ..two() }, Vec::new());
    for command in ["logs TARGET", "logs -f TARGET", "exec TARGET -- true"] {
        for (target, code) in [
            ("shop/web", "NO_SUCH_NAMESPACE"),
            ("blog/wep", "NO_SUCH_SERVICE"),
            ("blog/web", "INSTANCE_UNKNOWN"),
        ] {
            let ran = fake.run(&command.replace("TARGET", target));
            assert_eq!(ran.code, 3, "{ran:?}");
            assert!(ran.stderr.contains(&format!("error[{code}]: ")), "{ran:?}");
        }
    }
    let ran = fake.run("logs blog/wep -q");
    let said = "error[NO_SUCH_SERVICE]: blog has no service wep; it has: web\nnext: ployzctl deploy show blog\n";
    assert_eq!(ran.stderr, said);
}
