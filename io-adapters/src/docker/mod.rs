//! Containers of a Docker engine: one request, I/O, one answer.
//!
//! Only containers that carry this cluster's label are ever listed or touched. An instance is found by the name of its
//! container, `ployz-<cluster>-<instance>`, and its labels are compared before anything is done to it; what is done is then
//! addressed to the container's id, so that a container that takes the name meanwhile is not hit. The address is static,
//! so it survives restarts, and Docker's own restart policy keeps the instance running while `ployzd` is away.
//!
//! What is answered when something goes wrong:
//!
//! | what happened | answer |
//! |---|---|
//! | no socket, no permission, nobody listens | `Failed(Unavailable)`: nothing was sent |
//! | the engine answered with an error | `Failed`, with the reason that its text tells |
//! | the request was sent and no answer came, and it changes something | `Unknown` |
//! | the same, and it only looks | `Failed(Unavailable)` |

mod connections;
mod container;
mod error;
mod network;
mod observe;
mod settle;
mod stream;

pub use network::TakenSubnet;

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, ClientVersion};
use futures::{StreamExt as _, TryStreamExt as _};
use proto_core::Outcome;
use proto_core::digest::Digest;
use proto_core::id::{InstanceName, Namespace};
use proto_core::runtime::{
    InstanceSpec, ObservedInstance, Probe, RuntimeError, RuntimeFacts, RuntimeReply, RuntimeRequest,
};

use error::{Answer, Trouble, looking, mutating};

/// How long the engine may take for what it does at once, in seconds.
const PROMPT: u64 = 30;
/// How long it may take beyond a grace period, and to make or remove a container on a busy disk.
const PATIENT: u64 = 120;

/// Where the engine is and whose containers are looked at.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The engine's socket.
    pub socket: PathBuf,
    /// The cluster's id. Containers of other clusters, and of nobody, are invisible.
    pub cluster: String,
    /// The DNS server that containers on the cluster's network ask, `None` for the engine's choice.
    pub dns: Option<Ipv4Addr>,
}

impl DockerConfig {
    /// The engine on its usual socket.
    #[must_use]
    pub fn new(cluster: impl Into<String>) -> Self {
        Self { socket: "/var/run/docker.sock".into(), cluster: cluster.into(), dns: None }
    }
}

/// A Docker engine. Cheap to clone; holds no connection between requests.
#[derive(Debug, Clone)]
pub struct Docker {
    config: Arc<DockerConfig>,
    short: Arc<str>,
    version: Arc<Mutex<Option<(usize, usize)>>>,
}

impl Docker {
    /// Connects lazily: an engine that is away shows with the first request.
    #[must_use]
    pub fn new(config: DockerConfig) -> Self {
        let short = Digest::of_bytes(config.cluster.as_bytes()).to_string()[..8].into();
        Self { config: Arc::new(config), short, version: Arc::default() }
    }

    /// Does what is asked, once.
    pub async fn execute(&self, request: RuntimeRequest) -> Outcome<RuntimeReply, RuntimeError> {
        let answer = match request {
            RuntimeRequest::Inspect { instance } => {
                self.inspect(&instance).await.map(RuntimeReply::Instance)
            }
            RuntimeRequest::List { namespace } => {
                self.list(namespace.as_ref()).await.map(RuntimeReply::Instances)
            }
            RuntimeRequest::Create { spec } => self.create(&spec).await,
            RuntimeRequest::Start { instance } => self.start(&instance).await,
            RuntimeRequest::Stop { instance, grace } => {
                self.stop(&instance, grace.duration()).await
            }
            RuntimeRequest::Remove { instance } => self.remove(&instance).await,
            RuntimeRequest::Probe { instance, address, probe, port, timeout } => {
                let limit = timeout.duration();
                match probe {
                    Probe::Http { path, .. } => {
                        Ok(crate::probe::http(address, port, &path, limit).await)
                    }
                    Probe::Tcp { .. } => Ok(crate::probe::tcp(address, port, limit).await),
                    Probe::Exec { command } => self.probe_exec(&instance, &command, limit).await,
                }
                .map(RuntimeReply::Probed)
            }
            RuntimeRequest::Logs { instance, tail } => {
                self.tail(&instance, tail).await.map(RuntimeReply::Logs)
            }
            RuntimeRequest::Settle { instance } => self.settle(&instance).await,
            RuntimeRequest::Facts { images, ports } => {
                self.facts(images, ports).await.map(RuntimeReply::Facts)
            }
        };
        match answer {
            Ok(reply) => Outcome::Ok(reply),
            Err(Trouble::Failed(error)) => Outcome::Failed(error),
            Err(Trouble::Unknown) => Outcome::Unknown,
        }
    }

