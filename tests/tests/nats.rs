//! The NATS adapters on a real nats-server, with the credentials and the configuration that ployzd gives it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use io_adapters::nats::{Bus, BusError, Link, LinkState, Store, follow};
use proto_core::Outcome;
use proto_core::id::MachineId;
use proto_core::span::Span;
use proto_core::store::{
    Entry, FollowEvent, Key, Revision, StoreError, StoreReply, StoreRequest, Write,
};
use serde_json::{Value, json};
use tests::nats_server::{TestNats, machine};
use tokio::sync::mpsc;

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
    entries.into_iter().map(|e| (e.key.to_string(), e.revision.0, e.value)).collect()
}

async fn came_down(link: &Link) {
    while link.state() == LinkState::Up {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_takes_the_rendered_configuration() {
    let nats = server!();
    let output = std::process::Command::new("nats-server")
        .arg("-t")
        .arg("-c")
        .arg(nats.config_file())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_is_made_once_and_one_that_differs_is_named() {
    let nats = server!();
    let store = nats.store().await.unwrap();
    store.ensure_bucket(SOON).await.unwrap();

    let mut other = server!();
    let stranger = foreign(&other, &other.coordinator).await;
    let config = json!({"name": "KV_facts", "subjects": ["$KV.facts.>"], "max_msgs_per_subject": 5, "allow_direct": true});
    let reply = stranger
        .request("$JS.ployz.API.STREAM.CREATE.KV_facts", config.to_string().into())
        .await
        .unwrap();
    assert!(!String::from_utf8_lossy(&reply.payload).contains("error"), "{reply:?}");
    let link = other.link(&other.coordinator);
    link.up(SOON).await.unwrap();
    let error = Store::new(link).ensure_bucket(SOON).await.unwrap_err().to_string();
    for part in [
        "max_msgs_per_subject is 5 and should be 1",
        "allow_atomic is not set and should be true",
        "allow_msg_ttl is false and should be true",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    other.kill();
}

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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_may_not_do_is_refused_at_once() {
    let nats = server!();
    let coordinator = nats.store().await.unwrap();
    let begin = Instant::now();
    for credentials in [&nats.participant, &nats.follower] {
        let link = nats.link(credentials);
        link.up(SOON).await.unwrap();
        let store = Store::new(link.clone());
        let single = commit(&store, vec![write("ns.blog.head", json!(1), None)]).await;
        assert!(
            matches!(&single, Outcome::Failed(StoreError::Refused(why)) if why.contains("Permissions")),
            "{single:?}"
        );
        let batch = vec![write("ns.blog.head", json!(1), 0), write("op.a", json!(1), 0)];
        let batch = commit(&store, batch).await;
        assert!(matches!(batch, Outcome::Failed(StoreError::Refused(_))), "{batch:?}");
        assert!(matches!(try_read(&store, &["ns"]).await, Err(StoreError::Refused(_))));
        let command = Bus::new(link).request(&machine(), b"x".to_vec(), SOON).await;
        assert!(matches!(command, Outcome::Failed(BusError::Refused(_))), "{command:?}");
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(read(&coordinator, &["ns", "op"]).await, []);

    // Not even a coordinator takes facts away.
    let plain = foreign(&nats, &nats.coordinator).await;
    for subject in [
        "$JS.ployz.API.STREAM.PURGE.KV_facts",
        "$JS.ployz.API.STREAM.DELETE.KV_facts",
        "$JS.ployz.API.STREAM.UPDATE.KV_facts",
        "$JS.ployz.API.STREAM.MSG.DELETE.KV_facts",
        "$JS.API.STREAM.DELETE.KV_facts",
    ] {
        let answer =
            tokio::time::timeout(Duration::from_millis(200), plain.request(subject, "{}".into()))
                .await;
        assert!(answer.is_err(), "{subject}: {answer:?}");
    }
    // Strangers don't even get in.
    let nobody = nats.link(&io_adapters::nats::Credentials::generate());
    let reason = nobody.up(Duration::from_millis(500)).await.unwrap_err();
    assert!(reason.contains("authorization violation"), "{reason}");
}

/// A plain client, as an operator's would be: the seed from its file, the inbox prefix of the user.
async fn foreign(
    nats: &TestNats,
    credentials: &io_adapters::nats::Credentials,
) -> async_nats::Client {
    let path = nats.directory().join("foreign.nk");
    credentials.save(&path).unwrap();
    let seed = std::fs::read_to_string(&path).unwrap().trim().to_owned();
    async_nats::ConnectOptions::with_nkey(seed)
        .custom_inbox_prefix(credentials.inbox_prefix())
        .connect(nats.address())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_reads_json_with_a_followers_credentials_and_only_below_ns() {
    let nats = server!();
    let store = nats.store().await.unwrap();
    for name in ["ns.blog.head", "op.a"] {
        let Outcome::Ok(_) =
            commit(&store, vec![write(name, json!({"v": 1, "commit": 3}), 0)]).await
        else {
            panic!()
        };
    }
    let plain = foreign(&nats, &nats.follower).await;
    let get = |name: &str| {
        let subject = format!("$JS.ployz.API.DIRECT.GET.KV_facts.$KV.facts.{name}");
        tokio::time::timeout(Duration::from_millis(500), plain.request(subject, "".into()))
    };
    let message = get("ns.blog.head").await.unwrap().unwrap();
    let value: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(value, json!({"v": 1, "commit": 3}));
    assert!(get("op.a").await.is_err(), "refused by silence");
}

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
    let entry = Entry { key: key("ns.a.head"), revision: Revision(one), value: json!(1) };
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

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_answered_by_its_machine_and_fails_at_once_where_nobody_listens() {
    let nats = server!();
    let bus = nats.bus(&nats.coordinator).await.unwrap();
    let begin = Instant::now();
    let nobody = bus.request(&machine(), b"hello".to_vec(), SOON).await;
    assert_eq!(nobody, Outcome::Failed(BusError::NoResponders(machine())));
    assert!(begin.elapsed() < Duration::from_millis(500));

    let mut incomings = nats.bus(&nats.participant).await.unwrap().serve(&machine());
    incomings.listening().wait_for(|listening| *listening).await.unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = incomings.next().await {
            match incoming.payload.as_slice() {
                b"silence" => std::mem::forget(incoming.replier),
                _ => incoming.replier.reply(incoming.payload).await.unwrap(),
            }
        }
    });
    assert_eq!(
        bus.request(&machine(), b"hello".to_vec(), SOON).await,
        Outcome::Ok(b"hello".to_vec())
    );
    let large = vec![7; io_adapters::nats::MAX_PAYLOAD];
    assert_eq!(bus.request(&machine(), large.clone(), SOON).await, Outcome::Ok(large));
    let too_large = vec![7; io_adapters::nats::MAX_PAYLOAD + 1];
    assert!(matches!(
        bus.request(&machine(), too_large, SOON).await,
        Outcome::Failed(BusError::TooLarge(_))
    ));
    let begin = Instant::now();
    let timeout = Duration::from_millis(300);
    assert_eq!(bus.request(&machine(), b"silence".to_vec(), timeout).await, Outcome::Unknown);
    assert!(begin.elapsed() >= timeout && begin.elapsed() < Duration::from_secs(1));
    let other = MachineId::new("m2").unwrap();
    let nobody = bus.request(&other, b"hello".to_vec(), SOON).await;
    assert_eq!(nobody, Outcome::Failed(BusError::NoResponders(other)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_listens_again_after_a_restart_and_what_was_under_way_is_unknown() {
    let mut nats = server!();
    let bus = nats.bus(&nats.coordinator).await.unwrap();
    let mut incomings = nats.bus(&nats.participant).await.unwrap().serve(&machine());
    let mut listening = incomings.listening();
    listening.wait_for(|listening| *listening).await.unwrap();
    let waiting = {
        let bus = bus.clone();
        tokio::spawn(async move {
            bus.request(&machine(), b"slow".to_vec(), Duration::from_secs(120)).await
        })
    };
    let slow = incomings.next().await.unwrap();
    let begin = Instant::now();
    nats.kill();
    assert_eq!(waiting.await.unwrap(), Outcome::Unknown);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    listening.wait_for(|listening| !*listening).await.unwrap();
    assert!(slow.replier.reply(b"too late".to_vec()).await.is_err());
    let down = bus.request(&machine(), b"x".to_vec(), SOON).await;
    assert!(matches!(down, Outcome::Failed(BusError::Unavailable(_))), "{down:?}");

    nats.launch().unwrap();
    listening.wait_for(|listening| *listening).await.unwrap();
    let asking = tokio::spawn(async move {
        loop {
            match bus.request(&machine(), b"again".to_vec(), SOON).await {
                Outcome::Failed(BusError::Unavailable(_) | BusError::NoResponders(_)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                outcome => return outcome,
            }
        }
    });
    let again = incomings.next().await.unwrap();
    assert_eq!(again.payload, b"again", "and not the request of before");
    again.replier.reply(b"done".to_vec()).await.unwrap();
    assert_eq!(asking.await.unwrap(), Outcome::Ok(b"done".to_vec()));
}
