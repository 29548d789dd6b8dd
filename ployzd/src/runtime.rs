//! The runtime that the configuration names, behind one type.

use std::ffi::OsString;
use std::path::PathBuf;

use io_adapters::docker::{Docker, DockerConfig};
use io_adapters::process::{Processes, Supervisor};
use io_adapters::runtime::{Exec, LogLines};
use proto_core::Outcome;
use proto_core::id::InstanceName;
use proto_core::runtime::{RuntimeError, RuntimeReply, RuntimeRequest};

use crate::config::{Config, Runtime as Kind};

/// What runs instances on this machine.
#[derive(Debug, Clone)]
pub(crate) enum Runtime {
    Docker(Docker),
    Process(Processes),
}

impl Runtime {
    pub(crate) fn new(config: &Config, program: PathBuf) -> Self {
        match &config.runtime {
            Kind::Docker { socket, .. } => {
                let (_, id) = config.cluster();
                let mut docker = DockerConfig::new(id);
                docker.socket = socket.clone();
                docker.dns = config.container_dns();
                Self::Docker(Docker::new(docker))
            }
            Kind::Process { .. } => {
                let arguments = vec![OsString::from("supervise")];
                Self::Process(Processes::new(
                    config.data_dir.clone(),
                    Supervisor { program, arguments },
                ))
            }
        }
    }

    /// Makes what instances need before there is one, and takes up what an earlier daemon left.
    pub(crate) async fn prepare(&self, config: &Config) -> Result<(), RuntimeError> {
        match (self, &config.runtime) {
            (Self::Docker(docker), Kind::Docker { subnet, .. }) => {
                docker.ensure_network(&format!("{subnet}/24")).await.map(drop)
            }
            (Self::Process(processes), _) => processes.resume().await.map(drop),
            (Self::Docker(_), Kind::Process { .. }) => {
                unreachable!("made from the same configuration")
            }
        }
    }

    /// Takes back what [`Self::prepare`] made, once no instance is left.
    pub(crate) async fn dismantle(&self) -> Result<(), RuntimeError> {
        match self {
            Self::Docker(docker) => docker.remove_network().await,
            Self::Process(_) => Ok(()),
        }
    }

    pub(crate) async fn execute(
        &self,
        request: RuntimeRequest,
    ) -> Outcome<RuntimeReply, RuntimeError> {
        match self {
            Self::Docker(docker) => docker.execute(request).await,
            Self::Process(processes) => processes.execute(request).await,
        }
    }

    pub(crate) async fn logs(
        &self,
        instance: &InstanceName,
        tail: Option<u32>,
        follow: bool,
    ) -> Result<LogLines, RuntimeError> {
        match self {
            Self::Docker(docker) => docker.logs(instance, tail, follow).await,
            Self::Process(processes) => processes.logs(instance, tail, follow).await,
        }
    }

    pub(crate) async fn exec(
        &self,
        instance: &InstanceName,
        command: &[String],
    ) -> Result<Exec, RuntimeError> {
        match self {
            Self::Docker(docker) => docker.exec(instance, command, false).await,
            Self::Process(processes) => processes.exec(instance, command, false).await,
        }
    }
}
