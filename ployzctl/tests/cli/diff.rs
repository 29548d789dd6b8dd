//! `diff`: a manifest, the head, and what runs.

use proto_core::api::ErrorBody;
use proto_core::api::views::CommitView;
use serde_json::Value;

use crate::fake::Fake;
use crate::fixture::{MANIFEST, commit, instances, manifest};

/// A daemon whose head is the fixture's manifest, stopped or not.
fn daemon(stopped: bool) -> Fake {
    Fake::new(move |seen, reply| match seen.line.as_str() {
        "GET /v1/namespaces/blog/commits/head" => {
            let mut commit = commit(7);
            commit.services.values_mut().for_each(|service| service.stopped = stopped);
            reply.json(&CommitView { commit, head: true, manifest: manifest() });
        }
        "GET /v1/instances?namespace=blog" => reply.json(&instances()),
        _ => reply.error("404 Not Found", &ErrorBody::new("NO_SUCH_NAMESPACE", "there is none")),
    })
}

#[test]
fn a_manifest_that_is_deployed_does_not_differ_and_what_does_not_run_is_said() {
    let fake = daemon(false);
    let path = fake.file("ployz.toml", MANIFEST);
    let ran = fake.run(&format!("diff -f {path}"));
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (
            0,
            "the manifest is what commit 7 of blog asks for\n\
             blog/web/0 (web-0-01234567 on m1) does not run: exited 3\n"
        ),
        "{}",
        ran.stderr
    );
}

#[test]
fn what_differs_is_shown_by_service_and_line() {
    let fake = daemon(true);
    let changed = MANIFEST.replace("example/web:2", "example/web:3")
        + "\n[[services]]\nname = \"db\"\nimage = \"example/db:1\"\n";
    fake.file("ployz.toml", &changed);
    let said = fake.run("diff").stdout;
    let expected = "\
--- blog: commit 7
+++ blog: the manifest
@@ db @@
+name = \"db\"
+image = \"example/db:1\"
";
    assert!(said.starts_with(expected), "{said}");
    let web = "@@ web @@\n-image = \"example/web:2\"\n-# stopped: it has no instances\n+image = \"example/web:3\"\n";
    assert!(said.contains(web), "{said}");
    let document: Value = serde_json::from_str(&fake.run("diff --json").stdout).unwrap();
    assert_eq!(document["head"], 7);
    assert_eq!(document["services"][1]["manifest"][0], "image = \"example/web:3\"");
    assert_eq!(document["missing"][0]["state"], "exited 3");
}

#[test]
fn of_a_namespace_that_is_not_there_everything_is_new() {
    let fake = daemon(false);
    fake.file("ployz.toml", &MANIFEST.replace("\"blog\"", "\"shop\""));
    let ran = fake.run("diff");
    assert!(ran.stdout.starts_with("--- shop: nothing\n+++ shop: the manifest\n@@ web @@\n+name"));
    assert!(!ran.stdout.contains("\n-"), "{}", ran.stdout);
}
