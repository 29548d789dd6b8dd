use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{
    Auth, AuthError, Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Message, Request,
    RequestErrorKind, ServerError,
};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Credentials, is_refusal_of};

/// Between two attempts to connect: a server that is back is found within this.
const RETRY: Duration = Duration::from_millis(250);

/// Between two attempts when the server refuses the credentials: somebody has to mend something first.
const RETRY_REFUSED: Duration = Duration::from_secs(2);

/// A server that accepts a connection and says nothing is given up after this.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// A silent server is asked whether it is there; the connection is given up when two questions stay unanswered.
const PING: Duration = Duration::from_secs(10);

/// A connection to a nats-server that comes back by itself, within 250 ms of the server.
///
/// The client library keeps what it is given while it is disconnected and sends it when it is connected again: a write
/// could land long after it was reported as failed. So each connection of a link is a client of its own that is
/// kept from ever connecting a second time: what it still held when it broke is dropped with it, and every request
/// that waits on it ends at once, as unknown. A request on a link that is down fails at once, and was not sent.
///
/// Cloning is cheap, and clones share the connection; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Link {
    state: watch::Receiver<State>,
}

/// Whether a link is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Connected.
    Up,
    /// Not connected.
    Down {
        /// Why, as far as it is known.
        reason: String,
    },
}

#[derive(Debug, Clone)]
pub(super) enum State {
    Up(Session),
    Down(Arc<str>),
}

impl Link {
    /// Opens a link to the server at `address` (`host:port`). `name` is what the server lists the client as.
    ///
    /// Returns at once: the link is down until the server answers. Must be called within a tokio runtime.
    #[must_use]
    pub fn open(
        address: impl Into<String>,
        credentials: Credentials,
        name: impl Into<String>,
    ) -> Self {
        let (sender, state) = watch::channel(State::Down(Arc::from("not connected yet")));
        tokio::spawn(keep(address.into(), credentials, name.into(), sender));
        Self { state }
    }

    /// Whether the link is up now.
    #[must_use]
    pub fn state(&self) -> LinkState {
        match &*self.state.borrow() {
            State::Up(session) if session.is_alive() => LinkState::Up,
            State::Up(_) => LinkState::Down { reason: "the connection broke".to_owned() },
            State::Down(reason) => LinkState::Down { reason: reason.to_string() },
        }
    }

    /// Waits until the link is up.
    ///
    /// # Errors
    ///
    /// If it is not within `timeout`: the last reason why not.
    pub async fn up(&self, timeout: Duration) -> Result<(), String> {
        match tokio::time::timeout(timeout, self.session()).await {
            Ok(_) => Ok(()),
            Err(_) => match self.state() {
                LinkState::Up => Ok(()),
                LinkState::Down { reason } => Err(reason),
            },
        }
    }

    /// The connection, if there is one.
    pub(super) fn current(&self) -> Result<Session, String> {
        match &*self.state.borrow() {
            State::Up(session) if session.is_alive() => Ok(session.clone()),
            State::Up(_) => Err("the connection to the server broke".to_owned()),
            State::Down(reason) => Err(reason.to_string()),
        }
    }

