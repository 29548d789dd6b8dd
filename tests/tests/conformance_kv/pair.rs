//! A model and a real server, to which the same is done.
//!
//! Lives of keys are real seconds, so everything happens in *bursts* at fixed times, five seconds apart: a short life (2 s) that was given
//! in a burst is over in the next one, a long one (7 s) in the next but one, and in both cases with a second to spare. What takes so long
//! that this might not hold is not compared: the pair is unclear from then on, and is left. Without lives nothing has to be waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use io_adapters::nats::{Link, LinkState, Store};
use proto_core::Outcome;
use proto_core::random::Random;
use proto_core::store::{Entry, Key, Revision, StoreError, StoreReply, StoreRequest, Write};
use proto_core::time::Time;
use sim::claims::StoreClaim as Claim;
use sim::world::kv::{Kv, MAX_BATCH};
use sim::world::network::Network;
use sim::world::servers::{Answer, Servers};
use tests::nats_server::TestNats;

use crate::ask::{Ask, KEYS, PREFIXES, key};

const SOON: Duration = Duration::from_secs(10);
/// From one burst to the next.
const GRID: Duration = Duration::from_secs(5);
/// In a burst nothing is begun after this,
const BEGINS: Duration = Duration::from_millis(1200);
/// and after this it is unclear which short lives are over.
const ENDS: Duration = Duration::from_millis(1900);
/// How long a server that came back may show what has ended.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long after its start a lone server leads, in the model.
const ELECTION: Duration = Duration::from_millis(200);

/// Why a pair is followed no further.
#[derive(Debug)]
pub(crate) enum End {
    /// They differ.
    Differs(String),
    /// The machine was too slow to tell.
    Unclear,
}

/// Both sides, and what is known of the keys.
pub(crate) struct Pair {
    pub(crate) kv: Kv,
    servers: Servers,
    network: Network,
    nats: TestNats,
    link: Link,
    store: Store,
    /// The time of this burst, for the model and in truth.
    now: Time,
    began: Instant,
    /// The revision that each key had last.
    pub(crate) last: BTreeMap<Key, Revision>,
    /// The revisions that each key ever had, and whether with a life.
    had: BTreeMap<Key, BTreeMap<Revision, bool>>,
    /// Keys that ended and were not written since.
    pub(crate) ended: BTreeSet<Key>,
    /// When living keys will end.
    pub(crate) ends: BTreeMap<Key, Time>,
    /// Ends that a rewrite took away, and what the rewrite was.
    taken: BTreeMap<Key, (Time, Claim)>,
    made_mortal: BTreeSet<Key>,
    /// The server is down; whether it was killed.
    pub(crate) down: Option<bool>,
    ended_away: u64,
    /// What was done, pauses included that nobody asked for.
    pub(crate) done: Vec<Ask>,
}

impl Pair {
    /// A new server and this model. `None` without a nats-server on this machine.
    pub(crate) async fn start(kv: Kv) -> Option<Self> {
        let nats = tokio::task::block_in_place(TestNats::start);
        let nats = nats.expect("a server that starts, or none at all")?;
        let link = nats.link(&nats.coordinator);
        link.up(SOON).await.expect("a server that runs");
        let store = Store::new(link.clone());
        store.ensure_bucket(SOON).await.expect("the bucket of a new server");
        Some(Self {
            kv,
            servers: Servers::new(vec![0], Random::new(0)),
            network: Network::ideal(),
            nats,
            link,
            store,
            now: Time::ZERO,
            began: Instant::now(),
            last: BTreeMap::new(),
            had: BTreeMap::new(),
            ended: BTreeSet::new(),
            ends: BTreeMap::new(),
            taken: BTreeMap::new(),
            made_mortal: BTreeSet::new(),
            down: None,
            ended_away: 0,
            done: Vec::new(),
        })
    }

