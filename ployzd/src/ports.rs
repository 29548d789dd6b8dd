//! What a daemon needs of its machine and of the others. `parts` has the real ones, the simulator's daemon tier has models.

use std::time::Duration;

use async_trait::async_trait;
use io_adapters::runtime::{Exec, LogLines};
use proto_core::Outcome;
use proto_core::api::views::ComponentView;
use proto_core::coordination::FenceFile;
use proto_core::coordination::command::{BusError, Command, CommandReply};
use proto_core::daemon::RoutesRequest;
use proto_core::id::{InstanceName, MachineId};
use proto_core::runtime::{RuntimeError, RuntimeReply, RuntimeRequest};
use proto_core::store::{StoreError, StoreReply, StoreRequest};

/// Everything that driver and API reach outside of the daemon. Dropping a future gives up on the answer, and takes nothing back.
#[async_trait]
pub trait Ports: std::fmt::Debug + Send + Sync {
    /// Asks the store. No answer within this time is [`Outcome::Unknown`].
    async fn store(
        &self,
        request: StoreRequest,
        within: Duration,
    ) -> Outcome<StoreReply, StoreError>;

    /// Sends a command to a machine, which may be this one, and waits for its answer.
    async fn send(
        &self,
        to: &MachineId,
        command: &Command,
        within: Duration,
    ) -> Outcome<CommandReply, BusError>;

    /// Asks this machine's runtime.
    async fn runtime(&self, request: RuntimeRequest) -> Outcome<RuntimeReply, RuntimeError>;

    /// Writes and syncs the fence file. `Err`: why it could not be written.
    async fn persist(&self, fence: FenceFile) -> Result<(), String>;

    /// Free bytes of the disk that holds the fence and whatever else the daemon keeps. `Err`: why nobody knows.
    fn disk_free(&self) -> Result<u64, String>;

    /// Asks this machine's gateway and DNS server. `Ok` with a note if there is something to say; `Err` if they did not answer.
    async fn routes(&self, request: RoutesRequest) -> Result<Option<String>, String>;

    /// How the parts of the machine that outlive the daemon are; each is asked for at most `within`.
    async fn components(&self, within: Duration) -> Vec<ComponentView>;

    /// What an instance wrote: see [`io_adapters::runtime::Runtime::logs`].
    async fn logs(
        &self,
        instance: &InstanceName,
        tail: Option<u32>,
        follow: bool,
    ) -> Result<LogLines, RuntimeError>;

    /// Runs a command in an instance's environment.
    async fn exec(&self, instance: &InstanceName, command: &[String])
    -> Result<Exec, RuntimeError>;
}
