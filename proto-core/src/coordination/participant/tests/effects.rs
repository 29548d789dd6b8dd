//! The participant on its own: each test hands it commands and completions and compares the effects and answers that come out.

use super::super::*;
use crate::coordination::command::Uses;
use crate::coordination::plan::Action;
use crate::digest::Digest;
use crate::runtime::{InstanceState, Probe, Readiness, RuntimeReply};
use crate::span::Span;
use crate::store::Scope;

/// The participant of m1, and its effects that wait for an answer. Replies need none: they are listed by `answers`.
struct Bench {
    participant: Participant,
    out: Vec<(Owner, EffectKind)>,
    answers: Vec<(u64, CommandReply)>,
}

fn epoch(revision: u64) -> crate::id::Epoch {
    crate::id::Epoch { incarnation: 1, revision }
}

fn blog() -> Scope {
    Scope::Namespace("blog".parse().unwrap())
}

fn operation() -> OperationId {
    OperationId::from_digest(&Digest::of_bytes(b"operation"))
}

fn spec() -> crate::runtime::InstanceSpec {
    let workload = serde_json::json!({
        "image": "app:v1", "restart": "always", "stop_grace_period": Span::from_secs(10), "network": "overlay"
    });
    crate::runtime::InstanceSpec {
        name: "web-0".parse().unwrap(),
        namespace: "blog".parse().unwrap(),
        service: "web".parse().unwrap(),
        slot: 0,
        operation: operation(),
        workload: serde_json::from_value(workload).unwrap(),
        address: [10, 101, 0, 2].into(),
        ports: [("http".to_owned(), 80)].into(),
    }
}

fn command(body: CommandBody) -> Command {
    Command { v: 1, operation: operation(), attempt: 1, deadline: Span::from_secs(10), body }
}

fn ensure(revision: u64) -> Command {
    let action = Action::Ensure { spec: Box::new(spec()) };
    let step = "start-web-0".parse().unwrap();
    let (scope, epoch) = (blog(), epoch(revision));
    command(CommandBody::Perform { scope, epoch, step, action, commit: None })
}

fn barrier(revision: u64) -> Command {
    command(CommandBody::Barrier { scope: blog(), epoch: epoch(revision) })
}

fn entry(revision: u64) -> JournalEntry {
    JournalEntry {
        scope: blog(),
        epoch: epoch(revision),
        operation: operation(),
        step: "start-web-0".parse().unwrap(),
        instance: "web-0".parse().unwrap(),
    }
}

/// An instance that keeps exiting, as it is in this state.
fn crashing(state: InstanceState, last_exit: Option<i32>) -> RuntimeReply {
    let RuntimeReply::Instance(Some(mut seen)) = instance(true) else { unreachable!() };
    (seen.state, seen.restarts, seen.last_exit) = (state, 2, last_exit);
    RuntimeReply::Instance(Some(seen))
}

fn await_ready(revision: u64) -> Command {
    await_probed(revision, None)
}

fn await_probed(revision: u64, readiness: Option<Readiness>) -> Command {
    let (instance, address) = (spec().name, spec().address);
    let action = Action::AwaitReady { instance, address, port: 80, readiness };
    let (scope, epoch, step) = (blog(), epoch(revision), "ready-web-0".parse().unwrap());
    command(CommandBody::Perform { scope, epoch, step, action, commit: None })
}

fn instance(running: bool) -> RuntimeReply {
    RuntimeReply::Instance(running.then(|| crate::runtime::ObservedInstance {
        spec: spec(),
        state: InstanceState::Running,
        started_at: None,
        pid: Some(1),
        restarts: 0,
        last_exit: None,
    }))
}

impl Bench {
    fn new(fence: FenceFile) -> Self {
        let participant = Participant::new("m1".parse().unwrap(), "docker".to_owned(), fence);
        let mut bench = Self { participant, out: Vec::new(), answers: Vec::new() };
        bench.drain();
        bench
    }

    fn drain(&mut self) {
        while let Some((owner, _, effect)) = self.participant.poll_effect() {
            match effect {
                EffectKind::Reply { token, reply } => self.answers.push((token.0, *reply)),
                effect => self.out.push((owner, effect)),
            }
        }
    }