    /// Does it to both; what was compared, or how they differ.
    pub(crate) async fn step(&mut self, ask: &Ask) -> Result<Vec<Claim>, End> {
        let mut compared = Vec::new();
        // A start of the server takes some of the burst.
        let begins = if *ask == Ask::Up { BEGINS / 2 } else { BEGINS };
        if self.began.elapsed() > begins && *ask != Ask::Pause {
            self.done.push(Ask::Pause);
            compared = self.pause().await?;
        }
        self.done.push(ask.clone());
        compared.extend(match ask {
            Ask::Pause => self.pause().await?,
            Ask::Down { kill } => self.go_down(*kill).await,
            Ask::Up => self.come_back().await?,
            ask => {
                let next = self.kv.last().0 + 1;
                let last = |key: &Key| self.last.get(key).copied().unwrap_or_default();
                let request = ask.request(last, next).expect("it is a request");
                let mut compared = self.ask(&request).await?;
                if matches!(ask, Ask::Many(_)) {
                    let many = Key::new("many").expect("a literal");
                    compared.extend(self.ask(&StoreRequest::Read { prefixes: vec![many] }).await?);
                }
                compared
            }
        });
        Ok(compared)
    }

    async fn ask(&mut self, request: &StoreRequest) -> Result<Vec<Claim>, End> {
        let claims = self.claims(request);
        let model = match self.servers.answers(&self.network, 0) {
            None => "unavailable".to_owned(),
            Some(at) => match self.servers.apply(&mut self.kv, self.now, at, request) {
                Answer::Reply(result) => outline(result),
                other => panic!("a lone server answers: {other:?}"),
            },
        };
        let real = match self.store.execute(request.clone(), SOON).await {
            Outcome::Ok(reply) => outline(Ok(reply)),
            Outcome::Failed(error) => outline(Err(error)),
            other => format!("{other:?}"),
        };
        let soon = self.now + Duration::from_secs(3);
        if self.began.elapsed() > ENDS && self.ends.values().any(|end| *end < soon) {
            return Err(End::Unclear);
        }
        if model != real {
            let asked = short(&format!("{request:?}"));
            let (model, real) = (short(&model), short(&real));
            return Err(End::Differs(format!(
                "{asked}\n  the model: {model}\n  the store: {real}"
            )));
        }
        if let StoreRequest::Commit { writes } = request
            && model.starts_with("committed")
        {
            self.written(writes);
        }
        Ok(claims)
    }

    /// What the request shows, as things stand.
    fn claims(&self, request: &StoreRequest) -> Vec<Claim> {
        let writes = match request {
            StoreRequest::Read { .. } if self.down.is_some() => return vec![Claim::AwayRead],
            StoreRequest::Read { prefixes } => {
                let found = prefixes.iter().any(|prefix| self.kv.under(prefix).next().is_some());
                let claim = if found { Claim::ReadFound } else { Claim::ReadNothing };
                let several = (found && prefixes.len() > 1).then_some(Claim::ReadSeveral);
                return [claim].into_iter().chain(several).collect();
            }
            StoreRequest::Commit { writes } => writes,
        };
        let broken = |write: &&Write| write.ttl.is_some_and(|ttl| ttl.as_millis() % 1000 != 0);
        let keys: BTreeSet<_> = writes.iter().map(|write| &write.key).collect();
        // These are refused before anybody is asked.
        let refused = match writes.len() {
            0 => Some(Claim::BatchEmpty),
            n if n > MAX_BATCH => Some(Claim::BatchTooLarge),
            n if n > keys.len() => Some(Claim::BatchTwice),
            _ => writes.iter().find(broken).map(|_| Claim::LifeRefused),
        };
        match (refused, self.down, writes.as_slice()) {
            (Some(refused), None, _) => vec![refused],
            (Some(_), Some(_), _) => Vec::new(),
            (None, Some(_), _) => vec![Claim::AwayWrite],
            (None, None, [write]) => self.claims_of_one(write),
            (None, None, batch) => {
                let stale =
                    batch.iter().position(|write| !self.kv.holds(std::slice::from_ref(write)));
                let mortal = batch.iter().any(|write| write.ttl.is_some());
                match stale {
                    None if batch.len() == MAX_BATCH => vec![Claim::BatchLargest],
                    None if mortal => vec![Claim::BatchTaken, Claim::BatchMortal],
                    None => vec![Claim::BatchTaken],
                    Some(0) => vec![Claim::BatchStaleFirst],
                    Some(at) if at + 1 == batch.len() => vec![Claim::BatchStaleLast],
                    Some(_) => vec![Claim::BatchStaleWithin],
                }
            }
        }
    }

