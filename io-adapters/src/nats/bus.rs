use std::time::Duration;

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use futures::StreamExt as _;
use proto_core::Outcome;
use proto_core::id::MachineId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::link::{Answer, Session};
use super::{Link, command_subject};

/// The most bytes that a command or an answer may have.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// How many commands may wait to be taken; more wait in the connection.
const WAITING: usize = 64;

/// How long a server may take to confirm a subscription.
const CONFIRM: Duration = Duration::from_secs(2);

/// Between two attempts to listen where the server refused it: somebody has to mend its configuration first.
const RETRY_REFUSED: Duration = Duration::from_secs(5);

/// Requests to machines and their answers.
///
/// Nothing is kept for a machine that is away: nobody listening is an immediate failure.
#[derive(Debug, Clone)]
pub struct Bus {
    link: Link,
}

/// The request reached nobody, and nobody will get it later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Nobody listens on the machine's subject.
    #[error("machine {0} does not answer: nobody listens there")]
    NoResponders(MachineId),
    /// There is no connection to send it on.
    #[error("not connected: {0}")]
    Unavailable(String),
    /// The server refuses it.
    #[error("refused: {0}")]
    Refused(String),
    /// It is too long.
    #[error("{0} bytes are too many for one command; {MAX_PAYLOAD} are the most")]
    TooLarge(usize),
}

impl Bus {
    /// The bus by `link`: a coordinator's to ask, a participant's to serve.
    #[must_use]
    pub fn new(link: Link) -> Self {
        Self { link }
    }

    /// Sends `payload` to a machine and waits for its answer, at most for `timeout`.
    ///
    /// `Failed` means that nobody got it. No answer in time, or a connection that breaks meanwhile (told at once), is
    /// `Unknown`. Minutes are fine as a timeout: a machine that stops listening after it took the request is noticed by
    /// the timeout only.
    pub async fn request(
        &self,
        machine: &MachineId,
        payload: Vec<u8>,
        timeout: Duration,
    ) -> Outcome<Vec<u8>, BusError> {
        let deadline = Instant::now() + timeout;
        if payload.len() > MAX_PAYLOAD {
            return Outcome::Failed(BusError::TooLarge(payload.len()));
        }
        let session = match self.link.current() {
            Ok(session) => session,
            Err(reason) => return Outcome::Failed(BusError::Unavailable(reason)),
        };
        let subject = command_subject(machine.as_str());
        match session.request(&subject, HeaderMap::new(), Bytes::from(payload), deadline).await {
            Answer::Message(message) => Outcome::Ok(message.payload.to_vec()),
            Answer::Nobody => Outcome::Failed(BusError::NoResponders(machine.clone())),
            Answer::Refused(reason) => Outcome::Failed(BusError::Refused(reason)),
            Answer::NotSent(reason) => Outcome::Failed(BusError::Unavailable(reason)),
            Answer::Lost(reason) => {
                tracing::warn!(%machine, reason, "the answer to a command was lost");
                Outcome::Unknown
            }
        }
    }

    /// Listens on the subject of a machine, over reconnects, until what it returns is dropped.
    ///
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn serve(&self, machine: &MachineId) -> Incomings {
        let (sender, incoming) = mpsc::channel(WAITING);
        let (listening, is_listening) = watch::channel(false);
        tokio::spawn(listen(
            self.link.clone(),
            command_subject(machine.as_str()),
            sender,
            listening,
        ));
        Incomings { incoming, listening: is_listening }
    }
}

/// The requests to a machine.
#[derive(Debug)]
pub struct Incomings {
    incoming: mpsc::Receiver<Incoming>,
    listening: watch::Receiver<bool>,
}

/// A request.
#[derive(Debug)]
pub struct Incoming {
    /// What was sent.
    pub payload: Vec<u8>,
    /// Takes the answer.
    pub replier: Replier,
}

impl Incomings {
    /// The next request. `None` once the runtime shuts down.
    pub async fn next(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// Whether the machine is listening now, and when that changes.
    #[must_use]
    pub fn listening(&self) -> watch::Receiver<bool> {
        self.listening.clone()
    }
}

/// The way back to whoever sent a request. Dropped, the other side waits until its timeout.
#[derive(Debug)]
pub struct Replier {
    session: Session,
    reply: Option<Subject>,
}

/// An answer could not be sent. The other side takes the outcome for unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The connection by which the request came is no more: the server lets only that one answer.
    #[error("the connection by which the request came is gone")]
    Gone,
    /// It is too long.
    #[error("{0} bytes are too many for one answer; {MAX_PAYLOAD} are the most")]
    TooLarge(usize),
    /// The request named no subject for an answer.
    #[error("the request wants no answer")]
    NotWanted,
}

impl Replier {
    /// Answers. When it returns the answer is with the connection, which is no proof that it arrives.
    ///
    /// # Errors
    ///
    /// If it was not sent.
    pub async fn reply(self, payload: Vec<u8>) -> Result<(), ReplyError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(ReplyError::TooLarge(payload.len()));
        }
        let reply = self.reply.ok_or(ReplyError::NotWanted)?;
        if !self.session.is_alive() {
            return Err(ReplyError::Gone);
        }
        let client: &Client = self.session.client();
        client.publish(reply, Bytes::from(payload)).await.map_err(|_| ReplyError::Gone)
    }
}

async fn listen(
    link: Link,
    subject: String,
    sender: mpsc::Sender<Incoming>,
    listening: watch::Sender<bool>,
) {
    loop {
        let session = tokio::select! {
            () = sender.closed() => return,
            session = link.session() => session,
        };
        let mut refusals = session.refusals();
        let serving = async {
            // Only a client whose connection is over can't subscribe, and then there is a next session.
            let Ok(mut requests) = session.client().subscribe(subject.clone()).await else {
                return Ok(());
            };
            if let Err(reason) = session.confirm(CONFIRM).await {
                tracing::warn!(
                    subject,
                    reason,
                    "not sure that the server knows that this machine listens"
                );
            }
            listening.send_replace(true);
            loop {
                let request = tokio::select! {
                    request = requests.next() => request,
                    () = session.gone() => None,
                    refusal = refusals.of(|refused| refused == subject) => return Err(refusal),
                };
                let Some(request) = request else { return Ok(()) };
                let incoming = Incoming {
                    payload: request.payload.to_vec(),
                    replier: Replier { session: session.clone(), reply: request.reply },
                };
                if sender.send(incoming).await.is_err() {
                    return Ok(());
                }
            }
        };
        let ended = tokio::select! {
            () = sender.closed() => return,
            ended = serving => ended,
        };
        listening.send_replace(false);
        match ended {
            Err(refusal) => {
                tracing::error!(
                    subject,
                    refusal,
                    "the server does not let this machine take commands"
                );
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep(RETRY_REFUSED) => {}
                }
            }
            // A subscription ends a moment before the link knows: wait for that, or the same session would be taken again.
            Ok(()) => session.gone().await,
        }
    }
}
