//! What is typed or named wrongly.

use proto_core::api::views::InstancesView;
use serde_json::Value;

use crate::fake::{Fake, Ran};
use crate::fixture::{error, instances};

#[test]
fn a_command_line_that_is_not_understood_has_a_code_and_the_help_of_its_command() {
    let fake = Fake::away();
    for (line, message, next) in [
        (
            "deploy preview --nosuch",
            "unexpected argument '--nosuch' found",
            "deploy preview --help",
        ),
        (
            "--socket deploy ns rm",
            "required arguments were not provided: <NAMESPACE>",
            "namespace rm --help",
        ),
        ("nonsense", "unrecognized subcommand 'nonsense'", "--help"),
        ("mesh init home --nats-port 0", "0 is not in 1..=65535", "mesh init --help"),
        ("scale hello/web=many", "\"many\" is no number of replicas", "scale --help"),
    ] {
        let ran = fake.run(line);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{line}");
        assert!(ran.stderr.starts_with("error[USAGE]: "), "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
        assert!(ran.stderr.ends_with(&format!("\nnext: ployzctl {next}\n")), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
        let ran = fake.run(&format!("--json {line}"));
        let document: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(document["error"]["code"], "USAGE");
        assert_eq!(document["error"]["next"], format!("ployzctl {next}"));
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for line in ["--help", "deploy --help", "--version", "--json --help"] {
        let ran = Fake::away().run(line);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{line}");
        assert!(!ran.stdout.is_empty(), "{line}");
    }
    let ran = Ran::of(Fake::away().command("").env_clear().output().unwrap());
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("Usage: ployzctl"), "{}", ran.stderr);
}

#[test]
fn a_file_without_an_end_is_too_large() {
    let ran = Fake::away().run("validate -f /dev/zero");
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.starts_with("/dev/zero:1:1: error[TOO_LARGE]: "), "{}", ran.stderr);
    let ran = Fake::away().run("deploy apply-prepared /dev/zero");
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.starts_with("error[PREPARED_INVALID]: /dev/zero has more than "),
        "{}",
        ran.stderr
    );
    let ran = Fake::away().run("validate -f /");
    assert!(ran.stderr.starts_with("error[FILE_UNREADABLE]: cannot read /: "), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("next: ls -la /\n"), "{}", ran.stderr);
}

#[test]
fn what_is_no_utf_8_is_shown_with_its_place() {
    let fake = Fake::away();
    let path = fake.file("ployz.toml", "");
    std::fs::write(path, b"namespace = \"blog\"\n# \xc3\xa4 \xff\n").unwrap();
    let ran = fake.run("validate");
    assert_eq!(ran.code, 2);
    let said = "ployz.toml:2:5: error[MANIFEST_SYNTAX]: byte 0xff is no UTF-8\n";
    assert!(ran.stderr.starts_with(said), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("next: ployzctl validate -f ployz.toml\n"), "{}", ran.stderr);
}

#[test]
fn a_namespace_that_is_not_there_is_none_for_ps_too() {
    let fake = Fake::new(|seen, reply| match seen.line.contains("/v1/instances") {
        true => {
            let view = InstancesView { rows: Vec::new(), ..instances() };
            reply.json(&view);
        }
        false => reply.error("404 Not Found", &error("NO_SUCH_NAMESPACE")),
    });
    for command in ["ps nosuch", "namespace inspect nosuch"] {
        let ran = fake.run(command);
        assert_eq!(ran.code, 3, "{command}");
        assert!(ran.stderr.starts_with("error[NO_SUCH_NAMESPACE]: "), "{}", ran.stderr);
    }
    assert_eq!(fake.run("ps").code, 0);
}

#[test]
fn a_cluster_s_name_that_is_none_is_told_what_names_are_made_of() {
    let ran = Fake::away().command("mesh init").arg("Bad Name").output().unwrap();
    let ran = Ran::of(ran);
    assert_eq!(ran.code, 2);
    let said =
        "a cluster's name is 1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit\n";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let mut command = Fake::away().command("status");
    command.env("PLOYZ_SOCKET", "").env("PLOYZ_DATA_DIR", "").current_dir("/");
    let ran = Ran::of(command.output().unwrap());
    // The usual socket is asked, whatever is there; it was not typed.
    assert_ne!(ran.code, 2, "{}", ran.stderr);
    assert!(!ran.stderr.contains("--socket"), "{}", ran.stderr);
}

#[test]
fn a_socket_s_path_that_no_socket_can_have_is_said_to_be_too_long() {
    let fake = Fake::away();
    let longest = format!("/{}", "x".repeat(106));
    let ran = fake.run(&format!("--socket {longest} status"));
    assert!(ran.stderr.starts_with("error[DAEMON_AWAY]: "), "{}", ran.stderr);
    for command in ["status", "dev up", "mesh init a", "deploy history a"] {
        let data = fake.socket().with_file_name("data");
        let mut typed = fake.command(&format!("--socket {longest}y {command}"));
        let ran = Ran::of(typed.env("PLOYZ_DATA_DIR", &data).output().unwrap());
        assert_eq!(ran.code, 2, "{command}: {}", ran.stderr);
        let said =
            "error[SOCKET_PATH_TOO_LONG]: the path of a socket has at most 107 bytes, and /x";
        assert!(ran.stderr.starts_with(said), "{command}: {}", ran.stderr);
        assert!(ran.stderr.contains(" has 108\n"), "{command}: {}", ran.stderr);
        assert!(!data.exists(), "{command}: nothing is founded");
    }
}

#[test]
fn a_daemon_that_never_was_started_nothing() {
    let fake = Fake::away();
    let data = fake.socket().with_file_name("data");
    let status = || {
        let output = fake.command("status").env("PLOYZ_DATA_DIR", &data).output();
        Ran::of(output.unwrap()).stderr
    };
    let never = format!("; there is no cluster in {} either\n", data.display());
    assert!(status().contains(&never), "{}", status());
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("ployzd.toml"), "").unwrap();
    assert!(status().contains("; whatever it started runs on without it\n"), "{}", status());
}
