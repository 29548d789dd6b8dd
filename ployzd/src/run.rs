//! The daemon: takes its lock, opens its API, adopts what runs, founds the facts, serves until it is told to end.

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use io_adapters::files;
use io_adapters::nats::{Bus, Credentials, Incomings, Link, Replier, Store};
use io_adapters::process::ProcessIdentity;
use proto_core::Outcome;
use proto_core::api::views::Workloads;
use proto_core::coordination::command::CommandReply;
use proto_core::coordination::participant::FenceFile;
use proto_core::daemon::{Node, NodeConfig};
use proto_core::machine::{Addressing, MachineLifecycle, MachineRecord};
use proto_core::store::facts::{Cluster, VERSION};
use proto_core::store::{Facts, Key, Revision, StoreError, StoreReply, StoreRequest, Write};

use crate::api::{self, About, Api};
use crate::clock::Clock;
use crate::config::{Config, Runtime as RuntimeConfig};
use crate::driver;
use crate::events::Events;
use crate::failpoint;
use crate::init::random_hex;
use crate::parts::Parts;
use crate::runtime::Runtime;
use crate::sidecars::Sidecars;

/// Between two attempts of something that the start needs and the machine does not give yet.
const RETRY: Duration = Duration::from_millis(500);
const STORE_WITHIN: Duration = Duration::from_secs(5);

