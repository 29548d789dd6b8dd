//! How long what an operation writes lives: whole lives of operations, played against a store that counts time, with answers that are
//! lost, batches that land late or torn, and steps that fail.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::super::{LEASE_TTL, Operation, Tag};
use super::given::{Given, apply, deploy, machine};
use crate::Outcome;
use crate::api::{OperationRequest, Submission};
use crate::coordination::command::{BusError, CommandBody, CommandReply, StepFailure};
use crate::coordination::record::{OperationRecord, Phase};
use crate::daemon::{Completion, EffectKind};
use crate::runtime::RuntimeError;
use crate::span::Span;
use crate::store::facts::{Claim, InstanceFact, InstanceLifecycle, Lease};
use crate::store::{Entry, Key, Revision, StoreError, StoreReply, StoreRequest, Write};
use crate::time::{Time, UnixTime};

const WEEK: Span = Span::from_secs(7 * 24 * 3600);
const HOUR: Span = Span::from_secs(3600);

/// What becomes of something that is asked of the store or of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// Done, and the answer is lost.
    Unheard,
    /// Never done, and nobody says so.
    Lost,
    /// Nobody answers; so many seconds later it is done.
    Late(u64),
    /// A batch of which so many writes are stored, as a lone server dies then.
    Torn(usize),
    /// It is said not to be done: by the store that it is away, by a machine that it failed.
    Failed,
}

/// A fate, and how many milliseconds pass before what is asked is done, and before the answer is there.
type Course = (Fate, u64, u64);

/// Courses for what is asked first; all that is asked later is done within a moment. `well`: for five that do not go well, so many do.
fn troubles(most: u64, well: u32) -> impl Strategy<Value = Vec<Course>> {
    let fate = prop_oneof![
        well => Just(Fate::Done),
        1 => Just(Fate::Unheard),
        1 => Just(Fate::Lost),
        1 => (1..60_u64).prop_map(Fate::Late),
        1 => (1..7_usize).prop_map(Fate::Torn),
        1 => Just(Fate::Failed),
    ];
    prop::collection::vec((fate, 0..most, 0..most), 0..40)
}

/// What is asked for where commit 1 of `blog` runs.
fn requests() -> impl Strategy<Value = OperationRequest> {
    let namespace = || "blog".parse().unwrap();
    let strategy = prop::sample::select(vec!["rolling", "blue_green", "recreate"]);
    let host = prop::sample::select(vec!["old.example", "new.example"]);
    prop_oneof![
        4 => (strategy, host, 1..4_u32)
            .prop_map(|(strategy, host, replicas)| deploy("app:v2", host, strategy, replicas)),
        1 => Just(OperationRequest::RemoveNamespace { namespace: namespace() }),
        1 => Just(OperationRequest::Stop {
            namespace: namespace(),
            service: "web".parse().unwrap(),
        }),
    ]
}

/// Something that is under way: what is to happen, in the order of these.
enum Happens {
    /// The store takes a batch, or does not.
    Lands { tag: Tag, writes: Vec<Write>, fate: Fate, answer_after: u64, issued: u64 },
    /// The operation is told.
    Answer { tag: Tag, completion: Completion },
}

/// An operation, and the store that it writes to.
struct World {
    given: Given,
    now: Time,
    last: u64,
    ends: BTreeMap<Key, Time>,
    store: std::vec::IntoIter<Course>,
    machines: std::vec::IntoIter<Course>,
    /// The first commit batch is torn after so many writes; whether the daemon of the operation dies then too.
    torn_commit: Option<(usize, bool)>,
    dead: bool,
    /// Of so many renewals of the lease the first is lost.
    lost_renewals: Option<u32>,
    renewals: u32,
    agenda: BTreeMap<(Time, u64), Happens>,
    planned: u64,
    /// Marks that were stored: their keys and when they were asked for.
    marks: Vec<(Key, u64)>,
    /// Every batch that was asked for, and what it was for.
    asked: Vec<(Tag, Vec<Write>)>,
    /// The operation that is played has not ended yet.
    at_work: bool,
    /// The lease of an operation at work has run out.
    lapsed: bool,
    /// A batch landed that a mark had said would not.
    landed_behind_mark: bool,
}

