//! Followers: every write below a prefix, and every doubt.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use io_adapters::nats::follow;
use proto_core::Outcome;
use proto_core::store::{Entry, FollowEvent, Key, Revision};
use serde_json::json;
use tests::nats_server::TestNats;
use tokio::sync::mpsc;

use crate::{SOON, commit, commit_within, key, read, until_it_answers, write};

/// Takes events until `CaughtUp`, and returns the entries of the load.
async fn load(events: &mut mpsc::Receiver<FollowEvent>) -> (BTreeMap<String, u64>, u64) {
    let mut entries = BTreeMap::new();
    loop {
        match next(events).await {
            FollowEvent::Entry(entry) => {
                entries.insert(entry.key.to_string(), entry.revision.0);
            }
            FollowEvent::CaughtUp { position } => return (entries, position.0),
            other => panic!("{other:?} in a load"),
        }
    }
}

async fn next(events: &mut mpsc::Receiver<FollowEvent>) -> FollowEvent {
    tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_loads_then_hears_each_write_and_the_position_of_others() {
    let nats = server!();
    let store = nats.store().await.unwrap();
    let mut events = follow(nats.link(&nats.follower), &Key::namespaces());
    let empty = match next(&mut events).await {
        // The link takes a moment.
        FollowEvent::Away { .. } => {
            assert_eq!(next(&mut events).await, FollowEvent::Back);
            load(&mut events).await
        }
        FollowEvent::CaughtUp { position } => (BTreeMap::new(), position.0),
        other => panic!("{other:?}"),
    };
    assert_eq!(empty, (BTreeMap::new(), 0));
    let Outcome::Ok(one) = commit(&store, vec![write("ns.a.head", json!(1), 0)]).await else {
        panic!()
    };
    let entry = Entry { key: key("ns.a.head"), revision: Revision(one), value: json!(1).into() };
    assert_eq!(next(&mut events).await, FollowEvent::Entry(entry));
    let begin = Instant::now();
    let Outcome::Ok(two) = commit(&store, vec![write("op.x", json!(1), 0)]).await else { panic!() };
    assert_eq!(next(&mut events).await, FollowEvent::Position(Revision(two)));
    eprintln!("a write elsewhere moved the position after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_millis(2500));

    let mut late = follow(nats.link(&nats.coordinator), &Key::namespaces());
    let (entries, position) = match next(&mut late).await {
        FollowEvent::Away { .. } => {
            assert_eq!(next(&mut late).await, FollowEvent::Back);
            load(&mut late).await
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(entries, BTreeMap::from([("ns.a.head".to_owned(), one)]));
    assert!(position >= one);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_loses_nothing_over_a_kill_and_a_freeze_of_the_server() {
    let mut nats = server!();
    let store = nats.store().await.unwrap();
    let link = nats.link(&nats.follower);
    link.up(SOON).await.unwrap();
    for n in 0..50 {
        let Outcome::Ok(_) = commit(&store, vec![write(&format!("ns.a.k{n}"), json!(0), 0)]).await
        else {
            panic!()
        };
    }
    let mut events = follow(link, &Key::namespaces());
    let (mut view, _) = load(&mut events).await;
    assert_eq!(view.len(), 50);

    for disturbance in ["kill", "freeze"] {
        let writer = {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..400_u64 {
                    drop(
                        commit_within(
                            &store,
                            vec![write(&format!("ns.a.k{}", n % 70), json!(n), None)],
                            Duration::from_millis(200),
                        )
                        .await,
                    );
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        if disturbance == "kill" {
            nats.restart().unwrap();
        } else {
            nats.freeze().unwrap();
            tokio::time::sleep(Duration::from_millis(3500)).await;
            nats.thaw().unwrap();
        }
        writer.await.unwrap();
        until_it_answers(&store, &["ns"]).await.unwrap();
        let truth: BTreeMap<String, u64> = read(&store, &["ns"])
            .await
            .into_iter()
            .map(|(key, revision, _)| (key, revision))
            .collect();
        let (mut heard, mut loading) = (Vec::new(), false);
        while view != truth || loading || heard.is_empty() {
            match next(&mut events).await {
                FollowEvent::Entry(entry) => {
                    view.insert(entry.key.to_string(), entry.revision.0);
                }
                FollowEvent::Uncertain { reason } => {
                    heard.push(format!("uncertain: {reason}"));
                    loading = true;
                    view.clear();
                }
                FollowEvent::CaughtUp { .. } => {
                    heard.push("caught up".to_owned());
                    loading = false;
                }
                FollowEvent::Away { .. } => heard.push("away".to_owned()),
                FollowEvent::Back => heard.push("back".to_owned()),
                FollowEvent::Position(_) => {}
                FollowEvent::Unreadable { key, .. } => panic!("{key}"),
            }
        }
        eprintln!("{disturbance}: {heard:?}");
        if disturbance == "kill" {
            assert_eq!((heard[0].as_str(), heard[1].as_str()), ("away", "back"));
        }
        assert!(heard.iter().any(|what| what.starts_with("uncertain")), "{heard:?}");
        assert_eq!(heard.last().map(String::as_str), Some("caught up"));
    }
}
