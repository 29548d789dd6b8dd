//! Commands to a machine and their answers.

use std::time::{Duration, Instant};

use io_adapters::nats::BusError;
use proto_core::Outcome;
use proto_core::id::MachineId;
use tests::nats_server::{TestNats, machine};

use crate::SOON;

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