    /// Waits for a connection.
    pub(super) async fn session(&self) -> Session {
        let mut state = self.state.clone();
        loop {
            if let Ok(session) = self.current() {
                return session;
            }
            if state.changed().await.is_err() {
                // The task that keeps the link ends only with its last receiver, and `state` is one (or with the runtime).
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Connects, waits for the end of the connection, and again, for as long as somebody holds the link.
async fn keep(
    address: String,
    credentials: Credentials,
    name: String,
    state: watch::Sender<State>,
) {
    loop {
        let pause = tokio::select! {
            () = state.closed() => return,
            opened = Session::open(&address, &credentials, &name) => match opened {
                Ok((session, end)) => {
                    tracing::info!(server = address, client = name, "connected to nats");
                    state.send_replace(State::Up(session));
                    tokio::select! {
                        () = state.closed() => return,
                        () = end.wait() => {}
                    }
                    tracing::warn!(server = address, client = name, "the connection to nats broke");
                    state.send_replace(State::Down(Arc::from("the connection to the server broke")));
                    Duration::ZERO
                }
                Err(error) => {
                    let refused = matches!(error.kind(), ConnectErrorKind::AuthorizationViolation);
                    let reason = format!("{address}: {error}");
                    let changed = state.send_if_modified(|state| match state {
                        State::Down(old) if **old == *reason => false,
                        _ => {
                            *state = State::Down(Arc::from(reason.as_str()));
                            true
                        }
                    });
                    if changed {
                        tracing::warn!(client = name, reason, "can't connect to nats");
                    }
                    if refused { RETRY_REFUSED } else { RETRY }
                }
            },
        };
        tokio::select! {
            () = state.closed() => return,
            () = sleep(pause) => {}
        }
    }
}

/// One connection, from its handshake to its end.
#[derive(Debug, Clone)]
pub(super) struct Session {
    client: Client,
    gone: watch::Receiver<bool>,
    refusals: broadcast::Sender<Arc<str>>,
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// The answer.
    Message(Message),
    /// Nobody listens on the subject: it reached nobody.
    Nobody,
    /// The server or the client library will not take it: it reached nobody.
    Refused(String),
    /// The connection was down before anything was sent: it reached nobody.
    NotSent(String),
    /// It was sent, or may have been, and no answer came.
    Lost(String),
}

/// The end of a session, for the task that keeps the link.
struct End {
    gone: Arc<watch::Sender<bool>>,
    sentinel: async_nats::Subscriber,
}

impl End {
    async fn wait(mut self) {
        let mut gone = self.gone.subscribe();
        tokio::select! {
            // The client's event says so first, but events are dropped when too many come at once. Its subscriptions end
            // for certain.
            _ = gone.wait_for(|gone| *gone) => {}
            _ = self.sentinel.next() => {}
        }
        self.gone.send_replace(true);
    }
}

impl Session {
    async fn open(
        address: &str,
        credentials: &Credentials,
        name: &str,
    ) -> Result<(Self, End), async_nats::ConnectError> {
        let gone = Arc::new(watch::Sender::new(false));
        let (refusals, _) = broadcast::channel(64);
        let options = ConnectOptions::with_auth_callback(once(credentials.clone()))
            .name(name)
            .custom_inbox_prefix(credentials.inbox_prefix())
            .connection_timeout(HANDSHAKE)
            .ping_interval(PING)
            .request_timeout(None)
            .ignore_discovered_servers()
            // The least that can be said: the second handshake fails by `once`, and there is no third.
            .max_reconnects(1)
            .event_callback(events(Arc::clone(&gone), refusals.clone()));
        let client = options.connect(address).await?;
        let sentinel = client
            .subscribe(client.new_inbox())
            .await
            .map_err(|error| async_nats::ConnectError::with_source(ConnectErrorKind::Io, error))?;
        let session = Self { client, gone: gone.subscribe(), refusals };
        Ok((session, End { gone, sentinel }))
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn is_alive(&self) -> bool {
        !*self.gone.borrow()
    }

    /// Waits for the end of the connection.
    pub(super) async fn gone(&self) {
        // An error says that the sender is dropped, which it is only after the end.
        drop(self.gone.clone().wait_for(|gone| *gone).await);
    }

    /// Hears of refusals from now on: to be asked for before the message is sent that might be refused.
    pub(super) fn refusals(&self) -> Refusals {
        Refusals(self.refusals.subscribe())
    }

    /// Waits until the server has taken everything that was given to the connection before: it works in order, and says at
    /// once that nobody listens on an inbox that was never made.
    pub(super) async fn confirm(&self, timeout: Duration) -> Result<(), String> {
        let probe = self.client.new_inbox();
        match self.request(&probe, HeaderMap::new(), Bytes::new(), Instant::now() + timeout).await {
            Answer::Nobody | Answer::Message(_) => Ok(()),
            Answer::Refused(reason) | Answer::NotSent(reason) | Answer::Lost(reason) => Err(reason),
        }
    }

    /// Sends a request and waits for its one answer, at most until `deadline`.
    pub(super) async fn request(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
        deadline: Instant,
    ) -> Answer {
        if !self.is_alive() {
            return Answer::NotSent("the connection to the server broke".to_owned());
        }
        let mut refusals = self.refusals();
        let mut request = Request::new().payload(payload).timeout(None);
        if !headers.is_empty() {
            request = request.headers(headers);
        }
        tokio::select! {
            biased;
            answer = self.client.send_request(subject.to_owned(), request) => match answer {
                Ok(message) => Answer::Message(message),
                Err(error) => match error.kind() {
                    RequestErrorKind::NoResponders => Answer::Nobody,
                    RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                        Answer::Refused(error.to_string())
                    }
                    RequestErrorKind::TimedOut | RequestErrorKind::Other => Answer::Lost(error.to_string()),
                },
            },
            refusal = refusals.of(|refused| is_refusal_of(refused, subject)) => Answer::Refused(refusal),
            () = self.gone() => Answer::Lost("the connection to the server broke".to_owned()),
            () = sleep_until(deadline) => Answer::Lost("no answer in time".to_owned()),
        }
    }
}

/// The server's asynchronous refusals on one connection.
pub(super) struct Refusals(broadcast::Receiver<Arc<str>>);

impl Refusals {
    /// Waits for the refusal of a publish to, or a subscription of, a subject that `matches`.
    pub(super) async fn of(&mut self, matches: impl Fn(&str) -> bool) -> String {
        loop {
            match self.0.recv().await {
                Ok(text) if refused_subject(&text).is_some_and(&matches) => {
                    return text.to_string();
                }
                // Having missed some, the request may wait in vain, and its deadline ends it.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// The subject of `Permissions Violation for Publish to "x"` (or `Subscription to "x"`).
fn refused_subject(text: &str) -> Option<&str> {
    let rest = text.trim_matches('\'').strip_prefix("Permissions Violation for ")?;
    let (_, rest) = rest.split_once(" to \"")?;
    rest.split('"').next()
}

/// Signs the challenge of the first connection, and of no other: a client that can't authenticate can't come back.
fn once(
    credentials: Credentials,
) -> impl Fn(Vec<u8>) -> std::future::Ready<Result<Auth, AuthError>> + Send + Sync + 'static {
    let used = AtomicBool::new(false);
    move |nonce| {
        if used.swap(true, Ordering::Relaxed) {
            return std::future::ready(Err(AuthError::new("this connection is over")));
        }
        std::future::ready(match credentials.sign(&nonce) {
            Ok(signature) => {
                let mut auth = Auth::new();
                auth.nkey = Some(credentials.public_key().to_owned());
                auth.signature = Some(signature);
                Ok(auth)
            }
            Err(error) => Err(AuthError::new(error.to_string())),
        })
    }
}

fn events(
    gone: Arc<watch::Sender<bool>>,
    refusals: broadcast::Sender<Arc<str>>,
) -> impl Fn(Event) -> std::future::Ready<()> + Send + Sync + 'static {
    move |event| {
        match event {
            Event::Disconnected | Event::Closed => {
                gone.send_replace(true);
            }
            Event::ServerError(ServerError::Other(text)) => {
                tracing::warn!(text, "nats refuses");
                // Nobody waits: then there is nobody to tell but the log.
                drop(refusals.send(Arc::from(text.as_str())));
            }
            _ => {}
        }
        std::future::ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_subject() {
        for (text, subject) in [
            (r#"Permissions Violation for Publish to "$JS.ployz.API.x""#, Some("$JS.ployz.API.x")),
            (r#"'Permissions Violation for Subscription to "ployz.cmd.m2"'"#, Some("ployz.cmd.m2")),
            (r#"Permissions Violation for Subscription to "a" using queue "b""#, Some("a")),
            ("Stale Connection", None),
        ] {
            assert_eq!(refused_subject(text), subject, "{text}");
        }
    }
}