impl World {
    fn new(given: Given, store: Vec<Course>, machines: Vec<Course>) -> Self {
        Self {
            given,
            now: Time::ZERO + Duration::from_secs(1),
            last: 100,
            ends: BTreeMap::new(),
            store: store.into_iter(),
            machines: machines.into_iter(),
            torn_commit: None,
            dead: false,
            lost_renewals: None,
            renewals: 0,
            agenda: BTreeMap::new(),
            planned: 0,
            marks: Vec::new(),
            asked: Vec::new(),
            at_work: false,
            lapsed: false,
            landed_behind_mark: false,
        }
    }

    fn wall(&self) -> UnixTime {
        UnixTime::from_millis(1_700_000_000_000 + self.now.as_nanos() / 1_000_000)
    }

    /// Plays an operation to its end, and what of it is still under way then.
    fn play(&mut self, me: &str, submission: Submission, cancel_at: Option<Time>) {
        let mut op = Operation::new(machine(me), self.last, submission);
        let mut cancel_at = cancel_at;
        self.dead = false;
        for _ in 0..20_000 {
            if self.dead {
                // Nothing else is under way: its batch was the only one, and nobody hears the steps' answers.
                return self.agenda.clear();
            }
            self.at_work = !op.is_finished();
            self.expire();
            while let Some((tag, effect)) = op.poll_effect() {
                self.issue(tag, effect);
            }
            while op.poll_event().is_some() {}
            let wake = op.poll_timeout().filter(|_| !op.is_finished());
            let due = self.agenda.keys().next().map(|(at, _)| *at);
            let Some(next) = due.into_iter().chain(wake).chain(cancel_at).min() else { return };
            self.now = self.now.max(next);
            if cancel_at.is_some_and(|at| at <= self.now) {
                cancel_at = None;
                op.cancel(self.now, self.wall());
            } else if due.is_some_and(|at| at <= self.now) {
                let (_, happens) = self.agenda.pop_first().expect("something is due");
                if let Some((tag, completion)) = self.happen(happens) {
                    op.done(self.now, self.wall(), tag, completion);
                }
            } else {
                op.timeout(self.now, self.wall());
            }
        }
        panic!("the operation does not come to an end");
    }

    fn plan(&mut self, after: Duration, happens: Happens) {
        self.planned += 1;
        self.agenda.insert((self.now + after, self.planned), happens);
    }

    fn issue(&mut self, tag: Tag, effect: EffectKind) {
        let is_sent = matches!(effect, EffectKind::Send { .. });
        let courses = if is_sent { &mut self.machines } else { &mut self.store };
        let (mut fate, before, after) = courses.next().unwrap_or((Fate::Done, 5, 5));
        if tag == Tag::Renew {
            let lost = self.lost_renewals.is_some_and(|of| self.renewals.is_multiple_of(of));
            self.renewals += 1;
            if lost {
                fate = Fate::Lost;
            }
        }
        let both = Duration::from_millis(before + after);
        let completion = match effect {
            EffectKind::Store(StoreRequest::Read { prefixes }) => {
                self.expire();
                let below = |entry: &&Entry| prefixes.iter().any(|key| entry.key.is_under(key));
                let entries = self.given.entries.values().filter(below).cloned().collect();
                Completion::Store(match fate {
                    Fate::Lost => Outcome::Unknown,
                    _ => Outcome::Ok(StoreReply::Entries(entries)),
                })
            }
            EffectKind::Store(StoreRequest::Commit { writes }) => {
                self.asked.push((tag.clone(), writes.clone()));
                let late = if let Fate::Late(secs) = fate { secs } else { 0 };
                if late > 0 {
                    let completion = Completion::Store(Outcome::Unknown);
                    self.plan(both, Happens::Answer { tag: tag.clone(), completion });
                }
                let issued = self.planned;
                let lands = Happens::Lands { tag, writes, fate, answer_after: after, issued };
                return self.plan(Duration::from_millis(late * 1000 + before), lands);
            }
            EffectKind::Send { to, command } => Completion::Send(match (fate, command.body) {
                (Fate::Done | Fate::Unheard | Fate::Torn(_), CommandBody::Observe { .. }) => {
                    Outcome::Ok(CommandReply::Observed(self.given.seen[&to].clone()))
                }
                (Fate::Done, _) => {
                    Outcome::Ok(CommandReply::Done { note: None, used_by_others: None })
                }
                (Fate::Failed, CommandBody::Perform { .. }) => {
                    let error = RuntimeError::Other { detail: "no".to_owned() };
                    Outcome::Ok(CommandReply::Failed(StepFailure::Runtime { error }))
                }
                (Fate::Failed, _) => Outcome::Failed(BusError::NoResponders { machine: to }),
                _ => Outcome::Unknown,
            }),
            other => panic!("an operation has no such effect: {other:?}"),
        };
        self.plan(both, Happens::Answer { tag, completion });
    }

