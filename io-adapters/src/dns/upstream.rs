use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_server::proto::op::{Message, MessageType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// How many queries are under way at once; more are refused, so that a dead upstream holds no memory.
const MAX_PENDING: usize = 256;

/// The servers that answer for other names.
#[derive(Debug)]
pub(super) struct Upstream {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    pending: Semaphore,
}

/// Why there is no answer from upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is none to ask.
    Nobody,
    /// None of them answered, or too many queries wait for them.
    Silent,
}

impl Upstream {
    pub(super) fn new(servers: Vec<SocketAddr>, timeout: Duration) -> Self {
        Self { servers, timeout, pending: Semaphore::new(MAX_PENDING) }
    }

    pub(super) fn is_any(&self) -> bool {
        !self.servers.is_empty()
    }

    /// Asks one server after the other; `query` is a whole message.
    pub(super) async fn ask(&self, query: &[u8]) -> Result<Message, Failure> {
        if self.servers.is_empty() {
            return Err(Failure::Nobody);
        }
        let Ok(_permit) = self.pending.try_acquire() else { return Err(Failure::Silent) };
        for &server in &self.servers {
            match tokio::time::timeout(self.timeout, exchange(server, query)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "upstream"),
                Err(_) => tracing::debug!(%server, "upstream: no answer in time"),
            }
        }
        Err(Failure::Silent)
    }
}

/// By UDP, and by TCP if the answer is too long for it.
async fn exchange(server: SocketAddr, query: &[u8]) -> io::Result<Message> {
    // An id of our own and a port of its own for each query: harder to answer for somebody who doesn't see it.
    let id = (RandomState::new().build_hasher().finish() & 0xffff) as u16;
    let mut query = query.to_vec();
    query
        .get_mut(..2)
        .ok_or_else(|| invalid("a query of less than two bytes"))?
        .copy_from_slice(&id.to_be_bytes());
    let asked = Message::from_vec(&query).map_err(|error| invalid(&error.to_string()))?;

    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not answer this query may be a forgery: the answer may still come.
        let Some(answer) = answers(&asked, &buffer[..length]) else { continue };
        if answer.metadata.truncation {
            return over_tcp(server, &asked, &query).await;
        }
        return Ok(answer);
    }
}

async fn over_tcp(server: SocketAddr, asked: &Message, query: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(|_| invalid("a query of more than 64 KiB"))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    answers(asked, &answer).ok_or_else(|| invalid("another query's answer"))
}

fn answers(asked: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == asked.queries;
    same.then_some(answer)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}
