//! Requests at a steady rate through the gateway, each one counted.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::client::Connection;

const RATE: u32 = 200;
const CLIENTS: usize = 32;
/// Every so many requests one takes 300 ms to answer, so that there is always something in flight.
const SLOW_EVERY: u64 = 20;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What became of the requests.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Answered with something else than 200, broken off, or not answered in 5 s.
    pub failed: u64,
    /// The first few of them: when after the start, and what happened.
    pub failures: Vec<String>,
    /// Answers by body.
    pub bodies: BTreeMap<String, u64>,
    /// The longest time to an answer.
    pub slowest: Duration,
    /// From the start to the end.
    pub took: Duration,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sent, secs) = (self.sent, self.took.as_secs_f64());
        let rate = sent as f64 / secs;
        write!(f, "{} of {sent} requests failed in {secs:.1} s ({rate:.0}/s)", self.failed)?;
        write!(f, ", slowest {} ms, answers {:?}", self.slowest.as_millis(), self.bodies)?;
        if !self.failures.is_empty() {
            write!(f, "; {}", self.failures.join("; "))?;
        }
        Ok(())
    }
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    pacer: JoinHandle<()>,
    clients: Vec<JoinHandle<()>>,
    tally: Arc<Mutex<Tally>>,
    started: Instant,
}

impl Load {
    /// 200 requests a second over 32 keep-alive connections.
    #[must_use]
    pub fn start(port: u16, host: &str) -> Self {
        let started = Instant::now();
        let (stop, stopped) = watch::channel(false);
        let tally = Arc::new(Mutex::new(Tally::default()));
        // A queue that is never full: a stall is seen as late answers, not as requests that were not sent.
        let (ticks, tickets) = mpsc::unbounded_channel();
        let pacer = tokio::spawn(pace(ticks, stopped));
        let tickets = Arc::new(Mutex::new(tickets));
        let clients = (0..CLIENTS)
            .map(|_| {
                let client = Client {
                    port,
                    host: host.to_owned(),
                    tickets: Arc::clone(&tickets),
                    tally: Arc::clone(&tally),
                    started,
                };
                tokio::spawn(client.run())
            })
            .collect();
        Self { stop, pacer, clients, tally, started }
    }

    /// Ends it, waits for what is in flight, and counts.
    pub async fn finish(self) -> Tally {
        // The pacer may have ended only by this.
        let _ = self.stop.send(true);
        let mut panics = u64::from(self.pacer.await.is_err());
        for client in self.clients {
            panics += u64::from(client.await.is_err());
        }
        let mut tally = self.tally.lock().await.clone();
        tally.took = self.started.elapsed();
        tally.failed += panics;
        tally
    }
}

async fn pace(ticks: mpsc::UnboundedSender<u64>, mut stopped: watch::Receiver<bool>) {
    let mut interval = tokio::time::interval(Duration::from_secs(1) / RATE);
    for number in 1.. {
        tokio::select! {
            _ = interval.tick() => if ticks.send(number).is_err() { return },
            _ = stopped.changed() => return,
        }
    }
}

struct Client {
    port: u16,
    host: String,
    tickets: Arc<Mutex<mpsc::UnboundedReceiver<u64>>>,
    tally: Arc<Mutex<Tally>>,
    started: Instant,
}

impl Client {
    async fn run(self) {
        let mut connection = None;
        loop {
            let Some(number) = self.tickets.lock().await.recv().await else { return };
            let path = if number % SLOW_EVERY == 0 { "/slow?ms=300" } else { "/" };
            let begun = Instant::now();
            let result =
                tokio::time::timeout(ANSWER_WITHIN, self.request(&mut connection, path)).await;
            let failure = match result {
                Ok(Ok((200, body))) => {
                    let mut tally = self.tally.lock().await;
                    *tally.bodies.entry(body).or_default() += 1;
                    tally.slowest = tally.slowest.max(begun.elapsed());
                    None
                }
                Ok(Ok((status, body))) => Some(format!("{status} {}", body.trim())),
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(_) => Some("no answer".to_owned()),
            };
            let mut tally = self.tally.lock().await;
            tally.sent += 1;
            if let Some(failure) = failure {
                connection = None;
                tally.failed += 1;
                if tally.failures.len() < 5 {
                    let at = begun.duration_since(self.started).as_secs_f64();
                    tally.failures.push(format!("at {at:.2} s {path}: {failure}"));
                }
            }
        }
    }

    async fn request(
        &self,
        connection: &mut Option<Connection>,
        path: &str,
    ) -> anyhow::Result<(u16, String)> {
        let mut kept = connection.take();
        if let Some(open) = &mut kept
            && !open.usable().await
        {
            kept = None;
        }
        let mut usable = match kept {
            Some(open) => open,
            None => Connection::open((Ipv4Addr::LOCALHOST, self.port).into()).await?,
        };
        let answer = usable.get(&self.host, path).await?;
        *connection = Some(usable);
        Ok(answer)
    }
}
