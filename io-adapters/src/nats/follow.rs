use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{NATS_LAST_CONSUMER, NATS_LAST_STREAM};
use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use proto_core::store::{Entry, FollowEvent, Key, Revision};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::link::{Answer, Link, Session};
use super::read::number;
use super::store::ApiError;
use super::{KEYS, STREAM, api};

/// How often the server says that it is there when there is nothing else to say.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// After this much silence writes may have been missed.
const SILENCE: Duration = Duration::from_secs(3);

/// How long the server may take to make a consumer.
const CREATE: Duration = Duration::from_secs(2);

/// Between two attempts to make a consumer while the server is there and JetStream is not (it starts a moment later).
const RETRY: Duration = Duration::from_millis(250);

/// How long the server keeps a consumer after its follower is gone.
const INACTIVE: Duration = Duration::from_secs(30);

/// How many events may wait to be taken; the server is slowed down by more.
const WAITING: usize = 256;

/// Follows every write below `prefix` (not `prefix` itself), until the receiver is dropped.
///
/// One ordered consumer: first the latest entry of each key, then each write as it happens, with a heartbeat of one second
/// while there is none. What the events mean is said at [`FollowEvent`]. An entry moves the position to its revision;
/// [`FollowEvent::Position`] comes with the heartbeats, for writes elsewhere in the bucket, within two seconds of them.
///
/// Must be called within a tokio runtime. The `link` may be a follower's or a coordinator's.
#[must_use]
pub fn follow(link: Link, prefix: &Key) -> mpsc::Receiver<FollowEvent> {
    let (events, receiver) = mpsc::channel(WAITING);
    let follower =
        Follower { link, filter: format!("{KEYS}{prefix}.>"), events, away: false, loads: 0 };
    tokio::spawn(async move {
        let receiver_is_gone = follower.run().await;
        // That is how it ends: nobody is left to be told.
        let Gone = receiver_is_gone;
    });
    receiver
}

/// The receiver of the events is gone.
struct Gone;

struct Follower {
    link: Link,
    filter: String,
    events: mpsc::Sender<FollowEvent>,
    /// `Away` was the last that was said about the store.
    away: bool,
    /// How many loads were begun.
    loads: u64,
}

/// Why a consumer is followed no further.
enum End {
    /// Writes may have been missed, for this reason.
    Doubt(String),
    /// The store does not answer, for this reason.
    Away(String),
}

