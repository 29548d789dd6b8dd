//! The gateway: HTTP requests to the instances that the commits name.
//!
//! A [`Gateway`] is bound, then runs in a process of its own until it is told to stop. What it serves follows from the
//! [`FollowEvent`]s that it is fed ([`proto_core::routing`]); it decides nothing but whose turn it is.
//!
//! * A new state is a new table, swapped in one step: requests that are on their way finish where they are, later ones go by
//!   the new table, and idle connections to an instance are never used for another one at the same address.
//! * A refused connection sends the request to the next instance, whatever its method, as nothing was sent. A connection that
//!   breaks before the answer does so for idempotent methods only; the others never use a pooled connection, which the
//!   instance may be about to close.
//! * What the client says in `X-Forwarded-*` is replaced: the gateway is the outermost proxy.
//!
//! Errors of the gateway's own are JSON with a stable `code`:
//!
//! | code | status | |
//! |---|---|---|
//! | `ROUTE_NOT_FOUND` | 404 | no route for this host or path |
//! | `NO_INSTANCES` | 503 | the service is stopped or has no instances |
//! | `NOT_READY` | 503 | neither the store nor a snapshot was read yet |
//! | `BACKEND_UNREACHABLE` | 502 | no instance takes a connection |
//! | `BACKEND_FAILED` | 502 | the connection broke, or the answer was no HTTP |
//! | `BACKEND_TIMEOUT` | 504 | no answer in time |
//! | `BAD_REQUEST` | 400 | no host, or a body that is not framed as it says |
//! | `METHOD_NOT_ALLOWED` | 405 | `CONNECT` |
//!
//! What pingora cannot read as a head of HTTP it answers itself, with 400 and no body, before it asks anything of this module.

mod balance;
mod proxy;
mod under_way;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use pingora_core::apps::{HttpServerApp, HttpServerOptions, ServerApp};
use pingora_core::protocols::GetSocketDigest;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::{SocketDigest, l4::socket};
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use proto_core::routing::Projection;
use proto_core::span::Span;
use proto_core::store::FollowEvent;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use self::balance::Routes;
use self::proxy::Proxy;
pub(crate) use self::under_way::UnderWay;
use crate::control::{ControlSocket, Status};

/// What a gateway is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where it listens for HTTP; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Its control socket ([`crate::control`]).
    pub control_socket: PathBuf,
    /// Where the last good state is kept.
    pub snapshot: PathBuf,
    /// How many threads serve requests; 1 is the smallest and needs no locks between them.
    #[serde(default = "one")]
    pub worker_threads: usize,
    /// After SIGTERM: how long requests may take to finish.
    #[serde(default = "drain")]
    pub drain: Span,
    /// How long connecting to an instance may take.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Span,
    /// How long an instance may be silent in the middle of a request. Does not end upgraded connections.
    #[serde(default = "read_timeout")]
    pub read_timeout: Span,
    /// How many connections of clients are held; more wait in the kernel's queue.
    #[serde(default = "max_connections")]
    pub max_connections: u32,
}

fn one() -> usize {
    1
}

fn drain() -> Span {
    Span::from_secs(30)
}

fn connect_timeout() -> Span {
    Span::from_secs(2)
}

fn read_timeout() -> Span {
    Span::from_secs(300)
}

fn max_connections() -> u32 {
    10_000
}

impl GatewayConfig {
    /// A configuration with every default.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>, control_socket: PathBuf, snapshot: PathBuf) -> Self {
        Self {
            listen,
            control_socket,
            snapshot,
            worker_threads: one(),
            drain: drain(),
            connect_timeout: connect_timeout(),
            read_timeout: read_timeout(),
            max_connections: max_connections(),
        }
    }

    /// The runtime that a gateway's process is to have.
    ///
    /// # Errors
    ///
    /// If the system gives no threads.
    pub fn runtime(&self) -> io::Result<tokio::runtime::Runtime> {
        runtime(self.worker_threads)
    }
}

/// A runtime with so many threads that do work.
pub(crate) fn runtime(worker_threads: usize) -> io::Result<tokio::runtime::Runtime> {
    if worker_threads <= 1 {
        return tokio::runtime::Builder::new_current_thread().enable_all().build();
    }
    tokio::runtime::Builder::new_multi_thread().worker_threads(worker_threads).enable_all().build()
}

/// Why a gateway or DNS server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The control socket can't be made.
    #[error("cannot make the control socket {}: {error}", path.display())]
    Control {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// There is nothing to listen on, or a number is out of range.
    #[error("{0}")]
    Config(String),
}

/// A gateway that has its sockets and serves the last good state as soon as it runs.
#[derive(Debug)]
pub struct Gateway {
    config: GatewayConfig,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    control: ControlSocket,
    projection: Projection,
}

