use std::time::Duration;

use bollard::models::ContainerStateStatusEnum;
use proto_core::id::InstanceName;
use proto_core::runtime::RuntimeReply;
use tokio::time::{Instant, sleep};

use super::connections::{Orphans, orphans};
use super::error::{Answer, unavailable};
use super::{Docker, Found, PATIENT, observe};

/// How long requests of clients that are gone are waited for, in seconds. The engine leaves the connection of a finished `exec` half open and closes
/// it when Go collects it as garbage, which an engine with nothing to do does every two minutes; one that falls to the next round takes four.
const ORPHANED: u64 = 300;

impl Docker {
    /// Waits until nothing that an earlier incarnation of the daemon asked for can still happen to `instance`.
    ///
    /// The difficulty: a daemon that was killed may have left a request behind, unread in the queue of the engine's socket or half
    /// done, and the engine carries it out although nobody waits for the answer. Neither reading the container's state nor a
    /// later request of our own says that this is over, since the engine handles each connection on its own. The kernel
    /// does know: the engine closes a connection when it has finished with its request, so as long as a connection without a
    /// living client exists on the engine's socket, something may still land.
    ///
    /// What is guaranteed when it answers `Done`: every request that a process of this network namespace had sent to the engine and
    /// that is dead now, or that this process gave up on, has been finished by the engine. A request is one step: since `create` and
    /// `start` are two, a killed daemon can leave a container that was made and never started, and `inspect` shows it as such.
    /// What is not covered: a living process, this one's own requests included, and whatever the engine does by itself by the
    /// restart policy. Where the kernel cannot be asked (no `CONFIG_UNIX_DIAG`) a full round trip through the engine and through
    /// the container's lock is all there is, which in practice comes after earlier requests, but is no proof; a warning says so.
    pub(super) async fn settle(&self, instance: &InstanceName) -> Answer<RuntimeReply> {
        self.orphans_end().await?;
        // A removal that was begun counts as landed when the container is gone.
        if let Found::Ours(container) = self.find(instance).await? {
            let removing = container.state.as_ref().and_then(|state| state.status)
                == Some(ContainerStateStatusEnum::REMOVING);
            if removing {
                let id = observe::id(&container)?;
                Self::removed(&self.client(PATIENT).await?, &id).await?;
            }
        }
        Ok(RuntimeReply::Done)
    }

    /// Waits until the engine has finished with every request that has lost its client by now. Those that lose it later are not waited for:
    /// on a busy engine there is always one.
    async fn orphans_end(&self) -> Answer<()> {
        let give_up = Instant::now() + Duration::from_secs(ORPHANED);
        let mut pause = Duration::from_millis(5);
        // Nobody announces the end of another process's connection, so this looks again, for as long as there is one.
        let mut wait = async |count: usize| {
            if Instant::now() > give_up {
                return Err(unavailable(&format!(
                    "{count} requests of clients that are gone are still inside the engine after {ORPHANED} s"
                )));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(250));
            Ok(())
        };
        loop {
            match self.orphans()? {
                Some(found) if found.queued > 0 => wait(found.queued).await?,
                Some(_) => break,
                None => return Ok(()),
            }
        }
        // One that slipped from "queued" to "accepted" while the kernel listed them was missed by that look; it is in this one.
        let mut left = self.orphans()?.unwrap_or_default().accepted;
        while !left.is_empty() {
            wait(left.len()).await?;
            left = &left & &self.orphans()?.unwrap_or_default().accepted;
        }
        Ok(())
    }

    /// `None`, with a warning, where the kernel cannot be asked.
    fn orphans(&self) -> Answer<Option<Orphans>> {
        match orphans(&self.config.socket) {
            Ok(found) => Ok(Some(found)),
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && !self.config.socket.exists() =>
            {
                Err(unavailable(&format!("{}: {error}", self.config.socket.display())))
            }
            Err(error) => {
                tracing::warn!(%error, "the kernel does not list the connections of the engine's socket; requests of a killed daemon may still land");
                Ok(None)
            }
        }
    }
}
