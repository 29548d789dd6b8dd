//! The model of a runtime, the process runtime and a real Docker engine answer the same to the same random requests; a model that is
//! wrong is told apart, by a sequence of few requests.

mod ask;
mod pair;
mod real;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proto_core::random::Random;
use sim::claims::RuntimeClaim as Claim;
use sim::world::runtime::{Runtime, Wrong};
use tests::conformance::{Tally, shortest, wanted};

use ask::{Ask, KINDS};
use pair::Pair;
use real::Source;

/// How many runs go on side by side, and how many shorter sequences are tried side by side.
const SIDE_BY_SIDE: u64 = 6;
/// The same on a Docker engine. Its network controller (20.10.24) stood still for good when six runs started and ended containers at once:
/// an endpoint's end waited for the loop that watches endpoints, which waited for the lock that the end held.
const ON_DOCKER: u64 = 2;
/// A run that is not through by then is too slow.
const AT_MOST: Duration = Duration::from_secs(3600);
/// How long what follows from a request may take,
const SOON: Duration = Duration::from_secs(30);
/// and where it is known that it may never come.
const WRONG_SOON: Duration = Duration::from_secs(3);

fn side_by_side(source: &Source) -> u64 {
    match source {
        Source::Processes => SIDE_BY_SIDE,
        Source::Docker(_) => ON_DOCKER,
    }
}

/// Everything that can be asked.
fn asks(source: &Source) -> Vec<Ask> {
    let of = |kind: usize| {
        let all = [
            Ask::Create(kind),
            Ask::Start(kind),
            Ask::Stop(kind),
            Ask::Remove(kind),
            Ask::Inspect(kind),
            Ask::Logs(kind),
            Ask::Settle(kind),
            Ask::Fail(kind),
        ];
        // Whether a probe meets what keeps exiting while it runs is chance.
        let probe = (!KINDS[kind].loops()).then_some(Ask::Probe(kind));
        all.into_iter().chain(probe)
    };
    let kinds = (0..KINDS.len()).filter(|kind| source.has_images() || !KINDS[*kind].is_missing());
    let lists = [Ask::ListAll, Ask::ListNamespace, Ask::Images];
    kinds.flat_map(of).chain(lists).collect()
}

/// At random, but more often what was compared too rarely so far, or what has to be asked before it can be.
fn draw(random: &mut Random, pair: &Pair, missing: &[Claim], asks: &[Ask]) -> Ask {
    let mut pick = |count: usize| usize::try_from(random.below(count as u64)).expect("small");
    let mut ask = asks[pick(asks.len())];
    if !missing.is_empty() && pick(10) > 1 {
        let claim = missing[pick(missing.len())];
        let mut these: Vec<_> =
            asks.iter().filter(|ask| pair.shows(**ask).contains(&claim)).collect();
        if these.is_empty() {
            these = asks.iter().filter(|ask| pair.leads_to(**ask, asks, claim)).collect();
        }
        if !these.is_empty() {
            ask = *these[pick(these.len())];
        }
    }
    match ask {
        // The pause before a restart grows to half a minute; a stop and a start begin anew.
        Ask::Fail(kind) if pair.restarts(KINDS[kind]) >= 4 => Ask::Stop(kind),
        ask => ask,
    }
}

/// One run after the other until every claim was compared often enough. What led to a difference, and the difference.
async fn compare(
    seed: u64,
    source: Source,
    tally: Arc<Tally<Claim>>,
    over: Arc<AtomicBool>,
) -> Option<(Vec<Ask>, String)> {
    let mut random = Random::new(seed);
    let asks = asks(&source);
    let begin = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let mut pair = Pair::start(&source, Runtime::default(), SOON);
        let mut differs = None;
        // Not for ever, so that a difference has a sequence that can be looked at.
        for _ in 0..200 {
            let missing = tally.missing();
            if missing.is_empty() || begin.elapsed() > AT_MOST {
                over.store(true, Ordering::Relaxed);
            }
            if over.load(Ordering::Relaxed) {
                break;
            }
            let ask = draw(&mut random, &pair, &missing, &asks);
            match pair.step(ask).await {
                Ok(compared) => compared.into_iter().for_each(|claim| tally.count(claim)),
                Err(what) => {
                    over.store(true, Ordering::Relaxed);
                    differs = Some(what);
                    break;
                }
            }
        }
        pair.clean_up().await;
        if let Some(what) = differs {
            return Some((pair.done, what));
        }
    }
    None
}

/// The sequence on a new runtime and this model: how they differ.
async fn replay(asks: Vec<Ask>, source: Source, wrong: Option<Wrong>) -> Option<String> {
    let (model, soon) = match wrong {
        Some(wrong) => (Runtime::wrong(wrong), WRONG_SOON),
        None => (Runtime::default(), SOON),
    };
    let mut pair = Pair::start(&source, model, soon);
    let mut differs = None;
    for ask in asks {
        if let Err(what) = pair.step(ask).await {
            differs = Some(what);
            break;
        }
    }
    pair.clean_up().await;
    differs
}

