use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use hickory_server::net::BufDnsStreamHandle;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandle};
use proto_core::routing::{Commits, DnsZone, Projection};
use tokio::sync::watch;

use super::Zone;
use super::handler::Handler;
use super::upstream::Upstream;
use crate::control::Status;

/// What the server says to a message, without sockets, from one state of the commits and with nobody upstream: for tests that
/// feed it bytes.
pub struct Wire {
    handler: Handler,
    /// The zone's serial number follows it; nobody changes it here.
    _status: watch::Sender<Status>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Wire {
    /// A server of these commits.
    #[must_use]
    pub fn new(commits: &Commits) -> Self {
        let zone = Arc::new(Zone::default());
        zone.publish(DnsZone::new(commits), |_| ());
        let status = Status::new("dns", Vec::new(), Projection::new().status());
        let (sender, status) = watch::channel(status);
        let upstream = Upstream::new(Vec::new(), Duration::ZERO);
        Self { handler: Handler::new(zone, upstream, status), _status: sender }
    }

    /// The answer to a message from this address, over UDP or TCP; `None` if it is no DNS message at all, or if the answer could
    /// not be written.
    pub async fn answer(&self, message: &[u8], from: SocketAddr, udp: bool) -> Option<Vec<u8>> {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let request = Request::from_bytes(message.to_vec(), from, protocol).ok()?;
        let (stream, mut sent) = BufDnsStreamHandle::new(from);
        let handle = ResponseHandle::new(from, stream, protocol);
        self.handler.handle_request::<_, TokioTime>(&request, handle).await;
        Some(sent.next().now_or_never()??.into_parts().0)
    }
}
