//! What carries bytes between hosts: turmoil's simulated network, or, in the tier with paused time, pipes within the process that are
//! never late and never cut.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ployzd::api::{Asker, Asks};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, copy_bidirectional, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How much a pipe holds, in bytes.
const PIPE: usize = 64 << 10;

/// A connection.
pub(crate) type Stream = Box<dyn Io>;

/// What a connection can do.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A network. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) enum Net {
    /// Of the turmoil host that asks.
    Turmoil,
    /// Pipes to whoever listens.
    Pipes(Arc<Mutex<Listening>>),
}

/// Who listens, by host and port.
type Listening = BTreeMap<(String, u16), mpsc::UnboundedSender<DuplexStream>>;

impl Net {
    /// A network of pipes.
    pub(crate) fn pipes() -> Self {
        Self::Pipes(Arc::default())
    }

    /// Listens on a port of a host, which is the one that asks.
    pub(crate) async fn bind(&self, host: &str, port: u16) -> io::Result<Listener> {
        match self {
            Self::Turmoil => {
                let listener = turmoil::net::TcpListener::bind(("0.0.0.0", port)).await?;
                Ok(Listener::Turmoil(listener))
            }
            Self::Pipes(listening) => {
                let (sender, incoming) = mpsc::unbounded_channel();
                let mut listening = listening.lock().unwrap_or_else(PoisonError::into_inner);
                listening.insert((host.to_owned(), port), sender);
                Ok(Listener::Pipes { incoming, accepted: JoinSet::new() })
            }
        }
    }

    /// Connects to a port of a host.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> io::Result<Stream> {
        match self {
            Self::Turmoil => {
                Ok(Box::new(turmoil::net::TcpStream::connect((host, port)).await?) as Stream)
            }
            Self::Pipes(listening) => {
                let (near, far) = duplex(PIPE);
                let listening = listening.lock().unwrap_or_else(PoisonError::into_inner);
                let listener = listening.get(&(host.to_owned(), port));
                match listener.map(|listener| listener.send(far)) {
                    Some(Ok(())) => Ok(Box::new(near)),
                    None | Some(Err(_)) => Err(io::ErrorKind::ConnectionRefused.into()),
                }
            }
        }
    }
}

/// Where connections come in. When it is dropped, what it has accepted breaks.
pub(crate) enum Listener {
    Turmoil(turmoil::net::TcpListener),
    Pipes {
        incoming: mpsc::UnboundedReceiver<DuplexStream>,
        /// Between each pipe and who accepted it stands a task, so that what a dead daemon's tasks hold on to can be broken.
        accepted: JoinSet<()>,
    },
}

impl Listener {
    /// The next connection.
    pub(crate) async fn accept(&mut self) -> io::Result<Stream> {
        match self {
            Self::Turmoil(listener) => Ok(Box::new(listener.accept().await?.0) as Stream),
            Self::Pipes { incoming, accepted } => {
                let mut far = incoming.recv().await.ok_or(io::ErrorKind::NotConnected)?;
                while accepted.try_join_next().is_some() {}
                let (near, mut middle) = duplex(PIPE);
                accepted.spawn(async move {
                    // That one side is gone is how it ends.
                    let _ = copy_bidirectional(&mut far, &mut middle).await;
                });
                Ok(Box::new(near))
            }
        }
    }
}

impl Asks for Stream {
    fn asker(&self) -> Asker {
        Asker::unseen()
    }
}

/// As the API wants it.
impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match Self::accept(self).await {
            Ok(stream) => (stream, nowhere()),
            // Nobody can reach it any more.
            Err(_) => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(nowhere())
    }
}

/// Nobody looks at addresses here.
fn nowhere() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

thread_local! {
    /// When the story that this thread is playing with paused time began.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// From here on, hosts on this thread are in a story that began then; or in none.
pub(crate) fn set_began(began: Option<Instant>) {
    BEGAN.set(began);
}

/// How long the story has been going on, on the clock of the host that asks. `None`: no host asks.
pub(crate) fn elapsed() -> Option<Duration> {
    if turmoil::in_simulation() {
        return turmoil::sim_elapsed();
    }
    BEGAN.get().map(|began| began.elapsed())
}