impl Follower {
    async fn run(mut self) -> Gone {
        let mut doubt = "the follower has just started".to_owned();
        loop {
            let events = self.events.clone();
            let end = tokio::select! {
                () = events.closed() => return Gone,
                end = self.load_and_follow(&doubt) => end,
            };
            match end {
                Err(gone) => return gone,
                Ok(End::Doubt(reason)) => doubt = reason,
                Ok(End::Away(reason)) => {
                    doubt = format!("the store was away: {reason}");
                    if self.go_away(reason).await.is_err() {
                        return Gone;
                    }
                    tokio::select! {
                        () = self.events.closed() => return Gone,
                        () = sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    /// One consumer, from its making to the first doubt about it.
    async fn load_and_follow(&mut self, doubt: &str) -> Result<End, Gone> {
        let session = match self.link.current() {
            Ok(session) => session,
            Err(reason) => {
                self.go_away(reason).await?;
                self.link.session().await
            }
        };
        let mut consumer = match Consumer::create(&session, &self.filter).await {
            Ok(consumer) => consumer,
            Err(reason) => return Ok(End::Away(reason)),
        };
        if std::mem::take(&mut self.away) {
            self.say(FollowEvent::Back).await?;
        }
        if self.loads > 0 {
            self.say(FollowEvent::Uncertain { reason: doubt.to_owned() }).await?;
        }
        self.loads += 1;
        if consumer.is_empty {
            self.caught_up(&mut consumer).await?;
        }
        loop {
            let message = tokio::select! {
                biased;
                message = timeout(SILENCE, consumer.messages.next()) => message,
                () = session.gone() => return Ok(End::Away("the connection to the server broke".to_owned())),
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(End::Away("the connection to the server broke".to_owned())),
                Err(_) => {
                    return Ok(End::Doubt(format!(
                        "the store was silent for {} s",
                        SILENCE.as_secs()
                    )));
                }
            };
            let heard = match consumer.hear(&session, &message).await {
                Ok(heard) => heard,
                Err(doubt) => return Ok(End::Doubt(doubt)),
            };
            match heard {
                Heard::Write { event, is_last } => {
                    self.say(event).await?;
                    if is_last && !consumer.caught_up {
                        self.caught_up(&mut consumer).await?;
                    }
                }
                Heard::Idle { advanced } => {
                    if !consumer.caught_up {
                        self.caught_up(&mut consumer).await?;
                    } else if advanced {
                        self.say(FollowEvent::Position(consumer.position)).await?;
                    }
                }
                Heard::Nothing => {}
            }
        }
    }

    async fn caught_up(&mut self, consumer: &mut Consumer) -> Result<(), Gone> {
        consumer.caught_up = true;
        self.say(FollowEvent::CaughtUp { position: consumer.position }).await
    }

    async fn go_away(&mut self, reason: String) -> Result<(), Gone> {
        if std::mem::replace(&mut self.away, true) {
            return Ok(());
        }
        self.say(FollowEvent::Away { reason }).await
    }

    async fn say(&self, event: FollowEvent) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }
}

/// An ordered consumer on the server, and how far it was heard.
struct Consumer {
    messages: Subscriber,
    /// Messages of this consumer so far, by its own count: that one has no gaps unless something was lost.
    delivered: u64,
    /// The stream's sequence up to which nothing is missing.
    position: Revision,
    /// Nothing was stored below the prefix when it was made.
    is_empty: bool,
    caught_up: bool,
}

enum Heard {
    /// A write; `is_last` if the server has no more to send.
    Write { event: FollowEvent, is_last: bool },
    /// The server has nothing to send; `advanced` if the stream grew elsewhere.
    Idle { advanced: bool },
    /// Something that concerns the transport alone.
    Nothing,
}

#[derive(Deserialize)]
struct Created {
    error: Option<ApiError>,
    #[serde(default)]
    num_pending: u64,
    #[serde(default)]
    delivered: Delivered,
}

#[derive(Default, Deserialize)]
struct Delivered {
    #[serde(default)]
    stream_seq: u64,
}

impl Consumer {
    async fn create(session: &Session, filter: &str) -> Result<Self, String> {
        let inbox = session.client().new_inbox();
        // An inbox ends with a token drawn at random by the client library.
        let name = inbox.rsplit('.').next().unwrap_or(&inbox).to_owned();
        let messages =
            session.client().subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let request = json!({
            "stream_name": STREAM,
            "config": {
                "name": name,
                "deliver_subject": inbox,
                "deliver_policy": "last_per_subject",
                "filter_subject": filter,
                "ack_policy": "none",
                "replay_policy": "instant",
                "max_deliver": 1,
                "idle_heartbeat": nanos(HEARTBEAT),
                "flow_control": true,
                "inactive_threshold": nanos(INACTIVE),
                "mem_storage": true,
                "num_replicas": 1,
            },
        });
        let subject = api(&format!("CONSUMER.CREATE.{STREAM}.{name}.{filter}"));
        let payload = Bytes::from(request.to_string());
        let message = match session
            .request(&subject, HeaderMap::new(), payload, Instant::now() + CREATE)
            .await
        {
            Answer::Message(message) => message,
            Answer::Nobody => return Err("nobody answers for the store".to_owned()),
            Answer::Refused(reason) | Answer::NotSent(reason) | Answer::Lost(reason) => {
                return Err(reason);
            }
        };
        let created: Created = serde_json::from_slice(&message.payload)
            .map_err(|error| format!("an answer that can't be read: {error}"))?;
        if let Some(error) = created.error {
            return Err(error.to_string());
        }
        Ok(Self {
            messages,
            delivered: 0,
            position: Revision(created.delivered.stream_seq),
            is_empty: created.num_pending == 0,
            caught_up: false,
        })
    }

    /// Takes a message, or says why this consumer can't be trusted any more.
    async fn hear(&mut self, session: &Session, message: &Message) -> Result<Heard, String> {
        if let Some(status) = message.status {
            if status.as_u16() != 100 {
                let description = message.description.as_deref().unwrap_or_default();
                return Err(format!("the consumer ended: {} {description}", status.as_u16()));
            }
            // The server waits for an answer before it sends on: to the message itself, or in a heartbeat that says where.
            let stalled =
                message.headers.as_ref().and_then(|headers| headers.get("Nats-Consumer-Stalled"));
            let go_on = match &message.reply {
                Some(reply) => Some(reply.to_string()),
                None => stalled.map(|subject| subject.as_str().to_owned()),
            };
            if let Some(subject) = go_on {
                session
                    .client()
                    .publish(subject, Bytes::new())
                    .await
                    .map_err(|error| error.to_string())?;
                return Ok(Heard::Nothing);
            }
            return self.heartbeat(message);
        }
        let place =
            message.reply.as_ref().and_then(|reply| Place::parse(reply)).ok_or_else(|| {
                format!(
                    "a message of another kind came on the consumer's subject: {}",
                    message.subject
                )
            })?;
        if place.consumer != self.delivered + 1 {
            return Err(format!(
                "message {} of the consumer followed {}",
                place.consumer, self.delivered
            ));
        }
        self.delivered = place.consumer;
        self.position = self.position.max(place.revision);
        let event = event(message, place.revision)?;
        Ok(Heard::Write { event, is_last: place.pending == 0 })
    }

    fn heartbeat(&mut self, message: &Message) -> Result<Heard, String> {
        match number(message, NATS_LAST_CONSUMER.as_ref()) {
            Some(last) if last != self.delivered => {
                Err(format!("the server sent {last} messages and {} arrived", self.delivered))
            }
            Some(_) => {
                let stream = Revision(number(message, NATS_LAST_STREAM.as_ref()).unwrap_or(0));
                let advanced = stream > self.position;
                self.position = self.position.max(stream);
                Ok(Heard::Idle { advanced })
            }
            None => Ok(Heard::Nothing),
        }
    }
}

fn event(message: &Message, revision: Revision) -> Result<FollowEvent, String> {
    let key = message.subject.strip_prefix(KEYS).and_then(|key| Key::new(key).ok());
    let key = key.ok_or_else(|| format!("{} is no key", message.subject))?;
    Ok(match serde_json::from_slice(&message.payload) {
        Ok(value) => FollowEvent::Entry(Entry { key, revision, value: Arc::new(value) }),
        Err(error) => FollowEvent::Unreadable { key, revision, reason: error.to_string() },
    })
}

/// Where a message stands, by its reply subject.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// In the stream.
    revision: Revision,
    /// Among the messages of the consumer, from 1.
    consumer: u64,
    /// How many follow that are already stored.
    pending: u64,
}

impl Place {
    /// `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>`, or the same with a domain and
    /// an account before the stream and perhaps a token more at the end.
    fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let from = match tokens.len() {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        let number = |at: usize| tokens.get(at)?.parse().ok();
        Some(Self {
            revision: Revision(number(from)?),
            consumer: number(from + 1)?,
            pending: number(from + 3)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_from_both_forms_of_a_reply_subject() {
        let place = Some(Place { revision: Revision(70), consumer: 4, pending: 2 });
        assert_eq!(Place::parse("$JS.ACK.KV_facts.c1.1.70.4.1700000000000000000.2"), place);
        assert_eq!(
            Place::parse("$JS.ACK.ployz.ACCHASH.KV_facts.c1.1.70.4.1700000000000000000.2"),
            place
        );
        assert_eq!(
            Place::parse("$JS.ACK.ployz.ACCHASH.KV_facts.c1.1.70.4.1700000000000000000.2.rand"),
            place
        );
        for broken in ["_INBOX.x", "$JS.ACK.a.b", "$JS.ACK.KV_facts.c1.1.x.4.17.2"] {
            assert_eq!(Place::parse(broken), None, "{broken}");
        }
    }
}
