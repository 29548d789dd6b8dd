//! Founding a cluster on this machine: everything that is drawn once is drawn and written here; nothing is started.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use io_adapters::files;
use io_adapters::nats::Credentials;
use proto_core::id::MachineId;

use crate::config::{Cluster, Config, Dns, Listener, Machine, Nats, Runtime};

/// What `ployzd init` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// The cluster's name.
    #[arg(long)]
    name: String,
    /// Where the daemon keeps everything.
    #[arg(long)]
    data_dir: PathBuf,
    /// Where the API listens; default: `ployzd.sock` in the data directory.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// What runs instances.
    #[arg(long, value_enum, default_value = "docker")]
    runtime: RuntimeArg,
    /// The Docker engine's socket.
    #[arg(long, default_value = "/var/run/docker.sock")]
    docker_socket: PathBuf,
    /// The /24 of the instances' addresses.
    #[arg(long, default_value = "10.101.0.0")]
    subnet: Ipv4Addr,
    /// The first and last port of instances in the process runtime.
    #[arg(long, value_parser = port_range, default_value = "21000-29999")]
    ports: (u16, u16),
    /// Where the gateway listens.
    #[arg(long, default_value = "127.0.0.1:8080")]
    gateway_listen: Vec<SocketAddr>,
    /// Where the DNS server listens.
    #[arg(long, default_value = "127.0.0.1:5353")]
    dns_listen: Vec<SocketAddr>,
    /// The port of the store's server on 127.0.0.1.
    #[arg(long, default_value_t = io_adapters::nats::server::DEFAULT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    nats_port: u16,
    /// The nats-server program; default: the one in PATH.
    #[arg(long)]
    nats_server: Option<PathBuf>,
    /// The machine's id; default: drawn.
    #[arg(long)]
    machine: Option<MachineId>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RuntimeArg {
    Docker,
    Process,
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').ok_or("two ports joined by '-' are wanted")?;
    let parse = |t: &str| t.parse::<u16>().map_err(|error| format!("{t}: {error}"));
    let (first, last) = (parse(first)?, parse(last)?);
    if first < last {
        Ok((first, last))
    } else {
        Err("the first must be below the last".to_owned())
    }
}

/// Writes configuration and keys. Refuses if there is a cluster already.
pub(crate) fn init(args: InitArgs) -> anyhow::Result<()> {
    let path = args.data_dir.join("ployzd.toml");
    if path.exists() {
        bail!("{} is there already: this machine belongs to a cluster", path.display());
    }
    let nats_server = match args.nats_server {
        Some(path) => path,
        None => in_path("nats-server").context(
            "nats-server is not in PATH: install it (2.12 or newer), or name it with --nats-server",
        )?,
    };
    let id = random_hex(8)?;
    let machine = match args.machine {
        Some(machine) => machine,
        None => MachineId::new(format!("m-{}", random_hex(4)?)).context("drawn ids are names")?,
    };
    let config = Config {
        socket: args.socket.unwrap_or_else(|| args.data_dir.join("ployzd.sock")),
        data_dir: args.data_dir.clone(),
        cluster: Cluster::Single { name: args.name, id },
        machine: Machine { id: machine, region: "local".to_owned() },
        runtime: match args.runtime {
            RuntimeArg::Docker => {
                Runtime::Docker { socket: args.docker_socket, subnet: args.subnet }
            }
            RuntimeArg::Process => {
                Runtime::Process { first_port: args.ports.0, last_port: args.ports.1 }
            }
        },
        nats: Nats { server: nats_server, port: args.nats_port },
        gateway: Listener { listen: args.gateway_listen },
        dns: Dns {
            listen: args.dns_listen,
            containers: matches!(args.runtime, RuntimeArg::Docker) && is_root()?,
            upstream: Vec::new(),
        },
    };
    // Before there is anything that would have to be removed again.
    crate::fit::check(&config)?;
    private_dir(&args.data_dir)?;
    private_dir(&config.path("nats"))?;
    private_dir(&config.path("sidecars"))?;
    for user in ["participant", "coordinator", "follower"] {
        Credentials::load_or_generate(&config.credentials(user))?;
    }
    // An empty fence: from here on a missing file means that the disk was lost.
    files::write_atomic(&config.path("fence.json"), b"{\"floors\":[],\"journal\":[]}", 0o600)?;
    let text = toml::to_string_pretty(&config).context("a configuration is plain TOML")?;
    // Last: a half-founded cluster can be founded again.
    files::write_atomic(&path, text.as_bytes(), 0o600)?;
    Ok(())
}

/// Only root may use port 53, where containers ask.
fn is_root() -> anyhow::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let own = std::fs::metadata("/proc/self").context("/proc does not show this process")?;
    Ok(own.uid() == 0)
}

fn private_dir(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("{} cannot be made", path.display()))
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// So many random bytes of the operating system, as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut buffer = vec![0; bytes];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut buffer))
        .context("the operating system gives no randomness")?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}