    fn claims_of_one(&self, write: &Write) -> Vec<Claim> {
        let (there, ended) = (self.kv.revision(&write.key), self.ended.contains(&write.key));
        let absent = there == Revision::ABSENT;
        let mut claims = match write.expect {
            None if absent => vec![Claim::OverwriteAbsent],
            None => vec![Claim::Overwrite],
            Some(Revision::ABSENT) if !absent => return vec![Claim::CreateRefused],
            Some(Revision::ABSENT) if ended => vec![Claim::Create, Claim::CreateAfterEnd],
            Some(Revision::ABSENT) => vec![Claim::Create],
            Some(expect) if expect == there => vec![Claim::Update],
            Some(expect) if absent && ended && self.last.get(&write.key) == Some(&expect) => {
                return vec![Claim::RefusedAfterEnd];
            }
            Some(_) if absent => return vec![Claim::AbsentRefused],
            Some(expect) if expect < there => return vec![Claim::StaleRefused],
            Some(_) => return vec![Claim::AheadRefused],
        };
        claims.extend(write.ttl.map(|_| Claim::LifeGiven));
        claims
    }

    /// Both took these writes.
    fn written(&mut self, writes: &[Write]) {
        for write in writes {
            let key = &write.key;
            if write.key.as_str().starts_with("many") {
                continue;
            }
            let before = self.ends.remove(key);
            let there = self.last.contains_key(key) && !self.ended.remove(key);
            self.made_mortal.remove(key);
            if let Some(end) = write.ttl.map(|ttl| self.now + ttl.duration()) {
                self.ends.insert(key.clone(), end);
                if there && before.is_none() {
                    self.made_mortal.insert(key.clone());
                }
            }
            let what = if write.ttl.is_some() { Claim::Renewed } else { Claim::MadeImmortal };
            match before {
                Some(end) => drop(self.taken.insert(key.clone(), (end, what))),
                None => drop(self.taken.remove(key)),
            }
            let revision = self.kv.revision(key);
            self.last.insert(key.clone(), revision);
            self.had.entry(key.clone()).or_default().insert(revision, write.ttl.is_some());
        }
    }

    async fn pause(&mut self) -> Result<Vec<Claim>, End> {
        self.now = self.now + GRID;
        if self.ends.is_empty() {
            self.began = Instant::now();
        } else {
            self.began += GRID;
            tokio::time::sleep_until(self.began.into()).await;
            if self.began.elapsed() > BEGINS {
                return Err(End::Unclear);
            }
        }
        self.kv.expire(self.now);
        if self.down.is_some() {
            self.ended_away +=
                self.end_lives().iter().filter(|c| **c == Claim::Expires).count() as u64;
            return Ok(Vec::new());
        }
        self.look().await?;
        Ok(self.end_lives())
    }

    /// Both have the same keys.
    async fn look(&mut self) -> Result<(), End> {
        self.ask(&StoreRequest::Read { prefixes: everything() }).await.map(drop)
    }

    /// What a look shows of lives, now that this one has shown that the model is right.
    fn end_lives(&mut self) -> Vec<Claim> {
        let mut claims = Vec::new();
        let now = self.now;
        let over: Vec<Key> =
            self.ends.iter().filter(|(_, end)| **end <= now).map(|(key, _)| key.clone()).collect();
        for key in over {
            self.ends.remove(&key);
            self.taken.remove(&key);
            claims.push(Claim::Expires);
            claims.extend(self.made_mortal.remove(&key).then_some(Claim::MadeMortal));
            self.ended.insert(key);
        }
        claims.extend(self.ends.keys().map(|_| Claim::Outlives));
        self.taken.retain(|_, (end, what)| {
            let shown = *end <= now;
            claims.extend(shown.then_some(*what));
            !shown
        });
        claims
    }

