//! The model of the store and a real nats-server answer the same to the same random requests.

use std::time::{Duration, Instant};

use io_adapters::nats::Store;
use proto_core::Outcome;
use proto_core::random::Random;
use proto_core::span::Span;
use proto_core::store::{Entry, Key, Revision, StoreError, StoreReply, StoreRequest, Write};
use proto_core::time::Time;
use serde_json::json;
use sim::world::kv::{Kv, Wrong};
use tests::nats_server::TestNats;

const SOON: Duration = Duration::from_secs(10);
/// How long the keys live that expire; with the pause it must be clear which have.
const TTL: Span = Span::from_secs(1);
const PAUSE: Duration = Duration::from_secs(2);
const KEYS: [&str; 7] =
    ["ns.a.head", "ns.a.commit.1", "ns.ab.head", "op.x", "op.y", "lease.ns.a", "host.h"];
const PREFIXES: [&str; 6] = ["ns", "ns.a", "ns.a.head", "op", "lease", "host"];

/// What a run asks: a request, or a pause in which the keys that can expire do.
#[derive(Debug)]
enum Ask {
    Request(StoreRequest),
    Pause,
}

/// Both sides of a comparison, and what the writer knows.
struct Pair<'a> {
    model: Kv,
    real: &'a Store,
    random: Random,
    now: Time,
    burst: Instant,
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a literal")
}

impl Pair<'_> {
    fn draw(&mut self) -> Ask {
        match self.random.below(100) {
            0..3 => Ask::Pause,
            3..30 => {
                let count = 1 + self.random.below(3);
                let prefixes = (0..count).map(|_| {
                    let at = self.random.below(PREFIXES.len() as u64);
                    key(PREFIXES[usize::try_from(at).expect("small")])
                });
                Ask::Request(StoreRequest::Read { prefixes: prefixes.collect() })
            }
            _ => {
                let count = if self.random.below(2) == 0 { 1 } else { 1 + self.random.below(4) };
                let mut writes: Vec<Write> = Vec::new();
                for _ in 0..count {
                    let write = self.write();
                    // Whether a key may be in a batch twice is not asked for: no machine does it.
                    if writes.iter().all(|other| other.key != write.key) {
                        writes.push(write);
                    }
                }
                Ask::Request(StoreRequest::Commit { writes })
            }
        }
    }

    fn write(&mut self) -> Write {
        let at = self.random.below(KEYS.len() as u64);
        let key = key(KEYS[usize::try_from(at).expect("small")]);
        let there = self.model.revision(&key);
        let expect = match self.random.below(10) {
            0 => None,
            1 => Some(Revision::ABSENT),
            2 => Some(Revision(there.0 + 1)),
            3 => Some(Revision(there.0.saturating_sub(1))),
            _ => Some(there),
        };
        let ttl = (self.random.below(3) == 0).then_some(TTL);
        Write { key, value: json!({"n": self.random.below(1000)}), expect, ttl }
    }

    /// Asks both; the difference, if there is one.
    async fn step(&mut self) -> Option<String> {
        let request = match self.draw() {
            Ask::Pause => {
                // What was written in this burst must not have come near its end before the pause.
                assert!(self.burst.elapsed() < Duration::from_millis(800), "too slow to compare");
                tokio::time::sleep(PAUSE).await;
                self.now = self.now + PAUSE;
                self.burst = Instant::now();
                return None;
            }
            Ask::Request(request) => request,
        };
        if self.burst.elapsed() > Duration::from_millis(500) {
            tokio::time::sleep(PAUSE).await;
            self.now = self.now + PAUSE;
            self.burst = Instant::now();
        }
        let model = outline(self.model.apply(self.now, &request));
        let real = match self.real.execute(request.clone(), SOON).await {
            Outcome::Ok(reply) => outline(Ok(reply)),
            Outcome::Failed(error) => outline(Err(error)),
            other => format!("{other:?}"),
        };
        (model != real).then(|| format!("{request:?}\n  the model: {model}\n  the store: {real}"))
    }
}

/// An answer without what may differ: the words of an error.
fn outline(result: Result<StoreReply, StoreError>) -> String {
    match result {
        Ok(StoreReply::Entries(entries)) => {
            let text = |entry: &Entry| format!("{}@{}={}", entry.key, entry.revision, entry.value);
            entries.iter().map(text).collect::<Vec<_>>().join(" ")
        }
        Ok(StoreReply::Committed(revision)) => format!("committed {revision}"),
        Err(StoreError::Conflict) => "conflict".to_owned(),
        Err(StoreError::InFlight) => "in flight".to_owned(),
        Err(StoreError::Unavailable(_)) => "unavailable".to_owned(),
        Err(StoreError::Refused(_)) => "refused".to_owned(),
    }
}

/// So many random requests on both; the first difference, if there is one.
async fn compare(seed: u64, steps: usize, model: Kv) -> Option<Option<String>> {
    let nats = TestNats::start().expect("a server that starts, or none at all")?;
    let store = nats.store().await.expect("the bucket of a new server");
    let burst = Instant::now();
    let mut pair = Pair { model, real: &store, random: Random::new(seed), now: Time::ZERO, burst };
    for _ in 0..steps {
        if let Some(difference) = pair.step().await {
            return Some(Some(difference));
        }
    }
    Some(None)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_and_a_real_server_agree_on_random_requests() {
    for seed in 1..=2 {
        let Some(difference) = compare(seed, 200, Kv::default()).await else { return };
        assert_eq!(difference, None, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_wrong_is_told_apart_from_a_real_server() {
    for wrong in
        [Wrong::TornBatches, Wrong::OneRevisionABatch, Wrong::NoExpiry, Wrong::NoCreateCheck]
    {
        let Some(difference) = compare(1, 300, Kv::wrong(wrong)).await else { return };
        assert!(difference.is_some(), "{wrong:?} was not seen");
    }
}
