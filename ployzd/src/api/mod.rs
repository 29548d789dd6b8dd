//! HTTP and JSON: over the unix socket, or whatever else the daemon listens on.
//!
//! | file | holds |
//! |---|---|
//! | `asker` | who asks, and whether they are still there |
//! | `asked` | body, query and path of a request, and the answer to a mistake in them |
//! | `operations` | submitting, watching, cancelling, listing operations |
//! | `views` | questions about facts and machines |
//! | `streams` | logs, exec, events |
//! | `running` | which instances of the heads run |
//! | `stopped` | the instances of this machine at its daemon's end, and their start afterwards |

mod asked;
mod asker;
mod operations;
mod running;
mod stopped;
mod streams;
mod views;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Json;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::serve::Listener;
use proto_core::Outcome;
pub use proto_core::api::views::ShutdownRequest as Shutdown;
use proto_core::api::{ErrorBody, requests};
use proto_core::id::{InstanceName, MachineId, Namespace};
use proto_core::store::{Entry, Key, StoreReply, StoreRequest};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use asker::Askers;
pub use asker::{Asker, Asks};

use crate::clock::Clock;
use crate::driver;
use crate::events::Events;
use crate::ports::Ports;

/// How long a question to the store may take.
const READ_WITHIN: Duration = Duration::from_secs(3);

/// Whose API it is, as its status says.
#[derive(Debug, Clone)]
pub struct About {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The machine.
    pub machine: MachineId,
    /// The name of its runtime.
    pub runtime: String,
    /// Below which directory its daemon keeps everything.
    pub data_dir: PathBuf,
}

/// What requests are answered from.
#[derive(Debug)]
pub struct Api {
    /// Whose it is.
    pub about: About,
    /// Takes what is asked for.
    pub driver: driver::Handle,
    /// Answers questions.
    pub ports: Arc<dyn Ports>,
    /// What the daemon did by itself.
    pub events: Arc<Events>,
    /// Since the daemon's start.
    pub clock: Clock,
    /// Takes the request to end.
    pub stop: mpsc::Sender<Shutdown>,
}

/// An error as an answer.
#[derive(Debug)]
struct Failure(StatusCode, ErrorBody);

impl Failure {
    /// With the next command to type.
    fn new(status: StatusCode, code: &str, message: impl Into<String>, next: &str) -> Self {
        Self(status, ErrorBody::new(code, message).next(next))
    }

    fn not_found(code: &str, message: impl Into<String>, next: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message, next)
    }

    fn unreadable(error: &impl std::fmt::Display) -> Self {
        let (status, message) = (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        Self::new(status, "FACT_UNREADABLE", message, "ployzctl doctor")
    }

    fn invalid_name(error: &impl std::fmt::Display, next: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_NAME", error.to_string(), next)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

type Answer<T> = Result<Json<T>, Failure>;

/// Opens the socket, for its owner and group only. A socket that nobody listens on is taken over; anything else is left alone.
pub(crate) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("{} cannot be made", parent.display()))?;
    }
    crate::fit::socket(path)?;
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("somebody listens on {} already", path.display());
        }
        std::fs::remove_file(path)
            .with_context(|| format!("{} cannot be removed", path.display()))?;
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let group = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some("ployz")).then(|| fields.nth(1)?.parse::<u32>().ok()).flatten()
    });
    let mode = match group {
        Some(group) => {
            std::os::unix::fs::chown(path, None, Some(group))?;
            0o660
        }
        None => 0o600,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Every endpoint: its method, its path, who answers. `docs/openapi.json` describes the same.
fn endpoints() -> Vec<(&'static str, &'static str, MethodRouter<Arc<Api>>)> {
    vec![
        ("get", "/v1/operations", get(operations::list)),
        ("post", "/v1/operations", post(operations::submit)),
        ("post", "/v1/operations/cancel", post(operations::cancel)),
        ("get", "/v1/operations/{id}", get(operations::show)),
        ("get", "/v1/leases", get(views::leases)),
        ("get", "/v1/status", get(views::status)),
        ("get", "/v1/instances", get(views::instances)),
        ("post", "/v1/instances/start", post(stopped::start)),
        ("get", "/v1/namespaces", get(views::namespaces)),
        ("get", "/v1/namespaces/{ns}/commits", get(views::commits)),
        ("get", "/v1/namespaces/{ns}/commits/{number}", get(views::commit)),
        ("get", "/v1/doctor", get(views::doctor)),
        ("get", "/v1/logs", get(streams::logs)),
        ("post", "/v1/exec", post(streams::exec)),
        ("get", "/v1/events", get(streams::events)),
        ("post", "/v1/shutdown", post(shutdown)),
    ]
}

/// Serves until the daemon ends.
pub async fn serve<L>(listener: L, api: Arc<Api>)
where
    L: Listener<Io: Asks>,
{
    let router = endpoints()
        .into_iter()
        .fold(Router::new(), |router, (_, path, answers)| router.route(path, answers))
        .fallback(asked::no_such_endpoint)
        .method_not_allowed_fallback(asked::method_not_allowed)
        .layer(DefaultBodyLimit::max(requests::MAX_BYTES))
        .with_state(api)
        .into_make_service_with_connect_info::<Asker>();
    if let Err(error) = axum::serve(Askers(listener), router).await {
        tracing::error!(%error, "the API ended");
    }
}

async fn shutdown(
    axum::extract::State(api): axum::extract::State<Arc<Api>>,
    asked::Body(request): asked::Body<Shutdown>,
) -> Answer<serde_json::Value> {
    // One is enough: the daemon ends with the first.
    let _ = api.stop.try_send(request);
    Ok(Json(serde_json::json!({})))
}

impl Api {
    /// Reads facts, or says that the store is away.
    async fn read(&self, prefixes: Vec<Key>) -> Result<Vec<Entry>, Failure> {
        self.read_within(prefixes, READ_WITHIN).await
    }

    /// The same, with another patience.
    async fn read_within(
        &self,
        prefixes: Vec<Key>,
        within: Duration,
    ) -> Result<Vec<Entry>, Failure> {
        match self.ports.store(StoreRequest::Read { prefixes }, within).await {
            Outcome::Ok(StoreReply::Entries(entries)) => Ok(entries),
            other => {
                let detail = match other {
                    Outcome::Failed(error) => error.to_string(),
                    _ => "a read was not answered".to_owned(),
                };
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Err(Failure::new(status, "STORE_AWAY", detail, "ployzctl doctor"))
            }
        }
    }
}

/// A name from a path or query.
fn namespace(text: &str) -> Result<Namespace, Failure> {
    Namespace::new(text).map_err(|error| Failure::invalid_name(&error, "ployzctl namespace ls"))
}

fn instance(text: &str) -> Result<InstanceName, Failure> {
    InstanceName::new(text).map_err(|error| Failure::invalid_name(&error, "ployzctl ps"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_published_description_has_exactly_these_endpoints() {
        let text = include_str!("../../../docs/openapi.json");
        let described: serde_json::Value = serde_json::from_str(text).unwrap();
        let paths = described["paths"].as_object().unwrap();
        let described: BTreeSet<_> = paths
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(|method| (method.as_str(), path.as_str()))
            })
            .collect();
        let served = endpoints().into_iter().map(|(method, path, _)| (method, path)).collect();
        assert_eq!(described, served);
    }
}