    async fn go_down(&mut self, kill: bool) -> Vec<Claim> {
        if self.down.is_some() {
            return Vec::new();
        }
        let nats = &mut self.nats;
        tokio::task::block_in_place(
            || {
                if kill { nats.kill() } else { nats.stop().expect("it runs") }
            },
        );
        while self.link.state() == LinkState::Up {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.servers.set_up(0, false);
        self.servers.look(&mut self.kv, &self.network, self.now);
        self.down = Some(kill);
        Vec::new()
    }

    async fn come_back(&mut self) -> Result<Vec<Claim>, End> {
        let Some(killed) = self.down.take() else { return Ok(Vec::new()) };
        // Another may have taken its port meanwhile.
        tokio::task::block_in_place(|| self.nats.launch()).map_err(|_| End::Unclear)?;
        // A link of its own finds the server within 250 ms; a new one at once.
        self.link = self.nats.link(&self.nats.coordinator);
        self.link.up(SOON).await.map_err(End::Differs)?;
        self.store = Store::new(self.link.clone());
        self.store.ensure_bucket(SOON).await.map_err(|error| End::Differs(error.to_string()))?;
        self.servers.set_up(0, true);
        for at in [self.now, self.now + ELECTION] {
            self.servers.look(&mut self.kv, &self.network, at);
        }
        let brought_back = self.read_again(killed).await?;
        self.look().await?;
        let away = std::mem::take(&mut self.ended_away);
        let back = if killed { Claim::Killed } else { Claim::Stopped };
        let away = (0..away).map(|_| Claim::ExpiresAway);
        let brought_back = (0..brought_back).map(|_| Claim::ComesBack);
        Ok(away.chain(brought_back).chain([back]).collect())
    }

    /// How many keys a kill might bring back.
    pub(crate) fn may_come_back(&self) -> usize {
        self.ended.iter().filter(|key| self.had[*key].values().any(|mortal| !mortal)).count()
    }

    /// If this is an earlier write of a key that has ended: whether it had a life too.
    fn had_life(&self, entry: &Entry) -> Option<bool> {
        self.ended.get(&entry.key).and_then(|key| self.had[key].get(&entry.revision)).copied()
    }

    /// Waits until the server has read its disk: at first it shows keys whose life ended while it was down. Those that were brought back
    /// by a kill are brought back in the model too; how many.
    async fn read_again(&mut self, killed: bool) -> Result<u64, End> {
        let begin = Instant::now();
        loop {
            let request = StoreRequest::Read { prefixes: everything() };
            let Outcome::Ok(StoreReply::Entries(entries)) = self.store.execute(request, SOON).await
            else {
                return Ok(0);
            };
            let is_more = |entry: &Entry| self.kv.revision(&entry.key) == Revision::ABSENT;
            let more: Vec<_> = entries.into_iter().filter(is_more).collect();
            let known = more.iter().all(|entry| killed && self.had_life(entry).is_some());
            if known || begin.elapsed() > PATIENCE {
                let count = more.len() as u64;
                // One whose own life is over too may go again at any time.
                if known && more.iter().any(|entry| self.had_life(entry) == Some(true)) {
                    if begin.elapsed() > PATIENCE {
                        return Err(End::Unclear);
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                for entry in more.into_iter().filter(|_| known) {
                    self.ended.remove(&entry.key);
                    self.last.insert(entry.key.clone(), entry.revision);
                    self.kv.bring_back(entry);
                }
                return Ok(count);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What the keys that are not only filled by [`Ask::Many`] lie below.
fn everything() -> Vec<Key> {
    ["ns", "op", "lease", "host"].map(|prefix| Key::new(prefix).expect("a literal")).to_vec()
}

/// The keys that are there, and those that are not.
pub(crate) fn keys(kv: &Kv) -> (Vec<u8>, Vec<u8>) {
    (0..KEYS).partition(|number| kv.revision(&key(*number)) != Revision::ABSENT)
}

/// How many prefixes there are to read.
pub(crate) const READS: u64 = PREFIXES.len() as u64;

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

fn short(text: &str) -> String {
    let short: String = text.chars().take(600).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}
