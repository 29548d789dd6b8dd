//! The NATS adapters on a real nats-server, with the credentials and the configuration that ployzd gives it.

use std::time::{Duration, Instant};

use io_adapters::nats::{Credentials, Link, LinkState, Store};
use proto_core::Outcome;
use proto_core::store::{Entry, Key, Revision, StoreError, StoreReply, StoreRequest, Write};
use serde_json::Value;
use tests::nats_server::TestNats;

const SOON: Duration = Duration::from_secs(5);

/// Starts a server, or ends the test where there is none.
macro_rules! server {
    () => {
        match TestNats::start().unwrap() {
            Some(nats) => nats,
            None => return,
        }
    };
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn write(name: &str, value: Value, expect: impl Into<Option<u64>>) -> Write {
    Write { key: key(name), value, expect: expect.into().map(Revision), ttl: None }
}

async fn commit(store: &Store, writes: Vec<Write>) -> Outcome<u64, StoreError> {
    commit_within(store, writes, SOON).await
}

async fn commit_within(
    store: &Store,
    writes: Vec<Write>,
    timeout: Duration,
) -> Outcome<u64, StoreError> {
    store.execute(StoreRequest::Commit { writes }, timeout).await.map(|reply| match reply {
        StoreReply::Committed(revision) => revision.0,
        StoreReply::Entries(_) => panic!("entries in answer to a commit"),
    })
}

async fn try_read(store: &Store, prefixes: &[&str]) -> Result<Vec<Entry>, StoreError> {
    let prefixes = prefixes.iter().map(|prefix| key(prefix)).collect();
    match store.execute(StoreRequest::Read { prefixes }, SOON).await {
        Outcome::Ok(StoreReply::Entries(entries)) => Ok(entries),
        Outcome::Failed(error) => Err(error),
        other => panic!("a read came out as {other:?}"),
    }
}

async fn read(store: &Store, prefixes: &[&str]) -> Vec<(String, u64, Value)> {
    let entries = try_read(store, prefixes).await.unwrap();
    entries.into_iter().map(|e| (e.key.to_string(), e.revision.0, Value::clone(&e.value))).collect()
}

async fn came_down(link: &Link) {
    while link.state() == LinkState::Up {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// JetStream starts a moment after the server takes connections.
async fn until_it_answers(store: &Store, prefixes: &[&str]) -> Result<Vec<Entry>, StoreError> {
    let begin = Instant::now();
    loop {
        match try_read(store, prefixes).await {
            Err(StoreError::Unavailable(_)) if begin.elapsed() < SOON => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done => return done,
        }
    }
}

/// A plain client, as an operator's would be: the seed from its file, the inbox prefix of the user.
async fn foreign(nats: &TestNats, credentials: &Credentials) -> async_nats::Client {
    let path = nats.directory().join("foreign.nk");
    credentials.save(&path).unwrap();
    let seed = std::fs::read_to_string(&path).unwrap().trim().to_owned();
    async_nats::ConnectOptions::with_nkey(seed)
        .custom_inbox_prefix(credentials.inbox_prefix())
        .connect(nats.address())
        .await
        .unwrap()
}

mod away;
mod bus;
mod following;
mod store;
mod users;
