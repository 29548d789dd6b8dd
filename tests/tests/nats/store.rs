//! Reads and conditional batches while nothing goes wrong.

use std::time::{Duration, Instant};

use proto_core::Outcome;
use proto_core::span::Span;
use proto_core::store::{StoreError, Write};
use serde_json::{Value, json};
use tests::nats_server::TestNats;

use crate::{SOON, commit, read, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_lands_only_on_the_revision_that_it_expects() {
    let nats = server!();
    let store = nats.store().await.unwrap();
    let first = commit(&store, vec![write("ns.blog.head", json!({"n": 1}), 0)]).await;
    assert_eq!(first, Outcome::Ok(1));
    let again = commit(&store, vec![write("ns.blog.head", json!({"n": 2}), 0)]).await;
    assert_eq!(again, Outcome::Failed(StoreError::Conflict));
    let stale = commit(&store, vec![write("ns.blog.head", json!({"n": 2}), 7)]).await;
    assert_eq!(stale, Outcome::Failed(StoreError::Conflict));
    let second = commit(&store, vec![write("ns.blog.head", json!({"n": 2}), 1)]).await;
    assert_eq!(second, Outcome::Ok(2));
    let blind = commit(&store, vec![write("ns.blog.head", json!({"n": 3}), None)]).await;
    assert_eq!(blind, Outcome::Ok(3));
    assert_eq!(read(&store, &["ns.blog"]).await, [("ns.blog.head".into(), 3, json!({"n": 3}))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_lands_whole_or_not_at_all() {
    let nats = server!();
    let store = nats.store().await.unwrap();
    let keys = ["a", "b.x", "c"];
    let batch = |expect: [u64; 3], n: u64| {
        keys.iter().zip(expect).map(|(key, e)| write(key, json!(n), e)).collect::<Vec<_>>()
    };
    assert_eq!(commit(&store, batch([0, 0, 0], 1)).await, Outcome::Ok(3));
    for (stale, expect) in
        [("first", [9, 2, 3]), ("middle", [1, 9, 3]), ("last", [1, 2, 9]), ("absent", [1, 2, 0])]
    {
        let outcome = commit(&store, batch(expect, 2)).await;
        assert_eq!(outcome, Outcome::Failed(StoreError::Conflict), "{stale}");
        let values: Vec<_> =
            read(&store, &keys).await.into_iter().map(|(_, r, v)| (r, v)).collect();
        assert_eq!(values, [(1, json!(1)), (2, json!(1)), (3, json!(1))], "{stale}");
    }
    assert_eq!(commit(&store, batch([1, 2, 3], 2)).await, Outcome::Ok(6));
    // The largest batch, and one of two.
    let many = (0..900).map(|n| write(&format!("many.{n}"), json!(n), 0)).collect();
    assert_eq!(commit(&store, many).await, Outcome::Ok(906));
    let two = vec![write("d", json!(1), 0), write("e", json!(1), 0)];
    assert_eq!(commit(&store, two).await, Outcome::Ok(908));
    assert_eq!(read(&store, &["many"]).await.len(), 900);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_writers_on_one_key_one_wins_and_the_others_lose_for_sure() {
    let nats = server!();
    let store = nats.store().await.unwrap();
    for round in 0..20_u64 {
        let mut writers = Vec::new();
        for n in 0..8 {
            let store = store.clone();
            writers.push(tokio::spawn(async move {
                let own = format!("own.{round}.{n}");
                let race = format!("race.{round}");
                commit(&store, vec![write(&own, json!(n), 0), write(&race, json!(n), 0)]).await
            }));
        }
        let mut winners = Vec::new();
        for (n, writer) in writers.into_iter().enumerate() {
            match writer.await.unwrap() {
                Outcome::Ok(_) => winners.push(n),
                Outcome::Failed(StoreError::Conflict | StoreError::InFlight) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let stored = read(&store, &[&format!("own.{round}"), &format!("race.{round}")]).await;
        let values: Vec<_> = stored.into_iter().map(|(_, _, value)| value).collect();
        assert_eq!(values, [json!(winners[0]), json!(winners[0])]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_gone_and_must_not_exist_is_true_again() {
    let nats = server!();
    let store = nats.store().await.unwrap();
    let lease = |expect| Write {
        ttl: Some(Span::from_secs(1)),
        ..write("lease.ns.blog", json!({"nonce": "x"}), expect)
    };
    let begin = Instant::now();
    assert_eq!(commit(&store, vec![lease(0)]).await, Outcome::Ok(1));
    assert_eq!(commit(&store, vec![lease(0)]).await, Outcome::Failed(StoreError::Conflict));
    // A renewal by compare-and-set, with another key in the batch, gives it a whole second more.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(commit(&store, vec![write("op.a", json!(1), 0), lease(1)]).await, Outcome::Ok(3));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(read(&store, &["lease"]).await.len(), 1, "renewed at 0.7 s, alive at 1.3 s");
    while !read(&store, &["lease"]).await.is_empty() {
        assert!(begin.elapsed() < SOON, "the lease does not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(commit(&store, vec![lease(3)]).await, Outcome::Failed(StoreError::Conflict));
    assert_eq!(commit(&store, vec![lease(0)]).await, Outcome::Ok(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_takes_whole_tokens_and_nothing_comes_for_nothing() {
    let nats = server!();
    let store = nats.store().await.unwrap();
    for name in ["ns.blog.head", "ns.blog", "ns.blog2.head", "cluster", "host.a"] {
        let Outcome::Ok(_) = commit(&store, vec![write(name, json!(name), 0)]).await else {
            panic!()
        };
    }
    let names = |entries: Vec<(String, u64, Value)>| {
        entries.into_iter().map(|(key, _, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(names(read(&store, &["ns.blog"]).await), ["ns.blog", "ns.blog.head"]);
    assert_eq!(
        names(read(&store, &["host", "cluster", "ns.blog2"]).await),
        ["cluster", "host.a", "ns.blog2.head"]
    );
    assert_eq!(names(read(&store, &["ns", "ns.blog"]).await).len(), 3);
    assert_eq!(names(read(&store, &["lease"]).await), Vec::<String>::new());
    assert_eq!(names(read(&store, &[]).await), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_keys_than_the_server_gives_at_once_are_all_read() {
    let nats = server!();
    let store = nats.store().await.unwrap();
    for hundreds in 0..5 {
        let writes =
            (0..700).map(|n| write(&format!("ns.s{hundreds}.k{n}"), json!(n), 0)).collect();
        let Outcome::Ok(_) = commit(&store, writes).await else { panic!() };
    }
    assert_eq!(read(&store, &["ns.s3"]).await.len(), 700);
    // While others rewrite keys behind and before the reader.
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..200_u64 {
                let name = format!("ns.s{}.k{}", n % 5, (n * 37) % 700);
                let Outcome::Ok(_) = commit(&store, vec![write(&name, json!("new"), None)]).await
                else {
                    panic!()
                };
            }
        })
    };
    let mut reads = 0;
    while !writer.is_finished() || reads == 0 {
        assert_eq!(read(&store, &["ns"]).await.len(), 3500);
        reads += 1;
    }
    writer.await.unwrap();
    let new =
        read(&store, &["ns"]).await.into_iter().filter(|(_, _, v)| *v == json!("new")).count();
    assert_eq!(new, 200);
}
