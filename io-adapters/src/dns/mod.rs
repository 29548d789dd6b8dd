//! The DNS server: the names of the cluster's services ([`DnsZone`]), and everybody else's from upstream.
//!
//! A [`DnsServer`] is bound, then runs in a process of its own until it is told to stop. What it serves follows from the
//! [`FollowEvent`]s that it is fed. Until there is something to serve, names of the zone are answered with SERVFAIL, never
//! with "no such name", which resolvers remember.

mod handler;
mod upstream;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use handover::InForce;
use hickory_server::Server;
use proto_core::routing::{DnsZone, Projection};
use proto_core::span::Span;
use proto_core::store::FollowEvent;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::handler::Handler;
use self::upstream::Upstream;
pub use self::wire::Wire;
use crate::control::{ControlSocket, Status};
pub use crate::gateway::StartError;

/// How long an idle TCP connection is kept.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// How many answers may wait on a TCP connection.
const TCP_ANSWERS: usize = 64;
/// How many TCP connections may wait to be accepted.
const TCP_BACKLOG: i32 = 1024;
/// How many ports are tried when any free one will do for both UDP and TCP.
const BIND_ATTEMPTS: usize = 16;

/// What a DNS server is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsConfig {
    /// Where it listens, UDP and TCP; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Where containers ask it: an address of a bridge, which may not be there yet, and may go and come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<SocketAddr>,
    /// Its control socket ([`crate::control`]).
    pub control_socket: PathBuf,
    /// Where the last good state is kept.
    pub snapshot: PathBuf,
    /// Who answers for other names, in this order. Empty: the name servers of `/etc/resolv.conf` at start.
    #[serde(default)]
    pub upstream: Vec<SocketAddr>,
    /// How long each of them has.
    #[serde(default = "upstream_timeout")]
    pub upstream_timeout: Span,
    /// How many threads serve queries.
    #[serde(default = "one")]
    pub worker_threads: usize,
}

fn upstream_timeout() -> Span {
    Span::from_secs(2)
}

fn one() -> usize {
    1
}

impl DnsConfig {
    /// A configuration with every default.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>, control_socket: PathBuf, snapshot: PathBuf) -> Self {
        Self {
            listen,
            bridge: None,
            control_socket,
            snapshot,
            upstream: Vec::new(),
            upstream_timeout: upstream_timeout(),
            worker_threads: one(),
        }
    }

    /// The runtime that a DNS server's process is to have.
    ///
    /// # Errors
    ///
    /// If the system gives no threads.
    pub fn runtime(&self) -> io::Result<tokio::runtime::Runtime> {
        crate::gateway::runtime(self.worker_threads)
    }
}

/// The zone that is in force. `None` until there is something to serve.
type Zone = InForce<DnsZone>;

/// The sockets of the server broke.
#[derive(Debug, thiserror::Error)]
#[error("the DNS server broke: {0}")]
pub struct DnsError(String);

/// A DNS server that has its sockets and serves the last good state as soon as it runs.
#[derive(Debug)]
pub struct DnsServer {
    config: DnsConfig,
    sockets: Vec<(UdpSocket, TcpListener)>,
    addresses: Vec<SocketAddr>,
    upstream: Vec<SocketAddr>,
    control: ControlSocket,
    projection: Projection,
}

