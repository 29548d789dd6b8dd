//! The configuration of the server: what it is, and who may do what.

use std::time::{Duration, Instant};

use io_adapters::nats::{Bus, BusError, Credentials, Store};
use proto_core::Outcome;
use proto_core::store::StoreError;
use serde_json::{Value, json};
use tests::nats_server::{TestNats, machine};

use crate::{SOON, commit, foreign, read, try_read, write};

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
    let nobody = nats.link(&Credentials::generate());
    let reason = nobody.up(Duration::from_millis(500)).await.unwrap_err();
    assert!(reason.contains("authorization violation"), "{reason}");
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
