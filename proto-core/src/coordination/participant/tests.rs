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