    fn command(&mut self, token: u64, command: Command) {
        self.participant.command(Time::ZERO, ReplyToken(token), command);
        self.drain();
    }

    fn out(&self) -> Vec<&'static str> {
        let label = |(_, effect): &(Owner, EffectKind)| match effect {
            EffectKind::Persist(_) => "persist",
            EffectKind::Runtime(RuntimeRequest::Inspect { .. }) => "inspect",
            EffectKind::Runtime(RuntimeRequest::List { .. }) => "list",
            EffectKind::Runtime(RuntimeRequest::Logs { .. }) => "logs",
            EffectKind::Runtime(RuntimeRequest::Probe { .. }) => "probe",
            EffectKind::Runtime(RuntimeRequest::Create { .. }) => "create",
            EffectKind::Runtime(RuntimeRequest::Settle { .. }) => "settle",
            other => panic!("not expected here: {other:?}"),
        };
        self.out.iter().map(label).collect()
    }

    fn next(&mut self, label: &str, completion: Completion) {
        assert_eq!(self.out().first(), Some(&label), "{:?}", self.out());
        let (owner, _) = self.out.remove(0);
        self.participant.done(Time::ZERO, owner, completion);
        self.drain();
    }

    fn written(&mut self) {
        self.next("persist", Completion::Persist(Ok(())));
    }

    fn runtime(&mut self, label: &str, outcome: Outcome<RuntimeReply, RuntimeError>) {
        self.next(label, Completion::Runtime(outcome));
    }

    /// Up to the create of the instance, under epoch 5.
    fn creating() -> Self {
        let mut bench = Self::new(FenceFile::default());
        bench.command(1, ensure(5));
        bench.written();
        bench.runtime("inspect", Outcome::Ok(instance(false)));
        bench.runtime("list", Outcome::Ok(RuntimeReply::Instances(Vec::new())));
        assert_eq!(bench.out(), ["create"]);
        bench
    }
}

/// A barrier on a machine whose first instance is there.
fn acknowledged() -> CommandReply {
    CommandReply::Done { note: None, used_by_others: Some(Uses { count: 1, ..Uses::default() }) }
}

fn done() -> CommandReply {
    CommandReply::Done { note: None, used_by_others: None }
}

#[test]
fn an_instance_that_waits_for_its_restart_fails_with_the_code_of_its_last_exit() {
    let says = |state, last_exit| {
        let mut bench = Bench::new(FenceFile::default());
        bench.command(1, await_ready(5));
        bench.written();
        bench.runtime("inspect", Outcome::Ok(crashing(state, last_exit)));
        bench.runtime("logs", Outcome::Ok(RuntimeReply::Logs(vec!["no config".to_owned()])));
        let [(1, CommandReply::Failed(failure))] = &bench.answers[..] else { panic!("not failed") };
        assert_eq!(failure.logs(), ["no config"]);
        failure.to_string()
    };
    let (restarting, exited) = (InstanceState::Restarting, InstanceState::Exited { code: 4 });
    assert_eq!(says(restarting, Some(3)), "web-0 exited with code 3 (after 2 restarts)");
    let killed = "web-0 exited with code 137 (signal 9) (after 2 restarts)";
    assert_eq!(says(InstanceState::Running, Some(137)), killed);
    assert_eq!(says(exited, Some(3)), "web-0 exited with code 4 (after 2 restarts)");
    // An older runtime's record.
    assert_eq!(says(restarting, None), "web-0 exited, how is not known (after 2 restarts)");
}

