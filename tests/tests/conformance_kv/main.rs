//! The model of the store and a real nats-server answer the same to the same random requests, over lives of keys and over
//! restarts of the server; a model that is wrong is told apart, by a sequence of few requests.

mod aim;
mod ask;
mod pair;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proto_core::random::Random;
use sim::claims::StoreClaim as Claim;
use sim::world::kv::{Kv, Wrong};
use tests::conformance::{Tally, shortest, wanted};

use ask::{Ask, Expect, Life, Put};
use pair::{End, Pair};

/// What runs side by side: so many servers on which keys have lives, and which wait most of the time, and so many others.
const WITH_LIVES: u64 = 12;
const WITHOUT: u64 = 2;
/// A run that is not through by then is too slow.
const AT_MOST: Duration = Duration::from_secs(600);
/// How many shorter sequences are tried side by side.
const TRIED_AT_ONCE: usize = 4;

/// Pairs of one kind, one after the other, until every claim was compared often enough. The difference, and what led to it.
async fn compare(
    seed: u64,
    lives: bool,
    tally: Arc<Tally<Claim>>,
    over: Arc<AtomicBool>,
) -> Option<(Vec<Ask>, String)> {
    let mut random = Random::new(seed);
    let begin = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let mut pair = Pair::start(Kv::default()).await?;
        loop {
            let missing = tally.missing();
            if missing.is_empty() || begin.elapsed() > AT_MOST {
                over.store(true, Ordering::Relaxed);
            }
            if over.load(Ordering::Relaxed) {
                break;
            }
            let ask = aim::draw(&mut random, &pair, &missing, lives);
            match pair.step(&ask).await {
                Ok(compared) => compared.into_iter().for_each(|claim| tally.count(claim)),
                Err(End::Differs(what)) => {
                    over.store(true, Ordering::Relaxed);
                    return Some((pair.done, what));
                }
                Err(End::Unclear) => break,
            }
        }
    }
    None
}

/// The sequence on a new server and this model: how they differ.
async fn replay(asks: Vec<Ask>, wrong: Option<Wrong>) -> Option<String> {
    for _ in 0..10 {
        let mut pair = Pair::start(wrong.map_or_else(Kv::default, Kv::wrong)).await?;
        let mut unclear = false;
        for ask in &asks {
            match pair.step(ask).await {
                Ok(_) => {}
                Err(End::Differs(what)) => return Some(what),
                Err(End::Unclear) => {
                    unclear = true;
                    break;
                }
            }
        }
        if !unclear {
            return None;
        }
    }
    None
}

async fn smallest(asks: Vec<Ask>, wrong: Option<Wrong>) -> Option<(Vec<Ask>, String)> {
    let differ = async |candidates: Vec<Vec<Ask>>| {
        let mut said = Vec::new();
        for some in candidates.chunks(TRIED_AT_ONCE) {
            let tried: Vec<_> =
                some.iter().map(|asks| tokio::spawn(replay(asks.clone(), wrong))).collect();
            for tried in tried {
                said.push(tried.await.expect("a replay does not panic"));
            }
            if said.iter().any(Option::is_some) {
                said.resize(candidates.len(), None);
                break;
            }
        }
        said
    };
    shortest(asks, differ).await
}

fn story(asks: &[Ask], what: &str) -> String {
    let asks: Vec<_> = asks.iter().map(|ask| format!("  {ask:?}\n")).collect();
    format!("they differ after\n{}in {what}", asks.concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 12)]
async fn the_model_and_a_real_server_agree_on_every_claim() {
    if Pair::start(Kv::default()).await.is_none() {
        return;
    }
    let begin = Instant::now();
    let tally = Arc::new(Tally::new(Claim::ALL, Claim::says, wanted()));
    let over = Arc::new(AtomicBool::new(false));
    let lanes: Vec<_> = (0..WITH_LIVES + WITHOUT)
        .map(|lane| tokio::spawn(compare(1 + lane, lane < WITH_LIVES, tally.clone(), over.clone())))
        .collect();
    let mut differences = Vec::new();
    for lane in lanes {
        differences.extend(lane.await.expect("a comparison does not panic"));
    }
    eprintln!("{}in {} s", tally.table(), begin.elapsed().as_secs());
    if let Some((asks, what)) = differences.into_iter().next() {
        eprintln!("{}\nlooking for the shortest sequence", story(&asks, &what));
        let (asks, what) = smallest(asks.clone(), None).await.unwrap_or((asks, what));
        panic!("{}", story(&asks, &what));
    }
    let missing: Vec<_> = tally.missing().into_iter().map(Claim::says).collect();
    assert!(missing.is_empty(), "compared fewer than {} times: {missing:#?}", wanted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 12)]
