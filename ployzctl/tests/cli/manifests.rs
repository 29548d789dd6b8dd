//! Manifests and prepared plans: what is checked before the daemon is asked.

use proto_core::api::views::CommitView;
use proto_core::api::{ErrorBody, OperationResult};
use proto_core::deploy::manifest::{Format, parse};
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::fixture::{MANIFEST, commit, committed, finished, manifest, plan};

#[test]
fn a_wrong_manifest_shows_every_problem_with_its_place_and_asks_nobody() {
    let fake = Fake::running(vec![finished(committed())]);
    fake.file("ployz.toml", "namespace = \"blog\"\nservces = []\n");
    for command in ["validate", "deploy", "deploy preview", "deploy prepare"] {
        let ran = fake.run(command);
        assert_eq!(ran.code, 2, "{command}");
        assert!(ran.stderr.contains("ployz.toml:2:1: error[UNKNOWN_KEY]: "), "{}", ran.stderr);
        assert!(ran.stderr.contains("\n    hint: "), "{}", ran.stderr);
        let next = "\nnext: ployzctl validate -f ployz.toml\n";
        assert!(ran.stderr.ends_with(next), "{}", ran.stderr);
    }
    assert!(fake.seen().is_empty());
    let ran = fake.run("validate --json");
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["ok"], false);
    assert_eq!(document["problems"][1]["code"], "UNKNOWN_KEY");
    assert_eq!(document["problems"][1]["line"], 2);
    assert_eq!(document["next"], "ployzctl validate -f ployz.toml");
}

#[test]
fn a_right_manifest_is_said_to_be_right_without_a_daemon() {
    let fake = Fake::away();
    let path = fake.file("blog.json", &json!({"namespace": "blog", "services": []}).to_string());
    let ran = fake.run(&format!("validate -f {path}"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("ok: namespace blog, 0 services, digest "), "{}", ran.stdout);
}

#[test]
fn a_manifest_that_is_not_there_is_the_operator_s_mistake() {
    let ran = Fake::away().run("deploy -f nowhere.toml");
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.starts_with("error[FILE_UNREADABLE]: cannot read nowhere.toml: "),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.ends_with("next: ls -la .\n"), "{}", ran.stderr);
    let ran = Fake::away().run("deploy -f /nowhere/at/all.toml");
    assert!(ran.stderr.ends_with("next: ls -la /\n"), "what there is: {}", ran.stderr);
    let ran = Fake::away().run("deploy");
    assert!(ran.stderr.contains("; `-f FILE` names another manifest\n"), "{}", ran.stderr);
}

#[test]
fn a_prepared_plan_that_drifted_names_the_command_that_prepares_it_again() {
    let plan = plan();
    let previewed =
        OperationResult::Previewed { plan: Box::new(plan.clone()), digest: plan.digest() };
    let error = ErrorBody::new("PLAN_DRIFTED", "the head moved").next("ployzctl deploy prepare");
    let fake = Fake::new(move |seen, reply| {
        reply.operation();
        reply.line(&finished(match seen.body["mode"].as_str() {
            Some("preview") => previewed.clone(),
            _ => OperationResult::Refused { error: error.clone() },
        }));
    });
    fake.file("ployz.toml", MANIFEST);
    fake.file("b.toml", MANIFEST);
    for (prepare, again) in [
        ("", "-o plan.json"),
        ("-f ployz.toml", "-o plan.json"),
        ("-f b.toml", "-f b.toml -o plan.json"),
    ] {
        fake.run(&format!("deploy prepare {prepare} -o plan.json"));
        let ran = fake.run("deploy apply-prepared plan.json");
        assert_eq!(ran.code, 9, "{}", ran.stderr);
        let next = format!("next: ployzctl deploy prepare {again}\n");
        assert!(ran.stderr.ends_with(&next), "{prepare}: {}", ran.stderr);
        let ran = fake.run("deploy apply-prepared plan.json --json");
        let event: Value = serde_json::from_str(&ran.stdout).unwrap();
        let next = format!("ployzctl deploy prepare {again}");
        assert_eq!(event["result"]["error"]["next"], next, "{prepare}");
    }
}

#[test]
fn a_manifest_comes_from_standard_input_too() {
    let fake = Fake::running(vec![finished(committed())]);
    let file = std::fs::File::open(fake.file("m", MANIFEST)).unwrap();
    let output = fake.command("deploy -f -").stdin(file).output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        fake.seen()[0].body["request"]["manifest"],
        serde_json::to_value(manifest()).unwrap()
    );
}

