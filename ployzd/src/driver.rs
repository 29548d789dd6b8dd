//! Plugs the node into the adapters: effects out, completions in. It decides nothing.
//!
//! One task owns the [`Node`]. After each input it drains events and effects; each effect runs in a task of its own and its completion
//! comes back over the channel. Between inputs it sleeps until the node's next timeout.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use io_adapters::control::{self, ControlError};
use io_adapters::files;
use io_adapters::nats::{Bus, Replier, Store};
use proto_core::Outcome;
use proto_core::api::{OperationEvent, Submission};
use proto_core::coordination::command::{BusError, Command, CommandReply};
use proto_core::coordination::participant::FenceFile;
use proto_core::daemon::{
    Completion, Effect, EffectId, EffectKind, Input, Node, OperationHandle, ReplyToken,
    RoutesRequest,
};
use proto_core::id::OperationId;
use proto_core::runtime::{RuntimeError, RuntimeReply};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::clock;
use crate::events::Events;
use crate::failpoint;
use crate::runtime::Runtime;

/// How long the store may take for one request.
const STORE_WITHIN: Duration = Duration::from_secs(5);
/// How many effects may be under way at once.
const MAX_EFFECTS: usize = 64;

/// What effects are carried out with.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    pub(crate) runtime: Runtime,
    pub(crate) fence_file: PathBuf,
    pub(crate) gateway: PathBuf,
    pub(crate) dns: PathBuf,
}

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum Message {
    Submit {
        submission: Submission,
        audience: mpsc::UnboundedSender<OperationEvent>,
        handle: oneshot::Sender<OperationHandle>,
    },
    Cancel(OperationHandle),
    Command(Box<Command>, Replier),
    Done(EffectId, Completion),
    Running(oneshot::Sender<Vec<OperationId>>),
    /// Every operation ends as interrupted; answered when the node's events are out.
    Shutdown(oneshot::Sender<()>),
}

/// The way to the driver. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Handle(mpsc::UnboundedSender<Message>);

impl Handle {
    /// Submits; events come until `Finished`.
    pub(crate) async fn submit(
        &self,
        submission: Submission,
    ) -> Option<(OperationHandle, mpsc::UnboundedReceiver<OperationEvent>)> {
        let (audience, events) = mpsc::unbounded_channel();
        let (handle, answer) = oneshot::channel();
        self.0.send(Message::Submit { submission, audience, handle }).ok()?;
        Some((answer.await.ok()?, events))
    }

    pub(crate) fn cancel(&self, handle: OperationHandle) {
        self.tell(Message::Cancel(handle));
    }

    pub(crate) fn command(&self, command: Command, replier: Replier) {
        self.tell(Message::Command(Box::new(command), replier));
    }

    pub(crate) async fn running(&self) -> Vec<OperationId> {
        let (sender, answer) = oneshot::channel();
        self.tell(Message::Running(sender));
        answer.await.unwrap_or_default()
    }

    pub(crate) async fn shutdown(&self) {
        let (sender, done) = oneshot::channel();
        self.tell(Message::Shutdown(sender));
        // A driver that is gone has nothing left to end.
        let _ = done.await;
    }

    fn tell(&self, message: Message) {
        if self.0.send(message).is_err() {
            tracing::error!("the driver is gone");
        }
    }
}

/// Starts the driver.
pub(crate) fn start(node: Node, ports: Ports, events: Arc<Events>) -> Handle {
    let (sender, receiver) = mpsc::unbounded_channel();
    let driver = Driver {
        node,
        ports: Arc::new(ports),
        events,
        effects: Arc::new(Semaphore::new(MAX_EFFECTS)),
        sender: sender.clone(),
        asked: BTreeMap::new(),
        repliers: BTreeMap::new(),
        next: 0,
    };
    tokio::spawn(driver.run(receiver));
    Handle(sender)
}

/// A submission that has not ended.
struct Asked {
    /// What it is about, for its event; `None` for what changes nothing.
    summary: Option<String>,
    audience: mpsc::UnboundedSender<OperationEvent>,
}

struct Driver {
    node: Node,
    ports: Arc<Ports>,
    events: Arc<Events>,
    effects: Arc<Semaphore>,
    sender: mpsc::UnboundedSender<Message>,
    asked: BTreeMap<OperationHandle, Asked>,
    repliers: BTreeMap<ReplyToken, Replier>,
    next: u64,
}