    fn happen(&mut self, happens: Happens) -> Option<(Tag, Completion)> {
        let (tag, writes, fate, after, issued) = match happens {
            Happens::Answer { tag, completion } => return Some((tag, completion)),
            Happens::Lands { tag, writes, fate, answer_after, issued } => {
                (tag, writes, fate, answer_after, issued)
            }
        };
        self.expire();
        let is_commit = writes.iter().any(|write| write.key.as_str().ends_with(".head"));
        // What is late was answered before.
        let is_torn = is_commit && !matches!(fate, Fate::Late(_));
        let torn = if is_torn { self.torn_commit.take() } else { None };
        let fate = torn.map_or(fate, |(count, _)| Fate::Torn(count));
        self.dead = torn.is_some_and(|(_, dies)| dies);
        let outcome = match fate {
            Fate::Lost => Outcome::Unknown,
            Fate::Failed => Outcome::Failed(StoreError::Unavailable("it is away".to_owned())),
            _ if !self.holds(&writes) => Outcome::Failed(StoreError::Conflict),
            Fate::Torn(count) if count < writes.len() => {
                self.store(&writes[..count]);
                Outcome::Unknown
            }
            Fate::Done | Fate::Unheard | Fate::Late(_) | Fate::Torn(_) => {
                let record = &writes.last().expect("a batch has a write").key;
                let marked = |(key, at): &(Key, u64)| key == record && *at > issued;
                self.landed_behind_mark |= tag == Tag::Write && self.marks.iter().any(marked);
                if tag == Tag::Mark {
                    self.marks.push((record.clone(), issued));
                }
                self.store(&writes);
                match fate {
                    Fate::Done => Outcome::Ok(StoreReply::Committed(Revision(self.last))),
                    _ => Outcome::Unknown,
                }
            }
        };
        if !matches!(fate, Fate::Late(_)) {
            let completion = Completion::Store(outcome);
            self.plan(Duration::from_millis(after), Happens::Answer { tag, completion });
        }
        None
    }

    fn holds(&self, writes: &[Write]) -> bool {
        let there = |key| self.given.entries.get(key).map_or(Revision::ABSENT, |e| e.revision);
        writes.iter().all(|write| write.expect.is_none_or(|expect| there(&write.key) == expect))
    }

    fn store(&mut self, writes: &[Write]) {
        for write in writes {
            self.last += 1;
            self.given.put(write.key.clone(), self.last, &write.value);
            match write.ttl {
                Some(ttl) => self.ends.insert(write.key.clone(), self.now + ttl.duration()),
                None => self.ends.remove(&write.key),
            };
        }
    }