#[test]
fn a_code_that_shows_only_between_two_runs_is_looked_for_and_not_for_ever() {
    let look = |bench: &mut Bench, state, last_exit| {
        let at = bench.participant.poll_timeout().expect("it is looked at again");
        bench.participant.timeout(at);
        bench.drain();
        bench.runtime("inspect", Outcome::Ok(crashing(state, last_exit)));
    };
    let begun = || {
        let mut bench = Bench::new(FenceFile::default());
        bench.command(1, await_ready(5));
        bench.written();
        bench.runtime("inspect", Outcome::Ok(crashing(InstanceState::Running, None)));
        assert_eq!(bench.out(), [""; 0]);
        bench
    };
    let logs = || Outcome::Ok(RuntimeReply::Logs(Vec::new()));
    let mut bench = begun();
    look(&mut bench, InstanceState::Restarting, Some(3));
    bench.runtime("logs", logs());
    let [(1, CommandReply::Failed(failure))] = &bench.answers[..] else { panic!("not failed") };
    assert_eq!(failure.to_string(), "web-0 exited with code 3 (after 2 restarts)");

    let mut bench = begun();
    let mut looks = 1;
    while bench.out().is_empty() {
        look(&mut bench, InstanceState::Running, None);
        looks += 1;
    }
    assert_eq!(looks, 21);
    bench.runtime("logs", logs());
    let [(1, CommandReply::Failed(failure))] = &bench.answers[..] else { panic!("not failed") };
    assert_eq!(failure.to_string(), "web-0 exited, how is not known (after 2 restarts)");
}

#[test]
fn a_probe_that_succeeds_is_believed_only_if_the_instance_still_runs_its_first_run() {
    let probed = || {
        let mut bench = Bench::new(FenceFile::default());
        let readiness = Readiness::new(Probe::Tcp { port: "http".to_owned() });
        bench.command(1, await_probed(5, Some(readiness)));
        bench.written();
        bench.runtime("inspect", Outcome::Ok(instance(true)));
        bench.runtime("probe", Outcome::Ok(RuntimeReply::Probed(Ok(()))));
        assert_eq!((bench.out(), &bench.answers[..]), (vec!["inspect"], &[][..]));
        bench
    };
    let mut bench = probed();
    bench.runtime("inspect", Outcome::Ok(instance(true)));
    assert_eq!(bench.answers, [(1, done())]);

    // Its port was another one's, who answered.
    let exited = InstanceState::Exited { code: 1 };
    for state in [exited, InstanceState::Restarting, InstanceState::Running] {
        let mut bench = probed();
        bench.runtime("inspect", Outcome::Ok(crashing(state, Some(1))));
        bench.runtime("logs", Outcome::Ok(RuntimeReply::Logs(Vec::new())));
        let [(1, CommandReply::Failed(failure))] = &bench.answers[..] else { panic!("not failed") };
        assert_eq!(failure.code(), "INSTANCE_EXITED");
    }
    let mut bench = probed();
    bench.runtime("inspect", Outcome::Ok(instance(false)));
    let [(1, CommandReply::Failed(failure))] = &bench.answers[..] else { panic!("not failed") };
    assert_eq!(failure.code(), "NO_SUCH_INSTANCE");
}

#[test]
fn what_was_recorded_before_exit_codes_were_kept_is_still_read() {
    let RuntimeReply::Instance(Some(seen)) = instance(true) else { unreachable!() };
    let mut old = serde_json::to_value(&seen).unwrap();
    assert_eq!(old.get("last_exit"), None);
    old["state"] = serde_json::json!({"state": "restarting"});
    let read: crate::runtime::ObservedInstance = serde_json::from_value(old).unwrap();
    assert_eq!((read.state, read.exit_code()), (InstanceState::Restarting, None));
    let failure: crate::coordination::command::StepFailure = serde_json::from_value(
        serde_json::json!({"failure": "exited", "instance": "web-0", "code": 1, "restarts": 0, "logs": []}),
    )
    .unwrap();
    assert_eq!(failure.to_string(), "web-0 exited with code 1");
}

#[test]
fn nothing_acts_before_floor_and_journal_are_written() {
    let mut bench = Bench::new(FenceFile::default());
    bench.command(1, ensure(5));
    assert_eq!(bench.out(), ["persist"]);
    let (_, EffectKind::Persist(file)) = &bench.out[0] else { unreachable!() };
    assert_eq!((&file.floors, &file.journal), (&vec![(blog(), epoch(5))], &vec![entry(5)]));
    bench.written();
    assert_eq!(bench.out(), ["inspect"]);
    assert_eq!(bench.answers, []);
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let mut bench = Bench::new(FenceFile::default());
    bench.command(1, ensure(5));
    bench.next("persist", Completion::Persist(Err("no space".to_owned())));
    assert_eq!(bench.out(), [""; 0]);
    let [(1, CommandReply::Failed(failure))] = &bench.answers[..] else { panic!("not failed") };
    assert_eq!(failure.code(), "DISK_FULL");
}

