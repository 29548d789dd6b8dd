//! Plugs the node into the ports: effects out, completions in. It decides nothing.
//!
//! One task owns the [`Node`]. After each input it drains events and effects; each effect runs in a task of its own and its completion
//! comes back over the channel. Between inputs it sleeps until the node's next timeout.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto_core::api::{OperationEvent, Submission};
use proto_core::coordination::command::{Command, CommandReply};
use proto_core::daemon::{
    Completion, Effect, EffectId, EffectKind, Input, Node, OperationHandle, ReplyToken,
};
use proto_core::id::OperationId;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::clock::Clock;
use crate::events::Events;
use crate::failpoint;
use crate::ports::Ports;

/// How long the store may take for one request.
const STORE_WITHIN: Duration = Duration::from_secs(5);
/// How many effects may be under way at once.
const MAX_EFFECTS: usize = 64;

/// What the driver is told.
#[derive(Debug)]
enum Message {
    Submit {
        submission: Submission,
        audience: mpsc::UnboundedSender<OperationEvent>,
        handle: oneshot::Sender<OperationHandle>,
    },
    Cancel(OperationHandle),
    Command(Box<Command>, oneshot::Sender<CommandReply>),
    Done(EffectId, Completion),
    Running(oneshot::Sender<Vec<OperationId>>),
    /// Every operation ends as interrupted; answered when the node's events are out.
    Shutdown(oneshot::Sender<()>),
}

/// The way to the driver. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::UnboundedSender<Message>);

impl Handle {
    /// Submits; events come until `Finished`. `None`: the driver is gone.
    pub async fn submit(
        &self,
        submission: Submission,
    ) -> Option<(OperationHandle, mpsc::UnboundedReceiver<OperationEvent>)> {
        let (audience, events) = mpsc::unbounded_channel();
        let (handle, answer) = oneshot::channel();
        self.0.send(Message::Submit { submission, audience, handle }).ok()?;
        Some((answer.await.ok()?, events))
    }

    /// Asks an operation to stop.
    pub fn cancel(&self, handle: OperationHandle) {
        self.tell(Message::Cancel(handle));
    }

    /// Hands a command to this machine, at once. The answer: `None` if there will never be one.
    pub fn command(
        &self,
        command: Command,
    ) -> impl Future<Output = Option<CommandReply>> + Send + 'static {
        let (sender, answer) = oneshot::channel();
        self.tell(Message::Command(Box::new(command), sender));
        async { answer.await.ok() }
    }

    /// The operations that run here.
    pub async fn running(&self) -> Vec<OperationId> {
        let (sender, answer) = oneshot::channel();
        self.tell(Message::Running(sender));
        answer.await.unwrap_or_default()
    }

    /// Ends every operation as interrupted; returns when their audiences know.
    pub async fn shutdown(&self) {
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

/// Starts the driver. Must be called within a tokio runtime; it runs until that ends or every handle is dropped.
#[must_use]
pub fn start(node: Node, ports: Arc<dyn Ports>, clock: Clock, events: Arc<Events>) -> Handle {
    let (sender, receiver) = mpsc::unbounded_channel();
    let driver = Driver {
        node,
        ports,
        clock,
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
    ports: Arc<dyn Ports>,
    clock: Clock,
    events: Arc<Events>,
    effects: Arc<Semaphore>,
    sender: mpsc::UnboundedSender<Message>,
    asked: BTreeMap<OperationHandle, Asked>,
    repliers: BTreeMap<ReplyToken, oneshot::Sender<CommandReply>>,
    next: u64,
}

impl Driver {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        self.drain();
        loop {
            let timeout = self.node.poll_timeout().map(|(at, _)| self.clock.instant(at));
            let sleep = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What is due comes before what arrives, not a throw of the dice: the same inputs at the same times are the same run.
                biased;
                () = sleep => self.input(Input::Timeout),
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
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
        self.node.handle_input(self.clock.now(), self.clock.wall(), input);
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
                // Whoever sent it may have given up.
                let _ = replier.send(*reply);
            }
            return;
        }
        let (ports, sender) = (Arc::clone(&self.ports), self.sender.clone());
        let permits = Arc::clone(&self.effects);
        let point = failpoint::count(&kind, operation.as_ref());
        tokio::spawn(async move {
            let _permit = permits.acquire().await;
            point.before();
            let completion = perform(&*ports, kind).await;
            point.after();
            // The driver is gone only when the daemon ends.
            let _ = sender.send(Message::Done(id, completion));
        });
    }
}

async fn perform(ports: &dyn Ports, kind: EffectKind) -> Completion {
    match kind {
        EffectKind::Store(request) => Completion::Store(ports.store(request, STORE_WITHIN).await),
        EffectKind::Send { to, command } => {
            // The other side keeps the time of its part; this one waits a little longer for the answer.
            let within = command.deadline.duration() + Duration::from_secs(1);
            Completion::Send(ports.send(&to, &command, within).await)
        }
        EffectKind::Runtime(request) => Completion::Runtime(ports.runtime(request).await),
        EffectKind::Persist(fence) => Completion::Persist(ports.persist(fence).await),
        EffectKind::Routes(request) => Completion::Routes(ports.routes(request).await),
        EffectKind::Reply { .. } => unreachable!("answered by the driver"),
    }
}