async fn smallest(
    asks: Vec<Ask>,
    source: &Source,
    wrong: Option<Wrong>,
) -> Option<(Vec<Ask>, String)> {
    let differ = async |candidates: Vec<Vec<Ask>>| {
        let mut said = Vec::new();
        for some in candidates.chunks(usize::try_from(side_by_side(source)).expect("small")) {
            let replay = |asks: &Vec<Ask>| replay(asks.clone(), source.clone(), wrong);
            let tried: Vec<_> = some.iter().map(|asks| tokio::spawn(replay(asks))).collect();
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
    let name = |ask: &Ask| match ask.kind() {
        Some(kind) => format!("{ask:?} ({})", kind.name),
        None => format!("{ask:?}"),
    };
    let asks: Vec<_> = asks.iter().map(|ask| format!("  {}\n", name(ask))).collect();
    format!("they differ after\n{}in {what}", asks.concat())
}

/// Asks for lists, for ever. A Docker engine keeps what a probe by command has opened until Go collects its garbage; with
/// nothing to do it does so every two minutes, and whatever settles then waits for it.
async fn keep_busy(source: Source) {
    let part = source.fresh();
    loop {
        part.ask(Ask::ListAll.request().expect("it is one")).await.expect("the engine answers");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Says now and then how far it is.
async fn say_progress(tally: Arc<Tally<Claim>>, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_secs(30)).await;
        let missing: Vec<_> = tally.missing().into_iter().map(Claim::says).collect();
        if missing.is_empty() {
            return;
        }
        eprintln!("compared fewer than {} times: {}", wanted(), missing.join("; "));
    }
}

async fn agree(source: Source) {
    let begin = Instant::now();
    let images = |claim: &Claim| source.has_images() || *claim != Claim::ImageMissing;
    let claims: Vec<_> = Claim::ALL.iter().copied().filter(images).collect();
    let tally = Arc::new(Tally::new(&claims, Claim::says, wanted()));
    let over = Arc::new(AtomicBool::new(false));
    let runs: Vec<_> = (0..side_by_side(&source))
        .map(|seed| tokio::spawn(compare(seed, source.clone(), tally.clone(), over.clone())))
        .collect();
    tokio::spawn(say_progress(tally.clone(), over.clone()));
    let is_docker = matches!(source, Source::Docker(_));
    let busy = is_docker.then(|| tokio::spawn(keep_busy(source.clone())));
    let mut differences = Vec::new();
    for run in runs {
        differences.extend(run.await.expect("a comparison does not panic"));
    }
    eprintln!("{}in {} s", tally.table(), begin.elapsed().as_secs());
    if let Some((asks, what)) = differences.into_iter().next() {
        eprintln!("{}\nlooking for the shortest sequence", story(&asks, &what));
        let (asks, what) = smallest(asks.clone(), &source, None).await.unwrap_or((asks, what));
        panic!("{}", story(&asks, &what));
    }
    // It goes on until the test is over.
    if let Some(busy) = busy
        && busy.is_finished()
    {
        busy.await.expect("the engine answers lists all the time");
    }
    let missing: Vec<_> = tally.missing().into_iter().map(Claim::says).collect();
    assert!(missing.is_empty(), "compared fewer than {} times: {missing:#?}", wanted());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_and_the_process_runtime_agree_on_every_claim() {
    agree(Source::Processes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_and_a_docker_engine_agree_on_every_claim() {
    let Some(source) = Source::docker() else { return };
    agree(source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_wrong_is_told_apart_by_a_few_requests() {
    let all = [
        (Wrong::NamesAreShared, 2),
        (Wrong::StopNeedsInstance, 1),
        (Wrong::StopRemoves, 2),
        (Wrong::StartInvents, 1),
        (Wrong::StopForgetsCode, 2),
        (Wrong::NoRestarts, 1),
    ];
    let tried = all.map(|(wrong, at_most)| (wrong, at_most, tokio::spawn(told_apart(wrong))));
    for (wrong, at_most, tried) in tried {
        let asks = tried.await.expect("it is told apart");
        assert!(asks.len() <= at_most, "{wrong:?}: {} asks", asks.len());
    }
}

/// The shortest sequence on which a model that is wrong and the process runtime differ.
async fn told_apart(wrong: Wrong) -> Vec<Ask> {
    let source = Source::Processes;
    let begin = Instant::now();
    let mut random = Random::new(1);
    let all = asks(&source);
    let mut pair = Pair::start(&source, Runtime::wrong(wrong), WRONG_SOON);
    let difference = loop {
        let ask = draw(&mut random, &pair, &[], &all);
        if let Err(what) = pair.step(ask).await {
            break what;
        }
        assert!(begin.elapsed() < AT_MOST, "{wrong:?} was not seen");
    };
    pair.clean_up().await;
    let all = pair.done.len();
    let (asks, what) = smallest(pair.done, &source, Some(wrong))
        .await
        .unwrap_or_else(|| panic!("{wrong:?} is not seen a second time: {difference}"));
    let (left, took) = (asks.len(), begin.elapsed().as_secs());
    eprintln!("{wrong:?}, {left} of {all} asks in {took} s: {}", story(&asks, &what));
    asks
}

/// Sequences on which model and runtime differed once.
#[tokio::test(flavor = "multi_thread")]
async fn what_once_differed_agrees() {
    // A start right after an exit met a supervisor that was about to end, and was taken for a start of what runs.
    let sequence = [vec![Ask::Create(0)], [Ask::Fail(0), Ask::Start(0)].repeat(20)].concat();
    let differs = replay(sequence.clone(), Source::Processes, None).await;
    assert!(differs.is_none(), "{}", story(&sequence, &differs.unwrap_or_default()));
}