/// `ployzd run`. 2: the configuration or the data directory is not fit to start with.
pub(crate) fn run(path: &Path) -> ExitCode {
    let prepared = Config::load(path).and_then(|config| {
        let fence = load_fence(&config)?;
        let lock = lock(&config)?;
        Ok((config, fence, lock))
    });
    let (config, fence, _lock) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::error!("{error:#}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build();
    let result =
        runtime.context("no threads").and_then(|runtime| runtime.block_on(serve(config, fence)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How long a lock is waited for: what a killed daemon was about to start has its files open until it runs a program of its own.
const LOCK_WITHIN: Duration = Duration::from_secs(1);

/// Only one daemon may own a data directory.
fn lock(config: &Config) -> anyhow::Result<std::fs::File> {
    let path = config.path("ployzd.lock");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("{} cannot be opened", path.display()))?;
    let begun = Instant::now();
    while let Err(error) = file.try_lock() {
        if begun.elapsed() > LOCK_WITHIN {
            bail!("another ployzd runs on {} ({error})", config.data_dir.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let own =
        ProcessIdentity::of(std::process::id())?.context("/proc does not show this process")?;
    let record = serde_json::json!({
        "pid": own.pid,
        "start_time": own.start_time,
        "boot_id": own.boot_id,
        "program": std::env::current_exe().context("the daemon's own program cannot be found")?,
        "socket": config.socket,
    });
    // Whoever finds the lock without the socket learns from it whose it is.
    file.set_len(0)
        .and_then(|()| file.write_all(record.to_string().as_bytes()))
        .with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(file)
}

fn load_fence(config: &Config) -> anyhow::Result<FenceFile> {
    let path = config.path("fence.json");
    let bytes = files::read(&path)
        .with_context(|| format!("{} cannot be read", path.display()))?
        .with_context(|| {
            format!(
                "{} is gone: this machine cannot tell old commands from new ones and must join under a new id",
                path.display()
            )
        })?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))
}

async fn serve(config: Config, fence: FenceFile) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("the daemon's own program cannot be found")?;
    let clock = Clock::system();
    let events = Arc::new(Events::new(clock));
    let listener = api::listen(&config.socket)?;
    let coordinator = open(&config, "coordinator")?;
    let participant = open(&config, "participant")?;
    let store = Store::new(coordinator.clone());
    let runtime = Runtime::new(&config, program.clone());
    let sidecars = Arc::new(Sidecars::new(config.clone(), program, clock, Arc::clone(&events)));
    let seed = u64::from_str_radix(&random_hex(8)?, 16).context("hexadecimal digits were drawn")?;
    let node = Node::new(NodeConfig {
        machine: config.machine.id.clone(),
        runtime: config.runtime.name().to_owned(),
        seed,
        fence,
    });
    let ports = Arc::new(Parts {
        store: store.clone(),
        bus: Bus::new(coordinator.clone()),
        link: coordinator.clone(),
        runtime: runtime.clone(),
        sidecars: Arc::clone(&sidecars),
        fence_file: config.path("fence.json"),
        gateway: config.control_socket("gateway"),
        dns: config.control_socket("dns"),
    });
    let driver = driver::start(node, ports.clone(), clock, Arc::clone(&events));
    let (stop, mut stopped) = tokio::sync::mpsc::channel(1);
    let (cluster, cluster_id) = config.cluster();
    let api = Arc::new(Api {
        about: About {
            cluster: cluster.to_owned(),
            cluster_id: cluster_id.to_owned(),
            machine: config.machine.id.clone(),
            runtime: config.runtime.name().to_owned(),
            data_dir: config.data_dir.clone(),
        },
        driver: driver.clone(),
        ports,
        events: Arc::clone(&events),
        clock,
        stop,
    });
    let server = tokio::spawn(api::serve(listener, Arc::clone(&api)));
    sidecars.keep();
    let incoming = Bus::new(participant).serve(&config.machine.id);
    let mut listening = incoming.listening();
    tokio::spawn(take_commands(incoming, driver.clone()));
    let founding = (coordinator, store, runtime.clone(), config.clone(), Arc::clone(&events));
    tokio::spawn(async move {
        let (coordinator, store, runtime, config, events) = founding;
        found(coordinator, store, runtime, config, &events).await;
        // An operation that is asked for now needs the machine's answers. It fails only with the runtime.
        if listening.wait_for(|listening| *listening).await.is_ok() {
            events.publish("READY", "daemon", "store and runtime are there");
        }
    });
    let request = tokio::select! {
        request = stopped.recv() => request.unwrap_or_default(),
        () = crate::roles::terminated()? => api::Shutdown::default(),
    };
    tracing::info!(
        data_plane = request.data_plane,
        workloads = ?request.workloads,
        "the daemon ends"
    );
    driver.shutdown().await;
    match request.workloads {
        Workloads::Keep => {}
        Workloads::Stop => api.stop_instances().await?,
        Workloads::Remove => {
            api.remove_instances().await?;
            runtime.dismantle().await?;
        }
    }
    if request.data_plane {
        sidecars.stop().await?;
    }
    match std::fs::remove_file(&config.socket) {
        // Somebody else did.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        removed => {
            removed.with_context(|| format!("{} cannot be removed", config.socket.display()))?
        }
    }
    server.abort();
    Ok(())
}

fn open(config: &Config, user: &str) -> anyhow::Result<Link> {
    let credentials = Credentials::load(&config.credentials(user))?;
    let address = failpoint::nats_address(config.nats_address());
    Ok(Link::open(address, credentials, format!("ployzd-{user}")))
}

/// Takes the commands of this machine.
async fn take_commands(mut incoming: Incomings, driver: driver::Handle) {
    while let Some(request) = incoming.next().await {
        match serde_json::from_slice(&request.payload) {
            Ok(command) => {
                // Before the next one is taken.
                let reply = driver.command(command);
                tokio::spawn(answer(reply, request.replier));
            }
            // Whoever sent it waits until its timeout: there is nothing true to say to what is no command.
            Err(error) => tracing::warn!(%error, "a command cannot be read"),
        }
    }
}

async fn answer(reply: impl Future<Output = Option<CommandReply>>, replier: Replier) {
    let Some(reply) = reply.await else { return };
    let payload = serde_json::to_vec(&reply).expect("replies are plain JSON");
    if let Err(error) = replier.reply(payload).await {
        tracing::warn!(%error, "a command could not be answered");
    }
}

/// The file that says that the cluster's facts were written once. From then on they are never made anew: a store without them has
/// lost them, with everything that was deployed.
const FOUNDED: &str = "founded";

/// Makes the bucket, the facts of a new cluster and the runtime's network, as soon as that can be done.
async fn found(link: Link, store: Store, runtime: Runtime, config: Config, events: &Events) {
    let mut told = String::new();
    loop {
        let result = try_found(&link, &store, &runtime, &config, events).await;
        let Err(error) = result else { return };
        let error = format!("{error:#}");
        if error != told {
            events.publish("NOT_READY", "daemon", error.clone());
            told = error;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn try_found(
    link: &Link,
    store: &Store,
    runtime: &Runtime,
    config: &Config,
    events: &Events,
) -> anyhow::Result<()> {
    link.up(Duration::from_secs(30))
        .await
        .map_err(|error| anyhow::anyhow!("the store: {error}"))?;
    let (name, id) = config.cluster();
    if !config.path(FOUNDED).exists() {
        write_facts(store, config).await?;
        files::write_atomic(&config.path(FOUNDED), format!("{name} {id}\n").as_bytes(), 0o600)?;
    }
    let request = StoreRequest::Read { prefixes: vec![Key::cluster(), Key::operations()] };
    let facts = match store.execute(request, STORE_WITHIN).await {
        Outcome::Ok(StoreReply::Entries(entries)) => Facts::parse(&entries)?,
        Outcome::Failed(error) => bail!("the store does not answer a read: {error}"),
        _ => bail!("the store does not answer a read"),
    };
    match &facts.cluster {
        Some(there) if there.value.id == id => {}
        Some(there) => bail!("the store holds the facts of another cluster, {}", there.value.id),
        None => bail!(
            "the store has lost the facts of cluster {name}: put back the files below {}, or begin anew with \
             `ployzctl dev destroy --force`; what runs is left alone",
            config.path("nats").display()
        ),
    }
    for record in facts.operations.values().map(|op| &op.value) {
        if !record.phase.is_final() && record.coordinator == config.machine.id {
            let message = format!(
                "operation {} ({}) was interrupted while {}: ployzctl op resume {0}",
                record.id, record.summary, record.phase
            );
            events.publish("OPERATION_INTERRUPTED", "daemon", message);
        }
    }
    runtime.prepare(config).await?;
    Ok(())
}

/// Writes what every cluster has from its beginning, where it is not there yet.
async fn write_facts(store: &Store, config: &Config) -> anyhow::Result<()> {
    store.ensure_bucket(STORE_WITHIN).await?;
    let (name, id) = config.cluster();
    let cluster = Cluster {
        v: VERSION,
        name: name.to_owned(),
        id: id.to_owned(),
        incarnation: 1,
        created: Clock::system().wall(),
    };
    let machine = MachineRecord {
        v: VERSION,
        id: config.machine.id.clone(),
        lifecycle: MachineLifecycle::Active,
        region: config.machine.region.clone(),
        az: None,
        labels: std::collections::BTreeMap::new(),
        addressing: match config.runtime {
            RuntimeConfig::Docker { subnet, .. } => Addressing::Subnet(subnet),
            RuntimeConfig::Process { first_port, last_port } => {
                Addressing::Loopback { first: first_port, last: last_port }
            }
        },
    };
    create(store, Key::cluster(), serde_json::to_value(&cluster)?).await?;
    create(store, Key::machine(&machine.id), serde_json::to_value(&machine)?).await
}

/// Writes a fact unless it is there. What is lost on the way is asked for again by the caller's next try.
async fn create(store: &Store, key: Key, value: serde_json::Value) -> anyhow::Result<()> {
    let name = key.clone();
    let write = Write { key, value, expect: Some(Revision::ABSENT), ttl: None };
    match store.execute(StoreRequest::Commit { writes: vec![write] }, STORE_WITHIN).await {
        Outcome::Ok(_) | Outcome::Failed(StoreError::Conflict) => Ok(()),
        Outcome::Failed(error) => bail!("{name} cannot be written: {error}"),
        Outcome::Stale | Outcome::Unknown => bail!("whether {name} was written is not known"),
    }
}
