//! The command line as it is typed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use proto_core::id::{Namespace, OperationId, ServiceName};

/// Deploy and care for services on your own machines.
#[derive(Debug, Parser)]
#[command(name = "ployzctl", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Write JSON: one document, or one event a line where a command streams
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Write plain lines, also on a terminal
    #[arg(long, global = true)]
    pub(crate) plain: bool,
    /// Write no progress, only results and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// The daemon's socket
    #[arg(long, global = true, env = "PLOYZ_SOCKET", value_name = "PATH", value_parser = path())]
    pub(crate) socket: Option<PathBuf>,
    /// How long the daemon may take to begin to answer, in seconds; what it reads later it does not do
    #[arg(long, global = true, default_value_t = 30, value_name = "SECONDS")]
    pub(crate) timeout: u64,
    /// Do not ask before something is destroyed
    #[arg(long, global = true)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Found a cluster
    #[command(subcommand)]
    Mesh(MeshCommand),
    /// A cluster on this machine to develop with; without a subcommand: `dev up`
    Dev {
        #[command(subcommand)]
        command: Option<DevCommand>,
        /// Without a subcommand, those of `dev up`.
        #[command(flatten)]
        found: FoundArgs,
    },
    /// The daemon, what it keeps running, and the namespaces
    Status,
    /// The instances that run, asked of the machines
    Ps {
        /// Only this namespace
        namespace: Option<Namespace>,
    },
    /// Make a namespace what a manifest says
    #[command(args_conflicts_with_subcommands = true)]
    Deploy {
        #[command(flatten)]
        manifest: ManifestArg,
        #[command(subcommand)]
        command: Option<DeployCommand>,
    },
    /// Check a manifest without asking the daemon
    Validate {
        #[command(flatten)]
        manifest: ManifestArg,
    },
    /// Show how a manifest differs from the head commit, and what of the head does not run
    Diff {
        #[command(flatten)]
        manifest: ManifestArg,
    },
    /// Make the services what they were in an earlier commit, as a new commit
    Rollback {
        /// The namespace
        namespace: Namespace,
        /// The commit; left out: the one before the head
        #[arg(long, value_name = "COMMIT")]
        to: Option<u64>,
        /// Print the manifest that `deploy -f` would take to do the same; change nothing
        #[arg(long, conflicts_with = "preview")]
        render: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Set how many instances services have
    Scale {
        /// Absolute numbers, in one namespace
        #[arg(required = true, value_name = "NS/SERVICE=N")]
        targets: Vec<ScaleTarget>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Replace every instance of a service by a new one
    Restart {
        /// The service
        #[arg(value_name = "NS/SERVICE")]
        service: ServiceRef,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Remove a service's instances and keep its specification
    Stop {
        /// The service
        #[arg(value_name = "NS/SERVICE")]
        service: ServiceRef,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Namespaces
    #[command(subcommand, visible_alias = "ns")]
    Namespace(NamespaceCommand),
    /// What instances wrote
    Logs {
        /// The service, or one of its slots
        #[arg(value_name = "NS/SERVICE[/SLOT]")]
        target: InstanceRef,
        /// Go on as more is written
        #[arg(short, long)]
        follow: bool,
        /// How many lines of each instance
        #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
        tail: u32,
    },
    /// Run a command in an instance; it gets no input
    Exec {
        /// The service, or one of its slots
        #[arg(value_name = "NS/SERVICE[/SLOT]")]
        target: InstanceRef,
        /// Program and arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Operations
    #[command(subcommand)]
    Op(OpCommand),
    /// Leases: who may change what at the moment
    #[command(subcommand)]
    Lock(LockCommand),
    /// Look for what is wrong, and say what to type
    Doctor,
    /// What the daemon did and noticed
    Events {
        /// Go on as more happens
        #[arg(short, long)]
        follow: bool,
    },
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory
    Man {
        /// The directory, made if it is not there
        dir: PathBuf,
    },
    /// The versions of this program and of the daemon
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MeshCommand {
    /// Found a cluster of this machine and start its daemon
    Init {
        /// The cluster's name: a-z, 0-9, '-' and '_'
        #[arg(value_parser = cluster_name)]
        name: Namespace,
        #[command(flatten)]
        found: FoundArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Found the cluster `dev` if it is not there, and start it with the instances that `dev down` stopped
    Up {
        #[command(flatten)]
        found: FoundArgs,
    },
    /// The same as `status`
    Status,
    /// Stop everything, instances too; what is on disk stays
    Down {
        #[command(flatten)]
        dir: DataDir,
    },
    /// Stop everything and remove it from the disk
    Destroy {
        #[command(flatten)]
        dir: DataDir,
        /// Kill a daemon that cannot be asked, and remove the directory even if none can be started, unless processes of the cluster run
        #[arg(long)]
        force: bool,
    },
}

/// Where a cluster keeps everything.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DataDir {
    /// The directory that holds everything of the cluster
    #[arg(long, env = "PLOYZ_DATA_DIR", value_name = "DIR", value_parser = path())]
    pub(crate) data_dir: Option<PathBuf>,
}

/// How a cluster is founded.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FoundArgs {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// What runs instances; left out: Docker if root and the engine answers, otherwise processes
    #[arg(long)]
    pub(crate) runtime: Option<Runtime>,
    /// Where the gateway listens
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) gateway_listen: Option<SocketAddr>,
    /// Where DNS listens
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) dns_listen: Option<SocketAddr>,
    /// The /24 of the containers' addresses; left out: 10.101.0.0
    #[arg(long, value_name = "ADDRESS", value_parser = subnet)]
    pub(crate) subnet: Option<Ipv4Addr>,
    /// The port of the store on loopback
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) nats_port: Option<u16>,
}

impl FoundArgs {
    /// The flags that were typed; a directory that only the environment names is none.
    pub(crate) fn typed(&self, environment: Option<&Path>) -> Vec<&'static str> {
        let named = self.dir.data_dir.as_deref().filter(|dir| Some(*dir) != environment);
        let dir = named.map(|_| "--data-dir");
        dir.into_iter().chain(self.flags()).collect()
    }

    /// The flags that only the founding of a cluster heeds.
    pub(crate) fn flags(&self) -> Vec<&'static str> {
        let flags = [
            (self.runtime.is_some(), "--runtime"),
            (self.gateway_listen.is_some(), "--gateway-listen"),
            (self.dns_listen.is_some(), "--dns-listen"),
            (self.subnet.is_some(), "--subnet"),
            (self.nats_port.is_some(), "--nats-port"),
        ];
        flags.into_iter().filter_map(|(given, flag)| given.then_some(flag)).collect()
    }
}