    /// The name of the container of an instance.
    #[must_use]
    pub fn container_name(&self, instance: &InstanceName) -> String {
        format!("ployz-{}-{instance}", self.short)
    }

    async fn inspect(&self, instance: &InstanceName) -> Answer<Option<ObservedInstance>> {
        match self.find(instance).await? {
            Found::Ours(container) => observe::instance(&container).map(Some),
            Found::Foreign | Found::Absent => Ok(None),
        }
    }

    async fn list(&self, namespace: Option<&Namespace>) -> Answer<Vec<ObservedInstance>> {
        let mut labels = vec![format!("{}={}", container::CLUSTER, self.config.cluster)];
        if let Some(namespace) = namespace {
            labels.push(format!("{}={namespace}", container::NAMESPACE));
        }
        let filters = std::collections::HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let client = self.client(PROMPT).await?;
        let listed = client.list_containers(Some(options)).await.map_err(looking)?;
        let ids = listed.into_iter().filter_map(|container| container.id);
        // A listing lacks exit code and start; the engine is asked for eight containers at a time.
        let mut found: Vec<_> = futures::stream::iter(ids.map(|id| {
            let client = client.clone();
            async move {
                match client.inspect_container(&id, None).await {
                    Ok(container) => observe::instance(&container).map(Some),
                    Err(error) if error::status(&error) == Some(404) => Ok(None),
                    Err(error) => Err(looking(error)),
                }
            }
        }))
        .buffer_unordered(8)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await?;
        found.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        Ok(found)
    }

    /// Makes and starts. A container that could not be started is not left behind.
    async fn create(&self, spec: &InstanceSpec) -> Answer<RuntimeReply> {
        let body = self.container(spec)?;
        let client = self.client(PATIENT).await?;
        let name = self.container_name(&spec.name);
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let id = client
            .create_container(Some(options), body)
            .await
            .map_err(|error| mutating(error, |status, text| error::of_create(spec, status, text)))?
            .id;
        let Err(trouble) = Self::start_container(&client, &id).await else {
            return Ok(RuntimeReply::Done);
        };
        if trouble == Trouble::Unknown {
            return Err(trouble);
        }
        match Self::remove_container(&client, &id).await {
            Ok(()) => Err(trouble),
            // "Failed" promises that nothing is there.
            Err(_) => Err(Trouble::Unknown),
        }
    }

    async fn start(&self, instance: &InstanceName) -> Answer<RuntimeReply> {
        let id = self.ours(instance).await?;
        Self::start_container(&self.client(PATIENT).await?, &id).await?;
        Ok(RuntimeReply::Done)
    }

    async fn stop(&self, instance: &InstanceName, grace: Duration) -> Answer<RuntimeReply> {
        let Found::Ours(container) = self.find(instance).await? else {
            return Ok(RuntimeReply::Done);
        };
        // Docker counts in whole seconds.
        let seconds = grace.as_millis().div_ceil(1000);
        let client = self.client(PATIENT + u64::try_from(seconds).unwrap_or(u64::MAX / 2)).await?;
        let options = StopContainerOptionsBuilder::new()
            .t(i32::try_from(seconds).unwrap_or(i32::MAX))
            .build();
        match client.stop_container(&observe::id(&container)?, Some(options)).await {
            Ok(()) => Ok(RuntimeReply::Done),
            Err(error) if error::status(&error) == Some(404) => Ok(RuntimeReply::Done),
            Err(error) => Err(mutating(error, |_, text| error::other(text))),
        }
    }

    async fn remove(&self, instance: &InstanceName) -> Answer<RuntimeReply> {
        if let Found::Ours(container) = self.find(instance).await? {
            Self::remove_container(&self.client(PATIENT).await?, &observe::id(&container)?).await?;
        }
        Ok(RuntimeReply::Done)
    }

    async fn start_container(client: &bollard::Docker, id: &str) -> Answer<()> {
        client
            .start_container(id, None)
            .await
            .map_err(|error| mutating(error, |_, text| error::of_start(text)))
    }

