//! The roles that are processes of their own: gateway and DNS. They follow the store and outlive the daemon.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use io_adapters::dns::{DnsConfig, DnsServer};
use io_adapters::gateway::{Gateway, GatewayConfig};
use io_adapters::nats::{Credentials, Link, follow};
use proto_core::store::{FollowEvent, Key};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What a role is started with: its own configuration, and where the store is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoleConfig<T> {
    /// The store's server, `host:port`.
    pub(crate) nats: String,
    /// The seed of the user that reads commits.
    pub(crate) credentials: PathBuf,
    /// The role's own part.
    pub(crate) serve: T,
}

impl<T: DeserializeOwned> RoleConfig<T> {
    fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
    }

    fn follow(&self, name: &str) -> anyhow::Result<mpsc::Receiver<FollowEvent>> {
        let credentials = Credentials::load(&self.credentials)?;
        let link = Link::open(self.nats.clone(), credentials, name);
        Ok(follow(link, &Key::namespaces()))
    }
}

/// `ployzd gateway`.
pub(crate) fn gateway(path: &Path) -> anyhow::Result<()> {
    let config = RoleConfig::<GatewayConfig>::load(path)?;
    config.serve.runtime()?.block_on(async {
        let events = config.follow("gateway")?;
        let gateway = Gateway::bind(config.serve).await?;
        gateway.run(events, terminated()?).await;
        Ok(())
    })
}

/// `ployzd dns`.
pub(crate) fn dns(path: &Path) -> anyhow::Result<()> {
    let config = RoleConfig::<DnsConfig>::load(path)?;
    config.serve.runtime()?.block_on(async {
        let events = config.follow("dns")?;
        let server = DnsServer::bind(config.serve).await?;
        server.run(events, terminated()?).await?;
        Ok(())
    })
}

/// Ends when the process is asked to.
pub(crate) fn terminated() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
