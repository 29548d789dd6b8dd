use super::*;
use crate::coordination::plan::Action;
use crate::daemon::RoutesRequest;
use crate::digest::Digest;
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
    let command = Command { v: 1, operation, deadline: Span::from_secs(10), body };
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
