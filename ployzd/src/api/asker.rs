//! Who asks, and whether they are still there. A daemon that was stopped finds requests in its socket that were given up, as `ployzctl` does
//! after `--timeout` and at a second Ctrl-C: both close the connection.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::UnixStream;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Asker(Option<Arc<OwnedFd>>);

/// A connection that tells who asks over it.
pub trait Asks {
    /// Who asks.
    fn asker(&self) -> Asker;
}

impl Asker {
    /// Nothing tells whether they have gone.
    #[must_use]
    pub fn unseen() -> Self {
        Self(None)
    }

    /// Both directions of the connection are closed: there is nobody to answer. Who only says that nothing more is to come is there still.
    pub(super) fn has_gone(&self) -> bool {
        let Some(socket) = &self.0 else { return false };
        let mut watched = [PollFd::new(socket, PollFlags::empty())];
        // What cannot be looked at is taken for there.
        let looked = poll(&mut watched, Some(&Timespec::default()));
        looked.is_ok() && watched[0].revents().contains(PollFlags::HUP)
    }
}

impl Asks for UnixStream {
    fn asker(&self) -> Asker {
        Asker(self.as_fd().try_clone_to_owned().ok().map(Arc::new))
    }
}

/// A listener that tells of each connection who asks over it.
pub(super) struct Askers<L>(pub(super) L);

impl<L: Listener<Io: Asks>> Listener for Askers<L> {
    type Io = L::Io;
    type Addr = Asker;

    async fn accept(&mut self) -> (L::Io, Asker) {
        let (connection, _) = self.0.accept().await;
        let asker = connection.asker();
        (connection, asker)
    }

    fn local_addr(&self) -> std::io::Result<Asker> {
        Ok(Asker::unseen())
    }
}

impl<L: Listener<Io: Asks>> Connected<IncomingStream<'_, Askers<L>>> for Asker {
    fn connect_info(stream: IncomingStream<'_, Askers<L>>) -> Self {
        stream.remote_addr().clone()
    }
}