impl DnsServer {
    /// Takes the sockets and reads the snapshot.
    ///
    /// # Errors
    ///
    /// If a socket can't be had.
    pub async fn bind(config: DnsConfig) -> Result<Self, StartError> {
        if config.listen.is_empty() {
            return Err(StartError::Config("listen: at least one address is wanted".to_owned()));
        }
        let (mut sockets, mut addresses) = (Vec::new(), Vec::new());
        let there = config.listen.iter().map(|address| (*address, false));
        for (address, ahead) in there.chain(config.bridge.map(|address| (address, true))) {
            let (pair, bound) =
                bind(address, ahead).map_err(|error| StartError::Listen { address, error })?;
            sockets.push(pair);
            addresses.push(bound);
        }
        let mut upstream = config.upstream.clone();
        if upstream.is_empty() {
            upstream = resolv_conf(Path::new("/etc/resolv.conf"));
        }
        // A machine whose resolv.conf names this server would ask it for ever.
        upstream.retain(|server| !addresses.contains(server));
        let path = config.control_socket.clone();
        let control =
            ControlSocket::bind(&path).map_err(|error| StartError::Control { path, error })?;
        let projection = crate::projection::restore(&config.snapshot);
        Ok(Self { config, sockets, addresses, upstream, control, projection })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown` is done.
    ///
    /// # Errors
    ///
    /// If the sockets break before that.
    pub async fn run(
        self,
        follow: mpsc::Receiver<FollowEvent>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), DnsError> {
        let zone = Arc::new(Zone::default());
        let listen = self.addresses.iter().map(ToString::to_string).collect();
        let (status, watcher) =
            watch::channel(Status::new("dns", listen, self.projection.status()));
        let (stop, stopping) = watch::channel(false);

        let timeout = self.config.upstream_timeout.duration();
        let upstream = Upstream::new(self.upstream, timeout);
        let mut server = Server::new(Handler::new(zone.clone(), upstream, watcher.clone()));
        for (udp, tcp) in self.sockets {
            server.register_socket(udp);
            server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
        }
        let mut tasks = JoinSet::new();
        let publish = move |commits| zone.publish(DnsZone::new(&commits), |_| ());
        let (snapshot, down) = (self.config.snapshot.clone(), stopping.clone());
        tasks.spawn(crate::projection::run(
            self.projection,
            snapshot,
            follow,
            status,
            down,
            publish,
        ));
        tasks.spawn(self.control.serve(watcher, None, stopping));

        let broken = tokio::select! {
            ended = server.block_until_done() => Some(ended),
            () = shutdown => None,
        };
        stop.send_replace(true);
        let result = match broken {
            Some(Ok(())) => Err(DnsError("its sockets closed".to_owned())),
            Some(Err(error)) => Err(DnsError(error.to_string())),
            None => server.shutdown_gracefully().await.map_err(|error| DnsError(error.to_string())),
        };
        while let Some(task) = tasks.join_next().await {
            if let Err(error) = task {
                tracing::error!(%error, "a task of the DNS server failed");
            }
        }
        result
    }
}

/// The same port for UDP and TCP. `ahead`: also while no interface has the address yet.
fn bind(address: SocketAddr, ahead: bool) -> io::Result<((UdpSocket, TcpListener), SocketAddr)> {
    let mut attempts = 0;
    loop {
        let tcp = socket(address, SocketType::STREAM, ahead)?;
        rustix::net::listen(&tcp, TCP_BACKLOG)?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let bound = tcp.local_addr()?;
        match socket(bound, SocketType::DGRAM, ahead) {
            Ok(udp) => return Ok(((UdpSocket::from_std(udp.into())?, tcp), bound)),
            // Any port was asked for, and this one is taken on UDP only.
            Err(error) if address.port() == 0 && attempts < BIND_ATTEMPTS => {
                tracing::debug!(%bound, %error, "trying another port");
                attempts += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn socket(address: SocketAddr, kind: SocketType, ahead: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if kind == SocketType::STREAM {
        // Connections of a predecessor that wait for their end don't keep the port.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if ahead {
        // For both families, as the kernel has it.
        sockopt::set_ip_freebind(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// The name servers of a resolv.conf; a file that can't be read has none.
fn resolv_conf(path: &Path) -> Vec<SocketAddr> {
    match std::fs::read_to_string(path) {
        Ok(text) => name_servers(&text),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no upstream name servers");
            Vec::new()
        }
    }
}

fn name_servers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().map(|line| line.split(['#', ';']).next().unwrap_or(""));
    let servers = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        address.parse::<IpAddr>().ok()
    });
    // As many as the C library asks.
    servers.take(3).map(|address| SocketAddr::new(address, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_c_library_does() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 10.0.0.1 ; first\n nameserver ::1\nnameserver x\nnameserver\n";
        let want: Vec<SocketAddr> =
            vec!["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(name_servers(text), want);
    }
}
