//! The ports of a real machine: the store and the other machines by NATS, the runtime that the configuration names, gateway and DNS by
//! their control sockets, the fence on disk.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use io_adapters::control::{self, ControlError};
use io_adapters::files;
use io_adapters::nats::{self, Bus, Link, LinkState, Store};
use io_adapters::runtime::{Exec, LogLines};
use proto_core::Outcome;
use proto_core::api::views::ComponentView;
use proto_core::coordination::FenceFile;
use proto_core::coordination::command::{BusError, Command, CommandReply};
use proto_core::daemon::RoutesRequest;
use proto_core::id::{InstanceName, MachineId};
use proto_core::runtime::{RuntimeError, RuntimeReply, RuntimeRequest};
use proto_core::services::Component;
use proto_core::store::{StoreError, StoreReply, StoreRequest};

use crate::ports::Ports;
use crate::runtime::Runtime;
use crate::sidecars::Sidecars;

/// What runs on this machine, and the ways to the others.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    pub(crate) link: Link,
    pub(crate) runtime: Runtime,
    pub(crate) sidecars: Arc<Sidecars>,
    pub(crate) fence_file: PathBuf,
    /// The control sockets.
    pub(crate) gateway: PathBuf,
    pub(crate) dns: PathBuf,
}

#[async_trait]
impl Ports for Parts {
    async fn store(
        &self,
        request: StoreRequest,
        within: Duration,
    ) -> Outcome<StoreReply, StoreError> {
        self.store.execute(request, within).await
    }

    async fn send(
        &self,
        to: &MachineId,
        command: &Command,
        within: Duration,
    ) -> Outcome<CommandReply, BusError> {
        let payload = serde_json::to_vec(command).expect("commands are plain JSON");
        match self.bus.request(to, payload, within).await {
            Outcome::Ok(reply) => match serde_json::from_slice(&reply) {
                Ok(reply) => Outcome::Ok(reply),
                Err(error) => {
                    tracing::error!(%error, machine = %to, "an answer cannot be read");
                    Outcome::Unknown
                }
            },
            Outcome::Failed(nats::BusError::NoResponders(machine)) => {
                Outcome::Failed(BusError::NoResponders { machine })
            }
            Outcome::Failed(error) => {
                Outcome::Failed(BusError::Unavailable { detail: error.to_string() })
            }
            Outcome::Stale => Outcome::Stale,
            Outcome::Unknown => Outcome::Unknown,
        }
    }

    async fn runtime(&self, request: RuntimeRequest) -> Outcome<RuntimeReply, RuntimeError> {
        let mut outcome = self.runtime.execute(request).await;
        // The runtime's disk may be another one than that of the daemon and the store's server, which need room too.
        if let Outcome::Ok(RuntimeReply::Facts(facts)) = &mut outcome {
            match self.disk_free() {
                Ok(free) => facts.disk_free_bytes = facts.disk_free_bytes.min(free),
                Err(error) => tracing::warn!(error, "the free space of the data directory"),
            }
        }
        outcome
    }

    fn disk_free(&self) -> Result<u64, String> {
        files::disk_free(&self.fence_file).map_err(|error| error.to_string())
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

    async fn components(&self, within: Duration) -> Vec<ComponentView> {
        futures::future::join_all(Component::ALL.map(|component| self.seen(component, within)))
            .await
    }

    async fn logs(
        &self,
        instance: &InstanceName,
        tail: Option<u32>,
        follow: bool,
    ) -> Result<LogLines, RuntimeError> {
        self.runtime.logs(instance, tail, follow).await
    }

    async fn exec(
        &self,
        instance: &InstanceName,
        command: &[String],
    ) -> Result<Exec, RuntimeError> {
        self.runtime.exec(instance, command).await
    }
}

impl Parts {
    async fn seen(&self, component: Component, within: Duration) -> ComponentView {
        let pid = self.sidecars.running().get(&component).map(|process| process.pid);
        let state = if pid.is_some() { "running" } else { "down" };
        let mut view = ComponentView {
            name: component.to_string(),
            pid,
            state: state.to_owned(),
            applied: None,
            stale: false,
            detail: None,
        };
        if component == Component::Nats {
            if let LinkState::Down { reason } = self.link.state() {
                view.detail = Some(reason);
            }
            return view;
        }
        let socket = if component == Component::Gateway { &self.gateway } else { &self.dns };
        match control::status(socket, within).await {
            Ok(status) => {
                view.applied = Some(status.projection.applied.0);
                view.stale = status.projection.stale.is_some();
                view.detail = Some(status.listen.join(", "));
            }
            Err(error) => view.detail = Some(error.to_string()),
        }
        view
    }
}

fn addresses(backends: &[SocketAddr]) -> String {
    backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