impl Driver {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        self.drain();
        loop {
            let timeout = self.node.poll_timeout().map(|(at, _)| clock::instant(at));
            let sleep = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                () = sleep => self.input(Input::Timeout),
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Submit { submission, audience, handle } => {
                let number = OperationHandle(self.number());
                self.asked.insert(number, Asked { summary: submission.summary(), audience });
                // A client that went away meanwhile has asked all the same.
                let _ = handle.send(number);
                self.input(Input::Submit { handle: number, submission });
            }
            Message::Cancel(handle) => self.input(Input::Cancel { handle }),
            Message::Command(command, replier) => {
                let token = ReplyToken(self.number());
                self.repliers.insert(token, replier);
                self.input(Input::Command { token, command });
            }
            Message::Done(id, completion) => self.input(Input::Done { id, completion }),
            Message::Running(answer) => {
                let _ = answer.send(self.node.running().cloned().collect());
            }
            Message::Shutdown(done) => {
                self.input(Input::Shutdown);
                let _ = done.send(());
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn input(&mut self, input: Input) {
        self.node.handle_input(clock::now(), clock::wall(), input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(node_event) = self.node.poll_event() {
            let Some(asked) = self.asked.get(&node_event.handle) else { continue };
            let result = node_event.result();
            if let (Some(result), Some(summary)) = (result, &asked.summary) {
                self.events.ended(summary, result);
            }
            let finished = result.is_some();
            // A client that goes away cancels nothing.
            let _ = asked.audience.send(node_event.event);
            if finished {
                self.asked.remove(&node_event.handle);
            }
        }
        while let Some(effect) = self.node.poll_effect() {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let Effect { id, operation, kind } = effect;
        if let EffectKind::Reply { token, reply } = kind {
            if let Some(replier) = self.repliers.remove(&token) {
                tokio::spawn(answer(replier, reply));
            }
            return;
        }
        let (ports, sender) = (Arc::clone(&self.ports), self.sender.clone());
        let permits = Arc::clone(&self.effects);
        let point = failpoint::count(&kind, operation.as_ref());
        tokio::spawn(async move {
            let _permit = permits.acquire().await;
            point.before();
            let completion = ports.carry_out(kind).await;
            point.after();
            // The driver is gone only when the daemon ends.
            let _ = sender.send(Message::Done(id, completion));
        });
    }
}

async fn answer(replier: Replier, reply: Box<CommandReply>) {
    let payload = serde_json::to_vec(&reply).expect("replies are plain JSON");
    if let Err(error) = replier.reply(payload).await {
        tracing::warn!(%error, "a command could not be answered");
    }
}

fn addresses(backends: &[SocketAddr]) -> String {
    backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Ports {
    async fn carry_out(&self, kind: EffectKind) -> Completion {
        match kind {
            EffectKind::Store(request) => {
                Completion::Store(self.store.execute(request, STORE_WITHIN).await)
            }
            EffectKind::Send { to, command } => {
                // The other side keeps the time of its part; this one waits a little longer for the answer.
                let within = command.deadline.duration() + Duration::from_secs(1);
                let payload = serde_json::to_vec(&command).expect("commands are plain JSON");
                Completion::Send(match self.bus.request(&to, payload, within).await {
                    Outcome::Ok(reply) => match serde_json::from_slice(&reply) {
                        Ok(reply) => Outcome::Ok(reply),
                        Err(error) => {
                            tracing::error!(%error, machine = %to, "an answer cannot be read");
                            Outcome::Unknown
                        }
                    },
                    Outcome::Failed(io_adapters::nats::BusError::NoResponders(machine)) => {
                        Outcome::Failed(BusError::NoResponders { machine })
                    }
                    Outcome::Failed(error) => {
                        Outcome::Failed(BusError::Unavailable { detail: error.to_string() })
                    }
                    Outcome::Stale => Outcome::Stale,
                    Outcome::Unknown => Outcome::Unknown,
                })
            }
            EffectKind::Runtime(request) => {
                Completion::Runtime(self.with_own_disk(self.runtime.execute(request).await))
            }
            EffectKind::Persist(fence) => Completion::Persist(self.persist(fence).await),
            EffectKind::Routes(request) => Completion::Routes(self.routes(request).await),
            EffectKind::Reply { .. } => unreachable!("answered by the driver"),
        }
    }

    /// The runtime's disk may be another one than that of the daemon and the store's server, which need room too.
    fn with_own_disk(
        &self,
        mut outcome: Outcome<RuntimeReply, RuntimeError>,
    ) -> Outcome<RuntimeReply, RuntimeError> {
        if let Outcome::Ok(RuntimeReply::Facts(facts)) = &mut outcome {
            match files::disk_free(&self.fence_file) {
                Ok(free) => facts.disk_free_bytes = facts.disk_free_bytes.min(free),
                Err(error) => tracing::warn!(%error, "the free space of the data directory"),
            }
        }
        outcome
    }

    async fn persist(&self, fence: FenceFile) -> Result<(), String> {
        let path = self.fence_file.clone();
        let bytes = serde_json::to_vec_pretty(&fence).expect("a fence is plain JSON");
        let written =
            tokio::task::spawn_blocking(move || files::write_atomic(&path, &bytes, 0o600)).await;
        written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    async fn routes(&self, request: RoutesRequest) -> Result<Option<String>, String> {
        match request {
            RoutesRequest::Applied { namespace, at_least, within } => {
                let ask = |role: &'static str, socket: &PathBuf| {
                    let (socket, namespace) = (socket.clone(), &namespace);
                    async move {
                        let limit = within.duration();
                        let answer =
                            control::applied(&socket, Some(namespace), at_least, limit).await;
                        answer.map_err(|error| match error {
                            ControlError::Timeout { applied } => format!(
                                "{role} does not serve the commit after {within}: it serves position {applied} of {at_least}"
                            ),
                            error => format!("{role} does not say whether it serves the commit: {error}"),
                        })
                    }
                };
                let (gateway, dns) = tokio::join!(
                    ask("the gateway", &self.gateway),
                    ask("the DNS server", &self.dns)
                );
                let silent: Vec<_> = [gateway, dns].into_iter().filter_map(Result::err).collect();
                if silent.is_empty() { Ok(None) } else { Err(silent.join("; ")) }
            }
            RoutesRequest::Drained { backends, within } => {
                match control::drained(&self.gateway, &backends, within.duration()).await {
                    Ok(()) => Ok(None),
                    Err(ControlError::StillUnderWay { requests }) => Err(format!(
                        "after {within} of draining {requests} {} under way to {}: what is not answered before it ends is cut off",
                        if requests == 1 { "request was still" } else { "requests were still" },
                        addresses(&backends),
                    )),
                    Err(error) => Err(format!(
                        "the gateway does not say whether {} is drained: {error}",
                        addresses(&backends)
                    )),
                }
            }
        }
    }
}
