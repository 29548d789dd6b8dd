//! The instances of this machine at its daemon's end: stopped, so that an operator can start them again, or removed.
//!
//! Which ran is written down before any is stopped. Nothing is ever started by itself: `POST /v1/instances/start` does it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use io_adapters::files;
use proto_core::Outcome;
use proto_core::api::views::{InstanceLabel, StartFailure, StartedView};
use proto_core::id::InstanceName;
use proto_core::runtime::{ObservedInstance, RuntimeReply, RuntimeRequest};
use proto_core::store::Key;

use super::asked::WaitedFor;
use super::views::by_namespace;
use super::{Answer, Api, Failure};

impl Api {
    /// Stops every instance of this cluster on this machine.
    pub(crate) async fn stop_instances(&self) -> anyhow::Result<()> {
        let instances = self.all_instances().await?;
        // Those of an earlier shutdown that nobody has started since count on.
        let mut stopped = self.stopped()?;
        stopped.extend(
            instances.iter().filter(|seen| seen.state.runs()).map(|seen| seen.spec.name.clone()),
        );
        self.remember(&stopped)?;
        for seen in instances.iter().filter(|seen| seen.state.runs()) {
            self.stop(seen).await?;
        }
        Ok(())
    }

    /// Removes every instance of this cluster from this machine: the end of a local cluster.
    pub(crate) async fn remove_instances(&self) -> anyhow::Result<()> {
        for seen in self.all_instances().await? {
            self.stop(&seen).await?;
            let instance = seen.spec.name;
            let remove = RuntimeRequest::Remove { instance: instance.clone() };
            if let Outcome::Failed(error) = self.ports.runtime(remove).await {
                bail!("{instance} cannot be removed: {error}");
            }
        }
        Ok(())
    }

    async fn stop(&self, seen: &ObservedInstance) -> anyhow::Result<()> {
        let instance = seen.spec.name.clone();
        let grace = seen.spec.workload.stop_grace_period;
        let stop = RuntimeRequest::Stop { instance: instance.clone(), grace };
        match self.ports.runtime(stop).await {
            Outcome::Failed(error) => bail!("{instance} cannot be stopped: {error}"),
            Outcome::Ok(_) | Outcome::Stale | Outcome::Unknown => Ok(()),
        }
    }

    async fn all_instances(&self) -> anyhow::Result<Vec<ObservedInstance>> {
        let list = RuntimeRequest::List { namespace: None };
        match self.ports.runtime(list).await {
            Outcome::Ok(RuntimeReply::Instances(instances)) => Ok(instances),
            Outcome::Failed(error) => bail!("the runtime does not say what runs: {error}"),
            _ => bail!("the runtime does not say what runs"),
        }
    }

    fn stopped_file(&self) -> PathBuf {
        self.about.data_dir.join("stopped.json")
    }

    fn stopped(&self) -> anyhow::Result<BTreeSet<InstanceName>> {
        let path = self.stopped_file();
        let told = || format!("{} cannot be read", path.display());
        match files::read(&path).with_context(told)? {
            Some(bytes) => serde_json::from_slice(&bytes).with_context(told),
            None => Ok(BTreeSet::new()),
        }
    }

    fn remember(&self, stopped: &BTreeSet<InstanceName>) -> anyhow::Result<()> {
        let path = self.stopped_file();
        let bytes = serde_json::to_vec(stopped).context("names are plain JSON")?;
        files::write_atomic(&path, &bytes, 0o600)
            .with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// `POST /v1/instances/start`: what a shutdown stopped and a head still names. Asked twice, it starts nothing twice.
pub(super) async fn start(State(api): State<Arc<Api>>, _: WaitedFor) -> Answer<StartedView> {
    let internal = |error: anyhow::Error| {
        let (status, message) = (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"));
        Failure::new(status, "RUNTIME_ERROR", message, "ployzctl events")
    };
    let stopped = api.stopped().map_err(internal)?;
    let mut answer = StartedView::default();
    if stopped.is_empty() {
        return Ok(Json(answer));
    }
    let entries = api.read(vec![Key::namespaces()]).await?;
    let running: BTreeSet<_> = api
        .all_instances()
        .await
        .map_err(internal)?
        .into_iter()
        .filter(|seen| seen.state.runs())
        .map(|seen| seen.spec.name)
        .collect();
    for (namespace, (_, commit)) in by_namespace(&entries) {
        for (service, committed) in commit.services {
            for (slot, at) in committed.slots {
                let instance = at.instance;
                let here = at.machine == api.about.machine && stopped.contains(&instance);
                if !here || running.contains(&instance) {
                    continue;
                }
                let start = RuntimeRequest::Start { instance: instance.clone() };
                let (namespace, service) = (namespace.clone(), service.clone());
                let label = InstanceLabel { namespace, service, slot, instance };
                let reason = match api.ports.runtime(start).await {
                    Outcome::Ok(_) => {
                        answer.started.push(label);
                        continue;
                    }
                    Outcome::Failed(error) => error.to_string(),
                    Outcome::Stale | Outcome::Unknown => "whether it runs is not known".to_owned(),
                };
                answer.failed.push(StartFailure { instance: label, reason });
            }
        }
    }
    // What no head names any more is an operation's to remove, and not to be started later either.
    let left = answer.failed.iter().map(|failed| failed.instance.instance.clone()).collect();
    api.remember(&left).map_err(internal)?;
    Ok(Json(answer))
}