#[test]
fn what_was_prepared_is_applied_as_it_was_prepared() {
    let plan = plan();
    let digest = plan.digest();
    let result = OperationResult::Previewed { plan: Box::new(plan.clone()), digest };
    let fake = Fake::running(vec![finished(result)]);
    fake.file("ployz.toml", MANIFEST);
    let ran = fake.run("deploy prepare -o plan.json");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.ends_with("next: ployzctl deploy apply-prepared plan.json\n"),
        "{}",
        ran.stdout
    );
    let ran = fake.run("deploy prepare");
    let printed: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(printed["digest"], json!(digest));
    fake.run("deploy apply-prepared plan.json");
    let body = &fake.seen()[2].body;
    assert_eq!(body["mode"], "apply_prepared");
    assert_eq!(body["plan"], serde_json::to_value(&plan).unwrap());

    let changed = printed.to_string().replace("10.101.0.2", "10.101.0.9");
    fake.file("changed.json", &changed);
    let ran = fake.run("deploy apply-prepared changed.json");
    assert_eq!((ran.code, fake.seen().len()), (2, 3), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error[PREPARED_INVALID]: "), "{}", ran.stderr);
    let ran = fake.run("deploy apply-prepared ployz.toml");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
}

#[test]
fn a_refused_preview_prepares_nothing() {
    let refused = OperationResult::Refused { error: crate::fixture::error("LEASE_HELD") };
    let fake = Fake::running(vec![finished(refused)]);
    fake.file("ployz.toml", MANIFEST);
    let ran = fake.run("deploy prepare -o plan.json");
    assert_eq!(ran.code, 8, "{}", ran.stderr);
    assert_eq!(fake.run("deploy apply-prepared plan.json").code, 2, "the file is not there");
}

/// Answers questions for commits with the one that is asked for, 3 being the head, and commits every operation.
fn with_commits() -> Fake {
    Fake::new(|request, reply| {
        if request.line.starts_with("POST") {
            reply.operation();
            reply.line(&finished(committed()));
            return;
        }
        match request.line.strip_prefix("GET /v1/namespaces/blog/commits") {
            Some("") => reply.json(&[commit(3), commit(2)]),
            Some(which) => {
                let number = if which == "/head" { 3 } else { which[1..].parse().unwrap() };
                let head = number == 3;
                reply.json(&CommitView { commit: commit(number), head, manifest: manifest() });
            }
            None => panic!("{}", request.line),
        }
    })
}

#[test]
fn deploying_a_service_changes_its_image_and_nothing_else() {
    let fake = with_commits();
    let ran = fake.run("deploy service blog/web --image example/web:3");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let request = &fake.seen()[1].body["request"];
    let mut spec = manifest().services.into_values().next().unwrap();
    spec.workload.image = "example/web:3".to_owned();
    assert_eq!(
        *request,
        json!({"operation": "deploy_service", "namespace": "blog", "service": "web", "spec": spec})
    );
    let ran = fake.run("deploy service blog/wbe --image x");
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("error[NO_SUCH_SERVICE]: blog has no service wbe; it has: web\n"));
}

#[test]
fn history_and_commits_are_shown() {
    let fake = with_commits();
    assert_eq!(
        fake.run("deploy history blog").stdout,
        "COMMIT  AT                    OPERATION         SERVICES  INSTANCES  WHAT\n\
         3       2026-11-20T12:00:01Z  0123456789abcdef  1         1          deploy blog\n\
         2       2026-11-20T12:00:01Z  0123456789abcdef  1         1          deploy blog\n"
    );
    let shown = fake.run("deploy show blog").stdout;
    assert!(shown.starts_with("commit 3 of blog (head): deploy blog\n"), "{shown}");
    assert!(shown.contains("\nnamespace = \"blog\"\n"), "{shown}");
    let shown = fake.run("deploy show blog 2").stdout;
    assert!(shown.starts_with("commit 2 of blog: deploy blog\n"), "{shown}");
}

#[test]
fn a_rendered_rollback_is_the_manifest_of_the_commit_before_the_head() {
    let fake = with_commits();
    let ran = fake.run("rollback blog --render");
    assert_eq!(ran.stdout, proto_core::deploy::manifest::render(&manifest()));
    assert_eq!(fake.seen()[1].line, "GET /v1/namespaces/blog/commits/2");
    fake.run("rollback blog --render --to 1");
    assert_eq!(fake.seen()[2].line, "GET /v1/namespaces/blog/commits/1");
    let ran = fake.run("rollback blog --render --json");
    let back = parse(&ran.stdout, Format::Json, "x").unwrap();
    assert_eq!(back, manifest());
}