#[test]
fn a_lower_epoch_is_refused_with_the_floor_and_an_equal_one_is_not() {
    let floors = vec![(blog(), epoch(6))];
    let mut bench = Bench::new(FenceFile { floors, ..FenceFile::default() });
    bench.command(1, ensure(5));
    assert_eq!(bench.answers, [(1, CommandReply::Stale { floor: epoch(6) })]);
    assert_eq!(bench.out(), [""; 0]);
    bench.command(2, barrier(5));
    assert_eq!(bench.answers.pop(), Some((2, CommandReply::Stale { floor: epoch(6) })));
    bench.command(3, ensure(6));
    assert_eq!(bench.out(), ["persist"]);
}

#[test]
fn a_barrier_waits_for_the_change_under_way_and_for_its_settling_if_the_answer_was_lost() {
    let mut bench = Bench::creating();
    bench.command(2, barrier(6));
    assert_eq!((bench.out(), &bench.answers[..]), (vec!["create"], &[][..]));
    bench.runtime("create", Outcome::Unknown);
    assert_eq!(bench.answers, [(1, CommandReply::Stale { floor: epoch(6) })]);
    assert_eq!(bench.out(), ["settle"], "it may still land");
    bench.runtime("settle", Outcome::Unknown);
    assert_eq!((bench.out(), bench.answers.len()), (vec![], 1));
    let again = bench.participant.poll_timeout().expect("it is settled again");
    bench.participant.timeout(again);
    bench.drain();
    bench.runtime("settle", Outcome::Ok(RuntimeReply::Done));
    bench.written();
    assert_eq!(bench.answers[1..], [(2, acknowledged())]);
    assert!(bench.participant.is_idle());
}

#[test]
fn a_fenced_change_that_was_answered_holds_the_barrier_no_longer_and_goes_no_further() {
    let mut bench = Bench::creating();
    bench.command(2, barrier(6));
    bench.runtime("create", Outcome::Ok(RuntimeReply::Done));
    assert_eq!(bench.answers, [(1, CommandReply::Stale { floor: epoch(6) })]);
    assert_eq!(bench.out(), ["persist"], "no look at what was made: only the barrier goes on");
    bench.written();
    assert_eq!(bench.answers[1..], [(2, acknowledged())]);
}

#[test]
fn after_a_restart_what_the_journal_names_is_settled_before_a_barrier_is_acknowledged() {
    let (floors, journal) = (vec![(blog(), epoch(5))], vec![entry(5)]);
    let mut bench = Bench::new(FenceFile { floors, journal, ..FenceFile::default() });
    assert_eq!(bench.out(), ["settle"]);
    bench.command(1, barrier(6));
    bench.command(2, ensure(6));
    assert_eq!((bench.out(), &bench.answers[..]), (vec!["settle"], &[][..]));
    bench.runtime("settle", Outcome::Ok(RuntimeReply::Done));
    bench.written();
    assert_eq!(bench.answers, [(1, acknowledged())]);
    // The change journals itself in a version of the file of its own.
    bench.written();
    assert_eq!(bench.out(), ["inspect"]);
}

#[test]
fn the_same_step_twice_while_it_is_under_way_is_one_change_and_two_answers() {
    let mut bench = Bench::creating();
    bench.command(2, ensure(5));
    assert_eq!(bench.out(), ["create"]);
    bench.runtime("create", Outcome::Ok(RuntimeReply::Done));
    bench.runtime("inspect", Outcome::Ok(instance(true)));
    assert_eq!(bench.answers, [(1, done()), (2, done())]);
}

#[test]
fn the_same_step_again_after_it_is_done_looks_and_changes_nothing() {
    let mut bench = Bench::creating();
    bench.runtime("create", Outcome::Ok(RuntimeReply::Done));
    bench.runtime("inspect", Outcome::Ok(instance(true)));
    bench.command(2, ensure(5));
    bench.written();
    bench.runtime("inspect", Outcome::Ok(instance(true)));
    assert_eq!(bench.answers, [(1, done()), (2, done())]);
    assert_eq!(bench.out(), [""; 0]);
}
