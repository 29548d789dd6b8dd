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

/// An instance at this place of its machine's turn.
fn at(place: u16) -> InstanceSpec {
    serde_json::from_value(serde_json::json!({
        "name": "web-0", "namespace": "blog", "service": "web", "slot": 0, "operation": "0123456789abcdef",
        "workload": { "image": "", "restart": "always", "stop_grace_period": "1s", "network": "overlay" },
        "address": format!("10.101.0.{place}"), "ports": {},
    }))
    .unwrap()
}

fn operation(number: u8) -> OperationId {
    OperationId::from_digest(&Digest::of_bytes(&[number]))
}

fn others(fence: &FenceFile, number: u8, attempt: u32) -> Vec<u16> {
    fence.turn_for(&operation(number), attempt).unwrap().others.unwrap().into_iter().collect()
}

#[test]
fn a_machine_remembers_who_used_the_places_of_its_turn() {
    let mut fence = FenceFile::default();
    assert_eq!(fence.turn_for(&operation(1), 0), None, "nothing was used");
    // 3 and 4 are set aside for the third.
    for (place, who, attempt) in [(2, 1, 0), (5, 2, 0), (6, 1, 0), (7, 1, 1)] {
        fence.made(&at(place), &operation(who), attempt);
    }
    assert_eq!(others(&fence, 1, 0), [5, 7], "another try is another one");
    assert_eq!(others(&fence, 3, 0), [2, 5, 6, 7]);
    // What was set aside is used late, and then by another one.
    fence.made(&at(3), &operation(3), 0);
    assert_eq!((fence.used_up_to, others(&fence, 3, 0)), (Some(7), vec![2, 5, 6, 7]));
    fence.made(&at(3), &operation(4), 0);
    assert_eq!(others(&fence, 3, 0), [2, 3, 5, 6, 7]);
    // A round later: 2 was used a round before when the turn passes it.
    fence.made(&at(250), &operation(5), 0);
    fence.made(&at(1), &operation(5), 0);
    fence.made(&at(4), &operation(5), 0);
    assert_eq!((fence.used_up_to, others(&fence, 6, 0)), (Some(4), vec![1, 4, 5, 6, 7, 250]));
    // A late one of the round before: the turn has not passed what is between.
    fence.made(&at(200), &operation(1), 0);
    assert_eq!(
        (fence.used_up_to, others(&fence, 6, 0)),
        (Some(200), vec![1, 4, 5, 6, 7, 200, 250])
    );
}

proptest! {
    /// Whatever is used in turn, here and there a place that was set aside before: a use by another one is not forgotten within some
    /// hundred uses, and nobody has used what was only passed.
    #[test]
    fn an_address_counts_as_used_if_another_one_has_used_it(
        before in proptest::collection::vec((1_u16..4, 0_u8..4), 0..300),
        drawn in 1_u16..4,
        after in proptest::collection::vec((1_u16..4, 0_u8..4, proptest::option::weighted(0.2, 1_u16..60)), 0..60),
    ) {
        const OWN: u8 = 3;
        let next = |from: u16, on: u16| (from + on - 2) % 253 + 2;
        let mut fence = FenceFile::default();
        fence.made(&at(2), &operation(0), 0);
        for (on, who) in before {
            let place = next(fence.used_up_to.unwrap(), on);
            fence.made(&at(place), &operation(who), 0);
        }
        let then = fence.used_up_to.unwrap();
        let place = next(then, drawn);
        let (mut used, mut wrapped) = (false, place < then);
        for (on, who, late) in after {
            let up_to = fence.used_up_to.unwrap();
            let now = match late {
                Some(behind) if up_to > behind + 2 => up_to - behind,
                _ => next(up_to, on),
            };
            fence.made(&at(now), &operation(who), 0);
            wrapped |= fence.used_up_to.unwrap() < up_to;
            used = if now == place { who != OWN } else { used };
        }
        let turn = fence.turn_for(&operation(OWN), 0).unwrap();
        prop_assert!(!used || is_used(then, &turn, place), "{then} {place} {turn:?}");
        prop_assert!(wrapped || used || !is_used(then, &turn, place), "{then} {place} {turn:?}");
    }
}
