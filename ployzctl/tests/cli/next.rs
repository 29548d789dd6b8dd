//! The next command asks the daemon that this call asked.

use std::process::{Command, Stdio};

use proto_core::api::OperationResult;
use serde_json::{Value, json};

use crate::fake::{Fake, Ran};
use crate::fixture::{MANIFEST, error, finished, plan};

/// With the socket on the command line and not in the environment.
fn run(fake: &Fake, args: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ployzctl"));
    command.arg("--socket").arg(fake.socket()).args(args.split_whitespace());
    command.current_dir(fake.socket().parent().unwrap()).env_clear().stdin(Stdio::null());
    Ran::of(command.output().unwrap())
}

#[test]
fn a_socket_that_was_typed_is_in_every_next_command() {
    let error = error("BAD").next("ployzctl op resume 1, or ployzctl op abort 1");
    let fake = Fake::running(vec![finished(OperationResult::Refused { error })]);
    let socket = fake.socket().display().to_string();
    let ployzctl = format!("ployzctl --socket {socket}");
    let ran = run(&fake, "namespace rm hello");
    assert!(
        ran.stderr.ends_with(&format!("next: {ployzctl} namespace rm hello --yes\n")),
        "{ran:?}"
    );
    let both = format!("{ployzctl} op resume 1, or {ployzctl} op abort 1");
    let ran = run(&fake, "rollback blog");
    assert!(ran.stderr.ends_with(&format!("next: {both}\n")), "{ran:?}");
    let ran = run(&fake, "rollback blog --json");
    let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert!(last.to_string().contains(&format!("\"next\":\"{both}\"")), "{ran:?}");
    fake.file("bad.toml", "namespace = 1");
    let ran = run(&fake, "validate -f bad.toml --json");
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    // It asks no daemon.
    assert_eq!(said["next"], "ployzctl validate -f bad.toml");
    let ran = run(&Fake::away(), "status --json");
    assert!(ran.stdout.contains("--socket"), "{ran:?}");
    let checks =
        json!([{"check": "disk", "ok": false, "detail": "full", "next": "ployzctl events"}]);
    let fake = Fake::new(move |_, reply| reply.json(&checks));
    let next = format!("ployzctl --socket {} events", fake.socket().display());
    assert!(run(&fake, "doctor").stdout.ends_with(&format!("next: {next}\n")));
    assert!(run(&fake, "doctor --json").stdout.contains(&format!("\"next\":\"{next}\"")));
}

#[test]
fn a_prepared_plan_is_applied_where_it_was_prepared() {
    let plan = Box::new(plan());
    let digest = plan.digest();
    let fake = Fake::running(vec![finished(OperationResult::Previewed { plan, digest })]);
    fake.file("ployz.toml", MANIFEST);
    let ran = run(&fake, "deploy prepare -o plan.json");
    let next =
        format!("ployzctl --socket {} deploy apply-prepared plan.json", fake.socket().display());
    assert!(ran.stdout.ends_with(&format!("next: {next}\n")), "{ran:?}");
}

#[test]
fn a_socket_of_the_environment_is_there_for_the_next_command_too() {
    let fake = Fake::away();
    assert!(fake.run("status").stderr.ends_with("next: ployzctl dev up\n"));
}

#[test]
fn a_next_command_that_reads_a_manifest_reads_the_one_that_was_named() {
    let next = |next: &str| {
        let error = error("UNSUPPORTED").next(next);
        let fake = Fake::running(vec![finished(OperationResult::Refused { error })]);
        fake.file("ployz.toml", MANIFEST);
        fake.file("b.toml", MANIFEST);
        fake
    };
    let fake = next("ployzctl deploy preview");
    for (line, command) in [
        ("deploy -f b.toml", "ployzctl deploy preview -f b.toml"),
        ("deploy prepare -f b.toml", "ployzctl deploy preview -f b.toml"),
        ("deploy -f ployz.toml", "ployzctl deploy preview"),
        ("deploy", "ployzctl deploy preview"),
        ("restart blog/web", "ployzctl deploy preview"),
    ] {
        let ran = fake.run(line);
        assert!(ran.stderr.ends_with(&format!("next: {command}\n")), "{line}: {ran:?}");
    }
    let ran = fake.run("deploy -f b.toml --json");
    assert!(ran.stdout.contains(r#""next":"ployzctl deploy preview -f b.toml""#), "{ran:?}");
    let ran = run(&fake, "deploy -f b.toml");
    let both = format!("ployzctl --socket {} deploy preview -f b.toml", fake.socket().display());
    assert!(ran.stderr.ends_with(&format!("next: {both}\n")), "{ran:?}");
    // This one reads none.
    let fake = next("ployzctl deploy history blog");
    let ran = fake.run("deploy -f b.toml");
    assert!(ran.stderr.ends_with("next: ployzctl deploy history blog\n"), "{ran:?}");
}