async fn a_model_that_is_wrong_is_told_apart_by_a_few_requests() {
    let all = [
        (Wrong::TornBatches, 2, false),
        (Wrong::OneRevisionABatch, 1, false),
        (Wrong::NoCreateCheck, 2, false),
        (Wrong::StaleAccepted, 3, false),
        (Wrong::NoExpiry, 3, true),
    ];
    if Pair::start(Kv::default()).await.is_none() {
        return;
    }
    let tried =
        all.map(|(wrong, most, lives)| (wrong, most, tokio::spawn(told_apart(wrong, lives))));
    for (wrong, at_most, tried) in tried {
        let asks = tried.await.expect("it is told apart");
        assert!(asks.len() <= at_most, "{wrong:?}: {} asks", asks.len());
    }
}

/// The shortest sequence on which a model that is wrong and a real server differ.
async fn told_apart(wrong: Wrong, lives: bool) -> Vec<Ask> {
    let start = async || Pair::start(Kv::wrong(wrong)).await.expect("there is a server");
    let begin = Instant::now();
    let mut pair = start().await;
    let mut random = Random::new(1);
    let difference = loop {
        // With few requests in a burst, so that a replay is not too slow for it on a busy machine.
        let pauses = !pair.ends.is_empty() && random.below(8) == 0;
        let ask = if pauses { Ask::Pause } else { aim::draw(&mut random, &pair, &[], lives) };
        match pair.step(&ask).await {
            Ok(_) => assert!(begin.elapsed() < AT_MOST, "{wrong:?} was not seen"),
            Err(End::Differs(what)) => break what,
            Err(End::Unclear) => pair = start().await,
        }
    };
    let all = pair.done.len();
    let (asks, what) = smallest(pair.done, Some(wrong))
        .await
        .unwrap_or_else(|| panic!("{wrong:?} is not seen a second time: {difference}"));
    let (left, took) = (asks.len(), begin.elapsed().as_secs());
    eprintln!("{wrong:?}, {left} of {all} asks in {took} s: {}", story(&asks, &what));
    asks
}

/// Sequences on which model and server differed once.
#[tokio::test(flavor = "multi_thread", worker_threads = 12)]
async fn what_once_differed_agrees() {
    use Life::{Broken, Endless, Long, Short};
    let (kill, stop) = (Ask::Down { kill: true }, Ask::Down { kill: false });
    let (pause, up) = (|| Ask::Pause, || Ask::Up);
    let put = |key, life| Ask::Commit(vec![Put { key, expect: Expect::Any, life, value: 1 }]);
    let sequences = [
        // What a rewrite with a life replaced is back after a kill.
        vec![put(6, Endless), put(6, Short), put(8, Endless), pause(), kill.clone(), up()],
        // Also if both were over when the server was stopped before.
        vec![
            put(6, Long),
            put(6, Short),
            put(8, Endless),
            stop.clone(),
            pause(),
            pause(),
            up(),
            put(10, Endless),
            kill.clone(),
            up(),
        ],
        // What ended while the server was down is still shown when it has just come back.
        vec![put(6, Endless), put(6, Short), kill, pause(), up()],
        vec![put(6, Endless), put(6, Short), stop, pause(), up()],
        // Refused by the adapter and not by the model.
        vec![Ask::Many(901)],
        vec![put(6, Broken)],
    ];
    let replays: Vec<_> =
        sequences.iter().map(|asks| tokio::spawn(replay(asks.clone(), None))).collect();
    for (asks, replay) in sequences.iter().zip(replays) {
        let differs = replay.await.expect("a replay does not panic");
        assert!(differs.is_none(), "{}", story(asks, &differs.unwrap_or_default()));
    }
}
