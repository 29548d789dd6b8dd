mod effects;

use proptest::prelude::*;

use super::*;
use crate::coordination::plan::Action;
use crate::daemon::RoutesRequest;
use crate::digest::Digest;
use crate::runtime::{
    InstanceSpec, InstanceState, ObservedInstance, Probe, Readiness, RuntimeReply,
};
use crate::span::Span;
use crate::store::{Revision, Scope};

#[test]
fn routes_are_awaited_for_the_operations_own_namespace() {
    let mut participant =
        Participant::new("m1".parse().unwrap(), "process".to_owned(), FenceFile::default());
    let operation = OperationId::from_digest(&Digest::of_bytes(b"operation"));
    let body = CommandBody::Perform {
        scope: Scope::Namespace("blog".parse().unwrap()),
        epoch: crate::id::Epoch { incarnation: 1, revision: 5 },
        step: "routes-m1".parse().unwrap(),
        action: Action::AwaitRoutes,
        commit: Some(Revision(7)),
    };
    let command = Command { v: 1, operation, attempt: 0, deadline: Span::from_secs(10), body };
    participant.command(Time::ZERO, ReplyToken(1), command);
    let Some((owner, _, EffectKind::Persist(_))) = participant.poll_effect() else {
        panic!("the floor is written first")
    };
    participant.done(Time::ZERO, owner, Completion::Persist(Ok(())));
    let Some((_, _, EffectKind::Routes(request))) = participant.poll_effect() else {
        panic!("the gateway is asked")
    };
    let namespace = "blog".parse().unwrap();
    let within = Span::from_secs(5);
    assert_eq!(request, RoutesRequest::Applied { namespace, at_least: Revision(7), within });
}

#[test]
fn probes_have_a_pause_between_them_even_if_a_plan_says_none() {
    let mut participant =
        Participant::new("m1".parse().unwrap(), "process".to_owned(), FenceFile::default());
    let spec: InstanceSpec = serde_json::from_value(serde_json::json!({
        "name": "web-0", "namespace": "blog", "service": "web", "slot": 0, "operation": "0123456789abcdef",
        "workload": { "image": "", "restart": "always", "stop_grace_period": "1s", "network": "overlay" },
        "address": "127.0.0.1", "ports": { "http": 80 },
    }))
    .unwrap();
    let mut readiness = Readiness::new(Probe::Tcp { port: "http".to_owned() });
    readiness.interval = Span::default();
    let action = Action::AwaitReady {
        instance: spec.name.clone(),
        address: spec.address,
        port: 80,
        readiness: Some(readiness),
    };
    let body = CommandBody::Perform {
        scope: Scope::Namespace("blog".parse().unwrap()),
        epoch: crate::id::Epoch { incarnation: 1, revision: 5 },
        step: "ready-web-0".parse().unwrap(),
        action,
        commit: None,
    };
    let operation = spec.operation.clone();
    let command = Command { v: 1, operation, attempt: 0, deadline: Span::from_secs(10), body };
    participant.command(Time::ZERO, ReplyToken(1), command);
    let running = ObservedInstance {
        spec,
        state: InstanceState::Running,
        started_at: None,
        pid: Some(1),
        restarts: 0,
        last_exit: None,
    };
    let refused = Err("connection refused".to_owned());
    for completion in [
        Completion::Persist(Ok(())),
        Completion::Runtime(Outcome::Ok(RuntimeReply::Instance(Some(running)))),
        Completion::Runtime(Outcome::Ok(RuntimeReply::Probed(refused))),
    ] {
        let (owner, _, _) = participant.poll_effect().expect("it goes on");
        participant.done(Time::ZERO, owner, completion);
    }
    assert_eq!(participant.poll_timeout(), Some(Time::ZERO + Duration::from_millis(100)));
}

proptest! {
    #[test]
    fn a_floor_is_the_highest_epoch_that_was_seen_of_its_scope(
        seen in prop::collection::vec((0..3_u8, 0..3_u64, 0..4_u64), 0..20),
    ) {
        let mut file = FenceFile::default();
        let mut highest = BTreeMap::new();
        for (scope, incarnation, revision) in seen {
            let scope = Scope::Namespace(format!("ns{scope}").parse().unwrap());
            let epoch = crate::id::Epoch { incarnation, revision };
            let before: Option<&crate::id::Epoch> = highest.get(&scope);
            let rises = before.is_none_or(|before| *before < epoch);
            prop_assert_eq!(file.raise(&scope, epoch), rises);
            if rises {
                highest.insert(scope, epoch);
            }
            for (scope, epoch) in &highest {
                prop_assert_eq!(file.floor(scope), *epoch);
            }
            let text = serde_json::to_string(&file).unwrap();
            prop_assert_eq!(&serde_json::from_str::<FenceFile>(&text).unwrap(), &file);
        }
    }
}

