//! The daemon as a process, between real sidecars: what it refuses, what it adopts, what it starts anew.

mod asked;
mod given_up;
mod harness;
mod openapi;
mod operations;
mod started;
mod stopped;

use std::io::Write as _;
use std::time::{Duration, Instant};

use harness::{Machine, nats_server, signal};
use rustix::process::Signal;

#[test]
fn what_cannot_be_started_is_refused_with_the_reason_and_exit_2() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    let config = machine.path("ployzd.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    let refusal = |machine: &Machine, reason: &str| {
        let output = machine.refusal();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reason), "{reason} is not in {said}");
    };

    std::fs::write(&config, format!("colour = 1\n{good}")).unwrap();
    refusal(&machine, "ployzd.toml:1:1: unknown field `colour`");
    std::fs::write(&config, good.replace("\"single\"", "\"peer\"")).unwrap();
    refusal(&machine, "unknown variant `peer`");
    std::fs::write(&config, &good).unwrap();

    let fence = machine.path("fence.json");
    let aside = machine.path("fence.aside");
    std::fs::rename(&fence, &aside).unwrap();
    refusal(&machine, "fence.json is gone");
    std::fs::rename(&aside, &fence).unwrap();

    machine.start();
    refusal(&machine, "another ployzd runs on");
}

#[test]
fn a_restart_adopts_every_sidecar_but_those_that_drifted_and_names_the_part() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    let [nats, gateway, dns] = machine.sidecars();

    machine.kill();
    let mut events = machine.start();
    events.wait("daemon", "READY");
    assert_eq!(machine.sidecars(), [nats.clone(), gateway.clone(), dns.clone()]);

    // The configuration of one.
    machine.kill();
    let config = machine.path("ployzd.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("upstream = []", "upstream = [\"127.0.0.1:9\"]")).unwrap();
    let drifted = machine.start().wait("dns", "SIDECAR_DRIFTED");
    assert!(drifted["message"].as_str().unwrap().contains(": configuration changed"), "{drifted}");
    let [same_nats, same_gateway, other_dns] = machine.sidecars();
    assert_eq!((&same_nats, &same_gateway), (&nats, &gateway));
    assert_ne!(other_dns, dns);

    // The program of another; by rename, as nobody may write to one that runs.
    machine.kill();
    let (program, copy) = (machine.path("nats-server"), machine.path("nats-server.new"));
    std::fs::copy(&program, &copy).unwrap();
    std::fs::File::options().append(true).open(&copy).unwrap().write_all(b"\n").unwrap();
    std::fs::rename(&copy, &program).unwrap();
    let drifted = machine.start().wait("nats", "SIDECAR_DRIFTED");
    assert!(drifted["message"].as_str().unwrap().contains(": binary changed"), "{drifted}");
    let [other_nats, same_gateway, same_dns] = machine.sidecars();
    assert_eq!((&same_gateway, &same_dns), (&gateway, &other_dns));
    assert_ne!(other_nats, nats);
}

#[test]
fn a_record_of_a_process_that_is_somebody_elses_by_now_leaves_that_process_alone() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    let [_, (gateway, _), _] = machine.sidecars();
    machine.kill();
    // The pid is used again: this test's own process has it now.
    signal(gateway, Signal::KILL);
    let path = machine.path("sidecars/gateway.json");
    let mut record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["pid"] = std::process::id().into();
    std::fs::write(&path, record.to_string()).unwrap();

    machine.start().wait("gateway", "SIDECAR_STARTED");
    let [_, (started, _), _] = machine.sidecars();
    assert_ne!(started, gateway);
    assert_ne!(u32::try_from(started).unwrap(), std::process::id());
}

#[test]
fn a_sidecar_that_dies_is_started_again_within_two_seconds() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    let mut events = machine.start();
    events.wait("daemon", "READY");
    let before = machine.sidecars();
    signal(before[1].0, Signal::KILL);
    let killed = Instant::now();
    events.wait("gateway", "SIDECAR_DIED");
    events.wait("gateway", "SIDECAR_STARTED");
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    let after = machine.sidecars();
    assert_ne!(after[1], before[1]);
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
}