    /// Forgets what has run out.
    fn expire(&mut self) {
        let over: Vec<_> = self.ends.iter().filter(|(_, at)| **at <= self.now).collect();
        let over: Vec<Key> = over.into_iter().map(|(key, _)| key.clone()).collect();
        for key in over {
            self.ends.remove(&key);
            let entry = self.given.entries.remove(&key);
            let lease = entry.and_then(|entry| read::<Lease>(&entry.value));
            self.lapsed |= self.at_work
                && key.is_under(&Key::leases())
                && lease.is_some_and(|it| !it.released);
        }
    }

    /// Every write that was asked for, with what it was for and its batch.
    fn writes(&self) -> impl Iterator<Item = (&Tag, &[Write], &Write)> {
        let batches = self.asked.iter();
        batches.flat_map(|(tag, batch)| batch.iter().map(move |write| (tag, &batch[..], write)))
    }

    /// The record of the operation that is not over, if there is one.
    fn unfinished(&self) -> Option<OperationRecord> {
        let records = self.given.entries.values().filter(|e| e.key.is_under(&Key::operations()));
        let mut records = records.filter_map(|entry| read::<OperationRecord>(&entry.value));
        records.find(|record| !record.phase.is_final())
    }
}

fn read<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> Option<T> {
    T::deserialize(value).ok()
}

/// A life: what is asked for, the troubles with store and machines, how its commit is torn, when it is cancelled, and whether what is left
/// behind is aborted.
type Life = (OperationRequest, Vec<Course>, Vec<Course>, Option<(usize, bool)>, Option<u64>, bool);

fn lives(well: u32) -> impl Strategy<Value = Life> {
    let cancel = prop::option::weighted(0.2, 0..5000_u64);
    // Often between the claims and the head, where an abort has something to give up.
    let torn = prop::option::weighted(0.5, (prop_oneof![Just(2), 1..7_usize], any::<bool>()));
    (requests(), troubles(3000, well), troubles(3000, well), torn, cancel, any::<bool>())
}

/// Plays one until its record is final, or none is there.
fn played((request, store, machines, torn, cancel, abort): Life) -> (World, bool) {
    let removes = matches!(request, OperationRequest::RemoveNamespace { .. });
    let mut world = World::new(Given::deployed(), store, machines);
    world.torn_commit = torn;
    let cancel = cancel.map(|after| world.now + Duration::from_millis(after));
    world.play("m1", apply(request), cancel);
    for _ in 0..20 {
        let Some(left) = world.unfinished() else { return (world, removes) };
        // Whoever left it behind is dead; its lease runs out.
        world.now = world.now + LEASE_TTL;
        let operation = left.id;
        let submission = if abort && left.phase == Phase::Executing {
            Submission::Abort { operation }
        } else {
            Submission::Resume { operation }
        };
        world.play("m2", submission, None);
    }
    panic!("it is never finished: {:?}", world.unfinished());
}

/// How long a write of a batch is to live, by the table in `docs/facts.md`, and what it is. `removes`: the namespace is to be gone.
fn wanted(
    tag: &Tag,
    batch: &[Write],
    write: &Write,
    removes: bool,
) -> (Option<Span>, &'static str) {
    let aborted = batch.last().is_some_and(|record| record.value["phase"] == "aborted");
    let value = &write.value;
    let tokens: Vec<_> = write.key.as_str().split('.').collect();
    match tokens[..] {
        ["lease", ..] if value["released"] == true => (Some(Span::from_secs(1)), "lease given up"),
        ["lease", ..] => (Some(Span::from_secs(30)), "lease"),
        ["op", _] => {
            let phase = read::<Phase>(&value["phase"]).expect("a record has a phase");
            match (phase.is_final(), tag) {
                (false, Tag::Mark) => (None, "mark on an unfinished record"),
                (false, _) => (None, "unfinished record"),
                (true, Tag::Mark) => (Some(HOUR), "mark where no record was"),
                (true, _) => (Some(WEEK), "finished record"),
            }
        }
        ["host" | "port", ..] => match read::<Claim>(value).expect("a claim").released {
            true if aborted => (Some(Span::from_secs(1)), "claim given up by an abort"),
            true => (Some(Span::from_secs(1)), "claim given up"),
            false => (None, "claim"),
        },
        ["ns", _, "instance", _] => {
            match read::<InstanceFact>(value).expect("an instance").lifecycle {
                InstanceLifecycle::Removed => (Some(WEEK), "instance removed"),
                _ => (None, "instance"),
            }
        }
        ["allocation", _] if removes => (Some(HOUR), "addresses of what is gone"),
        ["allocation", _] => (None, "addresses"),
        ["ns", _, "head"] => (None, "head"),
        ["ns", _, "commit" | "revision", _] => (None, "commit or revision"),
        _ => panic!("an operation does not write {}", write.key),
    }
}