/// An instance at this place.
fn at(place: u16) -> InstanceSpec {
    serde_json::from_value(serde_json::json!({
        "name": "web-0", "namespace": "blog", "service": "web", "slot": 0, "operation": "0123456789abcdef",
        "workload": { "image": "", "restart": "always", "stop_grace_period": "1s", "network": "overlay" },
        "address": format!("10.101.0.{place}"), "ports": { "http": 80 },
    }))
    .unwrap()
}

/// An instance that shares its address with others.
fn on_ports<const N: usize>(ports: [u16; N]) -> InstanceSpec {
    let ports = ports.into_iter().map(|port| (format!("p{port}"), port)).collect();
    InstanceSpec { address: std::net::Ipv4Addr::LOCALHOST.into(), ports, ..at(2) }
}

fn operation(number: u8) -> OperationId {
    OperationId::from_digest(&Digest::of_bytes(&[number]))
}

#[test]
fn a_machine_remembers_who_used_its_addresses_last() {
    let mut fence = FenceFile::default();
    // 3 and 4 are set aside for the third.
    for (place, who, attempt) in [(2, 1, 0), (5, 2, 0), (6, 1, 0), (7, 1, 1)] {
        fence.made(&at(place), &operation(who), attempt);
    }
    let others = |fence: &FenceFile, who, attempt| {
        let uses = fence.used_by_others(&operation(who), attempt);
        assert_eq!((uses.count, uses.forgotten), (fence.uses, 0));
        Vec::from_iter(uses.places)
    };
    assert_eq!(others(&fence, 1, 0), [(5, 2), (7, 4)], "another try is another one");
    assert_eq!(others(&fence, 3, 0), [(2, 1), (5, 2), (6, 3), (7, 4)]);
    // What was set aside is used late, and then by another one.
    fence.made(&at(3), &operation(3), 0);
    assert_eq!(others(&fence, 3, 0), [(2, 1), (5, 2), (6, 3), (7, 4)]);
    fence.made(&at(3), &operation(4), 0);
    let uses = fence.used_by_others(&operation(3), 0);
    assert!(uses.since(4, 3) && !uses.since(6, 3) && !uses.since(0, 4));
}

#[test]
fn an_address_that_is_given_up_has_been_used_until_then() {
    let mut fence = FenceFile::default();
    let old = InstanceSpec { name: "old-0".parse().unwrap(), ..at(2) };
    fence.made(&old, &operation(1), 0);
    fence.made(&at(3), &operation(2), 0);
    fence.given_up(&"old-0".parse().unwrap(), &operation(3), 0);
    assert_eq!(Vec::from_iter(fence.used().places), [(2, 3), (3, 2)]);
    let others = fence.used_by_others(&operation(3), 0);
    assert_eq!(Vec::from_iter(others.places), [(3, 2)], "it was its own doing");
    fence.given_up(&"nobody-0".parse().unwrap(), &operation(3), 0);
    assert_eq!(fence.uses, 3);
}

#[test]
fn all_ports_of_an_instance_count_and_what_is_forgotten_may_have_been_used() {
    let mut fence = FenceFile::default();
    fence.made(&on_ports([20_001]), &operation(1), 0);
    // Set aside after the first: 20002 to 20004.
    fence.made(&on_ports([20_002]), &operation(2), 0);
    let uses = fence.used_by_others(&operation(3), 0);
    let since = |uses: &crate::coordination::command::Uses, spec| {
        super::places(&spec).iter().any(|place| uses.since(1, *place))
    };
    assert!(since(&uses, on_ports([20_002, 20_003, 20_004])));
    assert!(!since(&uses, on_ports([20_003, 20_004])));
    for port in 0..300 {
        fence.made(&on_ports([21_000 + port]), &operation(2), 0);
    }
    let uses = fence.used();
    assert_eq!((uses.count, uses.forgotten, uses.places.len()), (302, 48, 254));
    assert!(since(&uses, on_ports([20_003])), "nobody knows any more");
    assert!(!uses.since(48, 20_003));
}

proptest! {
    /// An address counts as used since a plan was made exactly if another one has used it last since then, however often the machine has gone
    /// round and whatever was used out of turn.
    #[test]
    fn an_address_counts_as_used_if_another_one_has_used_it_since(
        before in proptest::collection::vec((2_u16..=254, 0_u8..4), 0..400),
        after in proptest::collection::vec((2_u16..=254, 0_u8..4), 0..400),
        places in proptest::collection::vec(2_u16..=254, 20),
    ) {
        const OWN: u8 = 3;
        let mut fence = FenceFile::default();
        before.iter().for_each(|(place, who)| fence.made(&at(*place), &operation(*who), 0));
        let then = fence.uses;
        after.iter().for_each(|(place, who)| fence.made(&at(*place), &operation(*who), 0));
        let uses = fence.used_by_others(&operation(OWN), 0);
        for place in places {
            let last = after.iter().rfind(|(used, _)| *used == place);
            prop_assert_eq!(uses.since(then, place), last.is_some_and(|(_, who)| *who != OWN));
        }
    }
}
