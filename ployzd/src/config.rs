//! What a daemon is configured with. A file that cannot be read is a refusal to start that names file, line and field.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use proto_core::id::MachineId;
use serde::{Deserialize, Serialize};

/// The daemon's configuration, TOML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Everything that the daemon keeps is below this directory.
    pub(crate) data_dir: PathBuf,
    /// Where the API listens.
    pub(crate) socket: PathBuf,
    /// Which cluster.
    pub(crate) cluster: Cluster,
    /// Which machine.
    pub(crate) machine: Machine,
    /// What runs instances.
    pub(crate) runtime: Runtime,
    /// The store's server.
    pub(crate) nats: Nats,
    /// The gateway.
    pub(crate) gateway: Listener,
    /// The DNS server.
    pub(crate) dns: Dns,
}

/// The cluster, and how the machine takes part in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Cluster {
    /// One machine.
    Single {
        /// The name given to `mesh init`.
        name: String,
        /// Drawn when it was founded, 16 hexadecimal digits.
        id: String,
    },
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    /// Its id, drawn when it joined.
    pub(crate) id: MachineId,
    /// Its region.
    pub(crate) region: String,
}

/// What runs instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Runtime {
    /// A Docker engine.
    Docker {
        /// Its socket.
        socket: PathBuf,
        /// The first three octets of the instances' addresses, a /24.
        subnet: Ipv4Addr,
    },
    /// Processes of the host, on loopback.
    Process {
        /// The first port that instances get.
        first_port: u16,
        /// The last one.
        last_port: u16,
    },
}

impl Runtime {
    /// As observations and status name it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Docker { .. } => "docker",
            Self::Process { .. } => "process",
        }
    }
}

/// The store's server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nats {
    /// The program.
    pub(crate) server: PathBuf,
    /// Its client port on 127.0.0.1.
    pub(crate) port: u16,
}

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// Addresses with ports.
    pub(crate) listen: Vec<SocketAddr>,
}

/// The DNS server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dns {
    /// Addresses with ports.
    pub(crate) listen: Vec<SocketAddr>,
    /// Whether containers ask it: it then listens on port 53 of the machine's own address in their network too. Docker runtime only, and
    /// the daemon must be allowed to use that port.
    #[serde(default)]
    pub(crate) containers: bool,
    /// Who answers for other names; empty: the machine's own resolvers.
    #[serde(default)]
    pub(crate) upstream: Vec<SocketAddr>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// If it is missing or malformed: file, line, column and field are in the message.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the configuration {} cannot be read", path.display()))?;
        let config: Self = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or_else(String::new, |span| {
                let before = &text[..span.start.min(text.len())];
                let line = before.matches('\n').count() + 1;
                let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
                format!(":{line}:{column}")
            });
            anyhow::anyhow!("{}{at}: {}", path.display(), error.message())
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> anyhow::Result<()> {
        let wrong = |what: &str| -> anyhow::Result<()> { bail!("{}: {what}", path.display()) };
        if let Runtime::Process { first_port, last_port } = self.runtime
            && first_port >= last_port
        {
            return wrong("runtime.first_port must be below runtime.last_port");
        }
        if let Runtime::Docker { subnet, .. } = self.runtime
            && subnet.octets()[3] != 0
        {
            return wrong("runtime.subnet is the address of a /24: it ends in .0");
        }
        if self.dns.containers && self.container_dns().is_none() {
            return wrong("dns.containers is for the Docker runtime");
        }
        if self.gateway.listen.is_empty() || self.dns.listen.is_empty() {
            return wrong("gateway.listen and dns.listen name at least one address each");
        }
        Ok(())
    }

    /// The cluster's name and id.
    pub(crate) fn cluster(&self) -> (&str, &str) {
        let Cluster::Single { name, id } = &self.cluster;
        (name, id)
    }

    /// The DNS server that containers ask, if they do: the machine's own address in their network.
    pub(crate) fn container_dns(&self) -> Option<Ipv4Addr> {
        match self.runtime {
            Runtime::Docker { subnet, .. } if self.dns.containers => {
                Some(Ipv4Addr::from_bits(subnet.to_bits() + 1))
            }
            _ => None,
        }
    }

    /// A path below the data directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.data_dir.join(name)
    }

    /// Where the gateway or DNS server answers.
    pub(crate) fn control_socket(&self, role: &str) -> PathBuf {
        self.path(&format!("{role}.sock"))
    }

    /// Where the seed of a NATS user is.
    pub(crate) fn credentials(&self, user: &str) -> PathBuf {
        self.path(&format!("nats/{user}.nk"))
    }

    /// Where the store's server takes clients.
    pub(crate) fn nats_address(&self) -> String {
        format!("127.0.0.1:{}", self.nats.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ployzd.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_malformed_file_is_told_with_line_and_field() {
        let error = load("data_dir = \"/x\"\nsokcet = \"/y\"\n").unwrap_err();
        assert!(error.contains("ployzd.toml:2:1") && error.contains("sokcet"), "{error}");
        let error = load("data_dir = 7\n").unwrap_err();
        assert!(error.contains(":1:12") && error.contains("string"), "{error}");
    }

    #[test]
    fn a_mode_that_is_not_supported_is_refused_by_name() {
        let error =
            load("data_dir = \"/x\"\nsocket = \"/y\"\n[cluster]\nmode = \"raft\"\n").unwrap_err();
        assert!(error.contains("raft") && error.contains("single"), "{error}");
    }

    #[test]
    fn containers_ask_the_first_address_of_their_subnet_and_processes_have_none() {
        let text = r#"
            data_dir = "/x"
            socket = "/y"
            cluster = { mode = "single", name = "n", id = "00" }
            machine = { id = "m1", region = "local" }
            runtime = { kind = "docker", socket = "/z", subnet = "10.101.7.0" }
            nats = { server = "/n", port = 1 }
            gateway = { listen = ["127.0.0.1:1"] }
            dns = { listen = ["127.0.0.1:2"], containers = true }
        "#;
        assert_eq!(load(text).unwrap().container_dns(), Some(Ipv4Addr::new(10, 101, 7, 1)));
        let off = text.replace(", containers = true", "");
        assert_eq!(load(&off).unwrap().container_dns(), None);
        let docker = r#"kind = "docker", socket = "/z", subnet = "10.101.7.0""#;
        let process = r#"kind = "process", first_port = 1, last_port = 2"#;
        let error = load(&text.replace(docker, process)).unwrap_err();
        assert!(error.contains("dns.containers is for the Docker runtime"), "{error}");
    }
}