proptest! {
    #[test]
    fn what_an_operation_writes_lives_as_long_as_its_kind_does(life in lives(40)) {
        let (world, removes) = played(life);
        for (tag, batch, write) in world.writes() {
            let (wanted, what) = wanted(tag, batch, write, removes);
            prop_assert_eq!(write.ttl, wanted, "{}: {:?} {:?}", what, tag, write);
            // The store takes nothing else.
            let millis = write.ttl.map_or(1000, Span::as_millis);
            prop_assert!(millis >= 1000 && millis.is_multiple_of(1000), "{}: {} ms", what, millis);
        }
    }

    #[test]
    fn a_batch_of_which_a_mark_says_that_it_is_lost_lands_no_more(life in lives(8)) {
        // A minute later at most, as long as an operation asks what became of it.
        prop_assert!(!played(life).0.landed_behind_mark);
    }

    #[test]
    fn what_is_over_leaves_nothing_that_is_held_and_in_a_week_nothing_that_ends(life in lives(40)) {
        let (mut world, _) = played(life);
        let records = |world: &World| {
            world.given.entries.keys().filter(|key| key.is_under(&Key::operations())).count()
        };
        world.now = world.now + LEASE_TTL;
        world.expire();
        let before = records(&world);
        let given_up = |key: &&Key| {
            let entry = &world.given.entries[*key];
            key.is_under(&Key::leases()) || entry.value["released"] == true
        };
        prop_assert_eq!(world.given.entries.keys().find(given_up), None);
        world.now = world.now + WEEK.duration() - LEASE_TTL - Duration::from_secs(3600);
        world.expire();
        prop_assert!(records(&world) + 1 >= before, "the record of what was done is kept a week");
        world.now = world.now + Duration::from_secs(3600);
        world.expire();
        prop_assert_eq!(records(&world), 0);
        prop_assert!(world.ends.is_empty(), "{:?}", world.ends);
    }

    #[test]
    fn a_lease_does_not_run_out_while_the_store_answers_within_six_seconds(
        request in requests(),
        store in prop::collection::vec((Just(Fate::Done), 0..3000_u64, 0..3000_u64), 60),
        machines in prop::collection::vec((Just(Fate::Done), 0..20_000_u64, 0..20_000_u64), 60),
        lost_renewals in prop::option::of(2..5_u32),
        cancel in prop::option::of(0..60_000_u64),
    ) {
        let mut world = World::new(Given::deployed(), store, machines);
        world.lost_renewals = lost_renewals;
        let cancel = cancel.map(|after| world.now + Duration::from_millis(after));
        world.play("m1", apply(request), cancel);
        prop_assert!(!world.lapsed);
    }
}

#[test]
fn the_lives_that_are_played_have_every_kind_of_write() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::new();
    for _ in 0..512 {
        let life = lives(40).new_tree(&mut runner).unwrap().current();
        let (world, removes) = played(life);
        for (tag, batch, write) in world.writes() {
            *seen.entry(wanted(tag, batch, write, removes).1).or_insert(0) += 1;
        }
    }
    let wanted = [
        "addresses",
        "addresses of what is gone",
        "claim",
        "claim given up",
        "claim given up by an abort",
        "commit or revision",
        "finished record",
        "head",
        "instance",
        "instance removed",
        "lease",
        "lease given up",
        "mark on an unfinished record",
        "mark where no record was",
        "unfinished record",
    ];
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), wanted, "{seen:?}");
}