    async fn remove_container(client: &bollard::Docker, id: &str) -> Answer<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match client.remove_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if error::status(&error) == Some(404) => Ok(()),
            // Somebody else is removing it already: done when that is done.
            Err(error) if error::status(&error) == Some(409) => Self::removed(client, id).await,
            Err(error) => Err(mutating(error, |_, text| error::other(text))),
        }
    }

    /// Waits until a container that is being removed is gone.
    async fn removed(client: &bollard::Docker, id: &str) -> Answer<()> {
        let options = WaitContainerOptionsBuilder::new().condition("removed").build();
        let mut waited = client.wait_container(id, Some(options));
        match tokio::time::timeout(Duration::from_secs(PATIENT), waited.next()).await {
            Ok(
                None | Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })),
            ) => Ok(()),
            Ok(Some(Err(error))) if error::status(&error) == Some(404) => Ok(()),
            Ok(Some(Err(_))) | Err(_) => Err(Trouble::Unknown),
        }
    }

    async fn facts(&self, images: Vec<String>, ports: Vec<u16>) -> Answer<RuntimeFacts> {
        let client = self.client(PROMPT).await?;
        let info = client.info().await.map_err(looking)?;
        let root = info.docker_root_dir.unwrap_or_else(|| "/".to_owned());
        let mut facts = RuntimeFacts {
            cpu_total_millis: u32::try_from(info.ncpu.unwrap_or(0)).unwrap_or(0) * 1000,
            memory_total_bytes: u64::try_from(info.mem_total.unwrap_or(0)).unwrap_or(0),
            disk_free_bytes: crate::files::disk_free(std::path::Path::new(&root))
                .map_err(|error| Trouble::Failed(error::other(&format!("{root}: {error}"))))?,
            ..RuntimeFacts::default()
        };
        for image in images {
            match client.inspect_image(&image).await {
                Ok(_) => facts.images_present.push(image),
                Err(error) if matches!(error::status(&error), Some(400 | 404)) => {}
                Err(error) => return Err(looking(error)),
            }
        }
        if !ports.is_empty() {
            let options = ListContainersOptionsBuilder::new().build();
            let running = client.list_containers(Some(options)).await.map_err(looking)?;
            let published: Vec<_> = running
                .into_iter()
                .flat_map(|container| container.ports.unwrap_or_default())
                .filter_map(|port| port.public_port)
                .collect();
            facts.ports_taken = ports
                .into_iter()
                .filter(|&port| published.contains(&port) || port_taken(port))
                .collect();
        }
        Ok(facts)
    }

    /// The id of the instance's container.
    async fn ours(&self, instance: &InstanceName) -> Answer<String> {
        match self.find(instance).await? {
            Found::Ours(container) => observe::id(&container),
            Found::Foreign | Found::Absent => {
                Err(Trouble::Failed(RuntimeError::NoSuchInstance { instance: instance.clone() }))
            }
        }
    }

    async fn find(&self, instance: &InstanceName) -> Answer<Found> {
        let client = self.client(PROMPT).await?;
        match client.inspect_container(&self.container_name(instance), None).await {
            Ok(container) => {
                let label = |key| observe::label(&container, key);
                let ours = label(container::CLUSTER) == Some(&self.config.cluster)
                    && label(container::INSTANCE) == Some(instance.as_str());
                Ok(if ours { Found::Ours(Box::new(container)) } else { Found::Foreign })
            }
            Err(error) if error::status(&error) == Some(404) => Ok(Found::Absent),
            Err(error) => Err(looking(error)),
        }
    }

    /// A client that gives up waiting for an answer after `seconds`.
    async fn client(&self, seconds: u64) -> Answer<bollard::Docker> {
        let socket = self.config.socket.to_string_lossy();
        let known = *self.version.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let version = known.map_or(*API_DEFAULT_VERSION, |(major_version, minor_version)| {
            ClientVersion { major_version, minor_version }
        });
        let client = bollard::Docker::connect_with_unix(&socket, seconds, &version)
            .map_err(|error| error::unavailable(&format!("{socket}: {error}")))?;
        if known.is_some() {
            return Ok(client);
        }
        let client = client.negotiate_version().await.map_err(looking)?;
        let version = client.client_version();
        *self.version.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some((version.major_version, version.minor_version));
        Ok(client)
    }
}

enum Found {
    Ours(Box<ContainerInspectResponse>),
    Foreign,
    Absent,
}

/// Whether something listens on a TCP port of this machine, on any of its addresses.
pub(crate) fn port_taken(port: u16) -> bool {
    let taken = |bound: std::io::Result<TcpListener>| {
        bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    };
    taken(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        || taken(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))
}
