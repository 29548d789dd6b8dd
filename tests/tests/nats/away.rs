//! The store goes away, freezes and is killed: what is reported is what is true.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto_core::Outcome;
use proto_core::store::StoreError;
use serde_json::json;
use tests::nats_server::TestNats;

use crate::{SOON, came_down, commit, commit_within, read, try_read, until_it_answers, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_told_at_once_and_found_again_by_itself() {
    let mut nats = server!();
    let store = nats.store().await.unwrap();
    let link = nats.link(&nats.coordinator);
    link.up(SOON).await.unwrap();
    nats.kill();
    came_down(&link).await;
    let begin = Instant::now();
    assert!(matches!(try_read(&store, &["ns"]).await, Err(StoreError::Unavailable(_))));
    let outcome = commit(&store, vec![write("ns.a", json!(1), 0)]).await;
    assert!(matches!(outcome, Outcome::Failed(StoreError::Unavailable(_))), "{outcome:?}");
    assert!(begin.elapsed() < Duration::from_millis(200), "{:?}", begin.elapsed());

    nats.launch().unwrap();
    let begin = Instant::now();
    link.up(SOON).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    let Ok(entries) = until_it_answers(&store, &["ns"]).await else { panic!() };
    assert_eq!(entries, [], "what failed while the store was away must not land later");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_lands_after_its_timeout_was_reported_unknown() {
    let nats = server!();
    let store = nats.store().await.unwrap();
    nats.freeze().unwrap();
    let timeout = Duration::from_millis(300);
    let late = commit_within(&store, vec![write("op.late", json!("late"), 0)], timeout).await;
    assert_eq!(late, Outcome::Unknown);
    // The first message of a batch is no end of it: nothing can land.
    let batch = vec![write("op.a", json!(1), 0), write("op.b", json!(1), 0)];
    let never = commit_within(&store, batch, timeout).await;
    assert!(matches!(never, Outcome::Failed(StoreError::Unavailable(_))), "{never:?}");
    nats.thaw().unwrap();
    // The competing write settles it: refused, so the lost one landed.
    let competing = commit(&store, vec![write("op.late", json!("abort"), 0)]).await;
    assert_eq!(competing, Outcome::Failed(StoreError::Conflict));
    let stored = read(&store, &["op"]).await;
    assert_eq!(stored, [("op.late".into(), 1, json!("late"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_while_an_ack_is_awaited_is_unknown_at_once() {
    let mut nats = server!();
    let store = nats.store().await.unwrap();
    nats.freeze().unwrap();
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { commit(&store, vec![write("op.a", json!(1), 0)]).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begin = Instant::now();
    nats.kill();
    assert_eq!(waiting.await.unwrap(), Outcome::Unknown);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kills_in_the_middle_of_writing_each_outcome_was_true() {
    let mut nats = server!();
    let store = nats.store().await.unwrap();
    let mut outcomes: BTreeMap<String, Outcome<u64, StoreError>> = BTreeMap::new();
    for round in 0..4_u64 {
        until_it_answers(&store, &["w"]).await.unwrap();
        let mut writers = Vec::new();
        for n in 0..8 {
            let store = store.clone();
            writers.push(tokio::spawn(async move {
                let mut mine = Vec::new();
                for i in 0..400 {
                    let name = format!("w.r{round}-{n}-{i}");
                    let outcome = if i % 2 == 0 {
                        commit(&store, vec![write(&name, json!(i), 0)]).await
                    } else {
                        let batch = vec![
                            write(&name, json!(i), 0),
                            write(&format!("{name}.b"), json!(i), 0),
                        ];
                        commit(&store, batch).await
                    };
                    let over = !matches!(outcome, Outcome::Ok(_));
                    mine.push((name, outcome));
                    if over && mine.len() > i + 3 {
                        break;
                    }
                }
                mine
            }));
        }
        tokio::time::sleep(Duration::from_millis(60 + 35 * round)).await;
        nats.restart().unwrap();
        for writer in writers {
            outcomes.extend(writer.await.unwrap());
        }
    }
    until_it_answers(&store, &["w"]).await.unwrap();
    let stored: BTreeMap<String, u64> =
        read(&store, &["w"]).await.into_iter().map(|(key, revision, _)| (key, revision)).collect();
    let (mut ok, mut failed, mut unknown) = (0, 0, 0);
    for (name, outcome) in &outcomes {
        let batch = format!("{name}.b");
        match outcome {
            Outcome::Ok(revision) => {
                ok += 1;
                let last = stored.get(&batch).or_else(|| stored.get(name));
                assert_eq!(last, Some(revision), "{name} was acknowledged");
            }
            Outcome::Failed(error) => {
                failed += 1;
                assert!(
                    !stored.contains_key(name) && !stored.contains_key(&batch),
                    "{name} failed: {error}"
                );
            }
            Outcome::Unknown => unknown += 1,
            Outcome::Stale => panic!("{name} is stale"),
        }
    }
    eprintln!("{ok} written, {failed} failed, {unknown} unknown");
    assert!(ok > 0 && failed > 0 && unknown > 0, "{ok} {failed} {unknown}");
}

/// What a crash of a machine between the writes of a batch leaves behind, made by cutting the store's file.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_that_a_crash_cut_off_a_lone_server_keeps_what_came_first() {
    let mut nats = server!();
    let store = nats.store().await.unwrap();
    let old = (0..4).map(|n| write(&format!("k.{n}"), json!("old"), 0)).collect();
    assert_eq!(commit(&store, old).await, Outcome::Ok(4));
    let new = (0..4).map(|n| write(&format!("k.{n}"), json!("new"), n + 1)).collect();
    assert_eq!(commit(&store, new).await, Outcome::Ok(8));
    nats.kill();
    let block = nats.directory().join("store/jetstream/PLOYZ/streams/KV_facts/msgs/1.blk");
    let file = std::fs::OpenOptions::new().write(true).open(block).unwrap();
    let length = file.metadata().unwrap().len();
    // A little more than one of eight messages of about the same length: the last two writes are gone.
    file.set_len(length - length / 7).unwrap();
    nats.launch().unwrap();
    until_it_answers(&store, &["k"]).await.unwrap();
    let left: Vec<_> = read(&store, &["k"]).await.into_iter().map(|(_, _, value)| value).collect();
    // This is why the write that decides goes last in a batch. Should a server ever drop the rest as well, so much the better.
    assert!(left.starts_with(&[json!("new"), json!("new")]), "{left:?}");
    assert!(!left[2..].contains(&json!("new")), "{left:?}");
}

/// To whoever asks, a lone server that comes back with an empty disk is one that is away: nobody makes its bucket anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_disk_is_gone_is_away_until_its_files_are_put_back() {
    let mut nats = server!();
    let store = nats.store().await.unwrap();
    assert_eq!(commit(&store, vec![write("ns.a", json!(1), 0)]).await, Outcome::Ok(1));
    assert_eq!(commit(&store, vec![write("ns.a", json!(2), 1)]).await, Outcome::Ok(2));
    nats.kill();
    let (disk, aside) = (nats.directory().join("store"), nats.directory().join("aside"));
    std::fs::rename(&disk, &aside).unwrap();
    nats.launch().unwrap();
    let link = nats.link(&nats.coordinator);
    link.up(SOON).await.unwrap();
    // It is not just that JetStream starts a moment later.
    let read_there = until_it_answers(&store, &["ns"]).await;
    assert!(matches!(read_there, Err(StoreError::Unavailable(_))), "{read_there:?}");
    let outcome = commit(&store, vec![write("ns.b", json!(1), 0)]).await;
    assert!(matches!(outcome, Outcome::Failed(StoreError::Unavailable(_))), "{outcome:?}");

    nats.kill();
    std::fs::remove_dir_all(&disk).unwrap();
    std::fs::rename(&aside, &disk).unwrap();
    nats.launch().unwrap();
    until_it_answers(&store, &["ns"]).await.unwrap();
    assert_eq!(read(&store, &["ns"]).await, [("ns.a".into(), 2, json!(2))]);
    assert_eq!(commit(&store, vec![write("ns.a", json!(3), 2)]).await, Outcome::Ok(3));
}