/// A path; an empty one, as of a variable that is set to nothing, is read too, and stands for none.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The name of a cluster, which is made as a namespace's is.
fn cluster_name(text: &str) -> Result<Namespace, String> {
    let wrong =
        "a cluster's name is 1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit";
    text.parse().map_err(|_| wrong.to_owned())
}

/// A subnet's first address, with or without `/24`.
fn subnet(text: &str) -> Result<Ipv4Addr, String> {
    let base: Option<Ipv4Addr> = text.strip_suffix("/24").unwrap_or(text).parse().ok();
    let whole = base.filter(|base| base.octets()[3] == 0);
    whole.ok_or_else(|| "the first address of a /24 is wanted, such as 10.102.0.0".to_owned())
}

/// What runs instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtime {
    /// Containers of the local Docker engine.
    Docker,
    /// Child processes.
    Process,
}

impl Runtime {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Process => "process",
        }
    }
}

/// The manifest that is read if none is named.
pub(crate) const MANIFEST: &str = "ployz.toml";

#[derive(Debug, Clone, Args)]
pub(crate) struct ManifestArg {
    /// The manifest, TOML or JSON; `-` reads standard input
    #[arg(short, long, default_value = MANIFEST, value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct ChangeArgs {
    /// Print the plan and change nothing
    #[arg(long)]
    pub(crate) preview: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeployCommand {
    /// Print what `deploy` would do, and change nothing
    Preview {
        #[command(flatten)]
        manifest: ManifestArg,
    },
    /// Write the plan to a file that `apply-prepared` takes; change nothing
    Prepare {
        #[command(flatten)]
        manifest: ManifestArg,
        /// Where to; left out: standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Run exactly the plan of `prepare`, or refuse, naming what moved since
    ApplyPrepared {
        /// What `prepare` wrote; `-` reads standard input
        file: PathBuf,
    },
    /// Change one service and keep the others
    Service {
        /// The service
        #[arg(value_name = "NS/SERVICE")]
        service: ServiceRef,
        /// Its new image
        #[arg(long)]
        image: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// The commits of a namespace, newest first
    History {
        /// The namespace
        namespace: Namespace,
    },
    /// A commit: its services, instances and manifest
    Show {
        /// The namespace
        namespace: Namespace,
        /// Its number; left out: the head
        commit: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NamespaceCommand {
    /// Every namespace
    Ls,
    /// What a namespace holds and what runs of it
    Inspect {
        /// The namespace
        namespace: Namespace,
    },
    /// Remove a namespace and all its services
    Rm {
        /// The namespace
        namespace: Namespace,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum OpCommand {
    /// Operations that the store still knows
    Ls,
    /// One operation
    Show {
        /// Its id
        operation: OperationId,
    },
    /// Go on with an unfinished operation
    Resume {
        /// Its id
        operation: OperationId,
    },
    /// Undo an unfinished operation that has not committed
    Abort {
        /// Its id
        operation: OperationId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    /// The leases that are held
    Ls,
}

/// `NS/SERVICE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceRef {
    pub(crate) namespace: Namespace,
    pub(crate) service: ServiceName,
}

impl FromStr for ServiceRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, service) =
            text.split_once('/').ok_or_else(|| format!("{text:?} is no NS/SERVICE"))?;
        Ok(Self {
            namespace: namespace.parse().map_err(|e| format!("{e}"))?,
            service: service.parse().map_err(|e| format!("{e}"))?,
        })
    }
}

impl std::fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

/// `NS/SERVICE[/SLOT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstanceRef {
    pub(crate) service: ServiceRef,
    pub(crate) slot: Option<u32>,
}

impl FromStr for InstanceRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, slot) = match text.match_indices('/').nth(1) {
            Some((at, _)) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let slot = slot
            .map(|slot| slot.parse().map_err(|_| format!("{slot:?} is no slot: 0, 1, 2, …")))
            .transpose()?;
        Ok(Self { service: service.parse()?, slot })
    }
}

impl std::fmt::Display for InstanceRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.service)?;
        self.slot.iter().try_for_each(|slot| write!(f, "/{slot}"))
    }
}

/// `NS/SERVICE=N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScaleTarget {
    pub(crate) service: ServiceRef,
    pub(crate) replicas: u32,
}

impl FromStr for ScaleTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, replicas) =
            text.split_once('=').ok_or_else(|| format!("{text:?} is no NS/SERVICE=N"))?;
        let replicas =
            replicas.parse().map_err(|_| format!("{replicas:?} is no number of replicas"))?;
        Ok(Self { service: service.parse()?, replicas })
    }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