impl Gateway {
    /// Takes the sockets and reads the snapshot.
    ///
    /// # Errors
    ///
    /// If a socket can't be had. Nothing was changed then but, at most, the control socket's directory made.
    pub async fn bind(config: GatewayConfig) -> Result<Self, StartError> {
        if config.listen.is_empty() {
            return Err(StartError::Config("listen: at least one address is wanted".to_owned()));
        }
        if config.max_connections == 0 {
            return Err(StartError::Config("max_connections: at least 1 is wanted".to_owned()));
        }
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for &address in &config.listen {
            let error = |error| StartError::Listen { address, error };
            let listener = TcpListener::bind(address).await.map_err(error)?;
            addresses.push(listener.local_addr().map_err(error)?);
            listeners.push(listener);
        }
        let path = config.control_socket.clone();
        let control =
            ControlSocket::bind(&path).map_err(|error| StartError::Control { path, error })?;
        let projection = crate::projection::restore(&config.snapshot);
        Ok(Self { config, listeners, addresses, control, projection })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown` is done; then takes no more connections, lets the requests that are on their way finish for
    /// at most the configured time, and returns.
    pub async fn run(
        self,
        follow: mpsc::Receiver<FollowEvent>,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        // Timers of a second and more then use the runtime's clock, and pingora's own, a thread that wakes 100 times a
        // second for ever, is never started.
        pingora_timeout::fast_timeout::set_fast_timeout_to_tokio_threshold(Some(
            std::time::Duration::ZERO,
        ));
        let routes = Arc::new(Routes::default());
        let mut proxy = http_proxy(&self.server_conf(), Proxy::new(routes.clone(), &self.config));
        // Refused by ourselves, with an answer that says why: pingora's own has no body.
        let mut options = HttpServerOptions::default();
        options.allow_connect_method_proxying = true;
        proxy.server_options = Some(options);
        let proxy = Arc::new(proxy);
        let under_way = routes.under_way.clone();
        let listen = self.addresses.iter().map(ToString::to_string).collect();
        let (status, watcher) =
            watch::channel(Status::new("gateway", listen, self.projection.status()));
        let (stop, stopping) = watch::channel(false);

        let mut tasks = JoinSet::new();
        let conflicts = status.clone();
        let publish = move |commits| {
            let routing = routes.publish(&commits);
            let found = routing.table.conflicts().iter().take(20);
            let found: Vec<String> = found.map(proxy::conflict_text).collect();
            conflicts.send_if_modified(|status| {
                let changed = status.conflicts != found;
                status.conflicts = found;
                changed
            });
        };
        let (snapshot, down) = (self.config.snapshot.clone(), stopping.clone());
        tasks.spawn(crate::projection::run(
            self.projection,
            snapshot,
            follow,
            status,
            down,
            publish,
        ));
        tasks.spawn(self.control.serve(watcher, Some(under_way), stopping.clone()));
        let permits = Arc::new(Semaphore::new(self.config.max_connections as usize));
        for listener in self.listeners {
            tasks.spawn(accept(listener, proxy.clone(), permits.clone(), stopping.clone()));
        }

        shutdown.await;
        // Answers from now on close their connections, and idle ones are closed at once.
        stop.send_replace(true);
        proxy.http_cleanup().await;
        let all = permits.acquire_many(self.config.max_connections);
        if tokio::time::timeout(self.config.drain.duration(), all).await.is_err() {
            let left = self.config.max_connections as usize - permits.available_permits();
            tracing::warn!(left, "connections were cut off when the time to drain was over");
        }
        while let Some(task) = tasks.join_next().await {
            if let Err(error) = task {
                tracing::error!(%error, "a task of the gateway failed");
            }
        }
    }

    fn server_conf(&self) -> Arc<ServerConf> {
        Arc::new(ServerConf {
            threads: self.config.worker_threads.max(1),
            upstream_keepalive_pool_size: 256,
            max_retries: proxy::MAX_ATTEMPTS,
            ..ServerConf::default()
        })
    }
}

async fn accept(
    listener: TcpListener,
    proxy: Arc<HttpProxy<Proxy>>,
    permits: Arc<Semaphore>,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = crate::projection::stopped(&mut stopping) => return,
            next = next => next,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return };
        let stream = match accepted.and_then(|(stream, client)| prepare(stream, client)) {
            Ok(stream) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: accepting at once again would only spin.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let (proxy, stopping) = (proxy.clone(), stopping.clone());
        tokio::spawn(async move {
            proxy.process_new(Box::new(stream), &stopping).await;
            drop(permit);
        });
    }
}

fn prepare(stream: TcpStream, client: SocketAddr) -> io::Result<Stream> {
    use std::os::fd::AsRawFd;
    stream.set_nodelay(true)?;
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // A new cell: nobody has set it.
    let _ = digest.peer_addr.set(Some(socket::SocketAddr::Inet(client)));
    let mut stream = Stream::from(stream);
    stream.set_socket_digest(digest);
    Ok(stream)
}
