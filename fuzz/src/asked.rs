//! A small cluster that is asked for operations, one after the other, with nothing going wrong beside what the input brings.

use std::time::Duration;

use proto_core::api::{OperationResult, Submission};
use proto_core::random::Random;
use proto_core::store::{FactError, Facts, Key, StoreReply, StoreRequest, Write};
use proto_core::time::Time;
use serde_json::Value;
use sim::cluster::Cluster;
use sim::fate::{Fates, Told};
use sim::invariants::Invariants;
use sim::world::World;

/// How long an operation may take, on the simulated clock. What takes longer (a plan may wait for 30 days) is cancelled.
const WITHIN: Duration = Duration::from_secs(120);
/// How many events there may be in all: an operation that spins makes more.
const MOST_EVENTS: u64 = 60_000;

/// Two machines on which nothing runs.
pub(crate) fn founded() -> World {
    sim::scenario::founded(2)
}

/// Writes a fact, whatever it is.
pub(crate) fn put(world: &mut World, key: Key, value: Value) {
    let write = Write { key, value, expect: None, ttl: None };
    let batch = StoreRequest::Commit { writes: vec![write] };
    world.kv.apply(Time::ZERO, &batch).expect("the model takes any JSON");
}

/// What the store holds below these keys.
fn content(world: &World) -> Option<StoreReply> {
    let all = ["cluster", "machine", "ns", "allocation", "host", "port", "op", "lease"];
    let prefixes = all.map(|key| Key::new(key).expect("a token")).to_vec();
    world.kv.clone().apply(world.now, &StoreRequest::Read { prefixes }).ok()
}

/// Whether a machine could decide anything from it.
fn readable(content: Option<StoreReply>) -> Option<Result<(), FactError>> {
    let StoreReply::Entries(entries) = content? else { return None };
    Some(Facts::parse(&entries).map(drop))
}

/// Has the first machine do these, and says what came of each; `None`: it did not end in time.
///
/// # Panics
///
/// If an invariant breaks, an operation spins, what is in the store can't be read any more, or an operation that says that it
/// changed nothing did change it.
pub(crate) fn ask(
    world: World,
    submissions: impl IntoIterator<Item = Submission>,
    invariants: Invariants,
) -> Vec<Option<OperationResult>> {
    let told = Told { strikes: Vec::new(), struck: Vec::new(), random: Random::new(0) };
    let mut cluster = Cluster::new(world, Fates::Told(told), invariants);
    let mut results = Vec::new();
    for submission in submissions {
        let before = content(&cluster.world);
        let handle = cluster.submit(0, submission).expect("no daemon died");
        let ended = |cluster: &Cluster<'_>| cluster.results.contains_key(&handle);
        if !cluster.run(WITHIN, MOST_EVENTS, ended) {
            cluster.cancel(0, handle);
            cluster.run(WITHIN, MOST_EVENTS, ended);
        }
        let result = cluster.results.get(&handle).cloned();
        let idle = matches!(
            result,
            Some(
                OperationResult::Refused { .. }
                    | OperationResult::Previewed { .. }
                    | OperationResult::AlreadyDone { .. }
            )
        );
        // An adopted operation that turns out to be done already took its lease first.
        if idle && cluster.running(0) == 0 {
            let leased = |reply: &Option<StoreReply>| format!("{reply:?}").contains("lease.");
            let after = content(&cluster.world);
            assert!(
                before == after || leased(&before) || leased(&after),
                "{result:?} changed the store"
            );
        }
        if let (Some(Ok(())), Some(after)) = (readable(before), readable(content(&cluster.world))) {
            assert_eq!(after, Ok(()), "{result:?}");
        }
        results.push(result);
    }
    let violations = cluster.invariants.violations();
    assert!(violations.is_empty(), "{violations:?}");
    results
}
