//! The ports of a simulated machine: the store and the other machines over turmoil, the rest in the shared world.

use std::time::Duration;

use async_trait::async_trait;
use io_adapters::runtime::{Exec, LogLines};
use ployzd::ports::Ports;
use proto_core::Outcome;
use proto_core::api::views::ComponentView;
use proto_core::coordination::FenceFile;
use proto_core::coordination::command::{BusError, Command, CommandReply};
use proto_core::daemon::{EffectKind, RoutesRequest};
use proto_core::id::{InstanceName, MachineId, Namespace};
use proto_core::runtime::{RuntimeError, RuntimeReply, RuntimeRequest};
use proto_core::store::{Revision, StoreError, StoreReply, StoreRequest};
use sim::invariants::Seen;
use sim::world::bus::place;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::outliving::Work;
use crate::shared::{Shared, on_behalf};
use crate::wire::{self, AskError};
use crate::{machine, store};

/// Between two looks at what changes without saying so.
const LOOK: Duration = Duration::from_millis(5);
/// Until the requests to an old backend are done.
const DRAINED: Duration = Duration::from_millis(20);

/// The ports of one run of a machine's daemon.
#[derive(Debug)]
pub(crate) struct Modelled {
    pub(crate) machine: usize,
    pub(crate) boot: u32,
    pub(crate) shared: Shared,
    pub(crate) work: mpsc::UnboundedSender<Work>,
}

#[async_trait]
impl Ports for Modelled {
    async fn store(
        &self,
        request: StoreRequest,
        within: Duration,
    ) -> Outcome<StoreReply, StoreError> {
        self.alive().await;
        let operation = match &request {
            StoreRequest::Commit { writes } => on_behalf(writes),
            StoreRequest::Read { .. } => None,
        };
        if !is_named_by_content(&request) {
            self.shared.lock().issued(self.machine, operation, EffectKind::Store(request.clone()));
        }
        let asked = wire::ask(&self.shared.net, store::HOST, store::PORT, &request);
        match timeout(within, asked).await {
            Ok(Ok(result)) => {
                let result: Result<StoreReply, StoreError> = result;
                result.map_or_else(Outcome::Failed, Outcome::Ok)
            }
            Ok(Err(AskError::NotSent(error))) => {
                Outcome::Failed(StoreError::Unavailable(error.to_string()))
            }
            Ok(Err(AskError::Lost)) | Err(_) => Outcome::Unknown,
        }
    }

    async fn send(
        &self,
        to: &MachineId,
        command: &Command,
        within: Duration,
    ) -> Outcome<CommandReply, BusError> {
        self.alive().await;
        let kind = EffectKind::Send { to: to.clone(), command: Box::new(command.clone()) };
        let operation = command.operation.clone();
        self.shared.lock().issued(self.machine, Some(operation), kind);
        let until = Instant::now() + within;
        let asked = wire::ask(&self.shared.net, to.as_str(), machine::COMMANDS, command);
        match timeout(within, asked).await {
            Ok(Ok(reply)) => Outcome::Ok(reply),
            // Turmoil refuses at once where a network that is cut would be silent.
            Ok(Err(AskError::NotSent(_))) if !self.connects(to) => {
                sleep_until(until).await;
                Outcome::Unknown
            }
            Ok(Err(AskError::NotSent(_))) => {
                Outcome::Failed(BusError::NoResponders { machine: to.clone() })
            }
            Ok(Err(AskError::Lost)) | Err(_) => Outcome::Unknown,
        }
    }

    async fn runtime(&self, request: RuntimeRequest) -> Outcome<RuntimeReply, RuntimeError> {
        if let RuntimeRequest::Settle { instance } = &request {
            self.settle(instance).await;
        }
        self.alive().await;
        let (answer, answered) = oneshot::channel();
        let work = {
            let mut state = self.shared.lock();
            let mut work = Work { machine: self.machine, request, by: None, number: None, answer };
            if let Some(instance) = work.request.mutates() {
                let command = state.bus.changing(self.machine, instance).max_by_key(|(_, by)| by.1);
                let operation = command.as_ref().map(|(operation, _)| (*operation).clone());
                work.by = command.map(|(_, by)| by);
                let change = (self.machine, self.boot, instance.clone());
                let kind = EffectKind::Runtime(work.request.clone());
                state.issued(self.machine, operation, kind);
                let number = state.number();
                state.changing.insert(number, change);
                work.number = Some(number);
            }
            work
        };
        if self.work.send(work).is_err() {
            return Outcome::Unknown;
        }
        answered.await.unwrap_or(Outcome::Unknown)
    }

    async fn persist(&self, fence: FenceFile) -> Result<(), String> {
        self.alive().await;
        let mut state = self.shared.lock();
        state.see(&Seen::Persisted { machine: self.machine, file: &fence });
        state.world.fences[self.machine] = fence;
        Ok(())
    }

    fn disk_free(&self) -> Result<u64, String> {
        Ok(50 << 30)
    }

    async fn routes(&self, request: RoutesRequest) -> Result<Option<String>, String> {
        self.alive().await;
        match request {
            RoutesRequest::Applied { namespace, at_least, within } => {
                let until = Instant::now() + within.duration();
                while self.applied(&namespace) < at_least {
                    if Instant::now() >= until {
                        return Ok(Some("the gateway is behind".to_owned()));
                    }
                    sleep(LOOK).await;
                }
            }
            RoutesRequest::Drained { within, .. } => sleep(DRAINED.min(within.duration())).await,
        }
        Ok(None)
    }

    async fn components(&self, _: Duration) -> Vec<ComponentView> {
        Vec::new()
    }

    async fn logs(
        &self,
        instance: &InstanceName,
        _: Option<u32>,
        _: bool,
    ) -> Result<LogLines, RuntimeError> {
        Err(RuntimeError::NoSuchInstance { instance: instance.clone() })
    }

    async fn exec(&self, instance: &InstanceName, _: &[String]) -> Result<Exec, RuntimeError> {
        Err(RuntimeError::NoSuchInstance { instance: instance.clone() })
    }
}

/// A batch that only stores immutable values under the names of their digests does not say on whose behalf it is.
fn is_named_by_content(request: &StoreRequest) -> bool {
    match request {
        StoreRequest::Commit { writes } => writes.iter().all(|write| write.expect.is_none()),
        StoreRequest::Read { .. } => false,
    }
}

impl Modelled {
    /// What is left of a daemon that died comes to an end here. On turmoil nothing is left of it; in the tier with paused time its tasks
    /// are, and nobody can tell.
    async fn alive(&self) {
        if self.shared.lock().boots[self.machine] != self.boot {
            std::future::pending().await
        }
    }

    /// Whether the link to that machine is whole.
    fn connects(&self, to: &MachineId) -> bool {
        let state = self.shared.lock();
        let to = place(&state.world.machines, to);
        to.is_some_and(|to| state.world.network.connects(self.machine, to))
    }

    fn applied(&self, namespace: &Namespace) -> Revision {
        self.shared.lock().world.gateways[self.machine].applied(Some(namespace))
    }

    /// Waits until nothing that an earlier run of the daemon asked for can still change this instance.
    async fn settle(&self, instance: &InstanceName) {
        let earlier = |(machine, boot, name): &(usize, u32, InstanceName)| {
            *machine == self.machine && *boot < self.boot && name == instance
        };
        while self.shared.lock().changing.values().any(earlier) {
            sleep(LOOK).await;
        }
    }
}