#[test]
fn a_store_that_is_away_is_logged_once_and_not_at_every_attempt() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    let mut events = machine.start();
    events.wait("daemon", "READY");
    let [(nats, _), ..] = machine.sidecars();
    let before = machine.log().len();
    let (program, broken) = (machine.path("nats-server"), machine.path("nats-server.new"));
    std::fs::copy("/bin/false", &broken).unwrap();
    std::fs::rename(&broken, &program).unwrap();
    signal(nats, Signal::KILL);
    // Two seconds and more, in which each link tries to connect every 250 ms.
    for _ in 0..5 {
        events.wait("nats", "SIDECAR_DIED");
    }
    let log = machine.log().split_off(before);
    for client in ["ployzd-coordinator", "ployzd-participant"] {
        let said = log.lines().filter(|line| line.contains("WARN") && line.contains(client));
        let said: Vec<_> = said.collect();
        assert!(matches!(said[..], [_, _]), "that it broke, and why it does not come back: {log}");
    }
    assert!(!log.contains("async_nats"), "{log}");
}

#[test]
fn with_a_store_that_hangs_the_status_says_so_at_once() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    assert_eq!(machine.status()["store"]["reachable"], true);
    let [(nats, _), ..] = machine.sidecars();
    signal(nats, Signal::STOP);
    let asked = Instant::now();
    let status = machine.status();
    let took = asked.elapsed();
    signal(nats, Signal::CONT);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(status["store"]["reachable"], false, "{status}");
    assert!(status["store"]["detail"].is_string(), "{status}");
}

#[test]
fn a_port_in_use_is_refused_with_its_number_before_anything_is_founded() {
    let Some(nats_server) = nats_server() else { return };
    let held_tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held_udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (tcp, udp) = (held_tcp.local_addr().unwrap(), held_udp.local_addr().unwrap());
    for (option, at, flag) in [("--gateway-listen", tcp, 't'), ("--dns-listen", udp, 'u')] {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let listen = at.to_string();
        let nats = harness::free_port().to_string();
        let mut args = vec![option, &listen, "--nats-port", &nats];
        for (other, any) in [("--gateway-listen", "127.0.0.1:0"), ("--dns-listen", "127.0.0.1:0")] {
            if other != option {
                args.extend([other, any]);
            }
        }
        let refused = harness::found_in(&data, &nats_server, &args);
        assert_eq!(refused.status.code(), Some(2));
        let said: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
        assert_eq!(said["code"], "PORT_IN_USE");
        assert!(said["message"].as_str().unwrap().contains(&format!("{}", at.port())), "{said}");
        assert_eq!(said["next"], format!("ss -l{flag}np 'sport = :{}'", at.port()));
        assert!(!data.exists(), "nothing is founded");
    }
}

#[test]
fn ports_that_no_two_can_have_and_no_port_at_all_are_refused_before_anything_is_founded() {
    let Some(nats_server) = nats_server() else { return };
    let [one, other] = [harness::free_port(), harness::free_port()].map(|port| port.to_string());
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let found = |gateway: &str, dns: &str, nats: &str| {
        let args = ["--gateway-listen", gateway, "--dns-listen", dns, "--nats-port", nats];
        let refused = harness::found_in(&data, &nats_server, &args);
        assert_eq!(refused.status.code(), Some(2), "{gateway} {dns} {nats}");
        assert!(!data.exists(), "nothing is founded");
        refused
    };
    let (any, loopback) = (format!("0.0.0.0:{one}"), format!("127.0.0.1:{one}"));
    let elsewhere = format!("127.0.0.1:{other}");
    let (gateway, dns, store) = ("the gateway", "the DNS server", "the store's server");
    for (listen, names) in [
        ([&loopback, &elsewhere, &one], [gateway, store]),
        ([&any, &elsewhere, &one], [gateway, store]),
        ([&elsewhere, &loopback, &one], [dns, store]),
        ([&loopback, &any, &other], [gateway, dns]),
    ] {
        let refused = found(listen[0], listen[1], listen[2]);
        let said: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
        assert_eq!(said["code"], "PORT_IN_USE");
        let message = said["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("port {one} is wanted twice: ")), "{message}");
        assert!(names.iter().all(|name| message.contains(name)), "{message}");
        assert_eq!(said["next"], "ployzctl mesh init --help");
    }
    let refused = found(&loopback, &elsewhere, "0");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("--nats-port"), "{said}");
}

#[test]
fn what_is_no_socket_is_not_replaced_by_one() {
    let Some(nats_server) = nats_server() else { return };
    let machine = Machine::found(&nats_server);
    let socket = machine.path("ployzd.sock");
    std::fs::write(&socket, "a letter").unwrap();
    let refused = machine.refusal();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("NOT_A_SOCKET") && said.contains("next: ls -ld "), "{said}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "a letter");
}

#[test]
fn the_ports_of_sidecars_that_run_are_not_in_the_way_of_the_next_daemon() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    machine.kill();
    let checked = machine.check();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
